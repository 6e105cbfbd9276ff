//! What `processor check` says of configurations as people write them: one answer, with everything in it.

use std::process::Command;

use crate::support::run::PROCESSOR;

/// Exit code, then what was said on both streams.
fn check(text: &str, more: &[&str]) -> (Option<i32>, String) {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("pmacct.conf");
    std::fs::write(&config, text).unwrap();
    std::fs::write(temp.path().join("empty.pem"), "").unwrap();
    let mut command = Command::new(PROCESSOR);
    let out = command.args(more).arg("-config").arg("pmacct.conf").current_dir(temp.path()).output().unwrap();
    (out.status.code(), String::from_utf8([out.stdout, out.stderr].concat()).unwrap())
}

#[test]
fn all_that_is_wrong_comes_in_one_answer() {
    let text = "processor_source: capture\nprocessor_ftp_host: ftp://h\nprocessor_ftp_user: u\nprocessor_ftp_pass: p\n\
                processor_ftp_tls: explicit\nprocessor_ftp_tls_ca: empty.pem\nprocessor_file_prefix: .flows_\n\
                pcap_interface: lo\naggregate: src_host, nosuch\nnetworks_file: /nowhere\nprint_output: json\n";
    let (code, said) = check(text, &["check"]);
    assert_eq!(code, Some(2), "{said}");
    let lines: Vec<_> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let places = [2, 6, 7, 9, 10, 11].map(|line| format!("pmacct.conf:{line}:"));
    assert_eq!(lines, places, "{said}");
    assert!(said.contains("empty.pem holds no usable certificate"), "{said}");
}

#[test]
fn ddl_and_capture_read_one_grammar() {
    let keys = "processor_upload: none\naggregate: src_host\n";
    let (code, said) = check(&format!("{keys}print_output_separator: \\s\nnfacctd_stitching: 1\n"), &["ddl", "duckdb"]);
    assert!(code == Some(0) && said.contains("delim = ' '"), "{said}");
    assert!(!said.contains("timestamp_min"), "pmacct takes true and false only: {said}");
    let (code, said) = check(&format!("{keys}print_output_separator: ab\n"), &["ddl", "duckdb"]);
    assert!(code == Some(2) && said.contains("pmacct.conf:3: print_output_separator"), "{said}");
}
