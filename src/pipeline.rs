//! The stages' threads and the channels between them.
//!
//! ```text
//!              jobs (blocks in all)            order (64)
//!   source ───────────────▶ pack-i ─ answer ─▶ spool ─▶ the data directory
//!     ▲                        │                  │
//!     └── empty blocks ────────┘ ◀── buffers ─────┘
//! ```
//!
//! Order costs nothing: the source's [`Feed`] puts the number of each batch's [`Slot`] into `order` before the batch goes to
//! whichever pack thread is free, and the spool thread takes the answers in turn. What can be in flight is bounded by
//! the number of blocks (raw) and by the length of `order` (packed); nothing else grows.
//!
//! The end is one of two signs: a closed channel, "no more", runs from the source to the spool; the [`Shutdown`] latch,
//! "read no more", is tripped by a signal or by a stage that ended before its time. [`Pipeline::wait`] waits for both, then
//! gives the uploader its last pass. After a signal nothing is waited for longer than [`End`] allows.
//!
//! When the disk does not take the rest in time, the queues are emptied all the same, and what was in them is counted as
//! lost: a line that was read is in a file, set aside, left out as a header, or counted.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};

use crate::check;
use crate::clock;
use crate::end::{End, Part};
use crate::line::{BLOCK, Batch, Batcher, Block, Cut, Limits, ROOM_PART};
use crate::log::{Event, Log};
use crate::pack::{self, Packed, Packer, Relay};
use crate::shutdown::{Reason, Shutdown, TripOnEnd};
use crate::source::{MIN_SPACE, Sink, Source, SourceEnd, SourceError, Stopped};
use crate::spool::{Spool, Trouble};
use crate::stats::{Stats, Sums};
use crate::threads::{NoResult, Running, spawn};
use crate::uploader::{LastPass, Left, Uploader};

/// Settings of the pipeline itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pack threads, 1 to 64.
    pub workers: usize,
    /// How long a line may wait before it is on disk in recoverable form, 10 ms to 60 s.
    pub flush_interval: Duration,
    /// Age at which a segment is sealed, also when no line arrives.
    pub rotate_interval: Duration,
    /// Raw bytes at which a segment is sealed.
    pub rotate_bytes: u64,
}

/// Packed batches that may wait for the disk. Rows pack to about a quarter, so 64 of them hold 64 MiB of lines in 16 MiB
/// of memory: half a minute of a busy probe while a disk stalls, and 64 MiB at worst, when nothing can be packed.
const ORDER: usize = 64;

/// Raw blocks for `workers` pack threads: one in work and one waiting for each, one being filled, one on its way back.
const fn blocks(workers: usize) -> usize {
    2 * workers + 2
}

/// First and longest pause between two tries of a disk that refuses; a full one is asked again at the first.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Everything that runs, made by `app`.
pub struct Parts {
    /// Settings.
    pub options: Options,
    /// Where lines come from.
    pub source: Box<dyn Source>,
    /// Settings of the parse stage.
    pub check: check::Options,
    /// Settings of the gzip stage.
    pub level: pack::Level,
    /// The owned data directory.
    pub spool: Spool,
    /// `None` when files stay where they are.
    pub upload: Option<Uploader>,
    /// How long the end may take, with the latch that signals trip.
    pub end: End,
    /// The numbers.
    pub stats: Arc<Stats>,
    /// The log.
    pub log: Log,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The input ended, or a signal came, and everything is sealed; `waiting` files are not uploaded.
    Sealed {
        /// A signal asked for the end.
        by_signal: bool,
        /// Files left in the data directory that should have been uploaded.
        waiting: u64,
    },
    /// A stage failed, or did not end in time. The log says which.
    Failed,
}

/// The running stages and the uploader.
pub struct Pipeline {
    stages: Stages,
    uploading: Option<Running<Left>>,
    last_pass: Sender<LastPass>,
    /// Tells the remote the deadline.
    hurry: Box<dyn Fn(Instant) + Send>,
    end: End,
    stats: Arc<Stats>,
    log: Log,
}

