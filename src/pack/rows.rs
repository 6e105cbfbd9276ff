//! Rows → matches: where fields start, what is tried there, and which tries are worth their time.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::block::{LEAST, MOST, Match, WINDOW};
use super::plain::{Chains, Reach};
use crate::fields::lanes::{Lanes, Padded, word};
use crate::fields::spread;

/// Columns told apart; a longer row begins again at 0, which costs size, not truth.
const COLUMNS: usize = 64;
/// The ways of looking for an older field.
const WAYS: usize = 10;
/// How many first bytes must be equal, by way. The field's end does not count, so that the longer ones tell apart what
/// follows a short field.
const FIRSTS: [usize; WAYS] = [10, 3, 4, 6, 8, 12, 16, 20, 22, 28];
/// Slots of one way. A window holds about 3,500 fields.
const SLOT_BITS: u32 = 12;
/// Ways kept for a column at most, an even number. With six, nothing became smaller.
const KEPT: usize = 4;
/// Rows that fill the tables before any is watched: about a window of rows.
const WARM: usize = 320;
/// Rows watched: what would each way have gained?
const WATCHED: usize = 192;
/// Rows after which the ways are chosen anew. Rows that nfacctd prints change their kind, from pairs to single ones as flows
/// end by age or by force, and choices of the other kind cost 12 %. With 256 rows watched every 32,768 such rows were 1 %
/// larger on average and 3 % at worst, and took 2 % fewer instructions; rows of one kind were 0.2 % smaller.
const AGAIN: usize = 10 * 1024;
/// What a pair of ways must gain over the pairs already kept, in bits over all watched rows: half a bit a row. At three eighths
/// rows that nfacctd printed became 0.1 % smaller and took 7 % longer, at three quarters 0.4 % larger and took 3 % less, at four
/// bits 2.7 % larger and a seventh less.
const WORTH: u32 = 96;
/// A field from which more than this is left is searched by the general finder.
const LONG: usize = 48;
/// Bytes whose field ends are found at once.
const STRIP: usize = 2048;
/// What a match must bring before it pays: its length's and its distance's code, in bits, beside the distance itself.
const PRICE: u32 = 6;
/// Bytes from a field's start on that are looked at before it is known how far it reaches.
const HEAD: usize = 40;
/// What a byte costs as a literal, in bits. Digits take 3.3 to 4.
const LITERAL: u32 = 4;

/// One way of looking, as a column keeps it, and how its key is made: up to 8 bytes are moved to the top of a word, more are
/// two words that overlap or leave a gap.
#[derive(Clone, Copy)]
struct Way {
    factor: u64,
    shift: u8,
    second: u8,
    /// The way's first slot in the table.
    table: u16,
}

impl Way {
    const fn of(way: usize) -> Self {
        let table = (way << SLOT_BITS) as u16;
        match FIRSTS[way] {
            short @ 1..=8 => Self { factor: 0, shift: 64 - 8 * short as u8, second: 0, table },
            long => Self { factor: 0x9fb2_1c65_1e98_df25, shift: 0, second: long as u8 - 8, table },
        }
    }

    /// The slot of a field that begins with `head`.
    #[inline(always)]
    fn slot(&self, head: &[u8; HEAD]) -> usize {
        let low = (word(head, 0) << (self.shift & 63)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let high = word(head, usize::from(self.second & 31)).wrapping_mul(self.factor);
        usize::from(self.table | (low.wrapping_add(high) >> (64 - SLOT_BITS)) as u16)
    }
}

/// All ways, tried while the columns are learned.
const ALL: [Way; WAYS] = {
    let mut ways = [Way::of(0); WAYS];
    let mut way = 0;
    while way < WAYS {
        ways[way] = Way::of(way);
        way += 1;
    }
    ways
};

/// The ways tried in one column: in pairs, for a loop of any length would end unforeseen more often.
#[derive(Clone, Copy)]
struct Column {
    ways: [[Way; 2]; KEPT / 2],
    pairs: usize,
}

impl Column {
    const NEW: Self = Self { ways: [[Way::of(0); 2]; KEPT / 2], pairs: 0 };

    #[inline(always)]
    fn pairs(&self) -> &[[Way; 2]] {
        &self.ways[..self.pairs.min(KEPT / 2)]
    }
}

/// Where fields stood, and what to try in which column. Goes on from block to block.
pub(crate) struct Fields {
    /// The low 16 bits of the last place, by way and key. What is stale or foreign is found out by comparing.
    places: Box<[u16; 1 << 16]>,
    columns: Box<[Column]>,
    /// Rows since learning began.
    rows: usize,
    has_chosen: bool,
    gains: Box<[[[u8; WAYS]; WATCHED]]>,
    watched: [usize; COLUMNS],
}

impl Fields {
    pub(crate) fn new() -> Self {
        let places: Box<[u16]> = vec![0; 1 << 16].into_boxed_slice();
        Self {
            places: places.try_into().unwrap_or_else(|_| unreachable!("the length is the array's")),
            columns: vec![Column::NEW; COLUMNS].into_boxed_slice(),
            rows: 0,
            has_chosen: false,
            gains: vec![[[0; WAYS]; WATCHED]; COLUMNS].into_boxed_slice(),
            watched: [0; COLUMNS],
        }
    }

