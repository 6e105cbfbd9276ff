//! The configured source: pmacct's keys from the one file become the options of the source that reads them.

use std::sync::Arc;

use super::{Failure, MISUSED};
use crate::config::{Config, SourceKind};
use crate::log::{Event, Log};
use crate::source::Source;
use crate::source::capture::{self, Capture};
use crate::source::stdin::FdSource;
use crate::stats::Stats;

/// Opens the source, with everything that needs privileges; gives up what only the opening needed.
pub(super) fn open(config: &Config, stats: &Stats, log: &Log) -> Result<Box<dyn Source>, Failure> {
    match config.source {
        SourceKind::Stdin => Ok(Box::new(FdSource::stdin().map_err(|error| Failure::new("source", error))?)),
        SourceKind::Capture => open_capture(config, stats, log),
        // The configuration takes it only from the version on that has it.
        SourceKind::Pmacct => Err(misused("pmacct is not built in")),
    }
}

/// What is wrong with the keys that the configured source reads, one a line; empty when nothing is.
pub(super) fn problems(config: &Config) -> Vec<String> {
    match config.source {
        SourceKind::Capture => capture_options(config).err().unwrap_or_default(),
        SourceKind::Stdin | SourceKind::Pmacct => Vec::new(),
    }
}

fn open_capture(config: &Config, stats: &Stats, log: &Log) -> Result<Box<dyn Source>, Failure> {
    let (options, unused) = capture_options(config).map_err(|problems| misused(&problems.join("\n")))?;
    if !unused.is_empty() {
        let keys: Vec<&str> = unused.iter().map(|key| key.key.as_str()).collect();
        log.event(Event::CaptureUnusedKeys { path: config.path.clone(), keys: keys.join(", ") });
    }
    let capture = Capture::open(options, log.clone()).map_err(|error| misused(&error.to_string()))?;
    // Set once, here: there is one source.
    let _ = stats.capture.set(Arc::clone(&capture.counters()));
    capture::drop_capabilities().map_err(|error| Failure::new("source", error))?;
    Ok(Box::new(capture))
}

type CaptureKeys = (capture::Options, Vec<capture::Key>);

fn capture_options(config: &Config) -> Result<CaptureKeys, Vec<String>> {
    let path = config.path.display();
    let key = |entry: &crate::config::pmacct::Entry| capture::Key {
        line: entry.line,
        key: entry.key.clone(),
        name: entry.name.clone(),
        value: entry.value.clone(),
    };
    let keys: Vec<_> = config.text.foreign().map(key).collect();
    let loose =
        config.text.loose.iter().map(|loose| format!("{path}:{}: a line without ':'; write key: value", loose.line));
    let mut problems: Vec<String> = loose.collect();
    match capture::Options::from_keys(&keys) {
        Ok(options) if problems.is_empty() => return Ok(options),
        Ok(_) => {}
        Err(errors) => problems.extend(errors.iter().map(|error| match error.line {
            0 => format!("{path}: {error}"),
            line => format!("{path}:{line}: {error}"),
        })),
    }
    Err(problems)
}

fn misused(text: &str) -> Failure {
    Failure { code: MISUSED, ..Failure::new("source", text) }
}
