//! Packets of interfaces, one thread each, and the thread that prints their records.
//!
//! A capture thread never waits for printing unless the records' channel is full; while it waits, the kernel's ring takes the
//! packets, and what the ring drops is counted. The ring is libpcap's (TPACKET_V3 where the kernel has it), read in whole
//! blocks.
//!
//! Interfaces come and go: one that is lost is waited for and opened again under its name, while the others go on. Opening needs
//! capabilities that every other thread has given up, so one thread keeps them and does nothing else ([`Opener`]).

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use pcap::{Active, Linktype};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use rustix::thread::CapabilitySet;

use super::fanout::Group;
use super::{OpenError, Options, Setup, failed};
use crate::clock;
use crate::flow::aggregate::Primitive;
use crate::flow::decode::LinkType;
use crate::flow::meter::{Counts, Frame, Meter};
use crate::flow::{Record, Stamp};
use crate::log::{Event, Log};
use crate::shutdown::{Reason, Shutdown};
use crate::source::{Sink, SourceEnd, SourceError, Stopped};
use crate::threads;

/// Records handed over at once.
const BATCH: usize = 1024;

/// Batches that may wait for the printing thread: 64 × 1024 records are 9 MB, and what a table of a million flows ends with in a
/// second does not have to fit, because the ring holds the packets meanwhile.
const BATCHES: usize = 64;

/// How long a record waits for its batch to fill.
const LINGER: Duration = Duration::from_millis(100);

/// Packets between two looks at the stop latch, the batch's age and the statistics: about 10 ms at full speed.
const PACKETS_A_TURN: usize = 65_536;

/// How often libpcap's statistics are read.
const STATISTICS: Duration = Duration::from_secs(1);

/// By how many seconds the system's clock may be behind the packets' before it counts as set back. The kernel stamps packets
/// with the same clock, so a second would do.
const SET_BACK: i64 = 5;

/// The fewest bytes of a frame that the ring keeps, whatever `snaplen` says: four tags, five labels, IPv6 with four extension
/// headers and the flags of TCP fit.
const LEAST_SNAPLEN: u32 = 256;

/// How often the opening of an interface that is there but refuses is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The age at which the kernel hands over a block of packets that is not full, milliseconds.
const BLOCK_AGE: i32 = 100;

/// How long the ring is read after a stop at least: until the block that was being filled then has been handed over.
const LAST_BLOCK: Duration = Duration::from_millis(BLOCK_AGE as u64 * 3 / 2);

/// How long it is read at most, however much comes: what it held at the stop is counted, what comes later need not be.
const LAST_READ: Duration = Duration::from_millis(500);

/// An opened interface, or a share of one.
pub(super) struct Interface {
    name: String,
    /// 0 for `any`.
    index: u32,
    handle: pcap::Capture<Active>,
    link_type: LinkType,
    /// Packets before this are not counted: until the last of the shares had joined, some were in several rings.
    begin: Stamp,
}

impl Interface {
    /// Opens the interface once for each thread that shares its packets.
    pub(super) fn open(name: &str, options: &Options) -> Result<Vec<Self>, OpenError> {
        let mut shares =
            (0..options.threads.max(1)).map(|_| Self::share(name, options)).collect::<Result<Vec<_>, _>>()?;
        if let [first, others @ ..] = &shares[..]
            && !others.is_empty()
        {
            let failed = |source| OpenError::Fanout { name: name.to_owned(), source };
            let group = Group::new(first.handle.as_fd()).map_err(failed)?;
            others.iter().try_for_each(|other| group.join(other.handle.as_fd())).map_err(failed)?;
            // Stamps have lost what is below a microsecond.
            let begin = Stamp::from_micros(clock::now().timestamp_micros() + 1);
            for share in &mut shares {
                share.begin = begin;
            }
        }
        Ok(shares)
    }

