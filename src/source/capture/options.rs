//! The pmacct keys that embedded capture reads, checked.
//!
//! Names, syntax and defaults are pmacct's. Where pmacct ignores a bad value or goes on without it (a filter that does not
//! compile, a time-out that is no number), this is an error: a probe that counts something else than asked is worse than one that
//! does not start. All errors come at once, each with its line and what would be right.

use std::path::PathBuf;

use crate::clock::Zone;
use crate::flow::aggregate::{Aggregate, Primitive};
use crate::flow::print::TimeFormat;
use crate::flow::table::{MAX_FLOWS, Timeouts};
use crate::pmacctconf::{self, Line, Text};
use crate::secret;

/// Whether pmacct counts something else by this key, so that rows without it differ from pmacct's.
pub fn changes_counts(line: &Line) -> bool {
    const CHANGE: [&str; 8] = [
        "aggregate_filter",
        "aggregate_primitives",
        "classifiers",
        "pcap_ifindex",
        "pcap_interfaces_map",
        "pre_tag_filter",
        "pre_tag_map",
        "sampling_map",
    ];
    CHANGE.contains(&line.key.as_str())
}

/// A value that is not right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {}{expected}", fault(.value))]
pub struct KeyError {
    /// Line of the file, from 1; 0 when a key is missing.
    pub line: u32,
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

fn fault(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("{:?} is not right; ", secret::without_login(value)) }
}

/// Where packets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// `pcap_interface`: one or more interfaces, or `any`.
    Interfaces(Vec<String>),
    /// `pcap_savefile`: a capture file, a directory of them, or standard input (`-`).
    Savefile(PathBuf),
}

/// Checked settings of embedded capture.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "one for each of pmacct's keys that is true or false")]
pub struct Options {
    /// Where packets come from.
    pub input: Input,
    /// `pcap_filter`, with `pcap_protocol` in front.
    pub filter: Option<String>,
    /// Bytes of a frame that are captured (`snaplen`, 128).
    pub snaplen: u32,
    /// `promisc` (true).
    pub promiscuous: bool,
    /// `pmacctd_pipe_size` (64 MiB): bytes of kernel memory for packets that wait, each thread. The default holds 0.1 to 0.5 s
    /// of a million packets a second.
    pub buffer_bytes: u32,
    /// Threads that share an interface's packets; `processor_capture_threads`, so not from pmacct's keys.
    pub threads: u32,
    /// `aggregate` (src_host).
    pub aggregate: Aggregate,
    /// `nfprobe_timeouts`.
    pub timeouts: Timeouts,
    /// `nfprobe_maxflows`; without it the memory that is available decides.
    pub max_flows: Option<usize>,
    /// `print_refresh_time` (60), seconds.
    pub window_secs: u32,
    /// `print_output_separator` (`,`).
    pub separator: u8,
    /// `print_num_protos` (false).
    pub numeric_protocols: bool,
    /// `timestamps_since_epoch`, `timestamps_rfc3339`.
    pub times: TimeFormat,
    /// `timestamps_utc`, `timezone`.
    pub zone: Zone,
    /// `nfacctd_stitching` (false): the columns TIMESTAMP_MIN and TIMESTAMP_MAX.
    pub stitching: bool,
    /// `sampling_rate`: one of so many packets is counted.
    pub sampling_rate: u32,
    /// `nfacctd_renormalize` (false).
    pub renormalize: bool,
    /// `pcap_direction`: only packets that come in, or go out.
    pub direction: Option<pcap::Direction>,
    /// `pcap_interface_wait` (false): interfaces that are not there at the start are waited for.
    pub wait: bool,
    /// `networks_file`, for the primitives src_net, dst_net, src_mask and dst_mask.
    pub networks_file: Option<PathBuf>,
}

/// Default of [`Options::buffer_bytes`].
pub const BUFFER_BYTES: u32 = 64 << 20;

/// Two of the blocks that the ring is made of.
const BUFFER_LEAST: u64 = 512 << 10;

/// libpcap counts the bytes in a signed word.
const BUFFER_MOST: u64 = i32::MAX as u64;

impl Options {
    /// The defaults, for an input.
    pub fn new(input: Input) -> Self {
        Self {
            input,
            filter: None,
            snaplen: 128,
            promiscuous: true,
            buffer_bytes: BUFFER_BYTES,
            threads: 1,
            aggregate: Aggregate::default().with(Primitive::SrcHost),
            timeouts: Timeouts::default(),
            max_flows: None,
            window_secs: 60,
            separator: b',',
            numeric_protocols: false,
            times: TimeFormat::Plain,
            zone: Zone::System,
            stitching: false,
            sampling_rate: 1,
            renormalize: false,
            direction: None,
            wait: false,
            networks_file: None,
        }
    }

