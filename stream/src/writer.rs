//! The writing side.

use crate::Fault;
use crate::ring::{AWAKE, Capacity, ENDED, Position, Shared, Word};

/// The side that writes.
///
/// What is [`put`](Self::put) is the reader's only once it was [published](Self::publish); so several pieces appear at once.
#[derive(Debug)]
pub struct Writer<S> {
    shared: S,
    capacity: Capacity,
    /// Of what the reader may see.
    published: Position,
    /// Of what was put.
    put: Position,
    /// How far the reader has come, as it was seen last.
    read: Position,
    /// What it came to, if it has.
    fault: Option<Fault>,
}

impl<S: Shared> Writer<S> {
    /// The writer of a ring that is new.
    pub const fn new(shared: S, capacity: Capacity) -> Writer<S> {
        Writer {
            shared,
            capacity,
            published: Position::START,
            put: Position::START,
            read: Position::START,
            fault: None,
        }
    }

    /// How much it holds.
    pub const fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The memory.
    pub const fn shared(&self) -> &S {
        &self.shared
    }

    /// The room there is. The memory is looked at if that was less than `wanted` when it was looked at last.
    ///
    /// # Errors
    /// [`Fault::Garbled`]; [`Fault::Ended`] if the memory is looked at, and the reader has ended.
    pub fn room(&mut self, wanted: usize) -> Result<usize, Fault> {
        self.check()?;
        match self.room_from(self.read) {
            Some(room) if room >= wanted => Ok(room),
            _ => self.look(),
        }
    }

    fn room_from(&self, read: Position) -> Option<usize> {
        self.capacity
            .distance(read, self.put)
            .map(|used| self.capacity.bytes() - used)
    }

    fn look(&mut self) -> Result<usize, Fault> {
        let (read, ended) = Position::of(self.shared.load(Word::Read));
        // What was read once stays so: a position never goes back, also not by so little that it could be one.
        let seen = self.room_from(self.read);
        match self.room_from(read) {
            _ if ended => self.fail(Fault::Ended),
            Some(room) if seen.is_some_and(|seen| room >= seen) => {
                self.read = read;
                Ok(room)
            }
            _ => self.fail(Fault::Garbled),
        }
    }

    fn check(&self) -> Result<(), Fault> {
        self.fault.map_or(Ok(()), Err)
    }

    fn fail<T>(&mut self, fault: Fault) -> Result<T, Fault> {
        self.fault = Some(fault);
        Err(fault)
    }

    /// Puts in as much of `from` as there is room for; gives how many bytes.
    ///
    /// # Errors
    /// As [`room`](Self::room).
    pub fn put(&mut self, from: &[u8]) -> Result<usize, Fault> {
        let bytes = self.room(from.len())?.min(from.len());
        self.capacity.each_stretch(self.put, bytes, |at, part| {
            self.shared.put(at, &from[part]);
        });
        self.put = self.put.plus(bytes);
        Ok(bytes)
    }

    /// Lets the reader see what was put; whether it is to be signalled.
    pub fn publish(&mut self) -> bool {
        if self.published == self.put || self.fault.is_some() {
            return false;
        }
        self.published = self.put;
        self.shared.store(Word::Written, self.put.word());
        self.shared.fence();
        match self.shared.load(Word::ReaderWants) {
            AWAKE => false,
            wants => {
                // Only now is it worth the line of the reader's position. One that makes no sense is the reader's to hear of.
                let (read, _) = Position::of(self.shared.load(Word::Read));
                let there = self.capacity.distance(read, self.put);
                let enough = there.is_none_or(|there| there as u64 >= wants);
                enough && self.shared.take(Word::ReaderWants, wants)
            }
        }
    }

    /// Prepares to sleep until there is room for `wanted` bytes, or half of the ring if that is less: false if there is already, or the
    /// stream is over. After true the caller waits to be signalled, and says when it is [awake](Self::awake) again, however the wait ended.
    pub fn may_sleep(&mut self, wanted: usize) -> bool {
        let wanted = wanted.clamp(1, self.capacity.half());
        self.shared.store(Word::WriterWants, wanted as u64);
        self.shared.fence();
        let sleeps = self.check().and_then(|()| self.look());
        let sleeps = sleeps.is_ok_and(|room| room < wanted);
        if !sleeps {
            self.awake();
        }
        sleeps
    }

    /// Does not sleep any more.
    pub fn awake(&mut self) {
        self.shared.store(Word::WriterWants, AWAKE);
    }

    /// Ends the stream behind what was published. The reader is to be signalled.
    pub fn end(&mut self) {
        self.shared
            .store(Word::Written, self.published.word() | ENDED);
        self.fault.get_or_insert(Fault::Ended);
    }
}
