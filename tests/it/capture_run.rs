//! Embedded capture as its user runs it: pmacct's keys in a file, the program, rows in files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use processor::status::client;
use rustix::process::Signal;

use crate::capture_live::{in_namespace, sender, shell};
use crate::support::packets::{ETHERNET, EVERYTHING, Kinds, Maker, RAW, Sent, Way, pcap_file, pcapng_file};
use crate::support::run::{Ended, Live, PROCESSOR, Probe, contents, peak_mib, wait_until};

/// The metric of packets that came out of the ring.
const SEEN: &str = "processor_capture_packets_total";

const PLAIN: Kinds = Kinds { fragments: false, rejects: false, disorder: false, beyond_pmacct: false };

/// A probe that captures, with these keys of pmacct.
fn probe(keys: &str) -> Probe {
    keys.lines().fold(Probe::new().key("source", "capture"), |probe, line| {
        let (key, value) = line.split_once(':').unwrap();
        probe.line(key.trim(), value.trim())
    })
}

/// The lines in the sealed files.
fn lines(probe: &Probe) -> Vec<String> {
    String::from_utf8(contents(probe.data())).unwrap().lines().map(str::to_owned).collect()
}

/// What a run that ends well leaves, and what it said.
fn rows(keys: &str) -> (Vec<String>, Ended) {
    let probe = probe(keys);
    let ended = probe.run(b"").expect(0);
    (lines(&probe), ended)
}

/// A capture file beside nothing else; it goes with the directory.
fn file(frames: &[Sent]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    fs::write(&path, pcap_file(frames)).unwrap();
    (dir, path.display().to_string())
}

fn udp(src: &str, src_port: u16) -> Way {
    Way { src: src.parse().unwrap(), dst: "10.9.0.1".parse().unwrap(), src_port, dst_port: 53, proto: 17 }
}

/// One packet of this way, with a stamp that is known.
fn packet(way: Way) -> Sent {
    Sent { micros: 1_700_000_000_123_456, ..Maker::new(1, PLAIN, &[RAW]).of(way) }
}

