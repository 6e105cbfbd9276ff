//! The status report: one JSON object every interval, by POST and to a file.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of the status report.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to POST; `None` posts nowhere.
    pub url: Option<String>,
    /// Time between two reports.
    pub interval: Duration,
    /// `uuid` in the report; the host name unless configured.
    pub uuid: String,
    /// File to append to; `None` writes none.
    pub file: Option<PathBuf>,
    /// Size at which the file is rotated, bytes.
    pub file_max_bytes: u64,
    /// Rotated files that are kept; 0 keeps all.
    pub file_backups: u32,
}
