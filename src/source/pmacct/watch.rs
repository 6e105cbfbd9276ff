//! The loop around the state table of `supervise`: gathers events, lets the table decide, does what it says.
//!
//! One thread reads what the daemons say, reaps them, signals them and measures what gets lost before the rows. It never waits
//! for the pipeline and never longer than [`TURN`] for anything, so a pipeline that stands still cannot keep a daemon from
//! being supervised, nor a full stderr pipe from being read.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::DateTime;
use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::Plan;
use super::children::{self, Group, Reaped};
use super::kernel;
use super::place::Place;
use super::socket::{self, Socket};
use super::speech::{self, Level, Meaning};
use crate::clock;
use crate::log::{Event as Said, Log};
use crate::shutdown::Shutdown;
use crate::stats::{Chain, Number};
use crate::supervise::{Action, Daemon, Event, Exit, Life, Outcome, State, step};

/// The longest wait of the loop. It bounds how late a death is noticed, which nothing announces on a descriptor.
const TURN: Duration = Duration::from_millis(100);
/// A daemon that is younger than this may not have its signal handlers yet: SIGUSR1 would end it.
const GROWN_UP: Duration = Duration::from_secs(5);
/// A signal may take so long to its process on a busy machine.
const SIGNAL_LATENCY: Duration = Duration::from_millis(250);
/// Counters of so many interfaces and exporters are told apart; further ones are not counted.
const METERS: usize = 1024;

/// What the loop needs of its surroundings.
pub(super) struct Watch<'a> {
    pub(super) plan: &'a Plan,
    pub(super) place: &'a Place,
    pub(super) log: &'a Log,
    pub(super) chain: &'a Chain,
    pub(super) stop: &'a Shutdown,
    /// Where each new life of the collector sends the pipe of its rows.
    pub(super) lives: Sender<OwnedFd>,
    /// Set by the reader when nobody takes rows any more.
    pub(super) reader_gone: &'a AtomicBool,
}

/// How it ended, and the last complaint that a daemon had.
#[derive(Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) last_words: String,
}

impl Watch<'_> {
    /// Runs both daemons until the table says that all is over.
    pub(super) fn run(self) -> End {
        let now = Instant::now();
        let groups = [None, None];
        let mut turn = Turn {
            state: State::new(now),
            groups,
            pending: VecDeque::from([Event::Tick]),
            starts: [0; 2],
            started: [now; 2],
            meters: BTreeMap::new(),
            measured: now,
            last_words: String::new(),
            is_stop_told: false,
            is_reader_told: false,
            is_version_told: false,
            flushed_in: 0,
            printing: None,
            window: self.plan.split.window_secs,
            at: self,
        };
        loop {
            turn.gather();
            if let Some(outcome) = turn.settle() {
                return End { outcome, last_words: turn.last_words };
            }
            turn.measure_by_time();
            turn.wait();
        }
    }
}

struct Turn<'a> {
    at: Watch<'a>,
    state: State,
    /// In the order of [`Daemon::BOTH`].
    groups: [Option<Group>; 2],
    pending: VecDeque<Event>,
    starts: [u64; 2],
    started: [Instant; 2],
    /// Counters as the daemons and the kernel last told them, by daemon and name.
    meters: BTreeMap<(Daemon, String), u64>,
    measured: Instant,
    last_words: String,
    is_stop_told: bool,
    is_reader_told: bool,
    is_version_told: bool,
    /// The life, counted from 1, in which the exporter's plugin last began to flush.
    flushed_in: u64,
    /// When the print plugin last began to print, seconds since 1970.
    printing: Option<u64>,
    /// Time from one printing to the next, seconds.
    window: u64,
}

fn since_1970() -> Duration {
    clock::now().signed_duration_since(DateTime::UNIX_EPOCH).to_std().unwrap_or_default()
}

