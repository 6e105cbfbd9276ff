//! Packets whose truth is known because they were built from it: nothing here decodes a byte.
//!
//! [`Maker`] builds every header stack that embedded capture decodes, fragments in any order and incomplete ones, extension
//! headers, stamps out of order, cut and malformed frames. Each comes with what a right count says of it. Its numbers come
//! from a seed, so a failing run can be repeated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Xorshift; good enough to choose test packets.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A direction, as rows name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
    pub proto: u8,
}

impl Way {
    pub fn back(self) -> Self {
        let Self { src, dst, src_port, dst_port, proto } = self;
        Self { src: dst, dst: src, src_port: dst_port, dst_port: src_port, proto }
    }
}

/// What a right count says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub way: Way,
    pub bytes: u64,
    pub tcp_flags: u8,
    pub tos: u8,
    pub link: Below,
}

/// What the headers below IP say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Below {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub vlan: u16,
    pub cos: u8,
    pub iface: u32,
}

/// A frame with its truth: a packet of a flow, or the name of the reason why it is none.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Microseconds since 1970.
    pub micros: u64,
    /// The number of the link type in capture files.
    pub link_type: u32,
    pub bytes: Vec<u8>,
    pub wire_len: u32,
    pub truth: Result<Counted, &'static str>,
    /// What in it pmacctd 1.7.7 is known to count otherwise.
    pub beyond: Vec<Beyond>,
}

/// Where pmacctd 1.7.7 and nfacctd count otherwise than the truth; each was seen with the daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Beyond {
    /// A tag of type 0x88a8 is not decoded (1.7.9 does).
    ServiceTag,
    /// A tag of type 0x9100 is not decoded.
    OldServiceTag,
    /// Two and more MPLS labels are decoded for some label values only.
    Labels,
    /// Labels in PPPoE are not decoded.
    LabelsInPppoe,
    /// Tags, PPPoE and labels behind a Linux cooked header.
    Cooked,
    /// A total length of 0 counts as 0 bytes.
    NoLength,
    /// Bytes of TCP's and ICMP's later fragments are taken for flags and for type and code.
    LaterFragment,
    /// Later fragments whose first one never comes.
    NoFirst,
    /// A last fragment with less than four bytes, where the ports of a first one would be.
    ShortLast,
    /// Destination options in the fragmented part.
    OptionsInFragments,
}

pub const ETHERNET: u32 = 1;
pub const LINUX_SLL: u32 = 113;
pub const LINUX_SLL2: u32 = 276;
pub const RAW: u32 = 101;
pub const LOOPBACK: u32 = 0;
/// Every link type that is decoded, once; those that begin with IP have one number here.
pub const LINK_TYPES: [u32; 19] =
    [ETHERNET, LINUX_SLL, LINUX_SLL2, RAW, LOOPBACK, 9, 50, 51, 166, 204, 104, 100, 6, 10, 105, 127, 119, 163, 192];

/// What to make; all `true` makes everything.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a test")]
pub struct Kinds {
    /// Fragmented datagrams.
    pub fragments: bool,
    /// Frames that are not counted.
    pub rejects: bool,
    /// Stamps up to a second behind the frame before.
    pub disorder: bool,
    /// Stacks and lengths that pmacctd 1.7.7 counts differently or not at all.
    pub beyond_pmacct: bool,
}

pub const EVERYTHING: Kinds = Kinds { fragments: true, rejects: true, disorder: true, beyond_pmacct: true };

pub struct Maker {
    rng: Rng,
    kinds: Kinds,
    link_types: Vec<u32>,
    micros: u64,
    next_id: u32,
    hosts: u64,
    out: Vec<Sent>,
    /// For the frame being made.
    beyond: Vec<Beyond>,
}

/// A packet before it is put on a link.
struct Datagram {
    way: Way,
    tos: u8,
    flags: u8,
    /// From the IP header on.
    bytes: Vec<u8>,
    stated: u64,
    /// Bytes from the start of the IP header that a capture must keep.
    needed: usize,
}

impl Maker {
    pub fn new(seed: u64, kinds: Kinds, link_types: &[u32]) -> Self {
        Self {
            rng: Rng::new(seed),
            kinds,
            link_types: link_types.to_vec(),
            micros: 1_700_000_000_123_456,
            next_id: 1,
            hosts: 12,
            out: Vec::new(),
            beyond: Vec::new(),
        }
    }

