//! The end: SIGTERM ends the process in `processor_shutdown_timeout_sec` + 1 s, whatever hangs, at every moment of its life;
//! and whatever was read is in a file or in a number.
//!
//! Each test here asserts the time of the whole process, from the signal to the exit, with the limit at its smallest.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::account::{noisy_rows, on_disk, row, rows, spooled};
use crate::support::island::{Island, Kind};
use crate::support::run::{Ended, HANG_GUARD, Live, PROCESSOR, Probe, names, wait_until};
use crate::support::trace;

/// `processor_shutdown_timeout_sec`, and what the contract allows behind it.
const BOUND: Duration = Duration::from_secs(1 + 1);

/// Somebody who takes connections and says nothing.
fn mute() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn probe() -> Probe {
    Probe::new().key("shutdown_timeout_sec", 1)
}

/// A probe that reports to the receiver at `port`.
fn reporting(probe: Probe, port: u16) -> Probe {
    let probe = probe.key("status_report_enabled", true).key("status_report_interval_sec", 1);
    probe.key("status_report_url", format!("http://127.0.0.1:{port}/"))
}

/// Sends SIGTERM and waits; fails when it takes longer than promised.
#[track_caller]
fn stop(live: Live) -> Ended {
    let begun = Instant::now();
    live.signal(Signal::TERM);
    let ended = live.wait();
    let took = begun.elapsed();
    assert!(took < BOUND, "{took:?}\n{}", ended.log);
    ended
}

/// A terminal whose buffer is full and that nobody reads; the open master keeps it so.
fn full_terminal() -> (OwnedFd, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = File::options().read(true).write(true).open(name).unwrap();
    rustix::io::ioctl_fionbio(&slave, true).unwrap();
    while rustix::io::write(&slave, &[b'x'; 512]).is_ok() {}
    while rustix::io::write(&slave, b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&slave, false).unwrap();
    (master, slave)
}

/// A disk that does not answer: the calls of this name from the `n`th on never return; see the script.
fn hanging(call: &str, n: usize) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/hang.py");
    ["python3", script, call, &n.to_string()].map(str::to_owned).into()
}

#[test]
fn a_mute_server() {
    let (_server, port) = mute();
    let probe = probe().upload_to(port).key("ftp_timeout", 3600);
    let mut live = probe.start();
    live.feed(&rows(0..10));
    live.wait_for("uploader_started");
    let ended = stop(live).expect(0);
    assert_eq!(spooled(probe.data()).len(), 10, "{}", ended.log);
    assert!(ended.has("finished"));
}

#[test]
fn a_mute_receiver() {
    let (receiver, port) = mute();
    let probe = reporting(probe(), port);
    let mut live = probe.start();
    live.feed(&rows(0..10));
    receiver.accept().expect("the first report");
    let ended = stop(live).expect(0);
    assert_eq!(ended.number("finished", "lines_read"), 10);
}

#[test]
fn a_terminal_that_takes_nothing() {
    let (_master, terminal) = full_terminal();
    let probe = probe();
    let mut child = probe.command().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(terminal).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&rows(0..10)).unwrap();
    wait_until("the rows are on the disk", || on_disk(probe.data()).len() == 10);
    let begun = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    wait_until("the end", || child.try_wait().unwrap().is_some());
    let took = begun.elapsed();
    assert!(took < BOUND, "{took:?}");
    assert_eq!(spooled(probe.data()).len(), 10);
}

/// What a killed Go program leaves: one long gzip member without flush points.
fn go_part(probe: &Probe, lines: u64) {
    std::fs::create_dir_all(probe.data()).unwrap();
    let part = File::create(probe.data().join("flows_20251127_100000_001.part")).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(part, flate2::Compression::new(1));
    for from in (0..lines).step_by(10_000) {
        encoder.write_all(&rows(from..(from + 10_000).min(lines))).unwrap();
    }
    // Killed: what the encoder held and the trailer are missing.
    std::mem::forget(encoder);
}

