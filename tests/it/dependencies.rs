//! What the dependencies must be: from crates.io, under licences that go with MIT, in one version each, and no newer than the
//! Rust that `Cargo.toml` asks for.
//!
//! It asks `cargo metadata`, without a network. What needs one is left to whoever has it: `cargo audit` for known holes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Licences that ask for no more than their text beside the program, as words of an SPDX expression.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "LLVM-exception",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that stand in the tree in two versions, and who keeps the older one.
const TWICE: &[(&str, &str)] = &[
    ("bitflags", "pcap"),
    ("errno", "pcap"),
    ("getrandom", "ring"),
    ("itertools", "the benches' criterion"),
    ("signal-hook", "crossterm"),
    ("syn", "derive macros, at build time"),
];

/// The packages that are built here, tests and benches included.
fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let asked =
        ["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", env!("PROCESSOR_TARGET")];
    let told = Command::new(cargo).args(asked).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut tree: Value = serde_json::from_slice(&told.stdout).unwrap();
    let nodes = tree["resolve"]["nodes"].as_array().unwrap();
    let built: BTreeSet<String> = nodes.iter().map(|node| text(&node["id"]).to_owned()).collect();
    let mut packages = std::mem::take(tree["packages"].as_array_mut().unwrap());
    packages.retain(|package| built.contains(text(&package["id"])) && text(&package["name"]) != env!("CARGO_PKG_NAME"));
    packages
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `1.88.0` as numbers, to be compared.
fn version(text: &str) -> Vec<u64> {
    text.split('.').map(|part| part.parse().unwrap()).collect()
}

#[test]
fn dependencies_are_what_they_must_be() {
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    let mut wrong = Vec::new();
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    let packages = packages();
    assert!(packages.len() > 100, "the tree was read");
    for package in &packages {
        let (name, licence) = (text(&package["name"]), text(&package["license"]));
        let mut words = licence.split([' ', '/', '(', ')']).filter(|word| !["", "OR", "AND", "WITH"].contains(word));
        if licence.is_empty() || !words.all(|word| LICENCES.contains(&word)) {
            wrong.push(format!("{name}: its licence {licence:?} has a word that is not in the list"));
        }
        if text(&package["source"]) != "registry+https://github.com/rust-lang/crates.io-index" {
            wrong.push(format!("{name}: it comes from {}", package["source"]));
        }
        if let Some(needs) = package["rust_version"].as_str().filter(|needs| version(needs) > ours) {
            wrong.push(format!("{name}: it needs Rust {needs}"));
        }
        versions.entry(name.to_owned()).or_default().insert(text(&package["version"]).to_owned());
    }
    for (name, versions) in versions {
        let known = TWICE.iter().any(|(twice, _)| *twice == name);
        if known != (versions.len() > 1) {
            wrong.push(format!("{name}: it is here as {versions:?}; the list of those that come twice says otherwise"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
