//! The flow table: bursts in, records of ended flows out.
//!
//! An entry is a pair of directions (a *biflow*), so that a reset or FIN of either side ends both. It is found by a keyed
//! hash of its key and expires by an index of seconds; no step ever walks the whole table.
//!
//! - **Exact ends.** A flow ends at `last packet's second + idle timeout of its protocol`, or at
//!   `first packet's second + maxlife` if that is sooner; a packet of that very second already begins a new flow.
//! - **Nothing lost.** When the table is full, the flow that would end soonest is ended at once and its record comes out.
//! - **Bounded.** At most `max_flows` entries of 128 bytes and an index of at most 32 bytes an entry.
//! - **Keyed.** Who sends the packets chooses the keys, so the hash has a secret ([`crate::flow::hash`]).
//!
//! The clock is the packets': it moves by [`Table::advance`] and never goes back. A packet older than the clock is
//! counted with its own stamp.

use crate::flow::hash::Secret;
use crate::flow::{Burst, EndReason, Key, Link, Record, Stamp};

/// Seconds without a packet after which a flow ends, and its longest life; the names are `nfprobe_timeouts`'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP (`tcp`, 3600).
    pub tcp: u32,
    /// TCP after a reset by either side (`tcp.rst`, 120).
    pub tcp_rst: u32,
    /// TCP after a FIN of both sides (`tcp.fin`, 300).
    pub tcp_fin: u32,
    /// UDP (`udp`, 300).
    pub udp: u32,
    /// ICMP and ICMPv6 (`icmp`, 300).
    pub icmp: u32,
    /// Every other protocol (`general`, 3600).
    pub general: u32,
    /// The longest a flow lives, whatever comes (`maxlife`, 604800); 0 is without end.
    pub maxlife: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp: 3600, tcp_rst: 120, tcp_fin: 300, udp: 300, icmp: 300, general: 3600, maxlife: 604_800 }
    }
}

/// How a table is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// When flows end.
    pub timeouts: Timeouts,
    /// The most flows (both directions together) at once; from 1 to 2^30.
    pub max_flows: usize,
    /// The MAC addresses, VLAN or interface are part of the key, because rows are aggregated by them.
    pub keyed_by_link: bool,
    /// The hash's secret.
    pub secret: Secret,
}

/// The largest table: its index counts in 32 bits and is at most half full.
pub const MAX_FLOWS: usize = 1 << 30;

const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// No entry, in links and slots.
const NONE: u32 = u32::MAX;

/// Seconds that the expiry index looks ahead. What ends later is looked at again after that time.
const BUCKETS: u32 = 4096;

/// One direction of an entry.
#[derive(Debug, Clone, Copy)]
struct Half {
    packets: u64,
    bytes: u64,
    first: Stamp,
    last: Stamp,
}

/// A direction that has not sent: no packets, and stamps that the first packet replaces.
const SILENT: Half = Half { packets: 0, bytes: 0, first: Stamp::MAX, last: Stamp(0) };

/// A flow. Two cache lines, the first of which decides whether a packet belongs to it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Entry {
    /// The key of side 0.
    key: Key,
    /// The key's hash, to find the slot again.
    hash: u32,
    /// The second in which the expiry index has it.
    armed: u32,
    /// Neighbours in the list of that second; `next` also links the free entries.
    prev: u32,
    next: u32,
    tcp_flags: [u8; 2],
    tos: [u8; 2],
    halves: [Half; 2],
}

impl Entry {
    /// An entry without packets.
    fn new(key: Key, hash: u32) -> Self {
        Self { key, hash, armed: 0, prev: NONE, next: NONE, tcp_flags: [0; 2], tos: [0; 2], halves: [SILENT; 2] }
    }

    /// Adds a burst that travels from `side`. True when this can have brought the flow's end nearer: by a reset or a FIN,
    /// or, where there is a longest life, by a stamp before all others. Every other packet only moves the end away.
    #[inline]
    fn add(&mut self, side: usize, burst: &Burst) -> bool {
        let half = &mut self.halves[side];
        let earlier = burst.first < half.first;
        if earlier {
            half.first = burst.first;
        }
        if burst.last >= half.last {
            half.last = burst.last;
            self.tos[side] = burst.tos;
        }
        half.packets += burst.packets;
        half.bytes += burst.bytes;
        let before = self.tcp_flags[side];
        self.tcp_flags[side] |= burst.tcp_flags;
        earlier || (before ^ self.tcp_flags[side]) & (FIN | RST) != 0
    }

