//! A backlog costs nothing: with a whole probe's life of sealed files waiting, the first line is on disk as soon as with none,
//! memory stays what it is, and no work is done again for each file.
//!
//! The short form takes 200,000 files, the long one a million. `PROCESSOR_BACKLOG_DIR` puts them on a disk of choice.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::run::{Live, PROCESSOR, Probe, names, peak_mib, sealed, temp_dir, wait_until};
use crate::support::torture::{is_long, points, report};
use crate::support::trace;

/// What the whole process may take, in MiB.
const MEMORY: u64 = 24;
/// Length of each file; with it the backlog is over a whole number of MiB by a few hundred files.
const LEN: usize = 105;
/// Names of one file: ext4 takes 65,000.
const LINKS: usize = 60_000;

fn home() -> TempDir {
    std::env::var("PROCESSOR_BACKLOG_DIR").map_or_else(|_| temp_dir(), |dir| tempfile::tempdir_in(dir).unwrap())
}

fn name(n: usize) -> String {
    format!("flows_202501{:02}_{:06}_{n:03}.csv.gz", 1 + n / 240_000, n % 240_000)
}

/// `count` files of one line, most of them further names of a few.
fn backlog(data: &Path, count: usize) {
    fs::create_dir(data).unwrap();
    let packed = |pad: usize| {
        let builder = flate2::GzBuilder::new().extra(vec![0; pad]);
        let mut encoder = builder.write(Vec::new(), flate2::Compression::new(1));
        encoder.write_all(b"1,2\n").unwrap();
        encoder.finish().unwrap()
    };
    let file = packed(LEN - packed(0).len());
    assert_eq!(file.len(), LEN);
    for n in 0..count {
        if n % LINKS == 0 {
            fs::write(data.join(name(n)), &file).unwrap();
        } else {
            fs::hard_link(data.join(name(n - n % LINKS)), data.join(name(n))).unwrap();
        }
    }
}

/// Waits until a line is in the open file, by the process's own descriptors: the directory is long.
fn wait_for_a_line(live: &Live) {
    let fds = format!("/proc/{}/fd", live.pid());
    wait_until("a line is on the disk", || {
        let fds = fs::read_dir(&fds).unwrap().flatten().map(|entry| entry.path());
        let mut parts = fds.filter(|fd| fs::read_link(fd).is_ok_and(|to| to.extension().is_some_and(|e| e == "part")));
        // Ten bytes are the header.
        parts.any(|fd| fs::metadata(fd).is_ok_and(|meta| meta.len() > 10))
    });
}

/// Passes over the directory that ended, by thread: the last call of each gives nothing more.
fn passes(log: &Path, thread: &str) -> usize {
    let text = fs::read_to_string(log).unwrap();
    text.lines().filter(|line| line.contains(&format!("<{thread}")) && line.trim_end().ends_with("= 0")).count()
}

/// A new header is a new file, so each row makes one.
fn rows_of_many_files(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).flat_map(|n| format!("TAG,COLUMN_{n}\n{n},x\n").into_bytes()).collect()
}

#[test]
fn neither_the_start_nor_a_new_file_nor_a_dropped_one_walks_the_backlog() {
    trace::require();
    let home = home();
    let data = home.path().join("data");
    let count = points(200_000, 1_000_000);
    backlog(&data, count);
    let limit = (count * LEN) >> 20;
    let probe = || Probe::new().data_dir(&data).key("csv_header", "each-file");
    let over = |probe: Probe, policy: &str| probe.key("spool_max_mb", limit).key("spool_full", policy);
    let away = |probe: Probe| probe.upload_to(1).key("upload_interval_sec", 1);
    // With the counter lost, only the directory tells which names were given out: the one start that has to walk it.
    probe().run(b"").expect(0);
    for (what, probe) in [
        ("no limit", probe()),
        ("no limit, the server away", away(probe())),
        ("block", over(probe(), "block")),
        ("drop-oldest", over(probe(), "drop-oldest")),
        ("drop-oldest, the server away", away(over(probe(), "drop-oldest"))),
    ] {
        let had = sealed(&data).len();
        let begun = Instant::now();
        let mut live = probe.start();
        live.feed(&rows_of_many_files(0, 1));
        let blocked = what == "block" && {
            wait_until("it says that it is full, or goes on", || {
                live.has("spool_full")
                    || live.log().contains("still being counted")
                    || begun.elapsed() > Duration::from_secs(3)
            });
            live.has("spool_full")
        };
        let first = if blocked {
            "said after".to_owned()
        } else {
            wait_for_a_line(&live);
            "first line on disk after".to_owned()
        };
        let took = begun.elapsed();
        // With everything that happens in the first seconds.
        let dropping = Instant::now();
        let mut figure = String::new();
        if what.starts_with("drop-oldest") {
            let files = 100;
            live.feed(&rows_of_many_files(1, files));
            wait_until("all files are made", || live.count("file_rotated") >= files);
            let dropped = live.count("spool_dropped");
            // What is made is half as long as what is dropped.
            assert!(dropped > files / 4, "{dropped} dropped");
            figure = format!(", {:.1} ms a new file and its dropped one", dropping.elapsed().as_secs_f64() * 10.0);
        }
        let peak = peak_mib(live.pid());
        live.signal(rustix::process::Signal::TERM);
        let ended = live.wait();
        assert!(peak <= MEMORY, "{what}: {peak} MiB\n{}", ended.log);
        let now = sealed(&data);
        let dropped = usize::try_from(ended.number("finished", "lines_dropped")).unwrap();
        if what.starts_with("drop-oldest") {
            let made = usize::try_from(ended.number("finished", "files_sealed")).unwrap();
            assert_eq!(now.len(), had + made - dropped, "each dropped file had a line, and was counted");
        } else {
            assert_eq!(dropped, 0);
        }
        let figure = format!("{first} {:.2} s, peak RSS {peak} MiB{figure}", took.as_secs_f64());
        report("a backlog costs nothing", &format!("{count} files waiting, {what}"), &figure);
    }
    let left = sealed(&data);
    let gone = (0..count).take_while(|n| left[0] != name(*n)).count();
    let old = left.iter().filter(|name| name.starts_with("flows_2025")).count();
    assert_eq!(old, count - gone, "the oldest went, in order");
    assert!(names(&data).iter().all(|name| !name.ends_with(".part")));

    let log = home.path().join("calls");
    let mut wrapper = trace::record(&["getdents64"], &log);
    wrapper.push("-Y".to_owned());
    let probe = away(over(probe(), "drop-oldest"));
    let mut live = probe.start_under(&wrapper);
    live.feed(&rows_of_many_files(0, 300));
    wait_until("all files are made", || live.count("file_rotated") >= 299);
    let ended = live.end();
    assert!(ended.log.matches("spool_dropped").count() > 75, "{}", ended.log);
    let main = Path::new(PROCESSOR).file_name().unwrap().to_str().unwrap();
    assert_eq!(passes(&log, main), 0, "the start waits for a look, and for no more");
    // One page, and one more when what others put in is looked for.
    let (spool, upload) = (passes(&log, "spool>"), passes(&log, "upload"));
    assert!((1..=2).contains(&spool), "{spool} passes for 300 files");
    let tries = ended.log.matches("upload_pass_failed").count();
    assert!(upload <= 2 * (tries + 2), "{upload} passes of the uploader, {tries} tries");
    let figure = format!("{spool} passes over the directory for 300 new files and what they dropped");
    report("a backlog costs nothing", &format!("{count} files waiting, drop-oldest"), &figure);
    assert!(!is_long() || count == 1_000_000);
}
