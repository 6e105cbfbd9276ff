//! Where lines come from: the trait that stdin, the supervised daemons and embedded capture share.
//!
//! A source knows its input and a [`Sink`]; it never knows the spool or the remote.

use std::time::Instant;

use crate::shutdown::Shutdown;

pub mod capture;
pub mod pmacct;
pub mod stdin;

/// The pipeline has ended: nothing will take lines any more. The source returns; the pipeline holds the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has ended")]
pub struct Stopped;

/// The pipeline's entry, lent to the source on the source's own thread.
pub trait Sink {
    /// Room for the next bytes: at least [`MIN_SPACE`] bytes, to be filled from the front and then told by
    /// [`Sink::filled`]. This is the way without a copy, for a `read(2)`.
    ///
    /// Waits when the memory budget is used up.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the pipeline has ended or, while there is no room, the stop came.
    fn space(&mut self) -> Result<&mut [u8], Stopped>;

    /// Takes the first `len` bytes that were put into [`Sink::space`]. They need not end at a line's end.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the pipeline has ended; the bytes are lost then.
    fn filled(&mut self, len: usize, now: Instant) -> Result<(), Stopped>;

    /// Takes bytes that the source made itself, in order. They need not end at a line's end.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the pipeline has ended; what was taken before stays taken.
    fn lines(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let len = space.len().min(bytes.len());
            space[..len].copy_from_slice(&bytes[..len]);
            self.filled(len, now)?;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Lets the pipeline flush and rotate by time while no line comes. To be called when [`Sink::due`] has passed.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when the pipeline has ended.
    fn tick(&mut self, now: Instant) -> Result<(), Stopped>;

    /// When the pipeline wants the next [`Sink::tick`] at the latest.
    fn due(&self) -> Option<Instant>;

    /// True when a line has begun and its end has not come.
    fn has_partial_line(&self) -> bool;
}

/// The least that [`Sink::space`] returns, bytes. From the pipe's page: reads below it are not worth their system call.
pub const MIN_SPACE: usize = 4096;

/// How a source came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceEnd {
    /// The input has no more: end of file, end of the capture file.
    Eof,
    /// The stop latch was tripped, and what had been taken is in the sink.
    Stopped,
}

/// A source failed for good. The text names the thing, the cause and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct SourceError {
    /// What was being read, as the operator knows it: `standard input`, `eth0`, a path.
    pub what: String,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// One input of the program.
pub trait Source: Send {
    /// Feeds `sink` until the input ends or `stop` trips. Called once, on the thread `source`.
    ///
    /// After `Ok` every line taken from the input was given to the sink. After `Err` what was given stays given.
    ///
    /// # Errors
    ///
    /// The input failed; its text is for the operator.
    fn run(self: Box<Self>, sink: &mut dyn Sink, stop: &Shutdown) -> Result<SourceEnd, SourceError>;
}
