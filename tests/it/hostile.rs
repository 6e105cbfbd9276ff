//! Input that nobody should send: it passes as it is, goes to `rejects/`, or is refused in words, and costs no memory.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::support::account::{noisy_rows, rows, spooled};
use crate::support::run::{PROCESSOR, Probe, contents, names, peak_mib, sealed, wait_until};
use crate::support::scripted_ftp::ScriptedFtp;
use crate::support::torture::{is_long, points, report};

/// The program's own size with its threads' blocks, twice over: what no input may exceed. In MiB.
const MEMORY: u64 = 160;

#[test]
fn bytes_that_are_no_text_pass_as_they_came() {
    let mut input =
        b"SRC_IP,DST_IP,BYTES\r\n1,2,3\r\n\0\0\0,\0,\0\n\xff\xfe\xf0,\x80,4\n\n\r\n,,,,\n\"a,b\",c\n".to_vec();
    input.extend(
        b"\x1b[2J\x07,esc,5\nSRC_IP\0,DST_IP,BYTES\n\xef\xbb\xbfSRC_IP,DST_IP,BYTES\n\x00\x00\xff\xff\n".repeat(50),
    );
    input.extend(b"the last line has no end");
    for header in ["keep", "each-file"] {
        let probe = Probe::new().key("csv_header", header);
        let ended = probe.run(&input).expect(0);
        assert!(contents(probe.data()) == input, "{header}\n{}", ended.log);
        assert!(!ended.log.contains('\x1b') && !ended.log.contains('\0'), "nothing raw in the log");
    }
}

/// Feeds one line of `mib` MiB and returns the peak of memory.
fn long_line(mib: usize, bad_lines: &str) -> u64 {
    let probe = Probe::new().key("bad_lines", bad_lines).key("rotate_size_mb", 1);
    let mut live = probe.start();
    live.feed(b"TAG,SRC_IP,BYTES\n0,x,1\n");
    let chunk = vec![b'7'; 1 << 20];
    for _ in 0..mib {
        assert!(live.feed(&chunk));
    }
    live.feed(b"\n1,y,2\n");
    let peak = peak_mib(live.pid());
    let ended = live.end().expect(0);
    assert_eq!(ended.number("finished", "lines_read"), 4);
    if bad_lines == "keep" {
        let raw = contents(probe.data());
        assert_eq!(raw.len(), b"TAG,SRC_IP,BYTES\n0,x,1\n\n1,y,2\n".len() + (mib << 20));
        assert!(raw.ends_with(b"7\n1,y,2\n"));
        assert!(sealed(probe.data()).len() <= 2, "the line is in one file");
    } else {
        assert_eq!(spooled(probe.data()), [0, 1]);
        assert_eq!(ended.number("finished", "lines_rejected"), 1);
    }
    peak
}

#[test]
fn a_line_of_any_length_passes_in_bounded_memory() {
    let mib = points(100, 1024);
    let kept = long_line(mib, "keep");
    let set_aside = long_line(mib, "quarantine");
    assert!(kept < MEMORY && set_aside < MEMORY, "{kept} and {set_aside} MiB");
    let figure = format!("peak RSS {kept} MiB, {set_aside} MiB when it is set aside");
    report("bounded memory", &format!("one line of {mib} MiB"), &figure);
}

#[test]
fn a_flood_of_bad_lines_fills_neither_disk_nor_memory() {
    let count = points(400_000, 4_000_000);
    let probe = Probe::new().key("bad_lines", "quarantine");
    let mut live = probe.start();
    live.feed(b"TAG,SRC_IP,BYTES\n0,x,1\n");
    let begun = Instant::now();
    let line = format!("{}\n", "bad".repeat(60));
    let chunk = line.repeat(10_000).into_bytes();
    for _ in 0..count / 10_000 {
        assert!(live.feed(&chunk));
    }
    live.feed(b"1,y,2\n");
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let peak = peak_mib(live.pid());
    let ended = live.end().expect(0);
    let rejects = probe.data().join("rejects");
    let kept: u64 = names(&rejects).iter().map(|name| fs::metadata(rejects.join(name)).unwrap().len()).sum();
    assert!(kept <= 64 << 20 && ended.has("rejects_full"), "{kept} bytes");
    assert_eq!(ended.number("finished", "lines_rejected"), count as u64);
    assert_eq!(spooled(probe.data()), [0, 1]);
    assert!(ended.log.lines().count() < 50, "said once a minute, not once a batch:\n{}", ended.log);
    assert!(peak < MEMORY, "{peak} MiB");
    let figure = format!("{} MiB kept, all counted, peak RSS {peak} MiB", kept >> 20);
    report("bounded rejects", &format!("{count} bad lines, {rate:.0} a second"), &figure);
}

