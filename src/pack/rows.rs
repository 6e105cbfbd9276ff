//! Rows → matches: where fields start, which older place agrees longest with each, and which of these are taken.
//!
//! Most strips hold rows of equally many fields, and are worked on in passes, each a loop without unpredictable branches: the slots of all
//! tries, column by column; the older places, in the order of the rows; how far they agree, column by column; at last the
//! matches, which alone depend on one another. All else, and what is learned from, goes field by field. Both ways find the
//! same.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::block::{CHUNK, LEAST, MOST, Match, WINDOW};
use super::filled;
use super::plain::{Chains, Reach};
use super::ways::{ALL, COLUMNS, Column, KEPT, WAYS, Ways};
use crate::fields::Edges;
use crate::fields::lanes::{LEAD, Lanes, PADDING, Padded};

/// Rows worked on at once, so that loops over rows are long, and all that is noted of them stays in the first level cache.
const ROWS: usize = 40;
/// Places for the fields of a strip; a power of two, so that a remainder keeps a place within them.
const FIELDS: usize = 1 << 12;
const _: () = assert!(ROWS * COLUMNS <= FIELDS, "a strip has room");
/// Places for the tries of a strip.
const TRIES: usize = KEPT * FIELDS;
/// Places for the matches of a block, each of three bytes at least; a power of two.
const MATCHES: usize = CHUNK / 2;
/// The matches of a block as words: zeroed pages take no memory before they are written to.
pub(crate) type Matches = [u64; MATCHES];
/// A field from which more than this is left is searched by the general finder.
const LONG: usize = 48;
/// What a match must bring before it pays: its length's and its distance's code, in bits, beside the distance itself; and its
/// time. At 6 made rows became 0.1 % larger, at 12 real ones 0.9 % and took 4 % less.
const PRICE: u32 = 9;
/// What a byte costs as a literal, in bits. Digits take 3.3 to 4.
const LITERAL: u32 = 4;
/// A match is prolonged to its front by this many bytes at most: one word.
const FRONT: usize = 8;
/// The bytes a match must bring beyond those that the match before it would give up for it.
const BRINGS: usize = 6;

/// What is noted of the fields of a strip. A try is a field under one way of its column.
pub(crate) struct Strip {
    /// By try, row after row: the slot below and the low 16 bits of the field's place above; then the [`price`] of the older
    /// place.
    tries: Box<[u32; TRIES + KEPT]>,
    /// By field: the [`rank`] of the best try, 0 where none was made.
    best: Box<[i32; FIELDS]>,
}

/// Where the fields of a strip start, and where the one after the last does.
type Fields = [u32; FIELDS + 1];

/// A strip whose rows have equally many fields.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    /// Fields a row.
    width: usize,
    /// Tries a row.
    tries: usize,
}

impl Strip {
    pub(crate) fn new() -> Self {
        Self { tries: filled(0), best: filled(0) }
    }

    /// The slots of column `number` under its `N` ways, of which the first is try `first` of a row.
    #[inline(always)]
    fn slots<const N: usize>(
        &mut self,
        bytes: Padded,
        (base, edges): (u32, &Fields),
        shape: Shape,
        (number, column): (usize, &Column),
        first: usize,
    ) {
        let Some(&ways) = column.ways.first_chunk::<N>() else { return };
        for row in 0..shape.rows {
            let start = edges[(row * shape.width + number) % FIELDS];
            let here = base.wrapping_add(start) << 16;
            let head = bytes.at(start as usize);
            if let Some(tries) = self.tries[(row * shape.tries + first) % TRIES..].first_chunk_mut::<N>() {
                for (try_, way) in tries.iter_mut().zip(&ways) {
                    *try_ = here | u32::from(way.slot(head));
                }
            }
        }
    }

