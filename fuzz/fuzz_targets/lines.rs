//! Any bytes as lines: the batcher loses none, splits none between two files, and the checks account for each.
//!
//! The first bytes choose the sizes of blocks, reads and files, and what becomes of headers and bad lines.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use processor::check::{BadLines, Checker, HeaderMode, Options};
use processor::clock::Zone;
use processor::line::{Batcher, Block, Cut, Limits};

fuzz_target!(|bytes: &[u8]| {
    let Some((&[how, block, read, size], input)) = bytes.split_first_chunk::<4>() else { return };
    let (block, read) = (8 + usize::from(block) * 4, 1 + usize::from(read));
    let header = [HeaderMode::Keep, HeaderMode::EachFile, HeaderMode::None][usize::from(how & 3).min(2)];
    let limits = Limits {
        batch_age: Duration::from_millis(5),
        file_age: Duration::from_secs(1 + u64::from(how >> 6)),
        file_bytes: 1 + u64::from(size) * 16,
        seal_on_new_header: header == HeaderMode::EachFile,
    };
    let mut checker = Checker::new(Options {
        header,
        bad_lines: if how & 4 == 0 { BadLines::Keep } else { BadLines::Quarantine },
        convert_to: (how & 8 != 0).then(Zone::default),
    });
    let keeps_all = header == HeaderMode::Keep && how & 12 == 0;
    let mut state = State { kept: Vec::new(), seen: Vec::new(), may_seal: true, closed: false };
    let mut batcher = Batcher::new(limits);
    let mut now = Instant::now();
    for chunk in input.chunks(read) {
        let mut rest = chunk;
        while !rest.is_empty() {
            if batcher.wants_block() {
                batcher.give(Block::new(block));
            }
            let space = batcher.space();
            let len = space.len().min(rest.len());
            assert!(len > 0);
            space[..len].copy_from_slice(&rest[..len]);
            batcher.filled(len, now);
            rest = &rest[len..];
            state.pump(&mut batcher, &mut checker, now, block);
        }
        now += Duration::from_millis(u64::from(how & 48));
        state.pump(&mut batcher, &mut checker, now, block);
    }
    batcher.close();
    state.closed = true;
    state.pump(&mut batcher, &mut checker, now, block);
    assert!(state.seen == input, "every byte in its order");
    assert!(!keeps_all || state.kept == input, "bytes in are bytes out");
});

struct State {
    kept: Vec<u8>,
    seen: Vec<u8>,
    /// The last batch ended with a line's end.
    may_seal: bool,
    /// The input has ended; its last line may be without an end.
    closed: bool,
}

impl State {
    fn pump(&mut self, batcher: &mut Batcher, checker: &mut Checker, now: Instant, block: usize) {
        loop {
            while let Some(cut) = batcher.poll(now) {
                self.take(cut, checker);
            }
            if !batcher.is_stalled() {
                return;
            }
            batcher.give(Block::new(block));
        }
    }

    fn take(&mut self, cut: Cut, checker: &mut Checker) {
        let Cut::Batch(batch) = cut else {
            assert!(self.may_seal || self.closed, "a line spans two files");
            return;
        };
        assert!(!batch.block.filled().is_empty());
        self.seen.extend_from_slice(batch.block.filled());
        self.may_seal = !batch.ends_mid_line;
        let (findings, _) = checker.check(&batch, |kept, _| self.kept.extend_from_slice(kept));
        let accounted = findings.written.lines + findings.rejected.lines + findings.header_lines;
        assert_eq!(findings.read.lines, accounted);
        assert_eq!(findings.read.bytes, batch.block.filled().len() as u64);
    }
}
