//! Wall-clock time in the configured zone: file stamps and log stamps.
//!
//! Cores take `now` as an argument; the loops that own a clock call [`now`] here and nowhere else.

use chrono::{DateTime, FixedOffset, Local, Offset, TimeZone, Utc};
use chrono_tz::Tz;

/// Wall-clock time now.
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// The zone of `processor_timezone`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Zone {
    /// The system's: `TZ`, else `/etc/localtime`.
    #[default]
    System,
    /// An IANA name, with its own daylight-saving rules.
    Named(Tz),
    /// `UTC+8`, `UTC-5`, `UTC+05:30`.
    Fixed(FixedOffset),
}

impl Zone {
    /// Reads an IANA name or `UTC±H[H][:MM]`; empty is the system's zone. `None` when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Self::System);
        }
        if let Ok(tz) = text.parse::<Tz>() {
            return Some(Self::Named(tz));
        }
        fixed_offset(text).map(Self::Fixed)
    }

    /// The zone's offset at `at`.
    pub fn offset_at(&self, at: DateTime<Utc>) -> FixedOffset {
        match self {
            Self::System => Local.offset_from_utc_datetime(&at.naive_utc()).fix(),
            Self::Named(tz) => tz.offset_from_utc_datetime(&at.naive_utc()).fix(),
            Self::Fixed(offset) => *offset,
        }
    }

    /// `at` as this zone's clocks show it.
    pub fn local(&self, at: DateTime<Utc>) -> DateTime<FixedOffset> {
        at.with_timezone(&self.offset_at(at))
    }

    /// The stamp in file names: `20251127_102030`.
    pub fn file_stamp(&self, at: DateTime<Utc>) -> String {
        self.local(at).format("%Y%m%d_%H%M%S").to_string()
    }

    /// The stamp of a log line: `2025/11/27 10:20:30`.
    pub fn log_stamp(&self, at: DateTime<Utc>) -> String {
        self.local(at).format("%Y/%m/%d %H:%M:%S").to_string()
    }
}

/// `UTC+8`, `utc-5`, `UTC+05:30`, `GMT+8`; also `UTC` and `GMT` alone. Offsets run from -12 to +14 hours.
fn fixed_offset(text: &str) -> Option<FixedOffset> {
    let upper = text.to_ascii_uppercase();
    let rest = upper.strip_prefix("UTC").or_else(|| upper.strip_prefix("GMT"))?;
    if rest.is_empty() {
        return FixedOffset::east_opt(0);
    }
    let (sign, digits) = match rest.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_once(':').unwrap_or((digits, "0"));
    let number = |s: &str| (1..=2).contains(&s.len()).then(|| s.parse::<u32>().ok()).flatten();
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let seconds = sign * i32::try_from(hours * 3600 + minutes * 60).ok()?;
    let in_range = minutes < 60 && (-12 * 3600..=14 * 3600).contains(&seconds);
    if in_range { FixedOffset::east_opt(seconds) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(epoch, 0).unwrap()
    }

    #[test]
    fn zones_as_operators_write_them() {
        for text in ["Asia/Shanghai", "UTC+8", "utc+08", "UTC+08:00", "GMT+8"] {
            let zone = Zone::parse(text).expect(text);
            assert_eq!(zone.file_stamp(at(1_764_210_030)), "20251127_102030", "{text}");
        }
        assert_eq!(Zone::parse("UTC-5").unwrap().log_stamp(at(1_764_210_030)), "2025/11/26 21:20:30");
        assert_eq!(Zone::parse(" "), Some(Zone::System));
        for wrong in ["Asia/Shanghia", "UTC+15", "UTC+8:60", "UTC8", "UTC+", "UTC+-8", "+8", "UTC+008"] {
            assert_eq!(Zone::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn daylight_saving_follows_the_date() {
        let zone = Zone::parse("Europe/Berlin").unwrap();
        assert_eq!(zone.log_stamp(at(1_761_440_399)), "2025/10/26 02:59:59");
        assert_eq!(zone.log_stamp(at(1_761_440_400)), "2025/10/26 02:00:00");
    }
}
