//! Embedded capture on interfaces that the test makes: a veth pair in a network namespace of its own.
//!
//! A thread of the test moves to a new namespace; what it opens and starts is there with it, and the namespace goes with
//! the last of them. This needs root.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pcap::{Active, Capture as Pcap};
use processor::log::{Event, Log};
use processor::pmacctconf::Text;
use processor::shutdown::{Reason, Shutdown};
use processor::source::capture::{Capture, Counters, OpenError, Options, drop_capabilities};
use processor::source::{Source, SourceEnd, SourceError};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::support::packets::{ETHERNET, Kinds, Maker, RAW, Sent, Way};
use crate::support::sink::Kept;

/// A hang guard, not a speed that is asserted.
const LIMIT: Duration = Duration::from_secs(30);

const PLAIN: Kinds = Kinds { fragments: true, rejects: false, disorder: false, beyond_pmacct: false };

/// Runs `test` on a thread in a new network namespace with the pair va–vb.
pub(super) fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only the network namespace is left, which no other thread's memory or descriptors depend on.
            #[allow(unsafe_code)]
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("this test needs root");
            // Without IPv6 the kernel sends nothing of its own.
            shell(
                "for each in all default; do echo 1 > /proc/sys/net/ipv6/conf/$each/disable_ipv6; done
                 ip link add va mtu 9000 type veth peer name vb mtu 9000
                 ip link set va up && ip link set vb up",
            );
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a script in the calling thread's namespace.
pub(super) fn shell(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "{what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn options(interfaces: &str, aggregate: &str) -> Options {
    let text = format!(
        "pcap_interface: {interfaces}\naggregate: {aggregate}\nprint_num_protos: true\nprint_refresh_time: 86400\nsnaplen: 512\n"
    );
    let mut options = Options::read(&Text::read(text.as_bytes())).unwrap().0;
    // Rings of the default size for every test at once are more than a small machine has.
    options.buffer_bytes = 8 << 20;
    options
}

/// A capture that runs, until `test` returns and it is stopped; its lines without the header.
fn captured(options: Options, test: impl FnOnce(&Counters, &Shutdown)) -> Result<Vec<String>, SourceError> {
    captured_from(Capture::open(options, Log::discard()).unwrap(), test)
}

/// A test that fails ends the capture too, which its thread waits for.
struct StopOnDrop<'a>(&'a Shutdown);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.trip(Reason::Signal(15));
    }
}

fn captured_from(source: Capture, test: impl FnOnce(&Counters, &Shutdown)) -> Result<Vec<String>, SourceError> {
    let stop = Shutdown::new().unwrap();
    let source = Box::new(source);
    let counters: Arc<Counters> = source.counters();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let mut sink = Kept::default();
            source.run(&mut sink, &stop).map(|end| (end, sink.lines()))
        });
        let end = StopOnDrop(&stop);
        test(&counters, &stop);
        drop(end);
        let (end, mut lines) = running.join().unwrap()?;
        assert_eq!(end, SourceEnd::Stopped);
        lines.drain(..lines.len().min(1));
        Ok(lines)
    })
}

pub(super) fn sender(interface: &str) -> Pcap<Active> {
    Pcap::from_device(interface).unwrap().open().unwrap()
}

/// Sends the frames in bursts that the ring holds, each when the one before has been counted `times` times.
fn send(from: &mut Pcap<Active>, frames: &[Sent], counters: &Counters, times: u64) {
    let before = counters.seen.get();
    for (index, burst) in frames.chunks(500).enumerate() {
        for frame in burst {
            from.sendpacket(&frame.bytes[..]).unwrap();
        }
        let sent = (index * 500 + burst.len()) as u64;
        wait_for("the packets are counted", || counters.seen.get() - before >= sent * times);
    }
}

