//! Flows: what a packet belongs to, what is known of it, and why it ended.
//!
//! Packets become rows in five pure steps, none of which owns a clock, a thread or a descriptor:
//!
//! ```text
//! frame ─ decode ─▶ Packet ─ fragments ─▶ Burst ─ table ─▶ Record ─ aggregate ─▶ Row ─ print ─▶ line
//! └───────────────────── meter ────────────────────────┘         └───────── ledger ──────────┘
//! ```
//!
//! Time is the packets' own: every step takes it as an argument, so a capture file gives the same rows at any hour.
//! The rooms below never lose a packet silently: what is not in a record is counted under a [`decode::Reject`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub mod aggregate;
pub mod decode;
pub mod fragments;
pub mod hash;
pub mod ledger;
pub mod meter;
pub mod networks;
pub mod print;
pub mod table;

/// A time on the packets' clock: microseconds since 1970-01-01 UTC, before it below 0. Nanoseconds of a capture file are cut
/// off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub(crate) i64);

impl Stamp {
    /// The first stamp there is, 0000-01-02: all years are written with four digits, in every zone.
    pub const MIN: Self = Self(-62_167_132_800 * 1_000_000);

    /// The last stamp there is, in the last second of 9999-12-30.
    pub const MAX: Self = Self(253_402_214_399 * 1_000_000 + 999_999);

    /// From microseconds; what lies beyond [`Stamp::MIN`] or [`Stamp::MAX`] is taken for it.
    #[inline]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros).clamp(Self::MIN, Self::MAX)
    }

    /// From whole seconds and microseconds of a second (a larger `micros` carries over).
    #[inline]
    pub fn new(secs: i64, micros: u32) -> Self {
        Self::from_micros(secs.saturating_mul(1_000_000).saturating_add(i64::from(micros)))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    #[inline]
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Microseconds of the second.
    #[inline]
    pub fn subsec_micros(self) -> u32 {
        self.0.rem_euclid(1_000_000) as u32
    }
}

/// An address of either family; the family is the [`Key`]'s. IPv4 lies in the lowest 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr {
    /// The first eight bytes of an IPv6 address, else 0.
    pub high: u64,
    /// The last eight bytes of an IPv6 address, or the IPv4 address.
    pub low: u64,
}

impl Addr {
    /// Of an IPv4 header's four bytes.
    pub fn v4(bytes: [u8; 4]) -> Self {
        Self { high: 0, low: u64::from(u32::from_be_bytes(bytes)) }
    }

    /// Of an IPv6 header's sixteen bytes.
    pub fn v6(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self { high: (both >> 64) as u64, low: both as u64 }
    }

    /// As the standard library's address, given the family.
    pub fn ip(self, version: Version) -> IpAddr {
        match version {
            Version::V6 => IpAddr::V6(Ipv6Addr::from(self.bits())),
            Version::V4 | Version::None => IpAddr::V4(Ipv4Addr::from(self.low as u32)),
        }
    }

    /// All 128 bits.
    pub fn bits(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// From all 128 bits.
    pub fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::v4(ip.octets()),
            IpAddr::V6(ip) => Self::v6(ip.octets()),
        }
    }
}

/// The address family of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Version {
    /// No address is part of the key (a row that is not aggregated by address).
    #[default]
    None = 0,
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// The flow key of one direction. Type of service, VLAN and MAC addresses are not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct Key {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port of TCP and UDP, else 0.
    pub src_port: u16,
    /// Destination port of TCP and UDP; type × 256 + code of ICMP; else 0.
    pub dst_port: u16,
    /// IP protocol number: the upper layer's, after IPv6 extension headers.
    pub proto: u8,
    /// Address family.
    pub version: Version,
    /// Type of service of a row that is aggregated by it; 0 in the flow table, where it is not part of the key.
    pub tos: u8,
}

impl Key {
    /// The key of the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }

    /// Which side of its flow this direction is: side 0 sends from the lower address (then the lower port).
    #[inline]
    pub fn side(&self) -> usize {
        usize::from((self.src, self.src_port) > (self.dst, self.dst_port))
    }