#[test]
fn values_that_would_lead_elsewhere_are_refused() {
    for (key, value) in [
        ("file_prefix", "../../etc/cron.d/x"),
        ("file_prefix", "a/b"),
        ("file_prefix", "a b"),
        ("ftp_user", "me\rDELE x"),
        ("ftp_dir", "/in\u{b}coming\0"),
        ("ftp_pass", "x\x1by"),
        ("ftp_host", "a\tb"),
        ("status_report_uuid", "x\ry"),
        ("status_report_url", "file:///etc/passwd"),
        ("timezone", "../../../etc/passwd"),
    ] {
        let probe = Probe::new().upload_to(21).key(key, value);
        let ended = probe.run(b"").expect(2);
        assert!(ended.log.contains(&format!("processor_{key}")), "{key}: {}", ended.log);
        assert!(!ended.log.contains(['\r', '\x1b', '\0']), "{key}: it is shown without its control characters");
        assert!(!probe.data().exists());
        let mut check = Command::new(PROCESSOR);
        let checked = check.arg("check").arg("-config").arg(probe.config()).output().unwrap();
        assert_eq!(checked.status.code(), Some(2), "{key}");
    }
    report("hostile values", "CR, ESC, NUL, `../`, file: URLs in ten keys", "refused with exit 2, shown without them");
}

#[test]
fn memory_does_not_grow_with_the_input_while_the_server_is_away() {
    let mib = points(96, 10_240);
    let home = tempfile::tempdir().unwrap();
    let probe = Probe::new().upload_to(1).data_dir(home.path().join("data")).key("rotate_size_mb", points(8, 100));
    let probe = probe.key("flush_interval_ms", 1000).key("upload_interval_sec", 1).key("gzip_level", "auto");
    let mut live = probe.start();
    let mut chunk = rows(0..200_000);
    chunk.truncate(memchr::memrchr(b'\n', &chunk[..4 << 20]).unwrap() + 1);
    let mut early = 0;
    for n in 0..mib / 4 {
        assert!(live.feed(&chunk));
        if n == mib / 16 {
            early = peak_mib(live.pid());
        }
    }
    let peak = peak_mib(live.pid());
    let ended = live.end().expect(3);
    let lines = memchr::memchr_iter(b'\n', &chunk).count() * (mib / 4);
    assert_eq!(ended.number("finished", "lines_written"), lines as u64);
    assert!(peak < MEMORY, "{peak} MiB");
    let figure = format!("peak RSS {peak} MiB, {early} MiB after a quarter of it");
    report("bounded memory", &format!("{mib} MiB of rows, the server away"), &figure);
}

fn backlog(probe: &Probe, files: usize) {
    fs::create_dir(probe.data()).unwrap();
    for n in 0..files {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        std::io::Write::write_all(&mut encoder, format!("{n},x\n").as_bytes()).unwrap();
        let name = format!("flows_20250101_{:06}_{n:06}.csv.gz", n % 240_000);
        fs::write(probe.data().join(name), encoder.finish().unwrap()).unwrap();
    }
}

#[test]
fn memory_does_not_grow_with_the_backlog() {
    let files = points(20_000, 100_000);
    let probe = Probe::new().upload_to(1).key("upload_interval_sec", 1);
    backlog(&probe, files);
    let mut live = probe.start();
    live.wait_for("upload_pass_failed");
    live.feed(&noisy_rows(0..1000));
    let peak = peak_mib(live.pid());
    let ended = live.end().expect(3);
    assert_eq!(ended.number("finished", "files_waiting"), files as u64 + 1);
    assert!(peak < MEMORY, "{peak} MiB");
    report("bounded memory", &format!("{files} files waiting"), &format!("peak RSS {peak} MiB"));
}

#[test]
fn one_file_refused_for_ever_holds_nobody_back() {
    let files = points(300, 2000);
    let server = ScriptedFtp::start();
    let probe = Probe::new().upload_to(server.address.port()).key("upload_interval_sec", 1);
    backlog(&probe, files);
    let refused = sealed(probe.data())[0].clone();
    server.put(&refused, b"somebody else's, of the same name");
    let live = probe.start();
    wait_until("the others are delivered", || server.names().len() == files);
    let ended = live.end().expect(3);
    assert_eq!(sealed(probe.data()), std::slice::from_ref(&refused), "{}", ended.log);
    assert_eq!(server.file(&refused).unwrap(), b"somebody else's, of the same name");
    assert!(is_long() || ended.log.lines().count() < 400, "it is not said again at every pass");
    report("one bad file", &format!("{files} files, the oldest refused for ever"), "all others delivered");
}
