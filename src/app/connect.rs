//! `processor check -connect`: the whole way of one small file, step by step, each step said with its time or its fault.
//!
//! It leaves nothing behind but the target directory, which uploads make too, and says when it had to make it: the test file
//! is held in memory here, and taken back from the server.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use super::progress::Progress;
use crate::remote::ftp::{self, Ftp, Tls};
use crate::remote::{Remote, RemoteError, Upload};

/// What is put. Its text is for whoever finds it when it could not be taken back.
const TEXT: &str = "A test file of processor check; it may be deleted.\n";

/// The longest that opening may take in all, whatever the configured time-out: somebody sits before the terminal.
const PATIENCE: Duration = Duration::from_mins(1);

/// Tries the server for real; `say` gets one line a step. True when files can be delivered.
pub(super) fn try_server(options: ftp::Options, host: &str, show: &Progress, say: &mut dyn FnMut(&str)) -> bool {
    let pid = std::process::id();
    let (address, dir) = (options.address(), options.dir.clone());
    let tls = if options.tls == Tls::Off { "without TLS" } else { "with TLS" };
    let user = options.user.clone();
    let remote = match Ftp::new(options, &format!("check{pid}")) {
        Ok(remote) => remote,
        Err(error) => {
            say(&format!("connect: FAILED: {error}"));
            return false;
        }
    };
    let plain: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(63).collect();
    let name = format!("processor-check-{plain}-{pid}.txt");
    let place = format!("{address} {tls}, login as {user}, directory {dir}");
    match deliver(&remote, &name, &place, show, say) {
        Ok(()) => true,
        Err(Fault::Server(error)) => {
            say(&format!("FAILED: {error}"));
            false
        }
        Err(Fault::Here(error)) => {
            say(&format!("FAILED: cannot make the test file: {error}"));
            false
        }
    }
}

#[derive(Debug)]
enum Fault {
    Server(RemoteError),
    Here(io::Error),
}

fn deliver(
    remote: &dyn Remote,
    name: &str,
    place: &str,
    show: &Progress,
    say: &mut dyn FnMut(&str),
) -> Result<(), Fault> {
    let file = test_file().map_err(Fault::Here)?;
    let len = TEXT.len() as u64;
    let limit = |len| remote.allowance(len).min(PATIENCE);
    let begun = Instant::now();
    say(&format!("trying {place}"));
    let step = show.step("connect, login, directory");
    let opened = remote.open(begun + limit(0));
    drop(step);
    let mut session = opened.map_err(Fault::Server)?;
    say(&format!("connect, login, directory: ok, {}", seconds(begun)));
    for level in session.made() {
        say(&format!("directory {level}: was missing; made, as the first upload would have, and left there"));
    }
    let begun = Instant::now();
    let step = show.step("put");
    let put = session.put(&Upload { name, file: &file, len }, begun + limit(len));
    drop(step);
    put.map_err(Fault::Server)?;
    say(&format!("put {name}, compare its size, rename it: ok, {}", seconds(begun)));
    let step = show.step("delete");
    let taken_back = session.take_back(Instant::now() + limit(0));
    drop(step);
    match taken_back {
        Ok(()) => {
            say("delete it again: ok");
            session.close();
        }
        // Deliveries need no such right.
        Err(error) => {
            say(&format!("delete it again: refused ({error}); files can be delivered, but delete {name} by hand"));
        }
    }
    Ok(())
}

fn test_file() -> io::Result<File> {
    let mut file = File::from(memfd_create("processor-check", MemfdFlags::CLOEXEC)?);
    file.write_all(TEXT.as_bytes())?;
    Ok(file)
}

fn seconds(begun: Instant) -> String {
    format!("{:.2} s", begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Lang;
    use crate::remote::dir::Dir;

    #[test]
    fn a_server_that_works_keeps_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let mut said = Vec::new();
        let show = Progress::new(Lang::En);
        deliver(&Dir::new(temp.path()), "t.txt", "a directory", &show, &mut |line| said.push(line.to_owned())).unwrap();
        assert_eq!(said.len(), 4);
        assert!(said[1..].iter().all(|line| line.contains(": ok")), "{said:?}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_foreign_file_of_the_name_is_not_touched() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("t.txt"), "foreign").unwrap();
        let show = Progress::new(Lang::En);
        assert!(deliver(&Dir::new(temp.path()), "t.txt", "a directory", &show, &mut |_| {}).is_err());
        assert_eq!(std::fs::read(temp.path().join("t.txt")).unwrap(), b"foreign");
    }
}