#[test]
fn a_salvage_under_way() {
    // While the file is looked through, and while it is packed anew.
    for packing in [false, true] {
        let probe = probe();
        go_part(&probe, 4_000_000);
        let mut live = probe.start();
        // What waits in the pipe meanwhile is not lost with it.
        live.feed(&rows(0..10));
        let begun = if packing { ".repack" } else { ".processor.next" };
        wait_until("salvage", || names(probe.data()).iter().any(|name| name.ends_with(begun)));
        let ended = stop(live).expect(0);
        assert!(!ended.has("segment_salvaged"), "{}", ended.log);
        assert!(
            names(probe.data()).contains(&"flows_20251127_100000_001.part".to_owned()),
            "it waits for the next start"
        );
        assert_eq!(spooled(probe.data()), (0..ended.number("finished", "lines_read")).collect::<Vec<_>>());
    }
}

#[test]
fn a_disk_that_hangs_when_it_is_opened() {
    for call in ["flock", "fdatasync", "pwrite64", "fsync"] {
        let probe = probe();
        let live = probe.start_under(&hanging(call, 1));
        live.wait_for("started");
        let ended = stop(live).expect(1);
        assert!(ended.has("stage_failed") && ended.has("finished"), "{call}\n{}", ended.log);
    }
}

#[test]
fn a_disk_that_hangs_at_any_call() {
    // The start stores the counter once; then come the counter of the first name, the segment's header, the first piece, and at
    // the stop the trailer, the sync and the name.
    for (call, n) in
        [("pwrite64", 2), ("pwrite64", 3), ("pwrite64", 4), ("pwrite64", 5), ("fsync", 2), ("renameat2", 1)]
    {
        let probe = probe();
        let mut live = probe.start_under(&hanging(call, n));
        live.wait_for("data_dir_ready");
        live.feed(&rows(0..1000));
        wait_until("the rows are read", || live.input_left() == 0);
        let ended = stop(live);
        assert!(ended.has("finished"), "{call} {n}\n{}", ended.log);
        closes(&ended, &probe, call);
    }
}

#[test]
fn a_frozen_disk() {
    let island = Island::on_loop(Kind::Ext4);
    let probe = probe().data_dir(island.path().join("data"));
    let live = probe.start();
    live.wait_for("data_dir_ready");
    wait_until("the status room's socket", || probe.data().join(".processor.sock").exists());
    island.sh(&format!("fsfreeze -f {}", island.mounted().display()));
    // No file is open, so nothing has to be written.
    let ended = stop(live).expect(0);
    island.sh(&format!("fsfreeze -u {}", island.mounted().display()));
    assert!(ended.has("finished"));
}

/// The kernel does not let go a thread that waits for a frozen file system, not even after SIGKILL. What is ours to keep is that
/// all is said and the exit is called in time, and that the process is gone as soon as the kernel lets it.
#[test]
fn a_frozen_disk_with_rows_on_their_way() {
    let island = Island::on_loop(Kind::Ext4);
    let probe = probe().data_dir(island.path().join("data"));
    let mut live = probe.start();
    live.feed(&rows(0..100));
    wait_until("the rows are on the disk", || on_disk(probe.data()).len() == 100);
    island.sh(&format!("fsfreeze -f {}", island.mounted().display()));
    live.feed(&rows(100..300));
    wait_until("the rows are read", || live.input_left() == 0);
    let begun = Instant::now();
    live.signal(Signal::TERM);
    live.wait_for("finished");
    let took = begun.elapsed();
    island.sh(&format!("fsfreeze -u {}", island.mounted().display()));
    let thawed = Instant::now();
    let ended = live.wait();
    assert!(took < BOUND && thawed.elapsed() < Duration::from_secs(1), "{took:?}, {:?}", thawed.elapsed());
    assert!(ended.has("lines_lost"), "{}", ended.log);
    let number = |field| ended.number("finished", field);
    assert_eq!((number("lines_read"), number("lines_written"), number("lines_lost")), (300, 100, 200), "{}", ended.log);
}