    /// Opens the interface and installs the filter.
    fn share(name: &str, options: &Options) -> Result<Self, OpenError> {
        let index = if name == "any" { 0 } else { index_of(name).ok_or_else(|| no_interface(name))? };
        if rustix::thread::capabilities(None).is_ok_and(|sets| !sets.effective.contains(CapabilitySet::NET_RAW)) {
            return Err(OpenError::NotPermitted { name: name.to_owned() });
        }
        let failed = |source| OpenError::Interface { name: name.to_owned(), source };
        let handle = pcap::Capture::from_device(name)
            .map_err(failed)?
            .snaplen(i32::try_from(options.snaplen.max(LEAST_SNAPLEN)).unwrap_or(i32::MAX))
            .promisc(options.promiscuous && name != "any")
            .buffer_size(i32::try_from(options.buffer_bytes).unwrap_or(i32::MAX))
            .timeout(BLOCK_AGE)
            .immediate_mode(false);
        let mut handle = handle.open().map_err(failed)?.setnonblock().map_err(failed)?;
        // The second version of the cooked header names the interface; to the first, libpcap gives back the outermost tag, which
        // the kernel hands over beside the frame.
        let tells_tags = options.aggregate.has(Primitive::Vlan) || options.aggregate.has(Primitive::Cos);
        let cooked = Linktype(if tells_tags { 113 } else { 276 });
        if name == "any" && handle.list_datalinks().is_ok_and(|types| types.contains(&cooked)) {
            handle.set_datalink(cooked).map_err(failed)?;
        }
        if let Some(direction) = options.direction {
            handle.direction(direction).map_err(failed)?;
        }
        if let Some(filter) = &options.filter {
            handle.filter(filter, true).map_err(|source| OpenError::Filter {
                filter: filter.clone(),
                what: name.to_owned(),
                source,
            })?;
        }
        let number = handle.get_datalink().0;
        let link_type = u32::try_from(number).ok().and_then(LinkType::from_number).ok_or_else(|| {
            failed(pcap::Error::PcapError(format!("its link type {number} is not one that capture decodes")))
        })?;
        Ok(Self { name: name.to_owned(), index, handle, link_type, begin: Stamp::MIN })
    }

    /// False when its name is now another interface's or nobody's.
    fn is_there(&self) -> bool {
        self.index == 0 || index_of(&self.name) == Some(self.index)
    }
}

/// True when the interface is there and was set down.
fn is_down(name: &str) -> bool {
    flags_of(name).is_some_and(|flags| flags & libc::IFF_UP as libc::c_short == 0)
}

/// The name of a thread, of which 15 bytes show in process lists.
fn thread_name(interface: &str, share: u32) -> String {
    match share {
        0 => format!("capture-{interface}"),
        share => format!("capture{share}-{interface}"),
    }
}

/// A name to open, and where the result is awaited.
type Request = (String, Sender<Result<Vec<Interface>, OpenError>>);

/// The thread that opens interfaces while the capture runs. It keeps the capabilities of the thread that started it.
#[derive(Clone)]
struct Opener(Sender<Request>);

impl Opener {
    /// Starts the thread, which ends with the last copy of this.
    fn start(options: &Options) -> Result<Self, OpenError> {
        let (requests, taken) = bounded::<Request>(1);
        let options = options.clone();
        let work = move || {
            for (name, reply) in taken {
                // Nobody waits any more when the program stops.
                let _ = reply.send(Interface::open(&name, &options));
            }
        };
        threads::spawn("capture-open", work).map_err(|source| OpenError::Thread { source })?;
        Ok(Self(requests))
    }

    fn open(&self, name: &str) -> Result<Vec<Interface>, OpenError> {
        let (reply, opened) = bounded(1);
        let ended = || OpenError::Thread { source: std::io::ErrorKind::BrokenPipe.into() };
        self.0.send((name.to_owned(), reply)).map_err(|_| ended())?;
        opened.recv().map_err(|_| ended())?
    }
}

/// What is captured: names, each with its opened shares; without any while it is waited for.
pub(super) struct Live {
    interfaces: Vec<(String, Vec<Interface>)>,
    opener: Opener,
    shares: u32,
}