/// Whether a window of this length ends two seconds after the second `now`, when one has ended in the second `printing`.
/// Windows of one second leave no choice.
fn is_two_before_a_window(now: u64, printing: u64, window: u64) -> bool {
    window > 1 && (now + 2).abs_diff(printing).is_multiple_of(window)
}

fn slot(daemon: Daemon) -> usize {
    match daemon {
        Daemon::Collector => 0,
        Daemon::Exporter => 1,
    }
}

impl Turn<'_> {
    /// Finds out what has happened since the last turn.
    fn gather(&mut self) {
        for daemon in Daemon::BOTH {
            self.listen_to(daemon);
        }
        for daemon in Daemon::BOTH {
            self.reap(daemon);
        }
        if rustix::process::getpid().is_init() {
            for (daemon, reaped) in children::reap_strays(&mut self.groups) {
                self.reaped(daemon, reaped);
            }
        }
        if !self.is_stop_told && self.at.stop.is_tripped() {
            self.is_stop_told = true;
            self.measure();
            self.pending.push_back(Event::Stop);
        }
        if !self.is_reader_told && self.at.reader_gone.load(Ordering::Acquire) {
            self.is_reader_told = true;
            self.pending.push_back(Event::ReaderGone);
        }
        if self.state.is_draining()
            && self.listening_sockets().iter().all(|socket| socket.waiting == 0)
            && !self.would_meet_a_window()
        {
            self.pending.push_back(Event::Drained);
        }
        self.pending.push_back(Event::Tick);
    }

    /// Whether this is a bad moment to ask the collector.
    ///
    /// Its core wakes the print plugin at once and passes the signal on after exactly two seconds. A plugin that is woken prints
    /// so many whole seconds later as its deadline is away, counted from one second of the clock to the other; when that is two,
    /// the signal arrives while it forks its writer, finds the allocator locked, and the plugin stands still for ever (1.7.7,
    /// seen in 4 of 148 stops with a window of two seconds).
    fn would_meet_a_window(&self) -> bool {
        let Some(printing) = self.printing else { return false };
        let now = since_1970();
        [now, now + SIGNAL_LATENCY].iter().any(|now| is_two_before_a_window(now.as_secs(), printing, self.window))
    }

    /// Lets the table take what has happened; gives the outcome at the end.
    fn settle(&mut self) -> Option<Outcome> {
        while let Some(event) = self.pending.pop_front() {
            let (state, actions) = step(self.state, event, Instant::now(), &self.at.plan.limits);
            self.state = state;
            for action in actions {
                match action {
                    Action::Start(daemon) => self.start(daemon),
                    Action::Ask(daemon) => self.ask(daemon),
                    Action::Kill(daemon) => self.kill(daemon),
                    Action::Rest { daemon, failures, pause } => self.at.log.event(Said::DaemonRestart {
                        daemon: daemon.program(),
                        failures: failures.into(),
                        limit: self.at.plan.limits.failures_allowed.into(),
                        restart_in: pause,
                    }),
                    Action::End(outcome) => return Some(outcome),
                }
            }
        }
        None
    }

    fn start(&mut self, daemon: Daemon) {
        if let Err(error) = self.try_start(daemon) {
            self.last_words.clone_from(&error);
            self.at.log.event(Said::DaemonStartFailed { daemon: daemon.program(), error });
            self.pending.push_back(Event::StartFailed(daemon));
        }
    }

    fn try_start(&mut self, daemon: Daemon) -> Result<(), String> {
        if daemon == Daemon::Collector {
            self.check_port()?;
        }
        let program = &self.at.plan.programs[slot(daemon)];
        let conf = self.at.place.conf(daemon);
        let fail = |error: std::io::Error| format!("{}: {error}", program.display());
        let (group, rows) = Group::start(daemon, program, &conf).map_err(fail)?;
        let pid = group.core().as_raw_nonzero().get();
        self.at.log.event(Said::DaemonStarted {
            daemon: daemon.program(),
            path: program.clone(),
            pid: u64::from(pid.unsigned_abs()),
        });
        self.groups[slot(daemon)] = Some(group);
        self.is_up(daemon).set(1);
        self.started[slot(daemon)] = Instant::now();
        self.meters.retain(|(whose, _), _| *whose != daemon);
        if self.starts[slot(daemon)] > 0 {
            match daemon {
                Daemon::Collector => self.at.chain.collector_restarts.add(1),
                Daemon::Exporter => self.at.chain.exporter_restarts.add(1),
            }
        }
        self.starts[slot(daemon)] += 1;
        if let Some(rows) = rows {
            // The channel holds more lives than the table allows failures in a row. If it is full all the same, the reader
            // has not come to the last life's rows yet; dropping the pipe ends this one with its own error.
            let _ = self.at.lives.try_send(rows);
        }
        Ok(())
    }

    fn is_up(&self, daemon: Daemon) -> &Number {
        match daemon {
            Daemon::Collector => &self.at.chain.collector_up,
            Daemon::Exporter => &self.at.chain.exporter_up,
        }
    }

    /// Two collectors on one port share the records in silence, so the second one is not started.
    fn check_port(&self) -> Result<(), String> {
        let Some(other) = self.listening_sockets().first().copied() else { return Ok(()) };
        let who = kernel::holder(other.inode).unwrap_or_else(|| "another process".to_owned());
        Err(format!(
            "UDP {} is taken by {who}; end it, or choose another nfacctd_port and nfprobe_receiver",
            other.local
        ))
    }

    fn ask(&self, daemon: Daemon) {
        let Some(group) = &self.groups[slot(daemon)] else { return };
        group.signal(match daemon {
            // The core flushes and ends; the group must not get it, its plugins would die of it.
            Daemon::Exporter => Signal::TERM,
            // SIGTERM would wait for the next datagram.
            Daemon::Collector => Signal::INT,
        });
    }

    fn kill(&self, daemon: Daemon) {
        let Some(group) = &self.groups[slot(daemon)] else { return };
        if !group.is_core_gone() {
            self.at.log.event(Said::DaemonKilled { daemon: daemon.program() });
        }
        group.kill();
    }

    fn reap(&mut self, daemon: Daemon) {
        let Some(group) = &mut self.groups[slot(daemon)] else { return };
        for reaped in group.reap() {
            self.reaped(daemon, reaped);
        }
    }

    fn reaped(&mut self, daemon: Daemon, reaped: Reaped) {
        // Its last words come before its death.
        self.listen_to(daemon);
        match reaped {
            Reaped::Core(status) => {
                self.is_up(daemon).set(0);
                let how = children::describe(status);
                // Its core ends with 1 when it learns of the plugin's end in time, with 0 when it does not; all was sent in
                // both cases, and a capture file that is read again would double every row.
                let has_flushed = daemon == Daemon::Exporter && self.flushed_in == self.starts[slot(daemon)];
                let exit = if has_flushed { Exit::Clean } else { children::exit_of(status) };
                let was_asked = matches!(self.state.seat(daemon).life, Life::Asked { .. } | Life::Killed { .. });
                let has_read_all =
                    daemon == Daemon::Exporter && exit == Exit::Clean && self.at.plan.limits.exporter_may_end;
                self.at.log.event(if was_asked || has_read_all {
                    Said::Trace { target: daemon.program().to_owned(), text: format!("ended: {how}") }
                } else {
                    Said::DaemonDied { daemon: daemon.program(), how, ran: self.started[slot(daemon)].elapsed() }
                });
                self.pending.push_back(Event::CoreGone(daemon, exit));
            }
            Reaped::Last => {
                self.groups[slot(daemon)] = None;
                self.pending.push_back(Event::GroupGone(daemon));
            }
        }
    }

    /// Takes what the daemon has said.
    fn listen_to(&mut self, daemon: Daemon) {
        let Some(mut group) = self.groups[slot(daemon)].take() else { return };
        group.lines.take(|line| self.hear(daemon, line));
        self.groups[slot(daemon)] = Some(group);
    }

    fn hear(&mut self, daemon: Daemon, line: &str) {
        let said = speech::read(line);
        match said.meaning {
            Meaning::Listening if daemon == Daemon::Collector => self.pending.push_back(Event::Listening),
            Meaning::Version(version) => self.tell_version(version),
            Meaning::ReceiveBuffer { obtained, target } => self.meter_set(daemon, "buffer", obtained / 2, target),
            Meaning::WritersExhausted => {
                self.at.chain.windows_lost.add(1);
                return self.at.log.event(Said::WindowLost { total: self.at.chain.windows_lost.get() });
            }
            Meaning::Flushing if daemon == Daemon::Exporter => self.flushed_in = self.starts[slot(daemon)],
            Meaning::MissingData => {
                let text = said.text.to_owned();
                return self.at.log.event(Said::RingOverflowed { daemon: daemon.program(), text });
            }
            Meaning::Captured { interface, received, dropped } => {
                self.grow(daemon, &format!("captured {interface}"), received, &self.at.chain.captured_packets);
                self.lose(daemon, &format!("dropped {interface}"), dropped, "capture", &self.at.chain.capture_drops);
            }
            Meaning::Collected { agent, datagrams, gaps, .. } => {
                self.grow(daemon, &format!("datagrams {agent}"), datagrams, &self.at.chain.datagrams);
                self.lose(daemon, &format!("gaps {agent}"), gaps, "sequence", &self.at.chain.sequence_gaps);
            }
            Meaning::Discarded(count) => {
                self.lose(daemon, "discarded", count, "templates", &self.at.chain.datagrams_discarded);
            }
            Meaning::Printing => self.printing = Some(since_1970().as_secs()),
            Meaning::Printed { rows, .. } => self.at.chain.rows_printed.add(rows),
            _ => {}
        }
        self.pass_on(daemon, said.level, said.who, said.text);
        if said.meaning == Meaning::Listening {
            self.tell_listening();
        }
    }

    /// Puts a daemon's line into our log, with the operator's file in place of ours: the line numbers are the same.
    fn pass_on(&mut self, daemon: Daemon, level: Level, who: &str, text: &str) {
        let ours = self.at.place.conf(daemon);
        let text = text.replace(&*ours.to_string_lossy(), &self.at.plan.config_path.to_string_lossy());
        let text = if who.is_empty() || who.ends_with("/core") { text } else { format!("{who}: {text}") };
        let text = self.at.plan.split.secrets.iter().fold(text, |text, secret| secret.mask(&text));
        let daemon = daemon.program();
        if level >= Level::Warn {
            self.last_words.clone_from(&text);
        }
        self.at.log.event(match level {
            Level::Debug => Said::Trace { target: daemon.to_owned(), text },
            Level::Info => Said::DaemonSays { daemon, text },
            Level::Warn => Said::DaemonWarns { daemon, text },
            Level::Error => Said::DaemonFails { daemon, text },
        });
    }

    fn tell_version(&mut self, version: &str) {
        if !self.is_version_told && speech::has_stale_stamps(version) {
            self.at.log.event(Said::StaleStamps { version: version.to_owned() });
        }
        self.is_version_told = true;
    }

    /// Says where the collector listens and how much its socket holds, after trying to make it hold what was asked for.
    fn tell_listening(&self) {
        let meter = |name: &str| self.meters.get(&(Daemon::Collector, name.to_owned())).copied().unwrap_or(0);
        let (granted, wanted) = (meter("buffer"), meter("buffer target"));
        let raised = (granted < wanted).then(|| self.raise_buffer(wanted)).flatten();
        let bytes = raised.unwrap_or(granted);
        let address = self.at.plan.split.listen.to_string();
        self.at.log.event(Said::CollectorListens { address, buffer_bytes: bytes });
        if bytes < wanted {
            self.at.log.event(Said::ReceiveBufferSmall { bytes, wanted_bytes: wanted });
        }
    }

    fn raise_buffer(&self, wanted: u64) -> Option<u64> {
        let core = self.groups[slot(Daemon::Collector)].as_ref()?.core();
        let inode = self.listening_sockets().first()?.inode;
        kernel::raise_receive_buffer(core, inode, usize::try_from(wanted).ok()?).ok()
    }

    /// The sockets that get records sent to the collector's address; one when all is well.
    fn listening_sockets(&self) -> Vec<Socket> {
        let listen = self.at.plan.split.listen;
        kernel::sockets().into_iter().filter(|found| !found.connected && socket::shares(found.local, listen)).collect()
    }

    fn measure_by_time(&mut self) {
        if self.measured.elapsed() >= self.at.plan.measure_every {
            self.measure();
        }
    }

    /// Asks the daemons and the kernel for their counters. The daemons' answers come as lines.
    fn measure(&mut self) {
        self.measured = Instant::now();
        for daemon in Daemon::BOTH {
            let is_grown_up = matches!(self.state.seat(daemon).life, Life::Up { since } if since.elapsed() >= GROWN_UP);
            if let Some(group) = self.groups[slot(daemon)].as_ref().filter(|_| is_grown_up) {
                group.signal(Signal::USR1);
            }
        }
        let sockets = self.listening_sockets();
        if self.groups[slot(Daemon::Collector)].is_some() {
            for socket in &sockets {
                let name = format!("socket {}", socket.inode);
                let drops = &self.at.chain.datagram_drops;
                self.lose(Daemon::Collector, &name, socket.drops, "datagrams", drops);
            }
        }
        if sockets.len() > 1 {
            let names: Vec<String> = sockets.iter().filter_map(|socket| kernel::holder(socket.inode)).collect();
            let address = self.at.plan.split.listen.to_string();
            self.at.log.event(Said::PortShared { address, who: names.join(", ") });
        }
    }

    /// Adds to `total` what a counter of one life has grown by since it was last told.
    fn grow(&mut self, daemon: Daemon, name: &str, value: u64, total: &Number) -> u64 {
        let key = (daemon, name.to_owned());
        if !self.meters.contains_key(&key) && self.meters.len() >= METERS {
            return 0;
        }
        let before = self.meters.insert(key, value).unwrap_or(0);
        let grown = value.saturating_sub(before);
        total.add(grown);
        grown
    }

    fn lose(&mut self, daemon: Daemon, name: &str, value: u64, place: &'static str, total: &Number) {
        let count = self.grow(daemon, name, value, total);
        if count > 0 {
            self.at.log.event(Said::ChainLoss { place, count, total: total.get() });
        }
    }

    fn meter_set(&mut self, daemon: Daemon, name: &str, value: u64, target: u64) {
        self.meters.insert((daemon, name.to_owned()), value);
        self.meters.insert((daemon, format!("{name} target")), target);
    }

    /// Waits for the next thing to happen.
    fn wait(&self) {
        let wake = self.state.wake_at().map_or(TURN, |at| at.saturating_duration_since(Instant::now()).min(TURN));
        let timeout = Timespec::try_from(wake).ok();
        let said = self.groups.iter().flatten().filter_map(|group| group.lines.fd());
        let mut fds: Vec<PollFd<'_>> = said.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if !self.is_stop_told {
            fds.push(PollFd::from_borrowed_fd(self.at.stop.fd(), PollFlags::IN));
        }
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seconds_before_a_window_are_known() {
        let bad = |window| (100..106_u64).filter(|now| is_two_before_a_window(*now, 100, window)).collect::<Vec<_>>();
        assert!(bad(1).is_empty());
        assert_eq!(bad(2), [100, 102, 104]);
        assert_eq!(bad(3), [101, 104]);
        assert_eq!(bad(5), [103]);
        assert!(bad(60).is_empty());
        assert!(is_two_before_a_window(158, 100, 60));
    }
}
