//! The password shows nowhere, whatever its line looks like and whoever repeats it. The lines themselves are varied by the
//! property test of `config`; here the built program says what it says, everywhere.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::Duration;

use processor::status::client;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::support::run::{PROCESSOR, Probe, wait_until};
use crate::support::scripted_ftp::{At, ScriptedFtp, What};

/// No five characters of it stand anywhere else.
const SECRET: &str = "Qz7Wk9Xv3JpY";

/// Fails when five characters of the secret stand in `bytes`, in any case.
#[track_caller]
fn hides(what: &str, bytes: impl AsRef<[u8]>) {
    let text = String::from_utf8_lossy(bytes.as_ref()).to_lowercase();
    for part in SECRET.to_lowercase().as_bytes().windows(5) {
        assert!(!text.contains(std::str::from_utf8(part).unwrap()), "{what}:\n{text}");
    }
}

/// Lines that were to set the password, with what must be said of them.
const DAMAGED: &[(&str, &str)] = &[
    ("processor_ftp_pass：Qz7Wk9Xv3JpY", "full-width colon"),
    ("processor_ftp_pass ： Qz7Wk9Xv3JpY", "full-width colon"),
    ("processor_ftp_pass；Qz7Wk9Xv3JpY", "not followed by a colon"),
    ("processor_ftp_pass=Qz7Wk9Xv3JpY", "not followed by a colon"),
    ("processor_ftp_pass Qz7Wk9Xv3JpY", "not followed by a colon"),
    ("processor_ftp_passQz7Wk9Xv3JpY", "not followed by a colon"),
    ("processor_ftp_pass\u{3000}Qz7Wk9Xv3JpY", "not followed by a colon"),
    ("processor_ftp_pass：Qz7Wk9:Xv3JpY", "full-width colon"),
    ("processor_ftp_passwd: Qz7Wk9Xv3JpY", "processor_ftp_pass"),
    ("proccessor_ftp_pass: Qz7Wk9Xv3JpY", "processor_ftp_pass"),
    ("processor_ftp_psas: Qz7Wk9Xv3JpY", "processor_ftp_pass"),
    ("processor_ftp_passQz7Wk9: Xv3JpY", "processor_ftp_pass"),
    ("processor_ftp_pass:\nQz7Wk9Xv3JpY", "processor_ftp_pass: is missing"),
    ("processor_ftp_pass:\nQz7Wk9:Xv3JpY", ":5"),
    ("processor_ftp_\npass: Qz7Wk9Xv3JpY", ":5"),
    ("“processor_ftp_pass”：“Qz7Wk9Xv3JpY”", "processor_ftp_pass"),
    ("ftp_pass: Qz7Wk9Xv3JpY", ":4"),
    ("processor_ftp_pass: Qz7Wk9\u{1b}[2JXv3JpY", "control character"),
    ("processor_ftp_dir: /a processor_ftp_pass: Qz7Wk9Xv3JpY", "second key"),
    ("processor_ftp_dir: /a\rprocessor_ftp_pass: Qz7Wk9Xv3JpY", "second key"),
    ("pcap_filter: ip processor_ftp_pass: Qz7Wk9Xv3JpY", "second key"),
    ("processor_ftp_host: ftp://u:Qz7Wk9Xv3JpY@h/", "processor_ftp_host"),
    ("processor_status_report_url: http//u:Qz7Wk9Xv3JpY@h/", "processor_status_report_url"),
    ("processor_status_report_url: x://u:Qz7/Wk9Xv3JpY@h/", "processor_status_report_url"),
];

fn check(text: &[u8], source: &str) -> Output {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("pmacct.conf");
    fs::write(&config, text).unwrap();
    Command::new(PROCESSOR).args(["check", "-source", source, "-config"]).arg(&config).output().unwrap()
}

