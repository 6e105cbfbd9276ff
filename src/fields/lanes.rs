//! Many bytes at a time: how far two places agree, and where separators stand.
//!
//! Promises: every width gives the same numbers, so nothing that is built on them depends on the CPU. What is written for
//! any [`Lanes`] is inlined into one function for each width, which is compiled for the instructions that come with it; [`Path`]
//! says which of them to call.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

/// The width in which bytes are compared and scanned. Chosen once at run time; every choice gives the same results.
pub(crate) trait Lanes: Copy {
    /// Thirty-two bytes, ready to be compared.
    type Probe: Copy;

    /// Takes up the bytes that candidates are compared with.
    fn load(self, head: &[u8; 32]) -> Self::Probe;

    /// How many of the first bytes of `other` are those of `probe`.
    fn same(self, probe: Self::Probe, other: &[u8; 32]) -> u32;

    /// How many bytes from `old` and from `new` agree, at most `most`. `old < new`, and `new + most` is a place of the view.
    #[inline(always)]
    fn common(self, bytes: Padded, old: usize, new: usize, most: usize) -> usize {
        let mut length = 0;
        while length < most {
            let same = self.same(self.load(bytes.at(new + length)), bytes.at(old + length)) as usize;
            length += same;
            if same < 32 {
                break;
            }
        }
        length.min(most)
    }

    /// Which of 64 numbers are at least `least`: bit i for number i.
    fn reaching(self, numbers: &[i32; 64], least: i32) -> u64;

    /// Which of 64 bytes are `separator` or a newline: bit i for byte i.
    fn marks(self, block: &[u8; 64], separator: u8) -> u64;

    /// Writes `base` and the place of each bit of `marks` to `places` from `count` on, and anything behind these; returns the new
    /// count. There must be room for 64.
    #[inline(always)]
    fn spread(self, places: &mut [u32], count: usize, base: u32, marks: u64) -> usize {
        let found = marks.count_ones() as usize;
        let mut marks = marks;
        // Always writes ten: a loop with a data-dependent exit mispredicts on every block. More than ten marks in 64 bytes of
        // rows are rare.
        if let Some(room) = places.get_mut(count..).and_then(|room| room.first_chunk_mut::<10>()) {
            for place in room {
                *place = base.wrapping_add(marks.trailing_zeros());
                marks &= marks.wrapping_sub(1);
            }
        }
        for place in &mut places[(count + 10).min(count + found)..count + found] {
            *place = base + marks.trailing_zeros();
            marks &= marks.wrapping_sub(1);
        }
        count + found
    }
}

/// Which lanes to use: chosen once, when the program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    Words,
    #[cfg(target_arch = "x86_64")]
    Wide(Wide),
    #[cfg(target_arch = "x86_64")]
    Wider(Wider),
}

impl Path {
    /// The fastest one.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(wider) = Wider::detect() {
            return Self::Wider(wider);
        } else if let Some(wide) = Wide::detect() {
            return Self::Wide(wide);
        }
        Self::Words
    }

    /// All that this CPU can take.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let more = [Wide::detect().map(Self::Wide), Wider::detect().map(Self::Wider)];
        #[cfg(not(target_arch = "x86_64"))]
        let more: [Option<Self>; 0] = [];
        [Self::Words].into_iter().chain(more.into_iter().flatten())
    }
}

/// Bytes that may stand before a place and are read before it is known whether they count.
pub(crate) const LEAD: usize = 1 << 16;
/// How many places a [`View`] has; a power of two, so that a remainder keeps a place within it.
pub(crate) const PLACES: usize = 1 << 19;
/// Bytes readable after any place.
pub(crate) const PADDING: usize = 64;
/// [`PLACES`] places and what is read around them.
pub(crate) type View = [u8; LEAD + PLACES + PADDING];

/// What a read from nowhere gives.
static NOTHING: [u8; LEAD + PADDING] = [0; LEAD + PADDING];

/// A [`View`], read in pieces of fixed length from any place: no comparison is needed, for its length and the remainder of the
/// place are known when the program is compiled.
#[derive(Clone, Copy)]
pub(crate) struct Padded<'a>(pub(crate) &'a View);

