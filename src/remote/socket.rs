//! Sockets that cannot hang: resolving, connecting and every read and write are bounded.
//!
//! The bound of a single call is the configured time-out; the bound of everything together is the [`Watch`].

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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

/// Connects to `addr`. Every later read or write of the socket ends after `timeout` without progress.
///
/// On error the watch may still hold the failed socket.
pub(super) fn dial(addr: SocketAddr, watch: &Watch, timeout: Duration) -> io::Result<TcpStream> {
    let limit = watch.remaining(Instant::now()).ok_or(io::ErrorKind::TimedOut)?.min(timeout);
    let stream = TcpStream::from(Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?);
    watch.add(&stream)?;
    SockRef::from(&stream).connect_timeout(&addr.into(), limit)?;
    bound(&stream, timeout)?;
    Ok(stream)
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