impl Pipeline {
    /// Starts everything, the source last.
    ///
    /// # Errors
    ///
    /// Only when the system has no thread left. A stage that fails later is an [`Outcome`].
    pub fn start(parts: Parts) -> io::Result<Self> {
        let Parts { options, source, check, level, spool, upload, end, stats, log } = parts;
        let (uploading, last_pass, hurry) = start_upload(upload)?;
        let spool = (spool, log.clone());
        let stages = Stages::start(&options, source, (check, level), spool, end.latch(), &stats)?;
        Ok(Self { stages, uploading, last_pass, hurry, end, stats, log })
    }

    /// Waits for the end of the input or of the program, for the last file to be sealed and for the last upload pass.
    pub fn wait(mut self) -> Outcome {
        let (read_to_end, sealed) = self.wait_stages();
        // The channel has room for its only message; a loop that has ended needs none.
        let _ = self.last_pass.try_send(LastPass { deadline: self.end.deadline() });
        let waiting = self.uploading.take().map_or(0, |uploading| self.wait_upload(&uploading));
        if !(read_to_end && sealed) {
            return Outcome::Failed;
        }
        Outcome::Sealed { by_signal: matches!(self.end.latch().reason(), Some(Reason::Signal(_))), waiting }
    }

    /// Waits for `running`; tells the remote the deadline as soon as there is one.
    fn in_time<T>(&self, running: &Running<T>, part: Part) -> Result<T, NoResult> {
        select! {
            recv(running.done()) -> result => return result.map_err(|_| NoResult::Panicked),
            recv(self.end.latch().channel()) -> _ => {}
        }
        if let Some(deadline) = self.end.deadline() {
            (self.hurry)(deadline);
        }
        self.end.wait(running, part)
    }

    /// Waits for source and spool: whether the input was read to its end or to the signal, and whether all of it is sealed.
    fn wait_stages(&mut self) -> (bool, bool) {
        let mut source = self.in_time(&self.stages.source, Part::Stages);
        let mut spool = self.in_time(&self.stages.spool, Part::Stages);
        // The stages were in no hurry before the latch tripped, and so have ended, or there is a bound.
        let until = self.end.until(Part::Lost, Instant::now()).unwrap_or_else(Instant::now);
        if is_late(&source) || is_late(&spool) {
            self.stages.give_up(until);
            source = if is_late(&source) { self.stages.source.wait_until(until) } else { source };
            spool = if is_late(&spool) { self.stages.spool.wait_until(until) } else { spool };
        }
        let is_late = is_late(&source);
        let read_to_end = self.say_source(source);
        if matches!(spool, Ok(Ok(()))) {
            return (read_to_end, true);
        }
        let lost = self.count_lost(until);
        // A spool that was only waiting for a late source has nothing to answer for.
        if lost > 0 || !is_late {
            self.say_spool(spool);
        }
        (read_to_end, false)
    }

    /// True when the source ended without a failure.
    fn say_source(&self, end: Result<Result<SourceEnd, SourceError>, NoResult>) -> bool {
        let error = match end {
            Ok(Ok(SourceEnd::Eof)) => {
                self.log.event(Event::InputEnded);
                return true;
            }
            Ok(Ok(SourceEnd::Stopped)) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(NoResult::Panicked) => "it panicked".to_owned(),
            Err(NoResult::TooLate) => "it did not stop in time".to_owned(),
        };
        self.log.event(Event::StageFailed { stage: "source", error });
        false
    }

    fn say_spool(&self, end: Result<Result<(), &'static str>, NoResult>) {
        let error = match end {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(NoResult::Panicked) => "it panicked",
            Err(NoResult::TooLate) => "the disk does not answer",
        };
        self.log.event(Event::StageFailed { stage: "spool", error: error.to_owned() });
    }

    /// Counts what was read and is in no file; how many lines that are. What the spool has in its hands while the disk hangs is
    /// among it: nobody will know whether the disk took it.
    fn count_lost(&self, until: Instant) -> u64 {
        let stats = &self.stats;
        for packer in &self.stages.packers {
            // What they have not looked at is not in the count of what was read; they need a moment, for they wait for nobody.
            let _ = packer.wait_until(until);
        }
        let headers = Sums { lines: stats.header_lines.get(), ..Sums::default() };
        let lost = stats.read.sums().without(&[stats.written.sums(), stats.rejected.sums(), headers]);
        stats.lost.add(&lost);
        let lines = lost.lines + stats.vanished.lines.get();
        if lines > 0 {
            self.log.event(Event::LinesLost { lines });
        }
        lines
    }

