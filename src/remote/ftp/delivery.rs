//! One segment's way onto the server: the order of the steps, and what each answer means. No socket is seen here.
//!
//! ```text
//! rename:  SIZE final ── our length ─▶ compare the bytes ─▶ delivered before
//!               │ not there
//!          SIZE temp ─── our length ─────────────────┐
//!               │        another ─▶ DELE             │ an attempt that broke off behind its last byte
//!               ▼                                    ▼
//!          STOR temp ─▶ SIZE temp ─▶ SIZE final ─▶ RNFR, RNTO ─▶ SIZE final ─▶ stands, or was taken away
//!
//! direct:  SIZE final ─▶ STOR final ─▶ SIZE final, or else the word of the server
//! ```
//!
//! Many far ends take each file the moment it is whole: a mover that watches the directory, a hook of the server. A name that
//! is gone after the server has confirmed the step before is therefore no fault; only a temp file that still stands is.
//!
//! One case looks the same and is not: a program that deletes `*.tmp` there while we send, as a probe of the former program
//! does at each of its passes. So the first temp file that is gone is sent again at once under a name that nobody deletes
//! ([`Temp::Part`]). If that one is gone as well, this server takes files under their temp names, and did so both times: one
//! file comes twice, once in the life of a process, and none is lost. If it stands, `*.tmp` is what is deleted there, and the
//! other name is used from then on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Put;
use crate::remote::{Delivered, RemoteError, Scope, Upload};

/// What delivery asks of a server. One control connection answers it.
///
/// After `Err` nothing more may be asked, unless the method says otherwise.
pub(super) trait Server {
    /// The mark of our temp names.
    fn token(&self) -> &str;
    /// The length of `name`.
    fn size(&mut self, name: &str) -> Result<Look, RemoteError>;
    /// Deletes `name`; false when the server refuses.
    fn delete(&mut self, name: &str) -> Result<bool, RemoteError>;
    /// Sends the file to `name` and waits for the server's word that it is complete.
    fn store(&mut self, name: &str, upload: &Upload<'_>) -> Result<(), Refused>;
    /// RNFR.
    fn rename_from(&mut self, name: &str) -> Result<Pending, RemoteError>;
    /// RNTO.
    fn rename_to(&mut self, name: &str) -> Result<(), Refused>;
    /// Does `name` begin with the first `len` bytes of the segment, and hold no others?
    fn compare(&mut self, upload: &Upload<'_>, len: u64) -> Result<Compared, RemoteError>;
    /// An error at `step`, in words.
    fn failure(&self, scope: Scope, step: &str, what: &str, remedy: &str) -> RemoteError;
}

/// What SIZE says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Len(u64),
    /// No such file, in words.
    Missing,
    /// A "no" without a reason; most likely there is no such file.
    Unseen,
    /// The server has no SIZE, or does not let us ask.
    Hidden,
}

/// What RNFR says.
#[derive(Debug)]
pub(super) enum Pending {
    /// The file is there.
    Stands,
    /// The server says in words that there is no such file.
    Missing,
    /// The server says in words that this user may not.
    Denied(RemoteError),
    /// A "no" without a reason.
    Unclear(RemoteError),
}

/// A step that writes was not done.
#[derive(Debug)]
pub(super) enum Refused {
    /// The server said so before anything was sent; the dialogue may go on.
    AtOnce(RemoteError),
    /// The server said so afterwards; the dialogue may go on.
    Said(RemoteError),
    /// The server says that the data connection broke (426); whether all had come by then, its length tells.
    Doubted(RemoteError),
    /// Nothing is known; the connection is spent.
    Broken(RemoteError),
}

/// What a look into a file of ours on the server brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Same,
    Different,
    /// Nobody may read there.
    Unreadable,
}

/// Files of which something is remembered. More than fail between two looks into the data directory.
const NOTES: usize = 4096;

/// What the sessions of one server have learnt. In memory only: after a restart the first files teach it anew.
#[derive(Debug, Default)]
pub(super) struct Memory {
    state: Mutex<Learnt>,
}

