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
//!  * It knows one answer to each command: `custom_command` takes the others that servers give, and they are listed here.
//!  * It changes the state of a connection by taking it and giving it back: hence the `Option` around it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use encoding_rs::GBK;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use suppaftp::types::FileType;
use suppaftp::{
    DataStream, Encoding, FtpError, FtpResult, Mode as DataMode, RustlsConnector, RustlsFtpStream, Status,
    TlsConnector, TlsStream, TransferStream,
};

use super::delivery::{self, Compared, Look, Pending, Refused, Server};
use super::errors::{Place, refusal, reply_code, said, tls_error};
use super::{COMMANDS, Options, Settings};
use crate::remote::progress::{Progress, Stalled};
use crate::remote::tls::{self, Trust, Versions};
use crate::remote::watchdog::Watch;
use crate::remote::{Delivered, RemoteError, Scope, Session, Upload, reply, socket};

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
    /// The end of what is under way, whatever its progress.
    pub(super) deadline: Instant,
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
    fn put(&mut self, upload: &Upload<'_>, deadline: Instant) -> Result<Delivered, RemoteError> {
        self.begin(deadline);
        let settings = Arc::clone(&self.settings);
        let delivered = delivery::deliver(self, &settings.memory, settings.options.put, upload);
        self.stored = match delivered {
            Ok(Delivered::Stands | Delivered::Told) => Some(upload.name.to_owned()),
            _ => None,
        };
        match delivered {
            Ok(_) => self.end(),
            Err(_) => self.watch.cut(),
        }
        delivered
    }

    fn tidy(&mut self, wanted: &dyn Fn(&str) -> bool, deadline: Instant) -> Result<(), RemoteError> {
        let settings = Arc::clone(&self.settings);
        for (name, len) in settings.memory.begun().iter().filter(|(name, _)| !wanted(name)) {
            self.begin(deadline);
            // What the server does not let go is not asked for again.
            delivery::clear(self, settings.options.put, (name, *len))?;
            settings.memory.forget(name);
        }
        self.end();
        Ok(())
    }

    fn take_back(&mut self, deadline: Instant) -> Result<(), RemoteError> {
        let Some(name) = self.stored.take() else { return Ok(()) };
        self.begin(deadline);
        self.ask(&format!("DELE {name}"), |ftp| ftp.rm(&name))?;
        self.end();
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
        let asks = [Status::NeedPassword, Status::LoggedIn];
        let answer = self.ask("login", |ftp| ftp.custom_command(format!("USER {user}"), &asks))?;
        if answer.status == Status::NeedPassword {
            // Some say that it was superfluous, or that they are ready.
            let done = [Status::LoggedIn, Status::CommandNotImplemented, Status::Ready];
            self.ask("login", |ftp| ftp.custom_command(format!("PASS {}", pass.reveal()), &done))?;
        }
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
            match self.with_ftp(|ftp| ftp.mkdir(&level)) {
                Err(error) if refusal(&error).is_some() => {}
                Err(error) if reply_code(&error) != Some(250) => return Err(self.failed("MKD", &error)),
                _ => self.made.push(level),
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

    fn size(&mut self, name: &str) -> Result<Look, RemoteError> {
        let error = match self.with_ftp(|ftp| ftp.custom_command(format!("SIZE {name}"), &[Status::File])) {
            Ok(reply) => match reply::number(&reply.body) {
                Some(len) => return Ok(Look::Len(len)),
                None => FtpError::BadResponse,
            },
            Err(error) => error,
        };
        // A name that speaks of permissions is no word of the server's.
        let words = said(&error, self.settings.options.charset).replace(name, "");
        match refusal(&error) {
            Some(500 | 502 | 504) => Ok(Look::Hidden),
            Some(501) if !reply::says_missing(&words) => Ok(Look::Hidden),
            Some(450 | 501 | 550 | 553) if reply::says_denied(&words) => Ok(Look::Hidden),
            Some(450 | 501 | 550 | 553) if reply::says_missing(&words) => Ok(Look::Missing),
            Some(450 | 501 | 550 | 553) => Ok(Look::Unseen),
            _ => Err(self.failed(&format!("SIZE {name}"), &error)),
        }
    }

    fn delete(&mut self, name: &str) -> Result<bool, RemoteError> {
        Ok(self.ask_refusable("DELE", |ftp| ftp.rm(name))?.is_ok())
    }

    fn store(&mut self, name: &str, upload: &Upload<'_>) -> Result<(), Refused> {
        let step = format!("STOR {name}");
        let mut transfer = self.data(|ftp| ftp.put_with_stream(name)).map_err(|error| {
            let refused = if refusal(&error).is_some() { Refused::AtOnce } else { Refused::Broken };
            refused(self.failed(&step, &error))
        })?;
        // From here on the progress is the limit.
        self.watch.arm(self.deadline);
        let sent = match self.adopt(&transfer) {
            Ok(()) => self.send(&mut transfer, upload),
            Err(error) => Err(SendError::Network(error)),
        };
        if sent.is_err() {
            let _ = transfer.get_ref().get_ref().shutdown(Shutdown::Both);
        }
        self.go_on();
        let finished = self.finish(transfer, sent.is_ok());
        Err(match (sent, finished) {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(SendError::Local(error)), finished) => {
                let what = format!("cannot read the local file: {error}");
                let error = self.failure(Scope::File, &step, &what, "check the disk of the data directory");
                let said = finished.as_ref().err().is_none_or(|error| refusal(error).is_some());
                if said { Refused::Said(error) } else { Refused::Broken(error) }
            }
            (Ok(()), Err(error)) if reply_code(&error) == Some(426) => {
                Refused::Doubted(self.failed(&format!("end of {step}"), &error))
            }
            (Ok(()), Err(error)) if refusal(&error).is_some() => {
                Refused::Said(self.failed(&format!("end of {step}"), &error))
            }
            (Ok(()), Err(error)) => Refused::Broken(self.failed(&format!("end of {step}"), &error)),
            // The server's word says more than the broken pipe.
            (Err(SendError::Network(_)), Err(error)) if refusal(&error).is_some() => {
                Refused::Said(self.failed(&step, &error))
            }
            (Err(SendError::Network(_)), Err(error @ FtpError::UnexpectedResponse(_))) => {
                Refused::Broken(self.failed(&step, &error))
            }
            (Err(SendError::Network(error)), _) => {
                Refused::Broken(self.failed(&step, &FtpError::ConnectionError(error)))
            }
        })
    }

    fn rename_from(&mut self, name: &str) -> Result<Pending, RemoteError> {
        let step = format!("rename {name}");
        let asked = self.with_ftp(|ftp| ftp.custom_command(format!("RNFR {name}"), &[Status::RequestFilePending]));
        let Err(error) = asked else { return Ok(Pending::Stands) };
        let failed = self.failed(&step, &error);
        if refusal(&error).is_none() {
            return Err(failed);
        }
        let words = said(&error, self.settings.options.charset).replace(name, "");
        let is_unknown = matches!(reply_code(&error), Some(500 | 502));
        Ok(match () {
            () if is_unknown || reply::says_denied(&words) => Pending::Denied(failed),
            () if reply::says_missing(&words) => Pending::Missing,
            () => Pending::Unclear(failed),
        })
    }

    fn rename_to(&mut self, name: &str) -> Result<(), Refused> {
        // Some servers end a rename as they end a transfer, or a command without effect.
        let done = [Status::RequestedFileActionOk, Status::CommandOk, Status::ClosingDataConnection];
        match self.with_ftp(|ftp| ftp.custom_command(format!("RNTO {name}"), &done)) {
            Ok(_) => Ok(()),
            Err(error) => {
                let refused = if refusal(&error).is_some() { Refused::Said } else { Refused::Broken };
                Err(refused(self.failed(&format!("rename to {name}"), &error)))
            }
        }
    }

    fn compare(&mut self, upload: &Upload<'_>, len: u64) -> Result<Compared, RemoteError> {
        let step = format!("RETR {}", upload.name);
        let opened = self.data(|ftp| ftp.retr_as_stream(upload.name));
        let mut transfer = match opened {
            Ok(transfer) => transfer,
            Err(error) if refusal(&error).is_some_and(|code| matches!(code, 500..=504 | 532..=599)) => {
                return Ok(Compared::Unreadable);
            }
            Err(error) => return Err(self.failed(&step, &error)),
        };
        self.watch.arm(self.deadline);
        let mut progress = Progress::new(&self.settings.line, self.settings.options.timeout, Instant::now());
        match self.adopt(&transfer).and_then(|()| same_bytes(&mut transfer, upload, len, &mut progress)) {
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
        self.go_on();
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
        socket::bound(socket, self.settings.options.timeout)?;
        socket::carry(socket, self.settings.options.timeout)
    }

    /// Sends exactly `upload.len` bytes and the end of the stream, and waits until the server's machine has acknowledged them
    /// all: only then does the wait for the reply begin.
    fn send(&self, transfer: &mut Transfer, upload: &Upload<'_>) -> Result<(), SendError> {
        let mut progress = Progress::new(&self.settings.line, self.settings.options.timeout, Instant::now());
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        while at < upload.len {
            let len = read_chunk(upload.file, &mut chunk, at, upload.len).map_err(SendError::Local)?;
            let mut written = 0;
            while written < len {
                written += or_stalled(transfer.write(&chunk[written..len]))?;
                look(transfer, &mut progress, at + written as u64)?;
            }
            at += len as u64;
        }
        while let Err(error) = transfer.flush() {
            or_stalled(Err(error))?;
            look(transfer, &mut progress, at)?;
        }
        end_of_file(transfer);
        while look(transfer, &mut progress, at)? > 0 && !self.has_word() {}
        Ok(())
    }

    /// Waits a moment for the server's word; true when there is one, or the connection has ended.
    fn has_word(&self) -> bool {
        let Some(ftp) = &self.ftp else { return true };
        let control = ftp.get_ref();
        let mut polled = [PollFd::new(&*control, PollFlags::IN)];
        let limit = Timespec::try_from(socket::STEP.min(self.settings.options.timeout / 4)).ok();
        !matches!(poll(&mut polled, limit.as_ref()), Ok(0) | Err(Errno::INTR))
    }

    /// Ends the transfer and reads the server's last word on it. After a whole transfer the server may have to write what its
    /// kernel has taken, so it gets the time of several commands; after a failed one only a moment to say why.
    fn finish(&self, transfer: Transfer, whole: bool) -> FtpResult<()> {
        let timeout = self.settings.options.timeout;
        let wait = |limit: Duration| {
            let waits = self.ftp.as_ref().map_or(Ok(()), |ftp| ftp.get_ref().set_read_timeout(Some(limit)));
            waits.map_err(FtpError::ConnectionError)
        };
        wait(if whole { timeout * COMMANDS } else { LAST_WORDS.min(timeout) })?;
        let finished = transfer.finish();
        self.watch.keep(1);
        wait(timeout)?;
        finished
    }
}

/// Names in GBK.
#[derive(Debug)]
pub(super) struct Gbk;

impl Encoding for Gbk {
    fn decode(&self, bytes: &[u8]) -> String {
        GBK.decode_without_bom_handling(bytes).0.into_owned()
    }

    fn encode(&self, text: &str) -> io::Result<Vec<u8>> {
        match GBK.encode(text) {
            (bytes, _, false) => Ok(bytes.into_owned()),
            (_, _, true) => Err(io::Error::new(io::ErrorKind::InvalidInput, "the name cannot be written in GBK")),
        }
    }
}

/// Why a file could not be sent.
enum SendError {
    Local(io::Error),
    Network(io::Error),
}

/// A write that only waited is no error; it wrote nothing.
fn or_stalled(written: io::Result<usize>) -> Result<usize, SendError> {
    match written {
        Ok(0) => Err(SendError::Network(io::ErrorKind::WriteZero.into())),
        Ok(written) => Ok(written),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                if error.raw_os_error() != Some(Errno::TIMEDOUT.raw_os_error()) =>
            {
                Ok(0)
            }
            _ => Err(SendError::Network(error)),
        },
    }
}

