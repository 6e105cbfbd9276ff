//! The supervised daemons, with the real `pmacctd` and `nfacctd` in a network namespace.
//!
//! Every packet that a test sends is known, and so is every row that arrives; the tests hold one against the other while
//! daemons, plugins and writers are killed, interfaces vanish and readers stand still.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use processor::log::{Event, Log, Memory};
use processor::pmacctconf::Text;
use processor::shutdown::{Reason, Shutdown};
use processor::source::pmacct::{Options, Plan, PlanError, Pmacct};
use processor::source::{Sink, Source, SourceEnd, SourceError, Stopped};
use processor::stats::Stats;
use processor::supervise::Limits;

use crate::support::netns::{self, Namespace, Sent, Traffic, sums};

const NEEDED: &[&str] = &["ip", "sysctl", "pmacctd", "nfacctd"];
/// Nothing that these tests wait for takes longer; a test that hangs fails.
const GUARD: Duration = Duration::from_secs(30);

const CONF: &str = "\
pcap_interface: v1
aggregate: src_host, dst_host, src_port, dst_port, proto, tos, tcpflags
plugins: nfprobe
nfprobe_receiver: 127.0.0.1:9995
nfprobe_timeouts: udp=2:expint=1:maxlife=60
nfacctd_port: 9995
nfacctd_stitching: true
timestamps_since_epoch: true
print_output: csv
print_refresh_time: 2
print_num_protos: true
";

fn options(conf: &str, run_dir: PathBuf) -> Options {
    Options {
        config_path: "pmacct.conf".into(),
        text: Text::read(conf.as_bytes()),
        pmacctd_path: None,
        nfacctd_path: None,
        run_dir,
        limits: Limits { first_pause: Duration::from_millis(300), failures_allowed: 3, ..Limits::default() },
        measure_every: Duration::from_secs(1),
    }
}

/// Keeps all rows; stands still while it is told to.
#[derive(Clone, Default)]
struct Rows {
    bytes: Arc<Mutex<Vec<u8>>>,
    stands_still: Arc<AtomicBool>,
    space: Vec<u8>,
}

impl Sink for Rows {
    fn space(&mut self) -> Result<&mut [u8], Stopped> {
        while self.stands_still.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        self.space.resize(65_536, 0);
        Ok(&mut self.space)
    }
    fn filled(&mut self, len: usize, _: Instant) -> Result<(), Stopped> {
        self.bytes.lock().unwrap().extend_from_slice(&self.space[..len]);
        Ok(())
    }
    fn tick(&mut self, _: Instant) -> Result<(), Stopped> {
        Ok(())
    }
    fn due(&self) -> Option<Instant> {
        None
    }
    fn has_partial_line(&self) -> bool {
        false
    }
}

impl Rows {
    /// The sums of the last two columns, by which every packet is accounted for.
    fn sums(&self) -> Sent {
        sums(&self.bytes.lock().unwrap())
    }
}

/// The source at work inside a namespace.
struct Chain {
    rows: Rows,
    stats: Arc<Stats>,
    stop: Shutdown,
    events: Memory,
    seen: Vec<Event>,
    source: Option<JoinHandle<Result<SourceEnd, SourceError>>>,
    _dir: tempfile::TempDir,
}

impl Chain {
    fn start(namespace: &Namespace, conf: &str) -> Self {
        Self::start_with(namespace, conf, |_| ())
    }

    fn start_with(namespace: &Namespace, conf: &str, change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(conf, dir.path().join("run"));
        change(&mut options);
        let plan = Plan::new(options).unwrap();
        let (log, events) = Log::memory();
        let (rows, stats, stop) = (Rows::default(), Arc::<Stats>::default(), Shutdown::new().unwrap());
        let source = Box::new(Pmacct::new(plan, log, stats.clone()));
        let (mut sink, latch) = (rows.clone(), stop.clone());
        let source = Some(namespace.inside(move || source.run(&mut sink, &latch)));
        Self { rows, stats, stop, events, seen: Vec::new(), source, _dir: dir }
    }

    /// Waits until both daemons are at work; `pmacctd` says so when it has opened its interface.
    fn wait_until_up(&mut self) {
        self.wait_for("the export to begin", |event| says(event, "Exporting flows to"));
    }

