//! `processor` collects network flows on a probe and delivers them, complete, as rolled `.csv.gz` files to an FTP server.
//! This page is the map of the house.
//!
//! ```text
//! stdin ─────────┐
//! pmacctd+nfacctd├─ bytes ─▶ line ─ Batch ─▶ pack ×N ─ Packed ─▶ spool ─ seal ─▶ NAME.csv.gz ─ put ─▶ FTP
//! libpcap+flows ─┘           cut            check+gzip          NAME.part        the directory is the queue
//!
//! 1 read    bytes into a pooled block                               thread source
//! 2 cut     blocks into batches of whole lines, batches into files  thread source
//! 3 pack    check the lines, gzip the batch → Packed                threads pack-i
//! 4 append  Packed → NAME.part, in the order of 2                   thread spool
//! 5 seal    trailer, fsync, rename, fsync(dir)                      thread spool
//! 6 put     STOR to a temp name, SIZE                               threads upload
//! 7 commit  RNFR/RNTO, unlink, fsync(dir)                           threads upload
//! ```
//!
//! Data goes right only. A closed channel means "no more"; the [`shutdown`] latch means "read no more"; there is no third
//! signal. Order costs nothing: the source queues the *receiver* of each batch's answer, the spool thread takes them in
//! turn. A file is one gzip member although many threads pack it: each batch becomes raw deflate ended by a sync flush,
//! the spool writes the gzip header, the pieces, and at seal an empty final block and the combined CRC-32. So any reader
//! opens it, and a torn `.part` is cut back to its last whole piece without packing anew.
//!
//! Where a file ends is decided where the order is made ([`line::Batcher`]), not where it is written: only so can a piece
//! refer to the window of the piece before it and never to one in another file.
//!
//! # Rooms, from the ground up
//!
//! Imports point down this list, never up; a test holds that. Only [`plan`], [`app`] and `main` see [`config`].
//!
//! | room | what it is for |
//! |---|---|
//! | [`shutdown`] [`end`] [`threads`] [`clock`] [`secret`] [`random`] [`stats`] [`notify`] | the latch; the budget of the end; where threads start; zones and stamps; the password; random numbers; every number; word to systemd |
//! | [`pmacctconf`] | the one reader of pmacct.conf's grammar; what a misspelt key was meant to be |
//! | [`log`] | the catalogue of events, both languages, one queue, one writer of stderr |
//! | [`fields`] | where fields and rows end, many bytes at a time |
//! | [`schema`] [`mod@line`] | what a header says; bytes → batches and files |
//! | [`flow`] [`supervise`] | pure cores: packets → flow table → rows; the life of two daemons as a table |
//! | [`check`] | header, columns, totals: what a line says |
//! | [`pack`] | batch → piece: the field-aware deflate encoder, or flate2 |
//! | [`source`] | the trait `Source` and its three kinds: a descriptor, pmacct's daemons, embedded capture |
//! | [`remote`] | the trait `Remote` and its kinds: FTP, a directory |
//! | [`spool`] | the directory protocol: lock, names, segments, salvage, limits, the queue of sealed files |
//! | [`uploader`] | oldest segment → remote → remove |
//! | [`pipeline`] | the stages' threads and channels, and the order of the end |
//! | [`report`] [`status`] | the status report: POST and file; metrics, health, the status page |
//! | [`sample`] | made-up rows for the quickstart, tests and benches |
//! | [`config`] [`cli`] | `pmacct.conf` → one small `Options` per room; flags |
//! | [`plan`] | the keys of all rooms judged together, for every command: what runs, or every reason why not |
//! | [`app`] | the wiring, top to bottom |
//!
//! # What is promised, and held by tests
//!
//! 1. Lines read = lines in files + set aside + headers left out + lines counted as lost, at every stop, also on a full disk or
//!    on one that hangs; after a crash for what was flushed. Lines of files that `drop-oldest` removed were in files before,
//!    and are counted again as dropped.
//! 2. A local file goes only after the server has it whole under its final name.
//! 3. Reading never waits for the network; it waits for the disk only when the memory budget is used up.
//! 4. Every queue is bounded, and the bound has a reason. Memory and start time do not grow with the input, the backlog (a
//!    million files) or the length of a line.
//! 5. SIGTERM ends the process in `processor_shutdown_timeout_sec` + 1 s, whatever hangs, at every moment of its life; [`end`]
//!    is the budget. Only the kernel can break this one: it keeps a process of which a thread waits uninterruptibly, for a
//!    frozen file system say, until that wait is over.
//! 6. No name is ever used twice; nothing that can still be read is ever deleted by salvage.
//!
//! # What is absent on purpose
//!
//! * No async runtime.
//! * No lock of ours on the way of the lines, steps 1 to 5: blocks, batches and pieces go through crossbeam's channels, the encoder's
//!   state through an atomic slot ([`pack::Relay`]). What is locked is locked once a file or once an event: between upload
//!   lanes, for the deadlines of sockets, for the last faults that the page shows. `tests/it/architecture.rs` names each place.
//! * No global of our own. The crates `log` and `tracing` know one receiver a process; [`log::install`] sets it, once.
//! * No clock inside a core: in [`fields`], [`schema`], [`mod@line`], [`flow`], [`supervise`], [`check`] and [`pack`] `now` is
//!   an argument. Loops, which wait, read the clock.
//! * No state on disk but the data directory itself.

pub mod app;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod end;
pub mod fields;
pub mod flow;
pub mod line;
pub mod log;
pub mod notify;
pub mod pack;
pub mod pipeline;
pub mod plan;
pub mod pmacctconf;
pub mod random;
pub mod remote;
pub mod report;
pub mod sample;
pub mod schema;
pub mod secret;
pub mod shutdown;
pub mod source;
pub mod spool;
pub mod stats;
pub mod status;
pub mod supervise;
pub mod threads;
pub mod uploader;
