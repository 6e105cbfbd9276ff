//! The torn files of earlier lives: found at the start, salvaged in their order, sealed. What salvage cannot bring through whole
//! goes to `torn/` as it is.
//!
//! ```text
//! NAME.part ── cut in place ─────────────────────────────▶ NAME.part ─▶ NAME.csv.gz
//! NAME.part ── packed anew ─▶ .NAME.repack ─ rename over ▶ NAME.part ─▶ NAME.csv.gz
//! NAME.part ── packed anew ─▶ .NAME.repack ─┐ 2 rename ──▶ NAME.part ─▶ NAME.csv.gz     when it is damaged
//!      └─────── 1 rename ─▶ torn/NAME.part  ┘
//! ```
//!
//! Killed at any instant, the next start goes on: a `.NAME.repack` whose `NAME.part` is there is only half of something and is
//! removed; one whose `NAME.part` is gone is complete, because it was synced before that went to `torn/`, and takes its place.
//!
//! Nothing that can still be read is ever removed. So the bound of `torn/` removes nothing either: past [`LIMIT`], or where
//! `torn/` cannot be written, a file keeps its place under the name `NAME.part.torn`, which no later start looks at. What is in
//! `torn/` is for a person: nothing here ever reads or removes it.
//!
//! Lines that were read go first: once the latch is tripped, the salvage under way is given up within one step and the rest
//! waits for the next start.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::dir::{Dir, Entry};
use super::names::{self, Names, PART, SEALED};
use super::salvage::{self, Damage, Error, Finding, Salvaged, Way};
use super::stock::Stock;
use super::{Trouble, sorted};
use crate::log::{Event, Log};
use crate::shutdown::Shutdown;
use crate::stats::Stats;

/// The directory's name.
pub(super) const DIRECTORY: &str = "torn";
/// Bytes that `torn/` may hold: ten files of the default size that did not pack at all.
const LIMIT: u64 = 1 << 30;
/// Ending of a file that could not be moved to `torn/`.
const KEPT: &str = ".torn";
/// Ending of the hidden file into which a torn file is packed anew.
const REPACK: &str = ".repack";
/// How often a file that fails for another reason than a full or read-only disk is tried before it is set aside: a passing
/// fault is over by then, a broken sector is not, and it must not hold back the lines that come.
const TRIES: u32 = 3;
/// Files of one name in `torn/`; names are not given out twice, so one is the rule.
const SAME_NAMES: u32 = 100;

/// What salvage works with.
pub(super) struct Room<'a> {
    pub(super) dir: &'a Dir,
    pub(super) names: &'a mut Names,
    pub(super) stats: &'a Stats,
    pub(super) log: &'a Log,
    pub(super) shutdown: &'a Shutdown,
    /// Told of what becomes a sealed file.
    pub(super) stock: &'a Stock,
}

/// The torn files that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Torn {
    waiting: VecDeque<Part>,
    put_off: bool,
}

/// A torn file and how often it was tried.
#[derive(Debug)]
struct Part {
    entry: Entry,
    tries: u32,
}

