//! Killed at any instant: what was on the disk is there after the next start, exactly once, and nothing torn stays.
//!
//! The program is killed as it enters its Nth call of every kind that changes something, in a run that opens, fills and
//! seals files (and uploads them), in the recovery from that, and in the recovery from a directory full of everything
//! that earlier lives can leave. The oracle is an inflater that knows nothing of pieces: what it reads from the torn
//! file before the recovery must come out of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::account::{is_the_beginning, noisy_rows, numbers, on_disk, rows, spooled};
use crate::support::run::{Live, Probe, names, sealed, unpack_bytes, wait_until};
use crate::support::scripted_ftp::ScriptedFtp;
use crate::support::torture::{Tally, in_parallel, is_long, points, report};
use crate::support::trace::{self, CHANGING, SENDING};

/// Files that a run makes, and pieces in each.
const FILES: u64 = 6;
const PIECES: u64 = 3;
const ROWS: u64 = 25;

/// Threads that break something at a time. Most of a point is waiting for the pieces to be due.
const AT_ONCE: usize = 6;

/// Feeds a run that rotates with every header; the next piece comes when the one before is in its file. Ends early when nobody
/// reads.
fn feed(live: &mut Live, data: &Path) {
    let newest = || {
        let segments = names(data).into_iter().filter(|name| name.starts_with("flows_"));
        let grown = |name: &String| fs::metadata(data.join(name)).map_or(0, |meta| meta.len());
        segments.map(|name| (name.split('.').next().unwrap().to_owned(), grown(&name))).max()
    };
    let mut next = 0;
    for file in 0..FILES {
        let mut text = format!("TAG,PART_{file}\n").into_bytes();
        for _ in 0..PIECES {
            text.extend(rows_of_two_columns(next..next + ROWS));
            next += ROWS;
            let before = newest();
            if !live.feed(&text) {
                return;
            }
            text.clear();
            wait_until("a piece", || newest() > before || !live.is_running());
        }
    }
}

fn rows_of_two_columns(range: std::ops::Range<u64>) -> Vec<u8> {
    range.flat_map(|n| format!("{n},{}\n", n * 7919 % 10_007).into_bytes()).collect()
}

fn probe() -> Probe {
    Probe::new().key("csv_header", "each-file").key("flush_interval_ms", 10)
}

/// One place to kill at.
#[derive(Debug, Clone)]
struct Point {
    call: String,
    n: usize,
}

/// All the places of a run that was recorded, each call from its first to its last.
fn every_point(log: &Path) -> Vec<Point> {
    let counts = trace::count(log);
    counts.into_iter().flat_map(|(call, most)| (1..=most).map(move |n| Point { call: call.clone(), n })).collect()
}

/// `count` of `all`, spread evenly; again from the front when there are fewer.
fn some(all: &[Point], count: usize) -> Vec<Point> {
    (0..count)
        .map(|i| if count <= all.len() { i * all.len() / count } else { i % all.len() })
        .map(|i| all[i].clone())
        .collect()
}

/// What must hold after the last recovery.
fn check(probe: &Probe, before: &[u64], server: Option<&ScriptedFtp>, what: &str) {
    let left = names(probe.data());
    let torn = left.iter().find(|name| name.ends_with(".part") || name.contains("repack") || name.ends_with(".torn"));
    assert_eq!(torn, None, "{what}: {left:?}");
    let mut found = Vec::new();
    if let Some(server) = server {
        let delivered = server.names();
        assert!(sealed(probe.data()).is_empty(), "{what}: everything is delivered");
        for name in delivered.iter().filter(|name| name.ends_with(".csv.gz")) {
            found.extend(numbers(&unpack_bytes(&server.file(name).unwrap()).unwrap()));
        }
    } else {
        found.extend(spooled(probe.data()));
    }
    is_the_beginning(&found);
    let lost: Vec<_> = before.iter().filter(|n| !found.contains(n)).collect();
    assert!(lost.is_empty(), "{what}: these were on the disk before the recovery: {lost:?}");
}

/// The numbers that must not get lost: on the disk, and on the server.
fn known(probe: &Probe, server: Option<&ScriptedFtp>) -> Vec<u64> {
    let mut known = on_disk(probe.data());
    for name in server.into_iter().flat_map(ScriptedFtp::names).filter(|name| name.ends_with(".csv.gz")) {
        known.extend(numbers(&unpack_bytes(&server.unwrap().file(&name).unwrap()).unwrap()));
    }
    known
}

fn was_killed(status: std::process::ExitStatus) -> bool {
    // strace ends by the signal that its child ended by.
    status.signal() == Some(9) || status.code() == Some(128 + 9)
}

