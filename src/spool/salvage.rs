//! Salvage of one torn file: what a killed process, a power cut or another program left as `.part` becomes one valid gzip
//! member that holds every complete line that unpacks.
//!
//! The file is followed from its beginning, whoever wrote it: all its members, to the end or to the first byte that no
//! decoder accepts. Promises:
//!
//! * Every line whose end comes out before that is kept, in order, and nothing else; of a file that ends with a member whose
//!   CRC-32 is right nothing is cut, so its last line needs no newline.
//! * Only an ordinary torn tail is cut: the begun line of a write that was interrupted, and the zeros of a power cut. Whatever
//!   else does not come through is a [`Damage`]: then the caller must keep the file itself.
//! * A file that was flushed at the end of its last complete line, as ours are, is cut in place and gets its final block,
//!   CRC-32 and length: ten bytes, which also fit on a nearly full disk. Any other is packed anew into another file, from its
//!   last flush point before that on.
//! * Memory does not depend on the file, nor on the length of a line. The work can be stopped at each [`CHUNK`].
//!
//! A flush point is the sync marker `00 00 FF FF` (RFC 1951, an empty stored block) behind which a decoder accepts the
//! stream ending; bytes that look like a marker by chance do no harm.

use std::fs::File;
use std::io::{self, Write};
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
/// Places that look like a flush point without being one, after which none is looked for any more. By chance one comes in
/// 2^32 bytes; more are stored blocks with the marker's bytes among foreign lines.
const FALSE_POINTS: u32 = 64;
/// Bytes that are read, or unpacked, between two looks at whether to go on: a few milliseconds of work.
const CHUNK: usize = 256 * 1024;
/// A sync of a repacked file never has more than this left to write, so that none of them holds up the end for long.
const SYNC_EVERY: u64 = 8 << 20;
/// A begun line that is longer is more than a torn tail: rows of flows have some hundred bytes.
const LONGEST_TAIL: u64 = 64 * 1024;
/// Zero bytes at a file's end from which on they are taken for a power cut's. Behind a line a stream has five of its own at
/// most: the end of a block (seven bits), the head of an empty stored block, and the first half of a marker.
const FILL: u64 = 8;
/// Zeros that the end of a member may have: its last bits, CRC-32 and length.
const OWN_ZEROS: u64 = 16;
/// A gzip header with a longer name or comment is none.
const LONGEST_HEADER: usize = 1 << 20;

/// Why salvage did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller wanted no more of it; nothing has changed.
    #[error("stopped")]
    Stopped,
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Hears of each further so many bytes of the torn file that are done; false stops the work.
pub type Note<'a> = &'a mut dyn FnMut(u64) -> bool;

/// What is kept of a torn file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salvaged {
    /// Complete lines.
    pub lines: u64,
    /// Bytes that they have.
    pub raw_bytes: u64,
    /// Bytes of the torn tail that are cut off: packed ones where the file is cut in place, else those of the begun line.
    pub cut_bytes: u64,
}

/// What is in a torn file.
#[derive(Debug)]
pub struct Finding {
    /// What can be kept.
    pub salvaged: Salvaged,
    /// How.
    pub way: Way,
    /// Why the file itself must not be lost; `None` when all that it says is in `salvaged`, but for a torn tail.
    pub damage: Option<Damage>,
}

/// How a torn file becomes whole.
#[derive(Debug)]
pub enum Way {
    /// No line is in it.
    Nothing,
    /// It is whole.
    AsItIs,
    /// By [`cut`]; never of a damaged file.
    Cut(Cut),
    /// By [`repack`], into another file.
    Repack(Repack),
}

/// Where a file is cut and what it ends with.
#[derive(Debug)]
pub struct Cut {
    end: u64,
    /// `None` behind a member that has its own.
    trailer: Option<[u8; 10]>,
}

/// What is copied, and from where on it is packed anew.
#[derive(Debug)]
pub struct Repack {
    from: Option<Point>,
    raw_bytes: u64,
}

/// What is wrong with a file beyond a torn tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin as a gzip file.
    #[error("it is not a gzip file")]
    NotGzip,
    /// No decoder accepts it from about here on.
    #[error("it is damaged at byte {at}")]
    Deflate {
        /// Offset, bytes.
        at: u64,
    },
    /// All of a member unpacks, but not to what its writer packed.
    #[error("the CRC-32 or the length at byte {at} is wrong")]
    Check {
        /// Offset, bytes.
        at: u64,
    },
    /// Behind a whole member comes what is none.
    #[error("something else follows the gzip member, at byte {at}")]
    Behind {
        /// Offset, bytes.
        at: u64,
    },
    /// More than an interrupted write leaves has no line end.
    #[error("its last {bytes} bytes have no line end")]
    EndlessLine {
        /// Unpacked bytes.
        bytes: u64,
    },
}

