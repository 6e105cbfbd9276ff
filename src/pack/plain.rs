//! The general match finder, for bytes without fields: binary, prose, fields of hundreds of bytes.
//!
//! Hash chains over four bytes, the way deflate is usually made: every position enters the table of its first four bytes
//! and points to the one before; up to [`TRIES`] older positions are compared, nearest first; before a match is taken the
//! next position may show a longer one. Promises: work is bounded by [`TRIES`] comparisons a byte; memory is fixed.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

use super::block::{LEAST, MOST, WINDOW};
use crate::fields::lanes::{Lanes, Padded, Words};

const HEAD_BITS: u32 = 15;
/// Older positions compared. Sizes near gzip -6 on text and on binaries; not measured beyond that.
const TRIES: usize = 16;
/// A match as long as this is taken at once, and ends the search for a longer one.
const ENOUGH: usize = 64;
/// After a match, this many of its positions become known to later ones.
const ENTERED: usize = 64;

/// Where the four bytes stood last, and before that, and before that.
pub(crate) struct Chains {
    head: Box<[u32]>,
    older: Box<[u32]>,
}

/// The part of the buffer that matches may use, and the number of its first byte in the whole stream.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    pub(crate) base: u32,
    /// Nothing before this byte of the buffer may be referred to.
    pub(crate) floor: usize,
}

impl Chains {
    pub(crate) fn new() -> Self {
        Self { head: vec![0; 1 << HEAD_BITS].into_boxed_slice(), older: vec![0; WINDOW].into_boxed_slice() }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.head.fill(0);
        self.older.fill(0);
    }

    /// Looks for the first match at or after `at` that ends before `to`, and returns its start, length and distance.
    #[inline(never)]
    pub(crate) fn next(
        &mut self,
        bytes: Padded,
        reach: Reach,
        (at, to): (usize, usize),
    ) -> Option<(usize, usize, usize)> {
        let mut at = at;
        while at + 4 <= to {
            let found = self.longest(bytes, reach, (at, to));
            self.enter(bytes, reach, at);
            if let Some((mut length, mut distance)) = found {
                if length < ENOUGH / 2
                    && at + 5 <= to
                    && let Some((longer, farther)) = self.longest(bytes, reach, (at + 1, to))
                    && longer > length
                {
                    at += 1;
                    self.enter(bytes, reach, at);
                    (length, distance) = (longer, farther);
                }
                for inside in at + 1..(at + length).min(at + ENTERED) {
                    self.enter(bytes, reach, inside);
                }
                return Some((at, length, distance));
            }
            at += 1;
        }
        None
    }

    #[inline(always)]
    fn enter(&mut self, bytes: Padded, reach: Reach, at: usize) {
        let slot = slot(bytes, at);
        let here = reach.base + at as u32;
        self.older[here as usize % WINDOW] = self.head[slot];
        self.head[slot] = here;
    }

    #[inline(always)]
    fn longest(&self, bytes: Padded, reach: Reach, (at, to): (usize, usize)) -> Option<(usize, usize)> {
        let here = reach.base + at as u32;
        let farthest = (at - reach.floor).min(WINDOW);
        let mut old = self.head[slot(bytes, at)];
        let mut best = (LEAST, 0);
        for _ in 0..TRIES {
            let distance = here.wrapping_sub(old) as usize;
            if distance.wrapping_sub(1) >= farthest {
                break;
            }
            let length = Words.common(bytes, at - distance, at, (to - at).min(MOST));
            if length > best.0 {
                best = (length, distance);
                if length >= ENOUGH {
                    break;
                }
            }
            let older = self.older[old as usize % WINDOW];
            if older >= old {
                break;
            }
            old = older;
        }
        (best.1 > 0).then_some(best)
    }
}

#[inline(always)]
fn slot(bytes: Padded, at: usize) -> usize {
    ((bytes.word(at) as u32).wrapping_mul(0x9e37_79b1) >> (32 - HEAD_BITS)) as usize
}