    /// Reads the keys in the order of the file; the last of a key counts, whether it is for all plugins or for one. Returns the keys that capture does not use beside the settings.
    ///
    /// # Errors
    ///
    /// Every key that is wrong, all at once.
    pub fn read(text: &Text) -> Result<(Self, Vec<Line>), Vec<KeyError>> {
        let mut reader = Reader::default();
        for line in text.foreign() {
            if text.is_for_a_plugin(line) { reader.key(line) } else { reader.unused.push(line.clone()) }
        }
        reader.finish(text)
    }
}

/// What the keys have said so far.
#[derive(Default)]
struct Reader {
    settings: Option<Options>,
    interfaces: Option<(u32, String)>,
    savefile: Option<(u32, String)>,
    filter: Option<Line>,
    protocol: Option<u16>,
    epoch: bool,
    rfc3339: bool,
    utc: bool,
    unused: Vec<Line>,
    errors: Vec<KeyError>,
}

impl Reader {
    fn settings(&mut self) -> &mut Options {
        self.settings.get_or_insert_with(|| Options::new(Input::Interfaces(Vec::new())))
    }

    fn wrong<T>(&mut self, key: &Line, expected: impl Into<String>) -> Option<T> {
        self.errors.push(KeyError {
            line: key.number,
            key: key.key.clone(),
            value: key.value.clone(),
            expected: expected.into(),
        });
        None
    }

