//! Embedded capture against the real chain: pmacctd reads a capture file, nfacctd prints, and the rows must be ours.
//!
//! The daemons are run as `scripts/test` installs them. Where they count differently, the test says how: these are the
//! deviations that the README lists, and no others are excused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use processor::log::Log;
use processor::pmacctconf::Text;
use processor::shutdown::Shutdown;
use processor::source::Source;
use processor::source::capture::{Capture, Options};

use crate::support::packets::{Beyond, ETHERNET, EVERYTHING, Kinds, LINUX_SLL, Maker, RAW, Sent, Way, pcap_file};
use crate::support::sink::Kept;

/// A hang guard, not a speed that is asserted.
const LIMIT: Duration = Duration::from_secs(30);

/// Ends the daemon with the test, whatever becomes of the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Bytes that wait in the receive queue of the UDP socket on this port, and the datagrams that it has dropped.
fn udp_socket(port: u16) -> Option<(u64, u64)> {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let local = format!(":{port:04X}");
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = columns.into_iter().find(|columns| columns.get(1).is_some_and(|at| at.ends_with(&local)))?;
    let waiting = u64::from_str_radix(socket.get(4)?.split(':').nth(1)?, 16).ok()?;
    Some((waiting, socket.last()?.parse().ok()?))
}