#[derive(Debug, Default)]
struct Learnt {
    /// SIZE has shown a file.
    shows: bool,
    /// Temp files of ours stand until we rename them: it was done.
    renames: bool,
    /// Somebody takes files as soon as they have their final name.
    takes: bool,
    /// What becomes of temp files that end in `.tmp`, once one of them was gone.
    temps: Option<Temps>,
    /// With the length of the segment.
    notes: HashMap<String, (Note, u64)>,
}

/// Why temp files are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temps {
    /// Somebody deletes `*.tmp`: the other ending is used.
    Deleted,
    /// Somebody takes files under their temp name.
    Taken,
}

/// What is known of a file that is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    /// Something of it may stand on the server under the name that we write to.
    Begun,
    /// The server refused it at its end: what stands there is not to be trusted, whatever its length.
    Spoilt,
    /// The rename was asked for, and the answer was never heard.
    RenameSent,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, upload: &Upload<'_>, note: Note) {
        let notes = &mut self.lock().notes;
        if notes.len() < NOTES || notes.contains_key(upload.name) {
            notes.insert(upload.name.to_owned(), (note, upload.len));
        }
    }

    fn noted(&self, name: &str) -> Option<Note> {
        self.lock().notes.get(name).map(|(note, _)| *note)
    }

    /// Nothing of it is left to be done.
    pub(super) fn forget(&self, name: &str) {
        self.lock().notes.remove(name);
    }

    /// The files of which something may stand on the server, with their lengths.
    pub(super) fn begun(&self) -> Vec<(String, u64)> {
        self.lock().notes.iter().map(|(name, (_, len))| (name.clone(), *len)).collect()
    }

    fn shows(&self) -> bool {
        self.lock().shows
    }

    fn renames(&self) -> bool {
        self.lock().renames
    }

    fn takes(&self) -> bool {
        self.lock().takes
    }
}

/// The ending of a temp name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temp {
    /// `.tmp`, which filters on names let through, and consumers leave alone.
    Tmp,
    /// `.part`, which consumers leave alone, and nobody deletes.
    Part,
}

impl Temp {
    /// `NAME.TOKEN.tmp`
    fn name(self, name: &str, token: &str) -> String {
        let ending = match self {
            Self::Tmp => "tmp",
            Self::Part => "part",
        };
        format!("{name}.{token}.{ending}")
    }
}

/// Brings `upload` to `server`.
pub(super) fn deliver(
    server: &mut dyn Server,
    memory: &Memory,
    put: Put,
    upload: &Upload<'_>,
) -> Result<Delivered, RemoteError> {
    let mut delivery = Delivery { server, memory, upload };
    let delivered = match put {
        Put::Rename => delivery.by_rename(),
        Put::Direct => delivery.direct(),
    };
    if delivered.is_ok() {
        memory.forget(upload.name);
    }
    delivered
}

/// Deletes what a broken transfer left of a segment that is not there any more. False when the server refuses. Under a final
/// name only what is not whole goes: somebody may have brought the file there by hand.
pub(super) fn clear(server: &mut dyn Server, put: Put, (name, len): (&str, u64)) -> Result<bool, RemoteError> {
    let (written, whole) = match put {
        Put::Rename => ([Temp::Tmp, Temp::Part].map(|temp| temp.name(name, server.token())).to_vec(), None),
        Put::Direct => (vec![name.to_owned()], Some(Look::Len(len))),
    };
    let mut gone = true;
    for name in written {
        let look = server.size(&name)?;
        gone &= matches!(look, Look::Missing | Look::Unseen) || Some(look) == whole || server.delete(&name)?;
    }
    Ok(gone)
}

/// How far a transfer came.
enum Stored {
    /// The server has confirmed it.
    Done,
    /// Nothing was sent: the server refuses the name.
    AtOnce(RemoteError),
}

struct Delivery<'a> {
    server: &'a mut dyn Server,
    memory: &'a Memory,
    upload: &'a Upload<'a>,
}

