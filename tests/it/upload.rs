//! Delivery: one suite for every remote, the table of faults, TLS, and the upload loop over all of it.
//!
//! Everywhere the same three claims: what is reported as delivered is on the server, whole, under its final name; what is
//! not stays here and arrives later; nothing of others is touched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use processor::log::{Event, Log, Memory};
use processor::remote::dir::Dir as DirRemote;
use processor::remote::ftp::{Charset, Ftp, Mode, Options, Put, Tls};
use processor::remote::{Delivered, Remote, RemoteError, Scope, Session, Upload};
use processor::secret::Secret;
use processor::spool::dir::Dir;
use processor::spool::queue::Queue;
use processor::spool::stock::Stock;
use processor::stats::Stats;
use processor::uploader::{self, LastPass, Left, Uploader};

use crate::support::ftp_servers::{Authority, Certificate, KINDS, Kind, Server, Setup};
use crate::support::scripted_ftp::{At, ScriptedFtp, What};
use crate::support::torture::{Tally, points, report};

const TOKEN: &str = "0badcafe";
const NAME: &str = "flows_20251127_102030_000.csv.gz";

/// Bytes with every value in them, line ends above all, different for every seed.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state.is_multiple_of(16) { b'\n' } else { (state >> 32) as u8 }
        })
        .collect()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn open(remote: &dyn Remote) -> Result<Box<dyn Session>, RemoteError> {
    remote.open(Instant::now() + remote.allowance(0))
}

fn put(session: &mut dyn Session, remote: &dyn Remote, name: &str, bytes: &[u8]) -> Result<Delivered, RemoteError> {
    let (file, len) = (file(bytes), bytes.len() as u64);
    session.put(&Upload { name, file: &file, len }, Instant::now() + remote.allowance(len))
}

/// One attempt with a session of its own.
fn deliver(remote: &dyn Remote, name: &str, bytes: &[u8]) -> Result<Delivered, RemoteError> {
    let mut session = open(remote)?;
    let how = put(session.as_mut(), remote, name, bytes)?;
    session.close();
    Ok(how)
}

type Files = BTreeMap<String, Vec<u8>>;
type Plant<'a> = Box<dyn Fn(&str, &[u8]) + 'a>;
type Make<'a> = Box<dyn Fn(&str) -> Arc<dyn Remote> + 'a>;

/// A remote and the view behind it.
struct Place<'a> {
    label: String,
    /// The remote of one data directory, by its token.
    remote: Make<'a>,
    files: Box<dyn Fn() -> Files + 'a>,
    plant: Plant<'a>,
}

impl Place<'_> {
    fn directory(dir: &Path) -> Place<'static> {
        let (here, there, planted) = (dir.to_owned(), dir.to_owned(), dir.to_owned());
        Place {
            label: "dir".into(),
            remote: Box::new(move |_| Arc::new(DirRemote::new(&here))),
            files: Box::new(move || read_dir(&there)),
            plant: Box::new(move |name, bytes| plant(&planted, name, bytes)),
        }
    }

    fn server<'a>(server: &'a Server, options: &'a Options) -> Place<'a> {
        Place {
            label: format!("{:?} {:?} {:?}", server.kind, options.mode, options.tls),
            remote: Box::new(|token| Arc::new(Ftp::new(options.clone(), token).unwrap())),
            files: Box::new(|| read_dir(&server.area())),
            plant: Box::new(|name, bytes| plant(&server.area(), name, bytes)),
        }
    }

    fn scripted(server: &ScriptedFtp) -> Place<'_> {
        Place {
            label: "scripted".into(),
            remote: Box::new(|token| Arc::new(Ftp::new(scripted_options(server, 30_000), token).unwrap())),
            files: Box::new(|| server.shared.files.lock().unwrap().clone()),
            plant: Box::new(|name, bytes| server.put(name, bytes)),
        }
    }
}

fn read_dir(dir: &Path) -> Files {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Writes a file as somebody else on the server might; every server's user may read it and remove it.
fn plant(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    if let Ok(owner) = fs::metadata(dir) {
        use std::os::unix::fs::MetadataExt;
        let _ = std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()));
    }
}

fn scripted_options(server: &ScriptedFtp, timeout_ms: u64) -> Options {
    Options {
        host: "127.0.0.1".into(),
        port: server.address.port(),
        user: "probe".into(),
        pass: Secret::new("hunter2-secret"),
        dir: "/area/a".into(),
        timeout: Duration::from_millis(timeout_ms),
        tls: Tls::Off,
        mode: Mode::Passive,
        put: Put::Rename,
        charset: Charset::Utf8,
    }
}

/// What every remote must do.
fn suite(place: &Place<'_>) {
    let at = &place.label;
    let remote = (place.remote)(TOKEN);
    let name = |n: u32| format!("flows_20251127_102030_{n:03}.csv.gz");

    // Many files over one session, small and large.
    let mut session = open(remote.as_ref()).unwrap_or_else(|error| panic!("{at}: {error}"));
    let mut expected = BTreeMap::new();
    for n in 0..12 {
        let bytes = bytes(if n == 3 { 3_000_000 } else { 1 + 700 * n as usize }, u64::from(n));
        put(session.as_mut(), remote.as_ref(), &name(n), &bytes).unwrap_or_else(|error| panic!("{at}: {error}"));
        expected.insert(name(n), bytes);
    }
    session.close();
    assert!((place.files)() == expected, "{at}: every file is there, whole, and nothing else");

    // The same once more, as after an attempt whose end was not seen.
    deliver(remote.as_ref(), &name(3), &expected[&name(3)]).unwrap_or_else(|error| panic!("{at}: {error}"));

    // A name that is taken: by other bytes of the same length, of another length.
    for (n, len) in [(20, 5000), (21, 1234)] {
        let theirs = bytes(len, 99);
        (place.plant)(&name(n), &theirs);
        let error = deliver(remote.as_ref(), &name(n), &bytes(5000, 1)).unwrap_err();
        assert_eq!(error.scope, Scope::File, "{at}: {error}");
        expected.insert(name(n), theirs);
    }

    // Temp files of others.
    for foreign in [format!("{}.tmp", name(30)), format!("{}.deadbeef.tmp", name(30))] {
        (place.plant)(&foreign, b"theirs");
        expected.insert(foreign, b"theirs".to_vec());
    }
    // One of ours, longer than the file.
    (place.plant)(&format!("{}.{TOKEN}.tmp", name(30)), &bytes(9000, 5));
    let ours = bytes(4000, 30);
    deliver(remote.as_ref(), &name(30), &ours).unwrap_or_else(|error| panic!("{at}: {error}"));
    expected.insert(name(30), ours);
    if at == "dir" {
        expected.insert(format!("{}.{TOKEN}.tmp", name(30)), bytes(9000, 5));
    }
    assert!((place.files)() == expected, "{at}: nothing of others was touched, nothing of ours is left");

    // Two probes, one name, one length, at the same time: the bytes are never mixed, and who comes second is told.
    let other = (place.remote)("0123abcd");
    let (a, b) = (bytes(200_000, 41), bytes(200_000, 42));
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| deliver(remote.as_ref(), &name(40), &a));
        let second = scope.spawn(|| deliver(other.as_ref(), &name(40), &b));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert!(first.is_ok() || second.is_ok(), "{at}: {first:?} {second:?}");
    let there = (place.files)().remove(&name(40)).unwrap();
    assert!(there == a || there == b, "{at}: one of them, whole");
    let late =
        if there == a { deliver(other.as_ref(), &name(40), &b) } else { deliver(remote.as_ref(), &name(40), &a) };
    assert_eq!(late.unwrap_err().scope, Scope::File, "{at}: the other one stays where it is");
    assert!((place.files)()[&name(40)] == there, "{at}: untouched");
}