/// The rows of pmacctd → nfacctd for a capture file, header left out.
fn chain(dir: &Path, file: &Path, aggregate: &str, stitching: bool) -> Vec<String> {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let common = format!("daemonize: false\nplugin_pipe_zmq: true\naggregate: {aggregate}\n");
    std::fs::write(
        dir.join("pmacctd.conf"),
        format!(
            "{common}plugins: nfprobe\npcap_savefile: {}\nsnaplen: 512\nnfprobe_receiver: 127.0.0.1:{port}\n\
             nfprobe_version: 10\nnfprobe_timeouts: tcp=3600:maxlife=0\nnfprobe_maxflows: 1000000\n",
            file.display()
        ),
    )
    .unwrap();
    std::fs::write(
        dir.join("nfacctd.conf"),
        format!(
            "{common}plugins: print\nnfacctd_ip: 127.0.0.1\nnfacctd_port: {port}\nnfacctd_pipe_size: 4194304\n\
             print_output: csv\nprint_num_protos: true\nprint_refresh_time: 3600\ntimestamps_since_epoch: true\n\
             nfacctd_stitching: {stitching}\nprint_output_lock_file: {}\n",
            dir.join("lock").display()
        ),
    )
    .unwrap();
    let rows = dir.join("rows.csv");
    let start = |program: &str, config: &str, out: &Path, log: &Path| {
        let mut command = Command::new(program);
        command.args(["-f", config]).current_dir(dir).stdin(Stdio::null());
        command.stdout(File::create(out).unwrap()).stderr(File::create(log).unwrap());
        Daemon(command.spawn().unwrap_or_else(|error| panic!("{program} (install the package pmacct): {error}")))
    };
    let log = dir.join("nfacctd.log");
    let mut collector = start("nfacctd", "nfacctd.conf", &rows, &log);
    wait_for("nfacctd waits for flows", || std::fs::read_to_string(&log).unwrap().contains("waiting for"));
    let mut exporter = start("pmacctd", "pmacctd.conf", &dir.join("out"), &dir.join("pmacctd.log"));
    wait_for("pmacctd reads the file to its end", || exporter.0.try_wait().unwrap().is_some());
    wait_for("nfacctd has taken every datagram", || udp_socket(port).is_some_and(|(waiting, _)| waiting == 0));
    // The kernel grants as little as 208 KiB to the collector's socket: a test must not have more flows than fit.
    assert_eq!(udp_socket(port).map(|(_, drops)| drops), Some(0), "datagrams were lost between the daemons");
    let pid = rustix::process::Pid::from_child(&collector.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    wait_for("nfacctd prints its window and ends", || collector.0.try_wait().unwrap().is_some());
    let text = std::fs::read_to_string(&rows).unwrap();
    let header = text.lines().next().unwrap_or_default().to_owned();
    text.lines().filter(|line| **line != *header).map(str::to_owned).collect()
}

/// Our rows for the same file, header left out.
fn ours(file: &Path, aggregate: &str, stitching: bool) -> Vec<String> {
    let text = format!(
        "pcap_savefile: {}\naggregate: {aggregate}\nsnaplen: 512\nprint_num_protos: true\n\
         print_refresh_time: 86400\ntimestamps_since_epoch: true\nnfacctd_stitching: {stitching}",
        file.display()
    );
    let (options, _) = Options::read(&Text::read(text.as_bytes())).unwrap();
    let source = Box::new(Capture::open(options, Log::discard()).unwrap());
    let mut sink = Kept::default();
    source.run(&mut sink, &Shutdown::new().unwrap()).unwrap();
    sink.lines().split_off(1)
}

/// Rows summed by everything before the packets: (key, flags…) → (packets, bytes).
fn summed(rows: &[String]) -> BTreeMap<String, (u64, u64)> {
    let mut sums = BTreeMap::new();
    for row in rows {
        let mut columns = row.rsplitn(3, ',');
        let bytes: u64 = columns.next().unwrap().parse().unwrap();
        let packets: u64 = columns.next().unwrap().parse().unwrap();
        let sum: &mut (u64, u64) = sums.entry(columns.next().unwrap_or_default().to_owned()).or_default();
        *sum = (sum.0 + packets, sum.1 + bytes);
    }
    sums
}

/// Both ways of the same frames.
fn both(frames: &[Sent], aggregate: &str) -> [BTreeMap<String, (u64, u64)>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.pcap");
    std::fs::write(&file, pcap_file(frames)).unwrap();
    [summed(&ours(&file, aggregate, false)), summed(&chain(dir.path(), &file, aggregate, false))]
}

const KEY: &str = "src_host,dst_host,src_port,dst_port,proto,tcpflags";

/// A row of the README's table of deviations.
struct Deviation {
    packets: &'static str,
    chain: &'static str,
    capture: &'static str,
    /// The kinds of frames that show it; what has none is shown by the tests whose names end so.
    beyond: &'static [Beyond],
}

/// The README's table: nothing else is excused, and each row must be seen.
const DEVIATIONS: [Deviation; 16] = [
    Deviation {
        packets: "tags of type 0x88a8 (1.7.9 decodes them) and 0x9100",
        chain: "not counted",
        capture: "counted",
        beyond: &[Beyond::ServiceTag, Beyond::OldServiceTag],
    },
    Deviation {
        packets: "two and more MPLS labels",
        chain: "some not counted, some with other addresses",
        capture: "counted",
        beyond: &[Beyond::Labels],
    },
    Deviation {
        packets: "labels in PPPoE; tags, PPPoE or labels behind a Linux cooked header",
        chain: "not counted",
        capture: "counted",
        beyond: &[Beyond::Cooked, Beyond::LabelsInPppoe],
    },
    Deviation {
        packets: "a total length of 0 (segmentation is left to the card)",
        chain: "0 bytes",
        capture: "the frame's bytes",
        beyond: &[Beyond::NoLength],
    },
    Deviation {
        packets: "later fragments of TCP and ICMP, or with options before the payload",
        chain: "payload is taken for flags, type, code and protocol",
        capture: "they join their first fragment",
        beyond: &[Beyond::LaterFragment, Beyond::OptionsInFragments],
    },
    Deviation {
        packets: "fragments whose first one never comes, or with less than 4 bytes",
        chain: "not counted",
        capture: "counted, with ports 0 where the first is missing",
        beyond: &[Beyond::NoFirst],
    },
    Deviation {
        packets: "header lengths that contradict each other",
        chain: "counted with what is found there",
        capture: "counted as rejected, by reason",
        beyond: &[],
    },
    Deviation {
        packets: "type of service",
        chain: "0 for the side that did not send last, and always for IPv6",
        capture: "the last packet's of each direction",
        beyond: &[],
    },
    Deviation {
        packets: "stamps",
        chain: "milliseconds, both directions share the pair's",
        capture: "microseconds, the row's own first and last packet",
        beyond: &[],
    },
    Deviation {
        packets: "the row of `aggregate: none`, `cos`",
        chain: "no stamps, always 0",
        capture: "stamps, the tag's priority",
        beyond: &[],
    },
    Deviation {
        packets: "VLAN or MAC addresses that change within a flow",
        chain: "the first packet's, for all",
        capture: "a row for each",
        beyond: &[],
    },
    Deviation {
        packets: "`tcpflags` without ports in `aggregate`",
        chain: "always 0",
        capture: "the flags",
        beyond: &[],
    },
    Deviation {
        packets: "an IP version that is not the EtherType's",
        chain: "counted as IPv4 where the type says so",
        capture: "counted as rejected, by reason",
        beyond: &[],
    },
    Deviation {
        packets: "IPv6 mobility headers",
        chain: "the protocol behind them",
        capture: "protocol 135",
        beyond: &[],
    },
    Deviation {
        packets: "an IPv6 payload length of 0; jumbograms",
        chain: "40 bytes; not counted",
        capture: "the frame's bytes; what the option states, within the frame",
        beyond: &[],
    },
    Deviation {
        packets: "headers that the capture cut before the ports",
        chain: "not counted",
        capture: "counted with what is whole",
        beyond: &[],
    },
];

#[test]
fn the_readmes_list_exactly_the_deviations_that_are_excused() {
    let rows = |text: &str, head: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| *line != head).skip(2);
        lines.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
    };
    let english = rows(include_str!("../../README.md"), "| packets | pmacctd and nfacctd | capture |");
    let chinese = rows(include_str!("../../README.zh-CN.md"), "| 数据包 | pmacctd 和 nfacctd | 内置抓包 |");
    let want = DEVIATIONS
        .each_ref()
        .map(|Deviation { packets, chain, capture, .. }| format!("| {packets} | {chain} | {capture} |"));
    assert_eq!(english, want);
    assert_eq!(chinese.len(), want.len());
}

