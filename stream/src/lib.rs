//! A stream of bytes through memory that two processes share: who writes, who reads, and who must be woken when.
//!
//! The memory holds a ring of bytes and four words. Each side has a word that it alone writes: how far it has come. Both only grow (modulo
//! 2^63), so what lies between them is what was written and not yet read, and neither side needs the other's leave for anything: as long
//! as both are awake no system call is made.
//!
//! A side that finds nothing to do says so in its second word, by how much it wants to find when it is woken, looks once more, and only then
//! sleeps. The other one, whenever it has moved on, looks at that word:
//!
//! ```text
//! reader                                  writer
//! wants = 1                               written = n
//! fence                                   fence
//! written still what it was? sleep        wants anything? then take that back, and signal
//! ```
//!
//! Of two such sequences at least one sees what the other has stored, whatever their order: that is what the fences are for (a store and a
//! later load of another word may change places on x86-64: Intel SDM vol. 3A §9.2.3.4). So nobody sleeps with something to do. Who takes the
//! word back signals in any case, and who is signalled looks again, so there is at most one signal for each sleep.
//!
//! What one side wants at most is half of the ring; so they never wait for each other.
//!
//! What may go wrong: the peer. All of the memory is his to write, at any time. So a side keeps its own position for itself, believes the
//! peer's only if it lies within the ring from there, and finds its place in the ring from its own alone; a length is read once. A peer
//! that lies garbles what he sends, or is told ([`Fault::Garbled`]), or leaves a side asleep as if he sent nothing.
//!
//! This crate has the rules alone. What the memory is, how one sleeps and how one signals is [`Shared`]'s and the caller's: the SDK has a
//! mapping and notifications (`rt::stream`), the tests have loom's atomics.

#![no_std]
#![forbid(unsafe_code)]

mod reader;
mod records;
mod ring;
mod writer;

pub use reader::Reader;
pub use records::{LENGTH_BYTES, Next};
pub use ring::{Capacity, HEADER_BYTES, Shared, Word};
pub use writer::Writer;

/// Why a side can't go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The peer has ended the stream. To a reader, only when all was read.
    Ended,
    /// The memory holds what no honest peer leaves there. The stream is over.
    Garbled,
}