    /// Waits for the last pass; the files that it left.
    fn wait_upload(&self, uploading: &Running<Left>) -> u64 {
        let left = self.in_time(uploading, Part::Uploads).ok();
        if left.is_none_or(|left| left.cut) {
            self.log.event(Event::DrainTimedOut { limit: self.end.limit() });
        }
        left.map_or(self.stats.spool_files.get(), |left| left.files)
    }
}

fn is_late<T>(end: &Result<T, NoResult>) -> bool {
    matches!(end, Err(NoResult::TooLate))
}

type Uploading = (Option<Running<Left>>, Sender<LastPass>, Box<dyn Fn(Instant) + Send>);

fn start_upload(upload: Option<Uploader>) -> io::Result<Uploading> {
    let (last_pass, passes) = bounded(1);
    let Some(uploader) = upload else {
        return Ok((None, last_pass, Box::new(|_| {})));
    };
    let remote = Arc::clone(&uploader.remote);
    let running = spawn("upload", move || uploader.run(&passes))?;
    Ok((Some(running), last_pass, Box::new(move |deadline| remote.hurry(deadline))))
}

/// The threads from source to spool.
struct Stages {
    source: Running<Result<SourceEnd, SourceError>>,
    packers: Vec<Running<()>>,
    spool: Running<Result<(), &'static str>>,
    /// The spool's own queue, to empty it when the spool hangs.
    turns: Receiver<Turn>,
    /// Dropped when the spool is not to try any longer.
    keep_trying: Option<Sender<Infallible>>,
}

impl Stages {
    fn start(
        options: &Options,
        source: Box<dyn Source>,
        (check, level): (check::Options, pack::Level),
        (spool, log): (Spool, Log),
        shutdown: &Shutdown,
        stats: &Arc<Stats>,
    ) -> io::Result<Self> {
        let count = blocks(options.workers);
        let (free, pool) = bounded(count);
        for _ in 0..count {
            // The channel was made with room for all of them.
            let _ = free.try_send(Block::new(BLOCK));
        }
        let (jobs, work) = bounded(count);
        let (order, turns) = bounded(ORDER);
        let slots: Arc<[Slot]> = (0..SLOTS).map(|_| bounded(1)).collect();
        stats.queues.pack.capacity.set(count as u64);
        stats.queues.blocks.capacity.set(count as u64);
        stats.queues.spool.capacity.set(ORDER as u64);
        let (spent, buffers) = bounded(ORDER);
        let limits = Limits {
            // An eighth is left to pack and write it. The longer a slow probe's batch may fill, the less its codes cost: pieces
            // of half a second at 100 rows a second were 4 % larger than one stream, these are below 2 %.
            batch_age: options.flush_interval / 8 * 7,
            file_age: options.rotate_interval,
            file_bytes: options.rotate_bytes,
            seal_on_new_header: check.header == check::HeaderMode::EachFile,
        };
        let relay = Arc::new(Relay::default());
        let mut packers = Vec::with_capacity(options.workers);
        for index in 0..options.workers {
            let packer = Packer::new(check.clone(), level, Arc::clone(&relay));
            let ends = PackEnds { work: work.clone(), free: free.clone(), buffers: buffers.clone() };
            let (stats, guard) = (Arc::clone(stats), shutdown.guard("pack"));
            packers.push(spawn(&format!("pack-{index}"), move || {
                ends.run(packer, &stats);
                guard.done();
            })?);
        }
        let (keep_trying, given_up) = bounded(0);
        let writer = SpoolLoop {
            spool,
            log,
            turns: turns.clone(),
            slots: Arc::clone(&slots),
            spent,
            given_up,
            stats: Arc::clone(stats),
        };
        let guard = shutdown.guard("spool");
        let spool = spawn("spool", move || writer.run(guard))?;
        let (stop, stats) = (shutdown.clone(), Arc::clone(stats));
        let source = spawn("source", move || {
            let batcher = Batcher::new(limits);
            let _runs = SourceRuns::new(Arc::clone(&stats));
            let mut feed = Feed { batcher, pool, jobs, order, slots, stop: stop.clone(), stats, next: 0 };
            source.run(&mut feed, &stop)
        })?;
        Ok(Self { source, packers, spool, turns, keep_trying: Some(keep_trying) })
    }

