//! `docs/design.md` is held against what the program writes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use processor::spool::dir::Dir;
use processor::spool::queue::Queue;
use processor::spool::stock::Stock;

use crate::support::run::{Probe, names, sealed, unpack};

const PAGE: &str = include_str!("../../docs/design.md");

/// The bytes that the page's table shows in the row that begins with `start`.
fn bytes_of(start: &str) -> Vec<u8> {
    let row = PAGE.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("no row {start:?}"));
    let shown = row.split('`').nth(1).unwrap();
    shown.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The length that the page gives for `name`.
fn length_of(name: &str) -> usize {
    let line = PAGE.lines().find_map(|line| line.trim_start().strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn every_name_in_the_data_directory_stands_on_the_page() {
    let probe = Probe::new().key("bad_lines", "quarantine").key("flush_interval_ms", 10);
    let mut live = probe.start();
    live.feed(b"SRC_IP,PACKETS,BYTES\n10.0.0.1,1,2\ntorn\n");
    let data = probe.data();
    let seen = |name: &str| names(data).iter().any(|have| have == name || have.ends_with(name));
    crate::support::run::wait_until("a segment, a reject and the socket", || {
        seen(".part") && seen("rejects") && seen(".processor.sock")
    });
    assert_eq!(fs::read_to_string(data.join(".processor.lock")).unwrap(), format!("{}\n", live.pid()));
    let socket = fs::symlink_metadata(data.join(".processor.sock")).unwrap();
    assert!(socket.file_type().is_socket() && socket.permissions().mode() & 0o7777 == 0o600);
    live.end().expect(0);

    Queue::new(Arc::new(Stock::new(Dir::open(data).unwrap(), Arc::default()))).token();
    let prefix = "flows_";
    for name in names(data) {
        let shown = match name.strip_suffix(".csv.gz") {
            Some(stem) => {
                let (stamp, index) = stem.strip_prefix(prefix).unwrap().rsplit_once('_').unwrap();
                assert!(stamp.len() == "YYYYMMDD_HHMMSS".len() && index == "000", "{name}");
                "    NAME.csv.gz ".to_owned()
            }
            None if name == "rejects" => "    rejects/PREFIXYYYYMMDD.txt ".to_owned(),
            None => format!("    {name} "),
        };
        assert!(PAGE.contains(&shown), "{name} is not on the page as {shown:?}");
        let wanted = match name.as_str() {
            "rejects" => 0o750,
            ".processor.sock" => 0o600,
            _ => 0o640,
        };
        assert_eq!(mode(&data.join(&name)), wanted, "{name}");
    }
    for name in [".processor.next", ".processor.token"] {
        assert_eq!(fs::read(data.join(name)).unwrap().len(), length_of(name), "{name}");
    }
    assert_eq!(fs::read_to_string(data.join(".processor.next")).unwrap(), format!("{:020}\n", 1));
}

#[test]
fn a_segment_is_made_as_the_page_shows() {
    let probe = Probe::new();
    let lines = b"SRC_IP,PACKETS,BYTES\n10.0.0.1,1,2\n";
    probe.run(lines).expect(0);
    let path = probe.data().join(&sealed(probe.data())[0]);
    let file = fs::read(&path).unwrap();
    assert_eq!(unpack(&path), lines);
    let (header, end) = (bytes_of("| 0 | "), bytes_of("| *end* | "));
    let marker = [0, 0, 0xff, 0xff];
    assert!(PAGE.contains("in `00 00 ff ff`"));
    let tail = [&marker, &end[..], &crc32fast::hash(lines).to_le_bytes(), &(lines.len() as u32).to_le_bytes()].concat();
    assert!(file.starts_with(&header) && header.len() == 10, "{file:02x?}");
    assert!(file.ends_with(&tail), "{file:02x?}");
}