#[test]
fn a_directory_passes_the_suite() {
    let temp = tempfile::tempdir().unwrap();
    suite(&Place::directory(&temp.path().join("area/a")));
}

#[test]
fn the_scripted_server_passes_the_suite() {
    suite(&Place::scripted(&ScriptedFtp::start()));
}

#[test]
fn real_servers_pass_the_suite() {
    run_all(KINDS.map(|kind| move || real_server_passes(kind, Mode::Passive)));
}

#[test]
fn real_servers_pass_the_suite_in_active_mode() {
    run_all(KINDS.map(|kind| move || real_server_passes(kind, Mode::Active)));
}

fn real_server_passes(kind: Kind, mode: Mode) {
    let Some(server) = Server::start(kind, &Setup::default()) else { return };
    suite(&Place::server(&server, &Options { mode, ..server.options() }));
}

/// Runs every piece of work on a thread of its own; a panic of any is the test's.
fn run_all<F: FnOnce() + Send>(work: impl IntoIterator<Item = F>) {
    std::thread::scope(|scope| {
        let running: Vec<_> = work.into_iter().map(|work| scope.spawn(work)).collect();
        let failed = running.into_iter().map(std::thread::ScopedJoinHandle::join).filter(Result::is_err).count();
        assert_eq!(failed, 0, "see the panics above");
    });
}

// Faults.

/// How long one read or write may hang in the fault table, and a transfer stand still.
const FAULT_TIMEOUT: u64 = 400;

fn fault_table() -> Vec<(At, What)> {
    use What::{
        Close, DoneButClose, DoneButHang, Drip, EndlessLine, EndlessLines, Garbage, Half, Hang, Lie, Reset, Say, Twice,
    };
    let steps = [
        At::Greeting,
        At::User,
        At::Pass,
        At::Type,
        At::Cwd,
        At::Size(1),
        At::Size(2),
        At::Pasv,
        At::Stor,
        At::Stored,
        At::Size(3),
        At::Size(4),
        At::Rnfr,
        At::Rnto,
        At::Size(5),
    ];
    let everywhere = [Hang, Drip, EndlessLine, EndlessLines, Close, Reset, Half, Garbage, Twice];
    let mut table: Vec<_> = steps.iter().flat_map(|&at| everywhere.map(|what| (at, what))).collect();
    // What the server did without our learning of it, and the other way round.
    for at in [At::Stored, At::Rnto] {
        table.extend([(at, DoneButHang), (at, DoneButClose), (at, Lie)]);
    }
    // Replies that mean something.
    let closing = "421 service not available";
    for at in steps {
        table.push((at, Say(closing)));
    }
    table.extend([
        (At::Greeting, Say("120 ready in 5 minutes")),
        (At::Greeting, Say("530 too many users")),
        (At::User, Say("530 no such user")),
        (At::Pass, Say("530 login incorrect")),
        (At::Pass, Say("332 account?")),
        (At::Type, Say("504 only ascii")),
        (At::Size(1), Say("213 x")),
        (At::Size(1), Say("500 unknown")),
        (At::Size(3), Say("550 gone")),
        (At::Size(3), Say("213 99999999999999999999999")),
        (At::Size(3), What::WrongSize),
        (At::Size(5), What::WrongSize),
        (At::Pasv, Say("425 no port")),
        (At::Pasv, What::DeadPort),
        (At::Pasv, Say("227 passive (1,2,3,4,5)")),
        (At::Pasv, Say("227 passive (999,0,0,1,999,999)")),
        (At::Stor, Say("425 cannot open data connection")),
        (At::Stor, Say("450 busy")),
        (At::Stor, Say("451 local error")),
        (At::Stor, Say("452 disk full")),
        (At::Stor, Say("522 session reuse required")),
        (At::Stor, Say("530 not logged in")),
        (At::Stor, Say("550 permission denied")),
        (At::Stor, Say("552 over quota")),
        (At::Stor, Say("553 name not allowed")),
        (At::Stor, Say("226 stored already")),
        (At::Stored, Say("426 aborted")),
        (At::Stored, Say("451 disk full")),
        (At::Stored, Say("452 disk full")),
        (At::Stored, Say("552 over quota")),
        (At::Taking, What::NeverRead),
        (At::Taking, What::SlowRead),
        (At::Taking, What::CloseEarly),
        (At::Taking, What::ResetEarly),
        (At::Taking, What::KeepHalf),
        (At::Taking, What::Rewrite),
        (At::Taking, What::Hang),
        (At::Rnfr, Say("550 no")),
        (At::Rnto, Say("550 no")),
        (At::Rnto, Say("553 no")),
        (At::Rnto, Say("350 what?")),
    ]);
    table
}

