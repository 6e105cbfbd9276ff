//! One control connection, and what the library under it needs.
//!
//! suppaftp speaks the protocol; these are its traps, each met in one place:
//!
//!  * It waits for ever. Control and data sockets are made here, with time-outs ([`socket`]), and handed over; a [`Watch`]
//!    holds a descriptor of each and shuts them down at the deadline. Dropping a data socket therefore does not end the
//!    stream: [`end_of_file`] says so first.
//!  * A refused transfer hides behind a broken pipe: the transfer is always finished, so that the server's word is read
//!    ([`FtpSession::store`]).
//!  * In active mode it accepts the data connection itself: [`FtpSession::adopt`] puts that socket under watch afterwards.
//!  * It knows one form of PASV's answer: [`FtpSession::data`] asks once more in the form of RFC 2428.
//!  * It changes the state of a connection by taking it and giving it back: hence the `Option` around it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use suppaftp::types::FileType;
use suppaftp::{
    DataStream, FtpError, FtpResult, Mode as DataMode, RustlsConnector, RustlsFtpStream, Status, TlsConnector,
    TlsStream, TransferStream,
};

use super::delivery::{self, Compared, Delivered, Server};
use super::errors::{Place, refusal, tls_error};
use super::{Options, Settings};
use crate::remote::tls::{self, Trust, Versions};
use crate::remote::watchdog::Watch;
use crate::remote::{RemoteError, Scope, Session, Upload, reply, socket};

/// One read of the local file and one write to the network, bytes.
const CHUNK: usize = 128 * 1024;
/// After a failed transfer, how long to wait for the reply that says why.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a polite end may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// One data connection, plain or in TLS.
type Transfer = TransferStream<<RustlsConnector as TlsConnector>::Stream>;

/// One control connection.
pub(super) struct FtpSession {
    pub(super) settings: Arc<Settings>,
    pub(super) watch: Arc<Watch>,
    /// `None` only before the greeting and after the farewell.
    pub(super) ftp: Option<RustlsFtpStream>,
    pub(super) mode: DataMode,
    pub(super) opening: bool,
    /// What this session stored last.
    pub(super) stored: Option<String>,
    /// Levels of the target directory that it made.
    pub(super) made: Vec<String>,
}

impl Drop for FtpSession {
    fn drop(&mut self) {
        // Sockets first: the library says farewell when a TLS connection is dropped, and must not wait for that.
        self.watch.cut();
    }
}

impl Session for FtpSession {
    fn put(&mut self, upload: &Upload<'_>, deadline: Instant) -> Result<(), RemoteError> {
        self.watch.arm(deadline);
        let delivered = delivery::deliver(self, upload);
        match delivered {
            Ok(how) => {
                self.stored = (how == Delivered::Now).then(|| upload.name.to_owned());
                self.watch.keep(1);
                self.watch.rest();
            }
            Err(_) => self.watch.cut(),
        }
        delivered.map(drop)
    }

    fn take_back(&mut self, deadline: Instant) -> Result<(), RemoteError> {
        let Some(name) = self.stored.take() else { return Ok(()) };
        self.watch.arm(deadline);
        self.ask(&format!("DELE {name}"), |ftp| ftp.rm(&name))?;
        self.watch.rest();
        Ok(())
    }

    fn made(&self) -> &[String] {
        &self.made
    }

    fn close(mut self: Box<Self>) {
        self.watch.arm(Instant::now() + FAREWELL);
        if let Some(mut ftp) = self.ftp.take() {
            let _ = ftp.get_ref().set_read_timeout(Some(FAREWELL));
            let _ = ftp.quit();
        }
    }
}

/// What became of AUTH TLS.
pub(super) enum Secured {
    Yes,
    /// The server does not speak the version of TLS that was offered.
    OtherVersion,
}

