//! What the daemons say on stderr, line by line, and what it means.
//!
//! pmacct has no other interface: that a collector listens, that it discards a window, how many packets an interface lost,
//! all of it comes as a line of text such as
//!
//! ```text
//! WARN ( default_print/print ): Maximum number of writer processes reached (10).
//! ```
//!
//! The texts are those of 1.7.7 to 1.7.9, recorded from the daemons. A line that is not known stays a line with its level: an
//! unknown text is never an error. Pure functions over one line; nothing is read, kept or counted here.

/// How urgent the daemon thinks the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `DEBUG`.
    Debug,
    /// `INFO`, `NOTICE`, and lines without a level.
    Info,
    /// `WARN`.
    Warn,
    /// `ERROR`, `ALERT`, `CRIT` and what the C library prints when it ends a process.
    Error,
}

/// One line: its level, who said it, the text, and what we know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// The daemon's own level; lines that come with every window or report are lowered to `Debug`.
    pub level: Level,
    /// The process: `default/core`, `default_print/print`. Empty when the line does not say.
    pub who: &'a str,
    /// The rest of the line.
    pub text: &'a str,
    /// Its meaning.
    pub meaning: Meaning<'a>,
}

/// What a line means to the supervision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// Nothing that we act on.
    Other,
    /// The program and its version, as `1.7.7`.
    Version(&'a str),
    /// The collector's socket is bound and read.
    Listening,
    /// The receive buffer that the kernel granted, and what was asked for, bytes. The kernel reports twice what it grants.
    ReceiveBuffer {
        /// As `getsockopt` tells it: twice the usable size.
        obtained: u64,
        /// As configured.
        target: u64,
    },
    /// A key that the daemon does not know.
    UnknownKey {
        /// Line in the file, the same as in the operator's.
        line: u32,
        /// The key.
        key: &'a str,
    },
    /// A value that the daemon does not take; it runs with its default.
    InvalidValue {
        /// Line in the file, the same as in the operator's.
        line: u32,
    },
    /// Ten writers wait for the reader: the window that should be printed now is lost.
    WritersExhausted,
    /// The ring between core and plugin overflowed.
    MissingData,
    /// The packet filter did not compile; everything is captured.
    FilterIgnored,
    /// The interface has vanished.
    InterfaceGone,
    /// A plugin is dead; the core will end.
    PluginLost,
    /// No CSV will come: the plugin line was not understood.
    NoPrinter,
    /// `pmacctd`'s count for one interface since its start.
    Captured {
        /// The interface.
        interface: &'a str,
        /// Packets that passed the filter.
        received: u64,
        /// Packets that the kernel dropped because `pmacctd` was too slow.
        dropped: u64,
    },
    /// `nfacctd`'s count for one exporter since its start.
    Collected {
        /// Address and observation domain of the exporter.
        agent: &'a str,
        /// Datagrams.
        datagrams: u64,
        /// Datagrams whose sequence number was the next one.
        in_sequence: u64,
        /// Gaps: records were lost on the way.
        gaps: u64,
        /// Steps back: reordered, or the exporter was restarted.
        steps_back: u64,
    },
    /// `nfacctd`'s count of datagrams that it could not use since its start.
    Discarded(u64),
    /// The exporter's plugin sends all that it holds and ends.
    Flushing,
    /// The print plugin has started a writer for the window that is over.
    Printing,
    /// A writer has finished a window of this many rows, of so many that it should have printed.
    Printed {
        /// Rows written, by the writer's own account.
        rows: u64,
        /// Rows in the window.
        of: u64,
    },
}

/// Reads one line, without its newline.
pub fn read(line: &str) -> Said<'_> {
    let line = line.trim_end();
    let (level, rest) = level_of(line);
    let (who, text) = speaker(rest);
    let meaning = meaning_of(text);
    let level = match meaning {
        Meaning::Captured { .. } | Meaning::Collected { .. } | Meaning::Discarded(_) | Meaning::Printed { .. } => {
            Level::Debug
        }
        _ if level == Level::Info && is_chatter(text) => Level::Debug,
        _ => level,
    };
    Said { level, who, text, meaning }
}

fn level_of(line: &str) -> (Level, &str) {
    let word_end = line.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(line.len());
    let level = match &line[..word_end] {
        "DEBUG" => Level::Debug,
        "INFO" | "NOTICE" => Level::Info,
        "WARN" | "WARNING" => Level::Warn,
        "ERROR" | "ERR" | "ALERT" | "CRIT" | "EMERG" => Level::Error,
        _ => return (if is_last_word(line) { Level::Error } else { Level::Info }, line),
    };
    (level, line[word_end..].trim_start_matches([':', ' ']))
}

/// What the C library or the loader says when a process is about to end.
fn is_last_word(line: &str) -> bool {
    ["*** ", "Segmentation fault", "double free", "malloc", "corrupted", "error while loading shared libraries"]
        .iter()
        .any(|start| line.contains(start))
}

