//! Embedded capture: packets of interfaces or capture files → flow table → the lines that pmacctd and nfacctd would print.
//!
//! ```text
//! eth0 ─ ring ─ meter ─┐ thread capture-eth0            file ─ meter ─ ledger ─▶ sink
//!                      ├─ records ─ ledger ─▶ sink      all on the thread source
//! eth1 ─ ring ─ meter ─┘ thread capture-eth1
//! ```
//!
//! Where one core is too slow for an interface, several rings with a thread each share its packets by flow ([`fanout`]).
//!
//! - Nothing is lost between the ring and the sink. When the pipeline takes nothing, the records' channel fills, the capture
//!   threads wait, and the kernel's ring is where packets are dropped: libpcap counts them and [`Counters`] tells.
//! - A capture file has its own clock: the same file gives the same rows at any hour, as fast as it can be read.
//! - [`Capture::open`] does everything that needs privileges; [`drop_capabilities`] may follow, before any thread is started.
//! - A stop prints what is in the tables.
//!
//! The capture threads are scoped to [`Capture::run`], not spawned by the pipeline: they end before the source does and share its
//! fate, so a panic of one reaches the source's own guard.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::CapabilitySet;

use crate::flow::aggregate;
use crate::flow::decode::LinkType;
use crate::flow::hash::Secret;
use crate::flow::ledger::Ledger;
use crate::flow::meter::{self, Counts, Frame, Meter};
use crate::flow::networks::{BadNetwork, Networks};
use crate::flow::{print, table};
use crate::log::{Event, Log};
use crate::random::random;
use crate::shutdown::Shutdown;
use crate::source::{Sink, Source, SourceEnd, SourceError, Stopped};
use crate::stats::Number;

pub use crate::stats::Capture as Counters;

mod fanout;
mod live;
pub mod options;
pub mod savefile;

pub use options::{Input, Key, KeyError, Options};

use live::Interface;
use savefile::Savefile;

/// Bytes of memory that one flow may take at most: its entry of 128, its slots of the index, and two rows in the window
/// with their index. From the sizes of the types.
const BYTES_A_FLOW: u64 = 400;

/// The fewest flows of a table that is sized from memory, and the most.
const FLOWS: std::ops::RangeInclusive<u64> = 16_384..=4_194_304;

/// Frames of a file between two looks at the stop latch and the sink's due time; at most about a millisecond.
const FRAMES_A_TURN: usize = 4096;

