//! Fragments join the ports of their first fragment.
//!
//! Later fragments carry no ports. They are counted to the flow of their datagram's first fragment, in whatever order they
//! come: early ones are held (summed, not stored) until the first one shows the ports. When it does not come within
//! [`TIMEOUT_SECS`], or the memory for it is needed, what is held is counted with ports 0: no packet is ever dropped here.
//!
//! Memory is bounded by [`MAX_DATAGRAMS`], because anyone can send first fragments that nothing follows.

use std::collections::{HashMap, VecDeque};

use crate::flow::decode::Fragment;
use crate::flow::{Addr, Burst, Key, Link, Stamp, Version};

/// How long a datagram is remembered, seconds of the packets' clock (RFC 8200, section 4.5; RFC 1122 has 60 to 120).
pub const TIMEOUT_SECS: u32 = 60;

/// Datagrams remembered at once, about 14 MB. At most the oldest lose their ports when there are more in a minute.
pub const MAX_DATAGRAMS: usize = 65_536;

/// What makes fragments one datagram: RFC 791 for IPv4; RFC 8200 for IPv6, where the protocol is not part of it. The link
/// is, because a capture on several interfaces sees the same datagram several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Datagram {
    src: Addr,
    dst: Addr,
    id: u32,
    version: Version,
    proto: u8,
    link: Link,
}

impl Datagram {
    fn of(burst: &Burst, id: u32) -> Self {
        let Key { src, dst, version, proto, .. } = burst.key;
        let proto = if version == Version::V6 { 0 } else { proto };
        Self { src, dst, id, version, proto, link: burst.link }
    }
}

/// What is known of a datagram.
#[derive(Debug)]
struct Known {
    what: What,
    /// The second in which it is forgotten.
    due: i64,
}

#[derive(Debug)]
enum What {
    /// The first fragment came: this is everyone's key.
    Key(Key),
    /// It has not: the sum of the fragments so far, with ports 0.
    Held(Burst),
}

/// The datagrams of the last minute that came in fragments.
#[derive(Debug, Default)]
pub struct Fragments {
    known: HashMap<Datagram, Known>,
    /// In the order of arrival, with the second in which each is looked at: it is forgotten then, unless its identification was
    /// used again. An entry here has one in `known`.
    order: VecDeque<(i64, Datagram)>,
}

impl Fragments {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// True when no datagram is remembered.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Takes one packet and gives to `count` what can be counted now: the packet with its ports, held fragments that it
    /// released, or one that made room. A packet that is not given now is given by a later call or by
    /// [`Fragments::expire`] or [`Fragments::release`].
    pub fn take(&mut self, fragment: Fragment, mut burst: Burst, now: i64, mut count: impl FnMut(Burst)) {
        match fragment {
            Fragment::No => count(burst),
            Fragment::First(id) => {
                let datagram = Datagram::of(&burst, id);
                if let Some(What::Held(held)) = self.insert(datagram, What::Key(burst.key), now, &mut count) {
                    count(Burst { key: burst.key, ..held });
                }
                count(burst);
            }
            Fragment::Later(id) => {
                let datagram = Datagram::of(&burst, id);
                match self.known.get_mut(&datagram).map(|known| &mut known.what) {
                    Some(What::Key(key)) => {
                        burst.key = *key;
                        count(burst);
                    }
                    Some(What::Held(held)) => add(held, &burst),
                    None => {
                        self.insert(datagram, What::Held(burst), now, &mut count);
                    }
                }
            }
        }
    }

    /// Forgets datagrams whose time is over at the second `now`; held fragments go to `count` with ports 0.
    pub fn expire(&mut self, now: i64, mut count: impl FnMut(Burst)) {
        while let Some((due, datagram)) = self.order.front().copied().filter(|(due, _)| *due <= now) {
            self.order.pop_front();
            match self.known.get(&datagram) {
                Some(known) if known.due > due => self.order.push_back((known.due, datagram)),
                _ => self.forget(&datagram, &mut count),
            }
        }
    }

    /// Gives all held fragments to `count` with ports 0: the capture has ended.
    pub fn release(&mut self, mut count: impl FnMut(Burst)) {
        while let Some((_, datagram)) = self.order.pop_front() {
            self.forget(&datagram, &mut count);
        }
    }

    /// Puts `what` in and returns what it replaces; a new datagram may push out the oldest.
    fn insert(&mut self, datagram: Datagram, what: What, now: i64, count: &mut impl FnMut(Burst)) -> Option<What> {
        let due = now + i64::from(TIMEOUT_SECS);
        let replaced = self.known.insert(datagram, Known { what, due });
        if replaced.is_none() {
            self.order.push_back((due, datagram));
            if self.order.len() > MAX_DATAGRAMS
                && let Some((_, oldest)) = self.order.pop_front()
            {
                self.forget(&oldest, count);
            }
        }
        replaced.map(|known| known.what)
    }

