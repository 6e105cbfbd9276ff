//! processor

pub mod app;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod flow;
pub mod line;
pub mod log;
pub mod pack;
pub mod pipeline;
pub mod remote;
pub mod report;
pub mod sample;
pub mod schema;
pub mod secret;
pub mod shutdown;
pub mod source;
pub mod spool;
pub mod stats;
pub mod supervise;
pub mod threads;
pub mod uploader;