impl Live {
    /// Opens the interfaces. One that was set down, or with `pcap_interface_wait` one that is not there, is waited for.
    pub(super) fn open(names: &[String], options: &Options, log: &Log) -> Result<Self, OpenError> {
        let open = |name: &String| match Interface::open(name, options) {
            Ok(shares) => Ok((name.clone(), shares)),
            Err(error) if options.wait && matches!(error, OpenError::NoInterface { .. }) || is_down(name) => {
                log.event(Event::CaptureLost { interface: name.clone(), error: error.to_string() });
                Ok((name.clone(), Vec::new()))
            }
            Err(error) => Err(error),
        };
        let interfaces = names.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { interfaces, opener: Opener::start(options)?, shares: options.threads.max(1) })
    }

    /// Tables that are filled at the same time.
    pub(super) fn tables(&self) -> usize {
        self.interfaces.len() * self.shares as usize
    }

    /// Captures on all interfaces until the stop.
    pub(super) fn run(self, setup: &Setup, sink: &mut dyn Sink, stop: &Shutdown) -> Result<SourceEnd, SourceError> {
        let (queue, records) = bounded(BATCHES);
        let Self { interfaces, opener, shares } = self;
        setup.counters.interfaces.set(interfaces.len() as u64);
        thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut refused = None;
            let places = interfaces.into_iter().flat_map(|(name, opened)| {
                let seats: Seats = (0..shares).map(|_| bounded(1)).collect();
                let mut opened = opened.into_iter();
                (0..shares).map(move |share| (name.clone(), share, opened.next(), Arc::clone(&seats)))
            });
            for (name, share, interface, seats) in places {
                let thread = thread_name(&name, share);
                let mut worker = Worker {
                    meter: setup.meter(),
                    outbox: Outbox::new(queue.clone()),
                    before: Counts::default(),
                    flows_before: 0,
                    drops_before: (0, 0),
                    away: None,
                    tried: None,
                    interface,
                    name,
                    share,
                    seats,
                    opener: opener.clone(),
                    setup,
                };
                match thread::Builder::new().name(thread.clone()).spawn_scoped(scope, move || worker.run(stop)) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        // The threads that did start must not run alone, or the scope would wait for them for ever.
                        stop.trip(Reason::StageEnded("capture"));
                        refused = Some(failed(&thread, error));
                        break;
                    }
                }
            }
            // The channel ends with the last capture thread.
            drop(queue);
            let printed = print(setup, &records, sink);
            drop(records);
            for thread in threads {
                if let Err(panic) = thread.join() {
                    std::panic::resume_unwind(panic);
                }
            }
            // Whether it was the stop or the end of the pipeline: nothing failed here.
            let _ = printed;
            refused.map_or(Ok(SourceEnd::Stopped), Err)
        })
    }
}

/// Where the thread that opens an interface again puts the shares of the others.
type Seats = Arc<[(Sender<Interface>, Receiver<Interface>)]>;

/// The system's index of an interface, `None` when it does not exist.
fn index_of(name: &str) -> Option<u32> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(socket, name).ok()
}

/// The interface's flags as netdevice(7) has them, `None` when it does not exist.
///
/// `/sys/class/net` would need no `unsafe`, but it shows the network namespace in which it was mounted: after `nsenter -n` or
/// `unshare -n` it tells of another interface of the same name.
fn flags_of(name: &str) -> Option<libc::c_short> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    // SAFETY: zero is a right value of every field.
    #[allow(unsafe_code)]
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let space = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..space].iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the descriptor is open; the kernel reads the name of `request` and writes its flags, nothing beyond it.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
    if done != 0 {
        return None;
    }
    // SAFETY: the kernel has just written this field.
    #[allow(unsafe_code)]
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Some(flags)
}

