//! Bytes of a frame → the flow key and counts of one packet.
//!
//! Decoded: Ethernet; 802.1Q, 802.1ad and 0x9100 tags, PPPoE sessions and MPLS labels, at any depth and in any mix;
//! Linux cooked v1 and v2; raw IP; BSD loopback; IPv4 with options; IPv6 with extension headers; the first bytes of TCP,
//! UDP, ICMP and ICMPv6. A tunnel (GRE, IP in IP, VXLAN, ESP) counts by its outer header.
//!
//! Every frame gives either a [`Packet`] or the [`Reject`] that says why not. Nothing is allocated, nothing panics whatever
//! the bytes are, and the work is bounded by the frame's length, because every step consumes bytes of it. Checksums are
//! never verified: a capture on the sending host sees packets whose checksums the hardware has yet to fill in.

use crate::flow::{Addr, Key, Link, Version};

/// What a capture's frames begin with (the values of pcap's `LINKTYPE_`/`DLT_`, <https://www.tcpdump.org/linktypes.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// 1: Ethernet.
    Ethernet,
    /// 113: Linux cooked, version 1; the pseudo-interface `any`.
    LinuxSll,
    /// 276: Linux cooked, version 2.
    LinuxSll2,
    /// 12, 14, 101, 228, 229: IP from the first byte on.
    RawIp,
    /// 0, 108: a four-byte address family of BSD, then IP.
    Loopback,
}

impl LinkType {
    /// From the number in a capture file or of libpcap. `None`: not decoded here.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Ethernet,
            113 => Self::LinuxSll,
            276 => Self::LinuxSll2,
            12 | 14 | 101 | 228 | 229 => Self::RawIp,
            0 | 108 => Self::Loopback,
            _ => return None,
        })
    }
}

/// Why a frame is not counted as a packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// No IP inside: ARP, LLDP, spanning tree, a PPP control packet, a pseudowire.
    NotIp,
    /// The capture kept too few bytes of it; a larger `snaplen` helps.
    Cut,
    /// The frame itself ends within a header.
    Short,
    /// The IP version is not what the layer below says.
    BadVersion,
    /// The header's lengths contradict each other or leave no room for the next header.
    BadLength,
    /// The capture file's link type is not decoded here.
    LinkType,
}

impl Reject {
    /// Every reason, in the order of its index.
    pub const ALL: [Self; 6] = [Self::NotIp, Self::Cut, Self::Short, Self::BadVersion, Self::BadLength, Self::LinkType];

    /// The reason's place in [`Reject::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The reason's stable name, for counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Cut => "cut_by_snaplen",
            Self::Short => "short_frame",
            Self::BadVersion => "bad_ip_version",
            Self::BadLength => "bad_length",
            Self::LinkType => "unknown_link_type",
        }
    }
}

/// The part a packet has in a fragmented datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fragment {
    /// A whole datagram.
    #[default]
    No,
    /// The first fragment: it has the ports. The number is the datagram's identification.
    First(u32),
    /// A later fragment: its ports are its first fragment's, and its key has 0 for them.
    Later(u32),
}

/// One decoded packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packet {
    /// Its direction's key.
    pub key: Key,
    /// The headers below IP.
    pub link: Link,
    /// The IP header's total length; for IPv6 the payload length + 40. Where that says 0 (segmentation is still to come,
    /// or a jumbogram without its option) the frame's own length from the IP header on.
    pub bytes: u64,
    /// All eight flags of TCP (RFC 9293, with CWR and ECE), else 0.
    pub tcp_flags: u8,
    /// IPv4's type of service or IPv6's traffic class.
    pub tos: u8,
    /// Whether it is a fragment.
    pub fragment: Fragment,
}

/// A header ends beyond the bytes that are there. Whether the capture or the frame was short is for the caller to say.
struct Ends;

/// What stops the decoder: a reason, or bytes that end too early.
enum Halt {
    Because(Reject),
    Ends,
}

impl From<Ends> for Halt {
    fn from(Ends: Ends) -> Self {
        Self::Ends
    }
}