/// Finds what is in the file. Reads it once.
///
/// # Errors
///
/// The file cannot be read, or `note` wants no more of it.
pub fn examine(file: &File, note: Note<'_>) -> Result<Finding, Error> {
    let len = file.metadata()?.len();
    let solid = len_without_zeros(file, len, note)?;
    let mut scan = Scan::new(file, solid);
    let ending = scan.run(note)?;
    let mut is_whole = ending == Ending::Clean;
    let damage = match ending {
        Ending::Damaged(damage) => Some(damage),
        Ending::Clean | Ending::Torn => None,
    };
    if ending == Ending::Torn && solid < len {
        let solid_tally = scan.tally.clone();
        scan.members.input.limit = len.min(solid + OWN_ZEROS);
        is_whole = scan.run(note)? == Ending::Clean;
        if !is_whole && len - solid >= FILL {
            scan.tally = solid_tally;
        }
    }
    Ok(scan.finding(len, is_whole, damage))
}

/// Makes the file whole in place. May be repeated after an error or a crash at any point: until the last byte of the trailer
/// is there, the file is as torn as before.
///
/// # Errors
///
/// The file cannot be written; the call may be made again.
pub fn cut(file: &File, cut: &Cut) -> io::Result<()> {
    file.set_len(cut.end)?;
    if let Some(trailer) = &cut.trailer {
        file.write_all_at(trailer, cut.end)?;
    }
    file.sync_all()
}

/// Writes what [`examine`] found in `torn` into the empty file `whole`, as one gzip member, synced.
///
/// # Errors
///
/// `torn` cannot be read or `whole` cannot be written, or `note` wants no more of it; what is in `whole` then is of no use.
pub fn repack(torn: &File, whole: &File, repack: &Repack, note: Note<'_>) -> Result<(), Error> {
    let mut to = Synced { file: whole, unsynced: 0 };
    let mut input = Input::new(torn, torn.metadata()?.len());
    let (mut crc, mut raw_bytes) = (Hasher::new(), 0);
    if let Some(point) = &repack.from {
        while input.at < point.end {
            let left = usize::try_from(point.end - input.at).unwrap_or(usize::MAX);
            let bytes = input.fill(1)?;
            let take = bytes.len().min(left);
            if take == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            to.write_all(&bytes[..take])?;
            input.consume(take);
            go_on(note, take)?;
        }
        (crc, raw_bytes) = (point.crc.clone(), point.raw_bytes);
    } else {
        to.write_all(&GZIP_HEADER)?;
    }
    let mut members = Members::new(input);
    members.looks_for_points = false;
    if let Some(point) = &repack.from {
        members.begin_at(point)?;
    }
    let mut encoder = flate2::write::DeflateEncoder::new(to, flate2::Compression::new(6));
    let mut raw = vec![0; CHUNK];
    while raw_bytes < repack.raw_bytes {
        let before = members.input.at;
        let got = match members.next(&mut raw)? {
            Event::Raw(got) => got,
            Event::Point | Event::Verified => 0,
            Event::End(_) => return Err(io::Error::other("the file changes while it is read").into()),
        };
        let keep = got.min(usize::try_from(repack.raw_bytes - raw_bytes).unwrap_or(usize::MAX));
        encoder.write_all(&raw[..keep])?;
        crc.update(&raw[..keep]);
        raw_bytes += keep as u64;
        go_on(note, usize::try_from(members.input.at - before).unwrap_or(0))?;
    }
    let mut to = encoder.finish()?;
    // The encoder has written the final block.
    to.write_all(&trailer(crc.finalize(), raw_bytes)[FINAL_BLOCK.len()..])?;
    Ok(whole.sync_all()?)
}

/// A file that is written to disk as it grows.
struct Synced<'a> {
    file: &'a File,
    unsynced: u64,
}

