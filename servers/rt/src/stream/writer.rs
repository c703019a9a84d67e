//! The end that writes, opened.

use abi::{Deadline, Error};
use stream::Writer;

use super::mapped::Mapped;
use super::{SIGNAL, StreamError, has_passed};
use crate::Notification;

/// Writes a stream. Dropping it ends the stream: the reader gets what was written, and then the end.
#[derive(Debug)]
pub struct StreamWriter {
    rules: Writer<Mapped>,
    data: Notification,
    room: Notification,
    written: u64,
}

impl StreamWriter {
    pub(super) const fn new(
        rules: Writer<Mapped>,
        data: Notification,
        room: Notification,
    ) -> StreamWriter {
        StreamWriter {
            rules,
            data,
            room,
            written: 0,
        }
    }

    /// How many bytes the stream holds.
    pub const fn capacity(&self) -> usize {
        self.rules.capacity().bytes()
    }

    /// The longest record that it takes, in bytes.
    pub const fn longest_record(&self) -> usize {
        self.rules.capacity().longest_record()
    }

    /// How many bytes were written so far, lengths of records included.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Writes as much as there is room for, but at least a byte; gives how much.
    ///
    /// # Errors
    /// `Ended` if nobody reads any more; `Garbled`; `TimedOut`, `Cancelled`, `PeerClosed`.
    pub fn write(&mut self, from: &[u8], deadline: Deadline) -> Result<usize, StreamError> {
        if from.is_empty() {
            return Ok(0);
        }
        let mut due = false;
        loop {
            let put = self.rules.put(from)?;
            if put != 0 {
                let due = self.rules.publish() || due;
                self.tell(due)?;
                self.written += put as u64;
                return Ok(put);
            }
            self.sleep(1, &mut due, deadline)?;
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As [`write`](Self::write). What was written before is [counted](Self::written).
    pub fn write_all(&mut self, mut from: &[u8], deadline: Deadline) -> Result<(), StreamError> {
        // The reader is told when this one waits, in the same call, or at the end.
        let mut due = false;
        while !from.is_empty() {
            let put = self.rules.put(from)?;
            if put != 0 {
                due |= self.rules.publish();
                self.written += put as u64;
                from = &from[put..];
            } else {
                self.sleep(from.len(), &mut due, deadline)?;
            }
        }
        self.tell(due)
    }

    /// Writes a record, which arrives as a whole or not at all.
    ///
    /// # Errors
    /// `TooLong` for more than [`longest_record`](Self::longest_record) bytes; those of [`write`](Self::write). Nothing was written then.
    pub fn write_record(&mut self, record: &[u8], deadline: Deadline) -> Result<(), StreamError> {
        if record.len() > self.longest_record() {
            return Err(StreamError::TooLong);
        }
        let bytes = record.len() + stream::LENGTH_BYTES;
        let mut due = false;
        while !self.rules.put_record(record)? {
            self.sleep(bytes, &mut due, deadline)?;
        }
        self.written += bytes as u64;
        due |= self.rules.publish();
        self.tell(due)
    }

    fn tell(&self, due: bool) -> Result<(), StreamError> {
        if due {
            self.data.signal(SIGNAL)?;
        }
        Ok(())
    }

    /// Waits until there is room for so many bytes or half of the ring, unless there is already; tells the reader, if that is due.
    fn sleep(
        &mut self,
        wanted: usize,
        due: &mut bool,
        deadline: Deadline,
    ) -> Result<(), StreamError> {
        if !self.rules.may_sleep(wanted) {
            return Ok(());
        }
        let waited = if core::mem::take(due) {
            self.data.signal_and_wait(SIGNAL, &self.room, deadline)
        } else {
            self.room.wait(deadline)
        };
        self.rules.awake();
        let enough = wanted.clamp(1, self.rules.capacity().half());
        match waited {
            Ok(_) if has_passed(deadline) && self.rules.room(enough)? < enough => {
                Err(Error::TimedOut.into())
            }
            Ok(_) => Ok(()),
            // It may have read all, and gone.
            Err(Error::PeerClosed) => {
                self.rules.room(usize::MAX)?;
                Err(Error::PeerClosed.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.rules.end();
        // If nobody is there, nobody need know.
        let _ = self.data.signal(SIGNAL);
    }
}
