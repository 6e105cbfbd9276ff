//! The parse stage: what the lines of a batch say, and which bytes of them go into the file.
//!
//! [`Checker`] counts lines, sums packets and bytes by the header's columns, drops or keeps header lines, keeps or sets
//! aside lines with a wrong column count, and rewrites time columns when asked. With the default settings it copies
//! nothing: bytes in are bytes out. It goes through a batch by chunks of rows, and hands on each before it looks at the next, so
//! that the packer finds both bytes and field edges still in cache. It works on one batch, knows no other, and never
//! waits.

use chrono::{DateTime, NaiveDateTime, Utc};
use memchr::{memchr, memchr_iter, memrchr};

use crate::clock::Zone;
use crate::fields::{Edges, Field, Scan};
use crate::line::Batch;
use crate::schema::{Schema, trim_line_end};
use crate::stats::Sums;

/// `processor_csv_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderMode {
    /// Lines pass as they came.
    #[default]
    Keep,
    /// One header line first in every file, repeats dropped.
    EachFile,
    /// Header lines are dropped.
    None,
}

/// `processor_bad_lines`: what becomes of a line whose column count is not the header's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadLines {
    /// It passes, and is counted.
    #[default]
    Keep,
    /// It goes to `rejects/` with the reason.
    Quarantine,
}

/// Settings of the parse stage.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What becomes of header lines.
    pub header: HeaderMode,
    /// What becomes of lines with a wrong column count.
    pub bad_lines: BadLines,
    /// The zone to rewrite UTC time columns into; `None` leaves them as they came.
    pub convert_to: Option<Zone>,
}

/// Why a line is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It has fewer or more columns than the header.
    #[error("{found} columns, the header has {expected}")]
    Columns {
        /// The line's.
        found: usize,
        /// The header's.
        expected: usize,
    },
    /// It is longer than a block, so that nothing can be said of its columns.
    #[error("longer than {} bytes", crate::line::BLOCK)]
    TooLong,
}

/// The first bad line of a batch, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstBad {
    /// Its place in the batch, from 0.
    pub line: u64,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What was found in one batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// All lines as read.
    pub read: Sums,
    /// Those that go into the file.
    pub written: Sums,
    /// Those set aside.
    pub rejected: Sums,
    /// Header lines that `processor_csv_header` dropped.
    pub header_lines: u64,
    /// Lines with a wrong column count, passed or set aside.
    pub bad_lines: u64,
    /// The first of them.
    pub first_bad: Option<FirstBad>,
}

/// The parse stage of one pack thread; keeps its buffers from batch to batch.
#[derive(Debug)]
pub struct Checker {
    scan: Scan,
    lines: Lines,
}

/// What becomes of each line.
#[derive(Debug)]
struct Lines {
    options: Options,
    /// What goes into the file of a chunk when that is not the chunk itself.
    out: Vec<u8>,
    /// Lines set aside, each after its reason: `reason` tab `line`.
    rejects: Vec<u8>,
    stamps: Stamps,
}

impl Checker {
    /// A checker with empty buffers.
    pub fn new(options: Options) -> Self {
        let stamps = Stamps { zone: options.convert_to.unwrap_or_default(), minute: None };
        Self { scan: Scan::new(), lines: Lines { options, out: Vec::new(), rejects: Vec::new(), stamps } }
    }

    /// Checks one batch, and calls `pass` with its bytes for the file, chunk by chunk, and with the edges of their fields where
    /// those were found. Returns what was found, and the lines for `rejects/`, valid until the next call.
    pub fn check(&mut self, batch: &Batch, mut pass: impl FnMut(&[u8], Option<&Edges>)) -> (Findings, &[u8]) {
        let Self { scan, lines } = self;
        lines.rejects.clear();
        let copies = batch.schema.is_some() && lines.copies() || batch.splits_line() && lines.sets_aside();
        let mut findings = Findings::default();
        let (begun, rows, open) = batch.parts();
        if !begun.is_empty() {
            let part = if begun.ends_with(b"\n") || !batch.ends_mid_line { Part::Last } else { Part::Middle };
            lines.line(Line::part_of(begun, part), None, copies, &mut findings);
            lines.pass(copies, begun, None, &mut pass);
        }
        let mut rest = rows;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(Scan::chunk(rest));
            rest = after;
            let edges = if let Some(schema) = batch.schema.as_deref() {
                let wanted = [schema.packets(), schema.octets()].map(|column| column.unwrap_or(usize::MAX));
                scan.rows(chunk, schema.separator(), wanted, |row| {
                    let line = Line { bytes: row.line, part: Part::Whole, columns: row.columns, wanted: row.wanted };
                    lines.line(line, Some(schema), copies, &mut findings);
                })
            } else {
                lines.count(chunk, copies, &mut findings);
                None
            };
            lines.pass(copies, chunk, edges, &mut pass);
        }
        if !open.is_empty() {
            lines.line(Line::part_of(open, Part::First), None, copies, &mut findings);
            lines.pass(copies, open, None, &mut pass);
        }
        (findings, &lines.rejects)
    }
}

