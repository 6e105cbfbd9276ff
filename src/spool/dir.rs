//! The data directory by its descriptor: every file is opened, renamed and removed relative to it, never through a
//! symbolic link, so that what somebody plants in the directory cannot lead elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

/// Mode of every file that the program writes: the group may read, others nothing.
pub const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// Bytes of names that a pass asks the kernel for at a time, 600 of our names. The directory is locked against changes that
/// long; larger ones make a pass no faster.
const PASS_BUFFER: usize = 32 * 1024;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// A directory entry that is a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name without a path.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

impl Dir {
    /// Opens `path`, made with its parents (mode 0750) when missing.
    ///
    /// # Errors
    ///
    /// It cannot be made or opened, or something else has its name.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_path_buf() })
    }

    /// Opens the directory `name` in this one, made when missing.
    ///
    /// # Errors
    ///
    /// It cannot be made or opened, or something else has its name, a symbolic link included.
    pub fn subdirectory(&self, name: &str) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.open_subdirectory(name)
    }

    /// Opens the directory `name` in this one.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none; or something else has its name, a symbolic link included.
    pub fn open_subdirectory(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// A second descriptor of the same directory, for another thread.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, path: self.path.clone() })
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when `name` in the directory is the open file `file`.
    pub fn names_file(&self, name: &str, file: &File) -> bool {
        use std::os::unix::fs::MetadataExt;
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        // A directory that is gone finds nothing below it; its own file's link count tells the same at once.
        let named = self.open_read(name).ok().and_then(|named| identity(&named));
        named.is_some() && named == identity(file)
    }

    /// Makes a file that must not exist yet, for reading and writing.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when the name is taken, by whatever it is; `StorageFull` and its like from the disk.
    pub fn create_new(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags, FILE_MODE)?))
    }

    /// Opens a file for reading and writing, made when missing.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the name is not a regular file's; else what the disk says.
    pub fn open_or_create(&self, name: &str) -> io::Result<File> {
        self.open_regular(name, OFlags::RDWR | OFlags::CREATE)
    }

    /// Opens a file for appending, made when missing.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the name is not a regular file's; else what the disk says.
    pub fn open_append(&self, name: &str) -> io::Result<File> {
        self.open_regular(name, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such file, `InvalidInput` when it is not a regular one; else what the disk says.
    pub fn open_read(&self, name: &str) -> io::Result<File> {
        self.open_regular(name, OFlags::RDONLY)
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such file, `InvalidInput` when it is not a regular one; else what the disk says.
    pub fn open_write(&self, name: &str) -> io::Result<File> {
        self.open_regular(name, OFlags::RDWR)
    }

    /// Refuses what is not a regular file: a FIFO would block, a device would do worse.
    fn open_regular(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, FILE_MODE)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(File::from(fd))
    }

    /// Renames; never replaces a file.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when `to` is taken, `NotFound` when `from` is gone; nothing was renamed then.
    pub fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        self.move_new(from, self, to)
    }

    /// Moves a file to another directory of the same file system; never replaces one.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when `to` is taken, `NotFound` when `from` is gone; nothing was moved then.
    pub fn move_new(&self, from: &str, other: &Self, to: &str) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, from, &other.fd, to, RenameFlags::NOREPLACE) {
            // The file system does not know the flag (NFS, some FUSE): a hard link never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match rustix::fs::linkat(&self.fd, from, &other.fd, to, AtFlags::empty()) {
                    Ok(()) => Ok(rustix::fs::unlinkat(&self.fd, from, AtFlags::empty())?),
                    Err(error) => Err(error.into()),
                }
            }
            outcome => Ok(outcome?),
        }
    }

    /// Renames, in the place of a file that has the name already.
    ///
    /// # Errors
    ///
    /// `NotFound` when `from` is gone; nothing was renamed then.
    pub fn rename_over(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// `NotFound` when it is gone already.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Makes renames and removals durable.
    ///
    /// # Errors
    ///
    /// What the disk says; whether the renames and removals survive a power cut is not known then.
    pub fn sync(&self) -> io::Result<()> {
        match rustix::fs::fsync(&self.fd) {
            // Some file systems cannot sync a directory and need not.
            Err(Errno::INVAL) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    /// Bytes that the file system can still take from us.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// True when others than owner and group may write here.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn is_world_writable(&self) -> io::Result<bool> {
        Ok(rustix::fs::fstat(&self.fd)?.st_mode & 0o002 != 0)
    }

    /// The regular files whose name `wanted` accepts, in no order, each with its length: one look at every such file, so for
    /// names that are few.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn files(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.each(|name| {
            if let Some(len) = if wanted(name) { self.len_of(name)? } else { None } {
                entries.push(Entry { name: name.to_owned(), len });
            }
            Ok(true)
        })?;
        Ok(entries)
    }

    /// One pass over the names of the regular files, in no order, until `visit` says false. Names that are not UTF-8 are never
    /// ours.
    ///
    /// It looks at no file where the file system tells the types of its entries, as all of today's do: a pass over a million
    /// names takes half a second, and eight times that, or forty on a cold disk, when each is looked at.
    ///
    /// # Errors
    ///
    /// The directory cannot be read, or `visit` failed; what came before was given to it.
    pub fn each(&self, mut visit: impl FnMut(&str) -> io::Result<bool>) -> io::Result<()> {
        // A descriptor of its own: where a pass stands is the descriptor's.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        let mut buffer = Vec::with_capacity(PASS_BUFFER);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let is_file = match entry.file_type() {
                FileType::RegularFile => true,
                FileType::Unknown => self.len_of(name)?.is_some(),
                _ => false,
            };
            if is_file && !visit(name)? {
                break;
            }
        }
        Ok(())
    }

    /// Length of a regular file, bytes; `None` when it is gone, or something else.
    ///
    /// # Errors
    ///
    /// The disk refused.
    pub fn len_of(&self, name: &str) -> io::Result<Option<u64>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(u64::try_from(stat.st_size).unwrap_or(0)))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_replaced_and_no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(&temp.path().join("a/b")).unwrap();
        dir.create_new("one").unwrap();
        dir.create_new("two").unwrap();
        assert_eq!(dir.rename_new("one", "two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        dir.rename_new("one", "three").unwrap();
        std::os::unix::fs::symlink("three", temp.path().join("a/b/link")).unwrap();
        assert!(dir.open_read("link").is_err());
        assert!(dir.create_new("link").is_err());
        rustix::fs::mknodat(&dir, "fifo", FileType::Fifo, FILE_MODE, 0).unwrap();
        assert!(dir.open_read("fifo").is_err());
        let mut names: Vec<_> = dir.files(|_| true).unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        assert_eq!(names, ["three", "two"]);
    }
}
