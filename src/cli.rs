//! Flags and subcommands: the command line and its stand-ins in the environment become one [`Command`].
//!
//! Long flags are taken with one dash or two, with `=` or a space, as the documented command lines have them. Every usage
//! error is told at once, on stderr, with exit code 2. It opens no file and starts nothing; the environment is an argument.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches};

use crate::log::Level;
use crate::schema::ddl::Dialect;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Collect and deliver.
    Run(Run),
    /// `processor check`: test the configuration and print it.
    Check(Check),
    /// `processor check -keys`: print every key of the configuration.
    Keys,
    /// `processor health`: is the process of this data directory well?
    Health {
        /// The data directory.
        data_dir: PathBuf,
        /// Also whether it is ready: source alive, room in the spool, uploads in time.
        ready: bool,
    },
    /// `processor top`: the live numbers in the terminal.
    Top {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// `processor ddl`: print the table for the configured columns.
    Ddl(Ddl),
    /// `processor sample`: print made-up rows.
    Sample(Sample),
    /// `processor generate`: write man pages and completions.
    Generate {
        /// Where to.
        dir: PathBuf,
    },
}

/// The flags of a normal run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `-config`.
    pub config: PathBuf,
    /// `-data-dir`.
    pub data_dir: PathBuf,
    /// `-log-level`.
    pub log_level: Level,
    /// `-source`, unchecked, with the name of the flag or variable it was given by.
    pub source: Option<(&'static str, String)>,
}

/// The flags of `processor check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `-config`.
    pub config: PathBuf,
    /// `-data-dir`, when it is to be looked at.
    pub data_dir: Option<PathBuf>,
    /// `-source`, unchecked, with the name of the flag or variable it was given by.
    pub source: Option<(&'static str, String)>,
    /// Try server and capture for real, too.
    pub connect: bool,
}

/// The flags of `processor ddl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ddl {
    /// The database.
    pub dialect: Dialect,
    /// `-config`.
    pub config: PathBuf,
    /// Name of the table.
    pub table: String,
    /// The header line of the files, where `aggregate` does not tell the columns.
    pub header: Option<String>,
}

/// The flags of `processor sample`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Rows to print, the header not counted.
    pub rows: u64,
    /// Chooses the rows; the same seed gives the same bytes. `None` is the generator's own.
    pub seed: Option<u64>,
    /// Seconds since 1970 at which the first flow ends. `None` is the generator's own.
    pub epoch: Option<u64>,
}

/// The command line is no command: this text is to be printed, and the program ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Answer {
    /// What to print, with its last newline.
    pub text: String,
    /// 0 for help and version, printed on stdout; 2 for usage errors, printed on stderr.
    pub code: u8,
}

const RUN_HELP: &str = "\
Examples:
  nfacctd -f /etc/pmacct/pmacct.conf | processor -config /etc/pmacct/pmacct.conf -data-dir /data
  processor -config /etc/pmacct/pmacct.conf -data-dir /data < data.csv
  processor check -config /etc/pmacct/pmacct.conf
  processor check -keys                            every processor_* key, its values and its default
  processor top -data-dir /data                    what the processor of /data is doing, live
  processor sample -rows 1000000 | processor -config pmacct.conf -data-dir /data

Environment, for flags that are not given:
  PROCESSOR_CONFIG, PROCESSOR_DATA_DIR, PROCESSOR_LOG_LEVEL, PROCESSOR_SOURCE
  PROCESSOR_FTP_PASS stands in for processor_ftp_pass

Exit codes:
  0        done; after a signal: everything sealed, what is not uploaded waits in the data dir
  1        failed at run time; the last ERROR in the log says what
  2        usage or configuration error
  3        the input ended, but files could not be uploaded and wait in the data dir
  4        the data dir is in use by another processor
  130/143  left at once on a second SIGINT or SIGTERM";

