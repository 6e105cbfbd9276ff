//! Everything at once, for as long as it is given: lives that are killed, stopped, starved of their disk and lied to by
//! their server, one after the other in one data directory.
//!
//! Each life is fed numbers of its own. At the end every life's numbers are on the server exactly once: all of them when
//! the life ended well, the beginning of them when it was killed.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::account::numbers;
use crate::support::packets::Rng;
use crate::support::run::{Probe, names, unpack_bytes};
use crate::support::scripted_ftp::{At, ScriptedFtp, What};
use crate::support::torture::{Tally, report, soak};
use crate::support::trace::{self, CHANGING, SENDING};

const SERVER_FAULTS: &[Option<(At, What)>] = &[
    None,
    None,
    None,
    Some((At::Greeting, What::Close)),
    Some((At::Pass, What::Say("530 no"))),
    Some((At::Stor, What::Say("553 no"))),
    Some((At::Taking, What::KeepHalf)),
    Some((At::Taking, What::Rewrite)),
    Some((At::Stored, What::DoneButClose)),
    Some((At::Stored, What::Say("451 disk full"))),
    Some((At::Rnto, What::DoneButClose)),
    Some((At::Rnto, What::Say("550 no"))),
    Some((At::Rnto, What::Reset)),
    Some((At::Size(2), What::Garbage)),
    Some((At::Epsv, What::Reset)),
];

const ROWS: u64 = 2000;

fn choose<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[usize::try_from(rng.next() % from.len() as u64).unwrap()]
}

#[test]
fn mixed_trouble() {
    trace::require();
    let seed = std::env::var("PROCESSOR_SOAK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut rng = Rng::new(seed);
    let server = ScriptedFtp::start();
    let probe = Probe::new()
        .upload_to(server.address.port())
        .key("upload_interval_sec", 1)
        .key("ftp_timeout", 1)
        .key("shutdown_timeout_sec", 2)
        .key("csv_header", "each-file");
    let tally = Tally::default();
    let end = Instant::now() + soak();
    // How many rows of each life were fed, and whether they all must be there.
    let mut lives: Vec<(u64, bool)> = Vec::new();
    while Instant::now() < end {
        server.fault(*choose(&mut rng, SERVER_FAULTS));
        let calls = [CHANGING, SENDING].concat();
        let n = 1 + usize::try_from(rng.next() % 40).unwrap();
        let (trouble, wrapper) = match rng.next() % 4 {
            0 => ("none", Vec::new()),
            1 => (
                "a disk error",
                trace::fail_at(choose::<&str>(&mut rng, &["pwrite64", "fsync", "renameat2"]), "EIO", n, 2),
            ),
            _ => ("a kill", trace::kill_at(choose::<&str>(&mut rng, &calls), n)),
        };
        tally.add(trouble);
        let first = lives.len() as u64 * ROWS;
        let mut live = probe.start_under(&wrapper);
        let mut fed = 0;
        let wanted = 1 + rng.next() % ROWS;
        while fed < wanted {
            let count = (1 + rng.next() % 400).min(wanted - fed);
            let mut text = format!("TAG,PART_{}\n", rng.next() % 5).into_bytes();
            text.extend((first + fed..first + fed + count).flat_map(|n| format!("{n},x\n").into_bytes()));
            fed += count;
            if !live.feed(&text) {
                break;
            }
            std::thread::sleep(Duration::from_millis(rng.next() % 20));
        }
        let ended = match rng.next() % 4 {
            // A tracer that is killed lets its child go on: then the child's own end is waited for.
            0 if wrapper.is_empty() => {
                tally.add("kill -9");
                live.kill()
            }
            1 if wrapper.is_empty() => {
                tally.add("SIGTERM");
                live.signal(Signal::TERM);
                live.end()
            }
            _ => live.end(),
        };
        let killed = ended.status.signal().is_some() || ended.status.code() == Some(137);
        // A life that could not start has read nothing; it says so.
        let refused = ended.status.code() == Some(1);
        assert!(killed || !ended.log.is_empty(), "it ended without a word: {:?}", ended.status);
        // What a signal leaves unread in the pipe was never in.
        let whole = !killed && !refused && ended.has("input_ended");
        lives.push((fed, whole));
    }
    server.fault(None);
    let last = probe.run(b"").expect(0);
    assert_eq!(
        names(probe.data()).iter().find(|name| name.ends_with(".part") || name.ends_with(".gz")),
        None,
        "{}",
        last.log
    );
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for name in server.names().iter().filter(|name| name.ends_with(".csv.gz")) {
        for n in numbers(&unpack_bytes(&server.file(name).unwrap()).unwrap()) {
            *times.entry(n).or_default() += 1;
        }
    }
    for (life, (fed, whole)) in lives.iter().enumerate() {
        let first = life as u64 * ROWS;
        let found: Vec<_> = times.range(first..first + ROWS).collect();
        assert!(found.iter().all(|(_, times)| **times == 1), "life {life}: a line twice, seed {seed}");
        let beginning = found.iter().zip(first..).all(|((n, _), expected)| **n == expected);
        assert!(beginning, "life {life}: a hole, seed {seed}");
        assert!(!whole || found.len() as u64 == *fed, "life {life}: {} of {fed} lines, seed {seed}", found.len());
    }
    let figure = format!("{} lives, {} lines delivered, 0 violations ({})", lives.len(), times.len(), tally.text());
    report("mixed trouble", "kills, disk errors and a lying server, in turn", &figure);
}
