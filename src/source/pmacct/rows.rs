//! The collector's rows, from the pipe into the pipeline.
//!
//! Every life of the collector has a pipe of its own. Only whole lines are passed on: when a collector or a writer was killed in
//! the middle of a row, the torn end is left out and counted, and cannot run into the first row of the next life.
//!
//! The reader takes rows as fast as the pipeline has room. It never looks at the stop latch: the end of the rows comes when the
//! collector has flushed and the last pipe is read to its end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::pipe::fcntl_setpipe_size;

use crate::log::{Event, Log};
use crate::source::{MIN_SPACE, Sink, Stopped};
use crate::stats::Chain;

/// Size asked for the pipe, bytes: what an unprivileged process may have. A writer prints a whole window at once; the more of
/// it fits, the sooner it is done.
const PIPE_BYTES: usize = 1 << 20;
/// The longest wait when the pipeline names no time.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Reads the pipes that come through `lives`, one after the other, until no more can come.
pub(super) fn feed(lives: &Receiver<OwnedFd>, sink: &mut dyn Sink, log: &Log, chain: &Chain) -> Result<(), Stopped> {
    loop {
        match lives.recv_timeout(until(sink.due())) {
            Ok(pipe) => {
                let torn = read_life(&pipe, sink)?;
                if torn > 0 {
                    chain.torn_rows.add(1);
                    log.event(Event::RowTorn { bytes: torn as u64 });
                }
            }
            Err(RecvTimeoutError::Timeout) => sink.tick(Instant::now())?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn until(due: Option<Instant>) -> Duration {
    due.map_or(LONGEST_WAIT, |due| due.saturating_duration_since(Instant::now()).min(LONGEST_WAIT))
}

/// Reads one pipe to its end; gives the length of the torn row that it ended with.
fn read_life(pipe: &OwnedFd, sink: &mut dyn Sink) -> Result<usize, Stopped> {
    // A smaller pipe works too, only slower.
    let _ = fcntl_setpipe_size(pipe, PIPE_BYTES);
    // The beginning of a row whose end has not come yet; shorter than MIN_SPACE.
    let mut held: Vec<u8> = Vec::new();
    loop {
        if !wait_for(pipe, until(sink.due())) {
            sink.tick(Instant::now())?;
            continue;
        }
        let space = sink.space()?;
        space[..held.len()].copy_from_slice(&held);
        let len = match read(pipe, &mut space[held.len()..]) {
            Ok(0) => return Ok(held.len()),
            Ok(len) => held.len() + len,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            // A pipe knows no other error; whatever it is, no more rows come from it.
            Err(_) => return Ok(held.len()),
        };
        let whole = match memchr::memrchr(b'\n', &space[..len]) {
            Some(at) => at + 1,
            // No row is that long. It goes on as it is; the pipeline has its own bound for lines.
            None if len >= MIN_SPACE => len,
            None => 0,
        };
        held.clear();
        // A rest as long as this is no row either.
        let whole = if len - whole >= MIN_SPACE { len } else { whole };
        held.extend_from_slice(&space[whole..len]);
        if whole > 0 {
            sink.filled(whole, Instant::now())?;
        }
    }
}

/// Waits until there is something to read, or the end; `false` when the time has passed first.
fn wait_for(pipe: &OwnedFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let timeout = Timespec::try_from(limit).ok();
    matches!(poll(&mut fds, timeout.as_ref()), Ok(ready) if ready > 0)
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    /// Keeps everything; gives room of a stated size.
    struct Kept {
        space: Vec<u8>,
        bytes: Vec<u8>,
    }

    impl Sink for Kept {
        fn space(&mut self) -> Result<&mut [u8], Stopped> {
            Ok(&mut self.space)
        }
        fn filled(&mut self, len: usize, _: Instant) -> Result<(), Stopped> {
            self.bytes.extend_from_slice(&self.space[..len]);
            Ok(())
        }
        fn tick(&mut self, _: Instant) -> Result<(), Stopped> {
            Ok(())
        }
        fn due(&self) -> Option<Instant> {
            None
        }
        fn has_partial_line(&self) -> bool {
            false
        }
    }

    /// What arrives of pipes with these contents, and how many torn rows were counted.
    fn fed(lives: &[&[u8]], room: usize) -> (Vec<u8>, u64) {
        let (sender, receiver) = bounded(lives.len());
        for bytes in lives {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            fcntl_setpipe_size(&write, PIPE_BYTES).unwrap();
            assert_eq!(rustix::io::write(&write, bytes).unwrap(), bytes.len());
            sender.send(read).unwrap();
        }
        drop(sender);
        let mut sink = Kept { space: vec![0; room], bytes: Vec::new() };
        let chain = Chain::default();
        feed(&receiver, &mut sink, &Log::discard(), &chain).unwrap();
        (sink.bytes, chain.torn_rows.get())
    }

    #[test]
    fn a_torn_row_does_not_run_into_the_next_life() {
        assert_eq!(fed(&[b"a,b\n1,2\n3,", b"a,b\n5,6\n"], 8192), (b"a,b\n1,2\na,b\n5,6\n".to_vec(), 1));
    }

    #[test]
    fn whole_rows_pass_as_they_are() {
        let rows: Vec<u8> = (0..20_000).flat_map(|row| format!("{row},x\n").into_bytes()).collect();
        assert_eq!(fed(&[&rows], MIN_SPACE), (rows.clone(), 0));
        assert_eq!(fed(&[&rows, b""], 100_000), (rows, 0));
    }

    #[test]
    fn an_endless_row_is_passed_on_in_parts() {
        let mut endless = vec![b'x'; 50_000];
        endless.push(b'\n');
        assert_eq!(fed(&[&endless], MIN_SPACE), (endless.clone(), 0));
        assert_eq!(fed(&[&endless], 20_000), (endless, 0));
    }
}
