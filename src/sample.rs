//! Rows as a busy provider's probe prints them, made from a seed: for the quickstart, the tests and the benches.
//!
//! Promises: the same [`Options`] give the same bytes on every machine (integers and correctly rounded divisions only, no
//! clock, no global), rows never end, and nothing but the row's text is written. The model is made to compress like
//! recorded rows (gzip -6 makes them 3.5 to 4 times smaller):
//!
//! * subscribers and servers are drawn by rank with the weights of Zipf's law, and live in prefixes of realistic sizes;
//! * a connection gives a forward and a reverse row. Some are neighbours with the same stamps, as a probe that keeps both
//!   directions in one record exports them; others follow a few rows later with stamps of their own; others never;
//! * rows stand in the order in which flows expire: the last packet's second grows, the first packet's lags by a
//!   heavy-tailed duration, microseconds are noise;
//! * packets and bytes are heavy-tailed, flags and ports belong to the service.
//!
//! It never claims to be traffic: no row here describes anything that happened.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The header line of the rows, without its newline. Rows with a [`Tag::Sequence`] have `TAG,` before it.
pub const HEADER: &str =
    "SRC_IP,DST_IP,SRC_PORT,DST_PORT,TCP_FLAGS,PROTOCOL,TOS,TIMESTAMP_MIN,TIMESTAMP_MAX,PACKETS,BYTES";

/// How the two stamps are printed. Both count in UTC and have microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamps {
    /// `2025-11-27 10:20:30.123456`.
    #[default]
    Civil,
    /// `1764238830.123456`.
    Epoch,
}

/// What stands before the source address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// Nothing: the eleven columns of [`HEADER`].
    #[default]
    Without,
    /// A `TAG` column that counts the rows from 0, so that a test can tell which row is missing or came twice.
    Sequence,
}

/// What the rows depend on.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Chooses hosts, services, sizes and times.
    pub seed: u64,
    /// The second in which the first row's flow ended, in seconds since 1970, at most 253,402,214,400 (the year 9999).
    pub epoch: u64,
    /// How many rows share one second of TIMESTAMP_MAX; 0 is taken as 1.
    pub rows_per_second: u32,
    /// How stamps are printed.
    pub stamps: Stamps,
    /// Whether rows are numbered.
    pub tag: Tag,
}

impl Default for Options {
    /// Seed 1, 2025-11-27 02:40:00 UTC, 5,000 rows a second, civil stamps, no tag.
    fn default() -> Self {
        Self { seed: 1, epoch: 1_764_211_200, rows_per_second: 5_000, stamps: Stamps::Civil, tag: Tag::Without }
    }
}

/// An endless source of rows.
pub struct Rows {
    options: Options,
    random: Random,
    subscribers: Zipf,
    servers: Zipf,
    services: Zipf,
    written: u64,
    ready: VecDeque<Row>,
    delayed: Vec<(u64, Row)>,
    day: Day,
}

