//! Memory that is handed to the kernel and never given back, allocated from front to back.
//!
//! Responses must lie in memory that the memory map calls bootloader-reclaimable and hold addresses as the kernel
//! will see them. The arena is one block of such memory; it knows its physical address, so it can say where each
//! thing in it will be once the kernel runs. It works on a plain byte slice, so tests read what a kernel would.

use crate::addr::{Hhdm, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::error::Fault;

/// A block with a physical address and a mark up to which it is taken.
#[derive(Debug)]
pub struct Arena<'a> {
    bytes: &'a mut [u8],
    phys: PhysAddr,
    hhdm: Hhdm,
    used: usize,
}

/// A place in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

impl<'a> Arena<'a> {
    /// An empty arena over `bytes`, which lie at `phys`, a page boundary. The bytes are zeroed.
    pub fn new(bytes: &'a mut [u8], phys: PhysAddr, hhdm: Hhdm) -> Self {
        debug_assert_eq!(phys.0 % PAGE_SIZE, 0);
        bytes.fill(0);
        Self {
            bytes,
            phys,
            hhdm,
            used: 0,
        }
    }

    /// An arena whose first `used` bytes were taken before, by one that is gone.
    pub fn reopen(bytes: &'a mut [u8], phys: PhysAddr, hhdm: Hhdm, used: usize) -> Self {
        Self {
            bytes,
            phys,
            hhdm,
            used,
        }
    }

    /// Takes `size` zeroed bytes, aligned to `align` (a power of two up to a page). `what` is for the message.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn take(&mut self, size: usize, align: usize, what: &'static str) -> Result<Place, Fault> {
        let full = Fault::ArenaFull { what };
        let start = self
            .used
            .checked_next_multiple_of(align)
            .ok_or(full.clone())?;
        let end = start.checked_add(size).ok_or(full.clone())?;
        if end > self.bytes.len() {
            return Err(full);
        }
        self.used = end;
        Ok(Place(start))
    }

    /// Copies `bytes` in.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn put(&mut self, bytes: &[u8], align: usize, what: &'static str) -> Result<Place, Fault> {
        let place = self.take(bytes.len(), align, what)?;
        self.bytes[place.0..place.0 + bytes.len()].copy_from_slice(bytes);
        Ok(place)
    }

    /// Copies `words` in, aligned to 8.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn put_words(&mut self, words: &[u64], what: &'static str) -> Result<Place, Fault> {
        let place = self.take(words.len() * 8, 8, what)?;
        for (n, word) in words.iter().enumerate() {
            self.set_word(place, n, *word);
        }
        Ok(place)
    }

    /// Copies a string in, with a 0 after it. A 0 within it ends it there.
    ///
    /// # Errors
    /// [`Fault::ArenaFull`].
    pub fn put_text(&mut self, text: &str, what: &'static str) -> Result<Place, Fault> {
        let text = text.split('\0').next().unwrap_or("");
        let place = self.take(text.len() + 1, 1, what)?;
        self.bytes[place.0..place.0 + text.len()].copy_from_slice(text.as_bytes());
        Ok(place)
    }

    /// Sets word `index` of what lies at `place`.
    ///
    /// # Panics
    /// If the word lies outside the arena, which is the caller's mistake.
    pub fn set_word(&mut self, place: Place, index: usize, word: u64) {
        let at = place.0 + index * 8;
        self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// The bytes at `place`.
    ///
    /// # Panics
    /// If they lie outside the arena, which is the caller's mistake.
    pub fn bytes_mut(&mut self, place: Place, size: usize) -> &mut [u8] {
        &mut self.bytes[place.0..place.0 + size]
    }

    /// Where the kernel will see `place`.
    #[must_use]
    pub fn virt(&self, place: Place) -> VirtAddr {
        self.hhdm.virt(self.phys(place))
    }

    /// The physical address of `place`.
    #[must_use]
    pub fn phys(&self, place: Place) -> PhysAddr {
        PhysAddr(self.phys.0 + place.0 as u64)
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_aligned_and_full_is_an_error() {
        let mut bytes = [0xff; 64];
        let mut arena = Arena::new(&mut bytes, PhysAddr(0x1000), Hhdm(0xffff_8000_0000_0000));
        let text = arena.put_text("ab\0cd", "t").unwrap();
        let word = arena.put_words(&[7], "w").unwrap();
        assert_eq!(arena.virt(text), VirtAddr(0xffff_8000_0000_1000));
        assert_eq!(arena.phys(word), PhysAddr(0x1008));
        assert_eq!(
            arena.take(49, 1, "rest"),
            Err(Fault::ArenaFull { what: "rest" })
        );
        assert_eq!(
            arena.take(usize::MAX, 8, "rest"),
            Err(Fault::ArenaFull { what: "rest" })
        );
        assert_eq!(&bytes[..16], b"ab\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
    }
}