    /// The best of the `N` tries of column `number`.
    #[inline(always)]
    fn compare<const N: usize, L: Lanes>(
        &mut self,
        lanes: L,
        (bytes, edges): (Padded, &Fields),
        shape: Shape,
        number: usize,
        first: usize,
    ) {
        for row in 0..shape.rows {
            let field = (row * shape.width + number) % FIELDS;
            let start = edges[field] as usize;
            let (probe, around) = (lanes.load(bytes.at(start)), bytes.around(start));
            let mut best = i32::MIN;
            if let Some(tries) = self.tries[(row * shape.tries + first) % TRIES..].first_chunk::<N>() {
                // No branches, for none would be predictable: what may not be referred to is compared too, and [`LEAD`] makes
                // room for it.
                for &price in tries {
                    best = best.max(rank(lanes.same(probe, at(around, older(price))), price));
                }
            }
            self.best[field] = best;
        }
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
    bytes: Padded<'a>,
    /// Where the block ends.
    to: usize,
    /// Nothing before this byte may be referred to.
    floor: usize,
    /// The first byte that no match covers.
    cursor: usize,
    /// The last one taken, which may still give up its tail; at first one that is none.
    last: Match,
    /// Those before it.
    matches: &'a mut Matches,
    count: usize,
}

/// The number of fields per row, if all rows agree and it is at most [`COLUMNS`]. `rows` are the rows' last fields, `first` is
/// the first field of the first row.
fn width(rows: &[u32], first: usize) -> Option<usize> {
    let width = (*rows.first()? as usize + 1 - first).min(COLUMNS + 1);
    let ends = (first + width..).step_by(width);
    (width <= COLUMNS && rows.iter().zip(ends).all(|(&last, end)| last as usize + 1 == end)).then_some(width)
}

/// Whether one of the fields is to be searched by the general finder.
fn has_long(edges: &[u32]) -> bool {
    let lengths = edges.iter().zip(&edges[1..]).map(|(start, next)| next - start);
    lengths.fold(0, u32::max) > LONG as u32
}

impl<L: Lanes> Parse<'_, L> {
    /// Parses a block whose fields end where `edges` say.
    #[inline(always)]
    pub(crate) fn rows(&mut self, edges: &Edges) {
        let mut first = 0;
        for rows in edges.rows().chunks(ROWS) {
            match width(rows, first) {
                Some(width) if !self.ways.is_learning() => self.even(edges.run(first), rows.len(), width),
                _ => {
                    let mut first = first;
                    for &last in rows {
                        self.uneven(edges, first, last as usize + 1);
                        first = last as usize + 1;
                    }
                }
            }
            self.ways.turn(rows.len());
            first = rows.last().map_or(first, |&last| last as usize + 1);
        }
        self.uneven(edges, first, edges.fields());
        let (start, _) = edges.field(edges.fields());
        if start < self.taken.to {
            self.field(start, self.taken.to, edges.fields() - first);
        }
    }

    /// Parses a strip of `rows` rows with `width` fields each.
    #[inline(always)]
    fn even(&mut self, edges: &Fields, rows: usize, width: usize) {
        let bytes = self.taken.bytes;
        let (lanes, base) = (self.lanes, self.reach.base);
        let (columns, places) = self.ways.parts();
        let columns = &columns[..width.min(COLUMNS)];
        let tries = columns.iter().map(|column| column.ways().len()).sum();
        let shape = Shape { rows, width, tries };
        let fields = rows * width;
        let strip = &mut *self.strip;
        strip.best[..fields.next_multiple_of(64)].fill(0);

        // The slots need nothing but the fields themselves.
        let mut first = 0;
        for (number, column) in columns.iter().enumerate() {
            match column.ways().len() {
                0 => {}
                1 => strip.slots::<1>(bytes, (base, edges), shape, (number, column), first),
                2 => strip.slots::<2>(bytes, (base, edges), shape, (number, column), first),
                3 => strip.slots::<3>(bytes, (base, edges), shape, (number, column), first),
                _ => strip.slots::<KEPT>(bytes, (base, edges), shape, (number, column), first),
            }
            first += column.ways().len();
        }
        // In the order of the rows, so that a row finds the one before it.
        for try_ in &mut strip.tries[..rows * tries] {
            let here = (*try_ >> 16) as u16;
            let old = std::mem::replace(&mut places[usize::from(*try_ as u16)], here);
            *try_ = u32::from(old.wrapping_sub(here));
        }
        // A loop of its own, so that the compiler vectorises it.
        for try_ in &mut strip.tries[..rows * tries] {
            *try_ = price(*try_ as u16);
        }
        // Bytes are only read here, so that no field waits for another.
        first = 0;
        for (number, column) in columns.iter().enumerate() {
            match column.ways().len() {
                0 => {}
                1 => strip.compare::<1, L>(lanes, (bytes, edges), shape, number, first),
                2 => strip.compare::<2, L>(lanes, (bytes, edges), shape, number, first),
                3 => strip.compare::<3, L>(lanes, (bytes, edges), shape, number, first),
                _ => strip.compare::<KEPT, L>(lanes, (bytes, edges), shape, number, first),
            }
            first += column.ways().len();
        }
        // The matches alone depend on one another.
        if has_long(&edges[..=fields]) {
            for field in 0..fields {
                let (start, next) = (edges[field] as usize, edges[field + 1] as usize);
                self.taken.settle::<false, L>(lanes, start, next, self.strip.best[field]);
                self.long(start, next);
            }
        } else if self.taken.is_amid(&edges[..=fields]) {
            self.taken.all::<true, L>(lanes, edges, &self.strip.best[..fields.next_multiple_of(64)]);
        } else {
            self.taken.all::<false, L>(lanes, edges, &self.strip.best[..fields.next_multiple_of(64)]);
        }
    }