/// Looks how much of what was `written` has arrived; returns how much has not.
fn look(transfer: &Transfer, progress: &mut Progress<'_>, written: u64) -> Result<u64, SendError> {
    let under_way = socket::unacknowledged(transfer.get_ref().get_ref()).map_err(SendError::Network)?;
    match progress.see(written.saturating_sub(under_way), Instant::now()) {
        Ok(()) => Ok(under_way),
        Err(Stalled) => Err(SendError::Network(io::ErrorKind::TimedOut.into())),
    }
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

/// Compares what the server sends with the first `end` bytes of the local file, to the end of both.
fn same_bytes(transfer: &mut Transfer, upload: &Upload<'_>, end: u64, progress: &mut Progress<'_>) -> io::Result<bool> {
    let (mut theirs, mut ours) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let len = match transfer.read(&mut theirs) {
            // SIZE promised this many bytes: fewer are a broken transfer, not another file.
            Ok(0) if at < end => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(true),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Some servers end a TLS data connection without a word; the length tells whether all has come.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && at == end => return Ok(true),
            Err(error) => return Err(error),
        };
        if end - at < len as u64 {
            return Ok(false);
        }
        upload.file.read_exact_at(&mut ours[..len], at)?;
        if theirs[..len] != ours[..len] {
            return Ok(false);
        }
        at += len as u64;
        progress.see(at, Instant::now()).map_err(|Stalled| io::ErrorKind::TimedOut)?;
    }
}

