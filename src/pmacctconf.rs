//! The text of a pmacct.conf → lines with their numbers: the one reader of the file, for every room that needs keys of it.
//!
//! The grammar is pmacct's own, as its daemons behave (1.7.7 and 1.7.9): `key: value` or `key[plugin]: value`, one a line;
//! white space inside a key does not count, nor does its case; values are trimmed; a line whose first visible character is
//! `!` or `#` is a comment, and there are no comments behind a value. Beside that, a byte order mark and CRLF are taken, and
//! white space is what Unicode calls so.
//!
//! It never fails and never judges: a line that pmacct would refuse is kept as [`Damaged`], because it belongs to somebody
//! else or will be named by whoever reads it. It opens nothing and knows no key.
//!
//! Promise: what may be part of a secret is in no `Debug`, not in a damaged line, and not among the lines of pmacct.

use std::fmt;

pub mod guess;

use guess::Fit;

/// What every key of this program begins with.
pub const OURS: &str = "processor_";

/// Slips of the pen that the program's name may have at the beginning of a key.
const SLIPS: usize = 2;

/// First words of the keys that pmacct's daemons know (1.7.7 and 1.7.9).
const PMACCTS: &str = " aggregate amqp avro bgp bmp classifier classifiers cluster core daemonize debug dtls files flow geoip geoipv2 \
     igp imt interface isis kafka logfile maps mongo mpls networks nfacctd nfprobe pcap pidfile plugin plugins pmacctd ports pre \
     print proc promisc propagate protos redis rpki sampling savefile sfacctd sfprobe snaplen sql syslog tcpflags tee telemetry \
     thread timestamps timezone tmp tos tunnel uacctd use writer post fwd num ";

/// One `key: value` line. `Debug` leaves the value out: it may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: u32,
    /// The key in lower case, without white space and without `[plugin]`; of `a-z 0-9 _ . -` only.
    pub key: String,
    /// The plugin that the key is meant for, the part in brackets, as written.
    pub plugin: Option<String>,
    /// The trimmed value; bytes that are not UTF-8 are replaced and [`Line::is_utf8`] says so.
    pub value: String,
    /// False when the value was not UTF-8.
    pub is_utf8: bool,
}

/// What is wrong with a line that is neither comment nor `key: value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing separates a key from a value.
    NoColon,
    /// A colon of another script behind the key, as Chinese input methods write it.
    WideColon,
    /// `=` or `;` behind the key.
    Separator(char),
    /// A character behind or in the key that no key has.
    OddKey,
}

/// A line that is neither comment nor `key: value`; pmacct's daemons refuse to start on most of them. Nobody sees its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Damaged {
    /// From 1.
    pub number: u32,
    /// What is wrong.
    pub fault: Fault,
    /// The letters and digits that it begins with.
    folded: Vec<char>,
}

/// Why nobody gets a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// Its value holds another line, with a secret's key.
    TwoLines,
    /// Its key, which nobody knows, may be that of a secret, or the rest of the secret in the line before.
    Unknown,
}

/// A whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    lines: Vec<Line>,
    /// All other lines that are not blank and not comments.
    pub damaged: Vec<Damaged>,
    /// Lines by number that may hold a part of a secret and are kept from everybody.
    pub withheld: Vec<(u32, Withheld)>,
    /// The file is UTF-16, of which nothing can be read.
    pub is_utf16: bool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if guess::begins_like_secret(&self.key) { "(not shown)" } else { self.shown_key() };
        write!(f, "{}: {key}", self.number)
    }
}

impl fmt::Debug for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.number, self.fault)
    }
}

impl Text {
    /// Reads the bytes of a file.
    pub fn read(bytes: &[u8]) -> Self {
        let mut text = Self::default();
        // No other encoding has these, and no configuration has zeros.
        if bytes.starts_with(b"\xff\xfe")
            || bytes.starts_with(b"\xfe\xff")
            || bytes.iter().take(64).filter(|&&b| b == 0).count() >= 8
        {
            text.is_utf16 = true;
            return text;
        }
        let mut behind_secret = false;
        for (number, bytes) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let line = String::from_utf8_lossy(bytes);
            let line = trim(&line);
            if line.is_empty() || line.starts_with(['!', '#']) {
                continue;
            }
            let was_behind = std::mem::take(&mut behind_secret);
            match read(number, line, bytes) {
                Ok(line) if guess::holds_line(&line.value) => {
                    behind_secret = true;
                    text.withheld.push((number, Withheld::TwoLines));
                    if line.is_ours() {
                        text.lines.push(Line { value: String::new(), ..line });
                    }
                }
                Ok(line) if line.is_ours() => {
                    behind_secret = guess::begins_like_secret(&line.key);
                    text.lines.push(line);
                }
                // A password that was broken in two, or whose key has lost its beginning.
                Ok(line) if !is_pmaccts(&line.key) && (was_behind || line.is_secret()) => {
                    behind_secret = true;
                    text.withheld.push((number, Withheld::Unknown));
                }
                Ok(line) => text.lines.push(line),
                Err(damaged) => {
                    behind_secret = was_behind || guess::begins_like_secret(line);
                    text.damaged.push(damaged);
                }
            }
        }
        text
    }

    /// The lines of this program.
    pub fn ours(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.is_ours())
    }

    /// The lines of pmacct's daemons, for the sources that start or replace them.
    pub fn foreign(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.is_ours())
    }
}

