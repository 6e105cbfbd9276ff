//! The field-aware encoder: rows → deflate, as small as `gzip -6` or smaller, at several times its speed.
//!
//! Promises: what is written is standard deflate (RFC 1951) that any inflater turns back into exactly the input, for any
//! input; the output is the same on every CPU; work and memory are bounded, whatever the bytes are. It never makes a
//! final block, never keeps a byte back, never looks at what a field means.
//!
//! # How deflate permits it
//!
//! Deflate says how matches are written down, not how they are found. An encoder for any bytes must look at every place,
//! 85 to 105 times a row, and follow chains of older places each time. But rows repeat by field: where no field starts,
//! there is hardly ever a match worth having, only three or four digits that happen to occur nearby and cost as much
//! as the digits themselves. So this encoder looks at field starts alone, some eight times a row, and spends the time saved
//! on looking well.
//!
//! # What is tried where
//!
//! * Where fields end, the check that saw the lines before has found already, 256 KiB at a time, so that all is done with these
//!   while they are in the core's second level cache. Else bytes are parsed as rows when most of the first lines of a block hold
//!   one of `, ; tab | space` equally often ([`crate::fields`]). Everything else, and what is left of a field longer than 48
//!   bytes, goes to hash chains over four bytes ([`plain`](super::plain)).
//! * At the start of a field, up to four ways of finding an older place are tried, each one slot of a table: the first 3, 4,
//!   6, 8, 10, 12, 16, 20, 22 or 28 bytes are the same, in whatever column they stood (addresses and ports of a reverse flow
//!   stand in the other one). Short ones find the network of an address, 20 finds a stamp up to its second, 28 finds
//!   `443,27,6,0,2025-11-27 10:2…` in one piece. A row takes some 18 tries.
//! * Which four: columns differ, so each keeps the ways that gained most together over 256 rows watched after the window
//!   has filled (256 rows), and a way only where it saves a quarter of a bit a row. They are chosen anew when a block became
//!   a sixteenth larger than usual, and after 262,144 rows ([`ways`](super::ways)).
//! * Of the candidates the one with the highest gain is taken: 4 bits a byte (a digit's literal costs 3.3 to 4) less 9 and
//!   the bits of the distance. Candidates are compared by one vector each, without a branch, since none would be predictable;
//!   for the same reason 40 rows at a time are looked up column by column before the first match is taken of them
//!   ([`rows`](super::rows)). All of it is compiled three times: for any CPU, for AVX2, and for AVX-512, which takes a
//!   twentieth less time than AVX2 ([`lanes`](crate::fields::lanes)).
//! * The match is prolonged to the front over bytes that agree (the separator, the end of the field before). Where the match
//!   before ends in this field, it gives its tail up if the new one brings 6 bytes more.
//! * One block is at most 256 KiB; its codes are its own, or the fixed ones, or it is stored, whichever is smallest. Literals
//!   are written two by two from a table of their pairs, and the last few before a match without a branch
//!   ([`block`](super::block)).
//!
//! # Independence
//!
//! [`Encoder::encode`] refers to nothing before its input, so pieces may be packed by any thread and read in any order. What it
//! knows of the columns stays from piece to piece, which changes what it finds, never what comes back.
//! [`Encoder::encode_next`] goes on: window, tables and choices stay, so that a piece of 100 rows compresses nearly as if it
//! stood in the middle of one stream.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::block::{Blocks, CHUNK, Held, Parsed, WINDOW};
use super::filled;
use super::plain::{Chains, Reach};
use super::rows::{Matches, Parse, Strip, Taken};
use super::ways::Ways;
use crate::fields::lanes::{LEAD, Lanes, PADDING, PLACES, Padded, Path, Words};
#[cfg(target_arch = "x86_64")]
use crate::fields::lanes::{Wide, Wider};
use crate::fields::{self, Edges};

