//! Packets of interfaces, one thread each, and the thread that prints their records.
//!
//! A capture thread never waits for printing unless the records' channel is full; while it waits, the kernel's ring takes the
//! packets, and what the ring drops is counted. The ring is libpcap's (TPACKET_V3 where the kernel has it), read in whole
//! blocks.

use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use pcap::{Active, Linktype};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use rustix::thread::CapabilitySet;

use super::fanout::Group;
use super::{Counters, OpenError, Options, Setup, failed};
use crate::clock;
use crate::flow::decode::LinkType;
use crate::flow::meter::{Counts, Frame, Meter};
use crate::flow::{Record, Stamp};
use crate::log::Event;
use crate::shutdown::{Reason, Shutdown};
use crate::source::{Sink, SourceEnd, SourceError, Stopped};

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
const SET_BACK: u32 = 5;

/// The age at which the kernel hands over a block of packets that is not full, milliseconds.
const BLOCK_AGE: i32 = 100;

/// How long the ring is read after a stop at least: until the block that was being filled then has been handed over.
const LAST_BLOCK: Duration = Duration::from_millis(BLOCK_AGE as u64 * 3 / 2);

/// How long it is read at most, however much comes: what it held at the stop is counted, what comes later need not be.
const LAST_READ: Duration = Duration::from_millis(500);

/// An opened interface, or a share of one.
pub(super) struct Interface {
    name: String,
    /// Which of the threads that share the interface's packets, from 0.
    share: u32,
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
        let mut shares = (0..options.threads.max(1))
            .map(|share| Self::share(name, share, options))
            .collect::<Result<Vec<_>, _>>()?;
        if let [first, others @ ..] = &shares[..]
            && !others.is_empty()
        {
            let failed = |source| OpenError::Fanout { name: name.to_owned(), source };
            let group = Group::new(first.handle.as_fd()).map_err(failed)?;
            others.iter().try_for_each(|other| group.join(other.handle.as_fd())).map_err(failed)?;
            // Stamps have lost what is below a microsecond.
            let begin = Stamp::from_micros(clock::now().timestamp_micros().cast_unsigned() + 1);
            for share in &mut shares {
                share.begin = begin;
            }
        }
        Ok(shares)
    }

    /// Opens the interface and installs the filter.
    fn share(name: &str, share: u32, options: &Options) -> Result<Self, OpenError> {
        let index = if name == "any" { 0 } else { index_of(name).ok_or_else(|| no_interface(name))? };
        if rustix::thread::capabilities(None).is_ok_and(|sets| !sets.effective.contains(CapabilitySet::NET_RAW)) {
            return Err(OpenError::NotPermitted { name: name.to_owned() });
        }
        let failed = |source| OpenError::Interface { name: name.to_owned(), source };
        let handle = pcap::Capture::from_device(name)
            .map_err(failed)?
            .snaplen(i32::try_from(options.snaplen).unwrap_or(i32::MAX))
            .promisc(options.promiscuous && name != "any")
            .buffer_size(i32::try_from(options.buffer_bytes).unwrap_or(i32::MAX))
            .timeout(BLOCK_AGE)
            .immediate_mode(false);
        let mut handle = handle.open().map_err(failed)?.setnonblock().map_err(failed)?;
        // The second version of the cooked header names the interface.
        let cooked = Linktype(276);
        if name == "any" && handle.list_datalinks().is_ok_and(|types| types.contains(&cooked)) {
            handle.set_datalink(cooked).map_err(failed)?;
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
        Ok(Self { name: name.to_owned(), share, index, handle, link_type, begin: Stamp::from_micros(0) })
    }

    /// True when the interface is there and was set down.
    fn is_down(&self) -> bool {
        flags_of(&self.name).is_some_and(|flags| flags & libc::IFF_UP as libc::c_short == 0)
    }

    /// The name of its thread, of which 15 bytes show in process lists.
    fn thread(&self) -> String {
        match self.share {
            0 => format!("capture-{}", self.name),
            share => format!("capture{share}-{}", self.name),
        }
    }
}

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

/// Runs all interfaces until the stop, or until one of them fails.
pub(super) fn run(
    setup: &Setup,
    interfaces: Vec<Interface>,
    sink: &mut dyn Sink,
    stop: &Shutdown,
) -> Result<SourceEnd, SourceError> {
    let (queue, records) = bounded(BATCHES);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut refused = None;
        for interface in interfaces {
            let mut worker = Worker {
                meter: setup.meter(),
                counters: &setup.counters,
                outbox: Outbox::new(queue.clone()),
                before: Counts::default(),
                flows_before: 0,
                drops_before: (0, 0),
                interface,
                setup,
            };
            let name = worker.interface.thread();
            match thread::Builder::new().name(name.clone()).spawn_scoped(scope, move || worker.run(stop)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    // The threads that did start must not run alone, or the scope would wait for them for ever.
                    stop.trip(Reason::StageEnded("capture"));
                    refused = Some(failed(&name, error));
                    break;
                }
            }
        }
        // The channel ends with the last capture thread.
        drop(queue);
        let printed = print(setup, &records, sink);
        drop(records);
        for thread in threads {
            match thread.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        // Whether it was the stop or the end of the pipeline: nothing failed here.
        let _ = printed;
        refused.map_or(Ok(SourceEnd::Stopped), Err)
    })
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
        if second.saturating_add(SET_BACK) < latest {
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
            Err(RecvTimeoutError::Timeout) => ledger.advance(second.saturating_sub(1), &mut emit)?,
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
    interface: Interface,
    meter: Meter,
    counters: &'a Counters,
    outbox: Outbox,
    setup: &'a Setup,
    before: Counts,
    flows_before: u64,
    /// By the kernel, by the interface.
    drops_before: (u32, u32),
}

