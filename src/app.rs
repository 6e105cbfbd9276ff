//! The wiring, top to bottom: a command becomes rooms, rooms become a running pipeline, its outcome an exit code. The only
//! file that knows everyone; it decides nothing that a room could decide.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{Check, Command, Run, Sample};
use crate::config::{Config, Inputs, keys};
use crate::log::{self, Event, Log};
use crate::notify::{self, State};
use crate::pipeline::{self, Outcome, Parts};
use crate::plan::Plan;
use crate::remote::ftp::{self, Ftp};
use crate::report::{self, Reporter};
use crate::shutdown::{Reason, Shutdown};
use crate::source::Source;
use crate::spool::{self, OpenError, Spool};
use crate::stats::Stats;
use crate::status::{self, Status};
use crate::threads::{Running, spawn};
use crate::uploader::{self, Uploader};
use crate::{sample, secret};

mod connect;
mod ddl;
mod generate;
mod progress;
mod source;
mod top;

use progress::Progress;

/// Done.
const DONE: u8 = 0;
/// Failed at run time.
const FAILED: u8 = 1;
/// Usage or configuration error.
const MISUSED: u8 = 2;
/// The input ended, but files could not be uploaded.
const FILES_WAIT: u8 = 3;
/// Another processor has the data directory.
const IN_USE: u8 = 4;

/// Carries out one command; the exit code.
pub fn run(command: Command) -> u8 {
    secret::keep_memory_private();
    match command {
        Command::Run(flags) => collect(flags),
        Command::Check(flags) => check(&flags),
        Command::Keys => print(&keys::table()),
        Command::Health { data_dir, ready } => health(&data_dir, ready),
        Command::Top { data_dir } => top::run(&data_dir),
        Command::Ddl(flags) => ddl::run(&flags),
        Command::Sample(flags) => print_sample(&flags),
        Command::Generate { dir } => generate::run(&dir),
    }
}

/// Reads, packs, delivers, until the input ends or a signal comes.
fn collect(flags: Run) -> u8 {
    let started = Instant::now();
    let inputs =
        Inputs { log_level: flags.log_level, source: flags.source, ..Inputs::here(flags.config, flags.data_dir) };
    let Plan { config, source } = match Plan::build(&inputs) {
        Ok(plan) => plan,
        Err(rejected) => return misused(&rejected.to_string()),
    };
    let stats = Arc::new(Stats::default());
    let (log, writer) = Log::new(config.log.clone(), Arc::clone(&stats));
    log.event(Event::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        source: config.source.name().to_owned(),
        pid: u64::from(std::process::id()),
    });
    log.event(config.loaded());
    config.warnings.iter().cloned().for_each(|warning| log.event(warning));
    // Before every other thread: a thread can only give up its own capabilities.
    let source = source::open(source, &config.path, &stats, &log);
    let shutdown = signals(&log);
    // After the handlers are in place: whoever sees a log line may send a signal at once.
    let progress = Progress::new(config.log.lang);
    let stderr = progress.stderr();
    let started_threads = spawn("log", move || writer.run(stderr)).and_then(|_| progress.watch(&stats, &log));
    let watch = match started_threads {
        Ok(watch) => watch,
        Err(error) => return misused(&format!("cannot start a thread: {error}")),
    };
    log::install(&log);
    let opened = source.and_then(|source| Ok((source, shutdown?)));
    let code = opened.and_then(|opened| started_code(config, opened, &stats, &log)).unwrap_or_else(|failure| {
        log.event(Event::StageFailed { stage: failure.stage, error: failure.text });
        failure.code
    });
    watch.end();
    log.event(Event::Finished {
        lines_read: stats.read.lines.get(),
        lines_written: stats.written.lines.get(),
        lines_rejected: stats.rejected.lines.get(),
        lines_dropped: stats.dropped.lines.get(),
        files_sealed: stats.sealed_files.get(),
        files_uploaded: stats.uploaded_files.get(),
        files_waiting: stats.spool_files.get(),
        duration: started.elapsed(),
    });
    log.close();
    code
}

/// What keeps the program from running, and with which exit code it says so.
struct Failure {
    stage: &'static str,
    text: String,
    code: u8,
}

impl Failure {
    fn new(stage: &'static str, error: impl std::fmt::Display) -> Self {
        Self { stage, text: error.to_string(), code: FAILED }
    }
}