/// Numbers of bytes in the stream start here, so that the zeros of a fresh table lie beyond every window.
const FIRST: u32 = 1 << 16;
/// The bytes of the buffer that are filled at most.
const FULL: usize = LEAD + WINDOW + CHUNK;
/// Room for a [`View`](fields::lanes::View) that begins before any chunk. What is never touched takes no memory.
type Buffer = [u8; FULL + PLACES + PADDING];
const _: () = assert!(LEAD + CHUNK < PLACES, "every byte of a chunk is a place of its view");
/// Past this number the window is given up and counting starts again, long before 32 bits run out.
const RESTART: u32 = 1 << 30;

/// Makes raw deflate of rows. Memory, 6 MB of which rows touch less than one, is allocated once; a call allocates only when
/// `out` must grow.
pub struct Encoder {
    /// [`LEAD`], since what is stale in a table is compared before it is known to be stale; the window, and the block.
    bytes: Box<Buffer>,
    filled: usize,
    /// Matches never reach before this byte.
    floor: usize,
    /// The number in the stream of the buffer's first byte.
    base: u32,
    separator: Option<u8>,
    /// The edges of a chunk that came without them.
    edges: Edges,
    held: Held,
    ways: Ways,
    strip: Strip,
    chains: Chains,
    matches: Box<Matches>,
    blocks: Blocks,
    path: Path,
}

impl Encoder {
    /// An encoder for the CPU it runs on.
    #[must_use]
    pub fn new() -> Self {
        Self::on(Path::best())
    }

    fn on(path: Path) -> Self {
        Self {
            bytes: filled(0),
            filled: LEAD,
            floor: LEAD,
            base: FIRST,
            separator: None,
            edges: Edges::new(path),
            held: Held::default(),
            ways: Ways::new(),
            strip: Strip::new(),
            chains: Chains::new(),
            matches: filled(0),
            blocks: Blocks::new(),
            path,
        }
    }

    /// An encoder that uses no special instructions. Its output is the same, byte for byte.
    #[must_use]
    pub fn portable() -> Self {
        Self::on(Path::Words)
    }

    /// One for each set of instructions that this CPU knows, the portable one first. The output of all is the same.
    pub fn all() -> impl Iterator<Item = Self> {
        Path::all().map(Self::on)
    }

    /// Appends `input` to `out` as raw deflate (RFC 1951): zero or more blocks that are not final, then the empty stored
    /// block of a sync flush (`00 00 FF FF`), so that `out` ends with a whole byte.
    ///
    /// Matches reach only into `input`.
    pub fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.forget();
        self.encode_next(input, out);
    }

    /// The same, but matches may also reach into the last 32 KiB of the calls before, back to the last [`Encoder::encode`]:
    /// the piece can be read only behind theirs.
    pub fn encode_next(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.add(input, None, out);
        self.flush(out);
    }

    /// Begins a piece that refers to nothing before it.
    pub(crate) fn forget(&mut self) {
        self.base = (self.base + self.filled as u32).next_multiple_of(1 << 16);
        self.filled = LEAD;
        self.floor = LEAD;
        self.separator = None;
        self.ways.clear();
    }

    /// Appends the blocks of `bytes` to `out`; less than a byte of them is held back. `edges` are those of `bytes`, if they
    /// were found already.
    pub(crate) fn add(&mut self, bytes: &[u8], edges: Option<&Edges>, out: &mut Vec<u8>) {
        let edges = edges.filter(|edges| edges.bytes() == bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = if edges.is_some() { rest.len() } else { fields::whole_rows(rest).unwrap_or(CHUNK) };
            let (chunk, after) = rest.split_at(length);
            rest = after;
            let from = self.load(chunk);
            self.block(from, edges, out);
        }
    }

    /// Ends a piece with the sync flush.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        std::mem::take(&mut self.held).align(out);
        out.extend_from_slice(&[0x00, 0x00, 0xff, 0xff]);
    }

    /// What the next [`Encoder::encode_next`] may refer to: at most the last 32 KiB since the last [`Encoder::encode`].
    pub fn window(&self) -> &[u8] {
        &self.bytes[self.floor.max(self.filled.saturating_sub(WINDOW))..self.filled]
    }

    /// Puts `chunk` behind the window and returns where it begins.
    fn load(&mut self, chunk: &[u8]) -> usize {
        if self.filled + chunk.len() > FULL {
            let gone = self.filled.saturating_sub(LEAD + WINDOW);
            self.bytes.copy_within(LEAD + gone..self.filled, LEAD);
            self.filled -= gone;
            self.floor = self.floor.saturating_sub(gone).max(LEAD);
            self.base += gone as u32;
        }
        if self.base > RESTART {
            self.base = FIRST;
            self.floor = self.filled;
            self.ways.clear();
            self.chains.clear();
        }
        let from = self.filled;
        self.filled += chunk.len();
        self.bytes[from..self.filled].copy_from_slice(chunk);
        // Keys are read past the end; with zeros there the output depends on the input alone.
        self.bytes[self.filled..self.filled + PADDING].fill(0);
        from
    }

    /// Writes the bytes from `from` on as one block.
    fn block(&mut self, from: usize, edges: Option<&Edges>, out: &mut Vec<u8>) {
        if edges.is_none() {
            let chunk = &self.bytes[from..self.filled];
            self.separator = fields::separator(chunk).or(self.separator);
            if let Some(separator) = self.separator {
                self.edges.find(chunk, separator);
            }
        }
        match self.path {
            Path::Words => block(self, Words, from, edges, out),
            // SAFETY: a `Wide` exists only where all the features of `block_wide` were detected.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Path::Wide(wide) => unsafe { block_wide(self, wide, from, edges, out) },
            // SAFETY: a `Wider` exists only where all the features of `block_wider` were detected.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Path::Wider(wider) => unsafe { block_wider(self, wider, from, edges, out) },
        }
    }
}

