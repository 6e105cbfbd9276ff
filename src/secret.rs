//! A value that never shows: the password on its way from the configuration to the server, and the texts of others that may
//! repeat it.

use std::fmt;

/// Text that `Debug`, `Display` and reports cannot print.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True when there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `text`, which is somebody else's, without the secret.
    ///
    /// Whole words are masked, not letters: "incorr***ct" would tell a password of one letter. A secret of fewer than
    /// [`SHORT`] letters is like a word of any language, and a mask in a sentence that everybody knows would tell it as well,
    /// so that a text in which it stands alone is withheld whole. So is one that holds the secret in pieces.
    pub fn mask(&self, text: &str) -> String {
        if self.0.trim().is_empty() {
            return text.to_owned();
        }
        let words = self.words(text);
        if self.0.chars().count() < SHORT {
            let stands_alone = |word: &std::ops::Range<usize>| text[word.clone()].eq_ignore_ascii_case(&self.0);
            return if words.iter().any(stands_alone) { WITHHELD.to_owned() } else { text.to_owned() };
        }
        let mut masked = String::with_capacity(text.len());
        let mut shown = 0;
        for word in words {
            masked.push_str(&text[shown..word.start.max(shown)]);
            if word.end > shown {
                masked.push_str("***");
                shown = word.end;
            }
        }
        masked.push_str(&text[shown..]);
        let rest = letters(&self.0);
        let is_in_pieces = rest.len() >= SHORT && letters(&masked).contains(&rest);
        if is_in_pieces { WITHHELD.to_owned() } else { masked }
    }

    /// Where the secret stands in `text`, in any case, widened to whole words.
    fn words(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        let (haystack, needle) = (text.to_ascii_lowercase(), self.0.to_ascii_lowercase());
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let widened = |(at, found): (usize, &str)| {
            let end = at + found.len();
            let start = text[..at].trim_end_matches(is_part).len();
            let rest = &text[end..];
            let more = rest.len() - rest.trim_start_matches(is_part).len();
            start..end + more
        };
        haystack.match_indices(&needle).map(widened).collect()
    }
}

/// Keeps the process's memory, in which passwords stand, out of core dumps and from other processes of the same user. What
/// the system refuses is left as it is: nothing else depends on it.
///
/// For programs started from here the kernel sets the first back; the soft limit of dumps they inherit, and may raise.
pub fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

/// Letters from which on a secret is told from the words around it.
const SHORT: usize = 4;

/// Stands for a text that would tell a secret.
pub const WITHHELD: &str = "(the text is withheld)";

/// What is left of a text when everything but ASCII letters and digits is gone, in lower case.
fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// `text` without logins and queries in its URLs: `http://user:pass@host/x?token=y` shows as `http://***@host/x?***`.
///
/// A login reaches to the last `@`, wherever that stands: a password may have a `/` in it.
pub fn without_login(text: &str) -> String {
    let start = text.find("//").map_or(0, |at| at + 2);
    let (scheme, rest) = text.split_at(start);
    let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("***@", rest));
    match rest.split_once('?') {
        Some((path, query)) if !query.is_empty() => format!("{scheme}{login}{path}?***"),
        _ => format!("{scheme}{login}{rest}"),
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_shows() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn the_texts_of_others_are_masked_by_words() {
        let mask = |secret: &str, text: &str| Secret::new(secret).mask(text);
        assert_eq!(mask("hunter2", "530 PASS hunter2 is wrong, HUNTER2!"), "530 PASS *** is wrong, ***!");
        assert_eq!(mask("hunter2", "PASShunter2rejected"), "***");
        assert_eq!(mask("pass", "530 bad password"), "530 bad ***", "not which part of the word");
        assert_eq!(mask("e", "530 Login incorrect."), "530 Login incorrect.");
        assert_eq!(mask("e", "530 e is wrong"), WITHHELD);
        assert_eq!(mask("a", "Not a valid login"), WITHHELD, "a mask would tell it");
        assert_eq!(mask("hunter2", "hun\r\nter2"), WITHHELD);
        assert_eq!(mask("p\u{e4}ssword", "p\u{fffd}ssword"), WITHHELD);
        assert_eq!(mask("a@b c!", "x a@b c! y"), "x *** y");
        assert_eq!(mask("", "x"), "x");
        assert_eq!(mask("aaaa", "aaaaaaaa aaaa"), "*** ***");
    }

    #[test]
    fn urls_show_without_their_login() {
        for (url, shown) in [
            ("http://h/x", "http://h/x"),
            ("http://u:p@h:1/x?a=b", "http://***@h:1/x?***"),
            ("https://u:p/q?r#s@h/x", "https://***@h/x"),
            ("u:p@h", "***@h"),
            ("http:\\\\u:p@h", "***@h"),
            ("10.0.0.1", "10.0.0.1"),
            ("http://h/?", "http://h/?"),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_tells_a_secret(secret in "\\PC{4,12}", before in "\\PC{0,20}", after in "\\PC{0,20}") {
            let masked = Secret::new(&*secret).mask(&format!("{before}{secret}{after}"));
            proptest::prop_assert!(secret.trim().is_empty() || masked == WITHHELD || !masked.contains(&*secret) || "***".contains(&*secret));
        }
    }
}
