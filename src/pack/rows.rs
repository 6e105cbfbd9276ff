//! Rows → matches: where fields start, which older place agrees longest with each, and which of these are taken.
//!
//! Most strips hold rows of equally many fields, and are worked on in passes, each a loop without surprises: the slots of all
//! tries, column by column; the older places, in the order of the rows; how far they agree, column by column; at last the
//! matches, which alone depend on one another. All else, and what is learned from, goes field by field. Both ways find the
//! same.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::block::{LEAST, MOST, Match, WINDOW};
use super::plain::{Chains, Reach};
use super::ways::{ALL, COLUMNS, Column, KEPT, WAYS, Ways};
use crate::fields::lanes::{LEAD, Lanes, PADDING, Padded};
use crate::fields::spread;

/// Bytes worked on at once: about 40 rows, so that loops over rows are long, and all that is noted of them stays in the first
/// level cache.
const STRIP: usize = 4096;
/// The most fields of a strip, and room for [`spread`].
const FIELDS: usize = STRIP + 64;
/// A field from which more than this is left is searched by the general finder.
const LONG: usize = 48;
/// What a match must bring before it pays: its length's and its distance's code, in bits, beside the distance itself; and its
/// time. At 6 made rows became 0.1 % larger, at 12 real ones 0.9 % and took 4 % less.
const PRICE: u32 = 9;
/// What a byte costs as a literal, in bits. Digits take 3.3 to 4.
const LITERAL: u32 = 4;

/// What is noted of the fields of a strip. A try is a field under one way of its column.
pub(crate) struct Strip {
    /// Where the first field starts, and where the one after each field does.
    edges: Box<[u32]>,
    /// By try, row after row: the slot, and then how far before the field the older place lies, less one.
    tries: Box<[u16]>,
    /// By field: the [`rank`] of the best try, 0 for none.
    best: Box<[u32]>,
}

impl Strip {
    pub(crate) fn new() -> Self {
        Self { edges: vec![0; 1 + FIELDS].into(), tries: vec![0; KEPT * FIELDS].into(), best: vec![0; FIELDS].into() }
    }

    /// Finds the fields of `from..to`; returns how many end there, and how many of these with a newline.
    #[inline(always)]
    fn find<L: Lanes>(&mut self, lanes: L, bytes: Padded, (from, to): (usize, usize), separator: u8) -> (usize, usize) {
        let (mut fields, mut rows) = (0, 0);
        self.edges[0] = from as u32;
        let mut at = from;
        while at < to {
            let real = u64::MAX >> (at + 64).saturating_sub(to);
            let block = bytes.at(at);
            rows += (lanes.marks(block, b'\n') & real).count_ones() as usize;
            fields = spread(&mut self.edges[1..], fields, at as u32 + 1, lanes.marks(block, separator) & real);
            at += 64;
        }
        (fields, rows)
    }

    /// How many fields every row has, if all rows have as many, and no more than columns are told apart.
    fn width(&self, bytes: Padded, (fields, rows): (usize, usize)) -> Option<usize> {
        let width = fields.checked_div(rows).filter(|width| width * rows == fields && *width <= COLUMNS)?;
        let ends_row = |row: &[u32]| row.last().is_some_and(|&next| bytes.at(next as usize - 1) == b"\n");
        self.edges[1..=fields].chunks_exact(width).all(ends_row).then_some(width)
    }
}

/// One block being parsed.
pub(crate) struct Parse<'a, L> {
    pub(crate) lanes: L,
    pub(crate) reach: Reach,
    pub(crate) taken: Taken<'a>,
    pub(crate) ways: &'a mut Ways,
    pub(crate) chains: &'a mut Chains,
    pub(crate) strip: &'a mut Strip,
}

/// The matches taken so far.
pub(crate) struct Taken<'a> {
    pub(crate) bytes: Padded<'a>,
    /// Where the block ends.
    pub(crate) to: usize,
    /// Nothing before this byte may be referred to.
    pub(crate) floor: usize,
    /// The first byte that no match covers.
    pub(crate) cursor: usize,
    pub(crate) matches: &'a mut Vec<Match>,
}