    /// When it ends if nothing more comes, and why.
    fn deadline(&self, timeouts: &Timeouts) -> (u32, EndReason) {
        let [a, b] = &self.halves;
        let [flags, back] = self.tcp_flags;
        let (timeout, reason) = match self.key.proto {
            6 if (flags | back) & RST != 0 => (timeouts.tcp_rst, EndReason::Closed),
            6 if flags & back & FIN != 0 => (timeouts.tcp_fin, EndReason::Closed),
            6 => (timeouts.tcp, EndReason::Idle),
            17 => (timeouts.udp, EndReason::Idle),
            1 | 58 => (timeouts.icmp, EndReason::Idle),
            _ => (timeouts.general, EndReason::Idle),
        };
        let idle = a.last.max(b.last).secs().saturating_add(timeout);
        let active = a.first.min(b.first).secs().saturating_add(timeouts.maxlife);
        if timeouts.maxlife != 0 && active < idle { (active, EndReason::Active) } else { (idle, reason) }
    }
}

/// A place of the hash index: the hash, and the entry that has it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u32,
    entry: u32,
}

/// Slots of an empty table.
const FIRST_SLOTS: usize = 1024;

const EMPTY: Slot = Slot { hash: 0, entry: NONE };

/// A burst together with what the table computes of it before it is added.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hashed {
    burst: Burst,
    key: Key,
    link: Link,
    side: usize,
    hash: u32,
}

impl Hashed {
    /// The second in which the burst ends.
    #[inline]
    pub fn now(&self) -> u32 {
        self.burst.last.secs()
    }
}

/// The flows that are under way.
#[derive(Debug)]
pub struct Table {
    options: Options,
    entries: Vec<Entry>,
    /// Beside `entries`, only when the link is part of the key.
    links: Vec<Link>,
    /// The first free entry, chained by `next`.
    free: u32,
    live: usize,
    /// Open addressing, linear probing, a power of two long and at most half full.
    slots: Vec<Slot>,
    /// A hash shifted right by this is a place in `slots`.
    shift: u32,
    wheel: Wheel,
    evicted: u64,
}

impl Table {
    /// An empty table. Memory is reserved for `max_flows` but only touched as flows come.
    pub fn new(mut options: Options) -> Self {
        options.max_flows = options.max_flows.clamp(1, MAX_FLOWS);
        // A system that does not lend memory before it is used makes these grow as needed instead.
        let mut entries = Vec::new();
        let _ = entries.try_reserve_exact(options.max_flows);
        let mut links = Vec::new();
        if options.keyed_by_link {
            let _ = links.try_reserve_exact(options.max_flows);
        }
        Self {
            entries,
            links,
            free: NONE,
            live: 0,
            slots: vec![EMPTY; FIRST_SLOTS],
            shift: u32::BITS - FIRST_SLOTS.trailing_zeros(),
            wheel: Wheel::new(),
            evicted: 0,
            options,
        }
    }

    /// Flows in the table now.
    pub fn len(&self) -> usize {
        self.live
    }

    /// True when no flow is in the table.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Flows ended early because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The table's clock, seconds since 1970; 0 before the first [`Table::advance`].
    pub fn clock(&self) -> u32 {
        self.wheel.clock
    }

    /// Hashes a burst. Together with [`Table::touch`] this lets a batch of bursts wait for memory at the same time.
    #[inline]
    pub fn hashed(&self, burst: Burst) -> Hashed {
        let side = burst.key.side();
        let (key, link) =
            if side == 0 { (burst.key, burst.link) } else { (burst.key.reversed(), burst.link.reversed()) };
        let hash = self.hash(&key, &link);
        Hashed { burst, key, link, side, hash }
    }

    /// Reads the slot of each burst, then the entry that the slot names, so that the cache misses of the whole batch
    /// overlap. Returns a number that depends on all of them, which keeps the reads from being optimised away.
    #[inline]
    pub fn touch(&self, batch: &[Hashed]) -> u64 {
        let mut found = [NONE; 64];
        for (entry, hashed) in found.iter_mut().zip(batch) {
            let slot = self.slots[self.home(hashed.hash)];
            *entry = slot.entry;
        }
        let mut sum = 0u64;
        for entry in found.iter().take(batch.len()) {
            if let Some(entry) = self.entries.get(*entry as usize) {
                sum = sum.wrapping_add(entry.key.src.low ^ entry.halves[1].packets);
            }
        }
        sum
    }

    /// Moves the clock to the second `now` (never back) and hands every flow that has ended by then to `out`, in the order
    /// of the seconds they ended in.
    pub fn advance(&mut self, now: u32, out: &mut impl FnMut(Record)) {
        while let Some(second) = self.wheel.next(now) {
            self.wheel.clock = second;
            let mut at = self.wheel.take(second);
            while at != NONE {
                let entry = &self.entries[at as usize];
                let next = entry.next;
                let (deadline, reason) = entry.deadline(&self.options.timeouts);
                if deadline <= second {
                    self.emit(at, second, reason, out);
                    self.remove(at);
                } else {
                    self.wheel.arm(&mut self.entries, at, deadline);
                }
                at = next;
            }
        }
        self.wheel.clock = self.wheel.clock.max(now);
    }

