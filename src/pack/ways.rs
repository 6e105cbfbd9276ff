//! Which older field is worth looking at: the ways of looking, and what each column keeps of them, learned from its rows.
//!
//! Knows where fields stood, by way and key; never reads a row, never decides what becomes a match.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::filled;
use crate::fields::lanes::word;

/// Columns with statistics of their own. Longer rows wrap around: larger output, still correct.
pub(super) const COLUMNS: usize = 64;
/// The ways of looking for an older field.
pub(super) const WAYS: usize = 10;
/// How many first bytes must be equal, by way. The field's end does not count, so that the longer ones tell apart what
/// follows a short field.
const FIRSTS: [usize; WAYS] = [10, 3, 4, 6, 8, 12, 16, 20, 22, 28];
/// Slots of one way. A window holds about 3,500 fields.
const SLOT_BITS: u32 = 12;
/// Ways kept for a column at most. With six, nothing became smaller.
pub(super) const KEPT: usize = 4;
/// Rows that fill the tables before any is watched: about a window of rows.
const WARM: usize = 256;
/// Rows watched: what would each way have gained? With 192 rows that nfacctd printed became 0.4 % larger.
const WATCHED: usize = 256;
/// Rows after which the ways are chosen anew in any case: a choice that fell on odd rows does not stay. After a quarter as many,
/// rows took 4 % longer, and became 0 to 0.25 % larger.
const AGAIN: usize = 256 * 1024;
/// After so many bytes it is reviewed what they became: about a block.
const REVIEWED: usize = 128 * 1024;
/// The ways are chosen anew when bytes became larger than usual by a sixteenth. nfacctd's output alternates between paired and
/// single rows, as flows end by timeout or eviction, and choices for the other kind cost 12 %; rows of one kind differ by 1 to
/// 3 %. Choosing every 10,240 rows instead took 6 % longer and made nothing smaller.
const OFF: usize = 16;
/// The usual price is the least that was seen, and rises by this part at each review, so that after about four of them rows
/// that are dear by nature are no longer learned again and again.
const FORGET: usize = 64;
/// What a way must gain over those already kept, in bits over all watched rows: a quarter of a bit a row. At 80 real
/// rows became 0.2 % larger, at 48 no row became 0.1 % smaller.
const WORTH: u32 = 64;
/// Bytes from a field's start on that are looked at before it is known how far it reaches.
pub(super) const HEAD: usize = 40;

/// One way of looking, as a column keeps it, and how its key is made: up to 8 bytes are moved to the top of a word, more are
/// two words that overlap or leave a gap.
#[derive(Clone, Copy)]
pub(super) struct Way {
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
    pub(super) fn slot(&self, head: &[u8; HEAD]) -> u16 {
        let low = (word(head, 0) << (self.shift & 63)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let high = word(head, usize::from(self.second & 31)).wrapping_mul(self.factor);
        self.table | (low.wrapping_add(high) >> (64 - SLOT_BITS)) as u16
    }
}

/// All ways, tried while the columns are learned.
pub(super) const ALL: [Way; WAYS] = {
    let mut ways = [Way::of(0); WAYS];
    let mut way = 0;
    while way < WAYS {
        ways[way] = Way::of(way);
        way += 1;
    }
    ways
};

/// The ways tried in one column.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) ways: [Way; KEPT],
    /// How many of them count, at most [`KEPT`].
    pub(super) count: usize,
}

impl Column {
    const NEW: Self = Self { ways: [Way::of(0); KEPT], count: 0 };

    #[inline(always)]
    pub(super) fn ways(&self) -> &[Way] {
        &self.ways[..self.count.min(KEPT)]
    }

    /// Keeps the ways that gained most together in the rows watched: the best, then the one that adds most to it, and so on.
    fn choose(&mut self, gains: &[[u8; WAYS]]) {
        let mut reached = [0_u8; WATCHED];
        let mut left: [bool; WAYS] = [true; WAYS];
        self.count = 0;
        for kept in &mut self.ways {
            let more = |way: usize| -> u32 {
                gains.iter().zip(&reached).map(|(gains, &had)| u32::from(gains[way].saturating_sub(had))).sum()
            };
            let fresh = (0..WAYS).filter(|&way| left[way]).map(|way| (more(way), way));
            let Some((more, way)) = fresh.max_by_key(|&(more, way)| (more, WAYS - way)) else { break };
            if more < WORTH {
                break;
            }
            *kept = Way::of(way);
            left[way] = false;
            self.count += 1;
            for (had, gains) in reached.iter_mut().zip(gains) {
                *had = (*had).max(gains[way]);
            }
        }
    }
}