/// Whether `piece`, read behind `window`, gives back `input` and not a byte more, by zlib-rs, which shares no code with
/// this encoder. `window` is empty for [`Encoder::encode`], and [`Encoder::window`] from before the call for
/// [`Encoder::encode_next`]. Takes about as long as the encoding; allocates 64 KiB.
#[must_use]
pub fn verify(input: &[u8], window: &[u8], piece: &[u8]) -> bool {
    let mut inflate = flate2::Decompress::new(false);
    if !window.is_empty() && inflate.set_dictionary(window).is_err() {
        return false;
    }
    let mut room = vec![0; 64 * 1024];
    loop {
        let (read, made) = (inflate.total_in() as usize, inflate.total_out() as usize);
        let Ok(status) = inflate.decompress(&piece[read..], &mut room, flate2::FlushDecompress::None) else {
            return false;
        };
        let now = inflate.total_out() as usize;
        if status == flate2::Status::StreamEnd || input.get(made..now) != Some(&room[..now - made]) {
            return false;
        }
        if now == made {
            // Nothing more comes out: all was read, or the piece is no deflate.
            return inflate.total_in() as usize == piece.len() && now == input.len();
        }
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("window", &(self.filled - self.floor).min(WINDOW)).finish_non_exhaustive()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// [`block`], compiled for CPUs with these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn block_wide(encoder: &mut Encoder, wide: Wide, from: usize, edges: Option<&Edges>, out: &mut Vec<u8>) {
    block(encoder, wide, from, edges, out);
}

/// [`block`] for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2")]
fn block_wider(encoder: &mut Encoder, wider: Wider, from: usize, edges: Option<&Edges>, out: &mut Vec<u8>) {
    block(encoder, wider, from, edges, out);
}

/// Parses and writes one block. Always inlined, so that all of it is compiled for the features of its caller.
#[inline(always)]
fn block<L: Lanes>(encoder: &mut Encoder, lanes: L, from: usize, edges: Option<&Edges>, out: &mut Vec<u8>) {
    // The chunk's first byte is place `LEAD`, as its edges have it.
    let start = from - LEAD;
    let bytes = Padded(encoder.bytes[start..].first_chunk().expect("there is room for a view before any chunk"));
    let (from, to, floor) = (LEAD, encoder.filled - start, encoder.floor.saturating_sub(start));
    let mut parse = Parse {
        lanes,
        reach: Reach { base: encoder.base + start as u32, floor },
        taken: Taken::new(bytes, (from, to), floor, &mut encoder.matches),
        ways: &mut encoder.ways,
        chains: &mut encoder.chains,
        strip: &mut encoder.strip,
    };
    match edges.or(encoder.separator.map(|_| &encoder.edges)) {
        Some(edges) => parse.rows(edges),
        None => parse.plain(from, to),
    }
    let matches = parse.taken.matches();
    let before = out.len();
    encoder.held = encoder.blocks.write(Parsed { bytes, from, to, matches }, encoder.held, out);
    encoder.ways.review(to - from, out.len() - before);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::DeflateDecoder;
    use proptest::prelude::*;

    use super::*;
    use crate::sample::{Options, Rows, Stamps};

    fn rows(rows: usize, stamps: Stamps) -> Vec<u8> {
        let mut bytes = Vec::new();
        Rows::new(Options { stamps, ..Options::default() }).fill(&mut bytes, rows);
        bytes
    }

    fn inflate(deflate: &[u8]) -> Vec<u8> {
        let mut ended = deflate.to_vec();
        ended.extend_from_slice(&[0x03, 0x00]);
        let mut bytes = Vec::new();
        DeflateDecoder::new(&ended[..]).read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// All paths, alone and in sequence, give the same bytes, and the input comes back.
    fn holds(pieces: &[&[u8]]) {
        let whole = pieces.concat();
        let mut first: Option<(Vec<u8>, Vec<Vec<u8>>)> = None;
        for mut encoder in Encoder::all() {
            let mut stream = Vec::new();
            for piece in pieces {
                encoder.encode_next(piece, &mut stream);
                assert!(stream.ends_with(&[0x00, 0x00, 0xff, 0xff]));
            }
            assert!(inflate(&stream) == whole, "a sequence does not come back");
            let mut alone = Vec::new();
            for piece in pieces {
                let mut used = Vec::new();
                encoder.encode(piece, &mut used);
                assert!(inflate(&used) == *piece, "a piece does not come back");
                alone.push(used);
            }
            match &first {
                Some(first) => assert!(*first == (stream, alone), "a path differs"),
                None => first = Some((stream, alone)),
            }
        }
        for piece in pieces {
            let mut fresh = Vec::new();
            Encoder::new().encode(piece, &mut fresh);
            assert!(inflate(&fresh) == *piece, "a piece packed first does not come back");
        }
    }

    #[test]
    fn nothing_is_a_sync_flush() {
        let mut out = vec![1];
        Encoder::new().encode(b"", &mut out);
        assert_eq!(out, [1, 0x00, 0x00, 0x00, 0xff, 0xff]);
    }

    #[test]
    fn odd_inputs_come_back() {
        let giant = vec![b'x'; 300_000];
        let commas = vec![b','; 70_000];
        let lines = vec![b'\n'; 70_000];
        let long_rows = "field of some length;another one;a third that is longer than all the others;0\n".repeat(2_000);
        let mut seed = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .take(140_000)
        .collect();
        for piece in
            [&b"a"[..], b"\n", b",", b"a,b,c", b"a,b,c\n", &giant, &commas, &lines, long_rows.as_bytes(), &noise]
        {
            holds(&[piece, b"", b"a,b,c\n", piece]);
        }
    }

    #[test]
    fn a_long_match_within_a_longer_one_brings_nothing() {
        let text = |seed: u64, length: u64| -> String {
            let letter = |at: u64| b'a' + ((at * at * 7_919 + at * seed) >> 5 & 15) as u8;
            (0..length).map(|at| char::from(letter(at))).collect()
        };
        let (common, other, tail) = (text(3, 400), text(5, 100), text(11, 100));
        // The third row's first field goes on with the first row for 400 bytes; its second field agrees with the second row's
        // for 300.
        let rows = format!("field,field,field\nk1,{common},1\nz9,{}{other},2\nk1,{common}{tail},3\n", &common[..300]);
        holds(&[rows.as_bytes()]);
    }

    #[test]
    fn verify_tells_true_pieces_from_others() {
        let bytes = rows(3_000, Stamps::Civil);
        let mut encoder = Encoder::new();
        for (at, input) in bytes.chunks(50_000).enumerate() {
            let window = encoder.window().to_vec();
            assert_eq!(window.len(), (at * 50_000).min(WINDOW));
            let mut piece = Vec::new();
            encoder.encode_next(input, &mut piece);
            assert!(verify(input, &window, &piece));
            assert!(!verify(&input[1..], &window, &piece));
            assert!(!verify(&[input, b"\n"].concat(), &window, &piece));
            assert!(!verify(input, &window, &piece[..piece.len() / 2]));
            assert!(at == 0 || !verify(input, b"", &piece), "a piece that stands behind others stands alone");
            piece[40] ^= 4;
            assert!(!verify(input, &window, &piece));
        }
        assert!(verify(b"", b"", &[0x00, 0x00, 0x00, 0xff, 0xff]));
        assert!(!verify(b"", b"", &[0x03, 0x00]));
    }

    #[test]
    fn two_bytes_alike_are_no_match() {
        let mut bytes = Vec::new();
        for row in 0..3_000 {
            let blank = if row % 3 == 0 { "\n" } else { "" };
            bytes.extend_from_slice(format!("a{row} 2025-11-27 10:2{}:91 x\n{blank}{blank}", row % 10).as_bytes());
        }
        let pieces: Vec<&[u8]> = bytes.chunks(268).take(120).collect();
        holds(&pieces);
        holds(&[&bytes]);
    }

    #[test]
    fn rows_come_back_in_pieces_of_any_size() {
        let bytes = rows(12_000, Stamps::Civil);
        for (size, count) in [(7, 200), (100, 200), (8_192, 20), (100_000, 3), (1 << 20, 1)] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).take(count).collect();
            holds(&pieces);
        }
    }

    #[test]
    fn rows_become_smaller_than_zlib_makes_them() {
        for stamps in [Stamps::Civil, Stamps::Epoch] {
            let bytes = rows(20_000, stamps);
            let mut out = Vec::new();
            for piece in bytes.chunks(1 << 20) {
                Encoder::new().encode(piece, &mut out);
            }
            let mut zlib = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
            std::io::Write::write_all(&mut zlib, &bytes).unwrap();
            let zlib = zlib.finish().unwrap();
            assert!(out.len() <= zlib.len(), "{} bytes, zlib {}", out.len(), zlib.len());
        }
    }

    #[test]
    fn noise_grows_by_little() {
        let mut state = 7_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(1 << 20)
        .collect();
        let mut out = Vec::new();
        Encoder::new().encode(&noise, &mut out);
        assert!(out.len() < noise.len() + 200, "{}", out.len());
    }

    #[test]
    fn small_pieces_stay_near_one_stream() {
        let bytes = rows(20_000, Stamps::Civil);
        let (mut small, mut large) = (Encoder::new(), Encoder::new());
        let (mut pieces, mut stream) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(8 * 1024) {
            small.encode_next(piece, &mut pieces);
        }
        for piece in bytes.chunks(1 << 20) {
            large.encode_next(piece, &mut stream);
        }
        assert!(
            pieces.len() * 100 <= stream.len() * 103,
            "{} bytes in pieces, {} in one stream",
            pieces.len(),
            stream.len()
        );
    }

    #[test]
    fn numbers_of_bytes_begin_again() {
        let bytes = rows(3_000, Stamps::Civil);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let mut encoder = Encoder::new();
        encoder.base = RESTART + 1;
        let mut out = Vec::new();
        encoder.encode_next(first, &mut out);
        encoder.base = RESTART + 1;
        encoder.encode_next(second, &mut out);
        assert!(inflate(&out) == bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_bytes_come_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 0..5)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            holds(&pieces);
        }

        #[test]
        fn any_rows_come_back(
            words in prop::collection::vec("[a-c0-9.:]{0,12}", 1..12),
            picks in prop::collection::vec((0_usize..12, 0_usize..8), 0..4_000),
            cuts in prop::collection::vec(0_usize..30_000, 0..4),
        ) {
            let separators = [",", ",", ",", ";", "\t", "|", "\n", "\n"];
            let mut bytes = Vec::new();
            for (word, separator) in picks {
                bytes.extend_from_slice(words[word % words.len()].as_bytes());
                bytes.extend_from_slice(separators[separator].as_bytes());
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            holds(&pieces);
        }
    }
}
