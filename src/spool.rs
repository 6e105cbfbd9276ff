//! The directory protocol: lock, names, salvage, quota.

use std::path::PathBuf;

pub mod dir;
pub mod names;
pub mod salvage;
pub mod segment;

use crate::clock::Zone;

/// `processor_spool_full`: what gives way when the spool is at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Reading stops; nothing is dropped by us.
    #[default]
    Block,
    /// The oldest sealed segment goes, counted and logged.
    DropOldest,
}

/// Settings of the spool.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// File prefix, `{host}` already replaced; `[A-Za-z0-9._-]` only.
    pub prefix: String,
    /// Zone of the stamps in names.
    pub zone: Zone,
    /// Limit of all our files in the data directory, bytes; `None` is no limit.
    pub max_bytes: Option<u64>,
    /// Bytes that stay free on the file system.
    pub min_free: u64,
    /// What gives way at the limit.
    pub when_full: WhenFull,
}
