//! What lines cost before they are packed: cutting the stream into batches, and checking and summing every line.
//!
//!     cargo bench --bench lines
//!
//! Rows are those of `sample`; figures are rows a second of one core.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use processor::check::{BadLines, Checker, HeaderMode, Options};
use processor::line::{BLOCK, Batch, Batcher, Block, Cut, Limits};
use processor::sample::{self, HEADER, Rows};

const ROWS: usize = 50_000;
/// What one read of a pipe gives.
const READ: usize = 64 * 1024;
const LIMITS: Limits = Limits {
    batch_age: Duration::from_secs(1),
    file_age: Duration::from_mins(10),
    file_bytes: 100 << 20,
    seal_on_new_header: false,
};

fn rows() -> Vec<u8> {
    let mut bytes = format!("{HEADER}\n").into_bytes();
    Rows::new(sample::Options::default()).fill(&mut bytes, ROWS);
    bytes
}

/// Feeds `bytes` to a batcher, and each batch to `each`, which gives its block back.
fn batches(bytes: &[u8], spare: &mut Vec<Block>, mut each: impl FnMut(Batch) -> Block) {
    let now = Instant::now();
    let mut batcher = Batcher::new(LIMITS);
    let mut chunks = bytes.chunks(READ).peekable();
    while let Some(mut rest) = chunks.next() {
        while !rest.is_empty() {
            if batcher.wants_block() {
                batcher.give(spare.pop().unwrap_or_else(|| Block::new(BLOCK)));
            }
            let space = batcher.space();
            let len = space.len().min(rest.len());
            space[..len].copy_from_slice(&rest[..len]);
            batcher.filled(len, now);
            rest = &rest[len..];
            if rest.is_empty() && chunks.peek().is_none() {
                batcher.close();
            }
            loop {
                while let Some(cut) = batcher.poll(now) {
                    if let Cut::Batch(batch) = cut {
                        spare.push(each(batch).emptied());
                    }
                }
                if !batcher.is_stalled() {
                    break;
                }
                batcher.give(spare.pop().unwrap_or_else(|| Block::new(BLOCK)));
            }
        }
    }
}

fn lines(criterion: &mut Criterion) {
    let bytes = rows();
    let mut spare = Vec::new();
    let mut group = criterion.benchmark_group("lines");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("batch", |bench| {
        bench.iter(|| batches(black_box(&bytes), &mut spare, |batch| batch.block));
    });
    let quarantine = Options { bad_lines: BadLines::Quarantine, header: HeaderMode::EachFile, ..Options::default() };
    for (name, options) in [("check and sum", Options::default()), ("the same, copied", quarantine)] {
        let mut cut = Vec::new();
        batches(&bytes, &mut Vec::new(), |batch| {
            cut.push(batch);
            Block::new(BLOCK)
        });
        let mut checker = Checker::new(options);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                cut.iter().map(|batch| checker.check(black_box(batch), |_, _| {}).0.read.packets).sum::<u64>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lines);
criterion_main!(benches);
