//! Embedded capture judged by tshark, which knows more formats than we: the captures that the tests make, of every link type,
//! and whatever `PROCESSOR_TEST_CAPTURES` names, key by key. `scripts/captures` is the judge.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::packets::{EVERYTHING, LINK_TYPES, Maker, pcap_file, pcapng_file};
use crate::support::run::PROCESSOR;

/// What the judge says of a folder, and its summary.
fn judged(folder: &Path) -> (String, serde_json::Value) {
    let report = tempfile::tempdir().unwrap();
    let report = report.path().join("report");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/captures");
    let mut judge = Command::new("python3");
    judge.arg(script).arg(folder).args(["--processor", PROCESSOR, "--report"]).arg(&report);
    let done = judge.output().unwrap();
    let said = fs::read_to_string(&report).unwrap_or_default() + &String::from_utf8_lossy(&done.stderr);
    let summary = String::from_utf8(done.stdout).unwrap();
    let summary = serde_json::from_str(summary.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{said}"));
    (said, summary)
}

#[test]
fn tshark_counts_the_same_in_every_link_type() {
    let folder = tempfile::tempdir().unwrap();
    // Two that tshark 4.0 does not know, or not in each of their forms.
    let known: Vec<u32> = LINK_TYPES.into_iter().filter(|link_type| ![166, 204].contains(link_type)).collect();
    for &link_type in &known {
        let frames = Maker::new(u64::from(link_type), EVERYTHING, &[link_type]).hosts(8).make(400);
        let ng = link_type % 2 == 0;
        let (name, file) = if ng { ("pcapng", pcapng_file(&frames)) } else { ("pcap", pcap_file(&frames)) };
        fs::write(folder.path().join(format!("{link_type}.{name}")), file).unwrap();
    }
    let (said, summary) = judged(folder.path());
    let lines = |kind: &str| said.lines().filter(|line| line.starts_with(kind)).collect::<Vec<_>>().join("\n");
    assert_eq!(summary["faults"], 0, "{}", lines("faults"));
    assert_eq!(summary["unexplained"], 0, "{}", lines("unexplained"));
    assert_eq!((&summary["files"], &summary["left_out"]), (&known.len().into(), &0.into()));
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert!(number("equal") * 10 > number("keys") * 8, "{summary}\n{}", lines("unjudged"));
}

#[test]
fn tshark_counts_the_same_in_strangers_captures() {
    let Some(folder) = std::env::var_os("PROCESSOR_TEST_CAPTURES") else { return };
    let (said, summary) = judged(Path::new(&folder));
    assert_eq!((&summary["faults"], &summary["unexplained"]), (&0.into(), &0.into()), "{summary}\n{said}");
}
