//! Batch → Packed: check the lines, gzip the batch. No threads and no files here.
//!
//! Both go through a batch together, a chunk of at most 256 KiB after the other: what the check has just read, and the fields it
//! has found there, are in the core's cache when they are packed. One after the other over the whole batch took an eighth longer.
//!
//! A piece is one batch as raw deflate (RFC 1951), ended by a sync flush: a byte boundary, so that pieces packed on
//! different cores stand one after the other in one gzip member, and a torn file is cut back to its last whole piece.
//! A piece may refer to the 32 KiB before it only when it was packed with the very state that packed its predecessor in
//! the same file; [`Relay`] hands that state on. So a slow probe's small pieces compress as one stream, and under load
//! pieces become independent, and parallel, by themselves.

pub mod field;

mod bits;
mod block;
mod huffman;
mod plain;
mod rows;
mod ways;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use crossbeam_utils::atomic::AtomicCell;
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::check::{self, Checker, Findings};
use crate::fields::Edges;
use crate::line::{BLOCK, Batch, Block};
use crate::schema::Schema;
use field::Encoder;

/// `processor_gzip_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// The field-aware encoder.
    #[default]
    Auto,
    /// flate2 at 1 to 9.
    Zlib(u32),
}

/// Raw deflate that ends at a byte boundary, and what the gzip trailer must know of it.
#[derive(Debug, Default, Clone)]
pub struct Piece {
    /// The deflate blocks; empty for no bytes.
    pub deflate: Vec<u8>,
    /// CRC-32 (RFC 1952) of the bytes it unpacks to.
    pub crc: u32,
    /// How many bytes it unpacks to.
    pub len: u64,
}

/// One batch, done: what the spool appends.
#[derive(Debug)]
pub struct Packed {
    /// What goes into the file.
    pub piece: Piece,
    /// What the lines said.
    pub findings: Findings,
    /// Lines to set aside, each after its reason and a tab.
    pub rejects: Vec<u8>,
    /// The header in force.
    pub schema: Option<Arc<Schema>>,
    /// The last line goes on in the next piece: no cut is allowed after this one.
    pub ends_mid_line: bool,
    /// The field-aware encoder was found to have failed on this batch, which was packed again without it; see [`Relay`].
    pub encoder_failed: bool,
}

/// One piece of so many of the field-aware encoder is unpacked again and compared. A check takes about as long as the
/// packing, so that this costs 1.6 % of it.
const CHECK_EVERY: u64 = 64;
/// What packs for the rest of the life when a check has failed.
const FALLBACK: Level = Level::Zlib(6);

/// An encoder, with the window of the piece that it packed last.
#[derive(Debug)]
struct State {
    codec: Codec,
    /// The piece that may refer to that window; `None` for an encoder that has packed nothing.
    next: Option<u64>,
}

/// Hands the encoder's state from the end of one piece to the start of the next, in stream order; it waits for nobody.
///
/// ```text
///            begin n: swap, if the state of n - 1 rests or the packer has none
///   packer ◀───────────────────────────────────────────────────────────────────▶ slot
///   (own)    end n: swap, unless a piece after n was begun                        (one for all packers)
/// ```
///
/// A state is in a packer's hand or in the slot, nowhere else: there is at most one more than there are packers, and one in
/// all while pieces come one at a time. Under load the next piece was begun before this one is done, so that each state stays
/// with its packer, in the caches of its core, and pieces stand alone.
///
/// A state says itself which piece may follow it, and each piece is packed once. So whatever packer finds whatever state,
/// what it packs is right; packers that meet at the slot in the wrong order can only cost a piece its window.
///
/// The relay also carries the word, to all packers, that the field-aware encoder is not to be trusted any more.
#[derive(Default)]
pub struct Relay {
    slot: AtomicCell<Option<Box<State>>>,
    /// The piece that the state in the slot waits for, or waited for. A hint: it is written after the slot.
    awaited: AtomicU64,
    /// One past the latest piece that was begun. A hint too.
    begun: AtomicU64,
    distrusted: AtomicBool,
}

