//! The two pmacct daemons as a source: their files, their life, `nfacctd`'s stdout.
//!
//! ```text
//!   interface ──▶ pmacctd ── IPFIX over loopback ──▶ nfacctd ── rows ──▶ pipeline
//!                    │ stderr                            │ stderr
//!                    └────────────▶  watch  ◀────────────┘
//!                            │ what happened   ▲ what to do
//!                            ▼                 │
//!                      supervise::step, a pure table
//! ```
//!
//! One `pmacct.conf` serves both daemons; [`conf`] splits it. Two threads work: the source's own reads rows and nothing else,
//! so that the daemons' writers never wait longer than the pipeline makes them; the thread `watch` reads what the daemons
//! say, starts, signals and reaps them.
//!
//! Promises: rows arrive as `nfacctd` printed them, whole lines only. On a stop the exporter flushes into the collector, the
//! collector into us, and the source returns when the last row is in the sink, or when `stop_within` has passed. No process
//! is left behind, not even after SIGKILL to us. What gets lost before the rows is counted in [`crate::stats::Chain`].
//!
//! It never writes outside its run directory, and never lets a daemon see the configuration keys of `processor`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::log::{Event, Log};
use crate::pmacctconf::{self, guess};
use crate::secret;
use crate::shutdown::Shutdown;
use crate::source::{Sink, Source, SourceEnd, SourceError};
use crate::stats::Stats;
use crate::supervise::{Daemon, Limits, Outcome};

pub mod conf;
pub mod socket;
pub mod speech;

mod children;
mod kernel;
mod lines;
mod place;
mod rows;
mod watch;

pub use place::{PlaceError, ProgramError};

/// Settings of the supervised daemons.
#[derive(Debug, Clone)]
pub struct Options {
    /// The operator's file, for messages.
    pub config_path: PathBuf,
    /// Its text.
    pub text: pmacctconf::Text,
    /// `processor_pmacctd_path`; `None`: on PATH.
    pub pmacctd_path: Option<PathBuf>,
    /// `processor_nfacctd_path`; `None`: on PATH.
    pub nfacctd_path: Option<PathBuf>,
    /// A directory of ours alone, made with mode 0700 for the run. Its parent must exist.
    pub run_dir: PathBuf,
    /// Times and counts of the supervision; `exporter_may_end` is set by the plan.
    pub limits: Limits,
    /// How often the counters of the daemons and the kernel are read.
    pub measure_every: Duration,
}

/// How often the counters are read: as often as a status report may want them, and seldom enough that the daemons' answers do
/// not fill a debug log.
pub const MEASURE_EVERY: Duration = Duration::from_secs(30);

/// Checked settings: the programs are there, the file is split, nothing in it forbids the start.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The operator's file.
    pub config_path: PathBuf,
    /// `nfacctd` and `pmacctd`.
    pub programs: [PathBuf; 2],
    /// What each of them will read.
    pub split: conf::Split,
    run_dir: PathBuf,
    limits: Limits,
    measure_every: Duration,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A program is missing.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The file cannot work; all findings, the fatal ones among them.
    #[error("{}", told(.path, .findings))]
    Conf {
        /// The operator's file.
        path: PathBuf,
        /// In the order of the lines.
        findings: Vec<conf::Finding>,
    },
}

fn told(path: &Path, findings: &[conf::Finding]) -> String {
    let fatal = findings.iter().filter(|finding| finding.is_fatal());
    let told = fatal.map(|finding| match finding.line {
        Some(line) => format!("{}:{line}: {finding}", path.display()),
        None => format!("{}: {finding}", path.display()),
    });
    told.collect::<Vec<_>>().join("\n")
}

impl Plan {
    /// Checks the settings. Reads PATH and looks for the programs; starts and writes nothing.
    ///
    /// # Errors
    ///
    /// A program is missing, or the file cannot work; then with all findings.
    pub fn new(options: Options) -> Result<Self, PlanError> {
        let path = std::env::var("PATH").ok();
        let collector = place::find(Daemon::Collector, options.nfacctd_path.as_deref(), path.as_deref())?;
        let exporter = place::find(Daemon::Exporter, options.pmacctd_path.as_deref(), path.as_deref())?;
        let split = conf::split(&options.text, &try_filter);
        if split.is_fatal() {
            return Err(PlanError::Conf { path: options.config_path, findings: split.findings });
        }
        Ok(Self {
            config_path: options.config_path,
            programs: [collector, exporter],
            limits: Limits { exporter_may_end: split.offline, ..options.limits },
            split,
            run_dir: options.run_dir,
            measure_every: options.measure_every,
        })
    }
}