impl Text {
    /// The line that counts for a key of pmacct's: the last one, whether it is for all plugins or for one that runs. (Seen on
    /// 1.7.7: a line for all that stands behind one for a plugin replaces it.)
    pub fn value(&self, key: &str) -> Option<&Line> {
        self.foreign().filter(|line| line.key == key && self.is_for_a_plugin(line)).last()
    }

    /// Whether `key` is set to true.
    pub fn is_true(&self, key: &str) -> bool {
        self.value(key).and_then(|line| boolean(&line.value)).unwrap_or(false)
    }

    /// Whether a line is for all plugins, or for one that runs; pmacct ignores it otherwise.
    pub fn is_for_a_plugin(&self, line: &Line) -> bool {
        // Without names of their own, plugins have these.
        const DEFAULT: [&str; 3] = ["default_nfprobe", "default_print", "default"];
        let Some(name) = &line.plugin else { return true };
        let named = self.foreign().filter(|line| line.key == "plugins").flat_map(|line| line.value.split(','));
        let mut names = named.filter_map(|plugin| Some(plugin.split_once('[')?.1.trim().trim_end_matches(']').trim()));
        DEFAULT.iter().any(|known| name.eq_ignore_ascii_case(known))
            || names.any(|known| name.eq_ignore_ascii_case(known))
    }
}

/// A boolean of pmacct's: true or false in any case, and nothing else.
pub fn boolean(value: &str) -> Option<bool> {
    [("true", true), ("false", false)].into_iter().find(|(word, _)| value.eq_ignore_ascii_case(word)).map(|(_, is)| is)
}

/// `print_output_separator`: one character, or `\t` or `\s` for a tab or a blank. None that stands in values, which pmacct would
/// take: the rows could not be read again.
pub fn separator(value: &str) -> Option<u8> {
    match value.as_bytes() {
        b"\\t" => Some(b'\t'),
        b"\\s" => Some(b' '),
        [byte] if byte.is_ascii_graphic() && !byte.is_ascii_alphanumeric() && !b".:-+".contains(byte) => Some(*byte),
        _ => None,
    }
}

impl Line {
    /// True for a `processor_*` key, also where the program's name is misspelt.
    pub fn is_ours(&self) -> bool {
        self.key.starts_with(OURS) || is_like_ours(&guess::fold(&self.key))
    }

    /// Whether its key may be that of a secret.
    pub fn is_secret(&self) -> bool {
        guess::is_secret(&self.key)
    }

    /// The key as it may be shown: one that is not known may have swallowed a value.
    pub fn shown_key(&self) -> &str {
        const LONGEST: usize = 64;
        let is_shown = (is_pmaccts(&self.key) && !self.is_ours()) || !self.is_secret();
        if is_shown && self.key.len() <= LONGEST { &self.key } else { "(not shown)" }
    }

    /// How far `name` is from the key, in slips of the pen.
    pub fn slips_from(&self, name: &str, fit: Fit) -> usize {
        guess::slips(&guess::fold(name), &guess::fold(&self.key), fit)
    }

    /// The value without one pair of surrounding quotes. pmacct knows no quotes, so this is for our keys only.
    pub fn unquoted(&self) -> &str {
        for quote in ['"', '\''] {
            if let Some(inner) = self.value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
                return inner;
            }
        }
        &self.value
    }
}

impl Damaged {
    /// Whether it was to be a line of this program.
    pub fn is_ours(&self) -> bool {
        is_like_ours(&self.folded)
    }

    /// How far `name` is from what the line begins with, in slips of the pen.
    pub fn slips_from(&self, name: &str) -> usize {
        guess::slips(&guess::fold(name), &self.folded, Fit::Beginning)
    }
}

