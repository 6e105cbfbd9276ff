//! An FTP server of our own that keeps its files in memory and goes wrong exactly where it is told to.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where in the dialogue a fault sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Greeting,
    User,
    Pass,
    Type,
    Cwd,
    Mkd,
    /// The n-th SIZE of a connection, from 1. A put asks: final, temp, temp, final, final.
    Size(usize),
    Dele,
    Pasv,
    Epsv,
    /// The preliminary reply to STOR.
    Stor,
    /// The data connection of a STOR.
    Taking,
    /// The final reply to STOR.
    Stored,
    Rnfr,
    Rnto,
    Retr,
}

/// What goes wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Nothing is said any more.
    Hang,
    /// An endless reply, a byte every 50 ms.
    Drip,
    /// A reply line without end, as fast as it goes.
    EndlessLine,
    /// Continuation lines without end.
    EndlessLines,
    Close,
    Reset,
    /// Two bytes of a reply, then nothing.
    Half,
    /// Bytes that are no reply.
    Garbage,
    /// The reply comes twice.
    Twice,
    /// The server does what it was asked for, but is never heard again.
    DoneButHang,
    DoneButClose,
    /// The server says it is done, and did nothing.
    Lie,
    /// The server does what it was asked for, and says this.
    DoneButSay(&'static str),
    /// The server does it, and its consumer takes the file before the answer is out.
    Taken,
    /// Another reply instead; nothing is done.
    Say(&'static str),
    /// On `Size`: a number that is wrong by one.
    WrongSize,
    /// On `Pasv`: the address of another machine with the right port, which is a lie that NAT tells.
    ForeignAddress,
    /// On `Pasv`: no parentheses around the address.
    NoParentheses,
    /// On `Pasv`: a port where nobody listens.
    DeadPort,
    /// On `Taking`: never reads.
    NeverRead,
    /// On `Taking`: reads a byte every 50 ms.
    SlowRead,
    /// On `Taking`: closes after 1000 bytes; then says 426.
    CloseEarly,
    /// On `Taking`: resets after 1000 bytes and says nothing.
    ResetEarly,
    /// On `Taking`: keeps the first 1000 bytes only, and says 226.
    KeepHalf,
    /// On `Taking`: keeps the first 1000 bytes, and says that there is no room for more.
    Full,
    /// On `Taking`: keeps the first 1000 bytes, and is gone.
    Break,
    /// On `Taking`: all connections together read so many bytes a second.
    Thin(u32),
    /// On `Taking`: stores only LF as CRLF, as a server in ASCII mode does.
    Rewrite,
}

#[derive(Debug, Default)]
pub struct Shared {
    pub files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What the consumer took, in order.
    consumed: Mutex<Vec<(String, Vec<u8>)>>,
    /// When the thin line is free again.
    line_free: Mutex<Option<Instant>>,
    fault: Mutex<Option<(At, What)>>,
    commands: Mutex<Vec<String>>,
    logins: AtomicUsize,
    stop: AtomicBool,
}

/// A running server; ends when dropped.
pub struct ScriptedFtp {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
}

impl ScriptedFtp {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.stop.load(SeqCst) {
                    break;
                }
                let shared = Arc::clone(&theirs);
                std::thread::spawn(move || {
                    let _ = Connection::new(stream, shared).and_then(Connection::serve);
                });
            }
        });
        Self { address, shared }
    }

    pub fn fault(&self, fault: Option<(At, What)>) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.shared.files.lock().unwrap().get(name).cloned()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.shared.files.lock().unwrap().insert(name.into(), bytes.into());
    }

    /// What the consumer took, in order.
    pub fn consumed(&self) -> Vec<(String, Vec<u8>)> {
        self.shared.consumed.lock().unwrap().clone()
    }

    /// Takes a file away, as its consumer may.
    pub fn take(&self, name: &str) -> Option<Vec<u8>> {
        self.shared.files.lock().unwrap().remove(name)
    }

    pub fn names(&self) -> Vec<String> {
        self.shared.files.lock().unwrap().keys().cloned().collect()
    }

    pub fn logins(&self) -> usize {
        self.shared.logins.load(SeqCst)
    }

    /// Every command line that came, in order.
    pub fn commands(&self) -> Vec<String> {
        self.shared.commands.lock().unwrap().clone()
    }
}

impl Drop for ScriptedFtp {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// The connection is over.
#[derive(Debug)]
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

struct Connection {
    control: BufReader<TcpStream>,
    shared: Arc<Shared>,
    data: Option<TcpListener>,
    sizes: usize,
    from: Option<String>,
}

impl Connection {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Result<Self, Over> {
        stream.set_nodelay(true)?;
        Ok(Self { control: BufReader::new(stream), shared, data: None, sizes: 0, from: None })
    }

    fn fault(&self, at: At) -> Option<What> {
        self.shared.fault.lock().unwrap().filter(|(place, _)| *place == at).map(|(_, what)| what)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        Ok(self.control.get_mut().write_all(bytes)?)
    }