impl<'a> Padded<'a> {
    /// The `N` bytes at `at`, which is below [`PLACES`].
    #[inline(always)]
    pub(crate) fn at<const N: usize>(self, at: usize) -> &'a [u8; N] {
        const { assert!(N <= PADDING) };
        debug_assert!(at < PLACES, "no place of the view: {at}");
        self.0[at % PLACES..].first_chunk().unwrap_or(&[0; N])
    }

    /// The [`LEAD`] bytes before `at` and the [`PADDING`] from there on. `at` is at least [`LEAD`].
    #[inline(always)]
    pub(crate) fn around(self, at: usize) -> &'a [u8; LEAD + PADDING] {
        debug_assert!((LEAD..PLACES).contains(&at), "no place of the view with room before it: {at}");
        self.0[at.wrapping_sub(LEAD) % PLACES..].first_chunk().unwrap_or(&NOTHING)
    }

    /// The bytes `from..to`; none where the view has no such.
    #[inline(always)]
    pub(crate) fn range(self, from: usize, to: usize) -> &'a [u8] {
        self.0.get(from..to).unwrap_or_default()
    }

    /// The eight bytes at `at`, the first lowest.
    #[inline(always)]
    pub(crate) fn word(self, at: usize) -> u64 {
        u64::from_le_bytes(*self.at(at))
    }
}

/// Eight bytes at a time, on any machine.
#[derive(Clone, Copy)]
pub(crate) struct Words;

/// The eight bytes at `at`, the first lowest; zero where `bytes` ends early, which padded buffers never do.
#[inline(always)]
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => 0,
    }
}

impl Lanes for Words {
    type Probe = [u64; 4];

    #[inline(always)]
    fn load(self, head: &[u8; 32]) -> [u64; 4] {
        [word(head, 0), word(head, 8), word(head, 16), word(head, 24)]
    }

    #[inline(always)]
    fn same(self, probe: [u64; 4], other: &[u8; 32]) -> u32 {
        let other = self.load(other);
        for lane in 0..4 {
            let differ = probe[lane] ^ other[lane];
            if differ != 0 {
                return lane as u32 * 8 + differ.trailing_zeros() / 8;
            }
        }
        32
    }

    #[inline(always)]
    fn reaching(self, numbers: &[i32; 64], least: i32) -> u64 {
        numbers.iter().zip(0..).fold(0, |found, (&number, bit)| found | u64::from(number >= least) << bit)
    }

    #[inline(always)]
    fn marks(self, block: &[u8; 64], separator: u8) -> u64 {
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        let zeros = |word: u64| !((word & LOW).wrapping_add(LOW) | word | LOW);
        let separators = u64::from_ne_bytes([separator; 8]);
        let newlines = u64::from_ne_bytes([b'\n'; 8]);
        let mut marks = 0;
        for eighth in 0..8 {
            let word = word(block, eighth * 8);
            let found = (zeros(word ^ separators) | zeros(word ^ newlines)) >> 7;
            marks |= (found.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (eighth * 8);
        }
        marks
    }
}

/// Thirty-two bytes at a time. Can only be had from [`Wide::detect`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide(());

#[cfg(target_arch = "x86_64")]
impl Wide {
    /// `Some` when this CPU has AVX2 and the bit instructions that came with it.
    pub(crate) fn detect() -> Option<Self> {
        let all = std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("lzcnt")
            && std::is_x86_feature_detected!("popcnt");
        all.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
impl Lanes for Wide {
    type Probe = std::arch::x86_64::__m256i;

    #[inline(always)]
    fn load(self, head: &[u8; 32]) -> Self::Probe {
        // SAFETY: an unaligned load of an array of 32 bytes, where AVX2 was detected.
        unsafe { std::arch::x86_64::_mm256_loadu_si256(head.as_ptr().cast()) }
    }

    #[inline(always)]
    fn same(self, probe: Self::Probe, other: &[u8; 32]) -> u32 {
        use std::arch::x86_64::{_mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8};
        // SAFETY: an unaligned load of an array of 32 bytes, where AVX2 was detected.
        let equal = unsafe {
            let other = _mm256_loadu_si256(other.as_ptr().cast());
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(probe, other))
        };
        (!equal).trailing_zeros()
    }

    #[inline(always)]
    fn reaching(self, numbers: &[i32; 64], least: i32) -> u64 {
        use std::arch::x86_64::{
            _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_loadu_si256, _mm256_movemask_ps, _mm256_set1_epi32,
        };
        let mut found = 0;
        for eight in numbers.as_chunks::<8>().0.iter().rev() {
            // SAFETY: an unaligned load of an array of 32 bytes, where AVX2 was detected.
            let less = unsafe {
                let numbers = _mm256_loadu_si256(eight.as_ptr().cast());
                _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(least), numbers)))
            };
            found = found << 8 | u64::from(!less.cast_unsigned() & 0xff);
        }
        found
    }

    #[inline(always)]
    fn marks(self, block: &[u8; 64], separator: u8) -> u64 {
        use std::arch::x86_64::{
            _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
        };
        let mut marks = 0;
        for lane in block.as_chunks::<32>().0.iter().rev() {
            // SAFETY: an unaligned load of an array of 32 bytes, where AVX2 was detected.
            let found = unsafe {
                let lane = _mm256_loadu_si256(lane.as_ptr().cast());
                let separators = _mm256_cmpeq_epi8(lane, _mm256_set1_epi8(separator.cast_signed()));
                let newlines = _mm256_cmpeq_epi8(lane, _mm256_set1_epi8(b'\n'.cast_signed()));
                _mm256_movemask_epi8(_mm256_or_si256(separators, newlines))
            };
            marks = marks << 32 | u64::from(found.cast_unsigned());
        }
        marks
    }
}

