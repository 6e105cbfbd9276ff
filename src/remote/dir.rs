//! A local directory as the remote: for tests of everything above the network.
//!
//! It keeps the promises of the trait as FTP does, and one more: its rename never replaces a file, so two writers cannot
//! overwrite each other even in the same instant. It does not hang unless the disk does; deadlines are not looked at.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Delivered, Remote, RemoteError, Scope, Session, Upload};
use crate::random::random;

/// A directory that takes segments.
#[derive(Debug, Clone)]
pub struct Dir {
    path: PathBuf,
    /// What this session stored last.
    stored: Option<PathBuf>,
}

impl Dir {
    /// The directory at `path`; made, every level, at the first session.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), stored: None }
    }

    fn failed(&self, scope: Scope, step: &str, error: &io::Error) -> RemoteError {
        RemoteError { scope, refused_login: false, text: format!("{}: {step}: {error}", self.path.display()) }
    }
}

impl Remote for Dir {
    fn open(&self, _deadline: Instant) -> Result<Box<dyn Session>, RemoteError> {
        fs::create_dir_all(&self.path).map_err(|error| self.failed(Scope::Server, "create", &error))?;
        Ok(Box::new(self.clone()))
    }

    fn hurry(&self, _deadline: Instant) {}

    fn address(&self) -> String {
        self.path.display().to_string()
    }

    fn allowance(&self, _len: u64) -> Duration {
        Duration::from_mins(10)
    }
}

impl Session for Dir {
    fn put(&mut self, upload: &Upload<'_>, _deadline: Instant) -> Result<Delivered, RemoteError> {
        let target = self.path.join(upload.name);
        let put = match File::open(&target) {
            Ok(there) => recognise(&there, upload).map(|()| Delivered::Before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let stored = store(&self.path, &target, upload);
                self.stored = stored.is_ok().then_some(target);
                stored.map(|()| Delivered::Stands)
            }
            Err(error) => Err(error),
        };
        put.map_err(|error| self.failed(Scope::File, upload.name, &error))
    }

    fn take_back(&mut self, _deadline: Instant) -> Result<(), RemoteError> {
        let Some(stored) = self.stored.take() else { return Ok(()) };
        fs::remove_file(stored).map_err(|error| self.failed(Scope::File, "remove", &error))
    }

    fn close(self: Box<Self>) {}
}

/// Temp file of this attempt alone, for two sessions may bring the same name; fsync, rename without replacing, fsync of the
/// directory.
fn store(dir: &Path, target: &Path, upload: &Upload<'_>) -> io::Result<()> {
    let temp = dir.join(format!("{}.{:016x}.tmp", upload.name, random()));
    let stored = store_as(&temp, target, upload);
    if stored.is_err() {
        // It is of no use to anybody.
        let _ = fs::remove_file(&temp);
    }
    stored?;
    File::open(dir)?.sync_all()
}

fn store_as(temp: &Path, target: &Path, upload: &Upload<'_>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(temp)?;
    let copied = io::copy(&mut (Positioned { file: upload.file, at: 0 }), &mut file)?;
    if copied != upload.len {
        return Err(io::Error::other(format!("{copied} bytes copied of {}", upload.len)));
    }
    file.sync_all()?;
    Ok(renameat_with(CWD, temp, CWD, target, RenameFlags::NOREPLACE)?)
}

/// The name is taken: by this very segment, or it is an error.
fn recognise(there: &File, upload: &Upload<'_>) -> io::Result<()> {
    let (mut theirs, mut ours) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut at = 0;
    let same = there.metadata()?.len() == upload.len
        && loop {
            let len = there.read_at(&mut theirs, at)?;
            if len == 0 {
                break true;
            }
            upload.file.read_exact_at(&mut ours[..len], at)?;
            if theirs[..len] != ours[..len] {
                break false;
            }
            at += len as u64;
        };
    if same { Ok(()) } else { Err(io::Error::new(io::ErrorKind::AlreadyExists, "another file has this name")) }
}

/// Reads an open file without moving its shared position.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buf, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}
