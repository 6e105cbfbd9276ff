//! Literals and matches → one block of deflate (RFC 1951, 3.2.3): counted, coded, written.
//!
//! Promises: the block decodes to exactly the bytes it was made from, whatever the matches cover, and it is the smallest of
//! the three kinds (codes of its own, the fixed codes, stored). It is never the final block. No allocation but in `out`.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::bits::{self, Bits, Room};
use super::filled;
use super::huffman::{self, Code, DIST, Header, LITLEN};
use crate::fields;
use crate::fields::lanes::Padded;

/// The shortest and the longest match (RFC 1951, 3.2.5).
pub(crate) const LEAST: usize = 3;
/// See [`LEAST`].
pub(crate) const MOST: usize = 258;
/// The farthest a match may reach back (RFC 1951, 2).
pub(crate) const WINDOW: usize = 32 * 1024;
/// The most bytes of one block. The literals of a block and its matches stay in the second level cache, and a header of
/// about 50 bytes is 0.07 % of what 256 KiB of rows become.
pub(crate) const CHUNK: usize = fields::CHUNK;
/// The symbol that ends a block.
const END: usize = 256;
/// Literals are copied in runs of this many.
const RUN: usize = 16;
/// Places for literals: a power of two, so that a remainder keeps a place within them.
const LITERALS: usize = 2 * CHUNK;
/// Two literals and the number of their bits are one entry of 32 bits: 2 × 13 + 6; four go into the word of bits between two
/// flushes: 4 × 13 + 7 bits.
const LONGEST_LITLEN: usize = 13;
const _: () = assert!(2 * CHUNK <= bits::PLACES, "a block has room");

/// `length` bytes (at most [`MOST`]) from `start` on are those `distance` (1 to [`WINDOW`]) before them. What no match covers
/// is literal. One word: the start below, then the distance, the length at the top.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match(u64);

impl Match {
    #[inline(always)]
    pub(crate) const fn new(start: usize, length: usize, distance: usize) -> Self {
        Self(start as u64 | (distance as u64) << 32 | (length as u64) << 48)
    }

    #[inline(always)]
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub(crate) const fn start(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    pub(crate) const fn length(self) -> usize {
        (self.0 >> 48) as usize
    }

    #[inline(always)]
    pub(crate) const fn distance(self) -> usize {
        (self.0 >> 32) as u16 as usize
    }

    /// The same match without its last `bytes`, fewer than its length.
    #[inline(always)]
    pub(crate) const fn shorter(self, bytes: usize) -> Self {
        Self(self.0 - ((bytes as u64) << 48))
    }
}

/// Where one block stands in a buffer, and how it was parsed.
#[derive(Clone, Copy)]
pub(crate) struct Parsed<'a> {
    pub(crate) bytes: Padded<'a>,
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The words of matches.
    pub(crate) matches: &'a [u64],
}

/// Bits, fewer than eight, that wait for the byte to become full.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) word: u64,
    pub(crate) count: u32,
}

impl Held {
    /// Three bits of zeros, the head of a stored block that is not the last, and zeros up to the end of the byte.
    pub(crate) fn align(self, out: &mut Vec<u8>) {
        if self.count > 0 {
            out.push(self.word as u8);
        }
        if self.count == 0 || self.count > 5 {
            out.push(0);
        }
    }
}

/// Makes blocks; keeps its memory from block to block.
pub(crate) struct Blocks {
    literals: Box<[u8; LITERALS + RUN]>,
    pairs: Pairs,
    room: Box<Room>,
    litlen: Code<LITLEN>,
    dist: Code<DIST>,
    fixed_litlen: Code<LITLEN>,
    fixed_dist: Code<DIST>,
    header: Header,
}

impl Blocks {
    pub(crate) fn new() -> Self {
        Self {
            literals: filled(0),
            pairs: Pairs::new(),
            room: filled(0),
            litlen: Code::empty(),
            dist: Code::empty(),
            fixed_litlen: huffman::fixed_litlen(),
            fixed_dist: huffman::fixed_dist(),
            header: Header::empty(),
        }
    }

