//! Disks that are full, out of inodes, read-only, broken, or lose their power: nothing ends without a word, nothing
//! corrupt is left, and the work goes on when the disk does.

use std::path::Path;

use crate::support::account::{is_the_beginning, noisy_rows, numbers, on_disk, rows, spooled};
use crate::support::island::{Island, Kind};
use crate::support::run::{Probe, contents, names, sealed, unpack, wait_until};
use crate::support::torture::{Tally, in_parallel, points, report};
use crate::support::trace;

/// Feeds `input` while `trouble` is on, waits for the first word of it, calls `mend`, and checks that all is there.
#[track_caller]
fn goes_on_after(probe: &Probe, input: &[u8], event: &str, mend: impl FnOnce()) {
    let mut live = probe.start();
    let mut pipe = live.take_input();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut pipe, input).unwrap());
        live.wait_for(event);
        assert!(live.is_running());
        for name in sealed(probe.data()) {
            unpack(&probe.data().join(name));
        }
        mend();
    });
    let ended = live.wait().expect(0);
    assert!(ended.has("spool_write_recovered") || ended.has("spool_free"), "{}", ended.log);
    assert!(contents(probe.data()) == input, "byte-identical");
    assert!(names(probe.data()).iter().all(|name| !name.ends_with(".part")));
}

#[test]
fn a_full_disk_is_waited_for() {
    let island = Island::tmpfs("size=1m");
    let probe = Probe::new().data_dir(island.path().join("data")).key("rotate_size_mb", 1);
    let input = noisy_rows(0..45_000);
    goes_on_after(&probe, &input, "spool_write_failed", || island.remount("size=32m"));
    report("disk full", "tmpfs of 1 MiB, 3 MiB of rows, then room", "byte-identical");
}

#[test]
fn free_space_is_guarded() {
    let island = Island::tmpfs("size=3m");
    let probe = Probe::new().data_dir(island.path().join("data"));
    let probe = probe.key("rotate_size_mb", 1).key("spool_min_free_mb", 2);
    let input = noisy_rows(0..45_000);
    goes_on_after(&probe, &input, "spool_full", || island.remount("size=32m"));
}

#[test]
fn a_disk_without_inodes_is_waited_for() {
    // The root, the data directory, lock, counter and token leave two.
    let island = Island::tmpfs("size=32m,nr_inodes=6");
    let probe = Probe::new().data_dir(island.path().join("data")).key("csv_header", "each-file");
    let input: Vec<u8> = (0..20).flat_map(|n| format!("TAG,COLUMN_{n}\n{n},x\n").into_bytes()).collect();
    goes_on_after(&probe, &input, "spool_write_failed", || island.remount("nr_inodes=1000"));
    report("no inodes", "tmpfs with 6 inodes, 20 files, then more", "byte-identical");
}

/// A life that was killed with two pieces on the disk; how many rows they hold.
fn killed_life(probe: &Probe) -> u64 {
    let mut live = probe.start();
    live.wait_for("data_dir_ready");
    for n in 0..2 {
        live.feed(&rows(n * 50..n * 50 + 50));
        wait_until("the rows are on the disk", || on_disk(probe.data()).len() as u64 == n * 50 + 50);
    }
    live.kill();
    100
}

#[test]
fn a_torn_file_waits_for_the_disk_and_is_not_given_up() {
    trace::require();
    let stages = [
        ("ftruncate", 2, "EROFS"),
        ("pwrite64", 2, "ENOSPC"),
        ("fsync", 2, "EIO"),
        ("renameat2", 1, "ENOSPC"),
        ("renameat2", 1, "EIO"),
        ("fsync", 3, "EIO"),
    ];
    in_parallel(&stages, 6, |(call, n, error)| {
        let probe = Probe::new();
        let count = killed_life(&probe);
        let mut live = probe.start_under(&trace::fail_at(call, error, *n, 1));
        live.feed(&rows(count..count + 10));
        let ended = live.end().expect(0);
        assert!(ended.has("segment_waits"), "{call} {error}\n{}", ended.log);
        assert!(names(&probe.data().join("torn")).is_empty(), "{call} {error}");
        assert_eq!(spooled(probe.data()), (0..count + 10).collect::<Vec<_>>(), "{call} {error}");
    });
}

#[test]
fn a_torn_file_that_never_can_be_salvaged_holds_nobody_back() {
    trace::require();
    let probe = Probe::new();
    let count = killed_life(&probe);
    let mut live = probe.start_under(&trace::fail_at("ftruncate", "EIO", 1, 100));
    live.feed(&rows(count..count + 10));
    let ended = live.end();
    let kept = names(&probe.data().join("torn")).len();
    assert_eq!((ended.code(), kept), (0, 1), "{}", ended.log);
    assert!(ended.has("segment_set_aside"));
    assert_eq!(spooled(probe.data()), (count..count + 10).collect::<Vec<_>>());
}

