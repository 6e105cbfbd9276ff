//! Arguments → [`app`](processor::app) → exit code. Nothing else happens here.

use std::process::ExitCode;

use processor::{app, cli};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1), &|name| std::env::var_os(name)) {
        Ok(command) => ExitCode::from(app::run(command)),
        Err(answer) => {
            if answer.code == 0 {
                print!("{answer}");
            } else {
                eprint!("{answer}");
            }
            ExitCode::from(answer.code)
        }
    }
}
