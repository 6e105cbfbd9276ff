//! Bits into bytes, the low bit first, as RFC 1951 (3.1.1) orders them.
//!
//! Promises: after [`Bits::finish`] the bytes appended are exactly the bits given, the last byte filled up with zeros.
//! Never grows the buffer: the caller makes the room, because it knows the size of a block before it writes it.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

/// A writer into `out[at..]` through a word of 64 bits.
pub(crate) struct Bits<'a> {
    out: &'a mut [u8],
    at: usize,
    word: u64,
    held: u32,
}

/// Room that [`Bits`] needs behind the last byte it writes, since it stores whole words.
pub(crate) const SLACK: usize = 8;

impl<'a> Bits<'a> {
    /// Begins with `held` bits (below 8) of `word` that an earlier writer left.
    pub(crate) fn new(out: &'a mut [u8], word: u64, held: u32) -> Self {
        debug_assert!(held < 8, "an earlier writer leaves less than a byte");
        Self { out, at: 0, word, held }
    }

    /// Adds the `count` low bits of `bits`. At most 56 bits may be added between two calls of [`Bits::flush`], and no bit
    /// of `bits` above `count` may be set.
    #[inline(always)]
    pub(crate) fn add(&mut self, bits: u64, count: u32) {
        debug_assert!(self.held + count < 64, "too many bits since the last flush");
        debug_assert!(count == 64 || bits >> count == 0, "bits above the count");
        self.word |= bits << self.held;
        self.held += count;
    }

    /// Stores the whole bytes; less than 8 bits stay.
    #[inline(always)]
    pub(crate) fn flush(&mut self) {
        if let Some(room) = self.out.get_mut(self.at..self.at + 8) {
            room.copy_from_slice(&self.word.to_le_bytes());
        } else {
            debug_assert!(false, "the caller made too little room");
        }
        self.at += (self.held >> 3) as usize;
        self.word >>= self.held & !7;
        self.held &= 7;
    }

    /// Flushes, and returns the whole bytes written and what is left: the bits and their count, below 8.
    pub(crate) fn finish(mut self) -> (usize, u64, u32) {
        self.flush();
        (self.at, self.word, self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_out_low_bit_first() {
        let mut out = [0xff_u8; 16];
        let mut bits = Bits::new(&mut out, 0b1, 1);
        bits.add(0b01, 2);
        bits.add(0x1_2345, 17);
        bits.flush();
        bits.add(0xff, 8);
        let (bytes, word, held) = bits.finish();
        let value = 0b1 | 0b01 << 1 | 0x1_2345 << 3 | 0xff_u64 << 20;
        assert_eq!((bytes, held, word), (3, 4, 0xf));
        assert_eq!(out[..3], value.to_le_bytes()[..3]);
    }
}
