//! Rows → lines of text, as nfacctd's print plugin writes them in CSV.
//!
//! Columns and their order, the header's names and the form of every value are nfacctd's. Values are never quoted: none
//! can hold a separator other than a digit, a letter, `.`, `:`, `-`, `+` or a blank. Printing allocates nothing a row and keeps only
//! the last day and offset it has formatted.

use chrono::{DateTime, Utc};

use crate::clock::Zone;
use crate::flow::aggregate::{Aggregate, Primitive, Row, Wide};
use crate::flow::{Addr, Stamp, Version};

/// How times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeFormat {
    /// `2023-11-15 06:13:20.123456` in the zone.
    #[default]
    Plain,
    /// `timestamps_since_epoch`: `1700000000.123456`.
    Epoch,
    /// `timestamps_rfc3339`: `2023-11-15T06:13:20.123456+08:00`, `Z` without an offset.
    Rfc3339,
}

/// How rows are written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which columns there are.
    pub aggregate: Aggregate,
    /// Between values (`print_output_separator`).
    pub separator: u8,
    /// Protocols as numbers (`print_num_protos`), not names.
    pub numeric_protocols: bool,
    /// The form of times.
    pub times: TimeFormat,
    /// The zone of times that are not [`TimeFormat::Epoch`].
    pub zone: Zone,
    /// Columns TIMESTAMP_MIN and TIMESTAMP_MAX (`nfacctd_stitching`).
    pub stitching: bool,
    /// The value of the column SAMPLING_RATE.
    pub sampling_rate: u32,
}

/// The most bytes of a line: every column at its widest is below 700.
const LINE_MAX: usize = 1024;

/// Prints rows; see the module.
#[derive(Debug)]
pub struct Printer {
    options: Options,
    columns: Vec<Column>,
    line: Box<[u8; LINE_MAX]>,
    date: Date,
}

/// A column: a primitive, or one of those that every row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Primitive(Primitive),
    Min,
    Max,
    Packets,
    Bytes,
}

impl Printer {
    /// A printer of these columns.
    pub fn new(options: Options) -> Self {
        let asked = Primitive::ALL.iter().map(|(primitive, _, _)| *primitive);
        let mut columns: Vec<Column> =
            asked.filter(|primitive| options.aggregate.has(*primitive)).map(Column::Primitive).collect();
        if options.stitching {
            columns.extend([Column::Min, Column::Max]);
        }
        columns.extend([Column::Packets, Column::Bytes]);
        let date = Date::new(options.zone);
        Self { options, columns, line: Box::new([0; LINE_MAX]), date }
    }

    /// Appends the header line.
    pub fn header(&self, out: &mut Vec<u8>) {
        for (at, column) in self.columns.iter().enumerate() {
            if at > 0 {
                out.push(self.options.separator);
            }
            let name = match column {
                Column::Primitive(primitive) => Primitive::ALL[*primitive as usize].2,
                Column::Min => "TIMESTAMP_MIN",
                Column::Max => "TIMESTAMP_MAX",
                Column::Packets => "PACKETS",
                Column::Bytes => "BYTES",
            };
            out.extend_from_slice(name.as_bytes());
        }
        out.push(b'\n');
    }

    /// Appends one row.
    pub fn row(&mut self, row: &Row, wide: &Wide, out: &mut Vec<u8>) {
        let Self { options, columns, line, date } = self;
        let mut text = Text { bytes: line, at: 0 };
        for column in columns {
            match column {
                Column::Primitive(primitive) => value(*primitive, row, wide, options, date, &mut text),
                Column::Min => time(row.first, options.times, date, &mut text),
                Column::Max => time(row.last, options.times, date, &mut text),
                Column::Packets => text.number(row.packets),
                Column::Bytes => text.number(row.bytes),
            }
            text.byte(options.separator);
        }
        // The separator after the last value is the line's end.
        text.at -= 1;
        text.byte(b'\n');
        out.extend_from_slice(&text.bytes[..text.at]);
    }
}