/// The latch that signals trip.
fn signals(log: &Log) -> Result<Shutdown, Failure> {
    let shutdown = Shutdown::new().map_err(|error| Failure::new("start", error))?;
    watch_signals(&shutdown, log).map_err(|error| Failure::new("signals", error))?;
    Ok(shutdown)
}

type Opened = (Box<dyn Source>, Shutdown);

fn started_code(config: Config, (source, shutdown): Opened, stats: &Arc<Stats>, log: &Log) -> Result<u8, Failure> {
    let (dir, options) = (config.spool.dir.clone(), status_options(&config));
    let spool =
        Spool::open(config.spool, config.check.header, Arc::clone(stats), log.clone(), &shutdown).map_err(|error| {
            Failure {
                code: if matches!(error, OpenError::InUse { .. }) { IN_USE } else { FAILED },
                ..Failure::new("spool", error)
            }
        })?;
    log.event(Event::DataDirReady { path: dir.clone() });
    tell_manager(State::Ready);
    if spool.is_world_writable() {
        log.event(Event::DataDirPublic { path: dir.clone() });
    }
    let upload = config.ftp.map(|ftp| uploader(ftp, config.uploader, stats, log, &spool)).transpose()?;
    if upload.is_none() {
        log.event(Event::UploadOff { path: dir });
    }
    let status = status(options, &spool, stats, log)?;
    let report = config.report.map(|options| Report::start(options, stats, log)).transpose()?;
    let parts = Parts {
        options: config.pipeline,
        source,
        check: config.check,
        level: config.level,
        spool,
        upload,
        shutdown,
        stats: Arc::clone(stats),
        log: log.clone(),
    };
    let outcome = pipeline::run(parts).map_err(|error| Failure::new("start", error))?;
    if let Some(report) = report {
        report.end();
    }
    status.end();
    Ok(match outcome {
        Outcome::Sealed { by_signal: false, waiting: 1.. } => FILES_WAIT,
        Outcome::Sealed { .. } => DONE,
        Outcome::Failed => FAILED,
    })
}

fn uploader(
    ftp: ftp::Options,
    options: uploader::Options,
    stats: &Arc<Stats>,
    log: &Log,
    spool: &Spool,
) -> Result<Uploader, Failure> {
    let queue = spool.queue();
    let remote =
        Ftp::new(ftp, &queue.token()).map_err(|error| Failure { code: MISUSED, ..Failure::new("upload", error) })?;
    Ok(Uploader {
        options,
        remote: Arc::new(remote),
        queue: Arc::new(queue),
        stats: Arc::clone(stats),
        log: log.clone(),
    })
}

fn status_options(config: &Config) -> status::Options {
    let upload = config.ftp.as_ref();
    let about = status::About {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("PROCESSOR_COMMIT"),
        source: config.source.name(),
        host: config.host.clone(),
        pid: std::process::id(),
        data_dir: config.spool.dir.clone(),
        spool_limit: config.spool.max_bytes,
        upload_interval: upload.map(|_| config.uploader.interval),
        upload_to: upload.map(ftp::Options::address),
    };
    status::Options { listen: config.metrics_listen, about }
}

fn status(options: status::Options, spool: &Spool, stats: &Arc<Stats>, log: &Log) -> Result<Status, Failure> {
    let failed = |error| Failure::new("status", error);
    Status::start(options, spool.dir().try_clone().map_err(failed)?, stats, log).map_err(failed)
}

/// The running status report.
struct Report {
    running: Running<()>,
    open: Sender<Infallible>,
}

impl Report {
    fn start(options: report::Options, stats: &Arc<Stats>, log: &Log) -> Result<Self, Failure> {
        let failed = |error| Failure::new("report", error);
        let (reporter, poster) = Reporter::new(options, log);
        if let Some(poster) = poster {
            spawn("report-post", move || poster.run()).map_err(failed)?;
        }
        let (open, closed) = bounded(0);
        let stats = Arc::clone(stats);
        let running = spawn("report", move || reporter.run(&stats, &closed)).map_err(failed)?;
        Ok(Self { running, open })
    }

    /// The last report, with the sums of the whole run, if it goes quickly.
    fn end(self) {
        drop(self.open);
        // A receiver or a disk that hangs must not keep the program from ending.
        let _ = self.running.wait_until(Instant::now() + LAST_REPORT);
    }
}

/// How long the last report may take: with the log's flush it stays within the second that the contract leaves.
const LAST_REPORT: Duration = Duration::from_millis(300);

