//! FTP and explicit FTPS by suppaftp.
//!
//! A segment `NAME` goes up as `NAME.TOKEN.tmp` (the first ones as `….part`, see `delivery`), is checked by `SIZE` against the
//! local length and renamed. The token belongs to one data directory, so two probes that share a prefix and a server directory never write into one temp file. The order
//! of the steps is in `delivery`, the connection in `session`, the words of failures in `errors`.
//!
//! Promises:
//!  * `put` says `Ok` only after the server has confirmed all of the file, shown the temp name with the local length and
//!    confirmed the rename. Whoever takes it away then has had it whole.
//!  * A temp file of ours stands at most once for each segment, is renamed and not sent again when it is whole, and goes when
//!    its transfer was refused or its segment is gone.
//!  * The only things ever deleted are temp files that carry our token, and with [`Put::Direct`] what a broken transfer of ours
//!    left. A final name that exists is never replaced: it is either recognised as the same bytes, delivered by an attempt whose
//!    end was not seen, or it is an error for this file.
//!  * What makes progress is not cut ([`progress`]). Nothing else takes longer than its deadline plus a second, whatever the
//!    server does or leaves undone. [`Remote::hurry`] moves that deadline, but for one wait: in active mode, for a server that
//!    has said it will connect.
//!  * With TLS on, no login and no byte of a file is sent without it. The password is in no error text.
//!
//! What FTP cannot promise:
//!  * A rename that refuses to replace. Between the last look at the final name and the rename lies one round trip; another
//!    program that creates the same name in that moment is overwritten by most servers. Probes that share a directory should
//!    differ in `processor_file_prefix`; `{host}` does it.
//!  * With [`Put::Direct`], on servers without `SIZE`, more than the server's own word that it has all.
//!
//! On a server that lets nobody read (RETR is refused), a final name with the same length counts as the same file.
//!
//! After any error the connection is dropped: a late reply would be taken for the answer to the next command.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use suppaftp::{FtpError, Mode as DataMode, RustlsFtpStream};

use super::progress::{self, Line};
use super::socket::{self, Resolver};
pub use super::tls::TrustError;
use super::tls::{Trust, Versions};
use super::watchdog::Watchdog;
use super::{Remote, RemoteError, Scope, Session};
use crate::secret::Secret;

mod delivery;
mod errors;
mod session;

use delivery::{Memory, Server};
use errors::io_text;
use session::{FtpSession, Secured};

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

/// `processor_ftp_put`: how a file comes to its final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Put {
    /// Under a temp name first, checked by `SIZE`, then renamed: nobody sees a half file under the final name.
    #[default]
    Rename,
    /// Under the final name at once, for accounts that may neither rename nor look; checked by `SIZE` where the server has it,
    /// or else by the server's word that all has come.
    Direct,
}

/// `processor_ftp_charset`: how names are written to the server, and its words are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Charset {
    /// UTF-8, of which ASCII is a part.
    #[default]
    Utf8,
    /// GBK, as many servers on Chinese Windows have it.
    Gbk,
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
    /// How a file comes to its final name.
    pub put: Put,
    /// How names are written.
    pub charset: Charset,
}

impl Options {
    /// `HOST:PORT`, with brackets around an IPv6 address.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Times the time-out: for the commands around a transfer, which are waited for one after the other.
const COMMANDS: u32 = 3;

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
    /// The address that answered last.
    answered: Mutex<Option<SocketAddr>>,
}

/// What the sessions need, too, and what they learn.
#[derive(Debug)]
struct Settings {
    options: Options,
    token: String,
    memory: Memory,
    line: Line,
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
        let settings =
            Settings { options, token: token.to_owned(), memory: Memory::default(), line: Line::new(Instant::now()) };
        let settings = Arc::new(settings);
        Ok(Self {
            settings,
            dog,
            resolver: Resolver::default(),
            trust,
            only_tls13: AtomicBool::new(false),
            answered: Mutex::default(),
        })
    }
}

impl Remote for Ftp {
    fn open(&self, deadline: Instant) -> Result<Box<dyn Session>, RemoteError> {
        let mut session = self.connect(deadline.min(Instant::now() + self.settings.options.timeout * COMMANDS))?;
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
        let timeout = self.settings.options.timeout;
        timeout * COMMANDS + progress::longest(len, timeout)
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
            deadline,
            stored: None,
            made: Vec::new(),
        };
        let socket = self.dial(&session)?;
        session::pass_over_preludes(&socket)
            .map_err(|error| session.failed("greeting", &FtpError::ConnectionError(error)))?;
        let over_ipv6 = socket.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_ipv6());
        session.mode = match self.settings.options.mode {
            Mode::Active => DataMode::Active,
            Mode::Passive if over_ipv6 => DataMode::ExtendedPassive,
            Mode::Passive => DataMode::Passive,
        };
        let ftp = RustlsFtpStream::connect_with_stream(socket).map_err(|error| session.failed("greeting", &error))?;
        let (watch, timeout) = (Arc::clone(&session.watch), self.settings.options.timeout);
        let mut ftp = ftp.passive_stream_builder(move |address| {
            let data = socket::race(&[address], &watch, timeout);
            data.and_then(|data| socket::carry(&data, timeout).map(|()| data)).map_err(FtpError::ConnectionError)
        });
        ftp.set_passive_nat_workaround(true);
        ftp.set_mode(session.mode);
        if self.settings.options.charset == Charset::Gbk {
            ftp.set_encoding(session::Gbk);
        }
        session.ftp = Some(ftp);
        Ok(session)
    }

    /// The first address that answers; the one that did last time is asked first.
    fn dial(&self, session: &FtpSession) -> Result<TcpStream, RemoteError> {
        let options = &self.settings.options;
        let unreachable = |step: &str, error: io::Error| {
            let what = io_text(&error, options.timeout);
            session.failure(Scope::Server, step, &what, "check processor_ftp_host and the route")
        };
        let limit = session.watch.remaining(Instant::now()).unwrap_or_default().min(options.timeout);
        let addresses = self.resolver.resolve(&options.host, options.port, limit);
        let mut addresses = addresses.map_err(|error| unreachable("name look-up", error))?;
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.sort_by_key(|address| Some(*address) != answered);
        let socket = socket::race(&addresses, &session.watch, options.timeout);
        let socket = socket.map_err(|error| unreachable("connect", error))?;
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = socket.peer_addr().ok();
        Ok(socket)
    }
}
