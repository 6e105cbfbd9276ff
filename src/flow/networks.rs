//! A file of networks: which one, the longest, an address belongs to.
//!
//! The format is pmacct's `networks_file`: one network a line, `10.0.0.0/8` or `2001:db8::/32`, after optional fields that
//! end in a comma (next hop, AS number), which are not used here. Empty lines and lines that begin with `!` or `#` are
//! skipped. Nothing else is tolerated: a line that is not a network is an error with its number.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::flow::{Addr, Version};

/// A line of the file is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text:?} is not a network such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct BadNetwork {
    /// Counted from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

/// The networks, by length of their prefix.
#[derive(Debug, Clone, Default)]
pub struct Networks {
    v4: Family,
    v6: Family,
}

/// The networks of one family. A look-up asks once for every prefix length in use, the longest first: files name few.
#[derive(Debug, Clone, Default)]
struct Family {
    by_length: HashMap<u8, HashSet<u128>>,
    /// The lengths in use, the longest first.
    lengths: Vec<u8>,
}

impl Family {
    fn insert(&mut self, bits: u128, length: u8, width: u8) {
        self.by_length.entry(length).or_default().insert(masked(bits, length, width));
        if let Err(at) = self.lengths.binary_search_by(|have| length.cmp(have)) {
            self.lengths.insert(at, length);
        }
    }

    fn longest(&self, bits: u128, width: u8) -> Option<(u128, u8)> {
        self.lengths.iter().find_map(|length| {
            let network = masked(bits, *length, width);
            self.by_length.get(length)?.contains(&network).then_some((network, *length))
        })
    }
}

/// The first `length` bits of an address that is `width` bits long.
fn masked(bits: u128, length: u8, width: u8) -> u128 {
    let host_bits = u32::from(width - length);
    if host_bits >= 128 { 0 } else { bits >> host_bits << host_bits }
}

impl Networks {
    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// The first line that is not a network.
    pub fn parse(text: &str) -> Result<Self, BadNetwork> {
        let mut networks = Self::default();
        for (index, text) in text.lines().enumerate() {
            let text = text.trim();
            if text.is_empty() || text.starts_with(['!', '#']) {
                continue;
            }
            let last = text.rsplit(',').next().unwrap_or(text).trim();
            let (ip, length) = prefix(last).ok_or_else(|| BadNetwork { line: index + 1, text: text.to_owned() })?;
            match ip {
                IpAddr::V4(ip) => networks.v4.insert(u128::from(u32::from(ip)), length, 32),
                IpAddr::V6(ip) => networks.v6.insert(u128::from(ip), length, 128),
            }
        }
        Ok(networks)
    }

    /// The longest network with `addr` in it, and its prefix length; zeros when there is none.
    pub fn longest(&self, addr: Addr, version: Version) -> (Addr, u8) {
        let found = match version {
            Version::V4 => self.v4.longest(addr.bits(), 32),
            Version::V6 => self.v6.longest(addr.bits(), 128),
            Version::None => None,
        };
        found.map_or((Addr::default(), 0), |(bits, length)| (Addr::from_bits(bits), length))
    }
}

/// `10.0.0.0/8`; an address alone is a network of its own.
fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip.parse().ok()?, Some(length.parse::<u8>().ok()?)),
        None => (text.parse().ok()?, None),
    };
    let width = if matches!(ip, IpAddr::V4(_)) { 32 } else { 128 };
    let length = length.unwrap_or(width);
    (length <= width).then_some((ip, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(networks: &Networks, text: &str) -> String {
        let ip: IpAddr = text.parse().unwrap();
        let version = if ip.is_ipv4() { Version::V4 } else { Version::V6 };
        let (network, length) = networks.longest(Addr::from(ip), version);
        format!("{}/{length}", network.ip(version))
    }

    #[test]
    fn the_longest_network_wins() {
        let text =
            "# ours\n10.0.0.0/8\n65001,10.1.2.3/16\n192.0.2.1,65002,10.1.9.0/24\n\n2001:db8::/32\n::/0\n192.0.2.7\n";
        let networks = Networks::parse(text).unwrap();
        for (ip, network) in [
            ("10.200.0.1", "10.0.0.0/8"),
            ("10.1.0.1", "10.1.0.0/16"),
            ("10.1.9.255", "10.1.9.0/24"),
            ("11.0.0.1", "0.0.0.0/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8:1::1", "2001:db8::/32"),
            ("::1", "::/0"),
        ] {
            assert_eq!(look_up(&networks, ip), network, "{ip}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in ["10.0.0.0/33", "10.0.0/8", "nonsense", "10.0.0.0/8 x", "10.0.0.0/8,"] {
            let error = Networks::parse(&format!("10.0.0.0/8\n{bad}\n")).unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (2, bad));
        }
    }
}