    /// Waits for an event that has not been waited for yet, and gives it.
    fn wait_for(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + GUARD;
        loop {
            self.seen.extend(self.events.take());
            if let Some(at) = self.seen.iter().position(&is_it) {
                return self.seen.drain(..=at).next_back().unwrap();
            }
            assert!(Instant::now() < end, "no sign of {what}; {:#?}", self.seen);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until two windows in a row are empty: flows that were sent together expire within one window of each other, so
    /// nothing of them is under way any more.
    fn wait_for_silence(&mut self) {
        self.rest();
        let mut empty = 0;
        while empty < 2 {
            let window = self.wait_for("the end of a window", |event| says(event, "Purging cache - END"));
            empty = if says(&window, "QN: 0/0") { empty + 1 } else { 0 };
        }
    }

    fn wait_for_sums(&self, wanted: Sent) {
        let end = Instant::now() + GUARD;
        while self.rows.sums() != wanted {
            assert!(Instant::now() < end, "rows hold {:?} of {wanted:?}; {:?}", self.rows.sums(), self.stats.chain);
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) -> Result<SourceEnd, SourceError> {
        self.stop.trip(Reason::Signal(15));
        self.end()
    }

    fn end(&mut self) -> Result<SourceEnd, SourceError> {
        let source = self.source.take().unwrap();
        let end = Instant::now() + GUARD;
        while !source.is_finished() {
            assert!(Instant::now() < end, "the source does not end; {:#?}", self.events.take());
            thread::sleep(Duration::from_millis(20));
        }
        source.join().unwrap()
    }

    /// Everything said that no wait has taken.
    fn rest(&mut self) -> Vec<Event> {
        self.seen.extend(self.events.take());
        std::mem::take(&mut self.seen)
    }

    fn pid(event: &Event) -> i32 {
        match event {
            Event::DaemonStarted { pid, .. } => i32::try_from(*pid).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // A test that failed in between must end, too.
        self.rows.stands_still.store(false, Ordering::Relaxed);
        self.stop.trip(Reason::Signal(15));
        if let Some(source) = self.source.take() {
            let _ = source.join();
        }
    }
}

fn says(event: &Event, part: &str) -> bool {
    matches!(event, Event::DaemonSays { text, .. } | Event::DaemonWarns { text, .. } | Event::DaemonFails { text, .. }
        | Event::Trace { text, .. } if text.contains(part))
}

fn started(daemon: &'static str) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::DaemonStarted { daemon: started, .. } if *started == daemon)
}

/// Processes of a group, as pid and title.
fn group(leader: i32) -> Vec<(i32, String)> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let member = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        // A zombie is no process any more; who reaps it depends on which tests run beside this one.
        (fields[0] != "Z" && fields[2].parse() == Ok(leader)).then_some((pid, title))
    };
    pids.filter_map(member).collect()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + GUARD;
    while !condition() {
        assert!(Instant::now() < end, "no sign of {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The process of a group whose title holds these words.
fn member(leader: i32, words: &str) -> Option<i32> {
    group(leader).into_iter().find(|(_, title)| title.contains(words)).map(|(pid, _)| pid)
}

#[test]
fn every_packet_arrives_and_an_idle_chain_ends_at_once() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let mut chain = Chain::start(&namespace, CONF);
    chain.wait_until_up();
    let sent = namespace.send(Traffic { packets: 9000, flows: 1500, rate: 9000 });
    chain.wait_for_sums(sent);
    chain.wait_for("the first answer to SIGUSR1", |event| says(event, "received_packets="));

    let asked = Instant::now();
    assert_eq!(chain.stop().unwrap(), SourceEnd::Stopped);
    assert!(asked.elapsed() < Duration::from_secs(10), "the bound of the stop is 8 s");
    assert_eq!(chain.rows.sums(), sent);
    assert_eq!(chain.stats.chain.captured_packets.get(), sent.packets);
    assert_eq!(chain.stats.chain.datagram_drops.get(), 0);
    assert!(!chain.rest().iter().any(|event| matches!(event, Event::DaemonKilled { .. } | Event::DaemonDied { .. })));
}

/// What `pmacctd` had captured when it was stopped is in the rows, though all of it was still in its table. It goes on reading
/// the interface for two seconds without counting it to any flow; that traffic came after the stop.
#[test]
fn a_stop_under_load_flushes_everything() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let mut chain = Chain::start(&namespace, &CONF.replace("udp=2", "udp=600"));
    chain.wait_until_up();
    let sending = namespace.inside(|| netns::send(Traffic { packets: 120_000, flows: 6000, rate: 8000 }));
    wait_until("traffic", || chain.stats.chain.captured_packets.get() > 0);
    let captured = chain.stats.chain.captured_packets.get();
    // Its count runs ahead of what it has read by up to a second, the time-out of its capture.
    wait_until("two seconds of traffic", || chain.stats.chain.captured_packets.get() > captured + 16_000);
    assert_eq!(chain.stop().unwrap(), SourceEnd::Stopped);
    let sums = chain.rows.sums();
    assert!(sums.packets >= captured, "{sums:?} of {captured}");
    assert_eq!(chain.stats.chain.datagram_drops.get(), 0);
    assert!(sums.packets < sending.join().unwrap().packets, "it was stopped under load");
}

#[test]
fn each_process_may_be_killed_and_the_chain_comes_back() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let mut chain = Chain::start_with(&namespace, CONF, |options| options.limits.failures_allowed = 10);
    let mut collector = Chain::pid(&chain.wait_for("nfacctd", started("nfacctd")));
    let mut exporter = Chain::pid(&chain.wait_for("pmacctd", started("pmacctd")));
    chain.wait_until_up();

    for victim in ["core", "Netflow Probe Plugin"] {
        let pid = if victim == "core" { exporter } else { member(exporter, victim).unwrap() };
        kill(pid);
        chain.wait_for("the death", |event| matches!(event, Event::DaemonDied { daemon: "pmacctd", .. }));
        let old = exporter;
        exporter = Chain::pid(&chain.wait_for("pmacctd again", started("pmacctd")));
        assert_eq!(group(old), [], "the old group is gone before a new one comes");
        chain.wait_until_up();
        arrives_whole(&namespace, &mut chain, victim);
    }
    for victim in ["core", "Print Plugin"] {
        let pid = if victim == "core" { collector } else { member(collector, victim).unwrap() };
        kill(pid);
        // A core without its plugin learns of it with the next datagram.
        namespace.send(Traffic { packets: 200, flows: 20, rate: 2000 });
        chain.wait_for("the death", |event| matches!(event, Event::DaemonDied { daemon: "nfacctd", .. }));
        let old = collector;
        collector = Chain::pid(&chain.wait_for("nfacctd again", started("nfacctd")));
        assert_eq!(group(old), [], "the old group is gone before a new one comes");
        chain.wait_for("it to listen", |event| matches!(event, Event::CollectorListens { .. }));
        // Until the next template comes, every 18 datagrams, a new collector understands nothing.
        let rows = chain.stats.chain.rows_printed.get();
        namespace.send(Traffic { packets: 600, flows: 600, rate: 2000 });
        wait_until("rows again", || chain.stats.chain.rows_printed.get() > rows);
        chain.wait_for_silence();
        arrives_whole(&namespace, &mut chain, victim);
    }
    assert_eq!((chain.stats.chain.exporter_restarts.get(), chain.stats.chain.collector_restarts.get()), (2, 2));
    assert_eq!(chain.stop().unwrap(), SourceEnd::Stopped);
    assert_eq!((group(exporter), group(collector)), (vec![], vec![]), "no process is left");
}

/// A writer that dies takes its window along, and nobody notices; what comes after is whole.
#[test]
fn a_killed_writer_costs_its_window_only() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let mut chain = Chain::start(&namespace, CONF);
    let collector = Chain::pid(&chain.wait_for("nfacctd", started("nfacctd")));
    chain.wait_until_up();
    // A window larger than all pipes between keeps its writer waiting.
    chain.rows.stands_still.store(true, Ordering::Relaxed);
    namespace.send(Traffic { packets: 40_000, flows: 40_000, rate: 20_000 });
    wait_until("a writer", || member(collector, "Writer").is_some());
    kill(member(collector, "Writer").unwrap());
    chain.rows.stands_still.store(false, Ordering::Relaxed);
    wait_until("the other writers", || member(collector, "Writer").is_none());
    chain.wait_for_silence();
    chain.rows.bytes.lock().unwrap().clear();
    arrives_whole(&namespace, &mut chain, "a writer");
    assert_eq!(chain.stop().unwrap(), SourceEnd::Stopped);
}

/// Ten writers may wait for a reader that stands still; nothing is lost, because the order of their windows is kept by a lock.
#[test]
fn a_reader_that_stands_still_for_a_while_loses_nothing() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let mut chain = Chain::start(&namespace, CONF);
    chain.wait_until_up();
    chain.rows.stands_still.store(true, Ordering::Relaxed);
    let mut sent = namespace.send(Traffic { packets: 30_000, flows: 30_000, rate: 15_000 });
    chain.wait_for("a window that is full", |event| says(event, "Purging cache - START"));
    sent += namespace.send(Traffic { packets: 30_000, flows: 30_000, rate: 5_000 });
    chain.rows.stands_still.store(false, Ordering::Relaxed);
    chain.wait_for_sums(sent);
    assert_eq!(chain.stats.chain.windows_lost.get(), 0);
    // A stop waits for a reader that is slow, as long as it may.
    chain.rows.stands_still.store(true, Ordering::Relaxed);
    sent += namespace.send(Traffic { packets: 30_000, flows: 30_000, rate: 15_000 });
    wait_until("the last packet", || chain.stats.chain.captured_packets.get() == sent.packets);
    // The count runs ahead of what pmacctd has read. It answers between two reads, so the second answer from now comes after
    // the read that took the last packet.
    chain.rest();
    for _ in 0..2 {
        chain.wait_for("an answer to SIGUSR1", |event| says(event, "received_packets="));
    }
    chain.stop.trip(Reason::Signal(15));
    chain.wait_for(
        "the end of pmacctd",
        |event| matches!(event, Event::Trace { target, text } if target == "pmacctd" && text.starts_with("ended: ")),
    );
    chain.rows.stands_still.store(false, Ordering::Relaxed);
    assert_eq!(chain.end().unwrap(), SourceEnd::Stopped);
    assert_eq!(chain.rows.sums(), sent, "{:?}", chain.stats.chain);
}

