//! Frames in, records out: decoding, sampling, fragments and the flow table as one step (IPFIX's *metering process*).
//!
//! Packets seen = packets decoded + packets passed over by sampling + rejects by reason; the sum of all records' packets =
//! packets decoded, once [`Meter::stop`] has been called. Packets are counted in batches, so that the table's cache misses
//! overlap; [`Meter::advance`] and [`Meter::stop`] count what a batch still holds.

use crate::flow::decode::{Fragment, LinkType, Reject, decode};
use crate::flow::fragments::{Fragments, one};
use crate::flow::table::{Hashed, Table};
use crate::flow::{Burst, Link, Record, Stamp, table};

/// Which fields of [`Link`] are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each field of Link")]
pub struct LinkFields {
    /// Keep `src_mac`.
    pub src_mac: bool,
    /// Keep `dst_mac`.
    pub dst_mac: bool,
    /// Keep `vlan`.
    pub vlan: bool,
    /// Keep `cos`.
    pub cos: bool,
    /// Keep `iface`.
    pub iface: bool,
}

impl LinkFields {
    /// True when any field is kept.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// The link with every other field cleared.
    fn of(self, link: &Link) -> Link {
        Link {
            src_mac: if self.src_mac { link.src_mac } else { [0; 6] },
            dst_mac: if self.dst_mac { link.dst_mac } else { [0; 6] },
            vlan: if self.vlan { link.vlan } else { 0 },
            cos: if self.cos { link.cos } else { 0 },
            iface: if self.iface { link.iface } else { 0 },
        }
    }
}

/// How a meter is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The flow table; its `by_link` is set from `link_fields`.
    pub table: table::Options,
    /// What of the headers below IP is part of the key.
    pub link_fields: LinkFields,
    /// One of how many packets is counted; 1 is every packet.
    pub sampling: u32,
    /// Random start of the sampling.
    pub sampling_seed: u64,
}

/// What became of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames given to the meter.
    pub seen: u64,
    /// Frames counted as packets of a flow.
    pub decoded: u64,
    /// Frames passed over by sampling.
    pub passed_over: u64,
    /// Frames not counted, by [`Reject::index`].
    pub rejected: [u64; Reject::ALL.len()],
    /// Flows ended early because the table was full.
    pub evicted: u64,
}

/// One captured frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it begins with; `None` when the capture's link type is not decoded here.
    pub link_type: Option<LinkType>,
    /// When it was captured.
    pub stamp: Stamp,
    /// Its length on the wire, bytes.
    pub wire_len: u32,
    /// The interface it came in by, when the link header does not say; 0 when not known.
    pub iface: u32,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
}

/// Packets counted together; from the measurement in `benches/flow_table.rs`, where 16 and 64 do no better.
const BATCH: usize = 32;

/// Frames in, records out.
#[derive(Debug)]
pub struct Meter {
    link_fields: LinkFields,
    sampler: Sampler,
    fragments: Fragments,
    table: Table,
    batch: [Hashed; BATCH],
    waiting: usize,
    counts: Counts,
    /// Holds the result of [`Table::touch`], so that its reads count as used.
    touched: u64,
}

impl Meter {
    /// A meter that has seen nothing.
    pub fn new(options: Options) -> Self {
        let Options { mut table, link_fields, sampling, sampling_seed } = options;
        table.by_link = link_fields.any();
        Self {
            link_fields,
            sampler: Sampler::new(sampling, sampling_seed),
            fragments: Fragments::new(),
            table: Table::new(table),
            batch: [Hashed::default(); BATCH],
            waiting: 0,
            counts: Counts::default(),
            touched: 0,
        }
    }

    /// What became of the frames so far.
    pub fn counts(&self) -> Counts {
        Counts { evicted: self.table.evicted(), ..self.counts }
    }

    /// The clock, seconds since 1970: the latest second that a packet or [`Meter::advance`] has told; before every stamp at first.
    pub fn clock(&self) -> i64 {
        self.table.clock()
    }