impl Write for Synced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced += written as u64;
        if self.unsynced >= SYNC_EVERY {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn go_on(note: Note<'_>, done: usize) -> Result<(), Error> {
    if note(done as u64) { Ok(()) } else { Err(Error::Stopped) }
}

/// A place where the first member may end or be gone on from.
#[derive(Debug, Clone)]
struct Point {
    end: u64,
    /// Of all before it.
    crc: Hasher,
    raw_bytes: u64,
    /// What a match behind it may refer to.
    window: Vec<u8>,
}

/// What came out so far.
#[derive(Debug, Clone, Default)]
struct Tally {
    raw_bytes: u64,
    lines: u64,
    /// Raw bytes up to the last line end.
    line_end: u64,
    /// Raw bytes at the end of the last whole member, and where that is in the file.
    verified: Option<(u64, u64)>,
    members: u32,
    /// The last flush point.
    last: Option<Point>,
    /// The last one that is not behind the last line end.
    best: Option<Point>,
}

impl Tally {
    fn take(&mut self, raw: &[u8]) {
        if let Some(at) = memrchr(b'\n', raw) {
            self.lines += memchr_iter(b'\n', raw).count() as u64;
            self.line_end = self.raw_bytes + at as u64 + 1;
            self.best = self.last.take().or_else(|| self.best.take());
        }
        self.raw_bytes += raw.len() as u64;
    }

    fn point(&mut self, point: Point) {
        if self.line_end == self.raw_bytes {
            self.best = Some(point);
            self.last = None;
        } else {
            self.last = Some(point);
        }
    }
}

/// Goes through a file and counts.
struct Scan<'a> {
    members: Members<'a>,
    tally: Tally,
    raw: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn new(file: &'a File, limit: u64) -> Self {
        Self { members: Members::new(Input::new(file, limit)), tally: Tally::default(), raw: vec![0; CHUNK] }
    }

    /// Goes on to the limit, or to the first fault.
    fn run(&mut self, note: Note<'_>) -> Result<Ending, Error> {
        loop {
            let before = self.members.input.at;
            match self.members.next(&mut self.raw)? {
                Event::Raw(got) => self.tally.take(&self.raw[..got]),
                Event::Point if self.tally.members == 0 => self.tally.point(self.members.point()),
                Event::Point => {}
                Event::Verified => {
                    self.tally.members += 1;
                    self.tally.verified = Some((self.tally.raw_bytes, self.members.input.at));
                }
                Event::End(ending) => return Ok(ending),
            }
            // A replay steps back.
            go_on(note, usize::try_from(self.members.input.at.saturating_sub(before)).unwrap_or(0))?;
        }
    }

    fn finding(self, len: u64, is_whole: bool, damage: Option<Damage>) -> Finding {
        let tally = self.tally;
        // Where something follows a member, its last line may go on there.
        let keep = if is_whole { tally.raw_bytes } else { tally.line_end };
        let tail = tally.raw_bytes - keep;
        let endless = (tail > LONGEST_TAIL).then_some(Damage::EndlessLine { bytes: tail });
        let damage = damage.or(endless);
        let lines = tally.lines + u64::from(keep > tally.line_end);
        let mut salvaged = Salvaged { lines, raw_bytes: keep, cut_bytes: 0 };
        let first = tally.verified.filter(|(raw_bytes, _)| tally.members == 1 && *raw_bytes == keep);
        let from = tally.best.filter(|_| tally.members == 0);
        let way = match (damage, first, from) {
            _ if keep == 0 => Way::Nothing,
            (None, Some((_, end)), _) if is_whole && end == len => Way::AsItIs,
            (None, Some((_, end)), _) => Way::Cut(Cut { end, trailer: None }),
            (None, _, Some(point)) if point.raw_bytes == keep => {
                Way::Cut(Cut { end: point.end, trailer: Some(trailer(point.crc.finalize(), keep)) })
            }
            (_, _, from) => Way::Repack(Repack { from, raw_bytes: keep }),
        };
        if damage.is_none() {
            salvaged.cut_bytes = match &way {
                Way::Nothing => len,
                Way::AsItIs => 0,
                Way::Cut(cut) => len - cut.end,
                Way::Repack(_) => tail,
            };
        }
        Finding { salvaged, way, damage }
    }
}

/// What comes next out of a file.
enum Event {
    /// So many bytes are in the buffer; none says only that there was work.
    Raw(usize),
    /// Here is a flush point.
    Point,
    /// A member is whole, and its CRC-32 and length are right.
    Verified,
    /// Nothing comes any more, unless the input's limit is raised.
    End(Ending),
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Behind a whole member.
    Clean,
    /// Within one.
    Torn,
    Damaged(Damage),
}

/// Where the reader of members stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Header,
    Body,
    /// Behind the bytes of a marker.
    Marker,
    Trailer,
    Fault(Damage),
}

/// Unpacks the members of a file, one behind the other, and finds their flush points.
struct Members<'a> {
    input: Input<'a>,
    at: At,
    count: u64,
    inflate: Decompress,
    /// Of the member so far.
    crc: Hasher,
    raw_bytes: u64,
    window: Vec<u8>,
    looks_for_points: bool,
    false_points: u32,
    /// From where a decoder can begin again: the last flush point or the member's first byte.
    restart: (u64, Vec<u8>),
    /// What comes before is unpacked a second time and was counted.
    counted: u64,
    marker: Finder<'static>,
}

impl<'a> Members<'a> {
    fn new(input: Input<'a>) -> Self {
        Self {
            input,
            at: At::Header,
            count: 0,
            inflate: Decompress::new(false),
            crc: Hasher::new(),
            raw_bytes: 0,
            window: Vec::new(),
            looks_for_points: true,
            false_points: 0,
            restart: (0, Vec::new()),
            counted: 0,
            marker: Finder::new(&MARKER),
        }
    }