/// Faults that a client can live with.
const HARMLESS: [(At, What); 14] = [
    (At::Cwd, What::Say("550 no such directory")),
    (At::Pasv, What::ForeignAddress),
    (At::Pasv, What::NoParentheses),
    (At::Pasv, What::Say("502 no PASV here")),
    // Answers that are not the book's.
    (At::Greeting, What::Say("120 in a moment\r\n220 now")),
    (At::Pass, What::Say("202 superfluous")),
    (At::Pass, What::Say("220 welcome")),
    (At::Size(1), What::Say("501 no such file")),
    (At::Size(4), What::Say("213 5000 bytes")),
    (At::Rnto, What::DoneButSay("226 renamed")),
    (At::Rnto, What::DoneButSay("200 renamed")),
    (At::Stored, What::DoneButSay("250 done")),
    (At::Stored, What::DoneButSay("426 Failure reading network stream.")),
    (At::Stored, What::DoneButSay("226-half\r\n226 done")),
];

#[test]
fn no_fault_loses_fakes_or_hangs() {
    let table = fault_table();
    assert!(table.len() >= 35, "{}", table.len());
    let share = table.len().div_ceil(24);
    run_all(table.chunks(share).map(|share| move || share.iter().for_each(|&(at, what)| one_fault(at, what))));
    let how = format!("a scripted server that hangs, drips, lies, resets or refuses, {} ways", table.len());
    let figure = "0 false successes, 0 losses, no attempt longer than its deadline + 1 s";
    report("the local file goes last", &how, figure);
}

fn one_fault(at: At, what: What) {
    let label = format!("{at:?} {what:?}");
    let server = ScriptedFtp::start();
    let remote = Ftp::new(scripted_options(&server, FAULT_TIMEOUT), TOKEN).unwrap();
    let foreign = format!("{NAME}.tmp");
    server.put(&foreign, b"theirs");
    // More than the kernel's buffers take, so that a server that does not read is noticed.
    let len = if matches!(what, What::NeverRead | What::SlowRead) { 8_000_000 } else { 20_000 };
    let ours = bytes(len, 7);

    // A server that lets a file stand until it is renamed: one that is gone before is not taken for delivered.
    deliver(&remote, "flows_20251127_102020_000.csv.gz", b"first").unwrap();
    server.take("flows_20251127_102020_000.csv.gz");

    server.fault(Some((at, what)));
    // Opening, the commands before and after a transfer, and a transfer that never moves.
    let limit = Duration::from_millis(FAULT_TIMEOUT) * 14 + Duration::from_secs(1);
    let (begun, outcome) = (Instant::now(), deliver(&remote, NAME, &ours));
    // On a machine that is short of processors the wake-up itself may be late; the hang guard is the deadline alone.
    assert!(begun.elapsed() < limit, "{label}: {:?} of {limit:?}", begun.elapsed());
    match &outcome {
        Ok(_) => assert!(server.file(NAME).as_ref() == Some(&ours), "{label}: false success"),
        Err(error) => {
            let text = &error.text;
            assert!(text.starts_with(&remote.address()), "{label}: {text}");
            assert!(!text.contains("hunter2"), "{label}: {text}");
            assert!(text.len() < 600 && !text.contains(char::is_control), "{label}: {text}");
            assert_eq!(
                error.refused_login,
                matches!((at, what), (At::User | At::Pass, What::Say(s)) if s.starts_with("530") || s.starts_with("332")),
                "{label}: {text}"
            );
        }
    }

    server.fault(None);
    deliver(&remote, NAME, &ours).unwrap_or_else(|error| panic!("{label}: not delivered afterwards: {error}"));
    assert!(server.file(NAME).as_ref() == Some(&ours), "{label}: delivered whole");
    assert_eq!(server.file(&foreign).as_deref(), Some(&b"theirs"[..]), "{label}: the foreign temp file");
    let mut names = server.names();
    names.sort();
    assert_eq!(names, [NAME.to_owned(), foreign], "{label}: nothing of ours is left");
}

#[test]
fn some_faults_do_no_harm() {
    for (at, what) in HARMLESS {
        let server = ScriptedFtp::start();
        let remote = Ftp::new(scripted_options(&server, 2000), TOKEN).unwrap();
        server.fault(Some((at, what)));
        let delivered = deliver(&remote, NAME, &bytes(5000, 1));
        if at == At::Cwd {
            // The directory is made level by level; CWD has the last word.
            assert!(delivered.is_err());
            let made: Vec<_> = server.commands().into_iter().filter(|line| line.starts_with("MKD")).collect();
            assert_eq!(made, ["MKD /area", "MKD /area/a"]);
        } else {
            delivered.unwrap_or_else(|error| panic!("{at:?} {what:?}: {error}"));
            assert_eq!(server.file(NAME), Some(bytes(5000, 1)));
        }
    }
}

#[test]
fn a_rename_that_was_not_confirmed_is_recognised_by_its_bytes() {
    for lost in [What::DoneButHang, What::DoneButClose] {
        let server = ScriptedFtp::start();
        let remote = Ftp::new(scripted_options(&server, FAULT_TIMEOUT), TOKEN).unwrap();
        let ours = bytes(20_000, 3);
        server.fault(Some((At::Rnto, lost)));
        assert!(deliver(&remote, NAME, &ours).is_err(), "{lost:?}");
        assert_eq!(server.file(NAME), Some(ours.clone()), "{lost:?}: it happened all the same");
        server.fault(None);
        deliver(&remote, NAME, &ours).unwrap();
        let stores = server.commands().iter().filter(|line| line.starts_with("STOR")).count();
        assert_eq!(stores, 1, "{lost:?}: it is not sent again");

        // A server that lets nobody read: name and length must do.
        server.fault(Some((At::Retr, What::Say("550 permission denied"))));
        deliver(&remote, NAME, &ours).unwrap();
    }
}

#[test]
fn a_rename_that_was_refused_and_done_is_recognised() {
    // A store of documents that answers before its index is written.
    let (server, ours) = (ScriptedFtp::start(), bytes(20_000, 3));
    let remote = Ftp::new(scripted_options(&server, 2000), TOKEN).unwrap();
    server.fault(Some((At::Rnto, What::DoneButSay("553 Can't rename file."))));
    assert!(deliver(&remote, NAME, &ours).unwrap_err().text.contains("processor_ftp_put: direct"));
    server.fault(None);
    assert_eq!(deliver(&remote, NAME, &ours).unwrap(), Delivered::Before);
}

