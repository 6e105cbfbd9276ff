//! The built program as its user runs it: a configuration in a directory of its own, lines on standard input, a log on
//! standard error, signals, an exit code.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing here takes this long; who waits longer waits for ever.
pub const HANG_GUARD: Duration = Duration::from_mins(1);

/// The program under test.
pub const PROCESSOR: &str = env!("CARGO_BIN_EXE_processor");

/// Waits until `holds`, or fails after the hang guard with `what`.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG_GUARD;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory for a test's files: in memory where the machine has that, because hundreds of syncs of a real disk prove
/// nothing more when only the process dies.
pub fn temp_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// One configuration with its data directory; any number of runs, one after the other.
pub struct Probe {
    temp: TempDir,
    data: PathBuf,
    keys: Vec<(String, String)>,
    /// Lines of pmacct's own.
    lines: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    /// What stands before the program on its command line: strace and its arguments, say.
    wrapper: Vec<String>,
}

impl Probe {
    /// No upload, one log line of JSON an event, batches of 10 ms, everything else as delivered.
    pub fn new() -> Self {
        let temp = temp_dir();
        let data = temp.path().join("data");
        Self {
            temp,
            data,
            keys: Vec::new(),
            lines: String::new(),
            env: Vec::new(),
            args: Vec::new(),
            wrapper: Vec::new(),
        }
        .key("upload", "none")
        .key("flush_interval_ms", 20)
        .key("log_format", "json")
        .key("log_lang", "en")
        .key("timezone", "UTC")
        .key("gzip_level", 1)
        .key("compress_threads", 2)
        .key("spool_min_free_mb", 0)
    }

    /// Sets `processor_NAME`.
    pub fn key(mut self, name: &str, value: impl Display) -> Self {
        let name = format!("processor_{name}");
        self.keys.retain(|(known, _)| *known != name);
        self.keys.push((name, value.to_string()));
        self
    }

    /// Sets a key that is pmacct's, also once more.
    pub fn line(mut self, name: &str, value: impl Display) -> Self {
        self.keys.push((name.to_owned(), value.to_string()));
        self
    }

    /// Uploads to a server that listens at `port` of this machine.
    pub fn upload_to(self, port: u16) -> Self {
        self.key("upload", "ftp")
            .key("ftp_host", "127.0.0.1")
            .key("ftp_port", port)
            .key("ftp_user", "probe")
            .key("ftp_pass", "s3cret")
            .key("ftp_timeout", 5)
    }

    /// Puts lines of pmacct's own into the file, in front of ours.
    pub fn lines(mut self, lines: &str) -> Self {
        self.lines.push_str(lines);
        self
    }

    /// Puts the data directory elsewhere.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data = path.into();
        self
    }

    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A path beside the data directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("pmacct.conf")
    }

    /// Writes the configuration as it stands now.
    pub fn write_config(&self) {
        let lines: Vec<_> = self.keys.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(self.config());
        file.unwrap().write_all((self.lines.clone() + &lines.concat()).as_bytes()).unwrap();
    }

    /// The command line, with the configuration written.
    pub fn command(&self) -> Command {
        self.write_config();
        self.bare_command(&self.wrapper)
    }

    fn bare_command(&self, wrapper: &[String]) -> Command {
        let mut words = wrapper.iter().map(String::as_str).chain([PROCESSOR]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("-config").arg(self.config()).arg("-data-dir").arg(&self.data).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it with a pipe to feed.
    pub fn start(&self) -> Live {
        Live::start(self.command())
    }

    /// Starts it behind `wrapper`.
    pub fn start_under(&self, wrapper: &[String]) -> Live {
        Live::start(self.command_under(wrapper))
    }

    /// The command line behind `wrapper`, with the configuration written.
    pub fn command_under(&self, wrapper: &[String]) -> Command {
        self.write_config();
        self.bare_command(wrapper)
    }

    /// Feeds `input`, closes, waits for the end.
    pub fn run(&self, input: &[u8]) -> Ended {
        let mut live = self.start();
        live.feed(input);
        live.end()
    }
}

/// What the program said so far.
#[derive(Default)]
struct Said {
    text: Mutex<Vec<u8>>,
    more: Condvar,
}

/// A running program. Killed when dropped.
pub struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Said>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// Standard error, whole.
    pub log: String,
}

