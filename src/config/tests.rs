//! What a configuration means, what is wrong with it, and what never shows.

use proptest::prelude::*;

use super::*;

/// The sample of the documentation.
const SAMPLE: &str = "\
# pmacct
pcap_interface: eth0

processor_ftp_host: 10.0.0.10
processor_ftp_port: 21
processor_ftp_user: ftpuser
processor_ftp_pass: ftppass
processor_ftp_dir: /data/areaA

processor_rotate_interval_sec: 600
processor_rotate_size_mb: 100
processor_file_prefix: flows_

processor_upload_interval_sec: 600
processor_timezone: Asia/Shanghai

processor_status_report_enabled: false
processor_status_report_url: http://127.0.0.1:8080/api/uploadStatus
processor_status_report_interval_sec: 60
processor_status_report_uuid:
processor_status_report_file_path:
processor_status_report_file_max_mb: 10
processor_status_report_file_backups: 0
";

/// The least that a configuration needs.
const LEAST: &str = "processor_ftp_host: h\nprocessor_ftp_user: u\nprocessor_ftp_pass: p\n";

fn inputs() -> Inputs {
    Inputs {
        path: "/etc/pmacct.conf".into(),
        data_dir: "/data".into(),
        source: None,
        log_level: log::Level::Info,
        ftp_pass: None,
        host: "probe-1".into(),
        cores: 4,
    }
}

