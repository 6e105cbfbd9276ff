//! FTP and explicit FTPS by suppaftp.
//!
//! A segment `NAME` goes up as `NAME.TOKEN.tmp`, is checked by `SIZE` against the local length and renamed. The token belongs
//! to one data directory, so two probes that share a prefix and a server directory never write into one temp file.
//!
//! Promises:
//!  * `put` says `Ok` only after the server has shown the final name with the local length.
//!  * The only things ever deleted are temp files that carry our token. A final name that exists is never replaced: it is
//!    either recognised as the same bytes, delivered by an attempt whose end was not seen, or it is an error for this file.
//!  * Nothing takes longer than its deadline plus a second, whatever the server does or leaves undone. [`Remote::hurry`] moves
//!    that deadline, but for one wait: in active mode, for a server that has said it will connect.
//!  * With TLS on, no login and no byte of a file is sent without it. The password is in no error text.
//!
//! What FTP cannot promise: a rename that refuses to replace. Between the last look at the final name and the rename lies
//! one round trip; another program that creates the same name in that moment is overwritten by most servers. Probes that
//! share a directory should differ in `processor_file_prefix`; `{host}` does it.
//!
//! On a server that lets nobody read (RETR is refused), a final name with the same length counts as the same file.
//!
//! After any error the connection is dropped: a late reply would be taken for the answer to the next command.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use suppaftp::types::FileType;
use suppaftp::{
    DataStream, FtpError, FtpResult, Mode as DataMode, RustlsConnector, RustlsFtpStream, Status, TlsConnector,
    TlsStream, TransferStream,
};

use super::reply;
use super::socket::{self, Resolver};
pub use super::tls::TrustError;
use super::tls::{self, Trust, Versions};
use super::watchdog::{Watch, Watchdog};
use super::{Remote, RemoteError, Scope, Session, Upload};
use crate::secret::Secret;

/// `processor_ftp_tls`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tls {
    /// Plain FTP.
    #[default]
    Off,
    /// AUTH TLS before login; never falls back to plain. `ca` is a PEM file; `None` is the system's roots.
    Explicit {
        /// `processor_ftp_tls_ca`.
        ca: Option<PathBuf>,
    },
}

impl Tls {
    /// Whether there are certificates to trust in, where they are needed.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has none; the system has none.
    pub fn test(&self) -> Result<(), TrustError> {
        match self {
            Self::Off => Ok(()),
            Self::Explicit { ca } => Trust::load(ca.as_deref()).map(drop),
        }
    }
}

/// `processor_ftp_mode`: who opens the data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The client.
    #[default]
    Passive,
    /// The server.
    Active,
}

/// Settings of the FTP remote.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host name or address.
    pub host: String,
    /// Control port.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// Password.
    pub pass: Secret,
    /// Target directory, made when missing.
    pub dir: String,
    /// Time without progress before a transfer is given up.
    pub timeout: Duration,
    /// Encryption.
    pub tls: Tls,
    /// Who opens the data connection.
    pub mode: Mode,
}

impl Options {
    /// `HOST:PORT`, with brackets around an IPv6 address.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The slowest link that still drains a queue of segments usefully, bytes per second (64 kbit/s). Only the overall limit
/// of a transfer is made from it.
const SLOWEST: u64 = 8 * 1024;
/// Times the time-out: for the commands around a transfer, which are waited for one after the other.
const COMMANDS: u32 = 3;
/// One read of the local file and one write to the network, bytes.
const CHUNK: usize = 128 * 1024;
/// Temp names tried for one segment when the server lets us neither delete nor replace our own old ones.
const TEMP_NAMES: usize = 10;
/// After a failed transfer, how long to wait for the reply that says why.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a polite end may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// One data connection, plain or in TLS.
type Transfer = TransferStream<<RustlsConnector as TlsConnector>::Stream>;

/// The FTP remote could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The trusted roots.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// No thread for the watchdog.
    #[error("cannot start the thread that watches FTP connections: {0}")]
    Thread(io::Error),
}

/// An FTP server, as the configuration describes it.
#[derive(Debug)]
pub struct Ftp {
    settings: Arc<Settings>,
    dog: Watchdog,
    resolver: Resolver,
    trust: Option<Trust>,
    /// Learnt at the first connection: the server has given up TLS 1.2.
    only_tls13: AtomicBool,
}

/// What the sessions need, too.
#[derive(Debug)]
struct Settings {
    options: Options,
    token: String,
}

