//! Embedded capture on what it was not written for: frames of every kind that others' captures held, each with its right rows.
//!
//! The bytes are made here, byte by byte, so that the truth of each is known; the program runs as its user runs it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::capture_live::{in_namespace, sender};
use crate::capture_run::metric;
use crate::support::run::{Ended, PROCESSOR, Probe, contents, wait_until};

/// A frame: seconds and microseconds of its stamp, what is kept of it, its length on the wire.
type Kept = (i64, u32, Vec<u8>, u32);

/// A whole frame in the second `secs`.
fn whole(secs: i64, bytes: Vec<u8>) -> Kept {
    let len = bytes.len() as u32;
    (secs, 0, bytes, len)
}

/// The first `kept` bytes of a frame.
fn cut(bytes: &[u8], kept: usize) -> Kept {
    (T, 0, bytes[..kept].to_vec(), bytes.len() as u32)
}

const T: i64 = 1_700_000_000;

fn pcap(link_type: u32, frames: &[Kept]) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4_u32.to_le_bytes(), [2, 0, 4, 0], [0; 4], [0; 4]].concat();
    file.extend(65_535u32.to_le_bytes());
    file.extend(link_type.to_le_bytes());
    for (secs, micros, bytes, wire_len) in frames {
        for word in [u32::try_from(*secs).unwrap(), *micros, bytes.len() as u32, *wire_len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(bytes);
    }
    file
}

/// pcapng with one interface of Ethernet, stamps in seconds with an offset.
fn pcapng(offset: i64, ticks: &[u64], frame: &[u8]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padded = body.len().next_multiple_of(4);
        let length = (padded as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &vec![0; padded - body.len()], &length].concat()
    };
    let words = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    let mut file = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    let options = [&[9, 0, 1, 0, 6, 0, 0, 0, 14, 0, 8, 0][..], &offset.to_le_bytes(), &[0; 4]].concat();
    file.extend(block(1, &[&words(&[1, 65_535])[..], &options].concat()));
    for ticks in ticks {
        let len = frame.len() as u32;
        let head = words(&[0, (ticks >> 32) as u32, *ticks as u32, len, len]);
        file.extend(block(6, &[&head[..], frame].concat()));
    }
    file
}

/// An IPv4 header and what follows it.
fn v4(src: u8, proto: u8, body: &[u8]) -> Vec<u8> {
    v4_part(src, proto, 0, 0, body)
}

/// The same as a fragment: identification, flags and offset.
fn v4_part(src: u8, proto: u8, id: u16, place: u16, body: &[u8]) -> Vec<u8> {
    let total = (20 + body.len() as u16).to_be_bytes();
    let mut bytes = vec![0x45, 0, total[0], total[1]];
    bytes.extend(id.to_be_bytes());
    bytes.extend(place.to_be_bytes());
    bytes.extend([64, proto, 0, 0, 10, 0, 0, src, 10, 0, 0, 99]);
    bytes.extend(body);
    bytes
}

fn v6(next: u8, payload_len: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(payload_len.to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    bytes.extend(body);
    bytes
}

fn udp(src_port: u16, len: usize) -> Vec<u8> {
    let length = (8 + len as u16).to_be_bytes();
    [&src_port.to_be_bytes()[..], &[0, 53], &length, &[0, 0], &vec![0x78; len]].concat()
}

fn tcp(ports: [u16; 2], flags: u8) -> Vec<u8> {
    let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 3, 232, 0, 0, 0, 0];
    [&ports[0].to_be_bytes()[..], &ports[1].to_be_bytes(), &rest].concat()
}

