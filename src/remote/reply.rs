//! What a server's reply says, for decisions and for error texts. Pure.
//!
//! Promise: whatever bytes a server sends, the quotation is one short line without control characters and without the
//! password.

use crate::secret::{Secret, WITHHELD};

/// Characters of a reply that a text quotes.
const QUOTED: usize = 200;

/// The code of a complete reply: the three digits that begin its last line (RFC 959, 4.2).
pub fn code(reply: &[u8]) -> Option<u16> {
    let last = reply.split(|&byte| byte == b'\n').rfind(|line| !line.trim_ascii().is_empty())?;
    match last {
        [a, b, c, rest @ ..] if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) => {
            if rest.first().is_some_and(u8::is_ascii_digit) {
                return None;
            }
            let digit = |byte: &u8| u16::from(byte - b'0');
            Some(digit(a) * 100 + digit(b) * 10 + digit(c))
        }
        _ => None,
    }
}

/// The number behind the code of a reply of one line, as SIZE gives it; some servers put a unit after it.
pub fn number(reply: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(reply).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The reply as a text may show it.
pub fn quote(reply: &[u8], secret: &Secret) -> String {
    // Longer than what is shown by the length of any secret that could be cut in two at the end.
    let enough = QUOTED * 4 + secret.reveal().len();
    let text = String::from_utf8_lossy(&reply[..reply.len().min(enough)]).into_owned();
    let clean: String = secret.mask(&text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // The code is the server's decision, and no part of a password that anybody could know by it.
    let clean = if clean == WITHHELD {
        code(reply).map_or_else(|| clean.clone(), |code| format!("{code} {clean}"))
    } else {
        clean
    };
    let mut line = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(QUOTED) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// True when the words say that this user may not. Codes do not tell: 550 is both.
pub fn says_denied(words: &str) -> bool {
    const DENIED: [&str; 12] = [
        "permi",
        "denied",
        "privilege",
        "allowed",
        "forbidden",
        "prohibit",
        "disabled",
        "authori",
        "权限",
        "拒绝",
        "禁止",
        "不允许",
    ];
    says(words, &DENIED)
}

/// True when the words say that there is no such file.
pub fn says_missing(words: &str) -> bool {
    const MISSING: [&str; 11] = [
        "no such",
        "not found",
        "cannot find",
        "can't find",
        "not exist",
        "n't exist",
        "rnfr command failed",
        "不存在",
        "找不到",
        "没有该",
        "没有此",
    ];
    says(words, &MISSING)
}

/// True when the words speak of room that is missing on the server.
pub fn says_full(words: &str) -> bool {
    const FULL: [&str; 9] =
        ["no space", "space left", "disk full", "enospc", "quota", "insufficient", "storage", "空间", "配额"];
    says(words, &FULL)
}

/// True when the words ask for TLS.
pub fn says_tls(words: &str) -> bool {
    const TLS: [&str; 7] = ["tls", "ssl", "encrypt", "secur", "auth ", "加密", "安全"];
    says(words, &TLS)
}

fn says(words: &str, any: &[&str]) -> bool {
    let words = words.to_lowercase();
    any.iter().any(|word| words.contains(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_line_decides() {
        assert_eq!(code(b"226 done\r\n"), Some(226));
        assert_eq!(code(b"226-half\r\n550 no\r\n"), Some(550));
        assert_eq!(code(b"552\r\n"), Some(552));
        for garbled in [&b""[..], b"\r\n", b"ok\r\n", b"22", b"2266 x"] {
            assert_eq!(code(garbled), None, "{garbled:?}");
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(number(b"213 000000003021\r\n"), Some(3021));
        assert_eq!(number(b"213 3021 bytes\r\n"), Some(3021));
        for garbled in [&b"213\r\n"[..], b"213 x\r\n", b"213 99999999999999999999999\r\n", b"213 -1\r\n"] {
            assert_eq!(number(garbled), None, "{garbled:?}");
        }
    }

    #[test]
    fn quotations_are_one_clean_line() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            quote(b"530-Sorry\r\n530 bad password hunter2\x1b[2J\r\n", &secret),
            "530-Sorry 530 bad password *** [2J"
        );
        assert_eq!(quote(&b"x".repeat(100_000), &secret).chars().count(), QUOTED + 1);
    }

    #[test]
    fn words_tell_what_codes_do_not() {
        assert!(says_denied("550 Permission denied.") && says_denied("550 x: Operation not permitted"));
        assert!(says_denied("550 x.tmp: Forbidden filename") && says_denied("550 Not enough privileges."));
        for missing in [
            "550 x: No such file or directory",
            "550 Sorry, but that file doesn't exist",
            "550 RNFR command failed.",
            "550 The system cannot find the file specified.",
            "501 no such file",
            "550 找不到文件",
        ] {
            assert!(says_missing(missing) && !says_denied(missing), "{missing}");
        }
        assert!(says_full("451 Failure writing to local file: No space left on device"));
    }

    proptest! {
        #[test]
        fn no_reply_leaks_or_grows(before in ".{0,300}", after in ".{0,300}") {
            let secret = Secret::new("s3cr3t-pass");
            let shown = quote(format!("{before}s3cr3t-pass{after}").as_bytes(), &secret);
            prop_assert!(!shown.contains("s3cr3t-pass"));
            prop_assert!(shown.chars().count() <= QUOTED + 1);
            prop_assert!(!shown.chars().any(char::is_control));
        }

        #[test]
        fn any_bytes_do(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = code(&bytes);
            let _ = quote(&bytes, &Secret::new("x"));
        }
    }
}