impl Delivery<'_> {
    fn by_rename(&mut self) -> Result<Delivered, RemoteError> {
        let Upload { name, len, .. } = *self.upload;
        match self.size(name)? {
            Look::Missing | Look::Unseen => {}
            Look::Hidden => return Err(self.hidden(name)),
            Look::Len(there) if there == len => return self.recognise(),
            Look::Len(there) => return Err(self.in_use(there)),
        }
        let noted = self.memory.noted(name);
        let known = self.memory.renames();
        // The other name only where it may be: it costs a round trip.
        let looked_for = if known && noted.is_none() { &[Temp::Tmp][..] } else { &[Temp::Tmp, Temp::Part] };
        for temp in looked_for {
            let there = temp.name(name, self.server.token());
            match self.size(&there)? {
                // All of it went over in an attempt that broke off before the rename.
                Look::Len(len) if len == self.upload.len && noted != Some(Note::Spoilt) => {
                    return self.rename(*temp, &there);
                }
                // Where nothing may be deleted it is written over.
                Look::Len(_) => drop(self.server.delete(&there)?),
                Look::Missing | Look::Unseen | Look::Hidden => {}
            }
        }
        if noted == Some(Note::RenameSent) {
            return Ok(Delivered::Taken);
        }
        let mut kind = if self.memory.lock().temps == Some(Temps::Deleted) { Temp::Part } else { Temp::Tmp };
        let mut temp = kind.name(name, self.server.token());
        let mut stored = self.store(&temp)?;
        if kind == Temp::Part && matches!(stored, Stored::AtOnce(_)) {
            kind = Temp::Tmp;
            temp = kind.name(name, self.server.token());
            stored = self.store(&temp)?;
        }
        if let Stored::AtOnce(error) = stored {
            return Err(error);
        }
        match self.size(&temp)? {
            Look::Len(there) if there == len => {}
            Look::Len(there) => return Err(self.wrong_length(&temp, there)),
            look @ (Look::Missing | Look::Unseen) => return self.vanished(kind, &temp, look),
            Look::Hidden => {
                self.server.delete(&temp)?;
                return Err(self.hidden(&temp));
            }
        }
        // Somebody may have made the name while we were sending.
        if let Look::Len(there) = self.size(name)? {
            self.server.delete(&temp)?;
            return Err(self.in_use(there));
        }
        self.rename(kind, &temp)
    }

    /// The temp file is whole.
    fn rename(&mut self, kind: Temp, temp: &str) -> Result<Delivered, RemoteError> {
        let Upload { name, len, .. } = *self.upload;
        match self.server.rename_from(temp)? {
            Pending::Stands => {}
            Pending::Missing => return self.gone(kind, temp),
            Pending::Denied(error) => return Err(self.may_not_rename(&error)),
            Pending::Unclear(error) => {
                return match self.size(temp)? {
                    Look::Missing | Look::Unseen => self.gone(kind, temp),
                    _ => Err(self.may_not_rename(&error)),
                };
            }
        }
        // Should the answer be lost and both names be gone afterwards, it was taken, unless it is rather somebody who deletes.
        if kind == Temp::Part || self.memory.takes() {
            self.memory.note(self.upload, Note::RenameSent);
        }
        match self.server.rename_to(name) {
            Ok(()) => {}
            Err(Refused::Broken(error)) => return Err(error),
            Err(Refused::AtOnce(error) | Refused::Said(error) | Refused::Doubted(error)) => {
                self.memory.note(self.upload, Note::Begun);
                return Err(self.may_not_rename(&error));
            }
        }
        let step = format!("rename to {name}");
        match self.size(name)? {
            Look::Len(there) if there == len => {
                self.memory.lock().renames = true;
                Ok(Delivered::Stands)
            }
            Look::Len(there) => Err(self.wrong_length(name, there)),
            Look::Missing | Look::Unseen | Look::Hidden => match self.size(temp)? {
                Look::Len(_) => {
                    self.memory.note(self.upload, Note::Begun);
                    let what = "the server says it is done, but the file stands under its old name";
                    Err(self.server.failure(Scope::File, &step, what, "it is tried again at the next pass"))
                }
                Look::Missing | Look::Unseen | Look::Hidden => {
                    let mut learnt = self.memory.lock();
                    (learnt.renames, learnt.takes) = (true, true);
                    Ok(Delivered::Taken)
                }
            },
        }
    }

    /// The server has confirmed all of `temp`, and shows no such file.
    fn vanished(&mut self, kind: Temp, temp: &str, look: Look) -> Result<Delivered, RemoteError> {
        if let Look::Len(there) = self.size(self.upload.name)? {
            return if there == self.upload.len { self.recognise() } else { Err(self.in_use(there)) };
        }
        match self.server.rename_from(temp)? {
            Pending::Missing => self.gone(kind, temp),
            Pending::Unclear(_) if look == Look::Missing || self.memory.shows() => self.gone(kind, temp),
            // It is there, but without its length nothing is proved.
            Pending::Stands => {
                self.server.delete(temp)?;
                Err(self.hidden(temp))
            }
            Pending::Denied(error) | Pending::Unclear(error) => Err(self.may_not_rename(&error)),
        }
    }

    /// The temp file was there, whole, and is not there any more.
    fn gone(&mut self, kind: Temp, temp: &str) -> Result<Delivered, RemoteError> {
        {
            let mut learnt = self.memory.lock();
            if kind == Temp::Part {
                // Where files of ours stood until they were renamed, taking is not the rule.
                learnt.temps = Some(if learnt.renames { Temps::Deleted } else { Temps::Taken });
                return Ok(Delivered::Taken);
            }
            if learnt.temps == Some(Temps::Taken) {
                return Ok(Delivered::Taken);
            }
            let is_first = learnt.temps.replace(Temps::Deleted).is_none();
            if is_first && !learnt.renames {
                drop(learnt);
                return self.by_rename();
            }
        }
        self.memory.forget(self.upload.name);
        let what = "the temp file was deleted by somebody else before it was renamed";
        let remedy = "it is sent again at the next pass; does another program delete *.tmp there, as a probe of the former \
                      program does? Where the server takes files under their temp names, set processor_ftp_put: direct";
        Err(self.server.failure(Scope::File, temp, what, remedy))
    }

    fn direct(&mut self) -> Result<Delivered, RemoteError> {
        let Upload { name, len, .. } = *self.upload;
        match self.size(name)? {
            Look::Len(there) if there == len && self.memory.noted(name) != Some(Note::Spoilt) => {
                return self.recognise();
            }
            Look::Len(there) => self.replace_torn(there)?,
            Look::Missing | Look::Unseen | Look::Hidden => {}
        }
        if let Stored::AtOnce(error) = self.store(name)? {
            return Err(error);
        }
        match self.size(name)? {
            Look::Len(there) if there == len => Ok(Delivered::Stands),
            Look::Len(there) => Err(self.wrong_length(name, there)),
            Look::Missing => Ok(Delivered::Taken),
            Look::Unseen if self.memory.shows() => Ok(Delivered::Taken),
            Look::Unseen | Look::Hidden => Ok(Delivered::Told),
        }
    }

    /// The final name exists with another length. A beginning of this segment is what a broken transfer of ours left, and may
    /// go; anything else is another's.
    fn replace_torn(&mut self, there: u64) -> Result<(), RemoteError> {
        let ours = self.memory.noted(self.upload.name).is_some()
            || there < self.upload.len && self.server.compare(self.upload, there)? == Compared::Same;
        if !ours {
            return Err(self.in_use(there));
        }
        // Where nothing may be deleted it is written over.
        self.server.delete(self.upload.name).map(drop)
    }

    /// Sends it to `to`. What a refused transfer left there goes at once: it takes the room that is missing.
    fn store(&mut self, to: &str) -> Result<Stored, RemoteError> {
        let name = self.upload.name;
        let error = match self.server.store(to, self.upload) {
            Ok(()) => {
                self.memory.note(self.upload, Note::Begun);
                return Ok(Stored::Done);
            }
            Err(Refused::AtOnce(error)) => {
                if error.text.contains(&hidden_name(to)) {
                    let _ = self.server.delete(&hidden_name(to));
                }
                return Ok(Stored::AtOnce(error));
            }
            Err(Refused::Broken(error)) => {
                self.memory.note(self.upload, Note::Begun);
                return Err(error);
            }
            Err(Refused::Doubted(error)) => {
                if self.size(to)? == Look::Len(self.upload.len) {
                    self.memory.note(self.upload, Note::Begun);
                    return Ok(Stored::Done);
                }
                error
            }
            Err(Refused::Said(error)) => error,
        };
        self.memory.note(self.upload, Note::Spoilt);
        // The reason to tell is the first one, whatever becomes of this.
        if matches!(self.server.delete(to), Ok(true)) {
            self.memory.forget(name);
        }
        Err(error)
    }

    fn size(&mut self, name: &str) -> Result<Look, RemoteError> {
        let look = self.server.size(name)?;
        if matches!(look, Look::Len(_)) {
            self.memory.lock().shows = true;
        }
        Ok(look)
    }

    /// The final name exists with our length: is it this segment, delivered by an attempt whose end was not seen?
    ///
    /// The bytes decide. Where reading is refused, as on servers that only take files, name and length must do.
    fn recognise(&mut self) -> Result<Delivered, RemoteError> {
        match self.server.compare(self.upload, self.upload.len)? {
            Compared::Same | Compared::Unreadable => Ok(Delivered::Before),
            Compared::Different => Err(self.in_use(self.upload.len)),
        }
    }

    fn in_use(&self, len: u64) -> RemoteError {
        let Upload { name, len: ours, .. } = *self.upload;
        let what = format!("the server has another file of this name, {len} bytes; this one has {ours}");
        let remedy =
            "nothing is overwritten; give every probe its own processor_file_prefix ({host}), or move that file away";
        self.server.failure(Scope::File, name, &what, remedy)
    }

    /// The server confirmed it, and has another length. It goes at once.
    fn wrong_length(&mut self, name: &str, there: u64) -> RemoteError {
        let what = format!("the server has {there} bytes of {}", self.upload.len);
        let error =
            self.server.failure(Scope::File, &format!("SIZE {name}"), &what, "it is sent again at the next pass");
        if name != self.upload.name {
            let _ = self.server.delete(name);
        }
        error
    }

    fn hidden(&self, name: &str) -> RemoteError {
        let what = "the server does not tell the length of files";
        let remedy = "without it no upload can be verified; allow SIZE (RFC 3659), or set processor_ftp_put: direct";
        self.server.failure(Scope::Server, &format!("SIZE {name}"), what, remedy)
    }

    /// Where no rename was ever done, the next file would only leave one more temp file there.
    fn may_not_rename(&self, error: &RemoteError) -> RemoteError {
        let scope = if self.memory.renames() { error.scope } else { Scope::Server };
        let text = format!("{}; let the user rename files, or set processor_ftp_put: direct", error.text);
        RemoteError { scope, refused_login: false, text }
    }
}

