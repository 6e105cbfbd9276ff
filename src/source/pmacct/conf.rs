//! One `pmacct.conf`, two daemons: which key belongs to whom, and the text of the two files.
//!
//! Operators keep one file, as the original image did, in which keys of `pmacctd`, of `nfacctd` and of `processor` stand
//! side by side. Both daemons accept foreign keys silently, and some of them do harm there: `sampling_rate` samples twice, an
//! unbalanced `[` in a password ends the daemon, `logfile` hides what we must read. So each daemon gets a file of its own,
//! with only its keys. Every kept key stands on the line number it has in the operator's file, so that the daemons' own
//! complaints (`[nfacctd.conf:13] Invalid value`) name the right line; what we add stands after the last line.
//!
//! [`split`] also finds what the daemons would accept and then produce nothing with. It promises to read nothing but its
//! arguments, and it never lets a `processor_*` key through.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::pmacctconf::{self, Line, Text};
use crate::secret::Secret;
use crate::supervise::Daemon;

/// The two files, and what is to be said about them.
#[derive(Clone, PartialEq, Eq)]
pub struct Split {
    /// Text of `pmacctd`'s file.
    pub exporter: String,
    /// Text of `nfacctd`'s file.
    pub collector: String,
    /// What differs from the operator's file, in the order of its lines.
    pub changes: Vec<Change>,
    /// What will not work as written.
    pub findings: Vec<Finding>,
    /// Where the collector will listen.
    pub listen: SocketAddr,
    /// Whether the exporter reads a capture file, so that it ends by itself.
    pub offline: bool,
    /// Time from one printing to the next, seconds.
    pub window_secs: u64,
    /// pmacct's own secrets in the two files, for what the daemons say.
    pub secrets: Vec<Secret>,
}

/// Without the two texts, in which pmacct's own passwords stand.
impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split")
            .field("changes", &self.changes)
            .field("findings", &self.findings)
            .finish_non_exhaustive()
    }
}

impl Split {
    /// The text for one daemon.
    pub fn text(&self, daemon: Daemon) -> &str {
        match daemon {
            Daemon::Collector => &self.collector,
            Daemon::Exporter => &self.exporter,
        }
    }

    /// Whether a finding forbids the start.
    pub fn is_fatal(&self) -> bool {
        self.findings.iter().any(Finding::is_fatal)
    }
}

/// A difference between the operator's file and the daemons' files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The operator's file did not set it.
    Added {
        /// Whose file.
        daemon: Daemon,
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// The operator's value cannot work here.
    Replaced {
        /// Whose file.
        daemon: Daemon,
        /// The key.
        key: &'static str,
        /// The operator's value.
        was: String,
        /// Our value.
        value: String,
        /// Line in the operator's file.
        line: u32,
    },
    /// The key is in neither file.
    LeftOut {
        /// The key, with its name in brackets.
        key: String,
        /// Line in the operator's file.
        line: u32,
        /// Why.
        why: LeftOut,
    },
}

/// Why a key was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// The daemons' messages and rows must come to us.
    OutputIsOurs,
    /// It would send signals or processes ways that the supervision does not know.
    LifeIsOurs,
    /// It belongs to a daemon or a plugin that does not run here.
    NotRunHere,
    /// No plugin has this name.
    UnknownName,
    /// A later line sets the same key.
    SetAgain,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { daemon, key, value } => write!(f, "{}: added {key}: {value}", daemon.program()),
            Self::Replaced { daemon, key, was, value, line } => {
                write!(f, "{}: line {line}: {key}: {value} instead of {was}", daemon.program())
            }
            Self::LeftOut { key, line, why } => write!(f, "line {line}: {key} left out: {why}"),
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutputIsOurs => "the daemons' rows and messages are read by processor",
            Self::LifeIsOurs => "processor starts and ends the daemons itself",
            Self::NotRunHere => "it belongs to a daemon or plugin that does not run here",
            Self::UnknownName => "no plugin has this name",
            Self::SetAgain => "a later line sets it again",
        })
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// It runs, but not as the line seems to mean.
    Warning,
    /// The daemons would end, or run and produce nothing.
    Fatal,
}

/// Something in the operator's file that will not work as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub gravity: Gravity,
    /// Line in the operator's file; `None` when something is missing.
    pub line: Option<u32>,
    /// The key it is about.
    pub key: String,
    /// What is wrong.
    pub what: Fault,
}

impl Finding {
    /// Whether it forbids the start.
    pub fn is_fatal(&self) -> bool {
        self.gravity == Gravity::Fatal
    }
}