/// Packets and bytes by way, times `times`, as lines of `src_host,dst_host,src_port,dst_port,proto`.
fn truth(frames: &[Sent], times: u64) -> Vec<String> {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for counted in frames.iter().flat_map(|frame| frame.truth) {
        let way = counted.way;
        let key = format!("{},{},{},{},{}", way.src, way.dst, way.src_port, way.dst_port, way.proto);
        let sum = sums.entry(key).or_default();
        *sum = (sum.0 + times, sum.1 + counted.bytes * times);
    }
    let mut lines: Vec<_> =
        sums.into_iter().map(|(key, (packets, bytes))| format!("{key},{packets},{bytes}")).collect();
    lines.sort();
    lines
}

const WAY: &str = "src_host,dst_host,src_port,dst_port,proto";

#[test]
fn every_packet_of_an_interface_is_in_the_rows() {
    in_namespace(|| {
        let frames = Maker::new(61, PLAIN, &[ETHERNET]).make(4000);
        let mut from = sender("vb");
        let mut lines = captured(options("va", WAY), |counters, _| send(&mut from, &frames, counters, 1)).unwrap();
        lines.sort();
        assert_eq!(lines, truth(&frames, 1));
    });
}

#[test]
fn several_interfaces_are_summed_in_one_window() {
    in_namespace(|| {
        let frames = Maker::new(62, PLAIN, &[ETHERNET]).make(1500);
        let mut from = sender("vb");
        let mut lines = captured(options("va, vb", WAY), |counters, _| send(&mut from, &frames, counters, 2)).unwrap();
        lines.sort();
        assert_eq!(lines, truth(&frames, 2), "what leaves vb comes to va");
    });
}

/// How many packets each thread had.
fn shares(events: &[Event]) -> Vec<u64> {
    let share = |event: &Event| match event {
        Event::CaptureShare { packets, .. } => Some(*packets),
        _ => None,
    };
    events.iter().filter_map(share).collect()
}

#[test]
fn threads_share_an_interface_and_count_every_packet_once() {
    in_namespace(|| {
        for (interface, times) in [("va", 1), ("any", 2)] {
            // Of tagged frames the cooked header tells too little, as in `any_tells_the_interface`.
            let mut frames = Maker::new(65, PLAIN, &[ETHERNET]).make(3000);
            frames.retain(|frame| matches!(frame.bytes[12..14], [0x08, 0x00] | [0x86, 0xdd]));
            let (log, memory) = Log::memory();
            let options = Options { threads: 3, ..options(interface, "none") };
            let source = Capture::open(options, log).unwrap();
            let mut from = sender("vb");
            let lines = captured_from(source, |counters, _| send(&mut from, &frames, counters, times)).unwrap();
            let bytes: u64 = frames.iter().flat_map(|frame| frame.truth).map(|counted| counted.bytes).sum();
            let packets = frames.len() as u64 * times;
            assert_eq!(lines, [format!("{packets},{}", bytes * times)]);
            let shares = shares(&memory.take());
            assert_eq!(shares.iter().sum::<u64>(), packets, "{shares:?}");
            assert!(shares.len() == 3 && shares.iter().all(|&packets| packets > 0), "{shares:?}");
        }
    });
}