#[test]
fn what_a_killed_server_hid_does_not_stand_in_the_way() {
    let setup = Setup { lines: "HiddenStores on\n", ..Setup::default() };
    let Some(server) = Server::start(Kind::ProFtpd, &setup) else { return };
    server.make_area();
    plant(&server.area(), &format!(".in.{NAME}.{TOKEN}.tmp."), b"half");
    let remote = Ftp::new(server.options(), TOKEN).unwrap();
    assert!(deliver(&remote, NAME, b"rows").unwrap_err().text.contains("already exists"));
    assert_eq!(deliver(&remote, NAME, b"rows").unwrap(), Delivered::Stands);
    assert!(read_dir(&server.area()) == Files::from([(NAME.to_owned(), b"rows".to_vec())]));
}

#[test]
fn hurry_cuts_what_is_under_way() {
    for at in [At::Greeting, At::Pass, At::Size(1), At::Pasv, At::Stored, At::Rnto] {
        let server = ScriptedFtp::start();
        let remote = Ftp::new(scripted_options(&server, 60_000), TOKEN).unwrap();
        server.fault(Some((at, What::DoneButHang)));
        std::thread::scope(|scope| {
            let attempt = scope.spawn(|| deliver(&remote, NAME, &bytes(1000, 1)));
            let guard = Instant::now() + Duration::from_secs(30);
            while server.commands().is_empty() && at != At::Greeting && Instant::now() < guard {
                std::thread::yield_now();
            }
            let told = Instant::now();
            remote.hurry(told + Duration::from_millis(100));
            assert!(attempt.join().unwrap().is_err(), "{at:?}");
            assert!(told.elapsed() < Duration::from_secs(20), "{at:?}: not the 60 s of the time-out");
        });
    }
}

#[test]
fn the_way_to_nobody_is_bounded() {
    let options = Options {
        // TEST-NET-1: packets go nowhere, or the kernel says at once that there is no route.
        host: "192.0.2.1".into(),
        port: 21,
        user: "probe".into(),
        pass: Secret::new("x"),
        dir: "/".into(),
        timeout: Duration::from_millis(300),
        tls: Tls::Off,
        mode: Mode::Passive,
        put: Put::Rename,
        charset: Charset::Utf8,
    };
    let begun = Instant::now();
    let error = open(&Ftp::new(options.clone(), TOKEN).unwrap()).map(drop).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5), "{error}");
    assert_eq!(error.scope, Scope::Server, "{error}");
    assert!(error.text.starts_with("192.0.2.1:21: connect: "), "{error}");
    let unknown = Options { host: "no-such-host.invalid".into(), ..options };
    let error = open(&Ftp::new(unknown, TOKEN).unwrap()).map(drop).unwrap_err();
    assert!(error.text.contains("name look-up"), "{error}");
}

#[test]
fn a_full_disk_is_an_error_and_heals() {
    run_all(KINDS.map(|kind| move || full_disk(kind)));
}

fn full_disk(kind: Kind) {
    let setup = Setup { disk_kib: Some(1024), ..Setup::default() };
    let Some(server) = Server::start(kind, &setup) else { return };
    let remote = Ftp::new(server.options(), TOKEN).unwrap();
    deliver(&remote, "small_20251127_102030_000.csv.gz", b"small").unwrap();
    let blocker = bytes(700_000, 2);
    plant(&server.area(), "theirs", &blocker);
    let ours = bytes(500_000, 1);
    let error = deliver(&remote, NAME, &ours).unwrap_err();
    assert!(!read_dir(&server.area()).contains_key(NAME), "{kind:?}: {error}");
    fs::remove_file(server.area().join("theirs")).unwrap();
    deliver(&remote, NAME, &ours).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    assert!(read_dir(&server.area())[NAME] == ours);
    assert_eq!(read_dir(&server.area()).len(), 2, "{kind:?}: no temp file is left");
}

// Far ends that take what they get.

#[test]
fn a_far_end_that_takes_each_file_gets_each_once() {
    for at in [At::Stored, At::Rnto] {
        let (server, spool) = (ScriptedFtp::start(), Spool::new());
        let names: Vec<_> = (0..30).map(|n| spool.seal(n)).collect();
        server.fault(Some((at, What::Taken)));
        assert_eq!(spool.drain(scripted(&server, 30_000), 2), Left::default(), "{at:?}");
        let endings = ["tmp", "part"].map(|ending| format!(".{TOKEN}.{ending}"));
        let taken =
            |name: String| endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name).to_owned();
        let mut consumed: Vec<_> = server.consumed().into_iter().map(|(name, _)| taken(name)).collect();
        consumed.sort();
        let count = consumed.len();
        consumed.dedup();
        assert_eq!(consumed, names, "{at:?}");
        // Under a temp name the first of each session comes twice: it could have been deleted.
        let twice = if at == At::Stored { 2 } else { 0 };
        assert!(count <= 30 + twice, "{at:?}: {count}");
        assert!(spool.names().is_empty() && server.names().is_empty(), "{at:?}");
        assert_eq!(spool.stats.taken_files.get(), 30, "{at:?}");
        let said = spool.events.take().iter().filter(|event| matches!(event, Event::UploadTaken { .. })).count();
        assert_eq!(said, 30, "{at:?}");
    }
}

/// How a consumer finds its files.
#[derive(Debug, Clone, Copy)]
enum Mover {
    /// Told by the kernel of every name.
    Told,
    /// Looks, and sleeps for a second.
    Looks,
}

