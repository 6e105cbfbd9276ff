//! One event as one line, text or JSON, with nothing foreign left raw in it.

use chrono::SecondsFormat;

use super::{Format, Lang, Options, Said};

/// Characters of a message that are written. A server's reply or an input line may be of any length; a log line is for
/// people.
const MESSAGE: usize = 4096;

/// The whole line with its newline.
pub(super) fn render(said: &Said, options: &Options) -> String {
    let text = said.event.message(options.lang);
    let message = match (said.repeated, options.lang) {
        (0, _) => text,
        (times, Lang::Zh) => format!("{text}（一分钟内重复 {times} 次）"),
        (times, Lang::En) => format!("{text} (repeated {times} times within a minute)"),
    };
    match options.format {
        Format::Text => {
            let level = said.level.name().to_ascii_uppercase();
            format!("{} [{level}] {}\n", options.zone.log_stamp(said.at), visible(&message))
        }
        Format::Json => json(said, options, &message),
    }
}

fn json(said: &Said, options: &Options, message: &str) -> String {
    let time = options.zone.local(said.at).to_rfc3339_opts(SecondsFormat::Millis, false);
    let mut members = vec![
        format!(r#""time":"{time}""#),
        format!(r#""level":"{}""#, said.level.name()),
        format!(r#""event":"{}""#, said.event.name()),
    ];
    members.extend(said.event.fields().into_iter().map(|(name, value)| format!(r#""{name}":{value}"#)));
    if said.repeated > 0 {
        members.push(format!(r#""repeated":{}"#, said.repeated));
    }
    members.push(format!(r#""message":{}"#, json_string(message)));
    format!("{{{}}}\n", members.join(","))
}

/// `text` as a JSON string in which also those characters are escaped that JSON allows raw and terminals obey.
pub(super) fn json_string(text: &str) -> String {
    let quoted = serde_json::Value::from(clipped(text)).to_string();
    escaped(&quoted, |c| format!("\\u{:04x}", u32::from(c)))
}

/// `text` with every character escaped that a terminal or a log reader would obey instead of show.
pub fn visible(text: &str) -> String {
    escaped(&clipped(text), |c| c.escape_default().to_string())
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) { safe.push_str(&escape(c)) } else { safe.push(c) }
    }
    safe
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and the marks that turn the direction of writing.
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;
    use crate::clock::Zone;
    use crate::log::{Event, Level};

    fn line(event: Event, format: Format, lang: Lang, repeated: u64) -> String {
        let zone = Zone::parse("Asia/Shanghai").unwrap();
        let at = DateTime::from_timestamp(1_764_208_800, 5_000_000).unwrap();
        let said = Said { at, level: event.level(), event, repeated };
        render(&said, &Options { level: Level::Debug, format, lang, zone })
    }

    fn documented() -> Vec<Event> {
        vec![
            Event::ConfigLoaded {
                ftp: "10.0.0.10:21".into(),
                rotate_interval: Duration::from_mins(10),
                rotate_mb: 100,
                upload_interval: Duration::from_mins(10),
            },
            Event::DataDirReady { path: PathBuf::from("/data") },
            Event::UploaderStarted { interval: Duration::from_mins(10) },
            Event::FileRotated {
                path: PathBuf::from("/data/flows_20251127_100000_000.csv.gz"),
                raw_bytes: 103_074_000,
                duration: Duration::from_millis(600_004),
            },
            Event::Uploaded {
                name: "flows_20251127_100000_000.csv.gz".into(),
                bytes: 17_000_000,
                duration: Duration::from_millis(2500),
            },
            Event::UploadFailed {
                name: "flows_20251127_101000_001.csv.gz".into(),
                error: "dial tcp 10.0.0.10:21: i/o timeout".into(),
            },
        ]
    }

    #[test]
    fn the_documented_lines_word_for_word() {
        let text: String = documented().into_iter().map(|event| line(event, Format::Text, Lang::Zh, 0)).collect();
        assert_eq!(text, include_str!("../../tests/it/golden/log.zh.txt"));
    }

    #[test]
    fn english_and_json() {
        let en: String = documented().into_iter().map(|event| line(event, Format::Text, Lang::En, 0)).collect();
        assert_eq!(en, include_str!("../../tests/it/golden/log.en.txt"));
        let json: String = documented().into_iter().map(|event| line(event, Format::Json, Lang::En, 0)).collect();
        assert_eq!(json, include_str!("../../tests/it/golden/log.json"));
        for line in json.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn a_repeated_fault_tells_its_count() {
        let fault = || Event::ReportFailed { error: "refused".into() };
        assert!(line(fault(), Format::Text, Lang::Zh, 7).ends_with("（一分钟内重复 7 次）\n"));
        assert!(line(fault(), Format::Text, Lang::En, 7).ends_with(" (repeated 7 times within a minute)\n"));
        assert!(line(fault(), Format::Json, Lang::En, 7).contains(r#","repeated":7,"#));
    }

    #[test]
    fn foreign_text_cannot_forge_a_line() {
        let evil = "550 no\r\n2025/11/27 [INFO] fine\x1b[2J\u{85}\u{9b}31m\u{202e}gpj\0";
        let event = || Event::UploadFailed { name: "a".into(), error: evil.into() };
        let text = line(event(), Format::Text, Lang::En, 0);
        assert!(text.contains(r"550 no\r\n2025/11/27 [INFO] fine\u{1b}[2J\u{85}\u{9b}31m\u{202e}gpj\u{0}"), "{text}");
        let json = line(event(), Format::Json, Lang::En, 0);
        for line in [&text, &json] {
            assert_eq!(line.chars().filter(|&c| obeyed(c)).collect::<String>(), "\n");
        }
        let back: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(back["error"], evil, "JSON keeps the text itself");
    }

    #[test]
    fn a_line_is_bounded() {
        let event = Event::UploadFailed { name: "a".into(), error: "字".repeat(1_000_000) };
        let json = line(event.clone(), Format::Json, Lang::Zh, 0);
        assert!(json.len() < 30_000 && json.contains("字…"));
        assert!(line(event, Format::Text, Lang::Zh, 0).len() < 15_000);
    }
}
