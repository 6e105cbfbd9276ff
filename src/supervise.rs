//! The life of the two pmacct daemons as a table: (State, Event, now) → (State, actions).
//!
//! # The machine in prose
//!
//! Two daemons work as a chain. The *exporter* (`pmacctd`) watches an interface and sends flow records to a UDP port; the
//! *collector* (`nfacctd`) listens there and prints rows. Each is a group of processes: a core, which we start and signal,
//! and plugins and writers, which the core starts and which alone hold the flows that are not printed yet.
//!
//! A daemon walks through these stations ([`Life`]):
//!
//! ```text
//!             Start                Listening                 Ask
//!   Due ─────────────▶ Starting ─────────────▶ Up ─────────────────▶ Asked
//!    ▲                    │                     │  (Draining first)    │
//!    │                    └──── core is gone ───┴──────────────────────┤
//!    │  again                                                          ▼
//!    └──────────────── group is empty ──────── Leaving ── too long ─▶ Killed
//!                             │
//!                             └── not again ──▶ Off
//! ```
//!
//! * Order of start: the exporter starts only while the collector listens, because an exporter does not notice that nobody
//!   takes its records. A running exporter is left alone when the collector dies later: ending it would flush its flows
//!   into nothing.
//! * Order of stop: the exporter's core is asked (it flushes), and only when the last process of its group is gone the
//!   collector's turn comes. Before it is asked, its receive queue is given a moment to run empty (`Draining`).
//! * A group is killed only when nothing in it can flush any more: at once after the exporter's core died uncleanly, a short
//!   while after the collector's core died (a writer may be finishing its window), and when a deadline has passed.
//! * A daemon is never started while a process of its former group lives: a plugin inherits the core's UDP socket, and the
//!   kernel would go on giving it a share of the records.
//! * A daemon that ends without being asked has failed. It is started again after 1, 2, 4, … seconds, never later than
//!   `longest_pause`. A run of `stable_after` wipes the slate. `failures_allowed` failures in a row end the whole source.
//! * An exporter that reads a capture file may end by itself: that is the end of the input, not a failure.
//!
//! # Promises
//!
//! From any state, [`Event::Stop`] leads to [`Action::End`] no later than `stop_within` plus the time the kernel takes to
//! remove killed processes, whatever the daemons do. `End` comes once, and only when no process is left.
//!
//! This file reads no clock, starts nothing and signals nobody.

use std::time::{Duration, Instant};

/// One of the two daemons, named by its part in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Daemon {
    /// `nfacctd`: receives flow records and prints rows.
    Collector,
    /// `pmacctd`: watches the interface and sends flow records.
    Exporter,
}

impl Daemon {
    /// Both daemons, in the order of their start.
    pub const BOTH: [Self; 2] = [Self::Collector, Self::Exporter];

    /// The name of the program, as operators know it.
    pub fn program(self) -> &'static str {
        match self {
            Self::Collector => "nfacctd",
            Self::Exporter => "pmacctd",
        }
    }
}

/// How a core process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Exit code 0: everything it had was flushed.
    Clean,
    /// Another exit code, or a signal.
    Failed,
}

/// What has happened outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Nothing but the passing of time.
    Tick,
    /// The collector says that it waits for records.
    Listening,
    /// The daemon could not be started at all.
    StartFailed(Daemon),
    /// The core process has ended and was reaped.
    CoreGone(Daemon, Exit),
    /// No process of the daemon's group is left. Comes after `CoreGone`.
    GroupGone(Daemon),
    /// The collector's receive queue is empty.
    Drained,
    /// The operator wants the end.
    Stop,
    /// Nobody reads the collector's rows any more: flushing has lost its sense.
    ReaderGone,
}

/// What the caller has to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Start the daemon in a process group of its own.
    Start(Daemon),
    /// Send the core the signal that makes it flush and end: SIGTERM for the exporter, SIGINT for the collector.
    Ask(Daemon),
    /// SIGKILL to every process of the daemon's group.
    Kill(Daemon),
    /// Nothing to do, but worth a line in the log: the daemon failed and will be started again after `pause`.
    Rest {
        /// Who failed.
        daemon: Daemon,
        /// Failures in a row, this one included.
        failures: u32,
        /// Time from the failure to the next start.
        pause: Duration,
    },
    /// All is over; nothing is left to reap.
    End(Outcome),
}