/// The sum of a column, counted from the end.
fn sum(rows: &[String], from_end: usize) -> u64 {
    rows.iter().map(|row| row.rsplit(',').nth(from_end).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn the_last_line_of_a_key_wins_whoever_it_names() {
    let (_dir, path) = file(&[packet(udp("10.0.0.1", 7))]);
    let (rows, ended) = rows(&format!(
        "pcap_savefile: {path}\nplugins: nfprobe[probe], print[rows]\naggregate: src_host\naggregate[probe]: proto,src_port\n\
         aggregate[nobody]: dst_host\nprint_num_protos[rows]: true\nsql_host: db"
    ));
    assert_eq!(rows[0], "SRC_PORT,PROTOCOL,PACKETS,BYTES");
    assert!(rows[1].starts_with("7,17,1,"), "{rows:?}");
    assert_eq!(ended.log.matches("\"capture_unused_keys\"").count(), 1, "{}", ended.log);
    assert!(ended.log.contains("aggregate, sql_host"), "{}", ended.log);
}

#[test]
fn what_cannot_work_ends_with_2_and_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let text = empty.path().join("text");
    let nosuch = empty.path().display();
    for (keys, said) in [
        ("aggregate: src_host".to_owned(), &["pcap_interface", "names the interface"][..]),
        ("pcap_interface: nosuch0".to_owned(), &["there is no interface nosuch0; there are", "lo"]),
        ("pcap_interface: lo\npcap_savefile: a.pcap".to_owned(), &["pcap_savefile", "remove one of them"]),
        ("pcap_interface: any, lo".to_owned(), &["pcap_interface", "any alone"]),
        ("pcap_interface: lo\npcap_filter: tcp prot 80".to_owned(), &["pcap_filter", "pcap-filter(7)"]),
        (
            "pcap_interface: lo\naggregate: src_host, nosuch".to_owned(),
            &["\"nosuch\" is not known", "any of ", "dst_host"],
        ),
        ("pcap_interface: lo\nnfprobe_timeouts: tcp=soon".to_owned(), &["\"tcp=soon\"", "maxlife=1h"]),
        ("pcap_interface: lo\nprint_output: json".to_owned(), &["csv only"]),
        ("pcap_interface: lo\nprint_refresh_time: 0".to_owned(), &["print_refresh_time", "from 1 to 86400"]),
        ("pcap_interface: lo\npmacctd_pipe_size: 1000".to_owned(), &["pmacctd_pipe_size", "from 524288 to 2147483647"]),
        ("pcap_interface: lo\nprocessor_capture_threads: 0".to_owned(), &["processor_capture_threads", "from 1 to 64"]),
        (format!("pcap_savefile: {nosuch}/nosuch.pcap"), &["pcap_savefile", "nosuch.pcap cannot be read"]),
        (format!("pcap_savefile: {nosuch}"), &["pcap_savefile", "has no files"]),
        (
            format!("pcap_interface: lo\nnetworks_file: {}", text.display()),
            &["networks_file", "there is no file", "text"],
        ),
    ] {
        let ended = probe(&keys).run(b"").expect(2);
        for said in said {
            // JSON escapes the quotes.
            let log = ended.log.replace("\\\"", "\"");
            assert!(log.contains(said), "{keys}\nhas no {said:?}:\n{log}");
        }
    }
    fs::write(&text, "10.0.0.0/8\nnonsense\n").unwrap();
    let ended = probe(&format!("pcap_interface: lo\nnetworks_file: {}", text.display())).run(b"").expect(2);
    assert!(ended.log.contains("nonsense"), "{}", ended.log);
}

#[test]
fn without_the_capability_it_ends_with_2_and_names_it() {
    let probe = probe("pcap_interface: lo");
    let words = ["setpriv", "--bounding-set=-net_raw,-net_admin", "--"].map(str::to_owned);
    let ended = probe.start_under(&words).end().expect(2);
    assert!(ended.log.contains("CAP_NET_RAW") && ended.log.contains("setcap cap_net_raw+ep"), "{}", ended.log);
}

#[test]
fn no_thread_keeps_the_capabilities_that_only_opening_needs() {
    const NET_ADMIN_AND_RAW: u64 = 1 << 12 | 1 << 13;
    in_namespace(|| {
        let probe = probe("pcap_interface: va\nprocessor_metrics_listen: 127.0.0.1:0");
        let live = probe.start();
        live.wait_for("capture_started");
        let tasks = || fs::read_dir(format!("/proc/{}/task", live.pid())).unwrap().map(|task| task.unwrap().path());
        // One thread opens interfaces again, and does nothing else.
        let opener = "capture-open";
        let is_capture = |task: PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "capture-va\n");
        wait_until("the capture thread", || tasks().any(is_capture));
        let mut threads = BTreeSet::new();
        for task in tasks() {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            for set in ["CapEff:", "CapPrm:", "CapInh:"].into_iter().filter(|_| value("Name:") != opener) {
                let bits = u64::from_str_radix(&value(set), 16).unwrap();
                assert_eq!(bits & NET_ADMIN_AND_RAW, 0, "{} {set}", value("Name:"));
            }
            threads.insert(value("Name:"));
        }
        for name in ["log", "signals", "source", "capture-va", opener] {
            assert!(threads.contains(name), "{name}: {threads:?}");
        }
        live.signal(Signal::TERM);
        live.wait().expect(0);
    });
}

#[test]
fn rows_are_printed_in_every_form() {
    let (_dir, path) = file(&[packet(udp("10.0.0.1", 7))]);
    let row = |keys: &str| {
        let (rows, _) = rows(&format!("pcap_savefile: {path}\naggregate: src_host,proto\n{keys}"));
        assert_eq!(rows.len(), 2, "{rows:?}");
        rows[1].clone()
    };
    assert!(row("timezone: UTC").starts_with("10.0.0.1,udp,1,"));
    assert!(row("print_num_protos: true").starts_with("10.0.0.1,17,1,"));
    assert!(row("print_output_separator: ;").starts_with("10.0.0.1;udp;1;"));
    assert!(row("print_output_separator: \\t").starts_with("10.0.0.1\tudp\t1\t"));
    for (keys, stamp) in [
        ("timestamps_since_epoch: true", "1700000000.123456"),
        ("timezone: Asia/Shanghai", "2023-11-15 06:13:20.123456"),
        ("timezone: Asia/Shanghai\ntimestamps_utc: true", "2023-11-14 22:13:20.123456"),
        ("timezone: Asia/Shanghai\ntimestamps_rfc3339: true", "2023-11-15T06:13:20.123456+08:00"),
        ("timestamps_rfc3339: true\ntimestamps_utc: true", "2023-11-14T22:13:20.123456Z"),
    ] {
        let row = row(&format!("nfacctd_stitching: true\n{keys}"));
        assert!(row.starts_with(&format!("10.0.0.1,udp,{stamp},{stamp},1,")), "{keys}: {row}");
    }
}

