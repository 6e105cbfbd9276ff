//! Names of files: `{prefix}{YYYYMMDD_HHMMSS}_{index}`, each given out once and never again.
//!
//! The index is a counter that lives in the data directory and is on disk before its number is used. So a name cannot
//! come back, whatever the clock does and however often the program starts; the stamp is for people.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use chrono::{DateTime, Utc};

use super::dir::Dir;
use crate::clock::Zone;

/// Ending of a file that is being written.
pub const PART: &str = ".part";
/// Ending of a sealed segment.
pub const SEALED: &str = ".csv.gz";
/// The file that holds the next index.
const COUNTER: &str = ".processor.next";
/// The counter file's length: twenty digits and a newline, always, so that it is overwritten in place: within one
/// sector, and also on a full disk.
const COUNTER_LEN: usize = 21;

/// Indexes from here on were never given out (a million files a second would need two weeks): a counter or a file that
/// says so was damaged or planted, and going on from it would end the numbers.
const UNLIKELY: u64 = 1_000_000_000_000;

/// Gives out names.
#[derive(Debug)]
pub struct Names {
    prefix: String,
    zone: Zone,
    counter: File,
    next: u64,
    is_lost: bool,
}

impl Names {
    /// Reads the counter. When it is missing or damaged ([`Self::is_lost`]), [`Self::go_on`] must be told what the directory
    /// holds before a name is given out.
    ///
    /// # Errors
    ///
    /// The counter cannot be read: to go on without it could bring a name back.
    pub fn open(dir: &Dir, prefix: &str, zone: Zone) -> io::Result<Self> {
        let counter = dir.open_or_create(COUNTER)?;
        let mut text = [0; COUNTER_LEN];
        let stored = match counter.read_exact_at(&mut text, 0) {
            Ok(()) => parse_counter(&text),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            // It may be whole, only not readable now: to go on without it could bring a name back.
            Err(error) => return Err(error),
        };
        let is_lost = stored.is_none();
        Ok(Self { prefix: prefix.to_owned(), zone, counter, next: stored.unwrap_or(0), is_lost })
    }

    /// True when only the files in the directory tell which indexes were given out.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Goes on after the highest index that was `seen` in the directory, if any, and keeps the counter there.
    ///
    /// # Errors
    ///
    /// The counter cannot be written.
    pub fn go_on(&mut self, dir: &Dir, seen: Option<u64>) -> io::Result<()> {
        self.pass_over(seen);
        self.store(self.next)?;
        dir.sync()
    }

    /// Gives out no index up to the one that was `seen`.
    pub fn pass_over(&mut self, seen: Option<u64>) {
        self.next = self.next.max(seen.map_or(0, |seen| seen + 1));
    }

    /// The index of the next name.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A name that never was and never will be given out again, without ending.
    ///
    /// # Errors
    ///
    /// The counter cannot be written; nothing was given out.
    pub fn give(&mut self, at: DateTime<Utc>) -> io::Result<String> {
        self.store(self.next + 1)?;
        let name = format!("{}{}_{:03}", self.prefix, self.zone.file_stamp(at), self.next);
        self.next += 1;
        Ok(name)
    }

    fn store(&self, next: u64) -> io::Result<()> {
        self.counter.write_all_at(format!("{next:020}\n").as_bytes(), 0)?;
        self.counter.sync_data()
    }
}

fn parse_counter(text: &[u8; COUNTER_LEN]) -> Option<u64> {
    let next = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.parse().ok()?;
    (next <= UNLIKELY).then_some(next)
}

/// The index in one of our names, as [`index_of`], when it may have been given out.
pub fn likely_index_of(name: &str) -> Option<u64> {
    index_of(name).filter(|index| *index < UNLIKELY)
}