/// `( default/core ): text` → (`default/core`, `text`).
fn speaker(rest: &str) -> (&str, &str) {
    rest.strip_prefix("( ")
        .and_then(|rest| rest.split_once(" ): "))
        .map_or(("", rest), |(who, text)| (who.trim(), text))
}

/// Lines without news: frames round the statistics, the options of the build, an empty or finished window, and each gap in
/// the sequence, which the statistics count.
fn is_chatter(text: &str) -> bool {
    let starts = ["*** Purging cache", "expecting flow '"];
    matches!(text, "+++" | "---" | "")
        || text.trim_start().starts_with("'--")
        || starts.iter().any(|start| text.starts_with(start))
}

fn meaning_of(text: &str) -> Meaning<'_> {
    found_in_file(text)
        .or_else(|| statistics(text))
        .or_else(|| printed(text))
        .or_else(|| version(text))
        .or_else(|| receive_buffer(text))
        .unwrap_or_else(|| by_phrase(text))
}

/// Texts that are known by a part of them.
const PHRASES: &[(&str, Meaning<'static>)] = &[
    ("waiting for NetFlow/IPFIX data on", Meaning::Listening),
    ("Maximum number of writer processes reached", Meaning::WritersExhausted),
    ("issing data detected", Meaning::MissingData),
    ("going on without a filter", Meaning::FilterIgnored),
    ("Shutting down on user request", Meaning::Flushing),
    ("*** Purging cache - START", Meaning::Printing),
    ("has become unavailable", Meaning::InterfaceGone),
    ("connection lost to '", Meaning::PluginLost),
    ("Unknown plugin type", Meaning::NoPrinter),
    ("Bye bye screen", Meaning::NoPrinter),
];

fn by_phrase(text: &str) -> Meaning<'_> {
    PHRASES.iter().find(|(phrase, _)| text.contains(phrase)).map_or(Meaning::Other, |(_, meaning)| *meaning)
}

/// `[path:13] Unknown key: foo. Ignored.` and `[path:13] Invalid value. Ignored.`
fn found_in_file(text: &str) -> Option<Meaning<'_>> {
    let (place, rest) = text.strip_prefix('[')?.split_once("] ")?;
    let line = place.rsplit_once(':')?.1.parse().ok()?;
    if let Some(key) = rest.strip_prefix("Unknown key: ") {
        let key = key.strip_suffix(". Ignored.").unwrap_or(key);
        return Some(Meaning::UnknownKey { line, key });
    }
    rest.contains("nvalid value").then_some(Meaning::InvalidValue { line })
}

/// The answer to SIGUSR1, and `pmacctd`'s last count.
fn statistics(text: &str) -> Option<Meaning<'_>> {
    let number = |key| field(text, key)?.parse::<u64>().ok();
    if let (Some(received), Some(dropped)) = (number("received_packets="), number("dropped_packets=")) {
        let inside = text.strip_prefix("stats ").unwrap_or(text).strip_prefix('[')?;
        let interface = inside.split([',', ']']).next()?;
        return Some(Meaning::Captured { interface, received, dropped });
    }
    if !text.starts_with("stats [") {
        return None;
    }
    if let Some(discarded) = number("discarded_packets=") {
        return Some(Meaning::Discarded(discarded));
    }
    Some(Meaning::Collected {
        agent: field(text, "agent=")?,
        datagrams: number("packets=")?,
        in_sequence: number("seq_good=")?,
        gaps: number("seq_jmp_fwd=")?,
        steps_back: number("seq_jmp_bck=")?,
    })
}

/// `*** Purging cache - END (PID: 1, QN: 500/500, ET: 0) ***`
fn printed(text: &str) -> Option<Meaning<'_>> {
    let rest = text.strip_prefix("*** Purging cache - END ")?;
    let (rows, of) = rest.split_once("QN: ")?.1.split(',').next()?.split_once('/')?;
    Some(Meaning::Printed { rows: rows.parse().ok()?, of: of.parse().ok()? })
}

/// `NetFlow Accounting Daemon, nfacctd 1.7.7-git (RELEASE)`
fn version(text: &str) -> Option<Meaning<'_>> {
    let rest = text.split_once("Accounting Daemon, ")?.1.split_once(' ')?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    (end > 0).then(|| Meaning::Version(&rest[..end]))
}

fn receive_buffer(text: &str) -> Option<Meaning<'_>> {
    let rest = text.strip_prefix("nfacctd_pipe_size: ")?.trim_end_matches('.');
    Some(Meaning::ReceiveBuffer {
        obtained: field(rest, "obtained=")?.parse().ok()?,
        target: field(rest, "target=")?.parse().ok()?,
    })
}

/// The value behind `key`, which includes its `=`, where `key` begins a word.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(' ').find_map(|word| word.strip_prefix(key))
}

