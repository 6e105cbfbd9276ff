//! Prefix codes of deflate: lengths from counts, codes from lengths, and the header that tells them (RFC 1951, 3.2).
//!
//! Promises: every code made here is complete, no code is longer than its limit, and the header's size
//! is known before it is written. Memory is fixed: no allocation.

use super::bits::Bits;

/// Literals, the end of a block and match lengths.
pub(crate) const LITLEN: usize = 286;
/// Match distances.
pub(crate) const DIST: usize = 30;
/// The longest code of a literal, length or distance.
pub(crate) const LONGEST: usize = 15;
/// The symbols that spell the code lengths.
const SPELLING: usize = 19;
/// The longest code of a spelling symbol.
const SPELLING_LONGEST: usize = 7;
/// The order in which the header lists the spelling's lengths.
const ORDER: [usize; SPELLING] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A code for up to `N` symbols: its lengths and the bits as they are sent.
pub(crate) struct Code<const N: usize> {
    /// Bits of each symbol's code; 0 for a symbol that does not occur.
    pub(crate) lengths: [u8; N],
    /// Each symbol's code, first bit lowest.
    pub(crate) bits: [u16; N],
}

impl<const N: usize> Code<N> {
    pub(crate) const fn empty() -> Self {
        Self { lengths: [0; N], bits: [0; N] }
    }

    /// Makes the code of the smallest size for `counts`, no symbol longer than `longest`.
    pub(crate) fn fit(&mut self, counts: &[u32; N], longest: usize) {
        lengths(counts, longest, &mut self.lengths);
        self.assign();
    }

    /// Gives every symbol its canonical code, bits reversed because deflate sends codes from their top bit.
    pub(crate) fn assign(&mut self) {
        let mut per_length = [0_u16; LONGEST + 1];
        for &length in &self.lengths {
            per_length[usize::from(length)] += 1;
        }
        per_length[0] = 0;
        let mut next = [0_u16; LONGEST + 1];
        for length in 1..=LONGEST {
            next[length] = (next[length - 1] + per_length[length - 1]) << 1;
        }
        for (length, bits) in self.lengths.iter().zip(&mut self.bits) {
            let length = usize::from(*length);
            if length > 0 {
                *bits = next[length].reverse_bits() >> (16 - length);
                next[length] += 1;
            }
        }
    }

    /// The bits that `counts` symbols take in this code, extra bits not counted.
    pub(crate) fn cost(&self, counts: &[u32; N]) -> u64 {
        counts.iter().zip(&self.lengths).map(|(&count, &length)| u64::from(count) * u64::from(length)).sum()
    }
}

/// The fixed code of literals and lengths (RFC 1951, 3.2.6). It is complete with two symbols that never occur.
pub(crate) fn fixed_litlen() -> Code<LITLEN> {
    let mut whole = Code::<288>::empty();
    for (symbol, length) in whole.lengths.iter_mut().enumerate() {
        *length = match symbol {
            0..144 | 280.. => 8,
            144..256 => 9,
            256..280 => 7,
        };
    }
    whole.assign();
    let mut code = Code::empty();
    code.lengths.copy_from_slice(&whole.lengths[..LITLEN]);
    code.bits.copy_from_slice(&whole.bits[..LITLEN]);
    code
}

/// The fixed code of distances: five bits each. It is complete with two symbols that never occur.
pub(crate) fn fixed_dist() -> Code<DIST> {
    let mut code = Code { lengths: [5; DIST], bits: [0; DIST] };
    code.assign();
    code
}

