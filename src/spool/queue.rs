//! Sealed segments as a queue: the directory is the queue, its names are the order.
//!
//! Promises: only regular files are ever listed, opened or removed, never through a symbolic link; a FIFO or a directory
//! with a segment's name is passed over. Memory is bounded by the page, whatever the number of files that wait. A removal
//! is on disk when [`Queue::remove`] returns. It never writes to a segment and never looks at open ones (`.part`).

use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::dir::Dir;
use super::names::{age_key, is_sealed};
use crate::random::random;

/// Names longer than this are not ours: the longest legal prefix leaves room for stamp and index.
const MAX_NAME: usize = 200;
/// The file that holds the token of the data directory.
const TOKEN: &str = ".processor.token";
/// Letters of a token. 32 bits: two of a thousand probes that share one server directory get the same with a chance of one
/// in 8,000, and do harm only when they also make the same name at the same time.
const TOKEN_LEN: usize = 8;

/// The data directory, as the uploader sees it.
#[derive(Debug)]
pub struct Queue {
    dir: Dir,
}

/// One sealed segment that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Name without a path.
    pub name: String,
    /// Length in bytes when it was listed.
    pub len: u64,
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Segments.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A name with its place in the order: by stamp, then by index, then by the whole name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    stamp: String,
    index: u64,
    name: String,
    len: u64,
}

impl Ranked {
    fn of(name: &str, len: u64) -> Self {
        let (stamp, index) = age_key(name);
        Self { stamp: stamp.to_owned(), index, name: name.to_owned(), len }
    }

    fn comes_after(&self, name: &str) -> bool {
        let (stamp, index) = age_key(name);
        (self.stamp.as_str(), self.index, self.name.as_str()) > (stamp, index, name)
    }
}

impl Queue {
    /// The queue in `dir`.
    pub fn new(dir: Dir) -> Self {
        Self { dir }
    }

    /// The oldest `limit` segments behind `after` in the order, oldest first.
    ///
    /// Reads the whole directory; memory holds `limit` names.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn oldest(&self, after: Option<&str>, limit: usize) -> io::Result<Vec<Sealed>> {
        let mut oldest = BinaryHeap::new();
        self.dir.visit(is_uploadable, |name, len| {
            let ranked = Ranked::of(name, len);
            if after.is_none_or(|after| ranked.comes_after(after)) {
                oldest.push(ranked);
                if oldest.len() > limit {
                    oldest.pop();
                }
            }
        })?;
        let sorted = oldest.into_sorted_vec();
        Ok(sorted.into_iter().map(|Ranked { name, len, .. }| Sealed { name, len }).collect())
    }

    /// How much waits now.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn waiting(&self) -> io::Result<Waiting> {
        let mut waiting = Waiting::default();
        self.dir.visit(is_uploadable, |_, len| {
            waiting.files += 1;
            waiting.bytes += len;
        })?;
        Ok(waiting)
    }

    /// Opens a segment for reading. The length is the open file's.
    ///
    /// While the file is open it is locked, so that `drop-oldest` passes over what is nearly delivered.
    ///
    /// # Errors
    ///
    /// `NotFound` when the segment is gone, or is being dropped at this moment; else what the disk says.
    pub fn open_sealed(&self, sealed: &Sealed) -> io::Result<(File, u64)> {
        let file = self.dir.open_read(&sealed.name)?;
        if flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
            // It is being dropped at this moment.
            return Err(io::ErrorKind::NotFound.into());
        }
        let meta = file.metadata()?;
        if meta.nlink() == 0 {
            // It was dropped between the opening and the lock.
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((file, meta.len()))
    }

    /// Removes a segment for good.
    ///
    /// # Errors
    ///
    /// `NotFound` when it is gone already; else it may come back after a power cut.
    pub fn remove(&self, sealed: &Sealed) -> io::Result<()> {
        self.dir.remove(&sealed.name)?;
        self.dir.sync()
    }

    /// The mark of this data directory in the names of temp files on servers: made of random bits at the first call, the
    /// same ever after.
    ///
    /// On a disk that is full or read-only it cannot be kept and is another one after the next start. Then a temp file that a
    /// broken transfer left on the server is not recognised any more and stays there.
    pub fn token(&self) -> String {
        let token = format!("{:08x}", random() as u32);
        self.kept_token(&token).unwrap_or(token)
    }

    fn kept_token(&self, fresh: &str) -> io::Result<String> {
        match self.dir.open_read(TOKEN) {
            Ok(file) => {
                let mut text = String::new();
                file.take(64).read_to_string(&mut text)?;
                let token = text.trim_end();
                if token.len() == TOKEN_LEN && token.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Ok(token.to_owned());
                }
                // Torn by a crash before it was ever used, or edited: a new one does no harm.
                self.dir.remove(TOKEN)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = self.dir.create_new(TOKEN)?;
        file.write_all(format!("{fresh}\n").as_bytes())?;
        file.sync_all()?;
        self.dir.sync()?;
        Ok(fresh.to_owned())
    }
}

