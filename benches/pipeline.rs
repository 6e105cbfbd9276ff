//! What the whole pipeline does in a second: from a source that has its rows in memory to sealed files.
//!
//!     cargo bench --bench pipeline
//!
//! Files go to a directory under `TMPDIR`, and every one is synced as always: what the disk costs is in the figures. All
//! cores pack.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use processor::check;
use processor::clock::Zone;
use processor::end::End;
use processor::log::Log;
use processor::pack::Level;
use processor::pipeline::{self, Outcome, Parts, Pipeline};
use processor::sample::{self, HEADER, Rows};
use processor::shutdown::Shutdown;
use processor::source::{Sink, Source, SourceEnd, SourceError};
use processor::spool::{self, Spool, WhenFull};
use processor::stats::Stats;

const ROWS: usize = 200_000;

/// Gives `rows` and ends.
struct Memory(Arc<[u8]>);

impl Source for Memory {
    fn run(self: Box<Self>, sink: &mut dyn Sink, _: &Shutdown) -> Result<SourceEnd, SourceError> {
        // Stopped early, the pipeline says so in its outcome.
        let _ = sink.lines(&self.0, Instant::now());
        Ok(SourceEnd::Eof)
    }
}

fn parts(rows: &Arc<[u8]>, dir: &tempfile::TempDir, level: Level) -> Parts {
    let (stats, log) = (Arc::new(Stats::default()), Log::discard());
    let options = spool::Options {
        dir: dir.path().to_path_buf(),
        prefix: "flows_".to_owned(),
        zone: Zone::default(),
        max_bytes: None,
        min_free: 0,
        when_full: WhenFull::Block,
    };
    let check = check::Options::default();
    let shutdown = Shutdown::new().expect("a latch");
    let spool =
        Spool::open(options, check.header, Arc::clone(&stats), log.clone(), &shutdown).expect("a data directory");
    Parts {
        options: pipeline::Options {
            workers: std::thread::available_parallelism().map_or(1, Into::into),
            flush_interval: Duration::from_secs(1),
            rotate_interval: Duration::from_mins(10),
            rotate_bytes: 100 << 20,
        },
        source: Box::new(Memory(Arc::clone(rows))),
        check,
        level,
        spool,
        upload: None,
        end: End::new(shutdown, Duration::from_secs(8)),
        stats,
        log,
    }
}

fn whole(criterion: &mut Criterion) {
    let mut bytes = format!("{HEADER}\n").into_bytes();
    Rows::new(sample::Options::default()).fill(&mut bytes, ROWS);
    let rows: Arc<[u8]> = bytes.into();
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Bytes(rows.len() as u64)).sample_size(10);
    for (name, level) in [("auto", Level::Auto), ("level 1", Level::Zlib(1)), ("level 6", Level::Zlib(6))] {
        group.bench_function(name, |bench| {
            bench.iter_batched(
                || {
                    let dir = tempfile::tempdir().expect("a directory");
                    (parts(&rows, &dir, level), dir)
                },
                |(parts, dir)| {
                    let outcome = Pipeline::start(parts).expect("threads").wait();
                    assert!(matches!(outcome, Outcome::Sealed { .. }), "{outcome:?}");
                    dir
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, whole);
criterion_main!(benches);
