//! What a failed step means: for the rest of the pass, and in the operator's words. Pure.
//!
//! Promise: one line, that names the address, the step, the server's own reply and, where there is one, the remedy; never the
//! password.

use std::io;
use std::time::Duration;

use suppaftp::{Encoding, FtpError};

use super::session::Gbk;
use super::{Charset, Mode, Options, Put, Tls};
use crate::remote::reply;
use crate::remote::tls;
use crate::remote::{RemoteError, Scope};

/// The port on which TLS begins before the first word.
const IMPLICIT_TLS: u16 = 990;

/// Where in the dialogue something failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) options: &'a Options,
    /// From the greeting to the target directory.
    pub(super) opening: bool,
    /// The watch has shut the sockets down.
    pub(super) is_cut: bool,
}

impl Place<'_> {
    /// What `error` at `step` means for the pass, in words.
    pub(super) fn failed(self, step: &str, error: &FtpError) -> RemoteError {
        let what = self.words(error);
        let code = reply_code(error);
        let refused_login = step == "login" && matches!(code, Some(332 | 430 | 500..=599));
        let scope = match code {
            _ if refused_login || tls_error(error).is_some() && self.opening => Scope::Server,
            Some(421 | 425 | 426 | 522 | 530) if !self.opening => Scope::Connection,
            Some(400..=599) if !self.opening => Scope::File,
            Some(400..=599) => Scope::Server,
            _ => Scope::Connection,
        };
        RemoteError {
            refused_login,
            ..self.failure(scope, step, &what, self.remedy(step, code, &said(error, self.options.charset)))
        }
    }

    pub(super) fn failure(self, scope: Scope, step: &str, what: &str, remedy: &str) -> RemoteError {
        let address = self.options.address();
        let gap = if remedy.is_empty() { "" } else { "; " };
        RemoteError { scope, refused_login: false, text: format!("{address}: {step}: {what}{gap}{remedy}") }
    }

    pub(super) fn words(self, error: &FtpError) -> String {
        let options = self.options;
        match error {
            FtpError::UnexpectedResponse(_) => reply::quote(said(error, options.charset).as_bytes(), &options.pass),
            FtpError::BadResponse => "the reply is not FTP".into(),
            FtpError::ConnectionError(_) if self.is_cut => "not done by its deadline".into(),
            FtpError::ConnectionError(io) => match tls_error(error) {
                Some(tls) => tls::explain(tls, &options.host),
                None => io_text(io, options.timeout),
            },
            other => options.pass.mask(&other.to_string()),
        }
    }

    fn remedy(self, step: &str, code: Option<u16>, words: &str) -> &'static str {
        let Options { mode, tls, port, put, .. } = self.options;
        let (passive, plain) = (*mode == Mode::Passive, *tls == Tls::Off);
        match (step, code) {
            ("greeting", None) if *port == IMPLICIT_TLS => {
                "port 990 is for implicit TLS, which is not spoken here; use the port of explicit TLS, mostly 21"
            }
            ("greeting", None) => "is processor_ftp_port the port of an FTP server?",
            ("login", Some(332)) => "an account beside user and password (ACCT) is not supported",
            ("login", Some(430 | 500..=599)) if plain && reply::says_tls(words) => "set processor_ftp_tls: explicit",
            ("login", Some(430 | 500..=599)) => {
                "check processor_ftp_user and processor_ftp_pass, and whether the server wants processor_ftp_tls"
            }
            ("AUTH TLS", Some(500..=599)) => "the server has no explicit TLS; nothing is sent without it",
            (_, Some(451 | 452 | 552)) => "is the server's disk full, or the user's quota used up?",
            (_, Some(400..=599)) if reply::says_full(words) => {
                "is the server's disk full, or the user's quota used up?"
            }
            (_, Some(522)) if plain => {
                "the server does not offer data connections to this kind of address; an IPv4 address in processor_ftp_host \
                 may help"
            }
            (_, Some(522)) => "the server wants the TLS session of the control connection; a fresh connection follows",
            // Bytes went through, so the way is open.
            (_, Some(426)) => "the server broke the transfer off: is its disk full, or the way to it cut?",
            (_, Some(425)) if passive => {
                "is the way to the server's data ports open? processor_ftp_mode: active may help"
            }
            (_, Some(425)) => "can the server reach this machine? processor_ftp_mode: passive may help",
            (step, Some(550 | 553)) if step.starts_with("STOR ") && *put == Put::Rename => {
                "may the user write in processor_ftp_dir, also names that end in .tmp? If not those, set processor_ftp_put: \
                 direct"
            }
            // The delivery knows more.
            (step, Some(550 | 553)) if step.starts_with("rename ") => "",
            (_, Some(550 | 553)) => "may the user write and rename in processor_ftp_dir?",
            _ => "",
        }
    }
}

