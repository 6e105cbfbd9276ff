//! The data directory: its limits under both policies, names that never come back, and what others put into it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::account::{each_once, is_the_beginning, noisy_rows, numbers, rows, spooled};
use crate::support::run::{Probe, contents, names, sealed, unpack, unpack_bytes, wait_until};
use crate::support::scripted_ftp::ScriptedFtp;
use crate::support::torture::report;

/// Bytes of everything in a data directory, as its limit counts them.
fn used(dir: &Path) -> u64 {
    let len =
        |name: &String| fs::metadata(dir.join(name)).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
    names(dir).iter().map(len).sum()
}

/// Rows of noise: a MiB of them packs to half of that, more or less.
const ROWS: u64 = 100_000;
const LIMIT: u64 = 2 << 20;
/// One segment of a MiB of rows, packed, and the small files of the directory.
const ONE_SEGMENT: u64 = 1 << 20;

fn limited(policy: &str) -> Probe {
    Probe::new().key("rotate_size_mb", 1).key("spool_max_mb", LIMIT >> 20).key("spool_full", policy)
}

#[test]
fn at_the_limit_block_reads_no_more_and_drops_nothing() {
    let probe = limited("block");
    let taken = probe.path("taken");
    fs::create_dir(&taken).unwrap();
    let mut live = probe.start();
    let mut pipe = live.take_input();
    let mut most = 0;
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(&noisy_rows(0..ROWS)).unwrap());
        live.wait_for("spool_full");
        // Somebody carries the files away, one at a time, until all was read and written.
        while live.is_running() {
            most = most.max(used(probe.data()));
            if let Some(name) = sealed(probe.data()).first() {
                fs::rename(probe.data().join(name), taken.join(name)).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let ended = live.wait().expect(0);
    assert!(most <= LIMIT + ONE_SEGMENT, "{most} bytes used");
    assert_eq!(ended.number("finished", "lines_dropped"), 0);
    let found = [spooled(&taken), spooled(probe.data())].concat();
    is_the_beginning(&found);
    assert_eq!(found.len() as u64, ROWS);
    report("spool limit, block", "7 MiB of rows into 2 MiB", &format!("{most} bytes at most, 0 lines lost"));
}

#[test]
fn at_the_limit_drop_oldest_counts_what_it_drops() {
    let probe = limited("drop-oldest");
    let mut live = probe.start();
    let mut most = 0;
    for chunk in noisy_rows(0..ROWS).chunks(256 * 1024) {
        live.feed(chunk);
        most = most.max(used(probe.data()));
    }
    let ended = live.end().expect(0);
    let found = spooled(probe.data());
    let dropped = ended.number("finished", "lines_dropped");
    let files = |field| ended.number("finished", field);
    assert_eq!(files("files_sealed"), files("files_waiting") + files("files_dropped"), "{}", ended.log);
    most = most.max(used(probe.data()));
    assert!(dropped > 0 && ended.has("spool_dropped"), "{}", ended.log);
    assert_eq!(found, (dropped..ROWS).collect::<Vec<_>>(), "the oldest went, and as many as were counted");
    assert!(most <= LIMIT + ONE_SEGMENT, "{most} bytes used");
    let figure = format!("{most} bytes at most, {dropped} lines dropped and counted");
    report("spool limit, drop-oldest", "7 MiB of rows into 2 MiB, no server", &figure);
}

#[test]
fn what_is_delivered_is_not_counted_as_dropped() {
    let server = ScriptedFtp::start();
    let probe = limited("drop-oldest").upload_to(server.address.port()).key("upload_interval_sec", 1);
    let mut live = probe.start();
    let delivered = || server.names().iter().filter(|name| name.ends_with(".csv.gz")).count();
    for round in 0..3 {
        let before = delivered();
        live.feed(&noisy_rows(round * ROWS..(round + 1) * ROWS));
        // The next rows come while a pass of the uploader is under way.
        wait_until("a file is delivered", || delivered() > before);
    }
    let ended = live.end().expect(0);
    let mut found = spooled(probe.data());
    for name in server.names().iter().filter(|name| name.ends_with(".csv.gz")) {
        found.extend(numbers(&unpack_bytes(&server.file(name).unwrap()).unwrap()));
    }
    let once: BTreeSet<_> = found.iter().copied().collect();
    assert_eq!(once.len(), found.len(), "nothing twice");
    assert_eq!(once.len() as u64 + ended.number("finished", "lines_dropped"), 3 * ROWS, "{}", ended.log);
    let files = |field| ended.number("finished", field);
    let ends = ["files_uploaded", "files_waiting", "files_dropped"].map(files);
    assert_eq!(files("files_sealed"), ends.iter().sum::<u64>(), "{}", ended.log);
}

#[test]
fn names_do_not_come_back_when_it_restarts() {
    let probe = Probe::new();
    for life in 0..10 {
        probe.run(&rows(life..life + 1)).expect(0);
    }
    assert_eq!(sealed(probe.data()).len(), 10);
    assert_eq!(spooled(probe.data()), (0..10).collect::<Vec<_>>());
    // Delivered and gone: the directory alone no longer tells what was given out.
    let before: BTreeSet<_> = sealed(probe.data()).into_iter().collect();
    for name in &before {
        fs::remove_file(probe.data().join(name)).unwrap();
    }
    probe.run(&rows(10..11)).expect(0);
    assert!(sealed(probe.data())[0].ends_with("_010.csv.gz"));
}

/// The library that lies to a program about the time.
pub fn faketime() -> PathBuf {
    let found = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
    let found = found.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("libfaketime is missing: run scripts/packages test")
}

/// Runs with the wall clock at `utc`, as `@2025-11-02 05:30:00`.
fn run_at(probe: Probe, utc: &str, input: &[u8]) -> Probe {
    let library = faketime();
    let probe = probe
        .env("LD_PRELOAD", library.display())
        .env("FAKETIME", utc)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
        .env("TZ", "UTC");
    probe.run(input).expect(0);
    probe
}

#[test]
fn names_do_not_come_back_when_the_clock_steps_back() {
    let mut probe = Probe::new().key("timezone", "America/New_York");
    // 01:30 twice: the clocks of New York go back at two. Then an hour back, by hand, to the same second again.
    for (life, utc) in ["@2025-11-02 05:30:00", "@2025-11-02 06:30:00", "@2025-11-02 05:30:00"].iter().enumerate() {
        let life = life as u64;
        probe = run_at(probe, utc, &rows(life * 5..life * 5 + 5));
    }
    let all = sealed(probe.data());
    assert!(all.iter().all(|name| name.starts_with("flows_20251102_01300")), "{all:?}");
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(spooled(probe.data()), (0..15).collect::<Vec<_>>());
    report("names never come back", "ten restarts in a second, clock back an hour, end of DST", "0 overwritten");
}

#[test]
fn two_probes_with_one_name_do_not_touch_each_other() {
    let server = ScriptedFtp::start();
    let at = "@2025-11-27 10:00:00";
    let first = run_at(Probe::new().upload_to(server.address.port()), at, &rows(0..10));
    assert!(sealed(first.data()).is_empty());
    let name = server.names().remove(0);
    let bytes = server.file(&name).unwrap();
    let second = Probe::new().upload_to(server.address.port()).env("LD_PRELOAD", faketime().display());
    let second = second.env("FAKETIME", at).env("FAKETIME_DONT_FAKE_MONOTONIC", 1).env("TZ", "UTC");
    let ended = second.run(&noisy_rows(0..500));
    assert_eq!(server.file(&name).unwrap(), bytes, "the first probe's file is as it was");
    let mut found = spooled(second.data());
    for other in server.names().iter().filter(|other| **other != name && other.ends_with(".csv.gz")) {
        found.extend(numbers(&unpack_bytes(&server.file(other).unwrap()).unwrap()));
    }
    each_once(&found, 500);
    assert!(ended.code() == 0 || ended.code() == 3 && ended.has("upload_failed"), "{}", ended.log);
}

#[test]
fn what_others_put_there_is_passed_over() {
    let server = ScriptedFtp::start();
    let probe = Probe::new().upload_to(server.address.port()).key("bad_lines", "quarantine");
    let (data, outside) = (probe.data().to_owned(), probe.path("outside"));
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "not yours").unwrap();
    let stem = "flows_20250101_000000_";
    mknodat(CWD, data.join(format!("{stem}000.csv.gz")), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    mknodat(CWD, data.join(format!("{stem}001.part")), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    fs::create_dir(data.join(format!("{stem}002.csv.gz"))).unwrap();
    fs::create_dir(data.join(format!("{stem}003.part"))).unwrap();
    symlink(outside.join("secret"), data.join(format!("{stem}004.csv.gz"))).unwrap();
    symlink(outside.join("secret"), data.join(format!("{stem}005.part"))).unwrap();
    symlink(&outside, data.join("rejects")).unwrap();
    fs::write(data.join("notes.txt"), "mine").unwrap();
    fs::write(data.join(format!("{stem}006.part")), "SRC_IP,DST_IP\nplain text\n").unwrap();
    let planted = names(&data);

    let ended = probe.run(b"TAG,SRC_IP,BYTES\n0,x,1\nbad\n1,y,2\n").expect(0);
    let (left, torn) = (names(&data), names(&data.join("torn")));
    for name in &planted {
        assert!(left.contains(name) || torn.contains(name), "{name} is still there: {left:?}, {torn:?}");
    }
    assert_eq!(torn, [format!("{stem}006.part")], "what is no gzip file is moved aside");
    assert!(fs::symlink_metadata(data.join(format!("{stem}000.csv.gz"))).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "not yours");
    assert_eq!(names(&outside), ["secret"], "nothing is written through a link");
    assert!(ended.has("data_dir_public") && ended.has("rejects_failed") && ended.has("segment_set_aside"));
    assert_eq!(ended.number("finished", "lines_rejected"), 1);
    let delivered = server.names();
    assert_eq!(delivered.len(), 1, "only its own file is sent: {delivered:?}");
    report("nothing of others", "FIFOs, directories, links, foreign files with our names, mode 777", "untouched, said");
    assert_eq!(numbers(&unpack_bytes(&server.file(&delivered[0]).unwrap()).unwrap()), [0, 1]);
}

#[test]
fn a_planted_link_in_place_of_its_own_files_is_refused() {
    for name in [".processor.lock", ".processor.next"] {
        let probe = Probe::new();
        fs::create_dir(probe.data()).unwrap();
        let victim = probe.path("victim");
        fs::write(&victim, "do not cut me").unwrap();
        symlink(&victim, probe.data().join(name)).unwrap();
        let ended = probe.run(&rows(0..5)).expect(1);
        assert!(ended.log.contains(probe.data().to_str().unwrap()), "{name}\n{}", ended.log);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "do not cut me");
        assert!(sealed(probe.data()).is_empty());
    }
}

#[test]
fn a_file_that_has_the_name_already_is_not_replaced() {
    let probe = Probe::new();
    let mut live = probe.start();
    live.feed(&rows(0..5));
    let part = || names(probe.data()).into_iter().find(|name| name.ends_with(".part"));
    crate::support::run::wait_until("a file is open", || part().is_some());
    let taken = probe.data().join(part().unwrap().replace(".part", ".csv.gz"));
    let theirs = flate2_bytes(b"900,theirs\n");
    fs::write(&taken, &theirs).unwrap();
    live.end().expect(0);
    assert_eq!(fs::read(&taken).unwrap(), theirs);
    assert_eq!(sealed(probe.data()).len(), 2);
    assert_eq!(unpack(&probe.data().join(&sealed(probe.data())[1])), rows(0..5));
    assert_eq!(contents(probe.data()).len(), rows(0..5).len() + 11);
}

fn flate2_bytes(raw: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(raw).unwrap();
    encoder.finish().unwrap()
}