/// Ethernet, with tags (type, control) before what `ethertype` says.
fn ethernet(tags: &[(u16, u16)], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (kind, control) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A probe that captures, with these keys of pmacct.
fn probe(keys: &str) -> Probe {
    keys.lines().fold(Probe::new().key("source", "capture"), |probe, line| {
        let (key, value) = line.split_once(':').unwrap();
        probe.line(key.trim(), value.trim())
    })
}

/// The rows of a path by these keys, sorted, without the header, and the run.
fn rows_of(path: &Path, keys: &str) -> (Vec<String>, Ended) {
    let keys =
        format!("pcap_savefile: {}\nprint_num_protos: true\ntimestamps_since_epoch: true\n{keys}", path.display());
    let probe = probe(&keys);
    let ended = probe.run(b"");
    let text = String::from_utf8(contents(probe.data())).unwrap();
    let mut rows: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
    rows.sort();
    (rows, ended)
}

/// The rows of one file that is read well.
fn rows(file: &[u8], keys: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    fs::write(&path, file).unwrap();
    let (rows, ended) = rows_of(&path, keys);
    ended.expect(0);
    rows
}

const KEY: &str = "aggregate: src_host,src_port,dst_port,tcpflags,proto";

#[test]
fn tags_behind_cooked_headers_are_found_where_the_kernel_leaves_them() {
    let ip = |n| v4(n, 17, &udp(7, 20));
    // What Linux 6.18 gave for received frames: the outermost tag is beside the frame (libpcap puts it back for version 1 alone),
    // the protocol is the innermost one, and the other tags stand before the datagram.
    let v1 = |control: &[u16], hidden: &[u8], ip: &[u8]| {
        let mut bytes = vec![0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
        for control in control {
            bytes.extend([0x81, 0, (control >> 8) as u8, *control as u8]);
        }
        [&bytes[..], &[8, 0], hidden, ip].concat()
    };
    let frames = [
        whole(T, v1(&[], &[], &ip(1))),
        whole(T, v1(&[0xa00a], &[], &ip(2))),
        whole(T, v1(&[20], &[0, 30, 8, 0], &ip(3))),
        // Priority 2 in the second tag: its first byte is that of an IPv4 header.
        whole(T, v1(&[21], &[0x45, 0x55, 8, 0], &ip(4))),
        whole(T, v1(&[22], &[0, 2, 0x81, 0, 0x45, 3, 8, 0], &ip(5))),
        whole(T, v1(&[0xa000], &[], &ip(6))),
    ];
    let keys = "aggregate: vlan,cos,src_host";
    let want = ["0,0,10.0.0.1,1,48", "0,5,10.0.0.6,1,48", "10,5,10.0.0.2,1,48", "20,0,10.0.0.3,1,48"];
    let want: Vec<_> = want.into_iter().chain(["21,0,10.0.0.4,1,48", "22,0,10.0.0.5,1,48"]).collect();
    assert_eq!(rows(&pcap(113, &frames), keys), want);

    // Of version 2 the outermost tag is nowhere; nothing else may be invented.
    let v2 =
        |hidden: &[u8], ip: &[u8]| [&[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0], hidden, ip].concat();
    let frames = [
        whole(T, v2(&[], &ip(1))),
        whole(T, v2(&[0, 30, 8, 0], &ip(3))),
        whole(T, v2(&[0x45, 0x55, 8, 0], &ip(4))),
        whole(T, v2(&[0, 2, 0x81, 0, 0x45, 3, 8, 0], &ip(5))),
    ];
    let hosts: Vec<_> = [1, 3, 4, 5].map(|n| format!("10.0.0.{n},1,48")).to_vec();
    assert_eq!(rows(&pcap(276, &frames), "aggregate: src_host"), hosts);

    // A datagram whose length looks like a type, and whose identification looks like a header, is one all the same.
    let mut long = v4(7, 17, &udp(7, 2048 - 28));
    long[4..6].copy_from_slice(&[0x45, 0]);
    assert_eq!(rows(&pcap(113, &[whole(T, v1(&[], &[], &long))]), "aggregate: src_host"), ["10.0.0.7,1,2048"]);
}

#[test]
fn any_tells_the_tags_of_live_frames() {
    in_namespace(|| {
        let frames = [
            (vec![], 1, "0,0"),
            (vec![(0x8100, 10)], 2, "10,0"),
            (vec![(0x8100, 0xa000)], 3, "0,5"),
            (vec![(0x8100, 20), (0x8100, 30)], 4, "20,0"),
            (vec![(0x88a8, 20), (0x8100, 30)], 5, "20,0"),
            (vec![(0x88a8, 40)], 6, "40,0"),
            (vec![(0x8100, 20), (0x8100, 0x4555)], 7, "20,0"),
            (vec![(0x8100, 1), (0x8100, 2), (0x8100, 0x4503)], 8, "1,0"),
        ];
        for (keys, by_tag) in [("src_host,vlan,cos", true), ("src_host,in_iface", false)] {
            let probe = probe(&format!("pcap_interface: any\npmacctd_pipe_size: 4194304\naggregate: {keys}"));
            let live = probe.start();
            live.wait_for("capture_started");
            let mut from = sender("vb");
            for _ in 0..3 {
                for (tags, host, _) in &frames {
                    from.sendpacket(ethernet(tags, 0x0800, &v4(*host, 17, &udp(7, 40)))).unwrap();
                }
            }
            let seen = || metric(probe.data(), "processor_capture_packets_total");
            wait_until("every frame is seen twice", || seen() >= frames.len() as u64 * 6);
            live.signal(rustix::process::Signal::TERM);
            live.wait().expect(0);
            let text = String::from_utf8(contents(probe.data())).unwrap();
            let mut have: Vec<_> = text.lines().skip(1).map(str::to_owned).collect();
            have.sort();
            // Each frame leaves vb and comes to va.
            let want: Vec<_> = if by_tag {
                let mut want: Vec<_> =
                    frames.iter().map(|(_, host, tag)| format!("{tag},10.0.0.{host},6,408")).collect();
                want.sort();
                want
            } else {
                // The columns' order: interface, host.
                assert_eq!(have.len(), 16, "{have:?}");
                assert!(have.iter().all(|row| row.ends_with(",3,204") && row.contains(",10.0.0.")), "{have:?}");
                continue;
            };
            assert_eq!(have, want);
        }
        let both = probe("pcap_interface: any\naggregate: in_iface,vlan").run(b"").expect(2);
        assert!(both.log.contains("not both"), "{}", both.log);
    });
}

#[test]
fn a_length_of_0_is_the_frames_and_a_jumbos_is_believed_within_it() {
    let segment = [tcp([1, 2], 0x18), vec![0x70; 2000]].concat();
    let tso = ethernet(&[], 0x86dd, &v6(6, 0, &segment));
    let nothing_follows = ethernet(&[], 0x86dd, &v6(59, 0, &[0; 6]));
    let jumbo = |stated: u32, len: usize| {
        let header = [&[17, 0, 0xc2, 4][..], &stated.to_be_bytes()].concat();
        ethernet(&[], 0x86dd, &v6(0, 0, &[header, udp(7, len)].concat()))
    };
    let big = jumbo(70_016, 70_000);
    let frames = [
        whole(T, tso),
        whole(T, nothing_follows),
        cut(&big, 96),
        whole(T, jumbo(u32::MAX, 12)),
        whole(T, jumbo(65_536, 12)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    fs::write(&path, pcap(1, &frames)).unwrap();
    let (rows, ended) = rows_of(&path, "aggregate: proto,src_port");
    assert_eq!(rows, ["0,59,1,40", "1,6,1,2060", "7,17,1,70056"]);
    assert_eq!(ended.expect(0).number("capture_uncounted", "bad_length"), 2);
}

#[test]
fn what_is_whole_of_a_cut_frame_is_counted() {
    let datagram = ethernet(&[], 0x0800, &v4(1, 17, &udp(1000, 8)));
    let stream = ethernet(&[], 0x0800, &v4(1, 6, &tcp([1, 2], 0x12)));
    let mut options = v4(1, 17, &udp(9, 8));
    options[0] = 0x46;
    let options = ethernet(&[], 0x0800, &options);
    let headers = ethernet(&[], 0x86dd, &v6(60, 24 + 16, &[vec![17, 2], vec![0; 22], udp(5, 8)].concat()));
    let frames = [
        cut(&datagram, 34),
        cut(&datagram, 36),
        cut(&datagram, 20),
        cut(&datagram, 38),
        cut(&stream, 46),
        cut(&stream, 48),
        cut(&options, 36),
        cut(&headers, 60),
        cut(&headers, 14 + 40 + 16),
        cut(&headers, 14 + 40 + 24),
        cut(&headers, 14 + 40 + 24 + 4),
        // Cut on the wire, not by the capture.
        whole(T, datagram[..36].to_vec()),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    fs::write(&path, pcap(1, &frames)).unwrap();
    let (rows, ended) = rows_of(&path, KEY);
    let want = [
        "10.0.0.1,0,0,0,17,3,108",
        "10.0.0.1,1,2,18,6,2,80",
        "10.0.0.1,1000,53,0,17,1,36",
        "2001:db8::1,0,0,0,17,3,240",
        "2001:db8::1,5,53,0,17,1,80",
    ];
    assert_eq!(rows, want);
    let ended = ended.expect(0);
    let reasons = ["cut_by_snaplen", "short_frame"].map(|reason| ended.number("capture_uncounted", reason));
    assert_eq!(reasons, [1, 1]);
    assert!(ended.log.contains("cut_by_snaplen 1, short_frame 1"), "{}", ended.log);
}

#[test]
fn directions_are_a_pair_whatever_is_printed() {
    // Two connections with the same ports, 50 s apart; each ends with FIN from both sides.
    let mut frames = Vec::new();
    for begin in [0, 50] {
        for (at, flags) in [(0, 0x02), (1, 0x11)] {
            let there = ethernet(&[(0x8100, 10)], 0x0800, &v4(1, 6, &tcp([1, 2], flags)));
            let mut back = ethernet(&[(0x8100, 20)], 0x0800, &v4(99, 6, &tcp([2, 1], flags)));
            let at_ip = back.len() - 40;
            back[at_ip + 16..at_ip + 20].copy_from_slice(&[10, 0, 0, 1]);
            back[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
            frames.extend([whole(T + begin + at, there), whole(T + begin + at, back)]);
        }
    }
    let file = pcap(1, &frames);
    let timeouts = "nfprobe_timeouts: tcp=3600:tcp.fin=10:tcp.rst=5\nprint_refresh_time: 1\nnfacctd_stitching: true";
    for keys in
        ["src_host", "src_host,src_mac", "src_host,vlan", "src_host,dst_mac,cos", "src_mac,vlan,src_host,in_iface"]
    {
        let have = rows(&file, &format!("aggregate: {keys}\n{timeouts}"));
        let mut begins: Vec<_> = have.iter().map(|row| row.rsplit(',').nth(3).unwrap()[5..10].to_owned()).collect();
        begins.sort();
        assert_eq!(begins, ["00000", "00000", "00050", "00050"], "{keys}: {have:#?}");
    }
}

#[test]
fn each_link_of_a_direction_has_its_row_and_they_end_together() {
    // One direction over three VLANs and two addresses; a reset over one of them ends them all.
    let mut frames = Vec::new();
    for (at, vlan, mac, flags) in
        [(0, 10, 1, 2), (1, 20, 1, 16), (2, 10, 3, 16), (3, 20, 1, 16), (4, 30, 1, 4), (20, 10, 1, 2)]
    {
        let mut frame = ethernet(&[(0x8100, vlan)], 0x0800, &v4(1, 6, &tcp([1, 2], flags)));
        frame[11] = mac;
        frames.push(whole(T + at, frame));
    }
    let have =
        rows(&pcap(1, &frames), "aggregate: src_mac,vlan,tcpflags\nnfprobe_timeouts: tcp.rst=5\nprint_refresh_time: 1");
    let mac = |n: u8| format!("02:00:00:00:00:{n:02x}");
    let mut want = vec![
        format!("{},10,2,1,40", mac(1)),
        format!("{},10,2,1,40", mac(1)),
        format!("{},20,16,2,80", mac(1)),
        format!("{},30,4,1,40", mac(1)),
        format!("{},10,16,1,40", mac(3)),
    ];
    want.sort();
    assert_eq!(have, want);
}

#[test]
fn an_identification_that_is_used_again_keeps_its_ports() {
    let first = |secs, port| whole(T + secs, ethernet(&[], 0x0800, &v4_part(1, 17, 7, 0x2000, &udp(port, 0))));
    let later = |secs| whole(T + secs, ethernet(&[], 0x0800, &v4_part(1, 17, 7, 1, &[0x71; 8])));
    let file = pcap(1, &[first(0, 1000), later(0), first(59, 2000), later(61)]);
    assert_eq!(rows(&file, "aggregate: src_port"), ["1000,2,56", "2000,2,56"]);
}

#[test]
fn a_filter_on_a_file_sees_the_wire_and_any_order() {
    let long = ethernet(&[], 0x0800, &v4(1, 17, &udp(7, 1400)));
    let short = ethernet(&[], 0x0800, &v4(2, 17, &udp(7, 8)));
    let file = pcap(1, &[cut(&long, 96), whole(T, short)]);
    assert_eq!(rows(&file, "aggregate: src_host\npcap_filter: greater 1000"), ["10.0.0.1,1,1428"]);
    assert_eq!(rows(&file, "aggregate: src_host\npcap_filter: less 1000"), ["10.0.0.2,1,36"]);
    let null = |family: [u8; 4]| pcap(0, &[whole(T, [&family[..], &v4(1, 17, &udp(7, 8))].concat())]);
    for family in [2u32.to_be_bytes(), 2u32.to_le_bytes()] {
        assert_eq!(rows(&null(family), "aggregate: src_host\npcap_filter: ip and udp port 53"), ["10.0.0.1,1,36"]);
    }
    for link_type in [12, 14, 101] {
        let file = pcap(link_type, &[whole(T, v4(1, 17, &udp(7, 8)))]);
        assert_eq!(rows(&file, "aggregate: src_host\npcap_filter: udp"), ["10.0.0.1,1,36"], "{link_type}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw.pcap");
    fs::write(&path, pcap(101, &[whole(T, v4(1, 17, &udp(7, 8)))])).unwrap();
    let keys = format!("pcap_savefile: {}\npcap_filter: ether host 2:0:0:0:0:1", path.display());
    let probe = probe(&keys);
    let ended = probe.run(b"").expect(2);
    assert!(ended.log.contains("link type 101") && !ended.has("capture_started"), "{}", ended.log);
    probe.write_config();
    let check = Command::new(PROCESSOR).args(["check", "-config"]).arg(probe.config()).output().unwrap();
    assert_eq!(check.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&check.stderr).contains("link type 101"));
}

#[test]
fn stray_and_damaged_files_are_named_counted_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let frame = || whole(T, ethernet(&[], 0x0800, &v4(1, 17, &udp(7, 8))));
    let damaged = [pcap(1, &[frame()]), vec![0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]].concat();
    for (name, bytes) in [
        ("a.pcap", pcap(1, &[frame()])),
        ("b.txt", b"a note about the captures".to_vec()),
        ("c.pcap", damaged),
        ("d.pcap", pcap(147, &[frame()])),
        ("e.pcap", pcap(1, &[frame(), frame()])),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (rows, ended) = rows_of(dir.path(), "aggregate: src_host");
    assert_eq!(rows, ["10.0.0.1,4,144"]);
    let ended = ended.expect(1);
    assert_eq!(ended.log.matches("\"capture_file_failed\"").count(), 2, "{}", ended.log);
    for said in ["b.txt", "c.pcap", "link type 147", "unknown_link_type 1", "2 of 5 capture files"] {
        assert!(ended.log.contains(said), "{said}:\n{}", ended.log);
    }
    let numbers = ["files", "failed_files", "decoded"].map(|field| ended.number("capture_ended", field));
    assert_eq!(numbers, [5, 2, 4]);
}

#[test]
fn a_capture_of_which_nothing_can_be_counted_is_a_failure_and_one_without_ip_is_not() {
    let frame = whole(T, ethernet(&[], 0x0800, &v4(1, 17, &udp(7, 8))));
    let arp = whole(T, ethernet(&[], 0x0806, &[0; 28]));
    for (file, code, said) in [
        (pcap(147, std::slice::from_ref(&frame)), 1, "unknown_link_type 1"),
        (pcap(101, &[whole(T, vec![0; 40])]), 1, "bad_ip_version 1"),
        (pcap(1, &[arp]), 0, "not_ip 1"),
        (pcap(1, &[]), 0, "capture_ended"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        fs::write(&path, file).unwrap();
        let report = dir.path().join("report.json");
        let keys = format!(
            "aggregate: src_host\nprocessor_status_report_enabled: true\nprocessor_status_report_file_path: {}",
            report.display()
        );
        let (rows, ended) = rows_of(&path, &keys);
        let ended = ended.expect(code);
        assert!(rows.is_empty() && ended.log.contains(said), "{said}\n{}", ended.log);
        let last = fs::read_to_string(&report).unwrap();
        let last: serde_json::Value = serde_json::from_str(&last[last.rfind("{\"uuid\"").unwrap()..]).unwrap();
        if let Some((reason, number)) = said.split_once(' ') {
            assert_eq!(last["capture"]["uncounted"][reason], number.parse::<u64>().unwrap(), "{last}");
        }
        assert_eq!(last["capture"]["files"], 1, "{last}");
        assert_eq!(ended.has("capture_link_type"), said.starts_with("unknown"), "{}", ended.log);
    }
}

#[test]
fn stamps_before_1970_and_after_2106_are_as_they_are() {
    let frame = ethernet(&[], 0x0800, &v4(1, 17, &udp(7, 8)));
    let keys = "aggregate: src_host\nnfacctd_stitching: true";
    let old = pcapng(-3_000_000_000, &[500_000, 1_500_000], &frame);
    assert_eq!(rows(&old, keys), ["10.0.0.1,-2999999999.500000,-2999999998.500000,2,72"]);
    let new = pcapng(5_000_000_000, &[0, 1], &frame);
    assert_eq!(rows(&new, keys), ["10.0.0.1,5000000000.000000,5000000000.000001,2,72"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcap");
    fs::write(&path, pcapng(0, &[u64::MAX], &frame)).unwrap();
    let (_, ended) = rows_of(&path, keys);
    assert_eq!(ended.expect(0).number("capture_stamps_beyond", "packets"), 1);
}

#[test]
fn no_gap_and_no_time_out_costs_much() {
    let began = Instant::now();
    let flow = |secs: i64, n: u32| {
        let mut ip = v4(1, 132, &[0; 8]);
        ip[12..16].copy_from_slice(&n.to_be_bytes());
        whole(secs, ip)
    };
    let mut frames: Vec<_> = (0..30_000).map(|n| flow(0, n)).collect();
    frames.push(flow(4_200_000_000, 1 << 24));
    let have =
        rows(&pcap(101, &frames), "aggregate: none\nnfprobe_timeouts: general=7000w:maxlife=0\nprint_refresh_time: 1");
    let packets: u64 = have.iter().map(|row| row.split(',').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(packets, 30_001);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn no_row_is_made_of_another_familys_bytes() {
    // AppleTalk, whose first byte looks like IP's.
    let datagram = v4(1, 17, &udp(7, 8));
    let frames = [16u32.to_le_bytes(), 16u32.to_be_bytes()].map(|family| whole(T, [&family[..], &datagram].concat()));
    let good = whole(T, [&2u32.to_le_bytes()[..], &datagram].concat());
    let [first, second] = frames;
    assert_eq!(rows(&pcap(0, &[first, second, good]), "aggregate: src_host"), ["10.0.0.1,1,36"]);
}