fn begins_like_ours(folded: &[char]) -> bool {
    guess::slips(&guess::fold(OURS), folded, Fit::Beginning) <= SLIPS
}

/// As [`begins_like_ours`], or with a word before it, as in `export processor_…`.
fn is_like_ours(folded: &[char]) -> bool {
    begins_like_ours(folded) || guess::slips(&guess::fold(OURS), folded, Fit::Anywhere) <= 1
}

/// Whether pmacct has keys that begin with this one's first word.
fn is_pmaccts(key: &str) -> bool {
    let word = key.split('_').next().unwrap_or_default();
    PMACCTS.split_ascii_whitespace().any(|known| known == word)
}

/// Without white space, and without marks that no editor shows, at either end.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}'))
}

/// Reads a trimmed line that is not a comment. `bytes` are the same as they stand in the file.
fn read(number: u32, text: &str, bytes: &[u8]) -> Result<Line, Damaged> {
    let is_key = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
    };
    let (left, value) = text.split_once(':').unwrap_or((text, ""));
    let (key, plugin) = match left.split_once('[') {
        Some((key, plugin)) => (key, Some(trim(trim(plugin).trim_end_matches(']')).to_owned())),
        None => (left, None),
    };
    let key: String = key.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
    if left.len() == text.len() || !is_key(&key) {
        return Err(Damaged { number, fault: fault(left, bytes), folded: guess::fold(text) });
    }
    let colon = bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len());
    let is_utf8 = std::str::from_utf8(&bytes[colon..]).is_ok();
    Ok(Line { number, key, plugin, value: trim(value).to_owned(), is_utf8 })
}