/// Moves every `*.csv.gz` from `area` to `to`, each under a name of its own, until `ended`.
fn consume(mover: Mover, area: &Path, to: &Path, ended: &AtomicBool) {
    use rustix::fs::inotify;
    let mut count = 0;
    let mut take = |name: &str| {
        if name.ends_with(".csv.gz") && fs::rename(area.join(name), to.join(format!("{count:06}-{name}"))).is_ok() {
            count += 1;
        }
    };
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, area, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE).unwrap();
    let mut buf = [std::mem::MaybeUninit::uninit(); 4096];
    while !ended.load(Relaxed) {
        match mover {
            Mover::Told => {
                let mut reader = inotify::Reader::new(&watch, &mut buf);
                while let Ok(event) = reader.next() {
                    take(event.file_name().map_or("", |name| name.to_str().unwrap()));
                }
                std::thread::yield_now();
            }
            Mover::Looks => {
                for name in read_dir(area).into_keys() {
                    take(&name);
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
    for name in read_dir(area).into_keys() {
        take(&name);
    }
}

#[test]
fn movers_on_a_real_server_get_each_file_once() {
    run_all([Mover::Told, Mover::Looks].map(|mover| move || moved_once(mover)));
}

fn moved_once(mover: Mover) {
    let Some(server) = Server::start(Kind::Vsftpd, &Setup::default()) else { return };
    server.make_area();
    let (spool, consumed, ended) = (Spool::new(), tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let names: Vec<_> = (0..120).map(|n| spool.seal(n)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| consume(mover, &server.area(), consumed.path(), &ended));
        let remote = Arc::new(Ftp::new(server.options(), TOKEN).unwrap());
        assert_eq!(spool.drain(remote, 1), Left::default(), "{mover:?}: {:?}", spool.events.take());
        ended.store(true, Relaxed);
    });
    let got: Vec<_> = read_dir(consumed.path()).into_keys().map(|name| name[7..].to_owned()).collect();
    let once: std::collections::BTreeSet<_> = got.iter().cloned().collect();
    assert_eq!((got.len(), once.len()), (names.len(), names.len()), "{mover:?}");
    let how = format!("vsftpd and a consumer that takes files ({mover:?})");
    report("each file once", &how, &format!("{} files, each once", got.len()));
}

/// Accounts and servers that the temp name does not suit.
#[test]
fn accounts_that_only_take_files_work_directly() {
    let plain = Setup::default();
    let cases = [
        (Kind::Vsftpd, Setup { upload_only: true, ..plain.clone() }),
        (Kind::PureFtpd, Setup { upload_only: true, ..plain.clone() }),
        (Kind::ProFtpd, Setup { lines: "PathAllowFilter \\.csv\\.gz$\n", ..plain.clone() }),
        (Kind::ProFtpd, Setup { forbidden: "SIZE", ..plain.clone() }),
        (Kind::ProFtpd, Setup { forbidden: "RNFR RNTO DELE RETR", ..plain.clone() }),
        (Kind::ProFtpd, Setup { forbidden: "RNTO DELE", ..plain }),
    ];
    run_all(cases.iter().map(|(kind, setup)| move || only_takes(*kind, setup)));
}

fn only_takes(kind: Kind, setup: &Setup) {
    let Some(server) = Server::start(kind, setup) else { return };
    server.make_area();
    let ours = bytes(5000, 1);
    let label = format!("{kind:?} {setup:?}");
    let renaming = Ftp::new(server.options(), TOKEN).unwrap();
    for _ in 0..4 {
        let error = deliver(&renaming, NAME, &ours).unwrap_err();
        assert!(error.text.contains("processor_ftp_put: direct"), "{label}: {error}");
        let there = read_dir(&server.area());
        assert!(there.len() <= 1 && !there.contains_key(NAME), "{label}: {:?}", there.keys());
    }
    for (name, _) in read_dir(&server.area()) {
        fs::remove_file(server.area().join(name)).unwrap();
    }
    let direct = Ftp::new(Options { put: Put::Direct, ..server.options() }, TOKEN).unwrap();
    let how = deliver(&direct, NAME, &ours).unwrap_or_else(|error| panic!("{label}: {error}"));
    assert_eq!(how, if setup.forbidden == "SIZE" { Delivered::Told } else { Delivered::Stands }, "{label}");
    assert!(read_dir(&server.area()) == Files::from([(NAME.to_owned(), ours.clone())]), "{label}");
    if setup.forbidden != "SIZE" {
        let again = Ftp::new(Options { put: Put::Direct, ..server.options() }, TOKEN).unwrap();
        assert_eq!(deliver(&again, NAME, &ours).unwrap(), Delivered::Before, "{label}");
        let error = deliver(&again, NAME, &bytes(4000, 2)).unwrap_err();
        assert!(error.text.contains("another file of this name"), "{label}: {error}");
    }
}

#[test]
fn direct_replaces_what_a_broken_transfer_left() {
    for kind in KINDS {
        let Some(server) = Server::start(kind, &Setup { overwrite: true, ..Setup::default() }) else { return };
        server.make_area();
        let ours = bytes(50_000, 1);
        plant(&server.area(), NAME, &ours[..20_000]);
        let direct = Ftp::new(Options { put: Put::Direct, ..server.options() }, TOKEN).unwrap();
        assert_eq!(deliver(&direct, NAME, &ours).unwrap(), Delivered::Stands, "{kind:?}");
        assert!(read_dir(&server.area()) == Files::from([(NAME.to_owned(), ours)]), "{kind:?}");
    }
}

#[test]
fn a_directory_in_gbk_is_found() {
    use std::os::unix::ffi::OsStrExt;
    let Some(server) = Server::start(Kind::Vsftpd, &Setup::default()) else { return };
    let area = server.home.join(std::ffi::OsStr::from_bytes(b"\xc1\xf7\xc1\xbf"));
    let options = Options { dir: "流量".into(), charset: Charset::Gbk, ..server.options() };
    fs::set_permissions(&server.home, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    deliver(&Ftp::new(options, TOKEN).unwrap(), NAME, b"rows").unwrap();
    assert_eq!(fs::read(area.join(NAME)).unwrap(), b"rows");
}

#[test]
fn what_went_over_whole_is_only_renamed() {
    for cut in [What::DoneButClose, What::DoneButHang] {
        let (server, ours) = (ScriptedFtp::start(), bytes(20_000, 1));
        let remote = Ftp::new(scripted_options(&server, FAULT_TIMEOUT), TOKEN).unwrap();
        server.fault(Some((At::Stored, cut)));
        assert_eq!(deliver(&remote, NAME, &ours).unwrap_err().scope, Scope::Connection, "{cut:?}");
        server.fault(None);
        assert_eq!(deliver(&remote, NAME, &ours).unwrap(), Delivered::Stands, "{cut:?}");
        let stores = server.commands().iter().filter(|line| line.starts_with("STOR")).count();
        assert_eq!(stores, 1, "{cut:?}: not a byte is sent twice");
    }
}

#[test]
fn a_full_server_keeps_no_part_of_ours() {
    let (server, spool) = (ScriptedFtp::start(), Spool::new());
    server.fault(Some((At::Taking, What::Full)));
    let sealed = bytes(20_000, 1);
    for n in 0..3 {
        fs::write(spool.temp.path().join(format!("f_20251127_102030_{n:06}.csv.gz")), &sealed).unwrap();
    }
    let remote = scripted(&server, 2000);
    assert_eq!(spool.drain(Arc::clone(&remote) as Arc<dyn Remote>, 1).files, 3);
    assert!(server.names().is_empty(), "{:?}", server.names());

    // A part that a broken transfer left goes with its segment.
    server.fault(Some((At::Taking, What::Break)));
    spool.drain(Arc::clone(&remote) as Arc<dyn Remote>, 1);
    let parts = server.names();
    assert!(!parts.is_empty());
    server.fault(None);
    fs::remove_file(spool.temp.path().join("f_20251127_102030_000000.csv.gz")).unwrap();
    assert_eq!(spool.drain(remote, 1), Left::default());
    assert_eq!(server.names().len(), 2, "{:?} of {parts:?}", server.names());
    assert!(server.names().iter().all(|name| name.ends_with(".csv.gz")));
}

#[test]
fn a_thin_line_delivers() {
    run_all([(1, 4000, 60_000), (8, 8000, 160_000)].map(|(lanes, rate, bytes)| move || thin_line(lanes, rate, bytes)));
    let how = "1 and 8 lanes on 32 and 64 kbit/s, seven and ten time-outs long";
    report("what makes progress is not cut", how, "each file sent once");
}

fn thin_line(lanes: usize, rate: u32, all: usize) {
    let (server, spool) = (ScriptedFtp::start(), Spool::new());
    for n in 0..lanes {
        let name = format!("f_20251127_102030_{n:06}.csv.gz");
        fs::write(spool.temp.path().join(name), bytes(all / lanes, n as u64)).unwrap();
    }
    server.fault(Some((At::Taking, What::Thin(rate))));
    let begun = Instant::now();
    let left = spool.drain(scripted(&server, 2000), lanes);
    assert_eq!(left, Left::default(), "{lanes}: {:?}", spool.events.take());
    assert!(begun.elapsed() > Duration::from_secs(12), "{lanes}: the line was thin");
    let stores = server.commands().iter().filter(|line| line.starts_with("STOR")).count();
    assert_eq!(stores, lanes, "each file was sent once");
}

// TLS.

const NOW: (&str, &str) = ("20200101000000Z", "20490101000000Z");
const HERE: &str = "DNS:localhost,IP:127.0.0.1";

fn tls_server(kind: Kind, certificate: Certificate) -> Option<Server> {
    Server::start(kind, &Setup { tls: Some(certificate), ..Setup::default() })
}

fn explicit(server: &Server, ca: &Path) -> Options {
    Options { tls: Tls::Explicit { ca: Some(ca.to_owned()) }, ..server.options() }
}

#[test]
fn two_hundred_files_in_a_row_over_tls() {
    let authority = Authority::new();
    let certificate = authority.issue("good", HERE, NOW);
    let (authority, certificate) = (&authority, &certificate);
    let ran = &Tally::default();
    run_all(KINDS.map(|kind| {
        move || {
            let Some(server) = tls_server(kind, certificate.clone()) else { return };
            ran.add(&format!("{kind:?}"));
            let remote = Ftp::new(explicit(&server, &authority.ca()), TOKEN).unwrap();
            let mut session = open(&remote).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            for n in 0..200u32 {
                let ours = bytes(3000 + n as usize, u64::from(n));
                put(session.as_mut(), &remote, &format!("f_20251127_102030_{n:03}.csv.gz"), &ours)
                    .unwrap_or_else(|error| panic!("{kind:?} {n}: {error}"));
            }
            session.close();
            let files = read_dir(&server.area());
            assert_eq!(files.len(), 200, "{kind:?}");
            assert!(
                files.values().enumerate().all(|(n, there)| *there == bytes(3000 + n, n as u64)),
                "{kind:?}: whole"
            );
        }
    }));
    let figure = format!("200 files in a row over one session on each of {}", ran.names());
    report("TLS", "session reuse required by vsftpd and ProFTPD", &figure);
}

#[test]
fn the_suite_over_tls() {
    let authority = Authority::new();
    let certificate = authority.self_signed("self", HERE);
    let certificate = &certificate;
    run_all(KINDS.map(|kind| {
        move || {
            let Some(server) = tls_server(kind, certificate.clone()) else { return };
            // The server's own certificate in the operator's hands is as good as a CA.
            suite(&Place::server(&server, &explicit(&server, &certificate.cert)));
        }
    }));
}

#[test]
fn certificates_that_prove_nothing_are_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let cases = [
        ("expired", authority.issue("old", HERE, ("20200101000000Z", "20210101000000Z")), "has expired"),
        ("not yet", authority.issue("new", HERE, ("20480101000000Z", "20490101000000Z")), "not valid yet"),
        ("wrong name", authority.issue("other", "DNS:other.example", NOW), "not made out to 127.0.0.1"),
        ("unknown CA", stranger.issue("unknown", HERE, NOW), "processor_ftp_tls_ca"),
        ("self-signed", stranger.self_signed("self", HERE), "processor_ftp_tls_ca"),
    ];
    let ca = &authority.ca();
    run_all(cases.iter().map(|(label, certificate, says)| {
        move || {
            let Some(server) = tls_server(Kind::Vsftpd, certificate.clone()) else { return };
            let remote = Ftp::new(explicit(&server, ca), TOKEN).unwrap();
            let error = deliver(&remote, NAME, b"secret rows").unwrap_err();
            assert_eq!(error.scope, Scope::Server, "{label}: {error}");
            assert!(error.text.contains(says), "{label}: {error}");
            assert!(read_dir(&server.home).is_empty(), "{label}: nothing was sent");
        }
    }));
    // The operator's own file with the wrong name in it, or with the system's roots only.
    report(
        "TLS",
        "expired, not yet valid, wrong name, unknown CA, self-signed",
        "refused with the reason, nothing sent",
    );
    let own = stranger.self_signed("mine", "DNS:other.example");
    let Some(server) = tls_server(Kind::Vsftpd, own.clone()) else { return };
    let error = deliver(&Ftp::new(explicit(&server, &own.cert), TOKEN).unwrap(), NAME, b"x").unwrap_err();
    assert!(error.text.contains("not made out to"), "{error}");
}

#[test]
fn without_tls_on_the_server_nothing_is_sent() {
    let authority = Authority::new();
    let server = ScriptedFtp::start();
    let tls = Tls::Explicit { ca: Some(authority.ca()) };
    let remote = Ftp::new(Options { tls, ..scripted_options(&server, 1000) }, TOKEN).unwrap();
    let error = deliver(&remote, NAME, b"secret rows").unwrap_err();
    assert!(error.text.contains("AUTH TLS"), "{error}");
    assert_eq!(error.scope, Scope::Server, "{error}");
    assert_eq!(server.commands(), ["AUTH TLS"], "no USER, no PASS, no STOR");

    let missing = Tls::Explicit { ca: Some(PathBuf::from("/no/such.pem")) };
    let error = Ftp::new(Options { tls: missing, ..scripted_options(&server, 1000) }, TOKEN).unwrap_err();
    assert!(error.to_string().contains("/no/such.pem"), "{error}");
}

#[test]
fn a_server_of_tls_13_alone_gets_fresh_connections() {
    let authority = Authority::new();
    let certificate = authority.issue("good", HERE, NOW);
    let setup = Setup { tls: Some(certificate), only_tls13: true, ..Setup::default() };
    let Some(server) = Server::start(Kind::ProFtpd, &setup) else { return };
    let spool = Spool::new();
    let names: Vec<_> = (0..15).map(|n| spool.seal(n)).collect();
    let remote = Ftp::new(explicit(&server, &authority.ca()), TOKEN).unwrap();
    let left = spool.drain(Arc::new(remote), 1);
    assert_eq!(left, Left::default(), "{:?}", spool.events.take());
    assert_eq!(read_dir(&server.area()).into_keys().collect::<Vec<_>>(), names);
}

// The loop.

#[test]
fn servers_killed_in_the_middle_lose_nothing() {
    run_all(KINDS.map(|kind| move || killed_in_the_middle(kind)));
    let how = format!("vsftpd, ProFTPD, Pure-FTPd killed in mid-transfer {} times each", kills());
    report("the local file goes last", &how, "40 files on each, all whole, once, 0 lost");
}

fn kills() -> u64 {
    points(5, 20) as u64
}

fn killed_in_the_middle(kind: Kind) {
    let Some(mut server) = Server::start(kind, &Setup::default()) else { return };
    let spool = Spool::new();
    let sealed: Files = (0..40).map(|n| (format!("f_20251127_102030_{n:06}.csv.gz"), bytes(400_000, n))).collect();
    for (name, bytes) in &sealed {
        fs::write(spool.temp.path().join(name), bytes).unwrap();
    }
    let remote = Arc::new(Ftp::new(server.options(), TOKEN).unwrap());
    for round in 1..=kills() {
        let before = spool.stats.uploaded_files.get();
        std::thread::scope(|scope| {
            let draining = scope.spawn(|| spool.drain(Arc::clone(&remote) as Arc<dyn Remote>, 2));
            let guard = Instant::now() + Duration::from_secs(30);
            while spool.stats.uploaded_files.get() < before + 1 + round % 3 && !draining.is_finished() {
                assert!(Instant::now() < guard, "{kind:?}");
                std::thread::yield_now();
            }
            server.kill();
            draining.join().unwrap();
        });
        let (there, here) = (read_dir(&server.area()), read_dir(spool.temp.path()));
        for (name, bytes) in &sealed {
            let whole = there.get(name) == Some(bytes);
            assert!(whole || here.get(name) == Some(bytes), "{kind:?} round {round}: {name} is lost");
            assert!(whole || !there.contains_key(name), "{kind:?} round {round}: {name} is torn");
        }
        server.revive();
    }
    // A pass may still be ended by a session that the kill left half-open.
    for _ in 0..3 {
        spool.drain(Arc::clone(&remote) as Arc<dyn Remote>, 2);
    }
    assert!(read_dir(&server.area()) == sealed, "{kind:?}: everything arrived once, no temp file is left");
    assert!(spool.names().is_empty());
}

struct Spool {
    temp: tempfile::TempDir,
    stats: Arc<Stats>,
    events: Memory,
    log: Log,
}

impl Spool {
    fn new() -> Self {
        let (log, events) = Log::memory();
        Self { temp: tempfile::tempdir().unwrap(), stats: Arc::default(), events, log }
    }

    fn seal(&self, n: u32) -> String {
        let name = format!("f_20251127_102030_{n:06}.csv.gz");
        fs::write(self.temp.path().join(&name), bytes(100, u64::from(n))).unwrap();
        name
    }

    fn names(&self) -> Vec<String> {
        read_dir(self.temp.path()).into_keys().collect()
    }

    fn uploader(&self, remote: Arc<dyn Remote>, connections: usize) -> Uploader {
        let stock = Stock::new(Dir::open(self.temp.path()).unwrap(), Arc::clone(&self.stats));
        assert!(stock.count().unwrap());
        Uploader {
            options: uploader::Options { interval: Duration::from_millis(50), connections },
            remote,
            queue: Arc::new(Queue::new(Arc::new(stock))),
            stats: Arc::clone(&self.stats),
            log: self.log.clone(),
        }
    }

    /// The first pass and the last one.
    fn drain(&self, remote: Arc<dyn Remote>, connections: usize) -> Left {
        let (order, ordered) = crossbeam_channel::bounded(1);
        order.send(LastPass::default()).unwrap();
        self.uploader(remote, connections).run(&ordered)
    }

    fn failed(&self) -> Vec<String> {
        self.events
            .take()
            .into_iter()
            .filter_map(|event| match event {
                Event::UploadFailed { name, .. } => Some(name),
                _ => None,
            })
            .collect()
    }
}

fn scripted(server: &ScriptedFtp, timeout_ms: u64) -> Arc<Ftp> {
    Arc::new(Ftp::new(scripted_options(server, timeout_ms), TOKEN).unwrap())
}

#[test]
fn one_session_takes_the_whole_backlog_oldest_first() {
    let (server, spool) = (ScriptedFtp::start(), Spool::new());
    let names: Vec<_> = (0..300).map(|n| spool.seal(n)).collect();
    let left = spool.drain(scripted(&server, 30_000), 1);
    assert_eq!(left, Left::default());
    assert_eq!(server.names(), names);
    assert!(spool.names().is_empty());
    assert_eq!(server.logins(), 1);
    let renamed: Vec<_> =
        server.commands().iter().filter_map(|line| line.strip_prefix("RNTO ").map(str::to_owned)).collect();
    assert_eq!(renamed, names, "oldest first");
    assert_eq!((spool.stats.uploaded_files.get(), spool.stats.uploaded_bytes.get()), (300, 30_000));
    assert!(spool.stats.last_upload.get() > 0);
}

#[test]
fn one_refused_file_holds_nobody_back() {
    let (server, spool) = (ScriptedFtp::start(), Spool::new());
    let names: Vec<_> = (0..2000).map(|n| spool.seal(n)).collect();
    server.put(&names[0], b"another probe's");
    let left = spool.drain(scripted(&server, 30_000), 1);
    assert_eq!(left.files, 1);
    assert_eq!(spool.names(), names[..1]);
    assert_eq!(server.names(), names);
    assert_eq!(server.file(&names[0]).unwrap(), b"another probe's");
    assert!(spool.failed().iter().all(|name| *name == names[0]));
    assert!(server.logins() <= 4, "two passes, a fresh connection after each refusal");
}

#[test]
fn parallel_sessions_deliver_each_file_once() {
    let (server, spool) = (ScriptedFtp::start(), Spool::new());
    let names: Vec<_> = (0..200).map(|n| spool.seal(n)).collect();
    assert_eq!(spool.drain(scripted(&server, 30_000), 8).files, 0);
    assert_eq!(server.names(), names);
    let stores = server.commands().iter().filter(|line| line.starts_with("STOR")).count();
    assert_eq!(stores, 200);
    assert!((1..=8).contains(&server.logins()));
}

#[test]
fn a_refused_login_is_not_hammered() {
    let (server, spool) = (ScriptedFtp::start(), Spool::new());
    spool.seal(0);
    server.fault(Some((At::Pass, What::Say("530 login incorrect"))));
    let uploader = spool.uploader(scripted(&server, 2000), 8);
    let (order, ordered) = crossbeam_channel::bounded(1);
    let running = std::thread::spawn(move || uploader.run(&ordered));
    let guard = Instant::now() + Duration::from_secs(30);
    let wait = loop {
        let told = spool.events.take().into_iter().find_map(|event| match event {
            Event::UploadPassFailed { retry_in, error, .. } => Some((retry_in, error)),
            _ => None,
        });
        if let Some((retry_in, error)) = told {
            assert!(error.contains("530") && error.contains("processor_ftp_user"), "{error}");
            break retry_in;
        }
        assert!(Instant::now() < guard);
        std::thread::yield_now();
    };
    assert!(wait >= Duration::from_mins(5), "{wait:?}");
    assert_eq!(server.logins(), 1, "once, although the interval is 50 ms and eight sessions are allowed");
    report(
        "a refused login is not hammered",
        "530, eight sessions, a pass every 50 ms",
        &format!("1 login in {wait:?}"),
    );
    order.send(LastPass { deadline: Some(Instant::now()) }).unwrap();
    let left = running.join().unwrap();
    assert_eq!((left.files, left.cut), (1, true));
}

#[test]
fn files_sealed_while_it_runs_go_at_the_next_pass() {
    let (server, spool) = (ScriptedFtp::start(), Spool::new());
    let uploader = spool.uploader(scripted(&server, 30_000), 2);
    let (order, ordered) = crossbeam_channel::bounded(1);
    let running = std::thread::spawn(move || uploader.run(&ordered));
    let guard = Instant::now() + Duration::from_secs(30);
    for n in 0..3 {
        let name = spool.seal(n);
        while server.file(&name).is_none() {
            assert!(Instant::now() < guard, "{name} does not arrive");
            std::thread::yield_now();
        }
    }
    drop(order);
    assert_eq!(running.join().unwrap(), Left::default());
}

#[test]
fn the_end_is_on_time_whatever_hangs() {
    for at in [At::Greeting, At::Stored, At::Rnto] {
        let (server, spool) = (ScriptedFtp::start(), Spool::new());
        spool.seal(0);
        server.fault(Some((at, What::Hang)));
        let remote = scripted(&server, 60_000);
        let uploader = spool.uploader(Arc::clone(&remote) as Arc<dyn Remote>, 1);
        let (order, ordered) = crossbeam_channel::bounded(1);
        let running = std::thread::spawn(move || uploader.run(&ordered));
        let deadline = Instant::now() + Duration::from_millis(300);
        remote.hurry(deadline);
        order.send(LastPass { deadline: Some(deadline) }).unwrap();
        let left = running.join().unwrap();
        assert!(Instant::now() < deadline + Duration::from_secs(20), "{at:?}: not the 60 s of the time-out");
        assert_eq!((left.files, left.cut), (1, true), "{at:?}");
        assert_eq!(spool.names().len(), 1, "{at:?}: the file stays");
    }
}

/// A remote that never comes back, as a resolver or a dead disk may do.
struct Stuck;

impl Remote for Stuck {
    fn open(&self, _: Instant) -> Result<Box<dyn Session>, RemoteError> {
        loop {
            std::thread::park();
        }
    }
    fn hurry(&self, _: Instant) {}
    fn address(&self) -> String {
        "nowhere".into()
    }
    fn allowance(&self, _: u64) -> Duration {
        Duration::from_hours(1)
    }
}

#[test]
fn a_remote_that_never_returns_is_left_behind() {
    let spool = Spool::new();
    spool.seal(0);
    let uploader = spool.uploader(Arc::new(Stuck), 1);
    let (order, ordered) = crossbeam_channel::bounded(1);
    let running = std::thread::spawn(move || uploader.run(&ordered));
    order.send(LastPass { deadline: Some(Instant::now()) }).unwrap();
    assert_eq!(running.join().unwrap(), Left { files: 1, bytes: 100, cut: true });
}
