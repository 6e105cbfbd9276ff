//! Bytes of a frame → the flow key and counts of one packet.
//!
//! Decoded: the link types of [`LinkType`]; 802.1Q, 802.1ad and 0x9100 tags, PPPoE sessions and MPLS labels, at any depth and
//! in any mix; IPv4 with options; IPv6 with extension headers; the first bytes of TCP, UDP, ICMP and ICMPv6. A tunnel (GRE,
//! IP in IP, VXLAN, ESP) counts by its outer header.
//!
//! Every frame gives either a [`Packet`] or the [`Reject`] that says why not. Nothing is allocated, nothing panics whatever
//! the bytes are, and the work is bounded by the frame's length, because every step consumes bytes of it. Checksums are
//! never verified: a capture on the sending host sees packets whose checksums the hardware has yet to fill in.
//!
//! Of a frame that the capture cut, what is whole counts: once addresses and length are there it is a packet, with ports 0
//! and flags 0 where they were cut away.

use crate::flow::{Addr, Key, Link, Version};

mod wireless;

/// What a capture's frames begin with (the values of pcap's `LINKTYPE_`/`DLT_`, <https://www.tcpdump.org/linktypes.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// 1: Ethernet, also 802.3 with LLC and SNAP.
    Ethernet,
    /// 113: Linux cooked, version 1; the pseudo-interface `any`.
    LinuxSll,
    /// 276: Linux cooked, version 2.
    LinuxSll2,
    /// 12, 14, 101, 228, 229: IP from the first byte on.
    RawIp,
    /// 0, 108: a four-byte address family, in either byte order and of any system, then IP.
    Loopback,
    /// 9, 50: PPP, with or without HDLC's address and control before it; Cisco's HDLC in 50.
    Ppp,
    /// 166, 204: PPP behind a byte that tells the direction.
    PppDirected,
    /// 51: PPPoE from its session header on.
    PppEther,
    /// 104: Cisco's HDLC.
    CiscoHdlc,
    /// 100: LLC and SNAP.
    Llc,
    /// 6: IEEE 802.5.
    TokenRing,
    /// 10: FDDI.
    Fddi,
    /// 105: IEEE 802.11.
    Wireless,
    /// 127: IEEE 802.11 behind radiotap's header.
    Radiotap,
    /// 119, 163: IEEE 802.11 behind the header of Prism or AVS.
    Prism,
    /// 192: IEEE 802.11 or Ethernet behind a per-packet information header.
    Ppi,
}

impl LinkType {
    /// Every number that is decoded, and how.
    pub const NUMBERS: [(u32, Self); 24] = [
        (0, Self::Loopback),
        (1, Self::Ethernet),
        (6, Self::TokenRing),
        (9, Self::Ppp),
        (10, Self::Fddi),
        (12, Self::RawIp),
        (14, Self::RawIp),
        (50, Self::Ppp),
        (51, Self::PppEther),
        (100, Self::Llc),
        (101, Self::RawIp),
        (104, Self::CiscoHdlc),
        (105, Self::Wireless),
        (108, Self::Loopback),
        (113, Self::LinuxSll),
        (119, Self::Prism),
        (127, Self::Radiotap),
        (163, Self::Prism),
        (166, Self::PppDirected),
        (192, Self::Ppi),
        (204, Self::PppDirected),
        (228, Self::RawIp),
        (229, Self::RawIp),
        (276, Self::LinuxSll2),
    ];

    /// From the number in a capture file or of libpcap. `None`: not decoded here.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::NUMBERS.iter().find(|(have, _)| *have == number).map(|(_, link_type)| *link_type)
    }
}

