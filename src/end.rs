//! The budget of the end: who may wait how long, once the latch has tripped.
//!
//! SIGTERM ends the process in `processor_shutdown_timeout_sec` + 1 s, whatever hangs. So everybody who waits at the end asks
//! here, and nobody has a time-out of his own that somebody else's has to be added to:
//!
//! ```text
//! signal ──────────────── limit ────────────────▶ deadline ───────────────── 1 s ─────────────────▶ gone
//!    source drains, files are sealed, last pass       │ lost │ uploads │ report │ terminal │  log  │ exit
//!                                                     0     150       300      550        650     900  ms
//! ```
//!
//! A part that is over early leaves its time to those behind it; one that hangs takes none of theirs. Without a signal, at the
//! end of the input, there is no deadline: then only what could wait for ever for a stranger is bounded, each by its
//! [`own`](Part::own) time.
//!
//! It never ends anything itself, and it cannot help against the kernel: a thread in an uninterruptible wait, as on a frozen
//! file system, keeps the process until the kernel lets it go, also after the exit and after SIGKILL.

use std::time::{Duration, Instant};

use crossbeam_channel::select;

use crate::shutdown::Shutdown;
use crate::threads::{NoResult, Running};

/// What may have to be waited for, in the order of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The opening of the data directory, the source, the sealing, the uploads: they have the configured limit.
    Stages,
    /// Counting what cannot be saved any more.
    Lost,
    /// The lanes of the last upload pass, once their sockets are shut down.
    Uploads,
    /// The last status report.
    Report,
    /// Taking the bars off a terminal.
    Terminal,
    /// The log's last lines.
    Log,
}

/// What the contract allows behind the deadline.
const ALLOWED: Duration = Duration::from_secs(1);
/// What the exit itself takes on a busy machine: the threads' end, the memory's return.
const EXIT: Duration = Duration::from_millis(100);

impl Part {
    /// Every part, in order.
    pub const ALL: [Self; 6] = [Self::Stages, Self::Lost, Self::Uploads, Self::Report, Self::Terminal, Self::Log];

    /// How far behind the deadline this part may reach.
    const fn reach(self) -> Duration {
        Duration::from_millis(match self {
            Self::Stages => 0,
            Self::Lost => 150,
            Self::Uploads => 300,
            Self::Report => 550,
            Self::Terminal => 650,
            Self::Log => 900,
        })
    }

    /// How long this part may take when there is time; `None` is as long as the deadline allows.
    const fn own(self) -> Option<Duration> {
        match self {
            Self::Stages | Self::Uploads => None,
            // A receiver that hangs gets no more than this, or each stop would take the whole limit.
            Self::Lost | Self::Report => Some(Duration::from_millis(500)),
            Self::Terminal => Some(Duration::from_millis(250)),
            // On a machine that stops 300 of us at once, some writers get no CPU for longer than half a second.
            Self::Log => Some(Duration::from_secs(1)),
        }
    }
}

/// The parts follow each other, and leave what the exit takes.
const _: () = {
    let mut at = 0;
    while at + 1 < Part::ALL.len() {
        assert!(Part::ALL[at].reach().as_millis() < Part::ALL[at + 1].reach().as_millis());
        at += 1;
    }
    assert!(Part::ALL[at].reach().as_millis() + EXIT.as_millis() <= ALLOWED.as_millis());
};

/// The budget; clones share the latch.
#[derive(Debug, Clone)]
pub struct End {
    latch: Shutdown,
    limit: Duration,
}

impl End {
    /// The budget of a program that ends `limit`, `processor_shutdown_timeout_sec`, and a second after `latch` has tripped.
    pub fn new(latch: Shutdown, limit: Duration) -> Self {
        Self { latch, limit }
    }

    /// The latch that begins it.
    pub fn latch(&self) -> &Shutdown {
        &self.latch
    }

    /// `processor_shutdown_timeout_sec`.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// When the limit is over; `None` before the latch has tripped.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.latch.tripped_at()? + self.limit)
    }

    /// When `part`, which begins at `now`, must be over; `None` is no bound.
    pub fn until(&self, part: Part, now: Instant) -> Option<Instant> {
        let reach = self.deadline().map(|deadline| deadline + part.reach());
        let own = part.own().map(|own| now + own);
        [reach, own].into_iter().flatten().min()
    }

    /// Waits for `running` as long as `part` may take, also when the latch trips only meanwhile.
    ///
    /// # Errors
    ///
    /// When the thread panicked, or still runs when the part's time is over.
    pub fn wait<T>(&self, running: &Running<T>, part: Part) -> Result<T, NoResult> {
        let begun = Instant::now();
        if part.own().is_none() && !self.latch.is_tripped() {
            select! {
                recv(running.done()) -> result => return result.map_err(|_| NoResult::Panicked),
                recv(self.latch.channel()) -> _ => {}
            }
        }
        match self.until(part, begun) {
            Some(deadline) => running.wait_until(deadline),
            None => running.done().recv().map_err(|_| NoResult::Panicked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Reason;
    use crate::threads::spawn;

    fn end(limit: Duration) -> End {
        End::new(Shutdown::new().unwrap(), limit)
    }

    #[test]
    fn without_a_signal_only_strangers_are_bounded() {
        let (end, now) = (end(Duration::from_secs(8)), Instant::now());
        assert_eq!(end.until(Part::Stages, now), None);
        assert_eq!(end.until(Part::Uploads, now), None);
        assert_eq!(end.until(Part::Log, now), Some(now + Duration::from_secs(1)));
        assert_eq!(end.wait(&spawn("ends", || 7).unwrap(), Part::Stages), Ok(7));
    }

    #[test]
    fn after_a_signal_all_are_over_within_the_limit_and_a_second() {
        let end = end(Duration::from_secs(8));
        end.latch().trip(Reason::Signal(15));
        let deadline = end.deadline().unwrap();
        for (at, part) in Part::ALL.into_iter().enumerate() {
            let until = end.until(part, deadline + Duration::from_millis(at as u64)).unwrap();
            assert!(until < deadline + Duration::from_secs(1), "{part:?}");
        }
        let early = deadline.checked_sub(Duration::from_secs(7)).unwrap();
        assert_eq!(
            end.until(Part::Report, early),
            Some(early + Duration::from_millis(500)),
            "a stop takes no longer than it must"
        );
    }

    #[test]
    fn a_wait_that_began_before_the_signal_ends_with_it() {
        let end = end(Duration::from_millis(20));
        let (_hold, held) = crossbeam_channel::bounded::<()>(0);
        let hangs = spawn("hangs", move || held.recv()).unwrap();
        let latch = end.latch().clone();
        let waiter = end.clone();
        let waited = spawn("waits", move || waiter.wait(&hangs, Part::Uploads)).unwrap();
        latch.trip(Reason::Signal(15));
        assert_eq!(waited.wait_until(Instant::now() + Duration::from_secs(30)), Ok(Err(NoResult::TooLate)));
        assert!(Instant::now() >= end.deadline().unwrap() + Duration::from_millis(300));
    }
}
