//! Every `processor_*` key, once: the table from which reading, checking, `processor check` and the README's table derive.

use std::net::SocketAddr;

use crate::clock::Zone;
use crate::pmacctconf::guess::{self, Fit};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// As written in the file, lower case.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The value when it is not given; in parentheses when that is no value but a description.
    pub default: &'static str,
    /// One line for the operator.
    pub about: &'static str,
}

/// What the value of a key may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text of one line.
    Text,
    /// A host name or an address.
    Host,
    /// Text that never shows.
    Secret,
    /// A path of this machine.
    Path,
    /// A whole number of `unit`, from `least` to `most`.
    Number {
        /// The smallest right value.
        least: u64,
        /// The largest right value.
        most: u64,
        /// What is counted, in the plural; empty for a bare number.
        unit: &'static str,
    },
    /// Yes or no.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Beginning of a file name; `{host}` is replaced by the host name.
    Prefix,
    /// `auto` or a gzip level.
    Level,
    /// A time zone.
    Zone,
    /// An http or https URL.
    Url,
    /// Address and port to listen on.
    Listen,
}

use Kind::{Choice, Flag, Host, Level, Listen, Path, Prefix, Secret, Text, Url};

/// Seconds in a week: beyond it an interval is a slip of the pen.
const WEEK: u64 = 7 * 86_400;

/// A size in MiB up to a pebibyte.
const SIZE_MB: u64 = 1 << 30;

