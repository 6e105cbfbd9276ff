//! `rejects/`: the lines that the parse stage set aside, each after the reason, for a person to read.
//!
//! Bounded: past [`LIMIT`] further lines are counted and not kept, so a source gone mad cannot fill the disk; emptying the
//! directory makes room. Nothing here ever stops the lines that are good.

use std::io::{self, Write};

use chrono::{DateTime, Utc};

use super::dir::Dir;
use crate::clock::Zone;

/// The directory's name.
pub(super) const DIRECTORY: &str = "rejects";

/// Bytes that may be kept; from what one would ever read to find a fault, times a thousand.
pub(super) const LIMIT: u64 = 64 << 20;

/// Appends rejected lines to one file a day.
#[derive(Debug)]
pub(super) struct Rejects {
    prefix: String,
    zone: Zone,
    /// Opened with the first rejected line: most data directories never have one.
    dir: Option<Dir>,
    limit: u64,
}

/// What became of rejected lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// They are in the file.
    Kept,
    /// There was no room for them.
    Full,
}

impl Rejects {
    /// Nothing is touched before the first rejected line.
    pub(super) fn new(prefix: &str, zone: Zone) -> Self {
        Self { prefix: prefix.to_owned(), zone, dir: None, limit: LIMIT }
    }

    /// Appends `lines`, each `reason` tab `line`, to today's file below `parent`.
    pub(super) fn append(&mut self, parent: &Dir, lines: &[u8], at: DateTime<Utc>) -> io::Result<Outcome> {
        let dir = match &mut self.dir {
            Some(dir) => dir,
            none => none.insert(parent.subdirectory(DIRECTORY)?),
        };
        if total(dir)? + lines.len() as u64 > self.limit {
            return Ok(Outcome::Full);
        }
        let day = self.zone.local(at).format("%Y%m%d");
        dir.open_append(&format!("{}{day}.txt", self.prefix))?.write_all(lines)?;
        Ok(Outcome::Kept)
    }

    /// Bytes of what is kept; 0 before a line was rejected in this life.
    pub(super) fn used(&self) -> io::Result<u64> {
        self.dir.as_ref().map_or(Ok(0), total)
    }
}

/// Bytes of all files in a directory that holds one a day.
fn total(dir: &Dir) -> io::Result<u64> {
    Ok(dir.files(|_| true)?.iter().map(|entry| entry.len).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_up_to_the_limit_and_again_when_emptied() {
        let temp = tempfile::tempdir().unwrap();
        let parent = Dir::open(temp.path()).unwrap();
        let mut rejects = Rejects { limit: 10, ..Rejects::new("flows_", Zone::parse("UTC").unwrap()) };
        let at = DateTime::from_timestamp(1_764_210_030, 0).unwrap();
        assert_eq!(rejects.append(&parent, b"why\tx\n", at).unwrap(), Outcome::Kept);
        assert_eq!(rejects.append(&parent, b"why\ty\n", at).unwrap(), Outcome::Full);
        let file = temp.path().join("rejects/flows_20251127.txt");
        assert_eq!(std::fs::read(&file).unwrap(), b"why\tx\n");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(rejects.append(&parent, b"why\ty\n", at).unwrap(), Outcome::Kept);
    }
}
