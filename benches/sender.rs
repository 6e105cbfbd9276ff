//! Sends packets over an interface at a steady rate: the traffic of `scripts/bench-capture`.
//!
//! `sender INTERFACE RATE SECONDS FLOWS [mmsg|xdp]`, RATE in packets a second, 0 for as many as go. It prints what it sent. Frames
//! of 60 bytes, UDP over IPv4, each of a random one of the flows; FLOWS is rounded up to a power of two.
//!
//! `mmsg` sends each packet through a packet socket, a batch a system call, past the queueing discipline. `xdp` has the kernel make
//! the packets: a BPF program that gives each its flow and redirects it to the interface, run by BPF_PROG_TEST_RUN with live frames.
//! Either way every packet crosses the interface by itself; nothing is merged or repeated by segmentation offload.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

const FRAME: usize = 60;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let (Some(name), Some(rate), Some(seconds), Some(flows)) = (words.first(), number(1), number(2), number(3)) else {
        eprintln!("sender INTERFACE RATE SECONDS FLOWS [mmsg|xdp]");
        std::process::exit(2);
    };
    let flows = u32::try_from(flows).unwrap_or(1 << 24).clamp(1, 1 << 24).next_power_of_two();
    let index = index_of(name)?;
    let mut way: Box<dyn Way> = match words.get(4).map(String::as_str) {
        Some("xdp") => Box::new(Xdp::new(index, flows)?),
        _ => Box::new(Socket::new(index, flows)?),
    };
    let (sent, took) = paced(rate, Duration::from_secs(seconds), way.as_mut())?;
    println!("{sent} packets in {:.3} s, {:.0} a second", took.as_secs_f64(), sent as f64 / took.as_secs_f64());
    Ok(())
}

/// A way to send.
trait Way {
    /// The most packets of one [`Way::send`].
    fn turn(&self) -> u64;

    /// Sends up to `count` packets; how many went.
    fn send(&mut self, count: u64) -> io::Result<u64>;
}

/// Sends `rate` packets a second, evenly, for `time`; how many went, and in what time.
fn paced(rate: u64, time: Duration, way: &mut dyn Way) -> io::Result<(u64, Duration)> {
    let began = Instant::now();
    let mut sent = 0;
    loop {
        let elapsed = began.elapsed();
        if elapsed >= time {
            return Ok((sent, elapsed));
        }
        let due = if rate == 0 { u64::MAX } else { rate * elapsed.as_micros() as u64 / 1_000_000 };
        match due.saturating_sub(sent).min(way.turn()) {
            // Less than a turn is not worth its system call yet.
            due if due < way.turn() => std::thread::sleep(Duration::from_micros(50)),
            due => sent += way.send(due)?,
        }
    }
}

/// A frame; the flow goes into the source address and port.
fn frame(flow: u32) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 0, 192, 0, 2, 1]);
    let [_, high, middle, low] = flow.to_be_bytes();
    frame[27..30].copy_from_slice(&[low, middle, high]);
    frame[34..42].copy_from_slice(&[low, middle, 0x01, 0xbb, 0, 26, 0, 0]);
    frame
}

fn index_of(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a zero byte and lives through the call.
    #[allow(unsafe_code)]
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(checked(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    #[allow(unsafe_code)]
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(fd)
}

/// Beyond some hundred messages a call costs nothing beside them.
const SOCKET_TURN: u64 = 256;

/// Packets through a packet socket.
struct Socket {
    fd: OwnedFd,
    frames: Vec<[u8; FRAME]>,
    flows: u32,
    state: u64,
}

impl Socket {
    fn new(index: u32, flows: u32) -> io::Result<Self> {
        // SAFETY: no memory is lent.
        #[allow(unsafe_code)]
        let fd = owned(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into())?;
        let on: libc::c_int = 1;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let (on_size, address_size) = (size_of_val(&on) as u32, size_of_val(&address) as u32);
        // SAFETY: both calls read the value they are given, with its size, and keep nothing of it.
        #[allow(unsafe_code)]
        unsafe {
            let on = (&raw const on).cast();
            checked(libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, on, on_size).into())?;
            checked(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), address_size).into())?;
        }
        Ok(Self { fd, frames: vec![frame(0); SOCKET_TURN as usize], flows, state: 0x2545_f491_4f6c_dd1d })
    }
}

impl Way for Socket {
    fn turn(&self) -> u64 {
        SOCKET_TURN
    }

