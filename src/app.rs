//! The wiring, top to bottom: a command becomes rooms, rooms become a running pipeline, its outcome an exit code. The only
//! file that knows everyone; it decides nothing that a room could decide.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::check::HeaderMode;
use crate::cli::{Check, Command, Run, Sample};
use crate::config::{Config, Inputs, keys};
use crate::end::{End, Part};
use crate::log::{self, Event, Log};
use crate::notify::{self, State};
use crate::pipeline::{Outcome, Parts, Pipeline};
use crate::plan::Plan;
use crate::remote::ftp::{self, Ftp};
use crate::report::{self, Reporter};
use crate::shutdown::{Reason, Shutdown};
use crate::source::Source;
use crate::spool::{self, OpenError, Spool};
use crate::stats::Stats;
use crate::status::{self, Status};
use crate::threads::{NoResult, Running, spawn};
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
    let end = match signals(&log, config.shutdown_timeout) {
        Ok(end) => end,
        Err(error) => return failed(&format!("cannot watch for signals: {error}")),
    };
    // After the handlers are in place: whoever sees a log line may send a signal at once.
    let progress = Progress::new(config.log.lang);
    let stderr = progress.stderr();
    let started_threads = spawn("log", move || writer.run(stderr)).and_then(|_| progress.watch(&stats, &log));
    let watch = match started_threads {
        Ok(watch) => watch,
        Err(error) => return failed(&format!("cannot start a thread: {error}")),
    };
    log::install(&log);
    let code = source.and_then(|source| started_code(config, source, &end, &stats, &log)).unwrap_or_else(|failure| {
        log.event(Event::StageFailed { stage: failure.stage, error: failure.text });
        failure.code
    });
    watch.end(by(&end, Part::Terminal));
    log.event(Event::Finished {
        lines_read: stats.read.lines.get(),
        lines_written: stats.lines_in_files(),
        lines_rejected: stats.rejected.lines.get(),
        header_lines: stats.header_lines.get(),
        lines_lost: stats.lost_lines(),
        lines_dropped: stats.dropped.lines.get(),
        files_sealed: stats.sealed_files.get(),
        files_uploaded: stats.uploaded_files.get(),
        files_waiting: stats.spool_files.get(),
        files_dropped: stats.dropped_files.get(),
        duration: started.elapsed(),
    });
    log.close(by(&end, Part::Log));
    code
}

/// When a part that has a bound of its own must be over.
fn by(end: &End, part: Part) -> Instant {
    let now = Instant::now();
    end.until(part, now).unwrap_or(now)
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

/// The budget of the end, which the first signal begins.
fn signals(log: &Log, limit: Duration) -> io::Result<End> {
    let end = End::new(Shutdown::new()?, limit);
    watch_signals(&end, log)?;
    Ok(end)
}

fn started_code(
    config: Config,
    source: Box<dyn Source>,
    end: &End,
    stats: &Arc<Stats>,
    log: &Log,
) -> Result<u8, Failure> {
    let (dir, options) = (config.spool.dir.clone(), status_options(&config));
    let opening = Opening {
        spool: config.spool,
        header: config.check.header,
        upload: config.ftp.map(|ftp| (ftp, config.uploader)),
        end: end.clone(),
        stats: Arc::clone(stats),
        log: log.clone(),
    };
    let (spool, upload) = opening.in_time()?;
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
        end: end.clone(),
        stats: Arc::clone(stats),
        log: log.clone(),
    };
    let pipeline = Pipeline::start(parts).map_err(|error| Failure::new("start", error))?;
    tell_manager(State::Ready);
    let outcome = pipeline.wait();
    if let Some(report) = report {
        report.end(by(end, Part::Report));
    }
    status.end();
    Ok(match outcome {
        Outcome::Sealed { by_signal: false, waiting: 1.. } => FILES_WAIT,
        Outcome::Sealed { .. } => DONE,
        Outcome::Failed => FAILED,
    })
}

