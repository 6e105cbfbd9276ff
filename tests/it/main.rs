//! The one integration binary.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::case_sensitive_file_extension_comparisons)]

mod architecture;
mod backlog;
mod capture;
mod capture_chain;
mod capture_files;
mod capture_judged;
mod capture_kinds;
mod capture_live;
mod capture_run;
mod configs;
mod connect;
mod crash;
mod delivery;
mod dependencies;
mod design;
mod disk;
mod end;
mod hostile;
mod numbers;
mod packaging;
mod pmacct;
mod pmacct_chain;
mod readme;
mod run;
mod salvage;
mod secrets;
mod soak;
mod spool;
mod status;
mod support;
mod upload;