#[test]
fn all_of_them_at_once() {
    let ((_server, ftp), (_receiver, http)) = (mute(), mute());
    let (_master, terminal) = full_terminal();
    let probe = reporting(probe().upload_to(ftp).key("ftp_timeout", 3600), http);
    for wrapper in [hanging("pwrite64", 4), hanging("fsync", 3), hanging("renameat2", 1), Vec::new()] {
        probe.write_config();
        let mut words = wrapper.iter().map(String::as_str).chain([PROCESSOR]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("-config").arg(probe.config()).arg("-data-dir").arg(probe.data());
        let stderr = terminal.try_clone().unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // More than the queues hold, so that the source waits for the spool as well.
        std::thread::spawn(move || input.write_all(&noisy_rows(0..4_000_000)));
        wait_until("the first rows are on their way", || {
            names(probe.data()).iter().any(|name| name.ends_with(".part") || name.ends_with(".csv.gz"))
        });
        let begun = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
        wait_until("the end", || child.try_wait().unwrap().is_some());
        let took = begun.elapsed();
        assert!(took < BOUND, "{wrapper:?}: {took:?}");
    }
}

#[test]
fn forty_that_end_at_once_all_say_their_last_line() {
    let probes: Vec<_> = (0..40).map(|_| Probe::new()).collect();
    let mut lives: Vec<_> = probes.iter().map(Probe::start).collect();
    for live in &mut lives {
        live.feed(&rows(0..1000));
    }
    for live in &lives {
        live.wait_for("data_dir_ready");
    }
    for live in &lives {
        live.signal(Signal::TERM);
    }
    for live in lives {
        let ended = live.wait().expect(0);
        assert!(ended.has("finished"), "{}", ended.log);
    }
}

#[test]
fn a_thread_that_cannot_be_made_is_a_failure_that_a_restart_may_mend() {
    trace::require();
    let (_server, ftp) = mute();
    let (_receiver, http) = mute();
    let mut failed = 0;
    for n in 1..=40 {
        let probe = reporting(probe().upload_to(ftp), http);
        let mut wrapper = trace::fail_at("clone3,clone", "EAGAIN", n, 100);
        wrapper.insert(1, "-D".to_owned());
        let mut live = probe.start_under(&wrapper);
        live.close();
        let begun = Instant::now();
        wait_until("it ends or runs", || {
            !live.is_running() || live.has("finished") || begun.elapsed() > HANG_GUARD / 4
        });
        let ended = if live.is_running() { stop(live) } else { live.wait() };
        match ended.code() {
            1 => failed += 1,
            code => assert!([0, 3].contains(&code), "{n}: {code}\n{}", ended.log),
        }
    }
    assert!(failed > 8, "{failed}");
}

/// Every line that was read is in a file, set aside, left out or counted as lost.
#[track_caller]
fn closes(ended: &Ended, probe: &Probe, what: &str) {
    let number = |field| ended.number("finished", field);
    let parts = ["lines_written", "lines_rejected", "header_lines", "lines_lost"].map(number);
    assert_eq!(number("lines_read"), parts.iter().sum::<u64>(), "{what}\n{}", ended.log);
    assert_eq!(on_disk(probe.data()).len() as u64, parts[0], "{what}\n{}", ended.log);
    assert_eq!(ended.has("lines_lost"), parts[3] > 0, "{what}\n{}", ended.log);
}

/// Rows, with a header line and a line of another width among every thousand when `mixed`.
fn flood(mixed: bool) -> Vec<u8> {
    let mut input = Vec::new();
    for n in 0..1_500_000 {
        if mixed && n % 1000 == 0 {
            input.extend_from_slice(b"TAG,SRC_IP,A\n");
        }
        input.extend_from_slice(row(n).as_bytes());
        if mixed && n % 1000 == 500 {
            input.extend_from_slice(b"one column\n");
        }
    }
    input
}

/// Feeds `input` until `stop_when`, stops, and compares the numbers with what can be counted from outside: the bytes that were
/// taken from the pipe, and the rows on the disk.
#[track_caller]
fn flooded(probe: &Probe, wrapper: &[String], input: &[u8], stop_when: impl Fn(&Live) -> bool) -> Ended {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let live = Live::start_reading(probe.command_under(wrapper), reader.try_clone().unwrap().into());
    let ended = AtomicBool::new(false);
    let (ended_run, taken) = std::thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            let mut fed = 0;
            while fed < input.len() && !ended.load(Relaxed) {
                fed += writer.write(&input[fed..(fed + 4096).min(input.len())]).unwrap();
            }
            drop(writer);
            fed
        });
        wait_until("the moment to stop", || stop_when(&live));
        let run = stop(live);
        ended.store(true, Relaxed);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        (run, feeder.join().unwrap() - rest.len())
    });
    let begun_line = usize::from(taken > 0 && input[taken - 1] != b'\n');
    let lines = memchr::memchr_iter(b'\n', &input[..taken]).count() + begun_line;
    assert_eq!(ended_run.number("finished", "lines_read"), lines as u64, "{}", ended_run.log);
    ended_run
}

