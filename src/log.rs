//! The log: one catalogue of events, one bounded queue, one writer of stderr.
//!
//! Promises: [`Log::event`] never waits, whatever stderr does; a line that finds no room is counted in
//! [`Stats::log_lines_lost`] and the count is said as soon as stderr takes lines again; lines keep the order of their
//! events; nothing that came from outside (a server's reply, a file name, an input line) can forge a line, move a
//! cursor or fill the disk with one line; a fault that repeats is said once a minute with its count.
//!
//! It never formats on the caller's thread, never writes a secret (events have no field for one), and never lets the
//! protocol traces of other crates through, which would contain the password.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::clock::{self, Zone};
use crate::stats::Stats;

mod bridge;
mod catalogue;
mod line;
pub mod recent;
mod repeat;

pub use bridge::install;
pub use catalogue::{Entry, Event};
pub use line::visible;

use recent::Recent;
use repeat::Repeats;

/// Lines that may wait for stderr. A pass over a whole backlog says one line a file; a thousand of them are more than
/// anybody reads at once, and with their fields they stay below half a megabyte.
const QUEUE: usize = 1024;

/// `-log-level`, in an order in which what matters more is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Something was not done that should have been.
    Error,
    /// It works, but not as the operator may believe.
    Warn,
    /// What an operator wants to read on a good day.
    #[default]
    Info,
    /// Steps, for looking into a fault.
    Debug,
}

impl Level {
    /// The name in the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Reads a name, whatever its case; `None` when it is none of the four.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| text.eq_ignore_ascii_case(level.name()))
    }
}

/// `processor_log_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `2025/11/27 10:00:00 [INFO] …`.
    #[default]
    Text,
    /// One object a line: time, level, event, the event's fields, message.
    Json,
}

/// `processor_log_lang`: the language of messages. Names and fields of the JSON form are the same in either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lang {
    /// Chinese.
    #[default]
    Zh,
    /// English.
    En,
}

/// Settings of the log.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Events of this level and above are written.
    pub level: Level,
    /// Text or JSON.
    pub format: Format,
    /// Language of the messages.
    pub lang: Lang,
    /// Zone of the stamps.
    pub zone: Zone,
}

/// One event on its way to stderr.
#[derive(Debug, Clone)]
struct Said {
    at: DateTime<Utc>,
    level: Level,
    event: Event,
    /// How often the same came within the last minute beside this one.
    repeated: u64,
}

enum Item {
    Said(Said),
    Close,
}

/// Where every room says its events. A cheap clone; all clones share one queue.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    level: Level,
    queue: Sender<Item>,
    /// Disconnected when the writer has ended.
    ended: Receiver<()>,
    stats: Arc<Stats>,
    recent: Recent,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Said(said) => said.fmt(f),
            Self::Close => f.write_str("Close"),
        }
    }
}

impl Log {
    /// The log and the writer that a thread of its own must [`Writer::run`]; until then the queue fills.
    pub fn new(options: Options, stats: Arc<Stats>) -> (Self, Writer) {
        let (queue, items) = bounded(QUEUE);
        let (ending, ended) = bounded(0);
        let log = Self(Arc::new(Shared {
            level: options.level,
            queue,
            ended,
            stats: stats.clone(),
            recent: Recent::default(),
        }));
        (log, Writer { options, items, stats, told: 0, _ending: ending })
    }

    /// A log that keeps its events for a test, every level of them.
    pub fn memory() -> (Self, Memory) {
        let options = Options { level: Level::Debug, ..Options::default() };
        let (log, writer) = Self::new(options, Arc::default());
        (log, Memory(writer.items))
    }

    /// A log that nobody reads.
    pub fn discard() -> Self {
        Self::memory().0
    }

    /// Says `event`. Never waits: without room the line is counted as lost.
    pub fn event(&self, event: Event) {
        self.say(event.level(), event);
    }

    /// What was said lately, whatever the level.
    pub fn recent(&self) -> &Recent {
        &self.0.recent
    }

    /// True when events of `level` are written; for work that only a debug line needs.
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.0.level
    }

    /// Says `event` at a level that is not the catalogue's.
    fn say(&self, level: Level, event: Event) {
        let at = clock::now();
        self.0.stats.log_events[level as usize].add(1);
        self.0.recent.note(at, &event);
        if !self.enabled(level) {
            return;
        }
        let said = Said { at, level, event, repeated: 0 };
        if self.0.queue.try_send(Item::Said(said)).is_err() {
            self.0.stats.log_lines_lost.add(1);
        }
    }

    /// Ends the log: what was said before is written, then the writer returns. Waits until `deadline` at most; `false` when
    /// stderr did not take everything by then. Events after this are lost.
    pub fn close(&self, deadline: Instant) -> bool {
        // A full queue that stays full is a blocked stderr.
        self.0.queue.send_deadline(Item::Close, deadline).is_ok()
            && self.0.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }
}

/// The events that a test's rooms said; see [`Log::memory`].
#[derive(Debug)]
pub struct Memory(Receiver<Item>);

impl Memory {
    /// Takes all events said since the last call, in order.
    pub fn take(&self) -> Vec<Event> {
        let events = self.0.try_iter().filter_map(|item| match item {
            Item::Said(said) => Some(said.event),
            Item::Close => None,
        });
        events.collect()
    }
}