/// Why a frame is not counted as a packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// No IP inside: ARP, LLDP, spanning tree, a PPP control packet, a pseudowire; or none that can be seen: encrypted or
    /// compressed, or several packets in one frame of 802.11.
    NotIp,
    /// The capture kept too few bytes of it for addresses and length; a larger `snaplen` helps.
    Cut,
    /// The frame itself ends within a header.
    Short,
    /// The IP version is not what the layer below says.
    BadVersion,
    /// The header's lengths contradict each other or the frame, or leave no room for the next header.
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
    /// The IP header's total length; for IPv6 the payload length + 40, or what a jumbogram's option states. Where the length
    /// is 0 (segmentation is left to the card, or a jumbogram without its option) the frame's own from the IP header on.
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
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// The longest IPv6 packet that needs no jumbo payload option, bytes.
const MOST_WITHOUT_OPTION: usize = 65_535 + 40;

/// Decodes one frame of which the capture kept `frame` and whose length on the wire was `wire_len` bytes.
///
/// # Errors
///
/// Why the frame makes no flow: it is not IP, or a header is cut off or contradicts itself.
#[inline]
pub fn decode(link_type: LinkType, frame: &[u8], wire_len: u32) -> Result<Packet, Reject> {
    // A capture file may claim a wire length below what it holds; the bytes at hand are the better witness.
    let cut_off = (wire_len as usize).saturating_sub(frame.len());
    let mut decoder = Decoder::new(cut_off);
    match decoder.frame(link_type, frame) {
        Ok(packet) => Ok(packet),
        Err(Halt::Because(reason)) => Err(reason),
        Err(Halt::Ends) if cut_off > 0 => Err(Reject::Cut),
        Err(Halt::Ends) => Err(Reject::Short),
    }
}

#[derive(Clone)]
struct Decoder {
    link: Link,
    tagged: bool,
    /// Bytes of the frame that the capture did not keep.
    cut_off: usize,
    /// What there was of the datagram on the wire, padding and all, and what its header states; of the last one met.
    on_wire: usize,
    stated: usize,
}

impl Decoder {
    #[inline]
    fn new(cut_off: usize) -> Self {
        Self { link: Link::default(), tagged: false, cut_off, on_wire: 0, stated: 0 }
    }

    #[inline]
    fn frame(&mut self, link_type: LinkType, frame: &[u8]) -> Result<Packet, Halt> {
        match link_type {
            LinkType::Ethernet => {
                let (header, rest) = take::<14>(frame)?;
                self.link.dst_mac.copy_from_slice(&header[0..6]);
                self.link.src_mac.copy_from_slice(&header[6..12]);
                self.ethertype(be16(header, 12), rest)
            }
            LinkType::RawIp => self.ip_by_version(frame),
            LinkType::LinuxSll => {
                let (header, rest) = take::<16>(frame)?;
                self.cooked_mac(be16(header, 4), &header[6..12]);
                self.cooked(be16(header, 14), rest)
            }
            LinkType::LinuxSll2 => {
                let (header, rest) = take::<20>(frame)?;
                self.link.iface = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                self.cooked_mac(u16::from(header[11]), &header[12..18]);
                self.cooked(be16(header, 0), rest)
            }
            other => self.rarer(other, frame),
        }
    }