    fn send(&mut self, count: u64) -> io::Result<u64> {
        let frames = &mut self.frames[..count as usize];
        for bytes in frames.iter_mut() {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            *bytes = frame((self.state >> 40) as u32 & (self.flows - 1));
        }
        let mut pieces: Vec<libc::iovec> = frames
            .iter_mut()
            .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: FRAME })
            .collect();
        // SAFETY: zero is a right value of every field.
        #[allow(unsafe_code)]
        let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let message = |piece: &mut libc::iovec| {
            let mut message = empty;
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let mut messages: Vec<libc::mmsghdr> = pieces.iter_mut().map(message).collect();
        // SAFETY: every message points to its piece and every piece to its frame; all live through the call, and none moves.
        #[allow(unsafe_code)]
        let went = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0) };
        match checked(went.into()) {
            Ok(went) => Ok(went.cast_unsigned()),
            // The interface's queue is full: the next turn tries again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Every run sets up and takes down a pool of pages, which costs milliseconds.
const XDP_TURN: u64 = 65_536;

/// Packets that the kernel makes.
struct Xdp {
    program: OwnedFd,
    frame: [u8; FRAME],
}

/// `bpf_attr` of BPF_PROG_LOAD, as far as it is needed.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
}

/// `bpf_attr` of BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    _padding: u32,
}

const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const XDP: u32 = 6;
const LIVE_FRAMES: u32 = 2;

/// Carries out a command of bpf(2).
fn bpf<T>(command: i32, attributes: &mut T) -> i64 {
    // SAFETY: the kernel reads and writes at most the size it is given; what the attributes point to is the caller's and lives on.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    }
}

impl Xdp {
    fn new(index: u32, flows: u32) -> io::Result<Self> {
        // An instruction: code, registers (source, destination), offset, constant.
        let word = |code: u8, source: u8, to: u8, offset: u16, constant: u32| -> u64 {
            let registers = u64::from(source << 4 | to) << 8;
            u64::from(code) | registers | u64::from(offset) << 16 | u64::from(constant) << 32
        };
        let code = [
            // r6 = the frame, r7 = its end; a frame that is too short is dropped.
            word(0x61, 1, 6, 0, 0),
            word(0x61, 1, 7, 4, 0),
            word(0xbf, 6, 2, 0, 0),
            word(0x07, 0, 2, 0, FRAME as u32),
            word(0x2d, 7, 2, 11, 0),
            // r0 = a random flow.
            word(0x85, 0, 0, 0, 7),
            word(0x57, 0, 0, 0, flows - 1),
            // Its bytes into the address after the 10, and into the source port.
            word(0x6b, 0, 6, 34, 0),
            word(0xbf, 0, 1, 0, 0),
            word(0x67, 0, 1, 0, 8),
            word(0x47, 0, 1, 0, 10),
            word(0x63, 1, 6, 26, 0),
            // Over the interface.
            word(0xb7, 0, 1, 0, index),
            word(0xb7, 0, 2, 0, 0),
            word(0x85, 0, 0, 0, 23),
            word(0x95, 0, 0, 0, 0),
            word(0xb7, 0, 0, 0, 1),
            word(0x95, 0, 0, 0, 0),
        ];
        let mut log = vec![0u8; 64 << 10];
        let mut load = Load {
            kind: XDP,
            instructions: code.len() as u32,
            code: code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log: log.as_mut_ptr() as u64,
            version: 0,
            flags: 0,
        };
        let program = owned(bpf(PROG_LOAD, &mut load)).map_err(|error| {
            let log: Vec<u8> = log.into_iter().take_while(|&byte| byte != 0).collect();
            io::Error::other(format!("{error}: {}", String::from_utf8_lossy(&log)))
        })?;
        Ok(Self { program, frame: frame(0) })
    }
}

impl Way for Xdp {
    fn turn(&self) -> u64 {
        XDP_TURN
    }

    fn send(&mut self, count: u64) -> io::Result<u64> {
        let mut run = TestRun {
            program: self.program.as_raw_fd().cast_unsigned(),
            data_size_in: FRAME as u32,
            data_in: self.frame.as_ptr() as u64,
            repeat: count as u32,
            flags: LIVE_FRAMES,
            batch: 64,
            ..TestRun::default()
        };
        checked(bpf(PROG_TEST_RUN, &mut run)).map(|_| count)
    }
}
