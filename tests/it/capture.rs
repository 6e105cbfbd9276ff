//! Embedded capture against the truth: every row against a slow count that shares no code with the program.

use std::collections::BTreeMap;
use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use processor::clock::Zone;
use processor::flow::aggregate::{self, Aggregate};
use processor::flow::decode::{Fragment, LinkType, Reject, decode};
use processor::flow::hash::Secret;
use processor::flow::ledger::Ledger;
use processor::flow::meter::{self, Counts, Frame, Meter};
use processor::flow::networks::Networks;
use processor::flow::table::{self, Timeouts};
use processor::flow::{Stamp, print};
use processor::log::Log;
use processor::pmacctconf::Text;
use processor::shutdown::Shutdown;
use processor::source::capture::{self, Capture};
use processor::source::{Source, SourceEnd};
use processor::stats::Number;
use proptest::prelude::*;

use crate::support::packets::{
    Below, Counted, ETHERNET, EVERYTHING, Kinds, LINK_TYPES, LINUX_SLL, LINUX_SLL2, Maker, RAW, Rng, Sent, Way,
    pcap_file,
};
use crate::support::sink::Kept;

const PLAIN: Kinds = Kinds { fragments: false, rejects: false, disorder: false, beyond_pmacct: false };

const USUAL: &str = "src_host, dst_host, src_port, dst_port, proto, tos, tcpflags";

/// What a run is asked for.
#[derive(Clone)]
struct Setup {
    aggregate: Aggregate,
    timeouts: Timeouts,
    max_flows: usize,
    window: u32,
    max_rows: usize,
    networks: Networks,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            aggregate: Aggregate::parse(USUAL).unwrap(),
            timeouts: Timeouts::default(),
            max_flows: 1 << 20,
            window: 1 << 30,
            max_rows: 1 << 20,
            networks: Networks::default(),
        }
    }
}

fn secret(seed: u64) -> Secret {
    let mut rng = Rng::new(seed);
    Secret::new(|| rng.next())
}

/// An empty meter and ledger.
fn rooms(setup: &Setup) -> (Meter, Ledger) {
    let meter = Meter::new(meter::Options {
        table: table::Options {
            timeouts: setup.timeouts,
            max_flows: setup.max_flows,
            by_link: false,
            secret: secret(1),
        },
        link_fields: setup.aggregate.link_fields(),
        sampling: 1,
        sampling_seed: 1,
    });
    let ledger = Ledger::new(
        aggregate::Options {
            aggregate: setup.aggregate,
            networks: setup.networks.clone(),
            seconds: setup.window,
            renormalize: 1,
            max_rows: setup.max_rows,
            secret: secret(2),
        },
        print::Options {
            aggregate: setup.aggregate,
            separator: b',',
            numeric_protocols: true,
            times: print::TimeFormat::Epoch,
            zone: Zone::System,
            stitching: true,
            sampling_rate: 0,
        },
    );
    (meter, ledger)
}

/// The program's lines, header left out, and what it says became of the frames.
fn lines(frames: &[Sent], setup: &Setup) -> (Vec<String>, Counts) {
    let (mut meter, mut ledger) = rooms(setup);
    let mut records = Vec::new();
    for frame in frames {
        meter.frame(&as_frame(frame), &mut |record| records.push(record));
    }
    meter.stop(&mut |record| records.push(record));
    let mut text = Vec::new();
    let mut emit = |piece: &[u8]| -> Result<(), std::convert::Infallible> {
        text.extend_from_slice(piece);
        Ok(())
    };
    ledger.begin((frames[0].micros / 1_000_000).cast_signed());
    for record in &records {
        let Ok(()) = ledger.record(record, &mut emit);
    }
    let Ok(()) = ledger.stop(&mut emit);
    let text = String::from_utf8(text).unwrap();
    (text.lines().skip(1).map(str::to_owned).collect(), meter.counts())
}

fn as_frame(sent: &Sent) -> Frame<'_> {
    Frame {
        link_type: LinkType::from_number(sent.link_type),
        stamp: Stamp::from_micros(sent.micros.cast_signed()),
        wire_len: sent.wire_len,
        iface: 0,
        bytes: &sent.bytes,
    }
}

/// The sum of one row, counted slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    packets: u64,
    bytes: u64,
    flags: u8,
    tos: u8,
    first: u64,
    last: u64,
}

