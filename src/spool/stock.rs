//! How much is in the data directory, as numbers that are kept up by those who change it and counted anew in the background:
//! a backlog of a million files costs neither the start nor a new segment a walk through it.
//!
//! ```text
//!   spool      names given out, sealed, dropped ──┐
//!   uploader   removed ───────────────────────────┼──▶ Stock ──▶ spool_files, spool_bytes, torn_files, torn_bytes,
//!   thread spool-count   the directory as it is ──┘           the limit of the spool
//! ```
//!
//! Promises: after each count the numbers are exactly what the directory holds, whatever was sealed, delivered and dropped
//! while it was counted; between two counts they are moved by what this process does. What others put in or take away is
//! noticed by the next count, [`PERIOD`] after the last or [`SHARE`] times as long as a count takes, and sooner when the limit
//! seems reached. Memory is bounded by one page of names.
//!
//! # How it counts what moves
//!
//! A pass over names cannot tell whether a file that is gone now was seen before it went. So the order of the queue decides:
//! the oldest files, up to a *frontier*, are counted last, in one pass while nobody removes anything, and everything behind it
//! before. Removals take the oldest first, so they change nothing that was counted; one that does behind the frontier voids the
//! count, and it begins again. What is sealed meanwhile has an index that was given out meanwhile: it is passed over, and the
//! one who sealed it adds it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, after, bounded};

use super::dir::{Dir, Entry};
use super::names::{index_of, is_part, is_sealed, likely_index_of};
use super::queue::{PAGE, Waiting, comes_after, oldest};
use super::torn;
use crate::stats::{Number, Stats};
use crate::threads;

/// The shortest time between two counts that nobody asked for: what a person at a terminal waits for.
const PERIOD: Duration = Duration::from_secs(10);
/// A count that nobody asked for costs this part of a core at most.
const SHARE: u32 = 200;
/// A count that is asked for, because the limit seems reached, costs this part of a core at most.
const SHARE_AT_LIMIT: u32 = 10;
/// A count that takes less is waited for by a new segment that seems to have no room: with half a million files, say.
const QUICK: Duration = Duration::from_secs(1);
/// Pause before a first look that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is in the data directory.
#[derive(Debug)]
pub struct Stock {
    dir: Dir,
    stats: Arc<Stats>,
    /// Every index below this one was given out; for the count, which asks it for each name.
    next: Number,
    /// Held by who removes a sealed file, from its last look at the file until the numbers are right again, and by the count
    /// for its last pass.
    gate: Mutex<()>,
    state: Mutex<State>,
    counted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sealed: Waiting,
    /// Bytes of the regular files that are not sealed, as the last count found them; without the open segment.
    other_bytes: u64,
    /// The index of the segment that is being written.
    open: Option<u64>,
    /// When the last whole count began, and how long it took.
    last: Option<(Instant, Duration)>,
    /// Why the last count failed.
    fault: Option<(io::ErrorKind, String)>,
    under_way: Option<UnderWay>,
    /// Torn files are being made whole: they are renamed at a time that nobody is told.
    unsettled: bool,
}

/// A count that has begun.
#[derive(Debug)]
struct UnderWay {
    /// Indexes from here on are passed over.
    from: u64,
    /// Last name of those that are counted last; `None` when all are.
    frontier: Option<String>,
    /// Something changed behind the frontier.
    void: bool,
    /// What is there of the indexes that are passed over.
    new: Waiting,
}

/// What the first look at the directory found.
#[derive(Debug, Default)]
pub struct Survey {
    /// The torn files of earlier lives, in no order.
    pub parts: Vec<Entry>,
    /// Hidden files that a killed salvage left.
    pub repacks: Vec<String>,
    /// The highest index in a name.
    pub last_index: Option<u64>,
}

/// The thread that counts ends when this is dropped.
#[derive(Debug)]
pub struct Counting {
    ask: Sender<()>,
}

