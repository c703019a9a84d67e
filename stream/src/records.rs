//! Records: pieces of a stream that arrive as they were sent, or not at all.
//!
//! A record is its length in four bytes (little-endian) and its bytes, both in the ring. It is published as a whole, and has at most the length
//! that a side can wait for.

use crate::ring::{Capacity, Shared};
use crate::{Fault, Reader, Writer};

/// Bytes before those of a record.
pub const LENGTH_BYTES: usize = 4;

impl Capacity {
    /// The longest record; 0 if the ring holds none at all.
    pub const fn longest_record(self) -> usize {
        self.half().saturating_sub(LENGTH_BYTES)
    }
}

impl<S: Shared> Writer<S> {
    /// Puts in a record of at most [`Capacity::longest_record`] bytes; false if there is no room for it now.
    ///
    /// # Errors
    /// As [`room`](Self::room).
    pub fn put_record(&mut self, record: &[u8]) -> Result<bool, Fault> {
        let bytes = record.len() + LENGTH_BYTES;
        if self.room(bytes)? < bytes {
            return Ok(false);
        }
        self.put(&(record.len() as u32).to_le_bytes())?;
        self.put(record)?;
        Ok(true)
    }
}

/// What comes next in a stream of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// A record of so many bytes, all of which are there.
    Record(usize),
    /// Nothing as long as there are not so many bytes.
    Wanted(usize),
}

impl<S: Shared> Reader<S> {
    /// The next record.
    ///
    /// # Errors
    /// [`Fault::Ended`]; [`Fault::Garbled`], also if the stream ends within a record.
    pub fn next_record(&mut self) -> Result<Next, Fault> {
        let length = match self.record {
            Some(length) => length,
            None => match self.wanted(LENGTH_BYTES)? {
                Some(wanted) => return Ok(wanted),
                None => self.read_length()?,
            },
        };
        Ok(self
            .wanted(LENGTH_BYTES + length)?
            .unwrap_or(Next::Record(length)))
    }

    /// `None` if so many bytes are there.
    fn wanted(&mut self, bytes: usize) -> Result<Option<Next>, Fault> {
        match self.there(bytes)? {
            there if there >= bytes => Ok(None),
            0 if self.has_ended() => Err(Fault::Ended),
            _ if self.has_ended() => self.garble(),
            _ => Ok(Some(Next::Wanted(bytes))),
        }
    }

    /// Reads the length, which is read once: in the memory it may change at any time.
    fn read_length(&mut self) -> Result<usize, Fault> {
        let mut bytes = [0; LENGTH_BYTES];
        self.peek(&mut bytes);
        let length = u32::from_le_bytes(bytes) as usize;
        if length > self.capacity().longest_record() {
            return self.garble();
        }
        self.record = Some(length);
        Ok(length)
    }

    /// Takes the record that [`next_record`](Self::next_record) has told of, as much of it as `into` holds, and passes over the rest. Gives
    /// how many bytes were copied; 0 if there is none.
    pub fn take_record(&mut self, into: &mut [u8]) -> usize {
        let Ok(Next::Record(length)) = self.next_record() else {
            return 0;
        };
        self.pass(LENGTH_BYTES);
        let bytes = length.min(into.len());
        self.peek(&mut into[..bytes]);
        self.pass(length);
        bytes
    }
}