    /// With so many hosts a side; fewer make more packets a flow.
    pub fn hosts(mut self, hosts: u64) -> Self {
        self.hosts = hosts;
        self
    }

    /// Makes at least `count` frames.
    pub fn make(mut self, count: usize) -> Vec<Sent> {
        while self.out.len() < count {
            match self.rng.below(20) {
                0 | 1 if self.kinds.fragments => self.fragmented(),
                2 if self.kinds.rejects => self.reject(),
                _ => self.whole(),
            }
        }
        self.out
    }

    /// One whole packet of this direction.
    pub fn of(mut self, way: Way) -> Sent {
        self.packet(way);
        self.out.remove(0)
    }

    /// Time goes on by up to 20 ms, and now and then by a second or half a minute.
    fn tick(&mut self) -> u64 {
        self.micros += match self.rng.below(400) {
            0 => 1_000_000 + self.rng.below(25_000_000),
            1..5 => self.rng.below(1_500_000),
            _ => 1 + self.rng.below(20_000),
        };
        if self.kinds.disorder && self.rng.once_in(20) { self.micros - self.rng.below(1_000_000) } else { self.micros }
    }

    fn way(&mut self) -> Way {
        let (a, b) = (self.rng.below(self.hosts), self.rng.below(self.hosts));
        let address = |n: u64, net: u8, v6: bool| -> IpAddr {
            if v6 {
                Ipv6Addr::new(0x2001, 0xdb8, u16::from(net), 0, 0, if n == 3 { 0 } else { 0x1234 }, 0, n as u16).into()
            } else {
                Ipv4Addr::new(10, net, (n * 37) as u8, n as u8).into()
            }
        };
        let v6 = self.rng.once_in(3);
        let (src, dst) = (address(a, 1, v6), address(b, 2, v6));
        let proto = match self.rng.below(20) {
            0..9 => 6,
            9..16 => 17,
            16 | 17 => {
                if v6 {
                    58
                } else {
                    1
                }
            }
            18 => 132,
            _ => self.rng.pick(&[47, 50, 89]),
        };
        let (src_port, dst_port) = match proto {
            6 | 17 => (1024 + self.rng.below(4) as u16, self.rng.pick(&[53, 80, 443, 65_535])),
            1 => (0, self.rng.pick(&[8 * 256, 0, 3 * 256 + 3])),
            58 => (0, self.rng.pick(&[128 * 256, 129 * 256])),
            _ => (0, 0),
        };
        let way = Way { src, dst, src_port, dst_port, proto };
        // An ICMP answer is not its question turned round: type and code stay in the destination port.
        match proto {
            1 | 58 if self.rng.once_in(2) => Way { src: dst, dst: src, ..way },
            1 | 58 => way,
            _ if self.rng.once_in(2) => way.back(),
            _ => way,
        }
    }

    /// Length of a transport payload: none, small, usual, jumbo.
    fn payload_len(&mut self) -> usize {
        let most = if self.kinds.beyond_pmacct { 9_000 } else { 1_400 };
        match self.rng.below(8) {
            0 => 0,
            1..4 => self.rng.below(40) as usize,
            4..7 => self.rng.below(1400) as usize,
            _ => self.rng.below(most) as usize,
        }
    }