impl Rows {
    /// The source of `options`; makes three tables of weights, about 0.7 MB.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            random: Random(options.seed ^ 0x9e37_79b9_7f4a_7c15),
            subscribers: Zipf::new(SUBSCRIBERS, 500),
            servers: Zipf::new(SERVERS, 40),
            services: Zipf::weighted(SERVICES.iter().map(|service| f64::from(service.weight))),
            written: 0,
            ready: VecDeque::new(),
            delayed: Vec::new(),
            day: Day::default(),
        }
    }

    /// The header line that belongs to the rows, without its newline.
    #[must_use]
    pub fn header(&self) -> String {
        match self.options.tag {
            Tag::Without => HEADER.to_owned(),
            Tag::Sequence => format!("TAG,{HEADER}"),
        }
    }

    /// Appends `rows` rows to `buf`, each ended by a newline.
    pub fn fill(&mut self, buf: &mut Vec<u8>, rows: usize) {
        for _ in 0..rows {
            let row = self.take();
            self.print(&row, buf);
            self.written += 1;
        }
    }

    fn take(&mut self) -> Row {
        let due = self.delayed.iter().position(|(at, _)| *at <= self.written);
        if let Some(at) = due {
            return self.delayed.swap_remove(at).1;
        }
        loop {
            if let Some(row) = self.ready.pop_front() {
                return row;
            }
            self.connect();
        }
    }

    /// Draws one connection and queues its rows.
    fn connect(&mut self) {
        let service = SERVICES[self.services.draw(&mut self.random)];
        let family6 = self.random.one_in(48);
        let subscriber = self.subscribers.draw(&mut self.random) as u64;
        let server = self.servers.draw(&mut self.random) as u64;
        let (client_ip, server_ip) = match (family6, service.port) {
            (true, _) => (subscriber6(subscriber), server6(server)),
            (false, Port::Fixed(53)) => (subscriber4(subscriber), resolver4(&mut self.random)),
            (false, Port::Peer) => (subscriber4(subscriber), peer4(&mut self.random)),
            (false, _) => (subscriber4(subscriber), server4(server)),
        };
        let (client_port, server_port) = self.ports(service);
        let (first, last) = self.times(service);
        let forward_packets = service.packets(&mut self.random);
        let tos = if self.random.one_in(12) { TOS[self.random.below(TOS.len() as u64) as usize] } else { 0 };
        let flags = service.flags[self.random.below(service.flags.len() as u64) as usize];
        let forward = Row {
            source: client_ip,
            destination: server_ip,
            source_port: client_port,
            destination_port: server_port,
            flags: flags.0,
            protocol: if family6 && service.protocol == 1 { 58 } else { service.protocol },
            tos,
            first,
            last,
            packets: forward_packets,
            bytes: service.bytes(&mut self.random, forward_packets, Direction::Up),
        };
        if flags.1 == UNANSWERED || self.random.one_in(5) {
            self.ready.push_back(forward);
            return;
        }
        let reverse_packets = (forward_packets * (6 + self.random.below(9)) / 8).max(1);
        let mut reverse = Row {
            source: server_ip,
            destination: client_ip,
            source_port: server_port,
            destination_port: client_port,
            flags: flags.1,
            tos: if self.random.one_in(4) { 0 } else { tos },
            packets: reverse_packets,
            bytes: service.bytes(&mut self.random, reverse_packets, Direction::Down),
            ..forward
        };
        if self.random.below(10) < 9 {
            let trip = 200 + self.random.below(40_000);
            reverse.first += trip;
            reverse.last = (reverse.last + trip / 2).max(reverse.first);
            self.ready.push_back(forward);
            let later = self.written + 2 + self.random.below(14);
            self.delayed.push((later, reverse));
        } else if server_ip < client_ip {
            self.ready.extend([reverse, forward]);
        } else {
            self.ready.extend([forward, reverse]);
        }
    }

    fn ports(&mut self, service: Service) -> (u16, u16) {
        let ephemeral = |random: &mut Random| (32_768 + random.below(28_232)) as u16;
        match service.port {
            Port::Fixed(port) if service.protocol == 1 => (0, port),
            Port::Fixed(123) if self.random.one_in(2) => (123, 123),
            Port::Fixed(port) => (ephemeral(&mut self.random), port),
            Port::Peer => ((1_024 + self.random.below(64_512)) as u16, (1_024 + self.random.below(64_512)) as u16),
        }
    }

    /// First and last packet, in microseconds since 1970. The last packet's second follows the rows written so far.
    fn times(&mut self, service: Service) -> (u64, u64) {
        let second = self.options.epoch + self.written / u64::from(self.options.rows_per_second.max(1));
        let last = second * MICROS + self.random.below(MICROS) - self.random.below(20) * MICROS;
        let lasted = match service.lasts {
            Lasts::Instant => 0,
            Lasts::Trip => 300 + self.random.heavy(7, 1 << 18),
            Lasts::Seconds => 20_000 + self.random.heavy(23, 600 * MICROS),
        };
        (last.saturating_sub(lasted), last)
    }

    fn print(&mut self, row: &Row, buf: &mut Vec<u8>) {
        if self.options.tag == Tag::Sequence {
            number(buf, self.written);
            buf.push(b',');
        }
        address(buf, row.source);
        buf.push(b',');
        address(buf, row.destination);
        for column in [row.source_port, row.destination_port, row.flags.into(), row.protocol.into(), row.tos.into()] {
            buf.push(b',');
            number(buf, column.into());
        }
        for stamp in [row.first, row.last] {
            buf.push(b',');
            match self.options.stamps {
                Stamps::Civil => self.day.print(buf, stamp / MICROS),
                Stamps::Epoch => number(buf, stamp / MICROS),
            }
            buf.push(b'.');
            digits(buf, stamp % MICROS, 6);
        }
        for column in [row.packets, row.bytes] {
            buf.push(b',');
            number(buf, column);
        }
        buf.push(b'\n');
    }
}

