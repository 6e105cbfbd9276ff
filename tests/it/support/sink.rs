//! A sink that keeps every byte.

use std::time::Instant;

use processor::source::{MIN_SPACE, Sink, Stopped};

/// See the module.
#[derive(Default)]
pub struct Kept {
    pub bytes: Vec<u8>,
    space: Vec<u8>,
}

impl Kept {
    /// The lines, the header among them.
    pub fn lines(&self) -> Vec<String> {
        String::from_utf8(self.bytes.clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Sink for Kept {
    fn space(&mut self) -> Result<&mut [u8], Stopped> {
        self.space.resize(MIN_SPACE * 16, 0);
        Ok(&mut self.space)
    }

    fn filled(&mut self, len: usize, _now: Instant) -> Result<(), Stopped> {
        self.bytes.extend_from_slice(&self.space[..len]);
        Ok(())
    }

    fn tick(&mut self, _now: Instant) -> Result<(), Stopped> {
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn has_partial_line(&self) -> bool {
        self.bytes.last().is_some_and(|byte| *byte != b'\n')
    }
}
