//! A keyed hash for keys that strangers choose.
//!
//! NH of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway, 1999; RFC 4418, section 5.2) with 64-bit words: for any two
//! different inputs the 128-bit sums are equal for at most one secret in 2^64. A multiply-shift folds the sum to 32 bits.
//! Who does not know the secret cannot choose keys that collide more often than chance.

/// The most words that can be hashed.
pub const MAX_WORDS: usize = 16;

/// The secret, and the hash under it.
#[derive(Clone)]
pub struct Secret {
    words: [u64; MAX_WORDS],
    fold: [u64; 2],
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// From random words that `draw` gives one by one.
    pub fn new(mut draw: impl FnMut() -> u64) -> Self {
        Self { words: std::array::from_fn(|_| draw()), fold: [draw() | 1, draw() | 1] }
    }

    /// The hash of a fixed number of words, at most [`MAX_WORDS`]. Hashes of different lengths are not comparable.
    #[inline]
    pub fn hash<const N: usize>(&self, input: [u64; N]) -> u32 {
        const { assert!(N <= MAX_WORDS) };
        let mut sum = 0u128;
        let mut at = 0;
        while at + 1 < N {
            let left = input[at].wrapping_add(self.words[at]);
            let right = input[at + 1].wrapping_add(self.words[at + 1]);
            sum = sum.wrapping_add(u128::from(left) * u128::from(right));
            at += 2;
        }
        if at < N {
            // The word left over is paired with a zero.
            let left = input[at].wrapping_add(self.words[at]);
            sum = sum.wrapping_add(u128::from(left) * u128::from(self.words[(at + 1) % MAX_WORDS]));
        }
        let [low, high] = self.fold;
        let folded = (sum as u64).wrapping_mul(low).wrapping_add(((sum >> 64) as u64).wrapping_mul(high));
        (folded >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearby_keys_spread_evenly() {
        let mut state = 7u64;
        let secret = Secret::new(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state ^ state >> 29
        });
        let mut buckets = [0u32; 256];
        for n in 0..65_536u64 {
            buckets[(secret.hash([0, 0x0a00_0000 + n / 256, 0, 0x0a01_0000, n % 256]) >> 24) as usize] += 1;
        }
        let fullest = buckets.iter().max().copied().unwrap_or(0);
        assert!(fullest < 512, "256 expected in each, {fullest} in the fullest");
    }
}