/// What can be wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// pmacct has no comments behind a value; it takes the whole rest of the line.
    CommentBehindValue,
    /// A line that is no `key: value`, on which the daemons end.
    Damaged(pmacctconf::Fault),
    /// Brackets that do not pair end the daemon.
    UnbalancedBracket,
    /// A line longer than pmacct's line buffer, in bytes.
    LineTooLong(usize),
    /// A line number beyond the part of the file that pmacct reads.
    LineTooFar,
    /// The packet filter does not compile; the cause is libpcap's.
    BadFilter(String),
    /// The exporter's receiver (first) is not where the collector listens (second).
    SendsElsewhere(String, SocketAddr),
    /// Not an address.
    NotAnAddress(String),
    /// Not a port from 1 to 65535.
    NotAPort(String),
    /// The rows would not be CSV.
    NotCsv(String),
    /// Neither an interface nor a capture file is named.
    NoInput,
    /// An interface and a capture file at once.
    TwoInputs,
    /// Without `aggregate`, rows carry the source address only.
    NoAggregate,
    /// Two print plugins write to one output, each with its own columns.
    TwoPrinters,
    /// Lines of markers between the rows.
    Markers,
}

/// The key and what is wrong; the line is the caller's to show.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        match &self.what {
            Fault::CommentBehindValue => {
                f.write_str("pmacct takes a comment behind a value as part of the value; put it on a line of its own")
            }
            Fault::Damaged(fault) => write!(f, "its key {fault}"),
            Fault::UnbalancedBracket => f.write_str("'[' and ']' must pair, anywhere in a line, or pmacct ends"),
            Fault::LineTooLong(len) => write!(f, "the line has {len} bytes; pmacct reads {MAX_LINE_BYTES} at most"),
            Fault::LineTooFar => write!(f, "pmacct reads only the first {MAX_LINES} lines of a file"),
            Fault::BadFilter(why) => write!(f, "the filter does not compile ({why}); pmacctd would capture everything"),
            Fault::SendsElsewhere(receiver, listen) => write!(
                f,
                "pmacctd would send to {receiver}, but nfacctd listens on {listen}; \
                 make nfprobe_receiver and nfacctd_ip/nfacctd_port agree"
            ),
            Fault::NotAnAddress(value) => write!(f, "'{value}' is not an address"),
            Fault::NotAPort(value) => write!(f, "'{value}' is not a port from 1 to 65535"),
            Fault::NotCsv(value) => write!(f, "with '{value}' the rows are not CSV; write: print_output: csv"),
            Fault::NoInput => f.write_str("not set; name the interface to watch, for example: pcap_interface: eth0"),
            Fault::TwoInputs => f.write_str("set together with pcap_interface; pmacctd takes one of them"),
            Fault::NoAggregate => f.write_str("not set; rows would carry the source address only"),
            Fault::TwoPrinters => {
                f.write_str("more than one print plugin; their rows would be mixed in the same files")
            }
            Fault::Markers => f.write_str("true puts lines that are not CSV between the rows"),
        }
    }
}

/// pmacct's line buffer, bytes, observed with 1.7.7.
pub const MAX_LINE_BYTES: usize = 10_239;
/// Lines that pmacct reads of a file, observed with 1.7.7.
pub const MAX_LINES: u32 = 8_224;

/// Receive buffer asked for the collector's socket, bytes: holds the records of about 20,000 flows, a flush of a busy probe.
/// The kernel grants `net.core.rmem_max` at most.
const COLLECTOR_SOCKET_BYTES: u32 = 4_194_304;
/// Ring between a core and its plugin, bytes. At the default of 4 MB a burst of 22,000 records lost 63 %, unlogged.
const PLUGIN_RING_BYTES: u32 = 104_857_600;
/// pmacct's default window, seconds.
const DEFAULT_WINDOW: u64 = 60;
/// pmacct's default port on both sides.
const DEFAULT_PORT: u16 = 2100;

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    One(Daemon),
    Both,
    Nobody(LeftOut),
}

