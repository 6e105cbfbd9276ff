//! The field-aware encoder against three inflaters that share no code: zlib-rs, miniz_oxide and libdeflate.
//!
//! The first byte chooses how the rest is read: as it is, or as a list of fields and separators that makes rows which
//! resemble each other, of equally many fields or not; whether pieces follow or stand alone; and whether they come by way of
//! the check, which finds the fields first. Whatever comes, all three must give it back, and every set of instructions must
//! write the same bytes.
//!
//!     cargo +nightly fuzz run encoder -- -max_total_time=3600 -max_len=65536

#![no_main]

use std::cell::RefCell;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use processor::check::Options;
use processor::line::{Batch, Block};
use processor::pack::field::Encoder;
use processor::pack::{Level, Packer, Relay};
use processor::schema::Schema;

struct State {
    encoders: Vec<Encoder>,
    packer: Packer,
    /// The packer's next piece.
    number: u64,
}

thread_local! {
    // Used again and again: what went before must not change what comes out.
    static STATE: RefCell<State> = RefCell::new(State {
        encoders: Encoder::all().collect(),
        packer: Packer::new(Options::default(), Level::Auto, Arc::new(Relay::default())),
        number: 0,
    });
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, rest)) = input.split_first() else { return };
    STATE.with_borrow_mut(|state| state.run(how, rest));
});

impl State {
    fn run(&mut self, how: u8, rest: &[u8]) {
        let bytes = if how & 1 == 0 { rest.to_vec() } else { rows(rest, how & 32 != 0) };
        let size = [1, 50, 700, 8_192, 40_000, 300_000, usize::MAX, 3][usize::from(how >> 1 & 7)].max(bytes.len() / 64);
        let pieces = || bytes.chunks(size.max(1));
        if how & 16 != 0 {
            self.all(&bytes, |encoder, stream| {
                encoder.encode(b"", stream);
                pieces().for_each(|piece| encoder.encode_next(piece, stream));
            });
        }
        for piece in pieces() {
            self.all(piece, |encoder, alone| encoder.encode(piece, alone));
        }
        if how & 64 != 0 {
            let mut stream = Vec::new();
            for (at, piece) in pieces().enumerate() {
                let starts_file = at == 0 || how & 128 != 0;
                let packed = self.checked(piece, starts_file);
                if starts_file {
                    back(&packed, piece);
                }
                stream.extend(packed);
            }
            if !stream.is_empty() {
                back(&stream, &bytes);
            }
        }
    }

    /// What all paths make of `bytes`, which must be the same and come back.
    fn all(&mut self, bytes: &[u8], encode: impl Fn(&mut Encoder, &mut Vec<u8>)) {
        let mut first: Option<Vec<u8>> = None;
        for encoder in &mut self.encoders {
            let mut packed = Vec::new();
            encode(encoder, &mut packed);
            match &first {
                Some(first) => assert!(*first == packed, "a path differs"),
                None => first = Some(packed),
            }
        }
        back(&first.unwrap_or_default(), bytes);
    }

    /// `bytes` by way of the check.
    fn checked(&mut self, bytes: &[u8], starts_file: bool) -> Vec<u8> {
        let mut block = Block::new(bytes.len());
        block.append(bytes);
        let separator = [",", ";", "\t", "|"].into_iter().find(|with| bytes.contains(&with.as_bytes()[0])).unwrap_or(",");
        let header = ["SRC_IP", "PACKETS", "BYTES\n"].join(separator);
        let schema = Schema::from_line(header.as_bytes());
        let arrived = Instant::now();
        let batch = Batch { block, schema, starts_mid_line: false, ends_mid_line: false, starts_file, arrived };
        let (packed, _) = self.packer.pack(self.number, batch, Vec::new());
        self.number += 1;
        assert!(!packed.encoder_failed);
        packed.piece.deflate
    }
}

/// Each byte of `recipe` is a field that was already there, a new one, or a separator; long inputs repeat. Even rows have
/// as many fields each as the first byte says.
fn rows(recipe: &[u8], even: bool) -> Vec<u8> {
    let first = recipe.first().map_or(0, |&byte| usize::from(byte));
    let separator = [b',', b';', b'\t', b'|', b' '][first % 5];
    let width = even.then_some(1 + first / 5 % 20);
    let mut bytes = Vec::new();
    let mut fields = 0;
    for (at, &byte) in recipe.iter().enumerate() {
        match byte {
            0..16 if even => {}
            0..16 => bytes.push(b'\n'),
            16..64 => bytes.extend_from_slice(format!("10.{}.{byte}.{}", byte % 4, at % 7).as_bytes()),
            64..96 => bytes.extend_from_slice(
                format!("2025-11-27 10:2{}:{byte}.{:06}", byte % 10, at * 7_919 % 1_000_000).as_bytes(),
            ),
            96..128 if even => bytes.extend_from_slice(b"443"),
            96..128 => bytes.extend_from_slice(b"443,27,6,0,"),
            128..144 => bytes.extend(std::iter::repeat_n(byte, at % 700)),
            144..160 => {
                let from = bytes.len().saturating_sub(usize::from(byte - 143) * 2_100);
                let copy = bytes[from..].to_vec();
                let copy = copy[..copy.len().min(at % 400)].iter().copied();
                bytes.extend(copy.filter(|&byte| !even || byte != b'\n' && byte != separator));
            }
            160..200 => bytes.extend_from_slice((usize::from(byte) * at).to_string().as_bytes()),
            200.. => bytes.push(byte),
        }
        fields += 1;
        match width {
            Some(width) => bytes.push(if fields % width == 0 { b'\n' } else { separator }),
            None if byte >= 16 => bytes.push(separator),
            None => {}
        }
        if bytes.len() > 2 << 20 {
            break;
        }
    }
    bytes
}

/// Holds `deflate`, ended by an empty final block, against `bytes` in three inflaters.
fn back(deflate: &[u8], bytes: &[u8]) {
    assert!(deflate.ends_with(&[0x00, 0x00, 0xff, 0xff]), "no sync flush at the end");
    let deflate = [deflate, &[0x03, 0x00]].concat();
    let mut inflated = Vec::new();
    flate2::read::DeflateDecoder::new(&deflate[..]).read_to_end(&mut inflated).expect("zlib-rs refuses it");
    assert!(inflated == bytes, "zlib-rs gives other bytes");
    let inflated = miniz_oxide::inflate::decompress_to_vec(&deflate).expect("miniz_oxide refuses it");
    assert!(inflated == bytes, "miniz_oxide gives other bytes");
    let mut inflated = vec![0; bytes.len()];
    let length =
        libdeflater::Decompressor::new().deflate_decompress(&deflate, &mut inflated).expect("libdeflate refuses it");
    assert!(length == bytes.len() && inflated == bytes, "libdeflate gives other bytes");
}
