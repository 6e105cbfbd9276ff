//! The house rules that a machine can check: which room may import which.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the ground up, as `src/lib.rs` lists them; rooms of one row may know each other.
const ROWS: &[&[&str]] = &[
    &["shutdown", "end", "threads", "clock", "secret", "random", "pmacctconf", "stats", "notify"],
    &["log"],
    &["fields"],
    &["schema", "line"],
    &["flow", "supervise", "sample"],
    &["check"],
    &["pack"],
    &["source"],
    &["remote"],
    &["spool"],
    &["uploader"],
    &["pipeline"],
    &["report", "status"],
    &["config", "cli"],
    &["plan"],
    &["app"],
];

fn row(room: &str) -> usize {
    ROWS.iter().position(|row| row.contains(&room)).unwrap_or_else(|| panic!("{room} is not on the map in lib.rs"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The rooms that a file names by `crate::ROOM`, its tests and documentation left out.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut rooms = BTreeSet::new();
    for line in lines {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(list) => rooms.extend(list.split(['}', ';']).next().unwrap_or_default().split(',').map(name_of)),
                None => drop(rooms.insert(name_of(rest))),
            }
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

fn name_of(path: &str) -> String {
    path.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[test]
fn imports_only_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap().with_extension("");
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let is_test = inside.file_name().is_some_and(|name| name == "tests");
        if matches!(room.as_str(), "lib" | "main" | "build") || is_test {
            continue;
        }
        for used in imports(&fs::read_to_string(&path).unwrap()) {
            if row(&used) > row(&room) {
                wrong.push(format!("{}: crate::{used}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these imports point up:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "tests", "benches"] {
        for path in sources(&root.join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} does not open with what it is for", path.display());
        }
    }
}

/// What may be locked: what became of files and faults, what the lanes of a pass share, what the sessions of a server learned,
/// the deadlines of sockets, the count of the files, an interface that came back, the trip of the latch.
const LOCKS: &[&str] = &[
    "log/recent.rs",
    "remote/ftp.rs",
    "remote/ftp/delivery.rs",
    "remote/watchdog.rs",
    "shutdown.rs",
    "source/capture/live.rs",
    "spool/stock.rs",
    "uploader/feed.rs",
    "uploader/lane.rs",
];

/// Places that may do what others must not, each for the reason that stands there.
const HOMES: &[(&str, &[&str])] = &[
    ("thread::spawn(", &[]),
    // These threads are scoped: they borrow from the source that waits for them.
    ("thread::Builder", &["threads.rs", "source/capture/live.rs", "source/pmacct.rs"]),
    ("unbounded(", &[]),
    ("process::exit(", &[]),
    ("thread::sleep(", &[]),
    ("SystemTime::now", &["clock.rs"]),
    ("Utc::now", &["clock.rs"]),
    // Each is taken once a file, a connection or an event, never on the way of the lines.
    ("Mutex<", LOCKS),
    ("RwLock<", &[]),
    ("Condvar,", LOCKS),
    // The crates `log` and `tracing` know no other way.
    ("set_global_default(", &["log/bridge.rs"]),
    ("set_boxed_logger(", &["log/bridge.rs"]),
    ("RandomState", &["random.rs"]),
    ("lazy_static", &[]),
    ("LazyLock", &[]),
    ("thread_local!", &[]),
    ("static mut", &[]),
];

/// Rooms to which the time is told; what they do can be tested to the nanosecond.
const CORES: &[&str] = &["fields", "schema", "line", "flow", "supervise", "check", "pack"];

#[test]
fn no_core_reads_a_clock() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap().with_extension("");
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let reads = ["Instant::now(", "clock::now("].iter().any(|clock| code.contains(clock));
        assert!(!reads || !CORES.contains(&room.as_str()), "{} reads a clock", path.display());
    }
}

#[test]
fn what_is_banned_stays_in_its_home() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let text = fs::read_to_string(&path).unwrap();
        let inside = path.strip_prefix(&src).unwrap().display().to_string();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if inside.ends_with("tests.rs") {
            continue;
        }
        for (banned, homes) in HOMES {
            let uses = code.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains(banned));
            if uses.count() > 0 && !homes.contains(&inside.as_str()) {
                wrong.push(format!("{inside}: {banned}"));
            }
        }
    }
    assert!(wrong.is_empty(), "these have one home, and it is elsewhere:\n{}", wrong.join("\n"));
}
