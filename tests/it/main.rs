//! The one integration binary.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::case_sensitive_file_extension_comparisons)]

mod architecture;
mod capture;
mod capture_chain;
mod capture_live;
mod crash;
mod delivery;
mod disk;
mod pmacct;
mod readme;
mod run;
#[allow(dead_code)]
mod status;
mod hostile;
mod readme;
mod run;
mod soak;
mod spool;
mod support;
mod upload;