#[test]
fn of_a_damaged_line_nothing_is_shown_and_its_fault_is_named() {
    for (line, said) in DAMAGED {
        let text =
            format!("processor_ftp_host: h\nprocessor_ftp_user: u\npcap_interface: lo\n{line}\naggregate: src_host\n");
        for source in ["stdin", "capture"] {
            let Output { stdout, stderr, .. } = check(text.as_bytes(), source);
            let told = [stdout, stderr].concat();
            hides(line, &told);
            let told = String::from_utf8(told).unwrap();
            assert!(told.contains(said), "{line:?}: {said:?} is missing in\n{told}");
        }
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let Output { stdout, stderr, status } = check(&utf16, "stdin");
        hides(line, &stdout);
        assert!(status.code() == Some(2) && String::from_utf8_lossy(&stderr).contains("is UTF-16"));
    }
    let gbk = [&b"processor_ftp_pass\xa3\xba"[..], SECRET.as_bytes()].concat();
    let said = check(&gbk, "stdin").stderr;
    hides("GBK", &said);
    assert!(String::from_utf8_lossy(&said).contains("full-width colon"));
}

#[test]
fn nobody_who_repeats_it_makes_it_show() {
    let server = ScriptedFtp::start();
    server.fault(Some((At::Pass, What::Say("530-no Qz7Wk9Xv3JpY\r\n530 PASSqz7wk9xv3jpy is Qz7Wk9\tXv3JpY"))));
    for format in ["json", "text"] {
        let temp = tempfile::tempdir().unwrap();
        let report = temp.path().join("report");
        let probe = Probe::new()
            .upload_to(server.address.port())
            .key("ftp_pass", SECRET)
            .key("log_format", format)
            .key("upload_interval_sec", 1)
            .key("status_report_enabled", "true")
            .key("status_report_url", format!("http://u:{SECRET}@127.0.0.1:1/?token={SECRET}"))
            .key("status_report_file_path", report.display())
            .key("status_report_interval_sec", 1)
            .line("proccessor_ftp_pass", SECRET)
            .arg("-log-level")
            .arg("debug");
        let mut live = probe.start();
        live.feed(b"SRC_IP,PACKETS,BYTES\n10.0.0.1,1,2\n");
        let ask = |path| client::get(probe.data(), path, Duration::from_secs(5)).unwrap_or_default().1;
        wait_until("a fault on the page", || ask("/api/status").contains("refused") && live.log().contains("POST"));
        for path in ["/api/status", "/metrics", "/healthz", "/readyz", "/"] {
            hides(path, ask(path));
        }
        let here = format!("/proc/{}", live.pid());
        hides("its arguments", fs::read(format!("{here}/cmdline")).unwrap());
        assert!(fs::read_to_string(format!("{here}/limits")).unwrap().contains("Max core file size        0  "));
        let ended = live.end();
        hides("the log", &ended.log);
        assert!(ended.log.contains("530"), "the reply's code stays: {}", ended.log);
        hides("the report", fs::read(&report).unwrap());
        let check =
            Command::new(PROCESSOR).args(["check", "-connect", "-config"]).arg(probe.config()).output().unwrap();
        hides("check -connect", [check.stdout, check.stderr].concat());
    }
}

#[test]
fn no_core_dump_is_made() {
    let dumps = |mut child: std::process::Child| {
        let pid = Pid::from_child(&child);
        prlimit(Some(pid), Resource::Core, Rlimit { current: None, maximum: None }).unwrap();
        kill_process(pid, Signal::ABORT).unwrap();
        child.wait().unwrap().core_dumped()
    };
    let temp = tempfile::tempdir().unwrap();
    let control = Command::new("sleep").arg("60").current_dir(temp.path()).spawn().unwrap();
    if !dumps(control) {
        return; // The kernel gives its dumps to nobody.
    }
    let probe = Probe::new();
    let mut live = probe.start();
    live.wait_for("data_dir_ready");
    let pid = Pid::from_raw(i32::try_from(live.pid()).unwrap()).unwrap();
    prlimit(Some(pid), Resource::Core, Rlimit { current: None, maximum: None }).unwrap();
    live.signal(Signal::ABORT);
    live.close();
    let status = live.wait().status;
    assert!(status.signal() == Some(6) && !status.core_dumped(), "{status:?}");
}
