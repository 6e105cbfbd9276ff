//! A network namespace of a test's own, with a wire in it and traffic that is counted as it is sent.
//!
//! The wire is a veth pair: what is sent through `v0` arrives at `v1`, where a capture can watch it. No address is resolved and
//! no protocol speaks by itself, so the packets on the wire are exactly those that the test sends.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace; it and its wire go when this is dropped.
pub struct Namespace {
    pub name: String,
}

/// Where [`Namespace::mark`] sends to.
pub const MARK: Ipv4Addr = Ipv4Addr::new(10, 99, 99, 99);

/// What was sent: the truth that rows are held against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

/// Traffic to send.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub packets: u64,
    pub flows: u64,
    /// Packets a second.
    pub rate: u64,
}

/// Whether namespaces can be made here and these programs are installed. If not, it is said; see
/// [`not_run`](super::not_run).
pub fn available(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/local/sbin";
        !path.split(':').any(|dir| std::path::Path::new(dir).join(program).exists())
    });
    let why = match missing {
        Some(program) => format!("{program} is not installed"),
        None if !rustix::process::geteuid().is_root() => "network namespaces need root".to_owned(),
        None => return true,
    };
    super::not_run(&why);
    false
}

fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let done = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Packets and bytes of rows: the sums of their last two columns. Fails on a row that is not whole.
#[track_caller]
pub fn sums(rows: &[u8]) -> Sent {
    let columns = "SRC_IP,DST_IP,SRC_PORT,DST_PORT,TCP_FLAGS,PROTOCOL,TOS,TIMESTAMP_MIN,TIMESTAMP_MAX,PACKETS,BYTES";
    let mut sums = Sent::default();
    for line in rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = std::str::from_utf8(line).unwrap();
        if line == columns {
            continue;
        }
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), 11, "a torn row: {line}");
        sums += Sent { packets: fields[9].parse().unwrap(), bytes: fields[10].parse().unwrap() };
    }
    assert!(rows.is_empty() || rows.ends_with(b"\n"));
    sums
}

impl Namespace {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("proc{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        let namespace = Self { name };
        for key in ["all", "default"] {
            let key = format!("net.ipv6.conf.{key}.disable_ipv6=1");
            namespace.run(&format!("sysctl -qw {key}"));
        }
        namespace.run("ip link set lo up");
        namespace.add_wire();
        namespace
    }

    /// Makes the wire; also again, after [`Namespace::delete_wire`].
    pub fn add_wire(&self) {
        self.run("ip link add v0 type veth peer name v1");
        self.run("ip addr add 10.0.0.1/8 dev v0");
        self.run("ip link set v0 arp off up");
        self.run("ip link set v1 arp off up");
    }

    pub fn delete_wire(&self) {
        self.run("ip link del v0");
    }

    pub fn set_wire(&self, state: &str) {
        self.run(&format!("ip link set v1 {state}"));
    }

    pub fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.name));
    }

    /// What stands before a program that is to run inside.
    pub fn wrapper(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).into()
    }

    /// Sends one packet to [`MARK`], after everything else: a ping, whose flow ends soon where `icmp` has a short time-out. Who
    /// sees it has seen all that was sent before it.
    pub fn mark(&self) -> Sent {
        let ping = || {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4));
            // Echo request, checksum, identifier and number: what matters is that it is ICMP.
            let to = SocketAddrV4::new(MARK, 0);
            assert_eq!(socket.unwrap().send_to(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0], &to.into()).unwrap(), 8);
        };
        self.inside(ping).join().unwrap();
        Sent { packets: 1, bytes: 28 }
    }

    /// Does something on a thread inside the namespace; threads and processes it starts are inside too.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// Sends traffic over the wire, evenly, and returns when it is sent.
    pub fn send(&self, traffic: Traffic) -> Sent {
        self.inside(move || send(traffic)).join().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// UDP datagrams to ever the same `flows` addresses in turn.
pub fn send(traffic: Traffic) -> Sent {
    const IP_AND_UDP: u64 = 28;
    let socket = UdpSocket::bind("10.0.0.1:4000").unwrap();
    let payload = [b'x'; 400];
    let start = Instant::now();
    let mut sent = Sent::default();
    while sent.packets < traffic.packets {
        let due = u64::try_from(start.elapsed().as_micros()).unwrap() * traffic.rate / 1_000_000;
        while sent.packets < traffic.packets.min(due) {
            let flow = (sent.packets % traffic.flows) as u32;
            let host = Ipv4Addr::from(0x0a01_0000 + flow / 1000);
            let len = 20 + (sent.packets * 7 % 380) as usize;
            let to = SocketAddrV4::new(host, 5000 + (flow % 1000) as u16);
            assert_eq!(socket.send_to(&payload[..len], to).unwrap(), len);
            sent += Sent { packets: 1, bytes: IP_AND_UDP + len as u64 };
        }
        thread::sleep(Duration::from_millis(1));
    }
    sent
}