/// The table, first match wins. A trailing `*` stands for any rest.
///
/// Keys of other print-like plugins (`sql_*`, `kafka_*`, `amqp_*`) share their field with the `print_*` key of the same rest
/// inside pmacct, so those that name an output are left out and the others go where `print_*` goes.
const OWNERS: &[(&str, Owner)] = &[
    ("processor_*", Owner::Nobody(LeftOut::NotRunHere)),
    ("daemonize", Owner::Nobody(LeftOut::LifeIsOurs)),
    ("pidfile", Owner::Nobody(LeftOut::LifeIsOurs)),
    ("propagate_signals", Owner::Nobody(LeftOut::LifeIsOurs)),
    ("logfile", Owner::Nobody(LeftOut::OutputIsOurs)),
    ("syslog", Owner::Nobody(LeftOut::OutputIsOurs)),
    ("print_output_file", Owner::Nobody(LeftOut::OutputIsOurs)),
    ("print_latest_file", Owner::Nobody(LeftOut::OutputIsOurs)),
    ("sql_table", Owner::Nobody(LeftOut::OutputIsOurs)),
    ("kafka_topic", Owner::Nobody(LeftOut::OutputIsOurs)),
    ("amqp_routing_key", Owner::Nobody(LeftOut::OutputIsOurs)),
    ("sfacctd_*", Owner::Nobody(LeftOut::NotRunHere)),
    ("uacctd_*", Owner::Nobody(LeftOut::NotRunHere)),
    ("sfprobe_*", Owner::Nobody(LeftOut::NotRunHere)),
    ("tee_*", Owner::Nobody(LeftOut::NotRunHere)),
    ("imt_*", Owner::Nobody(LeftOut::NotRunHere)),
    ("pcap_*", Owner::One(Daemon::Exporter)),
    ("pmacctd_*", Owner::One(Daemon::Exporter)),
    ("nfprobe_*", Owner::One(Daemon::Exporter)),
    ("sampling_rate", Owner::One(Daemon::Exporter)),
    ("snaplen", Owner::One(Daemon::Exporter)),
    ("promisc", Owner::One(Daemon::Exporter)),
    ("interface", Owner::One(Daemon::Exporter)),
    ("interface_wait", Owner::One(Daemon::Exporter)),
    ("savefile_wait", Owner::One(Daemon::Exporter)),
    ("tunnel_0", Owner::One(Daemon::Exporter)),
    ("classifier*", Owner::One(Daemon::Exporter)),
    ("nfacctd_*", Owner::One(Daemon::Collector)),
    ("print_*", Owner::One(Daemon::Collector)),
    ("sql_*", Owner::One(Daemon::Collector)),
    ("kafka_*", Owner::One(Daemon::Collector)),
    ("amqp_*", Owner::One(Daemon::Collector)),
    ("timestamps_*", Owner::One(Daemon::Collector)),
    ("sampling_map", Owner::One(Daemon::Collector)),
    ("bgp_*", Owner::One(Daemon::Collector)),
    ("bmp_*", Owner::One(Daemon::Collector)),
    ("rpki_*", Owner::One(Daemon::Collector)),
    ("isis_*", Owner::One(Daemon::Collector)),
    ("telemetry_*", Owner::One(Daemon::Collector)),
    ("flow_to_rd_map", Owner::One(Daemon::Collector)),
];

fn owner(key: &str) -> Owner {
    let fits = |pattern: &str| pattern.strip_suffix('*').map_or(key == pattern, |start| key.starts_with(start));
    OWNERS.iter().find(|(pattern, _)| fits(pattern)).map_or(Owner::Both, |(_, owner)| *owner)
}

/// Tries a packet filter: libpcap's complaint, or nothing when it compiles.
pub type TryFilter<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The descriptor that the collector's writers find their lock at: a file in memory that they inherit. A lock in the data
/// directory would stop them with its disk, and after ten of them whole windows are thrown away.
pub const LOCK_FD: i32 = 255;

/// Splits the operator's file. Its damaged lines are in neither of the two.
pub fn split(text: &Text, try_filter: TryFilter<'_>) -> Split {
    let entries: Vec<&Line> = text.foreign().collect();
    let entries = entries.as_slice();
    let plugins = Plugins::read(entries);
    let mut made = Maker {
        entries,
        plugins,
        files: [BTreeMap::new(), BTreeMap::new()],
        changes: Vec::new(),
        findings: Vec::new(),
    };
    made.deal_out();
    made.force();
    let listen = made.join_ends();
    made.lint(try_filter);
    made.findings.extend(text.damaged.iter().map(|damaged| Finding {
        gravity: Gravity::Fatal,
        line: Some(damaged.number),
        key: "the line".to_owned(),
        what: Fault::Damaged(damaged.fault),
    }));
    made.changes.sort_by_key(|change| match change {
        Change::LeftOut { line, .. } | Change::Replaced { line, .. } => *line,
        Change::Added { .. } => u32::MAX,
    });
    made.findings.sort_by_key(|finding| (finding.line.unwrap_or(u32::MAX), finding.key.clone()));
    let [collector, exporter] = made.files;
    Split {
        // pmacct goes on with its default where a value is no number.
        window_secs: text
            .value("print_refresh_time")
            .and_then(|line| line.value.parse().ok())
            .unwrap_or(DEFAULT_WINDOW),
        // A routing key is no secret, and its word may stand in any message.
        secrets: entries
            .iter()
            .filter(|line| line.is_secret() && !line.key.contains("_key"))
            .map(|line| Secret::new(&*line.value))
            .collect(),
        offline: made.entries.iter().any(|entry| entry.key == "pcap_savefile"),
        exporter: written(&exporter),
        collector: written(&collector),
        changes: made.changes,
        findings: made.findings,
        listen,
    }
}

/// Lines by number, so that a kept key keeps its line.
type File = BTreeMap<u32, String>;

fn written(file: &File) -> String {
    let last = file.keys().next_back().copied().unwrap_or(0);
    let mut text = String::new();
    for line in 1..=last {
        // A `String` takes every write.
        let _ = writeln!(text, "{}", file.get(&line).map_or("", String::as_str));
    }
    text
}

