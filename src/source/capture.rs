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

use crate::flow::aggregate::{self, Primitive};
use crate::flow::decode::{LinkType, Reject};
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
mod filter;
mod live;
pub mod options;
pub mod savefile;

pub use options::{Input, KeyError, Options, changes_counts};

use filter::FileFilter;
use live::Live;
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
    /// The system has no thread left for opening interfaces while the capture runs.
    #[error("pcap_interface: no thread for opening it: {source}")]
    Thread {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `any` cannot tell what is asked for.
    #[error(
        "aggregate: on pcap_interface any, libpcap tells a packet's interface or its tags, not both; name the interfaces, or leave \
         out in_iface, or vlan and cos"
    )]
    AnyTellsOne,
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
    Interfaces(Live),
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
        if matches!(options.input, Input::Interfaces(_)) {
            Self::problems(&options)?;
        }
        let networks = networks(options.networks_file.as_deref())?;
        let input = match &options.input {
            Input::Interfaces(names) => Opened::Interfaces(Live::open(names, &options, &log)?),
            Input::Savefile(path) if path.as_os_str() == "-" => Opened::Stdin,
            Input::Savefile(path) => {
                let files = files(path)?;
                look_ahead(&files, &options, &log)?;
                Opened::Files(files)
            }
        };
        let (tables, sharing) = match &input {
            Opened::Interfaces(live) => (live.tables(), options.threads.max(1) as usize),
            Opened::Files(_) | Opened::Stdin => (1, 1),
        };
        let max_flows = match options.max_flows {
            Some(flows) => flows.div_ceil(sharing),
            None => flows_for(available_memory(), tables as u64),
        };
        Ok(Self { setup: Setup { options, networks, tables, max_flows, counters: Arc::default(), log }, input })
    }

    /// Whether something keeps the capture from beginning that can be told without opening an interface.
    ///
    /// # Errors
    ///
    /// When the filter does not compile for a link type of the files, and when `any` cannot tell what is asked for.
    pub fn problems(options: &Options) -> Result<(), OpenError> {
        match &options.input {
            Input::Savefile(path) if path.as_os_str() != "-" => {
                // Files that are not there yet are told by `open`.
                files(path).map_or(Ok(()), |files| look_ahead(&files, options, &Log::discard()))
            }
            Input::Interfaces(names) if names.iter().any(|name| name == "any") => {
                let has = |primitive| options.aggregate.has(primitive);
                let tags = has(Primitive::Vlan) || has(Primitive::Cos);
                if has(Primitive::InIface) && tags { Err(OpenError::AnyTellsOne) } else { Ok(()) }
            }
            _ => Ok(()),
        }
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
    /// Adds to the counters what a meter has counted since `before`, and says when its table was full.
    fn count(&self, now: &Counts, before: &Counts) {
        self.counters.add(now, before);
        if now.evicted > before.evicted {
            let (evicted, max_flows) = (now.evicted - before.evicted, self.max_flows as u64);
            self.log.event(Event::CaptureTableFull { evicted, max_flows, bytes_a_flow: BYTES_A_FLOW });
        }
    }

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
                by_link: false,
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
            Opened::Interfaces(live) => live.run(&setup, sink, stop),
            Opened::Files(paths) => FileRun::new(&setup, sink, stop).files(&paths),
            Opened::Stdin => FileRun::new(&setup, sink, stop).stdin(),
        };
        let counters = &setup.counters;
        let uncounted = uncounted(counters);
        if !uncounted.is_empty() {
            let rejected = |reason: Reject| counters.rejected[reason.index()].get();
            setup.log.event(Event::CaptureUncounted {
                reasons: named(&uncounted),
                not_ip: rejected(Reject::NotIp),
                cut_by_snaplen: rejected(Reject::Cut),
                short_frame: rejected(Reject::Short),
                bad_ip_version: rejected(Reject::BadVersion),
                bad_length: rejected(Reject::BadLength),
                unknown_link_type: rejected(Reject::LinkType),
                filtered: counters.filtered.get(),
                unsampled: counters.passed_over.get(),
            });
        }
        setup.log.event(Event::CaptureEnded {
            seen: counters.seen.get(),
            decoded: counters.decoded.get(),
            rejected: counters.rejected.iter().map(Number::get).sum(),
            dropped: counters.dropped_by_kernel.get() + counters.dropped_by_interface.get(),
            rows: counters.rows.get(),
            evicted: counters.evicted.get(),
            split_windows: counters.split_windows.get(),
            files: counters.files.get(),
            failed_files: counters.failed_files.get(),
        });
        end
    }
}