impl Sum {
    fn of(micros: u64, counted: &Counted) -> Self {
        let Counted { bytes, tcp_flags: flags, tos, .. } = *counted;
        Self { packets: 1, bytes, flags, tos, first: micros, last: micros }
    }

    fn add(&mut self, other: &Self) {
        if other.last >= self.last {
            self.tos = other.tos;
        }
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.flags |= other.flags;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

fn micros_text(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn usual_line(way: &Way, sum: &Sum) -> String {
    let Way { src, dst, src_port, dst_port, proto } = way;
    let Sum { packets, bytes, flags, tos, first, last } = sum;
    let (first, last) = (micros_text(*first), micros_text(*last));
    format!("{src},{dst},{src_port},{dst_port},{flags},{proto},{tos},{first},{last},{packets},{bytes}")
}

fn add(sums: &mut BTreeMap<Way, Sum>, way: Way, sum: &Sum) {
    sums.entry(way).and_modify(|have| have.add(sum)).or_insert(*sum);
}

/// The same lines, in any order: that of rows within a window is not promised.
fn assert_same(mut have: Vec<String>, mut want: Vec<String>, what: &str) {
    have.sort();
    want.sort();
    let missing: Vec<_> = want.iter().filter(|line| have.binary_search(line).is_err()).take(5).collect();
    let surplus: Vec<_> = have.iter().filter(|line| want.binary_search(line).is_err()).take(5).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "{what}\nmissing {missing:#?}\nsurplus {surplus:#?}");
    assert_eq!(have.len(), want.len(), "{what}: rows");
}

/// Packets seen are decoded or counted by the right reason.
fn assert_counts(frames: &[Sent], counts: &Counts) {
    let mut rejected = [0; Reject::ALL.len()];
    for reason in frames.iter().filter_map(|frame| frame.truth.as_ref().err()) {
        let index = Reject::ALL.iter().position(|reject| reject.name() == *reason).unwrap();
        rejected[index] += 1;
    }
    let named: Vec<_> = Reject::ALL.iter().map(|reject| (reject.name(), counts.rejected[reject.index()])).collect();
    assert_eq!(counts.rejected, rejected, "{named:?}");
    assert_eq!(counts.seen, frames.len() as u64);
    assert_eq!(counts.seen, counts.decoded + counts.rejected.iter().sum::<u64>());
}

#[test]
fn every_row_is_the_truth() {
    for seed in 0..LINK_TYPES.len() + 5 {
        let link_types: &[u32] = if seed == 0 { &LINK_TYPES } else { &LINK_TYPES[seed % LINK_TYPES.len()..][..1] };
        let frames = Maker::new(seed as u64, EVERYTHING, link_types).make(4000);
        let timeouts = Timeouts { tcp_fin: 3600, tcp_rst: 3600, udp: 3600, icmp: 3600, ..Timeouts::default() };
        let (have, counts) = lines(&frames, &Setup { timeouts, ..Setup::default() });
        assert_counts(&frames, &counts);
        let mut sums = BTreeMap::new();
        for frame in &frames {
            if let Ok(counted) = &frame.truth {
                add(&mut sums, counted.way, &Sum::of(frame.micros, counted));
            }
        }
        let want = sums.iter().map(|(way, sum)| usual_line(way, sum)).collect();
        assert_same(have, want, &format!("seed {seed}"));
    }
}

/// A flow table that looks at every flow every second.
#[derive(Default)]
struct SlowTable {
    flows: Vec<(Way, [Option<Sum>; 2])>,
    clock: u64,
    ended: Vec<(u64, Way, Sum)>,
}

impl SlowTable {
    fn deadline(way: &Way, sides: &[Option<Sum>; 2], timeouts: &Timeouts) -> u64 {
        let both = || sides.iter().flatten();
        let first = both().map(|sum| sum.first).min().unwrap() / 1_000_000;
        let last = both().map(|sum| sum.last).max().unwrap() / 1_000_000;
        let rst = both().any(|sum| sum.flags & 4 != 0);
        let fin = both().count() == 2 && both().all(|sum| sum.flags & 1 != 0);
        let timeout = match way.proto {
            6 if rst => timeouts.tcp_rst,
            6 if fin => timeouts.tcp_fin,
            6 => timeouts.tcp,
            17 => timeouts.udp,
            1 | 58 => timeouts.icmp,
            _ => timeouts.general,
        };
        let longest = if timeouts.maxlife == 0 { u64::MAX } else { first + u64::from(timeouts.maxlife) };
        longest.min(last + u64::from(timeout))
    }

    fn packet(&mut self, micros: u64, counted: &Counted, timeouts: &Timeouts) {
        let second = micros / 1_000_000;
        if self.clock == 0 {
            self.clock = second;
        }
        while self.clock < second {
            self.clock += 1;
            let (over, on): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flows)
                .into_iter()
                .partition(|(way, sides)| Self::deadline(way, sides, timeouts) <= self.clock);
            self.flows = on;
            for flow in over {
                self.end(flow);
            }
        }
        let at = self.flows.iter().position(|(way, _)| *way == counted.way || way.back() == counted.way);
        let at = at.unwrap_or_else(|| {
            self.flows.push((counted.way, [None; 2]));
            self.flows.len() - 1
        });
        let (way, sides) = &mut self.flows[at];
        let side = &mut sides[usize::from(*way != counted.way)];
        let sum = Sum::of(micros, counted);
        match side {
            Some(have) => have.add(&sum),
            None => *side = Some(sum),
        }
    }

    fn end(&mut self, (way, sides): (Way, [Option<Sum>; 2])) {
        for (way, sum) in [way, way.back()].into_iter().zip(sides).filter_map(|(way, sum)| Some((way, sum?))) {
            self.ended.push((self.clock, way, sum));
        }
    }

    fn stop(mut self) -> Vec<(u64, Way, Sum)> {
        for flow in std::mem::take(&mut self.flows) {
            self.end(flow);
        }
        self.ended
    }
}

#[test]
fn timeouts_and_windows_are_exact_to_the_second() {
    let short = Timeouts { tcp: 20, tcp_rst: 2, tcp_fin: 5, udp: 7, icmp: 3, general: 11, maxlife: 31 };
    let endless = Timeouts { maxlife: 0, tcp: 9000, ..short };
    for (seed, (timeouts, window)) in
        [(short, 10), (endless, 60), (short, 1), (Timeouts::default(), 300)].into_iter().enumerate()
    {
        let kinds = Kinds { fragments: false, ..EVERYTHING };
        let frames = Maker::new(100 + seed as u64, kinds, &[ETHERNET]).hosts(3).make(8000);
        let (have, counts) = lines(&frames, &Setup { timeouts, window, ..Setup::default() });
        assert_counts(&frames, &counts);

        let mut slow = SlowTable::default();
        for frame in &frames {
            if let Ok(counted) = &frame.truth {
                slow.packet(frame.micros, counted, &timeouts);
            }
        }
        let begin = frames[0].micros / 1_000_000;
        let mut windows: BTreeMap<(u64, Way, u8), Sum> = BTreeMap::new();
        for (ended, way, sum) in slow.stop() {
            let key = ((ended - begin) / u64::from(window), way, sum.tos);
            windows.entry(key).and_modify(|have| have.add(&sum)).or_insert(sum);
        }
        assert!(windows.len() > 400, "{} rows are too few to prove much", windows.len());
        let want = windows.iter().map(|((_, way, _), sum)| usual_line(way, sum)).collect();
        assert_same(have, want, &format!("seed {seed}"));
    }
}

/// The sum of a column that is a number.
fn column_sum(lines: &[String], from_end: usize) -> u64 {
    lines.iter().map(|line| line.rsplit(',').nth(from_end).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_full_table_and_full_windows_lose_nothing() {
    let kinds = Kinds { rejects: false, ..EVERYTHING };
    let frames = Maker::new(7, kinds, &[ETHERNET]).hosts(250).make(30_000);
    let bytes: u64 = frames.iter().filter_map(|frame| frame.truth.ok()).map(|counted| counted.bytes).sum();
    for (max_flows, max_rows) in [(1, 1), (17, 3), (500, 100_000), (4096, 50)] {
        let (have, counts) = lines(&frames, &Setup { max_flows, max_rows, window: 60, ..Setup::default() });
        assert!(counts.evicted > 0, "{max_flows} flows were enough");
        assert_eq!(
            (column_sum(&have, 1), column_sum(&have, 0)),
            (frames.len() as u64, bytes),
            "{max_flows} {max_rows}"
        );
    }
}

/// What a primitive's column says of a record: its way, the headers below IP, its sum.
type Value = fn(&Way, &Below, &Sum) -> String;

const NETWORKS: &str = "10.0.0.0/8\n10.1.0.0/16\n10.1.37.0/24\n2001:db8::/32\n2001:db8:2::/48\n";

/// The longest of [`NETWORKS`] that holds the address, told from the maker's addresses.
fn network(ip: IpAddr) -> (&'static str, u8) {
    match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 1, 37, _] => ("10.1.37.0", 24),
            [10, 1, ..] => ("10.1.0.0", 16),
            _ => ("10.0.0.0", 8),
        },
        IpAddr::V6(ip) if ip.segments()[2] == 2 => ("2001:db8:2::", 48),
        IpAddr::V6(_) => ("2001:db8::", 32),
    }
}