    /// The link types that no interface of a usual probe has.
    #[cold]
    fn rarer(&mut self, link_type: LinkType, frame: &[u8]) -> Result<Packet, Halt> {
        match link_type {
            LinkType::Loopback => {
                let (family, rest) = take::<4>(frame)?;
                let family = if family[0] == 0 { u32::from_be_bytes(*family) } else { u32::from_le_bytes(*family) };
                match family {
                    // IPv6 is 10 on Linux, 23 on Windows, 24 on NetBSD and OpenBSD, 26 on Solaris, 28 on FreeBSD, 30 on macOS.
                    2 | 10 | 23 | 24 | 26 | 28 | 30 => self.ip_by_version(rest),
                    _ => Err(Reject::NotIp.into()),
                }
            }
            LinkType::Ppp => match frame {
                // Cisco's HDLC to one station or to all; no protocol of PPP begins so.
                [0x0f | 0x8f, 0, ..] => self.cisco(frame),
                _ => self.ppp_framed(frame),
            },
            LinkType::PppDirected => match take::<1>(frame)?.1 {
                // The direction stands in the place of HDLC's address.
                [3, rest @ ..] => self.ppp(rest),
                rest => self.ppp_framed(rest),
            },
            LinkType::PppEther => self.pppoe(frame),
            LinkType::CiscoHdlc => self.cisco(frame),
            LinkType::Llc => self.llc(frame),
            LinkType::TokenRing => {
                let (header, rest) = take::<14>(frame)?;
                self.link.dst_mac.copy_from_slice(&header[2..8]);
                self.link.src_mac.copy_from_slice(&header[8..14]);
                // The first bit of the source tells of a routing field, whose first five bits are its length.
                let routed = header[8] & 0x80 != 0;
                self.link.src_mac[0] &= 0x7f;
                let routing = if routed { usize::from(rest.first().ok_or(Ends)? & 0x1f) } else { 0 };
                match header[1] >> 6 {
                    1 => self.llc(rest.get(routing..).ok_or(Ends)?),
                    _ => Err(Reject::NotIp.into()),
                }
            }
            LinkType::Fddi => {
                let (header, rest) = take::<13>(frame)?;
                self.link.dst_mac.copy_from_slice(&header[1..7]);
                self.link.src_mac.copy_from_slice(&header[7..13]);
                match header[0] & 0xf0 {
                    0x50 | 0xd0 => self.llc(rest),
                    _ => Err(Reject::NotIp.into()),
                }
            }
            wireless => self.wireless(wireless, frame),
        }
    }

    /// The sender's address of a cooked header, when it has the length of a MAC address.
    fn cooked_mac(&mut self, len: u16, address: &[u8]) {
        if len == 6 {
            self.link.src_mac.copy_from_slice(address);
        }
    }

    /// What is behind a cooked header. Linux from 6.11 on names there the protocol behind all tags, also where tags still
    /// stand before it: of a received frame it has taken off the outermost only, which libpcap may have put back.
    fn cooked(&mut self, mut ethertype: u16, mut rest: &[u8]) -> Result<Packet, Halt> {
        while is_tag(ethertype) {
            let (tag, inner) = take::<4>(rest)?;
            self.tag(be16(tag, 0));
            ethertype = be16(tag, 2);
            rest = inner;
        }
        match hidden_tags(ethertype, rest) {
            None => self.ethertype(ethertype, rest),
            Some(len) => self.tagged_or_not(ethertype, rest, len),
        }
    }

    /// `rest` may be a datagram or begin with `len` bytes of tags: the reading whose length is that of the frame is right, and
    /// where neither is, none is believed.
    #[cold]
    fn tagged_or_not(&mut self, ethertype: u16, rest: &[u8], len: usize) -> Result<Packet, Halt> {
        let mut bare = self.clone();
        let plain = bare.ethertype(ethertype, rest);
        // Where libpcap has not put the outermost tag back, it is nowhere, and these are no substitute for it.
        self.tagged = true;
        let behind = self.ethertype(ethertype, &rest[len..]);
        match (plain, behind) {
            (Ok(plain), _) if bare.fits() => Ok(plain),
            (Ok(_), Ok(behind)) if self.fits() => Ok(behind),
            (Ok(_), Ok(_)) => Err(Reject::BadLength.into()),
            (_, behind) => behind,
        }
    }

    /// The datagram's stated length is that of the frame, to a smallest frame's padding or a check sequence.
    fn fits(&self) -> bool {
        let beyond = self.on_wire.checked_sub(self.stated);
        self.stated != 0 && beyond.is_some_and(|beyond| beyond == 0 || beyond == 4 || self.on_wire <= 46)
    }

    /// The outermost tag counts.
    #[inline]
    fn tag(&mut self, control: u16) {
        if !self.tagged {
            self.link.vlan = control & 0x0fff;
            self.link.cos = (control >> 13) as u8;
            self.tagged = true;
        }
    }

