//! Real FTP servers on loopback ports, each in a directory of its own, ended when dropped.
//!
//! They come from `scripts/ftp-servers`. Without it the tests that need them say so and pass; see [`not_run`](super::not_run).
#![allow(clippy::format_push_string)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use processor::remote::ftp::{Charset, Mode, Options, Put, Tls};
use processor::secret::Secret;
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Vsftpd,
    ProFtpd,
    PureFtpd,
}

pub const KINDS: [Kind; 3] = [Kind::Vsftpd, Kind::ProFtpd, Kind::PureFtpd];

/// What is special about a server.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// TLS is offered with this certificate; vsftpd and ProFTPD then want the session of the control connection.
    pub tls: Option<Certificate>,
    /// ProFTPD: files may be replaced. The others always allow it.
    pub overwrite: bool,
    /// ProFTPD: these commands are refused.
    pub forbidden: &'static str,
    /// ProFTPD: further lines of its configuration.
    pub lines: &'static str,
    /// vsftpd and Pure-FTPd: the account may neither rename nor delete.
    pub upload_only: bool,
    /// The server's disk has this many KiB.
    pub disk_kib: Option<u32>,
    /// ProFTPD: TLS 1.3 and nothing older.
    pub only_tls13: bool,
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub struct Server {
    pub kind: Kind,
    pub port: u16,
    /// Where the user lands after login.
    pub home: PathBuf,
    command: Command,
    child: Child,
    mounted: bool,
    _dir: TempDir,
}

/// Where the servers are unpacked; `None` when they are not.
fn unpacked() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let root = target.join("ftp-servers");
    if root.join("usr/sbin/pure-ftpd").exists() {
        return Some(root);
    }
    super::not_run(&format!("{} is missing: run scripts/ftp-servers", root.display()));
    None
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Server {
    /// `None` when this server cannot run here: it is not unpacked, or needs root.
    pub fn start(kind: Kind, setup: &Setup) -> Option<Self> {
        let root = unpacked()?;
        if !is_root() && (kind == Kind::PureFtpd || setup.disk_kib.is_some()) {
            super::not_run(&format!("{kind:?} {setup:?} needs root"));
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        let mounted = setup.disk_kib.is_some_and(|kib| mount(&home, kib));
        let port = free_port();
        let mut command = match kind {
            Kind::Vsftpd => vsftpd(&root, dir.path(), port, setup),
            Kind::ProFtpd => proftpd(&root, dir.path(), port, setup),
            Kind::PureFtpd => pureftpd(&root, dir.path(), port, setup),
        };
        let libraries = format!("{0}/usr/lib/x86_64-linux-gnu:{0}/lib/x86_64-linux-gnu", root.display());
        command
            .env("LD_LIBRARY_PATH", libraries)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let child = command.spawn().unwrap();
        let mut server = Self { kind, port, home, command, child, mounted, _dir: dir };
        server.wait_for_greeting();
        Some(server)
    }

    fn wait_for_greeting(&mut self) {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut line = String::new();
                if BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("220") {
                    return;
                }
            }
            assert!(self.child.try_wait().unwrap().is_none(), "{:?} ended at once", self.kind);
            assert!(Instant::now() < limit, "{:?} does not greet", self.kind);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the server and its sessions in the middle of whatever they do.
    pub fn kill(&mut self) {
        // The group holds the server and its sessions; nobody else.
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`Self::kill`]: same port, same files.
    pub fn revive(&mut self) {
        self.child = self.command.spawn().unwrap();
        self.wait_for_greeting();
    }

    /// Settings that reach this server.
    pub fn options(&self) -> Options {
        let (user, pass) = if self.kind == Kind::Vsftpd { ("anonymous", "probe@") } else { ("probe", "secret") };
        Options {
            host: "127.0.0.1".into(),
            port: self.port,
            user: user.into(),
            pass: Secret::new(pass),
            dir: "area/a".into(),
            // A hang guard: the machine may be busy.
            timeout: Duration::from_secs(30),
            tls: Tls::Off,
            mode: Mode::Passive,
            put: Put::Rename,
            charset: Charset::Utf8,
        }
    }

    /// Makes the directory that [`Self::options`] uploads to, for servers that let nobody make one.
    pub fn make_area(&self) {
        fs::create_dir_all(self.area()).unwrap();
        for dir in [self.home.join("area"), self.area()] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
    }

    /// The directory that [`Self::options`] uploads to.
    pub fn area(&self) -> PathBuf {
        self.home.join("area/a")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.home).status();
        }
    }
}