/// What stands behind the key of a damaged line, or in it.
fn fault(left: &str, bytes: &[u8]) -> Fault {
    let of_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c.is_whitespace();
    let at_key = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || b.is_ascii_whitespace();
    // The colon of GBK, before the file is read as UTF-8.
    let behind = bytes.iter().position(|byte| !at_key(byte)).map_or(&[][..], |at| &bytes[at..]);
    match left.trim_start_matches(of_key).chars().next() {
        _ if behind.starts_with(b"\xa3\xba") => Fault::WideColon,
        Some(c) if guess::is_colon(c) => Fault::WideColon,
        Some(c @ (';' | '=')) => Fault::Separator(c),
        Some('；') => Fault::Separator(';'),
        Some('＝') => Fault::Separator('='),
        Some(_) => Fault::OddKey,
        None => Fault::NoColon,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str("is not followed by a colon; write key: value"),
            Self::WideColon => {
                f.write_str("is not followed by a colon but by a full-width colon (U+FF1A, ：); write key: value")
            }
            Self::Separator(c) => write!(f, "is not followed by a colon but by '{c}'; write key: value"),
            Self::OddKey => f.write_str("has a character that no key has; write key: value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(u32, String, String)> {
        Text::read(text.as_bytes()).lines.into_iter().map(|line| (line.number, line.key, line.value)).collect()
    }

    fn pair(line: u32, key: &str, value: &str) -> (u32, String, String) {
        (line, key.to_owned(), value.to_owned())
    }

    #[test]
    fn lines_as_pmacct_reads_them() {
        let text = "\u{feff}! processor_source: capture\n  # x: y\n\nPRINT _Refresh_time :  60 \r\nplugins: print # kept\n a:b:c\nlast:";
        let wanted = [
            pair(4, "print_refresh_time", "60"),
            pair(5, "plugins", "print # kept"),
            pair(6, "a", "b:c"),
            pair(7, "last", ""),
        ];
        assert_eq!(pairs(text), wanted);
    }

    #[test]
    fn plugin_names_are_kept_apart() {
        let text = Text::read(b"aggregate[ In ]: src_host\nprocessor_ftp_pass: a[b");
        assert_eq!(text.lines[0].key, "aggregate");
        assert_eq!(text.lines[0].plugin.as_deref(), Some("In"));
        assert_eq!((text.lines[1].plugin.as_deref(), &*text.lines[1].value), (None, "a[b"));
        assert_eq!(text.ours().count(), 1);
        assert_eq!(text.foreign().count(), 1);
    }

    #[test]
    fn one_pair_of_quotes() {
        let text = Text::read(b"a: \"x\"\nb: 'y z'\nc: \"\"q\"\"\nd: \"\ne: \"x'\nf: ''");
        let values: Vec<_> = text.lines.iter().map(Line::unquoted).collect();
        assert_eq!(values, ["x", "y z", "\"q\"", "\"", "\"x'", ""]);
    }

    #[test]
    fn lines_that_are_no_entries_are_kept_with_their_number() {
        let file = "a: b\nprocessor_ftp_port=21\n: v\nprocessor_ftp_pass：x\nprocessor_ftp_pass；x\nword\n“processor_ftp_user”: u\n";
        let text = Text::read(file.as_bytes());
        let faults: Vec<_> =
            text.damaged.iter().map(|damaged| (damaged.number, damaged.fault, damaged.is_ours())).collect();
        let wanted = [
            (2, Fault::Separator('='), true),
            (3, Fault::NoColon, false),
            (4, Fault::WideColon, true),
            (5, Fault::Separator(';'), true),
            (6, Fault::NoColon, false),
            (7, Fault::OddKey, true),
        ];
        assert_eq!(faults, wanted);
        assert_eq!(Text::read(b"processor_ftp_pass\xa3\xbax").damaged[0].fault, Fault::WideColon, "of GBK");
        assert!(Text::read(b"\xff\xfep\0r\0").is_utf16 && Text::read(b"\0p\0r\0o\0c\0e\0s\0s\0o").is_utf16);
    }

    #[test]
    fn the_last_line_counts_as_with_pmacct() {
        let text = Text::read(b"plugins: print[a]\nx[a]: 1\nx: 2\nprint_y: 1\nprint_y[A]: 2\nprint_z: 1\nprint_z[b]: 2\nprint_w: True\nprint_v: 1\n");
        let value = |key| text.value(key).map(|line| &*line.value);
        assert_eq!(
            (value("x"), value("print_y"), value("print_z"), value("none")),
            (Some("2"), Some("2"), Some("1"), None)
        );
        assert!(text.is_true("print_w") && !text.is_true("print_v"));
        assert_eq!(
            (separator("\\s"), separator("\\t"), separator("|"), separator("ab"), separator("a")),
            (Some(b' '), Some(b'\t'), Some(b'|'), None, None)
        );
    }

    #[test]
    fn no_key_of_pmacct_is_taken_for_ours() {
        for key in [
            "proc_priority",
            "core_proc_name",
            "nfacctd_proc_name",
            "propagate_signals",
            "promisc",
            "print_output",
            "pre_tag_map",
            "plugins",
        ] {
            let text = Text::read(format!("{key}: x").as_bytes());
            assert!(text.foreign().count() == 1 && text.ours().count() == 0, "{key}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_kept_from_everybody() {
        let file = "processor_ftp_pass:\nhunter2: rest\npcap_interface: e\nftp_pass: x\nsql_passwd: known\n\
                    pcap_filter: ip processor_ftp_pass: x\nprocessor_ftp_pass: x\nplugins: print\nproccessor_ftp_pass: x\n";
        let text = Text::read(file.as_bytes());
        let unknown = Withheld::Unknown;
        assert_eq!(text.withheld, [(2, unknown), (4, unknown), (6, Withheld::TwoLines)]);
        assert_eq!(text.foreign().map(|line| line.number).collect::<Vec<_>>(), [3, 5, 8]);
        assert_eq!(text.ours().map(|line| line.number).collect::<Vec<_>>(), [1, 7, 9]);
    }

    #[test]
    fn bytes_that_are_not_utf8() {
        let text = Text::read(b"processor_ftp_user: \xc4\xe3\n\xff: x\n");
        assert!(!text.lines[0].is_utf8);
        assert_eq!(text.damaged[0].fault, Fault::OddKey);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let text = Text::read(&bytes);
            let lines = bytes.split(|&byte| byte == b'\n').count();
            prop_assert!(text.lines.iter().all(|line| (1..=lines).contains(&(line.number as usize))));
            text.lines.iter().for_each(|line| { line.unquoted(); });
        }

        #[test]
        fn what_is_written_is_read(
            keys in proptest::collection::vec("(print|sql|bgp)_[a-z_]{1,12}", 0..12),
            value in "[!-~]( ?[!-~]){0,20}",
            end in prop_oneof![Just("\n"), Just("\r\n")],
        ) {
            let lines: Vec<_> = keys.iter().map(|key| format!("  {key} :\t{value}  {end}# comment{end}")).collect();
            let file = lines.concat();
            let wanted: Vec<_> = keys.iter().enumerate().map(|(i, key)| pair(2 * i as u32 + 1, key, &value)).collect();
            prop_assert_eq!(pairs(&file), wanted);
        }
    }
}
