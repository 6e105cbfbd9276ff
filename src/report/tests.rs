//! Numbers as receivers expect them, and receivers as they are.

use std::thread;

use super::*;

const HANG: Duration = Duration::from_secs(30);

fn counters(factor: u64) -> Counters {
    Counters {
        rcv_packets: 1000 * factor,
        rcv_bytes: 64_000 * factor,
        packets: 900 * factor,
        bytes: 60_000 * factor,
        lines: 100 * factor,
        rejected_lines: factor,
        header_lines: 6 * factor,
        lost_lines: 11 * factor,
        dropped_lines: 2 * factor,
        spool_files: 3,
        spool_bytes: 4096,
        uploaded_files: 5 * factor,
        uploaded_bytes: 6000 * factor,
        upload_failures: 7 * factor,
        captured_packets: 1010 * factor,
        capture_drops: 8 * factor,
        datagram_drops: 9 * factor,
        sequence_gaps: 4 * factor,
        lost_windows: factor,
        capture: None,
    }
}

fn options(url: Option<String>, file: Option<PathBuf>) -> Options {
    Options {
        url: url.map(Url::new),
        interval: Duration::from_hours(1),
        uuid: "probe \"1\"".to_owned(),
        file,
        file_max_bytes: 1 << 20,
        file_backups: 0,
        zone: Zone::parse("UTC+8").unwrap(),
    }
}

#[test]
fn two_reports_word_for_word() {
    let start = Instant::now();
    let mut meter = Meter::new(start);
    let first = meter.report(counters(1), start + Duration::from_mins(1));
    let second = meter.report(counters(3), start + Duration::from_millis(120_500));
    let both = format!("{}\n{}\n", first.json("probe \"1\""), second.json("probe \"1\""));
    assert_eq!(both, include_str!("../../tests/it/golden/report.json"));
}

#[test]
fn captured_packets_are_told_by_reason() {
    let start = Instant::now();
    let capture = Captured { counted: 5, uncounted: [1, 2, 3, 4, 5, 6], failed_files: 7, ..Captured::default() };
    let counters = Counters { capture: Some(capture), ..counters(1) };
    let json: serde_json::Value = serde_json::from_str(&Meter::new(start).report(counters, start).json("x")).unwrap();
    let numbers = &json["capture"];
    assert_eq!((&numbers["counted"], &numbers["failedFiles"]), (&5.into(), &7.into()));
    assert_eq!((&numbers["uncounted"]["not_ip"], &numbers["uncounted"]["unknown_link_type"]), (&1.into(), &6.into()));
}

#[test]
fn no_time_and_huge_numbers() {
    let start = Instant::now();
    let most = Counters { rcv_packets: u64::MAX, bytes: u64::MAX, ..Counters::default() };
    let mut meter = Meter::new(start);
    let json: serde_json::Value = serde_json::from_str(&meter.report(most, start).json("x")).unwrap();
    assert_eq!(json["curRcvPkts"], u64::MAX);
    assert_eq!(json["curAvgRcvPps"], 0);
    let later = meter.report(most, start + Duration::from_millis(1)).json("x");
    let json: serde_json::Value = serde_json::from_str(&later).unwrap();
    assert_eq!((&json["curPkts"], &json["totalAvgRcvPps"]), (&0.into(), &u64::MAX.into()));
    assert_eq!(per_second(u64::MAX, Duration::from_secs(2)), u64::MAX / 2);
}

#[test]
fn the_beat_is_kept_and_missed_beats_are_not_made_up() {
    let (start, minute) = (Instant::now(), Duration::from_mins(1));
    assert_eq!(next(start, minute, start + Duration::from_secs(1)), start + minute);
    let late = start + Duration::from_mins(5);
    assert_eq!(next(start, minute, late), late + minute);
}

#[test]
fn a_url_does_not_show_its_password() {
    for (url, shown) in [
        ("http://u:p@h:1/a", "http://***@h:1/a"),
        ("http://u:p/q@h/a", "http://***@h/a"),
        ("http://h/x?token=b", "http://h/x?***"),
        ("https://u:p@x@h", "https://***@h"),
        ("x", "x"),
    ] {
        assert_eq!(format!("{:?}", Url::new(url)), shown);
    }
}

