//! Records in, lines out: windows and printing as one step.
//!
//! Every record's packets are in exactly one line. Lines come when a window is over, when it is full, and at the end, in
//! pieces of about [`PIECE`] bytes that end with a line. The header line comes once, before the first row, as nfacctd prints it.

use crate::flow::Record;
use crate::flow::aggregate::{self, Window};
use crate::flow::print::{self, Printer};

/// About how many bytes are handed on at once: a window of millions of rows is never one piece in memory.
pub const PIECE: usize = 64 * 1024;

/// The windows and what is printed of them.
#[derive(Debug)]
pub struct Ledger {
    window: Window,
    printer: Printer,
    text: Vec<u8>,
    header_is_due: bool,
    rows: u64,
    split_windows: u64,
}

impl Ledger {
    /// An empty ledger whose first window begins with [`Ledger::begin`] or the first record.
    pub fn new(window: aggregate::Options, printer: print::Options) -> Self {
        Self {
            window: Window::new(window),
            printer: Printer::new(printer),
            text: Vec::with_capacity(PIECE + 1024),
            header_is_due: true,
            rows: 0,
            split_windows: 0,
        }
    }

    /// Rows printed so far, header lines not counted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Windows printed early because they were full.
    pub fn split_windows(&self) -> u64 {
        self.split_windows
    }

    /// Begins the first window at `second`, unless one has begun.
    pub fn begin(&mut self, second: i64) {
        self.window.begin(second);
    }

    /// Prints what the window holds and begins another one at `second`, which may be before it: the clock was set back.
    ///
    /// # Errors
    ///
    /// Those of `emit`; the rest of the window stays unprinted.
    pub fn restart<E>(&mut self, second: i64, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.print(emit)?;
        self.window.restart(second);
        Ok(())
    }

    /// Adds a record. `emit` gets the lines of the window before, when the record belongs to a new one.
    ///
    /// # Errors
    ///
    /// Those of `emit`; the rest of the window before stays unprinted.
    pub fn record<E>(&mut self, record: &Record, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.window.begin(record.ended);
        self.advance(record.ended, emit)?;
        if self.window.is_full() {
            self.split_windows += 1;
            self.print(emit)?;
        }
        self.window.add(record);
        Ok(())
    }

    /// Prints the window if it is over at `second`.
    ///
    /// # Errors
    ///
    /// Those of `emit`; the rest of the window stays unprinted.
    pub fn advance<E>(&mut self, second: i64, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.window.is_over(second) {
            self.print(emit)?;
            self.window.roll(second);
        }
        Ok(())
    }

    /// Prints what the window holds: the capture has ended.
    ///
    /// # Errors
    ///
    /// Those of `emit`; the rest of the window stays unprinted.
    pub fn stop<E>(&mut self, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.print(emit)
    }

    fn print<E>(&mut self, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.window.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.header_is_due) {
            self.printer.header(&mut self.text);
        }
        for (row, wide) in self.window.rows() {
            self.printer.row(row, wide, &mut self.text);
            if self.text.len() >= PIECE {
                emit(&self.text)?;
                self.text.clear();
            }
        }
        self.rows += self.window.len() as u64;
        self.window.clear();
        emit(&self.text)?;
        self.text.clear();
        Ok(())
    }
}