#[test]
fn a_window_has_the_records_that_end_in_it() {
    // A packet a second; each is over a second later, the last at the end of the file.
    let frames: Vec<Sent> = (0..30)
        .map(|second| Sent { micros: 1_700_000_000_000_000 + second * 1_000_000, ..packet(udp("10.0.0.1", 7)) })
        .collect();
    let (_dir, path) = file(&frames);
    for (window, want) in [(86_400, &[30][..]), (10, &[9, 10, 11]), (7, &[6, 7, 7, 7, 3]), (1, &[1; 30])] {
        let keys = format!("pcap_savefile: {path}\naggregate: src_host\nnfprobe_timeouts: udp=1");
        let (rows, _) = rows(&format!("{keys}\nprint_refresh_time: {window}"));
        let packets: Vec<u64> = rows[1..].iter().map(|row| sum(std::slice::from_ref(row), 1)).collect();
        // Of the windows of one second the last has the last two packets: the file ends in it.
        let want = if window == 1 { [&[1; 28][..], &[2]].concat() } else { want.to_vec() };
        assert_eq!(packets, want, "windows of {window} s");
    }
}

#[test]
fn rows_by_each_primitive_and_by_all() {
    let frames = Maker::new(71, Kinds { fragments: false, ..EVERYTHING }, &[ETHERNET]).make(2000);
    let (dir, path) = file(&frames);
    let nets = dir.path().join("nets");
    fs::write(&nets, "10.0.0.0/8\n").unwrap();
    let bytes: u64 = frames.iter().flat_map(|frame| frame.truth).map(|counted| counted.bytes).sum();
    let packets = frames.iter().filter(|frame| frame.truth.is_ok()).count() as u64;
    let columns = [
        ("tag", "TAG"),
        ("src_mac", "SRC_MAC"),
        ("dst_mac", "DST_MAC"),
        ("vlan", "VLAN"),
        ("cos", "COS"),
        ("etype", "ETYPE"),
        ("in_iface", "IN_IFACE"),
        ("src_host", "SRC_IP"),
        ("src_net", "SRC_NET"),
        ("dst_host", "DST_IP"),
        ("dst_net", "DST_NET"),
        ("src_mask", "SRC_MASK"),
        ("dst_mask", "DST_MASK"),
        ("src_port", "SRC_PORT"),
        ("dst_port", "DST_PORT"),
        ("tcpflags", "TCP_FLAGS"),
        ("proto", "PROTOCOL"),
        ("tos", "TOS"),
        ("sampling_rate", "SAMPLING_RATE"),
        ("timestamp_start", "TIMESTAMP_START"),
        ("timestamp_end", "TIMESTAMP_END"),
    ];
    let all: Vec<&str> = columns.iter().map(|(primitive, _)| *primitive).rev().collect();
    let mut asked: Vec<(String, String)> = vec![
        (all.join(", "), columns.iter().flat_map(|(_, column)| [*column, ","]).collect()),
        ("none".to_owned(), String::new()),
    ];
    asked.extend(columns.iter().map(|(primitive, column)| ((*primitive).to_owned(), format!("{column},"))));
    for (aggregate, header) in asked {
        let keys = format!("pcap_savefile: {path}\naggregate: {aggregate}\nnetworks_file: {}", nets.display());
        let (rows, ended) = rows(&keys);
        assert_eq!(rows[0], format!("{header}PACKETS,BYTES"), "{aggregate}");
        assert_eq!((sum(&rows[1..], 1), sum(&rows[1..], 0)), (packets, bytes), "{aggregate}");
        assert_eq!(ended.number("capture_ended", "decoded"), packets);
        assert_eq!(ended.number("capture_ended", "seen"), 2000);
    }
}