#[test]
fn rows_are_those_of_pmacctd_and_nfacctd() {
    let plain = Kinds { fragments: true, rejects: false, disorder: true, beyond_pmacct: false };
    std::thread::scope(|scope| {
        for (seed, link_type) in [(41, ETHERNET), (42, LINUX_SLL), (43, RAW), (44, ETHERNET)] {
            scope.spawn(move || {
                let frames = Maker::new(seed, plain, &[link_type]).hosts(3).make(4000);
                let [ours, theirs] = both(&frames, KEY);
                assert!(ours.len() > 200, "{} rows are too few to prove much", ours.len());
                let differ = differences(&ours, &theirs);
                let some = &differ[..differ.len().min(12)];
                assert!(differ.is_empty(), "link type {link_type}: {} rows differ: {some:?}", differ.len());
            });
        }
    });
}

type Sums = BTreeMap<String, (u64, u64)>;

/// A key with our sums and theirs.
type Difference<'a> = (&'a str, Option<&'a (u64, u64)>, Option<&'a (u64, u64)>);

/// Keys whose sums differ, and both sums.
fn differences<'a>(ours: &'a Sums, theirs: &'a Sums) -> Vec<Difference<'a>> {
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let pairs = keys.into_iter().map(|key| (key.as_str(), ours.get(key), theirs.get(key)));
    pairs.filter(|(_, ours, theirs)| ours != theirs).collect()
}

/// Source and destination. Rows of one pair may only differ when a frame of it is beyond pmacct; ports, flags and protocols are
/// left out because pmacct makes some up.
type Pair = (String, String);