/// The same with AVX-512: masks come as they are needed, and places are spread by one instruction. Can only be had from
/// [`Wider::detect`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wider(Wide);

#[cfg(target_arch = "x86_64")]
impl Wider {
    /// `Some` when this CPU has AVX-512 as of Ice Lake or Zen 4. Older ones, which slow down for it, lack VBMI2.
    pub(crate) fn detect() -> Option<Self> {
        let all = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512cd")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512vbmi2");
        Wide::detect().filter(|_| all).map(Self)
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
impl Lanes for Wider {
    type Probe = std::arch::x86_64::__m256i;

    #[inline(always)]
    fn load(self, head: &[u8; 32]) -> Self::Probe {
        self.0.load(head)
    }

    #[inline(always)]
    fn same(self, probe: Self::Probe, other: &[u8; 32]) -> u32 {
        // SAFETY: the comparison of two vectors, where AVX-512 with BW and VL was detected.
        let differ = unsafe { std::arch::x86_64::_mm256_cmpneq_epi8_mask(probe, self.0.load(other)) };
        differ.trailing_zeros()
    }

    #[inline(always)]
    fn reaching(self, numbers: &[i32; 64], least: i32) -> u64 {
        use std::arch::x86_64::{_mm512_cmpge_epi32_mask, _mm512_loadu_si512, _mm512_set1_epi32};
        let mut found = 0;
        for sixteen in numbers.as_chunks::<16>().0.iter().rev() {
            // SAFETY: an unaligned load of an array of 64 bytes, where AVX-512 was detected.
            let reach = unsafe {
                let numbers = _mm512_loadu_si512(sixteen.as_ptr().cast());
                _mm512_cmpge_epi32_mask(numbers, _mm512_set1_epi32(least))
            };
            found = found << 16 | u64::from(reach);
        }
        found
    }

    #[inline(always)]
    fn marks(self, block: &[u8; 64], separator: u8) -> u64 {
        use std::arch::x86_64::{_mm512_cmpeq_epi8_mask, _mm512_loadu_si512, _mm512_set1_epi8};
        // SAFETY: an unaligned load of an array of 64 bytes, where AVX-512 with BW was detected.
        unsafe {
            let block = _mm512_loadu_si512(block.as_ptr().cast());
            _mm512_cmpeq_epi8_mask(block, _mm512_set1_epi8(separator.cast_signed()))
                | _mm512_cmpeq_epi8_mask(block, _mm512_set1_epi8(b'\n'.cast_signed()))
        }
    }