/// Reads the command line (without the program's name) and, for flags not given, the environment.
///
/// # Errors
///
/// What to print instead of running, and the exit code: help and version are 0, an unknown flag or a wrong value is 2.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Command, Answer> {
    let args = args.into_iter().map(two_dashes);
    let matches = program().try_get_matches_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayVersion => Answer { text: format!("processor {}\n", version()), code: 0 },
        _ => Answer { text: error.to_string(), code: if error.use_stderr() { 2 } else { 0 } },
    })?;
    let (matches, name) = match matches.subcommand() {
        Some((name, matches)) => (matches, name),
        None => (&matches, ""),
    };
    let mut reader = Reader { matches, environment, errors: Vec::new() };
    let command = match name {
        "check" if matches.get_flag("keys") => Command::Keys,
        "check" => Command::Check(Check {
            config: reader.path("config"),
            data_dir: reader.given("data-dir").map(PathBuf::from),
            source: reader.source(),
            connect: matches.get_flag("connect"),
        }),
        "health" => Command::Health { data_dir: reader.path("data-dir"), ready: matches.get_flag("ready") },
        "top" => Command::Top { data_dir: reader.path("data-dir") },
        "ddl" => Command::Ddl(Ddl {
            dialect: *matches.get_one("dialect").unwrap_or(&Dialect::DuckDb),
            config: reader.path("config"),
            table: matches.get_one::<String>("table").cloned().unwrap_or_default(),
            header: matches.get_one::<String>("header").cloned(),
        }),
        "generate" => Command::Generate { dir: matches.get_one("dir").cloned().unwrap_or_default() },
        "sample" => Command::Sample(Sample {
            rows: *matches.get_one("rows").unwrap_or(&0),
            seed: matches.get_one("seed").copied(),
            epoch: matches.get_one("epoch").copied(),
        }),
        _ => Command::Run(Run {
            config: reader.path("config"),
            data_dir: reader.path("data-dir"),
            log_level: reader.log_level(),
            source: reader.source(),
        }),
    };
    if reader.errors.is_empty() {
        return Ok(command);
    }
    let lines: Vec<_> = reader.errors.iter().map(|error| format!("error: {error}\n")).collect();
    Err(Answer { text: format!("{}\nFor more, try 'processor -help'.\n", lines.concat()), code: 2 })
}

/// Version, commit, target, features, libpcap: what a report of a fault should begin with.
pub fn version() -> String {
    format!(
        "{}\ncommit {}\ntarget {}\nfeatures {}\n{}",
        env!("CARGO_PKG_VERSION"),
        env!("PROCESSOR_COMMIT"),
        env!("PROCESSOR_TARGET"),
        env!("PROCESSOR_FEATURES"),
        libpcap_version(),
    )
}

/// What libpcap says of itself: `libpcap version 1.10.3 (with TPACKET_V3)`.
#[allow(unsafe_code)]
fn libpcap_version() -> String {
    #[link(name = "pcap")]
    unsafe extern "C" {
        fn pcap_lib_version() -> *const std::ffi::c_char;
    }
    // SAFETY: pcap_lib_version(3) takes nothing and returns a NUL-terminated string that lives as long as the process.
    let text = unsafe { std::ffi::CStr::from_ptr(pcap_lib_version()) };
    text.to_string_lossy().into_owned()
}

/// `-config` → `--config`. One-letter flags and everything that is no flag stay.
fn two_dashes(arg: OsString) -> OsString {
    match arg.as_bytes() {
        [b'-', first, _, ..] if first.is_ascii_alphabetic() => OsString::from_vec([b"-", arg.as_bytes()].concat()),
        _ => arg,
    }
}

/// The whole command line, for the parser, the man pages and the completions.
pub fn program() -> clap::Command {
    let check = clap::Command::new("check")
        .about("Test the configuration, print it with the origin of each value, touch nothing else")
        .args([config(), data_dir(), source()])
        .arg(switch(
            "connect",
            "Also try for real: open the capture, log in at the server, put a small file and delete it",
        ))
        .arg(switch("keys", "Print every processor_* key instead, with its values and its default"));
    let health = clap::Command::new("health")
        .about("For a container's HEALTHCHECK: exit code 0 or 1, and one line why")
        .arg(data_dir())
        .arg(switch("ready", "Fail also while nothing is read, the spool is full or uploads are late"));
    let top = clap::Command::new("top")
        .about("Show the live numbers of the processor of a data directory in the terminal; q leaves")
        .arg(data_dir());
    let sample = clap::Command::new("sample")
        .about("Print made-up flow rows in the form of nfacctd's CSV; the same seed gives the same rows")
        .arg(number("rows", "N", "Rows to print").required(true))
        .arg(number("seed", "S", "Chooses hosts, services, sizes and times"))
        .arg(number("epoch", "T", "End of the first flow, seconds since 1970"));
    let generate = clap::Command::new("generate")
        .about("Write man pages and shell completions into a directory")
        .hide(true)
        .arg(Arg::new("dir").value_name("DIR").required(true).value_parser(clap::value_parser!(PathBuf)));
    clap::Command::new("processor")
        .no_binary_name(true)
        .bin_name("processor")
        .override_usage("processor -config FILE -data-dir DIR [OPTIONS]\n       processor COMMAND")
        .about(
            "Collects network flows on a probe and delivers them, complete, as rolled .csv.gz files to an FTP server.",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(RUN_HELP)
        .max_term_width(100)
        .args_override_self(true)
        .subcommand_negates_reqs(true)
        .args([config(), data_dir()])
        .arg(text("log-level", "LEVEL", "debug, info, warn or error [default: info]"))
        .arg(source())
        .subcommands([check, health, top, ddl(), sample, generate].map(|command| command.args_override_self(true)))
}

fn source() -> Arg {
    text("source", "SOURCE", "stdin, pmacct or capture; goes before processor_source")
}

fn ddl() -> clap::Command {
    let dialects = Dialect::ALL.map(|(word, _)| word);
    let dialect = PossibleValuesParser::new(dialects).try_map(|word| {
        Dialect::ALL.into_iter().find_map(|(known, dialect)| (known == word).then_some(dialect)).ok_or("not a database")
    });
    let plain = |text: &str| {
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let named = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
        if starts && named { Ok(text.to_owned()) } else { Err("a name has letters, digits, _ and . only") }
    };
    clap::Command::new("ddl")
        .about("Print the table for the configured columns, and the statement that loads the files into it")
        .arg(Arg::new("dialect").value_name("DATABASE").required(true).help("The database").value_parser(dialect))
        .arg(config())
        .arg(text("table", "NAME", "Name of the table").default_value("flows").value_parser(plain))
        .arg(
            text("header", "LINE", "The files' header line, where aggregate does not tell their columns")
                .value_parser(clap::value_parser!(String)),
        )
}

fn config() -> Arg {
    text("config", "FILE", "The pmacct.conf with the processor_* keys")
}

fn data_dir() -> Arg {
    text("data-dir", "DIR", "The local directory that keeps files until they are uploaded")
}

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).value_parser(clap::value_parser!(OsString))
}

fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    text(name, value, help).value_parser(clap::value_parser!(u64))
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}

/// Takes flags from the command line, else from the environment, and collects what is wrong.
struct Reader<'a> {
    matches: &'a ArgMatches,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    errors: Vec<String>,
}

impl Reader<'_> {
    /// The flag's value; an empty variable is one that is not set.
    fn given(&self, flag: &str) -> Option<OsString> {
        let in_environment = || (self.environment)(&variable(flag)).filter(|value| !value.is_empty());
        self.matches.get_one::<OsString>(flag).cloned().or_else(in_environment)
    }

    fn path(&mut self, flag: &str) -> PathBuf {
        let value = self.given(flag).filter(|value| !value.is_empty());
        if value.is_none() {
            self.errors.push(format!("-{flag} is missing; give it or set {}", variable(flag)));
        }
        PathBuf::from(value.unwrap_or_default())
    }

    fn log_level(&mut self) -> Level {
        let Some(value) = self.given("log-level") else { return Level::default() };
        value.to_str().and_then(Level::parse).unwrap_or_else(|| {
            let shown = crate::log::visible(&value.to_string_lossy());
            self.errors.push(format!("-log-level: {shown} is not right; it takes debug, info, warn or error"));
            Level::default()
        })
    }

    fn source(&self) -> Option<(&'static str, String)> {
        let on_line = self.matches.get_one::<OsString>("source").is_some();
        let name = if on_line { "-source" } else { "PROCESSOR_SOURCE" };
        self.given("source").map(|value| (name, value.to_string_lossy().into_owned()))
    }
}

