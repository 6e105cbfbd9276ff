//! Oldest segment → remote → remove: passes over the queue at start, at every interval, and once more at the end. The second
//! pass comes earlier, by chance: probes that were started together keep apart from then on.
//!
//! Promises:
//!  * A local file goes only after [`Session::put`](crate::remote::Session::put) said that the server has it whole under its final name.
//!  * A file that fails waits for the next pass, where it comes last; it never holds back the others.
//!  * Nothing here slows the reading of input: this room has threads of its own and shares no lock with other stages.
//!  * [`Uploader::run`] returns within 300 ms of the last pass's deadline, also when a remote, a disk or a name server hangs.
//!    What is under way then is abandoned with its thread; the file stays in the queue.
//!
//! A pass uses one session for all its files, or up to `connections` of them in parallel. The others begin only when the
//! first is open, so that a wrong password is tried once, not eight times.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, after, bounded, never, select};

use crate::log::{Event, Log};
use crate::random::random;
use crate::remote::Remote;
use crate::remote::retry::{self, Backoff, Trouble};
use crate::spool::queue::Queue;
use crate::stats::Stats;
use crate::threads;

mod feed;
mod lane;

use feed::Memory;
use lane::{Pass, PassEnd};

/// Settings of the uploader.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between the starts of two passes.
    pub interval: Duration,
    /// Parallel sessions, 1 to 8.
    pub connections: usize,
}

/// How long after the last deadline a lane may still come back by itself, its sockets shut down: what is left of
/// [`Part::Uploads`](crate::end::Part::Uploads) is for the last look at what waits.
const GRACE: Duration = Duration::from_millis(200);

/// The order for the last pass. A closed channel means the same without a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastPass {
    /// When [`Uploader::run`] must be on its way out. The caller tells the remote, too ([`Remote::hurry`]).
    pub deadline: Option<Instant>,
}

/// What the last pass left in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Segments that wait for the next start.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The deadline cut the pass.
    pub cut: bool,
}

/// The upload loop.
pub struct Uploader {
    /// Interval and connections.
    pub options: Options,
    /// Where segments go.
    pub remote: Arc<dyn Remote>,
    /// Where they come from.
    pub queue: Arc<Queue>,
    /// Uploaded files and bytes, failures, what waits.
    pub stats: Arc<Stats>,
    /// Events.
    pub log: Log,
}

impl Uploader {
    /// Runs until the last pass is over. Called once, on a thread of its own.
    pub fn run(self, end: &Receiver<LastPass>) -> Left {
        self.log.event(Event::UploaderStarted { interval: self.options.interval });
        let memory = Arc::new(Memory::default());
        let order = self.passes(end, &memory);
        self.last_pass(order, &memory)
    }

    /// Pass after pass until the order for the last one comes.
    fn passes(&self, end: &Receiver<LastPass>, memory: &Arc<Memory>) -> LastPass {
        let mut backoff = Backoff::default();
        let mut is_first = true;
        loop {
            let begun = Instant::now();
            let outcome = self.pass(end, None, memory);
            let wait = match outcome.end {
                PassEnd::Whole => {
                    backoff.reset();
                    let first = std::mem::take(&mut is_first);
                    let interval = self.options.interval;
                    let interval = if first { retry::phase(interval, random()) } else { interval };
                    interval.saturating_sub(begun.elapsed())
                }
                PassEnd::Trouble { trouble, text } => {
                    let wait = backoff.next(trouble, Instant::now(), self.options.interval, random());
                    let address = self.remote.address();
                    let error = text.strip_prefix(&format!("{address}: ")).unwrap_or(&text).to_owned();
                    self.log.event(Event::UploadPassFailed { address, error, retry_in: wait });
                    wait
                }
            };
            if let Some(order) = outcome.order {
                return order;
            }
            match end.recv_timeout(wait) {
                Ok(order) => return order,
                Err(RecvTimeoutError::Disconnected) => return LastPass::default(),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn last_pass(&self, order: LastPass, memory: &Arc<Memory>) -> Left {
        let waiting = self.queue.waiting().unwrap_or_default();
        let mut cut = order.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if waiting.files > 0 && !cut {
            self.stats.drain_bytes.set(waiting.bytes);
            self.stats.drain_files.set(waiting.files);
            self.log.event(Event::Draining { files: waiting.files, bytes: waiting.bytes });
            self.pass(&never(), Some(order), memory);
            cut = order.deadline.is_some_and(|deadline| deadline <= Instant::now());
        }
        let left = self.queue.waiting().unwrap_or(waiting);
        if left.files > 0 {
            self.log.event(Event::FilesWait { files: left.files });
        }
        Left { files: left.files, bytes: left.bytes, cut: cut && left.files > 0 }
    }

    /// One pass over the queue. An order that comes meanwhile is handed back; its deadline bounds this pass, too.
    fn pass(&self, end: &Receiver<LastPass>, mut order: Option<LastPass>, memory: &Arc<Memory>) -> Outcome {
        let begun = Instant::now();
        let pass = Arc::new(Pass::new(self, Arc::clone(memory)));
        let (told, notes) = bounded(self.options.connections + 1);
        let mut running = usize::from(start_lane(&pass, 0, &told));
        let never_end = never();
        while running > 0 {
            let order_of = if order.is_none() { end } else { &never_end };
            let limit = order
                .and_then(|order| order.deadline)
                .map_or_else(never, |deadline| after((deadline + GRACE).saturating_duration_since(Instant::now())));
            select! {
                recv(notes) -> note => match note {
                    Ok(Note::Opened) => {
                        running += (1..self.options.connections).filter(|&n| start_lane(&pass, n, &told)).count();
                    }
                    Ok(Note::Ended) => running -= 1,
                    Err(_) => break,
                },
                recv(order_of) -> came => order = Some(came.unwrap_or_default()),
                recv(limit) -> _ => break,
            }
        }
        let (end, tally) = pass.finish();
        if tally.files + tally.failed > 0 {
            let (files, bytes, failed) = (tally.files, tally.bytes, tally.failed);
            self.log.event(Event::UploadPassDone { files, bytes, failed, duration: begun.elapsed() });
        }
        Outcome { end, order }
    }
}

/// Starts a lane's thread; false when the system has none left, which ends the pass when it was the first.
fn start_lane(pass: &Arc<Pass>, number: usize, told: &Sender<Note>) -> bool {
    let (theirs, told) = (Arc::clone(pass), told.clone());
    let started = threads::spawn(&format!("upload-{number}"), move || {
        let _ended = TellEnd(&told);
        lane::run(&theirs, number == 0, || {
            // Only the first one's session says that the server wants us.
            if number == 0 {
                let _ = told.send(Note::Opened);
            }
        });
    });
    if let (Err(error), 0) = (&started, number) {
        pass.end(Trouble::Unreachable, format!("cannot start the upload thread: {error}"));
    }
    started.is_ok()
}

/// What a lane says to the loop.
#[derive(Debug, Clone, Copy)]
enum Note {
    /// The first lane's session is open.
    Opened,
    /// The lane's thread is at its end.
    Ended,
}

/// Says [`Note::Ended`] when dropped, also by a panic.
struct TellEnd<'a>(&'a Sender<Note>);

impl Drop for TellEnd<'_> {
    fn drop(&mut self) {
        // The loop takes notes until every lane has ended, or goes away at the deadline.
        let _ = self.0.send(Note::Ended);
    }
}

struct Outcome {
    end: PassEnd,
    order: Option<LastPass>,
}
