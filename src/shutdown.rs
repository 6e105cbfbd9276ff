//! The latch that says "read no more".
//!
//! It is tripped once: by the first signal, or by a stage that ended before its time. Only sources and waiting loops look
//! at it; every other stage learns of the end by its closed input channel. It never unlatches.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Why reading ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A signal asked for it; the number is the signal's.
    Signal(i32),
    /// The stage of this name ended, by return or by panic, while others still worked.
    StageEnded(&'static str),
}

/// A handle to the latch; clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<Latch>);

#[derive(Debug)]
struct Latch {
    /// Readable from the trip on, so that `poll(2)` beside an input descriptor sees it.
    event: OwnedFd,
    /// Why, and when.
    tripped: OnceLock<(Reason, Instant)>,
    /// Dropped by the trip, so that `select!` beside another channel sees it.
    open: Mutex<Option<Sender<Infallible>>>,
    closed: Receiver<Infallible>,
}

impl Shutdown {
    /// A latch that is not tripped.
    ///
    /// # Errors
    ///
    /// Only when the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (open, closed) = bounded(0);
        Ok(Self(Arc::new(Latch { event, tripped: OnceLock::new(), open: Mutex::new(Some(open)), closed })))
    }

    /// Trips the latch. The first reason stays; later calls change nothing.
    pub fn trip(&self, reason: Reason) {
        if self.0.tripped.set((reason, Instant::now())).is_ok() {
            // An eventfd refuses a write only at its counter's end, which one write cannot reach.
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
            self.0.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// True from the first trip on.
    pub fn is_tripped(&self) -> bool {
        self.0.tripped.get().is_some()
    }

    /// Why, once tripped.
    pub fn reason(&self) -> Option<Reason> {
        self.0.tripped.get().map(|(reason, _)| *reason)
    }

    /// When it tripped; `None` before.
    pub fn tripped_at(&self) -> Option<Instant> {
        self.0.tripped.get().map(|(_, at)| *at)
    }

    /// Waits until the latch trips or `limit` has passed; true when it is tripped.
    pub fn wait(&self, limit: Duration) -> bool {
        let timeout = Timespec::try_from(limit).ok();
        let mut fds = [PollFd::new(&self.0.event, PollFlags::IN)];
        // An interrupted wait returns early; callers loop on their own deadline.
        let _ = poll(&mut fds, timeout.as_ref());
        self.is_tripped()
    }

    /// The descriptor to poll for reading beside another one; never read from it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    /// A channel that never carries anything and is disconnected by the trip.
    pub fn channel(&self) -> &Receiver<Infallible> {
        &self.0.closed
    }

    /// A guard that trips the latch when the stage `name` ends before its time, by return or by panic; a stage that has
    /// done its work calls [`TripOnEnd::done`].
    pub fn guard(&self, name: &'static str) -> TripOnEnd {
        TripOnEnd { latch: Some(self.clone()), name }
    }
}

/// Trips its latch when dropped; see [`Shutdown::guard`].
#[derive(Debug)]
pub struct TripOnEnd {
    latch: Option<Shutdown>,
    name: &'static str,
}

impl TripOnEnd {
    /// The stage has ended in its time: nothing is tripped.
    pub fn done(mut self) {
        self.latch = None;
    }
}

impl Drop for TripOnEnd {
    fn drop(&mut self) {
        if let Some(latch) = &self.latch {
            latch.trip(Reason::StageEnded(self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::TryRecvError;

    use super::*;

    #[test]
    fn first_reason_stays() {
        let latch = Shutdown::new().unwrap();
        assert!(!latch.wait(Duration::ZERO) && latch.channel().try_recv() == Err(TryRecvError::Empty));
        latch.trip(Reason::Signal(15));
        latch.trip(Reason::Signal(2));
        assert_eq!(latch.reason(), Some(Reason::Signal(15)));
        assert!(latch.wait(Duration::from_secs(30)), "a tripped latch answers at once");
        assert_eq!(latch.channel().try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_panicking_stage_trips_it() {
        let latch = Shutdown::new().unwrap();
        let guarded = latch.clone();
        let ended = std::thread::spawn(move || {
            let _guard = guarded.guard("pack");
            panic!("as a stage might");
        });
        assert!(ended.join().is_err());
        assert_eq!(latch.reason(), Some(Reason::StageEnded("pack")));
    }
}