    /// Counts a burst. The clock should have been advanced to its second. A full table ends another flow for a new one and
    /// hands it to `out`.
    #[inline]
    pub fn add(&mut self, hashed: &Hashed, out: &mut impl FnMut(Record)) {
        let Some(at) = self.find(hashed) else {
            return self.insert(hashed, out);
        };
        if self.entries[at as usize].add(hashed.side, &hashed.burst) {
            self.rearm(at);
        }
    }

    /// Ends every flow: the capture is over. The clock may begin anywhere afterwards.
    pub fn stop(&mut self, out: &mut impl FnMut(Record)) {
        let clock = self.wheel.clock;
        for at in 0..self.entries.len() as u32 {
            let in_use = self.entries[at as usize].halves.iter().any(|half| half.packets != 0);
            if in_use {
                self.emit(at, clock, EndReason::Stopped, out);
            }
        }
        self.entries.clear();
        self.links.clear();
        self.slots.fill(EMPTY);
        self.free = NONE;
        self.live = 0;
        self.wheel.clear();
        self.wheel.clock = 0;
    }

    /// Gives the flow's directions that sent to `out`.
    fn emit(&self, at: u32, ended: u32, reason: EndReason, out: &mut impl FnMut(Record)) {
        let entry = &self.entries[at as usize];
        let link = self.links.get(at as usize).copied().unwrap_or_default();
        for (side, half) in entry.halves.iter().enumerate().filter(|(_, half)| half.packets != 0) {
            let (key, link) = if side == 0 { (entry.key, link) } else { (entry.key.reversed(), link.reversed()) };
            let Half { packets, bytes, first, last } = *half;
            let (tcp_flags, tos) = (entry.tcp_flags[side], entry.tos[side]);
            let sum = Burst { key, link, packets, bytes, first, last, tcp_flags, tos };
            out(Record { sum, ended, reason });
        }
    }

    #[cold]
    fn rearm(&mut self, at: u32) {
        let entry = &self.entries[at as usize];
        let (deadline, _) = entry.deadline(&self.options.timeouts);
        if deadline < entry.armed {
            self.wheel.disarm(&mut self.entries, at);
            self.wheel.arm(&mut self.entries, at, deadline);
        }
    }

    fn insert(&mut self, hashed: &Hashed, out: &mut impl FnMut(Record)) {
        if self.live == self.options.max_flows {
            self.evict(out);
        }
        let mut entry = Entry::new(hashed.key, hashed.hash);
        entry.add(hashed.side, &hashed.burst);
        let (deadline, _) = entry.deadline(&self.options.timeouts);

        let at = if self.free == NONE {
            self.entries.push(entry);
            if self.options.keyed_by_link {
                self.links.push(hashed.link);
            }
            self.entries.len() as u32 - 1
        } else {
            let at = self.free;
            self.free = self.entries[at as usize].next;
            self.entries[at as usize] = entry;
            if let Some(link) = self.links.get_mut(at as usize) {
                *link = hashed.link;
            }
            at
        };
        self.live += 1;
        if self.live * 2 > self.slots.len() {
            self.grow();
        }
        self.occupy(Slot { hash: hashed.hash, entry: at });
        self.wheel.arm(&mut self.entries, at, deadline);
    }

    /// Ends the flow that would end soonest. Entries whose deadline has moved are refiled on the way; the cost is amortised
    /// over their packets.
    fn evict(&mut self, out: &mut impl FnMut(Record)) {
        while let Some(second) = self.wheel.next(u32::MAX) {
            let at = self.wheel.head(second);
            let (deadline, _) = self.entries[at as usize].deadline(&self.options.timeouts);
            self.wheel.disarm(&mut self.entries, at);
            if deadline > second {
                self.wheel.arm(&mut self.entries, at, deadline);
                if self.entries[at as usize].armed != second {
                    continue;
                }
                self.wheel.disarm(&mut self.entries, at);
            }
            self.emit(at, self.wheel.clock, EndReason::Evicted, out);
            self.remove(at);
            self.evicted += 1;
            return;
        }
    }

    /// Removes an entry that the expiry index no longer has.
    fn remove(&mut self, at: u32) {
        self.vacate(at);
        let entry = &mut self.entries[at as usize];
        *entry = Entry { next: self.free, ..Entry::new(Key::default(), 0) };
        self.free = at;
        self.live -= 1;
    }

    // --- the hash index ---

    #[inline]
    fn hash(&self, key: &Key, link: &Link) -> u32 {
        if self.options.keyed_by_link {
            let mut words = [0; 8];
            words[..5].copy_from_slice(&key.words());
            words[5..].copy_from_slice(&link.words());
            self.options.secret.hash(words)
        } else {
            self.options.secret.hash(key.words())
        }
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        (u64::from(hash) >> self.shift) as usize
    }