    /// Walks tags, PPPoE and MPLS down to the IP header.
    #[inline]
    fn ethertype(&mut self, mut ethertype: u16, mut rest: &[u8]) -> Result<Packet, Halt> {
        loop {
            match ethertype {
                ETHERTYPE_IPV4 => return self.ipv4(rest),
                ETHERTYPE_IPV6 => return self.ipv6(rest),
                tag if is_tag(tag) => {
                    let (tag, inner) = take::<4>(rest)?;
                    self.tag(be16(tag, 0));
                    ethertype = be16(tag, 2);
                    rest = inner;
                }
                0x8864 => return self.pppoe(rest),
                0x8847 | 0x8848 => return self.mpls(rest),
                // A length (IEEE 802.3).
                0..=1500 => return self.llc(rest),
                _ => return Err(Reject::NotIp.into()),
            }
        }
    }

    /// IEEE 802.2, with SNAP (RFC 1042, and 802.1H where that may not carry a type) or IP's own service access point.
    #[cold]
    fn llc(&mut self, frame: &[u8]) -> Result<Packet, Halt> {
        let (header, rest) = take::<3>(frame)?;
        match header {
            [0xaa, 0xaa, 3] => {
                let (snap, rest) = take::<5>(rest)?;
                match (&snap[..3], be16(snap, 3)) {
                    // A length there would begin this again.
                    ([0, 0, 0 | 0xf8], ethertype @ 1501..) => self.ethertype(ethertype, rest),
                    _ => Err(Reject::NotIp.into()),
                }
            }
            [6, 6, 3] => self.ipv4(rest),
            _ => Err(Reject::NotIp.into()),
        }
    }

    /// A PPPoE session (RFC 2516): version 1, type 1, code 0; then PPP.
    fn pppoe(&mut self, frame: &[u8]) -> Result<Packet, Halt> {
        let (header, rest) = take::<6>(frame)?;
        match header {
            [0x11, 0, ..] => self.ppp(rest),
            _ => Err(Reject::NotIp.into()),
        }
    }

    /// PPP in HDLC's framing (RFC 1662), whose address and control may be left out.
    fn ppp_framed(&mut self, frame: &[u8]) -> Result<Packet, Halt> {
        match frame {
            [0xff, 3, rest @ ..] => self.ppp(rest),
            _ => self.ppp(frame),
        }
    }

    /// PPP's protocol (RFC 1661), of which one byte may stand for two, and what follows.
    fn ppp(&mut self, frame: &[u8]) -> Result<Packet, Halt> {
        let (protocol, rest) = match frame {
            [byte, rest @ ..] if byte & 1 == 1 => (u16::from(*byte), rest),
            _ => {
                let (protocol, rest) = take::<2>(frame)?;
                (be16(protocol, 0), rest)
            }
        };
        match protocol {
            0x0021 => self.ipv4(rest),
            0x0057 => self.ipv6(rest),
            0x0281 | 0x0283 => self.mpls(rest),
            _ => Err(Reject::NotIp.into()),
        }
    }

