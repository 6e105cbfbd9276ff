//! The field-aware encoder against three inflaters that share no code: zlib-rs, miniz_oxide and libdeflate.
//!
//! The first byte chooses how the rest is read: as it is, or as a list of fields and separators that makes rows which
//! resemble each other, of equally many fields or not; and whether pieces follow or stand alone. Whatever comes, all three must give it back, and the
//! portable path must write the same bytes.
//!
//!     cargo +nightly fuzz run encoder -- -max_total_time=3600 -max_len=65536

#![no_main]

use std::cell::RefCell;
use std::io::Read;

use libfuzzer_sys::fuzz_target;
use processor::pack::field::Encoder;

thread_local! {
    // Used again and again: what went before must not change what comes out.
    static ENCODERS: RefCell<(Encoder, Encoder)> = RefCell::new((Encoder::new(), Encoder::portable()));
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, rest)) = input.split_first() else { return };
    ENCODERS.with_borrow_mut(|(native, portable)| run(native, portable, how, rest));
});

fn run(native: &mut Encoder, portable: &mut Encoder, how: u8, rest: &[u8]) {
    let bytes = if how & 1 == 0 { rest.to_vec() } else { rows(rest, how & 32 != 0) };
    let size = [1, 50, 700, 8_192, 40_000, 300_000, usize::MAX, 3][usize::from(how >> 1 & 7)].max(bytes.len() / 64);
    if how & 16 != 0 {
        let mut stream = Vec::new();
        let mut same = Vec::new();
        native.encode(b"", &mut stream);
        portable.encode(b"", &mut same);
        for piece in bytes.chunks(size.max(1)) {
            native.encode_next(piece, &mut stream);
            portable.encode_next(piece, &mut same);
        }
        assert!(stream == same, "the portable path differs");
        back(stream, &bytes);
    }
    for piece in bytes.chunks(size.max(1)) {
        let mut alone = Vec::new();
        let mut same = Vec::new();
        native.encode(piece, &mut alone);
        portable.encode(piece, &mut same);
        assert!(alone == same, "the portable path differs");
        back(alone, piece);
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
fn back(mut deflate: Vec<u8>, bytes: &[u8]) {
    assert!(deflate.ends_with(&[0x00, 0x00, 0xff, 0xff]), "no sync flush at the end");
    deflate.extend_from_slice(&[0x03, 0x00]);
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
