//! Sealed segments as a queue: the directory is the queue, its names are the order.
//!
//! Promises: only regular files are ever listed, opened or removed, never through a symbolic link; a FIFO or a directory
//! with a segment's name is passed over. Memory is bounded by the page, whatever the number of files that wait, and listing
//! looks at no file. A removal is on disk when [`Queue::remove`] returns. It never writes to a segment and never looks at open
//! ones (`.part`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::dir::Dir;
use super::names::{age_key, is_sealed};
use super::stock::Stock;
use crate::random::random;

/// Names longer than this are not ours: the longest legal prefix leaves room for stamp and index.
const MAX_NAME: usize = 200;
/// The file that holds the token of the data directory.
const TOKEN: &str = ".processor.token";
/// Letters of a token. 32 bits: two of a thousand probes that share one server directory get the same with a chance of one
/// in 8,000, and do harm only when they also make the same name at the same time.
const TOKEN_LEN: usize = 8;

/// Names in a page. From memory and work: a page is 1.5 MB at most, twice that while it is read, and a queue of a million files
/// is gone through in 62 pages, each a pass of half a second over names that are fewer every time.
pub const PAGE: usize = 16_384;

/// The data directory, as the uploader sees it.
#[derive(Debug)]
pub struct Queue {
    stock: Arc<Stock>,
}

/// One sealed segment that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Name without a path.
    pub name: String,
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Segments.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A name with its place in the order, parsed once: by stamp, then by index, then by the whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranked {
    name: Box<str>,
    index: u64,
    /// Where the stamp stands in the name.
    stamp: (u8, u8),
}

impl Ranked {
    fn of(name: &str) -> Self {
        let (stamp, index) = age_key(name);
        let from = stamp.as_ptr().addr() - name.as_ptr().addr();
        // No file system has longer names than 255 bytes.
        let place = |at: usize| u8::try_from(at).unwrap_or(u8::MAX);
        Self { name: name.into(), index, stamp: (place(from), place(from + stamp.len())) }
    }

    fn key(&self) -> (&str, u64, &str) {
        let stamp = self.name.get(usize::from(self.stamp.0)..usize::from(self.stamp.1));
        (stamp.unwrap_or(&self.name), self.index, &self.name)
    }
}

/// True when `name` comes after `other` in the order of the queue.
pub fn comes_after(name: &str, other: &str) -> bool {
    let key = |name| {
        let (stamp, index) = age_key(name);
        (stamp, index, name)
    };
    key(name) > key(other)
}

/// The oldest `limit` of the names that `wanted` accepts and that come behind `after` in the order, oldest first.
///
/// One pass over the directory's names; memory holds twice `limit`.
///
/// # Errors
///
/// The directory cannot be read.
pub fn oldest(dir: &Dir, wanted: impl Fn(&str) -> bool, after: Option<&str>, limit: usize) -> io::Result<Vec<String>> {
    let after = after.map(Ranked::of);
    let mut kept: Vec<Ranked> = Vec::new();
    // Once there are enough, the last of them: what comes behind it is not wanted.
    let mut last: Option<Ranked> = None;
    dir.each(|name| {
        if !wanted(name) {
            return Ok(true);
        }
        let (stamp, index) = age_key(name);
        let key = (stamp, index, name);
        if after.as_ref().is_some_and(|after| key <= after.key()) || last.as_ref().is_some_and(|last| key > last.key())
        {
            return Ok(true);
        }
        kept.push(Ranked::of(name));
        if kept.len() >= 2 * limit {
            kept.select_nth_unstable_by(limit - 1, |a, b| a.key().cmp(&b.key()));
            kept.truncate(limit);
            last = kept.last().cloned();
        }
        Ok(true)
    })?;
    kept.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
    kept.truncate(limit);
    Ok(kept.into_iter().map(|ranked| ranked.name.into()).collect())
}

impl Queue {
    /// The queue of what is in `stock`.
    pub fn new(stock: Arc<Stock>) -> Self {
        Self { stock }
    }

    fn dir(&self) -> &Dir {
        self.stock.dir()
    }