    /// A transport segment, its flags, and how much of it must be captured.
    fn segment(&mut self, way: Way, len: usize) -> (Vec<u8>, u8, usize) {
        let mut segment = Vec::new();
        let mut flags = 0;
        let needed = match way.proto {
            6 => {
                flags = self.rng.pick(&[0x02, 0x12, 0x10, 0x18, 0x18, 0x11, 0x04, 0xc2]);
                segment.extend(way.src_port.to_be_bytes());
                segment.extend(way.dst_port.to_be_bytes());
                segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 1, 0, 0, 0, 0]);
                14
            }
            17 => {
                segment.extend(way.src_port.to_be_bytes());
                segment.extend(way.dst_port.to_be_bytes());
                segment.extend((8 + len as u16).to_be_bytes());
                segment.extend([0, 0]);
                8
            }
            1 | 58 => {
                segment.extend(way.dst_port.to_be_bytes());
                segment.extend([0, 0, 0, 1, 0, 2]);
                8
            }
            _ => {
                segment.extend([0x30; 8]);
                0
            }
        };
        segment.extend((0..len).map(|n| (n * 7) as u8 | 0x40));
        (segment, flags, needed)
    }

    fn whole(&mut self) {
        let way = self.way();
        self.packet(way);
    }

    fn packet(&mut self, way: Way) {
        let len = self.payload_len();
        let (segment, flags, needed) = self.segment(way, len);
        let tos = self.tos();
        let datagram = if way.src.is_ipv4() {
            let options = if self.rng.once_in(6) { self.rng.below(11) as usize } else { 0 };
            let mut datagram = ipv4(way, tos, options, Place::default(), &segment);
            if self.kinds.beyond_pmacct && self.rng.once_in(40) {
                // Segmentation that the card is still to do: a length of 0 stands for all there is.
                datagram.bytes[2..4].fill(0);
                self.beyond.push(Beyond::NoLength);
            }
            datagram
        } else {
            let extensions = self.extensions();
            ipv6(way, tos, &extensions, None, &segment)
        };
        let needed = datagram.needed + needed;
        self.send(&Datagram { flags, needed, ..datagram });
    }

    /// An IPv6 flow's traffic class is never exported by pmacct, so a comparison keeps it 0.
    fn tos(&mut self) -> u8 {
        self.rng.pick(&[0, 0, 0x28, 0xb8, 0x03])
    }

    /// Extension headers before the transport header: (type, bytes).
    fn extensions(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut chain = Vec::new();
        if self.rng.once_in(3) {
            for kind in [0u8, 60, 43, 51] {
                if self.rng.once_in(3) {
                    let body = if kind == 51 {
                        [vec![0, 4], vec![0; 22]].concat()
                    } else {
                        let words = self.rng.below(4) as u8;
                        [vec![0, words, 1, 4 + words * 8], vec![0; 4 + usize::from(words) * 8]].concat()
                    };
                    chain.push((kind, body));
                }
            }
        }
        chain
    }

    /// A datagram in two to six fragments, some lost, in any order, other packets between them.
    fn fragmented(&mut self) {
        let mut way = self.way();
        // pmacctd takes bytes of later fragments for TCP's flags and ICMP's type.
        let wanted: &[u8] = if self.kinds.beyond_pmacct { &[1, 6, 17, 58] } else { &[17] };
        while !wanted.contains(&way.proto) {
            way = self.way();
        }
        let len = 1000 + self.rng.below(6000) as usize;
        let (segment, flags, needed) = self.segment(way, len);
        let tos = self.tos();
        let id = self.next_id;
        self.next_id += 1;
        // Now and then the first fragment is as small as one may be; TCP's flags are then not in it.
        let tiny = self.kinds.beyond_pmacct && self.rng.once_in(8);
        let behind = self.kinds.beyond_pmacct && way.src.is_ipv6() && self.rng.once_in(4);
        let mut body = if behind { [vec![way.proto, 0, 1, 4, 0, 0, 0, 0], segment].concat() } else { segment };
        let head = if behind { 8 } else { 0 };
        let first_len = if tiny { 8 + head } else { 400 };
        let mut cuts = vec![0, first_len];
        while cuts[cuts.len() - 1] + 1480 < body.len() {
            cuts.push(cuts[cuts.len() - 1] + 1480);
        }
        if !self.kinds.beyond_pmacct {
            body.resize(cuts[cuts.len() - 1] + 4, 0x55);
        }
        cuts.push(body.len());
        let mut pieces: Vec<(usize, usize)> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let last = pieces.len() - 1;
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        if self.rng.once_in(2) {
            for at in (1..order.len()).rev() {
                order.swap(at, self.rng.below(at as u64 + 1) as usize);
            }
        }
        if self.kinds.beyond_pmacct && self.rng.once_in(3) {
            order.remove(self.rng.below(order.len() as u64) as usize);
        }
        let has_first = order.contains(&0);
        let next = if behind { 60 } else { way.proto };
        let counted = if has_first { way } else { Way { src_port: 0, dst_port: 0, proto: next, ..way } };
        for at in order {
            let (from, to) = std::mem::take(&mut pieces[at]);
            let place = Place { id, offset: from, more: at != last };
            let datagram = if way.src.is_ipv4() {
                ipv4(way, tos, 0, place, &body[from..to])
            } else {
                let header = Some((place, next));
                ipv6(way, tos, &[], header, &body[from..to])
            };
            let flags = if from == 0 && !tiny { flags } else { 0 };
            for (beyond, is_so) in [
                (Beyond::LaterFragment, from > 0 && way.proto != 17),
                (Beyond::NoFirst, !has_first),
                (Beyond::ShortLast, to - from < 4),
                (Beyond::OptionsInFragments, behind),
            ] {
                if is_so {
                    self.beyond.push(beyond);
                }
            }
            let wanted = if from == 0 { (head + needed).min(to) } else { 0 };
            let needed = datagram.needed + wanted;
            self.send(&Datagram { way: counted, flags, needed, ..datagram });
            if self.rng.once_in(3) {
                self.whole();
            }
        }
    }

    /// Puts a datagram on a link.
    fn send(&mut self, datagram: &Datagram) {
        let link_type = self.rng.pick(&self.link_types.clone());
        let (mut bytes, link) = self.link(link_type, datagram.way.src.is_ipv6());
        let head = bytes.len();
        if matches!(link_type, LINUX_SLL | LINUX_SLL2) && head > 20 {
            self.beyond.push(Beyond::Cooked);
        }
        bytes.extend(&datagram.bytes);
        if link_type == ETHERNET && bytes.len() < 60 {
            bytes.resize(60, 0);
        }
        let mut wire_len = bytes.len() as u32;
        // A length of 0 stands for what is on the wire, padding and all.
        let stated_zero = datagram.way.src.is_ipv4() && datagram.bytes[2..4] == [0, 0];
        let counted_bytes = if stated_zero { (bytes.len() - head) as u64 } else { datagram.stated };
        if self.rng.once_in(3) {
            let kept = (head + datagram.needed).max(bytes.len().min(128));
            bytes.truncate(kept.min(bytes.len()));
        } else if self.rng.once_in(30) {
            // Check sequence at the end of the frame, which some captures keep.
            bytes.extend([1, 2, 3, 4]);
            wire_len += 4;
        }
        let counted_bytes = if stated_zero { u64::from(wire_len) - head as u64 } else { counted_bytes };
        let truth =
            Counted { way: datagram.way, bytes: counted_bytes, tcp_flags: datagram.flags, tos: datagram.tos, link };
        let micros = self.tick();
        let beyond = std::mem::take(&mut self.beyond);
        self.out.push(Sent { micros, link_type, bytes, wire_len, truth: Ok(truth), beyond });
    }

    /// The bytes before an IP header.
    fn link(&mut self, link_type: u32, v6: bool) -> (Vec<u8>, Below) {
        let mut link = Below::default();
        let mac = |n: u64| [2, 0, 0, 0, 0, n as u8];
        let mut bytes = Vec::new();
        match link_type {
            RAW => return (bytes, link),
            LOOPBACK => {
                let family: u32 = if v6 { self.rng.pick(&[24, 28, 30]) } else { 2 };
                bytes.extend(if self.rng.once_in(2) { family.to_le_bytes() } else { family.to_be_bytes() });
                return (bytes, link);
            }
            ETHERNET | LINUX_SLL | LINUX_SLL2 => {}
            rarer => return self.rarer_link(rarer, v6),
        }
        let (stack, final_type) = match link_type {
            // pmacctd looks for tags behind Ethernet only.
            LINUX_SLL if !self.kinds.beyond_pmacct => (Vec::new(), if v6 { 0x86dd } else { 0x0800 }),
            _ => self.stack(&mut link, v6),
        };
        link.src_mac = mac(self.rng.below(3));
        match link_type {
            ETHERNET => {
                link.dst_mac = mac(10 + self.rng.below(3));
                bytes.extend(link.dst_mac);
                bytes.extend(link.src_mac);
                bytes.extend(final_type.to_be_bytes());
            }
            LINUX_SLL => {
                bytes.extend([0, 0, 0, 1, 0, 6]);
                bytes.extend(link.src_mac);
                bytes.extend([0, 0]);
                bytes.extend(final_type.to_be_bytes());
            }
            LINUX_SLL2 => {
                link.iface = 1 + self.rng.below(3) as u32;
                bytes.extend(final_type.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(link.iface.to_be_bytes());
                bytes.extend([0, 1, 0, 6]);
                bytes.extend(link.src_mac);
                bytes.extend([0, 0]);
            }
            other => unreachable!("link type {other}"),
        }
        bytes.extend(stack);
        (bytes, link)
    }

    /// The bytes before an IP header on links that a usual probe does not have.
    fn rarer_link(&mut self, link_type: u32, v6: bool) -> (Vec<u8>, Below) {
        let mut link = Below { src_mac: [2, 0, 0, 0, 0, self.rng.below(3) as u8], ..Below::default() };
        link.dst_mac = [2, 0, 0, 0, 0, 10 + self.rng.below(3) as u8];
        let (ethertype, ppp): ([u8; 2], u8) = if v6 { ([0x86, 0xdd], 0x57) } else { ([8, 0], 0x21) };
        let cisco = [&[self.rng.pick(&[0x0f, 0x8f]), 0][..], &ethertype].concat();
        // The protocol in two bytes, or in one.
        let ppp = if self.rng.once_in(4) { vec![ppp] } else { vec![0, ppp] };
        let framed = if self.rng.once_in(2) { [&[0xff, 3][..], &ppp].concat() } else { ppp.clone() };
        let llc = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &ethertype].concat();
        let macs = [link.dst_mac, link.src_mac].concat();
        let bytes = match link_type {
            50 if self.rng.once_in(2) => cisco,
            9 | 50 => framed,
            51 => [&[0x11, 0, 0, 1, 5, 220][..], &ppp].concat(),
            166 => [&[self.rng.pick(&[0, 1]), 3, 0][..], &ppp[ppp.len() - 1..]].concat(),
            204 => [vec![self.rng.pick(&[0, 1])], framed].concat(),
            104 => cisco,
            100 => return (llc, Below::default()),
            10 => return ([vec![0x50], macs, llc].concat(), link),
            6 => {
                let (mut macs, mut routing) = (macs, Vec::new());
                if self.rng.once_in(2) {
                    macs[6] |= 0x80;
                    routing = vec![6, 0, 0, 17, 0, 32];
                }
                return ([vec![0x10, 0x40], macs, routing, llc].concat(), link);
            }
            _ => {
                let before = match link_type {
                    // Without fields; with a time and flags.
                    127 if self.rng.once_in(2) => vec![0, 0, 8, 0, 0, 0, 0, 0],
                    127 => vec![0, 0, 17, 0, 3, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0],
                    119 => [&[0x44, 0, 0, 0, 144, 0, 0, 0][..], &[0; 136]].concat(),
                    163 => [&[0x80, 0x21, 0x10, 1, 0, 0, 0, 64][..], &[0; 56]].concat(),
                    192 => vec![0, 0, 8, 0, 105, 0, 0, 0],
                    _ => Vec::new(),
                };
                return ([before, self.wireless(&link), llc].concat(), link);
            }
        };
        (bytes, Below::default())
    }

    /// The header of an 802.11 data frame, one of its four kinds, with or without quality of service.
    fn wireless(&mut self, link: &Below) -> Vec<u8> {
        let kind = self.rng.below(4) as u8;
        let quality = self.rng.once_in(2);
        let station = [2, 0, 0, 0, 0, 77];
        let [first, second, third] = match kind {
            0 => [link.dst_mac, link.src_mac, station],
            1 => [station, link.src_mac, link.dst_mac],
            2 => [link.dst_mac, station, link.src_mac],
            _ => [station, station, link.dst_mac],
        };
        let mut bytes = vec![if quality { 0x88 } else { 8 }, kind, 0, 0];
        bytes.extend([first, second, third].concat());
        bytes.extend([0x10, 0]);
        if kind == 3 {
            bytes.extend(link.src_mac);
        }
        if quality {
            bytes.extend([0, 0]);
        }
        bytes
    }

    /// Tags, PPPoE and labels between the link header and IP, and the type of the first of them.
    fn stack(&mut self, link: &mut Below, v6: bool) -> (Vec<u8>, u16) {
        let ip_type: u16 = if v6 { 0x86dd } else { 0x0800 };
        let mut bytes = Vec::new();
        let mut types = Vec::new();
        let tags = if self.rng.once_in(3) { 1 + self.rng.below(4) } else { 0 };
        for depth in 0..tags {
            let kinds: &[u16] = if self.kinds.beyond_pmacct { &[0x8100, 0x88a8, 0x9100] } else { &[0x8100] };
            let (vlan, cos) = (1 + self.rng.below(4094) as u16, self.rng.below(8) as u8);
            if depth == 0 {
                (link.vlan, link.cos) = (vlan, cos);
            }
            types.push((self.rng.pick(kinds), Some(u16::from(cos) << 13 | vlan)));
        }
        let labels = match self.rng.below(9) {
            0 => 1 + self.rng.below(if self.kinds.beyond_pmacct { 5 } else { 1 }),
            _ => 0,
        };
        let pppoe = self.rng.once_in(10) && (self.kinds.beyond_pmacct || (tags == 0 && labels == 0));
        let mut inner = Vec::new();
        let mut final_type = ip_type;
        if labels > 0 && (self.kinds.beyond_pmacct || tags == 0) {
            final_type = 0x8847;
            for depth in 0..labels {
                let bottom = u32::from(depth + 1 == labels) << 8;
                inner.extend(((16 + self.rng.below(1000) as u32) << 12 | bottom | 64).to_be_bytes());
            }
        }
        if pppoe {
            let protocol: u16 = match final_type {
                0x0800 => 0x0021,
                0x86dd => 0x0057,
                _ => 0x0281,
            };
            inner.splice(0..0, [&[0x11, 0, 0, 1, 5, 220][..], &protocol.to_be_bytes()].concat());
            final_type = 0x8864;
        }
        for at in 0..types.len() {
            let following = types.get(at + 1).map_or(final_type, |(kind, _)| *kind);
            bytes.extend(types[at].1.unwrap_or(0).to_be_bytes());
            bytes.extend(following.to_be_bytes());
        }
        let outer = types.first().map_or(final_type, |(kind, _)| *kind);
        let has = |wanted: u16| types.iter().any(|(kind, _)| *kind == wanted);
        for (beyond, is_so) in [
            (Beyond::ServiceTag, has(0x88a8)),
            (Beyond::OldServiceTag, has(0x9100)),
            (Beyond::Labels, labels > 1),
            (Beyond::LabelsInPppoe, labels > 0 && pppoe),
        ] {
            if is_so {
                self.beyond.push(beyond);
            }
        }
        (bytes.into_iter().chain(inner).collect(), outer)
    }

    /// A frame that is no packet of any flow, or only what a cut left of one.
    fn reject(&mut self) {
        let link_type = self.rng.pick(&self.link_types.clone());
        let way = Way {
            src: Ipv4Addr::new(10, 9, 9, 9).into(),
            dst: Ipv4Addr::new(10, 9, 9, 8).into(),
            src_port: 1,
            dst_port: 2,
            proto: 17,
        };
        let (segment, _, _) = self.segment(way, 10);
        let mut ip = ipv4(way, 0, 0, Place::default(), &segment).bytes;
        let (mut bytes, link) = self.link(link_type, false);
        let head = bytes.len();
        let ip_len = ip.len() as u64;
        let raw = !matches!(link_type, ETHERNET | LINUX_SLL | LINUX_SLL2);
        let (reason, kept, wire) = match self.rng.below(10) {
            0 if !raw => {
                // ARP.
                let type_at = match link_type {
                    ETHERNET => 12,
                    LINUX_SLL => 14,
                    _ => 0,
                };
                bytes[type_at..type_at + 2].copy_from_slice(&[8, 6]);
                ("not_ip", 60, 60)
            }
            1 => ("short_frame", head + 19, head + 19),
            7 => ("short_frame", 0, 0),
            8 => ("cut_by_snaplen", 0, head + 38),
            2 => ("cut_by_snaplen", head + 19, head + 38),
            // The addresses and the length are whole, the ports are not: it counts without them.
            3 => ("", head + 22, head + 38),
            4 if !raw => {
                ip[0] = 0x55;
                // Below labels the version decides whether it is IP at all, so keep to the plain stack.
                bytes.truncate(0);
                bytes.extend(plain(link_type));
                ("bad_ip_version", bytes.len() + 38, bytes.len() + 38)
            }
            5 => {
                ip[0] = 0x44;
                ("bad_length", head + 38, head + 38)
            }
            6 => {
                ip[2..4].copy_from_slice(&19u16.to_be_bytes());
                ("bad_length", head + 38, head + 38)
            }
            _ => {
                // Room for the IP header only, though it says UDP.
                ip[2..4].copy_from_slice(&22u16.to_be_bytes());
                ("bad_length", head + 38, head + 38)
            }
        };
        bytes.extend(ip);
        bytes.resize(bytes.len().max(kept), 0);
        bytes.truncate(kept);
        let micros = self.tick();
        self.beyond.clear();
        let without_ports = Way { src_port: 0, dst_port: 0, ..way };
        let truth = match reason {
            "" => Ok(Counted { way: without_ports, bytes: ip_len, tcp_flags: 0, tos: 0, link }),
            reason => Err(reason),
        };
        self.out.push(Sent { micros, link_type, bytes, wire_len: wire as u32, truth, beyond: Vec::new() });
    }
}