    /// Flows in the table.
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// Counts one frame. Records that end by it, now or with a later call, go to `out`.
    #[inline]
    pub fn frame(&mut self, frame: &Frame, out: &mut impl FnMut(Record)) {
        self.counts.seen += 1;
        if !self.sampler.takes() {
            self.counts.passed_over += 1;
            return;
        }
        let decoded = match frame.link_type {
            Some(link_type) => decode(link_type, frame.bytes, frame.wire_len),
            None => Err(Reject::LinkType),
        };
        let mut packet = match decoded {
            Ok(packet) => packet,
            Err(reason) => {
                self.counts.rejected[reason.index()] += 1;
                return;
            }
        };
        self.counts.decoded += 1;
        let link = if self.link_fields.any() {
            if packet.link.iface == 0 {
                packet.link.iface = frame.iface;
            }
            self.link_fields.of(&packet.link)
        } else {
            Link::default()
        };
        let burst = one(&packet, frame.stamp, link);
        if packet.fragment == Fragment::No {
            self.enqueue(burst, out);
        } else {
            self.fragment(packet.fragment, burst, out);
        }
    }

    /// Moves the clock to the second `now` (never back): flows that ended by then go to `out`.
    pub fn advance(&mut self, now: i64, out: &mut impl FnMut(Record)) {
        self.flush(out);
        advance(&mut self.table, &mut self.fragments, now, out);
    }

    /// Ends every flow and gives all records to `out`. The meter is empty afterwards and may be used again, also
    /// with an earlier clock.
    pub fn stop(&mut self, out: &mut impl FnMut(Record)) {
        self.flush(out);
        self.fragments.release(|burst| self.table.add(&self.table.hashed(burst), out));
        self.table.stop(out);
    }

    #[cold]
    fn fragment(&mut self, fragment: Fragment, burst: Burst, out: &mut impl FnMut(Record)) {
        let now = self.table.clock().max(burst.last.secs());
        let mut fragments = std::mem::take(&mut self.fragments);
        fragments.take(fragment, burst, now, |burst| self.enqueue(burst, out));
        self.fragments = fragments;
    }

    #[inline]
    fn enqueue(&mut self, burst: Burst, out: &mut impl FnMut(Record)) {
        self.batch[self.waiting] = self.table.hashed(burst);
        self.waiting += 1;
        if self.waiting == BATCH {
            self.flush(out);
        }
    }

    /// Counts what the batch holds.
    fn flush(&mut self, out: &mut impl FnMut(Record)) {
        let Self { batch, table, fragments, .. } = self;
        let batch = &batch[..std::mem::take(&mut self.waiting)];
        self.touched ^= table.touch(batch);
        for hashed in batch {
            let now = hashed.now();
            if now > table.clock() {
                advance(table, fragments, now, out);
            }
            table.add(hashed, out);
        }
    }
}

/// Moves the clock of the table and of the fragments.
fn advance(table: &mut Table, fragments: &mut Fragments, now: i64, out: &mut impl FnMut(Record)) {
    table.advance(now, out);
    fragments.expire(now, |burst| table.add(&table.hashed(burst), out));
}

/// One of N packets: a gap of 1 to 2N−1 packets, each as likely, before the next that is counted.
#[derive(Debug)]
struct Sampler {
    rate: u32,
    gap: u32,
    state: u64,
}

impl Sampler {
    fn new(rate: u32, seed: u64) -> Self {
        let mut sampler = Self { rate: rate.max(1), gap: 0, state: seed | 1 };
        sampler.gap = sampler.draw();
        sampler
    }

    #[inline]
    fn takes(&mut self) -> bool {
        if self.rate == 1 {
            return true;
        }
        self.gap -= 1;
        if self.gap > 0 {
            return false;
        }
        self.gap = self.draw();
        true
    }

    /// Xorshift (Marsaglia, 2003), mapped to 1..2N−1 by a product.
    fn draw(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let width = u64::from(self.rate) * 2 - 1;
        (((self.state >> 32) * width) >> 32) as u32 + 1
    }
}