impl Ftp {
    /// Reads the trusted roots and starts the watchdog; connects to nothing.
    ///
    /// `token` marks our temp names; it must belong to the data directory, stay the same over restarts, and consist of
    /// letters and digits.
    ///
    /// # Errors
    ///
    /// The trusted roots cannot be read, or the system has no thread left.
    pub fn new(options: Options, token: &str) -> Result<Self, SetupError> {
        let trust = match &options.tls {
            Tls::Off => None,
            Tls::Explicit { ca } => Some(Trust::load(ca.as_deref())?),
        };
        let dog = Watchdog::start().map_err(SetupError::Thread)?;
        let settings = Arc::new(Settings { options, token: token.to_owned() });
        Ok(Self { settings, dog, resolver: Resolver::default(), trust, only_tls13: AtomicBool::new(false) })
    }
}

impl Remote for Ftp {
    fn open(&self, deadline: Instant) -> Result<Box<dyn Session>, RemoteError> {
        let mut session = self.connect(deadline)?;
        session.prepare()?;
        session.watch.rest();
        Ok(Box::new(session))
    }

    fn hurry(&self, deadline: Instant) {
        self.dog.hurry(deadline);
    }

    fn address(&self) -> String {
        self.settings.options.address()
    }

    fn allowance(&self, len: u64) -> Duration {
        self.settings.options.timeout * COMMANDS + Duration::from_secs(len / SLOWEST)
    }
}

impl Ftp {
    /// A connection, in TLS when that is configured. A server that refuses the version of TLS is asked once more with the
    /// other one; the one that works is remembered.
    fn connect(&self, deadline: Instant) -> Result<FtpSession, RemoteError> {
        let Some(trust) = &self.trust else { return self.greet(deadline) };
        let first = if self.only_tls13.load(Ordering::Relaxed) { Versions::Only13 } else { Versions::Only12 };
        let mut session = self.greet(deadline)?;
        match session.secure(trust, first)? {
            Secured::Yes => return Ok(session),
            Secured::OtherVersion => drop(session),
        }
        let mut session = self.greet(deadline)?;
        match session.secure(trust, first.other())? {
            Secured::Yes => {
                self.only_tls13.store(first.other() == Versions::Only13, Ordering::Relaxed);
                Ok(session)
            }
            Secured::OtherVersion => {
                let what = "the server accepts neither TLS 1.2 nor TLS 1.3 as they are offered here";
                Err(session.failure(Scope::Server, "AUTH TLS", what, "update the server"))
            }
        }
    }

    /// Connects and reads the greeting.
    fn greet(&self, deadline: Instant) -> Result<FtpSession, RemoteError> {
        let watch = Arc::new(self.dog.watch());
        watch.arm(deadline);
        let mut session = FtpSession {
            settings: Arc::clone(&self.settings),
            watch,
            ftp: None,
            mode: DataMode::Passive,
            opening: true,
            stored: None,
            made: Vec::new(),
        };
        let socket = self.dial(&session)?;
        let over_ipv6 = socket.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_ipv6());
        session.mode = match self.settings.options.mode {
            Mode::Active => DataMode::Active,
            Mode::Passive if over_ipv6 => DataMode::ExtendedPassive,
            Mode::Passive => DataMode::Passive,
        };
        let ftp = RustlsFtpStream::connect_with_stream(socket).map_err(|error| session.failed("greeting", &error))?;
        let (watch, timeout) = (Arc::clone(&session.watch), self.settings.options.timeout);
        let mut ftp = ftp.passive_stream_builder(move |address| {
            socket::dial(address, &watch, timeout).map_err(FtpError::ConnectionError)
        });
        ftp.set_passive_nat_workaround(true);
        ftp.set_mode(session.mode);
        session.ftp = Some(ftp);
        Ok(session)
    }

    /// The first address that answers.
    fn dial(&self, session: &FtpSession) -> Result<TcpStream, RemoteError> {
        let options = &self.settings.options;
        let unreachable = |step: &str, error: io::Error| {
            session.failure(
                Scope::Server,
                step,
                &io_text(&error, options.timeout),
                "check processor_ftp_host and the route",
            )
        };
        let left = |watch: &Watch| watch.remaining(Instant::now()).unwrap_or_default();
        let limit = left(&session.watch).min(options.timeout);
        let addresses = self.resolver.resolve(&options.host, options.port, limit);
        let addresses = addresses.map_err(|error| unreachable("name look-up", error))?;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for (tried, address) in addresses.iter().enumerate() {
            let share = left(&session.watch) / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match socket::dial(*address, &session.watch, options.timeout.min(share)) {
                Ok(socket) => {
                    // The share was the limit for connecting only.
                    socket::bound(&socket, options.timeout).map_err(|error| unreachable("connect", error))?;
                    return Ok(socket);
                }
                Err(error) => last = error,
            }
            session.watch.keep(0);
        }
        Err(unreachable("connect", last))
    }
}