/// Reads away what may come before the greeting proper, which is all that the library wants: "ready in a few minutes" (120;
/// RFC 959, 5.4), and options of Telnet (three bytes from 255 on; RFC 854).
pub(super) fn pass_over_preludes(socket: &TcpStream) -> io::Result<()> {
    loop {
        let mut head = [0; 4];
        let (seen, _) = recv(socket, &mut head, RecvFlags::PEEK | RecvFlags::WAITALL)?;
        let mut byte = [0];
        match head {
            _ if seen < head.len() => return Ok(()),
            [0xFF, ..] => {
                recv(socket, &mut [0; 3], RecvFlags::WAITALL)?;
            }
            [b'1', b'2', b'0', b' '] => while recv(socket, &mut byte, RecvFlags::empty())?.0 == 1 && byte != *b"\n" {},
            _ => return Ok(()),
        }
    }
}

/// Time.
impl FtpSession {
    /// Something begins that must be over by `deadline`.
    fn begin(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.go_on();
    }

    /// Commands and their replies come next: however they drip, they get [`COMMANDS`] time-outs.
    fn go_on(&self) {
        let limit = Instant::now() + self.settings.options.timeout * COMMANDS;
        self.watch.arm(limit.min(self.deadline));
    }

    /// It is done.
    fn end(&self) {
        self.watch.keep(1);
        self.watch.rest();
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