    /// Parses the fields `first..end`, of one row, one by one.
    #[inline(always)]
    fn uneven(&mut self, edges: &Edges, first: usize, end: usize) {
        for number in first..end {
            let (start, next) = edges.field(number);
            self.field(start, next, number - first);
        }
    }

    /// Parses one field, which ends before `next`.
    #[inline(always)]
    fn field(&mut self, start: usize, next: usize, column: usize) {
        let bytes = self.taken.bytes;
        let (head, around) = (bytes.at(start), bytes.around(start));
        let probe = self.lanes.load(bytes.at(start));
        let here = self.reach.base.wrapping_add(start as u32) as u16;
        let is_open = next > self.taken.cursor;
        let mut best = 0;
        if self.ways.is_learning() && (self.ways.is_watching() || !self.ways.has_chosen()) {
            let mut gains = [0; WAYS];
            for (gained, way) in gains.iter_mut().zip(&ALL) {
                let older = self.ways.enter(way.slot(head), here).wrapping_sub(here);
                let same = self.lanes.same(probe, at(around, older));
                if is_open && self.reaches(start, older) {
                    *gained = gain(same as usize, older) as u8;
                    best = best.max(rank(same, price(older)));
                }
            }
            if is_open && self.ways.is_watching() {
                self.ways.watch(column % COLUMNS, gains);
            }
        } else {
            let (columns, places) = self.ways.parts();
            for way in columns[column % COLUMNS].ways() {
                let old = std::mem::replace(&mut places[usize::from(way.slot(head))], here);
                let older = old.wrapping_sub(here);
                best = best.max(rank(self.lanes.same(probe, at(around, older)), price(older)));
            }
            if self.ways.is_learning() {
                for way in &ALL {
                    self.ways.enter(way.slot(head), here);
                }
            }
        }
        self.taken.settle::<false, L>(self.lanes, start, next, best);
        self.long(start, next);
    }

    /// Whether the older place may be referred to.
    #[inline(always)]
    fn reaches(&self, start: usize, older: u16) -> bool {
        distance(older) <= (start - self.reach.floor).min(WINDOW)
    }

    /// Leaves what is not covered of a long field to the general finder.
    #[inline(always)]
    fn long(&mut self, start: usize, next: usize) {
        let open = self.taken.cursor.max(start);
        if next > open + LONG {
            self.plain(open, next);
        }
    }

    /// Parses bytes without fields.
    pub(crate) fn plain(&mut self, from: usize, to: usize) {
        let mut at = from;
        while let Some((start, length, distance)) = self.chains.next(self.taken.bytes, self.reach, (at, to)) {
            self.taken.push(Match::new(start, length, distance));
            at = start + length;
        }
    }
}

impl<'a> Taken<'a> {
    /// Nothing taken yet of the block `from..to`.
    pub(crate) const fn new(
        bytes: Padded<'a>,
        (from, to): (usize, usize),
        floor: usize,
        matches: &'a mut Matches,
    ) -> Self {
        Self { bytes, to, floor, cursor: from, last: Match::new(from, 0, 1), matches, count: 0 }
    }