#[test]
fn the_longest_network_counts_and_sampling_is_scaled_when_asked() {
    let ways = ["10.0.0.1", "10.1.0.1", "10.1.2.3", "11.0.0.1"].map(|src| packet(udp(src, 7)));
    let (dir, path) = file(&ways);
    let nets = dir.path().join("nets");
    fs::write(&nets, "10.0.0.0/8\n10.1.2.0/24\n10.1.0.0/16\n").unwrap();
    let keys = format!("pcap_savefile: {path}\nnetworks_file: {}", nets.display());
    let (mut rows_by_net, _) = rows(&format!("{keys}\naggregate: src_net,src_mask"));
    rows_by_net.sort();
    let have: Vec<_> = rows_by_net.iter().map(|row| row.rsplitn(3, ',').last().unwrap()).collect();
    assert_eq!(have, ["0.0.0.0,0", "10.0.0.0,8", "10.1.0.0,16", "10.1.2.0,24", "SRC_NET,SRC_MASK"]);

    let (_dir, path) = file(&Maker::new(72, PLAIN, &[RAW]).make(20_000));
    let keys = format!("pcap_savefile: {path}\naggregate: none\nsampling_rate: 10");
    let (plain, ended) = rows(&keys);
    let counted = ended.number("capture_ended", "decoded");
    assert!((1_800..2_200).contains(&counted), "{counted}");
    assert_eq!(sum(&plain[1..], 1), counted);
    let (scaled, ended) = rows(&format!("{keys}\nnfacctd_renormalize: true"));
    assert_eq!(sum(&scaled[1..], 1), ended.number("capture_ended", "decoded") * 10);
}

#[test]
fn a_file_a_directory_pcapng_and_standard_input_give_the_same_rows() {
    let frames = Maker::new(73, Kinds { disorder: false, ..EVERYTHING }, &[ETHERNET]).make(6000);
    let (dir, path) = file(&frames);
    let keys = "aggregate: src_host,dst_host,src_port,dst_port,proto,tcpflags,tos\nnfacctd_stitching: true\n\
                print_refresh_time: 10\npcap_savefile: ";
    let (want, _) = rows(&format!("{keys}{path}"));
    assert!(want.len() > 500, "{} rows are too few to prove much", want.len());

    let parts = dir.path().join("parts");
    fs::create_dir(&parts).unwrap();
    for (index, part) in frames.chunks(1700).enumerate() {
        let bytes = if index % 2 == 0 { pcapng_file(part) } else { pcap_file(part) };
        fs::write(parts.join(format!("trace.{index}")), bytes).unwrap();
    }
    assert_eq!(rows(&format!("{keys}{}", parts.display())).0, want);

    let probe = probe(&format!("{keys}-"));
    probe.run(&pcapng_file(&frames)).expect(0);
    assert_eq!(lines(&probe), want);
}

#[test]
fn what_is_no_capture_or_was_cut_is_said() {
    let probe_of = |bytes: &[u8]| {
        let probe = probe("pcap_savefile: -\naggregate: none");
        let ended = probe.run(bytes);
        (lines(&probe), ended)
    };
    let (_, ended) = probe_of(b"SRC_IP,DST_IP,PACKETS,BYTES\n1.2.3.4,5.6.7.8,1,40\n");
    assert!(ended.log.contains("standard input"), "{}", ended.log);
    ended.expect(1);
    let frames = Maker::new(74, PLAIN, &[RAW]).make(100);
    let whole = pcap_file(&frames);
    let (rows, ended) = probe_of(&whole[..whole.len() - 3]);
    assert_eq!(sum(&rows[1..], 1), 99);
    assert!(ended.expect(0).has("capture_file_cut"));
}

/// A UDP packet of 28 bytes over raw IP, as a capture file has it, for each of these sources.
fn flood(sources: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sources.len() * 44);
    for source in sources {
        for word in [1_700_000_000, source % 1_000_000, 28, 28] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        // An odd factor: every source has an address of its own.
        bytes.extend(source.wrapping_mul(0x9e37_79b1).to_be_bytes());
        bytes.extend([10, 0, 0, 1, 0, 7, 0, 53, 0, 8, 0, 0]);
    }
    bytes
}

