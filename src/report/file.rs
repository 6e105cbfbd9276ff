//! The file that keeps the reports: appended, rotated by size, old ones dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Where reports are kept. Holds no open file, so that anybody may move or remove it at any time.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) path: PathBuf,
    /// A file that would grow beyond this is renamed first.
    pub(super) max_bytes: u64,
    /// Renamed files that are kept; 0 keeps all.
    pub(super) backups: u32,
}

impl Record {
    /// Appends one line, after a rotation where that is due. A line larger than the bound gets a file of its own.
    pub(super) fn append(&self, line: &str) -> io::Result<()> {
        let mut file = self.open()?;
        let len = file.metadata()?.len();
        if len > 0 && len + line.len() as u64 > self.max_bytes {
            self.rotate()?;
            file = self.open()?;
        }
        file.write_all(line.as_bytes())
    }

    fn open(&self) -> io::Result<File> {
        // A pipe without a reader must be an error, not a wait.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(nonblocking).open(&self.path)
    }

    /// Renames the file to the next free number and drops the oldest beyond `backups`. Numbers only grow: no file is ever
    /// renamed twice, so that whoever collects them sees each once.
    fn rotate(&self) -> io::Result<()> {
        let mut numbers = self.numbers()?;
        let next = numbers.last().map_or(1, |last| last.saturating_add(1));
        fs::rename(&self.path, self.numbered(next))?;
        numbers.push(next);
        if self.backups > 0 {
            let surplus = numbers.len().saturating_sub(self.backups as usize);
            for old in &numbers[..surplus] {
                fs::remove_file(self.numbered(*old))?;
            }
        }
        Ok(())
    }

    /// The numbers of the renamed files, ascending.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let (Some(name), Some(dir)) = (self.path.file_name(), self.path.parent()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let prefix = format!("{}.", name.to_string_lossy());
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| number(name.strip_prefix(&prefix)?)));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn numbered(&self, number: u64) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number:03}"));
        path.into()
    }
}

/// A number as [`Record::numbered`] writes it, and no other spelling of it.
fn number(digits: &str) -> Option<u64> {
    let number = digits.parse().ok()?;
    (format!("{number:03}") == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(dir: &Path, backups: u32) -> Record {
        Record { path: dir.join("report.log"), max_bytes: 10, backups }
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn it_rotates_by_size_and_keeps_all() {
        let dir = tempfile::tempdir().unwrap();
        let record = record(dir.path(), 0);
        for line in ["aaaa\n", "bbbb\n", "cccc\n", "a line beyond the bound\n", "dd\n"] {
            record.append(line).unwrap();
        }
        assert_eq!(names(dir.path()), ["report.log", "report.log.001", "report.log.002", "report.log.003"]);
        assert_eq!(fs::read_to_string(record.numbered(1)).unwrap(), "aaaa\nbbbb\n");
        assert_eq!(fs::read_to_string(record.numbered(3)).unwrap(), "a line beyond the bound\n");
        assert_eq!(fs::read_to_string(&record.path).unwrap(), "dd\n");
    }

    #[test]
    fn the_newest_are_kept_and_numbers_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let record = record(dir.path(), 2);
        for foreign in ["report.log.9", "report.log.old", "other.log.001", "report.log.0001"] {
            fs::write(dir.path().join(foreign), "x").unwrap();
        }
        fs::write(record.numbered(1001), "x").unwrap();
        for _ in 0..4 {
            record.append("12345678\n").unwrap();
        }
        let kept = ["report.log.1003", "report.log.1004"];
        let foreign = ["report.log.0001", "report.log.9", "report.log.old"];
        let all = names(dir.path());
        assert!(kept.iter().chain(&foreign).all(|name| all.contains(&(*name).to_owned())), "{all:?}");
        assert_eq!(all.len(), 7, "{all:?}");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("report.log");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(record(dir.path(), 0).append("x\n").is_err());
        assert!(record(&dir.path().join("missing"), 0).append("x\n").is_err());
    }
}