/// The environment variable that stands in for a flag: `data-dir` → `PROCESSOR_DATA_DIR`.
fn variable(flag: &(impl AsRef<OsStr> + ?Sized)) -> String {
    format!("PROCESSOR_{}", flag.as_ref().to_string_lossy().to_ascii_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(line: &str, environment: &[(&str, &str)]) -> Result<Command, Answer> {
        let variable =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        parse(line.split_whitespace().map(OsString::from), &variable)
    }

    fn run(line: &str) -> Run {
        match parse_with(line, &[]) {
            Ok(Command::Run(run)) => run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn all_forms_of_flags() {
        let wanted = Run { config: "c".into(), data_dir: "d".into(), log_level: Level::Info, source: None };
        for line in [
            "-config c -data-dir d",
            "-config=c -data-dir=d",
            "--config c --data-dir d",
            "--config=c --data-dir=d",
            "--data-dir d -config=c",
            "-config x -config c -data-dir d",
        ] {
            assert_eq!(run(line), wanted, "{line}");
        }
        let full = run("-config c -data-dir d -log-level DEBUG -source=capture");
        assert_eq!((full.log_level, full.source), (Level::Debug, Some(("-source", "capture".to_owned()))));
    }

    #[test]
    fn the_environment_stands_in() {
        let environment = [
            ("PROCESSOR_CONFIG", "ec"),
            ("PROCESSOR_DATA_DIR", "ed"),
            ("PROCESSOR_LOG_LEVEL", "warn"),
            ("PROCESSOR_SOURCE", "pmacct"),
        ];
        let source = Some(("PROCESSOR_SOURCE", "pmacct".to_owned()));
        let wanted = Run { config: "ec".into(), data_dir: "ed".into(), log_level: Level::Warn, source };
        assert_eq!(parse_with("", &environment), Ok(Command::Run(wanted.clone())));
        let flagged = Run { config: "c".into(), log_level: Level::Error, ..wanted };
        assert_eq!(parse_with("-config c -log-level error", &environment), Ok(Command::Run(flagged)));
        assert_eq!(parse_with("health", &environment), Ok(Command::Health { data_dir: "ed".into(), ready: false }));
        assert!(parse_with("-data-dir d", &[("PROCESSOR_CONFIG", "")]).is_err(), "an empty variable is not set");
    }

    #[test]
    fn all_usage_errors_at_once() {
        let answer = parse_with("-log-level loud", &[]).unwrap_err();
        assert_eq!(answer.code, 2);
        assert_eq!(
            answer.text,
            "error: -config is missing; give it or set PROCESSOR_CONFIG\n\
             error: -data-dir is missing; give it or set PROCESSOR_DATA_DIR\n\
             error: -log-level: loud is not right; it takes debug, info, warn or error\n\n\
             For more, try 'processor -help'.\n"
        );
        for line in ["-confg c", "frob", "-config", "sample", "sample -rows x", "check -config c extra", "health"] {
            assert_eq!(parse_with(line, &[]).expect_err(line).code, 2, "{line}");
        }
        assert!(parse_with("-confg c", &[]).unwrap_err().text.contains("--config"), "it names the nearest flag");
    }

    #[test]
    fn subcommands() {
        let check = Check { config: "c".into(), data_dir: None, source: None, connect: false };
        assert_eq!(parse_with("check -config c", &[]), Ok(Command::Check(check.clone())));
        let full = Check { data_dir: Some("d".into()), connect: true, ..check };
        assert_eq!(parse_with("check --config=c -data-dir d --connect", &[]), Ok(Command::Check(full)));
        assert_eq!(parse_with("check --keys", &[]), Ok(Command::Keys));
        assert_eq!(parse_with("top -data-dir d", &[]), Ok(Command::Top { data_dir: "d".into() }));
        let ddl = Ddl { dialect: Dialect::Spark, config: "c".into(), table: "flows".into(), header: None };
        assert_eq!(parse_with("ddl spark -config c", &[]), Ok(Command::Ddl(ddl)));
        assert!(parse_with("ddl oracle -config c", &[]).unwrap_err().text.contains("clickhouse"));
        assert!(parse_with("ddl duckdb -config c -table a;b", &[]).is_err());
        assert_eq!(parse_with("generate d", &[]), Ok(Command::Generate { dir: "d".into() }));
        let sample = Sample { rows: 5, seed: Some(7), epoch: None };
        assert_eq!(parse_with("sample --rows 5 -seed 7", &[]), Ok(Command::Sample(sample)));
    }

    #[test]
    fn help_and_version_answer_on_stdout() {
        for line in ["-help", "--help", "-h", "check -help"] {
            let answer = parse_with(line, &[]).unwrap_err();
            assert_eq!(answer.code, 0, "{line}");
            assert!(answer.text.contains("-config") && answer.text.contains("Usage: processor"), "{}", answer.text);
        }
        for line in ["-version", "--version", "-V"] {
            let answer = parse_with(line, &[]).unwrap_err();
            assert_eq!((answer.code, answer.text), (0, format!("processor {}\n", version())));
        }
        let version = version();
        let names: Vec<_> = version.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["commit", "target", "features", "libpcap"], "{version}");
    }

    #[test]
    fn the_help_as_it_is_printed() {
        let help = program().term_width(100).render_help().to_string();
        assert_eq!(help, include_str!("../tests/it/golden/help.txt"));
    }

    #[test]
    fn paths_need_not_be_utf8() {
        let args = ["-config", "", "-data-dir", "d"].map(OsString::from);
        assert!(parse(args, &|_| None).is_err(), "an empty path is none");
        let odd = OsString::from_vec(b"-config=/\xff".to_vec());
        let Ok(Command::Run(run)) = parse([odd, "-data-dir=d".into()], &|_| None) else { panic!("it is a path") };
        assert_eq!(run.config.as_os_str().as_bytes(), b"/\xff");
    }
}
