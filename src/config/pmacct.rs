//! The text of a pmacct.conf → keys with their line numbers.
//!
//! The grammar is pmacct's own, as its daemons behave (1.7.7 and 1.7.9): `key: value` or `key[name]: value`, one a line;
//! white space inside a key does not count, nor does its case; values are trimmed; a line whose first visible character is
//! `!` or `#` is a comment, and there are no comments behind a value. Beside that, a byte order mark and CRLF are taken.
//!
//! It never fails and never judges: a line that pmacct would refuse is kept with its number, because it belongs to somebody
//! else or will be named by [`crate::config`]. It opens nothing and knows no key.

use std::fmt;

/// What every key of this program begins with.
pub const OURS: &str = "processor_";

/// One `key: value` line. `Debug` leaves the value out: it may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Line number, from 1.
    pub line: usize,
    /// The key in lower case, without white space and without `[name]`.
    pub key: String,
    /// The plugin name between brackets, as written.
    pub name: Option<String>,
    /// The trimmed value; bytes that are not UTF-8 are replaced and [`Entry::utf8`] says so.
    pub value: String,
    /// False when the value was not UTF-8.
    pub utf8: bool,
    /// The whole line as it stands in the file, without its line end.
    pub verbatim: Vec<u8>,
}

/// A line that is neither comment nor `key: value`; pmacct's daemons refuse to start on it. `Debug` leaves the text out.
#[derive(Clone, PartialEq, Eq)]
pub struct Loose {
    /// Line number, from 1.
    pub line: usize,
    /// The line, trimmed.
    pub text: String,
}

impl Loose {
    /// What the line begins with: most likely the key.
    pub fn word(&self) -> &str {
        self.text.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default()
    }
}

/// A whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// All `key: value` lines in the order of the file, ours and pmacct's.
    pub entries: Vec<Entry>,
    /// All other lines that are not blank and not comments.
    pub loose: Vec<Loose>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.key)
    }
}

impl fmt::Debug for Loose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ?", self.line)
    }
}

impl Text {
    /// Reads the bytes of a file.
    pub fn read(bytes: &[u8]) -> Self {
        let mut text = Self::default();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (index, verbatim) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = index + 1;
            let verbatim = verbatim.strip_suffix(b"\r").unwrap_or(verbatim);
            let trimmed = verbatim.trim_ascii();
            match trimmed.first() {
                None | Some(b'!' | b'#') => {}
                Some(_) => match entry(line, trimmed, verbatim) {
                    Some(entry) => text.entries.push(entry),
                    None => text.loose.push(Loose { line, text: String::from_utf8_lossy(trimmed).into_owned() }),
                },
            }
        }
        text
    }

    /// The entries of this program.
    pub fn ours(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_ours())
    }

    /// The entries of pmacct's daemons, for the sources that start or replace them.
    pub fn foreign(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.is_ours())
    }
}

impl Entry {
    /// True for a `processor_*` key.
    pub fn is_ours(&self) -> bool {
        self.key.starts_with(OURS)
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

/// Reads a trimmed line that is not a comment; `None` when it has no key or no colon.
fn entry(line: usize, trimmed: &[u8], verbatim: &[u8]) -> Option<Entry> {
    let colon = trimmed.iter().position(|&byte| byte == b':')?;
    let (left, value) = (String::from_utf8_lossy(&trimmed[..colon]), trimmed[colon + 1..].trim_ascii());
    let (key, name) = match left.split_once('[') {
        Some((key, name)) => (key, Some(name.trim_end().trim_end_matches(']').trim().to_owned())),
        None => (&*left, None),
    };
    let key: String = key.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
    if key.is_empty() {
        return None;
    }
    let utf8 = std::str::from_utf8(value).is_ok();
    Some(Entry {
        line,
        key,
        name,
        value: String::from_utf8_lossy(value).into_owned(),
        utf8,
        verbatim: verbatim.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        Text::read(text.as_bytes()).entries.into_iter().map(|entry| (entry.line, entry.key, entry.value)).collect()
    }

    fn pair(line: usize, key: &str, value: &str) -> (usize, String, String) {
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
        assert_eq!(text.entries[0].key, "aggregate");
        assert_eq!(text.entries[0].name.as_deref(), Some("In"));
        assert_eq!(text.entries[0].verbatim, b"aggregate[ In ]: src_host");
        assert_eq!((text.entries[1].name.as_deref(), &*text.entries[1].value), (None, "a[b"));
        assert_eq!(text.ours().count(), 1);
        assert_eq!(text.foreign().count(), 1);
    }

    #[test]
    fn one_pair_of_quotes() {
        let text = Text::read(b"a: \"x\"\nb: 'y z'\nc: \"\"q\"\"\nd: \"\ne: \"x'\nf: ''");
        let values: Vec<_> = text.entries.iter().map(Entry::unquoted).collect();
        assert_eq!(values, ["x", "y z", "\"q\"", "\"", "\"x'", ""]);
    }

    #[test]
    fn lines_that_are_no_entries_are_kept_with_their_number() {
        let text = Text::read(b"a: b\nprocessor_ftp_port=21\n: v\n");
        let loose: Vec<_> = text.loose.iter().map(|loose| (loose.line, loose.text.as_str())).collect();
        assert_eq!(loose, [(2, "processor_ftp_port=21"), (3, ": v")]);
    }

    #[test]
    fn bytes_that_are_not_utf8() {
        let text = Text::read(b"processor_ftp_user: \xc4\xe3\n\xff: x\n");
        assert!(!text.entries[0].utf8);
        assert_eq!(text.entries[0].verbatim, b"processor_ftp_user: \xc4\xe3");
        assert!(text.entries[1].utf8);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let text = Text::read(&bytes);
            let lines = bytes.split(|&byte| byte == b'\n').count();
            prop_assert!(text.entries.iter().all(|entry| (1..=lines).contains(&entry.line)));
            text.entries.iter().for_each(|entry| { entry.unquoted(); });
        }

        #[test]
        fn what_is_written_is_read(
            keys in proptest::collection::vec("[a-z_]{1,12}", 0..12),
            value in "[!-~]( ?[!-~]){0,20}",
            end in prop_oneof![Just("\n"), Just("\r\n")],
        ) {
            let lines: Vec<_> = keys.iter().map(|key| format!("  {key} :\t{value}  {end}# comment{end}")).collect();
            let file = lines.concat();
            let wanted: Vec<_> = keys.iter().enumerate().map(|(i, key)| pair(2 * i + 1, key, &value)).collect();
            prop_assert_eq!(pairs(&file), wanted);
        }
    }
}
