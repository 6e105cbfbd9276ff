//! The flow table: bursts in, records of ended flows out.
//!
//! An entry is a pair of directions (a *biflow*), so that a reset or FIN of either side ends both. It is found by a keyed
//! hash of its key and expires by an index of seconds; no step ever walks the whole table.
//!
//! Where rows tell MAC addresses, VLAN or interface, a direction may come with more than one [`Link`]. Each then has sums of its
//! own, but the flow is one: what is printed never decides which directions are a pair, nor when they end. The first link of
//! each direction is counted in the flow's entry, others in *siblings*: entries of their own that begin and end with it.
//!
//! - **Exact ends.** A flow ends at `last packet's second + idle timeout of its protocol`, or at
//!   `first packet's second + maxlife` if that is sooner; a packet of that very second already begins a new flow.
//! - **Nothing lost.** When the table is full, the flow that would end soonest is ended at once and its record comes out.
//! - **Bounded.** At most `max_flows` entries of 128 bytes (172 with links, 32 more a flow that has siblings) and an index of at
//!   most 32 bytes an entry.
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
    /// Links are counted apart, because rows are aggregated by MAC addresses, VLAN or interface.
    pub by_link: bool,
    /// The hash's secret.
    pub secret: Secret,
}

/// The largest table: its index counts in 32 bits and is at most half full.
pub const MAX_FLOWS: usize = 1 << 30;

const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// No entry, in links and slots.
const NONE: u32 = u32::MAX;

/// Buckets of each level of the expiry index.
const BUCKETS: i64 = 1 << LEVEL_BITS;
const LEVEL_BITS: u32 = 12;

/// Levels of the expiry index: the first looks 4096 seconds ahead, each of the others 4096 times as far as the one before.
/// Together that is 2177 years, so no gap between packets and no time-out costs an entry more than a few steps.
const LEVELS: u32 = 3;

/// In the place of an entry's second: it is a sibling, and the expiry index has its flow instead.
const SIBLING: i64 = i64::MIN;

/// One direction of an entry.
#[derive(Debug, Clone, Copy)]
struct Half {
    packets: u64,
    bytes: u64,
    first: Stamp,
    last: Stamp,
}

/// A direction that has not sent: no packets, and stamps that the first packet replaces.
const SILENT: Half = Half { packets: 0, bytes: 0, first: Stamp::MAX, last: Stamp::MIN };

/// A flow. Two cache lines, the first of which decides whether a packet belongs to it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Entry {
    /// The key of side 0.
    key: Key,
    /// The key's hash, to find the slot again.
    hash: u32,
    /// Neighbours in the list of its second; `next` also links the free entries, and the siblings of a flow.
    prev: u32,
    next: u32,
    tcp_flags: [u8; 2],
    tos: [u8; 2],
    /// Where the expiry index has it: the second in which it is looked at, times four, plus the level; or [`SIBLING`].
    armed: i64,
    halves: [Half; 2],
}

const _: () = assert!(size_of::<Entry>() == 128, "two cache lines");

