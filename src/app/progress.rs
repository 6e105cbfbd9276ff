//! Long work shows how far it is: the salvage of torn files at the start, the last upload pass at the end, the steps of
//! `processor check -connect`. A bar on stderr where that is a terminal, an event in the log every few seconds elsewhere.
//!
//! It reads numbers and says them; nobody waits for it. Log lines and bars share the terminal: a line is written with the
//! bars taken away, whole.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::log::{Event, Lang, Log};
use crate::notify::State;
use crate::stats::Stats;
use crate::threads::spawn;

/// Time between two looks; work that is over by the first one shows nothing.
const LOOK: Duration = Duration::from_millis(250);
/// Time between two lines in the log.
const LINE: Duration = Duration::from_secs(5);

/// How much longer than it would by itself the service manager waits for a start that repairs files; asked for again at a
/// third of it, so that a start which does not get on any more is still noticed.
const EXTENSION: Duration = Duration::from_secs(30);

/// Long work, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Bytes of torn files.
    Salvage { done: u64, total: u64 },
    /// Files of the last upload pass.
    Drain { left: u64, total: u64, bytes: u64 },
}

impl Work {
    /// What is under way now.
    fn seen(stats: &Stats) -> Option<Self> {
        let (done, total) = (stats.salvage_done_bytes.get(), stats.salvage_total_bytes.get());
        if done < total {
            return Some(Self::Salvage { done, total });
        }
        let (left, total) = (stats.spool_files.get(), stats.drain_files.get());
        (total > 0 && left > 0).then(|| Self::Drain { left: left.min(total), total, bytes: stats.spool_bytes.get() })
    }

    fn event(self) -> Event {
        match self {
            Self::Salvage { done, total } => Event::SalvageProgress { done, total },
            Self::Drain { left, total, bytes } => Event::DrainProgress { left, total, bytes },
        }
    }

    /// Position and length of the bar.
    fn place(self) -> (u64, u64) {
        match self {
            Self::Salvage { done, total } => (done, total),
            Self::Drain { left, total, .. } => (total - left, total),
        }
    }

    fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// When the next line is due: not at once, then at every [`LINE`].
#[derive(Debug)]
struct Pace {
    work: Option<(Work, Instant)>,
}

impl Pace {
    /// True when `work` is to be said at `now`.
    fn is_due(&mut self, work: Option<Work>, now: Instant) -> bool {
        match (work, self.work) {
            (None, _) => self.work = None,
            (Some(work), Some((before, said))) if work.is_like(before) => {
                if now.saturating_duration_since(said) < LINE {
                    return false;
                }
                self.work = Some((work, now));
                return true;
            }
            (Some(work), _) => self.work = Some((work, now)),
        }
        false
    }
}

/// Where long work shows.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// `None` where stderr is no terminal.
    bars: Option<MultiProgress>,
    lang: Lang,
}

/// Stops the watch when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    open: Option<Sender<Infallible>>,
    gone: Receiver<()>,
}

impl Progress {
    pub(super) fn new(lang: Lang) -> Self {
        Self { bars: io::stderr().is_terminal().then(MultiProgress::new), lang }
    }

    /// Where the log is written.
    pub(super) fn stderr(&self) -> Stderr {
        Stderr(self.bars.clone())
    }

    /// Looks at the numbers until the [`Watch`] is dropped.
    pub(super) fn watch(&self, stats: &Arc<Stats>, log: &Log) -> io::Result<Watch> {
        let (open, closed) = bounded(0);
        let (ending, gone) = bounded(0);
        let (this, stats, log) = (self.clone(), Arc::clone(stats), log.clone());
        spawn("progress", move || {
            this.run(&stats, &log, &closed);
            drop::<Sender<()>>(ending);
        })?;
        Ok(Watch { open: Some(open), gone })
    }

