//! The whole program with the supervised daemons, as its user runs it: packets on a wire in, `.csv.gz` files out.
//!
//! Every packet is counted as it is sent; the files must hold just that, while the disk stands still, while the program is the
//! only process of a container, and after a stop with all flows still in the daemons' tables.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use processor::status::client;
use rustix::process::{Pid, Signal, kill_process};

use crate::spool::faketime;
use crate::support::account::text_on_disk;
use crate::support::island::{Island, Kind};
use crate::support::netns::{self, MARK, Namespace, Sent, Traffic, sums};
use crate::support::packets::{ETHERNET, Kinds, Maker, pcap_file};
use crate::support::run::{Live, Probe, contents, wait_until};
use crate::support::torture::{points, report};

const NEEDED: &[&str] = &["ip", "sysctl", "pmacctd", "nfacctd", "unshare", "nsenter", "setpriv"];

/// Flows stay in the table of `pmacctd` until it is stopped, but for the marks, which go at once.
const CONF: &str = "\
pcap_interface: v1
aggregate: src_host, dst_host, src_port, dst_port, proto, tos, tcpflags
nfprobe_receiver: 127.0.0.1:9995
nfprobe_timeouts: udp=600:icmp=1:expint=1:maxlife=600
nfprobe_maxflows: 262144
nfacctd_port: 9995
nfacctd_stitching: true
timestamps_since_epoch: true
print_output: csv
print_refresh_time: 2
print_num_protos: true
";

fn probe(conf: &str) -> Probe {
    Probe::new().key("source", "pmacct").lines(conf)
}

/// Starts it inside and waits until both daemons are at work.
fn start(probe: &Probe, wrapper: &[String]) -> Live {
    let live = probe.start_under(wrapper);
    wait_until("the export to begin", || live.log().contains("Exporting flows to"));
    live
}

/// Sends a mark and waits until it is on the disk: then `pmacctd` has read all that was sent before it.
fn mark(namespace: &Namespace, data: &Path) -> Sent {
    let text = MARK.to_string();
    let marks = |text_on_disk: &[u8]| memchr::memmem::find_iter(text_on_disk, text.as_bytes()).count();
    let before = marks(&text_on_disk(data));
    let sent = namespace.mark();
    wait_until("the mark", || marks(&text_on_disk(data)) > before);
    sent
}

/// Stops it as `docker stop` does, and holds the files against what was sent.
#[track_caller]
fn ends_with(live: Live, probe: &Probe, sent: Sent) {
    live.signal(Signal::TERM);
    let ended = live.wait().expect(0);
    let found = sums(&contents(probe.data()));
    assert_eq!(found, sent, "{}", ended.log);
    for trouble in ["chain_loss", "daemon_killed", "daemon_died", "window_lost", "rows_torn"] {
        assert!(!ended.has(trouble), "{trouble}\n{}", ended.log);
    }
}

/// The daemons run by hand lose three packets in a hundred of this, most of them when they flush at the stop.
#[test]
fn nine_thousand_packets_a_second_are_in_the_files_to_the_last() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    // Enough flows that what is printed at the stop is more than one block of the pipeline.
    let (seconds, flows) = (points(3, 120) as u64, 20_000);
    // The long form as operators write it: long flows are reported every minute, all in one burst.
    let conf = if seconds > 60 { CONF.replace("maxlife=600", "maxlife=60") } else { CONF.to_owned() };
    let probe = probe(&conf);
    let live = start(&probe, &namespace.wrapper());
    let begun = Instant::now();
    let mut sent = namespace.send(Traffic { packets: 9000 * seconds, flows, rate: 9000 });
    let took = begun.elapsed();
    sent += mark(&namespace, probe.data());
    ends_with(live, &probe, sent);
    let rate = sent.packets as f64 / took.as_secs_f64();
    report(
        "supervised pmacct",
        &format!("{flows} flows at {rate:.0} packets a second for {seconds} s, then SIGTERM"),
        &format!("{} packets and {} bytes sent, as many in the `.csv.gz`", sent.packets, sent.bytes),
    );
}

