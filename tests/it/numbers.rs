//! Numbers agree with the files: a known input through every source, and then metrics, the page's numbers, the status report
//! and the files side by side.
//!
//! The program is held at its end by a server that takes connections and never greets: everything is written by then, and
//! it still answers.

use std::net::TcpListener;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::netns::{self, Namespace, Traffic};
use crate::support::packets::{ETHERNET, EVERYTHING, Maker, pcap_file};
use crate::support::run::{HANG_GUARD, Live, Probe, contents, wait_until};

/// What a source was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Truth {
    packets: u64,
    bytes: u64,
}

fn ask(dir: &Path, path: &str) -> Option<String> {
    Some(processor::status::client::get(dir, path, HANG_GUARD).ok()?.1)
}

fn metric(page: &str, series: &str) -> u64 {
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("{series} is missing in\n{page}"));
    value.parse().unwrap()
}

fn number(json: &Value, path: &str) -> u64 {
    json.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} is missing in {json}"))
}

/// Lines, packets and bytes of the rows that the files hold, by their last two columns.
fn in_files(dir: &Path) -> (u64, Truth) {
    let text = String::from_utf8(contents(dir)).unwrap();
    let mut sums = Truth { packets: 0, bytes: 0 };
    for line in text.lines().filter(|line| !line.starts_with("SRC_")) {
        let mut columns = line.rsplit(',');
        sums.bytes += columns.next().unwrap().parse::<u64>().unwrap();
        sums.packets += columns.next().unwrap().parse::<u64>().unwrap();
    }
    (text.lines().count() as u64, sums)
}

/// A configuration whose last upload pass takes five seconds, with a status report in a file. The server keeps silent.
fn probe(server: &TcpListener, source: &str) -> Probe {
    let probe = Probe::new().upload_to(server.local_addr().unwrap().port()).key("source", source);
    let report = probe.path("report").display().to_string();
    probe
        .key("upload_interval_sec", 3600)
        .key("shutdown_timeout_sec", 20)
        .key("status_report_enabled", true)
        .key("status_report_interval_sec", 3600)
        .key("status_report_file_path", report)
}

/// Waits until the input is over and everything is sealed, and holds all numbers against each other.
fn compare(probe: &Probe, live: Live, truth: Truth, more: &[(&str, u64)]) {
    live.wait_for("draining");
    let (page, api) = (ask(probe.data(), "/metrics").unwrap(), ask(probe.data(), "/api/status").unwrap());
    let api: Value = serde_json::from_str(&api).unwrap();
    let ended = live.wait();
    assert_eq!(ended.number("finished", "files_waiting"), number(&api, "/spool/files"), "{}", ended.log);
    let report = std::fs::read_to_string(probe.path("report")).unwrap();
    let report: Value = serde_json::from_str(report.lines().last().unwrap().split_once(' ').unwrap().1).unwrap();

    let (lines, files) = in_files(probe.data());
    assert_eq!(files, truth, "the files hold what was sent");
    for stage in ["read", "written"] {
        let of = |family: &str| metric(&page, &format!("processor_{family}{{stage=\"{stage}\"}}"));
        assert_eq!(
            (of("flow_packets_total"), of("flow_bytes_total")),
            (truth.packets, truth.bytes),
            "metrics, {stage}"
        );
        assert_eq!(of("lines_total"), lines, "metrics, {stage}");
        let of = |member: &str| number(&api, &format!("/{stage}/{member}"));
        assert_eq!((of("packets"), of("bytes"), of("lines")), (truth.packets, truth.bytes, lines), "page, {stage}");
    }
    let of = |member: &str| number(&report, &format!("/{member}"));
    assert_eq!((of("totalPkts"), of("totalBytes")), (truth.packets, truth.bytes), "report, written");
    assert_eq!((of("totalRcvPkts"), of("totalRcvBytes")), (truth.packets, truth.bytes), "report, read");
    assert_eq!((of("lines"), of("rejectedLines"), of("droppedLines")), (lines, 0, 0), "report");
    assert_eq!(ended.number("finished", "lines_written"), lines, "log");
    for (series, wanted) in more {
        assert_eq!(metric(&page, series), *wanted, "{series}");
    }
    for loss in api["losses"].as_array().unwrap().iter().filter(|loss| loss["where"] != "decoder") {
        assert_eq!(loss["count"], 0, "{loss}");
    }
}

