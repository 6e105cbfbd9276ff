//! The private directory of a run, and where the daemons' programs are.
//!
//! The directory holds the two configuration files. It is 0700 and its files are 0600, and a file is made anew, never
//! followed or reused: what lies there decides what root-owned daemons do.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::conf::Split;
use crate::supervise::Daemon;

/// The directory could not be made ours.
#[derive(Debug, thiserror::Error)]
#[error("{op} {path}: {source}")]
pub struct PlaceError {
    op: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The private directory while it is in use; removed when dropped.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// Makes the directory, empties it of what an earlier run left, and writes the daemons' files.
    pub(super) fn make(path: &Path, split: &Split) -> Result<Self, PlaceError> {
        make_private(path)?;
        let place = Self(path.to_owned());
        place.clear().map_err(|source| PlaceError { op: "emptying", path: path.to_owned(), source })?;
        for daemon in Daemon::BOTH {
            let file = place.conf(daemon);
            write_private(&file, split.text(daemon)).map_err(|source| PlaceError {
                op: "writing",
                path: file,
                source,
            })?;
        }
        Ok(place)
    }

    /// A daemon's configuration file.
    pub(super) fn conf(&self, daemon: Daemon) -> PathBuf {
        self.0.join(daemon.program()).with_extension("conf")
    }

    /// Removes the files that we or the daemons make here, and nothing else.
    fn clear(&self) -> io::Result<()> {
        for name in ["nfacctd.conf", "pmacctd.conf"] {
            match fs::remove_file(self.0.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is removed by the next run.
        let _ = self.clear();
        let _ = fs::remove_dir(&self.0);
    }
}

/// Makes a directory that only we can enter, or makes sure that an existing one is that.
fn make_private(path: &Path) -> Result<(), PlaceError> {
    let fail = |op| move |source| PlaceError { op, path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail("making the directory")(error)),
    }
    let found = fs::symlink_metadata(path).map_err(fail("looking at"))?;
    if !found.is_dir() {
        return Err(fail("using")(io::ErrorKind::NotADirectory.into()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(fail("using")(io::Error::other("it belongs to another user")));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fail("closing to others"))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// A daemon's program was not found.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Neither on PATH nor in the usual places.
    #[error("{0} is not on PATH; install pmacct, or name the program with processor_{0}_path")]
    NotFound(&'static str),
    /// The configured path is no program.
    #[error("processor_{program}_path: {path} is not a program that can be run")]
    NotRunnable {
        /// The daemon.
        program: &'static str,
        /// As configured.
        path: PathBuf,
    },
}

/// Where to look besides PATH: the images and packages put the daemons in directories for administrators, which a service's
/// PATH may lack.
const USUAL: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// Finds a daemon's program: the configured one, or the first on `path`, the value of PATH.
pub(super) fn find(daemon: Daemon, configured: Option<&Path>, path: Option<&str>) -> Result<PathBuf, ProgramError> {
    let program = daemon.program();
    if let Some(configured) = configured {
        let is_good = is_runnable(configured);
        return is_good
            .then(|| configured.to_owned())
            .ok_or_else(|| ProgramError::NotRunnable { program, path: configured.to_owned() });
    }
    let on_path = path.unwrap_or_default().split(':').filter(|dir| !dir.is_empty());
    on_path
        .chain(USUAL)
        .map(|dir| Path::new(dir).join(program))
        .find(|path| is_runnable(path))
        .ok_or(ProgramError::NotFound(program))
}

fn is_runnable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmacctconf::Text;
    use crate::source::pmacct::conf::split;

    #[test]
    fn the_place_is_private_and_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        fs::write(path.join("nfacctd.conf"), "old").unwrap();
        let split = split(&Text::default(), &|_| None);
        let place = Place::make(&path, &split).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for daemon in Daemon::BOTH {
            assert_eq!(mode(&place.conf(daemon)), 0o600);
            assert_eq!(fs::read_to_string(place.conf(daemon)).unwrap(), split.text(daemon));
        }
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn a_link_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        std::os::unix::fs::symlink(parent.path(), &path).unwrap();
        let error = Place::make(&path, &split(&Text::default(), &|_| None)).unwrap_err();
        assert!(error.to_string().starts_with("using "), "{error}");
    }

    #[test]
    fn programs_are_found_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("nfacctd");
        let path = dir.path().to_str();
        fs::write(&program, "").unwrap();
        let error = find(Daemon::Collector, Some(&program), None).unwrap_err();
        assert!(error.to_string().contains("processor_nfacctd_path"), "{error}");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(Daemon::Collector, None, path).unwrap(), program);
        assert_eq!(find(Daemon::Collector, Some(&program), None).unwrap(), program);
    }
}
