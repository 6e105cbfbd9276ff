//! `processor ddl`: the table that holds the configured columns, in the words of three databases, and the statement that
//! loads files into it. Pure.
//!
//! Addresses are text where the database has no type that takes IPv4 and IPv6 alike by itself. A column that is not known
//! becomes text: it loads, whatever it holds. Times are times in the table, also where the files have seconds since 1970,
//! exact to the microsecond.

use super::KNOWN;

/// The database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// DuckDB.
    DuckDb,
    /// ClickHouse.
    ClickHouse,
    /// Spark SQL.
    Spark,
}

impl Dialect {
    /// All of them, by the word of the command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("duckdb", Self::DuckDb), ("clickhouse", Self::ClickHouse), ("spark", Self::Spark)];
}

/// How times stand in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    /// `2023-11-15 06:13:20.123456`.
    #[default]
    Plain,
    /// `1700000000.123456`.
    Epoch,
    /// `2023-11-15T06:13:20.123456+08:00`.
    Rfc3339,
}

/// Where header lines stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Headers {
    /// Anywhere: nfacctd prints one with every window.
    #[default]
    Anywhere,
    /// One, first in every file.
    First,
    /// Nowhere.
    Nowhere,
}

/// What the files look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The columns' names, in their order.
    pub columns: Vec<String>,
    /// Between two fields.
    pub separator: char,
    /// Protocols are numbers.
    pub numeric_protocols: bool,
    /// How times are written.
    pub times: Times,
    /// Where header lines stand.
    pub headers: Headers,
    /// Beginning of the files' names.
    pub prefix: String,
}

/// The columns of rows that are aggregated by these words, in pmacct's order.
///
/// # Errors
///
/// The word that has no column here.
pub fn columns(aggregate: &str, stitching: bool) -> Result<Vec<String>, String> {
    let words = aggregate.split(',').map(|word| word.trim().to_ascii_lowercase());
    let mut asked: Vec<String> = words.filter(|word| !word.is_empty() && word != "none").collect();
    if stitching {
        asked.extend(["timestamp_min", "timestamp_max"].map(str::to_owned));
    }
    asked.extend(["packets", "bytes"].map(str::to_owned));
    if let Some(unknown) = asked.iter().find(|word| !KNOWN.iter().any(|(known, _)| known == word)) {
        return Err(unknown.clone());
    }
    let columns = KNOWN.iter().filter(|(word, _)| asked.iter().any(|asked| asked == word));
    Ok(columns.map(|(_, column)| (*column).to_owned()).collect())
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Address,
    Byte,
    Short,
    Int,
    Long,
    Time(Times),
}

fn kind(column: &str, form: &Form) -> Kind {
    match column.to_ascii_uppercase().as_str() {
        "SRC_IP" | "DST_IP" | "PEER_SRC_IP" | "PEER_DST_IP" => Kind::Address,
        "COS" | "SRC_MASK" | "DST_MASK" | "TOS" => Kind::Byte,
        "PROTOCOL" if form.numeric_protocols => Kind::Byte,
        "VLAN" | "OUT_VLAN" | "SRC_PORT" | "DST_PORT" | "TCP_FLAGS" => Kind::Short,
        "SRC_AS" | "DST_AS" | "PEER_SRC_AS" | "PEER_DST_AS" | "IN_IFACE" | "OUT_IFACE" | "SAMPLING_RATE" => Kind::Int,
        "TAG" | "TAG2" | "PACKETS" | "FLOWS" | "BYTES" => Kind::Long,
        time if time.starts_with("TIMESTAMP_") => Kind::Time(form.times),
        _ => Kind::Text,
    }
}

/// The type's name. Spark has no unsigned numbers: the next larger ones hold them.
fn type_name(kind: Kind, dialect: Dialect) -> &'static str {
    let names = match kind {
        Kind::Text => ["VARCHAR", "String", "STRING"],
        Kind::Address => ["VARCHAR", "IPv6", "STRING"],
        Kind::Byte => ["UTINYINT", "UInt8", "SMALLINT"],
        Kind::Short => ["USMALLINT", "UInt16", "INT"],
        Kind::Int => ["UINTEGER", "UInt32", "BIGINT"],
        Kind::Long => ["UBIGINT", "UInt64", "BIGINT"],
        Kind::Time(Times::Plain | Times::Epoch) => ["TIMESTAMP", "DateTime64(6)", "TIMESTAMP"],
        Kind::Time(Times::Rfc3339) => ["TIMESTAMPTZ", "DateTime64(6)", "TIMESTAMP"],
    };
    names[dialect as usize]
}