    /// Goes on from a flush point of the first member, where the input stands.
    fn begin_at(&mut self, point: &Point) -> io::Result<()> {
        self.at = At::Body;
        self.crc = point.crc.clone();
        self.raw_bytes = point.raw_bytes;
        self.window.clone_from(&point.window);
        self.begin_block()
    }

    /// The flush point that was just met.
    fn point(&self) -> Point {
        let window = self.window.clone();
        Point { end: self.input.at, crc: self.crc.clone(), raw_bytes: self.raw_bytes, window }
    }

    /// `raw` is filled from its beginning.
    fn next(&mut self, raw: &mut [u8]) -> io::Result<Event> {
        match self.at {
            At::Header => self.header(),
            At::Body => self.body(raw),
            At::Marker => self.behind_marker(raw),
            At::Trailer => self.trailer(),
            At::Fault(damage) => Ok(Event::End(Ending::Damaged(damage))),
        }
    }

    fn header(&mut self) -> io::Result<Event> {
        let mut want = 1;
        if self.count > 0 {
            // Writers of whole blocks pad with zeros; every reader passes over them.
            let bytes = self.input.fill(want)?;
            let zeros = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
            if bytes.is_empty() {
                return Ok(Event::End(Ending::Clean));
            }
            if zeros > 0 {
                self.input.consume(zeros);
                return Ok(Event::Raw(0));
            }
        }
        loop {
            let bytes = self.input.fill(want)?;
            match header_len(bytes) {
                Header::Is(len) => {
                    self.input.consume(len);
                    self.at = At::Body;
                    (self.crc, self.raw_bytes) = (Hasher::new(), 0);
                    self.window.clear();
                    self.begin_block()?;
                    return Ok(Event::Raw(0));
                }
                Header::Begun if bytes.len() < want => return Ok(Event::End(Ending::Torn)),
                Header::Begun if want < LONGEST_HEADER => want = 2 * bytes.len().max(8),
                Header::Begun | Header::IsNone => {
                    let at = self.input.at;
                    let damage = if self.count == 0 { Damage::NotGzip } else { Damage::Behind { at } };
                    return Ok(self.fault(damage));
                }
            }
        }
    }

    fn fault(&mut self, damage: Damage) -> Event {
        self.at = At::Fault(damage);
        Event::End(Ending::Damaged(damage))
    }

    fn body(&mut self, raw: &mut [u8]) -> io::Result<Event> {
        let replay = usize::try_from(self.counted.saturating_sub(self.input.at)).unwrap_or(usize::MAX);
        let bytes = self.input.fill(MARKER.len())?;
        let at_limit = bytes.len() < MARKER.len();
        let (feed, is_marker) = if replay > 0 {
            (bytes.len().min(replay), false)
        } else if !self.looks_for_points || at_limit {
            (bytes.len(), false)
        } else {
            match self.marker.find(bytes) {
                Some(found) => (found + MARKER.len(), true),
                // It may begin with the last three.
                None => (bytes.len() + 1 - MARKER.len(), false),
            }
        };
        let (used, made, status) = inflate(&mut self.inflate, &bytes[..feed], raw);
        self.input.consume(used);
        match status {
            Some(Status::StreamEnd) => self.at = At::Trailer,
            Some(_) if used == feed && is_marker => self.at = At::Marker,
            Some(_) if replay > 0 && self.input.at == self.counted => self.at = At::Marker,
            Some(_) if used == 0 && made == 0 => return Ok(Event::End(Ending::Torn)),
            Some(_) => {}
            None => self.at = At::Fault(Damage::Deflate { at: self.input.at }),
        }
        Ok(Event::Raw(if replay > 0 { 0 } else { self.count_raw(&raw[..made]) }))
    }

    /// All bytes of the marker are fed: what they still unpack to comes first, then the trial.
    fn behind_marker(&mut self, raw: &mut [u8]) -> io::Result<Event> {
        let is_replayed = self.input.at == self.counted;
        let (_, made, status) = inflate(&mut self.inflate, &[], raw);
        if status == Some(Status::StreamEnd) {
            self.at = At::Trailer;
        }
        if made > 0 || self.at == At::Trailer {
            return Ok(Event::Raw(if is_replayed { 0 } else { self.count_raw(&raw[..made]) }));
        }
        self.at = At::Body;
        if is_replayed {
            return Ok(Event::Raw(0));
        }
        let (used, made, status) = inflate(&mut self.inflate, &FINAL_BLOCK, &mut [0; 8]);
        if status == Some(Status::StreamEnd) && used == FINAL_BLOCK.len() && made == 0 {
            self.begin_block()?;
            return Ok(Event::Point);
        }
        // The trial has spoiled the decoder: another one comes to the same place.
        self.false_points += 1;
        self.looks_for_points = self.false_points < FALSE_POINTS;
        self.counted = self.input.at;
        let (at, window) = (self.restart.0, std::mem::take(&mut self.restart.1));
        self.input.seek(at);
        self.renew(&window)?;
        self.restart.1 = window;
        Ok(Event::Raw(0))
    }