#[test]
fn numbers_agree_for_lines_from_a_pipe() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let probe = probe(&server, "stdin");
    let mut rows = processor::sample::Rows::new(processor::sample::Options::default());
    let mut text = (rows.header() + "\n").into_bytes();
    rows.fill(&mut text, 50_000);
    let mut truth = Truth { packets: 0, bytes: 0 };
    for line in std::str::from_utf8(&text).unwrap().lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        truth.packets += columns[columns.len() - 2].parse::<u64>().unwrap();
        truth.bytes += columns[columns.len() - 1].parse::<u64>().unwrap();
    }
    let mut live = probe.start();
    live.feed(&text);
    live.close();
    compare(&probe, live, truth, &[("processor_lines_total{stage=\"read\"}", 50_001)]);
}

#[test]
fn numbers_agree_for_captured_packets() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let frames = Maker::new(7, EVERYTHING, &[ETHERNET]).make(20_000);
    let counted: Vec<_> = frames.iter().filter_map(|frame| frame.truth.ok()).collect();
    let truth = Truth { packets: counted.len() as u64, bytes: counted.iter().map(|counted| counted.bytes).sum() };
    let probe = probe(&server, "capture");
    let file = probe.path("packets.pcap");
    std::fs::write(&file, pcap_file(&frames)).unwrap();
    let probe = probe
        .line("pcap_savefile", file.display())
        .line("aggregate", "src_host, dst_host, src_port, dst_port, proto, tos, tcpflags")
        .line("nfacctd_stitching", true)
        .line("snaplen", 65_535);
    let live = probe.start();
    let rejected = frames.iter().filter(|frame| frame.truth.is_err()).count() as u64;
    assert!(truth.packets > 10_000 && rejected > 100, "{truth:?}, {rejected}");
    let seen = frames.len() as u64;
    compare(
        &probe,
        live,
        truth,
        &[("processor_capture_packets_total", seen), ("processor_capture_counted_packets_total", truth.packets)],
    );
}

#[test]
fn numbers_agree_for_the_daemons_rows() {
    if !netns::available(&["ip", "sysctl", "pmacctd", "nfacctd"]) {
        return;
    }
    let namespace = Namespace::new();
    let server = namespace.inside(|| TcpListener::bind("127.0.0.1:0").unwrap()).join().unwrap();
    let probe = probe(&server, "pmacct")
        .line("pcap_interface", "v1")
        .line("aggregate", "src_host, dst_host, src_port, dst_port, proto, tos, tcpflags")
        .line("plugins", "nfprobe")
        .line("nfprobe_receiver", "127.0.0.1:9995")
        .line("nfprobe_timeouts", "udp=2:expint=1:maxlife=60")
        .line("nfacctd_port", 9995)
        .line("nfacctd_stitching", true)
        .line("timestamps_since_epoch", true)
        .line("print_output", "csv")
        .line("print_refresh_time", 2)
        .line("print_num_protos", true);
    let live = probe.start_under(&["ip", "netns", "exec", &namespace.name].map(str::to_owned));
    wait_until("the export to begin", || live.log().contains("Exporting flows to"));
    let sent = namespace.send(Traffic { packets: 6000, flows: 1000, rate: 6000 });
    let written = "processor_flow_packets_total{stage=\"written\"}";
    let page = || ask(probe.data(), "/metrics").unwrap_or_default();
    wait_until("every packet in a row", || page().lines().any(|line| *line == format!("{written} {}", sent.packets)));
    // The daemons are asked for their own counts every few seconds.
    let captured = format!("processor_chain_packets_total {}", sent.packets);
    wait_until("the daemons' own count", || page().lines().any(|line| line == captured));
    for child in ["pmacctd", "nfacctd"] {
        assert_eq!(metric(&page(), &format!("processor_child_up{{child=\"{child}\"}}")), 1);
        assert_eq!(metric(&page(), &format!("processor_child_restarts_total{{child=\"{child}\"}}")), 0);
    }
    live.signal(Signal::TERM);
    let down = [("processor_child_up{child=\"pmacctd\"}", 0), ("processor_child_up{child=\"nfacctd\"}", 0)];
    compare(&probe, live, Truth { packets: sent.packets, bytes: sent.bytes }, &down);
}