/// Recorded traffic: TCP, UDP, ICMP, IPv4, IPv6, both directions, tags and tunnels, as `tcpreplay` puts it on the wire.
#[test]
fn replayed_traffic_is_in_the_files_to_the_last() {
    let needed = [NEEDED, &["tcpreplay"]].concat();
    if !netns::available(&needed) {
        return;
    }
    let namespace = Namespace::new();
    let seconds = points(2, 120);
    let probe = probe(&format!("{CONF}snaplen: 512\n"));
    let kinds = Kinds { fragments: false, rejects: false, disorder: false, beyond_pmacct: false };
    let mut frames = Maker::new(7, kinds, &[ETHERNET]).hosts(40).make(12_000);
    // What a wire of this kind carries whole.
    frames.retain(|frame| frame.wire_len as usize == frame.bytes.len() && (60..=1514).contains(&frame.wire_len));
    frames.truncate(9000);
    assert_eq!(frames.len(), 9000);
    let once: u64 = frames.iter().map(|frame| frame.truth.unwrap().bytes).sum();
    let mut sent = Sent { packets: 9000 * seconds as u64, bytes: once * seconds as u64 };
    let capture = probe.path("replayed.pcap");
    fs::write(&capture, pcap_file(&frames)).unwrap();
    let live = start(&probe, &namespace.wrapper());
    namespace.run(&format!("tcpreplay -q -i v0 --pps 9000 --loop {seconds} {}", capture.display()));
    sent += mark(&namespace, probe.data());
    ends_with(live, &probe, sent);
    report(
        "supervised pmacct",
        &format!("tcpreplay of mixed traffic at 9,000 packets a second for {seconds} s, then SIGTERM"),
        &format!("{} packets and {} bytes replayed, as many in the `.csv.gz`", sent.packets, sent.bytes),
    );
}

/// What the daemons would take without a word and then print nothing: refused with the line, or put right and said once.
#[test]
fn what_would_run_and_print_nothing_is_said() {
    if !netns::available(NEEDED) {
        return;
    }
    for (line, part) in [
        ("pcap_filter: ip andd port", "pcap_filter: the filter does not compile"),
        ("print_output: csv # rows", "print_output: with 'csv # rows' the rows are not CSV"),
        ("nfacctd_port: 9996", "nfprobe_receiver: pmacctd would send to 127.0.0.1:9995"),
        ("pcap_savefile: /dev/null", "pcap_savefile: set together with pcap_interface"),
    ] {
        let probe = probe(&format!("{CONF}{line}\n"));
        let ended = probe.run(b"").expect(2);
        assert!(ended.log.contains("pmacct.conf:") && ended.log.contains(part), "{line}: {}", ended.log);
        assert!(!ended.has("daemon_started"), "{line}: {}", ended.log);
    }
    let namespace = Namespace::new();
    let own = "plugins: memory # no printer\nprint_history: 5m # minutes\nlogfile: /dev/null\ndaemonize: true\n";
    let probe = probe(&format!("{CONF}{own}"));
    let live = start(&probe, &namespace.wrapper());
    let mut sent = namespace.send(Traffic { packets: 1000, flows: 100, rate: 4000 });
    sent += mark(&namespace, probe.data());
    let log = live.log();
    for part in
        ["a comment behind a value", "plugins: print instead of memory", "logfile left out", "daemonize left out"]
    {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(live.count("daemon_conf_changed"), 1, "{log}");
    ends_with(live, &probe, sent);
}

/// A daemon that cannot live is tried ten times, after 1, 2, 4, … 60 seconds; each is said, and then it ends with 1. For this
/// program time runs fifty times as fast.
#[test]
fn a_crash_loop_is_seen_and_ends_with_1() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let probe = probe(CONF).key("nfacctd_path", "/bin/false");
    let mut wrapper = namespace.wrapper();
    wrapper.extend(["env".to_owned(), format!("LD_PRELOAD={}", faketime().display()), "FAKETIME=+0 x50".to_owned()]);
    let live = probe.start_under(&wrapper);
    let restarts = "processor_child_restarts_total{child=\"nfacctd\"} ";
    wait_until("restarts in the metrics", || {
        let page = client::get(probe.data(), "/metrics", Duration::from_mins(10)).map(|(_, page)| page);
        let page = page.unwrap_or_default();
        let value = page.lines().find_map(|line| line.strip_prefix(restarts)?.parse::<u32>().ok());
        value.is_some_and(|value| value > 2)
    });
    let ended = live.wait().expect(1);
    let count = |event: &str| ended.log.lines().filter(|line| line.contains(&format!("\"event\":\"{event}\""))).count();
    assert_eq!((count("daemon_started"), count("daemon_died"), count("daemon_restart")), (10, 10, 9), "{}", ended.log);
    assert!(ended.log.contains("nfacctd: failed 10 times in a row"), "{}", ended.log);
}