    /// A decoder begins where the input stands.
    fn begin_block(&mut self) -> io::Result<()> {
        let window = self.window.clone();
        self.renew(&window)?;
        self.restart = (self.input.at, window);
        Ok(())
    }

    fn renew(&mut self, window: &[u8]) -> io::Result<()> {
        self.inflate = Decompress::new(false);
        if !window.is_empty() {
            self.inflate.set_dictionary(window).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn count_raw(&mut self, raw: &[u8]) -> usize {
        self.crc.update(raw);
        self.raw_bytes += raw.len() as u64;
        if raw.len() >= WINDOW {
            self.window.clear();
        }
        self.window.extend_from_slice(&raw[raw.len().saturating_sub(WINDOW)..]);
        self.window.drain(..self.window.len().saturating_sub(WINDOW));
        raw.len()
    }

    fn trailer(&mut self) -> io::Result<Event> {
        let expected = trailer(self.crc.clone().finalize(), self.raw_bytes);
        let expected = &expected[FINAL_BLOCK.len()..];
        let bytes = self.input.fill(expected.len())?;
        let got = bytes.len().min(expected.len());
        if bytes[..got] != expected[..got] {
            let at = self.input.at;
            return Ok(self.fault(Damage::Check { at }));
        }
        if got < expected.len() {
            return Ok(Event::End(Ending::Torn));
        }
        self.input.consume(got);
        self.count += 1;
        self.at = At::Header;
        Ok(Event::Verified)
    }
}

/// One call of the decoder: bytes used, bytes made, and its word; `None` for bytes that it does not accept. What it made before
/// those counts.
fn inflate(inflate: &mut Decompress, bytes: &[u8], raw: &mut [u8]) -> (usize, usize, Option<Status>) {
    let before = (inflate.total_in(), inflate.total_out());
    let status = inflate.decompress(bytes, raw, FlushDecompress::None).ok();
    let since = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
    (since(inflate.total_in(), before.0), since(inflate.total_out(), before.1), status)
}

/// What the first bytes of a member say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Is(usize),
    /// There must be more of it.
    Begun,
    IsNone,
}

/// Reads a gzip header (RFC 1952) as zlib does: unknown flags and a wrong checksum of the header are refused.
fn header_len(bytes: &[u8]) -> Header {
    let magic = [0x1f, 0x8b, 8];
    let seen = bytes.len().min(magic.len());
    if bytes[..seen] != magic[..seen] || bytes.get(3).is_some_and(|flags| flags & 0xe0 != 0) {
        return Header::IsNone;
    }
    let whole = || {
        let flags = *bytes.get(3)?;
        let mut at = 10;
        if flags & 4 != 0 {
            let extra = bytes.get(at..at + 2)?;
            at += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
        }
        for text in [8, 16] {
            if flags & text != 0 {
                at += memchr::memchr(0, bytes.get(at..)?)? + 1;
            }
        }
        let sum = if flags & 2 != 0 { bytes.get(at..at + 2)? } else { &[] };
        let is_right = sum.is_empty() || sum == &crc32fast::hash(&bytes[..at]).to_le_bytes()[..2];
        at += sum.len();
        (at <= bytes.len()).then_some((at, is_right))
    };
    match whole() {
        None => Header::Begun,
        Some((len, true)) => Header::Is(len),
        Some((_, false)) => Header::IsNone,
    }
}

/// A file, read forward in large pieces.
struct Input<'a> {
    file: &'a File,
    /// Offset of the next byte.
    at: u64,
    bytes: Vec<u8>,
    /// How many of `bytes` are consumed.
    consumed: usize,
    /// The file ends here for now.
    limit: u64,
}

impl<'a> Input<'a> {
    fn new(file: &'a File, limit: u64) -> Self {
        Self { file, at: 0, bytes: Vec::new(), consumed: 0, limit }
    }

    /// The next bytes: at least `want`, or all up to the limit.
    fn fill(&mut self, want: usize) -> io::Result<&[u8]> {
        while self.bytes.len() - self.consumed < want {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
            let had = self.bytes.len();
            let from = self.at + had as u64;
            let more = usize::try_from(self.limit.saturating_sub(from)).unwrap_or(usize::MAX).min(CHUNK);
            self.bytes.resize(had + more, 0);
            let got = match self.file.read_at(&mut self.bytes[had..], from) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => {
                    self.bytes.truncate(had);
                    return Err(error);
                }
                // Somebody has cut it meanwhile.
                Ok(0) => {
                    self.limit = self.limit.min(from);
                    self.bytes.truncate(had);
                    break;
                }
                Ok(got) => got,
            };
            self.bytes.truncate(had + got);
        }
        Ok(&self.bytes[self.consumed..])
    }

    fn consume(&mut self, len: usize) {
        self.consumed += len;
        self.at += len as u64;
    }

    /// Back to `at`.
    fn seek(&mut self, at: u64) {
        self.bytes.clear();
        self.consumed = 0;
        self.at = at;
    }
}