fn no_file(path: &Path) -> io::Result<Vec<u8>> {
    match path.to_str() {
        Some("/run/pass") => Ok(b"from file\r\nsecond line\n".to_vec()),
        Some("/run/empty" | "/ca.pem") => Ok(Vec::new()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn read(text: &str) -> Result<Config, Rejected> {
    Config::check(text.as_bytes(), &inputs(), &no_file)
}

fn with(more: &str) -> Config {
    read(&format!("{LEAST}{more}")).unwrap()
}

fn errors(text: &str) -> Vec<String> {
    read(text).expect_err(text).0.iter().map(ToString::to_string).collect()
}

/// The only error of the least configuration with `more` behind it.
fn error(more: &str) -> String {
    let errors = errors(&format!("{LEAST}{more}"));
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

#[test]
fn the_documented_sample() {
    let config = read(SAMPLE).unwrap();
    assert_eq!(config.warnings, []);
    let ftp = config.ftp.as_ref().unwrap();
    assert_eq!(
        (&*ftp.host, ftp.port, &*ftp.user, ftp.pass.reveal(), &*ftp.dir),
        ("10.0.0.10", 21, "ftpuser", "ftppass", "/data/areaA")
    );
    assert_eq!(config.spool.prefix, "flows_");
    assert_eq!(config.spool.zone, Zone::parse("Asia/Shanghai").unwrap());
    assert!(config.report.is_none());
    assert_eq!(
        config.loaded().message(Lang::Zh),
        "配置加载成功: FTP=10.0.0.10:21, 滚动间隔=600s, 滚动大小=100MB, 上传间隔=600s"
    );
    assert_eq!(config.text.foreign().count(), 1);
}

#[test]
fn the_defaults() {
    let config = read(LEAST).unwrap();
    assert_eq!(config.source, SourceKind::Stdin);
    assert_eq!(config.pipeline.workers, 4);
    assert_eq!(config.pipeline.flush_interval, Duration::from_secs(1));
    assert_eq!(config.pipeline.rotate_interval, Duration::from_mins(10));
    assert_eq!(config.pipeline.rotate_bytes, 100 << 20);
    assert_eq!(config.shutdown_timeout, Duration::from_secs(8));
    assert_eq!((config.spool.max_bytes, config.spool.min_free), (None, 256 << 20));
    assert_eq!(config.spool.dir, Path::new("/data"));
    assert_eq!(config.level, pack::Level::Auto);
    assert_eq!(config.uploader.connections, 1);
    assert_eq!(config.check.convert_to, None);
    let ftp = config.ftp.unwrap();
    assert_eq!((ftp.port, &*ftp.dir, ftp.timeout), (21, "/", Duration::from_mins(1)));
    assert_eq!((ftp.tls, ftp.mode), (ftp::Tls::Off, ftp::Mode::Passive));
}

#[test]
fn every_room_gets_its_values() {
    let config = with(
        "processor_upload: FTP\nprocessor_ftp_tls: explicit\nprocessor_ftp_tls_ca: /ca.pem\nprocessor_ftp_mode: active\n\
         processor_ftp_connections: 3\nprocessor_gzip_level: 9\nprocessor_compress_threads: 2\nprocessor_csv_header: each-file\n\
         processor_bad_lines: quarantine\nprocessor_timezone: UTC+8\nprocessor_convert_timestamps: yes\n\
         processor_spool_max_mb: 5\nprocessor_spool_full: drop-oldest\nprocessor_log_format: json\nprocessor_log_lang: en\n\
         processor_file_prefix: \"{host}-x_\"\nprocessor_status_report_enabled: on\n\
         processor_status_report_url: https://r/x\nprocessor_status_report_file_path: /var/log/report\n\
         processor_pmacctd_path: /opt/pmacctd\n",
    );
    let ftp = config.ftp.unwrap();
    assert_eq!(ftp.tls, ftp::Tls::Explicit { ca: Some("/ca.pem".into()) });
    assert_eq!((ftp.mode, config.uploader.connections), (ftp::Mode::Active, 3));
    assert_eq!((config.level, config.pipeline.workers), (pack::Level::Zlib(9), 2));
    assert_eq!(config.check.header, check::HeaderMode::EachFile);
    assert_eq!(config.check.bad_lines, check::BadLines::Quarantine);
    assert_eq!(config.check.convert_to, Zone::parse("UTC+8"));
    assert_eq!((config.spool.max_bytes, config.spool.when_full), (Some(5 << 20), spool::WhenFull::DropOldest));
    assert_eq!(config.spool.prefix, "probe-1-x_");
    assert_eq!((config.log.format, config.log.lang), (log::Format::Json, Lang::En));
    let report = config.report.unwrap();
    assert_eq!((&*report.uuid, report.file_max_bytes, report.file_backups), ("probe-1", 10 << 20, 0));
    assert_eq!(report.url.map(|url| url.to_string()).as_deref(), Some("https://r/x"));
    assert_eq!(config.programs.pmacctd, Some("/opt/pmacctd".into()));
}

#[test]
fn all_errors_at_once_with_line_key_value_and_form() {
    let text = "processor_ftp_port: 70000\nprocessor_ftp_pass: a\tb\nprocessor_csv_header: always\nprocessor_ftp_host=h\n\
                processor_timezone: Asia/Shanghia\nprocessor_convert_timestamps: ja\nprocessor_status_report_url: ftp://x\n";
    assert_eq!(errors(text), include_str!("../../tests/it/golden/config_errors.txt").lines().collect::<Vec<_>>());
    let misspelt = errors("processor_ftp_hots: h\nprocessor_ftp_user: u\nprocessor_ftp_pass: p\n");
    assert!(misspelt[0].contains(":1: processor_ftp_hots: is unknown; the nearest known key is processor_ftp_host"));
    assert!(misspelt.len() == 2 && misspelt[1].contains("processor_ftp_host: is missing"));
    let escape = "processor_\u{1b}[2J: h\n".as_bytes();
    let refused = Config::check(escape, &inputs(), &|_| Err(io::ErrorKind::NotFound.into())).unwrap_err().to_string();
    assert!(!refused.contains('\u{1b}'), "{refused}");
}

#[test]
fn a_file_without_our_keys_says_so() {
    for text in ["", "pcap_interface: eth0\n", "# processor_ftp_host: h\n"] {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("/etc/pmacct.conf: has no processor_* key"), "{errors:?}");
    }
}

#[test]
fn without_upload_no_server_is_needed() {
    let config = read("processor_upload: none\n").unwrap();
    assert!(config.ftp.is_none());
    assert!(config.loaded().message(Lang::En).contains("FTP=none"));
}

#[test]
fn odd_things_are_warnings() {
    let config =
        with("processor_ftp_prot: 2121\nprocessor_ftp_dir: /a\nprocessor_ftp_dir: /b\nprocessor_ftp_tls_ca: /ca.pem\n");
    let warnings: Vec<_> = config.warnings.iter().map(|warning| warning.message(Lang::En)).collect();
    assert_eq!(
        warnings,
        [
            "configuration /etc/pmacct.conf:4: unknown key processor_ftp_prot is ignored; the nearest known one is processor_ftp_port",
            "configuration /etc/pmacct.conf:6: processor_ftp_dir stands twice; this one counts, line 5 is ignored",
            "configuration /etc/pmacct.conf:7: processor_ftp_tls_ca does nothing while processor_ftp_tls is off",
        ]
    );
    assert_eq!(config.ftp.unwrap().dir, "/b");
}

#[test]
fn what_the_go_program_took_is_taken() {
    let more = "processor_ftp_timeout: -1\nprocessor_ftp_port: 0\nprocessor_status_report_file_max_mb: 0\n\
                processor_status_report_file_backups: -1\n";
    let config = with(more);
    let ftp = config.ftp.as_ref().unwrap();
    assert_eq!((ftp.timeout, ftp.port, config.warnings.len()), (Duration::from_mins(1), 21, 4));
    assert_eq!(with("processor_ftp_timeout: 7200\n").ftp.unwrap().timeout, Duration::from_hours(2));
    let text = "processor_ftp_host:\u{3000}[::1]\u{a0}\nprocessor_ftp_user:\u{3000}u\u{a0}\nprocessor_ftp_pass:\u{3000}p\u{3000}\n";
    let ftp = read(text).unwrap().ftp.unwrap();
    assert_eq!((&*ftp.host, &*ftp.user, ftp.pass.reveal(), &*ftp.address()), ("::1", "u", "p", "[::1]:21"));
}

#[test]
fn doubtful_values_are_warnings() {
    for (line, said) in [
        ("processor_ftp_dir: /a # old", "belongs to it"),
        ("processor_ftp_dir: “/a”", "curly"),
        ("processor_ftp_pass: \"p\"", "quotation marks"),
    ] {
        let warnings: Vec<_> = with(line).warnings.iter().map(|event| event.message(Lang::En)).collect();
        assert!(warnings.iter().any(|warning| warning.contains(said)), "{line}: {warnings:?}");
    }
}

#[test]
fn a_right_value_mends_an_earlier_wrong_one() {
    assert_eq!(with("processor_ftp_port: x\nprocessor_ftp_port: 2121\n").ftp.unwrap().port, 2121);
    assert!(
        error("processor_ftp_port: 2121\nprocessor_ftp_port: x\n").contains(":5: processor_ftp_port: x is not right")
    );
}

#[test]
fn where_the_password_comes_from() {
    let open = "processor_ftp_host: h\nprocessor_ftp_user: u\n";
    let pass = |text: &str, inputs: &Inputs| {
        let config = Config::check(text.as_bytes(), inputs, &no_file).unwrap();
        let origin =
            config.settings.iter().find(|setting| setting.key.kind == Kind::Secret).unwrap().origin.to_string();
        (config.ftp.unwrap().pass.reveal().to_owned(), origin)
    };
    let pair = |pass: &str, origin: &str| (pass.to_owned(), origin.to_owned());
    let with_env = Inputs { ftp_pass: Some(Secret::new("from env")), ..inputs() };
    let file = format!("{open}processor_ftp_pass_file: /run/pass\n");
    assert_eq!(pass(&file, &inputs()), pair("from file", "/run/pass"));
    assert_eq!(pass(&file, &with_env), pair("from file", "/run/pass"));
    assert_eq!(pass(open, &with_env), pair("from env", "PROCESSOR_FTP_PASS"));
    assert_eq!(pass(LEAST, &with_env), pair("p", "line 3"));
    assert_eq!(with("processor_ftp_pass_file: /run/pass\n").warnings.len(), 1);
    for (path, why) in
        [("/nowhere", "cannot be read from /nowhere"), ("/run/empty", "first line of /run/empty is empty")]
    {
        let errors = errors(&format!("{open}processor_ftp_pass_file: {path}\n"));
        assert!(errors.len() == 1 && errors[0].contains(why), "{errors:?}");
    }
}

#[test]
fn the_command_line_goes_before_the_file() {
    let flag = |source: &str| Inputs { source: Some(("-source", source.to_owned())), ..inputs() };
    let text = format!("{LEAST}processor_source: wrong\n");
    let config = Config::check(text.as_bytes(), &flag("stdin"), &no_file).unwrap();
    assert_eq!(config.source, SourceKind::Stdin);
    let rejected = Config::check(text.as_bytes(), &flag("pcap"), &no_file).unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "-source: processor_source: pcap is not right; it takes stdin or pmacct or capture"
    );
}

#[test]
fn single_faults() {
    for (more, said) in [
        (
            "processor_rotate_size_mb: 0",
            "/etc/pmacct.conf:4: processor_rotate_size_mb: 0 is not right; it takes a whole number of MiB from 1 to 1073741824",
        ),
        (
            "processor_status_report_enabled: 1",
            "neither processor_status_report_url nor processor_status_report_file_path",
        ),
        (
            "processor_ftp_tls: explicit\nprocessor_ftp_tls_ca: /no.pem",
            ":5: processor_ftp_tls_ca: /no.pem cannot be read",
        ),
        (
            "processor_file_prefix: a/b",
            "processor_file_prefix: a/b is not right; it takes up to 100 of A-Z a-z 0-9 . _ - and {host}, not beginning with a dot",
        ),
        ("processor_ftp_dir: /a\x1b[2Jb", r"/a\u{1b}[2Jb has a control character"),
        (
            "processor_ftp_pass=hunter2",
            "/etc/pmacct.conf:4: processor_ftp_pass: is not followed by a colon but by '='; write key: value",
        ),
    ] {
        let error = error(more);
        assert!(error.contains(said), "{error}");
    }
    let text = [LEAST.as_bytes(), b"processor_ftp_dir: /\xc4\xe3\n"].concat();
    let rejected = Config::check(&text, &inputs(), &no_file).unwrap_err();
    assert!(rejected.to_string().contains(":4: processor_ftp_dir: its value is not UTF-8"), "{rejected}");
}

#[test]
fn the_password_never_shows() {
    let secret = "hunter2";
    let text = format!(
        "processor_ftp_host: h\nprocessor_ftp_user: u\nprocessor_ftp_pass: {secret}\nprocessor_ftp_password: {secret}\n\
         processor_status_report_url: http://u:{secret}@r/x\n"
    );
    let config = read(&text).unwrap();
    assert!(!config.describe(&[]).contains(secret), "{}", config.describe(&[]));
    assert!(!format!("{:?}", config.warnings).contains(secret));
    let wrong = format!(
        "processor_ftp_pass: {secret}\tx\nprocessor_ftp_pass={secret}\nprocessor_status_report_url: x://u:{secret}@r\n"
    );
    let rejected = read(&wrong).unwrap_err();
    assert!(!format!("{rejected} {rejected:?}").contains(secret), "{rejected}");
    assert!(!format!("{:?}", config.ftp).contains(secret));
    assert!(!format!("{config:?}").contains(secret), "Debug of the whole");
    assert!(!format!("{:?}", Inputs { ftp_pass: Some(Secret::new(secret)), ..inputs() }).contains(secret));
}

/// The secret of the damaged lines below: no five characters of it stand anywhere else.
const HIDDEN: &str = "Qz7Wk9Xv3JpY";

/// A line that was to set the password, damaged in every way that was seen or thought of.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let before =
        ["", "\u{feff}", "\u{a0}", "\u{3000}", "\u{200b}", "“", "\"", "[", "\t", "\0", "- ", "export ", "\u{202e}"];
    let joined = [
        "",
        "processor_ftp_host: h ",
        "processor_ftp_dir: /a\r",
        "processor_ftp_user: u # ",
        "pcap_interface: e\u{2028}",
        "processor_file_prefix=",
    ];
    let keys = [
        "processor_ftp_pass",
        "PROCESSOR_FTP_PASS",
        "processor_ftp_passwd",
        "proccessor_ftp_pass",
        "processor_ftp_password",
        "processor ftp pass",
        "processor-ftp-pass",
        "ｐｒｏｃｅｓｓｏｒ_ftp_pass",
        "processor_ftp_раss",
        "processor_ftp_pass[x]",
        "processor_ftp_pass[",
        "“processor_ftp_pass”",
        "ftp_pass",
        "processor_ftp_psas",
        "processor_ftp\0_pass",
        "processor_\nftp_pass",
    ];
    let separators = [
        ":", "：", ";", "；", "=", "＝", "", " ", "\t", "\u{3000}", ": =", "\n", ":\n", ": \\\n", "\r", "\u{85}",
        "\u{2028}", "|", "\u{fe55}", "：:",
    ];
    let values = [
        "Qz7Wk9Xv3JpY",
        "\"Qz7Wk9Xv3JpY\"",
        "“Qz7Wk9Xv3JpY”",
        "Qz7Wk9\nXv3JpY",
        "Qz7Wk9:Xv3JpY",
        "Qz7Wk9Xv3JpY # x",
        "Qz7Wk9\tXv3JpY",
        "Qz7Wk9[Xv3JpY",
        "a Qz7Wk9Xv3JpY: b",
        "x@Qz7Wk9Xv3JpY",
    ];
    let pick = |all: Vec<&'static str>| proptest::sample::select(all);
    let text = (
        pick(before.to_vec()),
        pick(joined.to_vec()),
        pick(keys.to_vec()),
        pick(separators.to_vec()),
        pick(values.to_vec()),
    );
    // Up to two slips of the pen in the key.
    let slips = proptest::collection::vec((0usize..18, prop_oneof!["[a-z_]", Just(String::new())]), 0..3);
    (text, slips, 0..6u8).prop_map(|((before, joined, key, separator, value), slips, encoding)| {
        let mut key: Vec<String> = key.chars().map(String::from).collect();
        // Lines that are joined bear one.
        let most = if joined.is_empty() { 2 } else { 1 };
        for (at, slip) in slips.into_iter().take(most) {
            if let Some(letter) = key.get_mut(at) {
                *letter = slip;
            }
        }
        let text = format!("{before}{joined}{}{separator}{value}", key.concat());
        match encoding {
            0 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            1 => [0xfe, 0xff].into_iter().chain(text.encode_utf16().flat_map(u16::to_be_bytes)).collect(),
            // The full-width colon of GBK.
            2 => text
                .replace('：', "\u{1}")
                .bytes()
                .flat_map(|b| if b == 1 { vec![0xa3, 0xba] } else { vec![b] })
                .collect(),
            _ => text.into_bytes(),
        }
    })
}

fn tells(text: &str) -> bool {
    let text = text.to_lowercase();
    HIDDEN.to_lowercase().as_bytes().windows(5).any(|part| text.contains(std::str::from_utf8(part).unwrap()))
}

proptest! {
    // The same lines every time: 40,000 others were tried, and what they found is mended.
    #![proptest_config(ProptestConfig { cases: 1000, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]
    #[test]
    fn no_damaged_line_shows_the_password(
        line in damaged(),
        head in prop_oneof![Just(""), Just("pcap_interface: e\n"), Just(LEAST)],
        source in prop_oneof![Just("stdin"), Just("capture"), Just("pmacct")],
    ) {
        let text = [head.as_bytes(), format!("processor_source: {source}\n").as_bytes(), &line, b"\naggregate: src_host\n"].concat();
        let said = match Config::check(&text, &inputs(), &no_file) {
            Ok(config) => {
                let split = crate::source::pmacct::conf::split(&config.text, &|_| None);
                let capture = crate::source::capture::Options::read(&config.text);
                let loud: Vec<_> = config.warnings.iter().map(|event| format!("{} {} {:?}", event.message(Lang::En), event.message(Lang::Zh), event)).collect();
                format!("{}{config:?}{loud:?}{split:?}{capture:?}{}{}", config.describe(&[]), split.exporter, split.collector)
            }
            Err(rejected) => format!("{rejected}{rejected:?}"),
        };
        prop_assert!(!tells(&said), "{:?}\n{said}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn check_prints_every_value_with_its_origin() {
    let described = read(SAMPLE).unwrap().describe(&[]);
    assert_eq!(described, include_str!("../../tests/it/golden/check.txt"));
}

#[test]
fn a_file_that_others_may_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pmacct.conf");
    std::fs::write(&path, LEAST).unwrap();
    let warnings = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&Inputs { path: path.clone(), ..inputs() }).unwrap().warnings
    };
    assert_eq!(warnings(0o600), []);
    assert_eq!(warnings(0o644), [Event::ConfigPublic { path: path.clone() }]);
    std::fs::write(&path, "processor_upload: none\n").unwrap();
    assert_eq!(warnings(0o644), [], "nothing to hide");
}