impl Entry {
    /// An entry without packets.
    fn new(key: Key, hash: u32) -> Self {
        Self { key, hash, armed: SIBLING, prev: NONE, next: NONE, tcp_flags: [0; 2], tos: [0; 2], halves: [SILENT; 2] }
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

    fn life(&self) -> Life {
        let [a, b] = &self.halves;
        Life { first: a.first.min(b.first), last: a.last.max(b.last), tcp_flags: self.tcp_flags }
    }
}

/// What decides when a flow ends.
#[derive(Debug, Clone, Copy)]
struct Life {
    first: Stamp,
    last: Stamp,
    tcp_flags: [u8; 2],
}

impl Life {
    /// When it ends if nothing more comes, and why.
    fn deadline(&self, proto: u8, timeouts: &Timeouts) -> (i64, EndReason) {
        let [flags, back] = self.tcp_flags;
        let (timeout, reason) = match proto {
            6 if (flags | back) & RST != 0 => (timeouts.tcp_rst, EndReason::Closed),
            6 if flags & back & FIN != 0 => (timeouts.tcp_fin, EndReason::Closed),
            6 => (timeouts.tcp, EndReason::Idle),
            17 => (timeouts.udp, EndReason::Idle),
            1 | 58 => (timeouts.icmp, EndReason::Idle),
            _ => (timeouts.general, EndReason::Idle),
        };
        let idle = self.last.secs() + i64::from(timeout);
        let active = self.first.secs() + i64::from(timeouts.maxlife);
        if timeouts.maxlife != 0 && active < idle { (active, EndReason::Active) } else { (idle, reason) }
    }
}

/// The links of an entry's directions, and the flow's siblings.
#[derive(Debug, Clone, Copy)]
struct Sides {
    links: [Link; 2],
    /// [`NONE`] without siblings.
    group: u32,
}

/// A flow with siblings as a whole.
#[derive(Debug, Clone, Copy)]
struct Group {
    life: Life,
    /// The first sibling, chained by `next`; of a free group the next free one.
    head: u32,
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
    side: usize,
    hash: u32,
}

impl Hashed {
    /// The second in which the burst ends.
    #[inline]
    pub fn now(&self) -> i64 {
        self.burst.last.secs()
    }
}

/// The flows that are under way.
#[derive(Debug)]
pub struct Table {
    options: Options,
    entries: Vec<Entry>,
    /// Beside `entries`, only when rows tell of the link.
    sides: Vec<Sides>,
    groups: Vec<Group>,
    free_group: u32,
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
        let mut sides = Vec::new();
        if options.by_link {
            let _ = sides.try_reserve_exact(options.max_flows);
        }
        Self {
            entries,
            sides,
            groups: Vec::new(),
            free_group: NONE,
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

    /// The table's clock, seconds since 1970; before every stamp until the first [`Table::advance`].
    pub fn clock(&self) -> i64 {
        self.wheel.clock
    }

    /// Hashes a burst. Together with [`Table::touch`] this lets a batch of bursts wait for memory at the same time.
    #[inline]
    pub fn hashed(&self, burst: Burst) -> Hashed {
        let side = burst.key.side();
        let key = if side == 0 { burst.key } else { burst.key.reversed() };
        let hash = self.options.secret.hash(key.words());
        Hashed { burst, key, side, hash }
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
    pub fn advance(&mut self, now: i64, out: &mut impl FnMut(Record)) {
        while let Some(place) = self.wheel.next(now) {
            let second = place.second();
            self.wheel.clock = second;
            let mut at = self.wheel.take(place);
            while at != NONE {
                let next = self.entries[at as usize].next;
                let (deadline, reason) = self.deadline(at);
                if deadline <= second {
                    self.end(at, second, reason, out);
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
        if self.options.by_link {
            self.add_by_link(at, hashed, out);
        } else if self.entries[at as usize].add(hashed.side, &hashed.burst) {
            self.rearm(at);
        }
    }

    /// Counts a burst of the flow at `at` under its link.
    fn add_by_link(&mut self, at: u32, hashed: &Hashed, out: &mut impl FnMut(Record)) {
        let Hashed { burst, side, .. } = hashed;
        let is_first = self.entries[at as usize].halves[*side].packets == 0;
        let sides = &mut self.sides[at as usize];
        if is_first {
            sides.links[*side] = burst.link;
        }
        let (at, part) = if sides.links[*side] == burst.link {
            (at, at)
        } else {
            match self.sibling(at, hashed, out) {
                Some(found) => found,
                // The flow itself had to make room.
                None => return self.insert(hashed, out),
            }
        };
        let mut may_end_sooner = self.entries[part as usize].add(*side, burst);
        if let Some(group) = self.groups.get_mut(self.sides[at as usize].group as usize) {
            let life = &mut group.life;
            life.first = life.first.min(burst.first);
            life.last = life.last.max(burst.last);
            let before = life.tcp_flags[*side];
            life.tcp_flags[*side] |= burst.tcp_flags;
            may_end_sooner |= before != life.tcp_flags[*side];
        }
        if may_end_sooner {
            self.rearm(at);
        }
    }

    /// The flow and its entry for the burst's link, which is not the first of its direction. `None` when the flow has been
    /// ended to make room.
    #[cold]
    fn sibling(&mut self, at: u32, hashed: &Hashed, out: &mut impl FnMut(Record)) -> Option<(u32, u32)> {
        let Hashed { burst, key, side, .. } = hashed;
        let mut words = [*side as u64; 9];
        words[..5].copy_from_slice(&key.words());
        words[5..8].copy_from_slice(&burst.link.words());
        let hash = self.options.secret.hash(words);
        let is_it = |entry: &Entry, sides: &Sides| {
            entry.armed == SIBLING
                && entry.key == *key
                && entry.halves[*side].packets != 0
                && sides.links[*side] == burst.link
        };
        let found = self.probe(hash, |entry| is_it(&self.entries[entry as usize], &self.sides[entry as usize]));
        if let Some(part) = found {
            return Some((at, part));
        }
        let at = if self.live == self.options.max_flows {
            self.evict(out);
            self.find(hashed)?
        } else {
            at
        };
        let mut links = [Link::default(); 2];
        links[*side] = burst.link;
        let part = self.put(Entry::new(*key, hash), Sides { links, group: NONE });
        let group = self.group(at);
        self.entries[part as usize].next = std::mem::replace(&mut self.groups[group as usize].head, part);
        Some((at, part))
    }

    /// The group of the flow at `at`, made when it has none.
    fn group(&mut self, at: u32) -> u32 {
        let have = self.sides[at as usize].group;
        if have != NONE {
            return have;
        }
        let new = Group { life: self.entries[at as usize].life(), head: NONE };
        let group = if self.free_group == NONE {
            self.groups.push(new);
            self.groups.len() as u32 - 1
        } else {
            let group = self.free_group;
            self.free_group = std::mem::replace(&mut self.groups[group as usize], new).head;
            group
        };
        self.sides[at as usize].group = group;
        group
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
        self.sides.clear();
        self.groups.clear();
        self.free_group = NONE;
        self.slots.fill(EMPTY);
        self.free = NONE;
        self.live = 0;
        self.wheel = Wheel::new();
    }

    fn deadline(&self, at: u32) -> (i64, EndReason) {
        let entry = &self.entries[at as usize];
        let group = self.sides.get(at as usize).and_then(|sides| self.groups.get(sides.group as usize));
        let life = group.map_or_else(|| entry.life(), |group| group.life);
        life.deadline(entry.key.proto, &self.options.timeouts)
    }

    /// Gives an entry's directions that sent to `out`.
    fn emit(&self, at: u32, ended: i64, reason: EndReason, out: &mut impl FnMut(Record)) {
        let entry = &self.entries[at as usize];
        let links = self.sides.get(at as usize).map(|sides| sides.links).unwrap_or_default();
        for (side, half) in entry.halves.iter().enumerate().filter(|(_, half)| half.packets != 0) {
            let key = if side == 0 { entry.key } else { entry.key.reversed() };
            let Half { packets, bytes, first, last } = *half;
            let (tcp_flags, tos) = (entry.tcp_flags[side], entry.tos[side]);
            let sum = Burst { key, link: links[side], packets, bytes, first, last, tcp_flags, tos };
            out(Record { sum, ended, reason });
        }
    }

    /// Ends a flow that the expiry index no longer has: gives it to `out` and removes it, with its siblings.
    fn end(&mut self, at: u32, ended: i64, reason: EndReason, out: &mut impl FnMut(Record)) {
        self.emit(at, ended, reason, out);
        let group = self.sides.get(at as usize).map_or(NONE, |sides| sides.group);
        self.remove(at);
        let Some(have) = self.groups.get_mut(group as usize) else { return };
        let mut part = std::mem::replace(&mut have.head, self.free_group);
        self.free_group = group;
        while part != NONE {
            let next = self.entries[part as usize].next;
            self.emit(part, ended, reason, out);
            self.remove(part);
            part = next;
        }
    }

    #[cold]
    fn rearm(&mut self, at: u32) {
        let (deadline, _) = self.deadline(at);
        if deadline < Place(self.entries[at as usize].armed).second() {
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
        let mut links = [Link::default(); 2];
        links[hashed.side] = hashed.burst.link;
        let at = self.put(entry, Sides { links, group: NONE });
        let (deadline, _) = self.deadline(at);
        self.wheel.arm(&mut self.entries, at, deadline);
    }

    /// Puts an entry into the table and the hash index. There is room.
    fn put(&mut self, entry: Entry, sides: Sides) -> u32 {
        let hash = entry.hash;
        let at = if self.free == NONE {
            self.entries.push(entry);
            if self.options.by_link {
                self.sides.push(sides);
            }
            self.entries.len() as u32 - 1
        } else {
            let at = self.free;
            self.free = self.entries[at as usize].next;
            self.entries[at as usize] = entry;
            if let Some(have) = self.sides.get_mut(at as usize) {
                *have = sides;
            }
            at
        };
        self.live += 1;
        if self.live * 2 > self.slots.len() {
            self.grow();
        }
        self.occupy(Slot { hash, entry: at });
        at
    }

    /// Ends the flow that would end soonest; beyond 4096 seconds, one of those that end in the same stretch of the index.
    /// Entries whose deadline has moved are refiled on the way; the cost is amortised over their packets.
    fn evict(&mut self, out: &mut impl FnMut(Record)) {
        while let Some(place) = self.wheel.next(i64::MAX) {
            let at = self.wheel.head(place);
            let (deadline, _) = self.deadline(at);
            self.wheel.disarm(&mut self.entries, at);
            if deadline > place.second() {
                self.wheel.arm(&mut self.entries, at, deadline);
                if self.entries[at as usize].armed != place.0 {
                    continue;
                }
                self.wheel.disarm(&mut self.entries, at);
            }
            self.end(at, self.wheel.clock, EndReason::Evicted, out);
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
    fn home(&self, hash: u32) -> usize {
        (u64::from(hash) >> self.shift) as usize
    }

    /// The burst's flow.
    #[inline]
    fn find(&self, hashed: &Hashed) -> Option<u32> {
        self.probe(hashed.hash, |at| {
            let entry = &self.entries[at as usize];
            entry.key == hashed.key && entry.armed != SIBLING
        })
    }

    /// The entry with this hash that `is_it`.
    #[inline]
    fn probe(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut place = self.home(hash);
        loop {
            let slot = self.slots[place];
            if slot.entry == NONE {
                return None;
            }
            if slot.hash == hash && is_it(slot.entry) {
                return Some(slot.entry);
            }
            place = (place + 1) & mask;
        }
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

/// A place of the expiry index: the second in which it is looked at, times four, plus its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(i64);

impl Place {
    /// The bucket of a level that begins with these upper bits of a second.
    fn new(level: u32, upper: i64) -> Self {
        Self((upper << (LEVEL_BITS * level)) << 2 | i64::from(level))
    }

    #[inline]
    fn second(self) -> i64 {
        self.0 >> 2
    }

    fn level(self) -> u32 {
        (self.0 & 3).cast_unsigned() as u32
    }

    fn bucket(self) -> usize {
        bucket(self.second() >> (LEVEL_BITS * self.level()))
    }
}

/// The bucket of the upper bits of a second.
fn bucket(upper: i64) -> usize {
    (upper & (BUCKETS - 1)).cast_unsigned() as usize
}

/// The expiry index (a hierarchical timing wheel: Varghese, Lauck, 1987): for each of the coming seconds a list of the entries
/// to look at then, and for longer and longer stretches of later ones, which are dealt out when their time begins.
///
/// An entry armed for a second is there or sooner than its end: ends move away with every packet, and it is cheaper to
/// look again than to move it each time.
#[derive(Debug)]
struct Wheel {
    /// The second up to which everything has been looked at.
    clock: i64,
    levels: [Level; LEVELS as usize],
}

/// Lists of entries, each for the seconds that have the same upper bits.
#[derive(Debug)]
struct Level {
    heads: Vec<u32>,
    /// One bit a bucket that is not empty.
    occupied: [u64; (BUCKETS / 64) as usize],
    /// One bit a word of `occupied` that is not 0.
    words: u64,
}

impl Level {
    fn new() -> Self {
        Self { heads: vec![NONE; BUCKETS as usize], occupied: [0; (BUCKETS / 64) as usize], words: 0 }
    }

    fn mark(&mut self, bucket: usize, is_occupied: bool) {
        let (word, bit) = (bucket / 64, 1 << (bucket % 64));
        if is_occupied {
            self.occupied[word] |= bit;
            self.words |= 1 << word;
        } else {
            self.occupied[word] &= !bit;
            if self.occupied[word] == 0 {
                self.words &= !(1 << word);
            }
        }
    }

    /// How many buckets from `start` on the next one is that is not empty, around the end.
    fn ahead(&self, start: usize) -> Option<u32> {
        if self.words == 0 {
            return None;
        }
        let heads = self.heads.len();
        let (word, bit) = (start / 64, start % 64);
        let upper = self.occupied[word] & u64::MAX << bit;
        let bucket = if upper != 0 {
            word * 64 + upper.trailing_zeros() as usize
        } else {
            // The words behind this one, then those from the first on; this one last, for its lower bits.
            let behind = self.words & u64::MAX.checked_shl(word as u32 + 1).unwrap_or(0);
            let next = if behind != 0 { behind } else { self.words }.trailing_zeros() as usize;
            next * 64 + self.occupied[next].trailing_zeros() as usize
        };
        Some((bucket.wrapping_sub(start) % heads) as u32)
    }
}

impl Wheel {
    fn new() -> Self {
        Self { clock: Stamp::MIN.secs() - 1, levels: std::array::from_fn(|_| Level::new()) }
    }

    /// The next place up to the second `until` that has entries.
    fn next(&self, until: i64) -> Option<Place> {
        let place = |(level, lists): (u32, &Level)| {
            let start = (self.clock >> (LEVEL_BITS * level)) + 1;
            Some(Place::new(level, start + i64::from(lists.ahead(bucket(start))?)))
        };
        let soonest = (0..).zip(&self.levels).filter_map(place).min_by_key(|place| place.second())?;
        (soonest.second() <= until).then_some(soonest)
    }

    fn head(&self, place: Place) -> u32 {
        self.levels[place.level() as usize].heads[place.bucket()]
    }

    /// Empties a list and returns its first entry; the entries stay chained by `next`.
    fn take(&mut self, place: Place) -> u32 {
        let level = &mut self.levels[place.level() as usize];
        level.mark(place.bucket(), false);
        std::mem::replace(&mut level.heads[place.bucket()], NONE)
    }

    /// Puts an entry into the list of `deadline`, or of the nearest second that the wheel can hold.
    fn arm(&mut self, entries: &mut [Entry], at: u32, deadline: i64) {
        let second = deadline.max(self.clock + 1);
        let place = |level: u32| {
            let shift = LEVEL_BITS * level;
            let (upper, now) = (second >> shift, self.clock >> shift);
            (upper - now < BUCKETS).then(|| Place::new(level, upper))
        };
        let farthest = || Place::new(LEVELS - 1, (self.clock >> (LEVEL_BITS * (LEVELS - 1))) + BUCKETS - 1);
        let place = (0..LEVELS).find_map(place).unwrap_or_else(farthest);
        let level = &mut self.levels[place.level() as usize];
        let head = std::mem::replace(&mut level.heads[place.bucket()], at);
        level.mark(place.bucket(), true);
        if head != NONE {
            entries[head as usize].prev = at;
        }
        let entry = &mut entries[at as usize];
        (entry.armed, entry.prev, entry.next) = (place.0, NONE, head);
    }

    fn disarm(&mut self, entries: &mut [Entry], at: u32) {
        let Entry { armed, prev, next, .. } = entries[at as usize];
        if next != NONE {
            entries[next as usize].prev = prev;
        }
        if prev == NONE {
            let place = Place(armed);
            let level = &mut self.levels[place.level() as usize];
            level.heads[place.bucket()] = next;
            if next == NONE {
                level.mark(place.bucket(), false);
            }
        } else {
            entries[prev as usize].next = next;
        }
    }
}
