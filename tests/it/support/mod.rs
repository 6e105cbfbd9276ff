//! What several test modules share.

pub mod account;
pub mod ftp_servers;
pub mod island;
pub mod netns;
pub mod packets;
pub mod run;
pub mod scripted_ftp;
pub mod sink;
pub mod torture;
pub mod trace;
