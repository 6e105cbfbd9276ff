//! One open file: a gzip member (RFC 1952) that grows piece by piece.
//!
//! Every step can fail and be tried again: bytes go to a fixed offset, and the offset moves only after they are there.
//! The file is never written before that offset, and cut back to it only when it is sealed behind a write that failed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use crc32fast::Hasher;

use super::dir::Dir;
use super::names::{PART, SEALED};
use crate::pack::Piece;

/// Magic, deflate, no flags, no time, no extra flags, made on Unix.
pub const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

/// An empty final block: the deflate stream's end after any piece.
pub const FINAL_BLOCK: [u8; 2] = [3, 0];

/// The last bytes of a member: the final block, CRC-32 and length modulo 2^32 of what it unpacks to.
pub fn trailer(crc: u32, raw_bytes: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&FINAL_BLOCK);
    bytes[2..6].copy_from_slice(&crc.to_le_bytes());
    bytes[6..].copy_from_slice(&(raw_bytes as u32).to_le_bytes());
    bytes
}

/// A segment that takes pieces.
#[derive(Debug)]
pub struct Segment {
    part: String,
    /// The final name without its ending.
    name: String,
    file: File,
    /// Where the next piece goes.
    offset: u64,
    /// A failed write may have left bytes behind `offset`.
    has_remains: bool,
    /// CRC-32 and length of what the pieces unpack to.
    raw: Hasher,
    raw_bytes: u64,
    /// CRC-32 of the file's own bytes, to prove them when a sync failed.
    stored: Hasher,
    opened: Instant,
    step: Step,
}

/// What sealing has left to do. Each step is durable before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Close,
    Sync,
    Rename,
    SyncDir,
}

/// A segment that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The final name.
    pub name: String,
    /// Compressed bytes.
    pub len: u64,
    /// Bytes that it unpacks to.
    pub raw_bytes: u64,
    /// When it was opened.
    pub opened: Instant,
}

impl Segment {
    /// Makes `name.part` with its gzip header.
    ///
    /// # Errors
    ///
    /// What the disk says; nothing is left behind, and the name is spent.
    pub fn create(dir: &Dir, name: String, now: Instant) -> io::Result<Self> {
        let part = format!("{name}{PART}");
        let file = dir.create_new(&part)?;
        if let Err(error) = file.write_all_at(&GZIP_HEADER, 0) {
            // The name is spent, the file is empty: the next try takes another name.
            let _ = dir.remove(&part);
            return Err(error);
        }
        let mut stored = Hasher::new();
        stored.update(&GZIP_HEADER);
        let offset = GZIP_HEADER.len() as u64;
        Ok(Self {
            part,
            name,
            file,
            offset,
            has_remains: false,
            raw: Hasher::new(),
            raw_bytes: 0,
            stored,
            opened: now,
            step: Step::Close,
        })
    }

    /// Appends one piece.
    ///
    /// # Errors
    ///
    /// What the disk says. Nothing counts as written; the same call may be made again.
    pub fn append(&mut self, piece: &Piece) -> io::Result<()> {
        self.has_remains = true;
        self.file.write_all_at(&piece.deflate, self.offset)?;
        self.has_remains = false;
        self.offset += piece.deflate.len() as u64;
        self.stored.update(&piece.deflate);
        self.raw.combine(&Hasher::new_with_initial_len(piece.crc, piece.len));
        self.raw_bytes += piece.len;
        Ok(())
    }

    /// Name of the file as it is written now.
    pub fn part_name(&self) -> &str {
        &self.part
    }

    /// Whether the open file can be found in the directory: somebody may have removed it, or the directory.
    pub fn has_name(&self, dir: &Dir) -> bool {
        dir.names_file(&self.part, &self.file) || dir.names_file(&format!("{}{SEALED}", self.name), &self.file)
    }

    /// Another final name, because a file that is not ours has the one before.
    pub fn rename_to(&mut self, name: String) {
        self.name = name;
    }

    /// Gives the segment up before any line is in it.
    pub fn discard(self, dir: &Dir) {
        // What stays is an empty member, which the next start removes.
        let _ = dir.remove(&self.part);
    }

    /// Compressed bytes so far.
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// True when no line is in it.
    pub fn is_empty(&self) -> bool {
        self.raw_bytes == 0
    }