impl Lines {
    fn copies(&self) -> bool {
        self.options.header != HeaderMode::Keep || self.options.convert_to.is_some() || self.sets_aside()
    }

    fn sets_aside(&self) -> bool {
        self.options.bad_lines == BadLines::Quarantine
    }

    /// Hands on a chunk, or what became of it.
    fn pass(
        &mut self,
        copies: bool,
        chunk: &[u8],
        edges: Option<&Edges>,
        pass: &mut impl FnMut(&[u8], Option<&Edges>),
    ) {
        if !copies {
            pass(chunk, edges);
        } else if !self.out.is_empty() {
            pass(&self.out, None);
            self.out.clear();
        }
    }

    /// Whole lines before any header: they are only counted, for nothing can be said of their columns.
    fn count(&mut self, rows: &[u8], copies: bool, findings: &mut Findings) {
        let lines = memchr_iter(b'\n', rows).count() + usize::from(!rows.is_empty() && !rows.ends_with(b"\n"));
        let sums = Sums { lines: lines as u64, bytes: rows.len() as u64, packets: 0, octets: 0 };
        findings.read.add(&sums);
        findings.written.add(&sums);
        if copies {
            self.out.extend_from_slice(rows);
        }
    }

    /// One line, or a part of one, for which there is no `schema`.
    #[inline]
    fn line(&mut self, line: Line, schema: Option<&Schema>, copies: bool, findings: &mut Findings) {
        let Line { bytes, part, columns, wanted } = line;
        let counts = u64::from(matches!(part, Part::Whole | Part::Last));
        let [packets, octets] = wanted.map(Field::number);
        let mut sums = Sums { lines: counts, bytes: bytes.len() as u64, packets, octets };
        let is_header = schema.is_some_and(|schema| schema.is_repeated_by(bytes));
        let reason = match schema {
            // What a header's columns say are names.
            Some(_) if is_header => {
                (sums.packets, sums.octets) = (0, 0);
                None
            }
            Some(schema) if columns == schema.columns() => None,
            Some(schema) => Some(Reason::Columns { found: columns, expected: schema.columns() }),
            None => Some(Reason::TooLong),
        };
        findings.read.add(&sums);
        if let Some(reason) = reason {
            findings.first_bad.get_or_insert(FirstBad { line: findings.read.lines.saturating_sub(counts), reason });
            findings.bad_lines += counts;
            if self.sets_aside() {
                findings.rejected.add(&sums);
                self.set_aside(reason, bytes, part);
                return;
            }
        } else if is_header && self.options.header != HeaderMode::Keep {
            findings.header_lines += 1;
            return;
        }
        findings.written.add(&sums);
        if copies {
            match schema {
                Some(schema) if self.options.convert_to.is_some() && reason.is_none() && !is_header => {
                    self.convert(schema, bytes);
                }
                _ => self.out.extend_from_slice(bytes),
            }
        }
    }

    /// Copies a line with its time columns rewritten.
    fn convert(&mut self, schema: &Schema, line: &[u8]) {
        let (text, end) = line.split_at(trim_line_end(line).len());
        for (column, field) in text.split(|byte| *byte == schema.separator()).enumerate() {
            if column > 0 {
                self.out.push(schema.separator());
            }
            if schema.times().contains(&column) {
                self.stamps.convert(field, &mut self.out);
            } else {
                self.out.extend_from_slice(field);
            }
        }
        self.out.extend_from_slice(end);
    }

    fn set_aside(&mut self, reason: Reason, line: &[u8], part: Part) {
        use std::io::Write;
        if matches!(part, Part::Whole | Part::First) {
            // A Vec takes every write.
            let _ = write!(self.rejects, "{reason}\t");
        }
        self.rejects.extend_from_slice(line);
        if matches!(part, Part::Whole | Part::Last) && !line.ends_with(b"\n") {
            self.rejects.push(b'\n');
        }
    }
}

/// A line, or a part of one, and what the scan found in it.
#[derive(Clone, Copy)]
struct Line<'a> {
    bytes: &'a [u8],
    part: Part,
    columns: usize,
    /// The fields with packets and bytes.
    wanted: [Field<'a>; 2],
}

impl<'a> Line<'a> {
    fn part_of(bytes: &'a [u8], part: Part) -> Self {
        Self { bytes, part, columns: 0, wanted: [Field::default(); 2] }
    }
}