/// One control connection.
struct FtpSession {
    settings: Arc<Settings>,
    watch: Arc<Watch>,
    /// `None` only before the greeting and after the farewell.
    ftp: Option<RustlsFtpStream>,
    mode: DataMode,
    opening: bool,
    /// What this session stored last.
    stored: Option<String>,
    /// Levels of the target directory that it made.
    made: Vec<String>,
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
        let delivered = self.deliver(upload);
        match delivered {
            Ok(()) => {
                self.watch.keep(1);
                self.watch.rest();
            }
            Err(_) => self.watch.cut(),
        }
        delivered
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
enum Secured {
    Yes,
    /// The server does not speak the version of TLS that was offered.
    OtherVersion,
}

/// Opening: from the greeting to the target directory.
impl FtpSession {
    fn secure(&mut self, trust: &Trust, versions: Versions) -> Result<Secured, RemoteError> {
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

    fn prepare(&mut self) -> Result<(), RemoteError> {
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

/// One segment.
impl FtpSession {
    fn deliver(&mut self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        match self.size(upload.name)? {
            None => {}
            Some(len) if len == upload.len => return self.recognise(upload),
            Some(len) => return Err(self.taken(upload, len)),
        }
        let temp = self.free_temp_name(upload.name)?;
        self.store(&temp, upload)?;
        let stored = self.size(&temp)?;
        if stored != Some(upload.len) {
            let what = match stored {
                Some(stored) => format!("the server has {stored} bytes of {}", upload.len),
                None => "the server says it is stored, but does not show it".into(),
            };
            return Err(self.failure(Scope::File, &format!("SIZE {temp}"), &what, "it is sent again at the next pass"));
        }
        // Somebody may have made the name while we were sending.
        if let Some(len) = self.size(upload.name)? {
            return Err(self.taken(upload, len));
        }
        self.ask(&format!("rename {temp} to {}", upload.name), |ftp| ftp.rename(temp.as_str(), upload.name))?;
        match self.size(upload.name)? {
            Some(len) if len == upload.len => {
                self.stored = Some(upload.name.to_owned());
                Ok(())
            }
            _ => Err(self.failure(
                Scope::File,
                &format!("rename to {}", upload.name),
                "the server says it is done, but does not show the file",
                "it is sent again at the next pass",
            )),
        }
    }

    /// The final name exists with our length: is it this segment, delivered by an attempt whose end was not seen?
    ///
    /// The bytes decide. Where reading is refused, as on servers that only take files, name and length must do.
    fn recognise(&mut self, upload: &Upload<'_>) -> Result<(), RemoteError> {
        let step = format!("RETR {}", upload.name);
        let opened = self.data(|ftp| ftp.retr_as_stream(upload.name));
        let mut transfer = match opened {
            Ok(transfer) => transfer,
            Err(error) if refusal(&error).is_some_and(|code| matches!(code, 500..=504 | 532..=599)) => return Ok(()),
            Err(error) => return Err(self.failed(&step, &error)),
        };
        let compared = self.adopt(&transfer).and_then(|()| same_bytes(&mut transfer, upload));
        if !matches!(compared, Ok(true)) {
            // Nothing more is wanted of this connection; without it the library waits for the end of the transfer.
            let error = match compared {
                Ok(_) => self.taken(upload, upload.len),
                Err(error) => self.failed(&step, &FtpError::ConnectionError(error)),
            };
            self.watch.cut();
            return Err(error);
        }
        end_of_file(&mut transfer);
        transfer.finish().map_err(|error| self.failed(&step, &error))?;
        self.watch.keep(1);
        Ok(())
    }

    /// A temp name of ours that does not exist on the server. What an earlier attempt left under it is deleted.
    fn free_temp_name(&mut self, name: &str) -> Result<String, RemoteError> {
        for index in 0..TEMP_NAMES {
            let temp = temp_name(name, &self.settings.token, index);
            if self.size(&temp)?.is_none() || self.ask_refusable("DELE", |ftp| ftp.rm(&temp))?.is_ok() {
                return Ok(temp);
            }
        }
        let step = format!("DELE {}", temp_name(name, &self.settings.token, 0));
        Err(self.failure(
            Scope::File,
            &step,
            "leftovers of broken transfers cannot be removed",
            &format!("remove {name}.{}*.tmp on the server, or let the user delete files", self.settings.token),
        ))
    }

    /// Sends the file to `temp` and waits for the server's word that it is complete.
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

    /// Opens a data connection for `command`. In active mode the library waits for the server without a socket that could be
    /// shut down; the wait is bounded by the deadline, but [`Remote::hurry`] does not shorten it. A server that cannot say its passive address in the old form is asked in the
    /// new one (RFC 2428).
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

    /// The length of `name` on the server; `None` when the server shows no such file.
    fn size(&mut self, name: &str) -> Result<Option<u64>, RemoteError> {
        let step = format!("SIZE {name}");
        match self.with_ftp(|ftp| ftp.size(name)) {
            Ok(len) => Ok(Some(len as u64)),
            Err(error) => match refusal(&error) {
                Some(450 | 550 | 553) => Ok(None),
                Some(500..=504) => {
                    let what = self.words(&error);
                    let remedy = "without SIZE no upload can be verified; use a server that has it (RFC 3659)";
                    Err(self.failure(Scope::Server, &step, &what, remedy))
                }
                _ => Err(self.failed(&step, &error)),
            },
        }
    }

    fn taken(&self, upload: &Upload<'_>, len: u64) -> RemoteError {
        let what = format!("the server has another file of this name, {len} bytes; this one has {}", upload.len);
        let remedy =
            "nothing is overwritten; give every probe its own processor_file_prefix ({host}), or move that file away";
        self.failure(Scope::File, upload.name, &what, remedy)
    }
}

/// `NAME.TOKEN.tmp`, `NAME.TOKEN-1.tmp`…
fn temp_name(name: &str, token: &str, index: usize) -> String {
    if index == 0 { format!("{name}.{token}.tmp") } else { format!("{name}.{token}-{index}.tmp") }
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

/// Asking, and what errors mean.
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

    /// What `error` at `step` means for the pass, in words.
    fn failed(&self, step: &str, error: &FtpError) -> RemoteError {
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

    fn failure(&self, scope: Scope, step: &str, what: &str, remedy: &str) -> RemoteError {
        let address = self.settings.options.address();
        let gap = if remedy.is_empty() { "" } else { "; " };
        RemoteError { scope, refused_login: false, text: format!("{address}: {step}: {what}{gap}{remedy}") }
    }

    fn words(&self, error: &FtpError) -> String {
        let options = &self.settings.options;
        match error {
            FtpError::UnexpectedResponse(reply) => reply::quote(&reply.body, &options.pass),
            FtpError::BadResponse => "the reply is not FTP".into(),
            FtpError::ConnectionError(_) if self.watch.is_cut() => "not done by its deadline".into(),
            FtpError::ConnectionError(io) => match tls_error(error) {
                Some(tls) => tls::explain(tls, &options.host),
                None => io_text(io, options.timeout),
            },
            other => options.pass.mask(&other.to_string()),
        }
    }

    fn remedy(&self, step: &str, code: Option<u16>) -> &'static str {
        let passive = self.settings.options.mode == Mode::Passive;
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
fn refusal(error: &FtpError) -> Option<u16> {
    reply_code(error).filter(|code| (400..=599).contains(code) && *code != 421)
}

fn reply_code(error: &FtpError) -> Option<u16> {
    match error {
        FtpError::UnexpectedResponse(reply) => reply::code(&reply.body),
        _ => None,
    }
}

/// The TLS library's error, where that is the cause.
fn tls_error(error: &FtpError) -> Option<&rustls::Error> {
    match error {
        FtpError::ConnectionError(io) => io.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// An I/O error as an operator reads it. Socket time-outs come as `WouldBlock`.
fn io_text(error: &io::Error, timeout: Duration) -> String {
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
    use super::*;

    #[test]
    fn directories_are_made_level_by_level() {
        assert_eq!(levels("/data/areaA"), ["/data", "/data/areaA"]);
        assert_eq!(levels("a//b/"), ["a", "a/b"]);
        assert!(levels("/").is_empty());
    }

    #[test]
    fn temp_names_are_ours() {
        assert_eq!(temp_name("f_1.csv.gz", "0badcafe", 0), "f_1.csv.gz.0badcafe.tmp");
        assert_eq!(temp_name("f_1.csv.gz", "0badcafe", 3), "f_1.csv.gz.0badcafe-3.tmp");
    }
}