/// The first signal trips the latch, the second ends the process at once, from within the signal handler.
fn watch_signals(shutdown: &Shutdown, log: &Log) -> io::Result<()> {
    let stopping = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // In this order: the exit looks at the flag before the same signal sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stopping))?;
        signal_hook::flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (shutdown, log) = (shutdown.clone(), log.clone());
    spawn("signals", move || {
        for signal in signals.forever() {
            log.event(Event::StopRequested { signal });
            tell_manager(State::Stopping);
            shutdown.trip(Reason::Signal(signal));
        }
    })?;
    Ok(())
}

/// Tells systemd, when it started us with `Type=notify`.
fn tell_manager(state: State) {
    notify::tell(std::env::var("NOTIFY_SOCKET").ok().as_deref(), state);
}

/// `processor check`.
fn check(flags: &Check) -> u8 {
    let data_dir = flags.data_dir.clone().unwrap_or_default();
    let inputs = Inputs { source: flags.source.clone(), ..Inputs::here(&flags.config, data_dir) };
    let plan = match Plan::build(&inputs) {
        Ok(plan) => plan,
        Err(rejected) => return misused(&rejected.to_string()),
    };
    let code = print(&plan.describe());
    if flags.connect && code == DONE { connect_for_real(plan) } else { code }
}

/// `processor check -connect`: the server and, where there is one, the capture.
fn connect_for_real(Plan { config, source }: Plan) -> u8 {
    let progress = Progress::new(config.log.lang);
    let mut say = |line: &str| {
        print(&(log::visible(line) + "\n"));
    };
    say("");
    let source = source::try_open(source, &mut say);
    let server = if let Some(options) = config.ftp {
        connect::try_server(options, &config.host, &progress, &mut say)
    } else {
        say("processor_upload: none; there is no server to try");
        true
    };
    if source && server { DONE } else { FAILED }
}

/// `processor health`: asks the process; one that does not answer is well while it holds the data directory's lock.
fn health(data_dir: &Path, ready: bool) -> u8 {
    let (line, code) = match status::client::get(data_dir, if ready { "/readyz" } else { "/healthz" }, HEALTH) {
        Ok((200, _)) if ready => ("ok: ready".to_owned(), DONE),
        Ok((200, body)) => (body.trim_end().to_owned(), DONE),
        Ok((_, body)) => (body.lines().filter(|line| !line.ends_with(": ok")).collect::<Vec<_>>().join("; "), FAILED),
        Err(silence) => locked(data_dir, ready, &silence),
    };
    print(&(line + "\n"));
    code
}

/// How long `processor health` waits for an answer.
const HEALTH: Duration = Duration::from_secs(2);

/// What the lock tells when nobody answers.
fn locked(data_dir: &Path, ready: bool, silence: &io::Error) -> (String, u8) {
    let dir = data_dir.display();
    match spool::owner(data_dir) {
        Ok(Some(pid)) if ready => {
            (format!("processor {pid} runs in {dir} but does not say whether it is ready: {silence}"), FAILED)
        }
        Ok(Some(pid)) => (format!("ok: processor {pid} runs in {dir}; its socket does not answer: {silence}"), DONE),
        Ok(None) => (format!("no processor runs in {dir}"), FAILED),
        Err(error) => (format!("{dir}: {error}"), FAILED),
    }
}

/// `processor sample`.
fn print_sample(flags: &Sample) -> u8 {
    let defaults = sample::Options::default();
    let options = sample::Options {
        seed: flags.seed.unwrap_or(defaults.seed),
        epoch: flags.epoch.unwrap_or(defaults.epoch),
        ..defaults
    };
    let mut rows = sample::Rows::new(options);
    let mut text = (rows.header() + "\n").into_bytes();
    let mut out = io::stdout().lock();
    let mut left = usize::try_from(flags.rows).unwrap_or(usize::MAX);
    loop {
        let count = left.min(8192);
        rows.fill(&mut text, count);
        match out.write_all(&text) {
            Ok(()) => {}
            // The reader has enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return DONE,
            Err(error) => {
                eprintln!("standard output: {error}");
                return FAILED;
            }
        }
        left -= count;
        if left == 0 {
            return DONE;
        }
        text.clear();
    }
}

fn print(text: &str) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => FAILED,
        _ => DONE,
    }
}

fn misused(text: &str) -> u8 {
    // There is no other place to say it.
    let _ = writeln!(io::stderr(), "{text}");
    MISUSED
}