/// The operator's `plugins` line, by what it means here.
#[derive(Debug, Default)]
struct Plugins {
    /// `print` or `print[name]`, as written.
    print: Vec<String>,
    /// `nfprobe` or `nfprobe[name]`, as written.
    probe: Vec<String>,
    /// Names, and whose they are; `None` for a plugin that does not run here.
    names: BTreeMap<String, Option<Daemon>>,
}

impl Plugins {
    /// pmacct takes the first `plugins` line.
    fn read(entries: &[&Line]) -> Self {
        let mut plugins = Self::default();
        let value = entries.iter().find(|entry| entry.key == "plugins").map_or("", |entry| entry.value.as_str());
        for word in value.split(',') {
            let word = word.trim();
            let (kind, name) = match word.split_once('[') {
                Some((kind, rest)) => (kind.trim(), rest.strip_suffix(']').map(str::trim)),
                None => (word, None),
            };
            let daemon = match kind.to_ascii_lowercase().as_str() {
                "print" => Some(Daemon::Collector),
                "nfprobe" => Some(Daemon::Exporter),
                _ => None,
            };
            let spelled =
                name.map_or(kind.to_ascii_lowercase(), |name| format!("{}[{name}]", kind.to_ascii_lowercase()));
            match daemon {
                Some(Daemon::Collector) => plugins.print.push(spelled),
                Some(Daemon::Exporter) => plugins.probe.push(spelled),
                None => {}
            }
            if let Some(name) = name {
                plugins.names.insert(name.to_owned(), daemon);
            }
        }
        plugins
    }

    fn of(&self, daemon: Daemon) -> String {
        let (words, default) = match daemon {
            Daemon::Collector => (&self.print, "print"),
            Daemon::Exporter => (&self.probe, "nfprobe"),
        };
        if words.is_empty() { default.to_owned() } else { words.join(", ") }
    }
}

/// A split being worked out.
struct Maker<'a> {
    entries: &'a [&'a Line],
    plugins: Plugins,
    /// In the order of [`Daemon::BOTH`].
    files: [File; 2],
    changes: Vec<Change>,
    findings: Vec<Finding>,
}

