//! Several sockets that share the packets of one interface: PACKET_FANOUT of packet(7), by flow hash.
//!
//! The kernel's hash is the same for both directions of a flow, so a flow stays on one socket. It hashes the fragments of a
//! datagram by their addresses alone: they stay together, though not always with the whole packets of their flow. The kernel is
//! not asked to join fragments (PACKET_FANOUT_FLAG_DEFRAG): one packet would be seen where several were on the wire.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A group of sockets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// Chosen by the kernel, so that no other program has it.
    number: u16,
}

impl Group {
    /// Begins a group with this socket. Needs Linux 4.11.
    pub(super) fn new(first: BorrowedFd<'_>) -> io::Result<Self> {
        set(first, libc::PACKET_FANOUT_FLAG_UNIQUEID << 16)?;
        // The number is the lower half.
        Ok(Self { number: get(first)? as u16 })
    }

    /// From here on this socket takes its share, and no packet that another one takes.
    pub(super) fn join(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        set(socket, u32::from(self.number))
    }
}

/// The option's value for a group by flow hash; `rest` adds the number and flags.
fn set(socket: BorrowedFd<'_>, rest: u32) -> io::Result<()> {
    let value: u32 = libc::PACKET_FANOUT_HASH << 16 | rest;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads the four bytes of `value`.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, (&raw const value).cast(), SIZE)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let (mut value, mut len) = (0u32, SIZE);
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes at most `len` bytes, which is the
    // size of `value`.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of the option's value.
const SIZE: libc::socklen_t = size_of::<u32>() as libc::socklen_t;