/// True for a sealed segment whose name passes through a control connection.
fn is_uploadable(name: &str) -> bool {
    is_sealed(name) && name.len() <= MAX_NAME && !name.contains(|c: char| c.is_control() || c == '\\')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{FileType, Mode};

    use super::*;

    fn queue() -> (tempfile::TempDir, Queue) {
        let temp = tempfile::tempdir().unwrap();
        let queue = Queue::new(Dir::open(temp.path()).unwrap());
        (temp, queue)
    }

    fn put(temp: &tempfile::TempDir, name: &str, text: &str) {
        std::fs::write(temp.path().join(name), text).unwrap();
    }

    fn names(page: &[Sealed]) -> Vec<&str> {
        page.iter().map(|sealed| sealed.name.as_str()).collect()
    }

    #[test]
    fn oldest_first_in_pages() {
        let (temp, queue) = queue();
        let sorted = [
            "f_20251127_102029_999.csv.gz",
            "f_20251127_102030_000.csv.gz",
            "f_20251127_102030_999.csv.gz",
            "f_20251127_102030_1000.csv.gz",
            "a_20251127_102031_001.csv.gz",
            "by-hand.csv.gz",
        ];
        for name in sorted.iter().rev() {
            put(&temp, name, name);
        }
        let mut seen = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = queue.oldest(after.as_deref(), 2).unwrap();
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            seen.extend(page);
        }
        assert_eq!(names(&seen), sorted);
        let bytes = sorted.iter().map(|name| name.len() as u64).sum();
        assert_eq!(queue.waiting().unwrap(), Waiting { files: 6, bytes });
    }

    #[test]
    fn only_plain_files_of_the_right_name_are_seen() {
        let (temp, queue) = queue();
        put(&temp, "real_20251127_102030_000.csv.gz", "x");
        for name in ["a.part", ".hidden.csv.gz", ".csv.gz", "b.csv", "two\nlines.csv.gz"] {
            put(&temp, name, "x");
        }
        std::fs::create_dir(temp.path().join("dir.csv.gz")).unwrap();
        symlink("/etc/passwd", temp.path().join("link.csv.gz")).unwrap();
        rustix::fs::mknodat(&queue.dir, "fifo.csv.gz", FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        assert_eq!(names(&queue.oldest(None, 100).unwrap()), ["real_20251127_102030_000.csv.gz"]);
        for name in ["link.csv.gz", "fifo.csv.gz", "dir.csv.gz"] {
            assert!(queue.open_sealed(&Sealed { name: name.into(), len: 0 }).is_err(), "{name}");
        }
    }

    #[test]
    fn removed_is_gone() {
        let (temp, queue) = queue();
        put(&temp, "f_20251127_102030_000.csv.gz", "abc");
        let page = queue.oldest(None, 9).unwrap();
        let (held, len) = queue.open_sealed(&page[0]).unwrap();
        assert_eq!(len, 3);
        let other = std::fs::File::open(temp.path().join(&page[0].name)).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err(), "locked while it is sent");
        drop(held);
        queue.remove(&page[0]).unwrap();
        assert_eq!(queue.open_sealed(&page[0]).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(queue.waiting().unwrap(), Waiting::default());
    }

    #[test]
    fn the_token_stays() {
        let (temp, queue) = queue();
        let token = queue.token();
        assert_eq!(token.len(), TOKEN_LEN);
        assert_eq!(Queue::new(Dir::open(temp.path()).unwrap()).token(), token);
        put(&temp, TOKEN, "../..\n");
        assert_ne!(queue.token(), "../..");
    }
}