    /// Ends what waits for the disk: the spool tries no more, and its queue is emptied, so that the source hands out what it
    /// has and the packers count it.
    fn give_up(&mut self, until: Instant) {
        self.keep_trying = None;
        while self.turns.recv_deadline(until).is_ok() {}
    }
}

/// One batch for whichever pack thread is free.
struct Job {
    number: u64,
    batch: Batch,
    answer: Answer,
}

/// Where the packed batch of one turn arrives; `None` when its pack thread ended before it was done. Made once and used
/// again when its turn is over, so that a batch costs no allocation.
type Slot = (Sender<Option<Packed>>, Receiver<Option<Packed>>);

/// As many slots as turns can wait, the one that the spool works on, and the one that is being queued.
const SLOTS: usize = ORDER + 2;

/// The obligation to answer for one batch: dropped without an answer, as by a panic, it says so.
struct Answer(Option<Sender<Option<Packed>>>);

impl Answer {
    fn send(mut self, packed: Packed) {
        if let Some(slot) = self.0.take() {
            // The slot is empty, for its last turn is over; a spool that has ended takes no answers.
            let _ = slot.try_send(Some(packed));
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            let _ = slot.try_send(None);
        }
    }
}

/// What the spool thread does next.
enum Turn {
    /// Append the answer that comes in this slot.
    Append(usize),
    Seal,
}

/// Says that the source is being read, until it is dropped.
struct SourceRuns(Arc<Stats>);

impl SourceRuns {
    fn new(stats: Arc<Stats>) -> Self {
        stats.source_runs.set(1);
        Self(stats)
    }
}

impl Drop for SourceRuns {
    fn drop(&mut self) {
        self.0.source_runs.set(0);
    }
}

/// The pipeline's entry, on the source's thread: cuts the stream and hands the cuts out.
struct Feed {
    batcher: Batcher,
    pool: Receiver<Block>,
    jobs: Sender<Job>,
    order: Sender<Turn>,
    slots: Arc<[Slot]>,
    stop: Shutdown,
    stats: Arc<Stats>,
    next: u64,
}

impl Feed {
    /// Hands out every cut that is due. Waits for a block when bytes are left over: they were taken, so they pass.
    fn pump(&mut self, now: Instant) -> Result<(), Stopped> {
        loop {
            while let Some(cut) = self.batcher.poll(now) {
                self.hand_out(cut)?;
            }
            if !self.batcher.is_stalled() {
                return Ok(());
            }
            let begun = Instant::now();
            let block = self.pool.recv().map_err(|_| Stopped)?;
            self.stats.waits.source.add(begun.elapsed());
            self.batcher.give(block);
        }
    }

    fn hand_out(&mut self, cut: Cut) -> Result<(), Stopped> {
        match cut {
            Cut::Seal => self.queue(Turn::Seal),
            Cut::Batch(batch) => {
                let number = self.next;
                self.next += 1;
                let slot = (number % SLOTS as u64) as usize;
                // The turn is queued first: then the turn that had this slot before is over.
                self.queue(Turn::Append(slot))?;
                let answer = Answer(Some(self.slots[slot].0.clone()));
                let job = Job { number, batch, answer };
                self.jobs.send(job).map_err(|_| Stopped)?;
                let queues = &self.stats.queues;
                queues.pack.length.set(self.jobs.len() as u64);
                queues.blocks.length.set(queues.blocks.capacity.get().saturating_sub(self.pool.len() as u64));
                Ok(())
            }
        }
    }

    /// Queues a turn for the spool; waits for room, and counts that.
    fn queue(&self, turn: Turn) -> Result<(), Stopped> {
        if let Err(refused) = self.order.try_send(turn) {
            let begun = Instant::now();
            self.order.send(refused.into_inner()).map_err(|_| Stopped)?;
            self.stats.waits.source.add(begun.elapsed());
        }
        self.stats.queues.spool.length.set(self.order.len() as u64);
        Ok(())
    }
}

