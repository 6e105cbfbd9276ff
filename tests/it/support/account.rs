//! The arithmetic of every proof: each line has a number, and every number is to be found exactly once.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::run::{sealed, unpack};

/// The rows `numbers`, each `N,` and a little that depends on it.
pub fn rows(numbers: Range<u64>) -> Vec<u8> {
    let mut text = Vec::new();
    for n in numbers {
        text.extend_from_slice(row(n).as_bytes());
    }
    text
}

/// One row.
pub fn row(n: u64) -> String {
    format!("{n},10.{}.{}.{},{}\n", n % 7, n % 251, n % 13, n * 37 % 1_000_003)
}

/// Rows that no encoder makes smaller than half, for tests that fill something.
pub fn noisy_rows(numbers: Range<u64>) -> Vec<u8> {
    let mut text = Vec::new();
    for n in numbers {
        let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
        text.extend_from_slice(format!("{n},").as_bytes());
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.extend_from_slice(format!("{:016x}", state ^ state >> 29).as_bytes());
        }
        text.push(b'\n');
    }
    text
}

/// The numbers of the rows in `text`, in their order; header lines have none. Fails on a line that is no row of ours.
#[track_caller]
pub fn numbers(text: &[u8]) -> Vec<u64> {
    assert!(text.is_empty() || text.ends_with(b"\n"), "the last line is whole");
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"TAG"));
    lines
        .map(|line| {
            let line = std::str::from_utf8(line).unwrap();
            let n = line.split(',').next().and_then(|n| n.parse().ok());
            n.unwrap_or_else(|| panic!("not a row of ours: {line:?}"))
        })
        .collect()
}

/// The numbers in the sealed files of `dir`, oldest file first.
#[track_caller]
pub fn spooled(dir: &Path) -> Vec<u64> {
    sealed(dir).iter().flat_map(|name| numbers(&unpack(&dir.join(name)))).collect()
}

/// Fails unless `found` is exactly `0..found.len()` in order: none missing between, none doubled, none moved.
#[track_caller]
pub fn is_the_beginning(found: &[u64]) {
    for (expected, n) in found.iter().enumerate() {
        assert_eq!(
            *n,
            expected as u64,
            "around {:?}",
            &found[expected.saturating_sub(3)..(expected + 3).min(found.len())]
        );
    }
}

/// Fails unless `found` holds every number of `0..count` exactly once, in any order.
#[track_caller]
pub fn each_once(found: &[u64], count: u64) {
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for n in found {
        *times.entry(*n).or_default() += 1;
    }
    let missing: Vec<_> = (0..count).filter(|n| !times.contains_key(n)).take(10).collect();
    let wrong: Vec<_> = times.iter().filter(|(n, times)| **times > 1 || **n >= count).take(10).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "missing {missing:?}, too often {wrong:?}, of {count}");
}

/// The numbers of the rows that a torn `.part` holds in whole pieces.
pub fn torn(path: &Path) -> Vec<u64> {
    numbers(&torn_text(path))
}

/// What a torn `.part` holds in whole pieces, read by an inflater that knows nothing of pieces: everything up to the last line
/// end that comes out before the bytes end.
fn torn_text(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_default();
    if bytes.len() < 10 {
        return Vec::new();
    }
    let mut inflate = flate2::Decompress::new(false);
    let mut raw = Vec::with_capacity(bytes.len() * 20 + 4096);
    // What comes out before an error or the end was written.
    let _ = inflate.decompress_vec(&bytes[10..], &mut raw, flate2::FlushDecompress::Sync);
    raw.truncate(memchr::memrchr(b'\n', &raw).map_or(0, |at| at + 1));
    raw
}

/// The text on the disk while files are sealed by somebody else: sealed, then torn. A file that is renamed between the two looks
/// is in neither, so ask again.
pub fn text_on_disk(dir: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for name in sealed(dir) {
        text.extend(unpack(&dir.join(name)));
    }
    for name in super::run::names(dir).iter().filter(|name| name.ends_with(".part")) {
        text.extend(torn_text(&dir.join(name)));
    }
    text
}

/// Every number on the disk: sealed, then torn.
pub fn on_disk(dir: &Path) -> Vec<u64> {
    let mut found = spooled(dir);
    for name in super::run::names(dir) {
        if name.ends_with(".part") {
            found.extend(torn(&dir.join(name)));
        }
    }
    found
}
