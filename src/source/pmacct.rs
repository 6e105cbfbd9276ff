//! The two pmacct daemons as a source.

pub mod conf;
pub mod socket;
pub mod speech;
