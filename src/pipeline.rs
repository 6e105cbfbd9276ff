//! Channels and threads; the only place that spawns.

use std::time::Duration;

/// Settings of the pipeline itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pack threads, 1 to 64.
    pub workers: usize,
    /// How long a line may wait before it is on disk in recoverable form, 10 ms to 60 s.
    pub flush_interval: Duration,
    /// Age at which a segment is sealed, also when no line arrives.
    pub rotate_interval: Duration,
    /// Raw bytes at which a segment is sealed.
    pub rotate_bytes: u64,
    /// Bound on the last upload pass after a signal.
    pub shutdown_timeout: Duration,
}
