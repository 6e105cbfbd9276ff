//! How long to wait after a failed pass: exponential back-off with jitter. Pure; the random number is an argument.
//!
//! Promise: many probes that lost the same server do not come back in step, and a refused login is repeated so rarely
//! that a server which locks accounts out after a few failures is not kept locked by us.

use std::time::Duration;

/// First limit after a failed pass.
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

/// Counts failed passes in a row.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
    refused: u32,
}

impl Backoff {
    /// A pass went well: the next failure begins at the shortest wait again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Takes one more failed pass and says how long to wait before the next one. `random` is any number, evenly spread.
    ///
    /// Full jitter for an unreachable server: anything from 0 to the limit, which doubles from 5 s to 5 min.
    /// After a refused login never less than 5 min: from the limit's half to the limit, which doubles from 10 min to 1 h.
    pub fn next(&mut self, trouble: Trouble, random: u64) -> Duration {
        match trouble {
            Trouble::Unreachable => {
                let limit = doubled(FIRST, self.failures).min(LAST);
                self.failures = self.failures.saturating_add(1);
                self.refused = 0;
                part(limit, random)
            }
            Trouble::RefusedLogin => {
                let least = doubled(FIRST_REFUSED, self.refused).min(LAST_REFUSED / 2);
                self.refused = self.refused.saturating_add(1);
                least + part(least, random)
            }
        }
    }
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

    fn longest(trouble: Trouble, passes: u32) -> Vec<u64> {
        let mut backoff = Backoff::default();
        let limit_of = |backoff: &Backoff| {
            (0..=3_600_000u64).step_by(500).map(|r| backoff.clone().next(trouble, r).as_millis() as u64).max().unwrap()
        };
        (0..passes)
            .map(|_| {
                let limit = limit_of(&backoff) / 1000;
                backoff.next(trouble, 0);
                limit
            })
            .collect()
    }

    #[test]
    fn limits_double_and_end() {
        assert_eq!(longest(Trouble::Unreachable, 9), [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(longest(Trouble::RefusedLogin, 5), [600, 1200, 2400, 3600, 3600]);
    }

    #[test]
    fn success_begins_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.next(Trouble::Unreachable, 7);
        }
        backoff.reset();
        assert!(backoff.next(Trouble::Unreachable, u64::MAX) <= FIRST);
    }

    proptest! {
        #[test]
        fn no_wait_leaves_its_range(troubles in proptest::collection::vec(any::<(bool, u64)>(), 0..200)) {
            let mut backoff = Backoff::default();
            for (refused, random) in troubles {
                if refused {
                    let wait = backoff.next(Trouble::RefusedLogin, random);
                    prop_assert!((FIRST_REFUSED..=LAST_REFUSED).contains(&wait));
                } else {
                    prop_assert!(backoff.next(Trouble::Unreachable, random) <= LAST);
                }
            }
        }
    }
}
