//! A daemon's messages, cut into lines from a pipe that is never waited for.
//!
//! A daemon whose stderr is not read stops working as soon as the pipe is full, so whatever comes is taken. Memory is bounded:
//! a line longer than [`LONGEST`] is given in parts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read};

/// The longest line that is given whole, bytes: pmacct's list of build options has 1,200.
const LONGEST: usize = 4096;
/// Read at most this much in one call, so that a daemon that floods its log does not hold up the supervision.
const ONE_TURN: usize = 256 * 1024;

/// The read end of a daemon's stderr.
#[derive(Debug)]
pub(super) struct Lines {
    pipe: OwnedFd,
    held: Vec<u8>,
    is_ended: bool,
}

impl Lines {
    /// Takes over a pipe's read end.
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        Ok(Self { pipe, held: Vec::new(), is_ended: false })
    }

    /// The descriptor to poll for reading; `None` after its end.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_ended).then(|| self.pipe.as_fd())
    }

    /// Takes what is there and gives each line to `each`, without its newline. Never waits.
    pub(super) fn take(&mut self, mut each: impl FnMut(&str)) {
        let mut space = [0; LONGEST];
        let mut taken = 0;
        while taken < ONE_TURN && !self.is_ended {
            match read(&self.pipe, &mut space) {
                Ok(0) => self.is_ended = true,
                Ok(len) => {
                    taken += len;
                    self.held.extend_from_slice(&space[..len]);
                    self.cut(&mut each);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.is_ended = true,
            }
        }
        if self.is_ended && !self.held.is_empty() {
            each(&String::from_utf8_lossy(&self.held));
            self.held.clear();
        }
    }

    fn cut(&mut self, each: &mut impl FnMut(&str)) {
        let mut start = 0;
        while let Some(len) = memchr::memchr(b'\n', &self.held[start..]) {
            each(&String::from_utf8_lossy(&self.held[start..start + len]));
            start += len + 1;
        }
        self.held.drain(..start);
        if self.held.len() >= LONGEST {
            each(&String::from_utf8_lossy(&self.held));
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        let mut said = Vec::new();
        lines.take(|line| said.push(line.to_owned()));
        said
    }

    #[test]
    fn lines_come_whole_and_the_last_one_at_the_end() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut lines = Lines::new(read).unwrap();
        assert_eq!(all(&mut lines), [""; 0], "nothing is waited for");
        rustix::io::write(&write, b"one\ntw").unwrap();
        assert_eq!(all(&mut lines), ["one"]);
        rustix::io::write(&write, b"o\nthree").unwrap();
        assert_eq!(all(&mut lines), ["two"]);
        drop(write);
        assert_eq!(all(&mut lines), ["three"]);
        assert!(lines.fd().is_none());
    }

    #[test]
    fn an_endless_line_is_given_in_parts() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut lines = Lines::new(read).unwrap();
        rustix::io::write(&write, &[b'x'; 3 * LONGEST]).unwrap();
        let parts = all(&mut lines);
        assert!(parts.iter().all(|part| part.len() <= 2 * LONGEST));
        assert_eq!(parts.concat().len(), 3 * LONGEST);
    }
}
