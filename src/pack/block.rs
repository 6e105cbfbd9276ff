//! Literals and matches → one block of deflate (RFC 1951, 3.2.3): counted, coded, written.
//!
//! Promises: the block decodes to exactly the bytes it was made from, whatever the matches cover, and it is the smallest of
//! the three kinds (codes of its own, the fixed codes, stored). It is never the final block. No allocation but in `out`.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::bits::{Bits, SLACK};
use super::huffman::{self, Code, DIST, Header, LITLEN};
use crate::fields::lanes::Padded;

/// The shortest and the longest match (RFC 1951, 3.2.5).
pub(crate) const LEAST: usize = 3;
/// See [`LEAST`].
pub(crate) const MOST: usize = 258;
/// The farthest a match may reach back (RFC 1951, 2).
pub(crate) const WINDOW: usize = 32 * 1024;
/// The most bytes of one block. The literals of a block and its matches stay in the second level cache, and a header of
/// about 50 bytes is 0.07 % of what 256 KiB of rows become.
pub(crate) const CHUNK: usize = 256 * 1024;
/// The symbol that ends a block.
const END: usize = 256;
/// Literals are copied in runs of this many.
const RUN: usize = 16;
/// Places for literals: a power of two, so that a remainder keeps a place within them.
const LITERALS: usize = 2 * CHUNK;
/// Four literals go into the word of bits between two flushes: 4 × 14 + 7 bits.
const LONGEST_LITLEN: usize = 14;

/// `length` bytes from `start` on are those `distance` before them. What no match covers is literal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    pub(crate) start: u32,
    pub(crate) length: u16,
    pub(crate) distance: u16,
}

/// Where one block stands in a buffer, and how it was parsed.
#[derive(Clone, Copy)]
pub(crate) struct Parsed<'a> {
    pub(crate) bytes: Padded<'a>,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) matches: &'a [Match],
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
    litlen: Code<LITLEN>,
    dist: Code<DIST>,
    fixed_litlen: Code<LITLEN>,
    fixed_dist: Code<DIST>,
    header: Header,
}

impl Blocks {
    pub(crate) fn new() -> Self {
        let literals = vec![0; LITERALS + RUN].into_boxed_slice();
        Self {
            literals: literals.try_into().unwrap_or_else(|_| unreachable!("the length is the array's")),
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
        let at = out.len();
        out.resize(at + (coded as usize + 3 + 7).div_ceil(8) + SLACK, 0);
        let mut bits = Bits::new(&mut out[at..], held.word, held.count);
        let (written, word, count) = if fixed <= own {
            bits.add(0b01 << 1, 3);
            emit(parsed, &self.fixed_litlen, &self.fixed_dist, bits)
        } else {
            bits.add(0b10 << 1, 3);
            self.header.write(&mut bits);
            emit(parsed, &self.litlen, &self.dist, bits)
        };
        out.truncate(at + written);
        Held { word, count }
    }

    /// Puts the literals in a row and counts every symbol.
    #[inline(always)]
    fn count(&mut self, parsed: Parsed, litlen: &mut [u32; LITLEN], dist: &mut [u32; DIST]) {
        let mut lengths = [0_u32; 512];
        let mut distances = [0_u32; 32];
        let mut at = parsed.from;
        let mut filled = 0;
        for found in parsed.matches {
            let start = found.start as usize;
            self.gather(parsed.bytes, at, start, filled);
            filled += start - at;
            at = start + usize::from(found.length);
            lengths[usize::from(found.length) % 512] += 1;
            distances[distance_symbol(usize::from(found.distance)).number % 32] += 1;
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

/// The symbol of a distance: four single ones, then two symbols for each doubling. Written without a branch, for the
/// distances of a block are near and far in no order: half the value's top two bits make the symbol.
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
fn emit(parsed: Parsed, litlen: &Code<LITLEN>, dist: &Code<DIST>, mut bits: Bits) -> (usize, u64, u32) {
    let mut literals = [Entry::default(); 2 * NONE];
    for (byte, entry) in literals.iter_mut().enumerate().take(NONE) {
        *entry = Entry { bits: litlen.bits[byte].into(), length: litlen.lengths[byte].into() };
    }
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
    for found in parsed.matches {
        let start = found.start as usize;
        run(parsed.bytes, at, start, &literals, &mut bits);
        at = start + usize::from(found.length);
        let length = lengths[usize::from(found.length) % 512];
        bits.add(u64::from(length.bits), length.length);
        let Symbol { number: symbol, extra, value } = distance_symbol(usize::from(found.distance));
        let distance = distances[symbol % 32];
        bits.add(u64::from(distance.bits), distance.length);
        bits.add(u64::from(value), extra);
        bits.flush();
    }
    run(parsed.bytes, at, parsed.to, &literals, &mut bits);
    bits.add(u64::from(litlen.bits[END]), u32::from(litlen.lengths[END]));
    bits.finish()
}

/// Added to a byte it makes a literal of no bits.
const NONE: usize = 256;

/// Writes the literals `from..to`, four at a time; the last up to three with others of no bits, so that their number costs no
/// branch.
#[inline(always)]
fn run(bytes: Padded, from: usize, to: usize, literals: &[Entry; 2 * NONE], bits: &mut Bits) {
    const MASKS: [[usize; 4]; 4] = [[NONE; 4], [0, NONE, NONE, NONE], [0, 0, NONE, NONE], [0, 0, 0, NONE]];
    let mut at = from;
    while at + 4 <= to {
        for &byte in bytes.at::<4>(at) {
            let literal = literals[usize::from(byte)];
            bits.add(u64::from(literal.bits), literal.length);
        }
        bits.flush();
        at += 4;
    }
    for (&byte, mask) in bytes.at::<4>(at).iter().zip(MASKS[(to - at) % 4]) {
        let literal = literals[usize::from(byte) | mask];
        bits.add(u64::from(literal.bits), literal.length);
    }
    bits.flush();
}