/// Huffman's lengths by merging two queues, then cut to `longest` by moving leaves down, the rarest first.
fn lengths<const N: usize>(counts: &[u32; N], longest: usize, lengths: &mut [u8; N]) {
    lengths.fill(0);
    let mut sorted = [0_u64; 288];
    let mut used = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        if count > 0 {
            sorted[used] = u64::from(count) << 16 | symbol as u64;
            used += 1;
        }
    }
    let leaves = &mut sorted[..used];
    // Old decoders want two codes at least, so a lone symbol gets a companion that never occurs.
    if let [] | [_] = leaves {
        let only = leaves.first().map_or(0, |leaf| (leaf & 0xffff) as usize);
        lengths[only] = 1;
        lengths[usize::from(only == 0)] = 1;
        return;
    }
    leaves.sort_unstable();
    let mut weight = [0_u64; 288];
    let mut parent = [0_u16; 288];
    let mut leaf_parent = [0_u16; 288];
    let (mut leaf, mut node) = (0, 0);
    for made in 0..used - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            let take_leaf = leaf < used && (node >= made || leaves[leaf] >> 16 <= weight[node]);
            if take_leaf {
                sum += leaves[leaf] >> 16;
                leaf_parent[leaf] = made as u16;
                leaf += 1;
            } else {
                sum += weight[node];
                parent[node] = made as u16;
                node += 1;
            }
        }
        weight[made] = sum;
    }
    let root = used - 2;
    let mut depth = [0_u8; 288];
    for node in (0..root).rev() {
        depth[node] = depth[usize::from(parent[node])] + 1;
    }
    let mut per_length = [0_usize; 64];
    for leaf in 0..used {
        let deep = usize::from(depth[usize::from(leaf_parent[leaf])]) + 1;
        per_length[deep.min(63)] += 1;
    }
    limit(&mut per_length, longest);
    let mut leaf = 0;
    for length in (1..=longest).rev() {
        for _ in 0..per_length[length] {
            lengths[(leaves[leaf] & 0xffff) as usize] = length as u8;
            leaf += 1;
        }
    }
}

/// Makes the numbers of codes per length a complete code whose longest is `longest`.
fn limit(per_length: &mut [usize; 64], longest: usize) {
    let over: usize = per_length[longest + 1..].iter().sum();
    if over == 0 {
        return;
    }
    per_length[longest + 1..].fill(0);
    per_length[longest] += over;
    // In units of the longest code, a complete code takes exactly one whole.
    let whole = 1_usize << longest;
    let mut taken: usize = (1..=longest).map(|length| per_length[length] << (longest - length)).sum();
    while taken > whole {
        // One code of the longest goes, a shorter one becomes two of the next length: one unit less in all.
        let Some(shorter) = (1..longest).rev().find(|&length| per_length[length] > 0) else { return };
        per_length[longest] -= 1;
        per_length[shorter] -= 1;
        per_length[shorter + 1] += 2;
        taken -= 1;
    }
}

/// One symbol of the spelled-out lengths, with its extra bits.
#[derive(Clone, Copy, Default)]
struct Spelled {
    symbol: u8,
    extra: u8,
}

/// The header of a block with codes of its own, ready to be written.
pub(crate) struct Header {
    spelled: [Spelled; LITLEN + DIST],
    count: usize,
    code: Code<SPELLING>,
    listed: usize,
    litlen: usize,
    dist: usize,
    bits: u64,
}

impl Header {
    pub(crate) const fn empty() -> Self {
        Self {
            spelled: [Spelled { symbol: 0, extra: 0 }; LITLEN + DIST],
            count: 0,
            code: Code::empty(),
            listed: 0,
            litlen: 0,
            dist: 0,
            bits: 0,
        }
    }

    /// Spells the lengths of both codes.
    pub(crate) fn spell(&mut self, litlen: &[u8; LITLEN], dist: &[u8; DIST]) {
        let used =
            |lengths: &[u8], least: usize| lengths.iter().rposition(|&l| l > 0).map_or(0, |at| at + 1).max(least);
        self.litlen = used(litlen, 257);
        self.dist = used(dist, 1);
        let mut all = [0_u8; LITLEN + DIST];
        all[..self.litlen].copy_from_slice(&litlen[..self.litlen]);
        all[self.litlen..self.litlen + self.dist].copy_from_slice(&dist[..self.dist]);
        let all = &all[..self.litlen + self.dist];

        let mut counts = [0_u32; SPELLING];
        self.count = 0;
        let mut at = 0;
        while at < all.len() {
            let length = all[at];
            let run = all[at..].iter().take_while(|&&other| other == length).count();
            let taken = match (length, run) {
                (0, 11..) => self.push(&mut counts, 18, run.min(138), 11),
                (0, 3..) => self.push(&mut counts, 17, run, 3),
                (_, 4..) if length > 0 => {
                    self.push(&mut counts, length, 0, 0);
                    let again = (run - 1).min(6);
                    1 + self.push(&mut counts, 16, again, 3)
                }
                _ => {
                    self.push(&mut counts, length, 0, 0);
                    1
                }
            };
            at += taken;
        }
        self.code.fit(&counts, SPELLING_LONGEST);
        self.listed = ORDER.iter().rposition(|&symbol| self.code.lengths[symbol] > 0).map_or(0, |at| at + 1).max(4);
        let extra = u64::from(counts[16]) * 2 + u64::from(counts[17]) * 3 + u64::from(counts[18]) * 7;
        self.bits = 14 + 3 * self.listed as u64 + self.code.cost(&counts) + extra;
    }