fn no_interface(name: &str) -> OpenError {
    let mut have: Vec<String> = std::fs::read_dir("/sys/class/net")
        .map(|names| names.flatten().map(|name| name.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    have.sort();
    OpenError::NoInterface { name: name.to_owned(), have }
}

/// Records of one capture thread on their way to the printing thread.
struct Outbox {
    batch: Vec<Record>,
    queue: Sender<Vec<Record>>,
    /// When the oldest record of the batch came.
    since: Instant,
    /// The printing thread has ended: records have nowhere to go.
    closed: bool,
}

impl Outbox {
    fn new(queue: Sender<Vec<Record>>) -> Self {
        Self { batch: Vec::with_capacity(BATCH), queue, since: Instant::now(), closed: false }
    }

    fn put(&mut self, record: Record) {
        if self.batch.is_empty() {
            self.since = Instant::now();
        }
        self.batch.push(record);
        if self.batch.len() >= BATCH {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
            self.closed |= self.queue.send(batch).is_err();
        }
    }
}

/// Prints records until no capture thread is left.
fn print(setup: &Setup, records: &Receiver<Vec<Record>>, sink: &mut dyn Sink) -> Result<(), Stopped> {
    let mut ledger = setup.ledger();
    let mut latest = epoch_secs();
    ledger.begin(latest);
    loop {
        let now = Instant::now();
        let due = sink.due().map_or(LINGER, |due| due.saturating_duration_since(now).min(LINGER));
        let batch = records.recv_timeout(due);
        let now = Instant::now();
        let mut emit = |lines: &[u8]| sink.lines(lines, now);
        let second = epoch_secs();
        if second + SET_BACK < latest {
            ledger.restart(second, &mut emit)?;
            latest = second;
        }
        latest = latest.max(second);
        match batch {
            // A record from before the clock was set back ended in what is the future now.
            Ok(batch) => batch
                .into_iter()
                .map(|record| Record { ended: record.ended.min(latest), ..record })
                .try_for_each(|record| ledger.record(&record, &mut emit))?,
            // The records of a window's last second may come a little after it.
            Err(RecvTimeoutError::Timeout) => ledger.advance(second - 1, &mut emit)?,
            Err(RecvTimeoutError::Disconnected) => {
                ledger.stop(&mut emit)?;
                setup.counters.rows.set(ledger.rows());
                return Ok(());
            }
        }
        setup.counters.rows.set(ledger.rows());
        setup.counters.split_windows.set(ledger.split_windows());
        if sink.due().is_some_and(|due| due <= now) {
            sink.tick(now)?;
        }
    }
}

/// One capture thread.
struct Worker<'a> {
    name: String,
    /// Which of the threads that share the interface's packets, from 0. The first one speaks and opens for all.
    share: u32,
    /// `None` while it is waited for.
    interface: Option<Interface>,
    seats: Seats,
    opener: Opener,
    meter: Meter,
    outbox: Outbox,
    setup: &'a Setup,
    before: Counts,
    flows_before: u64,
    /// By the kernel, by the interface.
    drops_before: (u32, u32),
    /// Since when no packets can come.
    away: Option<Instant>,
    /// When opening was last tried.
    tried: Option<Instant>,
}

impl Worker<'_> {
    fn run(&mut self, stop: &Shutdown) {
        self.capture(stop);
        self.drain();
        let Self { meter, outbox, .. } = self;
        meter.stop(&mut |record| outbox.put(record));
        self.outbox.send();
        self.statistics();
        if self.setup.options.threads > 1 {
            let (interface, thread) = (self.name.clone(), u64::from(self.share));
            self.setup.log.event(Event::CaptureShare { interface, thread, packets: self.before.seen });
        }
    }

    fn capture(&mut self, stop: &Shutdown) {
        let mut counted = Instant::now();
        if self.interface.is_none() {
            self.begin_away();
        }
        while !stop.is_tripped() && !self.outbox.closed {
            if self.interface.is_none() {
                self.idle();
                if !self.seek() {
                    stop.wait(LINGER);
                }
            } else {
                match self.turn() {
                    Ok(0) => {
                        self.idle();
                        self.wait(stop);
                    }
                    Ok(_) => {}
                    Err(error) if self.is_gone() => self.lose(&error.to_string()),
                    // An interface that is down comes back by itself.
                    Err(error) => {
                        self.tell(Some(error.to_string()));
                        self.idle();
                        stop.wait(LINGER);
                    }
                }
            }
            if self.outbox.since.elapsed() >= LINGER {
                self.outbox.send();
            }
            if counted.elapsed() >= STATISTICS {
                counted = Instant::now();
                self.follow_clock();
                self.statistics();
                if self.is_gone() {
                    self.lose("it was removed, renamed or made again");
                } else if let Some(interface) = &mut self.interface {
                    interface.begin = Stamp::MIN;
                    // libpcap waits for an interface that was set down without a word.
                    self.tell(is_down(&self.name).then(|| "it was set down".to_owned()));
                }
            }
        }
    }

    fn is_gone(&self) -> bool {
        self.interface.as_ref().is_some_and(|interface| !interface.is_there())
    }

    /// Says that the interface is down, and why, or up again, when that is new.
    fn tell(&mut self, now_down: Option<String>) {
        let interface = self.name.clone();
        match now_down {
            Some(error) if self.away.is_none() => {
                self.begin_away();
                self.say(Event::CaptureDown { interface, error });
            }
            None if self.away.is_some() => {
                self.end_away();
                self.say(Event::CaptureUp { interface });
            }
            _ => {}
        }
    }

    /// The interface is gone: what its ring still holds is counted, and it is closed.
    fn lose(&mut self, error: &str) {
        self.drain();
        self.statistics();
        self.interface = None;
        self.drops_before = (0, 0);
        self.begin_away();
        self.say(Event::CaptureLost { interface: self.name.clone(), error: error.to_owned() });
    }

    /// Opens the interface when it is there again; true when it has been opened.
    fn seek(&mut self) -> bool {
        if self.share > 0 {
            // What was put here for a thread that was late may be gone again.
            self.interface = self.seats[self.share as usize].1.try_recv().ok().filter(Interface::is_there);
            return self.interface.is_some();
        }
        let is_there = self.name == "any" || index_of(&self.name).is_some() && !is_down(&self.name);
        if !is_there || self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return false;
        }
        self.tried = Some(Instant::now());
        match self.opener.open(&self.name) {
            Ok(opened) => {
                let mut opened = opened.into_iter();
                self.interface = opened.next();
                for ((put, take), interface) in self.seats.iter().skip(1).zip(opened) {
                    // In the place of one that nobody has taken; this is the only thread that puts.
                    let _ = take.try_recv();
                    let _ = put.try_send(interface);
                }
                let away = self.end_away();
                self.tried = None;
                self.say(Event::CaptureFound { interface: self.name.clone(), away });
            }
            Err(error) => self.say(Event::CaptureLost { interface: self.name.clone(), error: error.to_string() }),
        }
        self.interface.is_some()
    }

    /// The other threads of an interface keep silent: its state is told and counted once.
    fn say(&self, event: Event) {
        if self.share == 0 {
            self.setup.log.event(event);
        }
    }

    fn begin_away(&mut self) {
        if self.away.is_none() {
            self.away = Some(Instant::now());
            if self.share == 0 {
                self.setup.counters.interfaces_away.add(1);
                self.setup.counters.interface_losses.add(1);
            }
        }
    }

    fn end_away(&mut self) -> Duration {
        let since = self.away.take();
        if since.is_some() && self.share == 0 {
            self.setup.counters.interfaces_away.sub(1);
        }
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Counts what the ring holds, up to [`PACKETS_A_TURN`] packets.
    fn turn(&mut self) -> Result<usize, pcap::Error> {
        let Self { interface: Some(interface), meter, outbox, .. } = self else { return Ok(0) };
        let (link_type, iface, begin) = (Some(interface.link_type), interface.index, interface.begin);
        interface.handle.dispatch(Some(PACKETS_A_TURN), |packet| {
            let (secs, micros) = (packet.header.ts.tv_sec, packet.header.ts.tv_usec);
            let stamp = Stamp::new(secs, u32::try_from(micros).unwrap_or(0));
            if stamp < begin {
                return;
            }
            let frame = Frame { link_type, stamp, wire_len: packet.header.len, iface, bytes: packet.data };
            meter.frame(&frame, &mut |record| outbox.put(record));
        })
    }

    /// No packet waits: time goes on by the system's clock.
    fn idle(&mut self) {
        let Self { meter, outbox, .. } = self;
        meter.advance(epoch_secs(), &mut |record| outbox.put(record));
    }

    /// Ends all flows when the system's clock was set back, for none would end until it is where it was.
    fn follow_clock(&mut self) {
        let Self { meter, outbox, .. } = self;
        if epoch_secs() + SET_BACK < meter.clock() {
            meter.stop(&mut |record| outbox.put(record));
        }
    }

    /// Waits for the ring, the stop, or the next thing that is due.
    fn wait(&self, stop: &Shutdown) {
        let Some(interface) = &self.interface else { return };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(LINGER.subsec_nanos()) };
        let mut fds = [
            PollFd::from_borrowed_fd(interface.handle.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
        ];
        // An interrupted wait is as good as one that ended.
        let _ = poll(&mut fds, Some(&timeout));
    }

    /// Reads what the ring still holds, for a bounded time.
    fn drain(&mut self) {
        let began = Instant::now();
        while began.elapsed() < LAST_READ && !self.outbox.closed {
            match self.turn() {
                Ok(1..) => {}
                _ if self.interface.is_none() => return,
                // Also an interface that is gone has a block that is still to be handed over.
                Ok(0) | Err(_) if began.elapsed() < LAST_BLOCK => thread::park_timeout(Duration::from_millis(10)),
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn statistics(&mut self) {
        let counts = self.meter.counts();
        let counters = &self.setup.counters;
        self.setup.count(&counts, &self.before);
        self.before = counts;
        // The gauge is the sum over all interfaces, so each adds its change; the addition wraps.
        let flows = self.meter.flows() as u64;
        counters.flows.add(flows.wrapping_sub(self.flows_before));
        self.flows_before = flows;
        let Some(Ok(statistics)) = self.interface.as_mut().map(|interface| interface.handle.stats()) else { return };
        let (kernel, interface) = self.drops_before;
        let dropped = statistics.dropped.wrapping_sub(kernel);
        counters.dropped_by_kernel.add(u64::from(dropped));
        counters.dropped_by_interface.add(u64::from(statistics.if_dropped.wrapping_sub(interface)));
        self.drops_before = (statistics.dropped, statistics.if_dropped);
        if dropped > 0 {
            let (interface, packets) = (self.name.clone(), u64::from(dropped));
            self.setup.log.event(Event::CaptureDropped { interface, packets });
        }
    }
}

/// The second that the packets' stamps of now are in.
fn epoch_secs() -> i64 {
    clock::now().timestamp()
}
