//! Tells the service manager how we are, by the datagrams that `sd_notify(3)` describes.
//!
//! Without `NOTIFY_SOCKET`, as in a container or a shell, nothing happens. A manager that cannot be reached is no reason to
//! stop working, so nothing here fails.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What the service manager can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The start is over, everything stands.
    Ready,
    /// A start that takes longer than the manager waits by itself goes on: it may wait this long from now.
    Starting(Duration),
    /// The end has begun, and may take this long from now.
    Stopping(Duration),
}

/// Tells the manager named by `socket`, the value of `NOTIFY_SOCKET`: a path, or an abstract name behind `@`.
pub fn tell(socket: Option<&str>, state: State) {
    let Some(address) = socket.and_then(address) else { return };
    let extend = |time: Duration| format!("EXTEND_TIMEOUT_USEC={}\n", time.as_micros());
    let text = match state {
        State::Ready => "READY=1\n".to_owned(),
        State::Starting(time) => extend(time),
        State::Stopping(time) => format!("STOPPING=1\n{}", extend(time)),
    };
    let sender = UnixDatagram::unbound().and_then(|sender| sender.set_nonblocking(true).map(|()| sender));
    if let Ok(sender) = sender {
        // A manager that does not listen any more cannot be told, and one that takes nothing is not waited for.
        let _ = sender.send_to_addr(text.as_bytes(), &address);
    }
}

fn address(socket: &str) -> Option<SocketAddr> {
    match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None if socket.starts_with('/') => SocketAddr::from_pathname(socket).ok(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(manager: &UnixDatagram) -> String {
        let mut text = [0; 64];
        let len = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    }

    #[test]
    fn a_manager_is_told_at_its_path_and_at_its_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        tell(path.to_str(), State::Ready);
        assert_eq!(told(&manager), "READY=1\n");

        let name = format!("processor-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tell(Some(&format!("@{name}")), State::Stopping(Duration::from_secs(9)));
        assert_eq!(told(&manager), "STOPPING=1\nEXTEND_TIMEOUT_USEC=9000000\n");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        for socket in [None, Some(""), Some("relative"), Some("/no/such/socket")] {
            tell(socket, State::Ready);
        }
    }
}