/// Where fields stood, and what to try in which column. Goes on from block to block.
pub(crate) struct Ways {
    /// The low 16 bits of the last place, by way and key. What is stale or foreign is found out by comparing.
    places: Box<[u16; 1 << 16]>,
    columns: Box<[Column; COLUMNS]>,
    /// Rows since learning began.
    rows: usize,
    has_chosen: bool,
    gains: Box<[[[u8; WAYS]; WATCHED]]>,
    watched: [usize; COLUMNS],
    /// Bytes since the last review, and what they became.
    spent: (usize, usize),
    /// What a byte usually becomes, in 1,024ths of a byte.
    usual: Option<usize>,
}

impl Ways {
    pub(crate) fn new() -> Self {
        Self {
            places: filled(0),
            columns: Box::new([Column::NEW; COLUMNS]),
            rows: 0,
            has_chosen: false,
            gains: vec![[[0; WAYS]; WATCHED]; COLUMNS].into_boxed_slice(),
            watched: [0; COLUMNS],
            spent: (0, 0),
            usual: None,
        }
    }

    /// Forgets all places. The choices stay: neighbouring pieces are of one kind, and learning takes time.
    pub(crate) fn clear(&mut self) {
        self.places[..WAYS << SLOT_BITS].fill(0);
    }

    /// The columns, and the table of places.
    #[inline(always)]
    pub(super) fn parts(&mut self) -> (&[Column; COLUMNS], &mut [u16; 1 << 16]) {
        (&self.columns, &mut self.places)
    }

    /// Enters a field at `here` under the key of `slot`; returns the place that stood there.
    #[inline(always)]
    pub(super) fn enter(&mut self, slot: u16, here: u16) -> u16 {
        std::mem::replace(&mut self.places[usize::from(slot)], here)
    }

    /// Whether the columns are being learned.
    pub(super) fn is_learning(&self) -> bool {
        self.rows < WARM + WATCHED
    }

    /// Whether rows are being watched, with tables that are full enough.
    pub(super) fn is_watching(&self) -> bool {
        self.rows >= WARM
    }

    /// Whether there is a choice to go by.
    pub(super) fn has_chosen(&self) -> bool {
        self.has_chosen
    }

    /// Writes down what each way would have gained for one field, in bits.
    #[inline(always)]
    pub(super) fn watch(&mut self, column: usize, gains: [u8; WAYS]) {
        if let Some(kept) = self.gains[column].get_mut(self.watched[column]) {
            *kept = gains;
            self.watched[column] += 1;
        }
    }

    /// Counts rows; chooses when enough were watched, and learns again after a while.
    pub(super) fn turn(&mut self, rows: usize) {
        let learned = self.is_learning();
        self.rows += rows;
        if learned && !self.is_learning() {
            self.has_chosen = true;
            for ((column, gains), &watched) in self.columns.iter_mut().zip(&self.gains).zip(&self.watched) {
                column.choose(&gains[..watched]);
            }
        } else if self.rows >= AGAIN {
            self.learn();
        }
    }

    /// Hears that a block of `bytes` became `packed`; learns again when that is more than usual.
    pub(crate) fn review(&mut self, bytes: usize, packed: usize) {
        if self.is_learning() {
            return;
        }
        self.spent = (self.spent.0 + bytes, self.spent.1 + packed);
        if self.spent.0 < REVIEWED {
            return;
        }
        let price = self.spent.1 * 1024 / self.spent.0;
        self.spent = (0, 0);
        let usual = self.usual.map_or(price, |usual| usual + usual / FORGET);
        self.usual = Some(usual.min(price));
        if price > usual + usual / OFF {
            self.learn();
        }
    }

    /// Tries every way in every column again.
    fn learn(&mut self) {
        self.rows = 0;
        self.watched = [0; COLUMNS];
        self.spent = (0, 0);
    }
}