impl From<Reject> for Halt {
    fn from(reason: Reject) -> Self {
        Self::Because(reason)
    }
}

/// Splits off the first `N` bytes.
#[inline]
fn take<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), Ends> {
    bytes.split_first_chunk().ok_or(Ends)
}

/// Big-endian 16 bits at `at`, for offsets that the caller's array type proves.
#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Decodes one frame of which the capture kept `frame` and whose length on the wire was `wire_len` bytes.
///
/// # Errors
///
/// Why the frame makes no flow: it is not IP, or a header is cut off or contradicts itself.
#[inline]
pub fn decode(link_type: LinkType, frame: &[u8], wire_len: u32) -> Result<Packet, Reject> {
    // A capture file may claim a wire length below what it holds; the bytes at hand are the better witness.
    let cut_off = (wire_len as usize).saturating_sub(frame.len());
    let mut decoder = Decoder { link: Link::default(), cut_off };
    match decoder.frame(link_type, frame) {
        Ok(packet) => Ok(packet),
        Err(Halt::Because(reason)) => Err(reason),
        Err(Halt::Ends) if cut_off > 0 => Err(Reject::Cut),
        Err(Halt::Ends) => Err(Reject::Short),
    }
}

struct Decoder {
    link: Link,
    /// Bytes of the frame that the capture did not keep.
    cut_off: usize,
}

impl Decoder {
    #[inline]
    fn frame(&mut self, link_type: LinkType, frame: &[u8]) -> Result<Packet, Halt> {
        match link_type {
            LinkType::Ethernet => {
                let (header, rest) = take::<14>(frame)?;
                self.link.dst_mac.copy_from_slice(&header[0..6]);
                self.link.src_mac.copy_from_slice(&header[6..12]);
                self.ethertype(be16(header, 12), rest)
            }
            LinkType::LinuxSll => {
                let (header, rest) = take::<16>(frame)?;
                self.cooked_mac(be16(header, 4), &header[6..12]);
                self.ethertype(be16(header, 14), rest)
            }
            LinkType::LinuxSll2 => {
                let (header, rest) = take::<20>(frame)?;
                self.link.iface = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                self.cooked_mac(u16::from(header[11]), &header[12..18]);
                self.ethertype(be16(header, 0), rest)
            }
            LinkType::RawIp => self.ip_by_version(frame),
            LinkType::Loopback => {
                let (_family, rest) = take::<4>(frame)?;
                // The families of the BSDs differ and come in either byte order; the IP version says the same.
                self.ip_by_version(rest)
            }
        }
    }

    /// The sender's address of a cooked header, when it has the length of a MAC address.
    fn cooked_mac(&mut self, len: u16, address: &[u8]) {
        if len == 6 {
            self.link.src_mac.copy_from_slice(address);
        }
    }

    /// Walks tags, PPPoE and MPLS down to the IP header.
    #[inline]
    fn ethertype(&mut self, mut ethertype: u16, mut rest: &[u8]) -> Result<Packet, Halt> {
        let mut tagged = false;
        loop {
            match ethertype {
                ETHERTYPE_IPV4 => return self.ipv4(rest),
                ETHERTYPE_IPV6 => return self.ipv6(rest),
                0x8100 | 0x88a8 | 0x9100 => {
                    let (tag, inner) = take::<4>(rest)?;
                    if !tagged {
                        let control = be16(tag, 0);
                        self.link.vlan = control & 0x0fff;
                        self.link.cos = (control >> 13) as u8;
                        tagged = true;
                    }
                    ethertype = be16(tag, 2);
                    rest = inner;
                }
                // A PPPoE session (RFC 2516): version 1, type 1, code 0; then PPP's protocol.
                0x8864 => {
                    let (header, inner) = take::<8>(rest)?;
                    if header[0] != 0x11 || header[1] != 0 {
                        return Err(Reject::NotIp.into());
                    }
                    rest = inner;
                    ethertype = match be16(header, 6) {
                        0x0021 => ETHERTYPE_IPV4,
                        0x0057 => ETHERTYPE_IPV6,
                        0x0281 | 0x0283 => 0x8847,
                        _ => return Err(Reject::NotIp.into()),
                    };
                }
                0x8847 | 0x8848 => return self.mpls(rest),
                _ => return Err(Reject::NotIp.into()),
            }
        }
    }

