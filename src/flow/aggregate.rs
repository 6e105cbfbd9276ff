//! Records → rows: the fields that `aggregate` names make the key, and within a window rows with the same key are one.
//!
//! A window is `print_refresh_time` seconds of the packets' clock and takes the records that end in it. It is bounded: when
//! [`Window::is_full`] says so it is printed early, and a key may then have two rows; nothing is lost.

use hashbrown::HashTable;

use crate::flow::hash::Secret;
use crate::flow::meter::LinkFields;
use crate::flow::networks::Networks;
use crate::flow::{Addr, Key, Link, Record, Stamp, Version};

/// A field that rows may be aggregated by, in the order of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Primitive {
    /// `tag`: always 0, there are no tag maps here.
    Tag,
    /// `src_mac`.
    SrcMac,
    /// `dst_mac`.
    DstMac,
    /// `vlan`: of the outermost tag.
    Vlan,
    /// `cos`: priority of the outermost tag.
    Cos,
    /// `etype`: of the IP header, `800` or `86dd`.
    Etype,
    /// `in_iface`: the system's interface index.
    InIface,
    /// `src_host`.
    SrcHost,
    /// `src_net`: from `networks_file`.
    SrcNet,
    /// `dst_host`.
    DstHost,
    /// `dst_net`.
    DstNet,
    /// `src_mask`: prefix length of `src_net`.
    SrcMask,
    /// `dst_mask`.
    DstMask,
    /// `src_port`.
    SrcPort,
    /// `dst_port`.
    DstPort,
    /// `tcpflags`: summed by OR, never part of the key.
    TcpFlags,
    /// `proto`.
    Proto,
    /// `tos`.
    Tos,
    /// `sampling_rate`.
    SamplingRate,
    /// `timestamp_start`: of the record's first packet.
    TimestampStart,
    /// `timestamp_end`: of the record's last packet.
    TimestampEnd,
}

impl Primitive {
    /// Every primitive with its name in `aggregate` and its column's header.
    pub const ALL: [(Self, &'static str, &'static str); 21] = [
        (Self::Tag, "tag", "TAG"),
        (Self::SrcMac, "src_mac", "SRC_MAC"),
        (Self::DstMac, "dst_mac", "DST_MAC"),
        (Self::Vlan, "vlan", "VLAN"),
        (Self::Cos, "cos", "COS"),
        (Self::Etype, "etype", "ETYPE"),
        (Self::InIface, "in_iface", "IN_IFACE"),
        (Self::SrcHost, "src_host", "SRC_IP"),
        (Self::SrcNet, "src_net", "SRC_NET"),
        (Self::DstHost, "dst_host", "DST_IP"),
        (Self::DstNet, "dst_net", "DST_NET"),
        (Self::SrcMask, "src_mask", "SRC_MASK"),
        (Self::DstMask, "dst_mask", "DST_MASK"),
        (Self::SrcPort, "src_port", "SRC_PORT"),
        (Self::DstPort, "dst_port", "DST_PORT"),
        (Self::TcpFlags, "tcpflags", "TCP_FLAGS"),
        (Self::Proto, "proto", "PROTOCOL"),
        (Self::Tos, "tos", "TOS"),
        (Self::SamplingRate, "sampling_rate", "SAMPLING_RATE"),
        (Self::TimestampStart, "timestamp_start", "TIMESTAMP_START"),
        (Self::TimestampEnd, "timestamp_end", "TIMESTAMP_END"),
    ];
}

/// The set of primitives that a configuration asks for; empty is `none`: one row for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aggregate(u32);

impl Aggregate {
    /// Reads `src_host, dst_host, …` or `none`.
    ///
    /// # Errors
    ///
    /// The name that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut set = Self::default();
        for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()) {
            match Primitive::ALL.iter().find(|(_, have, _)| *have == name) {
                Some((primitive, _, _)) => set = set.with(*primitive),
                None if name == "none" => {}
                None => return Err(name),
            }
        }
        Ok(set)
    }

    /// The set with one more primitive.
    #[must_use]
    pub fn with(self, primitive: Primitive) -> Self {
        Self(self.0 | 1 << primitive as u8)
    }

    /// Whether `primitive` is asked for.
    #[inline]
    pub fn has(self, primitive: Primitive) -> bool {
        self.0 & 1 << primitive as u8 != 0
    }

    fn has_any(self, primitives: &[Primitive]) -> bool {
        primitives.iter().any(|primitive| self.has(*primitive))
    }

    /// What of the headers below IP the flow key needs.
    pub fn link_fields(self) -> LinkFields {
        LinkFields {
            src_mac: self.has(Primitive::SrcMac),
            dst_mac: self.has(Primitive::DstMac),
            vlan: self.has(Primitive::Vlan),
            cos: self.has(Primitive::Cos),
            iface: self.has(Primitive::InIface),
        }
    }
}

