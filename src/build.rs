//! Tells the program what it was built from: `PROCESSOR_COMMIT`, `PROCESSOR_TARGET`, `PROCESSOR_FEATURES`.
//!
//! Without a git tree the commit is the environment's `PROCESSOR_COMMIT`, so that an image build can pass it in, else
//! `unknown`. It never fails a build.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    println!("cargo:rerun-if-env-changed=PROCESSOR_COMMIT");
    // The reflog of HEAD changes with every commit and every checkout.
    if let Some(reflog) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={reflog}");
    }
    let given = env::var("PROCESSOR_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])).unwrap_or_else(|| "unknown".to_owned());
    let target = env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rustc-env=PROCESSOR_COMMIT={commit}");
    println!("cargo:rustc-env=PROCESSOR_TARGET={target}");
    println!("cargo:rustc-env=PROCESSOR_FEATURES={}", features());
}

/// The first line that git prints, when there is a git and a tree.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.to_owned();
    (!line.is_empty()).then_some(line)
}

/// The enabled features of the package, by name.
fn features() -> String {
    let feature = |name: String| name.strip_prefix("CARGO_FEATURE_").map(|name| name.to_lowercase().replace('_', "-"));
    let mut names: Vec<String> = env::vars().filter_map(|(name, _)| feature(name)).collect();
    names.retain(|name| name != "default");
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}