/// A name that the database takes for a column: known ones are no reserved words anywhere.
fn quoted(column: &str, dialect: Dialect) -> String {
    let known = KNOWN.iter().any(|(_, known)| *known == column);
    match (known, dialect) {
        (true, _) => column.to_owned(),
        (false, Dialect::Spark) => format!("`{column}`"),
        (false, _) => format!("\"{column}\""),
    }
}

/// The statement that makes the table, and in a comment the one that loads the files.
pub fn table(dialect: Dialect, form: &Form, name: &str) -> String {
    let columns = columns_of(dialect, form, &|kind| type_name(kind, dialect));
    match dialect {
        Dialect::DuckDb => format!("CREATE TABLE {name} (\n{columns}\n);\n{}", duckdb_load(form, name)),
        Dialect::ClickHouse => {
            let order = order(form);
            format!(
                "CREATE TABLE {name} (\n{columns}\n) ENGINE = MergeTree ORDER BY ({order});\n{}",
                clickhouse_load(form, name)
            )
        }
        Dialect::Spark => spark(form, name),
    }
}

fn columns_of(dialect: Dialect, form: &Form, type_of: &dyn Fn(Kind) -> &'static str) -> String {
    let column = |column: &String| format!("    {} {}", quoted(column, dialect), type_of(kind(column, form)));
    form.columns.iter().map(column).collect::<Vec<_>>().join(",\n")
}

/// ClickHouse finds rows by time first, then by address.
fn order(form: &Form) -> String {
    let wanted = ["TIMESTAMP_MIN", "TIMESTAMP_START", "SRC_IP", "DST_IP"];
    let there = wanted.iter().filter(|name| form.columns.iter().any(|column| column == *name));
    let order: Vec<&str> = there.copied().collect();
    if order.is_empty() { "tuple()".to_owned() } else { order.join(", ") }
}

fn separator(form: &Form) -> String {
    if form.separator == '\t' { r"\t".to_owned() } else { form.separator.to_string() }
}

const ANYWHERE: &str = "-- Header lines stand anywhere in the files and are left out; processor_csv_header: each-file is simpler to load.\n";

/// The columns that hold seconds since 1970.
fn epochs(form: &Form) -> impl Iterator<Item = &String> {
    form.columns.iter().filter(|column| kind(column, form) == Kind::Time(Times::Epoch))
}

/// Everything is read as text and cast as the table says: nothing is guessed from the first rows.
fn duckdb_load(form: &Form, name: &str) -> String {
    let (files, delim) = (format!("{}*.csv.gz", form.prefix), separator(form));
    let time = |column: &String| {
        format!("make_timestamp(CAST(CAST({column} AS DECIMAL(20,6)) * 1000000 AS BIGINT)) AS {column}")
    };
    let times: Vec<String> = epochs(form).map(time).collect();
    let what = if times.is_empty() { "*".to_owned() } else { format!("* REPLACE ({})", times.join(", ")) };
    let names: Vec<String> = form.columns.iter().map(|column| format!("'{column}': 'VARCHAR'")).collect();
    let header = form.headers == Headers::First;
    let (note, rest) = match form.headers {
        Headers::First | Headers::Nowhere => ("", ""),
        Headers::Anywhere => (ANYWHERE, " WHERE PACKETS <> 'PACKETS'"),
    };
    let names = names.join(", ");
    format!(
        "{note}-- INSERT INTO {name} SELECT {what} FROM read_csv('{files}', delim = '{delim}', header = {header}, \
         auto_detect = false, columns = {{{names}}}){rest};\n"
    )
}

fn clickhouse_load(form: &Form, name: &str) -> String {
    let files = format!("{}*.csv.gz", form.prefix);
    let settings = format!(
        "format_csv_delimiter = '{}', date_time_input_format = 'best_effort', cast_string_to_date_time_mode = 'best_effort'",
        separator(form)
    );
    let names: Vec<String> = form.columns.iter().map(|column| format!("{column} String")).collect();
    let (note, format, rest) = match form.headers {
        Headers::First => ("", "CSVWithNames", ""),
        Headers::Nowhere => ("", "CSV", ""),
        Headers::Anywhere => (ANYWHERE, "CSV", " WHERE PACKETS <> 'PACKETS'"),
    };
    let names = names.join(", ");
    format!(
        "{note}-- INSERT INTO {name} SELECT * FROM file('{files}', {format}, '{names}'){rest} SETTINGS {settings};\n"
    )
}