/// The part of a row's key that few configurations ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wide {
    /// MAC addresses, VLAN, priority, interface.
    pub link: Link,
    /// Network of the source, zero when there is none.
    pub src_net: Addr,
    /// Network of the destination.
    pub dst_net: Addr,
    /// Its prefix length.
    pub src_mask: u8,
    /// Its prefix length.
    pub dst_mask: u8,
    /// `timestamp_start`.
    pub start: Stamp,
    /// `timestamp_end`.
    pub end: Stamp,
}

impl Wide {
    fn words(&self) -> [u64; 10] {
        let [src_mac, dst_mac, rest] = self.link.words();
        [
            src_mac,
            dst_mac,
            rest,
            self.src_net.high,
            self.src_net.low,
            self.dst_net.high,
            self.dst_net.low,
            u64::from(self.src_mask) << 8 | u64::from(self.dst_mask),
            self.start.micros().cast_unsigned(),
            self.end.micros().cast_unsigned(),
        ]
    }
}

/// One row. Fields of the key that `aggregate` does not name are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    /// Addresses, ports, protocol, type of service.
    pub key: Key,
    /// Sum of packets.
    pub packets: u64,
    /// Sum of bytes.
    pub bytes: u64,
    /// The first packet's stamp.
    pub first: Stamp,
    /// The last packet's stamp.
    pub last: Stamp,
    /// OR of the TCP flags.
    pub tcp_flags: u8,
}

/// How a window is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// What makes the key.
    pub aggregate: Aggregate,
    /// For `src_net`, `dst_net`, `src_mask` and `dst_mask`.
    pub networks: Networks,
    /// The window's length, seconds; at least 1.
    pub seconds: u32,
    /// Packets and bytes are multiplied by this: the sampling rate when renormalizing, else 1.
    pub renormalize: u32,
    /// The most rows in a window, at least 1; about 90 bytes each, 100 more when a [`Wide`] field is asked for.
    pub max_rows: usize,
    /// The hash's secret.
    pub secret: Secret,
}

/// The rows of the current window.
#[derive(Debug)]
pub struct Window {
    options: Options,
    is_wide: bool,
    /// In the order of their first record.
    rows: Vec<Row>,
    /// Beside `rows`, only when a field of it is asked for.
    wide: Vec<Wide>,
    index: HashTable<(u32, u32)>,
    /// The first second of the next window, once a record or [`Window::begin`] has set it.
    end: Option<i64>,
}

impl Window {
    /// An empty window that begins with the first record.
    pub fn new(mut options: Options) -> Self {
        use Primitive as P;
        let is_wide = options.aggregate.link_fields().any()
            || options.aggregate.has_any(&[P::SrcNet, P::DstNet, P::SrcMask, P::DstMask])
            || options.aggregate.has_any(&[P::TimestampStart, P::TimestampEnd]);
        options.seconds = options.seconds.max(1);
        options.max_rows = options.max_rows.clamp(1, u32::MAX as usize);
        Self { options, is_wide, rows: Vec::new(), wide: Vec::new(), index: HashTable::new(), end: None }
    }

    /// Begins the first window at `second`, unless one has begun.
    pub fn begin(&mut self, second: i64) {
        self.end.get_or_insert(second + i64::from(self.options.seconds));
    }

    /// Begins a window at `second`, whatever the current one is; the rows stay.
    pub fn restart(&mut self, second: i64) {
        self.end = Some(second + i64::from(self.options.seconds));
    }

    /// True when `second` lies beyond the window: print the rows, [`Window::clear`], [`Window::roll`], then go on.
    pub fn is_over(&self, second: i64) -> bool {
        self.end.is_some_and(|end| second >= end)
    }

    /// Makes the window that contains `second` the current one.
    pub fn roll(&mut self, second: i64) {
        if let Some(end) = self.end.filter(|end| second >= *end) {
            let seconds = i64::from(self.options.seconds);
            self.end = Some(end + ((second - end) / seconds + 1) * seconds);
        }
    }

    /// True when the next record may need more rows than allowed: print and [`Window::clear`].
    pub fn is_full(&self) -> bool {
        self.rows.len() >= self.options.max_rows
    }