/// The only place that writes stderr.
#[derive(Debug)]
pub struct Writer {
    options: Options,
    items: Receiver<Item>,
    stats: Arc<Stats>,
    /// How many of the lost lines were spoken of.
    told: u64,
    /// Dropped with the writer, which [`Log::close`] waits for.
    _ending: Sender<()>,
}

impl Writer {
    /// Writes until [`Log::close`] or until the last [`Log`] is gone. `out` may block or fail as it likes: then lines are
    /// lost and counted, and nobody waits but the calling thread.
    pub fn run(mut self, mut out: impl Write) {
        let mut repeats = Repeats::default();
        loop {
            let item = match repeats.due() {
                Some(due) => self.items.recv_deadline(due),
                None => self.items.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let now = Instant::now();
            match item {
                Ok(Item::Said(said)) => {
                    if let Some(said) = repeats.admit(said, now) {
                        self.write(&mut out, &said);
                    }
                }
                Ok(Item::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            for said in repeats.ripe(now) {
                self.write(&mut out, &said);
            }
            self.tell_lost(&mut out);
        }
        for said in repeats.rest() {
            self.write(&mut out, &said);
        }
        self.tell_lost(&mut out);
    }

    fn write(&mut self, out: &mut impl Write, said: &Said) -> bool {
        let line = line::render(said, &self.options);
        let written = write_patiently(out, line.as_bytes()).is_ok();
        if !written {
            self.stats.log_lines_lost.add(1);
        }
        written
    }

    /// Says how many lines were lost since this was said last, once there is room behind the lines that were kept.
    fn tell_lost(&mut self, out: &mut impl Write) {
        let lost = self.stats.log_lines_lost.get();
        if lost == self.told || !self.items.is_empty() {
            return;
        }
        let event = Event::LogLinesLost { count: lost - self.told };
        let said = Said { at: clock::now(), level: event.level(), event, repeated: 0 };
        if self.write(out, &said) {
            self.told = lost;
        }
    }
}

/// `write_all` and `flush` that also wait for a terminal which somebody else made non-blocking.
fn write_patiently(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => bytes = &bytes[taken..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::park_timeout(RETRY),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

/// Pause before a non-blocking stderr is tried again: short for a person, long for a CPU.
const RETRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// Collects lines, and takes none while shut.
    #[derive(Clone, Default)]
    struct Valve(Arc<Pipe>);

    #[derive(Default)]
    struct Pipe {
        shut: Mutex<bool>,
        changed: Condvar,
        text: Mutex<Vec<u8>>,
    }

    impl Valve {
        fn shut(&self, shut: bool) {
            *self.0.shut.lock().unwrap() = shut;
            self.0.changed.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.text.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Valve {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.changed.wait_while(self.0.shut.lock().unwrap(), |shut| *shut));
            self.0.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn options(level: Level) -> Options {
        Options { level, lang: Lang::En, ..Options::default() }
    }

    #[test]
    fn a_blocked_stderr_stops_nobody_and_the_loss_is_said() {
        let stats = Arc::new(Stats::default());
        let (log, writer) = Log::new(options(Level::Info), stats.clone());
        let valve = Valve::default();
        valve.shut(true);
        let out = valve.clone();
        let thread = std::thread::spawn(move || writer.run(out));
        for files in 0..5000 {
            log.event(Event::FilesWait { files });
        }
        let lost = stats.log_lines_lost.get();
        assert!((3900..=3976).contains(&lost), "the queue holds 1024, the writer one: {lost}");
        assert!(!log.close(Instant::now() + Duration::from_millis(300)), "a blocked stderr is not waited for");
        valve.shut(false);
        drop(log);
        thread.join().unwrap();
        let text = valve.text();
        assert_eq!(text.lines().count() as u64, 5000 - lost + 1);
        assert!(text.trim_end().ends_with(&format!("{lost} log lines were lost because stderr took none")), "{text}");
    }

    #[test]
    fn close_writes_what_was_said_before_it() {
        let (log, writer) = Log::new(options(Level::Info), Arc::default());
        let valve = Valve::default();
        let out = valve.clone();
        log.event(Event::InputEnded);
        let thread = std::thread::spawn(move || writer.run(out));
        let other = log.clone();
        assert!(log.close(Instant::now() + Duration::from_secs(30)));
        other.event(Event::InputEnded);
        thread.join().unwrap();
        assert_eq!(valve.text().lines().count(), 1);
    }

    #[test]
    fn the_level_filters() {
        let (log, writer) = Log::new(options(Level::Error), Arc::default());
        log.event(Event::InputEnded);
        log.event(Event::FilesWait { files: 1 });
        assert!(writer.items.is_empty());
        log.event(Event::StageFailed { stage: "pack", error: "x".into() });
        assert_eq!(writer.items.len(), 1);
        assert_eq!(Level::parse("WARN"), Some(Level::Warn));
        assert_eq!(Level::parse("warning"), None);
    }

    #[test]
    fn memory_keeps_events_for_tests() {
        let (log, memory) = Log::memory();
        log.event(Event::InputEnded);
        assert_eq!(memory.take(), [Event::InputEnded]);
        assert_eq!(memory.take(), []);
        Log::discard().event(Event::InputEnded);
    }
}