/// How long what was seen in a look that took so long is good enough, when nobody asks.
pub(super) fn pause_after(took: Duration) -> Duration {
    PERIOD.max(took * SHARE)
}

impl Waiting {
    fn add(&mut self, len: u64) {
        self.files += 1;
        self.bytes += len;
    }

    /// Never below zero: before the first count, the bytes of what goes were never added.
    fn sub(&mut self, len: u64) {
        self.files = self.files.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(len);
    }
}

impl Stock {
    /// The stock of `dir`, with nothing counted yet. It keeps `spool_files` and `spool_bytes` in `stats`.
    pub fn new(dir: Dir, stats: Arc<Stats>) -> Self {
        let (next, gate, state, counted) = Default::default();
        Self { dir, stats, next, gate, state, counted }
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Starts the thread that looks and, from [`Self::begin`] on, counts. The receiver gets the first look, and an error for each
    /// one that failed before.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<(Counting, Receiver<io::Result<Survey>>)> {
        let (ask, asked) = bounded(1);
        let (tell, surveyed) = bounded(1);
        let stock = Arc::clone(self);
        threads::spawn("spool-count", move || stock.run(&tell, &asked))?;
        Ok((Counting { ask }, surveyed))
    }

    /// Lets the counting begin; all indexes below `next` were given out by earlier lives.
    pub(super) fn begin(&self, counting: &Counting, next: u64) {
        self.next.set(next);
        // The thread takes it when its first look is done.
        let _ = counting.ask.try_send(());
    }

