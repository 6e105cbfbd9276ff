//! What was said lately, for whoever looks at the running program: the last faults and what became of the last files.
//!
//! Bounded by count; a fault that repeats takes one place and is counted. It sees every event, also those that the level
//! keeps out of the log, and takes its lock only for the few that it keeps.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::{Event, Level};

/// Faults kept: more than one screen of them is read in the log.
const FAULTS: usize = 20;
/// Files kept: an afternoon of ten-minute files.
const FILES: usize = 30;

/// The last faults and files.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    faults: VecDeque<Fault>,
    files: VecDeque<File>,
}

/// A warning or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it was said last.
    pub at: DateTime<Utc>,
    /// How often it was said, from 1.
    pub count: u64,
    /// What was said last.
    pub event: Event,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Sealed, and waiting for its upload.
    Waiting,
    /// The server has it.
    Uploaded,
    /// It was tried and waits for the next pass.
    Failed,
    /// It made room for newer ones.
    Dropped,
}

impl Fate {
    /// The stable word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Uploaded => "uploaded",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// A file of this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Name without a path.
    pub name: String,
    /// When its fate became what it is.
    pub at: DateTime<Utc>,
    /// What became of it.
    pub fate: Fate,
    /// Size of its lines, bytes; `None` when it is a file of an earlier run.
    pub raw_bytes: Option<u64>,
    /// Its own size, bytes, once known.
    pub bytes: Option<u64>,
    /// Why it failed last.
    pub error: Option<String>,
}

impl Recent {
    /// Looks at an event that is being said.
    pub(super) fn note(&self, at: DateTime<Utc>, event: &Event) {
        if let Some(file) = file_of(at, event) {
            self.lock().put_file(file);
        }
        if event.level() <= Level::Warn {
            self.lock().put_fault(at, event);
        }
    }

    /// The last faults, newest first.
    pub fn faults(&self) -> Vec<Fault> {
        self.lock().faults.iter().rev().cloned().collect()
    }

    /// The last files, newest first.
    pub fn files(&self) -> Vec<File> {
        self.lock().files.iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn put_fault(&mut self, at: DateTime<Utc>, event: &Event) {
        let same = |fault: &Fault| fault.event.name() == event.name() && fault.event.subject() == event.subject();
        let known = self.faults.iter().position(same).and_then(|at| self.faults.remove(at));
        let count = known.map_or(0, |fault| fault.count) + 1;
        push_bounded(&mut self.faults, Fault { at, count, event: event.clone() }, FAULTS);
    }

    /// A known file keeps its place, so that the list stays in the order of the files.
    fn put_file(&mut self, file: File) {
        match self.files.iter_mut().find(|known| known.name == file.name) {
            Some(known) => {
                let (raw_bytes, bytes) = (file.raw_bytes.or(known.raw_bytes), file.bytes.or(known.bytes));
                *known = File { raw_bytes, bytes, ..file };
            }
            None => push_bounded(&mut self.files, file, FILES),
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    queue.push_back(item);
    if queue.len() > limit {
        queue.pop_front();
    }
}

/// What an event says of a file.
fn file_of(at: DateTime<Utc>, event: &Event) -> Option<File> {
    let file = |name: String, fate| File { name, at, fate, raw_bytes: None, bytes: None, error: None };
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match event {
        Event::FileRotated { path, raw_bytes, .. } => {
            Some(File { raw_bytes: Some(*raw_bytes), ..file(last(path)?, Fate::Waiting) })
        }
        Event::SegmentSalvaged { path, lines: 1.., .. } => Some(file(last(path)?, Fate::Waiting)),
        Event::Uploaded { name, bytes, .. } => Some(File { bytes: Some(*bytes), ..file(name.clone(), Fate::Uploaded) }),
        Event::UploadFailed { name, error } => {
            Some(File { error: Some(error.clone()), ..file(name.clone(), Fate::Failed) })
        }
        Event::SpoolDropped { path, bytes, .. } => {
            Some(File { bytes: Some(*bytes), ..file(last(path)?, Fate::Dropped) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn a_file_goes_its_way_in_one_place() {
        let recent = Recent::default();
        let name = |n: usize| format!("f_{n:03}.csv.gz");
        for n in 0..FILES + 2 {
            let path = Path::new("/data").join(name(n));
            recent.note(at(80), &Event::FileRotated { path, raw_bytes: 7, duration: Duration::ZERO });
        }
        recent.note(at(90), &Event::UploadFailed { name: name(5), error: "550".to_owned() });
        recent.note(at(91), &Event::Uploaded { name: name(5), bytes: 3, duration: Duration::ZERO });
        let files = recent.files();
        assert_eq!((files.len(), &files[0].name), (FILES, &name(FILES + 1)));
        let five = files.iter().find(|file| file.name == name(5)).unwrap();
        let wanted =
            File { name: name(5), at: at(91), fate: Fate::Uploaded, raw_bytes: Some(7), bytes: Some(3), error: None };
        assert_eq!(five, &wanted);
    }

    #[test]
    fn a_fault_that_repeats_takes_one_place() {
        let recent = Recent::default();
        recent.note(at(0), &Event::InputEnded);
        for files in 1..4 {
            recent.note(at(3), &Event::FilesWait { files });
        }
        recent.note(at(9), &Event::LogLinesLost { count: 1 });
        let faults = recent.faults();
        assert_eq!(faults.iter().map(|fault| fault.count).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((faults[1].at, &faults[1].event), (at(3), &Event::FilesWait { files: 3 }));
    }
}