const _: () = assert!(AtomicCell::<Option<Box<State>>>::is_lock_free());

impl Relay {
    /// Begins piece `number`: the state of piece `number - 1` for `own`, when it rests here; else `own`. Who has none, as
    /// at first or after having left one, gets what is here: a new one would have to learn anew.
    fn begin(&self, number: u64, own: Option<Box<State>>) -> Option<Box<State>> {
        self.begun.fetch_max(number + 1, Relaxed);
        if own.is_none() || self.awaited.load(Acquire) == number { self.slot.swap(own) } else { own }
    }

    /// Ends piece `number`: leaves its state for the next piece, unless that was begun already; what the packer has then.
    fn end(&self, number: u64, state: Box<State>) -> Option<Box<State>> {
        if self.begun.load(Relaxed) > number + 1 {
            return Some(state);
        }
        let other = self.slot.swap(Some(state));
        self.awaited.store(number + 1, Release);
        other
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("begun", &self.begun).finish_non_exhaustive()
    }
}

/// Packs batches; one for each pack thread.
#[derive(Debug)]
pub struct Packer {
    checker: Checker,
    level: Level,
    /// [`field::verify`]; a test's own to see a failure.
    verify: fn(&[u8], &[u8], &[u8]) -> bool,
    relay: Arc<Relay>,
    /// This packer's own; see [`Relay`].
    state: Option<Box<State>>,
}

impl Packer {
    /// A packer with the settings of the parse stage, the level, and the relay that all packers of the pipeline share.
    pub fn new(options: check::Options, level: Level, relay: Arc<Relay>) -> Self {
        Self { checker: Checker::new(options), level, verify: field::verify, relay, state: None }
    }

    /// Packs batch `number` (consecutive from 0 in stream order) into `deflate`, whose old content is dropped and whose
    /// memory is used again. Gives the block back, empty.
    pub fn pack(&mut self, number: u64, batch: Batch, mut deflate: Vec<u8>) -> (Packed, Block) {
        deflate.clear();
        if self.relay.distrusted.load(Relaxed) {
            self.level = FALLBACK;
        }
        let state = self.relay.begin(number, self.state.take()).filter(|state| state.codec.serves(self.level));
        let mut state = state.unwrap_or_else(|| Box::new(State { codec: Codec::new(self.level), next: None }));
        // Forgotten before the first byte, not at it: so the state is that of this piece also when every line was set aside.
        if state.next != Some(number) || batch.starts_file {
            state.codec.forget();
        }
        let trial = number.is_multiple_of(CHECK_EVERY).then(|| Trial::of(&state.codec, &batch)).flatten();

        let mut packing = Packing { codec: &mut state.codec, crc: crc32fast::Hasher::new(), len: 0, deflate, trial };
        let (findings, rejects) = self.checker.check(&batch, |bytes, edges| packing.add(bytes, edges));
        let rejects = rejects.to_vec();
        let (mut piece, trial) = packing.end();

        let failed = trial.filter(|trial| piece.len > 0 && !(self.verify)(&trial.bytes, &trial.window, &piece.deflate));
        if let Some(trial) = &failed {
            self.relay.distrusted.store(true, Relaxed);
            state.codec = Codec::new(FALLBACK);
            piece.deflate = state.codec.piece(&trial.bytes, std::mem::take(&mut piece.deflate));
        }
        state.next = Some(number + 1);
        self.state = self.relay.end(number, state);
        let (schema, ends_mid_line) = (batch.schema.clone(), batch.ends_mid_line);
        let encoder_failed = failed.is_some();
        let packed = Packed { piece, findings, rejects, schema, ends_mid_line, encoder_failed };
        (packed, batch.block.emptied())
    }
}

/// What a piece of the field-aware encoder is checked against.
struct Trial {
    /// What it may refer to.
    window: Vec<u8>,
    /// What it must unpack to.
    bytes: Vec<u8>,
}