    fn cisco(&mut self, frame: &[u8]) -> Result<Packet, Halt> {
        let (header, rest) = take::<4>(frame)?;
        match be16(header, 2) {
            // Cisco's own keep-alives are no length.
            0..=1500 => Err(Reject::NotIp.into()),
            ethertype => self.ethertype(ethertype, rest),
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
        (self.on_wire, self.stated) = (datagram.len() + self.cut_off, total);
        let bytes = if total == 0 { self.on_wire } else { total };
        let payload = self.payload(datagram, header_len, bytes)?;

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
        let next = header[6];
        self.on_wire = datagram.len() + self.cut_off;
        self.stated = match usize::from(be16(header, 4)) {
            0 if next == HOP_BY_HOP => jumbo_payload(after).map_or(0, |jumbo| jumbo + 40),
            0 => 0,
            stated => stated + 40,
        };
        let bytes = match self.stated {
            // Nothing follows, and what is there is padding.
            0 if next == NO_NEXT_HEADER => 40,
            0 => self.on_wire,
            // Anybody can state four billion bytes.
            jumbo if jumbo > MOST_WITHOUT_OPTION && jumbo > self.on_wire => return Err(Reject::BadLength.into()),
            stated => stated,
        };
        let mut address = [0; 16];
        address.copy_from_slice(&header[8..24]);
        let src = Addr::v6(address);
        address.copy_from_slice(&header[24..40]);
        let dst = Addr::v6(address);
        let payload = self.payload(datagram, 40, bytes)?;
        let (proto, fragment, payload) = extension_headers(next, payload, self.cut_off > 0)?;
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
                    if let Some(ports) = self.whole(payload.first(4))? {
                        (key.src_port, key.dst_port) = (be16(ports, 0), be16(ports, 2));
                    }
                    tcp_flags = match payload.first(14) {
                        Ok(header) => header[13],
                        // A first fragment may be as short as eight bytes; its flags are in no header we may trust.
                        Err(_) if matches!(fragment, Fragment::First(_)) && payload.is_whole() => 0,
                        cut => self.whole(cut)?.map_or(0, |header| header[13]),
                    };
                }
                UDP => {
                    if let Some(ports) = self.whole(payload.first(4))? {
                        (key.src_port, key.dst_port) = (be16(ports, 0), be16(ports, 2));
                    }
                }
                ICMP | ICMPV6 => {
                    if let Some(header) = self.whole(payload.first(2))? {
                        key.dst_port = be16(header, 0);
                    }
                }
                _ => {}
            }
        }
        Ok(Packet { key, link: self.link, bytes, tcp_flags, tos, fragment })
    }

    /// Nothing, where the bytes were cut away by the capture and not missing on the wire.
    #[inline]
    fn whole<'a>(&self, found: Result<&'a [u8], Halt>) -> Result<Option<&'a [u8]>, Halt> {
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Halt::Ends) if self.cut_off > 0 => Ok(None),
            Err(halt) => Err(halt),
        }
    }

    /// The part of `datagram` from `header_len` to `total`; what follows is the link's padding.
    #[inline]
    fn payload<'a>(&self, datagram: &'a [u8], header_len: usize, total: usize) -> Result<Payload<'a>, Ends> {
        let end = datagram.len().min(total);
        let here = match datagram.get(header_len..end) {
            Some(here) => here,
            None if self.cut_off > 0 => &[],
            None => return Err(Ends),
        };
        Ok(Payload { here, missing: total - end })
    }
}

#[inline]
fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// The length of the tags that `rest` may begin with, when the last of them names `ethertype`.
fn hidden_tags(ethertype: u16, rest: &[u8]) -> Option<usize> {
    let mut after = rest;
    loop {
        let (tag, inner) = after.split_first_chunk::<4>()?;
        after = inner;
        match be16(tag, 2) {
            named if named == ethertype => return Some(rest.len() - after.len()),
            named if is_tag(named) => {}
            _ => return None,
        }
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
/// no longer than the packet. ESP, mobility and unknown headers end the chain and are the protocol; so is, where the
/// capture cut the frame, what the last header names of which anything was kept.
#[inline]
fn extension_headers(mut next: u8, mut rest: Payload, is_cut: bool) -> Result<(u8, Fragment, Payload), Halt> {
    let mut fragment = Fragment::No;
    loop {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT) {
            return Ok((next, fragment, rest));
        }
        let header = match rest.first(8) {
            Ok(header) => header,
            // What follows is named by the first byte.
            Err(Halt::Ends) if is_cut => {
                let next = rest.here.first().copied().unwrap_or(next);
                return Ok((next, fragment, Payload { here: &[], missing: rest.missing }));
            }
            Err(halt) => return Err(halt),
        };
        let len = match next {
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            FRAGMENT => {
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                match be16(header, 2) {
                    // An atomic fragment (RFC 6946) is a whole datagram.
                    place if place & 0xfff9 == 0 => {}
                    place if place & 0xfff8 == 0 => fragment = Fragment::First(id),
                    _ => return Ok((header[0], Fragment::Later(id), rest.skip(8)?)),
                }
                8
            }
            _ => (usize::from(header[1]) + 1) * 8,
        };
        next = header[0];
        rest = match rest.skip(len) {
            // Nothing of what follows was kept.
            Err(Halt::Ends) if is_cut => return Ok((next, fragment, Payload { here: &[], missing: rest.missing })),
            skipped => skipped?,
        };
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