    /// Appends one block to `out` after the bits in `held`; returns the bits that do not fill a byte.
    #[inline(always)]
    pub(crate) fn write(&mut self, parsed: Parsed, held: Held, out: &mut Vec<u8>) -> Held {
        let mut litlen = [0; LITLEN];
        let mut dist = [0; DIST];
        self.count(parsed, &mut litlen, &mut dist);
        self.litlen.fit(&litlen, LONGEST_LITLEN);
        self.dist.fit(&dist, huffman::LONGEST);
        self.header.spell(&self.litlen.lengths, &self.dist.lengths);
        let extra = extra_bits(&litlen, &dist);
        let own = self.header.bits() + self.litlen.cost(&litlen) + self.dist.cost(&dist) + extra;
        let fixed = self.fixed_litlen.cost(&litlen) + self.fixed_dist.cost(&dist) + extra;
        let coded = own.min(fixed);
        let plain = parsed.bytes.range(parsed.from, parsed.to);
        if stored_bits(plain.len()) <= coded {
            return store(plain, held, out);
        }
        let mut bits = Bits::new(&mut self.room, held.word, held.count);
        let (litlen_code, dist_code) = if fixed <= own {
            bits.add(0b01 << 1, 3);
            (&self.fixed_litlen, &self.fixed_dist)
        } else {
            bits.add(0b10 << 1, 3);
            self.header.write(&mut bits);
            (&self.litlen, &self.dist)
        };
        let (written, word, count) = if self.pairs.fill(&litlen, litlen_code) {
            emit(parsed, &self.pairs, litlen_code, dist_code, bits)
        } else {
            emit(parsed, litlen_code, litlen_code, dist_code, bits)
        };
        out.extend_from_slice(&self.room[..written]);
        Held { word, count }
    }

    /// Puts the literals in a row and counts every symbol.
    #[inline(always)]
    fn count(&mut self, parsed: Parsed, litlen: &mut [u32; LITLEN], dist: &mut [u32; DIST]) {
        let mut lengths = [0_u32; 512];
        let mut distances = [0_u32; 32];
        let mut at = parsed.from;
        let mut filled = 0;
        for &word in parsed.matches {
            let found = Match(word);
            self.gather(parsed.bytes, at, found.start(), filled);
            filled += found.start() - at;
            at = found.start() + found.length();
            lengths[found.length() % 512] += 1;
            distances[distance_symbol(found.distance()).number % 32] += 1;
        }
        self.gather(parsed.bytes, at, parsed.to, filled);
        filled += parsed.to - at;

        // Four counters a byte, because one that was just written can only be read again after a few cycles.
        let mut counts = [[0_u32; 256]; 4];
        let mut fours = self.literals[..filled].chunks_exact(4);
        for four in &mut fours {
            for (counts, &byte) in counts.iter_mut().zip(four) {
                counts[usize::from(byte)] += 1;
            }
        }
        for &byte in fours.remainder() {
            counts[0][usize::from(byte)] += 1;
        }
        for (byte, count) in litlen.iter_mut().enumerate().take(256) {
            *count = counts.iter().map(|counts| counts[byte]).sum();
        }
        litlen[END] = 1;
        for (length, &count) in lengths.iter().enumerate().take(MOST + 1).skip(LEAST) {
            litlen[length_symbol(length).number] += count;
        }
        dist.copy_from_slice(&distances[..DIST]);
    }

    /// Copies literals sixteen at a time; what comes along behind the last is overwritten by the next.
    #[inline(always)]
    fn gather(&mut self, bytes: Padded, from: usize, to: usize, filled: usize) {
        let mut done = 0;
        loop {
            if let Some(room) = self.literals[(filled + done) % LITERALS..].first_chunk_mut::<RUN>() {
                *room = *bytes.at(from + done);
            }
            done += RUN;
            if from + done >= to {
                return;
            }
        }
    }
}