    fn forget(&mut self, datagram: &Datagram, count: &mut impl FnMut(Burst)) {
        if let Some(Known { what: What::Held(held), .. }) = self.known.remove(datagram) {
            count(held);
        }
    }
}

/// Adds a later fragment to the held ones; the latest packet's type of service stays.
fn add(held: &mut Burst, burst: &Burst) {
    if burst.last >= held.last {
        held.tos = burst.tos;
    }
    held.packets += burst.packets;
    held.bytes += burst.bytes;
    held.first = held.first.min(burst.first);
    held.last = held.last.max(burst.last);
}

/// The burst of one packet.
pub fn one(packet: &crate::flow::decode::Packet, stamp: Stamp, link: Link) -> Burst {
    Burst {
        key: packet.key,
        link,
        packets: 1,
        bytes: packet.bytes,
        first: stamp,
        last: stamp,
        tcp_flags: packet.tcp_flags,
        tos: packet.tos,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(port: u16, at: i64) -> Burst {
        let key = Key { src_port: port, dst_port: port, proto: 17, version: Version::V4, ..Key::default() };
        let stamp = Stamp::from_micros(at);
        Burst { key, packets: 1, bytes: 100, first: stamp, last: stamp, ..Burst::default() }
    }

    fn taken(fragments: &mut Fragments, fragment: Fragment, burst: Burst, now: i64) -> Vec<(u16, u64)> {
        let mut out = Vec::new();
        fragments.take(fragment, burst, now, |b| out.push((b.key.src_port, b.packets)));
        out
    }

    #[test]
    fn any_order_joins_the_first_ones_ports() {
        let mut fragments = Fragments::new();
        assert_eq!(taken(&mut fragments, Fragment::Later(7), burst(0, 5), 0), []);
        assert_eq!(taken(&mut fragments, Fragment::Later(7), burst(0, 6), 0), []);
        assert_eq!(taken(&mut fragments, Fragment::First(7), burst(53, 4), 0), [(53, 2), (53, 1)]);
        assert_eq!(taken(&mut fragments, Fragment::Later(7), burst(0, 7), 0), [(53, 1)]);
        assert_eq!(taken(&mut fragments, Fragment::First(7), burst(54, 8), 0), [(54, 1)], "the number is used again");
        assert_eq!(taken(&mut fragments, Fragment::Later(7), burst(0, 9), 0), [(54, 1)]);
    }

    #[test]
    fn a_first_that_never_comes_costs_the_ports_only() {
        let mut fragments = Fragments::new();
        assert_eq!(taken(&mut fragments, Fragment::Later(7), burst(0, 5), 100), []);
        let mut out = Vec::new();
        fragments.expire(100 + i64::from(TIMEOUT_SECS) - 1, |b| out.push(b));
        assert_eq!(out, []);
        fragments.expire(100 + i64::from(TIMEOUT_SECS), |b| out.push(b));
        assert_eq!(out, [burst(0, 5)]);
        assert!(fragments.known.is_empty() && fragments.order.is_empty());
    }

    #[test]
    fn an_identification_used_again_lives_from_its_last_use() {
        let mut fragments = Fragments::new();
        assert_eq!(taken(&mut fragments, Fragment::First(7), burst(53, 0), 0), [(53, 1)]);
        assert_eq!(taken(&mut fragments, Fragment::First(7), burst(54, 0), 59), [(54, 1)]);
        fragments.expire(60, |_| panic!("nothing is held"));
        assert_eq!(taken(&mut fragments, Fragment::Later(7), burst(0, 0), 61), [(54, 1)]);
        fragments.expire(118, |_| panic!("nothing is held"));
        assert_eq!(fragments.known.len(), 1);
        fragments.expire(119, |_| panic!("nothing is held"));
        assert!(fragments.known.is_empty() && fragments.order.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost() {
        let mut fragments = Fragments::new();
        let mut counted = 0;
        let many = MAX_DATAGRAMS as u32 + 1000;
        for id in 0..many {
            fragments.take(Fragment::Later(id), burst(0, 5), 0, |b| counted += b.packets);
        }
        assert_eq!((counted, fragments.known.len()), (1000, MAX_DATAGRAMS));
        fragments.release(|b| counted += b.packets);
        assert_eq!(counted, u64::from(many));
    }
}