/// A reader that stands still for longer than the writers have patience costs whole windows; that is said and counted.
#[test]
fn a_window_that_nfacctd_throws_away_is_counted() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let mut chain = Chain::start(&namespace, &format!("{CONF}print_max_writers: 1\n"));
    chain.wait_until_up();
    chain.rows.stands_still.store(true, Ordering::Relaxed);
    let sent = namespace.send(Traffic { packets: 60_000, flows: 60_000, rate: 15_000 });
    chain.wait_for("the lost window", |event| matches!(event, Event::WindowLost { .. }));
    assert!(chain.stats.chain.windows_lost.get() > 0);
    chain.rows.stands_still.store(false, Ordering::Relaxed);
    assert_eq!(chain.stop().unwrap(), SourceEnd::Stopped);
    let arrived = chain.rows.sums();
    assert!(0 < arrived.packets && arrived.packets < sent.packets, "{arrived:?} of {sent:?}, and no torn row");
}

#[test]
fn an_interface_may_go_down_and_up_and_away() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let mut chain = Chain::start_with(&namespace, CONF, |options| options.limits.failures_allowed = 4);
    chain.wait_until_up();
    namespace.set_wire("down");
    namespace.set_wire("up");
    arrives_whole(&namespace, &mut chain, "the interface");
    namespace.delete_wire();
    chain.wait_for("the death", |event| matches!(event, Event::DaemonDied { daemon: "pmacctd", .. }));
    namespace.add_wire();
    chain.wait_until_up();
    arrives_whole(&namespace, &mut chain, "the interface, for good");
    namespace.delete_wire();
    let error = chain.end().unwrap_err().to_string();
    assert!(error.starts_with("pmacctd: failed 4 times in a row") && error.contains("v1"), "{error}");
}

