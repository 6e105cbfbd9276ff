//! What embedded capture costs a packet and a row.
//!
//! `cargo bench --bench flow_table`; the figures in the README are CPU time of one core, medians of paired runs. Packets are
//! spread evenly over the flows, which is the worst that can happen to a cache.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use processor::clock::Zone;
use processor::flow::aggregate::{self, Aggregate};
use processor::flow::decode::{LinkType, decode};
use processor::flow::hash::Secret;
use processor::flow::ledger::Ledger;
use processor::flow::meter::{self, Frame, Meter};
use processor::flow::networks::Networks;
use processor::flow::table::{self, Timeouts};
use processor::flow::{Record, print};
use processor::source::capture::savefile::Savefile;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn secret() -> Secret {
    let mut rng = Rng(11);
    Secret::new(|| rng.next())
}

/// A capture file of TCP and UDP over IPv4, every sixth packet over IPv6, 1 µs apart.
fn capture_file(packets: u64, flows: u64) -> Vec<u8> {
    let mut rng = Rng(0x2545_f491_4f6c_dd1d);
    let mut file = Vec::with_capacity(packets as usize * 100);
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65_535u32.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for n in 0..packets {
        let flow = (rng.next() >> 16) % flows;
        let backward = rng.next().is_multiple_of(4);
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let proto = if flow.is_multiple_of(3) { 17 } else { 6 };
        let (mut here, mut there) =
            ([10, (flow >> 16) as u8, (flow >> 8) as u8, flow as u8], [192, 0, 2, (flow >> 20) as u8]);
        let (mut near, mut far) = ((1024 + flow % 50_000) as u16, 443u16);
        if backward {
            std::mem::swap(&mut here, &mut there);
            std::mem::swap(&mut near, &mut far);
        }
        if flow.is_multiple_of(6) {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, proto, 64]);
            for address in [here, there] {
                frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0]);
                frame.extend(address);
            }
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, proto, 0, 0]);
            frame.extend(here);
            frame.extend(there);
        }
        frame.extend(near.to_be_bytes());
        frame.extend(far.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 1, 0, 0, 0, 0]);
        let stamp = 1_700_000_000_000_000 + n;
        for word in [(stamp / 1_000_000) as u32, (stamp % 1_000_000) as u32, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

fn meter(max_flows: usize) -> Meter {
    let table = table::Options { timeouts: Timeouts::default(), max_flows, by_link: false, secret: secret() };
    Meter::new(meter::Options { table, link_fields: meter::LinkFields::default(), sampling: 1, sampling_seed: 1 })
}

/// Times `run` with what `prepare` makes, by the CPU time of this thread: on a shared machine the wall clock tells how busy the
/// others are.
fn cpu_time<T, R>(iterations: u64, mut prepare: impl FnMut() -> T, mut run: impl FnMut(T) -> R) -> Duration {
    let now =
        || Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap_or_default();
    let mut total = Duration::ZERO;
    for _ in 0..iterations {
        let input = prepare();
        let began = now();
        let output = black_box(run(input));
        total += now().saturating_sub(began);
        drop(output);
    }
    total
}

/// Reads the whole file into records.
fn measure(file: &[u8], mut meter: Meter, mut out: impl FnMut(Record)) {
    let mut savefile = Savefile::new();
    let mut rest = file;
    while !rest.is_empty() {
        let space = savefile.space();
        let len = space.len().min(rest.len());
        space[..len].copy_from_slice(&rest[..len]);
        savefile.filled(len);
        rest = &rest[len..];
        while let Ok(Some(captured)) = savefile.frame() {
            let frame = Frame {
                link_type: LinkType::from_number(captured.link_type),
                stamp: captured.stamp,
                wire_len: captured.wire_len,
                iface: 0,
                bytes: captured.bytes,
            };
            meter.frame(&frame, &mut out);
        }
    }
    meter.stop(&mut out);
}

fn packets(c: &mut Criterion) {
    let mut group = c.benchmark_group("packets");
    group.sample_size(10);
    for (name, packets, flows) in [("200k flows", 4_000_000, 200_000), ("2M flows", 8_000_000, 2_000_000)] {
        let file = capture_file(packets, flows);
        group.throughput(Throughput::Elements(packets));
        group.bench_function(name, |b| {
            let mut records = 0u64;
            b.iter_custom(|n| cpu_time(n, || meter(4_194_304), |meter| measure(&file, meter, |_| records += 1)));
            black_box(records);
        });
    }
    group.finish();
}

fn headers(c: &mut Criterion) {
    let file = capture_file(1000, 1000);
    let mut savefile = Savefile::new();
    savefile.space()[..file.len()].copy_from_slice(&file);
    savefile.filled(file.len());
    let mut frames = Vec::new();
    while let Ok(Some(captured)) = savefile.frame() {
        frames.push(captured.bytes.to_vec());
    }
    let mut group = c.benchmark_group("headers");
    group.throughput(Throughput::Elements(frames.len() as u64));
    group.bench_function("decode", |b| {
        let all = |()| {
            for frame in &frames {
                let _ = black_box(decode(LinkType::Ethernet, black_box(frame), frame.len() as u32));
            }
        };
        b.iter_custom(|n| cpu_time(n, || (), all));
    });
    group.finish();
}

fn rows(c: &mut Criterion) {
    let mut records = Vec::new();
    measure(&capture_file(1_000_000, 200_000), meter(4_194_304), |record| records.push(record));
    let aggregate = Aggregate::parse("src_host,dst_host,src_port,dst_port,proto,tos,tcpflags").unwrap_or_default();
    let window = aggregate::Options {
        aggregate,
        networks: Networks::default(),
        seconds: 3600,
        renormalize: 1,
        max_rows: 1 << 22,
        secret: secret(),
    };
    let printer = print::Options {
        aggregate,
        separator: b',',
        numeric_protocols: false,
        times: print::TimeFormat::Epoch,
        zone: Zone::System,
        stitching: true,
        sampling_rate: 0,
    };
    let mut group = c.benchmark_group("rows");
    group.sample_size(20);
    group.throughput(Throughput::Elements(records.len() as u64));
    let fill = |records: &[Record]| {
        let mut ledger = Ledger::new(window.clone(), printer.clone());
        let Ok(()) = records.iter().try_for_each(|record| ledger.record(record, &mut discard));
        ledger
    };
    group.bench_function("sum", |b| b.iter_custom(|n| cpu_time(n, || (), |()| fill(&records))));
    group.bench_function("print", |b| {
        let print = |mut ledger: Ledger| {
            let Ok(()) = ledger.stop(&mut discard);
            ledger
        };
        b.iter_custom(|n| cpu_time(n, || fill(&records), print));
    });
    group.finish();
}

#[expect(clippy::unnecessary_wraps, reason = "the ledger's emit may fail")]
fn discard(lines: &[u8]) -> Result<(), std::convert::Infallible> {
    black_box(lines);
    Ok(())
}

criterion_group!(benches, packets, headers, rows);
criterion_main!(benches);