#[test]
fn a_read_only_disk_is_said() {
    let island = Island::tmpfs("size=4m");
    let probe = Probe::new().data_dir(island.path().join("data"));
    probe.run(&rows(0..10)).expect(0);
    island.remount("ro");
    let ended = probe.run(&rows(10..20)).expect(1);
    assert!(ended.log.contains("Read-only file system"), "{}", ended.log);
    island.remount("rw");
    probe.run(&rows(10..20)).expect(0);
    assert_eq!(spooled(probe.data()), (0..20).collect::<Vec<_>>());
    report("read-only disk", "remount,ro before the start, then rw", "said, exit 1, then goes on");
}

/// Nobody can take the disk away by `remount,ro` while the program runs: its lock file is open for writing all the time, so the
/// kernel refuses, before the first row, with a file open and with none. Only a force that asks nobody is left; see below.
#[test]
fn a_disk_cannot_be_made_read_only_under_it() {
    let island = Island::tmpfs("size=32m");
    let probe = Probe::new().data_dir(island.path().join("data")).key("rotate_interval_sec", 1);
    let mut live = probe.start();
    let refused = |stage: &str| {
        for options in ["remount,ro", "remount,bind,ro"] {
            island.sh(&format!(
                "mount -o {options} {0} 2>&1 && exit 1 || mount -o {options} {0} 2>&1 | grep -q 'is busy' # {stage}",
                island.mounted().display()
            ));
        }
    };
    live.wait_for("data_dir_ready");
    refused("no file yet");
    live.feed(&rows(0..50));
    wait_until("the rows are on the disk", || on_disk(probe.data()).len() == 50);
    refused("a file is open");
    live.wait_for("file_rotated");
    refused("the file is sealed");
    live.feed(&rows(50..100));
    live.end().expect(0);
    assert_eq!(spooled(probe.data()), (0..100).collect::<Vec<_>>());
    island.remount("ro");
    report("read-only disk", "remount,ro under the run", "refused by the kernel while it runs; all rows there");
}

/// The kernel finds an error in the file system and remounts it read-only under the running program, as it does on worn-out
/// disks. Nothing can be written any more, and that is said; what was flushed is there when the disk is mounted again.
#[test]
fn a_disk_that_becomes_read_only_is_said_and_costs_nothing_that_was_flushed() {
    let island = Island::on_loop(Kind::Ext4);
    island.sh(&format!("mount -o remount,errors=remount-ro {}", island.mounted().display()));
    let probe = Probe::new().data_dir(island.path().join("data"));
    let mut live = probe.start();
    live.feed(&rows(0..200));
    wait_until("the rows are on the disk", || on_disk(probe.data()).len() == 200);
    island.sh("for _ in $(seq 3); do sync; done");
    island.sh(&format!(
        "echo broken on purpose > /sys/fs/ext4/$(basename $(findmnt -no SOURCE {}))/trigger_fs_error",
        island.mounted().display()
    ));
    live.feed(&rows(200..400));
    live.wait_for("spool_write_failed");
    assert!(live.is_running(), "it goes on trying");
    live.signal(rustix::process::Signal::TERM);
    let ended = live.wait();
    assert!(ended.code() != 0 && ended.log.contains("Read-only file system"), "{}", ended.log);
    island.unmount();
    island.mount();
    probe.run(&rows(400..410)).expect(0);
    let found = spooled(probe.data());
    let kept = u64::try_from(found.len()).unwrap() - 10;
    assert_eq!(found, (0..kept).chain(400..410).collect::<Vec<_>>());
    assert!(kept >= 200, "{kept} of the 200 rows that were flushed before");
    report(
        "read-only disk",
        "an ext4 error remounts it read-only under the run",
        "said, exit 1; all that was flushed is there",
    );
}

