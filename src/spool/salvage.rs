//! Making a torn segment whole: what a killed process or a power cut left as `.part` becomes a valid gzip member that
//! holds every complete piece.
//!
//! Our own files are cut back in place: pieces end in the sync marker `00 00 FF FF` (RFC 1951, an empty stored block), so
//! the file is followed piece by piece, and behind the last one that unpacks and ends a line it gets its final block,
//! CRC-32 and length: ten bytes, which also fit on a nearly full disk. A place counts as a piece's end only when a
//! decoder accepts the stream ending there, so bytes that look like a marker by chance do no harm.
//!
//! A gzip file without such markers (the replaced Go program's) is unpacked as far as it goes and packed anew up to its
//! last complete line.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;
use flate2::{Decompress, FlushDecompress, Status};
use memchr::memmem::Finder;
use memchr::{memchr_iter, memrchr};

use super::segment::{FINAL_BLOCK, GZIP_HEADER, trailer};

/// What a sync flush ends with.
const MARKER: [u8; 4] = [0, 0, 0xff, 0xff];
/// A deflate match reaches back this far (RFC 1951).
const WINDOW: usize = 32 * 1024;
/// Places that look like a piece's end without being one, after which a file is packed anew instead. By chance one
/// comes in 2^32 bytes; more are stored blocks with the marker's bytes among foreign lines.
const FALSE_ENDS: u32 = 64;
/// A piece is at most a block of lines, which even stored grows by five bytes in 64 KiB.
const LONGEST_PIECE: usize = 2 * crate::line::BLOCK;

/// What became of a torn file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salvaged {
    /// Complete lines in it.
    pub lines: u64,
    /// Bytes that they have.
    pub raw_bytes: u64,
    /// Torn bytes that were cut off behind the last complete piece.
    pub cut_bytes: u64,
}

/// How a torn file can be made whole.
#[derive(Debug)]
pub enum Finding {
    /// Nothing complete is in it.
    Nothing,
    /// Cut at `end`, then write `trailer` there.
    CutAt {
        /// Length of the file's good part.
        end: u64,
        /// What goes behind it.
        trailer: [u8; 10],
        /// What is in the good part.
        salvaged: Salvaged,
    },
    /// It has no piece ends: copy it with [`repack`].
    Repack,
    /// It is not a gzip file.
    Foreign,
}

/// As [`examine_noting`], without progress reports.
///
/// # Errors
///
/// The file cannot be read.
pub fn examine(file: &File) -> io::Result<Finding> {
    examine_noting(file, &mut |_| ())
}

/// Finds the end of the last complete piece; `note` gets the bytes done after each. Reads the file once; memory does not
/// depend on its length.
///
/// # Errors
///
/// The file cannot be read.
pub fn examine_noting(file: &File, note: &mut dyn FnMut(u64)) -> io::Result<Finding> {
    let len = file.metadata()?.len();
    let mut pieces = match Pieces::open(file, len)? {
        Ok(pieces) => pieces,
        Err(finding) => return Ok(finding),
    };
    while pieces.advance()? {
        note(pieces.at);
    }
    if pieces.false_ends > FALSE_ENDS {
        return Ok(Finding::Repack);
    }
    let Some(good) = pieces.good else {
        return Ok(if pieces.has_lines_without_pieces()? { Finding::Repack } else { Finding::Nothing });
    };
    let salvaged = Salvaged { lines: good.lines, raw_bytes: good.raw_bytes, cut_bytes: len.saturating_sub(good.end) };
    Ok(Finding::CutAt { end: good.end, trailer: trailer(good.crc, good.raw_bytes), salvaged })
}

/// Makes the file whole in place as [`examine`] found. May be repeated after an error or a crash at any point: until
/// the last byte of the trailer is there, the file is as torn as before.
///
/// # Errors
///
/// The file cannot be written; the call may be made again.
pub fn cut(file: &File, end: u64, trailer: &[u8; 10]) -> io::Result<()> {
    file.set_len(end)?;
    file.write_all_at(trailer, end)?;
    file.sync_all()
}

/// A place where the file may be cut.
#[derive(Debug, Clone, Copy)]
struct Good {
    end: u64,
    crc: u32,
    raw_bytes: u64,
    lines: u64,
}

/// Follows a file piece by piece.
struct Pieces<'a> {
    file: &'a File,
    len: u64,
    /// It has the header that this program writes, so it was written in pieces.
    is_ours: bool,
    /// End of the last complete piece, and what the file unpacks to up to there.
    at: u64,
    crc: Hasher,
    raw_bytes: u64,
    lines: u64,
    window: Vec<u8>,
    good: Option<Good>,
    false_ends: u32,
    marker: Finder<'static>,
}

