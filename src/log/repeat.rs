//! Repeated faults, summed up: the same event about the same subject is said at once, then at most once a minute with
//! the number of times it came meanwhile.
//!
//! Pure: time is an argument. Nothing is forgotten; what is held back is said when its minute is over or the log ends.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Said;

/// The time within which the same fault is one line.
const WINDOW: Duration = Duration::from_mins(1);

/// Different faults that are watched at a time. More of them within one minute are said as they come: memory is bounded,
/// and past 256 distinct faults a minute, summing up no longer helps.
const WATCHED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Repeats {
    watched: HashMap<(&'static str, String), Watch>,
}

#[derive(Debug)]
struct Watch {
    until: Instant,
    /// The last one held back, with the number of those before it.
    held: Option<Said>,
}

impl Repeats {
    /// Takes an event; returns it when it is to be said now.
    pub(super) fn admit(&mut self, said: Said, now: Instant) -> Option<Said> {
        let Some(subject) = said.event.subject() else { return Some(said) };
        let key = (said.event.name(), subject);
        if let Some(watch) = self.watched.get_mut(&key)
            && now < watch.until
        {
            let before = watch.held.as_ref().map_or(0, |held| held.repeated);
            watch.held = Some(Said { repeated: before + 1, ..said });
            return None;
        }
        let held = self.watched.get(&key).and_then(|watch| watch.held.as_ref()).map_or(0, |held| held.repeated);
        if self.watched.len() < WATCHED || self.watched.contains_key(&key) {
            self.watched.insert(key, Watch { until: now + WINDOW, held: None });
        }
        Some(Said { repeated: held, ..said })
    }

    /// When [`Repeats::ripe`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.watched.values().map(|watch| watch.until).min()
    }

    /// The held lines whose minute is over. A fault that goes on is watched for another minute.
    pub(super) fn ripe(&mut self, now: Instant) -> Vec<Said> {
        let mut ripe = Vec::new();
        self.watched.retain(|_, watch| {
            if now < watch.until {
                return true;
            }
            watch.until = now + WINDOW;
            let Some(held) = watch.held.take() else { return false };
            ripe.push(held);
            true
        });
        in_order(ripe)
    }

    /// All held lines, at the end of the log.
    pub(super) fn rest(self) -> Vec<Said> {
        in_order(self.watched.into_values().filter_map(|watch| watch.held).collect())
    }
}

fn in_order(mut said: Vec<Said>) -> Vec<Said> {
    said.sort_by_key(|said| said.at);
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::log::Event;

    fn failed(name: &str) -> Said {
        let event = Event::UploadFailed { name: name.into(), error: "refused".into() };
        Said { at: clock::now(), level: event.level(), event, repeated: 0 }
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_fault_is_one_line_a_minute() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        assert!(repeats.admit(failed("a"), start).is_some());
        assert!(repeats.admit(failed("b"), start).is_some(), "another subject is another fault");
        for second in 1..=30 {
            assert!(repeats.admit(failed("a"), at(start, second)).is_none());
        }
        assert!(repeats.ripe(at(start, 59)).is_empty());
        assert_eq!(repeats.due(), Some(at(start, 60)));
        let ripe = repeats.ripe(at(start, 60));
        assert_eq!(ripe.iter().map(|said| said.repeated).collect::<Vec<_>>(), [30]);
        assert!(repeats.admit(failed("a"), at(start, 61)).is_none(), "it goes on: the next line is a minute later");
        assert_eq!(repeats.ripe(at(start, 120)).len(), 1);
        assert!(repeats.ripe(at(start, 180)).is_empty());
        assert_eq!(repeats.due(), None, "a fault that ended is forgotten");
        assert_eq!(repeats.admit(failed("a"), at(start, 181)).unwrap().repeated, 0);
    }

    #[test]
    fn a_late_call_still_tells_the_count() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        repeats.admit(failed("a"), start);
        repeats.admit(failed("a"), start);
        assert_eq!(repeats.admit(failed("a"), at(start, 100)).unwrap().repeated, 1);
        repeats.admit(failed("a"), at(start, 101));
        assert_eq!(repeats.rest().len(), 1, "the end of the log says what was held");
    }

    #[test]
    fn good_news_is_never_held_back_and_memory_is_bounded() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for _ in 0..3 {
            let event = Event::InputEnded;
            assert!(
                repeats.admit(Said { at: clock::now(), level: event.level(), event, repeated: 0 }, start).is_some()
            );
        }
        for number in 0..1000 {
            assert!(repeats.admit(failed(&number.to_string()), start).is_some());
        }
        assert_eq!(repeats.watched.len(), WATCHED);
    }
}
