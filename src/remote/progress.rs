//! When a transfer stands still. Pure: bytes and time are arguments.
//!
//! Promise: what makes progress is not cut, however thin the line. Progress is what the peer has acknowledged, not what our
//! own kernel has taken. The limit is the line's: while other transfers to the same server move, one that waits for its turn
//! gets four times the patience. A peer that lives on drops, below [`SLOWEST`], is cut all the same.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes per second that count as progress, on average over [`WINDOW`] time-outs. Eight transfers on a line of 16 kbit/s have
/// four times as much each.
const SLOWEST: u64 = 64;
/// Time-outs over which the average is taken.
const WINDOW: u32 = 5;
/// Time-outs that one transfer may stand still while others move.
const TURNS: u32 = 4;

/// The longest that `len` bytes may take.
pub(super) fn longest(len: u64, timeout: Duration) -> Duration {
    timeout * WINDOW + Duration::from_secs(len / SLOWEST)
}

/// When anything moved last on the way to one server. Looked at with every chunk that is sent, so it is no lock.
#[derive(Debug)]
pub(super) struct Line {
    since: Instant,
    /// One more than the milliseconds after `since`; 0 before anything has moved.
    moved: AtomicU64,
}

impl Line {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, moved: AtomicU64::new(0) }
    }

    fn moves(&self, now: Instant) {
        let after = now.saturating_duration_since(self.since).as_millis();
        self.moved.fetch_max(u64::try_from(after).unwrap_or(u64::MAX).saturating_add(1), Relaxed);
    }

    /// True when anything has moved within `time` before `now`.
    fn moved_within(&self, time: Duration, now: Instant) -> bool {
        let moved = self.moved.load(Relaxed).checked_sub(1).map(|after| self.since + Duration::from_millis(after));
        moved.is_some_and(|moved| now.saturating_duration_since(moved) < time)
    }
}

/// One transfer.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    line: &'a Line,
    timeout: Duration,
    arrived: u64,
    moved: Instant,
    window: (Instant, u64),
}

/// Too little arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stalled;

impl<'a> Progress<'a> {
    pub(super) fn new(line: &'a Line, timeout: Duration, now: Instant) -> Self {
        Self { line, timeout, arrived: 0, moved: now, window: (now, 0) }
    }

    /// At `now` the peer has `arrived` bytes in all.
    pub(super) fn see(&mut self, arrived: u64, now: Instant) -> Result<(), Stalled> {
        if arrived > self.arrived {
            self.arrived = arrived;
            self.moved = now;
            self.line.moves(now);
        }
        let limit = if self.line.moved_within(self.timeout, now) { self.timeout * TURNS } else { self.timeout };
        if now.saturating_duration_since(self.moved) >= limit {
            return Err(Stalled);
        }
        let (since, before) = self.window;
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= self.timeout * WINDOW {
            if (self.arrived - before) as f64 / elapsed.as_secs_f64() < SLOWEST as f64 {
                return Err(Stalled);
            }
            self.window = (now, self.arrived);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// Seconds until a transfer is cut that has `arrived(second)` bytes; none within two days.
    fn cut_after(line: &Line, others: bool, arrived: impl Fn(u64) -> u64) -> Option<u64> {
        let begun = line.since;
        let mut progress = Progress::new(line, MINUTE, begun);
        (0..172_800).find(|second| {
            let now = begun + Duration::from_secs(*second);
            if others {
                line.moves(now);
            }
            progress.see(arrived(*second), now).is_err()
        })
    }

    #[test]
    fn thin_lines_are_not_cut() {
        assert_eq!(cut_after(&Line::new(Instant::now()), false, |second| second * 2000), None, "16 kbit/s");
        assert_eq!(
            cut_after(&Line::new(Instant::now()), false, |second| second / 50 * 50 * 100),
            None,
            "a burst every 50 s"
        );
        assert_eq!(
            cut_after(&Line::new(Instant::now()), true, |second| second / 200 * 200 * 250),
            None,
            "an eighth of it, in turns"
        );
    }

    #[test]
    fn what_stands_still_or_drips_is_cut() {
        assert_eq!(cut_after(&Line::new(Instant::now()), false, |_| 9000), Some(60));
        assert_eq!(cut_after(&Line::new(Instant::now()), true, |_| 9000), Some(240), "others move");
        assert_eq!(cut_after(&Line::new(Instant::now()), false, |second| second * 20), Some(300), "20 bytes a second");
        assert_eq!(
            cut_after(&Line::new(Instant::now()), false, |second| second.min(1000) * 5000),
            Some(1060),
            "a line that dies"
        );
    }
}
