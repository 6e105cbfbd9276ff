//! processor
fn main() {}
