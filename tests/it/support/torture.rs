//! How hard the proofs try, and the table of what they did.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The short figure, or the long one under `scripts/torture`, which sets PROCESSOR_TORTURE to its minutes.
pub fn points(short: usize, long: usize) -> usize {
    if minutes().is_some() { long } else { short }
}

/// How long the mixed troubles may last: a moment, or the minutes that were asked for.
pub fn soak() -> Duration {
    minutes().map_or(Duration::from_secs(4), |minutes| Duration::from_secs(60 * minutes))
}

pub fn is_long() -> bool {
    minutes().is_some()
}

fn minutes() -> Option<u64> {
    let value = std::env::var("PROCESSOR_TORTURE").ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("PROCESSOR_TORTURE={value} is not a number of minutes")))
}

/// Says one row of the result table; `scripts/torture` collects them.
pub fn report(promise: &str, broken_how: &str, figure: &str) {
    eprintln!("TORTURE | {promise} | {broken_how} | {figure} |");
}

/// Does `each` for every point, several at a time: most of a point is waiting.
pub fn in_parallel<P: Send + Sync>(points: &[P], threads: usize, each: impl Fn(&P) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(points.len()) {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Relaxed)) {
                    each(point);
                }
            });
        }
    });
}

/// Counts by name, from many threads.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<String, usize>>);

impl Tally {
    pub fn add(&self, name: &str) {
        *self.0.lock().unwrap().entry(name.to_owned()).or_default() += 1;
    }

    /// How many different names were counted.
    pub fn kinds(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The names, in their order.
    pub fn names(&self) -> String {
        self.0.lock().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
    }

    pub fn total(&self) -> usize {
        self.0.lock().unwrap().values().sum()
    }

    pub fn text(&self) -> String {
        let counts: Vec<_> = self.0.lock().unwrap().iter().map(|(name, count)| format!("{name} {count}")).collect();
        counts.join(", ")
    }
}
