//! When the next pass begins: after a failed one a back-off with jitter, after a good one the interval. Pure; the random number
//! and the time are arguments.
//!
//! Promise: many probes that lost the same server, or were started together, do not come in step; a server that is back is
//! found again within the time that it was away, and within the interval; and a refused login is repeated so rarely that a
//! server which locks accounts out after a few failures is not kept locked by us.

use std::time::{Duration, Instant};

/// Limit of the wait after the first failed pass.
const FIRST: Duration = Duration::from_secs(5);
/// No wait after a failed pass is longer.
const LAST: Duration = Duration::from_mins(5);
/// Shortest wait after a refused login. With it, fewer than three attempts fall into the ten minutes that common
/// lock-out rules look back.
const FIRST_REFUSED: Duration = Duration::from_mins(5);
/// Longest wait after a refused login.
const LAST_REFUSED: Duration = Duration::from_hours(1);

/// What went wrong with a pass, as far as waiting is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The server could not be reached, or broke off, or refused file after file.
    Unreachable,
    /// The server refused the login.
    RefusedLogin,
}

/// Failed passes in a row.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    /// When the first of them ended.
    since: Option<Instant>,
    refused: u32,
}

impl Backoff {
    /// A pass went well: the next failure begins at the shortest wait again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Takes one more pass, that failed at `now`, and says how long to wait before the next one. `interval` is the time between
    /// passes when all is well; `random` is any number, evenly spread.
    ///
    /// For an unreachable server nearly full jitter, from an eighth of the limit to the limit, which is the time since the
    /// first failure, but 5 s at least and 5 min at most, and never more than the interval.
    /// After a refused login never less than 5 min: from the limit's half to the limit, which doubles from 10 min to 1 h.
    pub fn next(&mut self, trouble: Trouble, now: Instant, interval: Duration, random: u64) -> Duration {
        let since = *self.since.get_or_insert(now);
        match trouble {
            Trouble::Unreachable => {
                self.refused = 0;
                let limit = now.saturating_duration_since(since).clamp(FIRST, LAST).min(interval);
                limit / 8 + part(limit / 8 * 7, random)
            }
            Trouble::RefusedLogin => {
                let least = doubled(FIRST_REFUSED, self.refused).min(LAST_REFUSED / 2);
                self.refused = self.refused.saturating_add(1);
                least + part(least, random)
            }
        }
    }
}

/// The wait after the first good pass: any part of the interval, so that probes which were started together keep apart from
/// then on.
pub fn phase(interval: Duration, random: u64) -> Duration {
    part(interval, random)
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(times.min(16)).unwrap_or(u32::MAX))
}

/// A part of `limit`: `random` mapped evenly onto `0..=limit`, in milliseconds.
fn part(limit: Duration, random: u64) -> Duration {
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % millis.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_mins(10);

    /// The longest waits, each served in full, with the limit that was asked for.
    fn longest(trouble: Trouble, interval: Duration, passes: u32) -> Vec<u64> {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        (0..passes)
            .map(|_| {
                let wait = |backoff: &Backoff, random| backoff.clone().next(trouble, now, interval, random);
                let longest = (0..=3_600_000u64).step_by(500).map(|random| wait(&backoff, random)).max().unwrap();
                backoff.next(trouble, now, interval, 0);
                now += longest;
                (longest + Duration::from_millis(500)).as_secs()
            })
            .collect()
    }

    #[test]
    fn limits_follow_the_time_away_and_end() {
        assert_eq!(longest(Trouble::Unreachable, INTERVAL, 10), [5, 5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(longest(Trouble::Unreachable, Duration::from_secs(5), 30), [5; 30]);
        assert_eq!(longest(Trouble::RefusedLogin, Duration::from_secs(5), 5), [600, 1200, 2400, 3600, 3600]);
    }

    #[test]
    fn a_server_that_is_back_is_found_within_the_interval_or_the_time_it_was_away() {
        for (interval, away) in [(5, 60), (600, 60), (600, 7200), (60, 3600)] {
            let (interval, away) = (Duration::from_secs(interval), Duration::from_secs(away));
            for probe in 0..300u64 {
                let begun = Instant::now();
                let (mut backoff, mut now) = (Backoff::default(), begun);
                while now < begun + away {
                    let random =
                        (probe + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left((now - begun).subsec_millis() % 64);
                    now += backoff.next(Trouble::Unreachable, now, interval, random);
                }
                let late = now - (begun + away);
                assert!(late <= interval && late <= away.max(FIRST) && late <= LAST, "{late:?} after {away:?}");
            }
        }
    }

    #[test]
    fn success_begins_anew() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for n in 0..20 {
            backoff.next(Trouble::Unreachable, now + n * LAST, INTERVAL, 7);
        }
        backoff.reset();
        assert!(backoff.next(Trouble::Unreachable, now + 30 * LAST, INTERVAL, u64::MAX) <= FIRST);
    }

    #[test]
    fn probes_that_start_together_part() {
        let mut phases: Vec<_> =
            (0..300u64).map(|n| phase(INTERVAL, n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7).as_secs()).collect();
        assert!(phases.iter().all(|phase| *phase <= 600));
        phases.sort_unstable();
        phases.dedup();
        assert!(phases.len() > 200, "{}", phases.len());
    }

    proptest! {
        #[test]
        fn no_wait_leaves_its_range(troubles in proptest::collection::vec(any::<(bool, u64)>(), 0..200)) {
            let mut backoff = Backoff::default();
            let now = Instant::now();
            for (refused, random) in troubles {
                if refused {
                    let wait = backoff.next(Trouble::RefusedLogin, now, INTERVAL, random);
                    prop_assert!((FIRST_REFUSED..=LAST_REFUSED).contains(&wait));
                } else {
                    prop_assert!(backoff.next(Trouble::Unreachable, now, INTERVAL, random) <= LAST);
                }
            }
        }
    }
}
