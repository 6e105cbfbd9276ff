//! Both READMEs tell the truth about keys, defaults and exit codes, and say the same.

use processor::config::keys::KEYS;

const FILES: [(&str, &str); 2] =
    [("README.md", include_str!("../../README.md")), ("README.zh-CN.md", include_str!("../../README.zh-CN.md"))];

#[test]
fn every_key_stands_there_with_its_default() {
    for (file, text) in FILES {
        for key in KEYS {
            let start = format!("| `{}` | ", key.name);
            let row = text.lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("{file} has no row for {}", key.name));
            let default = row[start.len()..].split(" | ").next().unwrap().trim_matches('`');
            assert_eq!(default, key.default, "{file}: the default of {}", key.name);
        }
        for row in text.lines().filter_map(|line| line.strip_prefix("| `processor_")) {
            let name = format!("processor_{}", row.split('`').next().unwrap());
            assert!(KEYS.iter().any(|key| key.name == name), "{file}: {name} is no key");
        }
    }
}

#[test]
fn both_languages_have_the_same_sections_and_rows() {
    let count = |text: &str, start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    let [(_, english), (_, chinese)] = FILES;
    for start in ["## ", "|", "    ", "1. ", "2. ", "* "] {
        assert_eq!(count(english, start), count(chinese, start), "lines that begin with {start:?}");
    }
}

#[test]
fn the_oldest_rust_that_builds_stands_there() {
    let rust = concat!("Rust ", env!("CARGO_PKG_RUST_VERSION"), " ");
    for (file, text) in FILES {
        assert!(text.contains(rust), "{file} does not ask for {rust}");
    }
}