/// How much of a line a piece of a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Middle,
    Last,
}

impl Batch {
    fn splits_line(&self) -> bool {
        self.starts_mid_line || self.ends_mid_line
    }

    /// The rest of a line that began in an earlier batch, whole lines, and the beginning of a line that goes on in the next.
    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        let bytes = self.block.filled();
        let first = memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        let (begun, rest) = bytes.split_at(if self.starts_mid_line { first } else { 0 });
        let last = memrchr(b'\n', rest).map_or(0, |at| at + 1);
        let (rows, open) = rest.split_at(if self.ends_mid_line { last } else { rest.len() });
        (begun, rows, open)
    }
}

/// Rewrites UTC stamps into a zone, in the shapes that nfacctd prints: `2025-11-27 02:20:30.123456` keeps its shape,
/// RFC 3339 (`2025-11-27T02:20:30.123456Z` or `+00:00`) gets the zone's offset. Seconds since 1970 have no zone and
/// stay, as does everything else.
#[derive(Debug)]
struct Stamps {
    zone: Zone,
    /// The last minute that was converted: neighbouring rows share it, and zones differ by whole minutes.
    minute: Option<Minute>,
}

#[derive(Debug)]
struct Minute {
    utc: [u8; MINUTE_LEN],
    local: [u8; MINUTE_LEN],
    offset: [u8; OFFSET_LEN],
}

/// Length of `2025-11-27 02:20`.
const MINUTE_LEN: usize = 16;
/// Length of `+08:00`.
const OFFSET_LEN: usize = 6;

impl Stamps {
    fn convert(&mut self, stamp: &[u8], out: &mut Vec<u8>) {
        let suffix = [&b"Z"[..], b"+00:00", b"-00:00"].into_iter().find(|suffix| stamp.ends_with(suffix));
        let body = &stamp[..stamp.len() - suffix.map_or(0, <[u8]>::len)];
        let has_shape = body.get(10).is_some_and(|b| *b == if suffix.is_some() { b'T' } else { b' ' });
        let Some((minute, seconds)) = body.split_first_chunk::<MINUTE_LEN>().filter(|_| has_shape) else {
            out.extend_from_slice(stamp);
            return;
        };
        if self.minute.as_ref().is_none_or(|known| known.utc != *minute) {
            self.minute = self.look_up(minute);
        }
        match &self.minute {
            Some(known) => {
                out.extend_from_slice(&known.local);
                out.extend_from_slice(seconds);
                if suffix.is_some() {
                    out.extend_from_slice(&known.offset);
                }
            }
            None => out.extend_from_slice(stamp),
        }
    }