/// Opening: from the greeting to the target directory.
impl FtpSession {
    pub(super) fn secure(&mut self, trust: &Trust, versions: Versions) -> Result<Secured, RemoteError> {
        let config = trust.config(versions).map_err(|error| {
            self.failure(Scope::Server, "AUTH TLS", &error.to_string(), "this is an error of the program")
        })?;
        let Some(ftp) = self.ftp.take() else { return Ok(Secured::OtherVersion) };
        match ftp.into_secure(RustlsConnector::from(config), &self.settings.options.host) {
            Ok(ftp) => {
                self.ftp = Some(ftp);
                Ok(Secured::Yes)
            }
            Err(error) if tls_error(&error).is_some_and(tls::wants_other_version) => Ok(Secured::OtherVersion),
            Err(error) => Err(self.failed("AUTH TLS", &error)),
        }
    }

    pub(super) fn prepare(&mut self) -> Result<(), RemoteError> {
        let Options { user, pass, .. } = &self.settings.options;
        let (user, pass) = (user.clone(), pass.clone());
        self.ask("login", |ftp| ftp.login(user.as_str(), pass.reveal()))?;
        // Without it the server may rewrite line ends inside gzip files.
        self.ask("TYPE I", |ftp| ftp.transfer_type(FileType::Binary))?;
        self.enter_dir()?;
        self.opening = false;
        Ok(())
    }

    /// Goes to the target directory. What the server says about levels that may exist already is of no interest; whether
    /// the directory can be entered afterwards is.
    fn enter_dir(&mut self) -> Result<(), RemoteError> {
        let dir = self.settings.options.dir.clone();
        if dir.is_empty() || self.ask_refusable("CWD", |ftp| ftp.cwd(&dir))?.is_ok() {
            return Ok(());
        }
        for level in levels(&dir) {
            if self.ask_refusable("MKD", |ftp| ftp.mkdir(&level))?.is_ok() {
                self.made.push(level);
            }
        }
        self.ask(&format!("CWD {dir}"), |ftp| ftp.cwd(&dir))
    }
}

/// `/a/b` → `/a`, `/a/b`; `a/b` → `a`, `a/b`.
fn levels(dir: &str) -> Vec<String> {
    let mut path = if dir.starts_with('/') { String::from("/") } else { String::new() };
    let mut levels = Vec::new();
    for name in dir.split('/').filter(|name| !name.is_empty()) {
        if !path.is_empty() && !path.ends_with('/') {
            path.push('/');
        }
        path.push_str(name);
        levels.push(path.clone());
    }
    levels
}

/// The verbs of a delivery.
impl Server for FtpSession {
    fn token(&self) -> &str {
        &self.settings.token
    }

    fn size(&mut self, name: &str) -> Result<Option<u64>, RemoteError> {
        let step = format!("SIZE {name}");
        match self.with_ftp(|ftp| ftp.size(name)) {
            Ok(len) => Ok(Some(len as u64)),
            Err(error) => match refusal(&error) {
                Some(450 | 550 | 553) => Ok(None),
                Some(500..=504) => {
                    let what = self.place().words(&error);
                    let remedy = "without SIZE no upload can be verified; use a server that has it (RFC 3659)";
                    Err(self.failure(Scope::Server, &step, &what, remedy))
                }
                _ => Err(self.failed(&step, &error)),
            },
        }
    }

    fn delete(&mut self, name: &str) -> Result<bool, RemoteError> {
        Ok(self.ask_refusable("DELE", |ftp| ftp.rm(name))?.is_ok())
    }