    /// All matches, in order.
    pub(crate) fn matches(self) -> &'a [u64] {
        self.matches[self.count % MATCHES] = self.last.word();
        &self.matches[1..=self.count % MATCHES]
    }

    /// Whether a whole window lies before the fields of a strip, and none of their tries goes beyond the block.
    fn is_amid(&self, edges: &[u32]) -> bool {
        let (first, last) = (edges.first(), edges.last());
        first.is_some_and(|&first| first as usize >= self.floor + WINDOW + FRONT)
            && last.is_some_and(|&last| last as usize + 32 <= self.to)
    }

    /// Settles all fields of a strip. What is worth a match is found as bits, since a branch would be unpredictable.
    #[inline(always)]
    fn all<const AMID: bool, L: Lanes>(&mut self, lanes: L, edges: &Fields, best: &[i32]) {
        // A local copy, so that it stays in registers.
        let mut taken = Taken { matches: &mut *self.matches, ..*self };
        for (part, best) in best.as_chunks::<64>().0.iter().enumerate() {
            let mut left = lanes.reaching(best, WORTHWHILE);
            while left != 0 {
                let bit = left.trailing_zeros() as usize % 64;
                left &= left - 1;
                let field = (64 * part + bit) % FIELDS;
                let (start, next) = (edges[field] as usize, edges[field + 1] as usize);
                taken.settle::<AMID, L>(lanes, start, next, best[bit]);
            }
        }
        (self.cursor, self.last, self.count) = (taken.cursor, taken.last, taken.count);
    }

    /// Takes the best try of the field `start..next` as a match, if it is worth it; longer at its front where the bytes before
    /// agree too. `AMID`: the answer to [`Taken::is_amid`]; and the try is worth a match.
    #[inline(always)]
    fn settle<const AMID: bool, L: Lanes>(&mut self, lanes: L, start: usize, next: usize, best: i32) {
        if next <= self.cursor {
            return;
        }
        let (same, distance) = unrank(best);
        if !AMID && (best < WORTHWHILE || start < self.floor + distance + FRONT) {
            return;
        }
        let old = start - distance;
        let mut length = same;
        if same == 32 || (!AMID && start + same > self.to) {
            // It may go on, or go beyond the block.
            length = lanes.common(self.bytes, old, start, self.to - start);
            if length > MOST - FRONT {
                return self.parts(start, length, distance);
            }
            if length < LEAST {
                return;
            }
        }
        let mut back = 0;
        if start < self.cursor {
            // The match before ends in this field. It gives up its tail where this one brings more than that costs.
            let overlap = self.cursor - start;
            if length < overlap + BRINGS || self.last.length() < overlap + LEAST {
                return;
            }
            self.last = self.last.shorter(overlap);
        } else {
            let differ = self.bytes.word(start - FRONT) ^ self.bytes.word(old - FRONT);
            back = ((differ.leading_zeros() / 8) as usize).min(start - self.cursor);
        }
        self.push(Match::new(start - back, length + back, distance));
    }

    /// Takes a match that may be longer than one may be, behind those taken before, in parts of which none is too short.
    #[inline(always)]
    fn parts(&mut self, start: usize, length: usize, distance: usize) {
        let end = start + length;
        // Where a longer match was taken before, nothing may be left.
        let mut start = start.max(self.cursor);
        while start + LEAST <= end {
            let left = end - start;
            let part = if left > MOST { MOST.min(left - LEAST) } else { left };
            self.push(Match::new(start, part, distance));
            start += part;
        }
    }

    /// Writes the last match down, and takes another.
    #[inline(always)]
    fn push(&mut self, found: Match) {
        debug_assert!((LEAST..=MOST).contains(&found.length()), "no match of deflate: {found:?}");
        debug_assert!((1..=WINDOW).contains(&found.distance()), "no match of deflate: {found:?}");
        self.matches[self.count % MATCHES] = self.last.word();
        self.count += 1;
        self.last = found;
        self.cursor = found.start() + found.length();
    }
}

/// The bytes at the older place.
#[inline(always)]
fn at(around: &[u8; LEAD + PADDING], older: u16) -> &[u8; 32] {
    around[usize::from(older)..].first_chunk().unwrap_or(&[0; 32])
}

/// How far back the older place lies.
#[inline(always)]
fn distance(older: u16) -> usize {
    LEAD - usize::from(older)
}

/// The bits a match saves over literals; where it saves none it does not pay.
#[inline(always)]
fn gain(length: usize, older: u16) -> u32 {
    // Deflate counts the bits of a distance less one.
    let bits = u32::BITS - u32::from(!older).leading_zeros();
    (length as u32 * LITERAL).saturating_sub(bits + PRICE)
}

/// What an older place costs: how far back it lies, less one, below; how many bits fewer than 32 that has, above. The topmost
/// bit says that it lies beyond every window. Bits are counted by the exponent of a float, since all vectors can make floats.
#[inline(always)]
fn price(older: u16) -> u32 {
    let before = !i32::from(older.cast_signed());
    let exponent = ((2 * before + 1) as f32).to_bits() >> 23;
    // That of 1 is 127; a negative one has the sign above it, so that the difference is negative too.
    159_u32.wrapping_sub(exponent) << 22 | before.cast_unsigned() & 0x8000_ffff
}

/// Where the older place lies in what is [around](Padded::around) the field: 2^16 less the distance.
#[inline(always)]
fn older(price: u32) -> u16 {
    !(price as u16)
}

/// A try as a number that is the larger the better: what it saves above, then how much agrees, how far back it lies below.
/// Negative for what lies beyond every window.
#[inline(always)]
fn rank(same: u32, price: u32) -> i32 {
    (same * (LITERAL << 22 | 1 << 16) + price).cast_signed()
}

/// The least rank whose gain pays.
const WORTHWHILE: i32 = ((u32::BITS + PRICE + 1) << 22).cast_signed();
const _: () = assert!(PRICE >= (LEAST as u32 - 1) * LITERAL, "what is worth a match must be long enough to be one");
const _: () = assert!(LEAD == 1 << 16, "what is around a place is as far as 16 bits count");

/// How much agrees, and how far back.
#[inline(always)]
fn unrank(rank: i32) -> (usize, usize) {
    let rank = rank.cast_unsigned() as usize;
    (rank >> 16 & 0x3f, (rank & 0xffff) + 1)
}