    /// Pops the label stack (RFC 3032). What is below the last label is not said anywhere; its first four bits are the
    /// usual guess, and anything but IP (a pseudowire begins with 0) is not counted.
    fn mpls(&mut self, mut rest: &[u8]) -> Result<Packet, Halt> {
        loop {
            let (label, inner) = take::<4>(rest)?;
            rest = inner;
            if label[2] & 1 == 1 {
                return match rest.first().ok_or(Ends)? >> 4 {
                    4 => self.ipv4(rest),
                    6 => self.ipv6(rest),
                    _ => Err(Reject::NotIp.into()),
                };
            }
        }
    }

    fn ip_by_version(&mut self, rest: &[u8]) -> Result<Packet, Halt> {
        match rest.first().ok_or(Ends)? >> 4 {
            4 => self.ipv4(rest),
            6 => self.ipv6(rest),
            _ => Err(Reject::BadVersion.into()),
        }
    }

    /// RFC 791.
    #[inline]
    fn ipv4(&mut self, datagram: &[u8]) -> Result<Packet, Halt> {
        let (header, _) = take::<20>(datagram)?;
        if header[0] >> 4 != 4 {
            return Err(Reject::BadVersion.into());
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(be16(header, 2));
        if header_len < 20 || (total != 0 && total < header_len) {
            return Err(Reject::BadLength.into());
        }
        let bytes = if total == 0 { datagram.len() + self.cut_off } else { total };
        let payload = Payload::new(datagram, header_len, bytes)?;

        let fragmented = be16(header, 6);
        let id = u32::from(be16(header, 4));
        let fragment = match (fragmented & 0x1fff, fragmented & 0x2000) {
            (0, 0) => Fragment::No,
            (0, _) => Fragment::First(id),
            _ => Fragment::Later(id),
        };
        let key = Key {
            src: Addr::v4([header[12], header[13], header[14], header[15]]),
            dst: Addr::v4([header[16], header[17], header[18], header[19]]),
            proto: header[9],
            version: Version::V4,
            ..Key::default()
        };
        self.transport(&Network { key, bytes: bytes as u64, tos: header[1], fragment }, payload)
    }

    /// RFC 8200.
    #[inline]
    fn ipv6(&mut self, datagram: &[u8]) -> Result<Packet, Halt> {
        let (header, after) = take::<40>(datagram)?;
        if header[0] >> 4 != 6 {
            return Err(Reject::BadVersion.into());
        }
        let stated = usize::from(be16(header, 4));
        let next = header[6];
        let bytes = match stated {
            0 if next == HOP_BY_HOP => jumbo_payload(after).map_or(datagram.len() + self.cut_off, |jumbo| jumbo + 40),
            _ => stated + 40,
        };
        let mut address = [0; 16];
        address.copy_from_slice(&header[8..24]);
        let src = Addr::v6(address);
        address.copy_from_slice(&header[24..40]);
        let dst = Addr::v6(address);
        let payload = Payload::new(datagram, 40, bytes)?;
        let (proto, fragment, payload) = extension_headers(next, payload)?;
        let key = Key { src, dst, proto, version: Version::V6, ..Key::default() };
        self.transport(&Network { key, bytes: bytes as u64, tos: header[0] << 4 | header[1] >> 4, fragment }, payload)
    }

    /// Ports, ICMP type and code, TCP flags.
    #[inline]
    fn transport(&mut self, network: &Network, payload: Payload) -> Result<Packet, Halt> {
        let Network { mut key, bytes, tos, fragment } = *network;
        let mut tcp_flags = 0;
        if !matches!(fragment, Fragment::Later(_)) {
            match key.proto {
                TCP => {
                    let ports = payload.first(4)?;
                    (key.src_port, key.dst_port) = (be16(ports, 0), be16(ports, 2));
                    tcp_flags = match payload.first(14) {
                        Ok(header) => header[13],
                        // A first fragment may be as short as eight bytes; its flags are in no header we may trust.
                        Err(_) if matches!(fragment, Fragment::First(_)) && payload.is_whole() => 0,
                        Err(halt) => return Err(halt),
                    };
                }
                UDP => {
                    let ports = payload.first(4)?;
                    (key.src_port, key.dst_port) = (be16(ports, 0), be16(ports, 2));
                }
                ICMP | ICMPV6 => key.dst_port = be16(payload.first(2)?, 0),
                _ => {}
            }
        }
        Ok(Packet { key, link: self.link, bytes, tcp_flags, tos, fragment })
    }
}

/// What the IP header says, before the transport header is looked at.
struct Network {
    key: Key,
    bytes: u64,
    tos: u8,
    fragment: Fragment,
}

/// The bytes after an IP header that are both captured and inside the datagram.
#[derive(Clone, Copy)]
struct Payload<'a> {
    here: &'a [u8],
    /// Bytes of the datagram that follow `here` but were not captured.
    missing: usize,
}