/// Capture cannot begin. Every one is for the operator to mend, so the program ends with its code for configuration errors.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The interface does not exist.
    #[error("pcap_interface: there is no interface {name}; there are {}", .have.join(", "))]
    NoInterface {
        /// What was asked for.
        name: String,
        /// The system's interfaces.
        have: Vec<String>,
    },
    /// The process may not capture.
    #[error(
        "pcap_interface: capturing on {name} needs the capability CAP_NET_RAW; run as root, with docker's --cap-add NET_RAW, or \
         after setcap cap_net_raw+ep on the program"
    )]
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// libpcap cannot open the interface.
    #[error("pcap_interface: {name} cannot be opened: {source}")]
    Interface {
        /// The interface.
        name: String,
        /// libpcap's reason.
        #[source]
        source: pcap::Error,
    },
    /// The kernel does not share the interface's packets between threads.
    #[error("processor_capture_threads: the packets of {name} cannot be shared between threads: {source}; set it to 1")]
    Fanout {
        /// The interface.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The filter does not compile for this link.
    #[error("pcap_filter: {filter:?} does not compile for {what}: {source}; see pcap-filter(7)")]
    Filter {
        /// The filter.
        filter: String,
        /// The interface or file.
        what: String,
        /// libpcap's reason.
        #[source]
        source: pcap::Error,
    },
    /// A capture file or directory cannot be read.
    #[error("pcap_savefile: {} cannot be read: {source}", .path.display())]
    Savefile {
        /// The path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The directory has no file.
    #[error("pcap_savefile: {} has no files", .path.display())]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// The file of networks cannot be read.
    #[error("networks_file: {} cannot be read: {source}", .path.display())]
    NetworksFile {
        /// The path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A line in it is no network.
    #[error("networks_file: {}: {source}", .path.display())]
    Networks {
        /// The path.
        path: PathBuf,
        /// The line.
        #[source]
        source: BadNetwork,
    },
}

impl Counters {
    /// Adds what has changed since `before`.
    fn add(&self, now: &Counts, before: &Counts) {
        self.seen.add(now.seen - before.seen);
        self.decoded.add(now.decoded - before.decoded);
        self.passed_over.add(now.passed_over - before.passed_over);
        self.evicted.add(now.evicted - before.evicted);
        for (index, number) in self.rejected.iter().enumerate() {
            number.add(now.rejected[index] - before.rejected[index]);
        }
    }
}

/// An opened capture, ready to run.
pub struct Capture {
    setup: Setup,
    input: Opened,
}

/// What every thread of a capture knows.
struct Setup {
    options: Options,
    networks: Networks,
    /// Tables that are filled at the same time.
    tables: usize,
    /// The most flows of each.
    max_flows: usize,
    counters: Arc<Counters>,
    log: Log,
}

enum Opened {
    Interfaces(Vec<Interface>),
    /// The files in order.
    Files(Vec<PathBuf>),
    Stdin,
}

impl Capture {
    /// Opens interfaces (this needs CAP_NET_RAW), or finds the capture files. Says at once what cannot work.
    ///
    /// # Errors
    ///
    /// An interface or a file is not there or not to be opened, or a filter or list of networks is wrong.
    pub fn open(options: Options, log: Log) -> Result<Self, OpenError> {
        let networks = networks(options.networks_file.as_deref())?;
        let input = match &options.input {
            Input::Interfaces(names) => {
                let open = |name: &String| Interface::open(name, &options);
                Opened::Interfaces(
                    names.iter().map(open).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect(),
                )
            }
            Input::Savefile(path) if path.as_os_str() == "-" => Opened::Stdin,
            Input::Savefile(path) => Opened::Files(files(path)?),
        };
        let (tables, sharing) = match &input {
            Opened::Interfaces(interfaces) => (interfaces.len(), options.threads as usize),
            Opened::Files(_) | Opened::Stdin => (1, 1),
        };
        let max_flows = match options.max_flows {
            Some(flows) => flows.div_ceil(sharing),
            None => flows_for(available_memory(), tables as u64),
        };
        Ok(Self { setup: Setup { options, networks, tables, max_flows, counters: Arc::default(), log }, input })
    }

    /// The counters, to be read while it runs.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.setup.counters)
    }

    /// The most flows that all tables hold at once, as configured or as the memory allows.
    pub fn max_flows(&self) -> usize {
        self.setup.max_flows.saturating_mul(self.setup.tables)
    }
}

impl Setup {
    /// The input as the operator knows it.
    fn what(&self) -> String {
        match &self.options.input {
            Input::Interfaces(names) => names.join(","),
            Input::Savefile(path) => path.display().to_string(),
        }
    }

    fn meter(&self) -> Meter {
        Meter::new(meter::Options {
            table: table::Options {
                timeouts: self.options.timeouts,
                max_flows: self.max_flows,
                keyed_by_link: false,
                secret: Secret::new(random),
            },
            link_fields: self.options.aggregate.link_fields(),
            sampling: self.options.sampling_rate,
            sampling_seed: random(),
        })
    }

    fn ledger(&self) -> Ledger {
        let Options { aggregate, sampling_rate: rate, renormalize, .. } = self.options;
        let (scale, shown) = match (renormalize, rate) {
            (true, _) => (rate, 1),
            (false, 1) => (1, 0),
            (false, _) => (1, rate),
        };
        let window = aggregate::Options {
            aggregate,
            networks: self.networks.clone(),
            seconds: self.options.window_secs,
            renormalize: scale,
            max_rows: self.max_flows.saturating_mul(2).saturating_mul(self.tables),
            secret: Secret::new(random),
        };
        let printer = print::Options {
            aggregate,
            separator: self.options.separator,
            numeric_protocols: self.options.numeric_protocols,
            times: self.options.times,
            zone: self.options.zone,
            stitching: self.options.stitching,
            sampling_rate: shown,
        };
        Ledger::new(window, printer)
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("options", &self.setup.options).finish_non_exhaustive()
    }
}

impl Source for Capture {
    fn run(self: Box<Self>, sink: &mut dyn Sink, stop: &Shutdown) -> Result<SourceEnd, SourceError> {
        let Self { setup, input } = *self;
        setup.log.event(Event::CaptureStarted {
            input: setup.what(),
            max_flows: setup.max_flows.saturating_mul(setup.tables) as u64,
            window: Duration::from_secs(u64::from(setup.options.window_secs)),
        });
        let end = match input {
            Opened::Interfaces(interfaces) => live::run(&setup, interfaces, sink, stop),
            Opened::Files(paths) => FileRun::new(&setup, sink, stop).files(&paths),
            Opened::Stdin => FileRun::new(&setup, sink, stop).stdin(),
        };
        let counters = &setup.counters;
        setup.log.event(Event::CaptureEnded {
            seen: counters.seen.get(),
            decoded: counters.decoded.get(),
            rejected: counters.rejected.iter().map(Number::get).sum(),
            dropped: counters.dropped_by_kernel.get() + counters.dropped_by_interface.get(),
            rows: counters.rows.get(),
        });
        end
    }
}

/// Gives up the capabilities that only [`Capture::open`] needs, on the calling thread and the threads it starts later: the kernel
/// lets a thread change its own only, so this comes before all other threads. A process without capabilities has nothing to
/// give up.
///
/// # Errors
///
/// What the kernel says; no capability was given up then.
pub fn drop_capabilities() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    let opening = CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN;
    sets.effective.remove(opening);
    sets.permitted.remove(opening);
    sets.inheritable.remove(opening);
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

fn networks(path: Option<&Path>) -> Result<Networks, OpenError> {
    let Some(path) = path else { return Ok(Networks::default()) };
    let text =
        std::fs::read_to_string(path).map_err(|source| OpenError::NetworksFile { path: path.to_owned(), source })?;
    Networks::parse(&text).map_err(|source| OpenError::Networks { path: path.to_owned(), source })
}

/// The file, or the directory's files in the order of their names; hidden ones and directories in it are left out.
fn files(path: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let failed = |source| OpenError::Savefile { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        File::open(path).map_err(failed)?;
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if file.is_file() && !hidden {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() { Err(OpenError::NoFiles { path: path.to_owned() }) } else { Ok(files) }
}

/// A quarter of the memory, shared by the tables of all interfaces.
fn flows_for(available: Option<u64>, tables: u64) -> usize {
    // Without a figure (no /proc) a machine of 2 GB is assumed.
    let budget = available.unwrap_or(2 << 30) / 4 / tables.max(1);
    (budget / BYTES_A_FLOW).clamp(*FLOWS.start(), *FLOWS.end()) as usize
}

/// Bytes that can still be used: the system's, or what the control group leaves if that is less.
fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let system = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|most| most.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    Some(group.map_or(system, |group| group.min(system)))
}

/// A filter for frames of files, compiled once for each link type.
struct FileFilter {
    text: Option<String>,
    programs: Vec<(u32, pcap::BpfProgram)>,
}

impl FileFilter {
    /// Whether the frame is wanted. A filter that asks for `len` sees the captured length.
    #[inline]
    fn takes(&mut self, link_type: u32, bytes: &[u8]) -> Result<bool, pcap::Error> {
        let Some(text) = &self.text else { return Ok(true) };
        if let Some((_, program)) = self.programs.iter().find(|(have, _)| *have == link_type) {
            return Ok(program.filter(bytes));
        }
        // In files raw IP has the number 101, in libpcap 12.
        let number = if link_type == 101 { 12 } else { i32::try_from(link_type).unwrap_or(i32::MAX) };
        let program = pcap::Capture::dead(pcap::Linktype(number))?.compile(text, true)?;
        let takes = program.filter(bytes);
        self.programs.push((link_type, program));
        Ok(takes)
    }
}

/// What ended the reading of a file.
enum Halt {
    /// The pipeline has ended.
    Pipeline,
    /// The stop came.
    Stop,
    /// The file cannot be read on.
    Failed(SourceError),
}

impl From<Stopped> for Halt {
    fn from(Stopped: Stopped) -> Self {
        Self::Pipeline
    }
}

/// Capture files → sink, on the calling thread.
struct FileRun<'a> {
    setup: &'a Setup,
    sink: &'a mut dyn Sink,
    stop: &'a Shutdown,
    meter: Meter,
    ledger: Ledger,
    filter: FileFilter,
    before: Counts,
}

impl<'a> FileRun<'a> {
    fn new(setup: &'a Setup, sink: &'a mut dyn Sink, stop: &'a Shutdown) -> Self {
        let filter = FileFilter { text: setup.options.filter.clone(), programs: Vec::new() };
        let (meter, ledger) = (setup.meter(), setup.ledger());
        Self { setup, sink, stop, meter, ledger, filter, before: Counts::default() }
    }

    fn files(mut self, paths: &[PathBuf]) -> Result<SourceEnd, SourceError> {
        let read = paths.iter().try_for_each(|path| {
            let what = path.display().to_string();
            let mut file = File::open(path).map_err(|error| Halt::Failed(failed(&what, error)))?;
            self.read(&what, |space, _| file.read(space))
        });
        self.finish(read)
    }

    fn stdin(mut self) -> Result<SourceEnd, SourceError> {
        let stdin = io::stdin();
        let read = self.read("standard input", |space, stop| {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))?;
            if fds[0].revents().is_empty() && !stop.is_tripped() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if stop.is_tripped() { Ok(0) } else { rustix::io::read(&stdin, space).map_err(Into::into) }
        });
        self.finish(read)
    }

    /// Reads one file to its end; `fill` puts bytes into the space it is lent.
    fn read(
        &mut self,
        what: &str,
        mut fill: impl FnMut(&mut [u8], &Shutdown) -> io::Result<usize>,
    ) -> Result<(), Halt> {
        let mut file = Savefile::new();
        loop {
            match fill(file.space(), self.stop) {
                Ok(0) => break,
                Ok(len) => file.filled(len),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(Halt::Failed(failed(what, error))),
            }
            while self.frames(what, &mut file)? {
                self.turn()?;
            }
            self.turn()?;
        }
        if !file.is_at_boundary() && !self.stop.is_tripped() {
            self.setup.log.event(Event::CaptureFileCut { path: what.to_owned() });
        }
        Ok(())
    }

    /// Counts up to [`FRAMES_A_TURN`] frames of what has been read; false when there are no more.
    fn frames(&mut self, what: &str, file: &mut Savefile) -> Result<bool, Halt> {
        let Self { sink, meter, ledger, filter, .. } = self;
        let mut printed = Ok(());
        for _ in 0..FRAMES_A_TURN {
            let captured = match file.frame() {
                Ok(Some(captured)) => captured,
                Ok(None) => {
                    printed?;
                    return Ok(false);
                }
                Err(error) => return Err(Halt::Failed(failed(what, error))),
            };
            let savefile::Captured { link_type, stamp, wire_len, bytes } = captured;
            match filter.takes(link_type, bytes) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(source) => {
                    let filter = filter.text.clone().unwrap_or_default();
                    let error = OpenError::Filter { filter, what: what.to_owned(), source };
                    return Err(Halt::Failed(failed(what, error)));
                }
            }
            ledger.begin(stamp.secs());
            let link_type = LinkType::from_number(link_type);
            meter.frame(&Frame { link_type, stamp, wire_len, iface: 0, bytes }, &mut |record| {
                if printed.is_ok() {
                    printed = ledger.record(&record, &mut |lines| sink.lines(lines, Instant::now()));
                }
            });
        }
        printed?;
        Ok(true)
    }

    /// What is due between two turns.
    fn turn(&mut self) -> Result<(), Halt> {
        self.count();
        if self.stop.is_tripped() {
            return Err(Halt::Stop);
        }
        let now = Instant::now();
        if self.sink.due().is_some_and(|due| due <= now) {
            self.sink.tick(now)?;
        }
        Ok(())
    }

    fn count(&mut self) {
        let now = self.meter.counts();
        self.setup.counters.add(&now, &self.before);
        self.before = now;
        self.setup.counters.flows.set(self.meter.flows() as u64);
    }

    /// Prints what is in the table, unless nobody takes it any more.
    fn finish(mut self, read: Result<(), Halt>) -> Result<SourceEnd, SourceError> {
        let end = match read {
            Ok(()) => Ok(SourceEnd::Eof),
            Err(Halt::Stop) => Ok(SourceEnd::Stopped),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Pipeline) => return Ok(SourceEnd::Stopped),
        };
        let Self { sink, meter, ledger, .. } = &mut self;
        let mut printed = Ok(());
        let mut emit = |lines: &[u8]| sink.lines(lines, Instant::now());
        meter.stop(&mut |record| {
            if printed.is_ok() {
                printed = ledger.record(&record, &mut emit);
            }
        });
        let printed = printed.and_then(|()| ledger.stop(&mut emit));
        self.count();
        self.setup.counters.rows.add(self.ledger.rows());
        self.setup.counters.split_windows.add(self.ledger.split_windows());
        if printed.is_err() { Ok(SourceEnd::Stopped) } else { end }
    }
}

fn failed(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
    SourceError { what: what.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sized_from_memory_within_bounds() {
        assert_eq!(flows_for(Some(16 << 30), 1), 4_194_304);
        assert_eq!(flows_for(Some(1 << 30), 1), 671_088);
        assert_eq!(flows_for(Some(1 << 30), 4), 167_772);
        assert_eq!(flows_for(Some(0), 0), 16_384);
        assert!(flows_for(available_memory(), 1) >= 16_384);
    }
}