    fn push(&mut self, counts: &mut [u32; SPELLING], symbol: u8, run: usize, least: usize) -> usize {
        self.spelled[self.count] = Spelled { symbol, extra: (run - least) as u8 };
        self.count += 1;
        counts[usize::from(symbol)] += 1;
        run
    }

    /// The header's size in bits, without the block's three first bits.
    pub(crate) const fn bits(&self) -> u64 {
        self.bits
    }

    pub(crate) fn write(&self, bits: &mut Bits) {
        bits.add((self.litlen - 257) as u64 | ((self.dist - 1) as u64) << 5 | ((self.listed - 4) as u64) << 10, 14);
        bits.flush();
        for &symbol in &ORDER[..self.listed] {
            bits.add(u64::from(self.code.lengths[symbol]), 3);
            bits.flush();
        }
        for spelled in &self.spelled[..self.count] {
            let symbol = usize::from(spelled.symbol);
            bits.add(u64::from(self.code.bits[symbol]), u32::from(self.code.lengths[symbol]));
            let extra = match symbol {
                16 => 2,
                17 => 3,
                18 => 7,
                _ => 0,
            };
            bits.add(u64::from(spelled.extra), extra);
            bits.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(lengths: &[u8]) -> u32 {
        lengths.iter().filter(|&&length| length > 0).map(|&length| 1 << (LONGEST - usize::from(length))).sum()
    }

    #[test]
    fn codes_of_the_standards_example() {
        // RFC 1951, 3.2.2: lengths 3 3 3 3 3 2 4 4 give 010 011 100 101 110 00 1110 1111, here with the bits turned.
        let mut code = Code { lengths: [3, 3, 3, 3, 3, 2, 4, 4], bits: [0; 8] };
        code.assign();
        assert_eq!(code.bits, [0b010, 0b110, 0b001, 0b101, 0b011, 0b00, 0b0111, 0b1111]);
    }

    #[test]
    fn lone_symbols_get_a_companion() {
        for used in 0..3 {
            let mut counts = [0; DIST];
            counts[..used].fill(5);
            let mut code = Code::empty();
            code.fit(&counts, LONGEST);
            assert_eq!(taken(&code.lengths), 1 << LONGEST, "{used} symbols");
        }
    }

    #[test]
    fn steep_counts_stay_within_the_limit() {
        let mut counts = [0; LITLEN];
        let (mut low, mut high) = (1_u32, 1_u32);
        for count in counts.iter_mut().take(40) {
            *count = low;
            (low, high) = (high, low + high);
        }
        for longest in [7, 14, 15] {
            let mut code = Code::empty();
            code.fit(&counts, longest);
            assert_eq!(taken(&code.lengths), 1 << LONGEST);
            assert!(code.lengths.iter().all(|&length| usize::from(length) <= longest));
        }
    }

    proptest! {
        #[test]
        fn codes_are_complete_and_short(counts in prop::collection::vec(prop_oneof![Just(0_u32), 0_u32..100_000], LITLEN)) {
            let counts: [u32; LITLEN] = counts.try_into().unwrap();
            let mut code = Code::empty();
            code.fit(&counts, LONGEST);
            prop_assert_eq!(taken(&code.lengths), 1 << LONGEST);
            for (count, length) in counts.iter().zip(code.lengths) {
                prop_assert!(*count == 0 || length > 0);
            }
            // No code of equal lengths is smaller.
            let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
            prop_assert!(code.cost(&counts) <= total * 9);
        }
    }
}