/// Every primitive in the order of the columns; `tcpflags` is summed and gives no part of the key.
const COLUMNS: [(&str, Value); 21] = [
    ("tag", |_, _, _| "0".to_owned()),
    ("src_mac", |_, below, _| below.src_mac.map(|byte| format!("{byte:02x}")).join(":")),
    ("dst_mac", |_, below, _| below.dst_mac.map(|byte| format!("{byte:02x}")).join(":")),
    ("vlan", |_, below, _| below.vlan.to_string()),
    ("cos", |_, below, _| below.cos.to_string()),
    ("etype", |way, _, _| if way.src.is_ipv4() { "800" } else { "86dd" }.to_owned()),
    ("in_iface", |_, below, _| below.iface.to_string()),
    ("src_host", |way, _, _| way.src.to_string()),
    ("src_net", |way, _, _| network(way.src).0.to_owned()),
    ("dst_host", |way, _, _| way.dst.to_string()),
    ("dst_net", |way, _, _| network(way.dst).0.to_owned()),
    ("src_mask", |way, _, _| network(way.src).1.to_string()),
    ("dst_mask", |way, _, _| network(way.dst).1.to_string()),
    ("src_port", |way, _, _| way.src_port.to_string()),
    ("dst_port", |way, _, _| way.dst_port.to_string()),
    ("tcpflags", |_, _, _| String::new()),
    ("proto", |way, _, _| way.proto.to_string()),
    ("tos", |_, _, sum| sum.tos.to_string()),
    ("sampling_rate", |_, _, _| "0".to_owned()),
    ("timestamp_start", |_, _, sum| micros_text(sum.first)),
    ("timestamp_end", |_, _, sum| micros_text(sum.last)),
];