impl Trial {
    /// For the piece that `codec` is about to make of `batch`; `None` for zlib's encoder, which is checked enough.
    fn of(codec: &Codec, batch: &Batch) -> Option<Self> {
        let Codec::Fields(encoder) = codec else { return None };
        let window = encoder.window().to_vec();
        Some(Self { window, bytes: Vec::with_capacity(batch.block.filled().len()) })
    }
}

/// A piece being made.
struct Packing<'a> {
    codec: &'a mut Codec,
    crc: crc32fast::Hasher,
    len: u64,
    deflate: Vec<u8>,
    trial: Option<Trial>,
}

impl Packing<'_> {
    fn add(&mut self, bytes: &[u8], edges: Option<&Edges>) {
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        self.codec.add(bytes, edges, &mut self.deflate);
        if let Some(trial) = &mut self.trial {
            trial.bytes.extend_from_slice(bytes);
        }
    }

    fn end(self) -> (Piece, Option<Trial>) {
        let mut deflate = self.deflate;
        if self.len > 0 {
            self.codec.flush(&mut deflate);
        }
        (Piece { deflate, crc: self.crc.finalize(), len: self.len }, self.trial)
    }
}

/// `bytes` as a piece that stands alone; for the header line that `processor_csv_header: each-file` puts first.
pub fn lone_piece(bytes: &[u8]) -> Piece {
    let mut piece = Piece { deflate: Vec::new(), crc: crc32fast::hash(bytes), len: bytes.len() as u64 };
    if !bytes.is_empty() {
        piece.deflate = Codec::new(Level::Zlib(6)).piece(bytes, piece.deflate);
    }
    piece
}

/// A deflate encoder with its window.
#[derive(Debug)]
enum Codec {
    Fields(Box<Encoder>),
    Zlib(Compress),
}

impl Codec {
    fn new(level: Level) -> Self {
        match level {
            Level::Auto => Self::Fields(Box::default()),
            Level::Zlib(level) => Self::Zlib(Compress::new(Compression::new(level.clamp(1, 9)), false)),
        }
    }

    /// Whether this is the encoder of `level`.
    fn serves(&self, level: Level) -> bool {
        matches!((self, level), (Self::Fields(_), Level::Auto) | (Self::Zlib(_), Level::Zlib(_)))
    }

    /// Begins a piece that refers to nothing before it.
    fn forget(&mut self) {
        match self {
            Self::Fields(encoder) => encoder.forget(),
            Self::Zlib(compress) => compress.reset(),
        }
    }

    /// Appends the deflate of `bytes`, but for what it keeps back for [`Codec::flush`].
    fn add(&mut self, bytes: &[u8], edges: Option<&Edges>, out: &mut Vec<u8>) {
        match self {
            Self::Fields(encoder) => encoder.add(bytes, edges, out),
            Self::Zlib(compress) => deflate(compress, bytes, FlushCompress::None, out),
        }
    }

    /// Ends a piece with a sync flush.
    fn flush(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Fields(encoder) => encoder.flush(out),
            Self::Zlib(compress) => deflate(compress, &[], FlushCompress::Sync, out),
        }
    }

    /// `bytes` as a piece that refers to nothing before it, in `out`, whose old content is dropped.
    fn piece(&mut self, bytes: &[u8], mut out: Vec<u8>) -> Vec<u8> {
        out.clear();
        self.forget();
        self.add(bytes, None, &mut out);
        self.flush(&mut out);
        out
    }
}

/// An array on the heap that never passes over the stack.
#[allow(clippy::unnecessary_box_returns, reason = "too large for the stack")]
fn filled<T: Clone, const N: usize>(value: T) -> Box<[T; N]> {
    vec![value; N].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("the length is the array's"))
}

/// Room that one call to zlib gets; from the usual size of a packed block, so that one or two calls do.
const ROOM: usize = BLOCK / 3;