    /// Rows in the window.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when the window has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows in the order of their first record.
    pub fn rows(&self) -> impl Iterator<Item = (&Row, &Wide)> {
        static NARROW: Wide = Wide {
            link: Link { src_mac: [0; 6], dst_mac: [0; 6], vlan: 0, cos: 0, iface: 0 },
            src_net: Addr { high: 0, low: 0 },
            dst_net: Addr { high: 0, low: 0 },
            src_mask: 0,
            dst_mask: 0,
            start: Stamp(0),
            end: Stamp(0),
        };
        self.rows.iter().enumerate().map(|(at, row)| (row, self.wide.get(at).unwrap_or(&NARROW)))
    }

    /// Removes all rows; the window's time stays.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.wide.clear();
        self.index.clear();
    }

    /// Adds a record.
    pub fn add(&mut self, record: &Record) {
        let (key, wide) = self.project(record);
        let hash = if self.is_wide {
            let mut words = [0; 15];
            words[..5].copy_from_slice(&key.words());
            words[5..].copy_from_slice(&wide.words());
            self.options.secret.hash(words)
        } else {
            self.options.secret.hash(key.words())
        };
        let scale = u64::from(self.options.renormalize);
        let (packets, bytes) = (record.sum.packets.saturating_mul(scale), record.sum.bytes.saturating_mul(scale));
        let Self { rows, wide: wides, index, .. } = self;
        let found = index.find(spread(hash), |(have, at)| {
            *have == hash && rows[*at as usize].key == key && wides.get(*at as usize).is_none_or(|have| *have == wide)
        });
        if let Some((_, at)) = found {
            let row = &mut rows[*at as usize];
            row.packets = row.packets.saturating_add(packets);
            row.bytes = row.bytes.saturating_add(bytes);
            row.first = row.first.min(record.sum.first);
            row.last = row.last.max(record.sum.last);
            row.tcp_flags |= record.sum.tcp_flags;
        } else {
            let at = rows.len() as u32;
            index.insert_unique(spread(hash), (hash, at), |(have, _)| spread(*have));
            let (first, last, tcp_flags) = (record.sum.first, record.sum.last, record.sum.tcp_flags);
            rows.push(Row { key, packets, bytes, first, last, tcp_flags });
            if self.is_wide {
                wides.push(wide);
            }
        }
    }

    /// The record's key, reduced to what `aggregate` names.
    fn project(&self, record: &Record) -> (Key, Wide) {
        use Primitive as P;
        let aggregate = self.options.aggregate;
        let keep = |primitive, value: u16| if aggregate.has(primitive) { value } else { 0 };
        let full = record.sum.key;
        let addresses = aggregate.has_any(&[P::SrcHost, P::DstHost, P::SrcNet, P::DstNet, P::Etype]);
        let key = Key {
            src: if aggregate.has(P::SrcHost) { full.src } else { Addr::default() },
            dst: if aggregate.has(P::DstHost) { full.dst } else { Addr::default() },
            src_port: keep(P::SrcPort, full.src_port),
            dst_port: keep(P::DstPort, full.dst_port),
            proto: keep(P::Proto, u16::from(full.proto)) as u8,
            version: if addresses { full.version } else { Version::None },
            tos: keep(P::Tos, u16::from(record.sum.tos)) as u8,
        };
        if !self.is_wide {
            return (key, Wide::default());
        }
        let (src_net, src_mask) = self.network(full.src, full.version, P::SrcNet, P::SrcMask);
        let (dst_net, dst_mask) = self.network(full.dst, full.version, P::DstNet, P::DstMask);
        let stamp = |primitive, stamp| if aggregate.has(primitive) { stamp } else { Stamp::default() };
        let start = stamp(P::TimestampStart, record.sum.first);
        let end = stamp(P::TimestampEnd, record.sum.last);
        (key, Wide { link: record.sum.link, src_net, dst_net, src_mask, dst_mask, start, end })
    }

    /// The network of `addr`, as far as its two primitives are asked for.
    fn network(&self, addr: Addr, version: Version, net: Primitive, mask: Primitive) -> (Addr, u8) {
        let aggregate = self.options.aggregate;
        if !aggregate.has(net) && !aggregate.has(mask) {
            return (Addr::default(), 0);
        }
        let (network, length) = self.options.networks.longest(addr, version);
        (if aggregate.has(net) { network } else { Addr::default() }, if aggregate.has(mask) { length } else { 0 })
    }
}

/// Hashbrown looks at a hash's upper and lower bits; ours has 32.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