impl Drop for Feed {
    /// The source has ended, by return or by panic: what it gave goes out, and the channels close.
    fn drop(&mut self) {
        self.batcher.close();
        // Stages that have ended said why themselves.
        let _ = self.pump(Instant::now());
    }
}

/// What [`Sink::space`] promises: a source that keeps a begun line in front of its read must not be left with no room, which
/// a read cannot tell from the end.
const _: () = assert!(BLOCK / ROOM_PART >= MIN_SPACE);

impl Sink for Feed {
    fn space(&mut self) -> Result<&mut [u8], Stopped> {
        if self.batcher.wants_block() {
            let block = self.pool.try_recv().or_else(|_| {
                let begun = Instant::now();
                let block = select! {
                    recv(self.pool) -> block => block.map_err(|_| Stopped),
                    recv(self.stop.channel()) -> _ => Err(Stopped),
                };
                self.stats.waits.source.add(begun.elapsed());
                block
            })?;
            self.batcher.give(block);
        }
        Ok(self.batcher.space())
    }

    fn filled(&mut self, len: usize, now: Instant) -> Result<(), Stopped> {
        self.batcher.filled(len, now);
        self.pump(now)
    }

    fn tick(&mut self, now: Instant) -> Result<(), Stopped> {
        self.pump(now)
    }

    fn due(&self) -> Option<Instant> {
        self.batcher.due()
    }

    fn has_partial_line(&self) -> bool {
        self.batcher.has_partial_line()
    }
}

/// A pack thread's ends of the channels.
struct PackEnds {
    work: Receiver<Job>,
    free: Sender<Block>,
    buffers: Receiver<Vec<u8>>,
}

impl PackEnds {
    fn run(&self, mut packer: Packer, stats: &Stats) {
        for Job { number, batch, answer } in &self.work {
            stats.queues.pack.length.set(self.work.len() as u64);
            let buffer = self.buffers.try_recv().unwrap_or_default();
            let (packed, block) = packer.pack(number, batch, buffer);
            stats.read.add(&packed.findings.read);
            stats.bad_lines.add(packed.findings.bad_lines);
            // The pool has room for every block there is; without a source it is gone, and so is the need.
            let _ = self.free.try_send(block);
            let blocks = &stats.queues.blocks;
            blocks.length.set(blocks.capacity.get().saturating_sub(self.free.len() as u64));
            answer.send(packed);
        }
    }
}

/// The spool thread: takes the turns, tries again what the disk refuses.
struct SpoolLoop {
    spool: Spool,
    log: Log,
    turns: Receiver<Turn>,
    slots: Arc<[Slot]>,
    /// Buffers of pieces that are written.
    spent: Sender<Vec<u8>>,
    /// Disconnected when the program cannot wait for the disk any longer.
    given_up: Receiver<Infallible>,
    stats: Arc<Stats>,
}

const GIVEN_UP: &str = "the disk did not take the rest in time";