#[inline]
fn value(primitive: Primitive, row: &Row, wide: &Wide, options: &Options, date: &mut Date, text: &mut Text) {
    let version = row.key.version;
    match primitive {
        Primitive::Tag => text.byte(b'0'),
        Primitive::SrcMac => text.mac(wide.link.src_mac),
        Primitive::DstMac => text.mac(wide.link.dst_mac),
        Primitive::Vlan => text.number(u64::from(wide.link.vlan)),
        Primitive::Cos => text.number(u64::from(wide.link.cos)),
        Primitive::Etype => text.push(if version == Version::V6 { b"86dd" } else { b"800" }),
        Primitive::InIface => text.number(u64::from(wide.link.iface)),
        Primitive::SrcHost => text.address(row.key.src, version),
        Primitive::SrcNet => text.address(wide.src_net, version),
        Primitive::DstHost => text.address(row.key.dst, version),
        Primitive::DstNet => text.address(wide.dst_net, version),
        Primitive::SrcMask => text.number(u64::from(wide.src_mask)),
        Primitive::DstMask => text.number(u64::from(wide.dst_mask)),
        Primitive::SrcPort => text.number(u64::from(row.key.src_port)),
        Primitive::DstPort => text.number(u64::from(row.key.dst_port)),
        Primitive::TcpFlags => text.number(u64::from(row.tcp_flags)),
        Primitive::Proto => match protocol_name(row.key.proto) {
            Some(name) if !options.numeric_protocols => text.push(name.as_bytes()),
            _ => text.number(u64::from(row.key.proto)),
        },
        Primitive::Tos => text.number(u64::from(row.key.tos)),
        Primitive::SamplingRate => text.number(u64::from(options.sampling_rate)),
        Primitive::TimestampStart => time(wide.start, options.times, date, text),
        Primitive::TimestampEnd => time(wide.end, options.times, date, text),
    }
}

#[inline]
fn time(stamp: Stamp, format: TimeFormat, date: &mut Date, text: &mut Text) {
    if format == TimeFormat::Epoch {
        // Before 1970 the fraction counts away from 0, too.
        let micros = stamp.micros().unsigned_abs();
        if stamp < Stamp::default() {
            text.byte(b'-');
        }
        text.number(micros / 1_000_000);
        return text.micros((micros % 1_000_000) as u32);
    }
    let second_of_day = date.turn_to(stamp.secs());
    text.push(&date.day_text);
    text.byte(if format == TimeFormat::Rfc3339 { b'T' } else { b' ' });
    for (part, after) in [(second_of_day / 3600, b':'), (second_of_day / 60 % 60, b':'), (second_of_day % 60, b'.')] {
        text.pair(part);
        text.byte(after);
    }
    text.at -= 1;
    text.micros(stamp.subsec_micros());
    if format == TimeFormat::Rfc3339 {
        let minutes = date.offset / 60;
        if minutes == 0 {
            text.byte(b'Z');
        } else {
            text.byte(if minutes < 0 { b'-' } else { b'+' });
            text.pair(minutes.unsigned_abs() / 60);
            text.byte(b':');
            text.pair(minutes.unsigned_abs() % 60);
        }
    }
}

/// The day last printed, and the zone's offset at that time. Zones change their offset on a quarter of an hour at the
/// finest, so it is looked up once for each.
#[derive(Debug)]
struct Date {
    zone: Zone,
    quarter: i64,
    /// Seconds east of UTC.
    offset: i32,
    day: i64,
    day_text: [u8; 10],
}

impl Date {
    fn new(zone: Zone) -> Self {
        Self { zone, quarter: i64::MAX, offset: 0, day: i64::MIN, day_text: *b"1970-01-01" }
    }

