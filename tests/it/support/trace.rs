//! Faults at chosen system calls, by strace: a process killed as it enters its Nth `pwrite64`, a sync that fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The calls by which the program changes anything outside of itself.
pub const CHANGING: &[&str] = &[
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "renameat2",
    "renameat",
    "unlinkat",
    "mkdir",
    "openat",
    "flock",
];

/// As [`CHANGING`], and what goes to a server.
pub const SENDING: &[&str] = &["sendto", "connect", "recvfrom"];

/// Fails with what to do when strace is not there.
pub fn require() {
    let found = Command::new("strace").arg("-V").output();
    assert!(found.is_ok_and(|out| out.status.success()), "strace is missing: run scripts/packages test");
}

/// Kills the process when one of its threads enters its `n`th `call`.
pub fn kill_at(call: &str, n: usize) -> Vec<String> {
    inject(call, &format!("signal=KILL:when={n}"))
}

/// Lets the calls from the `n`th on, `times` of each thread, fail with `error` and do nothing.
pub fn fail_at(call: &str, error: &str, n: usize, times: usize) -> Vec<String> {
    inject(call, &format!("error={error}:when={n}..{}", n + times - 1))
}

/// A file system that knows no rename without replacing, and a kill at the `n`th removal of a name.
pub fn only_links(kill_at_removal: usize) -> Vec<String> {
    let kill = format!("inject=unlinkat:signal=KILL:when={kill_at_removal}");
    let rest = ["-e", "trace=renameat2,unlinkat", "-e", "inject=renameat2:error=EINVAL", "-e", &kill];
    ["strace", "-f", "-qq", "-o", "/dev/null"].into_iter().chain(rest).map(str::to_owned).collect()
}

fn inject(call: &str, how: &str) -> Vec<String> {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{how}"));
    // Not with --seccomp-bpf: strace 6.1 then counts to one at most.
    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(str::to_owned).into()
}

/// Writes the `calls` of every thread to `log`, for [`count`].
pub fn record(calls: &[&str], log: &Path) -> Vec<String> {
    let trace = format!("trace={}", calls.join(","));
    let log = log.to_str().unwrap();
    ["strace", "-f", "-qq", "--seccomp-bpf", "-o", log, "-e", &trace].map(str::to_owned).into()
}

/// For each call the most that one thread made, which is as far as [`kill_at`] can count.
pub fn count(log: &Path) -> BTreeMap<String, usize> {
    let mut by_thread: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        // The second half of a call that another thread's line cut in two is no call of its own.
        let Some((call, _)) = rest.trim_start().split_once('(').filter(|_| !rest.contains("resumed>")) else {
            continue;
        };
        *by_thread.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in by_thread {
        let known: &mut usize = most.entry(call).or_default();
        *known = count.max(*known);
    }
    most
}
