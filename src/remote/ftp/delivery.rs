//! One segment's way onto the server: the order of the steps, and what each answer means. No socket is seen here.
//!
//! ```text
//! SIZE final ── there, our length ─▶ compare the bytes ─▶ delivered before
//!      │ not there
//! SIZE temp ── there ─▶ DELE
//!      │
//! STOR temp ─▶ SIZE temp ─▶ SIZE final ─▶ RNFR, RNTO ─▶ SIZE final ─▶ delivered
//! ```

use crate::remote::{RemoteError, Scope, Upload};

/// Temp names tried for one segment when the server lets us neither delete nor replace our own old ones.
const TEMP_NAMES: usize = 10;

/// What delivery asks of a server. One control connection answers it.
///
/// After `Err` nothing more may be asked.
pub(super) trait Server {
    /// The mark of our temp names.
    fn token(&self) -> &str;
    /// The length of `name`; `None` when the server shows no such file.
    fn size(&mut self, name: &str) -> Result<Option<u64>, RemoteError>;
    /// Deletes `name`; false when the server refuses.
    fn delete(&mut self, name: &str) -> Result<bool, RemoteError>;
    /// Sends the file to `name` and waits for the server's word that it is complete.
    fn store(&mut self, name: &str, upload: &Upload<'_>) -> Result<(), RemoteError>;
    /// Renames.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), RemoteError>;
    /// The final name exists with our length: does it hold these bytes?
    fn compare(&mut self, upload: &Upload<'_>) -> Result<Compared, RemoteError>;
    /// An error at `step`, in words.
    fn failure(&self, scope: Scope, step: &str, what: &str, remedy: &str) -> RemoteError;
}

/// What a look into a file of ours on the server brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Same,
    Different,
    /// Nobody may read there.
    Unreadable,
}

/// How a segment came to stand on the server, whole, under its final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Now,
    /// By an earlier attempt, whose end was not seen.
    Before,
}

/// Brings `upload` to `server`.
pub(super) fn deliver(server: &mut dyn Server, upload: &Upload<'_>) -> Result<Delivered, RemoteError> {
    match server.size(upload.name)? {
        None => {}
        Some(len) if len == upload.len => return recognise(server, upload),
        Some(len) => return Err(taken(server, upload, len)),
    }
    let temp = free_temp_name(server, upload.name)?;
    server.store(&temp, upload)?;
    let stored = server.size(&temp)?;
    if stored != Some(upload.len) {
        let what = match stored {
            Some(stored) => format!("the server has {stored} bytes of {}", upload.len),
            None => "the server says it is stored, but does not show it".into(),
        };
        return Err(server.failure(Scope::File, &format!("SIZE {temp}"), &what, "it is sent again at the next pass"));
    }
    // Somebody may have made the name while we were sending.
    if let Some(len) = server.size(upload.name)? {
        return Err(taken(server, upload, len));
    }
    server.rename(&temp, upload.name)?;
    match server.size(upload.name)? {
        Some(len) if len == upload.len => Ok(Delivered::Now),
        _ => Err(server.failure(
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
fn recognise(server: &mut dyn Server, upload: &Upload<'_>) -> Result<Delivered, RemoteError> {
    match server.compare(upload)? {
        Compared::Same | Compared::Unreadable => Ok(Delivered::Before),
        Compared::Different => Err(taken(server, upload, upload.len)),
    }
}

/// A temp name of ours that does not exist on the server. What an earlier attempt left under it is deleted.
fn free_temp_name(server: &mut dyn Server, name: &str) -> Result<String, RemoteError> {
    for index in 0..TEMP_NAMES {
        let temp = temp_name(name, server.token(), index);
        if server.size(&temp)?.is_none() || server.delete(&temp)? {
            return Ok(temp);
        }
    }
    let token = server.token();
    let remedy = format!("remove {name}.{token}*.tmp on the server, or let the user delete files");
    let step = format!("DELE {}", temp_name(name, token, 0));
    Err(server.failure(Scope::File, &step, "leftovers of broken transfers cannot be removed", &remedy))
}

fn taken(server: &dyn Server, upload: &Upload<'_>, len: u64) -> RemoteError {
    let what = format!("the server has another file of this name, {len} bytes; this one has {}", upload.len);
    let remedy =
        "nothing is overwritten; give every probe its own processor_file_prefix ({host}), or move that file away";
    server.failure(Scope::File, upload.name, &what, remedy)
}

/// `NAME.TOKEN.tmp`, `NAME.TOKEN-1.tmp`…
fn temp_name(name: &str, token: &str, index: usize) -> String {
    if index == 0 { format!("{name}.{token}.tmp") } else { format!("{name}.{token}-{index}.tmp") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temp_names_are_ours() {
        assert_eq!(temp_name("f_1.csv.gz", "0badcafe", 0), "f_1.csv.gz.0badcafe.tmp");
        assert_eq!(temp_name("f_1.csv.gz", "0badcafe", 3), "f_1.csv.gz.0badcafe-3.tmp");
    }
}
