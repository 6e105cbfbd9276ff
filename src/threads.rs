//! Where every thread of the program starts: with a name, and with an end that can be waited for.
//!
//! Nothing here joins a thread for ever, because what a thread may hang in (a disk, a server, stderr) must not keep the
//! program from ending.

use std::io;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

/// A thread's end.
#[derive(Debug)]
pub struct Running<T> {
    done: Receiver<T>,
}

/// Why a thread has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoResult {
    /// It panicked; the panic's text is on stderr.
    Panicked,
    /// It still runs.
    TooLate,
}

/// Starts the thread `name` (15 bytes show in process lists).
///
/// # Errors
///
/// Only when the system has no thread left.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Running<T>> {
    let (tell, done) = bounded(1);
    let body = move || {
        // Nobody may be waiting any more.
        let _ = tell.send(work());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(Running { done })
}

impl<T> Running<T> {
    /// Carries the result once the thread has ended; disconnected without one when it panicked.
    pub fn done(&self) -> &Receiver<T> {
        &self.done
    }

    /// The result, or why there is none by `deadline`.
    ///
    /// # Errors
    ///
    /// [`NoResult`] says which.
    pub fn wait_until(&self, deadline: Instant) -> Result<T, NoResult> {
        self.done.recv_deadline(deadline).map_err(|error| match error {
            RecvTimeoutError::Disconnected => NoResult::Panicked,
            RecvTimeoutError::Timeout => NoResult::TooLate,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_is_a_result_a_panic_or_too_late() {
        let guard = Instant::now() + Duration::from_secs(30);
        assert_eq!(spawn("ends", || 7).unwrap().wait_until(guard), Ok(7));
        let panics = spawn("panics", || -> u8 { panic!("as a stage might") }).unwrap();
        assert_eq!(panics.wait_until(guard), Err(NoResult::Panicked));
        let (_hold, held) = bounded::<()>(0);
        let hangs = spawn("hangs", move || held.recv()).unwrap();
        assert_eq!(hangs.wait_until(Instant::now()), Err(NoResult::TooLate));
    }
}
