//! Any bytes as a pmacct.conf: it is read or refused in words that hold no control character and no password.

#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use processor::config::{Config, Inputs};
use processor::log::Level;

const PASSWORD: &str = "tr0ub4dor-Zx9";

fuzz_target!(|bytes: &[u8]| {
    let inputs = Inputs {
        path: "pmacct.conf".into(),
        data_dir: "data".into(),
        source: None,
        log_level: Level::Info,
        ftp_pass: None,
        host: "probe".to_owned(),
        cores: 2,
    };
    let text = [bytes, b"\nprocessor_ftp_pass: ", PASSWORD.as_bytes(), b"\n"].concat();
    let nothing = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
    let said = match Config::check(&text, &inputs, &nothing) {
        Ok(config) => config.describe(&[]),
        Err(rejected) => rejected.to_string(),
    };
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    // The file may say the same word in another place, where it is no password.
    let is_elsewhere = memchr::memmem::find(bytes, b"tr0ub4dor").is_some();
    assert!(is_elsewhere || !said.contains(PASSWORD), "{said}");
});
