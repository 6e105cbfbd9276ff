//! What the supervision asks the kernel about the collector's UDP socket, and the one thing it does to it.
//!
//! `net.core.rmem_max` is 212,992 bytes on most hosts, so `nfacctd` gets a twentieth of the receive buffer that it asks for
//! and loses flow records whenever the exporter flushes. We may have the right that `nfacctd` does not use: with CAP_NET_ADMIN
//! the bound can be passed (`SO_RCVBUFFORCE`), on a copy of its descriptor (`pidfd_getfd(2)`). Where that is not allowed,
//! everything stays as it is and the caller says so.
//!
//! No other process is touched, and nothing here waits.

use std::fs;
use std::io;

use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::socket::{self, Socket};

/// The UDP sockets of our network namespace. Empty when `/proc` cannot be read: then nothing is known.
pub(super) fn sockets() -> Vec<Socket> {
    // Of this thread, not of the process: a thread may live in another namespace.
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let texts = tables.into_iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| socket::read(&text).collect::<Vec<_>>()).collect()
}

/// Who holds the socket, as `nfacctd (pid 12)`; `None` when it cannot be seen from here, as from inside a container.
pub(super) fn holder(inode: u64) -> Option<String> {
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.into_iter().find(|pid| descriptor(*pid, inode).is_some())?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim()))
}

/// The process's descriptor of the socket.
fn descriptor(pid: i32, inode: u64) -> Option<i32> {
    let wanted = format!("socket:[{inode}]");
    let found = fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .find(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))?;
    found.file_name().to_str()?.parse().ok()
}

/// Raises the receive buffer of a child's socket to `bytes`; gives what it has then.
pub(super) fn raise_receive_buffer(child: Pid, inode: u64, bytes: usize) -> io::Result<u64> {
    let descriptor = descriptor(child.as_raw_nonzero().get(), inode).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(child, PidfdFlags::empty())?;
    let socket = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?;
    sockopt::set_socket_recv_buffer_size_force(&socket, bytes)?;
    // The kernel tells twice what it was asked for; the other half is for its own bookkeeping.
    Ok(sockopt::socket_recv_buffer_size(&socket)? as u64 / 2)
}