/// Where the next field starts, and its column.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    column: usize,
}

impl<L: Lanes> Parse<'_, L> {
    /// Parses rows whose fields are parted by `separator`, from `from` to the block's end.
    #[inline(always)]
    pub(crate) fn rows(&mut self, from: usize, separator: u8) {
        let bytes = self.taken.bytes;
        let mut place = Place { start: from, column: 0 };
        let mut at = from;
        let to = self.taken.to;
        while at < to {
            let most = to.min(at + STRIP);
            let stop = memchr::memrchr(b'\n', bytes.range(at, most)).map_or(most, |last| at + last + 1);
            let found = self.strip.find(self.lanes, bytes, (at, stop), separator);
            let is_even = place.start == at && place.column == 0 && !self.ways.is_learning();
            if is_even && let Some(width) = self.strip.width(bytes, found) {
                self.even(found.0, width);
                place.start = stop;
            } else {
                for field in 0..found.0 {
                    place = self.uneven(place, self.strip.edges[1 + field] as usize);
                }
            }
            self.ways.turn(found.1);
            at = stop;
        }
        if place.start < to {
            self.uneven(place, to);
        }
    }

    /// Parses a strip whose rows have `width` fields each.
    #[inline(always)]
    fn even(&mut self, fields: usize, width: usize) {
        let bytes = self.taken.bytes;
        let base = self.reach.base;
        let (columns, columns_of_tries, places) = self.ways.parts();
        let columns = &columns[..width];
        let Strip { edges, tries, best } = &mut *self.strip;
        let (starts, best) = (&edges[..fields], &mut best[..fields]);
        let longest = starts.iter().zip(&edges[1..]).map(|(start, next)| next - start).max().unwrap_or(0);

        // The slots need nothing but the fields themselves.
        best.fill(0);
        let tries_a_row = columns.iter().map(|column| column.ways().len()).sum();
        if tries_a_row > 0 {
            let mut first = 0;
            for (number, column) in columns.iter().enumerate() {
                let rows = starts.chunks_exact(width).zip(tries.chunks_exact_mut(tries_a_row));
                match column.ways().len() {
                    0 => {}
                    1 => slots::<1>(bytes, rows, column, number, first),
                    2 => slots::<2>(bytes, rows, column, number, first),
                    3 => slots::<3>(bytes, rows, column, number, first),
                    _ => slots::<KEPT>(bytes, rows, column, number, first),
                }
                first += column.ways().len();
            }
            // In the order of the rows, so that a row finds the one before it.
            for (row, tries) in starts.chunks_exact(width).zip(tries.chunks_exact_mut(tries_a_row)) {
                for (try_, &column) in tries.iter_mut().zip(columns_of_tries) {
                    let here = base.wrapping_add(row[usize::from(column)]) as u16;
                    let old = std::mem::replace(&mut places[usize::from(*try_)], here);
                    *try_ = here.wrapping_sub(old).wrapping_sub(1);
                }
            }
            // Bytes are only read here, so that no field waits for another.
            first = 0;
            for (number, column) in columns.iter().enumerate() {
                let rows =
                    starts.chunks_exact(width).zip(tries.chunks_exact(tries_a_row)).zip(best.chunks_exact_mut(width));
                match column.ways().len() {
                    0 => {}
                    1 => compare::<1, L>(self.lanes, bytes, rows, number, first),
                    2 => compare::<2, L>(self.lanes, bytes, rows, number, first),
                    3 => compare::<3, L>(self.lanes, bytes, rows, number, first),
                    _ => compare::<KEPT, L>(self.lanes, bytes, rows, number, first),
                }
                first += column.ways().len();
            }
        }

        let has_long = longest > LONG as u32;
        let least = if has_long { 0 } else { WORTHWHILE };
        for from in (0..fields).step_by(64) {
            let best = &self.strip.best[from..fields.min(from + 64)];
            // As bits, and without a branch: what is worth a match could not be foreseen.
            let mut left = best.iter().zip(0..).fold(0, |left, (&best, bit)| left | u64::from(best >= least) << bit);
            while left != 0 {
                let field = from + left.trailing_zeros() as usize;
                left &= left - 1;
                let (start, next) = (self.strip.edges[field] as usize, self.strip.edges[field + 1] as usize);
                if next > self.taken.cursor {
                    self.settle(start, self.strip.best[field]);
                }
                if has_long {
                    self.long(start, next);
                }
            }
        }
    }

    /// Parses one field, which ends before `next`; returns where the next one starts.
    #[inline(always)]
    fn uneven(&mut self, place: Place, next: usize) -> Place {
        let Place { start, column } = place;
        let bytes = self.taken.bytes;
        let (head, around) = (bytes.at(start), bytes.around(start));
        let probe = self.lanes.load(bytes.at(start));
        let here = self.reach.base.wrapping_add(start as u32) as u16;
        let is_open = next > self.taken.cursor;
        let mut best = 0;
        if self.ways.is_learning() && (self.ways.is_watching() || !self.ways.has_chosen()) {
            let mut gains = [0; WAYS];
            for (gained, way) in gains.iter_mut().zip(&ALL) {
                let before = here.wrapping_sub(self.ways.enter(way.slot(head), here)).wrapping_sub(1);
                let same = self.lanes.same(probe, older(around, before));
                if is_open && self.reaches(start, before) {
                    *gained = gain(same as usize, before) as u8;
                    best = best.max(rank(same, before));
                }
            }
            if is_open && self.ways.is_watching() {
                self.ways.watch(column % COLUMNS, gains);
            }
        } else {
            let (columns, _, places) = self.ways.parts();
            for way in columns[column % COLUMNS].ways() {
                let old = std::mem::replace(&mut places[usize::from(way.slot(head))], here);
                let before = here.wrapping_sub(old).wrapping_sub(1);
                best = best.max(rank(self.lanes.same(probe, older(around, before)), before));
            }
            if self.ways.is_learning() {
                for way in &ALL {
                    self.ways.enter(way.slot(head), here);
                }
            }
        }
        if is_open {
            self.settle(start, best.max(0).cast_unsigned());
        }
        self.long(start, next);
        let ended = bytes.at(next - 1) == b"\n";
        Place { start: next, column: if ended { 0 } else { column + 1 } }
    }

    /// Whether what lies `before` and one more before `start` may be referred to.
    #[inline(always)]
    fn reaches(&self, start: usize, before: u16) -> bool {
        usize::from(before) < (start - self.reach.floor).min(WINDOW)
    }

    /// Leaves what is not covered of a long field to the general finder.
    #[inline(always)]
    fn long(&mut self, start: usize, next: usize) {
        let open = self.taken.cursor.max(start);
        if next > open + LONG {
            self.plain(open, next);
        }
    }

    /// Takes the best try, if it is worth it.
    #[inline(always)]
    fn settle(&mut self, start: usize, best: u32) {
        let (same, before) = unrank(best);
        if best < WORTHWHILE || !self.reaches(start, before) {
            return;
        }
        let distance = usize::from(before) + 1;
        let most = self.taken.to - start;
        if same < 32 && same <= most {
            return self.taken.take(start, same, distance);
        }
        // It may go on, or go beyond the block.
        let length = self.lanes.common(self.taken.bytes, start - distance, start, most);
        if length >= LEAST && gain(length, before) > 0 {
            self.taken.take(start, length, distance);
        }
    }

    /// Parses bytes without fields.
    pub(crate) fn plain(&mut self, from: usize, to: usize) {
        let mut at = from;
        while let Some((start, length, distance)) = self.chains.next(self.taken.bytes, self.reach, (at, to)) {
            self.taken.push(start, length, distance);
            at = start + length;
        }
    }
}

