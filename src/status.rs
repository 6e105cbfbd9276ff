//! What an operator looks at while the program runs: `/metrics`, `/healthz`, `/readyz`, the status page at `/` and its
//! numbers at `/api/status`; over `processor_metrics_listen` and, always, over a unix socket in the data directory, which
//! `processor health` and `processor top` ask.
//!
//! Promises: it reads the numbers and changes none; it has threads of its own and no stage ever waits for it; no client can
//! hold it up (see [`serve`]); a disk that hangs does not keep it from answering; no answer has a secret in it.
//!
//! It has no way in: every request is a question, and a request's body is never read.
//!
//! ```text
//!   stats, log's recent events ──▶ metrics · health · api ──▶ serve ──▶ TCP, unix socket
//!   data directory ── every 10 s ──▶ disk ──▶ age of the oldest file, free space
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::clock;
use crate::log::{Event, Log};
use crate::shutdown::{Reason, Shutdown};
use crate::spool::dir::Dir;
use crate::spool::queue::{is_uploadable, oldest};
use crate::stats::{Number, Stats};
use crate::threads::spawn;

pub mod api;
pub mod client;
pub mod health;
pub mod history;
pub mod http;
pub mod ledger;
pub mod metrics;
pub mod serve;
pub mod top;

use health::{Check, Facts};
use history::{History, Sample};
use http::Answer;
use metrics::{Moment, Usage};
use serve::{Listener, Server};

/// Settings of the room.
#[derive(Debug, Clone)]
pub struct Options {
    /// `processor_metrics_listen`; `None` serves the socket in the data directory alone.
    pub listen: Option<SocketAddr>,
    /// What does not change while the program runs.
    pub about: About,
}

/// What does not change while the program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The program's version.
    pub version: &'static str,
    /// What it was built from.
    pub commit: &'static str,
    /// Name of the source.
    pub source: &'static str,
    /// The host's name.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Limit of the data directory, bytes.
    pub spool_limit: Option<u64>,
    /// Time between two upload passes; `None` when nothing is uploaded.
    pub upload_interval: Option<Duration>,
    /// Where uploads go, without secrets; `None` when nothing is uploaded.
    pub upload_to: Option<String>,
}

/// What the data directory's disk looked like when it was last looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// When the oldest waiting file was sealed, seconds since 1970.
    pub oldest: Option<u64>,
    /// Free space of the file system, bytes.
    pub free_bytes: u64,
}

impl Disk {
    /// Age of the oldest of `files` waiting files at `epoch`.
    pub fn oldest_age(&self, files: u64, epoch: f64) -> Option<Duration> {
        let oldest = self.oldest.filter(|_| files > 0)?;
        Some(Duration::try_from_secs_f64(epoch - oldest as f64).unwrap_or_default())
    }
}

/// Pause between two looks at the data directory; longer where a look takes long, so that it costs a two-hundredth of a
/// core at most.
const LOOK: Duration = Duration::from_secs(10);
/// Pause before an address that could not be listened on is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The status page: one file, nothing in it comes from elsewhere.
const PAGE: &str = include_str!("status/page.html");

/// The running room.
#[derive(Debug)]
pub struct Status {
    stop: Shutdown,
}

impl Status {
    /// Starts the room's threads; `dir` is the locked data directory. What cannot be listened on is said in the log and tried again.
    ///
    /// # Errors
    ///
    /// Only when the system has no thread or descriptor left.
    pub fn start(options: Options, dir: Dir, stats: &Arc<Stats>, log: &Log) -> io::Result<Self> {
        let stop = Shutdown::new()?;
        let path = dir.path().to_path_buf();
        let look = Arc::new(Look::default());
        let (latch, theirs) = (stop.clone(), Arc::clone(&look));
        spawn("status-disk", move || theirs.run(&dir, &latch))?;
        let now = Instant::now();
        let desk = Desk {
            about: options.about,
            stats: Arc::clone(stats),
            log: log.clone(),
            look,
            started: now,
            history: History::new(now),
        };
        let latch = stop.clone();
        spawn("status", move || desk.run(options.listen, &path, &latch))?;
        Ok(Self { stop })
    }

    /// Ends the room. Waits for nobody: an answer under way is left behind, and so is the socket's name in the data directory,
    /// which the next life replaces. To remove it would be the last thing that a frozen disk could hold the program with.
    pub fn end(self) {
        self.stop.trip(Reason::StageEnded("status"));
    }
}

