//! Checked settings: the `processor_*` keys of a pmacct.conf become one small `Options` per room.
//!
//! All errors are found at once, each with its file, line, key, value and the right form. What is merely odd is a warning
//! for the log. Each value knows where it came from. A password never shows: not in an error, not in `processor check`, not
//! in `Debug`.
//!
//! Only `app` and `main` know this room. It opens the configuration, the password file and the CA file, and nothing else;
//! it never touches the data directory or the network.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub mod keys;
mod traps;

use crate::clock::Zone;
use crate::log::{self, Event, Lang};
use crate::pmacctconf::{self, Withheld, guess};
use crate::remote::ftp;
use crate::secret::{self, Secret};
use crate::{check, pack, pipeline, report, spool, uploader};
use keys::{KEYS, Key, Kind};

/// Bytes of a configuration file. pmacct itself reads 8224 lines; a larger file is not a configuration.
const MOST_BYTES: u64 = 4 << 20;

/// Slips of the pen up to which a line that cannot be read is taken for one with a known key.
const MOST_SLIPS: usize = 4;

/// One MiB, the unit of every `_mb` key.
const MIB: u64 = 1 << 20;

/// What beside the file decides: the command line, the environment, the machine.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The configuration file.
    pub path: PathBuf,
    /// The data directory; empty where none is needed.
    pub data_dir: PathBuf,
    /// `-source` or `PROCESSOR_SOURCE`, unchecked, with the name it was given by; goes before the file's.
    pub source: Option<(&'static str, String)>,
    /// `-log-level`.
    pub log_level: log::Level,
    /// `PROCESSOR_FTP_PASS`.
    pub ftp_pass: Option<Secret>,
    /// The host name, for `{host}` and the report's uuid.
    pub host: String,
    /// Processors that this process may use.
    pub cores: usize,
}

impl Inputs {
    /// The inputs of this machine: its name, its cores, `PROCESSOR_FTP_PASS`.
    pub fn here(path: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        let pass = std::env::var_os("PROCESSOR_FTP_PASS").filter(|pass| !pass.is_empty());
        Self {
            path: path.into(),
            data_dir: data_dir.into(),
            source: None,
            log_level: log::Level::default(),
            ftp_pass: pass.map(|pass| Secret::new(pass.to_string_lossy())),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// `processor_source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceKind {
    /// Lines from standard input.
    #[default]
    Stdin,
    /// The supervised daemons of pmacct.
    Pmacct,
    /// Embedded capture.
    Capture,
}

impl SourceKind {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Pmacct => "pmacct",
            Self::Capture => "capture",
        }
    }
}

/// The programs of source `pmacct`; `None` is the one found in `PATH`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// `processor_pmacctd_path`.
    pub pmacctd: Option<PathBuf>,
    /// `processor_nfacctd_path`.
    pub nfacctd: Option<PathBuf>,
}

/// Everything that was configured, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Where lines come from.
    pub source: SourceKind,
    /// Where files go; `None` leaves them in the data directory.
    pub ftp: Option<ftp::Options>,
    /// Threads, intervals, sizes.
    pub pipeline: pipeline::Options,
    /// How long the end may take after a signal, less the second that the contract allows beyond it.
    pub shutdown_timeout: Duration,
    /// The parse stage.
    pub check: check::Options,
    /// Compression.
    pub level: pack::Level,
    /// The data directory.
    pub spool: spool::Options,
    /// Upload passes.
    pub uploader: uploader::Options,
    /// The status report, when enabled.
    pub report: Option<report::Options>,
    /// The log.
    pub log: log::Options,
    /// Where metrics are served; `None` is nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The host's name.
    pub host: String,
    /// Threads that share an interface's packets.
    pub capture_threads: u32,
    /// The daemons' programs.
    pub programs: Programs,
    /// The whole file, for the sources that read pmacct's keys.
    pub text: pmacctconf::Text,
    /// What the log should say about the configuration, in order.
    pub warnings: Vec<Event>,
    /// Every key with its effective value.
    pub settings: Vec<Setting>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Not given.
    Default,
    /// This line of the configuration file.
    Line(u32),
    /// A flag or an environment variable of this name.
    Named(&'static str),
    /// The file that `processor_ftp_pass_file` names.
    PassFile(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Named(name) => f.write_str(name),
            Self::PassFile(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The effective value of one key.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// The value as it may be shown.
    pub shown: String,
    /// Where it came from.
    pub origin: Origin,
}

/// One error of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE`, the file, or the name of a flag or variable.
    pub place: String,
    /// The line in the configuration file; 0 when it is about no line.
    pub line: u32,
    /// The key, or the fault itself where it is about no key.
    pub key: String,
    /// What is wrong and what would be right, without secrets.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.key.is_empty() { "" } else { ": " };
        write!(f, "{}: {}{separator}{}", self.place, self.key, self.text)
    }
}

