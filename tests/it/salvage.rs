//! Torn files that none of us wrote: what an independent reader can read of them is sealed, and what is not is kept.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::account::{noisy_rows, numbers, rows, spooled};
use crate::support::run::{Probe, contents, names, sealed, temp_dir, unpack, wait_until};
use crate::support::torture::{points, report};

const STRANGERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/strangers.py");

/// Cases of a row of the table, and what became of them.
#[derive(Default)]
struct Row {
    cases: u64,
    readable: usize,
    kept: usize,
    set_aside: u64,
}

#[test]
fn what_a_stranger_wrote_is_read_as_far_as_zlib_reads_it() {
    let probe = Probe::new();
    let expected = temp_dir();
    fs::create_dir_all(probe.data()).unwrap();
    let step = points(3, 1).to_string();
    let made =
        Command::new("python3").arg(STRANGERS).arg(probe.data()).arg(expected.path()).arg(step).output().unwrap();
    assert!(made.status.success(), "run scripts/packages test\n{}", String::from_utf8_lossy(&made.stderr));
    let before = temp_dir();
    for name in names(probe.data()) {
        fs::copy(probe.data().join(&name), before.path().join(&name)).unwrap();
    }
    let ended = probe.run(b"").expect(0);
    let left: Vec<_> = names(probe.data()).into_iter().filter(|name| name.ends_with(".part")).collect();
    assert!(left.is_empty(), "{left:?}");
    let mut table: BTreeMap<(String, String, String), Row> = BTreeMap::new();
    for case in String::from_utf8(made.stdout).unwrap().lines() {
        let case: Value = serde_json::from_str(case).unwrap();
        let word = |name: &str| case[name].as_str().unwrap().to_owned();
        let (stem, what) = (word("stem"), format!("{case}"));
        let readable = fs::read(expected.path().join(&stem)).unwrap();
        let file = probe.data().join(format!("{stem}.csv.gz"));
        let kept = if file.exists() { unpack(&file) } else { Vec::new() };
        assert!(kept == readable, "{what}: {} bytes of {}", kept.len(), readable.len());
        let part = format!("{stem}.part");
        let torn = fs::read(probe.data().join("torn").join(&part)).ok();
        if let Some(torn) = &torn {
            assert!(*torn == fs::read(before.path().join(&part)).unwrap(), "{what}: as it was");
        }
        assert!(torn.is_some() || word("end") != "error", "{what}: what could not be read is gone");
        let count = |text: &[u8]| memchr::memchr_iter(b'\n', text).count();
        let row = table.entry((word("writer"), word("flush"), word("damage"))).or_default();
        row.cases += 1;
        row.readable += count(&readable);
        row.kept += count(&kept);
        row.set_aside += u64::from(torn.is_some());
    }
    let mut cases = 0;
    for ((writer, flush, damage), row) in &table {
        let Row { cases: of, readable, kept, set_aside } = row;
        eprintln!("MATRIX | {writer} | {flush} | {damage} | {of} | {readable} | {kept} | {set_aside} |");
        cases += of;
    }
    assert_eq!(ended.number("finished", "files_waiting"), sealed(probe.data()).len() as u64);
    report(
        "salvage",
        "torn and damaged files of zlib, gzip, pigz, igzip, libdeflate and with Go's header",
        &format!("{cases} files, every line that zlib reads is sealed, 0 given up"),
    );
}

/// A gzip file of one member without flush points, quickly made and slowly packed.
fn slow_part(path: &Path, count: u64) {
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::none());
    for from in (0..count).step_by(10_000) {
        encoder.write_all(&noisy_rows(from..count.min(from + 10_000))).unwrap();
    }
    let file = encoder.finish().unwrap();
    file.set_len(file.metadata().unwrap().len() - 8).unwrap();
}

#[test]
fn a_signal_ends_the_salvage_and_the_next_start_goes_on() {
    let count = 1_500_000;
    let probe = Probe::new().key("shutdown_timeout_sec", 1);
    fs::create_dir_all(probe.data()).unwrap();
    let parts = ["flows_20250101_000000_000.part", "flows_20250101_000001_001.part"];
    slow_part(&probe.data().join(parts[0]), count);
    fs::copy(probe.data().join(parts[0]), probe.data().join(parts[1])).unwrap();
    let mut live = probe.start();
    live.feed(&rows(0..5));
    wait_until("the first file is packed anew", || names(probe.data()).iter().any(|name| name.ends_with(".repack")));
    let asked = Instant::now();
    live.signal(Signal::TERM);
    let ended = live.wait().expect(0);
    let took = asked.elapsed();
    assert!(took <= Duration::from_secs(2), "{took:?}\n{}", ended.log);
    assert_eq!(ended.number("salvage_put_off", "files"), 2, "{}", ended.log);
    let left = names(probe.data());
    assert!(parts.iter().all(|part| left.contains(&(*part).to_owned())), "{left:?}");
    assert!(!left.iter().any(|name| name.ends_with(".repack")), "{left:?}");
    assert_eq!(contents(probe.data()), rows(0..5), "what was read is sealed");

    let second = probe.run(b"").expect(0);
    assert!(second.number("segment_salvaged", "lines") == count && !second.has("salvage_put_off"));
    let files = sealed(probe.data());
    assert_eq!(files.len(), 3);
    assert_eq!(numbers(&unpack(&probe.data().join(&files[0]))), (0..count).collect::<Vec<_>>());
    report("salvage", "SIGTERM while a file without flush points is packed anew", &format!("ended in {took:?}"));
}

#[test]
fn what_does_not_fit_into_torn_keeps_its_place() {
    let probe = Probe::new();
    fs::create_dir_all(probe.data()).unwrap();
    let part = "flows_20250101_000000_000.part";
    fs::write(probe.data().join(part), b"this is not gzip").unwrap();
    // What somebody put there instead of the directory.
    fs::write(probe.data().join("torn"), b"mine").unwrap();
    let ended = probe.run(&rows(0..5)).expect(0);
    assert_eq!(fs::read(probe.data().join(format!("{part}.torn"))).unwrap(), b"this is not gzip");
    assert_eq!(fs::read(probe.data().join("torn")).unwrap(), b"mine");
    assert!(ended.has("segment_set_aside"), "{}", ended.log);
    fs::remove_file(probe.data().join("torn")).unwrap();
    fs::create_dir(probe.data().join("torn")).unwrap();
    fs::File::create(probe.data().join("torn/old")).unwrap().set_len((1 << 30) - 5).unwrap();
    fs::write(probe.data().join(part), b"nor is this").unwrap();
    fs::remove_file(probe.data().join(format!("{part}.torn"))).unwrap();
    let ended = probe.run(&rows(5..6)).expect(0);
    assert_eq!(fs::read(probe.data().join(format!("{part}.torn"))).unwrap(), b"nor is this");
    assert!(ended.log.contains("too many"), "{}", ended.log);
    assert_eq!(spooled(probe.data()), (0..6).collect::<Vec<_>>());
}