/// Where the kills fell.
#[derive(Default)]
struct Hits {
    /// By call, and by call in a recovery.
    calls: Tally,
    /// Each call with its number.
    places: Tally,
    /// The same, in a recovery.
    recovery: Tally,
    /// The command that the server had last heard.
    commands: Tally,
}

impl Hits {
    /// Says how much of what a run and its recovery do was hit. The places are those of one recorded run; a later run may make
    /// a call more or less, so that not every place can be reached in every run.
    fn report(&self, run: &[Point], recovery: &[Point], commands: usize) {
        let kinds = |points: &[Point]| points.iter().map(|point| &point.call).collect::<BTreeSet<_>>().len();
        let of = |hit: usize, all: usize| format!("{hit} of {all}");
        let heard = self.commands.names();
        let heard = if commands == 0 {
            String::new()
        } else {
            format!("; {} FTP commands ({heard})", of(self.commands.kinds(), commands))
        };
        let figure = format!(
            "{} kinds of call and {} places of a run, {} places of a recovery{heard}",
            of(kinds(&reached(run, &self.places)), kinds(run)),
            of(reached(run, &self.places).len(), run.len()),
            of(reached(recovery, &self.recovery).len(), recovery.len())
        );
        report("coverage of the kills", "of all calls that an undisturbed run makes", &figure);
    }
}

/// Those of `points` at which a kill fell.
fn reached(points: &[Point], hits: &Tally) -> Vec<Point> {
    let names = format!(" {} ", hits.names());
    points.iter().filter(|point| names.contains(&format!(" {} ", point.name()))).cloned().collect()
}

impl Point {
    fn name(&self) -> String {
        format!("{}#{}", self.call, self.n)
    }
}

/// The word that begins a command.
fn verb(command: &str) -> String {
    command.split(' ').next().unwrap_or_default().to_owned()
}

/// Runs, is killed at `point`, is perhaps killed again in its recovery, recovers, and is checked.
fn kill_and_recover(point: &Point, again: Option<&Point>, uploads: bool, hits: &Hits) {
    let server = uploads.then(ScriptedFtp::start);
    let mut probe = probe();
    if let Some(server) = &server {
        probe = probe.upload_to(server.address.port()).key("upload_interval_sec", 1);
    }
    let mut live = probe.start_under(&trace::kill_at(&point.call, point.n));
    feed(&mut live, probe.data());
    let ended = live.end();
    let what = format!("{point:?}, then {again:?}");
    if was_killed(ended.status) {
        hits.calls.add(&point.call);
        hits.places.add(&point.name());
        if let Some(last) = server.as_ref().and_then(|server| server.commands().pop()) {
            hits.commands.add(&verb(&last));
        }
    } else {
        assert_eq!(ended.code(), 0, "{what}\n{}", ended.log);
    }
    let mut before = known(&probe, server.as_ref());
    if let Some(again) = again {
        let ended = probe.start_under(&trace::kill_at(&again.call, again.n)).end();
        if was_killed(ended.status) {
            hits.calls.add(&format!("{} in recovery", again.call));
            hits.recovery.add(&again.name());
        }
        before.extend(known(&probe, server.as_ref()));
    }
    let ended = probe.run(b"");
    assert_eq!(ended.code(), 0, "{what}\n{}", ended.log);
    check(&probe, &before, server.as_ref(), &what);
}

/// Records an undisturbed run and the recovery from a killed one, and how many kinds of command the server heard.
fn record(uploads: bool) -> (Vec<Point>, Vec<Point>, usize) {
    let server = uploads.then(ScriptedFtp::start);
    let mut probe = probe();
    let mut calls = CHANGING.to_vec();
    if let Some(server) = &server {
        probe = probe.upload_to(server.address.port());
        calls.extend(SENDING);
    }
    let log = probe.path("calls");
    let mut live = probe.start_under(&trace::record(&calls, &log));
    feed(&mut live, probe.data());
    live.end().expect(0);
    let run = every_point(&log);
    if let Some(server) = &server {
        assert_eq!(server.names().len() as u64, FILES, "every file is delivered");
    } else {
        assert_eq!(
            spooled(probe.data()),
            (0..FILES * PIECES * ROWS).collect::<Vec<_>>(),
            "the undisturbed run is whole"
        );
    }
    // Recovery: a torn file and, with a server, two that wait.
    let mut live = probe.start_under(&trace::kill_at("fsync", 8));
    feed(&mut live, probe.data());
    live.end();
    probe.start_under(&trace::record(&calls, &log)).end().expect(0);
    let recovery = every_point(&log).into_iter().filter(|point| point.call != "openat").collect();
    let commands = server.iter().flat_map(ScriptedFtp::commands).map(|command| verb(&command)).collect::<BTreeSet<_>>();
    (run, recovery, commands.len())
}

