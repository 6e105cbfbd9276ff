//! The data directory's protocol: who owns it, what its files are called, how one becomes whole, what gives way when it
//! is full.
//!
//! ```text
//! .processor.lock     locked while a processor runs here; holds its process id
//! .processor.next     the next file's index, on disk before it is used
//! .processor.token    marks this directory's temp files on servers
//! NAME.part           the open segment: gzip header, pieces; salvaged after a crash
//! NAME.csv.gz         sealed: trailer, fsync, rename, fsync of the directory; the uploader's queue
//! rejects/            lines set aside, one text file a day
//! torn/               torn files that salvage could not bring through whole, as they were
//! ```
//!
//! What waits may be a million files. So nothing here walks the directory between two lines: [`stock`] does, on a thread of its
//! own, and the limit is held against its numbers.
//!
//! [`Spool`] tries each thing once and says why it failed; waiting and trying again is the pipeline's. A call that failed
//! may be made again with the same arguments: nothing is written twice. It never overwrites a file and never removes one
//! that it did not write, but for the oldest sealed segments under `drop-oldest`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use crossbeam_channel::{Receiver, after, never, select};
use rustix::fs::{FlockOperation, flock};

use crate::check::HeaderMode;
use crate::clock::Zone;
use crate::log::{Event, Log};
use crate::pack::{Packed, lone_piece};
use crate::schema::Schema;
use crate::shutdown::Shutdown;
use crate::stats::{Stats, Sums};

pub mod dir;
pub mod names;
pub mod queue;
mod rejects;
pub mod salvage;
pub mod segment;
pub mod stock;
mod torn;

use dir::{Dir, Entry};
use names::Names;
use queue::Queue;
use rejects::{Outcome, Rejects};
use segment::Segment;
use stock::{Counting, Stock, Survey};
use torn::{Room, Torn};

/// Locked while a processor owns the directory.
const LOCK: &str = ".processor.lock";
/// How long the start waits for the first look at the directory: two million names on a warm disk, half a million on a cold
/// one. A later one is taken up when it comes, between two batches.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How long after the start the first segment waits for the first count, when the spool has a limit.
const FIRST_COUNT: Duration = Duration::from_millis(1500);

/// `processor_spool_full`: what gives way when the spool is at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Reading stops; nothing is dropped by us.
    #[default]
    Block,
    /// The oldest sealed segment goes, counted and logged.
    DropOldest,
}

/// Settings of the spool.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// File prefix, `{host}` already replaced; `[A-Za-z0-9._-]` only.
    pub prefix: String,
    /// Zone of the stamps in names.
    pub zone: Zone,
    /// Limit of all our files in the data directory, bytes; `None` is no limit. It is over it by one segment at most, and by
    /// one more for each start with so many files that they cannot be counted in [`FIRST_COUNT`].
    pub max_bytes: Option<u64>,
    /// Bytes that stay free on the file system.
    pub min_free: u64,
    /// What gives way at the limit.
    pub when_full: WhenFull,
}

/// Why the data directory cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error("{} is in use by another processor (pid {pid}); give each its own -data-dir", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// What the lock file says; `?` when it says nothing.
        pid: String,
    },
    /// The directory cannot be made, read or written.
    #[error("{}: {step}: {source}; the data directory must be writable by the user that runs processor", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// Why a step could not be done now.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The limits of the spool forbid a new segment.
    #[error("no room: {used} bytes used, {free} bytes free")]
    Full {
        /// Bytes of all files in the data directory.
        used: u64,
        /// Bytes that the file system has left.
        free: u64,
    },
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The owned data directory.
#[derive(Debug)]
pub struct Spool {
    dir: Dir,
    options: Options,
    header: HeaderMode,
    names: Names,
    open: Option<Segment>,
    /// The lines in it.
    open_sums: Sums,
    stock: Arc<Stock>,
    counting: Counting,
    /// The first look at the directory, while it takes longer than the start waited for it.
    late: Option<Receiver<io::Result<Survey>>>,
    /// Until when the first count is waited for.
    first_count: Instant,
    /// Names below this index were given out by earlier lives.
    first_index: u64,
    /// The oldest sealed segments, to be dropped first.
    oldest: Oldest,
    /// Files of an earlier life that wait for salvage.
    torn: Torn,
    rejects: Rejects,
    /// Lines of all batches so far, for the line numbers in messages.
    lines_seen: u64,
    schema: Option<Arc<Schema>>,
    stats: Arc<Stats>,
    log: Log,
    /// Once it is tripped, salvage waits for the next start.
    shutdown: Shutdown,
    _lock: File,
}

