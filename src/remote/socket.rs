//! Sockets that cannot hang: resolving, connecting and every read and write are bounded.
//!
//! The bound of a single call is the configured time-out; the bound of everything together is the [`Watch`].

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::watchdog::Watch;
use crate::threads;

/// Unsent bytes that the kernel takes before a write waits. Small, so that after the last write the wait for the server's
/// reply is not spent on megabytes that are still in our own buffer; the bytes in flight are not limited by it.
const UNSENT: u32 = 128 * 1024;
/// A silent peer is asked after this time whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Look-ups that may hang at the same time. The system's resolver cannot be interrupted.
const MAX_LOOKUPS: usize = 8;

/// A further address is tried when the one before has not answered after this time (RFC 8305, 5).
const STAGGER: Duration = Duration::from_millis(250);
/// How long one write waits, so that between two the progress can be looked at.
pub(super) const STEP: Duration = Duration::from_millis(500);

/// Connects to the first of `addresses` that answers. Every later read or write of the socket ends after `timeout` without
/// progress.
///
/// On error the watch may still hold sockets that failed.
pub(super) fn race(addresses: &[SocketAddr], watch: &Watch, timeout: Duration) -> io::Result<TcpStream> {
    let begun = Instant::now();
    let end = begun + watch.remaining(begun).ok_or(io::ErrorKind::TimedOut)?.min(timeout);
    let mut untried = addresses.iter();
    let mut trying: Vec<TcpStream> = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut next_try = begun;
    loop {
        let now = Instant::now();
        if now >= end || watch.is_cut() {
            return Err(if trying.is_empty() { last } else { io::ErrorKind::TimedOut.into() });
        }
        if now >= next_try {
            match untried.next().map(|address| begin(*address, watch)) {
                Some(Ok(socket)) => trying.push(socket),
                Some(Err(error)) => {
                    last = error;
                    continue;
                }
                None if trying.is_empty() => return Err(last),
                None => {}
            }
            next_try = if untried.len() > 0 { now + STAGGER } else { end };
        }
        for (index, came) in
            wait(&trying, next_try.min(end).saturating_duration_since(now))?.into_iter().enumerate().rev()
        {
            if !came {
                continue;
            }
            let socket = trying.remove(index);
            match socket.take_error()? {
                Some(error) => {
                    last = error;
                    next_try = now;
                }
                None => return won(socket, watch, timeout, addresses.len()),
            }
        }
    }
}

/// Begins to connect.
fn begin(address: SocketAddr, watch: &Watch) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        begun => begun?,
    }
    let socket = TcpStream::from(socket);
    watch.add(&socket)?;
    Ok(socket)
}

/// Which of the sockets have an outcome, after `limit` at the latest.
fn wait(sockets: &[TcpStream], limit: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => Ok(polled.iter().map(|polled| !polled.revents().is_empty()).collect()),
        Err(error) => Err(error.into()),
    }
}

/// The others are let go.
fn won(socket: TcpStream, watch: &Watch, timeout: Duration, tried: usize) -> io::Result<TcpStream> {
    socket.set_nonblocking(false)?;
    bound(&socket, timeout)?;
    if tried > 1 {
        watch.keep(0);
        watch.add(&socket)?;
    }
    Ok(socket)
}

/// Gives a connected socket its time-outs and its keep-alive.
pub(super) fn bound(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(Duration::from_secs(10)).with_retries(3),
    )?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(timeout))
}

/// Prepares a data socket for [`Progress`](super::progress::Progress), which alone says when it stands still: writes come back
/// often, and the kernel, which knows nothing of other connections that fill the line and counts a window that is closed as
/// silence, does not give up before us.
pub(super) fn carry(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_write_timeout(Some(STEP.min(timeout / 4)))?;
    SockRef::from(stream).set_tcp_user_timeout(None)
}

/// Bytes that were written and that the peer has not acknowledged; the end of the stream counts as one.
#[allow(unsafe_code)]
pub(super) fn unacknowledged(stream: &TcpStream) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and this request writes one int (tcp(7), SIOCOUTQ).
    let done = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(u64::try_from(bytes).unwrap_or(0)) }
}

/// Name resolution with a time limit.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    running: Arc<AtomicUsize>,
}

impl Resolver {
    /// The addresses of `host`, in the system's order. An address resolves to itself.
    pub(super) fn resolve(&self, host: &str, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if self.running.fetch_add(1, Ordering::Relaxed) >= MAX_LOOKUPS {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "earlier look-ups have not come back"));
        }
        let (running, name) = (Arc::clone(&self.running), host.to_owned());
        let lookup = threads::spawn("ftp-resolve", move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            running.fetch_sub(1, Ordering::Relaxed);
            found
        });
        let lookup = lookup.inspect_err(|_| {
            self.running.fetch_sub(1, Ordering::Relaxed);
        })?;
        match lookup.wait_until(Instant::now() + limit) {
            Ok(Ok(found)) if found.is_empty() => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
            }
            Ok(found) => found,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    use super::*;
    use crate::remote::watchdog::Watchdog;

    /// An address that swallows connections: its queue is full.
    fn dead() -> (SocketAddr, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = vec![listener];
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&address);
            held.push(filler);
        }
        (address.as_socket().unwrap(), held)
    }

    #[test]
    fn a_dead_address_costs_a_quarter_of_a_second() {
        let (dead, _held) = dead();
        let alive = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = alive.local_addr().unwrap();
        let dog = Watchdog::start().unwrap();
        let watch = dog.watch();
        watch.arm(Instant::now() + Duration::from_mins(1));
        for addresses in [&[dead, address][..], &[dead, dead, address]] {
            let begun = Instant::now();
            let socket = race(addresses, &watch, Duration::from_secs(50)).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), address);
            assert!(begun.elapsed() >= STAGGER * (addresses.len() as u32 - 1));
            assert!(begun.elapsed() < Duration::from_secs(40), "not the time-out of the dead one");
        }
    }

    #[test]
    fn refusals_are_passed_over_at_once_and_told_in_the_end() {
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let nobody6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
        let dog = Watchdog::start().unwrap();
        let watch = dog.watch();
        watch.arm(Instant::now() + Duration::from_mins(1));
        let error = race(&[nobody6, nobody], &watch, Duration::from_secs(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let alive = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addresses = [nobody, alive.local_addr().unwrap()];
        let begun = Instant::now();
        race(&addresses, &watch, Duration::from_secs(50)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_the_peer_does_not_take_is_not_acknowledged() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(unacknowledged(&stream).unwrap(), 0);
        stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(len) = io::Write::write(&mut &stream, &[0; 4096]) {
            sent += len as u64;
        }
        let waiting = unacknowledged(&stream).unwrap();
        assert!(waiting > 0 && waiting <= sent, "{waiting} of {sent}");
    }
}