/// The index in one of our names, sealed or not; `None` for any other name.
pub fn index_of(name: &str) -> Option<u64> {
    let stem = name.strip_suffix(SEALED).or_else(|| name.strip_suffix(PART))?;
    let (rest, index) = stem.rsplit_once('_')?;
    let (rest, time) = rest.rsplit_once('_')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let date = rest.get(rest.len().checked_sub(8)?..)?;
    let ours = digits(date) && digits(time) && time.len() == 6 && (3..=18).contains(&index.len()) && digits(index);
    ours.then(|| index.parse().ok()).flatten()
}

/// True for the file of a segment that an earlier life left open. A prefix of another configuration is ours too.
pub fn is_part(name: &str) -> bool {
    name.ends_with(PART) && index_of(name).is_some()
}

/// True for what the uploader may take: any file with the ending, also one that somebody put back by hand, but no
/// hidden one.
pub fn is_sealed(name: &str) -> bool {
    name.len() > SEALED.len() && name.ends_with(SEALED) && !name.starts_with('.')
}

/// Sorts names oldest first: by stamp, then by index, whatever their prefix.
pub fn age_key(name: &str) -> (&str, u64) {
    let stem = name.strip_suffix(SEALED).unwrap_or(name);
    match (index_of(name), stem.rsplit_once('_')) {
        (Some(index), Some((rest, _))) => (&rest[rest.len().saturating_sub(15)..], index),
        _ => (name, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(epoch, 0).unwrap()
    }

    fn names(path: &std::path::Path) -> Names {
        let dir = Dir::open(path).unwrap();
        let mut names = Names::open(&dir, "flows_", Zone::parse("Asia/Shanghai").unwrap()).unwrap();
        let seen = dir.files(|_| true).unwrap().iter().filter_map(|entry| likely_index_of(&entry.name)).max();
        names.go_on(&dir, seen).unwrap();
        names
    }

    #[test]
    fn names_count_on_after_restarts_and_when_the_clock_steps_back() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(names(temp.path()).give(at(1_764_210_030)).unwrap(), "flows_20251127_102030_000");
        assert_eq!(names(temp.path()).give(at(1_764_210_030)).unwrap(), "flows_20251127_102030_001");
        assert_eq!(names(temp.path()).give(at(1_764_206_430)).unwrap(), "flows_20251127_092030_002");
    }

    #[test]
    fn a_lost_counter_goes_on_after_what_is_there() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("other_20250101_000000_1041.csv.gz"), "x").unwrap();
        std::fs::write(temp.path().join(COUNTER), "garbage").unwrap();
        assert_eq!(names(temp.path()).give(at(0)).unwrap(), "flows_19700101_080000_1042");
    }

    #[test]
    fn a_planted_index_does_not_end_the_numbers() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("x_20250101_000000_999999999999999999.csv.gz"), "x").unwrap();
        std::fs::write(temp.path().join("x_20250101_000000_007.csv.gz"), "x").unwrap();
        std::fs::write(temp.path().join(COUNTER), "18446744073709551615\n").unwrap();
        assert_eq!(names(temp.path()).give(at(0)).unwrap(), "flows_19700101_080000_008");
    }

    #[test]
    fn only_our_names_are_ours() {
        assert_eq!(index_of("flows_20251127_102030_000.csv.gz"), Some(0));
        assert_eq!(index_of("20251127_102030_12345.part"), Some(12345));
        for name in
            ["flows_20251127_102030_00.part", "flows_2025112_102030_000.part", "x.csv.gz", ".part", "é_0_000.part"]
        {
            assert_eq!(index_of(name), None, "{name}");
        }
        assert!(is_sealed("x.csv.gz") && !is_sealed(".x.csv.gz") && !is_sealed(".csv.gz"));
    }

    #[test]
    fn oldest_first_whatever_the_prefix() {
        let mut names =
            ["z_20250101_000000_007.csv.gz", "a_20250101_000000_1000.csv.gz", "m_20241231_235959_009.csv.gz"];
        names.sort_by(|a, b| age_key(a).cmp(&age_key(b)));
        assert_eq!(names.map(|name| &name[..1]), ["m", "z", "a"]);
    }
}