#[test]
fn a_flood_of_new_flows_stays_within_the_table_and_loses_nothing() {
    const PACKETS: u32 = 2_000_000;
    let probe =
        probe("pcap_savefile: -\naggregate: src_host,dst_host,src_port,dst_port,proto\nnfprobe_maxflows: 20000");
    let mut live = probe.start();
    live.feed(&pcap_file(&[])[..20]);
    live.feed(&RAW.to_le_bytes());
    let mut fed = 0;
    while fed < PACKETS {
        let next = (fed + 50_000).min(PACKETS);
        assert!(live.feed(&flood(fed..next)), "{}", live.log());
        fed = next;
    }
    // Asked while it runs: the eviction is counted where an operator looks.
    let evicted = || metric(probe.data(), "processor_flow_table_evictions_total");
    wait_until("the flood is counted", || evicted() > u64::from(PACKETS) * 9 / 10);
    let peak = peak_mib(live.pid());
    let ended = live.end().expect(0);
    assert_eq!(ended.number("capture_ended", "decoded"), u64::from(PACKETS));
    let rows = lines(&probe);
    assert_eq!((rows.len() as u64 - 1, sum(&rows[1..], 1)), (u64::from(PACKETS), u64::from(PACKETS)));
    assert!(peak < 128, "{peak} MiB for 20000 flows and their rows");
}

