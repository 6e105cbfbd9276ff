//! Rows → matches: where fields start, what is tried there, and which tries are worth their time.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::block::{LEAST, MOST, Match};
use super::matches::{Lanes, WINDOW, Words, word};
use super::plain::{Chains, Reach};

/// Columns told apart; a longer row begins again at 0, which costs size, not truth.
const COLUMNS: usize = 64;
/// The ways of looking for an older field: [`WHOLE`], then by its first bytes.
const WAYS: usize = 10;
/// The way that needs the whole field to be equal (its first 8 and last 8 bytes up to 32).
const WHOLE: usize = 0;
/// How many first bytes must be equal, by way. The field's end does not count, so that the longer ones tell apart what
/// follows a short field.
const FIRSTS: [usize; WAYS] = [0, 2, 4, 6, 8, 12, 16, 20, 22, 28];
/// Slots of one way. A window holds about 3,500 fields.
const SLOT_BITS: u32 = 12;
/// Ways kept for a column at most.
const KEPT: usize = 4;
/// Rows that fill the tables before any is watched: about a window of rows.
const WARM: usize = 320;
/// Rows watched: what would each way have gained?
const WATCHED: usize = 64;
/// Rows after which the ways are chosen anew.
const AGAIN: usize = 8 * 1024;
/// What a way must gain over the ways already kept, in bits over all watched rows.
const WORTH: u32 = 24;
/// A field from which more than this is left is searched by the general finder.
const LONG: usize = 48;
/// Bytes whose field ends are found at once.
const STRIP: usize = 2048;
/// What a match must bring before it pays: its length's and its distance's code, in bits, beside the distance itself.
const PRICE: u32 = 7;
/// What a byte costs as a literal, in bits. Digits take 3.3 to 4.
const LITERAL: u32 = 4;

/// How a key is made: up to 8 bytes are moved to the top of a word, more are two words that overlap or leave a gap.
#[derive(Clone, Copy)]
struct Form {
    shift: u32,
    second: usize,
    factor: u64,
}

impl Form {
    const fn of(length: usize) -> Self {
        match length {
            0 => Self { shift: 0, second: 0, factor: 0 },
            1..=8 => Self { shift: 64 - 8 * length as u32, second: 0, factor: 0 },
            _ => Self { shift: 0, second: length - 8, factor: 0x9fb2_1c65_1e98_df25 },
        }
    }

