//! As much HTTP as a scraper and a browser need: one request without a body, one answer, close. Pure: bytes in, bytes out.

/// The longest request head, bytes. A browser's own headers stay well below it.
pub const MOST_HEAD: usize = 8 * 1024;
/// The most headers of a request.
const MOST_HEADERS: usize = 64;

/// What the bytes read so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The beginning of a request.
    More,
    /// A request: its path without the query, and whether it wants the body.
    Get {
        /// Begins with a slash.
        path: String,
        /// False for HEAD.
        body: bool,
    },
    /// To be refused with this status.
    Refused(u16),
}

/// Looks at the bytes of a request read so far.
pub fn read(bytes: &[u8]) -> Read {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < MOST_HEAD => return Read::More,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Read::Refused(431),
        Err(_) => return Read::Refused(400),
    }
    let body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Read::Refused(405),
    };
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if path.starts_with('/') { Read::Get { path: path.to_owned(), body } } else { Read::Refused(400) }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The Content-Type.
    pub kind: &'static str,
    /// The body.
    pub body: String,
}

/// The Content-Type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The Content-Type of the metrics, with the version of their format.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The Content-Type of the page's numbers.
pub const JSON: &str = "application/json";
/// The Content-Type of the page.
pub const HTML: &str = "text/html; charset=utf-8";

impl Answer {
    /// An answer of one line.
    pub fn line(status: u16, line: &str) -> Self {
        Self { status, kind: TEXT, body: format!("{line}\n") }
    }

    /// The refusal with `status`.
    pub fn refusal(status: u16) -> Self {
        Self::line(status, reason(status))
    }

    /// The bytes on the wire; without the body for HEAD. The policy lets the page load nothing that is not in it.
    pub fn bytes(&self, with_body: bool) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n\
             Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
             connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'\r\n",
            self.status,
            reason(self.status),
            self.kind,
            self.body.len(),
        );
        if self.status == 405 {
            head.push_str("Allow: GET, HEAD\r\n");
        }
        head.push_str("\r\n");
        if with_body {
            head.push_str(&self.body);
        }
        head.into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(path: &str, body: bool) -> Read {
        Read::Get { path: path.to_owned(), body }
    }

    #[test]
    fn requests_as_they_come() {
        assert_eq!(read(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), get("/metrics", true));
        assert_eq!(read(b"HEAD /?a=b HTTP/1.0\r\n\r\n"), get("/", false));
        for part in ["", "G", "GET / HTTP/1.1\r\nHost:"] {
            assert_eq!(read(part.as_bytes()), Read::More, "{part}");
        }
        assert_eq!(read(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"), Read::Refused(405));
        assert_eq!(read(b"GET http://evil/ HTTP/1.1\r\n\r\n"), Read::Refused(400));
        assert_eq!(read(b"\x16\x03\x01\x02\0\x01"), Read::Refused(400), "TLS is not spoken here");
        assert_eq!(read(&[b"GET /".as_slice(), &[b'a'; MOST_HEAD]].concat()), Read::Refused(431));
        let headers = "A: b\r\n".repeat(MOST_HEADERS + 1);
        assert_eq!(read(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes()), Read::Refused(431));
    }

    #[test]
    fn an_answer_says_its_length_and_ends() {
        let text = String::from_utf8(Answer::line(200, "流").bytes(true)).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("Content-Length: 4\r\n"), "{text}");
        assert!(text.contains("Connection: close\r\n") && text.ends_with("\r\n\r\n流\n"), "{text}");
        let head = String::from_utf8(Answer::refusal(405).bytes(false)).unwrap();
        assert!(head.contains("Allow: GET, HEAD\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_surprise(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
        }
    }
}