fn deflate(compress: &mut Compress, bytes: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
    let start = compress.total_in();
    loop {
        out.reserve(ROOM.min(bytes.len() / 2 + 64));
        let done = usize::try_from(compress.total_in() - start).unwrap_or(usize::MAX);
        let status = compress.compress_vec(&bytes[done..], out, flush);
        let all_in = compress.total_in() - start == bytes.len() as u64;
        // Output room left over means that the flush is complete; none left means "ask again".
        if all_in && out.len() < out.capacity() {
            return;
        }
        // zlib's deflate fails only on a spoilt state, which safe code cannot make; BufError is "ask again" too.
        debug_assert!(matches!(status, Ok(Status::Ok | Status::BufError)), "{status:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    fn batch(bytes: &[u8], starts_file: bool) -> Batch {
        let mut block = Block::new(bytes.len());
        block.append(bytes);
        Batch {
            block,
            schema: None,
            starts_mid_line: false,
            ends_mid_line: false,
            starts_file,
            arrived: Instant::now(),
        }
    }

    fn inflate(deflate: &[u8]) -> Vec<u8> {
        let mut whole = deflate.to_vec();
        whole.extend_from_slice(&[3, 0]);
        let mut out = Vec::new();
        flate2::read::DeflateDecoder::new(&whole[..]).read_to_end(&mut out).unwrap();
        out
    }

    fn rows(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).flat_map(|i| format!("10.0.{}.{},{i},{}\n", i % 7, i % 250, i * 37).into_bytes()).collect()
    }

    #[test]
    fn pieces_put_together_are_the_bytes_however_they_were_shared_out() {
        let orders = [[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]];
        for (order, level) in orders.into_iter().flat_map(|order| [(order, Level::Auto), (order, Level::Zlib(6))]) {
            let relay = Arc::new(Relay::default());
            let new = || Packer::new(check::Options::default(), level, Arc::clone(&relay));
            let mut packers = [new(), new()];
            let mut whole = Vec::new();
            let mut plain = Vec::new();
            for (number, who) in order.into_iter().enumerate() {
                let bytes = rows(number * 500, 500);
                let (packed, _) = packers[who].pack(number as u64, batch(&bytes, number == 0), Vec::new());
                assert!(packed.piece.deflate.ends_with(&[0, 0, 0xff, 0xff]));
                assert_eq!(packed.piece.crc, crc32fast::hash(&bytes));
                whole.extend(packed.piece.deflate);
                plain.extend(bytes);
            }
            assert_eq!(inflate(&whole), plain);
        }
    }

    #[test]
    fn a_piece_that_starts_a_file_stands_alone_and_one_that_lost_its_predecessor_too() {
        for level in [Level::Auto, Level::Zlib(6)] {
            check_followers(level);
        }
    }

    fn check_followers(level: Level) {
        let relay = Arc::new(Relay::default());
        let new = || Packer::new(check::Options::default(), level, Arc::clone(&relay));
        let (mut a, mut b) = (new(), new());
        let bytes = rows(0, 300);
        let alone = a.pack(0, batch(&bytes, true), Vec::new()).0.piece.deflate;
        let follows = a.pack(1, batch(&bytes, false), Vec::new()).0.piece.deflate;
        assert!(follows.len() < alone.len() / 4, "the window is used: {} of {}", follows.len(), alone.len());
        let starts = a.pack(2, batch(&bytes, true), Vec::new()).0.piece.deflate;
        assert_eq!(inflate(&starts), bytes);
        // Piece 4 is done before piece 3, as under load.
        let four = b.pack(4, batch(&bytes, false), Vec::new()).0.piece.deflate;
        assert_eq!(inflate(&four), bytes);
        let three = a.pack(3, batch(&bytes, false), Vec::new()).0.piece.deflate;
        let five = b.pack(5, batch(&bytes, false), Vec::new()).0.piece.deflate;
        let together = [starts, three, four, five].concat();
        assert_eq!(inflate(&together), bytes.repeat(4));
    }

    #[test]
    fn a_failed_check_ends_the_use_of_the_encoder() {
        let relay = Arc::new(Relay::default());
        let new = || Packer::new(check::Options::default(), Level::Auto, Arc::clone(&relay));
        let (mut a, mut b) = (new(), new());
        let bytes = rows(0, 300);
        let sound = b.pack(63, batch(&bytes, true), Vec::new()).0;
        assert!(!sound.encoder_failed);
        a.verify = |_, _, _| false;
        let failed = a.pack(64, batch(&bytes, false), Vec::new()).0;
        assert!(failed.encoder_failed);
        let next = b.pack(65, batch(&bytes, false), Vec::new()).0;
        assert!(!next.encoder_failed && matches!(b.level, FALLBACK));
        let together = [sound, failed, next].map(|packed| packed.piece.deflate).concat();
        assert_eq!(inflate(&together), bytes.repeat(3));
    }

    #[test]
    fn an_empty_piece_keeps_what_stood_before_it_and_nothing_of_another_file() {
        let options = check::Options { header: check::HeaderMode::None, ..check::Options::default() };
        let header = b"SRC_IP,PACKETS\n";
        let empty = |starts_file| Batch { schema: Schema::from_line(header), ..batch(header, starts_file) };
        let bytes = rows(0, 300);
        let some = |starts_file| batch(&bytes, starts_file);
        for level in [Level::Auto, Level::Zlib(6)] {
            let mut packer = Packer::new(options.clone(), level, Arc::default());
            let batches = [some(true), some(false), empty(true), some(false), empty(false), some(false)];
            let packed =
                batches.into_iter().zip(0..).map(|(batch, number)| packer.pack(number, batch, Vec::new()).0.piece);
            let pieces = packed.map(|piece| piece.deflate).collect::<Vec<_>>();
            assert!(pieces[2].is_empty() && pieces[4].is_empty());
            assert_eq!(inflate(&pieces[2..].concat()), bytes.repeat(2), "{level:?}");
            assert!(pieces[5].len() < pieces[3].len() / 4, "the window is used over an empty piece");
        }
    }

    #[test]
    fn threads_that_race_for_the_slot_make_right_pieces() {
        const PACKERS: usize = 4;
        const PIECES: u64 = 4000;
        let bytes = |number: u64| rows(number as usize * 20, 20);
        for level in [Level::Auto, Level::Zlib(1)] {
            let relay = Arc::new(Relay::default());
            let (jobs, work) = crossbeam_channel::bounded(PACKERS);
            let packed = std::thread::scope(|scope| {
                let packers = [(); PACKERS].map(|()| {
                    let (work, relay) = (work.clone(), Arc::clone(&relay));
                    scope.spawn(move || {
                        let mut packer = Packer::new(check::Options::default(), level, relay);
                        let pack = |number| {
                            let batch = batch(&bytes(number), number.is_multiple_of(50));
                            (number, packer.pack(number, batch, Vec::new()).0.piece.deflate)
                        };
                        work.iter().map(pack).collect::<Vec<_>>()
                    })
                });
                (0..PIECES).for_each(|number| jobs.send(number).unwrap());
                drop(jobs);
                packers.map(|packer| packer.join().unwrap())
            });
            let mut packed = packed.concat();
            packed.sort_unstable();
            for (file, pieces) in packed.chunks(50).enumerate() {
                let whole: Vec<u8> = pieces.iter().flat_map(|(_, piece)| piece.clone()).collect();
                let plain: Vec<u8> = (0..50).flat_map(|piece| bytes(file as u64 * 50 + piece)).collect();
                assert!(inflate(&whole) == plain, "file {file}");
            }
        }
    }

    #[test]
    fn no_lines_make_no_piece() {
        let options = check::Options { header: check::HeaderMode::None, ..check::Options::default() };
        let mut packer = Packer::new(options, Level::default(), Arc::default());
        let header = b"SRC_IP,PACKETS\n";
        let batch = Batch { schema: Schema::from_line(header), ..batch(header, true) };
        let packed = packer.pack(0, batch, vec![1, 2, 3]).0;
        assert!(packed.piece.deflate.is_empty() && packed.piece.len == 0);
        assert_eq!(packed.findings.header_lines, 1);
    }
}