const fn number(least: u64, most: u64, unit: &'static str) -> Kind {
    Kind::Number { least, most, unit }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

/// All keys, in the order of the documentation.
pub static KEYS: &[Key] = &[
    key("processor_source", Choice(&["stdin", "pmacct", "capture"]), "stdin", "where flow lines come from"),
    key("processor_upload", Choice(&["ftp", "none"]), "ftp", "where files go; with none they stay in the data dir"),
    key("processor_ftp_host", Host, "(required with ftp)", "host name or address of the FTP server"),
    key("processor_ftp_port", number(1, 65_535, ""), "21", "its control port"),
    key("processor_ftp_user", Text, "(required with ftp)", "login name"),
    key("processor_ftp_pass", Secret, "(required with ftp)", "password; never shown"),
    key(
        "processor_ftp_pass_file",
        Path,
        "(none)",
        "file whose first line is the password, instead of processor_ftp_pass",
    ),
    key("processor_ftp_dir", Text, "/", "target directory, made when missing, every level"),
    key(
        "processor_ftp_timeout",
        number(1, 86_400, "seconds"),
        "60",
        "time without progress before a transfer is given up",
    ),
    key("processor_ftp_tls", Choice(&["off", "explicit"]), "off", "AUTH TLS; never falls back to plain by itself"),
    key("processor_ftp_tls_ca", Path, "(the system's roots)", "PEM file of the authorities that are trusted"),
    key(
        "processor_ftp_mode",
        Choice(&["passive", "active"]),
        "passive",
        "who opens the data connection: we, or the server",
    ),
    key(
        "processor_ftp_put",
        Choice(&["rename", "direct"]),
        "rename",
        "temp name, then rename; or direct, for accounts that may neither rename nor delete",
    ),
    key(
        "processor_ftp_charset",
        Choice(&["utf-8", "gbk"]),
        "utf-8",
        "how processor_ftp_dir is written to the server, and its words are read",
    ),
    key("processor_ftp_connections", number(1, 8, ""), "1", "parallel uploads"),
    key(
        "processor_rotate_interval_sec",
        number(1, WEEK, "seconds"),
        "600",
        "age at which a file is closed, also when no line arrives",
    ),
    key("processor_rotate_size_mb", number(1, SIZE_MB, "MiB"), "100", "raw size at which a file is closed"),
    key("processor_file_prefix", Prefix, "flows_", "beginning of every file name"),
    key("processor_gzip_level", Level, "auto", "auto: the field-aware encoder; 1 to 9: as gzip has them"),
    key("processor_compress_threads", number(1, 64, ""), "(cores)", "threads that check and compress lines"),
    key(
        "processor_csv_header",
        Choice(&["keep", "each-file", "none"]),
        "keep",
        "header lines: as they came, one first in every file, or dropped",
    ),
    key(
        "processor_bad_lines",
        Choice(&["keep", "quarantine"]),
        "keep",
        "lines with a wrong column count: pass and are counted, or go to rejects/",
    ),
    key("processor_timezone", Kind::Zone, "(the system's)", "zone of file names and log stamps"),
    key("processor_convert_timestamps", Flag, "false", "rewrite UTC time columns into processor_timezone"),
    key(
        "processor_flush_interval_ms",
        number(10, 60_000, "milliseconds"),
        "1000",
        "how long a line may wait before it is on disk in recoverable form",
    ),
    key("processor_upload_interval_sec", number(1, WEEK, "seconds"), "600", "time between two upload passes"),
    key(
        "processor_shutdown_timeout_sec",
        number(0, 3600, "seconds"),
        "8",
        "bound on the last upload pass after a signal",
    ),
    key("processor_spool_max_mb", number(0, SIZE_MB, "MiB"), "0", "limit of the data dir; 0 is no limit"),
    key("processor_spool_min_free_mb", number(0, SIZE_MB, "MiB"), "256", "what stays free on the disk"),
    key(
        "processor_spool_full",
        Choice(&["block", "drop-oldest"]),
        "block",
        "at the limit: stop reading, or drop the oldest file",
    ),
    key("processor_log_format", Choice(&["text", "json"]), "text", "form of the log on stderr"),
    key("processor_log_lang", Choice(&["zh", "en"]), "zh", "language of its messages"),
    key("processor_metrics_listen", Listen, "(off)", "address of /metrics, /healthz, /readyz and the status page"),
    key("processor_status_report_enabled", Flag, "false", "send the status report"),
    key("processor_status_report_url", Url, "(none)", "where it is POSTed"),
    key("processor_status_report_interval_sec", number(1, 86_400, "seconds"), "60", "time between two reports"),
    key("processor_status_report_uuid", Text, "(host name)", "the report's uuid"),
    key("processor_status_report_file_path", Path, "(none)", "file that keeps the reports"),
    key(
        "processor_status_report_file_max_mb",
        number(1, SIZE_MB, "MiB"),
        "10",
        "size at which that file is renamed to .001, .002, …",
    ),
    key(
        "processor_status_report_file_backups",
        number(0, 1_000_000, "files"),
        "0",
        "renamed files that are kept; 0 keeps all",
    ),
    key(
        "processor_capture_threads",
        number(1, 64, ""),
        "1",
        "threads that share each interface's packets, for source capture",
    ),
    key("processor_pmacctd_path", Path, "(found in PATH)", "the pmacctd program, for source pmacct"),
    key("processor_nfacctd_path", Path, "(found in PATH)", "the nfacctd program, for source pmacct"),
];

impl Key {
    /// The key of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The key that was meant, by the slips of the pen between its name and what was written, and whether it is that of a
    /// secret. In doubt it is: a password that is glued to its key would be shown with it. With `is_secret` it is no other.
    pub fn meant(slips_from: impl Fn(&str, Fit) -> usize, is_secret: bool) -> (&'static Self, bool) {
        const SECRET: usize = 3;
        const PLAIN: usize = 2;
        let nearest = |of_secret: bool, fit| {
            let keys = KEYS.iter().filter(|key| guess::is_secret(key.name) == of_secret);
            keys.map(|key| (slips_from(key.name, fit), key))
                .min_by_key(|(slips, _)| *slips)
                .unwrap_or((usize::MAX, &KEYS[0]))
        };
        let (secret, plain) = (nearest(true, Fit::Beginning), nearest(false, Fit::Whole));
        let is_meant = is_secret || (secret.0 <= SECRET && plain.0 > secret.0.min(PLAIN));
        (if is_meant { secret.1 } else { plain.1 }, is_meant)
    }

    /// Whether `value` stands for the default, as it did in the Go program: numbers that mean nothing.
    pub fn is_default_at(&self, value: &str) -> bool {
        const KEYS: [&str; 4] = [
            "processor_ftp_timeout",
            "processor_ftp_port",
            "processor_status_report_file_max_mb",
            "processor_status_report_file_backups",
        ];
        let Kind::Number { least, .. } = self.kind else { return false };
        KEYS.contains(&self.name) && value.parse().is_ok_and(|number: i64| number <= 0 && number < least.cast_signed())
    }

    /// The default, where it is a value and not a description.
    pub fn default_value(&self) -> Option<&'static str> {
        (!self.default.starts_with('(')).then_some(self.default)
    }
}

impl Kind {
    /// True when `text` is a right value.
    pub fn accepts(self, text: &str) -> bool {
        if text.chars().any(char::is_control) {
            return false;
        }
        match self {
            Self::Text | Self::Secret | Self::Path => true,
            Self::Host => host(text).is_some(),
            Self::Number { least, most, .. } => whole(text).is_some_and(|number| (least..=most).contains(&number)),
            Self::Flag => flag(text).is_some(),
            Self::Choice(words) => words.iter().any(|word| text.eq_ignore_ascii_case(word)),
            Self::Prefix => {
                let bare = text.replace("{host}", "");
                !text.starts_with('.')
                    && text.len() <= PREFIX
                    && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            }
            Self::Level => {
                text.eq_ignore_ascii_case("auto") || whole(text).is_some_and(|level| (1..=9).contains(&level))
            }
            Self::Zone => Zone::parse(text).is_some(),
            Self::Url => is_url(text),
            Self::Listen => text.eq_ignore_ascii_case("off") || listen(text).is_some(),
        }
    }

