//! Streams: bytes that one process writes and another reads, through memory that both map.
//!
//! [`create`] makes a stream and gives its two ends. An end is three handles, which go to whoever shall have it in one message
//! ([`WriterEnd::into_message`], or as an argument of an [`interface!`](crate::interface)); there it is [opened](WriterEnd::open). As long as both sides
//! are awake neither makes a system call: the bytes are copied in and copied out. Who finds nothing to read, or no room, waits for a
//! notification, and only who waits is signalled ([the rules](::stream)).
//!
//! ```text
//!              memory      data     room            who holds what: the writer signals that there is data, and waits for room;
//! writer end   r w         signal   wait            the reader the other way round. Nobody else has any of it.
//! reader end   r w         wait     signal
//! ```
//!
//! Because each notification can be signalled by one side alone, a side that is dropped, or whose process dies, closes it: the other one reads
//! what was written, and then gets [`StreamError::Kernel`] with [`PeerClosed`](abi::Error::PeerClosed), or [`StreamError::Ended`] if the end was said properly. Nobody
//! waits for a peer that is gone. (A writer learns of it when it looks for room, which is at the latest when the ring is full.)
//!
//! What may go wrong: the peer lies. He can garble what he sends, stop, or signal for nothing; what he writes into the memory makes nobody panic, read or write elsewhere, or wait longer
//! than its deadline. Pages of memory that [`create`] has made are all there and stay, so touching them can't fail. *That* is not sure of an end
//! that came from a stranger: memory of his own may have a pager that never answers, or a quota that is used up. Who does not trust his peer makes the stream himself
//! and gives the peer its end.
//!
//! ```
//! use rt::{Deadline, stream};
//!
//! let (writer, reader) = stream::create(4096)?;
//! // One of them would go to another process.
//! let (mut writer, mut reader) = (writer.open()?, reader.open()?);
//! writer.write_all(b"some bytes", Deadline::NEVER)?;
//! drop(writer);
//! let mut bytes = [0; 32];
//! assert_eq!(reader.read(&mut bytes, Deadline::NEVER)?, 10);
//! assert_eq!(reader.read(&mut bytes, Deadline::NEVER)?, 0);
//! # Ok::<(), stream::StreamError>(())
//! ```

mod ends;
mod mapped;
mod reader;
mod writer;

pub use ends::{ReaderEnd, WriterEnd, create};
pub use reader::StreamReader;
pub use writer::StreamWriter;

use core::fmt;

use abi::{Deadline, Error};

use crate::time;

/// The least and the most that a stream holds, in bytes.
pub const CAPACITIES: core::ops::RangeInclusive<usize> = 4096..=(1 << 24);

/// Why a stream does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamError {
    /// The peer has ended it. A reader is told so by the length 0, unless it reads records.
    Ended,
    /// The peer has broken the rules of the memory. Nothing more comes of this stream.
    Garbled,
    /// A record is longer than this stream takes, or than the place for it.
    TooLong,
    /// What the handles name is not an end of a stream.
    NotAnEnd,
    /// A call of the kernel's failed: `TimedOut`, `Cancelled`, `PeerClosed` if the peer has gone without a word, and others.
    Kernel(Error),
}

impl From<Error> for StreamError {
    fn from(error: Error) -> StreamError {
        StreamError::Kernel(error)
    }
}

impl From<::stream::Fault> for StreamError {
    fn from(fault: ::stream::Fault) -> StreamError {
        match fault {
            ::stream::Fault::Ended => StreamError::Ended,
            ::stream::Fault::Garbled => StreamError::Garbled,
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Ended => f.write_str("the stream has ended"),
            StreamError::Garbled => f.write_str("the stream's memory was garbled"),
            StreamError::TooLong => f.write_str("record too long"),
            StreamError::NotAnEnd => f.write_str("not an end of a stream"),
            StreamError::Kernel(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StreamError {}

/// What the two notifications are signalled with: their bits say nothing more.
const SIGNAL: u64 = 1;

/// Whether a deadline that is not one of the two particular ones has passed: a peer that signals for nothing ends a wait before it.
fn has_passed(deadline: Deadline) -> bool {
    deadline != Deadline::NEVER && time::now_ns() >= deadline.0
}
