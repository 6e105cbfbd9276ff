//! The overall deadline of a network attempt: one thread that shuts sockets down when their time is over.
//!
//! Socket time-outs bound one call only. A peer that sends one byte a second never meets them, and a library that reads
//! until a line ends never returns. A shut-down socket ends every call on it at once, from any thread.
//!
//! Promise: a socket that was given to a [`Watch`] is shut down within a few milliseconds of the deadline.
//! It never touches a socket whose watch is at rest.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::threads;

/// The thread and the sockets it watches. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    watches: HashMap<u64, Watched>,
    next: u64,
    /// Bound on every deadline, once the program has been told to stop.
    hurry: Option<Instant>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Watched {
    /// Bounded by the use: a control socket and one data socket.
    sockets: Vec<TcpStream>,
    deadline: Option<Instant>,
    cut: bool,
}

impl State {
    /// When the sockets of `watched` are due: its own deadline or the common one, whichever comes first.
    fn due(&self, watched: &Watched) -> Option<Instant> {
        let own = watched.deadline?;
        Some(self.hurry.map_or(own, |hurry| hurry.min(own)))
    }

    /// Shuts down what is due at `now`; returns when the next one is due.
    fn cut_due(&mut self, now: Instant) -> Option<Instant> {
        let hurry = self.hurry;
        let mut next: Option<Instant> = None;
        for watched in self.watches.values_mut().filter(|watched| !watched.cut) {
            let Some(own) = watched.deadline else { continue };
            let due = hurry.map_or(own, |hurry| hurry.min(own));
            if due <= now {
                watched.cut_now();
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        next
    }
}

impl Watched {
    fn cut_now(&mut self) {
        self.cut = true;
        for socket in &self.sockets {
            // It fails on a socket that the peer has already closed, which serves as well.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.ended {
            let now = Instant::now();
            state = match state.cut_due(now) {
                Some(due) => {
                    let wait = due.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
    }
}

impl Watchdog {
    /// Starts the thread `ftp-watch`.
    ///
    /// # Errors
    ///
    /// Only when the system has no thread left.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        // It ends at the drop; nothing is to be waited for.
        threads::spawn("ftp-watch", move || theirs.run())?;
        Ok(Self { shared })
    }

    /// A watch at rest, without sockets.
    pub fn watch(&self) -> Watch {
        let mut state = self.shared.lock();
        let id = state.next;
        state.next += 1;
        state.watches.insert(id, Watched::default());
        Watch { shared: Arc::clone(&self.shared), id }
    }

    /// Bounds every deadline, present and future, by `deadline`.
    pub fn hurry(&self, deadline: Instant) {
        self.shared.lock().hurry = Some(deadline);
        self.shared.changed.notify_all();
    }

    /// `deadline`, or the common bound where that comes first.
    pub fn bound(&self, deadline: Instant) -> Instant {
        self.shared.lock().hurry.map_or(deadline, |hurry| hurry.min(deadline))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }
}

/// The sockets of one session, and the deadline of what the session does now.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    id: u64,
}

impl Watch {
    /// From now on the sockets live until `deadline`, later ones too.
    pub fn arm(&self, deadline: Instant) {
        self.with(|watched| watched.deadline = Some(deadline));
        self.shared.changed.notify_all();
    }

    /// Nothing is under way: the sockets are left alone.
    pub fn rest(&self) {
        self.with(|watched| watched.deadline = None);
    }

    /// Watches `socket` through a descriptor of its own. The connection stays open as long as the watch holds it, so a
    /// sender must shut it down for writing; closing its own descriptor does not end the stream.
    ///
    /// # Errors
    ///
    /// `TimedOut` when the time is over already; else the process has no descriptor left.
    pub fn add(&self, socket: &TcpStream) -> io::Result<()> {
        let socket = socket.try_clone()?;
        let mut state = self.shared.lock();
        let Some(watched) = state.watches.get_mut(&self.id) else { return Ok(()) };
        if watched.cut {
            return Err(io::ErrorKind::TimedOut.into());
        }
        watched.sockets.push(socket);
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Lets go of every socket but the first `count`.
    pub fn keep(&self, count: usize) {
        self.with(|watched| watched.sockets.truncate(count));
    }

    /// Shuts the sockets down now.
    pub fn cut(&self) {
        self.with(Watched::cut_now);
    }

    /// True when the sockets were shut down from here.
    pub fn is_cut(&self) -> bool {
        self.with(|watched| watched.cut)
    }

    /// Time left at `now`; `None` when it is over, or the watch is at rest.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let state = self.shared.lock();
        let due = state.watches.get(&self.id).and_then(|watched| state.due(watched))?;
        due.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    fn with<T: Default>(&self, work: impl FnOnce(&mut Watched) -> T) -> T {
        self.shared.lock().watches.get_mut(&self.id).map(work).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().watches.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (there, _) = listener.accept().unwrap();
        (here, there)
    }

    #[test]
    fn a_silent_peer_is_cut_at_the_deadline() {
        let dog = Watchdog::start().unwrap();
        let watch = dog.watch();
        let (mut here, _there) = pair();
        watch.add(&here).unwrap();
        let begun = Instant::now();
        watch.arm(begun + Duration::from_millis(50));
        assert_eq!(here.read(&mut [0; 8]).unwrap(), 0, "the read ends although the peer says nothing");
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert!(watch.is_cut());
        assert!(watch.add(&here).is_err(), "no socket is accepted after the end");
    }

    #[test]
    fn hurry_shortens_what_is_under_way() {
        let dog = Watchdog::start().unwrap();
        let watch = dog.watch();
        let (mut here, _there) = pair();
        watch.add(&here).unwrap();
        let now = Instant::now();
        watch.arm(now + Duration::from_hours(1));
        dog.hurry(now + Duration::from_millis(20));
        assert_eq!(here.read(&mut [0; 8]).unwrap(), 0);
        assert!(watch.remaining(Instant::now()).is_none());
    }

    #[test]
    fn at_rest_nothing_is_cut() {
        let dog = Watchdog::start().unwrap();
        let watch = dog.watch();
        let (here, _there) = pair();
        watch.add(&here).unwrap();
        dog.hurry(Instant::now());
        watch.rest();
        let other = dog.watch();
        let (mut busy, _peer) = pair();
        other.add(&busy).unwrap();
        other.arm(Instant::now());
        assert_eq!(busy.read(&mut [0; 8]).unwrap(), 0, "the thread has made its round");
        assert!(!watch.is_cut());
    }
}
