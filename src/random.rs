//! Random numbers: for names, jitter, sampling, and the secrets that spread flows over a table.
//!
//! They come from the system by way of the standard library's hash keys, which it draws from the kernel for just such tables.
//! Nothing here is fit for a key that must stay secret for years.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A random number, evenly spread.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_in_every_part() {
        let numbers: Vec<u64> = (0..64).map(|_| random()).collect();
        for bit in 0..64 {
            let set = numbers.iter().filter(|number| *number >> bit & 1 == 1).count();
            assert!((8..=56).contains(&set), "bit {bit} is set in {set} of 64");
        }
    }
}
