//! A stream's memory as it is mapped here: words that are read and written by atomic operations, and bytes that are copied by instructions.
//!
//! The other process may write any of it at any time. So there is never a reference to the ring, and no copy of the compiler's making, which might
//! read a byte twice and rely on having read the same: `rep movs` reads each byte once, and what it has read is what there is.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use abi::Protection;
use stream::{Capacity, HEADER_BYTES, Shared, Word};

use super::{CAPACITIES, StreamError};
use crate::{Mapping, Memory};

#[derive(Debug)]
pub(super) struct Mapped {
    mapping: Mapping,
    ring_bytes: usize,
}

impl Mapped {
    /// Maps the memory of a stream. Its size is what the kernel says it is.
    pub(super) fn new(memory: &Memory) -> Result<(Mapped, Capacity), StreamError> {
        let bytes = usize::try_from(memory.size()?).unwrap_or(usize::MAX);
        let ring_bytes = bytes.saturating_sub(HEADER_BYTES);
        let capacity = Capacity::new(ring_bytes)
            .filter(|capacity| CAPACITIES.contains(&capacity.bytes()))
            .ok_or(StreamError::NotAnEnd)?;
        let mapping = memory.map(Protection::READ_WRITE)?;
        let mapped = Mapped {
            mapping,
            ring_bytes,
        };
        Ok((mapped, capacity))
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        // SAFETY: the header is mapped, for reading and writing, as long as self lives; the word lies in it, aligned (its page is), and is used as an
        // atomic here. What the other process does to it is as if by atomic operations: the CPU has no others of this size.
        unsafe { &*self.mapping.as_ptr().add(word.offset()).cast() }
    }

    /// Where a part of the ring begins.
    ///
    /// # Panics
    /// If it is not all in the ring, which the rules see to.
    fn part(&self, at: usize, bytes: usize) -> *mut u8 {
        assert!(
            at <= self.ring_bytes && bytes <= self.ring_bytes - at,
            "out of the ring"
        );
        self.mapping.as_ptr().wrapping_add(HEADER_BYTES + at)
    }
}

impl Shared for Mapped {
    fn load(&self, word: Word) -> u64 {
        self.word(word).load(Ordering::Acquire)
    }

    fn store(&self, word: Word, value: u64) {
        self.word(word).store(value, Ordering::Release);
    }

    fn take(&self, word: Word, from: u64) -> bool {
        self.word(word)
            .compare_exchange(from, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn get(&self, at: usize, into: &mut [u8]) {
        let from = self.part(at, into.len());
        // SAFETY: `part` is mapped and has so many bytes, `into` is ours alone. They don't overlap: nothing of Rust's lies in the mapping.
        unsafe { copy(from, into.as_mut_ptr(), into.len()) };
    }

    fn put(&self, at: usize, from: &[u8]) {
        let to = self.part(at, from.len());
        // SAFETY: as above, the other way round.
        unsafe { copy(from.as_ptr(), to, from.len()) };
    }
}

/// Copies, eight bytes at a time as long as there are so many.
///
/// # Safety
/// `from` is mapped for reading and `to` for writing, `bytes` bytes each, which don't overlap. Others may write to either meanwhile, but not by what
/// the compiler knows of.
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise. The direction flag is clear (System V ABI). No stack is used, and no flag is changed.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}
