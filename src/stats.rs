//! The numbers that tell where every line is: counters that stages add to and reports read.
//!
//! Counters only grow; gauges say what is now. Each has one writer room, named beside it. Reading is not a snapshot:
//! two counters read one after the other may be a batch apart, and agree once the pipeline is idle.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows (counter) or is set (gauge).
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to a counter.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes from a gauge; never below zero.
    pub fn sub(&self, n: u64) {
        // The closure always gives a value, so the update cannot fail.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |value| Some(value.saturating_sub(n)));
    }

    /// Sets a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What passed one point of the way, in the three units that reports use.
#[derive(Debug, Default)]
pub struct Flow {
    /// Lines, header lines included.
    pub lines: Number,
    /// Raw bytes of those lines.
    pub bytes: Number,
    /// Sum of their PACKETS column.
    pub packets: Number,
    /// Sum of their BYTES column.
    pub octets: Number,
}

/// The sums of one batch of lines, added to a [`Flow`] at once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// Lines.
    pub lines: u64,
    /// Raw bytes of those lines.
    pub bytes: u64,
    /// Sum of the PACKETS column.
    pub packets: u64,
    /// Sum of the BYTES column.
    pub octets: u64,
}

impl Sums {
    /// Adds `other`; the sums of foreign numbers wrap rather than fail.
    pub fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.packets = self.packets.wrapping_add(other.packets);
        self.octets = self.octets.wrapping_add(other.octets);
    }
}

impl Flow {
    /// Adds one batch.
    pub fn add(&self, sums: &Sums) {
        self.lines.add(sums.lines);
        self.bytes.add(sums.bytes);
        self.packets.add(sums.packets);
        self.octets.add(sums.octets);
    }
}

/// Every number of the program. Made once in `app`, lent to all.
#[derive(Debug, Default)]
pub struct Stats {
    /// Read from the source (pack counts it, batch by batch).
    pub read: Flow,
    /// Appended to a segment (spool).
    pub written: Flow,
    /// Set aside in `rejects/`, and header lines dropped by `processor_csv_header` (spool).
    pub rejected: Flow,
    /// Lines that had the wrong number of columns and passed, because `processor_bad_lines` is `keep` (pack).
    pub bad_lines: Number,
    /// Header lines left out of the files by `processor_csv_header` (spool).
    pub header_lines: Number,
    /// Lost on purpose or by necessity, each time with an event in the log (spool).
    pub dropped: Flow,
    /// Rejected lines whose text did not fit into `rejects/` any more; counted in `rejected` too (spool).
    pub rejects_unkept: Number,

    /// Sealed segments that wait in the data dir now (gauge; spool and uploader).
    pub spool_files: Number,
    /// Their bytes (gauge).
    pub spool_bytes: Number,
    /// Segments sealed (spool).
    pub sealed_files: Number,
    /// Compressed bytes of the sealed segments (spool).
    pub sealed_bytes: Number,

    /// Segments that the server has whole (uploader).
    pub uploaded_files: Number,
    /// Their bytes.
    pub uploaded_bytes: Number,
    /// Attempts that failed (uploader).
    pub upload_failures: Number,
    /// Wall clock of the last success, seconds since 1970; 0 before the first (uploader).
    pub last_upload: Number,

    /// Log lines given up because stderr was blocked (log).
    pub log_lines_lost: Number,
}