/// The last look at the data directory. On a thread of its own, because a disk may hang.
#[derive(Debug, Default)]
struct Look {
    /// 0 is none.
    oldest: Number,
    free_bytes: Number,
}

impl Look {
    fn run(&self, dir: &Dir, stop: &Shutdown) {
        loop {
            let begun = Instant::now();
            self.oldest.set(sealed_at(dir).unwrap_or(0));
            self.free_bytes.set(dir.free_bytes().unwrap_or(0));
            let until = Instant::now() + LOOK.max(begun.elapsed() * 200);
            while Instant::now() < until {
                if stop.wait(until.saturating_duration_since(Instant::now())) {
                    return;
                }
            }
        }
    }

    fn disk(&self) -> Disk {
        let oldest = self.oldest.get();
        Disk { oldest: (oldest > 0).then_some(oldest), free_bytes: self.free_bytes.get() }
    }
}

/// When the oldest waiting file was written last, seconds since 1970.
fn sealed_at(dir: &Dir) -> Option<u64> {
    let oldest = oldest(dir, is_uploadable, None, 1).ok()?.pop()?;
    let modified = dir.open_read(&oldest).and_then(|file| file.metadata()?.modified()).ok()?;
    modified.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Makes the answers; the thread `status`.
struct Desk {
    about: About,
    stats: Arc<Stats>,
    log: Log,
    look: Arc<Look>,
    started: Instant,
    history: History,
}

impl Desk {
    fn run(mut self, listen: Option<SocketAddr>, dir: &Path, stop: &Shutdown) {
        let mut server = Server::default();
        match Listener::unix(dir) {
            Ok(socket) => server.listen(socket),
            Err(error) => {
                let path = dir.join(serve::SOCKET);
                self.log.event(Event::StatusSocketFailed { path, error: error.to_string() });
            }
        }
        let (mut wanted, mut next_try) = (listen, Instant::now());
        while !stop.is_tripped() {
            let now = Instant::now();
            if let Some(address) = wanted.filter(|_| now >= next_try) {
                match Listener::tcp(address) {
                    Ok(listener) => {
                        server.listen(listener);
                        self.log.event(Event::StatusListening { address: address.to_string() });
                        wanted = None;
                    }
                    Err(error) => {
                        let (address, error) = (address.to_string(), error.to_string());
                        self.log.event(Event::StatusListenFailed { address, error, retry_in: RETRY });
                        next_try = now + RETRY;
                    }
                }
            }
            let until = if wanted.is_some() { self.history.due().min(next_try) } else { self.history.due() };
            server.turn(stop.fd(), until, &mut |path| self.answer(path));
            self.history.note(Sample::of(&self.stats), Instant::now());
        }
    }

    /// The answer to a path.
    fn answer(&self, path: &str) -> Answer {
        let epoch = clock::now().timestamp_millis() as f64 / 1000.0;
        let checks = health::checks(&self.facts(epoch));
        let moment = Moment {
            about: &self.about,
            disk: self.look.disk(),
            epoch,
            run: self.started.elapsed(),
            usage: usage(),
            checks: &checks,
        };
        match path {
            "/" => Answer { status: 200, kind: http::HTML, body: PAGE.to_owned() },
            "/healthz" => Answer::line(200, &self.well(&checks)),
            "/readyz" => {
                let ready = checks.iter().all(|check| check.fault.is_none());
                Answer { status: if ready { 200 } else { 503 }, kind: http::TEXT, body: health::text(&checks) }
            }
            "/metrics" => Answer { status: 200, kind: http::METRICS, body: metrics::page(&self.stats, &moment) },
            "/api/status" => {
                let object = api::object(&self.stats, &moment, &self.history, self.log.recent());
                Answer { status: 200, kind: http::JSON, body: object.to_string() }
            }
            _ => Answer::refusal(404),
        }
    }

    /// It answers, so it lives; what is not ready is said beside.
    fn well(&self, checks: &[Check]) -> String {
        let faults: Vec<_> = checks.iter().filter_map(|check| Some((check.name, check.fault.as_ref()?))).collect();
        let faults: Vec<_> = faults.iter().map(|(name, fault)| format!("; {name}: {}", fault.en)).collect();
        format!("ok: processor {} runs in {}{}", self.about.pid, self.about.data_dir.display(), faults.concat())
    }

    fn facts(&self, epoch: f64) -> Facts {
        let stats = &self.stats;
        let waiting = stats.spool_files.get();
        let since_success = || match stats.last_upload.get() {
            0 => self.started.elapsed(),
            last => Duration::try_from_secs_f64(epoch - last as f64).unwrap_or_default(),
        };
        Facts {
            source_runs: stats.source_runs.get() > 0,
            spool_full: stats.spool_full.get() > 0,
            interfaces_away: stats.capture.get().map_or(0, |capture| capture.interfaces_away.get()),
            spool_failing: stats.spool_failing.get() > 0,
            waiting,
            oldest: self.look.disk().oldest_age(waiting, epoch),
            upload: self
                .about
                .upload_interval
                .map(|interval| health::Upload { interval, since_success: since_success() }),
        }
    }
}

/// What the system says of the process; zeros where it says nothing.
fn usage() -> Usage {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    Usage {
        cpu: Duration::try_from(cpu).unwrap_or_default(),
        resident_bytes: pages * rustix::param::page_size() as u64,
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn about() -> About {
        About {
            version: "1.2.3",
            commit: "abc",
            source: "stdin",
            host: "probe".to_owned(),
            pid: 42,
            data_dir: "/data".into(),
            spool_limit: None,
            upload_interval: Some(Duration::from_mins(10)),
            upload_to: Some("10.0.0.10:21".to_owned()),
        }
    }

    fn desk() -> Desk {
        let now = Instant::now();
        Desk {
            about: about(),
            stats: Arc::default(),
            log: Log::discard(),
            look: Arc::default(),
            started: now,
            history: History::new(now),
        }
    }

    #[test]
    fn each_path_has_its_answer() {
        let desk = desk();
        desk.stats.source_runs.set(1);
        assert_eq!(desk.answer("/healthz"), Answer::line(200, "ok: processor 42 runs in /data"));
        assert_eq!(desk.answer("/readyz").status, 200);
        assert!(desk.answer("/metrics").body.contains("\nprocessor_source_up 1\n"));
        assert_eq!(desk.answer("/admin").status, 404);
        desk.stats.source_runs.set(0);
        let ready = desk.answer("/readyz");
        assert_eq!((ready.status, ready.body.lines().next().unwrap().split(": ").nth(1)), (503, Some("not ok")));
        assert_eq!(desk.answer("/healthz").status, 200, "a restart would not mend it");
    }

    #[test]
    fn the_page_s_numbers_are_the_counters() {
        let desk = desk();
        desk.stats.read.add(&crate::stats::Sums { lines: 3, bytes: 90, packets: 7, octets: 4200 });
        desk.stats.dropped.lines.add(2);
        desk.log.event(Event::UploadFailed { name: "a.csv.gz".to_owned(), error: "550".to_owned() });
        let json: serde_json::Value = serde_json::from_str(&desk.answer("/api/status").body).unwrap();
        assert_eq!(json["read"], serde_json::json!({ "lines": 3, "lineBytes": 90, "packets": 7, "bytes": 4200 }));
        assert_eq!(json["droppedLines"], 2);
        assert_eq!(
            (&json["files"][0]["fate"], &json["faults"][0]["event"]),
            (&"failed".into(), &"upload_failed".into())
        );
        assert_eq!(json["faults"][0]["en"], "FTP upload failed: a.csv.gz: 550");
    }

    /// Outside of comments and names of formats, the page names no other place, and it has a word for everything.
    #[test]
    fn the_page_stands_alone_in_two_languages() {
        let page = desk().answer("/").body;
        let foreign = page.replace("http://www.w3.org/2000/svg", "");
        for way in ["http:", "https:", "//cdn", "src=", "@import", "url(", "innerHTML", "eval("] {
            assert!(!foreign.contains(way), "{way}");
        }
        let block = |from: &str, to: &str| page.split(from).nth(1).unwrap().split(to).next().unwrap().to_owned();
        let keys = |block: &str| -> std::collections::BTreeSet<String> {
            let words = block.split(", ").flat_map(|part| part.split('\n'));
            let key = |part: &str| Some(part.trim().split_once(": \"")?.0.to_owned());
            words.filter_map(key).filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).collect()
        };
        let (en, zh) = (keys(&block("  en: {", "  },")), keys(&block("  zh: {", "  },")));
        assert_eq!(en, zh);
        assert!(en.len() > 40);
        for used in page.split("data-t=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(en.contains(used), "{used}");
        }
    }

    #[test]
    fn usage_is_what_the_system_says() {
        let usage = usage();
        assert!(usage.resident_bytes > 1 << 20 && usage.descriptors > 2, "{usage:?}");
    }
}