    fn run(&self, stats: &Stats, log: &Log, closed: &Receiver<Infallible>) {
        let mut pace = Pace { work: None };
        let mut extend_at = Instant::now();
        let mut shown: Option<(Work, ProgressBar)> = None;
        while closed.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let work = Work::seen(stats);
            if matches!(work, Some(Work::Salvage { .. })) && Instant::now() >= extend_at {
                super::tell_manager(State::Starting(EXTENSION));
                extend_at = Instant::now() + EXTENSION / 3;
            }
            let Some(bars) = &self.bars else {
                let due = pace.is_due(work, Instant::now());
                if let Some(work) = work.filter(|_| due) {
                    log.event(work.event());
                }
                continue;
            };
            if let Some((_, bar)) = shown.take_if(|(before, _)| work.is_none_or(|work| !work.is_like(*before))) {
                bar.finish_and_clear();
            }
            if let Some(work) = work {
                let (_, bar) = shown.get_or_insert_with(|| (work, bars.add(self.bar(work))));
                let (place, length) = work.place();
                bar.set_length(length);
                bar.set_position(place);
            }
        }
        if let Some((_, bar)) = shown {
            bar.finish_and_clear();
        }
    }

    fn bar(&self, work: Work) -> ProgressBar {
        let (what, numbers) = match (work, self.lang) {
            (Work::Salvage { .. }, Lang::Zh) => ("修复文件", "{bytes} / {total_bytes}"),
            (Work::Salvage { .. }, Lang::En) => ("salvaging files", "{bytes} / {total_bytes}"),
            (Work::Drain { .. }, Lang::Zh) => ("上传剩余文件", "{pos} / {len}"),
            (Work::Drain { .. }, Lang::En) => ("uploading what is left", "{pos} / {len} files"),
        };
        let template = format!("{what} [{{bar:40}}] {numbers}, {{eta}}");
        let bar = ProgressBar::no_length();
        // The templates are ours; one that does not parse leaves the plain bar.
        match ProgressStyle::with_template(&template) {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        }
    }

    /// Shows that a step is under way, on a terminal, until the returned guard is dropped.
    pub(super) fn step(&self, what: &str) -> Step {
        let spinner = self.bars.as_ref().map(|bars| {
            let spinner = bars.add(ProgressBar::new_spinner().with_message(what.to_owned()));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(LOOK / 2);
            spinner
        });
        Step(spinner)
    }
}

impl Watch {
    /// Takes what is shown away; waits for that until `deadline` at most.
    pub(super) fn end(mut self, deadline: Instant) {
        self.open = None;
        // A terminal that takes nothing must not keep the program from ending.
        let _ = self.gone.recv_deadline(deadline);
    }
}

/// A step of `processor check -connect` under way.
#[derive(Debug)]
pub(super) struct Step(Option<ProgressBar>);

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}

/// Standard error beside the bars.
pub(super) struct Stderr(Option<MultiProgress>);

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(bars) => bars.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way() {
        let stats = Stats::default();
        stats.spool_files.set(5);
        assert_eq!(Work::seen(&stats), None, "files that wait between two passes are no drain");
        stats.salvage_total_bytes.set(100);
        stats.salvage_done_bytes.set(40);
        assert_eq!(Work::seen(&stats), Some(Work::Salvage { done: 40, total: 100 }));
        stats.salvage_done_bytes.set(100);
        assert_eq!(Work::seen(&stats), None);
        stats.drain_files.set(5);
        stats.spool_files.set(2);
        let work = Work::seen(&stats).unwrap();
        assert_eq!(work.place(), (3, 5));
        stats.spool_files.set(0);
        assert_eq!(Work::seen(&stats), None);
    }

    #[test]
    fn a_line_every_few_seconds_and_none_for_quick_work() {
        let (start, mut pace) = (Instant::now(), Pace { work: None });
        let work = Some(Work::Drain { left: 2, total: 5, bytes: 1 });
        let mut said = |work, secs| pace.is_due(work, start + Duration::from_secs(secs));
        assert!(!said(work, 0) && !said(work, 4) && said(work, 5) && !said(work, 6) && said(work, 10));
        assert!(!said(None, 11) && !said(work, 12) && !said(work, 16) && said(work, 17), "new work begins anew");
        assert!(!said(Some(Work::Salvage { done: 0, total: 9 }), 30), "so does other work");
    }
}
