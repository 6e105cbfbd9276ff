//! `processor check -connect`: the whole way of one small file, step by step, each step said with its time or its fault.
//!
//! It leaves nothing behind but the target directory, which uploads make too, and says when it had to make it: the test file
//! is held in memory here, and taken back from the server.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use flate2::{Compression, GzBuilder};
use rustix::fs::{MemfdFlags, memfd_create};

use super::progress::Progress;
use crate::remote::ftp::{self, Ftp, Put, Tls};
use crate::remote::{Delivered, Remote, RemoteError, Upload};

/// The comment in the header of what is put, a gzip file without rows: whoever ingests the directory takes no harm. It is for
/// whoever finds the file when it could not be taken back.
const TEXT: &str = "A test file of processor check; it may be deleted.";

/// The longest that opening may take in all, whatever the configured time-out: somebody sits before the terminal.
const PATIENCE: Duration = Duration::from_mins(1);

/// Tries the server for real; `say` gets one line a step. True when files can be delivered.
pub(super) fn try_server(options: ftp::Options, host: &str, show: &Progress, say: &mut dyn FnMut(&str)) -> bool {
    let direct = ftp::Options { put: Put::Direct, ..options.clone() };
    let (worked, proposed) = try_options(options, host, show, say);
    if proposed {
        say("trying the same with processor_ftp_put: direct");
        if try_options(direct, host, show, say).0 {
            say("delivery works with processor_ftp_put: direct; set it");
        }
    }
    worked
}

/// True when files can be delivered; and true when the error says that `processor_ftp_put: direct` may help.
fn try_options(options: ftp::Options, host: &str, show: &Progress, say: &mut dyn FnMut(&str)) -> (bool, bool) {
    let pid = std::process::id();
    let (address, dir, put) = (options.address(), options.dir.clone(), options.put);
    let tls = if options.tls == Tls::Off { "without TLS" } else { "with TLS" };
    let user = options.user.clone();
    let remote = match Ftp::new(options, &format!("check{pid}")) {
        Ok(remote) => remote,
        Err(error) => {
            say(&format!("connect: FAILED: {error}"));
            return (false, false);
        }
    };
    let plain: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(63).collect();
    let name = format!("processor-check-{plain}-{pid}.csv.gz");
    let place = format!("{address} {tls}, login as {user}, directory {dir}");
    let put = match put {
        Put::Rename => format!("put {name}, compare its size, rename it"),
        Put::Direct => format!("put {name} under its final name"),
    };
    match deliver(&remote, &name, &What { place, put }, show, say) {
        Ok(()) => (true, false),
        Err(Fault::Server(error)) => {
            say(&format!("FAILED: {error}"));
            (false, error.text.contains("processor_ftp_put: direct"))
        }
        Err(Fault::Here(error)) => {
            say(&format!("FAILED: cannot make the test file: {error}"));
            (false, false)
        }
    }
}

/// What is tried, in words.
struct What {
    place: String,
    put: String,
}

#[derive(Debug)]
enum Fault {
    Server(RemoteError),
    Here(io::Error),
}

fn deliver(
    remote: &dyn Remote,
    name: &str,
    what: &What,
    show: &Progress,
    say: &mut dyn FnMut(&str),
) -> Result<(), Fault> {
    let (file, len) = test_file().map_err(Fault::Here)?;
    let limit = |len| remote.allowance(len).min(PATIENCE);
    let begun = Instant::now();
    say(&format!("trying {}", what.place));
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
    let how = match put.map_err(Fault::Server)? {
        Delivered::Stands | Delivered::Before => "ok",
        Delivered::Taken => "ok, and the far end took it away at once, which counts as delivered",
        Delivered::Told => "ok by the word of the server, which does not tell the length of files",
    };
    say(&format!("{}: {how}, {}", what.put, seconds(begun)));
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

/// The file and its length.
fn test_file() -> io::Result<(File, u64)> {
    let file = File::from(memfd_create("processor-check", MemfdFlags::CLOEXEC)?);
    let file = GzBuilder::new().comment(TEXT).write(file, Compression::default()).finish()?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

fn seconds(begun: Instant) -> String {
    format!("{:.2} s", begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Lang;
    use crate::remote::dir::Dir;

    fn what() -> What {
        What { place: "a directory".to_owned(), put: "put it".to_owned() }
    }

    #[test]
    fn a_server_that_works_keeps_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let mut said = Vec::new();
        let show = Progress::new(Lang::En);
        deliver(&Dir::new(temp.path()), "t.txt", &what(), &show, &mut |line| said.push(line.to_owned())).unwrap();
        assert_eq!(said.len(), 4);
        assert!(said[1..].iter().all(|line| line.contains(": ok")), "{said:?}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_foreign_file_of_the_name_is_not_touched() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("t.txt"), "foreign").unwrap();
        let show = Progress::new(Lang::En);
        assert!(deliver(&Dir::new(temp.path()), "t.txt", &what(), &show, &mut |_| {}).is_err());
        assert_eq!(std::fs::read(temp.path().join("t.txt")).unwrap(), b"foreign");
    }
}