/// A page of the oldest sealed segments, oldest first.
#[derive(Debug, Default)]
struct Oldest {
    names: VecDeque<String>,
    /// Until when what others put in need not be looked for.
    fresh_until: Option<Instant>,
}

impl Spool {
    /// Takes the directory (made when missing), salvages what an earlier life left open; once `shutdown` is tripped, the
    /// rest of that waits for the next start.
    ///
    /// # Errors
    ///
    /// Another processor has the directory, or it cannot be made, read or written.
    pub fn open(
        options: Options,
        header: HeaderMode,
        stats: Arc<Stats>,
        log: Log,
        shutdown: &Shutdown,
    ) -> Result<Self, OpenError> {
        let path = options.dir.clone();
        let failed = |step| {
            let path = path.clone();
            move |source| OpenError::Io { path, step, source }
        };
        let dir = Dir::open(&options.dir).map_err(failed("open"))?;
        let lock = take_lock(&dir)?;
        let first_count = Instant::now() + FIRST_COUNT;
        let mut names = Names::open(&dir, &options.prefix, options.zone).map_err(failed("read the file counter"))?;
        let stock = Arc::new(Stock::new(dir.try_clone().map_err(failed("open"))?, Arc::clone(&stats)));
        let (counting, surveyed) = stock.start().map_err(failed("start a thread"))?;
        // Without the counter nothing but the files tells which names were given out.
        let patience = if names.is_lost() { never() } else { after(FIRST_LOOK) };
        let survey = select! {
            recv(surveyed) -> looked => looked.ok().transpose().map_err(failed("read"))?,
            recv(patience) -> _ => None,
        };
        let last_index = survey.as_ref().and_then(|survey| survey.last_index);
        names.go_on(&dir, last_index).map_err(failed("store the file counter"))?;
        stock.begin(&counting, names.next());
        let rejects = Rejects::new(&options.prefix, options.zone);
        let mut spool = Self {
            dir,
            options,
            header,
            first_index: names.next(),
            names,
            open: None,
            open_sums: Sums::default(),
            stock,
            counting,
            late: survey.is_none().then_some(surveyed),
            first_count,
            oldest: Oldest::default(),
            torn: Torn::default(),
            rejects,
            lines_seen: 0,
            schema: None,
            stats,
            log,
            shutdown: shutdown.clone(),
            _lock: lock,
        };
        spool.salvage(survey.unwrap_or_default()).map_err(failed("go on with the salvage of an earlier run"))?;
        Ok(spool)
    }

    /// Salvages what the first look found; what cannot be now waits for the next segment, or for the next start.
    fn salvage(&mut self, found: Survey) -> io::Result<()> {
        if found.parts.is_empty() && found.repacks.is_empty() {
            return Ok(());
        }
        let Self { dir, names, stats, log, shutdown, torn, stock, .. } = self;
        stock.unsettle();
        let mut room = Room { dir, names, stats, log, shutdown, stock };
        let taken = torn.take(&room, found.parts, &found.repacks);
        torn.salvage_all(&mut room);
        stock.settled();
        taken
    }

