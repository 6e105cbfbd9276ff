//! Any bytes as a torn `.part`: what comes of it is a whole gzip member, or it is left alone.
//!
//! An even first byte takes the rest as it is. An odd one makes a file of ours from it first: pieces of the rest, then a
//! cut at some byte, then some zeros or other bytes; every complete piece must be in the result.

#![no_main]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use processor::check;
use processor::line::{Batch, Block};
use processor::pack::{Level, Packer, Relay};
use processor::spool::salvage::{self, Finding};
use processor::spool::segment::GZIP_HEADER;

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, rest)) = bytes.split_first() else { return };
    if how & 1 == 0 {
        make_whole(rest);
        return;
    }
    let Some((&[cut, high, tail], lines)) = rest.split_first_chunk::<3>() else { return };
    let (mut torn, ends) = our_file(lines, if how & 2 == 0 { Level::Auto } else { Level::Zlib(1) });
    let cut = usize::from(u16::from_be_bytes([high, cut])) % (torn.len() + 1);
    let whole = ends.iter().rfind(|(end, _)| *end <= cut).map_or(0, |(_, raw)| *raw);
    torn.truncate(cut);
    // Zeros, as a power cut leaves them; or nothing.
    torn.resize(cut + usize::from(tail & 0x7f) * usize::from(tail >> 7), 0);
    let expected = lines_of(lines);
    match make_whole(&torn) {
        // zlib may end a piece with a second empty block; a cut inside that takes nothing away.
        Some(raw) => {
            let is_whole = raw.len() >= whole && (raw.len() == whole || ends.iter().any(|(_, end)| *end == raw.len()));
            assert!(is_whole && raw == expected[..raw.len()], "cut at {cut}");
        }
        None => assert_eq!(whole, 0, "cut at {cut}"),
    }
});

/// `lines`, the last one ended.
fn lines_of(lines: &[u8]) -> Vec<u8> {
    let mut text = lines.to_vec();
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

/// A file of ours with a piece for every few lines; where each piece ends, packed and raw.
fn our_file(lines: &[u8], level: Level) -> (Vec<u8>, Vec<(usize, usize)>) {
    let mut packer = Packer::new(check::Options::default(), level, Arc::new(Relay::default()));
    let mut bytes = GZIP_HEADER.to_vec();
    let mut ends = Vec::new();
    let (text, mut raw) = (lines_of(lines), 0);
    let all: Vec<_> = text.split_inclusive(|b| *b == b'\n').collect();
    for (number, lines) in all.chunks(3).enumerate() {
        let lines = lines.concat();
        let mut block = Block::new(lines.len());
        block.append(&lines);
        let batch = Batch {
            block,
            schema: None,
            starts_mid_line: false,
            ends_mid_line: false,
            starts_file: number == 0,
            arrived: Instant::now(),
        };
        bytes.extend(packer.pack(number as u64, batch, Vec::new()).0.piece.deflate);
        raw += lines.len();
        ends.push((bytes.len(), raw));
    }
    (bytes, ends)
}

fn temp(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What the result unpacks to; `None` when nothing is made of it.
fn make_whole(bytes: &[u8]) -> Option<Vec<u8>> {
    let file = temp(bytes);
    let (mut file, salvaged) = match salvage::examine(&file).unwrap() {
        Finding::CutAt { end, trailer, salvaged } => {
            salvage::cut(&file, end, &trailer).unwrap();
            (file, salvaged)
        }
        Finding::Repack => {
            let whole = temp(b"");
            let salvaged = salvage::repack(&file, &whole).unwrap();
            (whole, salvaged)
        }
        Finding::Nothing | Finding::Foreign => return None,
    };
    let mut packed = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut packed).unwrap();
    let mut raw = Vec::new();
    let mut member = flate2::bufread::GzDecoder::new(&packed[..]);
    member.read_to_end(&mut raw).expect("a whole member");
    assert!(member.into_inner().is_empty(), "nothing behind it");
    assert_eq!(salvaged.raw_bytes, raw.len() as u64);
    assert!(raw.is_empty() || raw.ends_with(b"\n"));
    Some(raw)
}