/// The part of the headers below IP that is asked for.
fn below_of(below: &Below, names: &[&str]) -> Below {
    let has = |name| names.contains(&name);
    Below {
        src_mac: if has("src_mac") { below.src_mac } else { [0; 6] },
        dst_mac: if has("dst_mac") { below.dst_mac } else { [0; 6] },
        vlan: if has("vlan") { below.vlan } else { 0 },
        cos: if has("cos") { below.cos } else { 0 },
        iface: if has("in_iface") { below.iface } else { 0 },
    }
}

/// The lines of these frames by the primitives of these names, counted slowly, when no flow ends before the capture.
fn lines_by(frames: &[Sent], names: &[&str]) -> Vec<String> {
    let mut records: BTreeMap<(Way, Below), Sum> = BTreeMap::new();
    for frame in frames {
        let Ok(counted) = &frame.truth else { continue };
        let sum = Sum::of(frame.micros, counted);
        let key = (counted.way, below_of(&counted.link, names));
        records.entry(key).and_modify(|have| have.add(&sum)).or_insert(sum);
    }
    let columns = || COLUMNS.iter().filter(|(name, _)| names.contains(name));
    let mut rows: BTreeMap<Vec<String>, Sum> = BTreeMap::new();
    for ((way, below), sum) in &records {
        let key = columns().map(|(_, value)| value(way, below, sum)).collect();
        rows.entry(key).and_modify(|have| have.add(sum)).or_insert(*sum);
    }
    let line = |(mut key, sum): (Vec<String>, Sum)| {
        if let Some(at) = columns().position(|(name, _)| *name == "tcpflags") {
            key[at] = sum.flags.to_string();
        }
        let Sum { packets, bytes, first, last, .. } = sum;
        key.extend([micros_text(first), micros_text(last), packets.to_string(), bytes.to_string()]);
        key.join(",")
    };
    rows.into_iter().map(line).collect()
}