/// The configuration cannot be used: every reason, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Rejected(pub Vec<Problem>);

impl Rejected {
    /// Puts the problems in the order of the file; what is about no line, such as a missing key, comes last.
    pub fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.line.wrapping_sub(1));
        Self(problems)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            // A key or a value of the file may hold what a terminal would obey.
            write!(f, "{newline}{}", log::visible(&problem.to_string()))?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads the file that `inputs` names, and the problems of our own keys. Where there are any, the values are of no use
    /// but to find more.
    ///
    /// # Errors
    ///
    /// Why the file cannot be read.
    pub fn read(inputs: &Inputs) -> Result<(Self, Vec<Problem>), Rejected> {
        let text = read_bounded(&inputs.path).map_err(|error| {
            let text = format!("cannot be read: {error}; give the pmacct.conf with -config");
            Rejected(vec![Problem { place: inputs.path.display().to_string(), line: 0, key: String::new(), text }])
        })?;
        let (mut config, problems) = Self::judge(&text, inputs, &read_bounded);
        config.warnings.extend(config.readable_secrets());
        Ok((config, problems))
    }

    /// Reads and checks the file that `inputs` names, our own keys only.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, all at once; or why it cannot be read.
    pub fn load(inputs: &Inputs) -> Result<Self, Rejected> {
        let (config, problems) = Self::read(inputs)?;
        if problems.is_empty() { Ok(config) } else { Err(Rejected::new(problems)) }
    }

    /// Checks the bytes of a configuration file. Pure but for `read`, which reads the files that the configuration names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, all at once, each with its line and what would be right.
    pub fn check(text: &[u8], inputs: &Inputs, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Self, Rejected> {
        let (config, problems) = Self::judge(text, inputs, read);
        if problems.is_empty() { Ok(config) } else { Err(Rejected::new(problems)) }
    }

    fn judge(text: &[u8], inputs: &Inputs, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> (Self, Vec<Problem>) {
        let text = pmacctconf::Text::read(text);
        let mut given = Given::new(&text, inputs);
        let config = build(&mut given, inputs, read);
        if !given.problems.is_empty() {
            // What seems to be missing may only be misspelt.
            given.problems.extend(config.warnings.iter().filter_map(misspelt));
        }
        (Self { text, ..config }, given.problems)
    }

    /// The line that sets a key of ours; 0 when none does.
    pub fn line_of(&self, key: &str) -> u32 {
        let origin = self.settings.iter().find(|setting| setting.key.name == key).map(|setting| &setting.origin);
        if let Some(Origin::Line(line)) = origin { *line } else { 0 }
    }

    /// The first line of the log.
    pub fn loaded(&self) -> Event {
        Event::ConfigLoaded {
            ftp: self.ftp.as_ref().map_or_else(|| "none".to_owned(), ftp::Options::address),
            rotate_interval: self.pipeline.rotate_interval,
            rotate_mb: self.pipeline.rotate_bytes / MIB,
            upload_interval: self.uploader.interval,
        }
    }

    /// Every value with its origin, then the warnings and those of others. Secrets are masked.
    pub fn describe(&self, notes: &[String]) -> String {
        let (path, ours, foreign) = (self.path.display(), self.text.ours().count(), self.text.foreign().count());
        let mut lines = vec![format!("{path}: {ours} keys of processor, {foreign} of pmacct"), String::new()];
        let width = |of: &dyn Fn(&Setting) -> usize| self.settings.iter().map(of).max().unwrap_or(0);
        let (names, values) = (width(&|s| s.key.name.len()), width(&|s| s.shown.chars().count()).min(40));
        for Setting { key, shown, origin } in &self.settings {
            lines.push(format!("{:names$}  {shown:values$}  {origin}", key.name));
        }
        lines.push(String::new());
        lines.extend(
            self.warnings.iter().map(|warning| format!("warning: {}", log::visible(&warning.message(Lang::En)))),
        );
        lines.extend(notes.iter().map(|note| log::visible(note)));
        if self.warnings.is_empty() && notes.is_empty() {
            lines.push("no warnings".to_owned());
        }
        if self.ftp.is_some() && self.spool.prefix == "flows_" {
            lines.push(
                "note: every probe that keeps the prefix flows_ makes the same names; where several share a directory of the \
                 server, FTP cannot keep one from overwriting another's file: processor_file_prefix: flows_{host}_"
                    .to_owned(),
            );
        }
        lines.join("\n") + "\n"
    }

    /// A warning for each file with a password that others may read.
    fn readable_secrets(&self) -> Vec<Event> {
        let pass = self.settings.iter().find(|setting| setting.key.kind == Kind::Secret);
        let path = match pass.map(|pass| &pass.origin) {
            Some(Origin::Line(_)) => self.path.clone(),
            Some(Origin::PassFile(path)) => path.clone(),
            _ => return Vec::new(),
        };
        let public = std::fs::metadata(&path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0);
        if public { vec![Event::ConfigPublic { path }] } else { Vec::new() }
    }
}

/// The warning of an unknown key as a problem beside others.
fn misspelt(warning: &Event) -> Option<Problem> {
    let (path, line, key, text) = match warning {
        Event::UnknownKey { path, line, key, nearest } => {
            (path, line, key.clone(), format!("is unknown; the nearest known key is {nearest}"))
        }
        Event::UnknownSecretKey { path, line, nearest } => {
            (path, line, (*nearest).to_owned(), "is misspelt; nothing of the line is shown".to_owned())
        }
        Event::LineWithheld { path, line } => {
            let text = "an unknown key, which may be a password's, or the rest of the password before; it is not shown";
            (path, line, "the line".to_owned(), text.to_owned())
        }
        _ => return None,
    };
    let place = format!("{}:{line}", path.display());
    Some(Problem { place, line: u32::try_from(*line).unwrap_or(0), key, text })
}

/// What in a value is likely not meant, though it may be.
fn doubt(key: &Key, line: &pmacctconf::Line) -> Option<&'static str> {
    let value = line.unquoted();
    let is_text = matches!(key.kind, Kind::Text | Kind::Path | Kind::Secret);
    let has_comment = value.char_indices().any(|(at, c)| c == '#' && value[..at].ends_with(char::is_whitespace));
    if is_text && has_comment {
        Some("has a '#' in its value, which belongs to it: there are no comments behind a value")
    } else if is_text && (value.starts_with(['“', '”', '‘', '’']) || value.ends_with(['“', '”', '‘', '’']))
    {
        Some("has a curly quotation mark at an end of its value, which belongs to it")
    } else if key.kind == Kind::Secret && value.len() < line.value.len() {
        Some("stands in quotation marks, which do not belong to it; double them if they do")
    } else {
        None
    }
}