    #[inline(always)]
    fn spread(self, places: &mut [u32], count: usize, base: u32, marks: u64) -> usize {
        use std::arch::x86_64::{
            _mm512_add_epi32, _mm512_castsi512_si128, _mm512_cvtepu8_epi32, _mm512_loadu_si512,
            _mm512_maskz_compress_epi8, _mm512_set1_epi32, _mm512_storeu_si512,
        };
        const NUMBERS: [u8; 64] = {
            let mut numbers = [0; 64];
            let mut at = 0;
            while at < 64 {
                numbers[at] = at as u8;
                at += 1;
            }
            numbers
        };
        let found = marks.count_ones() as usize;
        match places.get_mut(count..).and_then(|room| room.first_chunk_mut::<16>()) {
            Some(room) if found <= room.len() => {
                // SAFETY: unaligned loads and stores of arrays of 64 bytes, where AVX-512 with VBMI2 was detected.
                unsafe {
                    let numbers = _mm512_loadu_si512(NUMBERS.as_ptr().cast());
                    let marked = _mm512_castsi512_si128(_mm512_maskz_compress_epi8(marks, numbers));
                    let marked = _mm512_add_epi32(_mm512_cvtepu8_epi32(marked), _mm512_set1_epi32(base.cast_signed()));
                    _mm512_storeu_si512(room.as_mut_ptr().cast(), marked);
                }
                count + found
            }
            _ => self.0.spread(places, count, base, marks),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_end_where_bytes_end() {
        assert_eq!(word(b"abcdefgh", 0), u64::from_le_bytes(*b"abcdefgh"));
        assert_eq!(word(b"abcdefgh", 1), 0);
    }

    /// What a path makes of bytes at `old` and `new`, of which `most` may agree, and of `numbers`.
    fn seen<L: Lanes>(
        lanes: L,
        (bytes, old, new, most): (Padded, usize, usize, usize),
        numbers: &[i32; 64],
    ) -> (usize, u32, u64, Vec<u32>, u64) {
        let marks = lanes.marks(bytes.at(old), b',');
        let mut places = vec![0; 70];
        let count = lanes.spread(&mut places, 3, 7, marks);
        let same = lanes.same(lanes.load(bytes.at(new)), bytes.at(old));
        (
            lanes.common(bytes, old, new, most),
            same,
            marks,
            places[3..count].to_vec(),
            lanes.reaching(numbers, numbers[0]),
        )
    }

    proptest! {
        #[test]
        fn every_path_sees_the_same(
            bytes in prop::collection::vec(prop_oneof![Just(b'a'), Just(b','), Just(b'\n'), any::<u8>()], 512),
            old in 0_usize..200,
            ahead in 1_usize..200,
            most in 0_usize..48,
        ) {
            let new = old + ahead;
            let naive = (0..most).take_while(|&at| bytes[old + at] == bytes[new + at]).count();
            let mut buffer: Box<View> = vec![0; size_of::<View>()].into_boxed_slice().try_into().unwrap();
            buffer[..bytes.len()].copy_from_slice(&bytes);
            let padded = Padded(&buffer);
            let same = (0..32).take_while(|&at| bytes[old + at] == bytes[new + at]).count() as u32;
            let marks = (0..64).filter(|&at| matches!(bytes[old + at], b',' | b'\n')).fold(0, |marks, at| marks | 1_u64 << at);
            let places: Vec<u32> = (0..64).filter(|&at| marks >> at & 1 == 1).map(|at| 7 + at).collect();
            let (numbers, _) = bytes.as_chunks::<4>();
            let numbers: [i32; 64] = std::array::from_fn(|at| i32::from_le_bytes(numbers[at]) >> (bytes[at] & 31));
            let reaching = (0..64).filter(|&at| numbers[at] >= numbers[0]).fold(0, |found, at| found | 1_u64 << at);
            let expected = (naive, same, marks, places, reaching);
            for path in Path::all() {
                let at = (padded, old, new, most);
                let found = match path {
                    Path::Words => seen(Words, at, &numbers),
                    #[cfg(target_arch = "x86_64")]
                    Path::Wide(wide) => seen(wide, at, &numbers),
                    #[cfg(target_arch = "x86_64")]
                    Path::Wider(wider) => seen(wider, at, &numbers),
                };
                prop_assert_eq!(&found, &expected, "{:?}", path);
            }
        }
    }
}
