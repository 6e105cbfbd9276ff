//! The status report: one JSON object every interval, by POST and to a file.
//!
//! Promises: totals are the process's counters themselves, so that they agree with the files; every report made is
//! recorded in the file whether or not its POST worked; a receiver that hangs delays neither the next report's numbers nor
//! the program's end. It adds members to the object and never renames one.
//!
//! It follows no redirect, keeps no connection, reads no more of an answer than it must, and never retries: the next
//! report carries the totals anyway.
//!
//! ```text
//! Reporter::run   numbers → JSON → file ──bounded(1)──▶ Poster::run   POST
//! ```

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::clock::{self, Zone};
use crate::flow::decode::Reject;
use crate::log::{Event, Log};
use crate::secret::{self, Secret};
use crate::stats::{Capture, Number, Stats};

mod file;
mod post;

pub use post::Poster;

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
    /// Zone of the stamps in the file.
    pub zone: Zone,
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

impl Url {
    /// What of it never shows, for the texts of others.
    fn login(&self) -> Secret {
        let rest = self.0.split_once("//").map_or(&*self.0, |(_, rest)| rest);
        Secret::new(
            rest.rsplit_once('@').map_or("", |(login, _)| login.split_once(':').map_or(login, |(_, pass)| pass)),
        )
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&secret::without_login(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The numbers that a report is made of, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets in the lines read.
    pub rcv_packets: u64,
    /// Bytes in the lines read.
    pub rcv_bytes: u64,
    /// Packets in the lines written to files.
    pub packets: u64,
    /// Bytes in the lines written to files.
    pub bytes: u64,
    /// Lines read.
    pub lines: u64,
    /// Lines set aside.
    pub rejected_lines: u64,
    /// Header lines left out.
    pub header_lines: u64,
    /// Lines that were read and are in no file.
    pub lost_lines: u64,
    /// Lines of files that gave way to newer ones.
    pub dropped_lines: u64,
    /// Sealed files that wait now.
    pub spool_files: u64,
    /// Their bytes.
    pub spool_bytes: u64,
    /// Files uploaded.
    pub uploaded_files: u64,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Attempts to upload that failed.
    pub upload_failures: u64,
    /// Packets that the capture got.
    pub captured_packets: u64,
    /// Packets that the kernel dropped before the capture.
    pub capture_drops: u64,
    /// Datagrams of flow records that the kernel dropped before `nfacctd`.
    pub datagram_drops: u64,
    /// Gaps in the sequence of the flow records.
    pub sequence_gaps: u64,
    /// Windows that `nfacctd` threw away.
    pub lost_windows: u64,
    /// What embedded capture tells beside `captured_packets` and `capture_drops`; `None` with another source.
    pub capture: Option<Captured>,
}

/// What became of captured packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Captured {
    /// Packets counted in flows.
    pub counted: u64,
    /// Packets not counted, by the index of the decoder's reason.
    pub uncounted: [u64; Capture::REASONS],
    /// Packets that the filter left out of files.
    pub filtered: u64,
    /// Packets passed over by sampling.
    pub unsampled: u64,
    /// Rows printed.
    pub rows: u64,
    /// Flows ended early because a table was full.
    pub evicted_flows: u64,
    /// Capture files read, or tried.
    pub files: u64,
    /// Those that could not be read to their end.
    pub failed_files: u64,
}

impl Captured {
    fn of(capture: &Capture) -> Self {
        Self {
            counted: capture.decoded.get(),
            uncounted: capture.rejected.each_ref().map(Number::get),
            filtered: capture.filtered.get(),
            unsampled: capture.passed_over.get(),
            rows: capture.rows.get(),
            evicted_flows: capture.evicted.get(),
            files: capture.files.get(),
            failed_files: capture.failed_files.get(),
        }
    }