/// The file system stands still under the data directory, as a disk does that has errors to work on.
#[test]
fn a_disk_that_stands_still_for_a_while_costs_nothing() {
    if !netns::available(NEEDED) {
        return;
    }
    let (namespace, island) = (Namespace::new(), Island::on_loop(Kind::Ext4));
    let seconds = points(6, 60) as u64;
    let probe = probe(&CONF.replace("udp=600", "udp=1")).data_dir(island.path().join("data"));
    let live = start(&probe, &namespace.wrapper());
    let mut sent = namespace.send(Traffic { packets: 3000, flows: 1000, rate: 3000 });
    sent += mark(&namespace, probe.data());
    island.sh(&format!("fsfreeze -f {}", island.mounted().display()));
    let frozen = namespace.inside(move || netns::send(Traffic { packets: 3000 * seconds, flows: 3000, rate: 3000 }));
    let frozen = frozen.join();
    // Before anything can fail: a frozen file system cannot be unmounted.
    island.sh(&format!("fsfreeze -u {}", island.mounted().display()));
    sent += frozen.unwrap();
    sent += mark(&namespace, probe.data());
    ends_with(live, &probe, sent);
    report(
        "supervised pmacct",
        &format!("the disk frozen for {seconds} s at 3,000 packets a second"),
        &format!("{} packets sent, as many in the `.csv.gz`", sent.packets),
    );
}

/// Processes whose parent this is, with their state.
fn children(parent: u32) -> Vec<(i32, String)> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let child = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        (fields[1].parse() == Ok(parent)).then(|| (pid, fields[0].to_owned()))
    };
    pids.filter_map(child).collect()
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// As in its container: process 1 with `NET_RAW` and `NET_ADMIN` and no other capability. What loses its parent comes to it, and
/// is reaped; a stop takes everything along and ends with 0.
#[test]
fn as_process_1_it_reaps_what_others_leave_and_leaves_nothing() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let probe = probe(CONF);
    let mut wrapper = namespace.wrapper();
    let apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "setpriv", "--no-new-privs"];
    let rights = ["--bounding-set=-all,+net_raw,+net_admin", "--inh-caps=-all,+net_raw,+net_admin"];
    wrapper.extend(apart.into_iter().chain(rights).map(str::to_owned));
    let live = start(&probe, &wrapper);
    let [(init, _)] = children(live.pid())[..] else { panic!("{:?}", children(live.pid())) };
    let init = u32::try_from(init).unwrap();
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    assert!(status.contains("CapEff:\t0000000000003000\n"), "{status}");
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");

    // As `docker exec` may leave it: a process whose parent has gone.
    let orphan = format!("sleep 9{init}");
    let left = Command::new("nsenter")
        .args(["--pid", "--target", &init.to_string(), "sh", "-c", &format!("{orphan} & :")])
        .status();
    assert!(left.unwrap().success());
    let is_orphan = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.replace('\0', " ").trim() == orphan)
    };
    let find = || children(init).into_iter().map(|(pid, _)| pid).find(is_orphan);
    wait_until("the orphan at process 1", || find().is_some());
    let pid = find().unwrap();
    kill(u32::try_from(pid).unwrap(), Signal::KILL);
    wait_until("the orphan to be reaped", || !Path::new(&format!("/proc/{pid}")).exists());

    let mut sent = namespace.send(Traffic { packets: 4000, flows: 500, rate: 4000 });
    sent += mark(&namespace, probe.data());
    wait_until("no zombie", || children(init).iter().all(|(_, state)| state != "Z"));
    let health = client::get(probe.data(), "/healthz", Duration::from_secs(10)).unwrap();
    assert_eq!(health.0, 200, "{}", health.1);
    let members: Vec<_> = children(init);
    assert_eq!(members.len(), 2, "the two daemons: {members:?}");
    kill(init, Signal::TERM);
    let ended = live.wait().expect(0);
    assert_eq!(sums(&contents(probe.data())), sent, "{}", ended.log);
    assert!(!Path::new(&format!("/proc/{init}")).exists());
}