    fn store(&mut self, temp: &str, upload: &Upload<'_>) -> Result<(), RemoteError> {
        let step = format!("STOR {temp}");
        let mut transfer = self.data(|ftp| ftp.put_with_stream(temp)).map_err(|error| self.failed(&step, &error))?;
        let sent = match self.adopt(&transfer) {
            Ok(()) => send(&mut transfer, upload),
            Err(error) => Err(SendError::Network(error)),
        };
        match &sent {
            Ok(()) => end_of_file(&mut transfer),
            Err(_) => self.abandon(&transfer),
        }
        let finished = transfer.finish();
        self.watch.keep(1);
        match (sent, finished) {
            (Ok(()), Ok(())) => Ok(()),
            (Ok(()), Err(error)) => Err(self.failed(&format!("end of {step}"), &error)),
            (Err(SendError::Local(error)), _) => {
                let what = format!("cannot read the local file: {error}");
                Err(self.failure(Scope::File, &step, &what, "check the disk of the data directory"))
            }
            // The server's word says more than the broken pipe.
            (Err(SendError::Network(_)), Err(error @ FtpError::UnexpectedResponse(_))) => {
                Err(self.failed(&step, &error))
            }
            (Err(SendError::Network(error)), _) => Err(self.failed(&step, &FtpError::ConnectionError(error))),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), RemoteError> {
        self.ask(&format!("rename {from} to {to}"), |ftp| ftp.rename(from, to))
    }

    fn compare(&mut self, upload: &Upload<'_>) -> Result<Compared, RemoteError> {
        let step = format!("RETR {}", upload.name);
        let opened = self.data(|ftp| ftp.retr_as_stream(upload.name));
        let mut transfer = match opened {
            Ok(transfer) => transfer,
            Err(error) if refusal(&error).is_some_and(|code| matches!(code, 500..=504 | 532..=599)) => {
                return Ok(Compared::Unreadable);
            }
            Err(error) => return Err(self.failed(&step, &error)),
        };
        match self.adopt(&transfer).and_then(|()| same_bytes(&mut transfer, upload)) {
            Ok(true) => {}
            // Nothing more is wanted of this connection; without the cut the library waits for the end of the transfer.
            Ok(false) => {
                self.watch.cut();
                return Ok(Compared::Different);
            }
            Err(error) => {
                let error = self.failed(&step, &FtpError::ConnectionError(error));
                self.watch.cut();
                return Err(error);
            }
        }
        end_of_file(&mut transfer);
        transfer.finish().map_err(|error| self.failed(&step, &error))?;
        self.watch.keep(1);
        Ok(Compared::Same)
    }

    fn failure(&self, scope: Scope, step: &str, what: &str, remedy: &str) -> RemoteError {
        self.place().failure(scope, step, what, remedy)
    }
}

/// Data connections.
impl FtpSession {
    /// Opens a data connection for `command`. A server that cannot say its passive address in the old form is asked in the
    /// new one (RFC 2428).
    ///
    /// In active mode the library waits for the server without a socket that could be shut down; the wait is bounded by the
    /// deadline, but [`Remote::hurry`](crate::remote::Remote::hurry) does not shorten it.
    fn data(&mut self, command: impl Fn(&mut RustlsFtpStream) -> FtpResult<Transfer>) -> FtpResult<Transfer> {
        let timeout = self.settings.options.timeout;
        if self.mode == DataMode::Active
            && let Some(ftp) = self.ftp.take()
        {
            let limit = self.watch.remaining(Instant::now()).unwrap_or_default().min(timeout);
            self.ftp = Some(ftp.active_mode(limit));
        }
        let opened = self.with_ftp(&command);
        match &opened {
            Err(FtpError::UnexpectedResponse(reply)) if self.mode == DataMode::Passive => {
                let garbled = reply.status == Status::PassiveMode;
                if !garbled && !matches!(reply::code(&reply.body), Some(500..=504)) {
                    return opened;
                }
            }
            _ => return opened,
        }
        self.watch.keep(1);
        self.mode = DataMode::ExtendedPassive;
        self.with_ftp(|ftp| {
            ftp.set_mode(DataMode::ExtendedPassive);
            command(ftp)
        })
    }

    /// Puts the socket of an active data connection, which the library accepted, under watch and time-outs.
    fn adopt(&self, transfer: &Transfer) -> io::Result<()> {
        if self.mode != DataMode::Active {
            return Ok(());
        }
        let socket = transfer.get_ref().get_ref();
        self.watch.add(socket)?;
        socket::bound(socket, self.settings.options.timeout)
    }