/// A symbol, and the bits that follow it.
struct Symbol {
    number: usize,
    extra: u32,
    value: u32,
}

/// The symbol of a match's length (RFC 1951, 3.2.5): eight single lengths, then four symbols for each doubling.
const fn length_symbol(length: usize) -> Symbol {
    if length == MOST {
        return Symbol { number: 285, extra: 0, value: 0 };
    }
    let value = length - LEAST;
    if value < 8 {
        return Symbol { number: 257 + value, extra: 0, value: 0 };
    }
    let extra = value.ilog2() - 2;
    let number = 257 + 4 * (extra as usize + 1) + ((value >> extra) & 3);
    Symbol { number, extra, value: (value & ((1 << extra) - 1)) as u32 }
}

/// The symbol of a distance: four single ones, then two symbols for each doubling. Written without a branch, which
/// would be unpredictable, since near and far distances come in no order: half the value's top two bits make the symbol.
#[inline(always)]
const fn distance_symbol(distance: usize) -> Symbol {
    let value = distance as u32 - 1;
    let top = (value | 1).ilog2();
    let extra = top.saturating_sub(1);
    let number = 2 * extra + (value >> extra);
    Symbol { number: number as usize, extra, value: value & ((1 << extra) - 1) }
}

const fn extra_of_length(symbol: usize) -> u32 {
    if symbol < 265 || symbol == 285 { 0 } else { (symbol as u32 - 261) / 4 }
}

const fn extra_of_distance(symbol: usize) -> u32 {
    if symbol < 4 { 0 } else { (symbol as u32 - 2) / 2 }
}

fn extra_bits(litlen: &[u32; LITLEN], dist: &[u32; DIST]) -> u64 {
    let of = |counts: &[u32], extra: fn(usize) -> u32| -> u64 {
        counts.iter().enumerate().map(|(symbol, &count)| u64::from(count) * u64::from(extra(symbol))).sum()
    };
    of(litlen, extra_of_length) + of(dist, extra_of_distance)
}

/// What `length` bytes take when stored, the filling of the first byte at its worst.
const fn stored_bits(length: usize) -> u64 {
    (length.div_ceil(0xffff) * 40 + length * 8 + 10) as u64
}

