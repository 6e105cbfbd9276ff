//! The numbers that tell where every line is: counters that stages add to and reports read.
//!
//! Counters only grow; gauges say what is now. Each has one writer room, named beside it. Reading is not a snapshot:
//! two counters read one after the other may be a batch apart, and agree once the pipeline is idle.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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

/// Time that was spent on something, summed up.
#[derive(Debug, Default)]
pub struct Spent(Number);

impl Spent {
    /// Adds one stretch.
    pub fn add(&self, time: Duration) {
        self.0.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The sum.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

/// How long single things took, counted by size.
#[derive(Debug, Default)]
pub struct Durations {
    /// How many took as long as the bound of the same place, and longer than the one before; the last has no bound.
    counts: [Number; Durations::BOUNDS.len() + 1],
    sum: Spent,
}

impl Durations {
    /// Upper bounds of the classes, seconds: from a small file on a fast network to the time-out of a large one.
    pub const BOUNDS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let class = Self::BOUNDS.iter().position(|&bound| time.as_secs_f64() <= bound).unwrap_or(Self::BOUNDS.len());
        self.counts[class].add(1);
        self.sum.add(time);
    }

    /// How many took at most as long as each bound, then how many there were.
    pub fn cumulative(&self) -> [u64; Self::BOUNDS.len() + 1] {
        let mut sum = 0;
        self.counts.each_ref().map(|count| {
            sum += count.get();
            sum
        })
    }

    /// How long all of them took together.
    pub fn sum(&self) -> Duration {
        self.sum.get()
    }
}

/// A bounded queue between two stages.
#[derive(Debug, Default)]
pub struct Backlog {
    /// What is in it now (gauge).
    pub length: Number,
    /// What fits into it (gauge).
    pub capacity: Number,
}

/// The queues of the pipeline; set by whoever puts a batch in or takes one out.
#[derive(Debug, Default)]
pub struct Queues {
    /// Batches that no pack thread has taken up yet.
    pub pack: Backlog,
    /// Batches that are not on disk yet, packed or not.
    pub spool: Backlog,
    /// Blocks that are filled or in work; without a free one reading stops.
    pub blocks: Backlog,
}

/// Who waited for whom, and how long.
#[derive(Debug, Default)]
pub struct Waits {
    /// The source for room in the pipeline: reading stood still (pipeline).
    pub source: Spent,
    /// The spool for a batch that is still being packed: packing is what limits (pipeline).
    pub packed: Spent,
    /// The spool for the disk, in writes, syncs and renames (pipeline).
    pub disk: Spent,
    /// The spool for room or for a disk that refuses, between two tries (pipeline).
    pub retry: Spent,
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

    /// What of this is in none of `parts`; never below zero.
    #[must_use]
    pub fn without(mut self, parts: &[Self]) -> Self {
        for part in parts {
            self.lines = self.lines.saturating_sub(part.lines);
            self.bytes = self.bytes.saturating_sub(part.bytes);
            self.packets = self.packets.saturating_sub(part.packets);
            self.octets = self.octets.saturating_sub(part.octets);
        }
        self
    }
}

impl Flow {
    /// The sums now.
    pub fn sums(&self) -> Sums {
        Sums {
            lines: self.lines.get(),
            bytes: self.bytes.get(),
            packets: self.packets.get(),
            octets: self.octets.get(),
        }
    }

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
    /// Set aside in `rejects/` (spool). Header lines that were left out are in `header_lines`.
    pub rejected: Flow,
    /// Lines that had the wrong number of columns and passed, because `processor_bad_lines` is `keep` (pack).
    pub bad_lines: Number,
    /// Header lines left out of the files by `processor_csv_header` (spool).
    pub header_lines: Number,
    /// Lines of sealed files that gave way under `drop-oldest`; they are in `written`, too (spool).
    pub dropped: Flow,
    /// The files that those lines were in (spool).
    pub dropped_files: Number,
    /// Read, and in no file: the disk did not take them before the program had to end. The bytes are also those of header
    /// lines that were left out (pipeline).
    pub lost: Flow,
    /// In `written`, but gone with their open file, which somebody removed and which could not be brought back before the
    /// program had to end (pipeline).
    pub vanished: Flow,
    /// Rejected lines whose text did not fit into `rejects/` any more; counted in `rejected` too (spool).
    pub rejects_unkept: Number,

    /// The source is being read (gauge, 0 or 1; pipeline).
    pub source_runs: Number,
    /// The queues between the stages (pipeline).
    pub queues: Queues,
    /// Where time goes by waiting (pipeline).
    pub waits: Waits,
    /// The data dir or the disk is full, and the spool waits for room (gauge, 0 or 1; pipeline).
    pub spool_full: Number,
    /// The disk refuses writes, and the spool tries again (gauge, 0 or 1; pipeline).
    pub spool_failing: Number,
    /// Compressed bytes of the open segment; 0 when none is open (gauge; spool).
    pub open_bytes: Number,
    /// Torn files of earlier lives that were salvaged and sealed (spool).
    pub salvaged_files: Number,
    /// Bytes of their torn tails, which were cut (spool).
    pub salvage_cut_bytes: Number,
    /// Damaged files of earlier lives that were set aside as they were; the lines that they gave are sealed too (spool).
    pub torn_set_aside: Number,
    /// Files in `torn/`, and those beside that did not fit (gauge; spool).
    pub torn_files: Number,
    /// Their bytes (gauge; spool).
    pub torn_bytes: Number,