fn mount(path: &Path, kib: u32) -> bool {
    let size = format!("size={kib}k,mode=0777");
    Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status().is_ok_and(|s| s.success())
}

fn vsftpd(root: &Path, dir: &Path, port: u16, setup: &Setup) -> Command {
    let mut conf = format!(
        "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nrun_as_launching_user=YES\n\
         ftp_username=nobody\nanonymous_enable=YES\nlocal_enable=NO\nwrite_enable=YES\nanon_upload_enable=YES\nanon_mkdir_write_enable=YES\n\
         anon_other_write_enable={other}\nanon_world_readable_only=NO\nanon_root={home}\nanon_umask=022\n\
         allow_writeable_chroot=YES\nseccomp_sandbox=NO\nsecure_chroot_dir={dir}\nxferlog_enable=NO\n\
         connect_from_port_20=NO\n",
        other = if setup.upload_only { "NO" } else { "YES" },
        home = dir.join("home").display(),
        dir = dir.display(),
    );
    if let Some(Certificate { cert, key }) = &setup.tls {
        conf.push_str(&format!(
            "ssl_enable=YES\nallow_anon_ssl=YES\nrsa_cert_file={}\nrsa_private_key_file={}\nrequire_ssl_reuse=YES\n\
             ssl_ciphers=HIGH\n",
            cert.display(),
            key.display()
        ));
    }
    fs::write(dir.join("conf"), conf).unwrap();
    let mut command = Command::new(root.join("usr/sbin/vsftpd"));
    command.arg(dir.join("conf"));
    command
}

/// The password `secret`, as crypt(3) checks it quickly.
fn quick_hash() -> String {
    let hash = Command::new("openssl").args(["passwd", "-1", "secret"]).output().unwrap();
    String::from_utf8(hash.stdout).unwrap().trim().to_owned()
}