    /// The oldest [`PAGE`] segments behind `after` in the order, oldest first: one pass over the directory.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn page(&self, after: Option<&str>) -> io::Result<Vec<Sealed>> {
        let names = oldest(self.dir(), is_uploadable, after, PAGE)?;
        Ok(names.into_iter().map(|name| Sealed { name }).collect())
    }

    /// How much waits now. Whether anything does is looked up; how much is what the stock says, so that this takes no longer
    /// with a million files.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn waiting(&self) -> io::Result<Waiting> {
        let mut is_empty = true;
        self.dir().each(|name| {
            is_empty &= !is_uploadable(name);
            Ok(is_empty)
        })?;
        let Waiting { files, bytes } = self.stock.sealed_now();
        Ok(if is_empty { Waiting::default() } else { Waiting { files: files.max(1), bytes } })
    }

    /// Opens a segment for reading. The length is the open file's.
    ///
    /// While the file is open it is locked, so that `drop-oldest` passes over what is nearly delivered.
    ///
    /// # Errors
    ///
    /// `NotFound` when the segment is gone, or is being dropped at this moment; else what the disk says.
    pub fn open_sealed(&self, sealed: &Sealed) -> io::Result<(File, u64)> {
        let file = self.dir().open_read(&sealed.name)?;
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

    /// Removes a segment for good, and takes it out of the stock.
    ///
    /// # Errors
    ///
    /// `NotFound` when it is gone already; else it may come back after a power cut.
    pub fn remove(&self, sealed: &Sealed) -> io::Result<()> {
        self.stock.remove(&sealed.name)?;
        self.dir().sync()
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
        match self.dir().open_read(TOKEN) {
            Ok(file) => {
                let mut text = String::new();
                file.take(64).read_to_string(&mut text)?;
                let token = text.trim_end();
                if token.len() == TOKEN_LEN && token.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Ok(token.to_owned());
                }
                // Torn by a crash before it was ever used, or edited: a new one does no harm.
                self.dir().remove(TOKEN)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = self.dir().create_new(TOKEN)?;
        file.write_all(format!("{fresh}\n").as_bytes())?;
        file.sync_all()?;
        self.dir().sync()?;
        Ok(fresh.to_owned())
    }
}

/// True for a sealed segment whose name passes through a control connection.
pub fn is_uploadable(name: &str) -> bool {
    is_sealed(name) && name.len() <= MAX_NAME && !name.contains(|c: char| c.is_control() || c == '\\')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{FileType, Mode};

    use super::*;

    fn queue() -> (tempfile::TempDir, Queue) {
        let temp = tempfile::tempdir().unwrap();
        let queue = Queue::new(stock(&temp));
        (temp, queue)
    }

    fn stock(temp: &tempfile::TempDir) -> Arc<Stock> {
        Arc::new(Stock::new(Dir::open(temp.path()).unwrap(), Arc::default()))
    }

    fn put(temp: &tempfile::TempDir, name: &str, text: &str) {
        std::fs::write(temp.path().join(name), text).unwrap();
    }

    fn all(queue: &Queue) -> Vec<String> {
        oldest(queue.dir(), is_uploadable, None, 100).unwrap()
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
        for limit in [1, 2, 3, 100] {
            let mut seen: Vec<String> = Vec::new();
            loop {
                let page = oldest(queue.dir(), is_uploadable, seen.last().map(String::as_str), limit).unwrap();
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                seen.extend(page);
            }
            assert_eq!(seen, sorted, "in pages of {limit}");
        }
    }

    #[test]
    fn what_waits_is_the_stock_s_unless_nothing_does() {
        let (temp, queue) = queue();
        assert_eq!(queue.waiting().unwrap(), Waiting::default());
        put(&temp, "f_20251127_102030_000.csv.gz", "abc");
        assert_eq!(queue.waiting().unwrap(), Waiting { files: 1, bytes: 0 }, "put in by hand and not counted yet");
        assert!(queue.stock.count().unwrap());
        assert_eq!(queue.waiting().unwrap(), Waiting { files: 1, bytes: 3 });
        std::fs::remove_file(temp.path().join("f_20251127_102030_000.csv.gz")).unwrap();
        assert_eq!(queue.waiting().unwrap(), Waiting::default());
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
        rustix::fs::mknodat(queue.dir(), "fifo.csv.gz", FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        assert_eq!(all(&queue), ["real_20251127_102030_000.csv.gz"]);
        for name in ["link.csv.gz", "fifo.csv.gz", "dir.csv.gz"] {
            assert!(queue.open_sealed(&Sealed { name: name.into() }).is_err(), "{name}");
        }
    }

    #[test]
    fn removed_is_gone() {
        let (temp, queue) = queue();
        put(&temp, "f_20251127_102030_000.csv.gz", "abc");
        let page = queue.page(None).unwrap();
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
        assert_eq!(Queue::new(stock(&temp)).token(), token);
        put(&temp, TOKEN, "../..\n");
        assert_ne!(queue.token(), "../..");
    }
}