#[test]
fn rows_by_any_subset_of_the_primitives() {
    let mut rng = Rng::new(5);
    let networks = Networks::parse(NETWORKS).unwrap();
    for round in 0..60 {
        let kinds = Kinds { fragments: false, ..EVERYTHING };
        let link_type = rng.pick(&[ETHERNET, LINUX_SLL, LINUX_SLL2, RAW]);
        let frames = Maker::new(round, kinds, &[link_type]).hosts(4).make(1500);
        // Few primitives make long sums, many make every combination: both matter.
        let rarity = rng.pick(&[2, 3, 6]);
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).filter(|_| rng.once_in(rarity)).collect();
        let text = if names.is_empty() { "none".to_owned() } else { names.join(",") };
        let aggregate = Aggregate::parse(&text).unwrap();
        let timeouts = Timeouts { tcp_fin: 3600, tcp_rst: 3600, udp: 3600, icmp: 3600, ..Timeouts::default() };
        let setup = Setup { aggregate, timeouts, networks: networks.clone(), ..Setup::default() };
        let (have, _) = lines(&frames, &setup);
        assert_same(have, lines_by(&frames, &names), &format!("round {round}: {text}"));
    }
}

#[test]
fn a_jumbogram_counts_what_its_option_says() {
    let payload = 100_000u32;
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
    bytes.extend([0x20; 32]);
    // Hop-by-hop: UDP follows; the option of RFC 2675.
    bytes.extend([17, 0, 0xc2, 4]);
    bytes.extend(payload.to_be_bytes());
    bytes.extend([0, 7, 0, 53, 0, 0, 0, 0, 1, 2, 3]);
    let packet = decode(LinkType::RawIp, &bytes, 40 + payload).unwrap();
    assert_eq!((packet.bytes, packet.key.src_port, packet.key.dst_port), (100_040, 7, 53));
    // Without the option a length of 0 stands for all there was on the wire.
    bytes[42..44].copy_from_slice(&[1, 4]);
    assert_eq!(decode(LinkType::RawIp, &bytes, 5000).unwrap().bytes, 5000);
}

#[test]
fn a_clock_that_was_set_back_begins_anew() {
    let setup = Setup { timeouts: Timeouts { udp: 5, ..Timeouts::default() }, window: 10, ..Setup::default() };
    let (mut meter, mut ledger) = rooms(&setup);
    let way =
        Way { src: "10.0.0.1".parse().unwrap(), dst: "10.0.0.2".parse().unwrap(), src_port: 1, dst_port: 2, proto: 17 };
    let mut frame = Maker::new(1, PLAIN, &[RAW]).of(way);
    let mut records = Vec::new();
    for secs in [5000, 1000, 1007] {
        frame.micros = secs * 1_000_000;
        if secs == 1000 {
            meter.stop(&mut |record| records.push(record));
        }
        meter.frame(&as_frame(&frame), &mut |record| records.push(record));
        meter.advance(secs.cast_signed(), &mut |record| records.push(record));
    }
    let ends: Vec<_> = records.iter().map(|record| (record.ended, record.sum.packets)).collect();
    assert_eq!(ends, [(5000, 1), (1005, 1)], "the flow of 1000 ends five seconds later, not at 5000");

    let mut pieces = Vec::new();
    let mut emit = |piece: &[u8]| -> Result<(), std::convert::Infallible> {
        pieces.push(piece.split(|byte| *byte == b'\n').count() - 1);
        Ok(())
    };
    let Ok(()) = ledger.record(&records[0], &mut emit);
    let Ok(()) = ledger.restart(1000, &mut emit);
    let Ok(()) = ledger.record(&records[1], &mut emit);
    let Ok(()) = ledger.advance(1009, &mut emit);
    let Ok(()) = ledger.advance(1010, &mut emit);
    assert_eq!(pieces, [2, 1], "the header and a row; then the row of the window that began at 1000");
}

