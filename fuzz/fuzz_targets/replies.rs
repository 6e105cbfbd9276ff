//! Any bytes as what an FTP server says: a whole attempt reads them in its own time, nothing is claimed that was not said,
//! and error texts hold neither the password nor a control character.
//!
//! A first byte that is even gives the rest to the two readers of one reply. An odd one makes a server of it that says all of
//! it at once, whatever it is asked, and takes data connections on the same port. The target works in a network namespace of
//! its own, so that an address which a reply names leads nowhere else.

#![no_main]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::FromRawFd as _;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use processor::remote::ftp::{Charset, Ftp, Mode, Options, Put, Tls};
use processor::remote::{Delivered, Remote, Upload, reply};
use processor::secret::Secret;

const PASSWORD: &str = "tr0ub4dor-Zx9";
/// A reply that names it is `227 (127,0,0,1,8,73)`.
const PORT: u16 = 2121;
/// What is uploaded.
const FILE: &[u8] = b"12345";

fuzz_target!(
    init: alone(),
    |bytes: &[u8]| {
        let Some((&how, said)) = bytes.split_first() else { return };
        if how & 1 == 0 {
            read(said);
        } else {
            attempt(said);
        }
    }
);

/// The two readers of one reply, with the password somewhere in it.
fn read(said: &[u8]) {
    let at = said.len() / 2;
    let with_password = [&said[..at], PASSWORD.as_bytes(), &said[at..]].concat();
    let code = reply::code(said);
    assert!(code.is_none_or(|code| code <= 999));
    let shown = reply::quote(&with_password, &Secret::new(PASSWORD));
    assert!(!shown.contains(PASSWORD) && !shown.chars().any(char::is_control), "{shown:?}");
    assert!(shown.chars().count() <= 201);
}

/// A whole attempt against a server that says `said`.
fn attempt(said: &[u8]) {
    static REMOTE: OnceLock<Ftp> = OnceLock::new();
    let remote = REMOTE.get_or_init(|| Ftp::new(options(), "0badcafe").expect("a remote"));
    *server().lock().expect("no panic") = said.to_vec();
    let file = temp();
    let begun = Instant::now();
    let delivered = remote.open(Instant::now() + remote.allowance(0)).and_then(|mut session| {
        let upload = Upload { name: "flows_20251127_102030_000.csv.gz", file: &file, len: FILE.len() as u64 };
        session.put(&upload, Instant::now() + remote.allowance(upload.len))
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "a server that has said all holds nobody up");
    match delivered {
        Ok(Delivered::Stands | Delivered::Before) => assert!(says(said, "213"), "nobody said how long the file is"),
        Ok(Delivered::Taken | Delivered::Told) => {
            assert!(["213", "226", "250"].iter().any(|code| says(said, code)), "nobody said that all came");
        }
        Err(error) => {
            assert!(!error.text.contains(PASSWORD), "{}", error.text);
            assert!(!error.text.chars().any(char::is_control) && error.text.len() < 1200, "{:?}", error.text);
        }
    }
}

fn says(said: &[u8], code: &str) -> bool {
    memchr::memmem::find(said, code.as_bytes()).is_some()
}

fn options() -> Options {
    Options {
        host: "127.0.0.1".into(),
        port: PORT,
        user: "probe".into(),
        pass: Secret::new(PASSWORD),
        dir: "/area".into(),
        put: Put::Rename,
        charset: Charset::default(),
        timeout: Duration::from_millis(200),
        tls: Tls::Off,
        mode: Mode::Passive,
    }
}

fn temp() -> File {
    let mut file = tempfile::tempfile_in("/dev/shm").expect("memory");
    file.write_all(FILE).expect("memory");
    file
}

/// What the server says to the next connection; to the ones after it, nothing.
fn server() -> &'static Mutex<Vec<u8>> {
    static SAYS: OnceLock<&'static Mutex<Vec<u8>>> = OnceLock::new();
    SAYS.get_or_init(|| {
        let says: &Mutex<Vec<u8>> = Box::leak(Box::default());
        let listener = TcpListener::bind(("127.0.0.1", PORT)).expect("a port in a namespace of our own");
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { continue };
                let said = std::mem::take(&mut *says.lock().expect("no panic"));
                thread::spawn(move || {
                    // A client that has gone hears no more.
                    let _ = connection.write_all(&said);
                    let _ = connection.shutdown(Shutdown::Write);
                    let _ = connection.read_to_end(&mut Vec::new());
                });
            }
        });
        says
    })
}

/// Moves the process into a network namespace of its own with nothing but loopback in it.
fn alone() {
    // SAFETY: unshare takes flags and touches no memory; the process has one thread here.
    let is_alone = unsafe {
        libc::unshare(libc::CLONE_NEWNET) == 0 || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) == 0
    };
    assert!(is_alone, "no network namespace: {}", std::io::Error::last_os_error());
    let name = std::array::from_fn(|at| b"lo\0".get(at).map_or(0, |byte| *byte as libc::c_char));
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name = name;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: socket gives a descriptor that nobody else owns, or -1, which is checked; the ioctl reads the request above.
    let set = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        assert!(socket >= 0);
        let socket = File::from_raw_fd(socket);
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &request)
    };
    assert_eq!(set, 0, "loopback stays down: {}", std::io::Error::last_os_error());
}
