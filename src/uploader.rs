//! Oldest segment → remote → remove.

use std::time::Duration;

/// Settings of the uploader.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between the starts of two passes.
    pub interval: Duration,
    /// Parallel sessions, 1 to 8.
    pub connections: usize,
}