/// Length without the zero bytes at its end.
fn len_without_zeros(file: &File, mut len: u64, note: Note<'_>) -> Result<u64, Error> {
    let mut chunk = vec![0; CHUNK];
    while len > 0 {
        let from = len.saturating_sub(chunk.len() as u64);
        let part = &mut chunk[..usize::try_from(len - from).unwrap_or(0)];
        file.read_exact_at(part, from)?;
        if let Some(last) = part.iter().rposition(|b| *b != 0) {
            return Ok(from + last as u64 + 1);
        }
        len = from;
        go_on(note, 0)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
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

    fn found(bytes: &[u8]) -> Finding {
        examine(&temp_file(bytes), &mut |_| true).unwrap()
    }

    /// What the spool makes of a torn file.
    struct Outcome {
        salvaged: Salvaged,
        damage: Option<Damage>,
        in_place: bool,
        /// What the result unpacks to.
        raw: Vec<u8>,
    }

    fn salvage(bytes: &[u8]) -> Outcome {
        let mut file = temp_file(bytes);
        let Finding { salvaged, way, damage } = examine(&file, &mut |_| true).unwrap();
        let mut in_place = true;
        match way {
            Way::Nothing => return Outcome { salvaged, damage, in_place, raw: Vec::new() },
            Way::AsItIs => {}
            Way::Cut(place) => cut(&file, &place).unwrap(),
            Way::Repack(how) => {
                let whole = temp_file(b"");
                repack(&file, &whole, &how, &mut |_| true).unwrap();
                (file, in_place) = (whole, false);
            }
        }
        assert!(damage.is_none() || !in_place, "a damaged file is left as it is");
        let (mut packed, mut raw) = (Vec::new(), Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut packed).unwrap();
        let mut member = flate2::bufread::GzDecoder::new(&packed[..]);
        member.read_to_end(&mut raw).expect("a whole gzip member");
        assert!(member.into_inner().is_empty(), "nothing behind the member");
        assert_eq!(salvaged.raw_bytes, raw.len() as u64);
        let unended = u64::from(!raw.ends_with(b"\n"));
        assert_eq!(salvaged.lines, memchr_iter(b'\n', &raw).count() as u64 + unended);
        Outcome { salvaged, damage, in_place, raw }
    }

    #[derive(Debug, PartialEq, Eq)]
    enum End {
        /// With a member.
        Whole,
        /// Too early.
        Short,
        Error,
    }

    /// What a reader that takes byte by byte gets out of `bytes` before its first error; and how it ends.
    fn unpack(bytes: &[u8]) -> (Vec<u8>, End) {
        let (mut all, mut rest) = (Vec::new(), bytes);
        loop {
            let mut reader = Decompress::new_gzip(15);
            let mut raw = [0; 512];
            let mut ended = false;
            while let Some((byte, behind)) = rest.split_first() {
                rest = behind;
                let mut feed = std::slice::from_ref(byte);
                loop {
                    let (used, made, status) = inflate(&mut reader, feed, &mut raw);
                    all.extend_from_slice(&raw[..made]);
                    feed = &feed[used..];
                    match status {
                        None => return (all, End::Error),
                        Some(Status::StreamEnd) => ended = true,
                        Some(_) if used + made > 0 => continue,
                        Some(_) => {}
                    }
                    break;
                }
                if ended {
                    break;
                }
            }
            rest = &rest[rest.iter().position(|b| *b != 0).unwrap_or(rest.len())..];
            if !ended || rest.is_empty() {
                return (all, if ended { End::Whole } else { End::Short });
            }
        }
    }

    /// The lines that can be read: many zeros at the end are a power cut's, unless the member ends in them.
    fn readable(bytes: &[u8]) -> Vec<u8> {
        let (raw, end) = unpack(bytes);
        if end == End::Whole {
            return raw;
        }
        let solid = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let mut raw = if bytes.len() - solid < FILL as usize { raw } else { unpack(&bytes[..solid]).0 };
        raw.truncate(memrchr(b'\n', &raw).map_or(0, |at| at + 1));
        raw
    }

    /// Salvages and compares; nothing that is not salvaged may be given up.
    fn check(bytes: &[u8], what: &str) -> Outcome {
        let outcome = salvage(bytes);
        let expected = readable(bytes);
        assert!(
            outcome.raw == expected,
            "{what}: {} bytes of {}, {:?}",
            outcome.raw.len(),
            expected.len(),
            outcome.damage
        );
        outcome
    }

    fn rows(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).flat_map(|i| format!("10.0.{}.{},{i},{}\n", i % 7, i % 250, i * 37).into_bytes()).collect()
    }

    fn gzip(raw: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(raw).unwrap();
        encoder.finish().unwrap()
    }

    fn check_cut_everywhere(batches: &[Vec<u8>], level: Level, step: usize) {
        let (bytes, ends) = our_file(batches, level);
        let plain = batches.concat();
        for cut in (0..=bytes.len()).step_by(step) {
            for zeros in [0, 1, 4096] {
                let mut torn = bytes[..cut].to_vec();
                torn.resize(cut + zeros, 0);
                let what = format!("cut at {cut} with {zeros} zeros");
                let outcome = check(&torn, &what);
                let whole = ends.iter().rfind(|(end, _)| *end <= cut).map_or(0, |(_, raw)| *raw);
                assert!(outcome.raw.starts_with(&plain[..whole]), "{what}: every complete piece");
                assert_eq!(outcome.damage, None, "{what}");
                if outcome.raw.len() == whole {
                    assert!(outcome.in_place, "{what}: ten bytes are enough");
                }
            }
        }
    }

    #[test]
    fn cut_at_every_byte_every_complete_line_is_there() {
        let batches: Vec<_> = (0..6).map(|i| rows(i * 20, 20)).collect();
        check_cut_everywhere(&batches, Level::Zlib(6), 1);
        check_cut_everywhere(&batches, Level::Auto, 1);
    }

    #[test]
    fn cut_anywhere_in_a_large_file_every_complete_line_is_there() {
        let batches: Vec<_> = (0..40).map(|i| rows(i * 700, 700)).collect();
        let len = our_file(&batches, Level::Auto).0.len();
        // scripts/torture asks for ten times as many.
        let cuts = if std::env::var_os("PROCESSOR_TORTURE").is_some() { 1000 } else { 100 };
        check_cut_everywhere(&batches, Level::Auto, len / cuts);
        eprintln!(
            "TORTURE | salvage | a small `.part` cut at every byte, one of {len} bytes at {cuts} places, each also with 1 and \
             4,096 zeros behind | every complete line, always |"
        );
    }

    #[test]
    fn a_complete_file_that_was_only_not_renamed_stays_as_it_is() {
        let batches = [rows(0, 100), rows(100, 100)];
        let (mut bytes, _) = our_file(&batches, Level::Zlib(6));
        let raw = batches.concat();
        bytes.extend(trailer(crc32fast::hash(&raw), raw.len() as u64));
        assert!(matches!(found(&bytes).way, Way::AsItIs));
        assert_eq!(check(&bytes, "complete").raw, raw);
        bytes.extend([0; 5000]);
        let outcome = check(&bytes, "zeros behind");
        assert!(outcome.in_place && outcome.damage.is_none() && outcome.raw == raw);
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
        assert_eq!(check(&bytes, "many markers").raw, many.concat());
    }

    /// Every place under scripts/torture, else every `n`th.
    fn step(n: usize) -> usize {
        if std::env::var_os("PROCESSOR_TORTURE").is_some() { 1 } else { n }
    }

    /// What other writers flush, and where: the file, and the text of it.
    fn strangers() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
        use flate2::FlushCompress::{Full, None, Partial, Sync};
        let text = rows(0, 120);
        let mut all = Vec::new();
        for (name, flush) in [("sync", Sync), ("full", Full), ("partial", Partial), ("none", None)] {
            // 46 and more are inside lines, 0 is at the end of each.
            for at in [0, 46, 977] {
                let chunks: Vec<&[u8]> = match at {
                    0 => text.split_inclusive(|b| *b == b'\n').collect(),
                    at => text.chunks(at).collect(),
                };
                let mut packer = flate2::Compress::new(flate2::Compression::new(6), false);
                // As Go writes it: no time, unknown system.
                let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
                bytes.reserve(1 << 20);
                for chunk in chunks {
                    packer.compress_vec(chunk, &mut bytes, flush).unwrap();
                }
                packer.compress_vec(&[], &mut bytes, flate2::FlushCompress::Finish).unwrap();
                bytes.extend(&trailer(crc32fast::hash(&text), text.len() as u64)[2..]);
                all.push((name, bytes, text.clone()));
            }
        }
        let unended = [&text[..], b"the last line has no end"].concat();
        all.push(("unended", gzip(&unended), unended));
        let members: Vec<_> = text.chunks(700).flat_map(gzip).collect();
        all.push(("members", members, text));
        all
    }

    #[test]
    fn whoever_wrote_it_every_line_that_unpacks_is_there() {
        for (name, bytes, text) in strangers() {
            let outcome = check(&bytes, name);
            assert!(outcome.raw == text && outcome.damage.is_none(), "{name}: all of it");
            for cut in (0..bytes.len()).step_by(step(3)) {
                let outcome = check(&bytes[..cut], &format!("{name} cut at {cut}"));
                assert_eq!(outcome.damage, None, "{name} cut at {cut}");
                if cut % 7 == 0 {
                    for zeros in [3, 600] {
                        let mut torn = bytes[..cut].to_vec();
                        torn.resize(cut + zeros, 0);
                        let outcome = check(&torn, &format!("{name} cut at {cut}, {zeros} zeros"));
                        assert_eq!(outcome.damage, None, "{name} cut at {cut}, {zeros} zeros");
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_file_gives_its_lines_and_is_kept() {
        for (name, bytes, text) in strangers() {
            for at in (0..bytes.len()).step_by(step(13)) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                let outcome = check(&damaged, &format!("{name} flipped at {at}"));
                // Too few bytes are too few, whatever the reason: they are a torn tail to every reader.
                let is_kept = outcome.damage.is_some() || unpack(&damaged).1 == End::Short;
                assert!(is_kept || outcome.raw == text, "{name}: what is lost at {at} is kept");
                let mut zeroed = bytes.clone();
                let end = (at + 512).min(bytes.len());
                zeroed[at..end].fill(0);
                let outcome = check(&zeroed, &format!("{name} zeroed from {at}"));
                let is_tail = zeroed[at..].iter().all(|b| *b == 0) || unpack(&zeroed).1 == End::Short;
                assert!(outcome.damage.is_some() || is_tail || outcome.raw == text, "{name}: zeroed from {at}");
            }
            for behind in [&b"x"[..], &[0; 100], &[0x1f, 0x8b], &bytes[..bytes.len() / 2]] {
                check(&[&bytes[..], behind].concat(), &format!("{name} and more"));
            }
        }
    }

    #[test]
    fn a_line_of_any_length_needs_no_memory_and_a_long_tail_is_no_torn_one() {
        let long: Vec<u8> = (0..3u32 << 20).map(|i| b'a' + (i.wrapping_mul(i) >> 13) as u8 % 20).collect();
        let text = [&b"1,2\n"[..], &long, b"\n3,4\n"].concat();
        let bytes = gzip(&text);
        let outcome = salvage(&bytes[..bytes.len() - 8]);
        assert!(outcome.raw == text && outcome.damage.is_none());
        let outcome = salvage(&bytes[..bytes.len() / 2]);
        assert!(matches!(outcome.damage, Some(Damage::EndlessLine { .. })) && outcome.raw == b"1,2\n");
        assert_eq!(outcome.salvaged.cut_bytes, 0, "nothing is cut from what is kept");
    }

    #[test]
    fn it_stops_within_a_step() {
        let bytes = gzip(&rows(0, 400_000));
        let (file, whole) = (temp_file(&bytes), temp_file(b""));
        let Way::Repack(how) = found(&bytes[..bytes.len() - 9]).way else { panic!("it has no flush points") };
        let mut left = 3;
        let mut few = |_| {
            left -= 1;
            left > 0
        };
        assert!(matches!(examine(&file, &mut few), Err(Error::Stopped)));
        assert!(matches!(repack(&file, &whole, &how, &mut |_| false), Err(Error::Stopped)));
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    }

    #[test]
    fn all_of_the_file_is_told_while_it_is_gone_through() {
        let bytes = gzip(&rows(0, 100_000));
        let (file, whole) = (temp_file(&bytes[..bytes.len() - 9]), temp_file(b""));
        let mut told = 0;
        let finding = examine(&file, &mut |done| {
            told += done;
            true
        })
        .unwrap();
        assert_eq!(told, bytes.len() as u64 - 9);
        let Way::Repack(how) = finding.way else { panic!("it has no flush points") };
        let mut told = 0;
        repack(&file, &whole, &how, &mut |done| {
            told += done;
            true
        })
        .unwrap();
        assert!(told > bytes.len() as u64 - 100, "{told}");
    }

    #[test]
    fn what_is_not_gzip_is_left_alone() {
        for (bytes, damage) in [
            (&b""[..], None),
            (&[0; 100], None),
            (&[0x1f, 0x8b], None),
            (b"SRC_IP,DST_IP\n", Some(Damage::NotGzip)),
            (&[&[0; 5000][..], &gzip(b"1,2\n")].concat(), Some(Damage::NotGzip)),
            (&[0x1f, 0x8b, 8, 0xe0, 0, 0, 0, 0, 0, 3, 3, 0], Some(Damage::NotGzip)),
        ] {
            let finding = found(bytes);
            assert!(matches!(finding.way, Way::Nothing) && finding.damage == damage, "{finding:?}");
        }
    }

    #[test]
    fn header_fields_are_skipped() {
        let header = flate2::GzBuilder::new().filename("name").comment("comment").extra(vec![1, 2, 3]);
        let mut encoder = header.write(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(b"1,2\n").unwrap();
        encoder.flush().unwrap();
        let mut bytes = encoder.get_ref().clone();
        bytes.extend([9; 5]);
        let outcome = check(&bytes, "garbage behind");
        assert!(outcome.raw == b"1,2\n" && outcome.damage.is_some());
    }
}