fn pair(key: &str) -> Pair {
    let mut columns = key.split(',').map(str::to_owned);
    (columns.next().unwrap_or_default(), columns.next().unwrap_or_default())
}

#[test]
fn every_difference_is_a_documented_one() {
    let documented: BTreeSet<Beyond> = DEVIATIONS.iter().flat_map(|deviation| deviation.beyond).copied().collect();
    // Too rare to come alone here; `columns_differ_as_the_readme_says` shows it.
    let excuses: BTreeSet<Beyond> = documented.iter().copied().chain([Beyond::ShortLast]).collect();
    let alone = std::sync::Mutex::new(BTreeMap::<Beyond, (u32, u32)>::new());
    std::thread::scope(|scope| {
        for (seed, link_type) in [(51, ETHERNET), (52, LINUX_SLL), (53, RAW), (54, ETHERNET)] {
            let (alone, excuses) = (&alone, &excuses);
            scope.spawn(move || {
                let kinds = Kinds { rejects: false, ..EVERYTHING };
                let frames = Maker::new(seed, kinds, &[link_type]).hosts(25).make(500);
                let mut beyond: BTreeMap<Pair, BTreeSet<Beyond>> = BTreeMap::new();
                for frame in &frames {
                    let way = frame.truth.unwrap().way;
                    beyond.entry((way.src.to_string(), way.dst.to_string())).or_default().extend(&frame.beyond);
                }
                let [ours, theirs] = both(&frames, KEY);
                let differ: BTreeSet<Pair> = differences(&ours, &theirs).iter().map(|(key, _, _)| pair(key)).collect();
                for pair in &differ {
                    // Behind labels pmacctd takes other bytes for addresses: pairs that no frame has.
                    let excused = beyond.get(pair).is_none_or(|beyond| !beyond.is_disjoint(excuses));
                    assert!(excused, "link type {link_type}: rows of {pair:?} differ without a reason");
                }
                for (pair, beyond) in &beyond {
                    if let [only] = beyond.iter().copied().collect::<Vec<_>>()[..] {
                        let mut alone = alone.lock().unwrap();
                        let (differing, same) = alone.entry(only).or_default();
                        *if differ.contains(pair) { differing } else { same } += 1;
                    }
                }
            });
        }
    });
    // Were one of them gone, the README's table would excuse what is no longer so.
    let alone = alone.into_inner().unwrap();
    let seen = alone.iter().filter(|(_, (differing, _))| *differing > 0).map(|(beyond, _)| *beyond).collect();
    assert_eq!(documented, seen, "{alone:?}");
}

/// A packet of this direction over raw IP, with this type of service or traffic class, so many microseconds after the first.
fn packet(src: &str, dst: &str, tos: u8, micros: u64) -> Sent {
    let way = Way { src: src.parse().unwrap(), dst: dst.parse().unwrap(), src_port: 7, dst_port: 7, proto: 17 };
    let plain = Kinds { fragments: false, rejects: false, disorder: false, beyond_pmacct: false };
    let mut frame = Maker::new(1, plain, &[RAW]).of(way);
    match way.src {
        IpAddr::V4(_) => frame.bytes[1] = tos,
        IpAddr::V6(_) => frame.bytes[..2].copy_from_slice(&[0x60 | tos >> 4, tos << 4]),
    }
    Sent { micros: 1_700_000_000_123_456 + micros, ..frame }
}

/// Our rows and the daemons' for these frames, sorted, without the column BYTES.
fn rows_of_both(frames: &[Sent], aggregate: &str) -> [Vec<String>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.pcap");
    std::fs::write(&file, pcap_file(frames)).unwrap();
    [ours(&file, aggregate, true), chain(dir.path(), &file, aggregate, true)].map(|rows| {
        let mut rows: Vec<_> = rows.iter().map(|row| row.rsplit_once(',').unwrap().0.to_owned()).collect();
        rows.sort();
        rows
    })
}

