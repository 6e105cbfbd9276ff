//! The way of `tracing` and `log` records into the same queue.
//!
//! Our own rooms trace their steps with `tracing` (target `processor…`). Other crates use `log`; their warnings repeat
//! what our events say better, so they show at debug level only, and nothing below a warning is ever taken: suppaftp
//! traces every command, `PASS` included.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::{Event, Level, Log};

/// Sends the process's `tracing` and `log` records to `log`. Once a process, by `app`; `false` when another log was
/// installed before.
pub fn install(log: &Log) -> bool {
    let most = if log.enabled(Level::Debug) { log::LevelFilter::Warn } else { log::LevelFilter::Off };
    log::set_max_level(most);
    let traced = tracing_subscriber::registry().with(Traces(log.clone()));
    let foreign = log::set_boxed_logger(Box::new(Foreign(log.clone()))).is_ok();
    tracing::subscriber::set_global_default(traced).is_ok() && foreign
}

/// Steps of our own rooms.
struct Traces(Log);

impl<S: Subscriber> Layer<S> for Traces {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let ours = metadata.target().split("::").next() == Some(env!("CARGO_PKG_NAME"));
        ours && level(*metadata.level()).is_some_and(|level| self.0.enabled(level))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.0.0.level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        })
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        if let Some(level) = level(*event.metadata().level()) {
            self.0.say(level, Event::Trace { target: event.metadata().target().to_owned(), text: text.0 });
        }
    }
}

/// Our level of a tracing level; TRACE has none.
fn level(level: tracing::Level) -> Option<Level> {
    match level {
        tracing::Level::ERROR => Some(Level::Error),
        tracing::Level::WARN => Some(Level::Warn),
        tracing::Level::INFO => Some(Level::Info),
        tracing::Level::DEBUG => Some(Level::Debug),
        _ => None,
    }
}

/// The message of a tracing event, then its fields as `name=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

/// Warnings and errors of other crates.
struct Foreign(Log);

impl log::Log for Foreign {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn && self.0.enabled(Level::Debug)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let (target, text) = (record.target().to_owned(), record.args().to_string());
            self.0.say(Level::Debug, Event::Trace { target, text });
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use log::Log as _;

    use super::*;
    use crate::log::Options;

    #[test]
    fn the_password_in_a_foreign_trace_never_shows() {
        let (log, memory) = Log::memory();
        let foreign = Foreign(log);
        let say = |level, text: &str| {
            foreign.log(&log::Record::builder().level(level).target("suppaftp").args(format_args!("{text}")).build());
        };
        say(log::Level::Trace, "CC OUT: PASS hunter2");
        say(log::Level::Debug, "PASS hunter2");
        say(log::Level::Info, "PASS hunter2");
        say(log::Level::Warn, "odd reply");
        assert_eq!(memory.take(), [Event::Trace { target: "suppaftp".into(), text: "odd reply".into() }]);
    }

    #[test]
    fn our_steps_come_through_and_others_do_not() {
        let (log, memory) = Log::memory();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Traces(log)), || {
            tracing::debug!(target: "processor::spool", files = 3, "scanned");
            tracing::trace!(target: "processor::spool", "too small");
            tracing::debug!(target: "processors", "not ours");
        });
        assert_eq!(memory.take(), [Event::Trace { target: "processor::spool".into(), text: "scanned files=3".into() }]);
        let (log, writer) = Log::new(Options::default(), Arc::default());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Traces(log)), || {
            tracing::debug!(target: "processor::spool", "below the level");
        });
        assert!(writer.items.is_empty());
    }
}