    #[inline]
    fn find(&self, hashed: &Hashed) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut place = self.home(hashed.hash);
        loop {
            let slot = self.slots[place];
            if slot.entry == NONE {
                return None;
            }
            if slot.hash == hashed.hash && self.is(slot.entry, hashed) {
                return Some(slot.entry);
            }
            place = (place + 1) & mask;
        }
    }

    #[inline]
    fn is(&self, at: u32, hashed: &Hashed) -> bool {
        self.entries[at as usize].key == hashed.key
            && (!self.options.keyed_by_link || self.links[at as usize] == hashed.link)
    }

    fn occupy(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut place = self.home(slot.hash);
        while self.slots[place].entry != NONE {
            place = (place + 1) & mask;
        }
        self.slots[place] = slot;
    }

    /// Takes the entry's slot out and moves later ones of the same run back, so that no probe meets a hole.
    fn vacate(&mut self, at: u32) {
        let mask = self.slots.len() - 1;
        let mut hole = self.home(self.entries[at as usize].hash);
        while self.slots[hole].entry != at {
            hole = (hole + 1) & mask;
        }
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let slot = self.slots[place];
            if slot.entry == NONE {
                break;
            }
            let home = self.home(slot.hash);
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = place;
            }
        }
        self.slots[hole] = EMPTY;
    }

    #[cold]
    fn grow(&mut self) {
        let twice = vec![EMPTY; self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, twice);
        self.shift -= 1;
        for slot in old {
            if slot.entry != NONE {
                self.occupy(slot);
            }
        }
    }
}

/// The expiry index: for each of the coming seconds a list of the entries to look at then.
///
/// An entry armed for a second is there or sooner than its end: ends move away with every packet, and it is cheaper to
/// look again than to move it each time.
#[derive(Debug)]
struct Wheel {
    /// The second up to which everything has been looked at.
    clock: u32,
    heads: Vec<u32>,
    /// One bit a bucket that is not empty.
    occupied: [u64; (BUCKETS / 64) as usize],
}

impl Wheel {
    fn new() -> Self {
        Self { clock: 0, heads: vec![NONE; BUCKETS as usize], occupied: [0; (BUCKETS / 64) as usize] }
    }

    fn clear(&mut self) {
        self.heads.fill(NONE);
        self.occupied = [0; (BUCKETS / 64) as usize];
    }

    /// The next second up to `until` that has entries.
    fn next(&self, until: u32) -> Option<u32> {
        let start = self.clock.wrapping_add(1) % BUCKETS;
        let words = self.occupied.len();
        // The first word is looked at twice: its upper bits first, its lower bits at the end of the turn.
        for step in 0..=words {
            let index = (start as usize / 64 + step) % words;
            let mut word = self.occupied[index];
            let upper = u64::MAX << (start % 64);
            if step == 0 {
                word &= upper;
            } else if step == words {
                word &= !upper;
            }
            if word != 0 {
                let bucket = index as u32 * 64 + word.trailing_zeros();
                let ahead = bucket.wrapping_sub(start) % BUCKETS;
                let second = self.clock.saturating_add(1).saturating_add(ahead);
                return (second <= until).then_some(second);
            }
        }
        None
    }

    fn head(&self, second: u32) -> u32 {
        self.heads[(second % BUCKETS) as usize]
    }

    /// Empties a second's list and returns its first entry; the entries stay chained by `next`.
    fn take(&mut self, second: u32) -> u32 {
        let bucket = second % BUCKETS;
        self.occupied[bucket as usize / 64] &= !(1 << (bucket % 64));
        std::mem::replace(&mut self.heads[bucket as usize], NONE)
    }

    /// Puts an entry into the list of `deadline`, or of the nearest second that the wheel can hold.
    fn arm(&mut self, entries: &mut [Entry], at: u32, deadline: u32) {
        let soonest = self.clock.saturating_add(1);
        let second = deadline.clamp(soonest, soonest.saturating_add(BUCKETS - 2));
        let bucket = second % BUCKETS;
        let head = std::mem::replace(&mut self.heads[bucket as usize], at);
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
        if head != NONE {
            entries[head as usize].prev = at;
        }
        let entry = &mut entries[at as usize];
        (entry.armed, entry.prev, entry.next) = (second, NONE, head);
    }

    fn disarm(&mut self, entries: &mut [Entry], at: u32) {
        let Entry { armed, prev, next, .. } = entries[at as usize];
        let bucket = armed % BUCKETS;
        if next != NONE {
            entries[next as usize].prev = prev;
        }
        if prev == NONE {
            self.heads[bucket as usize] = next;
            if next == NONE {
                self.occupied[bucket as usize / 64] &= !(1 << (bucket % 64));
            }
        } else {
            entries[prev as usize].next = next;
        }
    }
}