/// A number of the metrics without labels; 0 until there is an answer.
pub(super) fn metric(data: &Path, name: &str) -> u64 {
    let Ok((_, text)) = client::get(data, "/metrics", Duration::from_secs(5)) else { return 0 };
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Sends frames until the program has counted this many more; what was sent.
fn send_until_seen(from: &str, frames: &[Sent], live: &Live, data: &Path) {
    let mut from = sender(from);
    let before = metric(data, SEEN);
    for frame in frames {
        from.sendpacket(&frame.bytes[..]).unwrap();
    }
    let what = format!("the packets are counted\n{}", live.log());
    wait_until(&what, || metric(data, SEEN) - before >= frames.len() as u64);
}

#[test]
fn live_on_several_interfaces_until_a_signal() {
    in_namespace(|| {
        for (interfaces, threads, times) in [("va", 1, 1), ("va, vb", 1, 2), ("va", 2, 1), ("any", 2, 2)] {
            let mut frames = Maker::new(75, PLAIN, &[ETHERNET]).make(400);
            frames.retain(|frame| matches!(frame.bytes[12..14], [0x08, 0x00] | [0x86, 0xdd]));
            let probe = probe(&format!(
                "pcap_interface: {interfaces}\naggregate: proto\nsnaplen: 512\npmacctd_pipe_size: 4194304\n\
                 processor_capture_threads: {threads}\nprint_refresh_time: 3600"
            ));
            let live = probe.start();
            live.wait_for("capture_started");
            send_until_seen("vb", &frames, &live, probe.data());
            live.signal(Signal::TERM);
            let ended = live.wait().expect(0);
            assert_eq!(ended.number("capture_ended", "dropped"), 0);
            let bytes: u64 = frames.iter().flat_map(|frame| frame.truth).map(|counted| counted.bytes).sum();
            let rows = lines(&probe);
            assert_eq!(
                (sum(&rows[1..], 1), sum(&rows[1..], 0)),
                (frames.len() as u64 * times, bytes * times),
                "{interfaces}, {threads} threads: what was in the tables is printed"
            );
        }
    });
}

/// Whether `/readyz` says so.
fn is_ready(data: &Path) -> bool {
    client::get(data, "/readyz", Duration::from_secs(5)).is_ok_and(|(code, _)| code == 200)
}

#[test]
fn an_interface_that_goes_away_is_waited_for_and_opened_again() {
    in_namespace(|| {
        let frames = Maker::new(76, PLAIN, &[ETHERNET]).make(200);
        let probe = probe(
            "pcap_interface: va, other\npcap_interface_wait: true\naggregate: none\npmacctd_pipe_size: 4194304\n\
             processor_capture_threads: 2",
        );
        let mut live = probe.start();
        live.wait_for("capture_lost");
        wait_until("it is not ready without one of them", || {
            metric(probe.data(), "processor_capture_interfaces_away") == 1 && !is_ready(probe.data())
        });
        shell("ip link add other type veth peer name peer; ip link set other up; ip link set peer up");
        live.wait_for("capture_found");
        wait_until("it is ready with both", || is_ready(probe.data()));
        send_until_seen("vb", &frames, &live, probe.data());
        let mut sent = frames.len();

        shell("ip link set va down");
        live.wait_for("capture_down");
        wait_until("it is not ready while one is down", || !is_ready(probe.data()));
        shell("ip link set va up");
        let mut from = sender("vb");
        wait_until("packets come again", || {
            // The link needs a moment until it carries packets again.
            sent += usize::from(from.sendpacket(&frames[0].bytes[..]).is_ok());
            live.has("capture_up")
        });
        assert_eq!((live.count("capture_down"), live.count("capture_up")), (1, 1), "{}", live.log());

        // Made again, renamed and back, and made again at once: each time it is opened again under its name.
        let again = "ip link add va mtu 9000 type veth peer name vb mtu 9000; ip link set va up; ip link set vb up";
        for (times, (away, back)) in (2..).zip([
            ("ip link del va".to_owned(), again.to_owned()),
            ("ip link set va name moved".to_owned(), "ip link set moved name va".to_owned()),
            (format!("ip link del va; {again}"), "true".to_owned()),
        ]) {
            shell(&away);
            wait_until("it is told", || live.count("capture_lost") >= times.min(3) || times > 3);
            send_until_seen("peer", &frames[..10], &live, probe.data());
            shell(&back);
            wait_until("it is there again", || live.count("capture_found") >= times && is_ready(probe.data()));
            send_until_seen("vb", &frames, &live, probe.data());
        }
        assert!(live.is_running());
        live.signal(Signal::TERM);
        let ended = live.wait().expect(0);
        let rows = lines(&probe);
        assert_eq!(sum(&rows[1..], 1), ended.number("capture_ended", "decoded"));
    });
}

#[test]
fn what_does_not_fit_the_ring_is_counted() {
    const PACKETS: u64 = 20_000;
    in_namespace(|| {
        let probe = probe("pcap_interface: va\naggregate: none\npmacctd_pipe_size: 524288\nnfprobe_maxflows: 1000");
        let live = probe.start();
        live.wait_for("capture_started");
        // While it cannot read, the ring overflows.
        live.signal(Signal::STOP);
        let frame = Maker::new(1, PLAIN, &[ETHERNET]).of(udp("10.0.0.1", 7));
        let mut from = sender("vb");
        for _ in 0..PACKETS {
            from.sendpacket(&frame.bytes[..]).unwrap();
        }
        live.signal(Signal::CONT);
        live.wait_for("capture_dropped");
        let dropped = || metric(probe.data(), "processor_lost_total{where=\"kernel\",unit=\"packets\"}");
        wait_until("every packet is seen or dropped", || metric(probe.data(), SEEN) + dropped() == PACKETS);
        live.signal(Signal::TERM);
        let ended = live.wait().expect(0);
        let (seen, dropped) = (ended.number("capture_ended", "seen"), ended.number("capture_ended", "dropped"));
        assert!(dropped > 0 && seen + dropped == PACKETS, "{seen} seen, {dropped} dropped");
        assert_eq!(sum(&lines(&probe)[1..], 1), seen);
    });
}

#[test]
fn a_second_processor_may_share_the_same_interface() {
    in_namespace(|| {
        let frames = Maker::new(77, PLAIN, &[ETHERNET]).make(300);
        let keys = "pcap_interface: va\naggregate: none\npmacctd_pipe_size: 4194304\nprocessor_capture_threads: 2";
        let probes = [probe(keys), probe(keys)];
        let lives = probes.each_ref().map(Probe::start);
        for live in &lives {
            live.wait_for("capture_started");
        }
        let mut from = sender("vb");
        for frame in &frames {
            from.sendpacket(&frame.bytes[..]).unwrap();
        }
        for (probe, live) in probes.iter().zip(lives) {
            wait_until("each sees every packet", || metric(probe.data(), SEEN) >= frames.len() as u64);
            live.signal(Signal::TERM);
            assert_eq!(live.wait().expect(0).number("capture_ended", "seen"), frames.len() as u64);
        }
    });
}

#[test]
fn check_tells_of_the_capture_what_run_would() {
    let probe = probe("pcap_interface: lo\npcap_filter: tcp prot 80");
    probe.write_config();
    let done = Command::new(PROCESSOR).arg("check").arg("-config").arg(probe.config()).output();
    let done = done.unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("pcap-filter(7)"));
}