    /// The key as five words, for hashing and comparing.
    #[inline]
    pub fn words(&self) -> [u64; 5] {
        let tail = u64::from(self.src_port) << 48
            | u64::from(self.dst_port) << 32
            | u64::from(self.proto) << 16
            | (self.version as u64) << 8
            | u64::from(self.tos);
        [self.src.high, self.src.low, self.dst.high, self.dst.low, tail]
    }
}

/// What the headers below IP say, and where the packet came in. Counted apart only as far as `aggregate` asks; never part of
/// the flow key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Link {
    /// Source MAC address; zero where the link has none.
    pub src_mac: [u8; 6],
    /// Destination MAC address; zero where the link has none.
    pub dst_mac: [u8; 6],
    /// VLAN identifier of the outermost tag, 0 without a tag.
    pub vlan: u16,
    /// 802.1p priority of the outermost tag.
    pub cos: u8,
    /// The system's index of the interface, 0 when not known.
    pub iface: u32,
}

impl Link {
    /// The link as three words, for hashing.
    #[inline]
    pub fn words(&self) -> [u64; 3] {
        let mac = |m: [u8; 6]| u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]]);
        let rest = u64::from(self.iface) << 32 | u64::from(self.vlan) << 8 | u64::from(self.cos);
        [mac(self.src_mac), mac(self.dst_mac), rest]
    }
}

/// One packet, or several of one direction that are counted at once (held fragments).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Burst {
    /// The direction's key.
    pub key: Key,
    /// The headers below IP, reduced to what `aggregate` asks for.
    pub link: Link,
    /// Packets, at least 1.
    pub packets: u64,
    /// Bytes as the IP headers state them.
    pub bytes: u64,
    /// The earliest packet's stamp.
    pub first: Stamp,
    /// The latest packet's stamp.
    pub last: Stamp,
    /// OR of the TCP flags.
    pub tcp_flags: u8,
    /// Type of service (traffic class) of the latest packet.
    pub tos: u8,
}

/// Why a flow was ended (compare IPFIX's flowEndReason, RFC 5102 section 5.11.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EndReason {
    /// No packet for the idle timeout of its protocol.
    #[default]
    Idle,
    /// Older than the active timeout (`maxlife`).
    Active,
    /// TCP said that it is over: a reset, or FIN from both sides, and then the timeout for that.
    Closed,
    /// Pushed out because the table was full.
    Evicted,
    /// The capture ended.
    Stopped,
}

/// One direction of an ended flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// What was seen.
    pub sum: Burst,
    /// The second (since 1970, packets' clock) in which it ended; decides the window it is printed in.
    pub ended: i64,
    /// Why it ended.
    pub reason: EndReason,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_agree_on_their_sides() {
        let key = Key {
            src: Addr::v4([10, 0, 0, 2]),
            dst: Addr::v4([10, 0, 0, 1]),
            src_port: 80,
            dst_port: 4000,
            proto: 6,
            version: Version::V4,
            tos: 0,
        };
        assert_eq!((key.side(), key.reversed().side()), (1, 0));
        let same_host = Key { dst: key.src, ..key };
        assert_eq!((same_host.side(), same_host.reversed().side()), (0, 1), "the ports decide between equal addresses");
        assert_eq!(key.reversed().reversed(), key);
    }

    #[test]
    fn stamps_keep_microseconds_and_their_range() {
        let stamp = Stamp::new(1_700_000_000, 123_456);
        assert_eq!((stamp.secs(), stamp.subsec_micros()), (1_700_000_000, 123_456));
        assert_eq!(Stamp::new(1, 1_500_000), Stamp::from_micros(2_500_000));
        assert_eq!((Stamp::new(i64::MAX, 0), Stamp::new(i64::MIN, 0)), (Stamp::MAX, Stamp::MIN));
        let before = Stamp::from_micros(-1);
        assert_eq!((before.secs(), before.subsec_micros()), (-1, 999_999));
    }

    #[test]
    fn an_entry_of_the_key_is_forty_bytes() {
        assert_eq!(size_of::<Key>(), 40);
    }
}