impl SpoolLoop {
    fn run(mut self, guard: TripOnEnd) -> Result<(), &'static str> {
        let outcome = self.take_turns();
        if outcome.is_ok() {
            guard.done();
            return outcome;
        }
        drop(guard);
        // What is there may still become a file; the next start makes one of it otherwise.
        let _ = self.spool.seal(Instant::now(), clock::now());
        self.stats.vanished.add(&self.spool.vanished());
        // Nobody may wait for room in a queue that is not worked on any more.
        for _ in &self.turns {}
        outcome
    }

    fn take_turns(&mut self) -> Result<(), &'static str> {
        while let Some(turn) = self.next()? {
            self.stats.queues.spool.length.set(self.turns.len() as u64);
            match turn {
                Turn::Append(slot) => {
                    let begun = Instant::now();
                    let answer = self.slots[slot].1.recv().ok().flatten();
                    let packed = answer.ok_or("a pack thread ended before its batch was done")?;
                    self.stats.waits.packed.add(begun.elapsed());
                    self.patiently(|spool| spool.append(&packed, Instant::now(), clock::now()))?;
                    // No room means that there are buffers enough.
                    let _ = self.spent.try_send(packed.piece.deflate);
                }
                Turn::Seal => self.patiently(|spool| spool.seal(Instant::now(), clock::now()))?,
            }
        }
        self.patiently(|spool| spool.seal(Instant::now(), clock::now()))
    }

    /// The next turn; `None` behind the last one. Once given up, somebody else empties the queue: no turn is worked on any
    /// more, for the one before it may be missing.
    fn next(&self) -> Result<Option<Turn>, &'static str> {
        let turn = select! {
            recv(self.turns) -> turn => turn.ok(),
            recv(self.given_up) -> _ => return Err(GIVEN_UP),
        };
        if self.given_up.try_recv() == Err(TryRecvError::Disconnected) { Err(GIVEN_UP) } else { Ok(turn) }
    }

    /// Tries until it works. Nothing is lost meanwhile: the queue behind this thread fills, and reading stops.
    fn patiently(&mut self, mut step: impl FnMut(&mut Spool) -> Result<(), Trouble>) -> Result<(), &'static str> {
        let mut pause = RETRY.0;
        let mut recovered = None;
        loop {
            let begun = Instant::now();
            let outcome = step(&mut self.spool);
            self.stats.waits.disk.add(begun.elapsed());
            match outcome {
                Ok(()) => {
                    if let Some(event) = recovered {
                        self.stats.spool_full.set(0);
                        self.stats.spool_failing.set(0);
                        self.log.event(event);
                    }
                    return Ok(());
                }
                Err(Trouble::Full { used, free }) => {
                    let path = self.spool.path();
                    self.stats.spool_full.set(1);
                    self.log.event(Event::SpoolFull { path: path.clone(), used, free });
                    recovered = Some(Event::SpoolFree { path });
                }
                Err(Trouble::Io { path, source }) => {
                    self.stats.spool_failing.set(1);
                    let error = source.to_string();
                    self.log.event(Event::SpoolWriteFailed { path: path.clone(), error, retry_in: pause });
                    recovered = Some(Event::SpoolWriteRecovered { path });
                }
            }
            if self.given_up.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return Err(GIVEN_UP);
            }
            self.stats.waits.retry.add(pause);
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use super::*;
    use crate::clock::Zone;
    use crate::source::stdin::FdSource;
    use crate::spool::{self, WhenFull};

    const HANG_GUARD: Duration = Duration::from_secs(30);

    fn options() -> Options {
        Options {
            workers: 3,
            flush_interval: Duration::from_millis(20),
            rotate_interval: Duration::from_mins(10),
            rotate_bytes: 100 << 20,
        }
    }

    struct Run {
        outcome: Running<Outcome>,
        shutdown: Shutdown,
        stats: Arc<Stats>,
    }

    fn start(dir: &Path, input: impl Into<OwnedFd>, options: Options, check: check::Options) -> Run {
        start_source(dir, Box::new(FdSource::new(input.into(), "the test's input")), options, check)
    }

    fn start_source(dir: &Path, source: Box<dyn Source>, options: Options, check: check::Options) -> Run {
        let (stats, log) = (Arc::new(Stats::default()), Log::discard());
        let spool = spool::Options {
            dir: dir.to_path_buf(),
            prefix: "flows_".to_owned(),
            zone: Zone::default(),
            max_bytes: None,
            min_free: 0,
            when_full: WhenFull::Block,
        };
        let shutdown = Shutdown::new().unwrap();
        let spool = Spool::open(spool, check.header, Arc::clone(&stats), log.clone(), &shutdown).unwrap();
        let parts = Parts {
            options,
            source,
            check,
            level: pack::Level::Zlib(1),
            spool,
            upload: None,
            end: End::new(shutdown.clone(), Duration::from_secs(8)),
            stats: Arc::clone(&stats),
            log,
        };
        let pipeline = Pipeline::start(parts).unwrap();
        Run { outcome: spawn("test", move || pipeline.wait()).unwrap(), shutdown, stats }
    }

    fn end(run: &Run) -> Outcome {
        run.outcome.wait_until(Instant::now() + HANG_GUARD).expect("the pipeline ends")
    }

    /// What the sealed files unpack to, in the order of their names.
    fn unpacked(dir: &Path) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.extension().is_some_and(|ending| ending == "gz"));
        names.sort();
        let unpack = |path: &std::path::PathBuf| {
            let mut raw = Vec::new();
            flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut raw).unwrap();
            raw
        };
        names.iter().map(unpack).collect()
    }

    fn rows(count: usize) -> Vec<u8> {
        let mut text = b"SRC_IP,PACKETS,BYTES\n".to_vec();
        text.extend((0..count).flat_map(|i| format!("10.0.{}.{},{i},{}\n", i % 7, i % 250, i * 37).into_bytes()));
        text
    }

    fn file_of(bytes: &[u8]) -> File {
        use std::io::Seek;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn every_byte_arrives_in_order_whatever_the_number_of_threads() {
        let temp = tempfile::tempdir().unwrap();
        let text = rows(400_000);
        let options = Options { rotate_bytes: 3 << 20, ..options() };
        let run = start(temp.path(), file_of(&text), options, check::Options::default());
        assert_eq!(end(&run), Outcome::Sealed { by_signal: false, waiting: 0 });
        let files = unpacked(temp.path());
        assert!(files.concat() == text);
        assert_eq!(files.len(), text.len().div_ceil(3 << 20));
        assert!(files.iter().all(|file| file.ends_with(b"\n")), "a line never spans two files");
        assert_eq!(run.stats.read.lines.get(), 400_001);
        assert_eq!(run.stats.written.packets.get(), (0..400_000).sum::<u64>());
    }

    #[test]
    fn a_waiting_line_is_on_disk_after_the_flush_interval_and_a_stop_seals() {
        let temp = tempfile::tempdir().unwrap();
        let (input, mut feed) = io::pipe().unwrap();
        let run = start(temp.path(), input, options(), check::Options::default());
        feed.write_all(b"1,2\n3,").unwrap();
        let deadline = Instant::now() + HANG_GUARD;
        while run.stats.written.lines.get() < 1 {
            assert!(Instant::now() < deadline, "the line is written while the input stays open");
            std::thread::yield_now();
        }
        run.shutdown.trip(Reason::Signal(15));
        // The end of the begun line comes while the stop waits for it.
        feed.write_all(b"4\n").unwrap();
        assert_eq!(end(&run), Outcome::Sealed { by_signal: true, waiting: 0 });
        assert_eq!(unpacked(temp.path()).concat(), b"1,2\n3,4\n");
    }

    #[test]
    fn each_file_has_the_header_first_and_once() {
        let temp = tempfile::tempdir().unwrap();
        let mut text = rows(60_000);
        text.extend_from_slice(&rows(60_000));
        let options = Options { rotate_bytes: 1 << 20, ..options() };
        let check = check::Options { header: check::HeaderMode::EachFile, ..check::Options::default() };
        let run = start(temp.path(), file_of(&text), options, check);
        assert_eq!(end(&run), Outcome::Sealed { by_signal: false, waiting: 0 });
        let header = b"SRC_IP,PACKETS,BYTES\n";
        let files = unpacked(temp.path());
        assert!(files.len() > 1);
        let mut together = header.to_vec();
        for file in &files {
            together.extend_from_slice(file.strip_prefix(header).expect("the header first"));
        }
        let body = rows(60_000)[header.len()..].to_vec();
        assert!(together[header.len()..] == [body.clone(), body].concat());
        assert_eq!(run.stats.header_lines.get(), 2);
        let accounted = run.stats.written.lines.get() + run.stats.header_lines.get();
        assert_eq!(run.stats.read.lines.get(), accounted);
    }

    #[test]
    fn a_source_that_panics_ends_the_run_with_what_it_gave_sealed() {
        struct Panics;
        impl Source for Panics {
            fn run(self: Box<Self>, sink: &mut dyn Sink, _: &Shutdown) -> Result<SourceEnd, SourceError> {
                sink.lines(b"1,2\n", Instant::now()).unwrap();
                panic!("as a source might");
            }
        }
        let temp = tempfile::tempdir().unwrap();
        let run = start_source(temp.path(), Box::new(Panics), options(), check::Options::default());
        assert_eq!(end(&run), Outcome::Failed);
        assert_eq!(unpacked(temp.path()).concat(), b"1,2\n");
    }
}
