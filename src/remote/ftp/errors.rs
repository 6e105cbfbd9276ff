//! What a failed step means: for the rest of the pass, and in the operator's words. Pure.
//!
//! Promise: one line, that names the address, the step, the server's own reply and, where there is one, the remedy; never the
//! password.

use std::io;
use std::time::Duration;

use suppaftp::FtpError;

use super::{Mode, Options};
use crate::remote::reply;
use crate::remote::tls;
use crate::remote::{RemoteError, Scope};

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
        let refused_login = step == "login" && matches!(code, Some(430 | 530..=532));
        let scope = match code {
            _ if tls_error(error).is_some() && self.opening => Scope::Server,
            Some(421 | 425 | 426 | 522 | 530) if !self.opening => Scope::Connection,
            Some(400..=599) if !self.opening => Scope::File,
            Some(400..=599) => Scope::Server,
            _ => Scope::Connection,
        };
        RemoteError { refused_login, ..self.failure(scope, step, &what, self.remedy(step, code)) }
    }

    pub(super) fn failure(self, scope: Scope, step: &str, what: &str, remedy: &str) -> RemoteError {
        let address = self.options.address();
        let gap = if remedy.is_empty() { "" } else { "; " };
        RemoteError { scope, refused_login: false, text: format!("{address}: {step}: {what}{gap}{remedy}") }
    }

    pub(super) fn words(self, error: &FtpError) -> String {
        let options = self.options;
        match error {
            FtpError::UnexpectedResponse(reply) => reply::quote(&reply.body, &options.pass),
            FtpError::BadResponse => "the reply is not FTP".into(),
            FtpError::ConnectionError(_) if self.is_cut => "not done by its deadline".into(),
            FtpError::ConnectionError(io) => match tls_error(error) {
                Some(tls) => tls::explain(tls, &options.host),
                None => io_text(io, options.timeout),
            },
            other => options.pass.mask(&other.to_string()),
        }
    }

    fn remedy(self, step: &str, code: Option<u16>) -> &'static str {
        let passive = self.options.mode == Mode::Passive;
        match (step, code) {
            ("login", Some(430 | 530..=532)) => {
                "check processor_ftp_user and processor_ftp_pass, and whether the server wants processor_ftp_tls"
            }
            ("AUTH TLS", Some(500..=599)) => "the server has no explicit TLS; nothing is sent without it",
            (_, Some(522)) => "the server wants the TLS session of the control connection; a fresh connection follows",
            (_, Some(451 | 452 | 552)) => "is the server's disk full, or the user's quota used up?",
            (_, Some(425 | 426)) if passive => {
                "is the way to the server's data ports open? processor_ftp_mode: active may help"
            }
            (_, Some(425 | 426)) => "can the server reach this machine? processor_ftp_mode: passive may help",
            (_, Some(550 | 553)) => "may the user write and rename in processor_ftp_dir?",
            _ => "",
        }
    }
}

/// The code of a server's "no", where the dialogue may go on after it.
pub(super) fn refusal(error: &FtpError) -> Option<u16> {
    reply_code(error).filter(|code| (400..=599).contains(code) && *code != 421)
}

fn reply_code(error: &FtpError) -> Option<u16> {
    match error {
        FtpError::UnexpectedResponse(reply) => reply::code(&reply.body),
        _ => None,
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
