//! `processor generate DIR`: man pages and shell completions from the command line's own description, for packages.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;

use super::{DONE, FAILED};
use crate::cli;

/// Writes `processor.1`, a page for each subcommand, and a completion for each shell.
pub(super) fn run(dir: &Path) -> u8 {
    match write(dir) {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("{}: {error}", dir.display());
            FAILED
        }
    }
}

fn write(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // Both crates read the name from the command, which the parser leaves out because `main` cuts it off.
    let program = cli::program().no_binary_name(false);
    clap_mangen::generate_to(program.clone(), dir)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program.clone(), "processor", dir)?;
    }
    Ok(())
}
