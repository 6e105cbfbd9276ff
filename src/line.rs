//! From a stream of bytes to batches of whole lines, and from batches to files.
//!
//! [`Batcher`] is where the order of everything is made: it decides, with `now` as an argument, which bytes form a
//! batch, which header holds for it, and between which two lines a file ends. It holds one block and never waits, reads
//! or allocates in proportion to its input: a line longer than a block passes in parts, which say so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::{memchr, memrchr};

use crate::schema::Schema;

/// Size of a block, bytes. From measurement: below 256 KiB the gzip files grow (16 KiB: 4 %, 64 KiB: 1 %), above 1 MiB
/// only memory does; and only blocks of 1 MiB reach gzip -6 on rows that nfacctd printed.
pub const BLOCK: usize = 1 << 20;

/// A block with less room than this part of its size counts as full, so that [`Batcher::space`] never offers a few bytes
/// only: 4 KiB of a [`BLOCK`].
pub const ROOM_PART: usize = 256;

/// A buffer of [`BLOCK`] bytes (tests take smaller ones); the unit of the pool: the number of blocks bounds memory.
#[derive(Debug)]
pub struct Block {
    bytes: Box<[u8]>,
    len: usize,
}

impl Block {
    /// A block of `capacity` bytes. Its pages cost no memory before they are first filled.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), len: 0 }
    }

    /// The filled part.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The block with nothing in it; its memory stays.
    #[must_use]
    pub fn emptied(mut self) -> Self {
        self.len = 0;
        self
    }

    /// Appends as many of `bytes` as fit; returns how many.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        self.len += len;
        len
    }

    fn is_full(&self) -> bool {
        self.bytes.len() - self.len < (self.bytes.len() / ROOM_PART).max(1)
    }
}

/// Consecutive lines under one header: the unit of work of a pack thread.
#[derive(Debug)]
pub struct Batch {
    /// The bytes. They start at a line's start and end at a line's end, but for the two flags below.
    pub block: Block,
    /// The header in force from the first line on; a repeat of it may stand among the lines, another one never does
    /// but as the first line.
    pub schema: Option<Arc<Schema>>,
    /// The first bytes continue a line longer than a block.
    pub starts_mid_line: bool,
    /// The last line goes on in the next batch.
    pub ends_mid_line: bool,
    /// Nothing of an earlier batch is in the same file.
    pub starts_file: bool,
    /// When its first byte came.
    pub arrived: Instant,
}

/// What [`Batcher::poll`] cuts off the stream, in stream order.
#[derive(Debug)]
pub enum Cut {
    /// Lines to pack.
    Batch(Batch),
    /// The file that holds the batches so far is complete.
    Seal,
}

/// When batches and files end.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the first byte of a batch may wait for more.
    pub batch_age: Duration,
    /// How long a file stays open.
    pub file_age: Duration,
    /// Raw bytes at which a file ends, with the line that reaches them.
    pub file_bytes: u64,
    /// A header that differs from the one before ends the file, because each file shows one header.
    pub seal_on_new_header: bool,
}

/// The state of the cutting; the module's page says what it promises.
#[derive(Debug)]
pub struct Batcher {
    limits: Limits,
    block: Option<Block>,
    /// What follows the last cut, kept until the next block comes. As long as a block at most.
    carry: Vec<u8>,
    /// When the first byte in `block` or `carry` came.
    arrived: Option<Instant>,
    /// Bytes of the block in which headers were looked for.
    scanned: usize,
    schema: Option<Arc<Schema>>,
    mid_line: bool,
    file: Option<File>,
    seal_next: bool,
    closing: bool,
}

#[derive(Debug, Clone, Copy)]
struct File {
    opened: Instant,
    bytes: u64,
}

