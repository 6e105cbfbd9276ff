//! The one integration binary.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod architecture;
mod capture;
mod capture_chain;
mod capture_live;
mod readme;
mod support;
mod upload;