    /// Forgets all places. The choices stay: neighbouring pieces are of one kind, and learning takes a twentieth of a piece's
    /// time.
    pub(crate) fn clear(&mut self) {
        self.places[..WAYS << SLOT_BITS].fill(0);
    }

    /// Tries every way in every column again.
    fn learn(&mut self) {
        self.rows = 0;
        self.watched = [0; COLUMNS];
    }

    fn is_learning(&self) -> bool {
        self.rows < WARM + WATCHED
    }

    /// Whether every way is tried: it is when the tables are filled, and while there is no choice to go by.
    fn is_watching(&self) -> bool {
        self.rows >= WARM || !self.has_chosen
    }

    /// Enters the field that begins with `head` at `here` under every way.
    #[inline(always)]
    fn warm(&mut self, head: &[u8; HEAD], here: u16) {
        for way in &ALL {
            self.places[way.slot(head)] = here;
        }
    }

    /// Counts the rows of a strip; chooses when enough were watched, and learns again after a while.
    fn turn(&mut self, rows: usize) {
        let learned = self.is_learning();
        self.rows += rows;
        if learned && !self.is_learning() {
            self.choose();
        } else if self.rows >= AGAIN {
            self.learn();
        }
    }

    /// Keeps for every column the ways that gained most together: the best, then the one that adds most to it, and so on.
    fn choose(&mut self) {
        self.has_chosen = true;
        for (column, (&watched, gains)) in self.columns.iter_mut().zip(self.watched.iter().zip(&self.gains)) {
            let gains = &gains[..watched];
            let mut reached = [0_u8; WATCHED];
            let mut left: [bool; WAYS] = [true; WAYS];
            column.pairs = 0;
            for pair in &mut column.ways {
                let mut added = 0;
                for kept in pair {
                    let more = |way: usize| -> u32 {
                        gains.iter().zip(&reached).map(|(gains, &had)| u32::from(gains[way].saturating_sub(had))).sum()
                    };
                    let fresh = (0..WAYS).filter(|&way| left[way]).map(|way| (more(way), way));
                    let Some((more, way)) = fresh.max_by_key(|&(more, way)| (more, WAYS - way)) else { break };
                    *kept = Way::of(way);
                    left[way] = false;
                    added += more;
                    for (had, gains) in reached.iter_mut().zip(gains) {
                        *had = (*had).max(gains[way]);
                    }
                }
                if added < WORTH {
                    break;
                }
                column.pairs += 1;
            }
        }
    }
}

/// One block being parsed.
pub(crate) struct Parse<'a, L> {
    pub(crate) lanes: L,
    pub(crate) reach: Reach,
    pub(crate) taken: Taken<'a>,
    pub(crate) fields: &'a mut Fields,
    pub(crate) chains: &'a mut Chains,
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
        let mut ends = [0_u32; STRIP + 64];
        let mut place = Place { start: from, column: 0 };
        let mut strip = from;
        let to = self.taken.to;
        while strip < to {
            let stop = to.min(strip + STRIP);
            let count = self.ends(strip, stop, separator, &mut ends);
            place = self.strip(&ends[..count], place);
            strip = stop;
        }
        if place.start < to {
            self.strip(&[to as u32 - 1], place);
        }
    }

    /// Where the fields of `from..to` end; returns how many.
    #[inline(always)]
    fn ends(&self, from: usize, to: usize, separator: u8, ends: &mut [u32; STRIP + 64]) -> usize {
        let mut count = 0;
        let mut at = from;
        while at < to {
            let mut marks = self.lanes.marks(self.taken.bytes.at(at), separator);
            if to - at < 64 {
                marks &= (1 << (to - at)) - 1;
            }
            count = spread(ends, count, at as u32, marks);
            at += 64;
        }
        count
    }

    /// Parses the fields that end at `ends`.
    #[inline(always)]
    fn strip(&mut self, ends: &[u32], place: Place) -> Place {
        if self.fields.is_learning() { self.each::<true>(ends, place) } else { self.each::<false>(ends, place) }
    }

    #[inline(always)]
    fn each<const LEARN: bool>(&mut self, ends: &[u32], mut place: Place) -> Place {
        let bytes = self.taken.bytes;
        let mut rows = 0;
        for &end in ends {
            let next = end as usize + 1;
            let head = bytes.at(place.start);
            if LEARN && self.fields.is_watching() {
                self.learn(place, next, head);
            } else {
                self.field(place, next, head);
                if LEARN {
                    self.fields.warm(head, (self.reach.base as usize + place.start) as u16);
                }
            }
            let open = self.taken.cursor.max(place.start);
            if next > open + LONG {
                self.plain(open, next);
            }
            let [last] = bytes.at(next - 1);
            let ended = *last == b'\n';
            rows += usize::from(ended);
            place = Place { start: next, column: std::hint::select_unpredictable(ended, 0, place.column + 1) };
        }
        self.fields.turn(rows);
        place
    }

    /// Looks for a match at the start of the field `place.start..next`, the separator included.
    #[inline(always)]
    fn field(&mut self, place: Place, next: usize, head: &[u8; HEAD]) {
        let start = place.start;
        let here = (self.reach.base as usize + start) as u16;
        let Fields { places, columns, .. } = &mut *self.fields;
        let Some(column) = columns.get(place.column % COLUMNS) else { return };
        if next <= self.taken.cursor {
            for pair in column.pairs() {
                for way in pair {
                    places[way.slot(head)] = here;
                }
            }
            return;
        }
        let probe = self.lanes.load(front(head));
        let farthest = (start - self.reach.floor).min(WINDOW);
        let mut best = 0;
        for pair in column.pairs() {
            for way in pair {
                let old = std::mem::replace(&mut places[way.slot(head)], here);
                let distance = usize::from(here.wrapping_sub(old));
                let valid = distance.wrapping_sub(1) < farthest;
                // No branches, for none could be foreseen: what is not valid is compared too, and [`LEAD`] makes room for it.
                let same = self.lanes.same(probe, self.taken.bytes, start - distance);
                best = best.max(std::hint::select_unpredictable(valid, rank(same, distance), 0));
            }
        }
        self.settle(start, best);
    }

    /// The same for columns that are not known yet: tries every way, and keeps what each would have gained.
    #[inline(always)]
    fn learn(&mut self, place: Place, next: usize, head: &[u8; HEAD]) {
        let start = place.start;
        let here = (self.reach.base as usize + start) as u16;
        let farthest = (start - self.reach.floor).min(WINDOW);
        let probe = self.lanes.load(front(head));
        let mut best = 0;
        let mut gains = [0; WAYS];
        for (gained, way) in gains.iter_mut().zip(&ALL) {
            let old = std::mem::replace(&mut self.fields.places[way.slot(head)], here);
            let distance = usize::from(here.wrapping_sub(old));
            if distance.wrapping_sub(1) < farthest {
                let same = self.lanes.same(probe, self.taken.bytes, start - distance);
                *gained = gain(same as usize, distance) as u8;
                best = best.max(rank(same, distance));
            }
        }
        if next <= self.taken.cursor {
            return;
        }
        let column = place.column % COLUMNS;
        if self.fields.rows >= WARM
            && let Some(kept) = self.fields.gains[column].get_mut(self.fields.watched[column])
        {
            *kept = gains;
            self.fields.watched[column] += 1;
        }
        self.settle(start, best);
    }

    /// Takes the best candidate, if it is worth it.
    #[inline(always)]
    fn settle(&mut self, start: usize, best: u32) {
        if best < WORTHWHILE {
            return;
        }
        let (same, distance) = unrank(best);
        let most = self.taken.to - start;
        let length =
            if same < 32 { same.min(most) } else { self.lanes.common(self.taken.bytes, start - distance, start, most) };
        if length >= LEAST && gain(length, distance) > 0 {
            self.taken.take(self.lanes, start, length, distance);
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
    fn take<L: Lanes>(&mut self, lanes: L, start: usize, length: usize, distance: usize) {
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
            if start == self.cursor && self.swallows(lanes, start, distance) {
                let last = self.matches.pop().map_or(0, |last| usize::from(last.length));
                start -= last;
                length += last;
            }
        }
        self.push(start, length, distance);
    }

    /// Whether a match at `distance` that reaches back to `start` covers the match before it as well.
    #[inline(always)]
    fn swallows<L: Lanes>(&self, lanes: L, start: usize, distance: usize) -> bool {
        let Some(last) = self.matches.last() else { return false };
        let (before, length) = (last.start as usize, usize::from(last.length));
        before + length == start
            && length < 64
            && before >= self.floor + distance
            && lanes.common(self.bytes, before - distance, before, length) == length
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

/// The bits a match saves over literals; where it saves none it does not pay.
#[inline(always)]
fn gain(length: usize, distance: usize) -> u32 {
    let far = usize::BITS - distance.leading_zeros();
    (length as u32 * LITERAL).saturating_sub(far + PRICE)
}

/// A candidate as a number that is the larger the better: what it saves, and the nearer of two.
#[inline(always)]
fn rank(same: u32, distance: usize) -> u32 {
    (same * LITERAL + (distance as u32).leading_zeros()) << 16 | (distance as u32 ^ 0xffff)
}

/// The least rank whose gain pays.
const WORTHWHILE: u32 = (u32::BITS + PRICE + 1) << 16;

/// How much agreed, and the distance.
#[inline(always)]
fn unrank(rank: u32) -> (usize, usize) {
    let distance = rank & 0xffff ^ 0xffff;
    (((rank >> 16) - distance.leading_zeros()) as usize / LITERAL as usize, distance as usize)
}

/// The part of a head that is compared.
#[inline(always)]
fn front(head: &[u8; HEAD]) -> &[u8; 32] {
    head.first_chunk().unwrap_or(&[0; 32])
}