    /// Makes the day and offset those of `secs`; returns the second of the local day.
    #[inline]
    fn turn_to(&mut self, secs: i64) -> u32 {
        let quarter = secs.div_euclid(900);
        if self.quarter != quarter {
            self.quarter = quarter;
            let at = DateTime::<Utc>::from_timestamp(secs, 0).unwrap_or_default();
            self.offset = self.zone.offset_at(at).local_minus_utc();
        }
        let local = secs + i64::from(self.offset);
        let day = local.div_euclid(86_400);
        if self.day != day {
            self.day = day;
            let at = DateTime::<Utc>::from_timestamp(day * 86_400, 0).unwrap_or_default();
            self.day_text.copy_from_slice(&at.format("%Y-%m-%d").to_string().as_bytes()[..10]);
        }
        local.rem_euclid(86_400) as u32
    }
}

/// A line being written. The array is longer than any line, so nothing is checked but the array's own bounds.
struct Text<'a> {
    bytes: &'a mut [u8; LINE_MAX],
    at: usize,
}

/// The decimal digits of 0 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

/// An IPv4 address's byte in decimal, a dot after it, and the length of both.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut n = 0;
    while n < 256 {
        let [hundreds, tens, ones] = [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
        octets[n] = match n {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            _ => ([hundreds, tens, ones, b'.'], 4),
        };
        n += 1;
    }
    octets
};

const HEX: [u8; 16] = *b"0123456789abcdef";

impl Text<'_> {
    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.at] = byte;
        self.at += 1;
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// Two digits; `n` is below 100.
    #[inline]
    fn pair(&mut self, n: u32) {
        self.push(&PAIRS[n as usize % 100]);
    }

    /// A point and six digits.
    #[inline]
    fn micros(&mut self, n: u32) {
        self.byte(b'.');
        self.pair(n / 10_000);
        self.pair(n / 100 % 100);
        self.pair(n % 100);
    }

    #[inline]
    fn number(&mut self, mut n: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        while n >= 100 {
            at -= 2;
            digits[at..at + 2].copy_from_slice(&PAIRS[(n % 100) as usize]);
            n /= 100;
        }
        if n >= 10 {
            at -= 2;
            digits[at..at + 2].copy_from_slice(&PAIRS[n as usize]);
        } else {
            at -= 1;
            digits[at] = b'0' + n as u8;
        }
        self.push(&digits[at..]);
    }

    fn mac(&mut self, mac: [u8; 6]) {
        for byte in mac {
            self.push(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)], b':']);
        }
        self.at -= 1;
    }

    #[inline]
    fn address(&mut self, addr: Addr, version: Version) {
        if version == Version::V6 {
            self.v6(addr);
        } else {
            self.v4(addr.low as u32);
        }
    }

    #[inline]
    fn v4(&mut self, ip: u32) {
        for byte in ip.to_be_bytes() {
            let (text, len) = OCTETS[usize::from(byte)];
            self.bytes[self.at..self.at + 4].copy_from_slice(&text);
            self.at += usize::from(len);
        }
        self.at -= 1;
    }

    /// As inet_ntop(3) writes it: the longest run of two or more zero groups is `::`, and addresses that are or contain an
    /// IPv4 address end in its dotted form.
    fn v6(&mut self, addr: Addr) {
        let bits = addr.bits();
        let groups: [u16; 8] = std::array::from_fn(|at| (bits >> (112 - 16 * at)) as u16);
        let (start, len) = longest_zeros(&groups);
        let dotted = start == 0 && (len == 6 || (len == 5 && groups[5] == 0xffff));
        let end = if dotted { 6 } else { 8 };
        let mut at = 0;
        while at < end {
            if len >= 2 && at == start {
                self.push(b"::");
                at += len;
            } else {
                self.group(groups[at]);
                at += 1;
                if at < end && !(len >= 2 && at == start) {
                    self.byte(b':');
                }
            }
        }
        if dotted {
            if self.bytes[self.at - 1] != b':' {
                self.byte(b':');
            }
            self.v4(addr.low as u32);
        }
    }

    fn group(&mut self, group: u16) {
        let digits = [group >> 12, group >> 8 & 15, group >> 4 & 15, group & 15].map(|digit| HEX[usize::from(digit)]);
        let leading = (group.max(1).leading_zeros() / 4) as usize;
        self.push(&digits[leading..]);
    }
}