    #[inline(always)]
    fn slot(self, head: &[u8; 32]) -> usize {
        let low = (word(head, 0) << (self.shift % 64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let high = word(head, self.second).wrapping_mul(self.factor);
        (low.wrapping_add(high) >> (64 - SLOT_BITS)) as usize
    }
}

/// The forms of whole fields, by length.
const FORMS: [Form; 33] = {
    let mut forms = [Form::of(0); 33];
    let mut length = 0;
    while length < forms.len() {
        forms[length] = Form::of(length);
        length += 1;
    }
    forms
};

/// One way of looking, as a column keeps it.
#[derive(Clone, Copy)]
struct Way {
    form: Form,
    /// The way's first slot in the table.
    table: usize,
}

impl Way {
    const fn of(way: usize) -> Self {
        Self { form: Form::of(FIRSTS[way]), table: way << SLOT_BITS }
    }

    #[inline(always)]
    fn slot(&self, head: &[u8; 32], length: usize) -> usize {
        let form = if self.table == WHOLE { &FORMS[length.min(32)] } else { &self.form };
        self.table | form.slot(head)
    }
}

/// The ways tried in one column.
#[derive(Clone, Copy)]
struct Column {
    ways: [Way; WAYS],
    count: usize,
}

impl Column {
    const ALL: Self = {
        let mut ways = [Way::of(0); WAYS];
        let mut way = 0;
        while way < WAYS {
            ways[way] = Way::of(way);
            way += 1;
        }
        Self { ways, count: WAYS }
    };

    #[inline(always)]
    fn ways(&self) -> &[Way] {
        &self.ways[..self.count.min(WAYS)]
    }
}

/// Where fields stood, and what to try in which column. Goes on from block to block.
pub(crate) struct Fields {
    /// The low 16 bits of the last place, by way and key. What is stale or foreign is found out by comparing.
    places: Box<[u16]>,
    columns: Box<[Column]>,
    rows: usize,
    gains: Box<[[[u8; WAYS]; WATCHED]]>,
    watched: [usize; COLUMNS],
}

impl Fields {
    pub(crate) fn new() -> Self {
        Self {
            places: vec![0; WAYS << SLOT_BITS].into_boxed_slice(),
            columns: vec![Column::ALL; COLUMNS].into_boxed_slice(),
            rows: 0,
            gains: vec![[[0; WAYS]; WATCHED]; COLUMNS].into_boxed_slice(),
            watched: [0; COLUMNS],
        }
    }

    /// Forgets all places and choices, so that what follows does not depend on what was before.
    pub(crate) fn clear(&mut self) {
        self.places.fill(0);
        self.learn();
    }

    /// Tries every way in every column again.
    fn learn(&mut self) {
        self.columns.fill(Column::ALL);
        self.rows = 0;
        self.watched = [0; COLUMNS];
    }

    #[inline(always)]
    fn is_watching(&self) -> bool {
        self.rows.wrapping_sub(WARM) < WATCHED
    }

    /// Called after every field, `ended` 1 where it ended a row and 0 elsewhere.
    #[inline(always)]
    fn row(&mut self, ended: usize) {
        self.rows += ended;
        if self.rows >= WARM + WATCHED && ended == 1 {
            self.turn();
        }
    }

    #[inline(always)]
    fn turn(&mut self) {
        if self.rows == WARM + WATCHED {
            self.choose();
        } else if self.rows >= AGAIN {
            self.learn();
        }
    }

    /// Keeps for every column the ways that gained most together: the best, then the one that adds most to it, and so on.
    #[inline(never)]
    fn choose(&mut self) {
        for (column, (&watched, gains)) in self.columns.iter_mut().zip(self.watched.iter().zip(&self.gains)) {
            let gains = &gains[..watched];
            let mut reached = [0_u8; WATCHED];
            column.count = 0;
            while column.count < KEPT {
                let more = |way: usize| -> u32 {
                    gains.iter().zip(&reached).map(|(gains, &had)| u32::from(gains[way].saturating_sub(had))).sum()
                };
                let best = (0..WAYS).map(|way| (more(way), way)).max_by_key(|&(more, way)| (more, WAYS - way));
                let Some((_, way)) = best.filter(|&(more, _)| more > WORTH) else { break };
                column.ways[column.count] = Way::of(way);
                column.count += 1;
                for (had, gains) in reached.iter_mut().zip(gains) {
                    *had = (*had).max(gains[way]);
                }
            }
        }
    }
}

/// One block being parsed.
pub(crate) struct Parse<'a, L> {
    pub(crate) lanes: L,
    pub(crate) bytes: &'a [u8],
    /// Where the block ends.
    pub(crate) to: usize,
    pub(crate) reach: Reach,
    /// The first byte that no match covers.
    pub(crate) cursor: usize,
    pub(crate) matches: &'a mut Vec<Match>,
    pub(crate) fields: &'a mut Fields,
    pub(crate) chains: &'a mut Chains,
}

impl<L: Lanes> Parse<'_, L> {
    /// Parses rows whose fields are parted by `separator`, from `from` to the block's end.
    #[inline(always)]
    pub(crate) fn rows(&mut self, from: usize, separator: u8) {
        let mut ends = [0_u32; STRIP + 64];
        let mut start = from;
        let mut column = 0;
        let mut strip = from;
        while strip < self.to {
            let stop = self.to.min(strip + STRIP);
            let count = self.ends(strip, stop, separator, &mut ends);
            for &end in &ends[..count] {
                let next = end as usize + 1;
                self.field(start, next, column);
                let ended = usize::from(self.bytes[next - 1] == b'\n');
                column = (column + 1) * (1 - ended);
                start = next;
                self.fields.row(ended);
            }
            strip = stop;
        }
        if start < self.to {
            self.field(start, self.to, column);
        }
    }

    /// Where the fields of `from..to` end; returns how many.
    #[inline(always)]
    fn ends(&self, from: usize, to: usize, separator: u8, ends: &mut [u32; STRIP + 64]) -> usize {
        let mut count = 0;
        let mut at = from;
        while at < to {
            let mut marks = self.lanes.marks(self.bytes, at, separator);
            if to - at < 64 {
                marks &= (1 << (to - at)) - 1;
            }
            let found = marks.count_ones() as usize;
            // Eight are written whether there are as many or not: a loop over each would end unforeseen every time.
            if let Some(room) = ends.get_mut(count..).and_then(|room| room.first_chunk_mut::<8>()) {
                for end in room {
                    *end = (at as u32).wrapping_add(marks.trailing_zeros());
                    marks &= marks.wrapping_sub(1);
                }
            }
            for end in &mut ends[(count + 8).min(count + found)..count + found] {
                *end = at as u32 + marks.trailing_zeros();
                marks &= marks.wrapping_sub(1);
            }
            count += found;
            at += 64;
        }
        count
    }