/// Stored blocks (RFC 1951, 3.2.4): as they are, at most 65,535 bytes each.
fn store(bytes: &[u8], held: Held, out: &mut Vec<u8>) -> Held {
    let mut held = held;
    for piece in bytes.chunks(0xffff) {
        held.align(out);
        held = Held::default();
        let length = piece.len() as u16;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
    held
}

/// A code, the extra bits of a length behind it, and the length of both.
#[derive(Clone, Copy, Default)]
struct Entry {
    bits: u32,
    length: u32,
}

/// Writes everything after the header.
#[inline(always)]
fn emit(
    parsed: Parsed,
    literals: &impl Literals,
    litlen: &Code<LITLEN>,
    dist: &Code<DIST>,
    mut bits: Bits,
) -> (usize, u64, u32) {
    let mut lengths = [Entry::default(); 512];
    for (length, entry) in lengths.iter_mut().enumerate().take(MOST + 1).skip(LEAST) {
        let Symbol { number: symbol, extra, value } = length_symbol(length);
        let own = u32::from(litlen.lengths[symbol]);
        *entry = Entry { bits: u32::from(litlen.bits[symbol]) | value << own, length: own + extra };
    }
    let mut distances = [Entry::default(); 32];
    for (symbol, entry) in distances.iter_mut().enumerate().take(DIST) {
        *entry = Entry { bits: dist.bits[symbol].into(), length: dist.lengths[symbol].into() };
    }
    let mut at = parsed.from;
    for &word in parsed.matches {
        let found = Match(word);
        literals.write(parsed.bytes, at, found.start(), &mut bits);
        at = found.start() + found.length();
        let length = lengths[found.length() % 512];
        let Symbol { number: symbol, extra, value } = distance_symbol(found.distance());
        let distance = distances[symbol % 32];
        let both = length.length + distance.length;
        let code = u64::from(length.bits) | u64::from(distance.bits) << length.length | u64::from(value) << both;
        // Nearly always there is room.
        bits.make_room(both + extra);
        bits.add(code, both + extra);
        bits.flush();
    }
    literals.write(parsed.bytes, at, parsed.to, &mut bits);
    bits.make_room(litlen.lengths[END].into());
    bits.add(u64::from(litlen.bits[END]), u32::from(litlen.lengths[END]));
    bits.finish()
}

/// Writes literals.
trait Literals {
    /// Writes the bytes `from..to`; at most 4 × 13 bits are added after the last flush.
    fn write(&self, bytes: Padded, from: usize, to: usize, bits: &mut Bits);
}

impl Literals for Code<LITLEN> {
    #[inline(always)]
    fn write(&self, bytes: Padded, from: usize, to: usize, bits: &mut Bits) {
        for &byte in bytes.range(from, to) {
            bits.add(u64::from(self.bits[usize::from(byte)]), u32::from(self.lengths[usize::from(byte)]));
            bits.flush();
        }
    }
}

/// The codes of every two literals, one behind the other: an entry for [`Bits::add_entry`], by both bytes.
///
/// A zero stands for no literal: so one or none are written as two are, and only blocks without a literal of zero are written
/// by pairs. Rows have some 15 literals and 200 pairs, which stay in the first level cache.
struct Pairs(Box<[u32; 1 << 16]>);

/// The most different literals of a block that is written by pairs, since filling the table takes their square.
const PAIRED: usize = 64;

impl Pairs {
    fn new() -> Self {
        Self(filled(0))
    }

    /// Fills in the pairs of the literals that `counts` has, and each alone; false where it would not pay.
    fn fill(&mut self, counts: &[u32; LITLEN], code: &Code<LITLEN>) -> bool {
        if counts[0] > 0 {
            return false;
        }
        // The first stands for no literal.
        let mut used = [0_u8; 1 + PAIRED];
        let mut count = 1;
        for (byte, _) in (0..=u8::MAX).zip(counts).filter(|&(_, &count)| count > 0) {
            let Some(place) = used.get_mut(count) else { return false };
            *place = byte;
            count += 1;
        }
        let of = |byte: u8| match byte {
            0 => Entry::default(),
            _ => Entry { bits: code.bits[usize::from(byte)].into(), length: code.lengths[usize::from(byte)].into() },
        };
        for &second in &used[..count] {
            for &first in &used[..count] {
                let (low, high) = (of(first), of(second));
                let bits = low.bits | high.bits << low.length;
                self.0[usize::from(u16::from_le_bytes([first, second]))] = bits << 6 | (low.length + high.length);
            }
        }
        true
    }

    /// Adds the literals of the four bytes of `word`.
    #[inline(always)]
    fn add(&self, word: u32, bits: &mut Bits) {
        bits.add_entry(self.0[(word & 0xffff) as usize]);
        bits.add_entry(self.0[(word >> 16) as usize]);
    }
}

impl Literals for Pairs {
    /// The last four or fewer are written without a branch, since their number is unpredictable.
    #[inline(always)]
    fn write(&self, bytes: Padded, from: usize, to: usize, bits: &mut Bits) {
        const MASKS: [u32; 8] = [0, 0xff, 0xffff, 0xff_ffff, u32::MAX, 0, 0, 0];
        let mut at = from;
        while at + 4 < to {
            self.add(u32::from_le_bytes(*bytes.at(at)), bits);
            bits.flush();
            at += 4;
        }
        self.add(u32::from_le_bytes(*bytes.at(at)) & MASKS[(to - at) % 8], bits);
    }
}
