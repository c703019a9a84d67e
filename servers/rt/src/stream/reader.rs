//! The end that reads, opened.

use abi::{Deadline, Error};
use stream::{Next, Reader};

use super::mapped::Mapped;
use super::{SIGNAL, StreamError, has_passed};
use crate::Notification;

/// Reads a stream. Dropping it tells the writer that nobody reads any more.
#[derive(Debug)]
pub struct StreamReader {
    rules: Reader<Mapped>,
    data: Notification,
    room: Notification,
}

impl StreamReader {
    pub(super) const fn new(
        rules: Reader<Mapped>,
        data: Notification,
        room: Notification,
    ) -> StreamReader {
        StreamReader { rules, data, room }
    }

    /// How many bytes the stream holds.
    pub const fn capacity(&self) -> usize {
        self.rules.capacity().bytes()
    }

    /// The longest record that there can be, in bytes.
    pub const fn longest_record(&self) -> usize {
        self.rules.capacity().longest_record()
    }

    /// Reads what there is, but at least a byte; gives how much, 0 at the stream's end (or if there is no place in `into`).
    ///
    /// # Errors
    /// `Garbled`; `TimedOut`, `Cancelled`; `PeerClosed` if the writer has died, after all that it had written.
    pub fn read(&mut self, into: &mut [u8], deadline: Deadline) -> Result<usize, StreamError> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let bytes = self.rules.take(into)?;
            if bytes != 0 {
                self.release()?;
                return Ok(bytes);
            }
            if self.rules.has_ended() {
                return Ok(0);
            }
            self.sleep(1, deadline)?;
        }
    }

    /// Reads until `into` is full or the stream ends; gives how much.
    ///
    /// # Errors
    /// As [`read`](Self::read); what was read by then is lost.
    pub fn read_full(&mut self, into: &mut [u8], deadline: Deadline) -> Result<usize, StreamError> {
        let mut done = 0;
        while done < into.len() {
            match self.read(&mut into[done..], deadline)? {
                0 => break,
                bytes => done += bytes,
            }
        }
        Ok(done)
    }

    /// Reads a record; gives its length, as it was sent.
    ///
    /// # Errors
    /// `Ended`; `TooLong` if `into` is too short, and the record stays; `Garbled`, also if the stream ends within a record; those of [`read`](Self::read).
    pub fn read_record(
        &mut self,
        into: &mut [u8],
        deadline: Deadline,
    ) -> Result<usize, StreamError> {
        loop {
            match self.rules.next_record()? {
                Next::Record(length) if length > into.len() => return Err(StreamError::TooLong),
                Next::Record(_) => {
                    let length = self.rules.take_record(into);
                    self.release()?;
                    return Ok(length);
                }
                Next::Wanted(bytes) => self.sleep(bytes, deadline)?,
            }
        }
    }

    fn release(&mut self) -> Result<(), StreamError> {
        if self.rules.release() {
            self.room.signal(SIGNAL)?;
        }
        Ok(())
    }

    /// Waits until so many bytes are there or half of the ring, unless they are already.
    fn sleep(&mut self, wanted: usize, deadline: Deadline) -> Result<(), StreamError> {
        if !self.rules.may_sleep(wanted) {
            return Ok(());
        }
        let waited = self.data.wait(deadline);
        self.rules.awake();
        let there = |rules: &mut Reader<Mapped>| {
            let bytes = rules.there(wanted)?;
            Ok::<_, StreamError>(bytes >= wanted || rules.has_ended())
        };
        match waited {
            Ok(_) if has_passed(deadline) && !there(&mut self.rules)? => {
                Err(Error::TimedOut.into())
            }
            Ok(_) => Ok(()),
            // What it wrote before it went is to be read.
            Err(Error::PeerClosed) if there(&mut self.rules)? => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.rules.end();
        // If nobody is there, nobody need know.
        let _ = self.room.signal(SIGNAL);
    }
}