impl Batcher {
    /// A batcher at the start of a stream. It wants a block first.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            block: None,
            carry: Vec::new(),
            arrived: None,
            scanned: 0,
            schema: None,
            mid_line: false,
            file: None,
            seal_next: false,
            closing: false,
        }
    }

    /// True when there is no block to fill.
    pub fn wants_block(&self) -> bool {
        self.block.is_none()
    }

    /// True when bytes wait for a block before [`Batcher::poll`] can go on.
    pub fn is_stalled(&self) -> bool {
        self.block.is_none() && !self.carry.is_empty()
    }

    /// Hands over an empty block; what was left of the one before moves into it.
    pub fn give(&mut self, mut block: Block) {
        debug_assert!(self.block.is_none() && self.carry.len() <= block.bytes.len());
        block.len = 0;
        block.append(&self.carry);
        self.carry.clear();
        self.scanned = 0;
        self.block = Some(block);
    }

    /// Room to read into, empty while a block is wanted. After [`Batcher::poll`] has returned `None` it is at least one
    /// [`ROOM_PART`]th of the block.
    pub fn space(&mut self) -> &mut [u8] {
        self.block.as_mut().map_or(&mut [], |block| &mut block.bytes[block.len..])
    }

    /// `len` bytes were put at the front of [`Batcher::space`].
    pub fn filled(&mut self, len: usize, now: Instant) {
        if let Some(block) = &mut self.block
            && len > 0
        {
            block.len += len;
            debug_assert!(block.len <= block.bytes.len());
            self.arrived.get_or_insert(now);
        }
    }

    /// No byte will follow: the last line is complete as it is, and the file ends.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// True when a line has begun and its end has not come.
    pub fn has_partial_line(&self) -> bool {
        let held = self.block.as_ref().map_or(&self.carry[..], Block::filled);
        held.last().map_or(self.mid_line, |b| *b != b'\n')
    }

    /// When [`Batcher::poll`] has something to do at the latest, though no byte comes.
    pub fn due(&self) -> Option<Instant> {
        let batch = self.arrived.map(|at| at + self.limits.batch_age);
        let file = self.file.map(|file| file.opened + self.limits.file_age);
        match (batch, file) {
            (Some(batch), Some(file)) => Some(batch.min(file)),
            (batch, file) => batch.or(file),
        }
    }

    /// The next cut that is due at `now`. To be called until it returns `None`; when that leaves it stalled, a block
    /// must be given and the calls repeated.
    pub fn poll(&mut self, now: Instant) -> Option<Cut> {
        if std::mem::take(&mut self.seal_next) {
            return Some(self.seal());
        }
        if self.is_stalled() {
            return None;
        }
        while let Some((at, schema)) = self.next_header() {
            if at > 0 {
                return Some(self.cut(at, now));
            }
            if self.limits.seal_on_new_header && self.file.is_some() {
                return Some(self.seal());
            }
            self.schema = Some(schema);
        }
        let held = self.block.as_ref().map_or(&[][..], Block::filled);
        let whole = if self.closing { held.len() } else { memrchr(b'\n', held).map_or(0, |at| at + 1) };
        let is_full = self.block.as_ref().is_some_and(Block::is_full);
        let file_due = self.file.is_some_and(|file| now >= file.opened + self.limits.file_age);
        let file_full = self.file_bytes() + whole as u64 >= self.limits.file_bytes;
        let batch_due = self.arrived.is_some_and(|at| now >= at + self.limits.batch_age);
        if whole > 0 && (is_full || self.closing || batch_due || file_due || file_full) {
            self.seal_next = file_due;
            return Some(self.cut(whole, now));
        }
        if is_full {
            let len = held.len();
            return Some(self.cut(len, now));
        }
        // A line that began in the file ends in it, however long that takes.
        if self.file.is_some() && (self.closing || (file_due && !self.mid_line)) {
            return Some(self.seal());
        }
        if batch_due {
            // Only a begun line is left: it waits for its end, not for the clock.
            self.arrived = None;
        }
        None
    }

    fn seal(&mut self) -> Cut {
        self.file = None;
        Cut::Seal
    }

    fn file_bytes(&self) -> u64 {
        self.file.map_or(0, |file| file.bytes)
    }

    /// Cuts the first `end` bytes off the block, or fewer when the file ends before.
    fn cut(&mut self, end: usize, now: Instant) -> Cut {
        let mut block = self.block.take().unwrap_or_else(|| Block::new(0));
        let before = self.file_bytes();
        let end = match self.end_of_file_within(&block.bytes[..end]) {
            Some(at) => {
                self.seal_next = true;
                at
            }
            None => end,
        };
        self.carry.extend_from_slice(&block.bytes[end..block.len]);
        block.len = end;
        let starts_mid_line = self.mid_line;
        self.mid_line = !self.closing && block.filled().last().is_some_and(|b| *b != b'\n');
        let arrived = self.arrived.unwrap_or(now);
        self.arrived = (!self.carry.is_empty()).then_some(now);
        let starts_file = self.file.is_none();
        let opened = self.file.map_or(now, |file| file.opened);
        self.file = Some(File { opened, bytes: before + end as u64 });
        Cut::Batch(Batch {
            schema: self.schema.clone(),
            starts_mid_line,
            ends_mid_line: self.mid_line,
            starts_file,
            arrived,
            block,
        })
    }

    /// Where in `bytes` the line ends that fills the file; `None` when the file has room for more than `bytes`.
    fn end_of_file_within(&self, bytes: &[u8]) -> Option<usize> {
        let room = self.limits.file_bytes.saturating_sub(self.file_bytes()).max(1);
        let from = usize::try_from(room - 1).ok().filter(|from| *from < bytes.len())?;
        memchr(b'\n', &bytes[from..]).map(|at| from + at + 1)
    }

    /// Looks on, in the whole lines that came, for a header that is not the one in force. It is found again by the next
    /// call unless it was put in force.
    fn next_header(&mut self) -> Option<(usize, Arc<Schema>)> {
        let bytes = self.block.as_ref()?.filled();
        if self.scanned == 0 && self.mid_line {
            self.scanned = memchr(b'\n', bytes)? + 1;
        }
        while let Some(start) = next_letter_line(bytes, self.scanned) {
            self.scanned = start;
            let end = match memchr(b'\n', &bytes[start..]) {
                Some(at) => start + at + 1,
                None if self.closing => bytes.len(),
                None => return None,
            };
            let line = &bytes[start..end];
            let repeats = self.schema.as_ref().is_some_and(|schema| schema.is_repeated_by(line));
            if !repeats && let Some(schema) = Schema::from_line(line) {
                return Some((start, schema));
            }
            self.scanned = end;
        }
        let whole = memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        self.scanned = self.scanned.max(whole);
        None
    }
}

