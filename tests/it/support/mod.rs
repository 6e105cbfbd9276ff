//! What several test modules share.

pub mod packets;
pub mod sink;