/// Where the longest run of zero groups starts, and its length; the first of equals.
fn longest_zeros(groups: &[u16; 8]) -> (usize, usize) {
    let mut best = (0, 0);
    let mut run = 0;
    for (at, group) in groups.iter().enumerate() {
        run = if *group == 0 { run + 1 } else { 0 };
        if run > best.1 {
            best = (at + 1 - run, run);
        }
    }
    best
}

/// The name nfacctd prints for a protocol number, as observed for all 256; the others stay numbers.
fn protocol_name(proto: u8) -> Option<&'static str> {
    Some(match proto {
        1 => "icmp",
        2 => "igmp",
        3 => "ggp",
        4 => "ipencap",
        6 => "tcp",
        8 => "egp",
        9 => "igp",
        17 => "udp",
        18 => "mux",
        41 => "ipv6",
        43 => "ipv6-route",
        44 => "ipv6-frag",
        46 => "rsvp",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        55 => "mobile",
        56 => "tlsp",
        58 => "ipv6-icmp",
        59 => "ipv6-nonxt",
        60 => "ipv6-opts",
        80 => "iso-ip",
        83 => "vines",
        88 => "eigrp",
        89 => "ospf",
        91 => "larp",
        93 => "ax.25",
        94 => "ipip",
        98 => "encap",
        102 => "pnni",
        103 => "pim",
        108 => "IPcomp",
        111 => "ipx-in-ip",
        112 => "vrrp",
        115 => "l2tp",
        124 => "isis",
        132 => "sctp",
        133 => "fc",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::Key;

    fn options(aggregate: &str) -> Options {
        Options {
            aggregate: Aggregate::parse(aggregate).unwrap(),
            separator: b',',
            numeric_protocols: true,
            times: TimeFormat::Epoch,
            zone: Zone::parse("Asia/Shanghai").unwrap(),
            stitching: true,
            sampling_rate: 0,
        }
    }

    fn row() -> Row {
        let key = Key {
            src: Addr::v4([10, 200, 3, 45]),
            dst: Addr::v4([0, 9, 99, 255]),
            src_port: 443,
            dst_port: 65_535,
            proto: 6,
            version: Version::V4,
            tos: 40,
        };
        let first = Stamp::new(1_700_000_000, 123_456);
        Row { key, packets: 7, bytes: 1_234_567, first, last: Stamp::new(1_700_000_009, 7), tcp_flags: 27 }
    }

    fn printed(options: Options, row: &Row) -> String {
        let mut printer = Printer::new(options);
        let mut out = Vec::new();
        printer.row(row, &Wide::default(), &mut out);
        String::from_utf8(out).unwrap()
    }

    const USUAL: &str = "src_host, dst_host, src_port, dst_port, proto, tos, tcpflags";

    #[test]
    fn the_usual_row() {
        let mut header = Vec::new();
        Printer::new(options(USUAL)).header(&mut header);
        let names =
            "SRC_IP,DST_IP,SRC_PORT,DST_PORT,TCP_FLAGS,PROTOCOL,TOS,TIMESTAMP_MIN,TIMESTAMP_MAX,PACKETS,BYTES\n";
        assert_eq!(String::from_utf8(header).unwrap(), names);
        let line = "10.200.3.45,0.9.99.255,443,65535,27,6,40,1700000000.123456,1700000009.000007,7,1234567\n";
        assert_eq!(printed(options(USUAL), &row()), line);
    }

    #[test]
    fn the_forms_of_time() {
        for (times, text) in [
            (TimeFormat::Plain, "2023-11-15 06:13:20.123456,2023-11-15 06:13:29.000007,7,1234567\n"),
            (TimeFormat::Rfc3339, "2023-11-15T06:13:20.123456+08:00,2023-11-15T06:13:29.000007+08:00,7,1234567\n"),
        ] {
            assert_eq!(printed(Options { times, ..options("none") }, &row()), text);
        }
        let utc = Options { times: TimeFormat::Rfc3339, zone: Zone::parse("UTC").unwrap(), ..options("none") };
        assert_eq!(printed(utc, &row()), "2023-11-14T22:13:20.123456Z,2023-11-14T22:13:29.000007Z,7,1234567\n");
        let west = Options { times: TimeFormat::Rfc3339, zone: Zone::parse("UTC-03:30").unwrap(), ..options("none") };
        let row = Row { last: Stamp::default(), ..row() };
        assert_eq!(
            printed(west, &row),
            "2023-11-14T18:43:20.123456-03:30,1969-12-31T20:30:00.000000-03:30,7,1234567\n"
        );
    }

    #[test]
    fn every_column_of_a_tab_separated_row() {
        let all: Vec<&str> = Primitive::ALL.iter().map(|(_, name, _)| *name).collect();
        let options =
            Options { separator: b'\t', numeric_protocols: false, stitching: false, ..options(&all.join(",")) };
        let mut header = Vec::new();
        Printer::new(options.clone()).header(&mut header);
        let line = printed(options, &row());
        let columns: Vec<(&str, &str)> =
            std::str::from_utf8(&header).unwrap().trim_end().split('\t').zip(line.trim_end().split('\t')).collect();
        assert_eq!(columns.len(), Primitive::ALL.len() + 2);
        for (name, value) in [
            ("TAG", "0"),
            ("SRC_MAC", "00:00:00:00:00:00"),
            ("ETYPE", "800"),
            ("SRC_NET", "0.0.0.0"),
            ("PROTOCOL", "tcp"),
            ("SAMPLING_RATE", "0"),
            ("TIMESTAMP_START", "0.000000"),
        ] {
            assert!(columns.contains(&(name, value)), "{name} {value}: {columns:?}");
        }
    }

    #[test]
    fn addresses_as_inet_ntop_writes_them() {
        for text in [
            "::",
            "::1",
            "::2",
            "::1.2.3.4",
            "::ffff:1.2.3.4",
            "1::",
            "1:0:0:2::3",
            "2001:db8::1:0:0:1",
            "1:2:3:4:5:6:7:0",
        ] {
            let ip: Ipv6Addr = text.parse().unwrap();
            assert_eq!(v6_text(ip), text);
        }
    }

    fn v6_text(ip: Ipv6Addr) -> String {
        let mut line = [0; LINE_MAX];
        let mut text = Text { bytes: &mut line, at: 0 };
        text.v6(Addr::v6(ip.octets()));
        let len = text.at;
        String::from_utf8(line[..len].to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn numbers_and_addresses_are_the_standard_librarys(n: u64, v4: u32, groups: [u16; 8], zeros: u8) {
            let mut line = [0; LINE_MAX];
            let mut text = Text { bytes: &mut line, at: 0 };
            text.number(n);
            text.byte(b' ');
            text.v4(v4);
            let len = text.at;
            prop_assert_eq!(std::str::from_utf8(&line[..len]).unwrap(), format!("{n} {}", std::net::Ipv4Addr::from(v4)));

            let groups: [u16; 8] = std::array::from_fn(|at| if zeros >> at & 1 == 1 { 0 } else { groups[at] });
            let ip = Ipv6Addr::from(groups);
            // The library writes `::1.2.3.4` without dots; the test above has that form.
            prop_assume!(groups[..6].iter().any(|group| *group != 0) );
            prop_assert_eq!(v6_text(ip), ip.to_string());
        }
    }
}