    fn number(&mut self, key: &Line, least: u64, most: u64) -> Option<u64> {
        match key.value.parse() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => self.wrong(key, format!("it takes a number from {least} to {most}")),
        }
    }

    fn key(&mut self, key: &Line) {
        match key.key.as_str() {
            "pcap_interface" | "interface" => self.interfaces = Some((key.number, key.value.clone())),
            "pcap_savefile" => self.savefile = Some((key.number, key.value.clone())),
            "pcap_filter" => self.filter = Some(key.clone()),
            "pcap_direction" => match key.value.as_str() {
                "in" => self.settings().direction = Some(pcap::Direction::In),
                "out" => self.settings().direction = Some(pcap::Direction::Out),
                _ => {
                    self.wrong::<()>(key, "it takes in or out");
                }
            },
            "pcap_protocol" => {
                let number = match key.value.strip_prefix("0x") {
                    Some(hex) => u16::from_str_radix(hex, 16).ok(),
                    None => key.value.parse().ok(),
                };
                self.protocol = number.or_else(|| self.wrong(key, "it takes an EtherType such as 0x0800"));
            }
            "aggregate" => match Aggregate::parse(&key.value) {
                Ok(aggregate) => self.settings().aggregate = aggregate,
                Err(name) => {
                    let known: Vec<_> = Primitive::ALL.iter().map(|(_, name, _)| *name).collect();
                    self.wrong::<()>(
                        key,
                        format!("{name:?} is not known to capture; it takes none or any of {}", known.join(", ")),
                    );
                }
            },
            "nfprobe_timeouts" => match timeouts(&key.value) {
                Ok(timeouts) => self.settings().timeouts = timeouts,
                Err(part) => {
                    let names = "tcp, tcp.rst, tcp.fin, udp, icmp, general, maxlife and expint";
                    let expected = format!("{part:?} is not one of {names} with a time, as in tcp=120:maxlife=1h");
                    self.wrong::<()>(key, expected);
                }
            },
            "nfprobe_maxflows" => {
                if let Some(flows) = self.number(key, 1, MAX_FLOWS as u64) {
                    self.settings().max_flows = Some(flows as usize);
                }
            }
            "print_refresh_time" => {
                if let Some(seconds) = self.number(key, 1, 86_400) {
                    self.settings().window_secs = seconds as u32;
                }
            }
            "print_output" if !key.value.eq_ignore_ascii_case("csv") => {
                self.wrong::<()>(key, "capture prints csv only");
            }
            "print_output" | "plugins" | "daemonize" => {}
            "print_output_separator" => match pmacctconf::separator(&key.value) {
                Some(separator) => self.settings().separator = separator,
                None => {
                    self.wrong::<()>(key, "it takes one character that no value contains, \\t or \\s");
                }
            },
            "snaplen" => {
                if let Some(bytes) = self.number(key, 64, 262_144) {
                    self.settings().snaplen = bytes as u32;
                }
            }
            "pmacctd_pipe_size" => {
                if let Some(bytes) = self.number(key, BUFFER_LEAST, BUFFER_MOST) {
                    self.settings().buffer_bytes = bytes as u32;
                }
            }
            "sampling_rate" => {
                if let Some(rate) = self.number(key, 1, 1 << 24) {
                    self.settings().sampling_rate = rate as u32;
                }
            }
            "networks_file" => self.settings().networks_file = Some(PathBuf::from(&key.value)),
            "timezone" => match Zone::parse(&key.value) {
                Some(zone) => self.settings().zone = zone,
                None => {
                    self.wrong::<()>(key, "it takes a name such as Asia/Shanghai, or UTC+8");
                }
            },
            _ => self.switch(key),
        }
    }

    /// Keys that take true or false.
    fn switch(&mut self, key: &Line) {
        let place = match key.key.as_str() {
            "promisc" => &mut self.settings().promiscuous,
            "print_num_protos" | "num_protos" => &mut self.settings().numeric_protocols,
            "nfacctd_stitching" => &mut self.settings().stitching,
            "nfacctd_renormalize" => &mut self.settings().renormalize,
            "pcap_interface_wait" => &mut self.settings().wait,
            "timestamps_since_epoch" => &mut self.epoch,
            "timestamps_rfc3339" => &mut self.rfc3339,
            "timestamps_utc" => &mut self.utc,
            _ => return self.unused.push(key.clone()),
        };
        match pmacctconf::boolean(&key.value) {
            Some(is) => *place = is,
            None => {
                self.wrong::<()>(key, "it takes true or false");
            }
        }
    }

    fn finish(mut self, text: &Text) -> Result<(Options, Vec<Line>), Vec<KeyError>> {
        self.errors.extend(text.damaged.iter().map(|damaged| KeyError {
            line: damaged.number,
            key: "the line".to_owned(),
            value: String::new(),
            expected: format!("its key {}", damaged.fault),
        }));
        let input = self.input();
        let filter = self.filter_text();
        let mut options = self.settings().clone();
        options.times = match (self.epoch, self.rfc3339) {
            (true, _) => TimeFormat::Epoch,
            (false, true) => TimeFormat::Rfc3339,
            (false, false) => TimeFormat::Plain,
        };
        if self.utc
            && let Some(utc) = Zone::parse("UTC")
        {
            options.zone = utc;
        }
        options.filter = filter;
        match input {
            Some(input) if self.errors.is_empty() => Ok((Options { input, ..options }, self.unused)),
            _ => {
                self.errors.sort_by_key(|error| error.line);
                Err(self.errors)
            }
        }
    }

    fn input(&mut self) -> Option<Input> {
        let missing = |key: &str, line, value: &str, expected: &str| KeyError {
            line,
            key: key.to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        match (self.interfaces.take(), self.savefile.take()) {
            (None, None) => {
                let expected = "it names the interface to capture on (or pcap_savefile the file to read)";
                self.errors.push(missing("pcap_interface", 0, "", expected));
                None
            }
            (Some(_), Some((line, value))) => {
                let expected = "it cannot stand beside pcap_interface: remove one of them";
                self.errors.push(missing("pcap_savefile", line, &value, expected));
                None
            }
            (None, Some((line, value))) if value.is_empty() => {
                self.errors.push(missing("pcap_savefile", line, &value, "it names a capture file, a directory, or -"));
                None
            }
            (None, Some((_, value))) => Some(Input::Savefile(PathBuf::from(value))),
            (Some((line, value)), None) => {
                let mut names: Vec<String> = Vec::new();
                for name in value.split(',').map(str::trim) {
                    if !name.is_empty() && !names.iter().any(|have| have == name) {
                        names.push(name.to_owned());
                    }
                }
                // `any` sees the packets of every other interface again.
                if names.is_empty() || (names.len() > 1 && names.iter().any(|name| name == "any")) {
                    let expected = "it names interfaces, separated by commas, or any alone";
                    self.errors.push(missing("pcap_interface", line, &value, expected));
                    return None;
                }
                Some(Input::Interfaces(names))
            }
        }
    }

    /// The filter, once libpcap has compiled it for Ethernet.
    fn filter_text(&mut self) -> Option<String> {
        let protocol = self.protocol.map(|number| format!("ether proto {number:#06x}"));
        let key = self.filter.take().filter(|key| !key.value.is_empty());
        if let Some(key) = &key
            && let Err(why) = compiles(&key.value)
        {
            return self.wrong(key, format!("libpcap says: {why}; see pcap-filter(7)"));
        }
        match (protocol, key.map(|key| key.value)) {
            (Some(protocol), Some(filter)) => Some(format!("{protocol} and ({filter})")),
            (protocol, filter) => protocol.or(filter),
        }
    }
}

fn compiles(filter: &str) -> Result<(), pcap::Error> {
    pcap::Capture::dead(pcap::Linktype::ETHERNET)?.compile(filter, true).map(drop)
}

