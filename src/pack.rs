//! Batch → Packed: check the lines, gzip the batch. No threads here.

/// `processor_gzip_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// The field-aware encoder.
    #[default]
    Auto,
    /// flate2 at 1 to 9.
    Zlib(u32),
}