/// Why the source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The operator asked for it.
    Stopped,
    /// The exporter has read its capture file to the end.
    InputEnded,
    /// This daemon failed `failures_allowed` times in a row.
    GaveUp(Daemon),
    /// Nobody read the rows any more.
    ReaderGone,
}

/// The times and counts that the machine goes by.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long the collector may take from its start until it listens.
    pub start_within: Duration,
    /// A run of this length is a success: the count of failures begins again.
    pub stable_after: Duration,
    /// Pause after the first failure; doubled with every further one.
    pub first_pause: Duration,
    /// Upper bound of the pause.
    pub longest_pause: Duration,
    /// So many failures in a row end the source. At least 1.
    pub failures_allowed: u32,
    /// After a core died, its plugins and writers have this long to finish what they were writing.
    pub linger: Duration,
    /// How long the collector's receive queue may take to run empty before the collector is asked to end.
    pub drain_within: Duration,
    /// How long the exporter may take to flush and end.
    pub exporter_within: Duration,
    /// How long the whole stop may take when the operator asked for it.
    pub stop_within: Duration,
    /// How long the whole stop may take when nobody is in a hurry (end of the input, giving up).
    pub unhurried_stop_within: Duration,
    /// Whether the exporter reads a capture file, so that its clean exit is the end of the input.
    pub exporter_may_end: bool,
}

impl Default for Limits {
    /// The daemons need 2.1 s each to end (measured, 1.7.7 and 1.7.9); the bounds leave room for slow machines.
    fn default() -> Self {
        Self {
            start_within: Duration::from_secs(15),
            stable_after: Duration::from_mins(1),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_mins(1),
            failures_allowed: 10,
            linger: Duration::from_secs(1),
            drain_within: Duration::from_millis(1200),
            exporter_within: Duration::from_secs(4),
            stop_within: Duration::from_secs(8),
            unhurried_stop_within: Duration::from_mins(5),
            exporter_may_end: false,
        }
    }
}

impl Limits {
    /// The pause after so many failures in a row.
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.first_pause.saturating_mul(1 << doublings).min(self.longest_pause)
    }
}

/// Where a daemon stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// No process, and none is wanted.
    Off,
    /// No process; to be started at this time, or later when the order of start asks for it.
    Due(Instant),
    /// The collector has been started and does not listen yet.
    Starting {
        /// When its patience ends.
        deadline: Instant,
    },
    /// At work.
    Up {
        /// Since when.
        since: Instant,
    },
    /// The collector works off its receive queue before it is asked to end.
    Draining {
        /// When it is asked in any case.
        deadline: Instant,
    },
    /// The core has been asked to end and flushes.
    Asked {
        /// When its patience ends.
        deadline: Instant,
    },
    /// The core is gone; the rest of the group may be writing.
    Leaving {
        /// When the group is killed.
        deadline: Instant,
        /// When to start again; `None`: not again.
        again: Option<Instant>,
    },
    /// The group was killed; the last process has not been reaped yet.
    Killed {
        /// When to start again; `None`: not again.
        again: Option<Instant>,
    },
}

/// One daemon: its station and its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    /// Where it stands.
    pub life: Life,
    /// Failures in a row.
    pub failures: u32,
}

/// What the machine as a whole is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Keep both daemons up.
    Running,
    /// Bring both down, the exporter first.
    Stopping {
        /// What to report at the end.
        outcome: Outcome,
        /// When everything that is left is killed.
        deadline: Instant,
    },
    /// [`Action::End`] has been given.
    Over,
}

/// The state of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// `nfacctd`.
    pub collector: Seat,
    /// `pmacctd`.
    pub exporter: Seat,
    /// Up or down.
    pub phase: Phase,
}