    /// Looks for a match at the start of the field `start..next`, the separator included.
    #[inline(always)]
    fn field(&mut self, start: usize, next: usize, column: usize) {
        let bytes = self.bytes;
        let Some(head) = bytes.get(start..).and_then(<[u8]>::first_chunk::<32>) else { return };
        let here = (self.reach.base as usize + start) as u16;
        let length = next - start;
        if next <= self.cursor {
            for way in self.fields.columns[column % COLUMNS].ways() {
                self.fields.places[way.slot(head, length)] = here;
            }
            return;
        }
        if self.fields.is_watching() {
            self.watch(start, next, column % COLUMNS);
        }
        let probe = self.lanes.load(head);
        let farthest = (start - self.reach.floor).min(WINDOW);
        let mut best = 0;
        for way in self.fields.columns[column % COLUMNS].ways() {
            let old = std::mem::replace(&mut self.fields.places[way.slot(head, length)], here);
            let distance = usize::from(here.wrapping_sub(old));
            // All ones where the candidate lies in the window: no branch, for none could be foreseen.
            let valid = 0_usize.wrapping_sub(usize::from(distance.wrapping_sub(1) < farthest));
            let same = self.lanes.same(probe, bytes, start - (distance & valid));
            best = best.max(rank(same, distance) & valid as u64);
        }
        if best >= WORTHWHILE {
            let (same, distance) = unrank(best);
            let most = self.to - start;
            let length =
                if same < 32 { same.min(most) } else { self.lanes.common(bytes, start - distance, start, most) };
            if gain(length, distance) > 0 {
                self.take(start, length, distance);
            }
        }
        let open = self.cursor.max(start);
        if next > open + LONG {
            self.plain(open, next);
        }
    }

    /// Keeps what every way would have gained here.
    #[inline(never)]
    fn watch(&mut self, start: usize, next: usize, column: usize) {
        let Some(head) = self.bytes.get(start..).and_then(<[u8]>::first_chunk::<32>) else { return };
        let here = (self.reach.base as usize + start) as u16;
        let farthest = (start - self.reach.floor).min(WINDOW);
        let row = self.fields.watched[column];
        let Some(gains) = self.fields.gains[column].get_mut(row) else { return };
        for (gained, way) in gains.iter_mut().zip(Column::ALL.ways()) {
            let old = self.fields.places[way.slot(head, next - start)];
            let distance = usize::from(here.wrapping_sub(old));
            *gained = 0;
            if distance.wrapping_sub(1) < farthest {
                let length = Words.common(self.bytes, start - distance, start, self.to - start);
                *gained = gain(length, distance).min(120) as u8;
            }
        }
        self.fields.watched[column] += 1;
    }

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
            let lowest = self.cursor.max(self.reach.floor + distance);
            if start >= distance + 8 {
                let differ = word(self.bytes, start - 8) ^ word(self.bytes, start - 8 - distance);
                let back = ((differ.leading_zeros() / 8) as usize).min(start.saturating_sub(lowest));
                start -= back;
                length += back;
            }
            if start == self.cursor && self.swallows(start, distance) {
                let last = self.matches.pop().map_or(0, |last| usize::from(last.length));
                start -= last;
                length += last;
            }
        }
        self.push(start, length, distance);
    }

    /// Whether a match at `distance` that reaches back to `start` covers the match before it as well.
    #[inline(always)]
    fn swallows(&self, start: usize, distance: usize) -> bool {
        let Some(last) = self.matches.last() else { return false };
        let (before, length) = (last.start as usize, usize::from(last.length));
        before + length == start
            && length < 64
            && before >= self.reach.floor + distance
            && self.bytes[before..start] == self.bytes[before - distance..start - distance]
    }

    /// Writes a match down, in parts where it is longer than one may be. No part is shorter than one may be.
    #[inline(always)]
    fn push(&mut self, start: usize, length: usize, distance: usize) {
        self.cursor = start + length;
        let mut start = start as u32;
        let mut left = length;
        while left > 0 {
            let part = if left <= MOST { left } else { MOST.min(left - LEAST) };
            self.matches.push(Match { start, length: part as u16, distance: distance as u16 });
            start += part as u32;
            left -= part;
        }
    }

    /// Parses bytes without fields.
    pub(crate) fn plain(&mut self, from: usize, to: usize) {
        let mut at = from;
        while let Some((start, length, distance)) = self.chains.next(self.bytes, self.reach, (at, to)) {
            self.push(start, length, distance);
            at = start + length;
        }
    }
}

/// The bits a match saves over literals; where it saves none it does not pay.
#[inline(always)]
fn gain(length: usize, distance: usize) -> u32 {
    let far = usize::BITS - distance.leading_zeros();
    (length as u32 * LITERAL).saturating_sub(far + PRICE)
}

/// A candidate as a number that is the larger the better: its gain (64 added), how much agrees, and the nearer of two.
#[inline(always)]
fn rank(same: u32, distance: usize) -> u64 {
    let gain = same * LITERAL + 64 - (u32::BITS - (distance as u32).leading_zeros());
    u64::from(gain) << 32 | u64::from(same) << 16 | (distance as u64 ^ 0xffff)
}

/// The least rank whose gain pays.
const WORTHWHILE: u64 = ((64 + PRICE + 1) as u64) << 32;

#[inline(always)]
fn unrank(rank: u64) -> (usize, usize) {
    ((rank >> 16 & 0xff) as usize, (rank & 0xffff ^ 0xffff) as usize)
}
