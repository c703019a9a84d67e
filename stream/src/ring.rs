//! The memory as both sides see it: where the words are, how long the ring is, and how positions are compared.

/// Bytes before the ring: the words, each in a cache line of its own.
pub const HEADER_BYTES: usize = 4096;
/// Distance of the words: no two lie in the pair of lines that a CPU fetches at once.
const WORD_DISTANCE: usize = 128;

/// The bits of a position.
const POSITION: u64 = (1 << 63) - 1;
/// In a position: its side will not come further.
pub(crate) const ENDED: u64 = 1 << 63;
/// In a side's second word: it is awake.
pub(crate) const AWAKE: u64 = 0;

/// A word of the header. All are 0 at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// How many bytes were written; the writer's.
    Written,
    /// How many bytes were read; the reader's.
    Read,
    /// How many bytes the reader, asleep, wants to find.
    ReaderWants,
    /// How much room the writer, asleep, wants to find.
    WriterWants,
}

impl Word {
    /// All words.
    pub const ALL: [Word; 4] = [
        Word::Written,
        Word::Read,
        Word::ReaderWants,
        Word::WriterWants,
    ];

    /// Where it lies in the header, in bytes.
    pub const fn offset(self) -> usize {
        WORD_DISTANCE * self as usize
    }
}

/// Shared memory, to one side: the words and a ring of bytes.
pub trait Shared {
    /// Reads a word. What its writer stored before it is seen afterwards (*acquire*).
    fn load(&self, word: Word) -> u64;
    /// Writes a word. Who sees that sees what was stored before it (*release*).
    fn store(&self, word: Word, value: u64);
    /// Writes 0 to a word if it is `from`; whether it was. With the ordering of both of the above.
    fn take(&self, word: Word, from: u64) -> bool;
    /// Nothing goes past it, neither loads nor stores (*sequentially consistent*).
    fn fence(&self);
    /// Copies out of the ring, from `at` on. What is asked for lies within it.
    fn get(&self, at: usize, into: &mut [u8]);
    /// Copies into the ring, from `at` on. There is room.
    fn put(&self, at: usize, from: &[u8]);
}

/// The bytes in a ring: a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity(usize);

impl Capacity {
    /// The largest that there is.
    pub const MAX: usize = 1 << 30;

    /// A ring of so many bytes; `None` unless that is a power of two, from 2 to [`MAX`](Self::MAX).
    pub const fn new(bytes: usize) -> Option<Capacity> {
        if bytes.is_power_of_two() && bytes >= 2 && bytes <= Capacity::MAX {
            Some(Capacity(bytes))
        } else {
            None
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// The most that a side waits for.
    pub const fn half(self) -> usize {
        self.0 / 2
    }

    /// How far `to` is past `from`, if that is no more than there is in the ring.
    pub(crate) fn distance(self, from: Position, to: Position) -> Option<usize> {
        let distance = to.0.wrapping_sub(from.0) & POSITION;
        (distance <= self.0 as u64).then_some(distance as usize)
    }

    /// Calls `act` for each stretch of the ring that `bytes` bytes from a position on take: with its place in the ring, and with where it
    /// is among the bytes.
    pub(crate) fn each_stretch(
        self,
        from: Position,
        bytes: usize,
        mut act: impl FnMut(usize, core::ops::Range<usize>),
    ) {
        let at = (from.0 as usize) & (self.0 - 1);
        let first = bytes.min(self.0 - at);
        act(at, 0..first);
        if first < bytes {
            act(0, first..bytes);
        }
    }
}

/// How many bytes have passed, modulo 2^63.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position(u64);

impl Position {
    /// Where both sides begin.
    pub(crate) const START: Position = Position(0);

    /// What a word says of a position, and whether it says that this is the last.
    pub(crate) const fn of(word: u64) -> (Position, bool) {
        (Position(word & POSITION), word & ENDED != 0)
    }

    /// So many bytes on.
    pub(crate) const fn plus(self, bytes: usize) -> Position {
        Position(self.0.wrapping_add(bytes as u64) & POSITION)
    }

    /// For a word.
    pub(crate) const fn word(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_ring_is_a_power_of_two() {
        for (bytes, good) in [
            (0, false),
            (1, false),
            (2, true),
            (3, false),
            (4096, true),
            (1 << 30, true),
            (1 << 31, false),
            (usize::MAX, false),
        ] {
            assert_eq!(Capacity::new(bytes).is_some(), good, "{bytes}");
        }
    }

    #[test]
    fn positions_go_on_behind_their_last() {
        let ring = Capacity::new(8).unwrap();
        let (last, _) = Position::of(u64::MAX);
        assert_eq!(last.plus(1), Position::START);
        assert_eq!(ring.distance(last, last.plus(8)), Some(8));
        assert_eq!(ring.distance(last, last.plus(9)), None);
        assert_eq!(ring.distance(last.plus(1), last), None);
    }

    #[test]
    fn stretches_stay_within_the_ring() {
        let ring = Capacity::new(8).unwrap();
        let mut seen = Vec::new();
        ring.each_stretch(Position::START.plus(6), 5, |at, part| seen.push((at, part)));
        assert_eq!(seen, [(6, 0..2), (0, 2..5)]);
        seen.clear();
        ring.each_stretch(Position::START.plus(6), 2, |at, part| seen.push((at, part)));
        assert_eq!(seen, [(6, 0..2)]);
    }

    #[test]
    fn words_have_cache_lines_of_their_own() {
        for (index, word) in Word::ALL.into_iter().enumerate() {
            assert_eq!(word.offset(), index * 128);
            assert!(word.offset() + 8 <= HEADER_BYTES);
        }
    }
}
