//! The reading side.

use crate::Fault;
use crate::ring::{AWAKE, Capacity, ENDED, Position, Shared, Word};

/// The side that reads.
///
/// The place of what was [taken](Self::take) is the writer's again only once it was [released](Self::release).
#[derive(Debug)]
pub struct Reader<S> {
    shared: S,
    capacity: Capacity,
    /// Of what the writer may overwrite.
    released: Position,
    /// Of what was taken.
    taken: Position,
    /// How far the writer has come, as it was seen last.
    written: Position,
    /// Nothing will follow that.
    ended: bool,
    garbled: bool,
    /// The length of the record that begins here, if it was looked at.
    pub(crate) record: Option<usize>,
}

impl<S: Shared> Reader<S> {
    /// The reader of a ring that is new.
    pub const fn new(shared: S, capacity: Capacity) -> Reader<S> {
        Reader {
            shared,
            capacity,
            released: Position::START,
            taken: Position::START,
            written: Position::START,
            ended: false,
            garbled: false,
            record: None,
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

    /// Whether nothing will follow what is [there](Self::there).
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// How many bytes are there. The memory is looked at if that were less than `wanted` when it was looked at last.
    ///
    /// # Errors
    /// [`Fault::Garbled`].
    pub fn there(&mut self, wanted: usize) -> Result<usize, Fault> {
        if self.garbled {
            return Err(Fault::Garbled);
        }
        match self.capacity.distance(self.taken, self.written) {
            Some(there) if there >= wanted || self.ended => Ok(there),
            _ => self.look(),
        }
    }

    fn look(&mut self) -> Result<usize, Fault> {
        let (written, ended) = Position::of(self.shared.load(Word::Written));
        let seen = self.capacity.distance(self.taken, self.written);
        let there = self.capacity.distance(self.taken, written);
        // What was written once stays so: a position never goes back, also not by so little that it could be one.
        let (Some(seen), Some(there)) = (seen, there) else {
            return self.garble();
        };
        if there < seen {
            return self.garble();
        }
        (self.written, self.ended) = (written, ended);
        Ok(there)
    }

    pub(crate) fn garble<T>(&mut self) -> Result<T, Fault> {
        self.garbled = true;
        Err(Fault::Garbled)
    }

    /// Takes as many bytes as there are and as `into` holds; gives how many. None at the end as well ([`has_ended`](Self::has_ended)).
    ///
    /// # Errors
    /// [`Fault::Garbled`].
    pub fn take(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        let bytes = self.there(into.len())?.min(into.len());
        self.peek(&mut into[..bytes]);
        self.pass(bytes);
        Ok(bytes)
    }

    /// Copies what is there without taking it.
    pub(crate) fn peek(&self, into: &mut [u8]) {
        self.capacity
            .each_stretch(self.taken, into.len(), |at, part| {
                self.shared.get(at, &mut into[part]);
            });
    }

    /// Takes bytes that are there.
    pub(crate) fn pass(&mut self, bytes: usize) {
        self.taken = self.taken.plus(bytes);
        self.record = None;
    }

    /// Gives the writer the room of what was taken; whether it is to be signalled.
    pub fn release(&mut self) -> bool {
        if self.released == self.taken {
            return false;
        }
        self.released = self.taken;
        self.shared.store(Word::Read, self.taken.word());
        self.shared.fence();
        match self.shared.load(Word::WriterWants) {
            AWAKE => false,
            wants => {
                let (written, _) = Position::of(self.shared.load(Word::Written));
                let used = self.capacity.distance(self.taken, written);
                // What makes no sense is the writer's to hear of.
                let enough = used.is_none_or(|used| (self.capacity.bytes() - used) as u64 >= wants);
                enough && self.shared.take(Word::WriterWants, wants)
            }
        }
    }

    /// Prepares to sleep until `wanted` bytes are there, or half of the ring if that is less: false if they are already, or the stream is
    /// over. After true the caller waits to be signalled, and says when it is [awake](Self::awake) again, however the wait ended.
    pub fn may_sleep(&mut self, wanted: usize) -> bool {
        let wanted = wanted.clamp(1, self.capacity.half());
        self.shared.store(Word::ReaderWants, wanted as u64);
        self.shared.fence();
        // The look may find the end.
        let over = self.garbled || self.ended;
        let sleeps = !over && self.look().is_ok_and(|there| there < wanted) && !self.ended;
        if !sleeps {
            self.awake();
        }
        sleeps
    }

    /// Does not sleep any more.
    pub fn awake(&mut self) {
        self.shared.store(Word::ReaderWants, AWAKE);
    }

    /// Reads no more. The writer is to be signalled.
    pub fn end(&mut self) {
        self.shared.store(Word::Read, self.released.word() | ENDED);
        (self.ended, self.written) = (true, self.taken);
    }
}