#[test]
fn a_file_that_cannot_be_read() {
    let rejected = Config::load(&Inputs { path: "/nowhere/x.conf".into(), ..inputs() }).unwrap_err();
    assert!(rejected.to_string().starts_with("/nowhere/x.conf: cannot be read: No such file"), "{rejected}");
    assert!(Config::load(&Inputs { path: "/".into(), ..inputs() }).is_err(), "a directory");
    assert!(Config::load(&Inputs { path: "/dev/zero".into(), ..inputs() }).is_err(), "a file without end");
}

#[test]
fn host_names_become_parts_of_file_names() {
    assert_eq!(file_name_part("probe.example"), "probe.example");
    assert_eq!(file_name_part("a/b ü"), "a-b--");
    assert_eq!(file_name_part(".probe"), "-probe");
    assert_eq!(file_name_part(&"x".repeat(200)).len(), 63);
}

proptest! {
    #[test]
    fn any_bytes_are_checked(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Config::check(&bytes, &inputs(), &no_file);
    }

    #[test]
    fn any_value_of_any_key_is_checked(index in 0..KEYS.len(), value in "\\PC{0,30}") {
        let text = format!("{}: {value}\n", KEYS[index].name);
        match read(&text) {
            Ok(config) => { config.describe(&[]); }
            Err(rejected) => prop_assert!(!rejected.0.is_empty()),
        }
    }
}

#[test]
fn traps_are_said_and_good_settings_have_none() {
    let traps = |text: &str| {
        with(text).traps().iter().map(|trap| trap.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = "processor_spool_max_mb: 20\nprocessor_metrics_listen: :9100\nprocessor_shutdown_timeout_sec: 30\n";
    assert_eq!(
        traps(all),
        [
            "processor_file_prefix:",
            "processor_ftp_tls:",
            "processor_spool_max_mb:",
            "processor_metrics_listen:",
            "processor_shutdown_timeout_sec:",
        ]
    );
    let good = "processor_file_prefix: flows_{host}_\nprocessor_ftp_tls: explicit\nprocessor_spool_max_mb: 1000\n\
                processor_metrics_listen: 127.0.0.1:9100\n";
    assert!(traps(good).is_empty());
}