/// Frames that are in no flow, by the name of the reason; reasons without a frame are left out.
fn uncounted(counters: &Counters) -> Vec<(&'static str, u64)> {
    let rejected = Reject::ALL.iter().map(|reason| (reason.name(), counters.rejected[reason.index()].get()));
    let others = [("filtered", counters.filtered.get()), ("unsampled", counters.passed_over.get())];
    rejected.chain(others).filter(|(_, packets)| *packets > 0).collect()
}

/// `not_ip 12, bad_length 3`.
fn named(numbers: &[(&str, u64)]) -> String {
    numbers.iter().map(|(name, number)| format!("{name} {number}")).collect::<Vec<_>>().join(", ")
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

/// How much of a file is looked at before the capture begins: the descriptions of its interfaces stand at its front.
const LOOK_AHEAD: u64 = 64 * 1024;

/// Says before anything is counted which link types of the files are not decoded, and fails when the filter does not compile
/// for one that is. What cannot be read, or only once (a pipe), is told when its turn comes.
fn look_ahead(paths: &[PathBuf], options: &Options, log: &Log) -> Result<(), OpenError> {
    let mut filter = FileFilter::new(options.filter.clone());
    let mut unknown: Vec<(u32, &Path, u64)> = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        let mut link_types = link_types(path);
        link_types.sort_unstable();
        link_types.dedup();
        for number in link_types {
            if LinkType::from_number(number).is_some() {
                filter.compile(number).map_err(|source| OpenError::Filter {
                    filter: options.filter.clone().unwrap_or_default(),
                    what: format!("{} (link type {number})", path.display()),
                    source,
                })?;
            } else if let Some((_, _, files)) = unknown.iter_mut().find(|(have, _, _)| *have == number) {
                *files += 1;
            } else {
                unknown.push((number, path, 1));
            }
        }
    }
    for (link_type, path, files) in unknown {
        log.event(Event::CaptureLinkType { path: path.display().to_string(), link_type: u64::from(link_type), files });
    }
    Ok(())
}

/// The link types that the front of a file tells; none where it cannot be read or is no capture file.
fn link_types(path: &Path) -> Vec<u32> {
    let mut file = Savefile::new();
    let Ok(bytes) = File::open(path) else { return Vec::new() };
    let mut bytes = bytes.take(LOOK_AHEAD);
    while let Ok(len @ 1..) = bytes.read(file.space()) {
        file.filled(len);
        // A frame, or a damage, comes after the first descriptions.
        if !matches!(file.frame(), Ok(None)) {
            break;
        }
    }
    file.link_types()
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
    /// Of the frame before: the number and how it is decoded.
    link_type: (u32, Option<LinkType>),
}

impl<'a> FileRun<'a> {
    fn new(setup: &'a Setup, sink: &'a mut dyn Sink, stop: &'a Shutdown) -> Self {
        let filter = FileFilter::new(setup.options.filter.clone());
        let (meter, ledger) = (setup.meter(), setup.ledger());
        let link_type = (1, LinkType::from_number(1));
        Self { setup, sink, stop, meter, ledger, filter, before: Counts::default(), link_type }
    }