#[test]
fn killed_at_every_call_of_a_run_and_of_its_recovery() {
    trace::require();
    let hits = Hits::default();
    let (run, recovery, _) = record(false);
    // openat is counted by the thousand in the dynamic linker's and the time zone's share; a sample of it is enough.
    let (opens, run): (Vec<_>, Vec<_>) = run.into_iter().partition(|point| point.call == "openat");
    let mut first = if is_long() { some(&run, run.len().max(1200)) } else { run.clone() };
    first.extend(some(&opens, points(10, 60)));
    kill_all(&first, &recovery, false, &hits);
    assert!(hits.calls.total() >= points(100, 1500), "too few points: {}", hits.calls.text());
    let figure = format!("{} points, 0 violations ({})", hits.calls.total(), hits.calls.text());
    report("`kill -9` at any instant", "SIGKILL at every Nth call, and again in the recovery", &figure);
    hits.report(&run, &recovery, 0);
}

#[test]
fn killed_at_every_call_of_a_run_that_uploads() {
    trace::require();
    let hits = Hits::default();
    let (run, recovery, commands) = record(true);
    let run: Vec<_> = run.into_iter().filter(|point| point.call != "openat").collect();
    let first = some(&run, if is_long() { run.len().max(1200) } else { 130 });
    kill_all(&first, &recovery, true, &hits);
    assert!(hits.calls.total() >= points(100, 1200), "too few points: {}", hits.calls.text());
    let figure = format!("{} points, 0 violations ({})", hits.calls.total(), hits.calls.text());
    report("`kill -9` at any instant", "the same while it uploads, every Nth FTP command included", &figure);
    hits.report(&run, &recovery, commands);
}

/// Kills at each of `first`, and after every other one again in the recovery.
fn kill_all(first: &[Point], recovery: &[Point], uploads: bool, hits: &Hits) {
    let seconds = some(recovery, first.len());
    let pairs: Vec<_> = first.iter().zip(seconds).enumerate().collect();
    in_parallel(&pairs, AT_ONCE, |(i, (point, again))| {
        // Every one in the long form, where the recovery's places are fewer than the pairs.
        kill_and_recover(point, (is_long() || i % 2 == 0).then_some(again), uploads, hits);
    });
}

/// Where a file system has no rename that refuses to replace, a file is sealed by a second name; killed between the two steps it
/// has both, and is one file.
#[test]
fn killed_between_the_two_names_of_a_file_nothing_is_doubled() {
    trace::require();
    let tally = Tally::default();
    let removals: Vec<usize> = (1..=8).collect();
    in_parallel(&removals, AT_ONCE, |n| {
        let probe = probe();
        let mut live = probe.start_under(&trace::only_links(*n));
        feed(&mut live, probe.data());
        let killed = was_killed(live.end().status);
        let left = names(probe.data());
        if left.iter().any(|name| left.contains(&name.replace(".part", ".csv.gz")) && name.ends_with(".part")) {
            assert!(killed);
            tally.add("two names");
        }
        let before = on_disk(probe.data()).into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        // The recovery meets the same file system.
        probe.start_under(&trace::only_links(1000)).end().expect(0);
        check(&probe, &before, None, &format!("removal {n}"));
    });
    assert!(tally.total() >= 1, "no kill fell between the two names");
    report(
        "sealing by a link",
        "SIGKILL at every removal of a name, no renameat2",
        &format!("{} kills with two names, 0 doubled", tally.total()),
    );
}

/// A gzip file as another program leaves it when it is killed: flushed here and there, no end.
fn foreign_part(rows: &[u8], flush_every: Option<usize>, keep: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    for chunk in rows.chunks(flush_every.unwrap_or(usize::MAX)) {
        encoder.write_all(chunk).unwrap();
        if flush_every.is_some() {
            encoder.flush().unwrap();
        }
    }
    let mut bytes = encoder.finish().unwrap();
    bytes.truncate(bytes.len() * keep / 100);
    bytes
}