/// The code of a server's "no", where the dialogue may go on after it.
pub(super) fn refusal(error: &FtpError) -> Option<u16> {
    reply_code(error).filter(|code| (400..=599).contains(code) && *code != 421)
}

pub(super) fn reply_code(error: &FtpError) -> Option<u16> {
    match error {
        FtpError::UnexpectedResponse(reply) => reply::code(&reply.body),
        _ => None,
    }
}

/// The server's words as they are, for decisions; never to be shown.
pub(super) fn said(error: &FtpError, charset: Charset) -> String {
    match error {
        FtpError::UnexpectedResponse(reply) if charset == Charset::Gbk => Gbk.decode(&reply.body),
        FtpError::UnexpectedResponse(reply) => String::from_utf8_lossy(&reply.body).into_owned(),
        _ => String::new(),
    }
}

/// The TLS library's error, where that is the cause.
pub(super) fn tls_error(error: &FtpError) -> Option<&rustls::Error> {
    match error {
        FtpError::ConnectionError(io) => io.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// An I/O error as an operator reads it. Socket time-outs come as `WouldBlock`.
pub(super) fn io_text(error: &io::Error, timeout: Duration) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no progress for {} s", timeout.as_secs_f32())
        }
        io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use suppaftp::Status;
    use suppaftp::types::Response;

    use super::*;
    use crate::secret::Secret;

    fn failed(options: &Options, opening: bool, step: &str, reply: &str) -> RemoteError {
        let reply = Response::new(Status::Unknown, reply.as_bytes().to_vec());
        Place { options, opening, is_cut: false }.failed(step, &FtpError::UnexpectedResponse(reply))
    }

    fn options() -> Options {
        Options {
            host: "h".into(),
            port: 21,
            user: "u".into(),
            pass: Secret::new("hunter2"),
            dir: "/".into(),
            timeout: Duration::from_mins(1),
            tls: Tls::Off,
            mode: Mode::Passive,
            put: Put::Rename,
            charset: Charset::Utf8,
        }
    }

    #[test]
    fn every_refusal_at_login_is_a_refused_login() {
        for (reply, says) in [
            ("530 Login incorrect.", "processor_ftp_user"),
            ("550 SSL/TLS required on the control channel", "processor_ftp_tls: explicit"),
            ("534 Policy requires SSL.", "processor_ftp_tls: explicit"),
            ("504 no", "processor_ftp_user"),
            ("501 Reconnect with AUTH TLS", "processor_ftp_tls: explicit"),
            ("500 OOPS: cannot change directory:/home/probe", "processor_ftp_user"),
            ("332 Need account for login", "ACCT"),
        ] {
            let error = failed(&options(), true, "login", reply);
            assert!(error.refused_login && error.scope == Scope::Server && error.text.contains(says), "{error}");
        }
        let busy = failed(&options(), true, "login", "421 Too many users");
        assert!(!busy.refused_login && busy.scope == Scope::Server);
    }

    #[test]
    fn words_in_gbk_are_read() {
        let gbk = Options { charset: Charset::Gbk, ..options() };
        let reply = Response::new(Status::Unknown, b"550 \xd5\xd2\xb2\xbb\xb5\xbd\xce\xc4\xbc\xfe\r\n".to_vec());
        let place = Place { options: &gbk, opening: false, is_cut: false };
        assert_eq!(place.words(&FtpError::UnexpectedResponse(reply)), "550 找不到文件");
    }

    #[test]
    fn the_remedy_fits_the_words() {
        for (step, reply, says) in [
            ("end of STOR x.tmp", "426 Connection closed; transfer aborted", "disk full"),
            ("end of STOR x.tmp", "550 [Errno 28] No space left on device", "disk full"),
            ("end of STOR x.tmp", "552 Quota exceeded", "quota"),
            ("STOR x.1.tmp", "550 x.1.tmp: Forbidden filename", "processor_ftp_put: direct"),
            ("STOR x.csv.gz", "522 Network protocol not supported, use (1)", "IPv4"),
            ("STOR x.tmp", "425 Can't open data connection", "processor_ftp_mode"),
        ] {
            let error = failed(&options(), false, step, reply);
            assert!(error.text.contains(says), "{error}");
        }
        let late = FtpError::ConnectionError(io::ErrorKind::WouldBlock.into());
        let options = Options { port: 990, ..options() };
        let error = Place { options: &options, opening: true, is_cut: false }.failed("greeting", &late);
        assert!(error.text.contains("implicit TLS"), "{error}");
    }
}
