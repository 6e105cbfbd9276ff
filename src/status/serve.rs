//! The loop that answers: one thread, `poll(2)`, a TCP listener and a unix socket.
//!
//! Promises: no client can hold it up, because every connection has [`LIMIT`] to send its request and take its answer, is
//! read into a bounded buffer and waits for nobody; no number of clients takes more than [`MOST`] descriptors a listener,
//! because the oldest gives way to the newest.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::http::{self, Answer};

/// How long one request may take from its connection to its last byte. A scraper gives up after ten seconds; a page over a
/// slow tunnel is some thirty kilobytes.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Open connections of one listener. A browser opens six, a scraper one.
pub const MOST: usize = 16;
/// Clients that the system lets wait before they are accepted.
const BACKLOG: i32 = 16;
/// Bytes behind a request that are read and thrown away, so that the answer is not torn by a reset.
const MOST_REST: usize = 64 * 1024;

/// The socket's name in the data directory.
pub const SOCKET: &str = ".processor.sock";

/// A listener of either kind.
#[derive(Debug)]
pub enum Listener {
    /// `processor_metrics_listen`.
    Tcp(TcpListener),
    /// [`SOCKET`].
    Unix(UnixListener),
}

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    ///
    /// The address is not this machine's, or taken.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Listens on [`SOCKET`] in `dir`, which is locked by us, in the place of the socket of an earlier life. Only the user
    /// that runs the program may connect.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when something that is not a socket has its name; else why the socket cannot be made.
    pub fn unix(dir: &Path) -> io::Result<Self> {
        remove_socket(dir)?;
        let place = Place::of(dir)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&place.path)?)?;
        // Nobody can connect before it listens.
        rustix::fs::chmod(&place.path, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self::Unix(UnixListener::from(socket)))
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Stream::Unix(stream))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Removes [`SOCKET`] from `dir`; anything else of that name stays, and binding fails.
///
/// # Errors
///
/// It is there and cannot be removed.
pub fn remove_socket(dir: &Path) -> io::Result<()> {
    let path = dir.join(SOCKET);
    match rustix::fs::lstat(&path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// The socket's path, short enough for its address: 108 bytes are all that the system has for it.
struct Place {
    path: PathBuf,
    /// Keeps the path true.
    _dir: Option<File>,
}

impl Place {
    fn of(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        if path.as_os_str().len() < 100 {
            return Ok(Self { path, _dir: None });
        }
        let flags = OFlags::DIRECTORY.bits().cast_signed();
        let dir = File::options().read(true).custom_flags(flags).open(dir)?;
        Ok(Self { path: format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).into(), _dir: Some(dir) })
    }
}

/// Connects to the socket in `dir`.
///
/// # Errors
///
/// `NotFound` and `ConnectionRefused` when no processor runs there.
pub fn connect(dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Place::of(dir)?.path)
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn end(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Where a connection is on its way.
#[derive(Debug)]
enum Step {
    /// The request's bytes so far.
    Request(Vec<u8>),
    /// The answer, and how much of it is out.
    Answer(Vec<u8>, usize),
    /// The answer is out; what the client still sends is thrown away, up to so many bytes.
    Rest(usize),
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// Index of its listener.
    of: usize,
    deadline: Instant,
    step: Step,
}

/// Listeners and their connections.
#[derive(Debug, Default)]
pub struct Server {
    listeners: Vec<Listener>,
    /// Oldest first.
    connections: Vec<Connection>,
}

impl Server {
    /// Adds a listener.
    pub fn listen(&mut self, listener: Listener) {
        self.listeners.push(listener);
    }

    /// Serves until something came, `until` has passed, or `stop` is readable. `answer` makes the answer to a path; it must
    /// not wait for anything.
    pub fn turn(&mut self, stop: BorrowedFd<'_>, until: Instant, answer: &mut dyn FnMut(&str) -> Answer) {
        let due = self.connections.iter().map(|connection| connection.deadline).min();
        let wait = due.map_or(until, |due| due.min(until)).saturating_duration_since(Instant::now());
        let (listening, ready) = {
            let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
            fds.extend(self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
            fds.extend(self.connections.iter().map(|connection| PollFd::new(&connection.stream, connection.wants())));
            if poll(&mut fds, Timespec::try_from(wait).ok().as_ref()).is_err() {
                // Interrupted: the caller comes again.
                return;
            }
            let came: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
            let (listening, ready) = came.split_at(self.listeners.len());
            (listening.to_vec(), ready.to_vec())
        };
        let now = Instant::now();
        let mut ready = ready.into_iter();
        self.connections.retain_mut(|connection| {
            let came = ready.next().unwrap_or(false);
            connection.deadline > now && (!came || connection.go_on(answer))
        });
        for (index, _) in listening.iter().enumerate().filter(|(_, came)| **came) {
            self.accept(index, now);
        }
    }

    fn accept(&mut self, index: usize, now: Instant) {
        // An error is a client that has gone, or no descriptor left; either is over by the next turn or the one after.
        let Ok(stream) = self.listeners[index].accept() else { return };
        if self.connections.iter().filter(|connection| connection.of == index).count() >= MOST
            && let Some(oldest) = self.connections.iter().position(|connection| connection.of == index)
        {
            self.connections.remove(oldest);
        }
        let step = Step::Request(Vec::new());
        self.connections.push(Connection { stream, of: index, deadline: now + LIMIT, step });
    }
}

impl Connection {
    fn wants(&self) -> PollFlags {
        if matches!(self.step, Step::Answer(..)) { PollFlags::OUT } else { PollFlags::IN }
    }

    /// Does what can be done without waiting; false when the connection is over.
    fn go_on(&mut self, answer: &mut dyn FnMut(&str) -> Answer) -> bool {
        match self.advance(answer) {
            Ok(open) => open,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    fn advance(&mut self, answer: &mut dyn FnMut(&str) -> Answer) -> io::Result<bool> {
        loop {
            match &mut self.step {
                Step::Request(head) => {
                    let mut chunk = [0; http::MOST_HEAD];
                    let room = http::MOST_HEAD - head.len();
                    let len = self.stream.read(&mut chunk[..room])?;
                    if len == 0 {
                        return Ok(false);
                    }
                    head.extend_from_slice(&chunk[..len]);
                    let bytes = match http::read(head) {
                        http::Read::More => continue,
                        http::Read::Get { path, body } => answer(&path).bytes(body),
                        http::Read::Refused(status) => Answer::refusal(status).bytes(true),
                    };
                    self.step = Step::Answer(bytes, 0);
                }
                Step::Answer(bytes, out) => {
                    *out += self.stream.write(&bytes[*out..])?;
                    if *out == bytes.len() {
                        self.stream.end()?;
                        self.step = Step::Rest(MOST_REST);
                    }
                }
                Step::Rest(left) => {
                    let mut chunk = [0; 4096];
                    let len = self.stream.read(&mut chunk)?;
                    *left = left.saturating_sub(len);
                    if len == 0 || *left == 0 {
                        return Ok(false);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::shutdown::{Reason, Shutdown};

    const HANG: Duration = Duration::from_secs(30);

    /// A server on loopback that answers every path with a long text, until it is dropped.
    struct Running {
        address: SocketAddr,
        stop: Shutdown,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Running {
        fn new() -> Self {
            let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
            let Listener::Tcp(tcp) = &listener else { unreachable!() };
            let address = tcp.local_addr().unwrap();
            let stop = Shutdown::new().unwrap();
            let latch = stop.clone();
            let mut server = Server::default();
            server.listen(listener);
            let thread = std::thread::spawn(move || {
                let mut answer = |path: &str| Answer::line(200, &format!("{path} {}", "x".repeat(3 << 20)));
                while !latch.is_tripped() {
                    server.turn(latch.fd(), Instant::now() + HANG, &mut answer);
                }
            });
            Self { address, stop, thread: Some(thread) }
        }

        fn client(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(HANG)).unwrap();
            stream
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.stop.trip(Reason::Signal(15));
            self.thread.take().unwrap().join().unwrap();
        }
    }

    fn ask(mut stream: TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn silent_and_slow_clients_hold_nobody_up() {
        let server = Running::new();
        let mut silent: Vec<_> = (0..4 * MOST).map(|_| server.client()).collect();
        let mut slow = server.client();
        slow.write_all(b"GET /slow HTTP/1.1\r\n").unwrap();
        let text = ask(server.client(), "GET /quick HTTP/1.1\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("/quick x"));
        slow.write_all(b"\r\n").unwrap();
        let mut text = String::new();
        slow.read_to_string(&mut text).unwrap();
        assert!(text.contains("/slow x"), "who is slow but within the limit is answered");
        // The first ones gave way to the later ones.
        let mut byte = [0];
        assert!(matches!(silent[0].read(&mut byte), Ok(0) | Err(_)));
    }

    #[test]
    fn a_body_that_nobody_asked_for_does_not_tear_the_answer() {
        let server = Running::new();
        let text = ask(server.client(), &format!("POST / HTTP/1.1\r\n\r\n{}", "y".repeat(30_000)));
        assert!(text.starts_with("HTTP/1.1 405") && text.ends_with("Method Not Allowed\n"), "{text}");
    }

    #[test]
    fn the_socket_is_ours_alone_and_works_below_long_paths() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        for dir in [temp.path().to_owned(), temp.path().join("d".repeat(120))] {
            std::fs::create_dir_all(&dir).unwrap();
            let first = Listener::unix(&dir).unwrap();
            drop(first);
            let mut server = Server::default();
            server.listen(Listener::unix(&dir).expect("the socket of an earlier life is replaced"));
            assert_eq!(std::fs::metadata(dir.join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
            let mut client = connect(&dir).unwrap();
            client.write_all(b"HEAD / HTTP/1.1\r\n\r\n").unwrap();
            let (stop, answered) = (Shutdown::new().unwrap(), AtomicBool::new(false));
            while !answered.load(Ordering::Relaxed) {
                server.turn(stop.fd(), Instant::now() + HANG, &mut |_| {
                    answered.store(true, Ordering::Relaxed);
                    Answer::line(200, "well")
                });
            }
            remove_socket(&dir).unwrap();
            assert!(connect(&dir).is_err());
        }
        std::fs::write(temp.path().join(SOCKET), "foreign").unwrap();
        assert!(Listener::unix(temp.path()).is_err(), "a file of that name is not ours to remove");
    }
}
