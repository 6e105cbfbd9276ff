//! Lines from a file descriptor: standard input, or a pipe of a child. Polled beside the stop descriptor.
//!
//! It reads straight into the pipeline's blocks. It never makes the descriptor non-blocking, because others may share
//! it, and it looks at no byte that it reads.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Sink, Source, SourceEnd, SourceError};
use crate::shutdown::Shutdown;

/// Size asked of a pipe. From measurement: reading from one of 1 MiB is 2.6 times as fast as from one of 64 KiB.
const PIPE_SIZE: usize = 1 << 20;

/// How long a stop waits for the rest of a line whose beginning is here. Writers print whole blocks at once, so the
/// rest is there within a scheduler's turn or not at all.
const LINE_END_WAIT: Duration = Duration::from_millis(200);

/// A descriptor as a source.
#[derive(Debug)]
pub struct FdSource {
    fd: OwnedFd,
    name: String,
}

/// What a wait for input came to.
enum Ready {
    Input,
    Stop,
    Tick,
}

impl FdSource {
    /// `name` is how the operator knows the descriptor: `standard input`.
    pub fn new(fd: OwnedFd, name: impl Into<String>) -> Self {
        // Only a pipe has a size, and an unprivileged user may be refused one: both cost speed alone.
        let _ = rustix::pipe::fcntl_setpipe_size(&fd, PIPE_SIZE);
        Self { fd, name: name.into() }
    }

    /// Standard input of the process.
    ///
    /// # Errors
    ///
    /// Standard input is closed, or the process has no descriptor left.
    pub fn stdin() -> io::Result<Self> {
        Ok(Self::new(io::stdin().as_fd().try_clone_to_owned()?, "standard input"))
    }

    fn failed(&self, source: impl Into<io::Error>) -> SourceError {
        SourceError { what: self.name.clone(), source: Box::new(source.into()) }
    }

    /// Waits for input, for the stop, or until `until`.
    fn wait(&self, stop: &Shutdown, until: Option<Instant>) -> Result<Ready, Errno> {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN), PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(Ready::Tick),
            Ok(_) if !fds[1].revents().is_empty() => Ok(Ready::Stop),
            Ok(_) => Ok(Ready::Input),
            Err(error) => Err(error),
        }
    }

    /// One read into the sink; the bytes read, 0 at the end of the input.
    fn read(&self, sink: &mut dyn Sink, limit: usize) -> Result<usize, ReadError> {
        let space = sink.space().map_err(|_| ReadError::Stopped)?;
        let limit = limit.min(space.len());
        match rustix::io::read(&self.fd, &mut space[..limit]) {
            Ok(0) => Ok(0),
            Ok(len) => {
                sink.filled(len, Instant::now()).map_err(|_| ReadError::Stopped)?;
                Ok(len)
            }
            Err(error) => Err(ReadError::Os(error)),
        }
    }

    /// After the stop: takes what the pipe held when it came, then waits a little for the end of a begun line.
    fn drain(&self, sink: &mut dyn Sink) -> Result<(), SourceError> {
        let mut left = usize::try_from(rustix::io::ioctl_fionread(&self.fd).unwrap_or(0)).unwrap_or(0).min(PIPE_SIZE);
        let deadline = Instant::now() + LINE_END_WAIT;
        loop {
            if left == 0 && !(sink.has_partial_line() && self.is_readable_before(deadline)) {
                return Ok(());
            }
            // Once the pending bytes are read, at most MIN_SPACE a call: enough to finish the begun line.
            let limit = if left > 0 { left } else { super::MIN_SPACE };
            match self.read(sink, limit) {
                Ok(0) | Err(ReadError::Stopped | ReadError::Os(Errno::AGAIN)) => return Ok(()),
                Ok(len) => left = left.saturating_sub(len),
                Err(ReadError::Os(Errno::INTR)) => {}
                Err(ReadError::Os(error)) => return Err(self.failed(error)),
            }
        }
    }

    fn is_readable_before(&self, deadline: Instant) -> bool {
        let timeout = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        timeout.is_some() && matches!(poll(&mut fds, timeout.as_ref()), Ok(1..)) && Instant::now() < deadline
    }
}

enum ReadError {
    Stopped,
    Os(Errno),
}

impl Source for FdSource {
    fn run(self: Box<Self>, sink: &mut dyn Sink, stop: &Shutdown) -> Result<SourceEnd, SourceError> {
        loop {
            match self.wait(stop, sink.due()).map_err(|error| self.failed(error))? {
                Ready::Stop => {
                    self.drain(sink)?;
                    return Ok(SourceEnd::Stopped);
                }
                Ready::Tick => {}
                Ready::Input => match self.read(sink, usize::MAX) {
                    Ok(0) => return Ok(SourceEnd::Eof),
                    Err(ReadError::Stopped) => return Ok(SourceEnd::Stopped),
                    Ok(_) | Err(ReadError::Os(Errno::INTR | Errno::AGAIN)) => {}
                    Err(ReadError::Os(error)) => return Err(self.failed(error)),
                },
            }
            if sink.tick(Instant::now()).is_err() {
                return Ok(SourceEnd::Stopped);
            }
        }
    }
}