/// A link header right before IPv4.
fn plain(link_type: u32) -> Vec<u8> {
    match link_type {
        ETHERNET => [&[2; 12][..], &[8, 0]].concat(),
        LINUX_SLL => [&[0; 14][..], &[8, 0]].concat(),
        LINUX_SLL2 => [&[8, 0][..], &[0; 18]].concat(),
        other => unreachable!("link type {other}"),
    }
}

/// The place of a fragment; the default is a whole datagram.
#[derive(Clone, Copy, Default)]
struct Place {
    id: u32,
    /// Bytes.
    offset: usize,
    more: bool,
}

fn ipv4(way: Way, tos: u8, option_words: usize, place: Place, body: &[u8]) -> Datagram {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (way.src, way.dst) else { unreachable!("IPv4") };
    let header_len = 20 + option_words * 4;
    let total = header_len + body.len();
    let mut bytes = vec![0x40 | (header_len / 4) as u8, tos];
    bytes.extend((total as u16).to_be_bytes());
    bytes.extend((place.id as u16).to_be_bytes());
    bytes.extend((u16::from(place.more) << 13 | (place.offset / 8) as u16).to_be_bytes());
    bytes.extend([64, way.proto, 0, 0]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.resize(header_len, 1);
    bytes.extend(body);
    Datagram { way, tos, flags: 0, bytes, stated: total as u64, needed: header_len }
}

/// `fragment`: the place, and the type of what is fragmented.
fn ipv6(way: Way, tos: u8, extensions: &[(u8, Vec<u8>)], fragment: Option<(Place, u8)>, body: &[u8]) -> Datagram {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (way.src, way.dst) else { unreachable!("IPv6") };
    let mut chain = Vec::new();
    let upper = fragment.map_or(way.proto, |(_, next)| next);
    let after_extensions = if fragment.is_some() { 44 } else { upper };
    for (at, (_, header)) in extensions.iter().enumerate() {
        let next = extensions.get(at + 1).map_or(after_extensions, |(kind, _)| *kind);
        let start = chain.len();
        chain.extend(header);
        chain[start] = next;
    }
    if let Some((place, next)) = fragment {
        chain.extend([next, 0]);
        chain.extend((place.offset as u16 | u16::from(place.more)).to_be_bytes());
        chain.extend(place.id.to_be_bytes());
    }
    let first = extensions.first().map_or(after_extensions, |(kind, _)| *kind);
    let payload = chain.len() + body.len();
    let mut bytes = vec![0x60 | tos >> 4, tos << 4, 0, 0];
    bytes.extend((payload as u16).to_be_bytes());
    bytes.extend([first, 64]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    let needed = bytes.len() + chain.len();
    bytes.extend(chain);
    bytes.extend(body);
    Datagram { way, tos, flags: 0, bytes, stated: payload as u64 + 40, needed }
}
/// The same as pcapng, little-endian, one interface with stamps in nanoseconds.
pub fn pcapng_file(frames: &[Sent]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padded = body.len().next_multiple_of(4);
        let length = (padded as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &vec![0; padded - body.len()], &length].concat()
    };
    let words = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    let mut file = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    let link_type = frames.first().map_or(ETHERNET, |frame| frame.link_type);
    let nanoseconds = [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    file.extend(block(1, &[&words(&[link_type, 65_535])[..], &nanoseconds].concat()));
    for frame in frames {
        let ticks = frame.micros * 1000;
        let head = words(&[0, (ticks >> 32) as u32, ticks as u32, frame.bytes.len() as u32, frame.wire_len]);
        file.extend(block(6, &[&head[..], &frame.bytes].concat()));
    }
    file
}

/// A classic capture file of these frames, which must have one link type.
pub fn pcap_file(frames: &[Sent]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65_535u32.to_le_bytes());
    file.extend(frames.first().map_or(ETHERNET, |frame| frame.link_type).to_le_bytes());
    for frame in frames {
        file.extend(((frame.micros / 1_000_000) as u32).to_le_bytes());
        file.extend(((frame.micros % 1_000_000) as u32).to_le_bytes());
        file.extend((frame.bytes.len() as u32).to_le_bytes());
        file.extend(frame.wire_len.to_le_bytes());
        file.extend(&frame.bytes);
    }
    file
}
