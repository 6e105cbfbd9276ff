//! Where sealed segments go: the trait that FTP and a local directory share.
//!
//! A remote never touches the spool; it reads an open file and reports. It never deletes or overwrites what this program
//! did not write.

use std::fs::File;
use std::time::Instant;

pub mod dir;
pub mod ftp;
mod progress;
pub mod reply;
pub mod retry;
mod socket;
mod tls;
pub mod watchdog;

/// One sealed segment, open for reading.
#[derive(Debug)]
pub struct Upload<'a> {
    /// The final name, without a path.
    pub name: &'a str,
    /// The file, at its start.
    pub file: &'a File,
    /// Its length in bytes.
    pub len: u64,
}

/// How a segment was delivered. Whatever it is, the local file may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It stands there under its final name, with our length.
    Stands,
    /// The same, by an earlier attempt whose end was not seen.
    Before,
    /// The far end had it whole, and took it away before it could be looked at again.
    Taken,
    /// The far end says that it has it, and shows nothing.
    Told,
}

/// What a failed attempt means for the rest of the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This file only: the server refused it; the session may go on with the next file after a fresh connection.
    File,
    /// The connection: a time-out, a closed or garbled connection. One fresh connection may be tried in the same pass.
    Connection,
    /// The server as a whole: no route, login refused (530), certificate refused. The pass ends; back-off follows.
    Server,
}

/// A failed attempt. The text names the address, the step, the server's reply and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct RemoteError {
    /// What it means for the pass.
    pub scope: Scope,
    /// Login was refused: retries must be slow, because servers lock accounts out.
    pub refused_login: bool,
    /// One line for the operator, without secrets.
    pub text: String,
}

/// A kind of server. Shared by the upload threads; holds settings, no connection.
pub trait Remote: Send + Sync {
    /// Opens a session: connected, logged in, in the target directory (made when missing), ready to put.
    ///
    /// Called by an upload thread at the start of a pass and after any error. Returns by `deadline` plus one second at
    /// the latest, whatever the server does.
    ///
    /// # Errors
    ///
    /// The server cannot be reached in time, or refuses; nothing is left open.
    fn open(&self, deadline: Instant) -> Result<Box<dyn Session>, RemoteError>;

    /// From now on nothing may take longer than until `deadline`; attempts under way are cut then.
    ///
    /// Called from another thread, once, when the program is told to stop.
    fn hurry(&self, deadline: Instant);

    /// The address for messages: `10.0.0.10:21`.
    fn address(&self) -> String;

    /// The longest time that a put of `len` bytes may take in all, at the slowest progress that is progress. With a length of
    /// 0 also the longest that opening may take.
    fn allowance(&self, len: u64) -> std::time::Duration;
}

/// One live connection, used by one thread for one pass.
pub trait Session {
    /// Puts one segment under its final name: temp name, length check, rename.
    ///
    /// `Ok`: the server has the whole file, or has had it; only now may the local file go.
    /// `Err`: nothing is known; the session is spent and must be dropped. The attempt may be repeated with a fresh
    /// session: a put that in truth succeeded is recognised then by name and length.
    /// Returns by `deadline` plus one second at the latest.
    ///
    /// # Errors
    ///
    /// The connection broke, the server refused, or the time was over; see `Err` above.
    fn put(&mut self, upload: &Upload<'_>, deadline: Instant) -> Result<Delivered, RemoteError>;

    /// Removes what broken transfers may have left on the server of segments that are gone here: `wanted` says of a name
    /// whether the segment is still to be put. Called by an upload thread after opening. Returns by `deadline` plus one second
    /// at the latest.
    ///
    /// # Errors
    ///
    /// The connection broke, or the time was over; the session is spent.
    fn tidy(&mut self, wanted: &dyn Fn(&str) -> bool, deadline: Instant) -> Result<(), RemoteError> {
        let _ = (wanted, deadline);
        Ok(())
    }

    /// Removes again what this session put last; nothing else can be named. For `processor check -connect` alone, whose test
    /// file must not stay. After `Err` the session is spent. Returns by `deadline` plus one second at the latest.
    ///
    /// # Errors
    ///
    /// As of [`Session::put`]; the file may be there or not.
    fn take_back(&mut self, deadline: Instant) -> Result<(), RemoteError>;

    /// The levels of the target directory that opening had to make. For `processor check -connect` alone.
    fn made(&self) -> &[String] {
        &[]
    }

    /// Ends the session politely, within a second. Its failure means nothing.
    fn close(self: Box<Self>);
}
