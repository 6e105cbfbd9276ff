//! The one integration binary.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod capture;
mod support;
