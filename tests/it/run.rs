//! The main job as its user runs it: a command line, lines on standard input, files in the data directory, an exit code.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use processor::sample::{self, Rows, Tag};
use rustix::process::Signal;

use crate::support::account::{each_once, is_the_beginning, row, rows, spooled};
use crate::support::run::{
    HANG_GUARD, Live, PROCESSOR, Probe, blocked_pipe, contents, names, sealed, unpack, wait_until,
};

const HEADER: &str = "TAG,SRC_IP,BYTES\n";

fn text(count: u64) -> Vec<u8> {
    [HEADER.as_bytes(), &rows(0..count)].concat()
}

/// A port that takes connections and never says a word. Open as long as the listener lives.
fn mute_server() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port where nobody listens.
fn closed_port() -> u16 {
    mute_server().1
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn what_goes_in_comes_out_as_one_member_a_file() {
    let probe = Probe::new().key("gzip_level", "auto").key("rotate_size_mb", 1);
    let mut made = Rows::new(sample::Options { tag: Tag::Sequence, ..sample::Options::default() });
    let mut input = (made.header() + "\n").into_bytes();
    made.fill(&mut input, 40_000);
    let ended = probe.run(&input).expect(0);
    assert!(contents(probe.data()) == input, "bytes in are bytes out");
    each_once(&spooled(probe.data()), 40_000);
    let files = sealed(probe.data());
    assert_eq!(files.len(), input.len().div_ceil(1 << 20), "rotated by size: {files:?}");
    for (index, name) in files.iter().enumerate() {
        let path = probe.data().join(name);
        assert!(unpack(&path).ends_with(b"\n"), "a line never spans two files");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(name.starts_with("flows_20") && name.ends_with(&format!("_{index:03}.csv.gz")), "{name}");
    }
    assert_eq!(ended.number("finished", "lines_read"), 40_001);
    assert_eq!(ended.number("finished", "lines_written"), 40_001);
    assert_eq!(ended.number("finished", "files_sealed"), files.len() as u64);
    assert!(names(probe.data()).iter().all(|name| !name.ends_with(".part")));
}

#[test]
fn a_file_rotates_by_time_though_no_line_arrives() {
    let probe = Probe::new().key("rotate_interval_sec", 1);
    let mut live = probe.start();
    live.feed(&rows(0..3));
    live.wait_for("file_rotated");
    assert_eq!(spooled(probe.data()), [0, 1, 2], "sealed while the input is open and idle");
    live.feed(&rows(3..5));
    live.end().expect(0);
    assert_eq!(spooled(probe.data()), [0, 1, 2, 3, 4]);
    assert_eq!(sealed(probe.data()).len(), 2);
}

#[test]
fn header_modes() {
    let repeated = [text(3), text(2)].concat();
    let keep = Probe::new();
    keep.run(&repeated).expect(0);
    assert!(contents(keep.data()) == repeated);

    let none = Probe::new().key("csv_header", "none");
    let ended = none.run(&repeated).expect(0);
    assert!(contents(none.data()) == [rows(0..3), rows(0..2)].concat());
    assert_eq!((ended.number("finished", "lines_read"), ended.number("finished", "lines_written")), (7, 5));

    let each = Probe::new().key("csv_header", "each-file").key("rotate_size_mb", 1);
    let many = 90_000;
    each.run(&[text(many), text(0)].concat()).expect(0);
    let files = sealed(each.data());
    assert!(files.len() > 1);
    for name in files {
        let file = unpack(&each.data().join(name));
        assert!(file.starts_with(HEADER.as_bytes()));
        assert_eq!(memchr::memmem::find_iter(&file, HEADER).count(), 1);
    }
    each_once(&spooled(each.data()), many);
}

#[test]
fn bad_lines_are_set_aside_with_the_reason() {
    let probe = Probe::new().key("bad_lines", "quarantine");
    let input = [text(4), b"4,short\n".to_vec(), rows(5..8), b"8,one,too,many\n".to_vec(), b"\n".to_vec()].concat();
    let ended = probe.run(&input).expect(0);
    let finished = |field| ended.number("finished", field);
    assert_eq!((finished("lines_read"), finished("lines_written"), finished("lines_rejected")), (11, 8, 3));
    assert_eq!(spooled(probe.data()), [0, 1, 2, 3, 5, 6, 7]);
    let rejects = probe.data().join("rejects");
    let kept = fs::read_to_string(rejects.join(&names(&rejects)[0])).unwrap();
    assert!(kept.contains("2 columns, the header has 3\t4,short\n"), "{kept}");
    assert!(kept.contains("4 columns, the header has 3\t8,one,too,many\n"), "{kept}");
    assert!(ended.has("bad_lines"));
}

#[test]
fn exit_codes_of_misuse() {
    let code = |args: &[&str]| output(Command::new(PROCESSOR).args(args)).status.code().unwrap();
    assert_eq!(code(&[]), 2);
    assert_eq!(code(&["-no-such-flag"]), 2);
    assert_eq!(code(&["-config", "/no/such/file", "-data-dir", "/no/such/dir"]), 2);
    assert_eq!(code(&["--help"]), 0);
    assert_eq!(code(&["-version"]), 0);

    let wrong = Probe::new().key("ftp_port", 70_000).key("rotate_size_mb", "many").key("csv_header", "often");
    let out = output(&mut wrong.command());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2));
    for key in ["processor_ftp_port", "processor_rotate_size_mb", "processor_csv_header"] {
        let line =
            said.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("{key} is not named:\n{said}"));
        assert!(line.contains("pmacct.conf:"), "file and line are named: {line}");
    }
    assert!(!wrong.data().exists(), "nothing is touched before the configuration is right");
}

