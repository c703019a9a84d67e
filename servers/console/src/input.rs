//! What was typed, and those who wait for it.
//!
//! Bytes are kept until somebody reads them, up to a bound; at the bound the source is left to hold its own (a serial
//! port stops taking more). A reader that waits no more (its deadline passed) loses nothing: the bytes go to the next.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use rt::{Failure, FailureKind, Later};

/// Most bytes kept.
pub const MOST_BYTES: usize = 4096;
/// Most readers that wait.
pub const MOST_READERS: usize = 16;

/// Input and its readers.
#[derive(Debug, Default)]
pub struct Input {
    bytes: VecDeque<u8>,
    readers: VecDeque<(usize, Later<Vec<u8>>)>,
}

impl Input {
    /// How many more bytes there is room for.
    pub fn room(&self) -> usize {
        MOST_BYTES - self.bytes.len()
    }

    /// Whether somebody waits for input.
    pub fn has_reader(&self) -> bool {
        !self.readers.is_empty()
    }

    /// Adds bytes (what there is no room for is dropped) and serves the readers.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(&bytes[..bytes.len().min(self.room())]);
        while !self.bytes.is_empty()
            && let Some((most, reader)) = self.readers.pop_front()
        {
            let taken = self.take(most);
            if reader.answer(Ok(taken.clone())).is_err() {
                // Nobody took them: back to the front.
                for byte in taken.into_iter().rev() {
                    self.bytes.push_front(byte);
                }
            }
        }
    }

    /// Takes up to `most` bytes.
    pub fn take(&mut self, most: usize) -> Vec<u8> {
        self.bytes.drain(..most.min(self.bytes.len())).collect()
    }

    /// Lets a reader wait; if too many do, the oldest is refused.
    pub fn wait(&mut self, most: usize, reader: Later<Vec<u8>>) {
        self.readers.push_back((most, reader));
        if self.readers.len() > MOST_READERS
            && let Some((_, oldest)) = self.readers.pop_front()
        {
            // Whether it still waits is its own affair.
            let _ = oldest.answer(Err(Failure::from(FailureKind::Busy)));
        }
    }

    /// Tells all who wait that their prompt was written over.
    pub fn interrupt(&mut self) {
        for (_, reader) in self.readers.drain(..) {
            // As above.
            let _ = reader.answer(Ok(Vec::new()));
        }
    }
}