impl Torn {
    /// Takes the torn files that earlier lives left, and brings to its end what a killed salvage had begun.
    pub(super) fn take(&mut self, room: &Room<'_>, mut parts: Vec<Entry>, repacks: &[String]) -> io::Result<()> {
        let mut outcome = Ok(());
        for left in repacks {
            let part = format!("{}{PART}", &left[1..left.len() - REPACK.len()]);
            let is_half = !names::is_part(&part) || parts.iter().any(|entry| entry.name == part);
            let done = if is_half { room.dir.remove(left) } else { room.dir.rename_new(left, &part) };
            match done.and_then(|()| room.dir.len_of(&part)) {
                Ok(Some(len)) if !is_half => parts.push(Entry { name: part, len }),
                Ok(_) => {}
                Err(error) => outcome = Err(error),
            }
        }
        room.stats.salvage_total_bytes.add(parts.iter().map(|part| part.len).sum());
        self.waiting.extend(sorted(parts).into_iter().map(|entry| Part { entry, tries: 0 }));
        outcome
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tries each file once. One that fails waits and is tried again by [`Self::salvage_due`].
    pub(super) fn salvage_all(&mut self, room: &mut Room<'_>) {
        let mut left = VecDeque::new();
        while let Some(mut part) = self.waiting.pop_front() {
            match room.salvage(&part.entry) {
                Ok(()) => {}
                Err(Error::Stopped) => {
                    self.waiting.push_front(part);
                    break;
                }
                Err(Error::Io(error)) => {
                    let path = room.dir.path().join(&part.entry.name);
                    room.log.event(Event::SegmentWaits { path, error: error.to_string() });
                    part.tries += 1;
                    left.push_back(part);
                }
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
        if room.shutdown.is_tripped() {
            self.put_off(room);
        }
        room.stats.salvage_done_bytes.set(room.stats.salvage_total_bytes.get());
    }

    /// Tries again what the start could not salvage. A disk that is full or read-only takes no new segment either, so it is waited for; with any other fault a file is only tried [`TRIES`] times.
    pub(super) fn salvage_due(&mut self, room: &mut Room<'_>) -> Result<(), Trouble> {
        while let Some(part) = self.waiting.front_mut() {
            if room.shutdown.is_tripped() {
                self.put_off(room);
                return Ok(());
            }
            let trouble = |source| Trouble::Io { path: room.dir.path().join(&part.entry.name), source };
            match room.salvage(&part.entry) {
                Ok(()) => {}
                Err(Error::Stopped) => continue,
                Err(Error::Io(source)) if is_full(&source) => return Err(trouble(source)),
                Err(Error::Io(source)) => {
                    part.tries += 1;
                    if part.tries < TRIES {
                        return Err(trouble(source));
                    }
                    room.set_aside(&part.entry.name, &source).map_err(trouble)?;
                }
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Says, once, that the rest waits for the next start.
    fn put_off(&mut self, room: &Room<'_>) {
        if self.waiting.is_empty() || std::mem::replace(&mut self.put_off, true) {
            return;
        }
        let bytes = self.waiting.iter().map(|part| part.entry.len).sum();
        room.log.event(Event::SalvagePutOff { files: self.waiting.len() as u64, bytes });
    }
}

impl Room<'_> {
    /// Salvages one file and seals it, when a line is in it. May be called again after an error.
    fn salvage(&mut self, part: &Entry) -> Result<(), Error> {
        let path = self.dir.path().join(&part.name);
        let stem = part.name.strip_suffix(PART).unwrap_or(&part.name);
        let file = match self.dir.open_write(&part.name) {
            // An earlier call came as far as the renaming.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match self.dir.rename_new(&hidden(stem), &part.name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    outcome => outcome?,
                }
                self.dir.open_write(&part.name)?
            }
            opened => opened?,
        };
        if self.dir.names_file(&format!("{stem}{SEALED}"), &file) {
            // Sealed by a link, where the file system has no other way, and killed before the first name was gone.
            self.dir.remove(&part.name)?;
            self.dir.sync()?;
            return Ok(());
        }
        let before = self.stats.salvage_done_bytes.get();
        let Finding { salvaged, way, damage } = salvage::examine(&file, &mut noting(self.stats, self.shutdown))?;
        self.stats.salvage_done_bytes.set(before + part.len);
        match way {
            Way::Nothing => {
                if let Some(damage) = damage {
                    self.set_aside(&part.name, &damage)?;
                } else {
                    self.dir.remove(&part.name)?;
                    self.dir.sync()?;
                    self.stats.salvage_cut_bytes.add(part.len);
                    self.log.event(Event::SegmentSalvaged { path, lines: 0, cut_bytes: part.len });
                }
                return Ok(());
            }
            Way::AsItIs => file.sync_all()?,
            Way::Cut(cut) => salvage::cut(&file, &cut)?,
            Way::Repack(repack) => self.repack(&part.name, &file, &repack, damage)?,
        }
        Ok(self.seal(&part.name, salvaged)?)
    }

    /// Packs the lines anew; they have the name `part` then, and a damaged file is set aside.
    fn repack(&self, part: &str, file: &File, repack: &salvage::Repack, damage: Option<Damage>) -> Result<(), Error> {
        let anew = hidden(part.strip_suffix(PART).unwrap_or(part));
        forget(self.dir, &anew)?;
        let (done, len) = (self.stats.salvage_done_bytes.get(), file.metadata()?.len());
        // The file is gone through once more.
        self.stats.salvage_total_bytes.add(len);
        let packed = self
            .dir
            .create_new(&anew)
            .map_err(Error::from)
            .and_then(|whole| salvage::repack(file, &whole, repack, &mut noting(self.stats, self.shutdown)));
        self.stats.salvage_done_bytes.set(done + len);
        if packed.is_err() {
            // Half of it only takes room; what cannot be removed now the next try or start removes.
            let _ = forget(self.dir, &anew);
        }
        packed?;
        match damage {
            // One step: a crash leaves either file under the name, and both say the same lines.
            None => self.dir.rename_over(&anew, part)?,
            Some(damage) => {
                self.dir.sync()?;
                self.set_aside(part, &damage)?;
                self.dir.rename_new(&anew, part)?;
            }
        }
        Ok(())
    }

    /// Gives a whole file its final name.
    fn seal(&mut self, part: &str, salvaged: Salvaged) -> io::Result<()> {
        let stem = part.strip_suffix(PART).unwrap_or(part);
        let mut name = format!("{stem}{SEALED}");
        if let Err(error) = self.dir.rename_new(part, &name) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            name = format!("{}{SEALED}", self.names.give(crate::clock::now())?);
            self.dir.rename_new(part, &name)?;
        }
        self.dir.sync()?;
        let len = self.dir.open_read(&name)?.metadata()?.len();
        self.stock.salvaged(len);
        self.stats.salvaged_files.add(1);
        self.stats.salvage_cut_bytes.add(salvaged.cut_bytes);
        let (path, lines) = (self.dir.path().join(name), salvaged.lines);
        self.log.event(Event::SegmentSalvaged { path, lines, cut_bytes: salvaged.cut_bytes });
        Ok(())
    }

    /// Moves a file out of the way, to `torn/` or, where that does not go, to another name beside.
    fn set_aside(&self, part: &str, why: &dyn std::fmt::Display) -> io::Result<()> {
        let mut error = why.to_string();
        let len = self.dir.len_of(part)?.unwrap_or(0);
        let kept_as = match self.move_to_torn(part, LIMIT) {
            Ok(kept_as) => kept_as,
            Err(source) if is_full(&source) => return Err(source),
            Err(source) => {
                error = format!("{error}; {DIRECTORY}/: {source}");
                let kept_as = format!("{part}{KEPT}");
                self.dir.rename_new(part, &kept_as)?;
                self.dir.path().join(kept_as)
            }
        };
        self.dir.sync()?;
        self.stats.torn_set_aside.add(1);
        self.stats.torn_files.add(1);
        self.stats.torn_bytes.add(len);
        self.log.event(Event::SegmentSetAside { path: self.dir.path().join(part), kept_as, error });
        Ok(())
    }

    fn move_to_torn(&self, part: &str, limit: u64) -> io::Result<PathBuf> {
        let torn = self.dir.subdirectory(DIRECTORY)?;
        let file = self.dir.open_read(part)?;
        let used: u64 = torn.files(|_| true)?.iter().map(|entry| entry.len).sum();
        if used + file.metadata()?.len() > limit {
            return Err(io::Error::other(format!("{used} bytes are in it, more than {limit} are too many")));
        }
        for number in 0..SAME_NAMES {
            let name = if number == 0 { part.to_owned() } else { format!("{part}.{number}") };
            match self.dir.move_new(part, &torn, &name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !torn.names_file(&name, &file) {
                        continue;
                    }
                    // Moved by a link, and killed before the first name was gone.
                    self.dir.remove(part)?;
                }
                outcome => outcome?,
            }
            torn.sync()?;
            return Ok(torn.path().join(name));
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// What is in `torn/`; nothing when it cannot be read, which is said elsewhere.
pub(super) fn inside(dir: &Dir) -> Vec<Entry> {
    dir.open_subdirectory(DIRECTORY).and_then(|torn| torn.files(|_| true)).unwrap_or_default()
}

/// True for a torn file that could not be moved to `torn/`.
pub(super) fn is_kept(name: &str) -> bool {
    name.ends_with(KEPT)
}

/// True for a file into which a torn one is packed anew.
pub(super) fn is_repack(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(REPACK) && name.len() > REPACK.len()
}

/// The name of the file into which `stem` is packed anew.
fn hidden(stem: &str) -> String {
    format!(".{stem}{REPACK}")
}

/// Counts what salvage has gone through, and stops it when the latch is tripped.
fn noting<'a>(stats: &'a Stats, shutdown: &'a Shutdown) -> impl FnMut(u64) -> bool + 'a {
    |bytes| {
        stats.salvage_done_bytes.add(bytes);
        !shutdown.is_tripped()
    }
}

fn forget(dir: &Dir, name: &str) -> io::Result<()> {
    match dir.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// True when the disk has no room or takes no writes at all, whatever the file.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}