/// Whether this version of the daemons prints old times when a flow comes back in a later window: all before 1.7.8.
/// An unreadable version gets the benefit of the doubt.
pub fn has_stale_stamps(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    let mut next = || parts.next().and_then(Result::ok);
    match (next(), next(), next()) {
        (Some(major), Some(minor), Some(patch)) => (major, minor, patch) < (1, 7, 8),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(line: &str) -> Meaning<'_> {
        read(line).meaning
    }

    #[test]
    fn a_line_has_a_level_a_speaker_and_a_text() {
        let said = read("WARN ( default_print/print ): no print_output_file and no print_output_lock_file defined.");
        assert_eq!((said.level, said.who), (Level::Warn, "default_print/print"));
        assert_eq!(said.text, "no print_output_file and no print_output_lock_file defined.");
        assert_eq!(said.meaning, Meaning::Other);
    }

    #[test]
    fn recorded_lines_mean_what_they_say() {
        let table = [
            (
                "INFO ( default/core ): NetFlow Accounting Daemon, nfacctd 1.7.7-git (RELEASE)",
                Meaning::Version("1.7.7"),
            ),
            (
                "INFO ( default/core ): Promiscuous Mode Accounting Daemon, pmacctd 1.7.9 (20240204-0)",
                Meaning::Version("1.7.9"),
            ),
            ("INFO ( default/core ): waiting for NetFlow/IPFIX data on 127.0.0.1:9995", Meaning::Listening),
            (
                "INFO ( default/core ): nfacctd_pipe_size: obtained=8388608 target=41943040.",
                Meaning::ReceiveBuffer { obtained: 8_388_608, target: 41_943_040 },
            ),
            (
                "WARN: [n.conf:13] Unknown key: processor_ftp_pass. Ignored.",
                Meaning::UnknownKey { line: 13, key: "processor_ftp_pass" },
            ),
            ("WARN: [/run/a b/n.conf:4] Invalid value. Ignored.", Meaning::InvalidValue { line: 4 }),
            (
                "WARN ( default_print/print ): Maximum number of writer processes reached (10).",
                Meaning::WritersExhausted,
            ),
            (
                "NOTICE ( default/core ): stats [v1,0] time=1795412616 received_packets=3000 dropped_packets=7",
                Meaning::Captured { interface: "v1", received: 3000, dropped: 7 },
            ),
            (
                "NOTICE ( default/core ): [v1,0] received_packets=3000 dropped_packets=0",
                Meaning::Captured { interface: "v1", received: 3000, dropped: 0 },
            ),
            (
                "NOTICE ( default/core ): stats [127.0.0.1:9995] agent=127.0.0.1:0 time=1795412621 packets=241 bytes=110220 \
                 seq_good=240 seq_jmp_fwd=1 seq_jmp_bck=2",
                Meaning::Collected { agent: "127.0.0.1:0", datagrams: 241, in_sequence: 240, gaps: 1, steps_back: 2 },
            ),
            (
                "NOTICE ( default/core ): stats [127.0.0.1:9995] time=1795412621 discarded_packets=5",
                Meaning::Discarded(5),
            ),
            (
                "INFO ( default_print/print ): *** Purging cache - END (PID: 10682, QN: 500/501, ET: 0) ***",
                Meaning::Printed { rows: 500, of: 501 },
            ),
            ("INFO ( default_print/print ): *** Purging cache - START (PID: 10682) ***", Meaning::Printing),
            (
                "WARN ( default/core ): connection lost to 'default_nfprobe-nfprobe'; closing connection.",
                Meaning::PluginLost,
            ),
        ];
        for (line, expected) in table {
            assert_eq!(meaning(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_of_every_window_are_not_news() {
        for line in [
            "INFO ( default_print/print ): *** Purging cache - START (PID: 10701) ***",
            "INFO ( default_print/print ): *** Purging cache - END (PID: 10701, QN: 0/0, ET: X) ***",
            "NOTICE ( default/core ): +++",
            "INFO ( default/core ): expecting flow '1274' but received '20002' collector=127.0.0.1:9995 agent=127.0.0.1:0",
            "INFO ( default/core ):  '--build=x86_64-linux-gnu' '--prefix=/usr'",
        ] {
            assert_eq!(read(line).level, Level::Debug, "{line}");
        }
    }

    #[test]
    fn versions_before_1_7_8_print_stale_stamps() {
        assert!(has_stale_stamps("1.7.7"));
        assert!(has_stale_stamps("1.6.2"));
        assert!(!has_stale_stamps("1.7.8"));
        assert!(!has_stale_stamps("1.7.10"));
        assert!(!has_stale_stamps("2.0.0"));
        assert!(!has_stale_stamps("git"));
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_strange(line in "\\PC{0,200}") {
            let said = read(&line);
            proptest::prop_assert!(line.contains(said.text));
        }

        #[test]
        fn no_bracket_soup_is_too_strange(line in "(WARN|INFO|stats |\\[|\\]|:| |\\( |\\): |QN: |=|/|\\*){0,20}") {
            read(&line);
        }
    }
}
