//! What a key was meant to be: spelled wrong, glued to its value, in full-width letters, in letters that only look right. And
//! whether it may be the name of something secret, in which case nothing of its line is shown.
//!
//! In doubt a name is a secret's: what is not shown costs a look into the file, a password that is shown costs more. Pure.

/// Words that secrets are called by, and how many slips of the pen each of them bears.
const SECRETS: [(&str, usize); 7] =
    [("pass", 1), ("passw", 2), ("pwd", 0), ("secret", 1), ("token", 1), ("credential", 2), ("key", 0)];

/// The same in Chinese, which is looked for as it is written.
const SECRETS_ZH: [&str; 5] = ["密码", "密碼", "口令", "密钥", "密鑰"];

/// The secret of this program, whose key is met more often than all others.
const SECRET: &str = "processor_ftp_pass";

/// Characters of a name that are looked at; nothing has a longer name.
const MOST: usize = 160;

/// Stands in a folded name for a letter of another alphabet: Cyrillic а looks like a.
const ANY: char = '?';

/// Where the pattern must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is the text.
    Whole,
    /// The text begins with it.
    Beginning,
    /// The text contains it.
    Anywhere,
}

/// The letters and digits of a name in lower case, full-width ones as the ASCII they look like.
pub fn fold(name: &str) -> Vec<char> {
    let plain = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        _ => c,
    };
    let letter = |c: char| match plain(c).to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => Some(c),
        c if c.is_alphabetic() && c < '\u{2000}' => Some(ANY),
        _ => None,
    };
    name.chars().filter_map(letter).take(MOST).collect()
}

/// The fewest slips (a letter too many, too few, wrong, or two in the wrong order) between `pattern` and what fits of `text`,
/// both folded.
pub fn slips(pattern: &[char], text: &[char], fit: Fit) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=pattern.len()).collect();
    let mut least = pattern.len();
    for (i, &have) in text.iter().enumerate() {
        let mut next = vec![if fit == Fit::Anywhere { 0 } else { i + 1 }];
        for (j, &want) in pattern.iter().enumerate() {
            let change = row[j] + usize::from(have != want && have != ANY);
            let mut cost = change.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && have == pattern[j - 1] && text[i - 1] == want {
                cost = cost.min(before[j - 1] + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
        least = least.min(row[pattern.len()]);
    }
    if fit == Fit::Whole { row[pattern.len()] } else { least }
}

/// Whether `name` may be what something secret is called, however it is spelled.
pub fn is_secret(name: &str) -> bool {
    let folded = fold(name);
    let is_word = |(word, most): (&str, usize)| {
        let word: Vec<char> = word.chars().collect();
        slips(&word, &folded, Fit::Anywhere) <= most
    };
    SECRETS.into_iter().any(is_word) || SECRETS_ZH.iter().any(|word| name.contains(word))
}

/// Whether `text` begins with what may be the name of something secret, or contains one.
pub fn begins_like_secret(text: &str) -> bool {
    is_secret(text) || slips(&fold(SECRET), &fold(text), Fit::Beginning) <= 3
}

/// Whether the value `text` holds another line, which may be a secret's: lines that an editor has joined, or a commented line
/// behind a value. A path that only ends in such a name is none, nor is a query of a URL.
pub fn holds_line(text: &str) -> bool {
    // Ends of lines that are none to pmacct: old Macs', Unicode's.
    if text.contains(['\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']) {
        return true;
    }
    let is_part = |c: char| c.is_alphanumeric() || "_-.\0".contains(c);
    let (mut rest, mut is_behind_ours) = (text, false);
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let (word, behind) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
        let (folded, next) = (fold(word), behind.trim_start().chars().next());
        let is_free = before.is_empty() || before.ends_with(|c: char| c.is_whitespace() || "#!\"'“".contains(c));
        let is_ours = super::begins_like_ours(&folded);
        is_behind_ours |= is_ours && next.is_some() && is_free;
        let short = fold("ftp_pass");
        let is_short = !before.is_empty()
            && is_free
            && (slips(&short, &folded, Fit::Beginning) <= 2 || slips(&short, &folded, Fit::Anywhere) <= 1);
        let is_like_secret = begins_like_secret(word);
        let found = match next {
            Some(c) if is_colon(c) || "=＝;；|[".contains(c) => {
                is_ours || is_behind_ours || (is_free && is_like_secret)
            }
            Some(_) => is_behind_ours && is_like_secret,
            // The value is glued to it.
            None => is_like_secret && (is_behind_ours || (is_ours && folded.len() > fold(SECRET).len())),
        };
        if found || is_short {
            return true;
        }
        rest = behind;
    }
    false
}

/// A colon, of whatever script.
pub(super) fn is_colon(c: char) -> bool {
    matches!(c, ':' | '：' | '﹕' | '∶' | '︰' | '˸' | 'ː' | '꞉')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(a: &str, b: &str) -> usize {
        slips(&fold(a), &fold(b), Fit::Whole)
    }

    #[test]
    fn slips_are_counted() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("host", "hots"), 1, "two in the wrong order are one slip");
        assert_eq!(slips(&fold("pass"), &fold("xxpasswordxx"), Fit::Anywhere), 0);
        assert_eq!(slips(&fold("pass"), &fold("passhunter2"), Fit::Beginning), 0);
        assert_eq!(slips(&fold("pass"), &[], Fit::Anywhere), 4);
    }

    #[test]
    fn names_of_secrets_however_they_are_spelled() {
        for name in [
            "processor_ftp_pass",
            "PROCESSOR_FTP_PASSWD",
            "proccessor_ftp_psas",
            "processor_ftp_pss",
            "processor_ftp_passhunter2",
            "ｐｒｏｃｅｓｓｏｒ＿ｆｔｐ＿ｐａｓｓ",
            "processor_ftp_раѕѕ",
            "p\u{0}r\u{0}ocessor_ftp_p\u{0}a\u{0}s\u{0}s\u{0}",
            "processor ftp pa ss",
            "“processor_ftp_pass”",
            "[processor_ftp_pass]",
            "ftp密码",
            "sql_passwd",
            "amqp_routing_key",
            "processor_s3_secret_key",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in
            ["processor_ftp_host", "processor_ftp_port", "processor_rotate_size_mb", "aggregate", "流量采集", ""]
        {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn values_that_hold_another_line() {
        for value in [
            "h processor_ftp_pass: x",
            "h\rprocessor_ftp_pass: x",
            "h # PROCESSOR_FTP_PASS：x",
            "/a processor_ftp_pass x",
            "u ftp_pass=x",
        ] {
            assert!(holds_line(value), "{value}");
        }
        for value in [
            "http://h/x?token=y",
            "http://key:x@h/",
            "2001:db8::1",
            "/run/secrets/ftp_pass",
            "/run/secrets/processor_ftp_pass",
            "/a/ftp_pass file",
            "passau",
            "",
        ] {
            assert!(!holds_line(value), "{value}");
        }
    }
}