impl Maker<'_> {
    /// Gives every key to its owner.
    fn deal_out(&mut self) {
        for entry in self.entries.iter().filter(|entry| entry.key != "plugins") {
            match self.owner_of(entry) {
                Owner::One(daemon) => self.keep(daemon, entry),
                Owner::Both => Daemon::BOTH.into_iter().for_each(|daemon| self.keep(daemon, entry)),
                Owner::Nobody(LeftOut::LifeIsOurs) if entry.key == "daemonize" && entry.value == "false" => {}
                Owner::Nobody(why) => {
                    self.changes.push(Change::LeftOut { key: spelled(entry), line: entry.number, why });
                }
            }
        }
    }

    /// The key decides; a name in brackets then narrows it to the daemon that runs the plugin of that name.
    fn owner_of(&self, entry: &Line) -> Owner {
        let by_key = owner(&entry.key);
        let Some(name) = entry.plugin.as_deref().filter(|_| !matches!(by_key, Owner::Nobody(_))) else { return by_key };
        match (self.plugins.names.get(name), by_key) {
            // Without a plugin line the plugins have pmacct's default names.
            (None, _) if name == "default_print" => Owner::One(Daemon::Collector),
            (None, _) if name == "default_nfprobe" => Owner::One(Daemon::Exporter),
            (None, _) => Owner::Nobody(LeftOut::UnknownName),
            (Some(None), _) => Owner::Nobody(LeftOut::NotRunHere),
            (Some(Some(daemon)), Owner::One(owner)) if owner != *daemon => Owner::Nobody(LeftOut::NotRunHere),
            (Some(Some(daemon)), _) => Owner::One(*daemon),
        }
    }

    fn file(&mut self, daemon: Daemon) -> &mut File {
        match daemon {
            Daemon::Collector => &mut self.files[0],
            Daemon::Exporter => &mut self.files[1],
        }
    }

    fn keep(&mut self, daemon: Daemon, entry: &Line) {
        let line = format!("{}: {}", spelled(entry), entry.value);
        self.file(daemon).insert(entry.number, line);
    }

    /// The last line that sets this key without a name; pmacct lets the last one win.
    fn set(&self, key: &str) -> Option<&Line> {
        self.entries.iter().rfind(|entry| entry.key == key && entry.plugin.is_none()).copied()
    }

    fn is_set_at_all(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Puts a line of ours behind the operator's.
    fn append(&mut self, daemon: Daemon, key: &str, value: &str) {
        let after = self.entries.iter().map(|entry| entry.number).max().unwrap_or(0);
        let file = self.file(daemon);
        let line = file.keys().next_back().copied().unwrap_or(0).max(after) + 1;
        file.insert(line, format!("{key}: {value}"));
    }

    fn add(&mut self, daemon: Daemon, key: &'static str, value: String) {
        self.append(daemon, key, &value);
        self.changes.push(Change::Added { daemon, key, value });
    }

    fn add_unless_set(&mut self, daemon: Daemon, key: &'static str, value: String) {
        if !self.is_set_at_all(key) {
            self.add(daemon, key, value);
        }
    }

    /// What the chain needs to run under supervision and without loss.
    fn force(&mut self) {
        let written =
            self.entries.iter().find(|entry| entry.key == "plugins").map(|entry| (entry.value.clone(), entry.number));
        for daemon in Daemon::BOTH {
            let value = self.plugins.of(daemon);
            match &written {
                Some((was, _)) if *was == value => self.append(daemon, "plugins", &value),
                Some((was, line)) => {
                    self.append(daemon, "plugins", &value);
                    self.changes.push(Change::Replaced {
                        daemon,
                        key: "plugins",
                        was: was.clone(),
                        value,
                        line: *line,
                    });
                }
                None => self.add(daemon, "plugins", value),
            }
            self.append(daemon, "daemonize", "false");
            // pmacct's own ring between core and plugin marks a slot as ready before its count is written: a plugin that reads
            // close behind the core skips records or takes them twice, unlogged. Bursts of 30,000 records came out wrong in 2 of 8
            // runs with the ring and in none of 14 with ZeroMQ (1.7.7, two cores). A build without ZeroMQ ignores the key with a
            // warning and uses the ring.
            self.add_unless_set(daemon, "plugin_pipe_zmq", "true".into());
            self.add_unless_set(daemon, "plugin_pipe_size", PLUGIN_RING_BYTES.to_string());
        }
        let collector = Daemon::Collector;
        let lock = format!("/proc/self/fd/{LOCK_FD}");
        self.add_unless_set(collector, "print_output", "csv".into());
        self.add_unless_set(collector, "print_output_lock_file", lock);
        self.add_unless_set(collector, "nfacctd_pipe_size", COLLECTOR_SOCKET_BYTES.to_string());
        // Without its checks nfacctd counts no gap in the exporter's sequence.
        self.add_unless_set(collector, "nfacctd_disable_checks", "false".into());
        // No nfacctd_templates_file, although it would spare the first records after a restart: 1.7.7 writes beyond its own memory
        // with it and dies of that when the path has an unlucky length (19 bytes, for one), taking all rows along.
    }

    /// Makes the exporter's receiver and the collector's address agree where the operator left one of them open.
    fn join_ends(&mut self) -> SocketAddr {
        let receiver = self.entries.iter().rfind(|entry| entry.key == "nfprobe_receiver").copied().cloned();
        let port = self.set("nfacctd_port").cloned();
        let ip = self.set("nfacctd_ip").cloned();
        let receiver_port = receiver.as_ref().and_then(|entry| self.port(entry, port_of(&entry.value)));
        let listen_port = port.as_ref().and_then(|entry| self.port(entry, &entry.value));
        let listen_ip = ip.as_ref().and_then(|entry| self.address(entry));
        let to_here = receiver.as_ref().is_none_or(|entry| is_loopback(host_of(&entry.value)));

        let listen = SocketAddr::new(
            listen_ip.unwrap_or(if to_here { loopback_like(receiver.as_ref()) } else { Ipv4Addr::UNSPECIFIED.into() }),
            listen_port.or(receiver_port).unwrap_or(DEFAULT_PORT),
        );
        if ip.is_none() && to_here {
            self.add(Daemon::Collector, "nfacctd_ip", listen.ip().to_string());
        }
        if port.is_none() && listen.port() != DEFAULT_PORT {
            self.add(Daemon::Collector, "nfacctd_port", listen.port().to_string());
        }
        match receiver {
            None if listen.port() != DEFAULT_PORT || listen_ip.is_some_and(|ip| !ip.is_unspecified()) => {
                let ip = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
                self.add(Daemon::Exporter, "nfprobe_receiver", SocketAddr::new(ip, listen.port()).to_string());
            }
            Some(entry) if !reaches(&entry.value, receiver_port, listen) => {
                self.find(Gravity::Fatal, &entry, Fault::SendsElsewhere(entry.value.clone(), listen));
            }
            _ => {}
        }
        listen
    }

    fn port(&mut self, entry: &Line, text: &str) -> Option<u16> {
        let port = text.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            self.find(Gravity::Fatal, entry, Fault::NotAPort(text.to_owned()));
        }
        port
    }

    fn address(&mut self, entry: &Line) -> Option<IpAddr> {
        let ip = entry.value.parse().ok();
        if ip.is_none() {
            self.find(Gravity::Fatal, entry, Fault::NotAnAddress(entry.value.clone()));
        }
        ip
    }

    fn find(&mut self, gravity: Gravity, entry: &Line, what: Fault) {
        self.findings.push(Finding { gravity, line: Some(entry.number), key: spelled(entry), what });
    }

    fn miss(&mut self, gravity: Gravity, key: &str, what: Fault) {
        self.findings.push(Finding { gravity, line: None, key: key.to_owned(), what });
    }

    /// What runs but produces nothing, and what ends the daemons.
    fn lint(&mut self, try_filter: TryFilter<'_>) {
        for entry in self.entries {
            if !matches!(self.owner_of(entry), Owner::Nobody(_)) {
                self.lint_line(entry);
            }
        }
        if let Some(entry) = self.set("pcap_filter").cloned()
            && let Some(why) = try_filter(&entry.value)
        {
            self.find(Gravity::Fatal, &entry, Fault::BadFilter(why));
        }
        let outputs: Vec<_> = self.entries.iter().filter(|entry| entry.key == "print_output").copied().collect();
        for entry in outputs.iter().filter(|entry| !entry.value.eq_ignore_ascii_case("csv")) {
            // The known other formats are the operator's wish; anything else makes pmacct print tables for people.
            let known =
                ["formatted", "json", "avro", "avro_bin", "avro_json", "event_formatted", "event_csv", "custom"];
            let gravity = if known.contains(&entry.value.as_str()) { Gravity::Warning } else { Gravity::Fatal };
            self.find(gravity, entry, Fault::NotCsv(entry.value.clone()));
        }
        if let Some(entry) = self.set("print_markers").filter(|entry| entry.value == "true").cloned() {
            self.find(Gravity::Warning, &entry, Fault::Markers);
        }
        self.lint_inputs();
        if !self.is_set_at_all("aggregate") {
            self.miss(Gravity::Warning, "aggregate", Fault::NoAggregate);
        }
        if self.plugins.print.len() > 1 {
            self.miss(Gravity::Warning, "plugins", Fault::TwoPrinters);
        }
    }

    fn lint_inputs(&mut self) {
        let live =
            ["pcap_interface", "pcap_interfaces_map", "interface"].into_iter().any(|key| self.set(key).is_some());
        match (live, self.set("pcap_savefile").cloned()) {
            (false, None) => self.miss(Gravity::Fatal, "pcap_interface", Fault::NoInput),
            (true, Some(savefile)) => self.find(Gravity::Fatal, &savefile, Fault::TwoInputs),
            _ => {}
        }
    }

    fn lint_line(&mut self, entry: &Line) {
        let length = spelled(entry).len() + 2 + entry.value.len();
        if length > MAX_LINE_BYTES {
            self.find(Gravity::Fatal, entry, Fault::LineTooLong(length));
        }
        if entry.number > MAX_LINES {
            self.find(Gravity::Fatal, entry, Fault::LineTooFar);
        }
        if !brackets_pair(&entry.value) {
            self.find(Gravity::Fatal, entry, Fault::UnbalancedBracket);
        }
        if has_comment(&entry.value) {
            self.find(Gravity::Warning, entry, Fault::CommentBehindValue);
        }
    }
}