#[test]
fn kill_nine_leaves_no_process_and_no_child_knows_our_password() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    let probe = probe(CONF).env("PROCESSOR_FTP_PASS", "t0psecret");
    let live = start(&probe, &namespace.wrapper());
    let cores = children(live.pid());
    assert_eq!(cores.len(), 2, "{cores:?}");
    let mut all: Vec<i32> = cores.iter().map(|(pid, _)| *pid).collect();
    for (core, _) in cores {
        let plugins = children(u32::try_from(core).unwrap());
        assert!(!plugins.is_empty(), "a core has its plugin");
        all.extend(plugins.iter().map(|(pid, _)| *pid));
    }
    for pid in &all {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(memchr::memmem::find(&environment, b"t0psecret").is_none(), "{pid}");
    }
    live.kill();
    let is_gone = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    wait_until("the end of both groups", || all.iter().all(is_gone));
}

/// What gets lost before the rows is a number in the metrics and in the status report.
#[test]
fn what_the_daemons_lose_is_told() {
    if !netns::available(NEEDED) {
        return;
    }
    let namespace = Namespace::new();
    // A receive buffer for a few datagrams.
    let conf = CONF.replace("udp=600", "udp=1") + "nfacctd_pipe_size: 8192\n";
    let probe = probe(&conf);
    let file = probe.path("report");
    let probe = probe
        .key("status_report_enabled", "true")
        .key("status_report_interval_sec", 1)
        .key("status_report_file_path", file.display());
    let live = start(&probe, &namespace.wrapper());
    let metric = |series: &str| {
        let (_, page) = client::get(probe.data(), "/metrics", Duration::from_secs(10)).unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("no {series} in\n{page}"))
    };
    let is_collector =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nfacctd");
    let collector = children(live.pid()).into_iter().map(|(pid, _)| pid).find(is_collector).unwrap();
    let collector = u32::try_from(collector).unwrap();
    kill(collector, Signal::STOP);
    let sent = namespace.send(Traffic { packets: 20_000, flows: 20_000, rate: 20_000 });
    wait_until("drops in the kernel's count", || {
        metric("processor_lost_total{where=\"udp_socket\",unit=\"datagrams\"}") > 0.0
    });
    kill(collector, Signal::CONT);
    wait_until("all packets in the count", || metric("processor_chain_packets_total") >= sent.packets as f64);
    // Gaps show when later datagrams come.
    wait_until("gaps in the sequence", || {
        mark(&namespace, probe.data());
        metric("processor_lost_total{where=\"sequence\",unit=\"gaps\"}") > 0.0
    });
    assert!(metric("processor_chain_datagrams_total") > 0.0 && metric("processor_chain_rows_total") > 0.0);
    let told = || -> serde_json::Value {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let line = text.lines().next_back().and_then(|line| line.split_once(' ')).map_or("null", |(_, json)| json);
        serde_json::from_str(line).unwrap_or_default()
    };
    wait_until("the numbers in the report", || {
        let report = told();
        let number = |key: &str| report[key].as_u64().unwrap_or(0);
        number("datagramDrops") > 0 && number("sequenceGaps") > 0 && number("capturedPackets") >= sent.packets
    });
    let ended = {
        live.signal(Signal::TERM);
        live.wait().expect(0)
    };
    assert!(ended.has("chain_loss"), "{}", ended.log);
}