    /// What a right value looks like.
    pub fn form(self) -> String {
        match self {
            Self::Text => "text of one line without control characters".to_owned(),
            Self::Host => "a host name or an address alone, without scheme, port and path".to_owned(),
            Self::Secret => "one line without control characters".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Number { least, most, unit: "" } => format!("a whole number from {least} to {most}"),
            Self::Number { least, most, unit } => format!("a whole number of {unit} from {least} to {most}"),
            Self::Flag => "true, 1, yes, on, y or false, 0, no, off, n".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Prefix => format!("up to {PREFIX} of A-Z a-z 0-9 . _ - and {{host}}, not beginning with a dot"),
            Self::Level => "auto or a whole number from 1 to 9".to_owned(),
            Self::Zone => "an IANA name as Asia/Shanghai, or an offset as UTC+8 or UTC-5".to_owned(),
            Self::Url => "http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH".to_owned(),
            Self::Listen => "ADDRESS:PORT as 127.0.0.1:9100 or [::1]:9100, :PORT for all addresses, or off".to_owned(),
        }
    }
}

/// Bytes of a prefix. A name has 255 on every file system we know; stamp, index and `.csv.gz.tmp` need less than 100.
const PREFIX: usize = 100;

/// A number in digits only: no sign, no unit, no exponent.
pub(super) fn whole(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A boolean as operators write it.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "y" => Some(true),
        "false" | "0" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// A host name, or an address; an IPv6 address may stand in brackets, which are not part of it.
pub(super) fn host(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = inner {
        return inner.parse::<std::net::Ipv6Addr>().ok().map(|_| inner);
    }
    let is_name = text.len() <= 253 && text.chars().all(|c| c.is_alphanumeric() || ".-_".contains(c));
    // The zone of a link-local address is the kernel's to judge.
    let is_address = text.split('%').next().unwrap_or_default().parse::<std::net::IpAddr>().is_ok();
    (is_address || (is_name && !text.is_empty())).then_some(text)
}

/// Address and port; `:9100` is every address.
pub(super) fn listen(text: &str) -> Option<SocketAddr> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().ok()
}

/// Scheme, host and the rest, as far as it can be said without a request.
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let web = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    web && !host.is_empty() && text.parse::<ureq::http::Uri>().is_ok()
}

/// The table for people: one paragraph a key.
pub fn table() -> String {
    let paragraph = |key: &Key| {
        format!("{}\n    {}\n    takes {}; default {}\n", key.name, key.about, key.kind.form(), key.default)
    };
    KEYS.iter().map(paragraph).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for key in KEYS {
            assert!(
                key.name.starts_with("processor_")
                    && Key::named(key.name).is_some_and(|found| std::ptr::eq(found, key))
            );
            assert!(key.default_value().is_none_or(|value| key.kind.accepts(value)), "{}", key.name);
            assert!(!key.about.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn the_table_as_it_is_printed() {
        assert_eq!(table(), include_str!("../../tests/it/golden/keys.txt"));
    }

    #[test]
    fn slips_of_the_pen_find_their_key() {
        for (slip, meant) in [
            ("processor_ftp_prot", "processor_ftp_port"),
            ("processor_rotate_interval", "processor_rotate_interval_sec"),
            ("processor_status_report_url_", "processor_status_report_url"),
            ("processor_ftp_password", "processor_ftp_pass"),
        ] {
            let slips = |name: &str, fit| guess::slips(&guess::fold(name), &guess::fold(slip), fit);
            assert_eq!(Key::meant(slips, guess::is_secret(slip)).0.name, meant);
        }
    }

    #[test]
    fn right_and_wrong_values() {
        let number = number(1, 8, "");
        let cases: [(Kind, &[&str], &[&str]); 9] = [
            (
                Host,
                &["h", "ftp.example.com", "10.0.0.1", "::1", "[::1]", "fe80::1%eth0", "a_b"],
                &["", "ftp://h", "h:21", "h/x", "u@h", "[::1]:21", "[h]", "h g", "h;"],
            ),
            (number, &["1", "8", "08"], &["0", "9", "+1", "-1", "1s", "1.0", "", "99999999999999999999"]),
            (Flag, &["true", "YES", "y", "0", "Off"], &["ja", "2", ""]),
            (Choice(&["a", "b"]), &["a", "B"], &["c", "a b"]),
            (Prefix, &["flows_", "x-{host}.", ""], &["a/b", ".flows_", "{hots}", "流", "a b", "../"]),
            (Level, &["auto", "1", "9"], &["0", "10", "best"]),
            (
                Url,
                &["http://127.0.0.1:8080/api", "https://a"],
                &["ftp://a", "http://", "a/b", "http://a b/", "http:///x"],
            ),
            (Listen, &["127.0.0.1:9100", "[::]:1", ":9100", "off"], &["9100", "localhost:1", "1.2.3.4", ":99999"]),
            (Text, &["", "ü:x"], &["a\tb", "a\0", "a\u{85}"]),
        ];
        for (kind, right, wrong) in cases {
            assert!(right.iter().all(|text| kind.accepts(text)), "{kind:?} takes {right:?}");
            for text in wrong {
                assert!(!kind.accepts(text), "{kind:?} refuses {text}");
            }
        }
    }
}