impl Plan {
    /// What runs, but not as its line seems to mean.
    pub fn warnings(&self) -> Vec<String> {
        let path = self.config_path.display();
        let place = |line: Option<u32>| line.map_or_else(|| path.to_string(), |line| format!("{path}:{line}"));
        self.split.findings.iter().map(|finding| format!("configuration {}: {finding}", place(finding.line))).collect()
    }

    /// Both daemons' files and what differs from the operator's, for `processor check`.
    pub fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        // A `String` takes every write.
        for change in &self.split.changes {
            let _ = writeln!(text, "{change}");
        }
        for (daemon, program) in Daemon::BOTH.into_iter().zip(&self.programs) {
            let _ = writeln!(text, "\n# {} runs {} with:", daemon.program(), program.display());
            for line in self.split.text(daemon).lines().filter(|line| !line.is_empty()) {
                // pmacct has passwords of its own, for databases and routers.
                let key = line.split(':').next().unwrap_or_default();
                let shown = if guess::is_secret(key) { format!("{key}: ***") } else { secret::without_login(line) };
                let _ = writeln!(text, "{shown}");
            }
        }
        text
    }
}

/// Compiles a packet filter for the kinds of link that probes have; it is good when one of them takes it.
fn try_filter(filter: &str) -> Option<String> {
    let links = [pcap::Linktype::ETHERNET, pcap::Linktype::RAW, pcap::Linktype::LINUX_SLL];
    let mut complaints = links.into_iter().map(|link| {
        let compiled = pcap::Capture::dead(link).and_then(|capture| capture.compile(filter, true).map(drop));
        compiled.err().map(|error| error.to_string())
    });
    let first = complaints.next().flatten();
    first.filter(|_| complaints.all(|complaint| complaint.is_some()))
}

/// The source.
#[derive(Debug)]
pub struct Pmacct {
    plan: Plan,
    log: Log,
    stats: Arc<Stats>,
}

/// The daemons failed for good.
#[derive(Debug, thiserror::Error)]
#[error("failed {failures} times in a row; its last words: {last_words}")]
struct GaveUp {
    failures: u32,
    last_words: String,
}

impl Pmacct {
    /// An inert source; nothing is started before `run`.
    pub fn new(plan: Plan, log: Log, stats: Arc<Stats>) -> Self {
        Self { plan, log, stats }
    }

    /// Says once what the operator should know about the two files.
    fn tell_plan(&self) {
        for finding in &self.plan.split.findings {
            self.log.event(Event::ConfigWarning {
                path: self.plan.config_path.clone(),
                line: finding.line.map_or(0, u64::from),
                text: finding.to_string(),
            });
        }
        let changes: Vec<String> = self.plan.split.changes.iter().map(ToString::to_string).collect();
        if !changes.is_empty() {
            let path = self.plan.config_path.clone();
            self.log.event(Event::DaemonConfChanged { path, changes: changes.join("; ") });
        }
    }
}

impl Source for Pmacct {
    fn run(self: Box<Self>, sink: &mut dyn Sink, stop: &Shutdown) -> Result<SourceEnd, SourceError> {
        let fail = |what: &Path, source: Box<dyn std::error::Error + Send + Sync>| SourceError {
            what: what.display().to_string(),
            source,
        };
        self.tell_plan();
        let place = place::Place::make(&self.plan.run_dir, &self.plan.split)
            .map_err(|error| fail(&self.plan.run_dir, error.into()))?;
        children::adopt_orphans().map_err(|error| fail(Path::new("pmacct"), error.into()))?;

        // One pipe for every failure in a row that the table allows, and the first life.
        let (lives, pipes) = bounded(self.plan.limits.failures_allowed as usize + 1);
        let reader_gone = AtomicBool::new(false);
        let chain = &self.stats.chain;
        let watch = watch::Watch {
            plan: &self.plan,
            place: &place,
            log: &self.log,
            chain,
            stop,
            lives,
            reader_gone: &reader_gone,
        };
        let end = thread::scope(|scope| {
            let watching = thread::Builder::new().name("watch".into()).spawn_scoped(scope, || watch.run());
            let watching = watching.map_err(|error| fail(Path::new("pmacct"), error.into()))?;
            if rows::feed(&pipes, sink, &self.log, chain).is_err() {
                reader_gone.store(true, Ordering::Release);
            }
            // A pipe that nobody will read must not look as if somebody would.
            drop(pipes);
            watching.join().map_err(|_| fail(Path::new("pmacct"), "its supervision panicked".into()))
        })?;
        match end.outcome {
            Outcome::InputEnded => Ok(SourceEnd::Eof),
            Outcome::Stopped | Outcome::ReaderGone => Ok(SourceEnd::Stopped),
            Outcome::GaveUp(daemon) => {
                let failures = self.plan.limits.failures_allowed;
                let cause = GaveUp { failures, last_words: end.last_words };
                Err(SourceError { what: daemon.program().to_owned(), source: cause.into() })
            }
        }
    }
}