impl Iterator for Rows {
    type Item = Vec<u8>;

    /// The next row with its newline; never `None`. [`Rows::fill`] does the same without an allocation a row.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut row = Vec::with_capacity(112);
        self.fill(&mut row, 1);
        Some(row)
    }
}

const MICROS: u64 = 1_000_000;
const SUBSCRIBERS: usize = 60_000;
const SERVERS: usize = 30_000;
/// In the reverse half of a flag pair: no answer, so no reverse row.
const UNANSWERED: u8 = u8::MAX;
const TOS: [u8; 8] = [8, 8, 16, 32, 40, 72, 128, 184];

#[derive(Clone, Copy)]
struct Row {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
    flags: u8,
    protocol: u8,
    tos: u8,
    first: u64,
    last: u64,
    packets: u64,
    bytes: u64,
}

#[derive(Clone, Copy)]
enum Port {
    Fixed(u16),
    /// Both ends chose a port: peer-to-peer.
    Peer,
}

#[derive(Clone, Copy)]
enum Lasts {
    Instant,
    Trip,
    Seconds,
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// A kind of conversation and its share of all of them.
#[derive(Clone, Copy)]
struct Service {
    weight: u16,
    port: Port,
    protocol: u8,
    /// TCP flags, forward and reverse; the first is drawn as often as any other.
    flags: &'static [(u8, u8)],
    lasts: Lasts,
    /// Bytes of a packet towards the server and back, before noise.
    up: u16,
    down: u16,
    /// Packets come as `1 + heavy(bits)`; 0 for exactly one.
    bits: u32,
}

impl Service {
    fn packets(self, random: &mut Random) -> u64 {
        match self.bits {
            0 => 1,
            bits => 1 + random.heavy(bits, 4_000_000),
        }
    }

    fn bytes(self, random: &mut Random, packets: u64, direction: Direction) -> u64 {
        let packet = match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
        };
        match self.bits {
            0 if self.protocol == 1 => u64::from(packet),
            0 => u64::from(packet / 2) + random.below(u64::from(packet)),
            _ => packets * (40 + random.below(u64::from(packet))),
        }
    }
}

const WEB_FLAGS: &[(u8, u8)] =
    &[(27, 27), (27, 27), (27, 27), (27, 27), (27, 27), (24, 24), (24, 24), (31, 27), (26, 30), (2, UNANSWERED)];
const OTHER_TCP_FLAGS: &[(u8, u8)] = &[(27, 27), (27, 27), (24, 24), (30, 26), (2, 20), (2, UNANSWERED)];
const NO_FLAGS: &[(u8, u8)] = &[(0, 0)];

const SERVICES: [Service; 14] = [
    tcp(430, 443, 220, 1_300),
    tcp(60, 80, 200, 1_200),
    tcp(12, 993, 150, 500),
    tcp(10, 22, 120, 160),
    tcp(10, 25, 900, 120),
    tcp(14, 8080, 240, 1_100),
    tcp(10, 5223, 140, 180),
    tcp(8, 23, 40, 40),
    udp(170, Port::Fixed(443), Lasts::Seconds, (260, 1_220), 3),
    udp(140, Port::Fixed(53), Lasts::Trip, (72, 190), 0),
    udp(14, Port::Fixed(123), Lasts::Trip, (76, 76), 0),
    udp(14, Port::Fixed(3478), Lasts::Seconds, (140, 220), 4),
    udp(60, Port::Peer, Lasts::Seconds, (400, 700), 2),
    Service {
        weight: 18,
        port: Port::Fixed(2_048),
        protocol: 1,
        flags: NO_FLAGS,
        lasts: Lasts::Instant,
        up: 84,
        down: 84,
        bits: 0,
    },
];

const fn tcp(weight: u16, port: u16, up: u16, down: u16) -> Service {
    let flags = if port == 443 || port == 80 { WEB_FLAGS } else { OTHER_TCP_FLAGS };
    Service { weight, port: Port::Fixed(port), protocol: 6, flags, lasts: Lasts::Seconds, up, down, bits: 3 }
}