impl<'a> Pieces<'a> {
    fn open(file: &'a File, len: u64) -> io::Result<Result<Self, Finding>> {
        let mut start = vec![0; usize::try_from(len.min(4096)).unwrap_or(4096)];
        file.read_exact_at(&mut start, 0)?;
        if start.iter().all(|b| *b == 0) {
            // Empty, or a power cut left only the length.
            return Ok(Err(Finding::Nothing));
        }
        let Some(at) = header_len(&start) else {
            let torn_header = start.len() < 10 && [0x1f, 0x8b, 8].starts_with(&start[..start.len().min(3)]);
            return Ok(Err(if torn_header { Finding::Nothing } else { Finding::Foreign }));
        };
        Ok(Ok(Self {
            file,
            len,
            is_ours: start.starts_with(&GZIP_HEADER),
            at: at as u64,
            crc: Hasher::new(),
            raw_bytes: 0,
            lines: 0,
            window: Vec::new(),
            good: None,
            false_ends: 0,
            marker: Finder::new(&MARKER),
        }))
    }

    /// Goes on by one piece; false when no further one is complete.
    fn advance(&mut self) -> io::Result<bool> {
        let want = usize::try_from(self.len - self.at).unwrap_or(usize::MAX).min(LONGEST_PIECE);
        let mut bytes = vec![0; want];
        self.file.read_exact_at(&mut bytes, self.at)?;
        let marker = self.marker.clone();
        for found in marker.find_iter(&bytes) {
            let end = found + MARKER.len();
            if let Some(raw) = unpack_piece(&self.window, &bytes[..end]) {
                self.take(end, &raw);
                return Ok(true);
            }
            self.false_ends += 1;
            if self.false_ends > FALSE_ENDS {
                break;
            }
        }
        Ok(false)
    }

    fn take(&mut self, len: usize, raw: &[u8]) {
        self.at += len as u64;
        self.crc.update(raw);
        self.raw_bytes += raw.len() as u64;
        self.lines += memchr_iter(b'\n', raw).count() as u64;
        if raw.len() >= WINDOW {
            self.window.clear();
        }
        self.window.extend_from_slice(&raw[raw.len().saturating_sub(WINDOW)..]);
        self.window.drain(..self.window.len().saturating_sub(WINDOW));
        if self.window.last() == Some(&b'\n') {
            let (crc, raw_bytes, lines) = (self.crc.clone().finalize(), self.raw_bytes, self.lines);
            self.good = Some(Good { end: self.at, crc, raw_bytes, lines });
        }
    }

    /// True for a file in which no piece ends but a line does.
    fn has_lines_without_pieces(&self) -> io::Result<bool> {
        if self.is_ours {
            // What was not flushed promised nothing, and what a power cut left of it cannot be trusted.
            return Ok(false);
        }
        let mut start = Vec::new();
        unpacked(self.file, self.len)?.take(LONGEST_PIECE as u64).read_to_end(&mut start).ok();
        Ok(start.contains(&b'\n'))
    }
}

/// What a piece unpacks to behind `window`; `None` when `bytes` do not end where a block ends.
fn unpack_piece(window: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut inflate = Decompress::new(false);
    if !window.is_empty() {
        inflate.set_dictionary(window).ok()?;
    }
    let mut raw = Vec::with_capacity(bytes.len() * 5 + 1024);
    let stream = [bytes, &FINAL_BLOCK].concat();
    loop {
        let done = usize::try_from(inflate.total_in()).ok()?;
        let had = raw.len();
        match inflate.decompress_vec(&stream[done..], &mut raw, FlushDecompress::None).ok()? {
            Status::StreamEnd => return (inflate.total_in() == stream.len() as u64).then_some(raw),
            Status::Ok | Status::BufError if raw.len() == raw.capacity() => raw.reserve(raw.capacity()),
            Status::Ok | Status::BufError => {
                let stuck = raw.len() == had && inflate.total_in() == done as u64;
                if stuck {
                    return None;
                }
            }
        }
        // Our own pieces unpack to a block at most; others are not followed piece by piece.
        if raw.len() > 64 * LONGEST_PIECE {
            return None;
        }
    }
}

/// Length of a gzip header (RFC 1952); `None` when `bytes` do not begin with a whole one.
fn header_len(bytes: &[u8]) -> Option<usize> {
    let [0x1f, 0x8b, 8, flags, ..] = *bytes else { return None };
    let mut at = 10;
    if flags & 4 != 0 {
        let extra = bytes.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            at += bytes.get(at..)?.iter().position(|b| *b == 0)? + 1;
        }
    }
    at += if flags & 2 != 0 { 2 } else { 0 };
    (at <= bytes.len() && at <= 4096).then_some(at)
}

