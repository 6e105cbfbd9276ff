//! `/metrics`: the numbers in Prometheus's text format 0.0.4. Pure.
//!
//! Every family has HELP and TYPE, the prefix `processor_`, base units (seconds, bytes) and a fixed set of labels, so that
//! the number of series does not grow with the traffic. A number that is 0 is said. Names are a contract: add, never rename.

use std::fmt::Write;
use std::time::Duration;

use super::health::Check;
use super::{About, Disk, ledger};
use crate::flow::decode::Reject;
use crate::stats::{Durations, Stats};

/// What is told beside the counters.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// What does not change.
    pub about: &'a About,
    /// What the data directory's disk looked like lately.
    pub disk: Disk,
    /// Seconds since 1970 now.
    pub epoch: f64,
    /// Since the start.
    pub run: Duration,
    /// What the process has used.
    pub usage: Usage,
    /// Is it ready.
    pub checks: &'a [Check],
}

/// What the process uses, as far as the system tells.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time of all threads.
    pub cpu: Duration,
    /// Memory in use, bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// The text under construction.
struct Page(String);

/// Labels and value of one series.
type Series<'a> = (Vec<(&'static str, &'a str)>, f64);

impl Page {
    /// One family with its series.
    fn family<'a>(&mut self, (kind, name): (&str, &str), help: &str, series: impl IntoIterator<Item = Series<'a>>) {
        self.head(kind, name, help);
        for (labels, value) in series {
            self.series(name, &labels, value);
        }
    }

    fn head(&mut self, kind: &str, name: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP processor_{name} {help}\n# TYPE processor_{name} {kind}");
    }

    fn series(&mut self, name: &str, labels: &[(&'static str, &str)], value: f64) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "processor_{name}{labels} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(("counter", name), help, [(vec![], value as f64)]);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.family(("gauge", name), help, [(vec![], value.into())]);
    }

    fn histogram(&mut self, name: &str, help: &str, durations: &Durations) {
        self.head("histogram", name, help);
        let counts = durations.cumulative();
        let bounds = Durations::BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            self.series(&format!("{name}_bucket"), &[("le", &bound)], count as f64);
        }
        self.series(&format!("{name}_sum"), &[], durations.sum().as_secs_f64());
        self.series(&format!("{name}_count"), &[], counts[counts.len() - 1] as f64);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// The whole page.
pub fn page(stats: &Stats, moment: &Moment<'_>) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    process(&mut page, stats, moment);
    lines(&mut page, stats);
    capture(&mut page, stats, moment.about);
    pipeline(&mut page, stats);
    spool(&mut page, stats, moment);
    upload(&mut page, stats);
    log(&mut page, stats);
    page.0
}

fn one<'a>(label: &'static str, value: &'a str, number: u64) -> Series<'a> {
    (vec![(label, value)], number as f64)
}

fn flag(on: u64) -> f64 {
    if on == 0 { 0.0 } else { 1.0 }
}

fn process(page: &mut Page, stats: &Stats, moment: &Moment<'_>) {
    let about = moment.about;
    let labels = vec![("version", about.version), ("commit", about.commit), ("source", about.source)];
    page.family(("gauge", "build_info"), "What runs; the value is always 1.", [(labels, 1.0)]);
    let started = moment.epoch - moment.run.as_secs_f64();
    page.gauge("start_time_seconds", "When the process started, seconds since 1970.", started.round());
    let seconds = moment.usage.cpu.as_secs_f64();
    page.family(("counter", "cpu_seconds_total"), "CPU time of all threads.", [(vec![], seconds)]);
    let (resident, descriptors) = (moment.usage.resident_bytes as f64, moment.usage.descriptors as f64);
    page.gauge("resident_memory_bytes", "Memory in use.", resident);
    page.gauge("open_descriptors", "Open file descriptors.", descriptors);
    page.gauge("source_up", "1 while the source is being read.", flag(stats.source_runs.get()));
    let ready = moment.checks.iter().map(|check| one("check", check.name, u64::from(check.fault.is_none())));
    page.family(("gauge", "ready"), "1 for each check of /readyz that holds.", ready);
}

fn lines(page: &mut Page, stats: &Stats) {
    let stages = [("read", &stats.read), ("written", &stats.written)];
    let family = |page: &mut Page, name, help, of: &dyn Fn(&crate::stats::Flow) -> u64| {
        page.family(("counter", name), help, stages.iter().map(|(stage, flow)| one("stage", stage, of(flow))));
    };
    family(page, "lines_total", "Lines read from the source and written to files, headers included.", &|f| {
        f.lines.get()
    });
    family(page, "line_bytes_total", "Uncompressed bytes of those lines.", &|f| f.bytes.get());
    family(page, "flow_packets_total", "Sum of the PACKETS column of those lines.", &|f| f.packets.get());
    family(page, "flow_bytes_total", "Sum of the BYTES column of those lines.", &|f| f.octets.get());
    let headers = stats.header_lines.get();
    page.counter(
        "header_lines_dropped_total",
        "Header lines left out of the files, as processor_csv_header asks.",
        headers,
    );
    let bad = stats.bad_lines.get();
    page.counter("bad_lines_total", "Lines with a wrong number of columns, kept or quarantined.", bad);
    let ledger = ledger::losses(stats);
    let losses = ledger.iter().map(|loss| (vec![("where", loss.place), ("unit", loss.unit)], loss.count as f64));
    page.family(
        ("counter", "lost_total"),
        "What did not reach a delivered file, by the place where it was lost.",
        losses,
    );
}

fn capture(page: &mut Page, stats: &Stats, about: &About) {
    if let Some(capture) = stats.capture.get() {
        page.counter("capture_packets_total", "Packets that capture was given.", capture.seen.get());
        page.counter("capture_counted_packets_total", "Packets counted in flows.", capture.decoded.get());
        page.counter("capture_unsampled_packets_total", "Packets passed over by sampling.", capture.passed_over.get());
        let reasons = Reject::ALL.iter().map(|why| one("reason", why.name(), capture.rejected[why.index()].get()));
        page.family(("counter", "capture_uncounted_packets_total"), "Packets not counted, by reason.", reasons);
        page.gauge("flow_table_flows", "Flows in the tables.", capture.flows.get() as f64);
        page.counter(
            "flow_table_evictions_total",
            "Flows ended early because a table was full.",
            capture.evicted.get(),
        );
        page.counter(
            "window_splits_total",
            "Windows printed early because they were full.",
            capture.split_windows.get(),
        );
        page.counter(
            "capture_filtered_packets_total",
            "Frames of files that pcap_filter left out.",
            capture.filtered.get(),
        );
        page.counter(
            "capture_stamps_beyond_total",
            "Frames with stamps outside the years 0 to 9999.",
            capture.stamps_beyond.get(),
        );
        page.counter("capture_files_total", "Capture files read, or tried.", capture.files.get());
        page.counter(
            "capture_files_failed_total",
            "Capture files that could not be read to their end.",
            capture.failed_files.get(),
        );
        page.gauge("capture_interfaces", "Interfaces that are captured.", capture.interfaces.get() as f64);
        page.gauge(
            "capture_interfaces_away",
            "Those of them that are not there or down.",
            capture.interfaces_away.get() as f64,
        );
        page.counter(
            "capture_interface_losses_total",
            "Times that an interface went away.",
            capture.interface_losses.get(),
        );
    }
    let chain = &stats.chain;
    if about.source == "pmacct" {
        let up = [("pmacctd", &chain.exporter_up), ("nfacctd", &chain.collector_up)];
        let up = up.map(|(child, number)| one("child", child, number.get()));
        page.family(("gauge", "child_up"), "1 while the supervised daemon runs.", up);
    }
    let restarts = [("pmacctd", &chain.exporter_restarts), ("nfacctd", &chain.collector_restarts)];
    let restarts = restarts.map(|(child, number)| one("child", child, number.get()));
    page.family(("counter", "child_restarts_total"), "Starts of a supervised daemon after its first.", restarts);
    page.counter("chain_packets_total", "Packets that pmacctd got.", chain.captured_packets.get());
    page.counter("chain_datagrams_total", "Datagrams of flow records that nfacctd got.", chain.datagrams.get());
    page.counter("chain_rows_total", "Rows that nfacctd says it printed.", chain.rows_printed.get());
}

fn pipeline(page: &mut Page, stats: &Stats) {
    let queues = &stats.queues;
    let queues = [("pack", &queues.pack), ("spool", &queues.spool), ("blocks", &queues.blocks)];
    let lengths = queues.map(|(name, queue)| one("queue", name, queue.length.get()));
    page.family(("gauge", "queue_batches"), "Batches in a queue between two stages.", lengths);
    let capacities = queues.map(|(name, queue)| one("queue", name, queue.capacity.get()));
    page.family(("gauge", "queue_capacity_batches"), "Batches that fit into the queue.", capacities);
    let waits = &stats.waits;
    let waits = [("source", &waits.source), ("packed", &waits.packed), ("disk", &waits.disk), ("retry", &waits.retry)];
    let waits = waits.map(|(what, spent)| (vec![("for", what)], spent.get().as_secs_f64()));
    let help =
        "Time spent waiting: the source for room, the spool for a packed batch, for the disk, and before a retry.";
    page.family(("counter", "wait_seconds_total"), help, waits);
}

fn spool(page: &mut Page, stats: &Stats, moment: &Moment<'_>) {
    let (files, disk) = (stats.spool_files.get(), moment.disk);
    page.gauge("spool_files", "Sealed files that wait in the data directory.", files as f64);
    page.gauge("spool_bytes", "Bytes of the files that wait.", stats.spool_bytes.get() as f64);
    let oldest = disk.oldest_age(files, moment.epoch).map_or(0.0, |age| age.as_secs_f64());
    page.gauge("spool_oldest_file_age_seconds", "Age of the oldest file that waits; 0 without one.", oldest.round());
    let limit = moment.about.spool_limit.unwrap_or(0) as f64;
    page.gauge("spool_limit_bytes", "Limit of the data directory; 0 is none.", limit);
    page.gauge("spool_disk_free_bytes", "Free space on its file system.", disk.free_bytes as f64);
    page.gauge("spool_full", "1 while reading stops for want of room.", flag(stats.spool_full.get()));
    page.gauge("spool_write_failing", "1 while the disk refuses writes.", flag(stats.spool_failing.get()));
    page.gauge("open_file_bytes", "Compressed bytes of the file that is being written.", stats.open_bytes.get() as f64);
    page.counter("sealed_files_total", "Files completed.", stats.sealed_files.get());
    page.counter("sealed_bytes_total", "Compressed bytes of the completed files.", stats.sealed_bytes.get());
    page.counter("salvaged_files_total", "Files of an earlier life that were salvaged.", stats.salvaged_files.get());
    page.gauge("torn_files", "Damaged files that wait in torn/ for somebody.", stats.torn_files.get() as f64);
    page.gauge("torn_bytes", "Their bytes.", stats.torn_bytes.get() as f64);
}

fn upload(page: &mut Page, stats: &Stats) {
    let results = [("success", &stats.uploaded_files), ("failure", &stats.upload_failures)];
    let results = results.map(|(result, number)| one("result", result, number.get()));
    page.family(("counter", "uploads_total"), "Attempts to upload a file, by result.", results);
    page.counter("uploaded_bytes_total", "Bytes of the files that the server has.", stats.uploaded_bytes.get());
    let taken = stats.taken_files.get();
    page.counter("upload_taken_total", "Uploaded files that the far end took away at once.", taken);
    page.histogram("upload_duration_seconds", "How long a successful upload took.", &stats.upload_durations);
    let last = stats.last_upload.get() as f64;
    page.gauge("upload_last_success_timestamp_seconds", "When the last upload succeeded; 0 before the first.", last);
}

fn log(page: &mut Page, stats: &Stats) {
    let levels = ["error", "warn", "info", "debug"];
    let events = levels.iter().zip(&stats.log_events).map(|(level, number)| one("level", level, number.get()));
    page.family(("counter", "log_events_total"), "Events, also those that the log's level leaves out.", events);
    page.counter("log_lines_lost_total", "Log lines given up because stderr was blocked.", stats.log_lines_lost.get());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::super::tests::about;
    use super::*;
    use crate::status::health;

    fn moment(about: &About) -> Moment<'_> {
        Moment {
            about,
            disk: Disk { oldest: Some(990), free_bytes: 1 << 33 },
            epoch: 1000.0,
            run: Duration::from_secs(100),
            usage: Usage { cpu: Duration::from_millis(1500), resident_bytes: 1 << 20, descriptors: 12 },
            checks: &[],
        }
    }

    fn full() -> Stats {
        let stats = Stats::default();
        stats.read.lines.add(5);
        stats.spool_files.set(1);
        stats.upload_durations.observe(Duration::from_millis(700));
        stats.capture.set(Arc::default()).unwrap();
        stats
    }

    #[test]
    fn daemons_have_a_series_where_they_are_supervised() {
        let (plain, stats) = (about(), full());
        assert!(!page(&stats, &moment(&plain)).contains("child_up"));
        let about = About { source: "pmacct", ..plain };
        stats.chain.collector_up.set(1);
        let text = page(&stats, &moment(&about));
        assert!(text.contains("processor_child_up{child=\"pmacctd\"} 0\nprocessor_child_up{child=\"nfacctd\"} 1\n"));
    }

    #[test]
    fn numbers_as_they_are_written() {
        let (about, stats) = (about(), full());
        let facts = health::Facts {
            source_runs: true,
            interfaces_away: 0,
            spool_full: true,
            spool_failing: false,
            waiting: 0,
            oldest: None,
            upload: None,
        };
        let checks = health::checks(&facts);
        let text = page(&stats, &Moment { checks: &checks, ..moment(&about) });
        for line in [
            "processor_build_info{version=\"1.2.3\",commit=\"abc\",source=\"stdin\"} 1",
            "processor_start_time_seconds 900",
            "processor_cpu_seconds_total 1.5",
            "processor_ready{check=\"source\"} 1",
            "processor_ready{check=\"spool\"} 0",
            "processor_lines_total{stage=\"read\"} 5",
            "processor_lost_total{where=\"kernel\",unit=\"packets\"} 0",
            "processor_spool_oldest_file_age_seconds 10",
            "processor_upload_duration_seconds_bucket{le=\"0.5\"} 0",
            "processor_upload_duration_seconds_bucket{le=\"1\"} 1",
            "processor_upload_duration_seconds_bucket{le=\"+Inf\"} 1",
            "processor_upload_duration_seconds_sum 0.7",
            "processor_upload_duration_seconds_count 1",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is missing in:\n{text}");
        }
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }

    /// The rules that `promtool check metrics` applies, as far as they can be met by a slip of the pen.
    #[test]
    fn the_linter_has_nothing_to_say() {
        let (about, stats) = (about(), full());
        let text = page(&stats, &moment(&about));
        let (mut families, mut seen) = (HashSet::new(), HashSet::new());
        let (mut name, mut kind) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (family, help) = rest.split_once(' ').expect("a name and a help");
                assert!(help.ends_with('.') && help.len() > 10, "{line}");
                assert!(families.insert(family.to_owned()), "{family} stands twice");
                family.clone_into(&mut name);
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (family, of) = rest.split_once(' ').unwrap();
                assert_eq!(family, name, "TYPE follows HELP");
                of.clone_into(&mut kind);
                lint(family, of);
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let base = series.split('{').next().unwrap();
            let parts = ["", "_bucket", "_sum", "_count"].map(|part| format!("{name}{part}"));
            assert!(base == name || kind == "histogram" && parts.contains(&base.to_owned()), "{line}");
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            assert!(seen.insert(series.to_owned()), "{series} stands twice");
        }
    }

    fn lint(name: &str, kind: &str) {
        let words: Vec<&str> = name.split('_').collect();
        assert_eq!(words[0], "processor");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}: counters end in _total, others do not");
        for reserved in ["_bucket", "_count", "_sum", "_info"] {
            assert!(!name.ends_with(reserved) || name == "processor_build_info", "{name}");
        }
        for word in ["counter", "gauge", "histogram", "summary", "ms", "sec", "kb", "mb", "minutes", "percent"] {
            assert!(!words.contains(&word), "{name}");
        }
    }
}