const fn udp(weight: u16, port: Port, lasts: Lasts, (up, down): (u16, u16), bits: u32) -> Service {
    Service { weight, port, protocol: 17, flags: NO_FLAGS, lasts, up, down, bits }
}

/// Private addresses before the provider's translation: 256 pools of 256, filled by rank.
fn subscriber4(rank: u64) -> IpAddr {
    let at = scatter(rank);
    Ipv4Addr::from_octets([10, (at % 4) as u8, (at >> 8) as u8 & 0x3f, (at >> 16) as u8]).into()
}

/// A customer's /64 in one /40, the interface part random as privacy extensions make it (RFC 8981).
fn subscriber6(rank: u64) -> IpAddr {
    let at = scatter(rank ^ 0x6_0000_0000);
    let prefix = 0x2a02_0d68_0000_0000_u128 << 64;
    Ipv6Addr::from_bits(prefix | u128::from(rank & 0xffff) << 72 | u128::from(at)).into()
}

/// Large content networks first: rank chooses the network, the rest scatters in it.
fn server4(rank: u64) -> IpAddr {
    const NETWORKS: [(u8, u8, u8); 12] = [
        (142, 250, 6),
        (157, 240, 5),
        (104, 16, 8),
        (151, 101, 6),
        (13, 32, 8),
        (23, 48, 8),
        (52, 84, 8),
        (17, 253, 6),
        (20, 190, 7),
        (185, 60, 3),
        (34, 107, 8),
        (198, 18, 8),
    ];
    let at = scatter(rank ^ 0x4_0000_0000);
    let (a, b, bits) = NETWORKS[(at % 12) as usize];
    let third = (at >> 8) as u8 & ((1_u16 << bits) - 1) as u8;
    Ipv4Addr::from_octets([a, b, third, (at >> 16) as u8]).into()
}

fn server6(rank: u64) -> IpAddr {
    let at = scatter(rank ^ 0x46_0000_0000);
    let prefix = 0x2a00_1450_4001_0000_u128 << 64;
    Ipv6Addr::from_bits(prefix | u128::from(0x800 | at & 0x3f) << 64 | 0x2000 | u128::from(at >> 8 & 0xff)).into()
}

fn resolver4(random: &mut Random) -> IpAddr {
    const RESOLVERS: [[u8; 4]; 6] =
        [[10, 0, 0, 53], [10, 0, 0, 53], [10, 0, 1, 53], [8, 8, 8, 8], [8, 8, 4, 4], [1, 1, 1, 1]];
    Ipv4Addr::from_octets(RESOLVERS[random.below(6) as usize]).into()
}

/// Any unicast address outside the first and the last blocks.
fn peer4(random: &mut Random) -> IpAddr {
    Ipv4Addr::from_bits((11 << 24) + random.below(212 << 24) as u32).into()
}

/// A fixed mixing of ranks, so that neighbours in rank are no neighbours in the network.
fn scatter(rank: u64) -> u64 {
    Random(rank.wrapping_mul(0xd134_2543_de82_ef95)).next()
}

/// SplitMix64: a counter through two multiplications; any seed is as good as any other.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`, by the high half of a product; the bias is under 2⁻³².
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Below `limit`: `2^bits` wide half of the time, twice as wide a quarter of the time, and so on (nearly 1/x).
    fn heavy(&mut self, bits: u32, limit: u64) -> u64 {
        let doublings = self.next().trailing_zeros() + self.next().trailing_zeros() / 2;
        let width = (1_u64 << bits.min(31)) << doublings.min(24);
        self.below(width.min(limit))
    }
}

/// Ranks drawn by weight: sums in an array, found by bisection.
struct Zipf(Vec<f64>);

impl Zipf {
    /// `count` ranks; rank r weighs 1 / (r + `flat`), so that the first `flat` ranks weigh about the same.
    fn new(count: usize, flat: u32) -> Self {
        Self::weighted((0..count).map(|rank| 1.0 / (rank as f64 + f64::from(flat))))
    }