/// A program that says these lines on its stderr, prints `rows`, and stays until it is asked to end.
fn stand_in(path: &Path, says: &[&str], rows: &str) {
    let says: Vec<String> = says.iter().map(|line| format!("echo '{line}' >&2")).collect();
    let script = format!(
        "#!/bin/sh\ntrap 'exit 0' INT TERM\ntrap '' USR1\n{}\nprintf '{rows}'\nwhile :; do sleep 0.05; done\n",
        says.join("\n")
    );
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The losses that the real daemons cannot be made to have here: stand-ins say them in the daemons' words, and each becomes an
/// event, a number in the metrics, and one in the report.
#[test]
fn every_loss_that_the_daemons_tell_is_a_number() {
    let probe = Probe::new();
    let (collector, exporter, file) = (probe.path("nfacctd"), probe.path("pmacctd"), probe.path("report"));
    stand_in(
        &collector,
        &[
            "INFO ( default/core ): waiting for NetFlow/IPFIX data on 127.0.0.1:29995",
            "WARN ( default_print/print ): Maximum number of writer processes reached (10).",
            "WARN ( default_print/print ): Missing data detected (plugin_buffer_size=0 plugin_pipe_size=1).",
            "NOTICE ( default/core ): stats [127.0.0.1:29995] agent=127.0.0.1:0 time=1 packets=241 bytes=110220 seq_good=240 \
             seq_jmp_fwd=3 seq_jmp_bck=2",
            "NOTICE ( default/core ): stats [127.0.0.1:29995] time=1 discarded_packets=5",
        ],
        "A,B\\n1,2\\n3,to",
    );
    stand_in(
        &exporter,
        &["NOTICE ( default/core ): stats [v1,0] time=1 received_packets=3000 dropped_packets=7"],
        "these are counters, not rows\\n",
    );
    let probe = probe
        .key("source", "pmacct")
        .key("nfacctd_path", collector.display())
        .key("pmacctd_path", exporter.display())
        .lines(&CONF.replace("9995", "29995"))
        .key("status_report_enabled", "true")
        .key("status_report_interval_sec", 1)
        .key("status_report_file_path", file.display());
    let live = probe.start();
    let losses = [
        ("kernel\",unit=\"packets", 7),
        ("collector\",unit=\"datagrams", 5),
        ("sequence\",unit=\"gaps", 3),
        ("collector_window\",unit=\"windows", 1),
        ("udp_socket\",unit=\"datagrams", 0),
        ("torn_row\",unit=\"lines", 0),
    ];
    let told = |page: &str, place: &str, count: u64| {
        let line = format!("processor_lost_total{{where=\"{place}\"}} {count}");
        page.lines().any(|found| found == line)
    };
    wait_until("each loss in the metrics", || {
        let page = client::get(probe.data(), "/metrics", Duration::from_secs(10)).unwrap_or_default().1;
        losses.iter().all(|(place, count)| told(&page, place, *count))
    });
    let wanted = ["\"capturedPackets\":3000", "\"captureDrops\":7", "\"sequenceGaps\":3", "\"lostWindows\":1"];
    wait_until("the report", || {
        let report = fs::read_to_string(&file).unwrap_or_default();
        wanted.iter().all(|number| report.contains(number))
    });
    live.signal(Signal::TERM);
    let ended = live.wait().expect(0);
    for event in ["window_lost", "ring_overflowed", "chain_loss", "row_torn"] {
        assert!(ended.has(event), "{event}\n{}", ended.log);
    }
    assert_eq!(contents(probe.data()), b"A,B\n1,2\n", "whole rows alone");
}
