//! The other end of the socket in the data directory: one question, one answer, within a limit.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::serve;

/// Bytes of an answer that are read at most.
const MOST: u64 = 4 << 20;

/// Asks the processor of the data directory `dir` for `path`: status and body of its answer.
///
/// # Errors
///
/// `NotFound` and `ConnectionRefused` when none runs there, `TimedOut` or `WouldBlock` when it does not answer within
/// `limit`.
pub fn get(dir: &Path, path: &str, limit: Duration) -> io::Result<(u16, String)> {
    let deadline = Instant::now() + limit;
    let mut stream = serve::connect(dir)?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: processor\r\n\r\n").as_bytes())?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return parse(&answer).ok_or_else(|| ErrorKind::InvalidData.into()),
            len => answer.extend_from_slice(&chunk[..len]),
        }
        if answer.len() as u64 > MOST {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
