//! Any bytes as a torn `.part`: what comes of it is a whole gzip member that holds every line that unpacks, whoever wrote it;
//! what does not come through leaves the file as it was.
//!
//! An even first byte takes the rest as it is. An odd one makes a file from it first, ours or one that is flushed somewhere:
//! then a cut at some byte, a flipped byte perhaps, then some zeros.

#![no_main]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::time::Instant;

use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;
use processor::check;
use processor::line::{Batch, Block};
use processor::pack::{Level, Packer, Relay};
use processor::spool::salvage::{self, Way};
use processor::spool::segment::GZIP_HEADER;

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, rest)) = bytes.split_first() else { return };
    if how & 1 == 0 {
        check(rest);
        return;
    }
    let Some((&[cut, high, tail, flip], lines)) = rest.split_first_chunk::<4>() else { return };
    let text = lines_of(lines);
    let mut torn = match how & 6 {
        0 => our_file(&text, Level::Auto),
        2 => our_file(&text, Level::Zlib(1)),
        _ => foreign_file(&text, how),
    };
    torn.truncate(usize::from(u16::from_be_bytes([high, cut])) % (torn.len() + 1));
    if flip > 0 && !torn.is_empty() {
        let at = usize::from(flip) * 7 % torn.len();
        torn[at] ^= 1 << (flip & 7);
    }
    // Zeros, as a power cut leaves them; or nothing.
    torn.resize(torn.len() + usize::from(tail & 0x7f) * usize::from(tail >> 7), 0);
    check(&torn);
});

/// `lines`, the last one ended.
fn lines_of(lines: &[u8]) -> Vec<u8> {
    let mut text = lines.to_vec();
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

/// A file of another writer: flushed in some way, here and there, or in several members.
fn foreign_file(text: &[u8], how: u8) -> Vec<u8> {
    use flate2::FlushCompress::{Finish, Full, None, Partial, Sync};
    let chunk = 1 + usize::from(how >> 5) * 13;
    if how & 6 == 6 && how & 24 == 24 {
        return text.chunks(chunk * 8).flat_map(|part| foreign_file(part, 4)).collect();
    }
    let flush = [None, Sync, Full, Partial][usize::from(how >> 3 & 3)];
    let mut packer = flate2::Compress::new(flate2::Compression::new(6), false);
    let mut bytes = GZIP_HEADER.to_vec();
    bytes.reserve(1024 + 30 * text.len());
    for part in text.chunks(chunk) {
        packer.compress_vec(part, &mut bytes, flush).unwrap();
    }
    packer.compress_vec(&[], &mut bytes, Finish).unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(text);
    bytes.extend(crc.sum().to_le_bytes());
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes
}

/// A file of ours with a piece for every few lines.
fn our_file(text: &[u8], level: Level) -> Vec<u8> {
    let mut packer = Packer::new(check::Options::default(), level, Arc::new(Relay::default()));
    let mut bytes = GZIP_HEADER.to_vec();
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
    }
    bytes
}

fn temp(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What zlib gets out of it byte by byte, and how it ends: with a member, too early, or with an error. One that only zeros at the
/// end bring is a torn tail's.
fn unpack(bytes: &[u8]) -> (Vec<u8>, &'static str) {
    let (mut all, mut rest) = (Vec::new(), bytes);
    let solid = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    loop {
        let mut reader = Decompress::new_gzip(15);
        let mut raw = [0; 512];
        let mut ended = false;
        while let (false, Some((byte, behind))) = (ended, rest.split_first()) {
            rest = behind;
            let mut feed = std::slice::from_ref(byte);
            loop {
                let before = (reader.total_in(), reader.total_out());
                let status = reader.decompress(feed, &mut raw, FlushDecompress::None);
                let used = (reader.total_in() - before.0) as usize;
                let made = (reader.total_out() - before.1) as usize;
                all.extend_from_slice(&raw[..made]);
                feed = &feed[used..];
                match status {
                    Err(_) => return (all, if bytes.len() - rest.len() <= solid { "error" } else { "short" }),
                    Ok(Status::StreamEnd) => ended = true,
                    Ok(_) if used + made > 0 => continue,
                    Ok(_) => {}
                }
                break;
            }
        }
        rest = &rest[rest.iter().position(|b| *b != 0).unwrap_or(rest.len())..];
        if !ended || rest.is_empty() {
            return (all, if ended { "whole" } else { "short" });
        }
    }
}

/// The lines that can be read: many zeros at the end are a power cut's, unless the member ends in them.
fn readable(bytes: &[u8]) -> (Vec<u8>, &'static str) {
    let (mut raw, mut end) = unpack(bytes);
    if end != "whole" {
        let solid = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        if bytes.len() - solid >= 8 {
            (raw, end) = unpack(&bytes[..solid]);
        }
        raw.truncate(raw.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1));
    }
    (raw, end)
}

fn check(bytes: &[u8]) {
    let (expected, end) = readable(bytes);
    let mut file = temp(bytes);
    let salvage::Finding { salvaged, way, damage } = salvage::examine(&file, &mut |_| true).unwrap();
    assert!(damage.is_some() || end != "error", "what cannot be read is kept");
    match way {
        Way::Nothing => {
            assert!(expected.is_empty());
            return;
        }
        Way::AsItIs => assert!(damage.is_none()),
        Way::Cut(cut) => {
            assert!(damage.is_none());
            salvage::cut(&file, &cut).unwrap();
        }
        Way::Repack(how) => {
            let whole = temp(b"");
            salvage::repack(&file, &whole, &how, &mut |_| true).unwrap();
            file = whole;
        }
    }
    let (mut packed, mut raw) = (Vec::new(), Vec::new());
    file.rewind().unwrap();
    file.read_to_end(&mut packed).unwrap();
    let mut member = flate2::bufread::GzDecoder::new(&packed[..]);
    member.read_to_end(&mut raw).expect("a whole member");
    assert!(member.into_inner().is_empty(), "nothing behind it");
    assert_eq!(salvaged.raw_bytes, raw.len() as u64);
    assert!(raw == expected, "{} bytes of {}", raw.len(), expected.len());
}
