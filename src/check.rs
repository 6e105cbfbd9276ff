//! What a line says: header, columns, totals.

use crate::clock::Zone;

/// `processor_csv_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderMode {
    /// Lines pass as they came.
    #[default]
    Keep,
    /// One header line first in every file, repeats dropped.
    EachFile,
    /// Header lines are dropped.
    None,
}

/// `processor_bad_lines`: what becomes of a line whose column count is not the header's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadLines {
    /// It passes, and is counted.
    #[default]
    Keep,
    /// It goes to `rejects/` with the reason.
    Quarantine,
}

/// Settings of the parse stage.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What becomes of header lines.
    pub header: HeaderMode,
    /// What becomes of lines with a wrong column count.
    pub bad_lines: BadLines,
    /// The zone to rewrite UTC time columns into; `None` leaves them as they came.
    pub convert_to: Option<Zone>,
}