#[test]
fn exit_code_of_a_data_dir_that_cannot_be() {
    let probe = Probe::new();
    fs::write(probe.data(), "a file").unwrap();
    let ended = probe.run(b"1\n").expect(1);
    assert!(ended.log.contains(probe.data().to_str().unwrap()), "{}", ended.log);
    assert_eq!(fs::read(probe.data()).unwrap(), b"a file");
}

#[test]
fn one_data_dir_has_one_processor() {
    let probe = Probe::new();
    let health = || output(Command::new(PROCESSOR).arg("health").arg("-data-dir").arg(probe.data()));
    let first = probe.start();
    first.wait_for("data_dir_ready");
    assert_eq!(health().status.code(), Some(0));
    let second = probe.run(b"1\n").expect(4);
    assert!(second.log.contains(&format!("pid {}", first.pid())), "{}", second.log);
    first.end().expect(0);
    assert_eq!(health().status.code(), Some(1));
    probe.run(&rows(0..1)).expect(0);
}

#[test]
fn input_that_ended_while_the_server_is_away_says_so() {
    let probe = Probe::new().upload_to(closed_port());
    let ended = probe.run(&rows(0..10)).expect(3);
    assert!(ended.has("files_wait") && ended.has("upload_failed"), "{}", ended.log);
    assert_eq!(spooled(probe.data()).len(), 10);
}

/// How the input is when the signal comes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Input {
    Untouched,
    Idle,
    Flooding,
}