/// Reads a file that must not be larger than [`MOST_BYTES`].
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {} MiB", MOST_BYTES / MIB)));
    }
    Ok(bytes)
}

/// The values that were given, and what is wrong with them.
struct Given {
    path: PathBuf,
    /// There is no key of ours at all, so that none is said to be missing.
    is_foreign: bool,
    values: HashMap<&'static str, (String, Origin)>,
    problems: Vec<Problem>,
    warnings: Vec<Event>,
}

impl Given {
    /// Collects values and checks each by its kind. An empty value is one that was not given: the documented sample has them.
    fn new(text: &pmacctconf::Text, inputs: &Inputs) -> Self {
        let mut given = Self {
            path: inputs.path.clone(),
            is_foreign: false,
            values: HashMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        if text.is_utf16 {
            given.is_foreign = true;
            given.problem(&Origin::Default, "", "is UTF-16; save it as UTF-8".to_owned());
            return given;
        }
        given.take_lines(text);
        given.name_damage(text);
        if let Some((name, source)) = &inputs.source {
            given.take_named("processor_source", source, name);
        }
        if let Some(pass) = &inputs.ftp_pass
            && !given.has("processor_ftp_pass")
            && !given.has("processor_ftp_pass_file")
        {
            given.take_named("processor_ftp_pass", pass.reveal(), "PROCESSOR_FTP_PASS");
        }
        if text.ours().next().is_none() && given.problems.is_empty() {
            given.is_foreign = true;
            let text = "has no processor_* key; add at least processor_ftp_host, processor_ftp_user and processor_ftp_pass \
                        as key: value (comment lines are not read)";
            given.problem(&Origin::Default, "", text.to_owned());
        }
        given
    }

    fn take_lines(&mut self, text: &pmacctconf::Text) {
        let mut lines: HashMap<&'static str, u32> = HashMap::new();
        for line in text.ours() {
            let (path, number) = (self.path.clone(), u64::from(line.number));
            let Some(key) = Key::named(&line.key) else {
                let (nearest, is_secret) = Key::meant(|name, fit| line.slips_from(name, fit), line.is_secret());
                self.warnings.push(if is_secret {
                    Event::UnknownSecretKey { path, line: number, nearest: nearest.name }
                } else {
                    Event::UnknownKey { path, line: number, key: line.shown_key().to_owned(), nearest: nearest.name }
                });
                continue;
            };
            if let Some(earlier) = lines.insert(key.name, line.number) {
                self.warnings.push(Event::DuplicateKey {
                    path,
                    line: number,
                    key: key.name,
                    ignored_line: earlier.into(),
                });
            }
            let value = if line.is_utf8 { Some(line.unquoted()) } else { None };
            self.take(key, value, Origin::Line(line.number));
            if let Some(doubt) = doubt(key, line) {
                self.warn(key.name, doubt);
            }
        }
    }

    /// Lines that cannot be read, or that nobody may see. Nothing of them is shown: any of them may hold the password.
    fn name_damage(&mut self, file: &pmacctconf::Text) {
        for damaged in file.damaged.iter().filter(|damaged| damaged.is_ours()) {
            let (key, _) = Key::meant(|name, _| damaged.slips_from(name), false);
            let key = if damaged.slips_from(key.name) <= MOST_SLIPS { key.name } else { pmacctconf::OURS };
            self.problem(&Origin::Line(damaged.number), key, damaged.fault.to_string());
        }
        for &(number, why) in &file.withheld {
            match why {
                Withheld::TwoLines => {
                    let text =
                        "holds a control character or a second key, perhaps that of a secret; write one key a line";
                    let line = file.ours().find(|line| line.number == number);
                    let key = line.and_then(|line| Key::named(&line.key)).map_or("the line", |key| key.name);
                    self.problem(&Origin::Line(number), key, text.to_owned());
                }
                Withheld::Unknown => {
                    let (path, line) = (self.path.clone(), u64::from(number));
                    self.warnings.push(Event::LineWithheld { path, line });
                }
            }
        }
    }

    fn take_named(&mut self, name: &str, value: &str, origin: &'static str) {
        if let Some(key) = Key::named(name) {
            self.take(key, Some(value), Origin::Named(origin));
        }
    }

    /// Takes one value; `None` is one that is not UTF-8. A later value replaces an earlier one, and so does its fault.
    fn take(&mut self, key: &'static Key, value: Option<&str>, origin: Origin) {
        self.problems.retain(|problem| problem.key != key.name);
        self.values.remove(key.name);
        let Some(value) = value else {
            return self.problem(&origin, key.name, "its value is not UTF-8; save the file as UTF-8".to_owned());
        };
        if value.is_empty() {
            return;
        }
        if key.is_default_at(value) {
            let path = self.path.clone();
            let line = if let Origin::Line(line) = origin { line.into() } else { 0 };
            let text = format!("{}: {value} is taken as the default, {}", key.name, key.default);
            return self.warnings.push(Event::ConfigWarning { path, line, text });
        }
        if !key.kind.accepts(value) {
            let why = if value.chars().any(char::is_control) { "has a control character" } else { "is not right" };
            // What is wrong behind a blank may be anything.
            let (first, more) = value.split_once(char::is_whitespace).map_or((value, ""), |(first, _)| (first, " …"));
            let more = if key.kind == Kind::Secret { "" } else { more };
            let text = format!("{}{more} {why}; it takes {}", shown(key, first), key.kind.form());
            return self.problem(&origin, key.name, text);
        }
        self.values.insert(key.name, (value.to_owned(), origin));
    }

    fn problem(&mut self, origin: &Origin, key: &str, text: String) {
        let path = self.path.display();
        let (place, line) = match origin {
            Origin::Default => (path.to_string(), 0),
            Origin::Line(line) => (format!("{path}:{line}"), *line),
            Origin::Named(_) | Origin::PassFile(_) => (origin.to_string(), 0),
        };
        self.problems.push(Problem { place, line, key: key.to_owned(), text });
    }

    /// A warning about the line of `name`.
    fn warn(&mut self, name: &str, text: &str) {
        let line = match self.origin(name) {
            Origin::Line(line) => line.into(),
            _ => 0,
        };
        self.warnings.push(Event::ConfigWarning { path: self.path.clone(), line, text: format!("{name} {text}") });
    }

    fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    fn origin(&self, name: &str) -> Origin {
        self.values.get(name).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// The value given, or the default; `None` where the default is a description.
    fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some((value, _)) => Some(value),
            None => Key::named(name).and_then(Key::default_value),
        }
    }