fn proftpd(root: &Path, dir: &Path, port: u16, setup: &Setup) -> Command {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let name = |flag: &str| {
        let output = Command::new("id").arg(flag).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let passwd = dir.join("passwd");
    let home = dir.join("home");
    fs::write(&passwd, format!("probe:{}:{uid}:{gid}::{}:/bin/sh\n", quick_hash(), home.display())).unwrap();
    fs::set_permissions(&passwd, fs::Permissions::from_mode(0o600)).unwrap();
    let mut conf = format!(
        "ServerName test\nServerType standalone\nDefaultAddress 127.0.0.1\nPort {port}\nSocketBindTight on\nUseIPv6 off\n\
         ModulePath {modules}\nPidFile {dir}/pid\nScoreboardFile {dir}/score\nDelayEngine off\nAuthUserFile {dir}/passwd\n\
         AuthOrder mod_auth_file.c\nRequireValidShell off\nRootLogin on\nUser {user}\nGroup {group}\nWtmpLog off\n\
         SystemLog {dir}/log\nTransferLog none\nUseReverseDNS off\nMaxInstances 100\nAllowOverwrite {overwrite}\n",
        modules = root.join("usr/lib/proftpd").display(),
        dir = dir.display(),
        user = name("-un"),
        group = name("-gn"),
        overwrite = if setup.overwrite { "on" } else { "off" },
    );
    if let Some(Certificate { cert, key }) = &setup.tls {
        conf = format!("LoadModule mod_tls.c\n{conf}");
        conf.push_str(&format!(
            "TLSEngine on\nTLSRSACertificateFile {}\nTLSRSACertificateKeyFile {}\nTLSLog {}/tls\nTLSRequired off\n",
            cert.display(),
            key.display(),
            dir.display()
        ));
        if setup.only_tls13 {
            conf.push_str("TLSProtocol TLSv1.3\n");
        }
        // The module path must be known before the module is loaded.
        conf = format!("ModulePath {}\n{conf}", root.join("usr/lib/proftpd").display());
    }
    conf.push_str(setup.lines);
    if !setup.forbidden.is_empty() {
        conf.push_str(&format!("<Limit {}>\nDenyAll\n</Limit>\n", setup.forbidden));
    }
    fs::write(dir.join("conf"), conf).unwrap();
    let mut command = Command::new(root.join("usr/sbin/proftpd"));
    command.args(["-n", "-q", "-c"]).arg(dir.join("conf"));
    command
}

/// The user that Pure-FTPd's virtual user becomes; root is refused by it.
const PLAIN_USER: u32 = 65534;

fn pureftpd(root: &Path, dir: &Path, port: u16, setup: &Setup) -> Command {
    let home = dir.join("home");
    std::os::unix::fs::chown(&home, Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
    let (passwd, db) = (dir.join("passwd"), dir.join("db"));
    let libraries = format!("{0}/usr/lib/x86_64-linux-gnu:{0}/lib/x86_64-linux-gnu", root.display());
    // The server's own hashes take half a second of processor time a login, on purpose; tests log in often.
    let line = format!("probe:{}:{PLAIN_USER}:{PLAIN_USER}::{}/./::::::::::::\n", quick_hash(), home.display());
    fs::write(&passwd, line).unwrap();
    let made = Command::new(root.join("usr/bin/pure-pw"))
        .env("LD_LIBRARY_PATH", libraries)
        .arg("mkdb")
        .arg(&db)
        .arg("-f")
        .arg(&passwd)
        .status()
        .unwrap();
    assert!(made.success());
    let mut command = Command::new(root.join("usr/sbin/pure-ftpd"));
    command.args([
        "-S",
        &format!("127.0.0.1,{port}"),
        "-E",
        "-H",
        "-A",
        "-u",
        "100",
        "-f",
        "none",
        "-c",
        "100",
        "-C",
        "100",
    ]);
    if setup.upload_only {
        command.args(["-K", "-G"]);
    }
    command.arg("-l").arg(format!("puredb:{}", db.display())).arg("-g").arg(dir.join("pid"));
    if let Some(Certificate { cert, key }) = &setup.tls {
        let both = dir.join("both.pem");
        fs::write(&both, [fs::read(key).unwrap(), fs::read(cert).unwrap()].concat()).unwrap();
        fs::set_permissions(&both, fs::Permissions::from_mode(0o600)).unwrap();
        command.args(["-Y", "1", "-2"]).arg(both);
    }
    command
}

/// A certificate authority of the tests.
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        this.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=test authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        this
    }

    /// Its own certificate, for `processor_ftp_tls_ca`.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server certificate for `names` (`DNS:…,IP:…`), valid from `from` to `to` (`YYYYMMDDHHMMSSZ`).
    pub fn issue(&self, file: &str, names: &str, (from, to): (&str, &str)) -> Certificate {
        let at = |ending: &str| self.dir.path().join(format!("{file}.{ending}"));
        let path = |ending: &str| at(ending).display().to_string();
        let extensions = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        fs::write(at("ext"), extensions).unwrap();
        let subject = ["-subj", "/CN=test server"];
        self.openssl(
            &[&["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &path("key"), "-out", &path("csr")][..], &subject]
                .concat(),
        );
        let conf = format!(
            "[ca]\ndefault_ca=c\n[c]\ndatabase={0}/{file}.index\nnew_certs_dir={0}\nserial={0}/{file}.serial\n\
             default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n",
            self.dir.path().display()
        );
        fs::write(at("conf"), conf).unwrap();
        fs::write(at("index"), "").unwrap();
        fs::write(at("serial"), "1000\n").unwrap();
        self.openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            &path("conf"),
            "-cert",
            "ca.pem",
            "-keyfile",
            "ca.key",
            "-in",
            &path("csr"),
            "-out",
            &path("pem"),
            "-extfile",
            &path("ext"),
            "-startdate",
            from,
            "-enddate",
            to,
        ]);
        Certificate { cert: at("pem"), key: at("key") }
    }

    /// A certificate that vouches for itself, marked as a CA, as the common one-liner makes it.
    pub fn self_signed(&self, file: &str, names: &str) -> Certificate {
        let at = |ending: &str| self.dir.path().join(format!("{file}.{ending}"));
        let (key, cert) = (at("key"), at("pem"));
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=self",
            "-keyout",
            &key.display().to_string(),
            "-out",
            &cert.display().to_string(),
            "-addext",
            &format!("subjectAltName={names}"),
        ]);
        Certificate { cert, key }
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
