//! Embedded capture on capture files that nobody on the project made.
//!
//! `PROCESSOR_TEST_CAPTURES=DIR` names a directory of them; without it nothing is read. What the README says was run on the
//! samples in the source packages of tcpdump, libpcap, Wireshark, nDPI and dpkt, those packed with gzip unpacked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::run::Probe;

/// Packets that libpcap reads of a file, and whether it read it to its end; `None` where it cannot open it.
fn judged(path: &Path) -> Option<(u64, bool)> {
    let mut file = pcap::Capture::from_file(path).ok()?;
    let mut packets = 0;
    loop {
        match file.next_packet() {
            Ok(_) => packets += 1,
            Err(pcap::Error::NoMorePackets) => return Some((packets, true)),
            Err(_) => return Some((packets, false)),
        }
    }
}

/// Runs the program on a file; what is wrong, if anything is.
fn fault(path: &Path) -> Option<String> {
    let keys = "src_mac,dst_mac,vlan,src_host,dst_host,src_port,dst_port,proto,tos,tcpflags";
    let probe = Probe::new().key("source", "capture").line("pcap_savefile", path.display()).line("aggregate", keys);
    let ended = probe.line("nfprobe_maxflows", 20_000).run(b"");
    let judged = judged(path);
    match (ended.status.code(), judged) {
        (Some(0), _) => {
            let number = |field| ended.number("capture_ended", field);
            let (seen, counted) = (number("seen"), number("decoded") + number("rejected"));
            let read = judged.map_or(0, |(packets, _)| packets);
            (seen != counted || seen < read).then(|| format!("{seen} seen, {counted} counted, {read} in it"))
        }
        (Some(1), Some((_, true))) => Some(format!("libpcap reads it:\n{}", ended.log)),
        (Some(1), _) if !ended.log.contains("panicked") => None,
        _ => Some(format!("{:?}\n{}", ended.status, ended.log)),
    }
}

#[test]
fn capture_files_of_strangers_are_counted_or_refused() {
    let Some(directory) = std::env::var_os("PROCESSOR_TEST_CAPTURES") else { return };
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let faults: Vec<_> = files.iter().filter_map(|path| Some((path, fault(path)?))).collect();
    assert!(faults.is_empty(), "{} of {}: {faults:#?}", faults.len(), files.len());
}
