//! Metrics, health, the page's numbers and the status report against a known input and the files that it became.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const HANG: Duration = Duration::from_secs(30);
const PROGRAM: &str = env!("CARGO_BIN_EXE_processor");

/// A running program with an address of its own, ended when it is dropped.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
    dir: tempfile::TempDir,
    address: String,
}

impl Running {
    fn new(keys: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A port that was free a moment ago; who loses the race is told by the log and tries again.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let report = dir.path().join("report.log");
        let text = format!(
            "processor_metrics_listen: {address}\nprocessor_flush_interval_ms: 20\nprocessor_log_lang: en\n\
             processor_status_report_enabled: true\nprocessor_status_report_file_path: {}\n{keys}\n",
            report.display()
        );
        let config = dir.path().join("pmacct.conf");
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["-config".as_ref(), config.as_os_str(), "-data-dir".as_ref(), dir.path().join("data").as_os_str()])
            .stdin(Stdio::piped())
            .stderr(File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let running = Self { child, input, dir, address };
        wait("an answer", || running.get("/healthz").filter(|(status, _)| *status == 200));
        running
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/api/status")?.1).ok()
    }

    fn health(&self, flags: &[&str]) -> Output {
        Command::new(PROGRAM).arg("health").arg("-data-dir").arg(self.data()).args(flags).output().unwrap()
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn end(&mut self) {
        drop(self.input.take());
        wait("the end", || self.child.try_wait().unwrap());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait<T>(what: &str, mut sign: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + HANG;
    loop {
        if let Some(found) = sign() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} has not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What all files in `dir` unpack to.
fn unpacked(dir: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "gz") {
            flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut text).unwrap();
        }
    }
    text
}

#[test]
fn metrics_page_report_and_files_agree() {
    let mut running = Running::new("processor_upload: none\nprocessor_bad_lines: quarantine");
    let (mut rows, mut packets, mut bytes) = (b"SRC_IP,PACKETS,BYTES\n".to_vec(), 0, 0);
    for n in 1..=5000_u64 {
        writeln!(rows, "10.0.0.{},{n},{}", n % 250, n * 100).unwrap();
        (packets, bytes) = (packets + n, bytes + n * 100);
    }
    let input = running.input.as_mut().unwrap();
    input.write_all(&rows).unwrap();
    input.write_all(b"torn,line\ntorn\n").unwrap();
    wait("all lines", || (running.metric("processor_lines_total{stage=\"read\"}")? >= 5003.0).then_some(()));
    wait("all writes", || (running.metric("processor_lines_total{stage=\"written\"}")? >= 5001.0).then_some(()));
    for (series, value) in [
        ("processor_lines_total{stage=\"read\"}", 5003),
        ("processor_lines_total{stage=\"written\"}", 5001),
        ("processor_flow_packets_total{stage=\"written\"}", packets),
        ("processor_flow_bytes_total{stage=\"written\"}", bytes),
        ("processor_lost_total{where=\"quarantine\",unit=\"lines\"}", 2),
        ("processor_lost_total{where=\"kernel\",unit=\"packets\"}", 0),
        ("processor_source_up", 1),
    ] {
        assert_eq!(running.metric(series), Some(value as f64), "{series}");
    }
    let json = running.json().unwrap();
    let written = &json["written"];
    assert_eq!((&written["lines"], &written["packets"]), (&5001.into(), &packets.into()));
    assert_eq!((&written["bytes"], &json["rejectedLines"]), (&bytes.into(), &2.into()));
    assert_eq!(running.get("/readyz").unwrap(), (200, "source: ok\nspool: ok\nupload: ok\n".to_owned()));
    running.end();
    let report = std::fs::read_to_string(running.dir.path().join("report.log")).unwrap();
    let last: Value = serde_json::from_str(report.lines().last().unwrap().split_once(' ').unwrap().1).unwrap();
    assert_eq!((&last["totalPkts"], &last["totalBytes"]), (&packets.into(), &bytes.into()));
    assert_eq!((&last["lines"], &last["rejectedLines"]), (&5003.into(), &2.into()));
    assert!(unpacked(&running.data()) == rows, "what the numbers tell is in the files");
    // The socket's name stays, and nobody answers there; see `a_frozen_disk`.
    let health = running.health(&[]);
    let said = String::from_utf8_lossy(&health.stdout);
    assert!(health.status.code() == Some(1) && said.starts_with("no processor runs"), "{said}");
}

#[test]
fn health_asks_the_socket_and_falls_back_to_the_lock() {
    let mut running = Running::new("processor_upload: none");
    let said = |output: &Output| (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned());
    let pid = running.child.id();
    let line = format!("ok: processor {pid} runs in {}\n", running.data().display());
    assert_eq!(said(&running.health(&[])), (Some(0), line));
    assert_eq!(said(&running.health(&["-ready"])), (Some(0), "ok: ready\n".to_owned()));
    std::fs::remove_file(running.data().join(".processor.sock")).unwrap();
    let (code, text) = said(&running.health(&[]));
    assert!(code == Some(0) && text.contains("its socket does not answer"), "{text}");
    assert_eq!(running.health(&["-ready"]).status.code(), Some(1));
    running.end();
    let (code, text) = said(&running.health(&[]));
    assert_eq!((code, text), (Some(1), format!("no processor runs in {}\n", running.data().display())));
}

#[test]
fn a_server_that_is_away_shows() {
    let keys = "processor_ftp_host: 127.0.0.1\nprocessor_ftp_port: 1\nprocessor_ftp_user: u\n\
                processor_ftp_pass: hunter2\nprocessor_rotate_interval_sec: 1\nprocessor_upload_interval_sec: 1";
    let mut running = Running::new(keys);
    running.input.as_mut().unwrap().write_all(b"A,B\n1,2\n").unwrap();
    wait("a failed upload", || (running.metric("processor_uploads_total{result=\"failure\"}")? >= 1.0).then_some(()));
    let (_, text) = running.get("/api/status").unwrap();
    assert!(text.contains("127.0.0.1:1") && !text.contains("hunter2"), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["files"][0]["fate"], "failed");
    assert_eq!(json["spool"]["files"], 1);
    let faults: Vec<_> = json["faults"].as_array().unwrap().iter().map(|fault| fault["event"].clone()).collect();
    assert!(faults.contains(&"upload_pass_failed".into()), "{faults:?}");
}