    /// Reads all files; one that cannot be read, or not to its end, is named and passed over.
    fn files(mut self, paths: &[PathBuf]) -> Result<SourceEnd, SourceError> {
        let mut first_failure = None;
        let read = paths.iter().try_for_each(|path| {
            let what = path.display().to_string();
            let read = match File::open(path) {
                Ok(mut file) => self.read(&what, |space, _| file.read(space)),
                Err(error) => Err(Halt::Failed(failed(&what, error))),
            };
            self.setup.counters.files.add(1);
            match read {
                Err(Halt::Failed(error)) => {
                    self.setup.counters.failed_files.add(1);
                    self.setup.log.event(Event::CaptureFileFailed { path: what, error: error.source.to_string() });
                    first_failure.get_or_insert(error);
                    self.turn()
                }
                read => read,
            }
        });
        let read = match (read, first_failure, paths) {
            (Ok(()), Some(error), [_]) => Err(Halt::Failed(error)),
            (Ok(()), Some(error), _) => {
                let bad = self.setup.counters.failed_files.get();
                let what =
                    format!("{bad} of {} capture files could not be read; the first is {}", paths.len(), error.what);
                Err(Halt::Failed(SourceError { what, ..error }))
            }
            (read, _, _) => read,
        };
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
        let before = self.meter.counts();
        let read = loop {
            match fill(file.space(), self.stop) {
                Ok(0) => break Ok(()),
                Ok(len) => file.filled(len),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => break Err(Halt::Failed(failed(what, error))),
            }
            if let Err(halt) = self.held(what, &mut file) {
                break Err(halt);
            }
        };
        let path = || what.to_owned();
        let log = &self.setup.log;
        if file.stamps_beyond() > 0 {
            self.setup.counters.stamps_beyond.add(file.stamps_beyond());
            log.event(Event::CaptureStampsBeyond { path: path(), packets: file.stamps_beyond() });
        }
        let now = self.meter.counts();
        if now.decoded == before.decoded && now.rejected != before.rejected {
            let rejected =
                Reject::ALL.map(|why| (why.name(), now.rejected[why.index()] - before.rejected[why.index()]));
            let rejected: Vec<_> = rejected.into_iter().filter(|(_, packets)| *packets > 0).collect();
            let packets = rejected.iter().map(|(_, packets)| packets).sum();
            log.event(Event::CaptureFileUncounted { path: path(), packets, reasons: named(&rejected) });
        }
        if read.is_ok() && !file.is_at_boundary() && !self.stop.is_tripped() {
            log.event(Event::CaptureFileCut { path: path() });
        }
        read
    }

    /// Counts all frames of what has been read.
    fn held(&mut self, what: &str, file: &mut Savefile) -> Result<(), Halt> {
        while self.frames(what, file)? {
            self.turn()?;
        }
        self.turn()
    }

    /// Counts up to [`FRAMES_A_TURN`] frames of what has been read; false when there are no more.
    fn frames(&mut self, what: &str, file: &mut Savefile) -> Result<bool, Halt> {
        let Self { setup, sink, meter, ledger, filter, link_type: known, .. } = self;
        let mut printed = Ok(());
        let mut filtered = 0;
        let mut more = Ok(true);
        for _ in 0..FRAMES_A_TURN {
            let captured = match file.frame() {
                Ok(Some(captured)) => captured,
                Ok(None) => {
                    more = Ok(false);
                    break;
                }
                Err(error) => {
                    more = Err(Halt::Failed(failed(what, error)));
                    break;
                }
            };
            let savefile::Captured { link_type: number, stamp, wire_len, bytes } = captured;
            if known.0 != number {
                *known = (number, LinkType::from_number(number));
            }
            let link_type = known.1;
            // What is not decoded is counted as that, whatever the filter would say.
            if link_type.is_some() {
                match filter.takes(number, bytes, wire_len) {
                    Ok(true) => {}
                    Ok(false) => {
                        filtered += 1;
                        continue;
                    }
                    Err(source) => {
                        let filter = setup.options.filter.clone().unwrap_or_default();
                        let error = OpenError::Filter { filter, what: format!("link type {number}"), source };
                        more = Err(Halt::Failed(failed(what, error)));
                        break;
                    }
                }
            }
            ledger.begin(stamp.secs());
            meter.frame(&Frame { link_type, stamp, wire_len, iface: 0, bytes }, &mut |record| {
                if printed.is_ok() {
                    printed = ledger.record(&record, &mut |lines| sink.lines(lines, Instant::now()));
                }
            });
        }
        setup.counters.filtered.add(filtered);
        printed?;
        more
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
        self.setup.count(&now, &self.before);
        self.before = now;
        self.setup.counters.flows.set(self.meter.flows() as u64);
    }

    /// Prints what is in the table, unless nobody takes it any more.
    fn finish(mut self, read: Result<(), Halt>) -> Result<SourceEnd, SourceError> {
        let counts = self.meter.counts();
        let lost: u64 = counts.rejected.iter().sum::<u64>() - counts.rejected[Reject::NotIp.index()];
        let end = match read {
            // A capture in which nothing could be counted, and not because there was no IP in it, is not what was asked for.
            Ok(()) if counts.decoded == 0 && lost > 0 => {
                let reasons = Reject::ALL.map(|why| (why.name(), counts.rejected[why.index()]));
                let reasons: Vec<_> = reasons.into_iter().filter(|(_, packets)| *packets > 0).collect();
                Err(failed(&self.setup.what(), format!("nothing in it could be counted: {}", named(&reasons))))
            }
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
