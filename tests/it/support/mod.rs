//! What several test modules share.

pub mod ftp_servers;
pub mod packets;
pub mod scripted_ftp;
pub mod sink;