impl State {
    /// Both daemons are due; the first [`Event::Tick`] starts the collector.
    pub fn new(now: Instant) -> Self {
        let seat = Seat { life: Life::Due(now), failures: 0 };
        Self { collector: seat, exporter: seat, phase: Phase::Running }
    }

    /// One daemon's seat.
    pub fn seat(&self, daemon: Daemon) -> &Seat {
        match daemon {
            Daemon::Collector => &self.collector,
            Daemon::Exporter => &self.exporter,
        }
    }

    fn seat_mut(&mut self, daemon: Daemon) -> &mut Seat {
        match daemon {
            Daemon::Collector => &mut self.collector,
            Daemon::Exporter => &mut self.exporter,
        }
    }

    /// Whether the caller should watch for an empty receive queue and send [`Event::Drained`].
    pub fn is_draining(&self) -> bool {
        matches!(self.collector.life, Life::Draining { .. })
    }

    /// The next time at which [`Event::Tick`] changes something; `None` when only other events can.
    pub fn wake_at(&self) -> Option<Instant> {
        let wake = |life: Life| match life {
            Life::Due(at) => Some(at),
            Life::Starting { deadline }
            | Life::Draining { deadline }
            | Life::Asked { deadline }
            | Life::Leaving { deadline, .. } => Some(deadline),
            Life::Off | Life::Up { .. } | Life::Killed { .. } => None,
        };
        // An exporter that is due waits for a collector that is up: until then its own time changes nothing.
        let is_blocked = matches!((self.exporter.life, self.collector.life), (Life::Due(_), life) if !matches!(life, Life::Up { .. }));
        let exporter = if is_blocked { None } else { wake(self.exporter.life) };
        [wake(self.collector.life), exporter].into_iter().flatten().min()
    }
}

/// The table: takes one event and gives the next state and what to do about it.
///
/// Events that make no sense in a state (a late `Listening`, a second `Stop`) change nothing.
pub fn step(state: State, event: Event, now: Instant, limits: &Limits) -> (State, Vec<Action>) {
    let mut turn = Turn { state, now, limits, actions: Vec::new() };
    if turn.state.phase != Phase::Over {
        turn.take(event);
        turn.settle();
    }
    (turn.state, turn.actions)
}

/// One call of [`step`], while it is being worked out.
struct Turn<'a> {
    state: State,
    now: Instant,
    limits: &'a Limits,
    actions: Vec<Action>,
}