#[test]
fn a_port_that_another_has_is_not_shared() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let other = namespace.inside(|| std::net::UdpSocket::bind("0.0.0.0:9995").unwrap()).join().unwrap();
    let mut chain = Chain::start(&namespace, CONF);
    let refused = chain.wait_for("the refusal", |event| matches!(event, Event::DaemonStartFailed { .. }));
    assert!(format!("{refused:?}").contains(&format!("pid {}", std::process::id())), "{refused:?}");
    drop(other);
    chain.wait_until_up();
    let other = Command::new("ip")
        .args([
            "netns",
            "exec",
            &namespace.name,
            "nfacctd",
            "-L",
            "127.0.0.1",
            "-l",
            "9995",
            "-P",
            "print",
            "-c",
            "none",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut other = other.unwrap();
    chain.wait_for("the thief", |event| matches!(event, Event::PortShared { .. }));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_configuration_that_cannot_work_is_refused_before_the_start() {
    if !netns::available(NEEDED) {
        return;
    }
    for (line, part) in [
        ("pcap_filter: ip andd port", "pcap_filter: the filter does not compile"),
        ("nfacctd_port: 9996", "nfprobe_receiver: pmacctd would send to 127.0.0.1:9995"),
        ("print_output: table", "print_output: with 'table' the rows are not CSV"),
        ("pre_tag_map: /a[b", "'[' and ']' must pair"),
        ("nfacctd_time_new", "pmacct.conf:12: the line: its key is not followed by a colon"),
    ] {
        let conf = format!("{CONF}{line}\n");
        let error = Plan::new(options(&conf, "/nowhere".into())).unwrap_err();
        assert!(matches!(error, PlanError::Conf { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let mut options = options(CONF, "/nowhere".into());
    options.nfacctd_path = Some("/no/such/nfacctd".into());
    let error = Plan::new(options).unwrap_err().to_string();
    assert_eq!(error, "processor_nfacctd_path: /no/such/nfacctd is not a program that can be run");
}

/// What only the daemons can find out ends the source with the daemon's own words.
#[test]
fn a_daemon_that_refuses_its_configuration_is_quoted() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    for (from, to, part) in [
        ("src_host, ", "no_such_thing, ", "nfacctd: failed 3 times in a row; its last words: Unknown primitive"),
        (
            "pcap_interface: v1",
            "pcap_interface: nosuch0",
            "pmacctd: failed 3 times in a row; its last words: [nosuch0]",
        ),
    ] {
        let mut chain = Chain::start(&namespace, &CONF.replace(from, to));
        let error = chain.end().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // Accepted, but said: with the line that it has in the operator's file.
    let mut chain = Chain::start(&namespace, &format!("{CONF}\n\nnfacctd_no_such_key: 1\nnfacctd_time_new: maybe\n"));
    chain.wait_for("the unknown key", |event| says(event, "[pmacct.conf:14] Unknown key: nfacctd_no_such_key"));
    chain.wait_for("the bad value", |event| says(event, "[pmacct.conf:15] Invalid value"));
    chain.wait_until_up();
    assert_eq!(chain.stop().unwrap(), SourceEnd::Stopped);
}

/// A capture file: the source ends by itself, with every packet in the rows.
#[test]
fn a_capture_file_is_read_to_its_end() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.pcap");
    let sent = write_capture(&file, 5000, 700);
    let conf = CONF.replace("pcap_interface: v1", &format!("pcap_savefile: {}", file.display()));
    let conf = conf.replace("udp=2:expint=1:maxlife=60", "maxlife=0");
    let mut chain = Chain::start(&namespace, &conf);
    assert_eq!(chain.end().unwrap(), SourceEnd::Eof);
    assert_eq!(chain.rows.sums(), sent);
    assert!(
        !chain.rest().iter().any(|event| matches!(event, Event::DaemonDied { .. })),
        "the end of the file is no failure"
    );
}

/// UDP datagrams with a second between the flows' turns.
fn write_capture(path: &Path, packets: u32, flows: u32) -> Sent {
    let mut file = pcap::Capture::dead(pcap::Linktype::ETHERNET).unwrap().savefile(path).unwrap();
    let mut sent = Sent::default();
    for packet in 0..packets {
        let payload = vec![b'x'; 20 + packet as usize % 300];
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let [_, a, b, c] = (packet % flows).to_be_bytes();
        let builder = builder.ipv4([10, 0, 0, 1], [11, a, b, c], 64).udp(4000, 53);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &payload).unwrap();
        let len = bytes.len() as u32;
        let ts = libc_time(1_700_000_000 + i64::from(packet / flows));
        let header = pcap::PacketHeader { ts, caplen: len, len };
        file.write(&pcap::Packet { header: &header, data: &bytes });
        sent += Sent { packets: 1, bytes: u64::from(len) - 14 };
    }
    file.flush().unwrap();
    sent
}

fn libc_time(seconds: i64) -> libc::timeval {
    libc::timeval { tv_sec: seconds, tv_usec: 0 }
}

/// Sends a little and waits until just that is in the rows.
fn arrives_whole(namespace: &Namespace, chain: &mut Chain, after: &str) {
    let mut wanted = chain.rows.sums();
    wanted += namespace.send(Traffic { packets: 1000, flows: 300, rate: 4000 });
    eprintln!("after the death of {after}: {wanted:?}");
    chain.wait_for_sums(wanted);
}