    fn weighted(weights: impl Iterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        Self(
            weights
                .map(|weight| {
                    sum += weight;
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, random: &mut Random) -> usize {
        let total = self.0.last().copied().unwrap_or(0.0);
        let point = (random.next() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        self.0.partition_point(|sum| *sum <= point).min(self.0.len() - 1)
    }
}

/// The text of the current day, kept because nearly all stamps share it.
#[derive(Default)]
struct Day {
    number: Option<u64>,
    text: Vec<u8>,
}

impl Day {
    fn print(&mut self, buf: &mut Vec<u8>, epoch: u64) {
        let (day, second) = (epoch / 86_400, epoch % 86_400);
        if self.number != Some(day) {
            self.number = Some(day);
            self.text.clear();
            let (year, month, date) = civil(day);
            digits(&mut self.text, year, 4);
            self.text.push(b'-');
            digits(&mut self.text, month, 2);
            self.text.push(b'-');
            digits(&mut self.text, date, 2);
            self.text.push(b' ');
        }
        buf.extend_from_slice(&self.text);
        digits(buf, second / 3_600, 2);
        buf.push(b':');
        digits(buf, second / 60 % 60, 2);
        buf.push(b':');
        digits(buf, second % 60, 2);
    }
}

/// Year, month and day of the month in the Gregorian calendar, `day` counted from 1970-01-01.
fn civil(day: u64) -> (u64, u64, u64) {
    let mut left = day;
    let mut year = 1970;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    loop {
        let days = if leap(year) { 366 } else { 365 };
        if left < days {
            break;
        }
        left -= days;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    (year, month, left + 1)
}

fn address(buf: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    buf.push(b'.');
                }
                number(buf, octet.into());
            }
        }
        IpAddr::V6(address) => buf.extend_from_slice(address.to_string().as_bytes()),
    }
}

fn number(buf: &mut Vec<u8>, value: u64) {
    digits(buf, value, value.checked_ilog10().unwrap_or(0) as usize + 1);
}

/// `value` in exactly `count` digits, at most 20.
fn digits(buf: &mut Vec<u8>, mut value: u64, count: usize) {
    let mut text = [b'0'; 20];
    for at in (0..count).rev() {
        text[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    buf.extend_from_slice(&text[..count]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(options: Options, rows: usize) -> String {
        let mut buf = Vec::new();
        Rows::new(options).fill(&mut buf, rows);
        String::from_utf8(buf).unwrap()
    }

    #[test]
    fn same_options_same_bytes() {
        assert_eq!(text(Options::default(), 5_000), text(Options::default(), 5_000));
        let other = Options { seed: 2, ..Options::default() };
        assert_ne!(text(Options::default(), 10), text(other, 10));
        let by_row: Vec<u8> = Rows::new(Options::default()).take(5_000).flatten().collect();
        assert_eq!(by_row, text(Options::default(), 5_000).as_bytes());
    }

    #[test]
    fn columns_are_what_the_header_says() {
        let columns = HEADER.split(',').count();
        for line in text(Options::default(), 20_000).lines() {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), columns, "{line}");
            let source: IpAddr = fields[0].parse().unwrap();
            let destination: IpAddr = fields[1].parse().unwrap();
            assert_eq!(source.is_ipv4(), destination.is_ipv4(), "{line}");
            assert!(fields[2].parse::<u16>().is_ok() && fields[3].parse::<u16>().is_ok(), "{line}");
            assert!(fields[7] <= fields[8] && fields[7].len() == 26, "{line}");
            assert!(fields[9].parse::<u64>().unwrap() > 0 && fields[10].parse::<u64>().unwrap() >= 20, "{line}");
        }
    }

    #[test]
    fn tags_count_the_rows() {
        let options = Options { tag: Tag::Sequence, stamps: Stamps::Epoch, ..Options::default() };
        assert!(Rows::new(options).header().starts_with("TAG,SRC_IP,"));
        for (at, line) in text(options, 1_000).lines().enumerate() {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields[0], at.to_string());
            assert_eq!(fields.len(), 12);
            assert!(fields[8].len() == 17 && fields[8].starts_with("17642"), "{line}");
        }
    }

    #[test]
    fn rows_have_the_usual_length_and_answers() {
        let text = text(Options::default(), 20_000);
        let usual = text.lines().filter(|line| (83..=110).contains(&(line.len() + 1))).count();
        assert!(usual > 16_000, "{usual} rows of 83 to 110 bytes");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        let mirrored = lines.windows(2).filter(|pair| pair[0][0] == pair[1][1] && pair[0][2] == pair[1][3]).count();
        assert!((500..5_000).contains(&mirrored), "{mirrored} neighbours mirror each other");
    }

    #[test]
    fn days_are_civil() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_419), (2025, 11, 27));
    }
}