/// A receiver on loopback that gives its answers in turn and returns the bodies that it took.
fn receiver(answers: Vec<tiny_http::Response<std::io::Empty>>) -> (String, thread::JoinHandle<Vec<String>>) {
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api", server.server_addr());
    let take = move || {
        let mut bodies = Vec::new();
        for answer in answers {
            let mut request = server.recv_timeout(HANG).unwrap().expect("a report comes");
            assert_eq!((request.method(), request.url()), (&tiny_http::Method::Post, "/api"));
            let json =
                |header: &tiny_http::Header| header.field.equiv("Content-Type") && header.value == "application/json";
            assert!(request.headers().iter().any(json));
            let mut body = String::new();
            request.as_reader().read_to_string(&mut body).unwrap();
            bodies.push(body);
            request.respond(answer).unwrap();
        }
        bodies
    };
    (url, thread::spawn(take))
}

fn empty(status: u16) -> tiny_http::Response<std::io::Empty> {
    tiny_http::Response::empty(status)
}

#[test]
fn the_last_report_is_posted_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.log");
    let (url, receiver) = receiver(vec![empty(200)]);
    let (log, memory) = Log::memory();
    let (reporter, poster) = Reporter::new(options(Some(url), Some(path.clone())), &log);
    let poster = thread::spawn(move || poster.unwrap().run());
    let stats = Arc::new(Stats::default());
    stats.read.packets.add(42);
    let (end, ending) = bounded(1);
    end.send(Instant::now() + Duration::from_secs(30)).unwrap();
    reporter.run(&stats, &ending);
    poster.join().unwrap();
    let body = receiver.join().unwrap().remove(0);
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&json["totalRcvPkts"], &json["uuid"]), (&42.into(), &"probe \"1\"".into()));
    let line = std::fs::read_to_string(path).unwrap();
    let (stamp, recorded) = line.split_once(' ').unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(stamp).is_ok() && stamp.ends_with("+08:00"), "{stamp}");
    assert_eq!(recorded, format!("{body}\n"));
    assert_eq!(memory.take(), []);
}

#[test]
fn refusals_and_redirects_are_failures_and_recovery_is_said() {
    let header = tiny_http::Header::from_bytes("Location", "http://127.0.0.1:1/").unwrap();
    let (url, receiver) = receiver(vec![empty(500), empty(302).with_header(header), empty(204), empty(204)]);
    let (log, memory) = Log::memory();
    let (reports, to_post) = bounded(4);
    for number in 0..4 {
        reports.send(number.to_string()).unwrap();
    }
    drop(reports);
    Poster::new(Url::new(&url), log, to_post, bounded(0).0).run();
    assert_eq!(receiver.join().unwrap(), ["0", "1", "2", "3"]);
    let failed = |text: &str| Event::ReportFailed { error: format!("POST {url}: the receiver answered {text}") };
    let refused = failed("500 Internal Server Error");
    let moved = failed("302 Found; redirects are not followed");
    assert_eq!(memory.take(), [refused, moved, Event::ReportRecovered]);
}

#[test]
fn a_receiver_that_hangs_holds_nobody_back() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://u:hunter2@{}/", silent.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.log");
    let (log, memory) = Log::memory();
    let (reporter, poster) = Reporter::new(options(Some(url), Some(path.clone())), &log);
    let poster = poster.unwrap().within(Duration::from_secs(2));
    let poster = thread::spawn(move || poster.run());
    let (end, ending) = bounded(1);
    end.send(Instant::now() + Duration::from_millis(300)).unwrap();
    reporter.run(&Arc::default(), &ending);
    assert!(!poster.is_finished(), "the reporter has returned while the POST is under way");
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
    poster.join().unwrap();
    let said = format!("{:?}", memory.take());
    assert!(said.contains("timeout") && !said.contains("hunter2"), "{said}");
}

#[test]
fn a_busy_poster_costs_one_post_and_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.log");
    let (log, memory) = Log::memory();
    let (reporter, _poster) = Reporter::new(options(Some("http://h/".into()), Some(path.clone())), &log);
    let report = Meter::new(Instant::now()).report(counters(1), Instant::now());
    reporter.report(&report, Instant::now());
    reporter.report(&report, Instant::now());
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
    assert_eq!(memory.take().len(), 1);
}