/// Spark reads the files where they are; what is not a number is NULL there, so header lines show by that.
fn spark(form: &Form, name: &str) -> String {
    let epoch = epochs(form).next().is_some();
    let needs_view = epoch || form.headers == Headers::Anywhere;
    let files = if needs_view { format!("{name}_files") } else { name.to_owned() };
    let columns = columns_of(Dialect::Spark, form, &|kind| match kind {
        Kind::Time(Times::Epoch) => "DECIMAL(20,6)",
        other => type_name(other, Dialect::Spark),
    });
    let header = form.headers == Headers::First;
    let options = format!("header '{header}', sep '{}', path '{}*.csv.gz'", separator(form), form.prefix);
    let table = format!(
        "-- The path is relative to where Spark runs; put the directory or the address of the files before it.\n\
         CREATE TABLE {files} (\n{columns}\n) USING csv OPTIONS ({options});\n"
    );
    if !needs_view {
        return table;
    }
    let column = |column: &String| match (kind(column, form), quoted(column, Dialect::Spark)) {
        (Kind::Time(Times::Epoch), column) => {
            format!("timestamp_micros(CAST({column} * 1000000 AS BIGINT)) AS {column}")
        }
        (_, column) => column,
    };
    let what = if epoch { form.columns.iter().map(column).collect::<Vec<_>>().join(", ") } else { "*".to_owned() };
    let (note, rest) = match form.headers {
        Headers::Anywhere => (ANYWHERE, " WHERE PACKETS IS NOT NULL"),
        Headers::First | Headers::Nowhere => ("", ""),
    };
    format!("{note}{table}CREATE VIEW {name} AS SELECT {what} FROM {files}{rest};\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Form {
        Form {
            columns: columns("dst_host, src_host, src_port, dst_port, proto, tos, tcpflags", true).unwrap(),
            separator: ',',
            numeric_protocols: true,
            times: Times::Epoch,
            headers: Headers::First,
            prefix: "flows_".to_owned(),
        }
    }

    #[test]
    fn columns_stand_in_pmacct_s_order() {
        assert_eq!(
            form().columns.join(","),
            "SRC_IP,DST_IP,SRC_PORT,DST_PORT,TCP_FLAGS,PROTOCOL,TOS,TIMESTAMP_MIN,TIMESTAMP_MAX,PACKETS,BYTES"
        );
        assert_eq!(columns("none", false).unwrap(), ["PACKETS", "BYTES"]);
        assert_eq!(columns("src_host, moon", false), Err("moon".to_owned()));
    }

    #[test]
    fn tables_of_the_three() {
        let duckdb = table(Dialect::DuckDb, &form(), "flows");
        assert!(duckdb.starts_with("CREATE TABLE flows (\n    SRC_IP VARCHAR,\n"), "{duckdb}");
        assert!(
            duckdb.contains("    PROTOCOL UTINYINT,\n")
                && duckdb.contains("    BYTES UBIGINT\n);\n-- INSERT INTO flows ")
        );
        let clickhouse = table(Dialect::ClickHouse, &Form { times: Times::Plain, ..form() }, "t");
        assert!(clickhouse.contains("    TIMESTAMP_MIN DateTime64(6),\n"), "{clickhouse}");
        assert!(clickhouse.contains("MergeTree ORDER BY (TIMESTAMP_MIN, SRC_IP, DST_IP);\n"), "{clickhouse}");
        let spark = table(Dialect::Spark, &Form { headers: Headers::Anywhere, separator: '\t', ..form() }, "flows");
        assert!(spark.contains("CREATE TABLE flows_files (\n") && spark.contains(r"sep '\t'"), "{spark}");
        assert!(spark.contains("    TIMESTAMP_MIN DECIMAL(20,6),\n"), "{spark}");
        assert!(spark.contains("CREATE VIEW flows AS SELECT SRC_IP, "), "{spark}");
        assert!(spark.ends_with(" FROM flows_files WHERE PACKETS IS NOT NULL;\n"), "{spark}");
    }

    #[test]
    fn what_is_not_known_is_text() {
        let form =
            Form { columns: vec!["ORDER".to_owned(), "PROTOCOL".to_owned()], numeric_protocols: false, ..form() };
        let duckdb = table(Dialect::DuckDb, &form, "flows");
        assert!(duckdb.contains("    \"ORDER\" VARCHAR,\n    PROTOCOL VARCHAR\n"), "{duckdb}");
        assert!(table(Dialect::Spark, &form, "flows").contains("`ORDER` STRING"));
    }
}