#[test]
fn the_fragments_of_a_datagram_stay_on_one_thread() {
    in_namespace(|| {
        let mut frames = Maker::new(66, PLAIN, &[RAW]).hosts(3).make(4000);
        // The same headers before every fragment, as on a real wire.
        for frame in &mut frames {
            let ethertype = if frame.bytes[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
            frame.bytes.splice(..0, [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype].concat());
        }
        let mut from = sender("vb");
        let options = Options { threads: 2, ..options("va", WAY) };
        let mut lines = captured(options, |counters, _| send(&mut from, &frames, counters, 1)).unwrap();
        lines.sort();
        assert_eq!(lines, truth(&frames, 1), "apart, later fragments would have no ports");
    });
}

#[test]
fn what_comes_while_threads_are_made_ready_is_not_counted_twice() {
    in_namespace(|| {
        let frame = |host: u8, port: u16| {
            let (src, dst) = (IpAddr::from([10, 0, 1, host]), IpAddr::from([10, 0, 0, 2]));
            Maker::new(1, PLAIN, &[ETHERNET]).of(Way { src, dst, src_port: port, dst_port: 53, proto: 17 }).bytes
        };
        let mut from = sender("vb");
        let (is_sending, is_done) = (AtomicBool::new(false), AtomicBool::new(false));
        let lines = std::thread::scope(|scope| {
            scope.spawn(|| {
                // For as long as the rings take to be made, however long that is; each flow has one packet.
                let all = (1..=40).flat_map(|host| (1..60_000).map(move |port| (host, port)));
                for (host, port) in all.take_while(|_| !is_done.load(Ordering::Relaxed)) {
                    let _ = from.sendpacket(&frame(host, port)[..]);
                    is_sending.store(true, Ordering::Relaxed);
                }
            });
            wait_for("packets are sent", || is_sending.load(Ordering::Relaxed));
            let options = Options { threads: 8, ..options("va", WAY) };
            let some = |counters: &Counters, _: &Shutdown| {
                wait_for("some come", || counters.seen.get() > 0);
                is_done.store(true, Ordering::Relaxed);
            };
            captured(options, some).unwrap()
        });
        let twice: Vec<_> = lines.iter().filter(|line| line.rsplit(',').nth(1) != Some("1")).collect();
        assert!(!lines.is_empty() && twice.is_empty(), "{} of {}: {:?}", twice.len(), lines.len(), twice.first());
    });
}

#[test]
fn any_tells_the_interface() {
    in_namespace(|| {
        let mut frames = Maker::new(63, PLAIN, &[ETHERNET]).make(900);
        frames.retain(|frame| matches!(frame.bytes[12..14], [0x08, 0x00] | [0x86, 0xdd]));
        let mut from = sender("vb");
        let mut lines =
            captured(options("any", "in_iface"), |counters, _| send(&mut from, &frames, counters, 2)).unwrap();
        lines.sort();
        let indexes = ["va", "vb"].map(|name| {
            std::fs::read_to_string(format!(
                "/proc/self/task/{}/net/dev_mcast",
                rustix::thread::gettid().as_raw_nonzero()
            ))
            .unwrap()
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|columns| columns.get(1) == Some(&name))
            .map(|columns| columns[0].to_owned())
            .unwrap()
        });
        let bytes: u64 = frames.iter().flat_map(|frame| frame.truth).map(|counted| counted.bytes).sum();
        let mut want = indexes.map(|index| format!("{index},{},{bytes}", frames.len())).to_vec();
        want.sort();
        assert_eq!(lines, want);
    });
}

#[test]
fn an_interface_goes_down_comes_up_goes_away_and_comes_back() {
    in_namespace(|| {
        let frames = Maker::new(64, PLAIN, &[ETHERNET]).make(300);
        let mut from = sender("vb");
        let lines = captured(options("va", WAY), |counters, stop| {
            send(&mut from, &frames, counters, 1);
            shell("ip link set va down; ip link set va up");
            // The link needs a moment until it carries packets again.
            let before = counters.seen.get();
            wait_for("packets come again", || {
                let _ = from.sendpacket(&frames[0].bytes[..]);
                counters.seen.get() > before
            });
            shell("ip link del va");
            wait_for("the capture notices", || counters.interfaces_away.get() == 1);
            assert!(!stop.is_tripped(), "the others would go on");
            shell("ip link add va mtu 9000 type veth peer name vb mtu 9000; ip link set va up; ip link set vb up");
            wait_for("it is opened again", || counters.interfaces_away.get() == 0);
            let mut from = sender("vb");
            send(&mut from, &frames, counters, 1);
        })
        .unwrap();
        assert!(!lines.is_empty());
    });
}

#[test]
fn without_the_capability_it_says_which() {
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            drop_capabilities().unwrap();
            Capture::open(options("lo", WAY), Log::discard()).map(drop)
        });
        let error = opened.join().unwrap().unwrap_err();
        assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
}
