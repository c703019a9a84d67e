//! A sparse array of frames, made of frames.
//!
//! It is a tree of tables of 512 words whose height follows from the size it is made for, so that an array for a terabyte
//! costs nothing until a page is put in, and then at most a few tables.

use abi::Error;
use arch::addr::PhysAddr;
use arch::paging::{ADDRESS_MASK, ENTRIES};

use super::discard::{Discard, Leaves};
use super::frames::{self, FrameKind};

/// Marks a word that is in use; a frame's address has its low bits clear.
const PRESENT: u64 = 1;
const INDEX_BITS: u32 = 9;

#[derive(Debug)]
pub(super) struct Radix {
    root: u64,
    height: u32,
}

impl Radix {
    /// An empty array for indices below `size`.
    pub(super) const fn new(size: u64) -> Radix {
        let mut height = 0;
        while height < 7 && size > 1 << (INDEX_BITS * height) {
            height += 1;
        }
        Radix { root: 0, height }
    }

    /// The frame at `index`, if there is one.
    pub(super) fn get(&self, index: u64) -> Option<PhysAddr> {
        let mut word = self.root;
        let mut level = self.height;
        while word != 0 && level > 0 {
            level -= 1;
            // SAFETY: a word in use above level 0 is the address of a table of this tree.
            word = unsafe { Self::slot(word, index, level).read() };
        }
        (word != 0).then(|| PhysAddr::new(word & ADDRESS_MASK))
    }

    /// The frame at `index`; if there is none, the one that `make` gives. `make` gives zeroed frames, tables of this array
    /// (kind kernel) and contents (kind user).
    ///
    /// # Errors
    /// Those of `make`. Tables made before stay, empty.
    pub(super) fn get_or_insert(
        &mut self,
        index: u64,
        make: &mut dyn FnMut(FrameKind) -> Result<PhysAddr, Error>,
    ) -> Result<PhysAddr, Error> {
        let mut slot: *mut u64 = &raw mut self.root;
        let mut level = self.height;
        loop {
            // SAFETY: the slot is the root or a word of a table of this tree, which we borrow exclusively.
            let word = unsafe { slot.read() };
            let word = if word == 0 {
                let frame = make(if level == 0 {
                    FrameKind::User
                } else {
                    FrameKind::Kernel
                })?;
                let word = frame.as_u64() | PRESENT;
                // SAFETY: as above.
                unsafe { slot.write(word) };
                word
            } else {
                word
            };
            if level == 0 {
                return Ok(PhysAddr::new(word & ADDRESS_MASK));
            }
            level -= 1;
            slot = Self::slot(word, index, level);
        }
    }

    /// Moves all frames to `discard`; the array is empty afterwards.
    pub(super) fn discard(&mut self, discard: &mut Discard) {
        if self.root != 0 {
            discard.push(
                PhysAddr::new(self.root & ADDRESS_MASK),
                self.height,
                Leaves::Owned,
            );
            self.root = 0;
        }
    }

    /// The word of a table that leads towards `index`, with `level` tables below it.
    fn slot(table: u64, index: u64, level: u32) -> *mut u64 {
        let index = (index >> (INDEX_BITS * level)) as usize & (ENTRIES - 1);
        frames::words(PhysAddr::new(table & ADDRESS_MASK)).wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::{Progress, testing};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn an_array_agrees_with_a_map_and_gives_every_frame_back(
            size in prop_oneof![Just(1u64), Just(2), Just(512), Just(513), Just(1 << 20), Just(1 << 35)],
            picks in prop::collection::vec(any::<u64>(), 1..60)
        ) {
            testing::machine();
            let mut radix = Radix::new(size);
            let mut model = BTreeMap::new();
            let mut made = 0u64;
            for pick in picks {
                let index = pick % size;
                let mut make = |kind| {
                    made += 1;
                    frames::allocate_zeroed(kind).ok_or(Error::NoMemory)
                };
                let known = model.get(&index).copied();
                prop_assert_eq!(radix.get(index), known);
                let frame = radix.get_or_insert(index, &mut make).unwrap();
                prop_assert!(known.is_none_or(|known| known == frame));
                model.insert(index, frame);
            }
            for (&index, &frame) in &model {
                prop_assert_eq!(radix.get(index), Some(frame));
            }
            let mut discard = Discard::new();
            radix.discard(&mut discard);
            let mut freed = 0;
            while discard.step(100, &mut freed) == Progress::More {}
            prop_assert_eq!(freed, made);
                    }
    }

    #[test]
    fn a_failed_insertion_leaves_nothing_at_the_index() {
        testing::machine();
        for allowed in 0..4 {
            let mut radix = Radix::new(1 << 27);
            let mut left = allowed;
            let mut make = |kind| {
                left = usize::checked_sub(left, 1).ok_or(Error::QuotaExceeded)?;
                frames::allocate_zeroed(kind).ok_or(Error::NoMemory)
            };
            let result = radix.get_or_insert(12345, &mut make);
            assert_eq!(result.is_ok(), allowed == 4);
            assert_eq!(radix.get(12345), result.ok());
            let mut discard = Discard::new();
            radix.discard(&mut discard);
            let mut freed = 0;
            while discard.step(1, &mut freed) == Progress::More {}
            assert_eq!(freed, allowed as u64);
        }
    }
}