impl Ended {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {:?}\n{}", self.status, self.log))
    }

    /// Fails unless the program ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "signal {:?}\n{}", self.status.signal(), self.log);
        self
    }

    pub fn has(&self, event: &str) -> bool {
        has_event(&self.log, event)
    }

    /// A number field of the last line of this event.
    #[track_caller]
    pub fn number(&self, event: &str, field: &str) -> u64 {
        let line = self.log.lines().rfind(|line| is_event(line, event));
        let line = line.unwrap_or_else(|| panic!("no event {event} in\n{}", self.log));
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {line}"))
    }
}

fn is_event(line: &str, event: &str) -> bool {
    line.contains(&format!("\"event\":\"{event}\""))
}

fn has_event(log: &str, event: &str) -> bool {
    log.lines().any(|line| is_event(line, event))
}

impl Live {
    pub fn start(command: Command) -> Self {
        Self::start_reading(command, Stdio::piped())
    }

    /// Starts it with an input of the test's own.
    pub fn start_reading(mut command: Command, input: Stdio) -> Self {
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let mut stderr = child.stderr.take().unwrap();
        let said = Arc::new(Said::default());
        let theirs = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(got @ 1..) = stderr.read(&mut chunk) {
                theirs.text.lock().unwrap().extend_from_slice(&chunk[..got]);
                theirs.more.notify_all();
            }
        });
        Self { child, stdin, said, reader: Some(reader) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its input; false when it reads no more.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        self.stdin.as_mut().expect("an open input").write_all(bytes).is_ok()
    }

    /// A second handle of its input, for a thread that floods.
    pub fn take_input(&mut self) -> ChildStdin {
        self.stdin.take().expect("an open input")
    }

    /// Bytes that it was fed and has not read.
    pub fn input_left(&self) -> u64 {
        rustix::io::ioctl_fionread(self.stdin.as_ref().expect("an open input")).unwrap()
    }

    pub fn close(&mut self) {
        self.stdin = None;
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.said.text.lock().unwrap()).into_owned()
    }

    pub fn has(&self, event: &str) -> bool {
        has_event(&self.log(), event)
    }

    pub fn count(&self, event: &str) -> usize {
        self.log().lines().filter(|line| is_event(line, event)).count()
    }

    #[track_caller]
    pub fn wait_for(&self, event: &str) {
        wait_until(&format!("event {event} in\n{}", self.log()), || self.has(event));
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Closes the input and waits for the end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        self.close();
        self.wait()
    }

    /// Waits for the end, the input left as it is.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + HANG_GUARD;
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the program does not end:\n{}", self.log());
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        Ended { status, log: self.log() }
    }

    /// SIGKILL, and the end of it.
    pub fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        self.wait()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names in a directory; none when it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The names of sealed files, oldest first: the index counts them.
pub fn sealed(dir: &Path) -> Vec<String> {
    let mut names = names(dir);
    names.retain(|name| name.ends_with(".csv.gz") && dir.join(name).symlink_metadata().is_ok_and(|m| m.is_file()));
    names.sort_by_key(|name| index(name));
    names
}

fn index(name: &str) -> u64 {
    let stem = name.trim_end_matches(".part").trim_end_matches(".csv.gz");
    stem.rsplit('_').next().and_then(|index| index.parse().ok()).unwrap_or(u64::MAX)
}

/// What a sealed file unpacks to; fails unless it is one whole gzip member and nothing else.
#[track_caller]
pub fn unpack(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    unpack_bytes(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As [`unpack`], of bytes.
pub fn unpack_bytes(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut raw = Vec::new();
    let mut member = flate2::bufread::GzDecoder::new(bytes);
    member.read_to_end(&mut raw).map_err(|error| error.to_string())?;
    let behind = member.into_inner();
    if behind.is_empty() { Ok(raw) } else { Err(format!("{} bytes behind the member", behind.len())) }
}

/// What all sealed files unpack to, oldest first, one behind the other.
pub fn contents(dir: &Path) -> Vec<u8> {
    sealed(dir).iter().flat_map(|name| unpack(&dir.join(name))).collect()
}

/// A FIFO that is full: whoever writes to it waits. Both ends stay open as long as the handle lives.
pub fn blocked_pipe() -> (File, std::process::Stdio) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    while rustix::io::write(&write, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&write, b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    (File::from(read), Stdio::from(write))
}

/// The most memory that a process ever held, in MiB.
pub fn peak_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