    /// Takes up the first look at the directory, if it came after the start.
    fn take_late_look(&mut self) -> Result<(), Trouble> {
        let Some(Ok(looked)) = self.late.as_ref().map(Receiver::try_recv) else { return Ok(()) };
        // After an error it looks again.
        let mut found = looked.map_err(|source| io_trouble(&self.dir, source))?;
        self.late = None;
        let ours = self.first_index..self.names.next();
        found.parts.retain(|part| !names::index_of(&part.name).is_some_and(|index| ours.contains(&index)));
        self.names.pass_over(found.last_index);
        if ours.is_empty() {
            self.first_index = self.names.next();
        }
        self.salvage(found).map_err(|source| io_trouble(&self.dir, source))
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The sealed segments, for the uploader.
    pub fn queue(&self) -> Queue {
        Queue::new(Arc::clone(&self.stock))
    }

    /// True when others than owner and group may write into the directory.
    pub fn is_world_writable(&self) -> bool {
        self.dir.is_world_writable().unwrap_or(false)
    }

    /// Appends one packed batch to the open segment, or to a new one.
    ///
    /// # Errors
    ///
    /// There is no room for a new segment, or the disk refused. Nothing counts as written; the same call may be made again.
    pub fn append(&mut self, packed: &Packed, now: Instant, wall: DateTime<Utc>) -> Result<(), Trouble> {
        self.take_late_look()?;
        if packed.piece.len > 0 {
            let segment = match self.open.take() {
                Some(segment) => segment,
                None => self.new_segment(packed.schema.clone(), now, wall)?,
            };
            let segment = self.open.insert(segment);
            if let Err(source) = segment.append(&packed.piece) {
                return Err(Trouble::Io { path: self.dir.path().join(segment.part_name()), source });
            }
            self.stats.open_bytes.set(segment.len());
            self.open_sums.add(&packed.findings.written);
        }
        self.account(packed, wall);
        Ok(())
    }

    /// Seals the open segment, if there is one.
    ///
    /// # Errors
    ///
    /// The disk refused; the next call goes on where this one failed.
    pub fn seal(&mut self, now: Instant, wall: DateTime<Utc>) -> Result<(), Trouble> {
        let Some(segment) = &mut self.open else { return self.take_late_look() };
        let sealed = match segment.seal(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name =
                    give_name(&mut self.names, &self.stock, wall).map_err(|source| io_trouble(&self.dir, source))?;
                segment.rename_to(name);
                segment.seal(&self.dir)
            }
            outcome => outcome,
        };
        let sealed =
            sealed.map_err(|source| Trouble::Io { path: self.dir.path().join(segment.part_name()), source })?;
        self.open = None;
        self.open_sums = Sums::default();
        self.stats.open_bytes.set(0);
        self.stats.sealed_files.add(1);
        self.stats.sealed_bytes.add(sealed.len);
        self.stock.sealed(sealed.len);
        self.log.event(Event::FileRotated {
            path: self.dir.path().join(&sealed.name),
            raw_bytes: sealed.raw_bytes,
            duration: now.saturating_duration_since(sealed.opened),
        });
        self.take_late_look()
    }

    /// The lines of the open segment when it has no name in the directory any more: nobody will find them once it is closed.
    pub fn vanished(&self) -> Sums {
        let has_name = |open: &Segment| open.has_name(&self.dir);
        if self.open.as_ref().is_none_or(has_name) { Sums::default() } else { self.open_sums }
    }

    /// Path of the open segment, or of the directory; for messages.
    pub fn path(&self) -> PathBuf {
        self.open.as_ref().map_or(self.dir.path().to_path_buf(), |open| self.dir.path().join(open.part_name()))
    }

    fn new_segment(
        &mut self,
        schema: Option<Arc<Schema>>,
        now: Instant,
        wall: DateTime<Utc>,
    ) -> Result<Segment, Trouble> {
        if !self.torn.is_empty() {
            let Self { dir, names, stats, log, shutdown, torn, stock, .. } = self;
            stock.unsettle();
            let outcome = torn.salvage_due(&mut Room { dir, names, stats, log, shutdown, stock });
            stock.settled();
            if let Err(trouble) = outcome {
                // Where the oldest segment may go, it goes for the next try's room.
                self.make_room()?;
                return Err(trouble);
            }
        }
        self.make_room()?;
        let name = give_name(&mut self.names, &self.stock, wall).map_err(|source| io_trouble(&self.dir, source))?;
        let mut segment = Segment::create(&self.dir, name, now).map_err(|source| io_trouble(&self.dir, source))?;
        if let Some(schema) = schema.filter(|_| self.header == HeaderMode::EachFile)
            && let Err(source) = segment.append(&lone_piece(&schema.line()))
        {
            segment.discard(&self.dir);
            return Err(io_trouble(&self.dir, source));
        }
        Ok(segment)
    }