#[test]
fn a_signal_seals_everything_whatever_the_input_does() {
    for signal in [Signal::TERM, Signal::INT] {
        for input in [Input::Untouched, Input::Idle, Input::Flooding] {
            let probe = Probe::new();
            let mut live = probe.start();
            live.wait_for("data_dir_ready");
            let mut pipe = live.take_input();
            let writer = std::thread::spawn(move || {
                let mut next = 0;
                let more = |next: u64| match input {
                    Input::Untouched => false,
                    Input::Idle => next < 100,
                    Input::Flooding => true,
                };
                while more(next) && pipe.write_all(row(next).as_bytes()).is_ok() {
                    next += 1;
                }
                (next, pipe)
            });
            if input != Input::Untouched {
                wait_until("a line is on the disk", || {
                    let part = names(probe.data()).into_iter().find(|name| name.ends_with(".part"));
                    part.is_some_and(|name| probe.data().join(name).metadata().is_ok_and(|part| part.len() > 10))
                });
            }
            let idle = (input != Input::Flooding).then(|| writer.join().unwrap());
            live.signal(signal);
            let ended = live.wait().expect(0);
            assert!(ended.has("stop_requested"), "{signal:?} {input:?}\n{}", ended.log);
            let found = spooled(probe.data());
            is_the_beginning(&found);
            match idle {
                Some((written, _pipe)) => assert_eq!(found.len() as u64, written, "{signal:?} {input:?}"),
                None => assert!(!found.is_empty()),
            }
            assert_eq!(ended.number("finished", "lines_written"), found.len() as u64);
            assert!(names(probe.data()).iter().all(|name| !name.ends_with(".part")));
        }
    }
}

#[test]
fn a_signal_ends_it_though_the_server_hangs() {
    let (_mute, port) = mute_server();
    let probe = Probe::new().upload_to(port).key("ftp_timeout", 3600).key("shutdown_timeout_sec", 1);
    let mut live = probe.start();
    live.feed(&rows(0..10));
    live.wait_for("uploader_started");
    live.signal(Signal::TERM);
    let ended = live.wait().expect(0);
    assert!(ended.has("drain_timed_out") || ended.has("files_wait"), "{}", ended.log);
    assert_eq!(spooled(probe.data()).len(), 10, "what is not uploaded waits");
}

#[test]
fn a_second_signal_leaves_at_once() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (mute, port) = mute_server();
        let probe = Probe::new().upload_to(port).key("ftp_timeout", 3600).key("shutdown_timeout_sec", 3600);
        let mut live = probe.start();
        live.feed(&rows(0..10));
        live.wait_for("uploader_started");
        live.signal(signal);
        // By the last pass; or by the first, when that was so late that the file was sealed before.
        mute.set_nonblocking(true).unwrap();
        let mut connection = None;
        wait_until("the uploader's connection", || {
            connection = mute.accept().ok();
            connection.is_some()
        });
        assert!(live.is_running());
        live.signal(signal);
        live.wait().expect(code);
        assert_eq!(spooled(probe.data()).len(), 10, "everything was sealed before");
    }
}

#[test]
fn a_blocked_stderr_stops_nothing() {
    let (_full, stderr) = blocked_pipe();
    // More events than the log's queue holds: a file for each header.
    let files = 1500;
    let probe = Probe::new().key("csv_header", "each-file");
    let input: Vec<u8> = (0..files).flat_map(|n| format!("TAG,COLUMN_{n}\n{n},x\n").into_bytes()).collect();
    let mut child = probe.command().stdin(Stdio::piped()).stderr(stderr).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let deadline = Instant::now() + HANG_GUARD;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("a blocked stderr keeps the program from ending");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
    assert_eq!(spooled(probe.data()), (0..files).collect::<Vec<_>>());
}

#[test]
fn flags_may_come_from_the_environment() {
    let probe = Probe::new();
    probe.write_config();
    let mut command = Command::new(PROCESSOR);
    command.env("PROCESSOR_CONFIG", probe.config()).env("PROCESSOR_DATA_DIR", probe.data());
    command.env("PROCESSOR_LOG_LEVEL", "error").env("PROCESSOR_SOURCE", "stdin");
    let mut live = Live::start(command);
    live.feed(&rows(0..3));
    let ended = live.end().expect(0);
    assert_eq!(ended.log, "", "nothing to say at level error");
    assert_eq!(spooled(probe.data()), [0, 1, 2]);
}