    fn wait_for_the_end(&mut self) -> Over {
        // The client goes away in the end; what it still says is of no interest.
        let _ = io::copy(&mut self.control, &mut io::sink());
        Over
    }

    fn reset(&mut self) -> Over {
        let _ = socket2::SockRef::from(self.control.get_ref()).set_linger(Some(Duration::ZERO));
        Over
    }

    /// Does `effect` and says `text`, unless a fault sits here.
    fn answer(&mut self, at: At, text: &str, effect: impl FnOnce(&mut Self) -> Result<(), Over>) -> Result<(), Over> {
        let code = &text[..3];
        match self.fault(at) {
            Some(What::Hang) => Err(self.wait_for_the_end()),
            Some(What::Drip) => {
                self.write(format!("{code}-").as_bytes())?;
                loop {
                    self.write(b"z")?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Some(What::EndlessLine) => {
                self.write(format!("{code} ").as_bytes())?;
                loop {
                    self.write(&[b'z'; 4096])?;
                }
            }
            Some(What::EndlessLines) => loop {
                self.write(format!("{code}-more\r\n").repeat(100).as_bytes())?;
            },
            Some(What::Close) => Err(Over),
            Some(What::Reset) => Err(self.reset()),
            Some(What::Half) => {
                self.write(&text.as_bytes()[..2])?;
                Err(self.wait_for_the_end())
            }
            Some(What::Garbage) => self.write(b"\x00\xff\xfe\x1b[2J\x07 what is this\r\n"),
            Some(What::Twice) => {
                effect(self)?;
                self.write(format!("{text}\r\n{text}\r\n").as_bytes())
            }
            Some(What::DoneButHang) => {
                effect(self)?;
                Err(self.wait_for_the_end())
            }
            Some(What::DoneButClose) => {
                effect(self)?;
                Err(Over)
            }
            Some(What::DoneButSay(other)) => {
                effect(self)?;
                self.write(format!("{other}\r\n").as_bytes())
            }
            Some(What::Taken) => {
                let before: Vec<_> = self.shared.files.lock().unwrap().keys().cloned().collect();
                effect(self)?;
                {
                    let mut files = self.shared.files.lock().unwrap();
                    let new: Vec<_> = files.keys().filter(|name| !before.contains(name)).cloned().collect();
                    let taken = new.into_iter().filter_map(|name| files.remove_entry(&name));
                    self.shared.consumed.lock().unwrap().extend(taken);
                }
                self.write(format!("{text}\r\n").as_bytes())
            }
            Some(What::Lie) => self.write(format!("{text}\r\n").as_bytes()),
            Some(What::Say(other)) => self.write(format!("{other}\r\n").as_bytes()),
            _ => {
                effect(self)?;
                self.write(format!("{text}\r\n").as_bytes())
            }
        }
    }

    fn say(&mut self, at: At, text: &str) -> Result<(), Over> {
        self.answer(at, text, |_| Ok(()))
    }

    fn serve(mut self) -> Result<(), Over> {
        self.say(At::Greeting, "220 scripted")?;
        loop {
            let mut line = String::new();
            if self.control.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            self.shared.commands.lock().unwrap().push(line.clone());
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            self.obey(verb, rest.to_owned())?;
        }
    }

    fn obey(&mut self, verb: &str, rest: String) -> Result<(), Over> {
        match verb {
            "USER" => self.say(At::User, "331 password"),
            "PASS" => {
                self.shared.logins.fetch_add(1, SeqCst);
                self.say(At::Pass, "230 in")
            }
            "TYPE" => self.say(At::Type, "200 type"),
            "CWD" => self.say(At::Cwd, "250 there"),
            "MKD" => self.say(At::Mkd, "257 made"),
            "SIZE" => {
                self.sizes += 1;
                let at = At::Size(self.sizes);
                let size = self.shared.files.lock().unwrap().get(&rest).map(Vec::len);
                match size {
                    Some(size) if self.fault(at) == Some(What::WrongSize) => self.say(at, &format!("213 {}", size + 1)),
                    Some(size) => self.say(at, &format!("213 {size}")),
                    None => self.say(at, "550 no such file"),
                }
            }
            "DELE" => self.answer(At::Dele, "250 gone", |this| {
                this.shared.files.lock().unwrap().remove(&rest);
                Ok(())
            }),
            "PASV" => self.passive(),
            "EPSV" => {
                let port = self.listen()?;
                self.say(At::Epsv, &format!("229 extended (|||{port}|)"))
            }
            "STOR" => self.store(rest),
            "RETR" => self.retrieve(&rest),
            "RNFR" => {
                let text = if self.file(&rest).is_some() { "350 go on" } else { "550 no such file" };
                self.from = Some(rest);
                self.say(At::Rnfr, text)
            }
            "RNTO" => self.answer(At::Rnto, "250 renamed", |this| {
                let mut files = this.shared.files.lock().unwrap();
                if let Some(bytes) = this.from.take().and_then(|from| files.remove(&from)) {
                    files.insert(rest, bytes);
                }
                Ok(())
            }),
            "QUIT" => {
                self.write(b"221 bye\r\n")?;
                Err(Over)
            }
            _ => self.write(b"502 unknown\r\n"),
        }
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.shared.files.lock().unwrap().get(name).cloned()
    }

    fn listen(&mut self) -> Result<u16, Over> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        if matches!(self.fault(At::Taking), Some(What::Thin(_))) {
            // What the kernel takes for us is acknowledged, too.
            socket2::SockRef::from(&listener).set_recv_buffer_size(2048)?;
        }
        let port = listener.local_addr()?.port();
        self.data = Some(listener);
        Ok(port)
    }

    fn passive(&mut self) -> Result<(), Over> {
        let port = self.listen()?;
        let (high, low) = (port / 256, port % 256);
        match self.fault(At::Pasv) {
            // TEST-NET-1: nobody lives there.
            Some(What::ForeignAddress) => self.say(At::Pasv, &format!("227 passive (192,0,2,1,{high},{low})")),
            Some(What::NoParentheses) => self.say(At::Pasv, &format!("227 passive 127,0,0,1,{high},{low}")),
            Some(What::DeadPort) => {
                self.data = None;
                self.say(At::Pasv, &format!("227 passive (127,0,0,1,{high},{low})"))
            }
            _ => self.say(At::Pasv, &format!("227 passive (127,0,0,1,{high},{low})")),
        }
    }

    fn store(&mut self, name: String) -> Result<(), Over> {
        self.say(At::Stor, "150 send")?;
        if matches!(self.fault(At::Stor), Some(What::Say(_) | What::Garbage)) {
            return Ok(());
        }
        let Some(listener) = self.data.take() else { return self.write(b"425 no data connection\r\n") };
        let (mut data, _) = listener.accept()?;
        let mut bytes = Vec::new();
        match self.fault(At::Taking) {
            Some(What::NeverRead) => return Err(self.wait_for_the_end()),
            Some(What::SlowRead) => loop {
                if data.read(&mut [0])? == 0 {
                    return Err(Over);
                }
                std::thread::sleep(Duration::from_millis(50));
            },
            Some(What::CloseEarly) => {
                data.read_exact(&mut [0; 1000])?;
                drop(data);
                return self.write(b"426 connection closed; transfer aborted\r\n");
            }
            Some(what @ (What::Full | What::Break)) => {
                bytes.resize(1000, 0);
                data.read_exact(&mut bytes)?;
                self.shared.files.lock().unwrap().insert(name, bytes);
                if what == What::Break {
                    return Err(Over);
                }
                drop(data);
                return self.write(b"552 over quota\r\n");
            }
            Some(What::Thin(rate)) => bytes = self.read_thinly(&mut data, rate)?,
            Some(What::ResetEarly) => {
                data.read_exact(&mut [0; 1000])?;
                socket2::SockRef::from(&data).set_linger(Some(Duration::ZERO))?;
                drop(data);
                return Err(self.wait_for_the_end());
            }
            Some(What::Hang) => {
                data.read_to_end(&mut bytes)?;
                return Err(self.wait_for_the_end());
            }
            what => {
                data.read_to_end(&mut bytes)?;
                if what == Some(What::KeepHalf) {
                    bytes.truncate(1000);
                }
                if what == Some(What::Rewrite) {
                    bytes = bytes.iter().flat_map(|&b| if b == b'\n' { vec![b'\r', b'\n'] } else { vec![b] }).collect();
                }
            }
        }
        drop(data);
        self.answer(At::Stored, "226 stored", |this| {
            this.shared.files.lock().unwrap().insert(name, bytes);
            Ok(())
        })
    }

    /// Reads to the end, at no more than `rate` bytes a second over all connections.
    fn read_thinly(&self, data: &mut TcpStream, rate: u32) -> Result<Vec<u8>, Over> {
        let (mut bytes, mut some) = (Vec::new(), [0; 256]);
        loop {
            let len = data.read(&mut some)?;
            if len == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&some[..len]);
            let free = {
                let (now, mut free) = (Instant::now(), self.shared.line_free.lock().unwrap());
                let until = free.map_or(now, |free| free.max(now))
                    + Duration::from_secs(1) * u32::try_from(len).unwrap() / rate;
                *free = Some(until);
                until
            };
            std::thread::sleep(free.saturating_duration_since(Instant::now()));
        }
    }

    fn retrieve(&mut self, name: &str) -> Result<(), Over> {
        let Some(bytes) = self.file(name) else { return self.write(b"550 no such file\r\n") };
        self.say(At::Retr, "150 here it comes")?;
        if self.fault(At::Retr).is_some() {
            return Ok(());
        }
        let Some(listener) = self.data.take() else { return self.write(b"425 no data connection\r\n") };
        let (mut data, _) = listener.accept()?;
        data.write_all(&bytes)?;
        drop(data);
        self.write(b"226 sent\r\n")
    }
}
