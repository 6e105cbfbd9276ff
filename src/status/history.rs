//! The last hour in points: what was read a second, what waited. Bounded and pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::stats::Stats;

/// Time between two points. A chart of an hour cannot show more, and the hour stays a small answer.
pub const STEP: Duration = Duration::from_secs(10);
/// Points of an hour.
const POINTS: usize = 360;

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Lines read so far.
    pub lines: u64,
    /// Packets in them.
    pub packets: u64,
    /// Bytes of those packets.
    pub octets: u64,
    /// Bytes that wait in sealed files.
    pub spool_bytes: u64,
}

impl Sample {
    /// The sample of this moment.
    pub fn of(stats: &Stats) -> Self {
        Self {
            lines: stats.read.lines.get(),
            packets: stats.read.packets.get(),
            octets: stats.read.octets.get(),
            spool_bytes: stats.spool_bytes.get(),
        }
    }
}

/// A point of the chart: three rates over the step before it, and a level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Point {
    /// Lines a second.
    pub lines: u64,
    /// Packets a second.
    pub packets: u64,
    /// Bytes a second.
    pub octets: u64,
    /// Bytes that wait.
    pub spool_bytes: u64,
}

/// The points of the last hour.
#[derive(Debug)]
pub struct History {
    points: VecDeque<Point>,
    last: Sample,
    last_at: Instant,
}

impl History {
    /// A history that begins at `now` with nothing read.
    pub fn new(now: Instant) -> Self {
        Self { points: VecDeque::with_capacity(POINTS), last: Sample::default(), last_at: now }
    }

    /// When the next point is due.
    pub fn due(&self) -> Instant {
        self.last_at + STEP
    }

    /// Adds a point if one is due.
    pub fn note(&mut self, sample: Sample, now: Instant) {
        let Some(time) = now.checked_duration_since(self.last_at).filter(|time| *time >= STEP) else { return };
        let rate = |now: u64, before: u64| {
            let grown = u128::from(now.saturating_sub(before)) * 1000;
            u64::try_from(grown / time.as_millis()).unwrap_or(u64::MAX)
        };
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            lines: rate(sample.lines, self.last.lines),
            packets: rate(sample.packets, self.last.packets),
            octets: rate(sample.octets, self.last.octets),
            spool_bytes: sample.spool_bytes,
        });
        (self.last, self.last_at) = (sample, now);
    }

    /// The points, oldest first.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_over_what_has_passed() {
        let start = Instant::now();
        let mut history = History::new(start);
        let sample = |lines| Sample { lines, octets: lines * 10, spool_bytes: 5, ..Sample::default() };
        history.note(sample(70), start + Duration::from_secs(9));
        history.note(sample(100), start + Duration::from_secs(10));
        history.note(sample(500), start + Duration::from_secs(30));
        let points: Vec<_> = history.points().map(|p| (p.lines, p.packets, p.octets, p.spool_bytes)).collect();
        assert_eq!(points, [(10, 0, 100, 5), (20, 0, 200, 5)]);
    }

    #[test]
    fn an_hour_and_no_more() {
        let start = Instant::now();
        let mut history = History::new(start);
        for step in 1..=2 * POINTS as u32 {
            history.note(Sample { lines: u64::from(step), ..Sample::default() }, start + STEP * step);
        }
        assert_eq!(history.points().count(), POINTS);
    }
}
