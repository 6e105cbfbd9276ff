//! FTP and explicit FTPS by suppaftp.

use std::path::PathBuf;
use std::time::Duration;

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
