//! One reading of the configuration for every command: all that can be refused is refused here, in one answer, and what comes
//! out is ready to run.
//!
//! The keys of processor ([`config`](crate::config)), those of pmacct that the configured source reads, and the files that they
//! name are judged together: who mends one line is not told of the next one only then. Nothing is judged again later.
//!
//! It starts, makes and connects to nothing; it opens the files that the configuration names, and looks for programs in PATH.

use std::path::Path;
use std::time::Duration;

use crate::config::{Config, Inputs, Problem, Rejected, SourceKind};
use crate::pmacctconf::Line;
use crate::source::capture::{self, Capture};
use crate::source::pmacct::{self, PlanError};
use crate::supervise::Limits;

/// What the daemons' stop leaves of `processor_shutdown_timeout_sec` for the last upload pass. They need 4.2 s when all is
/// well.
const LEFT_FOR_UPLOAD: Duration = Duration::from_secs(2);

/// A configuration that can run.
#[derive(Debug)]
pub struct Plan {
    /// The keys of processor.
    pub config: Config,
    /// Those of the source.
    pub source: SourcePlan,
}

/// What the configured source will run with.
#[derive(Debug)]
pub enum SourcePlan {
    /// Standard input needs nothing.
    Stdin,
    /// The daemons and their files.
    Pmacct(Box<pmacct::Plan>),
    /// The settings of embedded capture, and the keys that it does not use.
    Capture(Box<capture::Options>, Vec<Line>),
}

impl Plan {
    /// Reads and judges the file that `inputs` names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the file; or why the file cannot be read.
    pub fn build(inputs: &Inputs) -> Result<Self, Rejected> {
        let (config, mut problems) = Config::read(inputs)?;
        let source = source(&config).map_err(|more| problems.extend(more)).ok();
        if config.source != SourceKind::Stdin {
            problems.extend(missing_files(&config));
        }
        let trust = config.ftp.as_ref().map(|ftp| ftp.tls.test());
        if let Some(Err(error)) = trust
            && !problems.iter().any(|problem| problem.key == CA)
        {
            let line = config.line_of(CA);
            problems.push(Problem { key: CA.to_owned(), ..problem(&config, line, error.to_string()) });
        }
        match source {
            Some(source) if problems.is_empty() => Ok(Self { config, source }),
            _ => Err(Rejected::new(problems)),
        }
    }

    /// What `processor check` prints: every value with its origin, all warnings, and what the source will run with.
    pub fn describe(&self) -> String {
        let mut notes: Vec<String> = self.config.traps().iter().map(|trap| format!("note: {trap}")).collect();
        let mut more = String::new();
        match &self.source {
            SourcePlan::Stdin => {}
            SourcePlan::Pmacct(plan) => {
                notes.extend(plan.warnings().iter().map(|warning| format!("warning: {warning}")));
                more = plan.describe();
            }
            SourcePlan::Capture(_, unused) => {
                let [ignored, _] = by_weight(unused);
                if !ignored.is_empty() {
                    notes.push(format!(
                        "warning: these keys change what pmacct counts and are not used by capture, so the rows differ: {ignored}"
                    ));
                }
            }
        }
        self.config.describe(&notes) + &more
    }
}

const CA: &str = "processor_ftp_tls_ca";

/// The names of those keys that would change what is counted, then those of the others.
pub fn by_weight(unused: &[Line]) -> [String; 2] {
    [true, false].map(|changes| {
        let keys = unused.iter().filter(|key| capture::changes_counts(key) == changes);
        keys.map(Line::shown_key).collect::<Vec<_>>().join(", ")
    })
}

fn problem(config: &Config, line: u32, text: String) -> Problem {
    let path = config.path.display();
    let place = if line == 0 { path.to_string() } else { format!("{path}:{line}") };
    Problem { place, line, key: String::new(), text }
}

fn source(config: &Config) -> Result<SourcePlan, Vec<Problem>> {
    match config.source {
        SourceKind::Stdin => Ok(SourcePlan::Stdin),
        SourceKind::Capture => capture(config),
        SourceKind::Pmacct => daemons(config),
    }
}

/// Files that pmacct's keys name and that are not there: the daemons would end, or go on without them.
fn missing_files(config: &Config) -> Vec<Problem> {
    const KEYS: [&str; 4] = ["networks_file", "pre_tag_map", "sampling_map", "pcap_interfaces_map"];
    let named = config.text.foreign().filter(|line| KEYS.contains(&&*line.key) && !Path::new(&line.value).is_file());
    let told = |line: &Line| problem(config, line.number, format!("{}: there is no file {}", line.key, line.value));
    named.map(told).collect()
}

fn capture(config: &Config) -> Result<SourcePlan, Vec<Problem>> {
    let named = |error: &capture::KeyError| problem(config, error.line, error.to_string());
    let (options, unused) =
        capture::Options::read(&config.text).map_err(|errors| errors.iter().map(named).collect::<Vec<_>>())?;
    let options = capture::Options { threads: config.capture_threads, ..options };
    Capture::problems(&options).map_err(|error| vec![problem(config, 0, error.to_string())])?;
    Ok(SourcePlan::Capture(Box::new(options), unused))
}

fn daemons(config: &Config) -> Result<SourcePlan, Vec<Problem>> {
    let options = pmacct::Options {
        config_path: config.path.clone(),
        text: config.text.clone(),
        pmacctd_path: config.programs.pmacctd.clone(),
        nfacctd_path: config.programs.nfacctd.clone(),
        // The lock on the data directory makes it ours alone.
        run_dir: config.spool.dir.join(".pmacct"),
        limits: Limits { stop_within: config.shutdown_timeout.saturating_sub(LEFT_FOR_UPLOAD), ..Limits::default() },
        measure_every: pmacct::MEASURE_EVERY,
    };
    match pmacct::Plan::new(options) {
        Ok(plan) => Ok(SourcePlan::Pmacct(Box::new(plan))),
        Err(PlanError::Program(error)) => Err(vec![problem(config, 0, error.to_string())]),
        Err(PlanError::Conf { findings, .. }) => {
            let fatal = findings.iter().filter(|finding| finding.is_fatal());
            Err(fatal.map(|finding| problem(config, finding.line.unwrap_or(0), finding.to_string())).collect())
        }
    }
}