/// An HTTP receiver that hands over the body of each request.
fn receiver() -> (u16, Receiver<serde_json::Value>) {
    let (listener, port) = mute_server();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let body = answer(stream.unwrap());
            if tell.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (port, told)
}

fn answer(stream: TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    body
}

#[test]
fn the_status_report_has_true_sums() {
    let (port, reports) = receiver();
    let probe = Probe::new()
        .key("status_report_enabled", "true")
        .key("status_report_url", format!("http://127.0.0.1:{port}/api/uploadStatus"))
        .key("status_report_interval_sec", 1)
        .key("status_report_uuid", "probe-7");
    let file = probe.path("reports.txt");
    let probe = probe.key("status_report_file_path", file.display());
    let input: Vec<_> = (1..=1000).map(|n| format!("10.0.0.{},{n},{}\n", n % 200, n * 100)).collect();
    let mut live = probe.start();
    live.feed(("SRC_IP,PACKETS,BYTES\n".to_owned() + &input.concat()).as_bytes());
    let report = loop {
        let report = reports.recv_timeout(HANG_GUARD).unwrap();
        if report["totalPkts"].as_u64().unwrap() > 0 {
            break report;
        }
    };
    for (key, sum) in
        [("totalRcvPkts", 500_500), ("totalPkts", 500_500), ("totalRcvBytes", 50_050_000), ("lines", 1001)]
    {
        assert_eq!(report[key].as_u64(), Some(sum), "{key} in {report}");
    }
    assert_eq!(report["uuid"], "probe-7");
    live.end().expect(0);
    let kept = fs::read_to_string(&file).unwrap();
    let (stamp, last) = kept.lines().last().unwrap().split_once(' ').unwrap();
    assert!(stamp.contains('T'), "RFC 3339: {stamp}");
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["totalBytes"].as_u64(), Some(50_050_000));
}

#[test]
fn the_password_shows_nowhere() {
    const SECRET: &str = "tr0ub4dor-Zx9";
    let (port, reports) = receiver();
    for from_env in [false, true] {
        let mut probe = Probe::new()
            .upload_to(closed_port())
            .key("status_report_enabled", "true")
            .key("status_report_url", format!("http://127.0.0.1:{port}/"))
            .key("status_report_interval_sec", 1)
            .arg("-log-level")
            .arg("debug");
        probe = if from_env {
            probe.key("ftp_pass", "replaced").env("PROCESSOR_FTP_PASS", SECRET)
        } else {
            probe.key("ftp_pass", SECRET)
        };
        let mut live = probe.start();
        live.feed(&rows(0..10));
        live.wait_for("data_dir_ready");
        let command_line = fs::read(format!("/proc/{}/cmdline", live.pid())).unwrap();
        let report = reports.recv_timeout(HANG_GUARD).unwrap();
        let ended = live.end().expect(3);
        probe.write_config();
        let mut check = Command::new(PROCESSOR);
        check.arg("check").arg("-config").arg(probe.config()).env("PROCESSOR_FTP_PASS", SECRET);
        let check = output(&mut check);
        let shown = [command_line, check.stdout, check.stderr, ended.log.into_bytes(), report.to_string().into_bytes()];
        for text in shown {
            assert!(memchr::memmem::find(&text, SECRET.as_bytes()).is_none(), "{}", String::from_utf8_lossy(&text));
        }
        for path in names(probe.data()).into_iter().map(|name| probe.data().join(name)).filter(|path| path.is_file()) {
            let bytes = fs::read(&path).unwrap();
            assert!(memchr::memmem::find(&bytes, SECRET.as_bytes()).is_none(), "{}", path.display());
        }
    }
}

#[test]
fn check_touches_nothing() {
    let probe = Probe::new();
    probe.write_config();
    let mut check = Command::new(PROCESSOR);
    let out = output(check.arg("check").arg("-config").arg(probe.config()).arg("-data-dir").arg(probe.data()));
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!probe.data().exists());
}