    /// Ends a failed transfer so that the server's reason can still be read.
    fn abandon(&self, transfer: &Transfer) {
        let _ = transfer.get_ref().get_ref().shutdown(Shutdown::Both);
        if let Some(ftp) = &self.ftp {
            let _ = ftp.get_ref().set_read_timeout(Some(LAST_WORDS.min(self.settings.options.timeout)));
        }
    }
}

/// Why a file could not be sent.
enum SendError {
    Local(io::Error),
    Network(io::Error),
}

/// Sends exactly `upload.len` bytes.
fn send(transfer: &mut Transfer, upload: &Upload<'_>) -> Result<(), SendError> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < upload.len {
        let len = read_chunk(upload.file, &mut chunk, at, upload.len).map_err(SendError::Local)?;
        transfer.write_all(&chunk[..len]).map_err(SendError::Network)?;
        at += len as u64;
    }
    transfer.flush().map_err(SendError::Network)
}

/// Fills `chunk` from `at` on, to the end of the file at most.
fn read_chunk(file: &File, chunk: &mut [u8], at: u64, end: u64) -> io::Result<usize> {
    let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
    file.read_exact_at(&mut chunk[..len], at)?;
    Ok(len)
}

/// Says "end of file" on the data connection. Our watch holds a descriptor of it, so dropping the library's is not enough.
fn end_of_file(transfer: &mut Transfer) {
    // A failure shows in the server's reply.
    if let DataStream::Ssl(tunnel) = transfer.get_mut() {
        let tunnel = tunnel.mut_ref();
        tunnel.conn.send_close_notify();
        let _ = tunnel.flush();
    }
    let _ = transfer.get_ref().get_ref().shutdown(Shutdown::Write);
}

/// Compares what the server sends with the local file, to the end of both.
fn same_bytes(transfer: &mut Transfer, upload: &Upload<'_>) -> io::Result<bool> {
    let (mut theirs, mut ours) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let len = match transfer.read(&mut theirs) {
            // SIZE promised this many bytes: fewer are a broken transfer, not another file.
            Ok(0) if at < upload.len => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(true),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Some servers end a TLS data connection without a word; the length tells whether all has come.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && at == upload.len => return Ok(true),
            Err(error) => return Err(error),
        };
        if upload.len - at < len as u64 {
            return Ok(false);
        }
        upload.file.read_exact_at(&mut ours[..len], at)?;
        if theirs[..len] != ours[..len] {
            return Ok(false);
        }
        at += len as u64;
    }
}

/// Asking.
impl FtpSession {
    fn with_ftp<T>(&mut self, ask: impl FnOnce(&mut RustlsFtpStream) -> FtpResult<T>) -> FtpResult<T> {
        match &mut self.ftp {
            Some(ftp) => ask(ftp),
            None => Err(FtpError::ConnectionError(io::ErrorKind::NotConnected.into())),
        }
    }

    fn ask<T>(&mut self, step: &str, ask: impl FnOnce(&mut RustlsFtpStream) -> FtpResult<T>) -> Result<T, RemoteError> {
        self.with_ftp(ask).map_err(|error| self.failed(step, &error))
    }

    /// As [`Self::ask`], but a "no" of the server is an answer. A server that says good-bye (421) has not answered.
    fn ask_refusable(
        &mut self,
        step: &str,
        ask: impl FnOnce(&mut RustlsFtpStream) -> FtpResult<()>,
    ) -> Result<Result<(), u16>, RemoteError> {
        match self.with_ftp(ask) {
            Ok(()) => Ok(Ok(())),
            Err(error) => match refusal(&error) {
                Some(code) => Ok(Err(code)),
                None => Err(self.failed(step, &error)),
            },
        }
    }

    fn place(&self) -> Place<'_> {
        Place { options: &self.settings.options, opening: self.opening, is_cut: self.watch.is_cut() }
    }

    pub(super) fn failed(&self, step: &str, error: &FtpError) -> RemoteError {
        self.place().failed(step, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_level_by_level() {
        assert_eq!(levels("/data/areaA"), ["/data", "/data/areaA"]);
        assert_eq!(levels("a//b/"), ["a", "a/b"]);
        assert!(levels("/").is_empty());
    }
}