    /// Closes the member, syncs, renames to the final name, syncs the directory.  After `Ok` the segment survives a power cut under its final name.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when the final name is taken; else what the disk says. The same call goes on where it failed.
    pub fn seal(&mut self, dir: &Dir) -> io::Result<Sealed> {
        let sealed = format!("{}{SEALED}", self.name);
        loop {
            match self.step {
                Step::Close => {
                    if self.has_remains {
                        self.file.set_len(self.offset)?;
                        self.has_remains = false;
                    }
                    let trailer = trailer(self.raw.clone().finalize(), self.raw_bytes);
                    self.file.write_all_at(&trailer, self.offset)?;
                    self.offset += trailer.len() as u64;
                    self.stored.update(&trailer);
                    self.step = Step::Sync;
                }
                Step::Sync => {
                    if let Err(error) = self.file.sync_all() {
                        // The kernel reports a failed write-back once and then forgets the pages: only writing them
                        // again makes the next sync true.
                        self.write_again()?;
                        return Err(error);
                    }
                    self.step = Step::Rename;
                }
                Step::Rename => match dir.rename_new(&self.part, &sealed) {
                    Ok(()) => self.step = Step::SyncDir,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => self.bring_back(dir)?,
                    Err(error) => return Err(error),
                },
                Step::SyncDir => {
                    dir.sync()?;
                    let Self { offset: len, raw_bytes, opened, .. } = *self;
                    return Ok(Sealed { name: sealed, len, raw_bytes, opened });
                }
            }
        }
    }

    /// Somebody removed the file while it was open: its bytes are still there until it is closed, and get a name again.
    fn bring_back(&mut self, dir: &Dir) -> io::Result<()> {
        let copy = dir.create_new(&self.part)?;
        let copied = self.copy_onto(&copy);
        if copied.is_err() {
            // The next try makes it again.
            let _ = dir.remove(&self.part);
        }
        copied?;
        self.file = copy;
        self.step = Step::Sync;
        Ok(())
    }

    /// Reads the file as the kernel has it and writes the same bytes in place; fails when they are not ours any more.
    fn write_again(&self) -> io::Result<()> {
        self.copy_onto(&self.file)
    }

    fn copy_onto(&self, target: &File) -> io::Result<()> {
        let mut chunk = vec![0; 256 * 1024];
        let mut at = 0;
        let mut read = Hasher::new();
        while at < self.offset {
            let len = chunk.len().min(usize::try_from(self.offset - at).unwrap_or(usize::MAX));
            self.file.read_exact_at(&mut chunk[..len], at)?;
            target.write_all_at(&chunk[..len], at)?;
            read.update(&chunk[..len]);
            at += len as u64;
        }
        if read.finalize() == self.stored.clone().finalize() {
            Ok(())
        } else {
            Err(io::Error::other("the disk gave back other bytes than were written"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::pack::lone_piece;

    #[test]
    fn pieces_become_one_member() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let mut segment = Segment::create(&dir, "x_000".to_owned(), Instant::now()).unwrap();
        assert!(segment.is_empty());
        for text in ["a,b\n", "", "1,2\n"] {
            segment.append(&lone_piece(text.as_bytes())).unwrap();
        }
        let sealed = segment.seal(&dir).unwrap();
        assert_eq!((sealed.name.as_str(), sealed.raw_bytes), ("x_000.csv.gz", 8));
        let bytes = std::fs::read(temp.path().join("x_000.csv.gz")).unwrap();
        assert_eq!(bytes.len() as u64, sealed.len);
        let mut text = String::new();
        let mut member = flate2::bufread::GzDecoder::new(&bytes[..]);
        member.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a,b\n1,2\n");
        assert!(member.into_inner().is_empty(), "one member, nothing behind it");
        assert!(!temp.path().join("x_000.part").exists());
    }

    #[test]
    fn sealing_never_replaces_a_file_and_goes_on_where_it_failed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let taken = temp.path().join("x_000.csv.gz");
        std::fs::write(&taken, "foreign").unwrap();
        let mut segment = Segment::create(&dir, "x_000".to_owned(), Instant::now()).unwrap();
        segment.append(&lone_piece(b"1\n")).unwrap();
        assert_eq!(segment.seal(&dir).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&taken).unwrap(), b"foreign");
        std::fs::remove_file(&taken).unwrap();
        assert_eq!(segment.seal(&dir).unwrap().raw_bytes, 2);
    }

    #[test]
    fn a_file_that_somebody_removed_comes_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let mut segment = Segment::create(&dir, "x_000".to_owned(), Instant::now()).unwrap();
        segment.append(&lone_piece(b"1,2\n")).unwrap();
        std::fs::remove_file(temp.path().join("x_000.part")).unwrap();
        assert_eq!(segment.seal(&dir).unwrap().raw_bytes, 4);
        let mut text = String::new();
        let sealed = File::open(temp.path().join("x_000.csv.gz")).unwrap();
        flate2::read::GzDecoder::new(sealed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "1,2\n");
    }

    #[test]
    fn bytes_are_proven_when_written_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let mut segment = Segment::create(&dir, "x_000".to_owned(), Instant::now()).unwrap();
        segment.append(&lone_piece(b"1,2,3\n")).unwrap();
        segment.write_again().unwrap();
        segment.file.write_all_at(b"?", 12).unwrap();
        assert!(segment.write_again().is_err());
    }
}