/// A reader of what a torn file unpacks to, without the zero bytes that a power cut left at its end.
fn unpacked(file: &File, len: u64) -> io::Result<impl Read + '_> {
    let len = len_without_zeros(file, len)?;
    Ok(flate2::read::GzDecoder::new(At { file, at: 0 }.take(len)))
}

fn len_without_zeros(file: &File, mut len: u64) -> io::Result<u64> {
    let mut chunk = [0; 4096];
    while len > 0 {
        let from = len.saturating_sub(chunk.len() as u64);
        let part = &mut chunk[..usize::try_from(len - from).unwrap_or(0)];
        file.read_exact_at(part, from)?;
        if let Some(last) = part.iter().rposition(|b| *b != 0) {
            return Ok(from + last as u64 + 1);
        }
        len = from;
    }
    Ok(0)
}

struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(into, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// Copies what `torn` unpacks to, up to its last complete line, into the empty file `whole` as one gzip member, synced.
///
/// # Errors
///
/// `whole` cannot be written. What cannot be read of `torn` is no error: it is where the copy ends.
pub fn repack(torn: &File, whole: &File) -> io::Result<Salvaged> {
    let len = torn.metadata()?.len();
    let mut from = unpacked(torn, len)?;
    let mut to = flate2::write::GzEncoder::new(whole, flate2::Compression::new(6));
    let mut chunk = vec![0; 256 * 1024];
    let mut begun_line: Vec<u8> = Vec::new();
    let (mut lines, mut raw_bytes) = (0, 0);
    loop {
        // An error here is the tear: what came before it is what there is.
        let got = from.read(&mut chunk).unwrap_or(0);
        if got == 0 {
            break;
        }
        match memrchr(b'\n', &chunk[..got]) {
            Some(at) => {
                io::Write::write_all(&mut to, &begun_line)?;
                io::Write::write_all(&mut to, &chunk[..=at])?;
                lines += memchr_iter(b'\n', &chunk[..=at]).count() as u64;
                raw_bytes += (begun_line.len() + at + 1) as u64;
                begun_line.clear();
                begun_line.extend_from_slice(&chunk[at + 1..got]);
            }
            // A line that long is not one of a flow; the bound keeps memory bounded.
            None if begun_line.len() > 64 * chunk.len() => break,
            None => begun_line.extend_from_slice(&chunk[..got]),
        }
    }
    to.finish()?.sync_all()?;
    Ok(Salvaged { lines, raw_bytes, cut_bytes: begun_line.len() as u64 })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::check;
    use crate::line::{Batch, Block};
    use crate::pack::{Level, Packer, Relay};

    /// A file of ours: the bytes, and for each piece where it ends and how many raw bytes it ends at.
    fn our_file(batches: &[Vec<u8>], level: Level) -> (Vec<u8>, Vec<(usize, usize)>) {
        let mut packer = Packer::new(check::Options::default(), level, Arc::new(Relay::default()));
        let mut bytes = super::super::segment::GZIP_HEADER.to_vec();
        let mut ends = vec![(bytes.len(), 0)];
        for (number, lines) in batches.iter().enumerate() {
            let mut block = Block::new(lines.len());
            block.append(lines);
            let batch = Batch {
                block,
                schema: None,
                starts_mid_line: false,
                ends_mid_line: false,
                starts_file: number == 0,
                arrived: Instant::now(),
            };
            bytes.extend(packer.pack(number as u64, batch, Vec::new()).0.piece.deflate);
            ends.push((bytes.len(), ends[number].1 + lines.len()));
        }
        (bytes, ends)
    }

    fn temp_file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// Makes the torn `bytes` whole as the spool does; what the result unpacks to.
    fn salvage(bytes: &[u8]) -> Option<(Salvaged, Vec<u8>)> {
        let file = temp_file(bytes);
        let (file, salvaged) = match examine(&file).unwrap() {
            Finding::CutAt { end, trailer, salvaged } => {
                cut(&file, end, &trailer).unwrap();
                (file, salvaged)
            }
            Finding::Repack => {
                let whole = temp_file(b"");
                let salvaged = repack(&file, &whole).unwrap();
                (whole, salvaged)
            }
            Finding::Nothing | Finding::Foreign => return None,
        };
        let mut packed = Vec::new();
        At { file: &file, at: 0 }.read_to_end(&mut packed).unwrap();
        let mut raw = Vec::new();
        let mut member = flate2::bufread::GzDecoder::new(&packed[..]);
        member.read_to_end(&mut raw).expect("a whole gzip member");
        assert!(member.into_inner().is_empty(), "nothing behind the member");
        assert_eq!(salvaged.raw_bytes, raw.len() as u64);
        assert_eq!(salvaged.lines, memchr_iter(b'\n', &raw).count() as u64);
        Some((salvaged, raw))
    }

    fn rows(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).flat_map(|i| format!("10.0.{}.{},{i},{}\n", i % 7, i % 250, i * 37).into_bytes()).collect()
    }

    fn check_cut_everywhere(batches: &[Vec<u8>], level: Level, step: usize) {
        let (bytes, ends) = our_file(batches, level);
        let plain = batches.concat();
        for cut in (0..=bytes.len()).step_by(step) {
            for zeros in [0, 1, 4096] {
                let mut torn = bytes[..cut].to_vec();
                torn.resize(cut + zeros, 0);
                let whole = ends.iter().rfind(|(end, _)| *end <= cut).map_or(0, |(_, raw)| *raw);
                match salvage(&torn) {
                    Some((_, raw)) => assert!(raw == plain[..whole], "cut at {cut} with {zeros} zeros"),
                    None => assert_eq!(whole, 0, "cut at {cut} with {zeros} zeros"),
                }
            }
        }
    }

    #[test]
    fn cut_at_every_byte_every_complete_piece_is_there() {
        let batches: Vec<_> = (0..6).map(|i| rows(i * 20, 20)).collect();
        check_cut_everywhere(&batches, Level::Zlib(6), 1);
        check_cut_everywhere(&batches, Level::Auto, 1);
    }

    #[test]
    fn cut_anywhere_in_a_large_file_every_complete_piece_is_there() {
        let batches: Vec<_> = (0..40).map(|i| rows(i * 700, 700)).collect();
        let len = our_file(&batches, Level::Auto).0.len();
        // scripts/torture asks for ten times as many.
        let cuts = if std::env::var_os("PROCESSOR_TORTURE").is_some() { 1000 } else { 100 };
        check_cut_everywhere(&batches, Level::Auto, len / cuts);
        eprintln!(
            "TORTURE | salvage | a small `.part` cut at every byte, one of {len} bytes at {cuts} places, each also with 1 and \
             4,096 zeros behind | every complete piece, always |"
        );
    }

    #[test]
    fn a_complete_file_that_was_only_not_renamed_stays_as_it_is() {
        let batches = [rows(0, 100), rows(100, 100)];
        let (mut bytes, _) = our_file(&batches, Level::Zlib(6));
        let raw = batches.concat();
        bytes.extend(trailer(crc32fast::hash(&raw), raw.len() as u64));
        assert_eq!(salvage(&bytes).unwrap().1, raw);
    }

    #[test]
    fn lines_that_hold_the_marker_do_no_harm() {
        let mut noise = 1u64;
        let mut hostile = || {
            let mut bytes = Vec::new();
            for _ in 0..400 {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.extend(noise.to_le_bytes());
            }
            bytes.extend(b"\n\x00\x00\xff\xff\n");
            bytes
        };
        let batches = [hostile(), rows(0, 50), hostile()];
        check_cut_everywhere(&batches, Level::Zlib(6), 7);
        let many: Vec<_> = (0..200).map(|_| hostile()).collect();
        let (bytes, _) = our_file(&[many.concat()], Level::Zlib(1));
        assert_eq!(salvage(&bytes).unwrap().1, many.concat());
    }

    #[test]
    fn a_file_without_pieces_is_packed_anew_up_to_its_last_line() {
        let raw = rows(0, 30_000);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(&raw).unwrap();
        let bytes = encoder.finish().unwrap();
        for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 3, bytes.len()] {
            let (salvaged, got) = salvage(&bytes[..cut]).unwrap();
            assert!(raw.starts_with(&got) && got.ends_with(b"\n"));
            assert!(salvaged.lines > 30_000 / 4, "{cut}: {salvaged:?}");
        }
    }

    #[test]
    fn what_is_not_gzip_is_left_alone() {
        let found = |bytes: &[u8]| examine(&temp_file(bytes)).unwrap();
        assert!(matches!(found(b""), Finding::Nothing));
        assert!(matches!(found(&[0; 100]), Finding::Nothing));
        assert!(matches!(found(&[0x1f, 0x8b]), Finding::Nothing));
        assert!(matches!(found(b"SRC_IP,DST_IP\n"), Finding::Foreign));
    }

    #[test]
    fn header_fields_are_skipped() {
        let header = flate2::GzBuilder::new().filename("name").comment("comment").extra(vec![1, 2, 3]);
        let mut encoder = header.write(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(b"1,2\n").unwrap();
        encoder.flush().unwrap();
        let mut bytes = encoder.get_ref().clone();
        bytes.extend([9; 5]);
        assert_eq!(salvage(&bytes).unwrap().1, b"1,2\n");
    }
}