    /// Bytes that salvage has to go through; those of a file that is packed anew twice (gauge; spool).
    pub salvage_total_bytes: Number,
    /// How many of them it has gone through (gauge; spool).
    pub salvage_done_bytes: Number,

    /// Files that waited when the last upload pass began; 0 before it (gauge; uploader).
    pub drain_files: Number,
    /// Their bytes (gauge; uploader).
    pub drain_bytes: Number,

    /// Sealed segments that wait in the data dir now (gauge; the spool's stock). Before the first count, those that were there
    /// at the start, as far as looked.
    pub spool_files: Number,
    /// Their bytes (gauge). Before the first count, those of this life's segments.
    pub spool_bytes: Number,
    /// Segments sealed (spool).
    pub sealed_files: Number,
    /// Compressed bytes of the sealed segments (spool).
    pub sealed_bytes: Number,

    /// Segments that the server has whole (uploader).
    pub uploaded_files: Number,
    /// Their bytes.
    pub uploaded_bytes: Number,
    /// How many of them were taken away there before they could be looked at again (uploader).
    pub taken_files: Number,
    /// Attempts that failed (uploader).
    pub upload_failures: Number,
    /// How long the successful ones took (uploader).
    pub upload_durations: Durations,
    /// Wall clock of the last success, seconds since 1970; 0 before the first (uploader).
    pub last_upload: Number,

    /// Embedded capture, once it is open (`processor_source: capture`).
    pub capture: OnceLock<Arc<Capture>>,

    /// Events that were said, by level: error, warn, info, debug; also those that the level keeps out of the log (log).
    pub log_events: [Number; 4],
    /// Log lines given up because stderr was blocked (log).
    pub log_lines_lost: Number,

    /// The supervised daemons (`processor_source: pmacct`).
    pub chain: Chain,
}

impl Stats {
    /// Lines that were read and are in no file.
    pub fn lost_lines(&self) -> u64 {
        self.lost.lines.get() + self.vanished.lines.get()
    }

    /// Lines in files: written, and not gone with a file before it was sealed.
    pub fn lines_in_files(&self) -> u64 {
        self.written.lines.get().saturating_sub(self.vanished.lines.get())
    }
}

/// What the two daemons and the kernel tell of the way before the rows. Sums over all lives of the daemons; written by the
/// supervised source alone.
#[derive(Debug, Default)]
pub struct Chain {
    /// Packets that `pmacctd` got from the interfaces.
    pub captured_packets: Number,
    /// Packets that the kernel dropped because `pmacctd` was too slow.
    pub capture_drops: Number,
    /// Datagrams of flow records that `nfacctd` got.
    pub datagrams: Number,
    /// Datagrams dropped by the kernel because the receive buffer of `nfacctd` was full.
    pub datagram_drops: Number,
    /// Datagrams that `nfacctd` could not use, for want of a template or because they were damaged.
    pub datagrams_discarded: Number,
    /// Gaps in the exporters' sequence numbers: records that never arrived.
    pub sequence_gaps: Number,
    /// Rows that the print plugin says it has written.
    pub rows_printed: Number,
    /// Windows that `nfacctd` threw away because ten writers waited for us.
    pub windows_lost: Number,
    /// Rows cut short by the death of a daemon and left out.
    pub torn_rows: Number,
    /// The core of `nfacctd` runs (gauge, 0 or 1).
    pub collector_up: Number,
    /// The core of `pmacctd` runs (gauge, 0 or 1).
    pub exporter_up: Number,
    /// Starts of `nfacctd` after the first.
    pub collector_restarts: Number,
    /// Starts of `pmacctd` after the first.
    pub exporter_restarts: Number,
}

/// What became of captured packets. Written by embedded capture alone, about once a second.
#[derive(Debug, Default)]
pub struct Capture {
    /// Packets that came out of the ring or the file.
    pub seen: Number,
    /// Packets counted in flows.
    pub decoded: Number,
    /// Packets passed over by sampling.
    pub passed_over: Number,
    /// Packets not counted, by the index of the decoder's reason.
    pub rejected: [Number; Capture::REASONS],
    /// Packets that the kernel dropped because the ring was full.
    pub dropped_by_kernel: Number,
    /// Packets that the interface or its driver dropped, as far as libpcap knows.
    pub dropped_by_interface: Number,
    /// Flows in the tables now (gauge).
    pub flows: Number,
    /// Flows ended early because a table was full.
    pub evicted: Number,
    /// Rows printed.
    pub rows: Number,
    /// Windows printed early because they were full.
    pub split_windows: Number,
    /// Frames of files that `pcap_filter` left out. On an interface the kernel filters, and does not count.
    pub filtered: Number,
    /// Frames whose stamps were before the year 0 or after 9999.
    pub stamps_beyond: Number,
    /// Capture files read, or tried.
    pub files: Number,
    /// Those that could not be read, or not to their end.
    pub failed_files: Number,
    /// Interfaces that are captured (gauge); 0 when files are.
    pub interfaces: Number,
    /// Those of them that are not there or down now (gauge).
    pub interfaces_away: Number,
    /// Times that an interface went away.
    pub interface_losses: Number,
}

impl Capture {
    /// Reasons for which a packet is not counted: those of `flow::decode::Reject`, which stands above this room.
    pub const REASONS: usize = 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_classes() {
        let durations = Durations::default();
        for millis in [100, 101, 400, 400_000] {
            durations.observe(Duration::from_millis(millis));
        }
        assert_eq!(durations.cumulative(), [1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!(durations.sum(), Duration::from_millis(400_601));
    }
}