/// What etherparse says of the same bytes, in the terms that both have.
fn judged(bytes: &[u8], link_type: u32) -> Option<(IpAddr, IpAddr, u8, u16, u16, u8)> {
    let sliced = match link_type {
        ETHERNET => SlicedPacket::from_ethernet(bytes),
        RAW => SlicedPacket::from_ip(bytes),
        _ => return None,
    }
    .ok()?;
    let (src, dst, proto): (IpAddr, IpAddr, u8) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.header().protocol().0)
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload().ip_number.0)
        }
        NetSlice::Arp(_) => return None,
    };
    let (src_port, dst_port, flags) = match sliced.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port(), tcp.slice()[13]),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port(), 0),
        Some(TransportSlice::Icmpv4(icmp)) => (0, u16::from_be_bytes([icmp.slice()[0], icmp.slice()[1]]), 0),
        Some(TransportSlice::Icmpv6(icmp)) => (0, u16::from_be_bytes([icmp.slice()[0], icmp.slice()[1]]), 0),
        _ => (0, 0, 0),
    };
    Some((src, dst, proto, src_port, dst_port, flags))
}

/// True where both decode and agree; panics where both decode and do not.
fn agrees_with_the_judge(bytes: &[u8], link_type: u32) -> bool {
    let ours = decode(LinkType::from_number(link_type).unwrap(), bytes, bytes.len() as u32);
    let (Ok(ours), Some(theirs)) = (ours, judged(bytes, link_type)) else { return false };
    let (src, dst, proto, src_port, dst_port, flags) = theirs;
    let key = ours.key;
    assert_eq!((key.src.ip(key.version), key.dst.ip(key.version)), (src, dst));
    // Where etherparse stops: authentication headers after IPv4 are its extensions, ours end there; fragments it gives no
    // transport for; mobility and others it counts as extensions.
    if proto != key.proto || matches!(ours.fragment, Fragment::First(_) | Fragment::Later(_)) {
        return false;
    }
    let upper_known = matches!(proto, 1 | 6 | 17 | 58);
    let theirs_known = (src_port, dst_port, flags) != (0, 0, 0);
    if upper_known && theirs_known {
        assert_eq!((key.src_port, key.dst_port, ours.tcp_flags), (src_port, dst_port, flags), "{bytes:02x?}");
    }
    theirs_known
}

#[test]
fn the_decoder_agrees_with_etherparse() {
    let mut rng = Rng::new(9);
    let mut agreed = 0;
    for seed in 0..4 {
        for link_type in [ETHERNET, RAW] {
            for frame in Maker::new(200 + seed, EVERYTHING, &[link_type]).make(4000) {
                agreed += u32::from(agrees_with_the_judge(&frame.bytes, link_type));
                let mut bytes = frame.bytes.clone();
                if bytes.is_empty() {
                    continue;
                }
                for _ in 0..=rng.below(3) {
                    let at = rng.below(bytes.len().min(90) as u64) as usize;
                    bytes[at] = rng.next() as u8;
                }
                agreed += u32::from(agrees_with_the_judge(&bytes, link_type));
            }
        }
    }
    assert!(agreed > 10_000, "{agreed} packets are too few to prove much");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes are, they are decoded or rejected, and a decoded packet of n bytes kept states a sane length.
    #[test]
    fn any_bytes_are_decoded_or_rejected(seed: u64, wire: u32) {
        let mut rng = Rng::new(seed);
        for frame in Maker::new(seed, EVERYTHING, &LINK_TYPES).make(200) {
            let mut bytes = frame.bytes;
            for _ in 0..rng.below(8) {
                if let Some(at) = bytes.len().checked_sub(1).map(|most| rng.below(most as u64 + 1) as usize) {
                    bytes[at] = rng.next() as u8;
                }
            }
            bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            for link_type in LINK_TYPES {
                let _ = decode(LinkType::from_number(link_type).unwrap(), &bytes, wire);
            }
        }
    }
}

/// The settings of these keys, which must be right.
fn options(text: &str) -> capture::Options {
    capture::Options::read(&Text::read(text.as_bytes())).unwrap().0
}

/// Runs a capture to its end; the lines that it gave, and its counters.
fn run(options: capture::Options) -> (Vec<String>, std::sync::Arc<capture::Counters>) {
    let source = Box::new(Capture::open(options, Log::discard()).unwrap());
    let counters = source.counters();
    let mut sink = Kept::default();
    assert_eq!(source.run(&mut sink, &Shutdown::new().unwrap()).unwrap(), SourceEnd::Eof);
    (sink.lines(), counters)
}

