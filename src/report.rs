//! The status report: one JSON object every interval, by POST and to a file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the status report.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to POST; `None` posts nowhere.
    pub url: Option<Url>,
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

/// Where reports go. A password in it shows neither in `Debug` nor in `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// Wraps a checked http or https URL.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The URL itself, for the one place that requests it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// `http://user:pass@host/` shows as `http://***@host/`.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.0.find("://").map_or(0, |at| at + 3);
        let end = self.0[start..].find(['/', '?', '#']).map_or(self.0.len(), |at| start + at);
        match self.0[start..end].rfind('@') {
            Some(at) => write!(f, "{}***{}", &self.0[..start], &self.0[start + at..]),
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
