//! The one integration binary.
#![allow(missing_docs, unreachable_pub)]

mod capture;
mod support;
