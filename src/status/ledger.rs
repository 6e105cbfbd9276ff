//! The loss ledger: every place where a packet, a datagram, a flow or a line can vanish, with its count, zeros included.

use crate::flow::decode::Reject;
use crate::stats::{Capture, Number, Stats};

const _: () = assert!(Reject::ALL.len() == Capture::REASONS, "each reason of the decoder has its counter");

/// One place of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The place's stable name.
    pub place: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// How many since the start.
    pub count: u64,
}

/// All places, in the order in which traffic passes them.
pub fn losses(stats: &Stats) -> Vec<Loss> {
    let chain = &stats.chain;
    let capture = |number: &dyn Fn(&Capture) -> u64| stats.capture.get().map_or(0, |capture| number(capture));
    let loss = |place, unit, count| Loss { place, unit, count };
    let of = |place, unit, number: &Number| loss(place, unit, number.get());
    vec![
        loss("kernel", "packets", chain.capture_drops.get() + capture(&|c| c.dropped_by_kernel.get())),
        loss("interface", "packets", capture(&|c| c.dropped_by_interface.get())),
        loss("decoder", "packets", capture(&undecoded)),
        of("udp_socket", "datagrams", &chain.datagram_drops),
        of("collector", "datagrams", &chain.datagrams_discarded),
        of("sequence", "gaps", &chain.sequence_gaps),
        of("collector_window", "windows", &chain.windows_lost),
        of("torn_row", "lines", &chain.torn_rows),
        of("quarantine", "lines", &stats.rejected.lines),
        of("quarantine_full", "lines", &stats.rejects_unkept),
        of("end", "lines", &stats.lost.lines),
        of("removed_part", "lines", &stats.vanished.lines),
        of("torn_file", "bytes", &stats.salvage_cut_bytes),
        of("damaged_file", "files", &stats.torn_set_aside),
        of("spool_eviction", "lines", &stats.dropped.lines),
        of("spool_eviction", "bytes", &stats.dropped.bytes),
    ]
}

/// Packets that are not counted in any flow although they are IP; a frame that is not IP is nothing lost.
fn undecoded(capture: &Capture) -> u64 {
    let lost = Reject::ALL.into_iter().filter(|reason| *reason != Reject::NotIp);
    lost.map(|reason| capture.rejected[reason.index()].get()).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_place_is_said_once_and_zeros_too() {
        let stats = Stats::default();
        let losses = losses(&stats);
        let places: BTreeSet<_> = losses.iter().map(|loss| (loss.place, loss.unit)).collect();
        assert_eq!(places.len(), losses.len());
        assert!(losses.iter().all(|loss| loss.count == 0));
    }

    #[test]
    fn both_ways_of_capture_count() {
        let stats = Stats::default();
        let capture = Arc::new(Capture::default());
        capture.dropped_by_kernel.add(2);
        capture.rejected[Reject::NotIp.index()].add(100);
        capture.rejected[Reject::Cut.index()].add(5);
        stats.capture.set(capture).unwrap();
        stats.chain.capture_drops.add(1);
        let counts: Vec<_> = losses(&stats).iter().take(3).map(|loss| loss.count).collect();
        assert_eq!(counts, [3, 0, 5]);
    }
}
