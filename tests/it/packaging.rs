//! What lies in packaging/ beside the program: dashboard and alert rules know the metrics that there are, the man pages and
//! completions come out, tables load the files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::run::{PROCESSOR, Probe, temp_dir};

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(packaging(path)).unwrap()
}

/// The words of a text that could be names of metrics.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("processor_")).map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_know_the_metrics() {
    let source = include_str!("../../src/status/metrics.rs");
    let there = |name: &str| {
        let family = name.strip_prefix("processor_").unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end));
        [Some(family), base].into_iter().flatten().any(|family| source.contains(&format!("\"{family}\"")))
    };
    for file in ["grafana/processor.json", "prometheus/alerts.yml", "prometheus/alerts.test.yml"] {
        let names = names(&text(file));
        assert!(names.len() > 4, "{file}: {names:?}");
        let unknown: Vec<_> = names.iter().filter(|name| !there(name)).collect();
        assert!(unknown.is_empty(), "{file}: /metrics has none of {unknown:?}");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: serde_json::Value = serde_json::from_str(&text("grafana/processor.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert!(target["expr"].as_str().unwrap().contains("$instance"), "{target}");
        }
    }
}

/// Runs a tool of the machine; `None` when it is not there.
fn tool(program: &str, args: &[&str], stdin: Stdio) -> Option<Output> {
    match Command::new(program).args(args).stdin(stdin).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            crate::support::not_run(&format!("{program} is not installed"));
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// With Prometheus's own tool, where it is installed.
#[test]
fn promtool_has_nothing_to_say() {
    let probe = Probe::new();
    let live = probe.start();
    live.wait_for("data_dir_ready");
    let socket = probe.data().join(".processor.sock");
    crate::support::run::wait_until("the socket", || socket.exists());
    let (status, metrics) =
        processor::status::client::get(probe.data(), "/metrics", crate::support::run::HANG_GUARD).unwrap();
    assert_eq!(status, 200);
    let page = probe.path("metrics");
    std::fs::write(&page, metrics).unwrap();
    let (rules, test) = (packaging("prometheus/alerts.yml"), packaging("prometheus/alerts.test.yml"));
    let conf = packaging("prometheus/prometheus.yml");
    let [rules, test, conf] = [&rules, &test, &conf].map(|path| path.to_str().unwrap());
    let file = || Stdio::from(std::fs::File::open(&page).unwrap());
    for (args, stdin) in [
        (&["check", "metrics"][..], file()),
        (&["check", "rules", rules], Stdio::null()),
        (&["test", "rules", test], Stdio::null()),
        (&["check", "config", conf], Stdio::null()),
    ] {
        let Some(output) = tool("promtool", args, stdin) else { return };
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {said}");
        assert!(!args.contains(&"metrics") || said.is_empty(), "{said}");
    }
}

#[test]
fn man_pages_and_completions_are_written() {
    let dir = temp_dir();
    let status = Command::new(PROCESSOR).arg("generate").arg(dir.path()).status().unwrap();
    assert!(status.success());
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let page = read("processor.1");
    assert!(page.contains(".TH processor 1") && page.contains("data\\-dir") && page.contains("Exit codes"), "{page}");
    assert!(!page.contains("generate"), "what is hidden is not described");
    for name in ["processor-check.1", "processor-top.1", "processor-ddl.1"] {
        assert!(read(name).starts_with(".ie"), "{name}");
    }
    for (name, part) in [
        ("processor.bash", "complete -F _processor"),
        ("_processor", "#compdef processor"),
        ("processor.fish", "complete -c processor"),
    ] {
        assert!(read(name).contains(part), "{name}");
    }
    if let Some(output) = tool("bash", &["-n", dir.path().join("processor.bash").to_str().unwrap()], Stdio::null()) {
        assert!(output.status.success(), "{output:?}");
    }
}

fn ddl(args: &[&str], conf: &str) -> (Option<i32>, String) {
    let dir = temp_dir();
    let path = dir.path().join("pmacct.conf");
    std::fs::write(&path, conf).unwrap();
    let output = Command::new(PROCESSOR).arg("ddl").args(args).arg("-config").arg(&path).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

const USUAL: &str = "aggregate: src_host, dst_host, src_port, dst_port, proto, tos, tcpflags\nnfacctd_stitching: true\n\
     print_num_protos: true\ntimestamps_since_epoch: true\nprocessor_upload: none\n";

#[test]
fn tables_have_the_configured_columns() {
    for dialect in ["duckdb", "clickhouse", "spark"] {
        let (code, table) = ddl(&[dialect, "-table", "net.rows"], USUAL);
        assert_eq!(code, Some(0), "{table}");
        assert!(table.contains("CREATE TABLE net.rows"), "{table}");
        let columns = table.lines().filter(|line| line.starts_with("    ")).count();
        assert_eq!(columns, 11, "{table}");
    }
    let (code, table) = ddl(&["duckdb", "-header", "SRC_IP;MY_OWN;PACKETS"], "processor_upload: none\n");
    assert!(code == Some(0) && table.contains("    \"MY_OWN\" VARCHAR,\n"), "{table}");
    let (code, said) = ddl(&["duckdb"], "processor_upload: none\n");
    assert!(code == Some(2) && said.contains("there is no aggregate"), "{said}");
    let (code, said) = ddl(&["duckdb"], "aggregate: src_host, moon\nprocessor_upload: none\n");
    assert!(code == Some(2) && said.contains("pmacct.conf:1: aggregate: the column of moon"), "{said}");
}

/// `top` says plainly what is in its way, and touches no terminal then.
#[test]
fn top_without_a_program_or_a_terminal() {
    let probe = Probe::new();
    let top = || Command::new(PROCESSOR).arg("top").arg("-data-dir").arg(probe.data()).output().unwrap();
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let output = top();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    let live = probe.start();
    live.wait_for("data_dir_ready");
    crate::support::run::wait_until("the socket", || probe.data().join(".processor.sock").exists());
    let output = top();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
    assert!(said(&output).contains("draws on a terminal"), "{output:?}");
    live.end().expect(0);
    let output = top();
    assert!(output.status.code() == Some(1) && said(&output).starts_with("no processor runs in "), "{output:?}");
}

/// systemd's own checks of the unit, with this build in the place of the installed program.
#[test]
fn systemd_has_nothing_to_say_about_the_unit() {
    let unit = text("processor.service");
    assert!(unit.contains("\nType=notify\n") && unit.contains("\nKillMode=mixed\n"));
    let dir = temp_dir();
    let path = dir.path().join("processor.service");
    std::fs::write(&path, unit.replace("/usr/bin/processor", PROCESSOR)).unwrap();
    let path = path.to_str().unwrap();
    let Some(output) = tool("systemd-analyze", &["verify", "--man=no", path], Stdio::null()) else { return };
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Everything that the compose file mounts from beside it is there, and every port stays on this machine.
#[test]
fn the_compose_file_names_what_is_there() {
    let compose = text("compose.yaml");
    let mounted = compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next());
    let mounted: Vec<_> = mounted.filter(|path| *path != "data").collect();
    assert_eq!(mounted, ["pmacct.conf", "prometheus", "grafana/provisioning", "grafana/processor.json"]);
    for path in mounted {
        assert!(packaging(path).exists(), "{path}");
    }
    for service in ["processor", "prometheus", "grafana"] {
        assert!(compose.contains(&format!("\n  {service}:\n")), "{service}");
    }
    for line in compose.lines().filter(|line| line.contains("listen-address") || line.contains("HTTP_ADDR")) {
        assert!(line.contains("127.0.0.1"), "{line}");
    }
}

/// The delivered configuration is right as it stands, and each of its comments is said in both languages.
#[test]
fn the_delivered_configuration_is_right_and_said_twice() {
    let conf = text("pmacct.conf");
    let is_chinese = |line: &str| line.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
    let mut comment = String::new();
    for line in conf.lines() {
        match line.strip_prefix("! ").filter(|rest| !rest.starts_with("processor_")) {
            Some(rest) => comment.push_str(rest),
            None if comment.is_empty() => {}
            None => {
                let english = comment.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| word.len() > 2).count();
                assert!(is_chinese(&comment) && english > 1, "{comment}");
                comment.clear();
            }
        }
    }
    let dir = temp_dir();
    let path = dir.path().join("pmacct.conf");
    std::fs::write(&path, &conf).unwrap();
    for source in ["pmacct", "stdin"] {
        let mut checked = Command::new(PROCESSOR);
        checked.args(["check", "-config"]).arg(&path).env("PROCESSOR_SOURCE", source);
        let output = checked.arg("-data-dir").arg(dir.path().join("data")).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let is_missing = said.contains("is not on PATH");
        assert!(output.status.success() || is_missing, "{source}: {said}");
        assert!(source == "stdin" || is_missing || said.contains("# pmacctd runs "), "{said}");
    }
}