impl<'a> Payload<'a> {
    /// The part of `datagram` from `header_len` to `total`; what follows is the link's padding.
    #[inline]
    fn new(datagram: &'a [u8], header_len: usize, total: usize) -> Result<Self, Ends> {
        let end = datagram.len().min(total);
        let here = datagram.get(header_len..end).ok_or(Ends)?;
        Ok(Self { here, missing: total - end })
    }

    /// The first `len` bytes. Without them the datagram is either not captured so far or too short for its header.
    #[inline]
    fn first(&self, len: usize) -> Result<&'a [u8], Halt> {
        match self.here.get(..len) {
            Some(bytes) => Ok(bytes),
            None if self.missing > 0 => Err(Halt::Ends),
            None => Err(Reject::BadLength.into()),
        }
    }

    /// Everything of the datagram was captured.
    fn is_whole(&self) -> bool {
        self.missing == 0
    }

    #[inline]
    fn skip(&self, len: usize) -> Result<Self, Halt> {
        self.first(len)?;
        Ok(Self { here: &self.here[len..], missing: self.missing })
    }
}

/// Skips the extension headers that RFC 8200 and RFC 4302 define. Every one has at least eight bytes, so a hostile chain is
/// no longer than the packet. ESP, mobility and unknown headers end the chain and are the protocol.
#[inline]
fn extension_headers(mut next: u8, mut rest: Payload) -> Result<(u8, Fragment, Payload), Halt> {
    let mut fragment = Fragment::No;
    loop {
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(rest.first(8)?[1]) + 1) * 8,
            AUTHENTICATION => (usize::from(rest.first(8)?[1]) + 2) * 4,
            FRAGMENT => {
                let header = rest.first(8)?;
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                match be16(header, 2) {
                    // An atomic fragment (RFC 6946) is a whole datagram.
                    place if place & 0xfff9 == 0 => {}
                    place if place & 0xfff8 == 0 => fragment = Fragment::First(id),
                    _ => return Ok((header[0], Fragment::Later(id), rest.skip(8)?)),
                }
                8
            }
            _ => return Ok((next, fragment, rest)),
        };
        let header = rest.first(8)?;
        next = header[0];
        rest = rest.skip(len)?;
    }
}

/// The length that a jumbo payload option states (RFC 2675), if the hop-by-hop header holds one.
fn jumbo_payload(after: &[u8]) -> Option<usize> {
    let len = (usize::from(*after.get(1)?) + 1) * 8;
    let mut options = after.get(2..len)?;
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [0xc2, 4, a, b, c, d, ..] => return Some(u32::from_be_bytes([*a, *b, *c, *d]) as usize),
            [_, len, rest @ ..] => options = rest.get(usize::from(*len)..)?,
            _ => return None,
        }
    }
}
