//! The last bytes that were logged.
//!
//! A position counts bytes since boot and never wraps (at a gigabyte a second it would take centuries), so a reader
//! that comes back with an old position is told what it missed: it is moved up to the oldest byte there is.

/// A ring of the last `N` bytes.
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    /// Position after the newest byte.
    end: u64,
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    pub const fn new() -> Ring<N> {
        const { assert!(N > 0) };
        Ring {
            bytes: [0; N],
            end: 0,
        }
    }

    /// Position after the newest byte: where a reader that wants only what is to come begins.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Position of the oldest byte.
    pub const fn start(&self) -> u64 {
        self.end.saturating_sub(N as u64)
    }

    /// Adds bytes; the oldest make room.
    pub fn write(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(N);
        self.end += skipped as u64;
        let bytes = &bytes[skipped..];
        let at = Self::index(self.end);
        let before_wrap = bytes.len().min(N - at);
        let (head, tail) = bytes.split_at(before_wrap);
        self.bytes[at..at + head.len()].copy_from_slice(head);
        self.bytes[..tail.len()].copy_from_slice(tail);
        self.end += bytes.len() as u64;
    }

    /// Copies bytes from `position` on into `into`. Returns how many, and the position after them.
    ///
    /// A position that was overwritten is moved up to the oldest byte, one in the future is moved down to the end.
    pub fn read(&self, position: u64, into: &mut [u8]) -> (usize, u64) {
        let position = position.clamp(self.start(), self.end);
        // What is there is at most `N`, so it fits a `usize`.
        let count = into.len().min((self.end - position) as usize);
        let at = Self::index(position);
        let before_wrap = count.min(N - at);
        into[..before_wrap].copy_from_slice(&self.bytes[at..at + before_wrap]);
        into[before_wrap..count].copy_from_slice(&self.bytes[..count - before_wrap]);
        (count, position + count as u64)
    }

    const fn index(position: u64) -> usize {
        (position % N as u64) as usize
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_that_was_overtaken_is_moved_to_the_oldest_byte() {
        let mut ring = Ring::<8>::new();
        ring.write(b"0123456789");
        let mut buffer = [0; 16];
        assert_eq!((ring.start(), ring.end()), (2, 10));
        assert_eq!(ring.read(0, &mut buffer), (8, 10));
        assert_eq!(&buffer[..8], b"23456789");
        assert_eq!(ring.read(10, &mut buffer), (0, 10));
        assert_eq!(ring.read(u64::MAX, &mut buffer), (0, 10));
        assert_eq!(ring.read(7, &mut buffer[..2]), (2, 9));
        assert_eq!(&buffer[..2], b"78" as &[u8; 2]);
    }

    #[test]
    fn a_write_longer_than_the_ring_keeps_its_end() {
        let mut ring = Ring::<4>::new();
        ring.write(b"x");
        ring.write(b"abcdefghij");
        let mut buffer = [0; 4];
        assert_eq!(ring.read(0, &mut buffer), (4, 11));
        assert_eq!(&buffer, b"ghij");
    }

    proptest! {
        #[test]
        fn ring_gives_what_a_growing_buffer_gives(
            steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), 0..80u64, 0..40usize), 0..60)
        ) {
            let mut ring = Ring::<16>::new();
            let mut all = Vec::new();
            for (bytes, position, length) in steps {
                ring.write(&bytes);
                all.extend(bytes);
                prop_assert_eq!(ring.end(), all.len() as u64);
                let mut buffer = vec![0; length];
                let (count, next) = ring.read(position, &mut buffer);
                let from = (position as usize).clamp(all.len().saturating_sub(16), all.len());
                let to = all.len().min(from + length);
                prop_assert_eq!(&buffer[..count], &all[from..to]);
                prop_assert_eq!(next, to as u64);
            }
        }
    }
}
