//! The planned source is opened.

use std::path::Path;
use std::sync::Arc;

use super::{Failure, MISUSED};
use crate::log::{Event, Log};
use crate::plan::{SourcePlan, by_weight};
use crate::pmacctconf::Line;
use crate::source::Source;
use crate::source::capture::{self, Capture};
use crate::source::pmacct::Pmacct;
use crate::source::stdin::FdSource;
use crate::stats::Stats;

/// Opens the source, with everything that needs privileges; gives up what only the opening needed.
pub(super) fn open(source: SourcePlan, path: &Path, stats: &Arc<Stats>, log: &Log) -> Result<Box<dyn Source>, Failure> {
    Ok(match source {
        SourcePlan::Stdin => Box::new(FdSource::stdin().map_err(|error| Failure::new("source", error))?),
        SourcePlan::Capture(options, unused) => open_capture(*options, &unused, path, stats, log)?,
        SourcePlan::Pmacct(plan) => Box::new(Pmacct::new(*plan, log.clone(), Arc::clone(stats))),
    })
}

/// Opens what the configured source captures from and closes it again; false when that fails. `say` gets one line.
pub(super) fn try_open(source: SourcePlan, say: &mut dyn FnMut(&str)) -> bool {
    let SourcePlan::Capture(options, _) = source else { return true };
    let opened = Capture::open(*options, Log::discard());
    match opened {
        Ok(_) => say("open the capture: ok"),
        Err(ref error) => say(&format!("open the capture: FAILED: {error}")),
    }
    opened.is_ok()
}

/// Says which keys capture does not use, opens it, and gives up what only that needed.
fn open_capture(
    options: capture::Options,
    unused: &[Line],
    path: &Path,
    stats: &Stats,
    log: &Log,
) -> Result<Box<dyn Source>, Failure> {
    let [ignored, unused] = by_weight(unused);
    if !ignored.is_empty() {
        log.event(Event::CaptureIgnoredKeys { path: path.to_owned(), keys: ignored });
    }
    if !unused.is_empty() {
        log.event(Event::CaptureUnusedKeys { path: path.to_owned(), keys: unused });
    }
    let misused = |error| Failure { code: MISUSED, ..Failure::new("source", error) };
    let capture = Capture::open(options, log.clone()).map_err(misused)?;
    // Set once, here: there is one source.
    let _ = stats.capture.set(Arc::clone(&capture.counters()));
    capture::drop_capabilities().map_err(|error| Failure::new("source", error))?;
    Ok(Box::new(capture))
}