fn check(frames: &[Sent], aggregate: &str, ours: &[&str], theirs: &[&str]) {
    assert_eq!(rows_of_both(frames, aggregate), [ours, theirs], "{aggregate}: ours, then theirs");
}

#[test]
fn columns_differ_as_the_readme_says() {
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    std::thread::scope(|scope| {
        // Type of service and stamps.
        scope.spawn(|| {
            let answer = packet(b, a, 184, 1_530_865);
            let frames = [packet(a, b, 40, 0), answer, packet("2001:db8::1", "2001:db8::2", 8, 2)];
            let ours = [
                "10.0.0.1,40,1700000000.123456,1700000000.123456,1",
                "10.0.0.2,184,1700000001.654321,1700000001.654321,1",
                "2001:db8::1,8,1700000000.123458,1700000000.123458,1",
            ];
            let theirs = [
                "10.0.0.1,0,1700000000.123000,1700000001.654000,1",
                "10.0.0.2,184,1700000000.123000,1700000001.654000,1",
                "2001:db8::1,0,1700000000.123000,1700000000.123000,1",
            ];
            check(&frames, "src_host,tos", &ours, &theirs);
        });
        // `aggregate: none`.
        scope.spawn(|| check(&[packet(a, b, 0, 0)], "none", &["1700000000.123456,1700000000.123456,1"], &["1"]));
        // `cos`: priority 5 of VLAN 7.
        scope.spawn(|| {
            let mut frame = packet(a, b, 0, 0);
            frame.link_type = ETHERNET;
            frame.bytes.splice(..0, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0xa0, 7, 8, 0]);
            frame.wire_len += 18;
            let ours = "7,5,10.0.0.1,1700000000.123456,1700000000.123456,1";
            let theirs = "7,0,10.0.0.1,1700000000.123000,1700000000.123000,1";
            check(&[frame], "src_host,vlan,cos", &[ours], &[theirs]);
        });
        // A datagram in two fragments, the last with three bytes.
        scope.spawn(|| {
            let (mut first, mut last) = (packet(a, b, 0, 0), packet(a, b, 0, 1));
            for (frame, header) in [(&mut first, [0, 36, 0, 9, 0x20, 0]), (&mut last, [0, 23, 0, 9, 0, 2])] {
                frame.bytes.resize(usize::from(header[1]), 0);
                frame.bytes[2..8].copy_from_slice(&header);
                frame.wire_len = u32::from(header[1]);
            }
            let ours = "10.0.0.1,7,1700000000.123456,1700000000.123457,2";
            let theirs = "10.0.0.1,7,1700000000.123000,1700000000.123000,1";
            check(&[first, last], "src_host,src_port", &[ours], &[theirs]);
        });
        // A header of 16 bytes, and a datagram without room for its ports.
        scope.spawn(|| {
            let (mut short_header, mut no_room) = (packet("10.0.0.3", b, 0, 0), packet("10.0.0.4", b, 0, 0));
            short_header.bytes[0] = 0x44;
            no_room.bytes[2..4].copy_from_slice(&22u16.to_be_bytes());
            let ours = "10.0.0.1,1700000000.123456,1700000000.123456,1";
            let theirs =
                ["10.0.0.1", "10.0.0.3", "10.0.0.4"].map(|src| format!("{src},1700000000.123000,1700000000.123000,1"));
            let frames = [packet(a, b, 0, 0), short_header, no_room];
            check(&frames, "src_host", &[ours], &theirs.each_ref().map(String::as_str));
        });
    });
}

