//! One session's way through a pass, and what the sessions of a pass share.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Uploader;
use super::feed::{Feed, Memory};
use crate::clock;
use crate::log::{Event, Log};
use crate::remote::retry::Trouble;
use crate::remote::{Delivered, Remote, RemoteError, Scope, Session, Upload};
use crate::spool::queue::{Queue, Sealed};
use crate::stats::Stats;

/// Refusals in a row, none delivered between them, after which the pass ends: each costs the server a fresh login, and a
/// server that refuses so many refuses the rest as well. The refused come last in the next pass, so no file is cut off by
/// them for good.
const REFUSALS: u32 = 16;

/// What the lanes of a pass share.
pub(super) struct Pass {
    remote: Arc<dyn Remote>,
    queue: Arc<Queue>,
    stats: Arc<Stats>,
    log: Log,
    memory: Arc<Memory>,
    feed: Mutex<Feed>,
    refusals: AtomicU32,
    ended: AtomicBool,
    result: Mutex<(Option<PassEnd>, Tally)>,
}

/// How a pass came to its end.
#[derive(Debug, Clone)]
pub(super) enum PassEnd {
    /// Every file that waited was tried.
    Whole,
    /// The rest was left for a later pass.
    Trouble {
        /// Decides how long to wait.
        trouble: Trouble,
        /// One line for the operator.
        text: String,
    },
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) failed: u64,
}

impl Pass {
    pub(super) fn new(uploader: &Uploader, memory: Arc<Memory>) -> Self {
        Self {
            remote: Arc::clone(&uploader.remote),
            queue: Arc::clone(&uploader.queue),
            stats: Arc::clone(&uploader.stats),
            log: uploader.log.clone(),
            feed: Mutex::new(Feed::new(&memory)),
            memory,
            refusals: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            result: Mutex::default(),
        }
    }

    /// Ends the pass for all lanes; each finishes the file in its hands. The first cause stays.
    pub(super) fn end(&self, trouble: Trouble, text: String) {
        self.ended.store(true, Relaxed);
        self.result().0.get_or_insert(PassEnd::Trouble { trouble, text });
    }

    /// How it ended, and what was done. Also ends it for lanes that still hang.
    pub(super) fn finish(&self) -> (PassEnd, Tally) {
        self.ended.store(true, Relaxed);
        let result = self.result();
        (result.0.clone().unwrap_or(PassEnd::Whole), result.1)
    }

    fn result(&self) -> MutexGuard<'_, (Option<PassEnd>, Tally)> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Sealed> {
        if self.ended.load(Relaxed) {
            return None;
        }
        let next = self.feed.lock().unwrap_or_else(PoisonError::into_inner).next(&self.queue, &self.memory);
        next.unwrap_or_else(|error| {
            self.end(Trouble::Unreachable, format!("cannot list the data directory: {error}"));
            None
        })
    }

    /// The server has `sealed`: the local file goes.
    fn delivered(&self, sealed: &Sealed, len: u64, begun: Instant, how: Delivered) {
        self.refusals.store(0, Relaxed);
        self.stats.uploaded_files.add(1);
        self.stats.uploaded_bytes.add(len);
        self.stats.upload_durations.observe(begun.elapsed());
        self.stats.last_upload.set(u64::try_from(clock::now().timestamp()).unwrap_or(0));
        {
            let tally = &mut self.result().1;
            tally.files += 1;
            tally.bytes += len;
        }
        self.memory.delivered(&sealed.name);
        if self.remove(sealed) {
            self.log.event(Event::Uploaded { name: sealed.name.clone(), bytes: len, duration: begun.elapsed() });
        }
        if how == Delivered::Taken {
            self.stats.taken_files.add(1);
            self.log.event(Event::UploadTaken { name: sealed.name.clone() });
        }
    }

    fn remove(&self, sealed: &Sealed) -> bool {
        match self.queue.remove(sealed) {
            Ok(()) => {
                self.memory.forget(&sealed.name);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.memory.forget(&sealed.name);
                true
            }
            Err(error) => {
                self.failed(sealed, format!("it is on the server, but cannot be removed here: {error}"));
                false
            }
        }
    }

    /// One event, one count, last place in the next pass.
    fn failed(&self, sealed: &Sealed, error: String) {
        self.stats.upload_failures.add(1);
        self.result().1.failed += 1;
        self.log.event(Event::UploadFailed { name: sealed.name.clone(), error });
    }
}