    fn json(&self) -> String {
        let uncounted = Reject::ALL.map(|why| format!(r#""{}":{}"#, why.name(), self.uncounted[why.index()])).join(",");
        let numbers = [
            ("filtered", self.filtered),
            ("unsampled", self.unsampled),
            ("rows", self.rows),
            ("evictedFlows", self.evicted_flows),
            ("files", self.files),
            ("failedFiles", self.failed_files),
        ];
        let numbers = numbers.map(|(name, number)| format!(r#""{name}":{number}"#)).join(",");
        format!(r#"{{"counted":{},"uncounted":{{{uncounted}}},{numbers}}}"#, self.counted)
    }
}

impl Counters {
    /// The counters now. What is written was read before, so it is looked at first: a report never tells more written than
    /// read.
    pub fn of(stats: &Stats) -> Self {
        let (packets, bytes) = (stats.written.packets.get(), stats.written.octets.get());
        let (chain, capture) = (&stats.chain, stats.capture.get());
        Self {
            packets,
            bytes,
            rcv_packets: stats.read.packets.get(),
            rcv_bytes: stats.read.octets.get(),
            lines: stats.read.lines.get(),
            rejected_lines: stats.rejected.lines.get(),
            header_lines: stats.header_lines.get(),
            lost_lines: stats.lost_lines(),
            dropped_lines: stats.dropped.lines.get(),
            spool_files: stats.spool_files.get(),
            spool_bytes: stats.spool_bytes.get(),
            uploaded_files: stats.uploaded_files.get(),
            uploaded_bytes: stats.uploaded_bytes.get(),
            upload_failures: stats.upload_failures.get(),
            captured_packets: chain.captured_packets.get() + capture.map_or(0, |capture| capture.seen.get()),
            capture_drops: chain.capture_drops.get() + capture.map_or(0, |capture| capture.dropped_by_kernel.get()),
            datagram_drops: chain.datagram_drops.get(),
            sequence_gaps: chain.sequence_gaps.get(),
            lost_windows: chain.windows_lost.get(),
            capture: capture.map(|capture| Captured::of(capture)),
        }
    }
}

/// Knows what the last report told. Pure: time and counters are arguments.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    last_at: Instant,
    last: Counters,
}

impl Meter {
    /// A meter of a process that started at `start`, with all counters at 0.
    pub fn new(start: Instant) -> Self {
        Self { start, last_at: start, last: Counters::default() }
    }

    /// The report at `now`; the next one counts from here.
    pub fn report(&mut self, counters: Counters, now: Instant) -> Report {
        let report = Report {
            run: now.saturating_duration_since(self.start),
            since_last: now.saturating_duration_since(self.last_at),
            last: self.last,
            now: counters,
        };
        (self.last_at, self.last) = (now, counters);
        report
    }
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    run: Duration,
    since_last: Duration,
    last: Counters,
    now: Counters,
}

impl Report {
    /// The object that receivers in the field expect, key by key; averages are whole numbers a second.
    pub fn json(&self, uuid: &str) -> String {
        let (last, now) = (&self.last, &self.now);
        let sums = |c: &Counters| [c.rcv_packets, c.rcv_bytes, c.packets, c.bytes];
        let (before, total) = (sums(last), sums(now));
        let current = [0, 1, 2, 3].map(|i| total[i].saturating_sub(before[i]));
        let mut members = vec![
            format!(r#""uuid":{}"#, serde_json::Value::from(uuid)),
            format!(r#""runSecs":{}"#, self.run.as_secs()),
        ];
        for (scope, sums, time) in [("cur", current, self.since_last), ("total", total, self.run)] {
            let names = ["RcvPkts", "RcvBytes", "Pkts", "Bytes"];
            members.extend(names.iter().zip(sums).map(|(name, sum)| format!(r#""{scope}{name}":{sum}"#)));
            let names = ["AvgRcvPps", "AvgRcvBps", "AvgPps", "AvgBps"];
            let averages = sums.map(|sum| per_second(sum, time));
            members.extend(names.iter().zip(averages).map(|(name, average)| format!(r#""{scope}{name}":{average}"#)));
        }
        let ours = [
            ("lines", now.lines),
            ("rejectedLines", now.rejected_lines),
            ("droppedLines", now.dropped_lines),
            ("spoolFiles", now.spool_files),
            ("spoolBytes", now.spool_bytes),
            ("uploadedFiles", now.uploaded_files),
            ("uploadedBytes", now.uploaded_bytes),
            ("uploadFailures", now.upload_failures),
            ("capturedPackets", now.captured_packets),
            ("captureDrops", now.capture_drops),
            ("datagramDrops", now.datagram_drops),
            ("sequenceGaps", now.sequence_gaps),
            ("lostWindows", now.lost_windows),
            ("headerLines", now.header_lines),
            ("lostLines", now.lost_lines),
        ];
        members.extend(ours.map(|(name, number)| format!(r#""{name}":{number}"#)));
        members.extend(now.capture.map(|capture| format!(r#""capture":{}"#, capture.json())));
        format!("{{{}}}", members.join(","))
    }
}

/// `sum` a second over `time`, rounded down; 0 when no time has passed.
fn per_second(sum: u64, time: Duration) -> u64 {
    let average = (u128::from(sum) * 1000).checked_div(time.as_millis()).unwrap_or(0);
    u64::try_from(average).unwrap_or(u64::MAX)
}

/// Makes the reports; the thread `report`.
#[derive(Debug)]
pub struct Reporter {
    options: Options,
    log: Log,
    record: Option<file::Record>,
    /// One report may wait while another is on its way. More would be old news, and the totals are in the next one.
    posts: Option<Sender<String>>,
    /// Disconnected when the poster has ended.
    posted: Receiver<Infallible>,
}

impl Reporter {
    /// The reporter and, with a URL, the poster that needs a thread of its own. Starts and opens nothing.
    pub fn new(options: Options, log: &Log) -> (Self, Option<Poster>) {
        let (posts, to_post) = bounded(1);
        let (posting, posted) = bounded(0);
        let poster = options.url.clone().map(|url| Poster::new(url, log.clone(), to_post, posting));
        let record = options.file.clone().map(|path| file::Record {
            path,
            max_bytes: options.file_max_bytes,
            backups: options.file_backups,
        });
        let posts = poster.is_some().then_some(posts);
        (Self { options, log: log.clone(), record, posts, posted }, poster)
    }

    /// Reports every interval until `end` says by when the last report must be over, then once more, so that it has the sums of
    /// the whole run. A POST that is under way then is left behind. Call it with all stages started and end it when they
    /// have ended; a disconnected `end` leaves no time.
    pub fn run(self, stats: &Arc<Stats>, end: &Receiver<Instant>) {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let mut due = start + self.options.interval;
        let deadline = loop {
            match end.recv_deadline(due) {
                Ok(deadline) => break deadline,
                Err(RecvTimeoutError::Disconnected) => break Instant::now(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.report(&meter.report(Counters::of(stats), Instant::now()), Instant::now());
            due = next(due, self.options.interval, Instant::now());
        };
        self.report(&meter.report(Counters::of(stats), Instant::now()), deadline);
        let Self { posts, posted, .. } = self;
        drop(posts);
        // It answers by ending; what it says is of no matter.
        let _ = posted.recv_deadline(deadline);
    }

    /// Records a report and hands it to the poster, waiting until `deadline` for one that is busy.
    fn report(&self, report: &Report, deadline: Instant) {
        let json = report.json(&self.options.uuid);
        if let Some(record) = &self.record {
            let stamp = self.options.zone.local(clock::now()).to_rfc3339_opts(chrono::SecondsFormat::Secs, false);
            if let Err(error) = record.append(&format!("{stamp} {json}\n")) {
                self.log.event(Event::ReportFailed { error: format!("{}: {error}", record.path.display()) });
            }
        }
        if let Some(posts) = &self.posts
            && posts.send_deadline(json, deadline).is_err()
        {
            self.log.event(Event::ReportFailed { error: "the receiver still has not answered the last one".into() });
        }
    }
}

/// The time after `due` at which the next report is made: on the beat, and without catching up on beats that were missed.
fn next(due: Instant, interval: Duration, now: Instant) -> Instant {
    let next = due + interval;
    if next > now { next } else { now + interval }
}

#[cfg(test)]
mod tests;