#[test]
fn links_and_headers_differ_as_the_readme_says() {
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    std::thread::scope(|scope| {
        // VLANs 10 and 20 in one flow.
        scope.spawn(|| {
            let tagged = |vlan, micros| {
                let mut frame = packet(a, b, 0, micros);
                frame.link_type = ETHERNET;
                frame.bytes.splice(..0, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, vlan, 8, 0]);
                frame.wire_len += 18;
                frame
            };
            let ours = [
                "10,10.0.0.1,1700000000.123456,1700000000.123456,1",
                "20,10.0.0.1,1700000000.123457,1700000000.123457,1",
            ];
            let theirs = "10,10.0.0.1,1700000000.123000,1700000000.123000,2";
            check(&[tagged(10, 0), tagged(20, 1)], "src_host,vlan", &ours, &[theirs]);
        });
        // The flags of TCP where no port is asked for.
        scope.spawn(|| {
            let mut frame = packet(a, b, 0, 0);
            frame.bytes.truncate(20);
            frame.bytes.extend([0, 7, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x12, 1, 1, 0, 0, 0, 0]);
            (frame.bytes[3], frame.bytes[9], frame.wire_len) = (40, 6, 40);
            let ours = "10.0.0.1,18,1700000000.123456,1700000000.123456,1";
            let theirs = "10.0.0.1,0,1700000000.123000,1700000000.123000,1";
            check(&[frame], "src_host,tcpflags", &[ours], &[theirs]);
        });
        // Version 5 behind the type of IPv4.
        scope.spawn(|| {
            let framed = |src, version: u8| {
                let mut frame = packet(src, b, 0, 0);
                frame.link_type = ETHERNET;
                frame.bytes[0] = version << 4 | 5;
                frame.bytes.splice(..0, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
                frame.wire_len += 14;
                frame
            };
            let ours = "10.0.0.1,1700000000.123456,1700000000.123456,1";
            let theirs = [a, "10.0.0.5"].map(|src| format!("{src},1700000000.123000,1700000000.123000,1"));
            check(&[framed(a, 4), framed("10.0.0.5", 5)], "src_host", &[ours], &theirs.each_ref().map(String::as_str));
        });
        // A mobility header, a jumbogram, a header that was cut, and bytes where the payload's length is 0.
        scope.spawn(|| {
            let v6 = |last: u16, next: u8, body: &[u8], wire: u32| {
                let mut frame = packet("2001:db8::1", "2001:db8::2", 0, 0);
                frame.bytes.truncate(40);
                frame.bytes[4..6].copy_from_slice(&if next == 135 { 16u16 } else { 0 }.to_be_bytes());
                frame.bytes[6] = next;
                frame.bytes[22..24].copy_from_slice(&last.to_be_bytes());
                frame.bytes.extend(body);
                frame.wire_len = wire.max(frame.bytes.len() as u32);
                frame
            };
            let mobility = v6(0x11, 135, &[59, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0);
            let header = [&[17, 0, 0xc2, 4][..], &70_016u32.to_be_bytes(), &[0, 7, 0, 7, 0, 0, 0, 0]].concat();
            let jumbo = v6(0x12, 0, &header, 70_056);
            let zero = v6(0x13, 17, &[&[0, 7, 0, 7, 0, 0, 0, 0][..], &[1; 60]].concat(), 0);
            let mut cut = packet("10.0.0.6", b, 0, 0);
            cut.bytes.truncate(22);
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("a.pcap");
            std::fs::write(&file, pcap_file(&[mobility, jumbo, zero, cut])).unwrap();
            let wire = 28 + u64::from(packet("10.0.0.6", b, 0, 0).wire_len - 28);
            let sorted = |mut rows: Vec<String>| {
                rows.sort();
                rows
            };
            let ours = [
                format!("10.0.0.6,17,1,{wire}"),
                "2001:db8::11,135,1,56".to_owned(),
                "2001:db8::12,17,1,70056".to_owned(),
                "2001:db8::13,17,1,108".to_owned(),
            ];
            assert_eq!(sorted(self::ours(&file, "src_host,proto", false)), ours);
            let theirs = ["2001:db8::11,59,1,56", "2001:db8::13,17,1,40"];
            assert_eq!(sorted(chain(dir.path(), &file, "src_host,proto", false)), theirs);
        });
    });
}