#[test]
fn files_of_a_directory_are_one_capture() {
    let dir = tempfile::tempdir().unwrap();
    let frames = Maker::new(31, EVERYTHING, &[ETHERNET]).make(9000);
    std::fs::write(dir.path().join("a.pcap"), pcap_file(&frames)).unwrap();
    let keys = |path: &std::path::Path| {
        let path = path.display();
        format!(
            "pcap_savefile: {path}\naggregate: src_host,dst_host,proto,src_port,dst_port,tcpflags\nnfacctd_stitching: true"
        )
    };
    let (whole, counters) = run(options(&keys(&dir.path().join("a.pcap"))));
    assert_eq!(counters.seen.get(), 9000);
    assert_eq!(counters.decoded.get() + counters.rejected.iter().map(Number::get).sum::<u64>(), 9000);
    assert_eq!(counters.rows.get(), whole.len() as u64 - 1);
    assert_eq!(column_sum(&whole[1..], 1), counters.decoded.get());

    let parts = tempfile::tempdir().unwrap();
    for (index, part) in frames.chunks(2500).enumerate() {
        std::fs::write(parts.path().join(format!("{index}.pcap")), pcap_file(part)).unwrap();
    }
    std::fs::write(parts.path().join(".hidden"), "not a capture").unwrap();
    let (joined, _) = run(options(&keys(parts.path())));
    assert_eq!(joined, whole);
}

#[test]
fn a_filter_a_sample_and_networks() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = Kinds { fragments: false, rejects: false, ..EVERYTHING };
    let frames = Maker::new(32, kinds, &[RAW]).make(20_000);
    let path = dir.path().join("a.pcap");
    std::fs::write(&path, pcap_file(&frames)).unwrap();
    let v4 = frames.iter().flat_map(|frame| frame.truth).filter(|counted| counted.way.src.is_ipv4()).count() as u64;

    let file = format!("pcap_savefile: {}\nprint_refresh_time: 86400\n", path.display());
    let (rows, _) = run(options(&format!("{file}aggregate: etype\npcap_filter: ip")));
    assert_eq!((rows.len(), rows[1].split(',').nth(1)), (2, Some(&*v4.to_string())), "{rows:?}");

    let (rows, counters) = run(options(&format!("{file}aggregate: sampling_rate\nsampling_rate: 10")));
    let sampled = counters.decoded.get();
    assert_eq!(counters.passed_over.get() + sampled, 20_000);
    assert!((1_800..2_200).contains(&sampled), "{sampled}");
    assert_eq!(rows[1].split(',').take(2).collect::<Vec<_>>(), ["10", &sampled.to_string()]);
    let (rows, counters) =
        run(options(&format!("{file}aggregate: none\nsampling_rate: 10\nnfacctd_renormalize: true")));
    assert_eq!(column_sum(&rows[1..], 1), counters.decoded.get() * 10);

    let nets = dir.path().join("nets");
    std::fs::write(&nets, "10.1.0.0/16\n65001,2001:db8:1::/48\n").unwrap();
    let (rows, _) = run(options(&format!("{file}aggregate: src_net,src_mask\nnetworks_file: {}", nets.display())));
    let mut want: BTreeMap<&str, u64> = BTreeMap::new();
    for counted in frames.iter().flat_map(|frame| frame.truth) {
        let net = match counted.way.src {
            IpAddr::V4(ip) if ip.octets()[1] == 1 => "10.1.0.0,16",
            IpAddr::V4(_) => "0.0.0.0,0",
            IpAddr::V6(ip) if ip.segments()[2] == 1 => "2001:db8:1::,48",
            IpAddr::V6(_) => "::,0",
        };
        *want.entry(net).or_default() += 1;
    }
    let have: BTreeMap<&str, u64> = rows[1..]
        .iter()
        .map(|row| {
            let mut columns = row.rsplitn(3, ',').skip(1);
            let packets = columns.next().unwrap().parse().unwrap();
            (columns.next().unwrap(), packets)
        })
        .collect();
    assert_eq!(have, want);
}

#[test]
fn what_cannot_be_captured_is_said_before_it_runs() {
    let open = |text: &str| Capture::open(options(text), Log::discard()).map(drop).unwrap_err().to_string();
    let error = open("pcap_interface: nosuch0");
    assert!(error.contains("no interface nosuch0; there are ") && error.contains("lo"), "{error}");
    assert!(open("pcap_savefile: /nosuch/file.pcap").contains("/nosuch/file.pcap cannot be read"));
    let dir = tempfile::tempdir().unwrap();
    assert!(open(&format!("pcap_savefile: {}", dir.path().display())).contains("has no files"));
}
