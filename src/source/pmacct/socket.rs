//! The collector's UDP socket as the kernel shows it in `/proc/net/udp` and `/proc/net/udp6`.
//!
//! Three questions are answered: how many datagrams were dropped because the socket's buffer was full (the daemons count
//! none of it), how much waits in the buffer now, and whether another process is bound to the same port. The kernel then
//! deals the records out between them, and neither daemon says a word.
//!
//! [`read`] is a pure function over the table's text. Lines that do not look like the table's are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One bound UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where it is bound.
    pub local: SocketAddr,
    /// Whether it is connected to a peer, and so takes no datagrams from others.
    pub connected: bool,
    /// Bytes that wait in its receive buffer.
    pub waiting: u64,
    /// Datagrams dropped since it was opened, because the buffer was full.
    pub drops: u64,
    /// Its inode, as in `/proc/PID/fd` → `socket:[INODE]`.
    pub inode: u64,
}

/// Reads the table of `/proc/net/udp` or `/proc/net/udp6`.
pub fn read(table: &str) -> impl Iterator<Item = Socket> + '_ {
    table.lines().filter_map(row)
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops`
fn row(line: &str) -> Option<Socket> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let column = |at: usize| columns.get(at).copied();
    let remote = address(column(2)?)?;
    Some(Socket {
        local: address(column(1)?)?,
        connected: remote.port() != 0,
        waiting: u64::from_str_radix(column(4)?.split_once(':')?.1, 16).ok()?,
        inode: column(9)?.parse().ok()?,
        drops: column(12)?.parse().ok()?,
    })
}

/// `0100007F:270B`: 32-bit words in the byte order of the machine, the port in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(host.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether a socket bound to `local` gets some of the datagrams for `listen`.
pub fn shares(local: SocketAddr, listen: SocketAddr) -> bool {
    let (bound, wanted) = (local.ip().to_canonical(), listen.ip().to_canonical());
    local.port() == listen.port() && (bound == wanted || bound.is_unspecified() || wanted.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  614: 0100007F:270B 00000000:0000 07 00000000:00000300 00:00000000 00000000     0        0 12345 2 0000000000000000 1774
  615: 0100007F:C0DE 0100007F:270B 01 00000000:00000000 00:00000000 00000000     0        0 12346 2 0000000000000000 0
";
    const UDP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1209: 00000000000000000000000000000000:270B 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 777 2 0000000000000000 3
 1210: 00000000000000000000000001000000:14E9 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 778 2 0000000000000000 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_table_is_read() {
        let sockets: Vec<Socket> = read(UDP).collect();
        assert_eq!(sockets.len(), 2);
        let listening = Socket {
            local: "127.0.0.1:9995".parse().unwrap(),
            connected: false,
            waiting: 0x300,
            drops: 1774,
            inode: 12345,
        };
        assert_eq!(sockets[0], listening);
        assert!(sockets[1].connected);

        let sockets: Vec<Socket> = read(UDP6).collect();
        assert_eq!(sockets[0].local, "[::]:9995".parse().unwrap());
        assert_eq!(sockets[1].local, "[::1]:5353".parse().unwrap());
    }

    #[test]
    fn a_port_is_shared_with_the_same_address_and_with_every_address() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(shares(at("127.0.0.1:9995"), at("127.0.0.1:9995")));
        assert!(shares(at("[::]:9995"), at("127.0.0.1:9995")));
        assert!(shares(at("10.0.0.1:9995"), at("0.0.0.0:9995")));
        assert!(shares(at("[::ffff:127.0.0.1]:9995"), at("127.0.0.1:9995")));
        assert!(!shares(at("10.0.0.1:9995"), at("127.0.0.1:9995")));
        assert!(!shares(at("127.0.0.1:9996"), at("127.0.0.1:9995")));
    }

    proptest::proptest! {
        #[test]
        fn no_table_is_too_strange(table in "[ 0-9A-F:\n]{0,300}") {
            read(&table).count();
        }
    }
}
