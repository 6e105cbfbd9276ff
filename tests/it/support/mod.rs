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

/// Says why a proof cannot run here, and lets it pass; with `CI` set, as `scripts/test` sets it, everything has to be there.
pub fn not_run(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "this must run here, but {why}");
    eprintln!("not run: {why}");
}