impl Turn<'_> {
    /// First half: what the event itself changes.
    fn take(&mut self, event: Event) {
        use Daemon::{Collector, Exporter};
        match (event, self.state.collector.life) {
            (Event::Listening, Life::Starting { .. }) => self.state.collector.life = Life::Up { since: self.now },
            (Event::Drained, Life::Draining { .. }) => self.ask(Collector),
            (Event::Tick | Event::Listening | Event::Drained, _) => {}
            (Event::Stop, _) => self.stop(Outcome::Stopped, self.limits.stop_within),
            (Event::ReaderGone, _) => {
                self.stop(Outcome::ReaderGone, Duration::ZERO);
                self.kill(Exporter);
                self.kill(Collector);
            }
            (Event::StartFailed(daemon), _) => {
                let again = self.failed(daemon);
                self.empty(daemon, again);
            }
            (Event::CoreGone(daemon, exit), _) => self.core_gone(daemon, exit),
            (Event::GroupGone(daemon), _) => self.group_gone(daemon),
        }
    }

    fn core_gone(&mut self, daemon: Daemon, exit: Exit) {
        let (again, latest) = match self.state.seat(daemon).life {
            Life::Starting { .. } | Life::Up { .. } | Life::Draining { .. } => {
                (self.ended_unasked(daemon, exit), self.now + self.limits.linger)
            }
            Life::Asked { deadline } => (None, deadline),
            Life::Off | Life::Due(_) | Life::Leaving { .. } | Life::Killed { .. } => return,
        };
        // An exporter's plugin cannot flush without its core; a collector's writer can finish the window it has begun.
        let deadline = match (daemon, exit) {
            (Daemon::Exporter, Exit::Failed) => self.now,
            (Daemon::Collector, Exit::Failed) => latest.min(self.now + self.limits.linger),
            (_, Exit::Clean) => latest,
        };
        self.state.seat_mut(daemon).life = Life::Leaving { deadline, again };
    }

    fn group_gone(&mut self, daemon: Daemon) {
        let again = match self.state.seat(daemon).life {
            Life::Leaving { again, .. } | Life::Killed { again } => again,
            Life::Starting { .. } | Life::Up { .. } | Life::Draining { .. } => self.ended_unasked(daemon, Exit::Failed),
            Life::Asked { .. } => None,
            Life::Off | Life::Due(_) => return,
        };
        self.empty(daemon, again);
    }

    /// The core ended by itself: a failure, unless a capture file has come to its end. Gives the time of the next start.
    fn ended_unasked(&mut self, daemon: Daemon, exit: Exit) -> Option<Instant> {
        if daemon == Daemon::Exporter && exit == Exit::Clean && self.limits.exporter_may_end {
            self.stop(Outcome::InputEnded, self.limits.unhurried_stop_within);
            return None;
        }
        self.failed(daemon)
    }

    /// Counts a failure and gives the time of the next start, or ends the source when there were too many.
    fn failed(&mut self, daemon: Daemon) -> Option<Instant> {
        if self.state.phase != Phase::Running {
            return None;
        }
        let (now, limits) = (self.now, self.limits);
        let seat = self.state.seat_mut(daemon);
        let was_stable = matches!(seat.life, Life::Up { since } if now >= since + limits.stable_after);
        let failures = if was_stable { 1 } else { seat.failures + 1 };
        seat.failures = failures;
        if failures >= limits.failures_allowed {
            self.stop(Outcome::GaveUp(daemon), limits.unhurried_stop_within);
            return None;
        }
        let pause = limits.pause(failures);
        self.actions.push(Action::Rest { daemon, failures, pause });
        Some(now + pause)
    }

    /// Switches the machine to stopping. A later, more hurried wish only brings the deadline forward.
    fn stop(&mut self, outcome: Outcome, within: Duration) {
        let by = self.now + within;
        self.state.phase = match self.state.phase {
            Phase::Running => Phase::Stopping { outcome, deadline: by },
            Phase::Stopping { outcome, deadline } => Phase::Stopping { outcome, deadline: deadline.min(by) },
            Phase::Over => Phase::Over,
        };
    }

    /// No process of this daemon is left.
    fn empty(&mut self, daemon: Daemon, again: Option<Instant>) {
        self.state.seat_mut(daemon).life = match (self.state.phase, again) {
            (Phase::Running, Some(at)) => Life::Due(at),
            _ => Life::Off,
        };
    }

    fn ask(&mut self, daemon: Daemon) {
        let Phase::Stopping { deadline: all, .. } = self.state.phase else { return };
        let deadline = match daemon {
            Daemon::Collector => all,
            Daemon::Exporter => all.min(self.now + self.limits.exporter_within),
        };
        self.state.seat_mut(daemon).life = Life::Asked { deadline };
        self.actions.push(Action::Ask(daemon));
    }

    fn kill(&mut self, daemon: Daemon) {
        let again = match self.state.seat(daemon).life {
            Life::Leaving { again, .. } => again,
            Life::Starting { .. } => self.failed(daemon),
            Life::Up { .. } | Life::Draining { .. } | Life::Asked { .. } => None,
            Life::Off | Life::Due(_) | Life::Killed { .. } => return,
        };
        self.state.seat_mut(daemon).life = Life::Killed { again };
        self.actions.push(Action::Kill(daemon));
    }

    /// Second half: what time and order ask for, until nothing changes any more.
    fn settle(&mut self) {
        loop {
            let before = self.state;
            for daemon in Daemon::BOTH {
                self.keep_deadline(daemon);
            }
            match self.state.phase {
                Phase::Running => self.keep_up(),
                Phase::Stopping { outcome, deadline } => self.bring_down(outcome, deadline),
                Phase::Over => {}
            }
            if self.state == before {
                return;
            }
        }
    }

    fn keep_deadline(&mut self, daemon: Daemon) {
        match self.state.seat(daemon).life {
            Life::Draining { deadline } if deadline <= self.now => self.ask(daemon),
            Life::Starting { deadline } | Life::Asked { deadline } | Life::Leaving { deadline, .. }
                if deadline <= self.now =>
            {
                self.kill(daemon);
            }
            _ => {}
        }
    }

    fn keep_up(&mut self) {
        let due = |life: Life| matches!(life, Life::Due(at) if at <= self.now);
        if due(self.state.collector.life) {
            self.state.collector.life = Life::Starting { deadline: self.now + self.limits.start_within };
            self.actions.push(Action::Start(Daemon::Collector));
        } else if due(self.state.exporter.life) && matches!(self.state.collector.life, Life::Up { .. }) {
            self.state.exporter.life = Life::Up { since: self.now };
            self.actions.push(Action::Start(Daemon::Exporter));
        }
    }

    fn bring_down(&mut self, outcome: Outcome, by: Instant) {
        for daemon in Daemon::BOTH {
            let life = &mut self.state.seat_mut(daemon).life;
            match life {
                Life::Due(_) => *life = Life::Off,
                Life::Killed { again } => *again = None,
                Life::Asked { deadline } => *deadline = by.min(*deadline),
                Life::Leaving { deadline, again } => (*deadline, *again) = (by.min(*deadline), None),
                Life::Off | Life::Starting { .. } | Life::Up { .. } | Life::Draining { .. } => {}
            }
        }
        match (self.state.exporter.life, self.state.collector.life) {
            (Life::Up { .. }, _) => self.ask(Daemon::Exporter),
            (Life::Off, Life::Up { .. }) => {
                let deadline = by.min(self.now + self.limits.drain_within);
                self.state.collector.life = Life::Draining { deadline };
            }
            // It has received nothing yet.
            (Life::Off, Life::Starting { .. }) => self.ask(Daemon::Collector),
            (Life::Off, Life::Off) => {
                self.state.phase = Phase::Over;
                self.actions.push(Action::End(outcome));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    //! The table is walked through exhaustively: every state that can be reached with small limits, a clock that steps by
    //! whole seconds, and a world in which every process may die or obey at any time, is visited and held to the promises.

    use std::collections::{HashMap, VecDeque};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_collector_that_does_not_come_up_is_waited_for() {
        let (begun, limits) = (Instant::now(), small());
        let (mut state, mut now) = (State::new(begun), begun);
        for _ in 0..2 {
            (state, _) = step(state, Event::Tick, now, &limits);
            (state, _) = step(state, Event::StartFailed(Daemon::Collector), now, &limits);
            let wake = state.wake_at().unwrap();
            assert!(wake > now, "an exporter that is due is no reason to wake at once");
            now = wake;
        }
    }

    fn small() -> Limits {
        Limits {
            start_within: 2 * SECOND,
            stable_after: 3 * SECOND,
            first_pause: SECOND,
            longest_pause: 2 * SECOND,
            failures_allowed: 3,
            linger: SECOND,
            drain_within: SECOND,
            exporter_within: 2 * SECOND,
            stop_within: 4 * SECOND,
            unhurried_stop_within: 5 * SECOND,
            exporter_may_end: false,
        }
    }

    /// What is really running of one daemon.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Group {
        None,
        /// The core and its plugins.
        Whole,
        /// Plugins or writers only.
        Headless,
        /// Dying of SIGKILL: the core, if it is there, and then the rest will go.
        Dying {
            core: bool,
        },
    }

    /// A state of the machine with the world around it, and what the machine has done so far.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct World {
        state: State,
        groups: [Group; 2],
        asked: [bool; 2],
        listening: bool,
        /// Seconds since the first stop event; `None` before it.
        stopping_for: Option<u64>,
        reader_gone: bool,
    }

    fn slot(daemon: Daemon) -> usize {
        daemon as usize
    }

    /// Moves every time in the state back, so that equal situations are equal states; old times are as good as each other.
    fn normal(mut state: State, base: Instant, by: Duration) -> State {
        let floor = base.checked_sub(10 * SECOND).unwrap();
        let shift = |at: Instant| at.checked_sub(by).unwrap().max(floor);
        for daemon in Daemon::BOTH {
            let life = &mut state.seat_mut(daemon).life;
            match life {
                Life::Due(at) => *at = shift(*at).max(base.checked_sub(SECOND).unwrap()),
                Life::Up { since } => *since = shift(*since).max(base.checked_sub(3 * SECOND).unwrap()),
                Life::Starting { deadline } | Life::Draining { deadline } | Life::Asked { deadline } => {
                    *deadline = shift(*deadline);
                }
                Life::Leaving { deadline, again } => {
                    *deadline = shift(*deadline);
                    *again = again.map(shift);
                }
                Life::Killed { again } => *again = again.map(|at| shift(at).max(base.checked_sub(SECOND).unwrap())),
                Life::Off => {}
            }
        }
        if let Phase::Stopping { deadline, .. } = &mut state.phase {
            *deadline = shift(*deadline);
        }
        state
    }

    impl World {
        fn new(now: Instant) -> Self {
            Self {
                state: State::new(now),
                groups: [Group::None; 2],
                asked: [false; 2],
                listening: false,
                stopping_for: None,
                reader_gone: false,
            }
        }

        /// Every event that this world can bring about, with the world after it, before the machine has heard of it.
        fn possible(&self) -> Vec<(Event, Self)> {
            let mut all = vec![(Event::Tick, *self)];
            if self.stopping_for.is_none() {
                all.push((Event::Stop, Self { stopping_for: Some(0), ..*self }));
            }
            if !self.reader_gone {
                let stopping_for = Some(0);
                all.push((Event::ReaderGone, Self { reader_gone: true, stopping_for, ..*self }));
            }
            if self.listening && self.groups[0] == Group::Whole {
                all.push((Event::Listening, *self));
                all.push((Event::Drained, *self));
            }
            for daemon in Daemon::BOTH {
                let with = |group| {
                    let mut world = *self;
                    world.groups[slot(daemon)] = group;
                    if daemon == Daemon::Collector && group != Group::Whole {
                        world.listening = false;
                    }
                    world
                };
                match self.groups[slot(daemon)] {
                    Group::None => {}
                    Group::Whole => {
                        for exit in [Exit::Clean, Exit::Failed] {
                            all.push((Event::CoreGone(daemon, exit), with(Group::Headless)));
                        }
                    }
                    Group::Headless | Group::Dying { core: false } => {
                        all.push((Event::GroupGone(daemon), with(Group::None)));
                    }
                    Group::Dying { core: true } => {
                        all.push((Event::CoreGone(daemon, Exit::Failed), with(Group::Dying { core: false })));
                    }
                }
            }
            if self.groups[0] == Group::Whole && !self.listening {
                all.push((Event::Listening, Self { listening: true, ..*self }));
            }
            all
        }

        /// Lets the machine take the event, does what it says, and holds it to the promises.
        fn take(mut self, event: Event, now: Instant, limits: &Limits) -> (Self, Vec<Action>) {
            let before = self.state;
            let (state, actions) = step(self.state, event, now, limits);
            self.state = state;
            for action in &actions {
                self.obey(*action, before, now);
            }
            assert!(state.collector.failures <= limits.failures_allowed, "{self:?}");
            assert!(state.exporter.failures <= limits.failures_allowed, "{self:?}");
            (self, actions)
        }

        fn obey(&mut self, action: Action, before: State, now: Instant) {
            match action {
                Action::Start(daemon) => {
                    assert_eq!(self.groups[slot(daemon)], Group::None, "started beside its own remains: {self:?}");
                    assert_eq!(self.stopping_for, None, "started while stopping: {self:?}");
                    if daemon == Daemon::Exporter {
                        assert!(self.listening, "the exporter was started before the collector listened: {self:?}");
                    }
                    self.groups[slot(daemon)] = Group::Whole;
                    self.asked[slot(daemon)] = false;
                }
                Action::Ask(daemon) => {
                    assert!(!self.asked[slot(daemon)], "asked twice: {self:?}");
                    self.asked[slot(daemon)] = true;
                    if daemon == Daemon::Collector {
                        assert_eq!(self.groups[1], Group::None, "the collector went before the exporter: {self:?}");
                    }
                }
                Action::Kill(daemon) => {
                    let group = self.groups[slot(daemon)];
                    let was_late = match before.seat(daemon).life {
                        Life::Starting { deadline } | Life::Asked { deadline } | Life::Leaving { deadline, .. } => {
                            deadline <= now
                        }
                        _ => false,
                    };
                    let core_is_dead = group == Group::Headless;
                    let is_out_of_time =
                        matches!(self.state.phase, Phase::Stopping { deadline, .. } if deadline <= now);
                    assert!(
                        was_late || core_is_dead || is_out_of_time || self.reader_gone,
                        "killed what could flush: {before:?} {self:?}"
                    );
                    self.groups[slot(daemon)] = match group {
                        Group::Whole => Group::Dying { core: true },
                        Group::None => Group::None,
                        Group::Headless | Group::Dying { .. } => Group::Dying { core: false },
                    };
                }
                Action::Rest { .. } => assert_eq!(self.stopping_for, None, "a restart was promised while stopping"),
                Action::End(_) => {
                    assert_eq!(self.groups, [Group::None; 2], "the end came before the last process went");
                }
            }
        }

        fn a_second_later(mut self, base: Instant) -> Self {
            self.state = normal(self.state, base, SECOND);
            self.stopping_for = self.stopping_for.map(|seconds| (seconds + 1).min(20));
            self
        }
    }

    fn walk(limits: &Limits) -> HashMap<World, bool> {
        let base = Instant::now() + 100 * SECOND;
        let mut seen = HashMap::new();
        let mut queue = VecDeque::from([World::new(base)]);
        while let Some(world) = queue.pop_front() {
            if seen.contains_key(&world) {
                continue;
            }
            let is_over = world.state.phase == Phase::Over;
            seen.insert(world, is_over);
            if is_over {
                continue;
            }
            for (event, after) in world.possible() {
                queue.push_back(after.take(event, base, limits).0);
            }
            queue.push_back(world.a_second_later(base).take(Event::Tick, base, limits).0);
        }
        seen
    }

    #[test]
    fn every_reachable_state_keeps_the_promises() {
        for exporter_may_end in [false, true] {
            let seen = walk(&Limits { exporter_may_end, ..small() });
            assert!(seen.len() > 1000, "the walk is no walk: {} states", seen.len());
            assert!(seen.values().any(|over| *over));
        }
    }

    /// Processes that ignore every signal but SIGKILL: the stop still ends in time.
    #[test]
    fn a_stop_ends_in_time_whatever_the_daemons_do() {
        let base = Instant::now() + 100 * SECOND;
        let limits = small();
        for world in walk(&limits).into_keys().filter(|world| world.stopping_for.is_none()) {
            let mut world = World { stopping_for: Some(0), ..world };
            (world, _) = world.take(Event::Stop, base, &limits);
            for _ in 0..=limits.stop_within.as_secs() {
                for daemon in Daemon::BOTH {
                    if let Group::Dying { .. } = world.groups[slot(daemon)] {
                        world.groups[slot(daemon)] = Group::None;
                        (world, _) = world.take(Event::GroupGone(daemon), base, &limits);
                    }
                }
                world = world.a_second_later(base);
                (world, _) = world.take(Event::Tick, base, &limits);
            }
            for daemon in Daemon::BOTH {
                world.groups[slot(daemon)] = Group::None;
                (world, _) = world.take(Event::GroupGone(daemon), base, &limits);
            }
            assert_eq!(world.state.phase, Phase::Over, "{world:?}");
        }
    }

    /// A short story told in events; gives all actions with the second at which they came.
    fn story(limits: &Limits, events: &[(u64, Event)]) -> Vec<(u64, Action)> {
        let base = Instant::now();
        let mut state = State::new(base);
        let mut told = Vec::new();
        let mut clock = 0;
        let mut events = events.iter().peekable();
        while let Some((at, event)) = events.peek().copied().copied() {
            let event = if clock < at { Event::Tick } else { event };
            let (next, actions) = step(state, event, base + clock as u32 * SECOND, limits);
            state = next;
            told.extend(actions.into_iter().map(|action| (clock, action)));
            if clock < at {
                clock += 1;
            } else {
                events.next();
            }
        }
        told
    }

    use Daemon::{Collector, Exporter};

    #[test]
    fn the_normal_life() {
        let told = story(
            &Limits::default(),
            &[
                (0, Event::Tick),
                (1, Event::Listening),
                (500, Event::Stop),
                (502, Event::CoreGone(Exporter, Exit::Clean)),
                (502, Event::GroupGone(Exporter)),
                (502, Event::Drained),
                (504, Event::CoreGone(Collector, Exit::Clean)),
                (504, Event::GroupGone(Collector)),
            ],
        );
        let expected = [
            (0, Action::Start(Collector)),
            (1, Action::Start(Exporter)),
            (500, Action::Ask(Exporter)),
            (502, Action::Ask(Collector)),
            (504, Action::End(Outcome::Stopped)),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_dead_exporter_is_cleared_and_started_again_and_the_collector_stays() {
        let told = story(
            &Limits::default(),
            &[
                (1, Event::Listening),
                (100, Event::CoreGone(Exporter, Exit::Failed)),
                (100, Event::GroupGone(Exporter)),
                (103, Event::CoreGone(Exporter, Exit::Failed)),
                (103, Event::GroupGone(Exporter)),
                (106, Event::Tick),
            ],
        );
        let pause =
            |seconds: u64, failures| Action::Rest { daemon: Exporter, failures, pause: seconds as u32 * SECOND };
        let expected = [
            (0, Action::Start(Collector)),
            (1, Action::Start(Exporter)),
            (100, pause(1, 1)),
            (100, Action::Kill(Exporter)),
            (101, Action::Start(Exporter)),
            (103, pause(2, 2)),
            (103, Action::Kill(Exporter)),
            (105, Action::Start(Exporter)),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_dead_collectors_writers_may_finish_before_the_group_is_killed() {
        let told = story(
            &Limits { linger: 2 * SECOND, ..Limits::default() },
            &[(1, Event::Listening), (9, Event::CoreGone(Collector, Exit::Failed)), (12, Event::GroupGone(Collector))],
        );
        assert!(told.contains(&(11, Action::Kill(Collector))), "{told:?}");
        assert!(told.contains(&(12, Action::Start(Collector))), "{told:?}");
    }

    #[test]
    fn a_crash_loop_ends_after_the_stated_number_of_failures() {
        let limits = Limits { failures_allowed: 3, ..Limits::default() };
        let told = story(
            &limits,
            &[
                (0, Event::Tick),
                (0, Event::StartFailed(Collector)),
                (1, Event::StartFailed(Collector)),
                (3, Event::StartFailed(Collector)),
            ],
        );
        assert_eq!(told.last(), Some(&(3, Action::End(Outcome::GaveUp(Collector)))));
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let limits = Limits::default();
        let pauses: Vec<u64> = (1..9).map(|failures| limits.pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(limits.pause(u32::MAX), limits.longest_pause);
    }

    #[test]
    fn the_end_of_a_capture_file_ends_the_source() {
        let told = story(
            &Limits { exporter_may_end: true, ..Limits::default() },
            &[
                (1, Event::Listening),
                (5, Event::CoreGone(Exporter, Exit::Clean)),
                (5, Event::GroupGone(Exporter)),
                (5, Event::Drained),
                (7, Event::CoreGone(Collector, Exit::Clean)),
                (7, Event::GroupGone(Collector)),
            ],
        );
        assert_eq!(told.last(), Some(&(7, Action::End(Outcome::InputEnded))));
    }
}
