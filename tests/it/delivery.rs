//! The main job to its end: rows in, `.csv.gz` files on real FTP servers, read back by the tools that people use.
//!
//! `PROCESSOR_ROWS` says how many rows go to each server (100,000).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use processor::sample::{Options, Rows};

use crate::support::ftp_servers::{KINDS, Server, Setup};
use crate::support::run::{Probe, contents, sealed, unpack};

fn made(rows: usize) -> Vec<u8> {
    let mut made = Rows::new(Options::default());
    let mut text = (made.header() + "\n").into_bytes();
    made.fill(&mut text, rows);
    text
}

fn row_count() -> usize {
    std::env::var("PROCESSOR_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(100_000)
}

#[test]
fn rows_arrive_on_each_real_server_byte_for_byte() {
    let input = made(row_count());
    for kind in KINDS {
        let Some(server) = Server::start(kind, &Setup::default()) else { continue };
        let options = server.options();
        let probe = Probe::new()
            .upload_to(server.port)
            .key("gzip_level", "auto")
            .key("ftp_user", &options.user)
            .key("ftp_pass", options.pass.reveal())
            .key("ftp_dir", &options.dir)
            .key("rotate_size_mb", (input.len() >> 22).max(1))
            .key("upload_interval_sec", 1);
        let ended = probe.run(&input).expect(0);
        let area = server.area();
        assert!(contents(&area) == input, "{kind:?}: what arrived is what was sent");
        assert!(sealed(&area).iter().all(|name| unpack(&area.join(name)).ends_with(b"\n")));
        assert_eq!(ended.number("finished", "files_uploaded"), sealed(&area).len() as u64, "{kind:?}");
        assert!(sealed(probe.data()).is_empty(), "{kind:?}: nothing is left here");
        let others = fs::read_dir(&area).unwrap().count() - sealed(&area).len();
        assert_eq!(others, 0, "{kind:?}: no temp file is left there");
    }
}

/// A program that prints what a `.csv.gz` holds.
struct Reader {
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
}

const READERS: &[Reader] = &[
    Reader { name: "zcat", program: "zcat", args: &[] },
    Reader { name: "pigz", program: "pigz", args: &["-dc"] },
    Reader {
        name: "Python's gzip",
        program: "python3",
        args: &["-c", "import gzip,shutil,sys; shutil.copyfileobj(gzip.open(sys.argv[1]), sys.stdout.buffer)"],
    },
    Reader {
        name: "Python's zlib, which stops after the first member",
        program: "python3",
        args: &[
            "-c",
            "import zlib,sys; sys.stdout.buffer.write(zlib.decompressobj(31).decompress(open(sys.argv[1],'rb').read()))",
        ],
    },
    Reader {
        name: "Node's zlib",
        program: "node",
        args: &["-e", "process.stdout.write(require('zlib').gunzipSync(require('fs').readFileSync(process.argv[1])))"],
    },
    Reader {
        name: "Java's GZIPInputStream, which stops after the first member where available() is 0",
        program: "java",
        args: &[concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/Unpack.java")],
    },
    Reader {
        name: "Perl's IO::Uncompress, which stops after the first member",
        program: "perl",
        args: &["-MIO::Uncompress::Gunzip=gunzip", "-e", "gunzip $ARGV[0] => '-' or exit 1"],
    },
];

/// The lines as DuckDB reads them; only where its module for Python is installed, for Debian has no package of it.
const DUCKDB: Reader = Reader {
    name: "DuckDB",
    program: "python3",
    args: &[
        "-c",
        "import duckdb,sys
rows = duckdb.sql(f\"SELECT * FROM read_csv('{sys.argv[1]}', columns={{'line': 'VARCHAR'}}, header=false, delim='\\x01', \
quote='', escape='', auto_detect=false)\").fetchall()
sys.stdout.write(''.join(line + '\\n' for line, in rows))",
    ],
};

fn has_duckdb() -> bool {
    let found = Command::new("python3").args(["-c", "import duckdb"]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn read_by(reader: &Reader, file: &Path) -> Vec<u8> {
    let output = Command::new(reader.program)
        .args(reader.args)
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; scripts/packages test installs it", reader.program));
    assert!(output.status.success(), "{}: {}", reader.name, String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn every_reader_opens_every_file() {
    let input = made(20_000);
    for level in ["auto", "1", "6", "9"] {
        let probe = Probe::new().key("gzip_level", level);
        probe.run(&input).expect(0);
        let files: Vec<PathBuf> = sealed(probe.data()).iter().map(|name| probe.data().join(name)).collect();
        assert_eq!(files.len(), 1);
        for reader in READERS.iter().chain(has_duckdb().then_some(&DUCKDB)) {
            assert!(read_by(reader, &files[0]) == input, "{} at level {level}", reader.name);
        }
    }
}