/// The first line start at or after `from` whose first byte is a letter or `_`. `from` must be a line's start.
fn next_letter_line(bytes: &[u8], from: usize) -> Option<usize> {
    let is_letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    if bytes.get(from).copied().is_some_and(is_letter) {
        return Some(from);
    }
    let rest = bytes.get(from..)?;
    let mut at = 0;
    // Whole chunks are tested without a branch in them, which the compiler turns into vector code: this pass runs over
    // every byte of the input, on the one thread that nothing can share. Letters and `_` have the bit 0x40, which no digit has;
    // what else has it is sorted out below.
    while let Some(chunk) = rest.get(at..at + 257) {
        let pairs = chunk[..256].iter().zip(&chunk[1..]);
        let first = pairs.fold(0, |first, (a, b)| first | u8::from(*a == b'\n').wrapping_neg() & b);
        let hits = first & 0x40;
        if hits != 0 {
            break;
        }
        at += 256;
    }
    while let Some(newline) = memchr(b'\n', &rest[at..]) {
        at += newline + 1;
        match rest.get(at) {
            Some(b) if is_letter(*b) => return Some(from + at),
            Some(_) => {}
            None => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        batch_age: Duration::from_millis(500),
        file_age: Duration::from_mins(10),
        file_bytes: 1 << 40,
        seal_on_new_header: false,
    };

    /// Feeds `chunks` with `step` between them, closes, and returns the cuts with the time of each.
    fn cuts(limits: Limits, block: usize, chunks: &[&[u8]], step: Duration) -> Vec<(Duration, Cut)> {
        let start = Instant::now();
        let mut now = start;
        let mut batcher = Batcher::new(limits);
        let mut out = Vec::new();
        let pump = |batcher: &mut Batcher, now: Instant, out: &mut Vec<(Duration, Cut)>| loop {
            while let Some(cut) = batcher.poll(now) {
                out.push((now - start, cut));
            }
            if !batcher.is_stalled() {
                break;
            }
            batcher.give(Block::new(block));
        };
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                if batcher.wants_block() {
                    batcher.give(Block::new(block));
                }
                let space = batcher.space();
                let len = space.len().min(rest.len());
                assert!(space.len() >= (block / ROOM_PART).max(1), "a pumped batcher has room");
                space[..len].copy_from_slice(&rest[..len]);
                batcher.filled(len, now);
                pump(&mut batcher, now, &mut out);
                rest = &rest[len..];
            }
            let end = now + step;
            while let Some(due) = batcher.due().filter(|due| *due <= end) {
                now = due;
                pump(&mut batcher, now, &mut out);
            }
            now = end;
        }
        batcher.close();
        pump(&mut batcher, now, &mut out);
        assert!(batcher.poll(now).is_none());
        out
    }

    #[test]
    fn a_block_with_little_room_is_full() {
        let now = Instant::now();
        let mut batcher = Batcher::new(LIMITS);
        batcher.give(Block::new(BLOCK));
        let most = BLOCK - BLOCK / ROOM_PART;
        for (more, is_cut) in [(most - 1, false), (1, false), (1, true)] {
            batcher.space()[..more].fill(b'\n');
            batcher.filled(more, now);
            assert_eq!(batcher.poll(now).is_some(), is_cut);
        }
    }

    fn show(cuts: &[(Duration, Cut)]) -> Vec<String> {
        let one = |cut: &Cut| match cut {
            Cut::Batch(batch) => String::from_utf8_lossy(batch.block.filled()).into_owned(),
            Cut::Seal => "SEAL".to_owned(),
        };
        cuts.iter().map(|(_, cut)| one(cut)).collect()
    }

    #[test]
    fn a_quiet_line_goes_when_its_time_has_come_and_the_file_when_its_has() {
        let cuts = cuts(LIMITS, 64, &[b"1,2\n3", b",4\n"], Duration::from_secs(700));
        assert_eq!(show(&cuts), ["1,2\n", "SEAL", "3,4\n", "SEAL"]);
        let times: Vec<u64> = cuts.iter().map(|(at, _)| at.as_millis() as u64).collect();
        // The begun line `3` has not entered the file, so it does not keep it open.
        assert_eq!(times, [500, 600_500, 700_500, 1_300_500]);
    }

    #[test]
    fn a_file_closes_by_time_without_any_line() {
        let cuts = cuts(LIMITS, 64, &[b"1,2\n"], Duration::from_secs(10_000));
        assert_eq!(show(&cuts), ["1,2\n", "SEAL"]);
        assert_eq!(cuts[1].0, Duration::from_millis(600_500));
    }

    #[test]
    fn a_file_ends_with_the_line_that_reaches_its_size() {
        let limits = Limits { file_bytes: 5, ..LIMITS };
        let cuts = cuts(limits, 64, &[b"1\n22\n333\n4444\n55555\n6"], Duration::ZERO);
        assert_eq!(show(&cuts), ["1\n22\n", "SEAL", "333\n4444\n", "SEAL", "55555\n", "SEAL", "6", "SEAL"]);
    }

    #[test]
    fn a_line_of_any_length_passes_in_parts() {
        let cuts = cuts(LIMITS, 4, &[b"a\nbcdefghij\nk\n"], Duration::ZERO);
        let flags: Vec<_> = cuts
            .iter()
            .filter_map(|(_, cut)| match cut {
                Cut::Batch(b) => Some((b.block.filled().to_vec(), b.starts_mid_line, b.ends_mid_line)),
                Cut::Seal => None,
            })
            .collect();
        let expected: [(&[u8], bool, bool); 4] =
            [(b"a\n", false, false), (b"bcde", false, true), (b"fghi", true, true), (b"j\nk\n", true, false)];
        for (got, want) in flags.iter().zip(expected) {
            assert_eq!((&got.0[..], got.1, got.2), want);
        }
        assert_eq!(flags.len(), 4);
    }

    #[test]
    fn a_new_header_starts_a_batch_and_a_file_when_each_file_has_one() {
        let input: &[u8] = b"9,9\nPACKETS,BYTES\n1,2\nPACKETS,BYTES\n3,4\nBYTES,PACKETS\n5,6\n";
        let plain = cuts(LIMITS, 256, &[input], Duration::ZERO);
        let batches = ["9,9\n", "PACKETS,BYTES\n1,2\nPACKETS,BYTES\n3,4\n", "BYTES,PACKETS\n5,6\n", "SEAL"];
        assert_eq!(show(&plain), batches);
        let sealed = cuts(Limits { seal_on_new_header: true, ..LIMITS }, 256, &[input], Duration::ZERO);
        assert_eq!(show(&sealed), [batches[0], "SEAL", batches[1], "SEAL", batches[2], "SEAL"]);
        let packets = |cut: &Cut| match cut {
            Cut::Batch(b) => b.schema.as_ref().and_then(|schema| schema.packets()),
            Cut::Seal => None,
        };
        let columns: Vec<_> = plain.iter().map(|(_, cut)| packets(cut)).collect();
        assert_eq!(columns, [None, Some(0), Some(1), None]);
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            4 => "[0-9.]{1,8},[0-9]{1,4}",
            1 => Just("PACKETS,BYTES".to_owned()),
            1 => Just("SRC_IP,PACKETS".to_owned()),
            1 => "fe80::[0-9a-f]{1,4},[0-9]",
            1 => "[a-z]{0,40}",
        ];
        (proptest::collection::vec(line, 0..60), any::<bool>()).prop_map(|(lines, ended)| {
            let mut text = lines.join("\n").into_bytes();
            if ended && !text.is_empty() {
                text.push(b'\n');
            }
            text
        })
    }

    proptest! {
        #[test]
        fn cuts_put_together_are_the_stream(
            text in text(),
            block in 8usize..80,
            chunk in 1usize..50,
            file_bytes in 1u64..300,
            seal_on_new_header in any::<bool>(),
        ) {
            let limits = Limits { file_bytes, seal_on_new_header, ..LIMITS };
            let chunks: Vec<&[u8]> = text.chunks(chunk).collect();
            let cuts = cuts(limits, block, &chunks, Duration::from_millis(90));
            let mut together = Vec::new();
            let mut mid_line = false;
            let mut in_file = 0u64;
            let mut in_force: Option<Vec<u8>> = None;
            for (_, cut) in &cuts {
                match cut {
                    Cut::Batch(batch) => {
                        let bytes = batch.block.filled();
                        prop_assert!(!bytes.is_empty());
                        prop_assert_eq!(batch.starts_mid_line, mid_line);
                        prop_assert_eq!(batch.starts_file, in_file == 0);
                        together.extend_from_slice(bytes);
                        mid_line = bytes.last() != Some(&b'\n') && together.len() < text.len();
                        prop_assert_eq!(batch.ends_mid_line && together.len() < text.len(), mid_line);
                        prop_assert!(in_file < file_bytes || batch.starts_mid_line);
                        in_file += bytes.len() as u64;
                        let first = bytes.split_inclusive(|b| *b == b'\n').next().unwrap();
                        if !batch.starts_mid_line && (first.ends_with(b"\n") || !batch.ends_mid_line) {
                            if let Some(schema) = Schema::from_line(first) {
                                in_force = Some(schema.text().to_vec());
                            }
                            prop_assert_eq!(batch.schema.as_ref().map(|s| s.text().to_vec()), in_force.clone());
                        }
                    }
                    Cut::Seal => {
                        prop_assert!(!mid_line && in_file > 0);
                        in_file = 0;
                    }
                }
            }
            prop_assert_eq!(in_file, 0, "the last file is sealed");
            prop_assert_eq!(together, text);
        }

        #[test]
        fn letter_lines_are_found_wherever_they_stand(text in proptest::collection::vec(
            prop_oneof![3 => Just(b'\n'), 3 => Just(b'1'), 1 => Just(b'x'), 1 => Just(b'_')], 0..900)) {
            let slow = |from: usize| (from..text.len()).find(|at| {
                (*at == from || text[at - 1] == b'\n') && (text[*at].is_ascii_alphabetic() || text[*at] == b'_')
            });
            prop_assert_eq!(next_letter_line(&text, 0), slow(0));
        }
    }
}