    /// Adds what a batch said to the numbers and to the log, and keeps its rejected lines.
    fn account(&mut self, packed: &Packed, wall: DateTime<Utc>) {
        let findings = &packed.findings;
        if packed.encoder_failed {
            self.log.event(Event::EncoderFailed { line: self.lines_seen + 1 });
        }
        self.note_header(packed.schema.as_ref());
        if let Some(first) = findings.first_bad {
            self.log.event(Event::BadLines {
                count: findings.bad_lines,
                first_line: self.lines_seen + first.line + 1,
                reason: first.reason.to_string(),
            });
        }
        self.lines_seen += findings.read.lines;
        self.stats.written.add(&findings.written);
        self.stats.rejected.add(&findings.rejected);
        self.stats.header_lines.add(findings.header_lines);
        if !packed.rejects.is_empty() {
            self.keep_rejects(packed, wall);
        }
    }

    fn note_header(&mut self, schema: Option<&Arc<Schema>>) {
        let Some(schema) = schema else { return };
        let text = |schema: &Schema| String::from_utf8_lossy(schema.text()).into_owned();
        match &self.schema {
            Some(known) if known == schema => return,
            Some(known) => {
                self.log.event(Event::HeaderChanged { line: self.lines_seen + 1, old: text(known), new: text(schema) });
            }
            None => {}
        }
        self.schema = Some(Arc::clone(schema));
    }

    fn keep_rejects(&mut self, packed: &Packed, wall: DateTime<Utc>) {
        let path = self.dir.path().join(rejects::DIRECTORY);
        match self.rejects.append(&self.dir, &packed.rejects, wall) {
            Ok(Outcome::Kept) => return,
            Ok(Outcome::Full) => self.log.event(Event::RejectsFull { path, limit: rejects::LIMIT }),
            Err(error) => self.log.event(Event::RejectsFailed { path, error: error.to_string() }),
        }
        self.stats.rejects_unkept.add(packed.findings.rejected.lines);
    }

    /// Lets a new segment be opened only below the limits. So the spool is over its limit by the open segment at most; see
    /// [`Options::max_bytes`] for the one exception.
    fn make_room(&mut self) -> Result<(), Trouble> {
        loop {
            let free = self.dir.free_bytes().map_err(|source| io_trouble(&self.dir, source))?;
            let used = match self.options.max_bytes {
                Some(max) => self.used_bytes(max).map_err(|source| io_trouble(&self.dir, source))?,
                None => 0,
            };
            let is_full = free < self.options.min_free || self.options.max_bytes.is_some_and(|max| used >= max);
            if !is_full {
                return Ok(());
            }
            let may_drop = self.options.when_full == WhenFull::DropOldest;
            if !may_drop || !self.drop_oldest().map_err(|source| io_trouble(&self.dir, source))? {
                return Err(Trouble::Full { used, free });
            }
        }
    }

    /// Bytes of all our files. When they seem to be `max` or more, they are counted anew: somebody may have made room.
    fn used_bytes(&self, max: u64) -> io::Result<u64> {
        let rejects = self.rejects.used()?;
        let Some(known) = self.stock.used(self.first_count)? else {
            if self.names.next() == self.first_index {
                // One segment is worth more than a start that waits for a cold disk.
                return Ok(0);
            }
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the files that wait are still being counted"));
        };
        if known + rejects < max {
            return Ok(known + rejects);
        }
        self.stock.count_anew(&self.counting);
        Ok(self.stock.used(self.first_count)?.unwrap_or(known) + rejects)
    }

