//! Bits into bytes, the low bit first, as RFC 1951 (3.1.1) orders them.
//!
//! Promises: after [`Bits::finish`] the bytes of the room are exactly the bits given. The room is of fixed size, larger than
//! what a block can become, so that no store needs a comparison.

#![allow(clippy::inline_always, reason = "the hot loop is compiled as a whole for the features of its caller")]

/// Places that [`Bits`] writes to: twice the longest block, which is stored when it would become longer; a power of two, so
/// that a remainder keeps a place within them.
pub(crate) const PLACES: usize = 1 << 19;
/// Room for a block, and for the last word, since whole words are stored.
pub(crate) type Room = [u8; PLACES + 8];

/// A writer into a [`Room`] through a word of 64 bits.
pub(crate) struct Bits<'a> {
    room: &'a mut Room,
    at: usize,
    word: u64,
    /// The bits in `word`, in the low six bits; what stands above them means nothing, which saves [`Bits::add_entry`] a
    /// mask.
    held: u32,
}

impl<'a> Bits<'a> {
    /// Begins with `held` bits (below 8) of `word` that an earlier writer left.
    pub(crate) fn new(room: &'a mut Room, word: u64, held: u32) -> Self {
        debug_assert!(held < 8, "an earlier writer leaves less than a byte");
        Self { room, at: 0, word, held }
    }

    /// Adds the `count` low bits of `bits`. At most 56 bits may be added between two calls of [`Bits::flush`], and no bit
    /// of `bits` above `count` may be set.
    #[inline(always)]
    pub(crate) fn add(&mut self, bits: u64, count: u32) {
        debug_assert!((self.held & 63) + count < 64, "too many bits since the last flush");
        debug_assert!(count == 64 || bits >> count == 0, "bits above the count");
        self.word |= bits << (self.held & 63);
        self.held = self.held.wrapping_add(count);
    }

    /// Adds the bits of `entry`: their number in its low six bits, themselves above. The same limits hold.
    #[inline(always)]
    pub(crate) fn add_entry(&mut self, entry: u32) {
        debug_assert!((self.held & 63) + (entry & 63) < 64, "too many bits since the last flush");
        debug_assert!((entry >> 6) >> (entry & 63) == 0, "bits above the count");
        self.word |= u64::from(entry >> 6) << (self.held & 63);
        self.held = self.held.wrapping_add(entry);
    }

    /// Flushes if `count` more bits have no room.
    #[inline(always)]
    pub(crate) fn make_room(&mut self, count: u32) {
        if (self.held & 63) + count > 63 {
            self.flush();
        }
    }

    /// Stores the whole bytes; less than 8 bits stay.
    #[inline(always)]
    pub(crate) fn flush(&mut self) {
        debug_assert!(self.at < PLACES, "a block longer than its room");
        if let Some(room) = self.room[self.at % PLACES..].first_chunk_mut() {
            *room = self.word.to_le_bytes();
        }
        self.at += (self.held >> 3 & 7) as usize;
        self.word >>= self.held & 0x38;
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
    use crate::pack::filled;

    #[test]
    fn bits_come_out_low_bit_first() {
        let mut room: Box<Room> = filled(0xff);
        let mut bits = Bits::new(&mut room, 0b1, 1);
        bits.add(0b01, 2);
        bits.add_entry(0x1_2345 << 6 | 0x11);
        bits.flush();
        bits.make_room(8);
        bits.add(0xff, 8);
        let (bytes, word, held) = bits.finish();
        let value = 0b1 | 0b01 << 1 | 0x1_2345 << 3 | 0xff_u64 << 20;
        assert_eq!((bytes, held, word), (3, 4, 0xf));
        assert_eq!(room[..3], value.to_le_bytes()[..3]);
    }

    #[test]
    fn a_full_word_is_flushed_before_it_runs_over() {
        let mut room: Box<Room> = filled(0);
        let mut bits = Bits::new(&mut room, 0, 0);
        for _ in 0..3 {
            bits.make_room(40);
            bits.add(0xab_cdef_0123, 40);
        }
        let (bytes, word, held) = bits.finish();
        assert_eq!((bytes, word, held), (15, 0, 0));
        assert_eq!(room[..15], [0x23, 0x01, 0xef, 0xcd, 0xab].repeat(3));
    }
}