/// `tcp=120:udp=30s:maxlife=1h30m`. The error is the part that is not right.
fn timeouts(text: &str) -> Result<Timeouts, String> {
    let mut timeouts = Timeouts::default();
    for part in text.split(':').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || part.to_owned();
        let (name, time) = part.split_once('=').ok_or_else(wrong)?;
        let seconds = seconds(time.trim()).ok_or_else(wrong)?;
        let place = match name.trim() {
            "tcp" => &mut timeouts.tcp,
            "tcp.rst" => &mut timeouts.tcp_rst,
            "tcp.fin" => &mut timeouts.tcp_fin,
            "udp" => &mut timeouts.udp,
            "icmp" => &mut timeouts.icmp,
            "general" => &mut timeouts.general,
            "maxlife" => &mut timeouts.maxlife,
            // How often pmacctd looks; flows end exactly here.
            "expint" => continue,
            _ => return Err(wrong()),
        };
        *place = seconds;
    }
    Ok(timeouts)
}

/// `300`, `5m`, `1h30m`.
fn seconds(text: &str) -> Option<u32> {
    let (mut total, mut number, mut any) = (0u32, None::<u32>, false);
    for byte in text.bytes() {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(u32::from(digit - b'0'))?);
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
        any = true;
    }
    match number {
        Some(number) => total.checked_add(number),
        None => any.then_some(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Options, Vec<Line>), Vec<KeyError>> {
        Options::read(&Text::read(text.as_bytes()))
    }

    #[test]
    fn a_usual_file() {
        let (options, unused) = read(
            "daemonize: false\npcap_interface: eth0, eth1\npcap_filter: ip or ip6\nplugins: nfprobe[probe]\n\
             aggregate: src_host, dst_host, proto\nnfprobe_receiver: 127.0.0.1:9995\nnfprobe_timeouts: tcp=60:udp=1m30s:maxlife=0\n\
             nfprobe_maxflows: 65536\nprint_refresh_time: 300\nprint_output: csv\nprint_output_separator: \\t\n\
             print_num_protos: true\ntimestamps_since_epoch: true\nnfacctd_stitching: true\nsampling_rate: 10\n\
             nfacctd_renormalize: true\nsnaplen: 256\npromisc: false\nprint_refresh_time[probe]: 30\nsnaplen[other]: 70\n",
)
        .unwrap();
        assert_eq!(options.input, Input::Interfaces(vec!["eth0".to_owned(), "eth1".to_owned()]));
        assert_eq!(options.filter.as_deref(), Some("ip or ip6"));
        let timeouts = Timeouts { tcp: 60, udp: 90, maxlife: 0, ..Timeouts::default() };
        assert_eq!((options.timeouts, options.max_flows), (timeouts, Some(65_536)));
        assert_eq!((options.window_secs, options.separator, options.times), (30, b'\t', TimeFormat::Epoch));
        assert_eq!((options.sampling_rate, options.renormalize, options.snaplen), (10, true, 256));
        assert_eq!((options.promiscuous, options.stitching, options.numeric_protocols), (false, true, true));
        let unused: Vec<_> = unused.iter().map(|key| (key.number, key.key.as_str())).collect();
        assert_eq!(unused, [(6, "nfprobe_receiver"), (20, "snaplen")]);
    }

    #[test]
    fn every_error_with_its_line_at_once() {
        let errors = read(
            "pcap_savefile: x.pcap\npcap_interface: eth0\npcap_filter: tcp prot 80\naggregate: src_host, peer_src_ip\n\
             nfprobe_timeouts: tcp=1x\nnfprobe_maxflows: 0\nprint_output: json\npromisc: yes\nprint_output_separator: ab\n\
             sampling_rate: -1\ntimezone: Mars\npcap_protocol: ip",
)
        .unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(errors[1].expected.contains("syntax error"), "{}", errors[1]);
        assert!(
            errors[2].to_string().starts_with("aggregate: \"src_host, peer_src_ip\" is not right; \"peer_src_ip\"")
        );

        let error = read("").unwrap_err().remove(0);
        assert_eq!((error.line, error.key.as_str()), (0, "pcap_interface"));
        assert!(read("pcap_interface: any,eth0").is_err());
    }

    #[test]
    fn defaults_are_pmaccts() {
        let (options, unused) = read("pcap_interface: any").unwrap();
        assert_eq!((options.snaplen, options.promiscuous, options.window_secs), (128, true, 60));
        assert!(options.aggregate.has(Primitive::SrcHost) && !options.aggregate.has(Primitive::DstHost));
        assert!(unused.is_empty());
    }

    #[test]
    fn times_with_units() {
        for (text, want) in [
            ("300", Some(300)),
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("1w", Some(604_800)),
            ("2d1", Some(172_801)),
        ] {
            assert_eq!(seconds(text), want, "{text}");
        }
        for wrong in ["", "m", "5x", "-1", "5 m", "99999999999", "9999999w"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_protocol_is_a_filter() {
        let (options, _) = read("pcap_interface: e\npcap_protocol: 0x800\npcap_filter: tcp or udp").unwrap();
        assert_eq!(options.filter.as_deref(), Some("ether proto 0x0800 and (tcp or udp)"));
    }
}