/// Fills a data directory with everything that earlier lives can leave. The numbers in it run from 0 without a gap as
/// far as they can be told; `before` is what an inflater reads.
fn wreckage(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    // Whole, only not renamed.
    put("flows_20250101_000000_000.part", &foreign_part(&rows(0..50), Some(400), 100));
    // Header and nothing else, a length without bytes, nothing at all.
    put("flows_20250101_000001_001.part", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    put("flows_20250101_000002_002.part", &[0; 5000]);
    put("flows_20250101_000003_003.part", b"");
    // A repack that was under way.
    put(".processor.repack", b"half of it");
    // Torn in the middle of a piece, with the zeros of a power cut behind it.
    let mut torn = foreign_part(&rows(50..90), Some(rows(50..90).len()), 100);
    torn.truncate(torn.len() - 8);
    torn.extend([0; 300]);
    put("flows_20250101_000004_004.part", &torn);
    // Damaged: its lines are packed anew, and it is kept.
    put(DAMAGED, &damaged_part());
    // Without a place to cut at: it must be packed anew.
    put("flows_20250101_000006_006.part", &foreign_part(&rows(200..9000), None, 60));
}

const DAMAGED: &str = "flows_20250101_000005_005.part";

fn damaged_part() -> Vec<u8> {
    [&foreign_part(&rows(90..200), Some(500), 100)[..], b"something else"].concat()
}

/// The damaged file of the wreckage is there as it was, once.
fn check_damaged(probe: &Probe, what: &str) {
    let torn = probe.data().join("torn");
    assert_eq!(names(&torn), [DAMAGED], "{what}");
    assert_eq!(fs::read(torn.join(DAMAGED)).unwrap(), damaged_part(), "{what}");
}

#[test]
fn killed_at_every_call_while_it_salvages_old_wreckage() {
    trace::require();
    let tally = Tally::default();
    let model = Probe::new();
    wreckage(model.data());
    let log = model.path("calls");
    model.start_under(&trace::record(CHANGING, &log)).end().expect(0);
    let undisturbed = spooled(model.data());
    assert!(undisturbed.len() >= 1000, "the wreckage holds something");
    is_the_beginning(&undisturbed);
    check_damaged(&model, "undisturbed");
    let all: Vec<_> = every_point(&log).into_iter().filter(|point| point.call != "openat").collect();
    let all = some(&all, points(all.len(), 600.max(all.len())));
    in_parallel(&all, AT_ONCE, |point| {
        let probe = Probe::new();
        wreckage(probe.data());
        if was_killed(probe.start_under(&trace::kill_at(&point.call, point.n)).end().status) {
            tally.add(&point.call);
        }
        probe.run(b"").expect(0);
        assert_eq!(spooled(probe.data()), undisturbed, "{point:?}");
        check(&probe, &undisturbed, None, &format!("{point:?}"));
        check_damaged(&probe, &format!("{point:?}"));
    });
    assert!(tally.total() >= 20, "too few points: {}", tally.text());
    let figure = format!("{} points, 0 violations ({})", tally.total(), tally.text());
    report("salvage", "SIGKILL at every Nth call while seven torn files are salvaged", &figure);
}

#[test]
fn killed_between_the_two_names_of_a_damaged_file_it_is_kept_once() {
    trace::require();
    let removals: Vec<usize> = (1..=12).collect();
    in_parallel(&removals, AT_ONCE, |n| {
        let probe = Probe::new();
        wreckage(probe.data());
        probe.start_under(&trace::only_links(*n)).end();
        probe.start_under(&trace::only_links(1000)).end().expect(0);
        let found = spooled(probe.data());
        is_the_beginning(&found);
        assert!(found.len() >= 1000, "removal {n}");
        check(&probe, &found, None, &format!("removal {n}"));
        check_damaged(&probe, &format!("removal {n}"));
    });
}

/// The promise by the clock: a line that was in for the flush interval survives.
#[test]
fn a_line_that_was_in_for_the_flush_interval_survives() {
    let flush = Duration::from_secs(1);
    let runs: Vec<u64> = (0..points(12, 120) as u64).collect();
    in_parallel(&runs, 12, |run| {
        let probe = Probe::new().key("flush_interval_ms", flush.as_millis());
        let mut live = probe.start();
        live.wait_for("data_dir_ready");
        let mut fed = Vec::new();
        let end = Instant::now() + Duration::from_millis(1500 + 83 * (run % 10));
        let mut n = 0;
        while Instant::now() < end {
            assert!(live.feed(&noisy_rows(n..n + 3)));
            n += 3;
            fed.push((Instant::now(), n));
            std::thread::sleep(Duration::from_millis(5 + run % 7 * 30));
        }
        let killed = Instant::now();
        live.kill();
        let due = fed.iter().rfind(|(at, _)| killed - *at >= flush).map_or(0, |(_, n)| *n);
        probe.run(b"").expect(0);
        let found = spooled(probe.data());
        is_the_beginning(&found);
        assert!(found.len() as u64 >= due && due > 0, "{} lines survive of {due} that must", found.len());
    });
    report("flush interval", "SIGKILL at a random time, no warning", &format!("{} kills, 0 lines lost", runs.len()));
}