    /// The value of a key that must be there; its absence is a problem unless a wrong value was one already.
    fn required(&mut self, name: &str, why: &str) -> String {
        if let Some(value) = self.text(name) {
            return value.to_owned();
        }
        if !self.problems.iter().any(|problem| problem.key == name) {
            let form = Key::named(name).map(|key| key.about).unwrap_or_default();
            self.problem(&Origin::Default, name, format!("is missing, but {why}; give the {form}"));
        }
        String::new()
    }

    /// A number of the table; checked before, so that 0 stands only for one that is a problem already.
    fn number(&self, name: &str) -> u64 {
        self.text(name).and_then(keys::whole).unwrap_or(0)
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).and_then(keys::flag).unwrap_or(false)
    }

    fn seconds(&self, name: &str) -> Duration {
        Duration::from_secs(self.number(name))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// The value that goes with the word given for a choice.
    fn choice<T>(&self, name: &str, values: impl IntoIterator<Item = (&'static str, T)>) -> Option<T> {
        let word = self.text(name)?;
        values.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, value)| value)
    }
}

/// Builds every room's options. After a problem the result is thrown away, so that wrong values may be anything here.
fn build(given: &mut Given, inputs: &Inputs, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Config {
    let zone = given.text("processor_timezone").and_then(Zone::parse).unwrap_or_default();
    let sources = [SourceKind::Stdin, SourceKind::Pmacct, SourceKind::Capture].map(|kind| (kind.name(), kind));
    let source = given.choice("processor_source", sources).unwrap_or_default();
    let ftp = match given.choice("processor_upload", [("ftp", true), ("none", false)]) {
        // Without any key of ours the one problem that says so is enough.
        Some(true) if !given.is_foreign => Some(ftp(given, read)),
        _ => None,
    };
    let mut config = Config {
        path: inputs.path.clone(),
        source,
        ftp,
        pipeline: pipeline(given, inputs),
        shutdown_timeout: given.seconds("processor_shutdown_timeout_sec"),
        check: check(given, zone),
        level: level(given),
        spool: spool(given, inputs, zone),
        uploader: uploader::Options {
            interval: given.seconds("processor_upload_interval_sec"),
            connections: given.number("processor_ftp_connections") as usize,
        },
        report: report(given, inputs, zone),
        log: log_options(given, inputs, zone),
        metrics_listen: given.text("processor_metrics_listen").and_then(keys::listen),
        host: inputs.host.clone(),
        capture_threads: given.number("processor_capture_threads") as u32,
        programs: Programs {
            pmacctd: given.path("processor_pmacctd_path"),
            nfacctd: given.path("processor_nfacctd_path"),
        },
        text: pmacctconf::Text::default(),
        warnings: Vec::new(),
        settings: Vec::new(),
    };
    config.settings = settings(given, &config, inputs);
    config.warnings = std::mem::take(&mut given.warnings);
    config
}

fn ftp(given: &mut Given, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> ftp::Options {
    const WHY: &str = "required while processor_upload is ftp";
    pass_from_file(given, read);
    let ca = given.path("processor_ftp_tls_ca");
    let tls = given.choice("processor_ftp_tls", [("off", false), ("explicit", true)]).unwrap_or_default();
    match &ca {
        Some(_) if !tls => given.warn("processor_ftp_tls_ca", "does nothing while processor_ftp_tls is off"),
        Some(path) => {
            if let Err(error) = read(path) {
                let text = format!("{} cannot be read: {error}", path.display());
                given.problem(&given.origin("processor_ftp_tls_ca"), "processor_ftp_tls_ca", text);
            }
        }
        None => {}
    }
    ftp::Options {
        host: keys::host(&given.required("processor_ftp_host", WHY)).unwrap_or_default().to_owned(),
        port: given.number("processor_ftp_port") as u16,
        user: given.required("processor_ftp_user", WHY),
        pass: Secret::new(given.required("processor_ftp_pass", WHY)),
        dir: given.text("processor_ftp_dir").unwrap_or("/").to_owned(),
        timeout: given.seconds("processor_ftp_timeout"),
        tls: if tls { ftp::Tls::Explicit { ca } } else { ftp::Tls::Off },
        mode: given
            .choice("processor_ftp_mode", [("passive", ftp::Mode::Passive), ("active", ftp::Mode::Active)])
            .unwrap_or_default(),
        put: given
            .choice("processor_ftp_put", [("rename", ftp::Put::Rename), ("direct", ftp::Put::Direct)])
            .unwrap_or_default(),
        charset: given
            .choice("processor_ftp_charset", [("utf-8", ftp::Charset::Utf8), ("gbk", ftp::Charset::Gbk)])
            .unwrap_or_default(),
    }
}

/// Reads `processor_ftp_pass_file` into `processor_ftp_pass`, unless that one was given itself.
fn pass_from_file(given: &mut Given, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) {
    const FILE: &str = "processor_ftp_pass_file";
    let (Some(path), Some(key)) = (given.path(FILE), Key::named("processor_ftp_pass")) else { return };
    if given.has(key.name) {
        given.warn(FILE, "does nothing because processor_ftp_pass is given too");
        return;
    }
    match read(&path) {
        Ok(bytes) => {
            let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                let text = format!("the first line of {} is empty; it must be the password", path.display());
                given.problem(&given.origin(FILE), key.name, text);
            } else {
                given.take(key, std::str::from_utf8(line).ok(), Origin::PassFile(path));
            }
        }
        Err(error) => {
            let text = format!("cannot be read from {}: {error}", path.display());
            given.problem(&given.origin(FILE), key.name, text);
        }
    }
}

fn pipeline(given: &Given, inputs: &Inputs) -> pipeline::Options {
    let workers = match given.number("processor_compress_threads") {
        0 => inputs.cores.clamp(1, 64),
        threads => threads as usize,
    };
    pipeline::Options {
        workers,
        flush_interval: Duration::from_millis(given.number("processor_flush_interval_ms")),
        rotate_interval: given.seconds("processor_rotate_interval_sec"),
        rotate_bytes: given.number("processor_rotate_size_mb") * MIB,
    }
}

fn check(given: &Given, zone: Zone) -> check::Options {
    use check::{BadLines, HeaderMode};
    let headers = [("keep", HeaderMode::Keep), ("each-file", HeaderMode::EachFile), ("none", HeaderMode::None)];
    let bad_lines = [("keep", BadLines::Keep), ("quarantine", BadLines::Quarantine)];
    check::Options {
        header: given.choice("processor_csv_header", headers).unwrap_or_default(),
        bad_lines: given.choice("processor_bad_lines", bad_lines).unwrap_or_default(),
        convert_to: given.flag("processor_convert_timestamps").then_some(zone),
    }
}

fn level(given: &Given) -> pack::Level {
    match given.number("processor_gzip_level") {
        0 => pack::Level::Auto,
        level => pack::Level::Zlib(level as u32),
    }
}

fn spool(given: &Given, inputs: &Inputs, zone: Zone) -> spool::Options {
    use spool::WhenFull;
    let full = [("block", WhenFull::Block), ("drop-oldest", WhenFull::DropOldest)];
    let max = given.number("processor_spool_max_mb");
    spool::Options {
        dir: inputs.data_dir.clone(),
        prefix: given
            .text("processor_file_prefix")
            .unwrap_or_default()
            .replace("{host}", &file_name_part(&inputs.host)),
        zone,
        max_bytes: (max > 0).then_some(max * MIB),
        min_free: given.number("processor_spool_min_free_mb") * MIB,
        when_full: given.choice("processor_spool_full", full).unwrap_or_default(),
    }
}

/// A host name with nothing in it that a file name may not have; at most 63 bytes, as DNS labels are.
fn file_name_part(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    let name: String = host.chars().take(63).map(plain).collect();
    // A name that begins with a dot is a hidden file, which nobody looks at.
    if name.starts_with('.') { name.replacen('.', "-", 1) } else { name }
}

fn report(given: &mut Given, inputs: &Inputs, zone: Zone) -> Option<report::Options> {
    if !given.flag("processor_status_report_enabled") {
        return None;
    }
    let url = given.text("processor_status_report_url").map(report::Url::new);
    let file = given.path("processor_status_report_file_path");
    let wrong = given.problems.iter().any(|problem| problem.key.starts_with("processor_status_report"));
    if url.is_none() && file.is_none() && !wrong {
        let text = "is on, but there is neither processor_status_report_url nor processor_status_report_file_path";
        let key = "processor_status_report_enabled";
        given.problem(&given.origin(key), key, text.to_owned());
    }
    Some(report::Options {
        url,
        interval: given.seconds("processor_status_report_interval_sec"),
        uuid: given.text("processor_status_report_uuid").unwrap_or(&inputs.host).to_owned(),
        file,
        file_max_bytes: given.number("processor_status_report_file_max_mb") * MIB,
        file_backups: given.number("processor_status_report_file_backups") as u32,
        zone,
    })
}

fn log_options(given: &Given, inputs: &Inputs, zone: Zone) -> log::Options {
    log::Options {
        level: inputs.log_level,
        format: given
            .choice("processor_log_format", [("text", log::Format::Text), ("json", log::Format::Json)])
            .unwrap_or_default(),
        lang: given.choice("processor_log_lang", [("zh", Lang::Zh), ("en", Lang::En)]).unwrap_or_default(),
        zone,
    }
}

/// Every key with the value that counts, ready to be shown.
fn settings(given: &Given, config: &Config, inputs: &Inputs) -> Vec<Setting> {
    let setting = |key: &'static Key| {
        let described = match key.name {
            "processor_compress_threads" => format!("{} (cores)", config.pipeline.workers),
            "processor_status_report_uuid" => format!("{} (host name)", inputs.host),
            _ => key.default.to_owned(),
        };
        let shown = match given.values.get(key.name) {
            Some(_) if key.name == "processor_file_prefix" => config.spool.prefix.clone(),
            Some((value, _)) => shown(key, value),
            None => described,
        };
        Setting { key, shown, origin: given.origin(key.name) }
    };
    KEYS.iter().map(setting).collect()
}

/// A value as people may see it: secrets masked, also those in a URL, control characters escaped.
fn shown(key: &Key, value: &str) -> String {
    match key.kind {
        Kind::Secret => "***".to_owned(),
        // A path may be called so; other words behind a blank may be the rest of a line of somebody's.
        _ if value.split_whitespace().skip(1).any(guess::is_secret) => "***".to_owned(),
        _ => log::visible(&secret::without_login(value)),
    }
}

#[cfg(test)]
mod tests;
