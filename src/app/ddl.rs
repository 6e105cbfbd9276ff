//! `processor ddl`: the configuration's columns become a table's.

use std::path::PathBuf;

use super::{misused, print};
use crate::check::HeaderMode;
use crate::cli::Ddl;
use crate::config::{Config, Inputs};
use crate::pmacctconf;
use crate::schema::Schema;
use crate::schema::ddl::{Form, Headers, Times, columns, table};

/// Prints the table.
pub(super) fn run(flags: &Ddl) -> u8 {
    let config = match Config::load(&Inputs::here(&flags.config, PathBuf::new())) {
        Ok(config) => config,
        Err(rejected) => return misused(&rejected.to_string()),
    };
    match form(&config, flags.header.as_deref()) {
        Ok(form) => print(&table(flags.dialect, &form, &flags.table)),
        Err(text) => misused(&text),
    }
}

fn form(config: &Config, header: Option<&str>) -> Result<Form, String> {
    let is_set = |key: &str| config.text.is_true(key);
    let (columns, separator) = match header {
        Some(line) => from_header(line)?,
        None => from_aggregate(config, is_set("nfacctd_stitching"))?,
    };
    let times = match (is_set("timestamps_since_epoch"), is_set("timestamps_rfc3339")) {
        (true, _) => Times::Epoch,
        (_, true) => Times::Rfc3339,
        _ => Times::Plain,
    };
    let headers = match config.check.header {
        HeaderMode::Keep => Headers::Anywhere,
        HeaderMode::EachFile => Headers::First,
        HeaderMode::None => Headers::Nowhere,
    };
    let prefix = config.spool.prefix.clone();
    Ok(Form { columns, separator, numeric_protocols: is_set("print_num_protos"), times, headers, prefix })
}

fn from_header(line: &str) -> Result<(Vec<String>, char), String> {
    let schema = Schema::from_line(line.as_bytes())
        .ok_or_else(|| "-header: this is no header line as nfacctd prints it".to_owned())?;
    let separator = char::from(schema.separator());
    let text = String::from_utf8_lossy(schema.text()).into_owned();
    Ok((text.split(separator).map(str::to_owned).collect(), separator))
}

fn from_aggregate(config: &Config, stitching: bool) -> Result<(Vec<String>, char), String> {
    let path = config.path.display();
    let aggregate = config.text.value("aggregate").ok_or_else(|| {
        format!("{path}: there is no aggregate, which names the columns; give the files' header line with -header")
    })?;
    let columns = columns(&aggregate.value, stitching).map_err(|word| {
        let line = aggregate.number;
        format!("{path}:{line}: aggregate: the column of {word} is not known; give the files' header line with -header")
    })?;
    let Some(line) = config.text.value("print_output_separator") else { return Ok((columns, ',')) };
    let separator = pmacctconf::separator(&line.value).ok_or_else(|| {
        let number = line.number;
        format!("{path}:{number}: print_output_separator: it takes one character that no value contains, \\t or \\s")
    })?;
    Ok((columns, char::from(separator)))
}
