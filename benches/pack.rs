//! What packing costs: the encoder on whole blocks and on a slow probe's pieces, zlib-rs beside it, and the scan of rows.
//!
//!     cargo bench --bench pack
//!
//! Rows are those of `sample`; figures are bytes of rows a second of one core.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flate2::{Compress, Compression, FlushCompress};
use processor::fields::Scan;
use processor::pack::field::Encoder;
use processor::sample::{Options, Rows};

fn rows(rows: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Rows::new(Options::default()).fill(&mut bytes, rows);
    bytes
}

fn pack(criterion: &mut Criterion) {
    let bytes = rows(10_000);
    let mut out = Vec::with_capacity(bytes.len());
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("field-aware, blocks of 1 MB", |bench| {
        let mut encoder = Encoder::new();
        bench.iter(|| {
            out.clear();
            encoder.encode(black_box(&bytes), &mut out);
        });
    });
    group.bench_function("field-aware, portable", |bench| {
        let mut encoder = Encoder::portable();
        bench.iter(|| {
            out.clear();
            encoder.encode(black_box(&bytes), &mut out);
        });
    });
    group.bench_function("field-aware, pieces of 8 KiB", |bench| {
        let mut encoder = Encoder::new();
        bench.iter(|| {
            out.clear();
            for piece in black_box(&bytes).chunks(8 * 1024) {
                encoder.encode_next(piece, &mut out);
            }
        });
    });
    group.sample_size(10);
    group.bench_function("zlib-rs, level 6", |bench| {
        let mut zlib = Compress::new(Compression::new(6), false);
        bench.iter(|| {
            out.clear();
            zlib.reset();
            zlib.compress_vec(black_box(&bytes), &mut out, FlushCompress::Sync)
        });
    });
    group.finish();
}

fn scan(criterion: &mut Criterion) {
    const ROWS: usize = 10_000;
    let bytes = rows(ROWS);
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("columns and two sums", |bench| {
        let mut scan = Scan::new();
        bench.iter(|| {
            let mut sums = (0, 0, 0);
            scan.rows(black_box(&bytes), b',', [9, 10], |row| {
                sums.0 += usize::from(row.columns != 11);
                sums.1 += row.wanted[0].number();
                sums.2 += row.wanted[1].number();
            });
            sums
        });
    });
    group.finish();
}

criterion_group!(benches, pack, scan);
criterion_main!(benches);