#[test]
fn a_full_disk_at_the_stop() {
    let modes: [(&str, &[(&str, &str)]); 4] = [
        ("keep", &[]),
        ("each-file", &[("csv_header", "each-file")]),
        ("none, quarantine", &[("csv_header", "none"), ("bad_lines", "quarantine")]),
        ("small files", &[("csv_header", "each-file"), ("rotate_size_mb", "1")]),
    ];
    for (what, keys) in modes {
        let island = Island::tmpfs("size=1m");
        let probe = probe().data_dir(island.path().join("data")).key("spool_min_free_mb", 0);
        let probe = keys.iter().fold(probe, |probe, (key, value)| probe.key(key, value));
        let is_mixed = what.contains("quarantine");
        let mut input = if keys.is_empty() { Vec::new() } else { b"TAG,SRC_IP,A\n".to_vec() };
        input.extend(flood(is_mixed));
        let ended = flooded(&probe, &[], &input, |live| live.has("spool_write_failed")).expect(1);
        closes(&ended, &probe, what);
        assert!(ended.number("finished", "lines_lost") > 0 && ended.number("finished", "lines_written") > 0, "{what}");
        assert_eq!(ended.number("finished", "lines_rejected") > 0, is_mixed, "{what}\n{}", ended.log);
    }
}

#[test]
fn a_disk_that_hangs_under_a_flood() {
    for (call, n) in [("pwrite64", 20), ("fsync", 4), ("renameat2", 2)] {
        let probe = probe().key("rotate_size_mb", 1);
        let begun = |_: &Live| names(probe.data()).iter().any(|name| name.ends_with(".csv.gz"));
        let ended = flooded(&probe, &hanging(call, n), &flood(false), begun);
        closes(&ended, &probe, call);
    }
}

#[test]
fn a_data_directory_that_went_away() {
    let probe = probe();
    let mut live = probe.start();
    live.feed(&rows(0..100));
    wait_until("the rows are on the disk", || on_disk(probe.data()).len() == 100);
    std::fs::remove_dir_all(probe.data()).unwrap();
    live.feed(&rows(100..200));
    wait_until("the rows are read", || live.input_left() == 0);
    let ended = stop(live).expect(1);
    let number = |field| ended.number("finished", field);
    assert_eq!((number("lines_read"), number("lines_written"), number("lines_lost")), (200, 0, 200), "{}", ended.log);
}

/// A service manager that may be told how the program is.
fn manager(probe: Probe) -> (UnixDatagram, Probe) {
    let path = probe.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(HANG_GUARD)).unwrap();
    (manager, probe.env("NOTIFY_SOCKET", path.display()))
}

fn told(manager: &UnixDatagram) -> String {
    let mut text = [0; 256];
    let len = manager.recv(&mut text).expect("the program tells its manager");
    String::from_utf8_lossy(&text[..len]).into_owned()
}

#[test]
fn ready_is_said_when_everything_stands() {
    let (_server, port) = mute();
    let (manager, probe) = manager(probe().upload_to(port).key("ftp_timeout", 3600));
    let live = probe.start();
    assert_eq!(told(&manager), "READY=1\n");
    live.wait_for("data_dir_ready");
    live.wait_for("uploader_started");
    live.signal(Signal::TERM);
    assert_eq!(told(&manager), "STOPPING=1\nEXTEND_TIMEOUT_USEC=3000000\n");
    live.wait().expect(0);
}

/// What is refused after the data directory was opened is refused before READY.
#[test]
fn ready_is_not_said_by_what_does_not_start() {
    let ca = crate::support::run::temp_dir();
    let path = ca.path().join("empty.pem");
    File::create(&path).unwrap();
    let (_server, port) = mute();
    let probe = probe().upload_to(port).key("ftp_tls", "explicit").key("ftp_tls_ca", path.display());
    let (manager, probe) = manager(probe);
    probe.run(b"").expect(2);
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err(), "nothing was said");
}

#[test]
fn a_long_salvage_asks_the_manager_for_time() {
    let (manager, probe) = manager(probe());
    go_part(&probe, 4_000_000);
    let live = probe.start();
    assert_eq!(told(&manager), "EXTEND_TIMEOUT_USEC=30000000\n");
    stop(live);
}