impl Worker<'_> {
    fn run(&mut self, stop: &Shutdown) -> Result<(), SourceError> {
        let ended = self.capture(stop);
        if ended.is_err() {
            // One interface less is not what was asked for: the others stop too, print what they have, and the source fails.
            stop.trip(Reason::StageEnded("capture"));
        }
        self.drain();
        let Self { meter, outbox, .. } = self;
        meter.stop(&mut |record| outbox.put(record));
        self.outbox.send();
        self.statistics();
        if self.setup.options.threads > 1 {
            self.setup.log.event(Event::CaptureShare {
                interface: self.interface.name.clone(),
                thread: u64::from(self.interface.share),
                packets: self.before.seen,
            });
        }
        ended
    }

    fn capture(&mut self, stop: &Shutdown) -> Result<(), SourceError> {
        let mut counted = Instant::now();
        let mut is_down = false;
        while !stop.is_tripped() && !self.outbox.closed {
            match self.turn() {
                Ok(0) => {
                    self.idle();
                    self.wait(stop);
                }
                Ok(_) => {}
                // An interface that is down comes back by itself; one that is gone does not.
                Err(error)
                    if self.interface.index != 0 && index_of(&self.interface.name) != Some(self.interface.index) =>
                {
                    return Err(failed(&self.interface.name, error));
                }
                Err(error) => {
                    self.tell(&mut is_down, Some(error.to_string()));
                    self.idle();
                    stop.wait(LINGER);
                }
            }
            if self.outbox.since.elapsed() >= LINGER {
                self.outbox.send();
            }
            if counted.elapsed() >= STATISTICS {
                counted = Instant::now();
                self.interface.begin = Stamp::from_micros(0);
                self.follow_clock();
                self.statistics();
                // libpcap waits for an interface that was set down without a word.
                self.tell(&mut is_down, self.interface.is_down().then(|| "it was set down".to_owned()));
            }
        }
        Ok(())
    }

    /// Says that the interface is down, and why, or up again, when that is new.
    fn tell(&self, is_down: &mut bool, now_down: Option<String>) {
        let was_down = std::mem::replace(is_down, now_down.is_some());
        let interface = self.interface.name.clone();
        match now_down {
            _ if self.interface.share > 0 => {}
            Some(error) if !was_down => self.setup.log.event(Event::CaptureDown { interface, error }),
            None if was_down => self.setup.log.event(Event::CaptureUp { interface }),
            _ => {}
        }
    }

    /// Counts what the ring holds, up to [`PACKETS_A_TURN`] packets.
    fn turn(&mut self) -> Result<usize, pcap::Error> {
        let Self { interface, meter, outbox, .. } = self;
        let (link_type, iface, begin) = (Some(interface.link_type), interface.index, interface.begin);
        interface.handle.dispatch(Some(PACKETS_A_TURN), |packet| {
            let (secs, micros) = (packet.header.ts.tv_sec, packet.header.ts.tv_usec);
            let stamp = Stamp::new(secs.cast_unsigned(), u32::try_from(micros).unwrap_or(0));
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
        if epoch_secs().saturating_add(SET_BACK) < meter.clock() {
            meter.stop(&mut |record| outbox.put(record));
        }
    }

    /// Waits for the ring, the stop, or the next thing that is due.
    fn wait(&self, stop: &Shutdown) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(LINGER.subsec_nanos()) };
        let mut fds = [
            PollFd::from_borrowed_fd(self.interface.handle.as_fd(), PollFlags::IN),
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
                Ok(0) if began.elapsed() < LAST_BLOCK => thread::park_timeout(Duration::from_millis(10)),
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn statistics(&mut self) {
        let counts = self.meter.counts();
        self.counters.add(&counts, &self.before);
        self.before = counts;
        // The gauge is the sum over all interfaces, so each adds its change; the addition wraps.
        let flows = self.meter.flows() as u64;
        self.counters.flows.add(flows.wrapping_sub(self.flows_before));
        self.flows_before = flows;
        let Ok(statistics) = self.interface.handle.stats() else { return };
        let (kernel, interface) = self.drops_before;
        let dropped = statistics.dropped.wrapping_sub(kernel);
        self.counters.dropped_by_kernel.add(u64::from(dropped));
        self.counters.dropped_by_interface.add(u64::from(statistics.if_dropped.wrapping_sub(interface)));
        self.drops_before = (statistics.dropped, statistics.if_dropped);
        if dropped > 0 {
            self.setup
                .log
                .event(Event::CaptureDropped { interface: self.interface.name.clone(), packets: u64::from(dropped) });
        }
    }
}

/// The second that the packets' stamps of now are in.
fn epoch_secs() -> u32 {
    u32::try_from(clock::now().timestamp()).unwrap_or(u32::MAX)
}