/// Works through the pass with one session. `opened` is called when the first session is open.
///
/// The `first` lane opens its session when there is a file to send, and its failure is the pass's. The other lanes give up
/// quietly when the server does not want them.
pub(super) fn run(pass: &Pass, first: bool, opened: impl FnOnce()) {
    let mut lane = Lane { pass, session: None, delivered: 0, reconnected: false };
    if !first {
        match lane.open() {
            Ok(session) => lane.session = Some(session),
            Err(error) => {
                tracing::debug!("no further connection: {error}");
                return;
            }
        }
    }
    let mut opened = Some(opened);
    while let Some(sealed) = pass.next() {
        lane.deliver(&sealed, &mut || {
            if let Some(opened) = opened.take() {
                opened();
            }
        });
    }
    if let Some(session) = lane.session {
        session.close();
    }
}

struct Lane<'a> {
    pass: &'a Pass,
    session: Option<Box<dyn Session>>,
    /// Files delivered since the session was opened.
    delivered: u64,
    /// The one fresh connection of this pass was used up.
    reconnected: bool,
}

/// Why an attempt did not deliver.
enum Failure {
    /// No session.
    Open(RemoteError),
    /// The session broke, or the server refused the file.
    Put(RemoteError),
}

impl Lane<'_> {
    /// A session, with nothing left on the server of segments that are gone here: they take room that others need.
    fn open(&self) -> Result<Box<dyn Session>, RemoteError> {
        let Pass { remote, queue, .. } = self.pass;
        let deadline = || Instant::now() + remote.allowance(0);
        let mut session = remote.open(deadline())?;
        let waits = |name: &str| {
            let opened = queue.open_sealed(&Sealed { name: name.to_owned() });
            !matches!(opened, Err(error) if error.kind() == io::ErrorKind::NotFound)
        };
        session.tidy(&waits, deadline())?;
        Ok(session)
    }

    /// Brings one file to the server, or notes why not.
    fn deliver(&mut self, sealed: &Sealed, opened: &mut dyn FnMut()) {
        let pass = self.pass;
        if pass.memory.is_delivered(&sealed.name) {
            pass.remove(sealed);
            return;
        }
        // Open, and so locked, until it is removed.
        let (file, len) = match pass.queue.open_sealed(sealed) {
            Ok(opened) => opened,
            // Gone since it was listed: there is nothing to deliver.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return pass.memory.forget(&sealed.name),
            Err(error) => {
                pass.memory.failed(&sealed.name);
                return pass.failed(sealed, format!("cannot open the local file: {error}"));
            }
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let begun = Instant::now();
            let failure = match self.attempt(&Upload { name: &sealed.name, file: &file, len }, opened) {
                Ok(how) => {
                    self.delivered += 1;
                    pass.delivered(sealed, len, begun, how);
                    return;
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Open(error) | Failure::Put(error) if self.may_reconnect(&error, tries) => {
                    tracing::debug!("connection trouble, one fresh connection: {error}");
                    continue;
                }
                Failure::Put(error) => {
                    pass.memory.failed(&sealed.name);
                    pass.failed(sealed, error.text.clone());
                    self.after_refusal(error);
                }
                Failure::Open(error) => {
                    pass.failed(sealed, error.text.clone());
                    pass.end(trouble(&error), error.text);
                }
            }
            return;
        }
    }

    /// One try with the open session, or with a fresh one.
    fn attempt(&mut self, upload: &Upload<'_>, opened: &mut dyn FnMut()) -> Result<Delivered, Failure> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.open().map_err(Failure::Open)?,
        };
        opened();
        let deadline = Instant::now() + self.pass.remote.allowance(upload.len);
        // After an error the session is spent, and dropped here.
        let how = session.put(upload, deadline).map_err(Failure::Put)?;
        self.session = Some(session);
        Ok(how)
    }

    /// Trouble with a connection that had delivered something is worth a fresh one, every time; a connection that
    /// delivered nothing is worth one in a pass. One file gets two tries.
    fn may_reconnect(&mut self, error: &RemoteError, tries: u32) -> bool {
        if error.scope != Scope::Connection || tries > 1 || self.pass.ended.load(Relaxed) {
            return false;
        }
        let worth_it = self.delivered > 0 || !self.reconnected;
        if self.delivered == 0 {
            self.reconnected = true;
        }
        self.delivered = 0;
        worth_it
    }

    fn after_refusal(&mut self, error: RemoteError) {
        let refusals = self.pass.refusals.fetch_add(1, Relaxed) + 1;
        self.delivered = 0;
        if error.scope != Scope::File {
            self.pass.end(trouble(&error), error.text);
        } else if refusals >= REFUSALS {
            self.pass
                .end(Trouble::Unreachable, format!("{refusals} files in a row were refused, the last: {}", error.text));
        }
    }
}

fn trouble(error: &RemoteError) -> Trouble {
    if error.refused_login { Trouble::RefusedLogin } else { Trouble::Unreachable }
}
