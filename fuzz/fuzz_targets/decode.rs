//! Bytes of strangers through embedded capture: a capture file, or frames of any link type, down to the printed rows.
//!
//! Whatever they are: nothing panics, frames seen are decoded or rejected, every packet decoded is in exactly one record, and
//! the rows' packets are the records' packets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use processor::clock::Zone;
use processor::flow::aggregate::{self, Aggregate};
use processor::flow::decode::LinkType;
use processor::flow::hash::Secret;
use processor::flow::ledger::Ledger;
use processor::flow::meter::{self, Frame, Meter};
use processor::flow::networks::Networks;
use processor::flow::table::{self, Timeouts};
use processor::flow::{Record, Stamp, print};
use processor::source::capture::savefile::Savefile;


/// Small tables and windows, so that few bytes reach eviction and early printing.
fn rooms(choice: u8) -> (Meter, Ledger) {
    let mut word = 1u64;
    let mut secret = || {
        Secret::new(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            word
        })
    };
    let text =
        ["src_host,dst_host,src_port,dst_port,proto,tos,tcpflags", "src_mac,dst_mac,vlan,cos,etype,src_host", "none"];
    let aggregate = Aggregate::parse(text[usize::from(choice) % text.len()]).expect("known primitives");
    let timeouts = Timeouts { tcp: 5, tcp_rst: 1, tcp_fin: 2, udp: 3, icmp: 2, general: 4, maxlife: u32::from(choice) };
    let max_flows = 1 + usize::from(choice >> 4);
    let table = table::Options { timeouts, max_flows, by_link: false, secret: secret() };
    let meter =
        Meter::new(meter::Options { table, link_fields: aggregate.link_fields(), sampling: 1, sampling_seed: 1 });
    let window = aggregate::Options {
        aggregate,
        networks: Networks::default(),
        seconds: 7,
        renormalize: 1,
        max_rows: 5,
        secret: secret(),
    };
    let printer = print::Options {
        aggregate,
        separator: b',',
        numeric_protocols: choice & 1 == 0,
        times: print::TimeFormat::Rfc3339,
        zone: Zone::parse("UTC+8").expect("a zone"),
        stitching: true,
        sampling_rate: 0,
    };
    (meter, Ledger::new(window, printer))
}

fuzz_target!(|input: &[u8]| {
    let Some(([choice, kind], bytes)) = input.split_first_chunk::<2>() else { return };
    let (mut meter, mut ledger) = rooms(*choice);
    let mut records = Vec::new();
    let mut out = |record: Record| records.push(record);
    if *kind == 0 {
        let mut file = Savefile::new();
        let space = file.space();
        let len = space.len().min(bytes.len());
        space[..len].copy_from_slice(&bytes[..len]);
        file.filled(len);
        while let Ok(Some(captured)) = file.frame() {
            let link_type = LinkType::from_number(captured.link_type);
            let (stamp, wire_len, bytes) = (captured.stamp, captured.wire_len, captured.bytes);
            meter.frame(&Frame { link_type, stamp, wire_len, iface: 0, bytes }, &mut out);
        }
    } else {
        // Frames one after the other: a step of time, a length, the bytes.
        let mut rest = bytes;
        let mut secs = 1_700_000_000i64;
        while let Some(([step, len], after)) = rest.split_first_chunk::<2>() {
            let (frame, next) = after.split_at(after.len().min(usize::from(*len)));
            rest = next;
            secs += i64::from(step >> 4) - i64::from(step & 3);
            let link_type = match usize::from(*kind) % (LinkType::NUMBERS.len() + 1) {
                0 => None,
                n => Some(LinkType::NUMBERS[n - 1].1),
            };
            let frame =
                Frame { link_type, stamp: Stamp::new(secs, 0), wire_len: frame.len() as u32, iface: 0, bytes: frame };
            meter.frame(&frame, &mut out);
        }
    }
    meter.stop(&mut out);
    let counts = meter.counts();
    assert_eq!(counts.seen, counts.decoded + counts.rejected.iter().sum::<u64>());
    assert_eq!(counts.decoded, records.iter().map(|record| record.sum.packets).sum::<u64>());

    let mut text = Vec::new();
    let mut emit = |lines: &[u8]| -> Result<(), std::convert::Infallible> {
        text.extend_from_slice(lines);
        Ok(())
    };
    for record in &records {
        let Ok(()) = ledger.record(record, &mut emit);
    }
    let Ok(()) = ledger.stop(&mut emit);
    let text = String::from_utf8(text).expect("rows are text");
    let printed: u64 =
        text.lines().skip(1).map(|line| line.rsplit(',').nth(1).map_or(0, |n| n.parse().expect("a number"))).sum();
    assert_eq!(counts.decoded, printed);
});
