//! The configured source: pmacct's keys from the one file become the options of the source that reads them.

use std::sync::Arc;
use std::time::Duration;

use super::{Failure, MISUSED};
use crate::config::{Config, SourceKind};
use crate::log::{Event, Log};
use crate::pmacctconf::Line;
use crate::source::Source;
use crate::source::capture::{self, Capture};
use crate::source::pmacct::{self, Pmacct};
use crate::source::stdin::FdSource;
use crate::stats::Stats;
use crate::supervise::Limits;

/// Opens the source, with everything that needs privileges; gives up what only the opening needed.
pub(super) fn open(config: &Config, stats: &Arc<Stats>, log: &Log) -> Result<Box<dyn Source>, Failure> {
    match config.source {
        SourceKind::Stdin => Ok(Box::new(FdSource::stdin().map_err(|error| Failure::new("source", error))?)),
        SourceKind::Capture => open_capture(config, stats, log),
        SourceKind::Pmacct => {
            let plan = plan(config).map_err(|error| misused(&error.to_string()))?;
            Ok(Box::new(Pmacct::new(plan, log.clone(), Arc::clone(stats))))
        }
    }
}

/// What is wrong with the keys that the configured source reads, one a line; empty when nothing is.
pub(super) fn problems(config: &Config) -> Vec<String> {
    match config.source {
        SourceKind::Capture => match capture_options(config) {
            Ok((options, _)) => Capture::problems(&options).err().map(|error| error.to_string()).into_iter().collect(),
            Err(problems) => problems,
        },
        SourceKind::Pmacct => plan(config).err().map(|error| error.to_string()).into_iter().collect(),
        SourceKind::Stdin => Vec::new(),
    }
}

/// What the configured source will do with its keys, for `processor check`; to be asked when there are no [`problems`].
pub(super) fn describe(config: &Config) -> String {
    match config.source {
        SourceKind::Pmacct => plan(config).map(|plan| plan.describe()).unwrap_or_default(),
        SourceKind::Capture => {
            capture_options(config).map_or_else(|_| String::new(), |(_, unused)| unused_keys(&unused))
        }
        SourceKind::Stdin => String::new(),
    }
}

/// What the daemons' stop leaves of `processor_shutdown_timeout_sec` for the last upload pass. They need 4.2 s when all is
/// well.
const LEFT_FOR_UPLOAD: Duration = Duration::from_secs(2);

/// What the supervised daemons will run with.
fn plan(config: &Config) -> Result<pmacct::Plan, pmacct::PlanError> {
    pmacct::Plan::new(pmacct::Options {
        config_path: config.path.clone(),
        text: config.text.clone(),
        pmacctd_path: config.programs.pmacctd.clone(),
        nfacctd_path: config.programs.nfacctd.clone(),
        // The lock on the data directory makes it ours alone.
        run_dir: config.spool.dir.join(".pmacct"),
        limits: Limits {
            stop_within: config.pipeline.shutdown_timeout.saturating_sub(LEFT_FOR_UPLOAD),
            ..Limits::default()
        },
        measure_every: pmacct::MEASURE_EVERY,
    })
}

/// Opens what the configured source captures from and closes it again; false when that fails. `say` gets one line.
pub(super) fn try_open(config: &Config, say: &mut dyn FnMut(&str)) -> bool {
    if config.source != SourceKind::Capture {
        return true;
    }
    let opened = match capture_options(config) {
        Ok((options, _)) => Capture::open(options, Log::discard()).map_err(|error| error.to_string()),
        Err(problems) => Err(problems.join("; ")),
    };
    match opened {
        Ok(_) => say("open the capture: ok"),
        Err(ref error) => say(&format!("open the capture: FAILED: {error}")),
    }
    opened.is_ok()
}

fn open_capture(config: &Config, stats: &Stats, log: &Log) -> Result<Box<dyn Source>, Failure> {
    let (options, unused) = capture_options(config).map_err(|problems| misused(&problems.join("\n")))?;
    let [ignored, unused] = by_weight(&unused);
    if !ignored.is_empty() {
        log.event(Event::CaptureIgnoredKeys { path: config.path.clone(), keys: ignored });
    }
    if !unused.is_empty() {
        log.event(Event::CaptureUnusedKeys { path: config.path.clone(), keys: unused });
    }
    let capture = Capture::open(options, log.clone()).map_err(|error| misused(&error.to_string()))?;
    // Set once, here: there is one source.
    let _ = stats.capture.set(Arc::clone(&capture.counters()));
    capture::drop_capabilities().map_err(|error| Failure::new("source", error))?;
    Ok(Box::new(capture))
}

/// The names of those keys that would change what is counted, then those of the others.
fn by_weight(unused: &[Line]) -> [String; 2] {
    [true, false].map(|changes| {
        let keys = unused.iter().filter(|key| capture::changes_counts(key) == changes);
        keys.map(Line::shown_key).collect::<Vec<_>>().join(", ")
    })
}

/// For `processor check`: keys that are not used although they would change what is counted.
fn unused_keys(unused: &[Line]) -> String {
    match by_weight(unused) {
        [ignored, _] if ignored.is_empty() => ignored,
        [ignored, _] => {
            format!(
                "warning: these keys change what pmacct counts and are not used by capture, so the rows differ: {ignored}\n"
            )
        }
    }
}

type CaptureKeys = (capture::Options, Vec<Line>);

fn capture_options(config: &Config) -> Result<CaptureKeys, Vec<String>> {
    let path = config.path.display();
    match capture::Options::read(&config.text) {
        Ok((options, unused)) => Ok((capture::Options { threads: config.capture_threads, ..options }, unused)),
        Err(errors) => {
            let place = |line| if line == 0 { path.to_string() } else { format!("{path}:{line}") };
            Err(errors.iter().map(|error| format!("{}: {error}", place(error.line))).collect())
        }
    }
}

fn misused(text: &str) -> Failure {
    Failure { code: MISUSED, ..Failure::new("source", text) }
}