/// Where ProFTPD keeps what is not whole yet, with `HiddenStores` on. What a killed server left there keeps us from sending
/// the file again.
fn hidden_name(name: &str) -> String {
    format!(".in.{name}.")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// What a far end may do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Way {
        TakesAtStor,
        TakesAtRename,
        HidesLengths,
        ShowsNoFile,
        MayNotRename,
        MayNotDelete,
        MayNotReplace,
        /// 552 in mid-transfer; a part stays.
        Full,
        /// The control connection is cut behind the last byte.
        CutAfterStor,
        /// The rename is done, and the answer never comes.
        CutAfterRename,
        /// Another program deletes `*.tmp` while we send.
        DeletesTemps,
        /// Only `.tmp` and `.csv.gz` are allowed.
        FiltersNames,
        /// It says 250 and does not rename.
        Lies,
        /// 426, although all has come.
        Doubts,
        /// RNTO: "can't rename", without a reason.
        RefusesRename,
    }

    /// A server that keeps names and lengths.
    #[derive(Default)]
    struct Model {
        files: BTreeMap<String, u64>,
        consumed: Vec<String>,
        ways: BTreeSet<Way>,
        stores: usize,
        pending: String,
    }

    const NAME: &str = "f_1.csv.gz";
    const TEMP: &str = "f_1.csv.gz.0badcafe.tmp";
    const PART: &str = "f_1.csv.gz.0badcafe.part";
    const LEN: u64 = 1000;

    fn error(scope: Scope, text: &str) -> RemoteError {
        RemoteError { scope, refused_login: false, text: text.to_owned() }
    }

    impl Model {
        fn of(ways: &[Way]) -> Self {
            Self { ways: ways.iter().copied().collect(), ..Self::default() }
        }

        fn is(&self, way: Way) -> bool {
            self.ways.contains(&way)
        }

        fn put(&mut self, memory: &Memory, put: Put) -> Result<Delivered, RemoteError> {
            let file = tempfile::tempfile().unwrap();
            deliver(self, memory, put, &Upload { name: NAME, file: &file, len: LEN })
        }
    }

    impl Server for Model {
        fn token(&self) -> &'static str {
            "0badcafe"
        }

        fn size(&mut self, name: &str) -> Result<Look, RemoteError> {
            Ok(match self.files.get(name) {
                _ if self.is(Way::HidesLengths) => Look::Hidden,
                Some(len) if !self.is(Way::ShowsNoFile) => Look::Len(*len),
                _ if self.is(Way::ShowsNoFile) => Look::Unseen,
                _ => Look::Missing,
            })
        }

        fn delete(&mut self, name: &str) -> Result<bool, RemoteError> {
            Ok(!self.is(Way::MayNotDelete) && self.files.remove(name).is_some())
        }

        fn store(&mut self, name: &str, upload: &Upload<'_>) -> Result<(), Refused> {
            if self.is(Way::FiltersNames) && name == PART {
                return Err(Refused::AtOnce(error(Scope::File, "550 Forbidden filename")));
            }
            if self.is(Way::MayNotReplace) && self.files.contains_key(name) {
                return Err(Refused::AtOnce(error(Scope::File, "553")));
            }
            self.stores += 1;
            if self.is(Way::Full) {
                self.files.insert(name.into(), upload.len / 2);
                return Err(Refused::Said(error(Scope::File, "552")));
            }
            if self.is(Way::TakesAtStor) {
                self.consumed.push(name.into());
            } else if !self.is(Way::DeletesTemps) || name != TEMP {
                self.files.insert(name.into(), upload.len);
            }
            if self.is(Way::Doubts) {
                return Err(Refused::Doubted(error(Scope::Connection, "426")));
            }
            if self.is(Way::CutAfterStor) {
                return Err(Refused::Broken(error(Scope::Connection, "closed")));
            }
            Ok(())
        }

        fn rename_from(&mut self, name: &str) -> Result<Pending, RemoteError> {
            name.clone_into(&mut self.pending);
            Ok(match self.files.contains_key(name) {
                _ if self.is(Way::MayNotRename) => Pending::Denied(error(Scope::File, "550 Permission denied.")),
                true => Pending::Stands,
                false => Pending::Missing,
            })
        }

        fn rename_to(&mut self, name: &str) -> Result<(), Refused> {
            if self.is(Way::Lies) {
                return Ok(());
            }
            if self.is(Way::RefusesRename) {
                return Err(Refused::Said(error(Scope::File, "553 Can't rename file.")));
            }
            let len = self.files.remove(&self.pending).unwrap();
            if self.is(Way::TakesAtRename) {
                self.consumed.push(name.into());
            } else {
                self.files.insert(name.into(), len);
            }
            if self.is(Way::CutAfterRename) {
                return Err(Refused::Broken(error(Scope::Connection, "closed")));
            }
            Ok(())
        }

        fn compare(&mut self, _: &Upload<'_>, _: u64) -> Result<Compared, RemoteError> {
            Ok(Compared::Unreadable)
        }

        fn failure(&self, scope: Scope, step: &str, what: &str, remedy: &str) -> RemoteError {
            error(scope, &format!("{step}: {what}; {remedy}"))
        }
    }

    #[test]
    fn a_far_end_that_takes_files_gets_each_once() {
        for (put, way, consumed) in [(Put::Rename, Way::TakesAtRename, NAME), (Put::Direct, Way::TakesAtStor, NAME)] {
            let (memory, mut server) = (Memory::default(), Model::of(&[way]));
            for n in 1..4 {
                assert_eq!(server.put(&memory, put).unwrap(), Delivered::Taken, "{way:?}");
                assert_eq!((server.stores, server.consumed.last().unwrap().as_str()), (n, consumed), "{way:?}");
            }
        }
        // Under its temp name the first one is taken twice, for it could as well have been deleted.
        let (memory, mut server) = (Memory::default(), Model::of(&[Way::TakesAtStor]));
        for _ in 0..3 {
            assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Taken);
        }
        assert_eq!(server.consumed, [TEMP, PART, TEMP, TEMP]);
    }

    #[test]
    fn a_rename_whose_answer_was_lost_and_whose_file_was_taken_is_not_repeated() {
        let (memory, mut server) = (Memory::default(), Model::of(&[Way::TakesAtRename]));
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Taken);
        server.ways.insert(Way::CutAfterRename);
        assert!(server.put(&memory, Put::Rename).is_err());
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Taken);
        assert_eq!((server.stores, server.consumed.len()), (2, 2));

        // Where files stand, one that is gone was rather deleted, before the rename.
        let (memory, mut server) = (Memory::default(), Model::default());
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);
        server.files.clear();
        server.ways.insert(Way::CutAfterRename);
        assert!(server.put(&memory, Put::Rename).is_err());
        server.files.clear();
        server.ways.clear();
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);
    }

    #[test]
    fn temp_files_that_others_delete_are_sent_again() {
        // At once, under the name that nobody deletes; the next ones go under it from the beginning.
        let (memory, mut server) = (Memory::default(), Model::of(&[Way::DeletesTemps]));
        for stores in [2, 3] {
            assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);
            assert_eq!(server.stores, stores);
            server.files.clear();
        }
        // Where temp files stood before, it is said.
        let (memory, mut server) = (Memory::default(), Model::default());
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);
        server.files.clear();
        server.ways.insert(Way::DeletesTemps);
        let error = server.put(&memory, Put::Rename).unwrap_err();
        assert!(error.text.contains("deleted by somebody else"), "{error}");
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);

        // Where a filter leaves only the usual name, one that is gone is no proof.
        let (memory, mut server) = (Memory::default(), Model::of(&[Way::DeletesTemps, Way::FiltersNames]));
        assert!(server.put(&memory, Put::Rename).is_err());
        server.ways.remove(&Way::DeletesTemps);
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);
    }

    #[test]
    fn a_rename_that_is_a_lie_is_an_error() {
        let (memory, mut server) = (Memory::default(), Model::of(&[Way::Lies]));
        assert!(server.put(&memory, Put::Rename).unwrap_err().text.contains("stands under its old name"));
        server.ways.clear();
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);
        assert_eq!(server.stores, 1);
    }

    #[test]
    fn what_went_over_whole_needs_the_rename_only() {
        let (memory, mut server) = (Memory::default(), Model::of(&[Way::CutAfterStor]));
        assert_eq!(server.put(&memory, Put::Rename).unwrap_err().scope, Scope::Connection);
        assert_eq!(server.put(&memory, Put::Rename).unwrap(), Delivered::Stands);
        // Also in the next life of the program.
        for temp in [TEMP, PART] {
            server.files = BTreeMap::from([(temp.to_owned(), LEN)]);
            assert_eq!(server.put(&Memory::default(), Put::Rename).unwrap(), Delivered::Stands);
        }
        assert_eq!(server.stores, 1);
    }

    #[test]
    fn accounts_that_only_take_files_get_one_copy_and_work_directly() {
        for ways in
            [&[Way::MayNotRename, Way::MayNotDelete][..], &[Way::MayNotRename, Way::MayNotDelete, Way::MayNotReplace]]
        {
            let (memory, mut server) = (Memory::default(), Model::of(ways));
            for _ in 0..4 {
                let error = server.put(&memory, Put::Rename).unwrap_err();
                assert!(error.text.contains("processor_ftp_put: direct"), "{error}");
                assert_eq!((error.scope, server.files.len(), server.stores), (Scope::Server, 1, 1));
            }
            server.files.clear();
            assert_eq!(server.put(&memory, Put::Direct).unwrap(), Delivered::Stands);
        }
        // No lengths, or none that this account may see.
        for (way, stores) in [(Way::HidesLengths, 0), (Way::ShowsNoFile, 1)] {
            let (memory, mut server) = (Memory::default(), Model::of(&[way, Way::MayNotRename]));
            let error = server.put(&memory, Put::Rename).unwrap_err();
            assert!(error.text.contains("processor_ftp_put: direct"), "{error}");
            assert_eq!(server.stores, stores, "{way:?}");
            server.files.clear();
            assert_eq!(server.put(&memory, Put::Direct).unwrap(), Delivered::Told, "{way:?}");
        }
    }

    #[test]
    fn what_a_refused_transfer_left_goes_at_once() {
        for put in [Put::Rename, Put::Direct] {
            let (memory, mut server) = (Memory::default(), Model::of(&[Way::Full]));
            assert_eq!(server.put(&memory, put).unwrap_err().text, "552");
            assert!(server.files.is_empty() && memory.begun().is_empty(), "{put:?}");
            // Where that is refused too it is remembered, and never taken for whole.
            server.ways.insert(Way::MayNotDelete);
            assert!(server.put(&memory, put).is_err());
            assert_eq!(memory.begun(), [(NAME.to_owned(), LEN)]);
            server.files.values_mut().for_each(|len| *len = LEN);
            server.ways.clear();
            assert_eq!(server.put(&memory, put).unwrap(), Delivered::Stands, "{put:?}");
            assert_eq!(server.stores, 3, "{put:?}");
            assert!(memory.begun().is_empty());
        }
    }

    #[test]
    fn a_transfer_that_broke_behind_its_last_byte_is_whole() {
        for put in [Put::Rename, Put::Direct] {
            let (memory, mut server) = (Memory::default(), Model::of(&[Way::Doubts]));
            assert_eq!(server.put(&memory, put).unwrap(), Delivered::Stands);
            server.files.clear();
            server.ways.insert(Way::HidesLengths);
            assert!(server.put(&memory, Put::Direct).unwrap_err().text.contains("426"), "not without its length");
        }
    }

    #[test]
    fn what_is_left_of_a_segment_that_is_gone_is_cleared() {
        let (memory, mut server) = (Memory::default(), Model::of(&[Way::CutAfterStor]));
        assert!(server.put(&memory, Put::Rename).is_err());
        assert_eq!((memory.begun(), server.files.len()), (vec![(NAME.to_owned(), LEN)], 1));
        assert!(clear(&mut server, Put::Rename, (NAME, LEN)).unwrap());
        assert!(server.files.is_empty());
        for (there, left) in [(LEN - 1, 0), (LEN, 1)] {
            server.files = BTreeMap::from([(NAME.to_owned(), there)]);
            assert!(clear(&mut server, Put::Direct, (NAME, LEN)).unwrap());
            assert_eq!(server.files.len(), left, "a whole file may have been brought there by hand");
        }
    }

    #[test]
    fn files_of_others_are_not_touched() {
        for put in [Put::Rename, Put::Direct] {
            let (memory, mut server) = (Memory::default(), Model::default());
            server.files.insert(NAME.into(), 7);
            assert!(server.put(&memory, put).unwrap_err().text.contains("another file of this name"));
            assert_eq!((server.files.get(NAME), server.stores), (Some(&7), 0), "{put:?}");
        }
    }

    #[test]
    fn temp_names_are_ours() {
        assert_eq!(Temp::Tmp.name("f_1.csv.gz", "0badcafe"), TEMP);
        assert_eq!(Temp::Part.name("f_1.csv.gz", "0badcafe"), PART);
    }
}