fn spelled(entry: &Line) -> String {
    entry.plugin.as_ref().map_or_else(|| entry.key.clone(), |name| format!("{}[{name}]", entry.key))
}

/// As pmacct checks it: a running count that is never negative and ends at zero.
fn brackets_pair(text: &str) -> bool {
    let mut open = 0_i32;
    for byte in text.bytes() {
        open += i32::from(byte == b'[') - i32::from(byte == b']');
        if open < 0 {
            return false;
        }
    }
    open == 0
}

/// A `#` behind white space. `!` is not looked for: packet filters use it.
fn has_comment(value: &str) -> bool {
    value.char_indices().any(|(at, c)| c == '#' && value[..at].ends_with(char::is_whitespace))
}

/// `address:port`, `[address]:port` or `name:port`.
fn port_of(receiver: &str) -> &str {
    receiver.rsplit_once(':').map_or("", |(_, port)| port)
}

fn host_of(receiver: &str) -> &str {
    let host = receiver.rsplit_once(':').map_or(receiver, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The loopback address that the receiver names, 127.0.0.1 when it names none.
fn loopback_like(receiver: Option<&Line>) -> IpAddr {
    receiver.and_then(|entry| host_of(&entry.value).parse().ok()).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// Whether records for `receiver` arrive at `listen`. A receiver that is a host name is not looked up and gets the benefit
/// of the doubt.
fn reaches(receiver: &str, port: Option<u16>, listen: SocketAddr) -> bool {
    let same_port = port.is_none_or(|port| port == listen.port());
    let same_host =
        listen.ip().is_unspecified() || host_of(receiver).parse::<IpAddr>().map_or(true, |host| host == listen.ip());
    same_port && same_host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_text(text: &str) -> Split {
        split(&Text::read(text.as_bytes()), &|_| None)
    }

    fn faults(text: &str) -> Vec<(Option<u32>, Gravity, Fault)> {
        split_text(text).findings.into_iter().map(|finding| (finding.line, finding.gravity, finding.what)).collect()
    }

    const USUAL: &str = "\
pcap_interface: eth0
# a comment
aggregate: src_host, dst_host
plugins: print
sampling_rate: 10
print_output: csv
print_refresh_time: 60
nfprobe_receiver: 127.0.0.1:9995
nfprobe_timeouts: tcp=30:maxlife=60
nfacctd_port: 9995
nfacctd_stitching: true
logfile: /var/log/pmacct.log
";

    #[test]
    fn each_daemon_gets_its_keys_on_their_own_lines() {
        let split = split_text(USUAL);
        let exporter = "\
pcap_interface: eth0

aggregate: src_host, dst_host

sampling_rate: 10


nfprobe_receiver: 127.0.0.1:9995
nfprobe_timeouts: tcp=30:maxlife=60



plugins: nfprobe
daemonize: false
plugin_pipe_zmq: true
plugin_pipe_size: 104857600
";
        let collector = "

aggregate: src_host, dst_host


print_output: csv
print_refresh_time: 60


nfacctd_port: 9995
nfacctd_stitching: true

plugins: print
daemonize: false
plugin_pipe_zmq: true
plugin_pipe_size: 104857600
print_output_lock_file: /proc/self/fd/255
nfacctd_pipe_size: 4194304
nfacctd_disable_checks: false
nfacctd_ip: 127.0.0.1
";
        assert_eq!(split.exporter, exporter);
        assert_eq!(split.collector, collector);
        assert_eq!(split.listen, "127.0.0.1:9995".parse().unwrap());
        assert_eq!(split.findings, []);
        assert!(!split.offline);
    }

    #[test]
    fn every_change_is_said() {
        let said: Vec<String> = split_text(USUAL).changes.iter().map(ToString::to_string).collect();
        let expected = [
            "pmacctd: line 4: plugins: nfprobe instead of print",
            "line 12: logfile left out: the daemons' rows and messages are read by processor",
            "nfacctd: added plugin_pipe_zmq: true",
            "nfacctd: added plugin_pipe_size: 104857600",
            "pmacctd: added plugin_pipe_zmq: true",
            "pmacctd: added plugin_pipe_size: 104857600",
            "nfacctd: added print_output_lock_file: /proc/self/fd/255",
            "nfacctd: added nfacctd_pipe_size: 4194304",
            "nfacctd: added nfacctd_disable_checks: false",
            "nfacctd: added nfacctd_ip: 127.0.0.1",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_the_operator_set_stays() {
        let own = "pcap_interface: e\naggregate: none\nplugin_pipe_size: 1000\nnfacctd_pipe_size: 5\n\
                   print_output_lock_file: /tmp/l\nnfacctd_templates_file: /t\nprint_output: csv\nnfacctd_ip: 0.0.0.0\n";
        let split = split_text(own);
        assert!(split.exporter.contains("plugin_pipe_size: 1000\n") && !split.exporter.contains("104857600"));
        for line in ["nfacctd_pipe_size: 5\n", "print_output_lock_file: /tmp/l\n", "nfacctd_ip: 0.0.0.0\n"] {
            assert!(split.collector.contains(line), "{line}");
        }
        assert_eq!(split.listen, "0.0.0.0:2100".parse().unwrap());
        assert_eq!(split.findings, []);
    }

    #[test]
    fn no_processor_key_passes_whatever_comes_in() {
        let split = split_text("pcap_interface: e\nprocessor_ftp_pass: se[cret\nprocessor_ftp_pass[x]: secret\n");
        assert!(!split.exporter.contains("cret") && !split.collector.contains("cret"));
        assert!(!split.is_fatal(), "{:?}", split.findings);
        assert!(split.changes.iter().all(|change| !change.to_string().contains("cret")));
    }

    #[test]
    fn named_keys_follow_their_plugin() {
        let split = split_text(
            "pcap_interface: e\nplugins: nfprobe[out], print[csv], kafka[k]\nnfprobe_receiver[out]: 127.0.0.1:5\n\
             aggregate[csv]: src_host\naggregate[out]: tag\naggregate[k]: proto\naggregate[nobody]: tos\n\
             print_refresh_time[csv]: 5\n",
        );
        assert!(split.exporter.contains("plugins: nfprobe[out]\n"));
        assert!(split.exporter.contains("aggregate[out]: tag\n"));
        assert!(!split.exporter.contains("csv"), "{}", split.exporter);
        assert!(split.collector.contains("plugins: print[csv]\n"));
        assert!(split.collector.contains("aggregate[csv]: src_host\n"));
        assert!(split.collector.contains("print_refresh_time[csv]: 5\n"));
        assert!(!split.collector.contains("out]") && !split.collector.contains("[k]"), "{}", split.collector);
        let left_out =
            |why| split.changes.iter().any(|change| matches!(change, Change::LeftOut { why: w, .. } if *w == why));
        assert!(left_out(LeftOut::NotRunHere) && left_out(LeftOut::UnknownName));
        assert_eq!(split.listen.port(), 5, "the collector follows the receiver: {}", split.collector);
    }

    #[test]
    fn an_open_end_is_joined_to_the_other() {
        let collector_only = split_text("pcap_interface: e\naggregate: none\nnfacctd_ip: 10.0.0.1\nnfacctd_port: 7\n");
        assert!(collector_only.exporter.contains("nfprobe_receiver: 10.0.0.1:7\n"));
        let v6 = split_text("pcap_interface: e\naggregate: none\nnfprobe_receiver: [::1]:7\n");
        assert!(v6.collector.contains("nfacctd_ip: ::1\nnfacctd_port: 7\n"), "{}", v6.collector);
        let far = split_text("pcap_interface: e\naggregate: none\nnfprobe_receiver: 192.0.2.7:7\n");
        assert!(!far.collector.contains("nfacctd_ip"), "an address of this host needs every interface");
        assert!(far.collector.contains("nfacctd_port: 7\n"));
        assert_eq!(far.findings, []);
        let neither = split_text("pcap_interface: e\naggregate: none\n");
        assert!(neither.collector.contains("nfacctd_ip: 127.0.0.1\n") && !neither.collector.contains("nfacctd_port"));
    }

    #[test]
    fn what_runs_and_produces_nothing_is_found() {
        let with = |line: &str| faults(&format!("pcap_interface: e\naggregate: none\n{line}\n"));
        let fatal = |what| vec![(Some(3), Gravity::Fatal, what)];
        let warning = |what| vec![(Some(3), Gravity::Warning, what)];
        let elsewhere = Fault::SendsElsewhere("127.0.0.1:7".into(), "127.0.0.1:9".parse().unwrap());
        let mut found = with("nfprobe_receiver: 127.0.0.1:7\nnfacctd_port: 9");
        assert_eq!(found.pop(), Some((Some(3), Gravity::Fatal, elsewhere)));
        assert_eq!(
            with("print_output: csv # x"),
            [
                (Some(3), Gravity::Warning, Fault::CommentBehindValue),
                (Some(3), Gravity::Fatal, Fault::NotCsv("csv # x".into())),
            ]
        );
        assert_eq!(with("print_output: json"), warning(Fault::NotCsv("json".into())));
        assert_eq!(with("print_markers: true"), warning(Fault::Markers));
        assert_eq!(with("print_history: 5m # minutes"), warning(Fault::CommentBehindValue));
        assert_eq!(with("nfacctd_port: 0"), fatal(Fault::NotAPort("0".into())));
        assert_eq!(with("nfacctd_ip: here"), fatal(Fault::NotAnAddress("here".into())));
        assert_eq!(with("pcap_savefile: /a"), fatal(Fault::TwoInputs));
        assert_eq!(with("pre_tag_map: a]b["), fatal(Fault::UnbalancedBracket));
        assert_eq!(with("pcap_filter: tcp and !port 22"), []);
        let long = "x".repeat(MAX_LINE_BYTES);
        assert!(matches!(with(&format!("maps: {long}"))[..], [(Some(3), Gravity::Fatal, Fault::LineTooLong(_))]));
        let far = format!("pcap_interface: e\naggregate: none\n{}debug: true\n", "\n".repeat(MAX_LINES as usize));
        assert!(matches!(faults(&far)[..], [(Some(8227), Gravity::Fatal, Fault::LineTooFar)]));
    }

    #[test]
    fn what_is_missing_is_found() {
        assert_eq!(faults(""), [(None, Gravity::Warning, Fault::NoAggregate), (None, Gravity::Fatal, Fault::NoInput),]);
        assert_eq!(faults("pcap_savefile: /a\naggregate: none"), []);
        assert!(split_text("pcap_savefile: /a").offline);
    }

    #[test]
    fn a_filter_is_tried() {
        let text = Text::read(b"pcap_interface: e\naggregate: none\npcap_filter: ip andd\n");
        let made = split(&text, &|filter| (filter == "ip andd").then(|| "syntax error".to_owned()));
        assert_eq!(made.findings[0].what, Fault::BadFilter("syntax error".into()));
        assert!(made.is_fatal());
    }

    proptest::proptest! {
        #[test]
        fn a_kept_key_stands_on_its_own_line(keys in proptest::collection::vec(("[a-z_]{1,12}", "[a-z0-9\\[\\]:#, ]{0,12}"), 0..20)) {
            let file: String = keys.iter().map(|(key, value)| format!("\n{key}: {value}\n")).collect::<Vec<_>>().concat();
            let text = Text::read(file.as_bytes());
            let entries: Vec<_> = text.foreign().collect();
            let split = split(&text, &|_| None);
            for (text, line) in Daemon::BOTH.iter().flat_map(|daemon| split.text(*daemon).lines().zip(1u32..)) {
                match entries.iter().find(|entry| entry.number == line) {
                    Some(entry) => {
                        let kept = format!("{}: {}", entry.key, entry.value);
                        proptest::prop_assert!(text.is_empty() || text == kept);
                    }
                    None => proptest::prop_assert!(text.is_empty() || entries.iter().all(|entry| entry.number < line)),
                }
            }
        }
    }
}