/// What has to be asked of the data directory before anything runs.
struct Opening {
    spool: spool::Options,
    header: HeaderMode,
    upload: Option<(ftp::Options, uploader::Options)>,
    end: End,
    stats: Arc<Stats>,
    log: Log,
}

impl Opening {
    /// Opens on a thread of its own, because a disk may hang, and a signal must end the program all the same.
    fn in_time(self) -> Result<(Spool, Option<Uploader>), Failure> {
        let (end, path) = (self.end.clone(), self.spool.dir.clone());
        let running = spawn("open", move || self.open()).map_err(|error| Failure::new("start", error))?;
        match end.wait(&running, Part::Stages) {
            Ok(opened) => opened,
            Err(NoResult::Panicked) => Err(Failure::new("spool", "opening the data directory panicked")),
            Err(NoResult::TooLate) => {
                let text = format!("{}: the disk did not answer before the program had to end", path.display());
                Err(Failure::new("spool", text))
            }
        }
    }

    fn open(self) -> Result<(Spool, Option<Uploader>), Failure> {
        let path = self.spool.dir.clone();
        let (stats, log) = (&self.stats, &self.log);
        let (theirs, said) = (Arc::clone(stats), log.clone());
        let spool = Spool::open(self.spool, self.header, theirs, said, self.end.latch()).map_err(|error| {
            let code = if matches!(error, OpenError::InUse { .. }) { IN_USE } else { FAILED };
            Failure { code, ..Failure::new("spool", error) }
        })?;
        log.event(Event::DataDirReady { path: path.clone() });
        if spool.is_world_writable() {
            log.event(Event::DataDirPublic { path });
        }
        let upload = self.upload.map(|(ftp, options)| uploader(ftp, options, stats, log, &spool)).transpose()?;
        Ok((spool, upload))
    }
}

fn uploader(
    ftp: ftp::Options,
    options: uploader::Options,
    stats: &Arc<Stats>,
    log: &Log,
    spool: &Spool,
) -> Result<Uploader, Failure> {
    let queue = spool.queue();
    let remote = Ftp::new(ftp, &queue.token()).map_err(|error| {
        // A restart may mend that there is no thread to be had, but no setting.
        let code = if matches!(error, ftp::SetupError::Thread(_)) { FAILED } else { MISUSED };
        Failure { code, ..Failure::new("upload", error) }
    })?;
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
    end: Sender<Instant>,
}

impl Report {
    fn start(options: report::Options, stats: &Arc<Stats>, log: &Log) -> Result<Self, Failure> {
        let failed = |error| Failure::new("report", error);
        let (reporter, poster) = Reporter::new(options, log);
        if let Some(poster) = poster {
            spawn("report-post", move || poster.run()).map_err(failed)?;
        }
        // One order, given once.
        let (end, ending) = bounded(1);
        let stats = Arc::clone(stats);
        let running = spawn("report", move || reporter.run(&stats, &ending)).map_err(failed)?;
        Ok(Self { running, end })
    }

    /// The last report, with the sums of the whole run, if it goes by `deadline`.
    fn end(self, deadline: Instant) {
        let _ = self.end.try_send(deadline);
        // A receiver or a disk that hangs must not keep the program from ending.
        let _ = self.running.wait_until(deadline);
    }
}

/// The first signal trips the latch, the second ends the process at once, from within the signal handler.
fn watch_signals(end: &End, log: &Log) -> io::Result<()> {
    let stopping = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // In this order: the exit looks at the flag before the same signal sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stopping))?;
        signal_hook::flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (end, log) = (end.clone(), log.clone());
    spawn("signals", move || {
        for signal in signals.forever() {
            // Before the trip, behind which the program may be gone at any moment.
            log.event(Event::StopRequested { signal });
            tell_manager(State::Stopping(end.limit() + MANAGER));
            end.latch().trip(Reason::Signal(signal));
        }
    })?;
    Ok(())
}

/// How much longer than our limit the service manager should wait: the second of the contract, and another one.
const MANAGER: Duration = Duration::from_secs(2);

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

/// Before the log's thread runs; a restart may mend it.
fn failed(text: &str) -> u8 {
    misused(text);
    FAILED
}