    fn run(&self, tell: &Sender<io::Result<Survey>>, asked: &Receiver<()>) {
        loop {
            let survey = self.survey();
            let is_done = survey.is_ok();
            if tell.send(survey).is_err() {
                return;
            }
            if is_done {
                break;
            }
            let _ = after(AGAIN).recv();
        }
        if asked.recv().is_err() {
            return;
        }
        loop {
            let begun = Instant::now();
            let pause = match self.count() {
                Ok(true) => pause_after(begun.elapsed()),
                // Its cause is over after a moment, or after a torn file was made whole.
                Ok(false) => begun.elapsed().max(PERIOD / 100),
                Err(_) => PERIOD,
            };
            if asked.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// The first look: one pass over the names, and a look at the torn files alone. Sets the number of sealed files, so that
    /// there is one before they are counted.
    fn survey(&self) -> io::Result<Survey> {
        let mut survey = Survey::default();
        let mut files = 0;
        self.dir.each(|name| {
            survey.last_index = survey.last_index.max(likely_index_of(name));
            files += u64::from(is_sealed(name));
            if torn::is_repack(name) {
                survey.repacks.push(name.to_owned());
            }
            if is_part(name)
                && let Some(len) = self.dir.len_of(name)?
            {
                survey.parts.push(Entry { name: name.to_owned(), len });
            }
            Ok(true)
        })?;
        let mut state = self.state();
        state.sealed.files = state.sealed.files.max(files);
        self.publish(&state);
        Ok(survey)
    }

    /// Counts everything once; false when the count is void. Called by one thread at a time.
    ///
    /// # Errors
    ///
    /// The directory cannot be read. The numbers stay what they were.
    pub fn count(&self) -> io::Result<bool> {
        let outcome = self.count_once();
        let mut state = self.state();
        state.under_way = None;
        state.fault = outcome.as_ref().err().map(|error| (error.kind(), error.to_string()));
        drop(state);
        self.counted.notify_all();
        outcome
    }

    fn count_once(&self) -> io::Result<bool> {
        let begun = Instant::now();
        let head = oldest(&self.dir, is_sealed, None, PAGE)?;
        let frontier = if head.len() < PAGE { None } else { head.into_iter().next_back() };
        let from = {
            let mut state = self.state();
            let from = state.open.unwrap_or(self.next.get());
            let (frontier, new) = (frontier.clone(), Waiting::default());
            state.under_way = Some(UnderWay { from, frontier, void: state.unsettled, new });
            from
        };
        let is_new = |name: &str| index_of(name).is_some_and(|index| (from..self.next.get()).contains(&index));
        let is_tail = |name: &str| frontier.as_ref().is_some_and(|frontier| comes_after(name, frontier));
        let (mut sealed, mut other_bytes) = (Waiting::default(), 0);
        let mut damaged = Waiting::default();
        for entry in torn::inside(&self.dir) {
            damaged.add(entry.len);
        }
        if frontier.is_some() {
            self.dir.each(|name| {
                if is_sealed(name)
                    && is_tail(name)
                    && !is_new(name)
                    && let Some(len) = self.dir.len_of(name)?
                {
                    sealed.add(len);
                }
                Ok(true)
            })?;
        }
        let _nobody_removes = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.dir.each(|name| {
            let is_sealed = is_sealed(name);
            if (is_sealed && is_tail(name)) || ((is_sealed || is_part(name)) && is_new(name)) {
                return Ok(true);
            }
            match self.dir.len_of(name)? {
                Some(len) if is_sealed => sealed.add(len),
                Some(len) => {
                    other_bytes += len;
                    if torn::is_kept(name) {
                        damaged.add(len);
                    }
                }
                None => {}
            }
            Ok(true)
        })?;
        let mut state = self.state();
        let Some(count) = state.under_way.take().filter(|count| !count.void) else { return Ok(false) };
        sealed.files += count.new.files;
        sealed.bytes += count.new.bytes;
        (state.sealed, state.other_bytes) = (sealed, other_bytes);
        state.last = Some((begun, begun.elapsed()));
        self.stats.torn_files.set(damaged.files);
        self.stats.torn_bytes.set(damaged.bytes);
        self.publish(&state);
        Ok(true)
    }

    /// The name with `index` was given out: its segment is the one that is written now.
    pub(super) fn given(&self, index: u64) {
        let mut state = self.state();
        state.open = Some(index);
        self.next.set(index + 1);
    }

    /// The open segment is sealed, `len` bytes long.
    pub(super) fn sealed(&self, len: u64) {
        let mut state = self.state();
        state.open = None;
        state.sealed.add(len);
        if let Some(count) = &mut state.under_way {
            count.new.add(len);
        }
        self.publish(&state);
    }

    /// Torn files are about to be made whole: no count is good before [`Self::settled`].
    pub(super) fn unsettle(&self) {
        let mut state = self.state();
        state.unsettled = true;
        if let Some(count) = &mut state.under_way {
            count.void = true;
        }
    }

    /// A torn file became a sealed one, `len` bytes long.
    pub(super) fn salvaged(&self, len: u64) {
        let mut state = self.state();
        state.sealed.add(len);
        self.publish(&state);
    }

    /// The torn files are sealed, or wait, or went another way.
    pub(super) fn settled(&self) {
        self.state().unsettled = false;
    }

    /// Removes a sealed file; its length. Whoever removes it syncs the directory.
    pub(super) fn remove(&self, name: &str) -> io::Result<u64> {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.dir.len_of(name)?.ok_or(io::ErrorKind::NotFound)?;
        self.dir.remove(name)?;
        let mut state = self.state();
        state.sealed.sub(len);
        let next = self.next.get();
        if let Some(count) = &mut state.under_way {
            if index_of(name).is_some_and(|index| (count.from..next).contains(&index)) {
                count.new.sub(len);
            } else if count.frontier.as_ref().is_some_and(|frontier| comes_after(name, frontier)) {
                count.void = true;
            }
        }
        self.publish(&state);
        Ok(len)
    }

    /// The sealed files as far as they are known now.
    pub fn sealed_now(&self) -> Waiting {
        self.state().sealed
    }

    /// Bytes of everything in the directory, once it was counted for the first time; `None` when it was not by `deadline`.
    pub(super) fn used(&self, deadline: Instant) -> io::Result<Option<u64>> {
        let state = self.wait(deadline, |state| state.last.is_some() || state.fault.is_some());
        match (&state.last, &state.fault) {
            (Some(_), _) => Ok(Some(state.sealed.bytes + state.other_bytes)),
            (None, Some((kind, text))) => Err(io::Error::new(*kind, text.clone())),
            (None, None) => Ok(None),
        }
    }

    /// The limit seems reached: lets it be counted anew, unless that was done a moment ago, and waits for it when it was quick
    /// the last time. A long count is found done by who asks again.
    pub(super) fn count_anew(&self, counting: &Counting) {
        let now = Instant::now();
        let Some((begun, took)) = self.state().last else { return };
        if now.duration_since(begun) < took * SHARE_AT_LIMIT {
            return;
        }
        // One that is asked for already will do.
        let _ = counting.ask.try_send(());
        if took < QUICK {
            let is_done = |state: &State| state.fault.is_some() || state.last.is_some_and(|(begun, _)| begun >= now);
            drop(self.wait(now + QUICK, is_done));
        }
    }

    fn wait(&self, deadline: Instant, holds: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let waited = self.counted.wait_timeout_while(self.state(), limit, |state| !holds(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        self.stats.spool_files.set(state.sealed.files);
        self.stats.spool_bytes.set(state.sealed.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;
    use crate::random::random;

    fn stock(temp: &tempfile::TempDir) -> Arc<Stock> {
        Arc::new(Stock::new(Dir::open(temp.path()).unwrap(), Arc::default()))
    }

    fn name(index: u64) -> String {
        format!("f_20251127_{:06}_{index:03}.csv.gz", index / 4)
    }

    fn put(stock: &Stock, name: &str, len: usize) {
        std::fs::write(stock.dir().path().join(name), vec![0; len]).unwrap();
    }

    /// What is in the directory, looked at by other means.
    fn there(stock: &Stock) -> (Waiting, u64) {
        let (mut sealed, mut used) = (Waiting::default(), 0);
        for entry in std::fs::read_dir(stock.dir().path()).unwrap() {
            let entry = entry.unwrap();
            let len = entry.metadata().unwrap().len();
            used += len;
            if entry.file_name().to_str().unwrap().ends_with(".csv.gz") {
                sealed.add(len);
            }
        }
        (sealed, used)
    }

    fn known(stock: &Stock) -> (Waiting, u64) {
        (stock.sealed_now(), stock.used(Instant::now()).unwrap().unwrap())
    }

    /// As the spool does it; the part is there before the name is sealed.
    fn make(stock: &Stock, index: u64, len: usize) {
        stock.given(index);
        let part = name(index).replace(".csv.gz", ".part");
        put(stock, &part, len);
        stock.dir().rename_new(&part, &name(index)).unwrap();
        stock.sealed(len as u64);
    }

    /// Files are sealed, delivered and dropped at random while the directory is counted again and again, with more files than
    /// are counted last. After every count, and after what follows it, the numbers are the directory's.
    #[test]
    fn the_numbers_are_the_directory_whatever_happens_while_it_is_counted() {
        const OLD: u64 = PAGE as u64 + 3000;
        let temp = tempfile::tempdir().unwrap();
        let stock = stock(&temp);
        for index in 0..OLD {
            put(&stock, &name(index), usize::try_from(index % 7).unwrap());
        }
        put(&stock, "by-hand.csv.gz", 11);
        put(&stock, "note.txt", 100);
        stock.next.set(OLD);
        let stop = AtomicBool::new(false);
        let (mut oldest, mut next) = (0, OLD);
        let (mut whole, mut void) = (0, 0);
        for round in 0..8 {
            std::thread::scope(|scope| {
                let stock = &stock;
                let stop = &stop;
                stop.store(false, Relaxed);
                let worker = scope.spawn(move || {
                    let (mut oldest, mut next) = (oldest, next);
                    while !stop.load(Relaxed) {
                        match random() % 8 {
                            0..4 => {
                                stock.remove(&name(oldest)).unwrap();
                                oldest += 1;
                            }
                            // A file that failed before and comes late, so to speak: not the oldest.
                            4 if round % 4 == 3 => {
                                stock.remove(&name(next - 1)).unwrap();
                                make(stock, next, 5);
                                next += 1;
                            }
                            5 => assert_eq!(stock.remove("gone.csv.gz").unwrap_err().kind(), io::ErrorKind::NotFound),
                            _ => {
                                make(stock, next, usize::try_from(random() % 50).unwrap());
                                next += 1;
                            }
                        }
                        if oldest + 100 > next {
                            break;
                        }
                    }
                    (oldest, next)
                });
                if stock.count().unwrap() {
                    whole += 1;
                } else {
                    void += 1;
                }
                stop.store(true, Relaxed);
                (oldest, next) = worker.join().unwrap();
            });
            if round % 4 != 3 {
                assert_eq!(known(&stock), there(&stock), "round {round}, {whole} whole, {void} void");
            }
            while !stock.count().unwrap() {}
            assert_eq!(known(&stock), there(&stock), "round {round}, at rest");
        }
        assert!(whole > 0, "{void} void");
        assert_eq!(stock.stats.spool_files.get(), there(&stock).0.files);
        assert_eq!(stock.stats.spool_bytes.get(), there(&stock).0.bytes);
    }

    #[test]
    fn what_is_removed_behind_the_frontier_voids_the_count() {
        let temp = tempfile::tempdir().unwrap();
        let stock = stock(&temp);
        put(&stock, &name(1), 1);
        put(&stock, &name(2), 1);
        let begin = || {
            let frontier = Some(name(1));
            stock.state().under_way = Some(UnderWay { from: 9, frontier, void: false, new: Waiting::default() });
        };
        begin();
        stock.remove(&name(1)).unwrap();
        assert!(!stock.state().under_way.as_ref().unwrap().void);
        stock.remove(&name(2)).unwrap();
        assert!(stock.state().under_way.as_ref().unwrap().void);
        begin();
        stock.unsettle();
        assert!(stock.state().under_way.as_ref().unwrap().void);
        assert!(!stock.count().unwrap(), "torn files are being made whole");
        put(&stock, &name(3), 4);
        stock.salvaged(4);
        stock.settled();
        assert!(stock.count().unwrap());
        assert_eq!(stock.sealed_now(), Waiting { files: 1, bytes: 4 });
    }

    /// A look, and then counts when asked for or when it is time, until nobody wants them any more.
    #[test]
    fn what_others_do_is_noticed_when_the_limit_seems_reached() {
        let temp = tempfile::tempdir().unwrap();
        let stock = stock(&temp);
        put(&stock, &name(7), 40);
        put(&stock, "f_20251127_102030_009.part", 5);
        let (counting, surveyed) = stock.start().unwrap();
        let survey = surveyed.recv().unwrap().unwrap();
        assert_eq!((survey.parts.len(), survey.parts[0].len, survey.last_index), (1, 5, Some(9)));
        assert_eq!(stock.sealed_now().files, 1, "known before the first count");
        assert_eq!(stock.used(Instant::now()).unwrap(), None, "its bytes are not");
        let guard = Instant::now() + Duration::from_secs(30);
        stock.begin(&counting, 10);
        assert_eq!(stock.used(guard).unwrap(), Some(45));
        std::fs::remove_file(temp.path().join(name(7))).unwrap();
        while stock.used(guard).unwrap() != Some(5) {
            assert!(Instant::now() < guard);
            stock.count_anew(&counting);
        }
        let mut theirs = Arc::strong_count(&stock);
        drop(counting);
        while theirs > 1 {
            assert!(Instant::now() < guard, "the thread ends");
            std::thread::yield_now();
            theirs = Arc::strong_count(&stock);
        }
    }
}