/// Calls of the spool's way, and what they fail with.
const FAULTS: &[(&str, &[&str])] = &[
    ("pwrite64", &["ENOSPC", "EIO", "EROFS"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO"]),
    ("renameat2", &["EIO", "ENOSPC", "EROFS"]),
    ("openat", &["ENOSPC", "EMFILE"]),
    ("fstatfs", &["EIO"]),
];

#[test]
fn a_call_that_fails_is_tried_again_at_every_stage() {
    trace::require();
    let tally = Tally::default();
    let input: Vec<u8> =
        (0..4).flat_map(|n| format!("TAG,COLUMN_{n}\n{},x\n{},y\n", 2 * n, 2 * n + 1).into_bytes()).collect();
    let model = Probe::new().key("csv_header", "each-file");
    let log = model.path("calls");
    let calls: Vec<_> = FAULTS.iter().map(|(call, _)| *call).collect();
    let mut live = model.start_under(&trace::record(&calls, &log));
    live.feed(&input);
    live.end().expect(0);
    let counts = trace::count(&log);
    let mut all = Vec::new();
    for (call, errors) in FAULTS {
        for error in *errors {
            for n in 1..=counts.get(*call).copied().unwrap_or(0) {
                all.push((*call, *error, n));
            }
        }
    }
    let step = all.len().div_ceil(points(90, all.len()));
    let all: Vec<_> = all.into_iter().step_by(step.max(1)).collect();
    in_parallel(&all, 12, |(call, error, n)| {
        let probe = Probe::new().key("csv_header", "each-file");
        let mut live = probe.start_under(&trace::fail_at(call, error, *n, 2));
        live.feed(&input);
        let ended = live.end();
        let what = format!("{call} {n} {error}\n{}", ended.log);
        match ended.status.code() {
            Some(0) => {
                assert!(contents(probe.data()) == input, "{what}");
                assert!(names(probe.data()).iter().all(|name| !name.ends_with(".part")), "{what}");
                tally.add(call);
            }
            // At the start there is nothing to wait for: it says why, and has read nothing.
            Some(1 | 2 | 127) => {
                assert!(!ended.log.is_empty(), "{what}");
                assert!(spooled(probe.data()).is_empty(), "{what}");
                tally.add(&format!("{call} at the start"));
                probe.run(&input).expect(0);
                assert!(contents(probe.data()) == input, "{what}");
            }
            other => panic!("{other:?} {what}"),
        }
    });
    report(
        "disk errors",
        "ENOSPC, EIO, EROFS, EMFILE twice in a row at every Nth call",
        &format!("{} points, 0 violations ({})", tally.total(), tally.text()),
    );
}

/// One life that ends with the power, and the next one.
fn power_cut(kind: Kind, run: usize) {
    let island = Island::on_loop(kind);
    let data = island.path().join("data");
    let probe = Probe::new().data_dir(&data).key("csv_header", "each-file");
    let mut live = probe.start();
    let mut next = 0;
    let wanted = 1 + run % 4;
    while live.count("file_rotated") < wanted {
        let mut text = format!("TAG,COLUMN_{next}\n").into_bytes();
        for n in next..next + 40 {
            text.extend_from_slice(format!("{n},{}\n", n * 7919 % 10_007).as_bytes());
        }
        next += 40;
        assert!(live.feed(&text), "{}", live.log());
        std::thread::sleep(std::time::Duration::from_millis(3 + run as u64 % 5 * 4));
    }
    // Only what was said to be sealed is promised.
    let said = live.log();
    let mut promised = Vec::new();
    for name in sealed(&data).iter().filter(|name| said.contains(name.as_str())) {
        promised.extend(numbers(&unpack(&data.join(name))));
    }
    island.cut_power();
    live.feed(b"TAG,AFTER\n999999,x\n");
    live.kill();
    island.unmount();
    island.mount();
    probe.run(b"").expect(0);
    let left = names(&data);
    assert!(left.iter().all(|name| !name.ends_with(".part")), "{left:?}");
    let found = spooled(&data);
    is_the_beginning(&found);
    let lost: Vec<_> = promised.iter().filter(|n| !found.contains(n)).collect();
    assert!(lost.is_empty() && !promised.is_empty(), "{kind:?}: sealed, synced and lost: {lost:?}");
    check_names(&data);
    // The next file's name is a new one.
    let before = sealed(&data);
    probe.run(&rows(0..1)).expect(0);
    assert_eq!(sealed(&data).len(), before.len() + 1);
    island_is_clean(&island);
}

fn check_names(data: &Path) {
    let mut indexes: Vec<_> = sealed(data).iter().map(|name| name.rsplit('_').next().unwrap().to_owned()).collect();
    let all = indexes.len();
    indexes.dedup();
    assert_eq!(indexes.len(), all, "no index twice: {indexes:?}");
}

fn island_is_clean(island: &Island) {
    assert!(island.ashore().exists());
    island.unmount();
}

#[test]
fn what_was_sealed_survives_a_power_cut() {
    let runs: Vec<_> =
        (0..points(8, 120)).map(|run| (if run % 2 == 0 { Kind::Ext4 } else { Kind::Xfs }, run)).collect();
    in_parallel(&runs, 4, |(kind, run)| power_cut(*kind, *run));
    report(
        "power cut",
        "ext4 and XFS shut down under it, mounted again",
        &format!("{} cuts, 0 violations", runs.len()),
    );
}