    fn look_up(&self, utc: &[u8; MINUTE_LEN]) -> Option<Minute> {
        let text = std::str::from_utf8(utc).ok()?;
        let shape = if utc[10] == b'T' { "%Y-%m-%dT%H:%M" } else { "%Y-%m-%d %H:%M" };
        let at: DateTime<Utc> = NaiveDateTime::parse_from_str(text, shape).ok()?.and_utc();
        let local = self.zone.local(at);
        if local.offset().local_minus_utc() % 60 != 0 {
            return None;
        }
        let offset = local.format("%:z").to_string();
        let local = local.format(shape).to_string();
        Some(Minute { utc: *utc, local: local.as_bytes().try_into().ok()?, offset: offset.as_bytes().try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::line::{Batcher, Block, Cut, Limits};

    /// The batches that `text` becomes with blocks of `block` bytes.
    fn batches(text: &[u8], block: usize) -> Vec<Batch> {
        let hour = std::time::Duration::from_hours(1);
        let limits = Limits { batch_age: hour, file_age: hour, file_bytes: 1 << 40, seal_on_new_header: false };
        let now = Instant::now();
        let mut batcher = Batcher::new(limits);
        let mut out = Vec::new();
        let mut rest = text;
        loop {
            if batcher.wants_block() {
                batcher.give(Block::new(block));
            }
            let len = batcher.space().len().min(rest.len());
            batcher.space()[..len].copy_from_slice(&rest[..len]);
            batcher.filled(len, now);
            rest = &rest[len..];
            if rest.is_empty() {
                batcher.close();
            }
            while let Some(cut) = batcher.poll(now) {
                match cut {
                    Cut::Batch(batch) => out.push(batch),
                    Cut::Seal => return out,
                }
            }
        }
    }

    /// Everything that one stream yields: findings summed, file bytes and rejects joined.
    fn check(options: &Options, text: &[u8], block: usize) -> (Findings, String, String) {
        let mut checker = Checker::new(options.clone());
        let mut all = Findings::default();
        let (mut file, mut rejects) = (Vec::new(), Vec::new());
        for batch in batches(text, block) {
            let (found, set_aside) = checker.check(&batch, |out, _| file.extend_from_slice(out));
            let base = all.read.lines;
            all.read.add(&found.read);
            all.written.add(&found.written);
            all.rejected.add(&found.rejected);
            all.header_lines += found.header_lines;
            all.bad_lines += found.bad_lines;
            let first = found.first_bad.map(|bad| FirstBad { line: base + bad.line, ..bad });
            all.first_bad = all.first_bad.or(first);
            rejects.extend_from_slice(set_aside);
        }
        let utf8 = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (all, utf8(file), utf8(rejects))
    }

    const TEXT: &str =
        "SRC_IP,PACKETS,BYTES\n10.0.0.1,2,300\nSRC_IP,PACKETS,BYTES\n10.0.0.2,3\n10.0.0.3,x,400\n10.0.0.4,5,600";

    #[test]
    fn by_default_bytes_in_are_bytes_out_and_sums_are_true() {
        let (found, file, rejects) = check(&Options::default(), TEXT.as_bytes(), 4096);
        assert_eq!((file.as_str(), rejects.as_str()), (TEXT, ""));
        assert_eq!(found.read, Sums { lines: 6, bytes: TEXT.len() as u64, packets: 10, octets: 1300 });
        assert_eq!(found.written, found.read);
        let reason = Reason::Columns { found: 2, expected: 3 };
        assert_eq!((found.bad_lines, found.first_bad), (1, Some(FirstBad { line: 3, reason })));
    }

    #[test]
    fn bad_lines_go_aside_and_headers_go_when_told() {
        let options = Options { header: HeaderMode::None, bad_lines: BadLines::Quarantine, ..Options::default() };
        let (found, file, rejects) = check(&options, TEXT.as_bytes(), 4096);
        assert_eq!(file, "10.0.0.1,2,300\n10.0.0.3,x,400\n10.0.0.4,5,600");
        assert_eq!(rejects, "2 columns, the header has 3\t10.0.0.2,3\n");
        assert_eq!((found.header_lines, found.rejected.lines, found.written.lines), (2, 1, 3));
        let accounted = found.written.lines + found.rejected.lines + found.header_lines;
        assert_eq!(found.read.lines, accounted);
    }

    #[test]
    fn a_line_longer_than_a_block_is_one_bad_line() {
        let text = format!("SRC_IP,PACKETS\n1.1.1.1,2\n{},9\n1.1.1.2,4\n", "7".repeat(100));
        let (found, file, _) = check(&Options::default(), text.as_bytes(), 32);
        assert_eq!(file, text);
        assert_eq!((found.read.lines, found.bad_lines, found.read.packets), (4, 1, 6));
        let options = Options { bad_lines: BadLines::Quarantine, ..Options::default() };
        let (found, file, rejects) = check(&options, text.as_bytes(), 32);
        assert_eq!(file, "SRC_IP,PACKETS\n1.1.1.1,2\n1.1.1.2,4\n");
        assert_eq!(rejects, format!("longer than 1048576 bytes\t{},9\n", "7".repeat(100)));
        assert_eq!((found.rejected.lines, found.written.lines), (1, 3));
    }

    #[test]
    fn times_move_into_the_zone_in_their_own_shape() {
        let options = Options { convert_to: Zone::parse("Asia/Shanghai"), ..Options::default() };
        let text = "TIMESTAMP_MIN,PACKETS,TIMESTAMP_MAX\n\
            2025-11-27 02:20:30.123456,1,2025-11-27 18:59:59.9\n\
            2025-11-27T02:20:30.5Z,1,2025-11-27T02:20:30+00:00\n\
            1764210030.123456,1,0000-00-00 00:00:00\n\
            2025-11-27T02:20:30+02:00,1,\n";
        let (found, file, _) = check(&options, text.as_bytes(), 4096);
        let expected = "TIMESTAMP_MIN,PACKETS,TIMESTAMP_MAX\n\
            2025-11-27 10:20:30.123456,1,2025-11-28 02:59:59.9\n\
            2025-11-27T10:20:30.5+08:00,1,2025-11-27T10:20:30+08:00\n\
            1764210030.123456,1,0000-00-00 00:00:00\n\
            2025-11-27T02:20:30+02:00,1,\n";
        assert_eq!(file, expected);
        assert_eq!((found.written.packets, found.bad_lines), (4, 0));
    }

    #[test]
    fn without_a_header_nothing_is_judged() {
        let options = Options { header: HeaderMode::None, bad_lines: BadLines::Quarantine, ..Options::default() };
        let (found, file, _) = check(&options, b"1,2\n3\n\n", 4096);
        assert_eq!((file.as_str(), found.read.lines, found.bad_lines), ("1,2\n3\n\n", 3, 0));
    }
}
