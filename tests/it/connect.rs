//! `processor check -connect` against real servers: what it says when all is well, and what when something is not.

use std::process::Command;

use crate::support::ftp_servers::{Authority, KINDS, Kind, Server, Setup};
use crate::support::run::{PROCESSOR, Probe, names};

/// Valid now and for the life of these tests.
const VALID: (&str, &str) = ("20200101000000Z", "20990101000000Z");

/// A configuration that uploads to the server.
fn probe(server: &Server) -> Probe {
    let options = server.options();
    Probe::new()
        .upload_to(server.port)
        .key("ftp_user", &options.user)
        .key("ftp_pass", options.pass.reveal())
        .key("ftp_dir", "area/a")
}

/// Exit code and everything said, behind the printed configuration.
fn check(probe: &Probe, wrapper: &[&str]) -> (Option<i32>, String) {
    probe.write_config();
    let mut words = wrapper.iter().copied().chain([PROCESSOR, "check", "-connect", "-config"]);
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).arg(probe.config()).output().unwrap();
    assert!(output.stderr.is_empty(), "no bar where there is no terminal: {output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!said.contains("s3cret") && !said.contains("secret\n"), "{said}");
    let tried = said.split_once("\n\n").map_or(said.as_str(), |(_, tried)| tried).to_owned();
    (output.status.code(), tried)
}

#[test]
fn a_server_that_takes_files() {
    for kind in KINDS {
        let Some(server) = Server::start(kind, &Setup::default()) else { return };
        let probe = probe(&server);
        let (code, said) = check(&probe, &[]);
        assert_eq!(code, Some(0), "{kind:?}: {said}");
        for part in [
            "without TLS, login as ",
            "connect, login, directory: ok",
            "directory area: was missing; made",
            "directory area/a: was missing; made",
            "compare its size, rename it: ok",
            "delete it again: ok",
        ] {
            assert!(said.contains(part), "{kind:?}: {part} is missing in\n{said}");
        }
        let (code, said) = check(&probe, &[]);
        assert!(code == Some(0) && !said.contains("was missing"), "{kind:?}: {said}");
        assert_eq!(names(&server.area()), Vec::<String>::new(), "{kind:?}: nothing stays");
    }
}

#[test]
fn tls_and_certificates_that_are_not_trusted() {
    let authority = Authority::new();
    let good = authority.issue("good", "IP:127.0.0.1", VALID);
    for kind in [Kind::Vsftpd, Kind::ProFtpd] {
        let Some(server) = Server::start(kind, &Setup { tls: Some(good.clone()), ..Setup::default() }) else { return };
        let probe = probe(&server).key("ftp_tls", "explicit");
        let (code, said) = check(&probe, &[]);
        assert!(code == Some(1) && said.contains("FAILED: ") && said.contains("processor_ftp_tls_ca"), "{said}");
        let (code, said) = check(&probe.key("ftp_tls_ca", authority.ca().display()), &[]);
        assert!(code == Some(0) && said.contains("with TLS") && said.contains("delete it again: ok"), "{said}");
    }
}

#[test]
fn each_refusal_names_its_step() {
    for (forbidden, code, part) in [
        ("DELE", 0, "delete it again: refused"),
        ("STOR", 1, "STOR"),
        ("RNFR", 1, "rename processor-check-"),
        ("MKD XMKD", 1, "CWD area/a"),
    ] {
        let Some(server) = Server::start(Kind::ProFtpd, &Setup { forbidden, ..Setup::default() }) else { return };
        let (got, said) = check(&probe(&server), &[]);
        assert!(got == Some(code) && said.contains(part), "{forbidden}: {said}");
        assert!(code == 0 || said.contains("FAILED: "), "{said}");
        assert!(forbidden != "DELE" || said.contains("files can be delivered, but delete processor-check-"), "{said}");
    }
    let Some(mut server) = Server::start(Kind::ProFtpd, &Setup::default()) else { return };
    let (code, said) = check(&probe(&server).key("ftp_pass", "wrong"), &[]);
    assert!(code == Some(1) && said.contains("login") && said.contains("530"), "{said}");
    let probe = probe(&server);
    server.kill();
    let (code, said) = check(&probe, &[]);
    assert!(code == Some(1) && said.contains("Connection refused") && said.contains("processor_ftp_host"), "{said}");
}

#[test]
fn accounts_that_only_take_files_are_found_out() {
    for (kind, setup) in [
        (Kind::Vsftpd, Setup { upload_only: true, ..Setup::default() }),
        (Kind::PureFtpd, Setup { upload_only: true, ..Setup::default() }),
        (Kind::ProFtpd, Setup { lines: "PathAllowFilter \\.csv\\.gz$\n", ..Setup::default() }),
        (Kind::ProFtpd, Setup { forbidden: "SIZE", ..Setup::default() }),
    ] {
        let Some(server) = Server::start(kind, &setup) else { return };
        server.make_area();
        let (code, said) = check(&probe(&server), &[]);
        assert!(code == Some(1) && said.contains("works with processor_ftp_put: direct"), "{kind:?}: {said}");
        let (code, said) = check(&probe(&server).key("ftp_put", "direct"), &[]);
        assert!(code == Some(0) && said.contains("under its final name: ok"), "{kind:?}: {said}");
    }
}

#[test]
fn capture_without_the_capability_says_which() {
    if !rustix::process::geteuid().is_root() {
        crate::support::not_run("dropping a capability needs root");
        return;
    }
    let probe = Probe::new().key("source", "capture").line("pcap_interface", "lo");
    let (code, said) = check(&probe, &[]);
    assert!(code == Some(0) && said.contains("open the capture: ok"), "{said}");
    let (code, said) = check(&probe, &["setpriv", "--bounding-set=-net_raw,-net_admin"]);
    assert!(code == Some(1) && said.contains("open the capture: FAILED") && said.contains("CAP_NET_RAW"), "{said}");
    let (code, said) = check(&Probe::new().key("source", "capture").line("pcap_interface", "no-such-wire"), &[]);
    assert!(code == Some(1) && said.contains("no-such-wire"), "{said}");
}