impl Taken<'_> {
    /// Takes a match, longer at its front where the bytes before agree too.
    #[inline(always)]
    fn take(&mut self, start: usize, length: usize, distance: usize) {
        let (mut start, mut length) = (start, length);
        if start < self.cursor {
            // The match before ends in this field. It gives up its tail where this one brings more than that costs.
            let overlap = self.cursor - start;
            let Some(last) = self.matches.last_mut() else { return };
            if length < overlap + 6 || usize::from(last.length) < overlap + LEAST {
                return;
            }
            last.length -= overlap as u16;
        } else {
            let lowest = self.cursor.max(self.floor + distance);
            if start >= distance + 8 {
                let differ = self.bytes.word(start - 8) ^ self.bytes.word(start - 8 - distance);
                let back = ((differ.leading_zeros() / 8) as usize).min(start.saturating_sub(lowest));
                start -= back;
                length += back;
            }
        }
        self.push(start, length, distance);
    }

    /// Writes a match down, in parts where it is longer than one may be. No part is shorter than one may be.
    #[inline(always)]
    fn push(&mut self, start: usize, length: usize, distance: usize) {
        debug_assert!(length >= LEAST && (1..=WINDOW).contains(&distance), "no match of deflate: {length} {distance}");
        self.cursor = start + length;
        let distance = distance as u16;
        let mut start = start as u32;
        let mut left = length;
        while left > MOST {
            let part = MOST.min(left - LEAST);
            self.matches.push(Match { start, length: part as u16, distance });
            start += part as u32;
            left -= part;
        }
        self.matches.push(Match { start, length: left as u16, distance });
    }
}