    /// Removes the oldest sealed segment that no upload has in hand; false when there is none.
    fn drop_oldest(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        if self.oldest.fresh_until.is_some_and(|until| now < until) && self.drop_from_page()? {
            return Ok(true);
        }
        let mut after = None;
        loop {
            let names = queue::oldest(&self.dir, names::is_sealed, after.as_deref(), queue::PAGE)?;
            let Some(last) = names.last().cloned() else { return Ok(false) };
            self.oldest = Oldest { names: names.into(), fresh_until: Some(now + stock::pause_after(now.elapsed())) };
            if self.drop_from_page()? {
                return Ok(true);
            }
            after = Some(last);
        }
    }

    /// Drops the first segment of the page that can be dropped, and forgets those that are gone.
    fn drop_from_page(&mut self) -> io::Result<bool> {
        let mut at = 0;
        while let Some(name) = self.oldest.names.get(at) {
            let outcome = self.drop_segment(name)?;
            match outcome {
                Dropping::Kept => at += 1,
                Dropping::Done | Dropping::Gone => {
                    self.oldest.names.remove(at);
                }
            }
            if matches!(outcome, Dropping::Done) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn drop_segment(&self, name: &str) -> io::Result<Dropping> {
        // For writing, because NFS locks nothing else exclusively.
        let file = match self.dir.open_write(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Dropping::Gone),
            Err(_) => return Ok(Dropping::Kept),
        };
        // The uploader holds a lock from before it sends a file until it has removed it: what is nearly delivered is not
        // dropped, and what is delivered is not counted as lost.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(Dropping::Kept);
        }
        if file.metadata()?.nlink() == 0 {
            return Ok(Dropping::Gone);
        }
        let (lines, raw_bytes) = count_lines(&file);
        let bytes = self.stock.remove(name)?;
        self.stats.dropped_files.add(1);
        self.stats.dropped.add(&Sums { lines, bytes: raw_bytes, packets: 0, octets: 0 });
        self.log.event(Event::SpoolDropped { path: self.dir.path().join(name), bytes, lines });
        self.dir.sync()?;
        Ok(Dropping::Done)
    }
}

/// What became of a segment that was to be dropped.
enum Dropping {
    /// It is gone, and counted.
    Done,
    /// An upload has it in hand, or it cannot be opened.
    Kept,
    /// It went another way.
    Gone,
}

/// A name for a new segment; the stock knows of it before there is a file.
fn give_name(names: &mut Names, stock: &Stock, at: DateTime<Utc>) -> io::Result<String> {
    let index = names.next();
    let name = names.give(at)?;
    stock.given(index);
    Ok(name)
}

/// Whether a processor owns the data directory at `path`: its process id as the lock file tells.
///
/// # Errors
///
/// The lock file is there and cannot be read.
pub fn owner(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(read_pid(&file))),
        Err(error) => Err(error.into()),
    }
}

fn take_lock(dir: &Dir) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { path: dir.path().join(LOCK), step: "lock", source };
    let mut file = dir.open_or_create(LOCK).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::InUse { path: dir.path().to_path_buf(), pid: read_pid(&file) });
        }
        Err(error) => return Err(failed(error.into())),
    }
    // Only for messages of another process: a full disk must not keep this one from starting.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn read_pid(file: &File) -> String {
    let mut text = String::new();
    let read = file.take(20).read_to_string(&mut text);
    let pid = text.trim();
    if read.is_ok() && !pid.is_empty() { pid.to_owned() } else { "?".to_owned() }
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| names::age_key(&a.name).cmp(&names::age_key(&b.name)));
    entries
}

fn io_trouble(dir: &Dir, source: io::Error) -> Trouble {
    Trouble::Io { path: dir.path().to_path_buf(), source }
}

/// Lines and raw bytes of a sealed segment, as far as it can be read.
fn count_lines(file: &File) -> (u64, u64) {
    let mut reader = flate2::read::GzDecoder::new(file);
    let mut chunk = vec![0; 256 * 1024];
    let (mut lines, mut bytes) = (0, 0);
    while let Ok(got @ 1..) = reader.read(&mut chunk) {
        lines += memchr::memchr_iter(b'\n', &chunk[..got]).count() as u64;
        bytes += got as u64;
    }
    (lines, bytes)
}