/// The slots of one column's fields under the `N` ways of the column.
#[inline(always)]
fn slots<'a, const N: usize>(
    bytes: Padded,
    rows: impl Iterator<Item = (&'a [u32], &'a mut [u16])>,
    column: &Column,
    number: usize,
    first: usize,
) {
    let Some(ways) = column.ways.first_chunk::<N>() else { return };
    for (starts, tries) in rows {
        let head = bytes.at(starts[number] as usize);
        for (slot, way) in tries[first..first + N].iter_mut().zip(ways) {
            *slot = way.slot(head);
        }
    }
}

/// The best of the `N` tries of each of one column's fields.
#[inline(always)]
fn compare<'a, const N: usize, L: Lanes>(
    lanes: L,
    bytes: Padded,
    rows: impl Iterator<Item = ((&'a [u32], &'a [u16]), &'a mut [u32])>,
    number: usize,
    first: usize,
) {
    for ((starts, tries), bests) in rows {
        let start = starts[number] as usize;
        let (probe, around) = (lanes.load(bytes.at(start)), bytes.around(start));
        let mut best = 0;
        // No branches, for none could be foreseen: what may not be referred to is compared too, and [`LEAD`] makes room for it.
        for &before in &tries[first..first + N] {
            best = best.max(rank(lanes.same(probe, older(around, before)), before));
        }
        bests[number] = best.cast_unsigned();
    }
}

/// The bytes that lie `before` and one more before the middle of `around`.
#[inline(always)]
fn older(around: &[u8; LEAD + PADDING], before: u16) -> &[u8; 32] {
    around[LEAD - 1 - usize::from(before)..].first_chunk().unwrap_or(&[0; 32])
}

/// The bits a match saves over literals; where it saves none it does not pay. `before` is its distance less one, as deflate
/// counts the bits of a distance.
#[inline(always)]
fn gain(length: usize, before: u16) -> u32 {
    (length as u32 * LITERAL).saturating_sub(u32::BITS - u32::from(before).leading_zeros() + PRICE)
}

/// A try as a number that is the larger the better, above what it saves, below how far back it lies. Negative for what lies
/// beyond every window.
#[inline(always)]
fn rank(same: u32, before: u16) -> i32 {
    let saved = same * LITERAL + u32::from(before).leading_zeros();
    (saved << 16).cast_signed() | i32::from(before.cast_signed())
}

/// The least rank whose gain pays.
const WORTHWHILE: u32 = (u32::BITS + PRICE + 1) << 16;
const _: () = assert!(PRICE >= (LEAST as u32 - 1) * LITERAL, "what is worth a match must be long enough to be one");

/// How much agreed, and how far back less one.
#[inline(always)]
fn unrank(rank: u32) -> (usize, u16) {
    let before = rank as u16;
    ((rank >> 16).saturating_sub(u32::from(before).leading_zeros()) as usize / LITERAL as usize, before)
}
