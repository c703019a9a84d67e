//! A sparse array of frames, made of frames, which can share them with other arrays.
//!
//! It is a tree of tables of 512 words whose height follows from the size it is made for, so that an array for a terabyte
//! costs nothing until a page is put in, and then at most a few tables.
//!
//! A copy of an array costs the same, whatever its size: it gets the same root, and the root's record counts two references. From then on
//! a frame is an array's own only if it and every table on the way to it are referred to once; what is shared is not
//! changed. Who wants to change something below makes what lies on the way its own, from the root down: a table's copy refers to all
//! that the table refers to, so that those count one more. An array's end takes one reference from its root, and goes
//! on to what lies below only if that was the last.
//!
//! A word may refer to 512 frames in a row at once, a *block*. In an array that can be shared these frames are taken apart from the first: each is
//! held by itself, and counts the words that refer to it alone, and all words for the block together as one. The block counts those
//! (`frames::share_block`). Who makes one frame of a shared block its own gets a table of the block's frames in place of the word, and others
//! keep theirs: nothing of what they have moves. The last word for a block that goes gives up that one count of each frame.
//!
//! What may go wrong: the arrays that share have locks of their own. So a count is atomic; and it can rise from 1 by nobody but the
//! one who has the way to the frame for its own, under its lock. It may fall to 1 at any time: then who looks too early takes a copy that was
//! not needed, and frees what turns out to be referred to by nobody else.

use abi::Error;
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;
use arch::paging::{ADDRESS_MASK, ENTRIES};

use super::PAGE_BYTES;
use super::discard::{Discard, LARGE, Leaves};
use super::frames::{self, FrameKind};

/// Marks a word that is in use; a frame's address has its low bits clear.
const PRESENT: u64 = 1;
/// In the word of a frame: it was marked.
const MARKED: u64 = 2;
/// In the word of a frame, instead of [`PRESENT`]: it is hidden, so that nothing is at the index for anybody but who did that.
const HIDDEN: u64 = 4;
const INDEX_BITS: u32 = 9;

#[derive(Debug)]
pub(super) struct Radix {
    root: u64,
    height: u32,
}

/// What is at an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// No frame.
    Nothing,
    /// A frame of this array alone.
    Own(PhysAddr),
    /// A frame that other arrays have as well.
    Shared(PhysAddr),
}

/// Where an array's frames come from: zeroed, tables of the array (kind kernel) and contents (kind user).
pub(super) type Make<'a> = dyn FnMut(FrameKind) -> Result<PhysAddr, Error> + 'a;

impl Radix {
    /// An empty array for indices below `size`.
    pub(super) const fn new(size: u64) -> Radix {
        let mut height = 0;
        while height < 7 && size > 1 << (INDEX_BITS * height) {
            height += 1;
        }
        Radix { root: 0, height }
    }

    /// An array with the same contents. Nothing that is in either is its own from now on.
    pub(super) fn share(&self) -> Radix {
        if self.root != 0 {
            share_words(core::iter::once(self.root), self.height);
        }
        Radix { ..*self }
    }

    /// The frame at `index`, if there is one.
    pub(super) fn get(&self, index: u64) -> Option<PhysAddr> {
        let mut word = self.root;
        let mut level = self.height;
        while word != 0 && level > 0 {
            if word & LARGE != 0 {
                return Some(Self::inside(word, index));
            }
            level -= 1;
            // SAFETY: a word in use above level 0 is the address of a table of this tree, or has the mark of a block.
            word = unsafe { Self::slot(word, index, level).read() };
        }
        (word & PRESENT != 0).then(|| PhysAddr::new(word & ADDRESS_MASK))
    }

    /// The block at `index`, if it is one of 2 MiB: its first frame.
    pub(super) fn get_large(&self, index: u64) -> Option<PhysAddr> {
        let mut word = self.root;
        let mut level = self.height;
        while word != 0 && level > 0 {
            if word & LARGE != 0 {
                return Some(PhysAddr::new(word & ADDRESS_MASK));
            }
            level -= 1;
            // SAFETY: as in `get`.
            word = unsafe { Self::slot(word, index, level).read() };
        }
        None
    }

    /// Whether nothing at all is at the 512 indices around `index`, so that a block can be put there.
    pub(super) fn is_void(&self, index: u64) -> bool {
        let mut word = self.root;
        let mut level = self.height;
        while word != 0 && level > 1 && word & LARGE == 0 {
            level -= 1;
            // SAFETY: as in `get`.
            word = unsafe { Self::slot(word, index, level).read() };
        }
        word == 0
    }

    /// Puts a block of 512 zeroed frames at the 512 indices around `index`, all of them below the size; whether there was room. The block of
    /// an array that may be shared is [taken apart](frames::take_apart) before.
    ///
    /// # Errors
    /// Those of `make` and `copy`, for tables. Those made before stay, empty or as they were.
    pub(super) fn insert_large(
        &mut self,
        index: u64,
        block: PhysAddr,
        apart: bool,
        make: &mut Make<'_>,
        copy: &mut Make<'_>,
    ) -> Result<bool, Error> {
        if self.height == 0 || !self.is_void(index) {
            return Ok(false);
        }
        let mut slot: *mut u64 = &raw mut self.root;
        for level in (1..self.height).rev() {
            // SAFETY: the slot is the root or a word of a table of this tree alone, which we borrow exclusively. There is no block on the way.
            let table = unsafe { Self::own_node(slot, level + 1, make, copy) }?;
            slot = Self::slot(table.as_u64(), index, level);
        }
        if apart {
            frames::take_apart(block);
        }
        // SAFETY: as above.
        unsafe { slot.write(block.as_u64() | PRESENT | LARGE) };
        Ok(true)
    }

    /// Whether all frames of the block at `index` are this array's alone; false if there is none.
    pub(super) fn owns_large(&self, index: u64) -> bool {
        let mut word = self.root;
        let mut level = self.height;
        while word != 0 && level > 0 {
            let frame = PhysAddr::new(word & ADDRESS_MASK);
            if word & LARGE != 0 {
                return frames::is_block_alone(frame);
            }
            if frames::is_shared(frame) {
                return false;
            }
            level -= 1;
            // SAFETY: as in `get`.
            word = unsafe { Self::slot(word, index, level).read() };
        }
        false
    }

    /// The frame at `index` in the block of a word.
    fn inside(word: u64, index: u64) -> PhysAddr {
        PhysAddr::new(word & ADDRESS_MASK) + (index % ENTRIES as u64) * PAGE_BYTES
    }

    /// The frame at `index`, and whether it is shared.
    pub(super) fn find(&self, index: u64) -> Found {
        let mut word = self.root;
        let mut level = self.height;
        let mut shared = false;
        while word & PRESENT != 0 {
            let mut frame = PhysAddr::new(word & ADDRESS_MASK);
            let block = level > 0 && word & LARGE != 0;
            if block {
                shared |= frames::is_block_shared(frame);
                frame = Self::inside(word, index);
            }
            shared |= frames::is_shared(frame);
            if level == 0 || block {
                return if shared {
                    Found::Shared(frame)
                } else {
                    Found::Own(frame)
                };
            }
            level -= 1;
            // SAFETY: as in `get`.
            word = unsafe { Self::slot(word, index, level).read() };
        }
        Found::Nothing
    }

    /// The frame at `index`; if there is none, the one that `make` gives. Tables on the way to a new one become this array's own: those
    /// that were shared are replaced by what `copy` gives.
    ///
    /// # Errors
    /// Those of `make` and `copy`. Tables made before stay, empty or as they were.
    pub(super) fn get_or_insert(
        &mut self,
        index: u64,
        make: &mut Make<'_>,
        copy: &mut Make<'_>,
    ) -> Result<PhysAddr, Error> {
        match self.find(index) {
            Found::Nothing => self.walk(index, make, copy),
            Found::Own(frame) | Found::Shared(frame) => Ok(frame),
        }
    }

    /// The frame at `index`, made this array's own: one that was shared is replaced by a copy, so nobody may go on using it as this
    /// array's. `make` gives frames where there were none, `copy` those for copies.
    ///
    /// # Errors
    /// Those of `make` and `copy`; the contents are what they were.
    pub(super) fn own(
        &mut self,
        index: u64,
        make: &mut Make<'_>,
        copy: &mut Make<'_>,
    ) -> Result<PhysAddr, Error> {
        self.walk(index, make, copy)
    }

    /// The word for the frame at `index`, if there is one, hidden or not. For arrays without blocks.
    fn leaf(&mut self, index: u64) -> Option<*mut u64> {
        let mut slot: *mut u64 = &raw mut self.root;
        for level in (0..self.height).rev() {
            // SAFETY: the slot is the root or a word of a table of this tree, which we borrow exclusively.
            let word = unsafe { slot.read() };
            if word == 0 || word & LARGE != 0 {
                return None;
            }
            slot = Self::slot(word, index, level);
        }
        // SAFETY: as above.
        (unsafe { slot.read() } != 0).then_some(slot)
    }

    /// Marks the frame at `index`, if there is one. Arrays with marks are not shared.
    pub(super) fn mark(&mut self, index: u64) {
        if let Some(slot) = self.leaf(index) {
            // SAFETY: a word of a table of this tree alone, which we borrow exclusively.
            unsafe { slot.write(slot.read() | MARKED) };
        }
    }

    /// Whether the frame at `index` was marked.
    pub(super) fn is_marked(&mut self, index: u64) -> bool {
        self.leaf(index)
            // SAFETY: as in `mark`.
            .is_some_and(|slot| unsafe { slot.read() } & MARKED != 0)
    }

    /// Hides the frame at `index`, if there is one. It can be [shown](Self::show) again or [taken](Self::take), and nothing may be put in its place
    /// meanwhile. Arrays with hidden frames are not shared.
    pub(super) fn hide(&mut self, index: u64) {
        if let Some(slot) = self.leaf(index) {
            // SAFETY: as in `mark`.
            unsafe { slot.write(slot.read() & !PRESENT | HIDDEN) };
        }
    }

    /// Ends the hiding of the frame at `index`.
    pub(super) fn show(&mut self, index: u64) {
        if let Some(slot) = self.leaf(index) {
            // SAFETY: as in `mark`.
            unsafe { slot.write(slot.read() & !HIDDEN | PRESENT) };
        }
    }

    /// Whether a hidden frame is at `index`.
    pub(super) fn is_hidden(&mut self, index: u64) -> bool {
        self.leaf(index)
            // SAFETY: as in `mark`.
            .is_some_and(|slot| unsafe { slot.read() } & HIDDEN != 0)
    }

    /// Takes the frame at `index` out, hidden or not, which is the caller's from now on. The tables on the way to it stay. Arrays whose frames
    /// are taken out are not shared.
    pub(super) fn take(&mut self, index: u64) -> Option<PhysAddr> {
        let slot = self.leaf(index)?;
        // SAFETY: as in `mark`.
        let word = unsafe { slot.replace(0) };
        Some(PhysAddr::new(word & ADDRESS_MASK))
    }

    /// Goes down to `index` and makes all on the way the array's own, and there.
    fn walk(
        &mut self,
        index: u64,
        make: &mut Make<'_>,
        copy: &mut Make<'_>,
    ) -> Result<PhysAddr, Error> {
        let mut slot: *mut u64 = &raw mut self.root;
        let mut level = self.height;
        loop {
            // SAFETY: the slot is the root or a word of a table of this tree alone, which we borrow exclusively.
            let word = unsafe { slot.read() };
            if level > 0 && word & LARGE != 0 {
                let block = PhysAddr::new(word & ADDRESS_MASK);
                let frame = Self::inside(word, index);
                if !frames::is_block_shared(block) && !frames::is_shared(frame) {
                    return Ok(frame);
                }
                let table = Self::table_of(block, copy)?;
                // SAFETY: as above.
                unsafe { slot.write(table.as_u64() | PRESENT) };
                level -= 1;
                slot = Self::slot(table.as_u64(), index, level);
                continue;
            }
            // SAFETY: as above, and it is no block.
            let own = unsafe { Self::own_node(slot, level, make, copy) }?;
            if level == 0 {
                return Ok(own);
            }
            level -= 1;
            slot = Self::slot(own.as_u64(), index, level);
        }
    }

    /// Makes what a word refers to, with `level` tables below it, the array's own, and there.
    ///
    /// # Safety
    /// `slot` is the root or a word of a table of this tree alone, which is borrowed exclusively, and has no block.
    unsafe fn own_node(
        slot: *mut u64,
        level: u32,
        make: &mut Make<'_>,
        copy: &mut Make<'_>,
    ) -> Result<PhysAddr, Error> {
        // SAFETY: the caller's promise.
        let word = unsafe { slot.read() };
        let frame = PhysAddr::new(word & ADDRESS_MASK);
        let kind = if level == 0 {
            FrameKind::User
        } else {
            FrameKind::Kernel
        };
        let own = if word == 0 {
            make(kind)?
        } else if frames::is_shared(frame) {
            let own = copy(kind)?;
            Self::copy_node(frame, own, level);
            own
        } else {
            frame
        };
        // SAFETY: as above.
        unsafe { slot.write(own.as_u64() | PRESENT) };
        if word != 0 && own != frame {
            Self::let_go(frame, level);
        }
        Ok(own)
    }

    /// A table of a block's frames, to take the place of a word for the block in this array. Each is as shared as it was.
    ///
    /// # Errors
    /// Those of `copy`; nothing has changed then.
    fn table_of(block: PhysAddr, copy: &mut Make<'_>) -> Result<PhysAddr, Error> {
        let table = copy(FrameKind::Kernel)?;
        let frames = (0..ENTRIES as u64).map(|number| block + number * PAGE_BYTES);
        let words = frames::words(table);
        for (number, frame) in frames.clone().enumerate() {
            // SAFETY: the frame is fresh and nobody else's; the number is below 512.
            unsafe { words.add(number).write(frame.as_u64() | PRESENT) };
        }
        // Nobody else can refer to it any more, and what the words for it held together is the table's.
        if frames::is_block_shared(block) {
            frames::share_each_of(block);
            if frames::release_block(block) {
                // The others have gone meanwhile.
                for frame in frames {
                    let last = frames::release(frame);
                    debug_assert!(!last, "the table refers to it");
                }
            }
        }
        Ok(table)
    }

    /// Makes `to` a copy of the shared node `from`: its contents, or a table that refers to the same.
    fn copy_node(from: PhysAddr, to: PhysAddr, level: u32) {
        // SAFETY: both are frames in the direct map, the second is fresh and nobody else's. The first does not change: what is shared
        // is mapped nowhere for writing, and the kernel writes to what is an array's own alone.
        unsafe {
            phys_to_virt(from)
                .cast::<u64>()
                .copy_to_nonoverlapping(phys_to_virt(to).cast(), PAGE_BYTES as usize / 8);
        }
        if level > 0 {
            share_words(Self::children(to), level - 1);
        }
    }

    /// Takes this array's reference from a shared node of which it has a copy now. If all others have gone meanwhile it is freed.
    fn let_go(node: PhysAddr, level: u32) {
        if !frames::release(node) {
            return;
        }
        if level > 0 {
            for word in Self::children(node) {
                let child = PhysAddr::new(word & ADDRESS_MASK);
                let last = if level > 1 && word & LARGE != 0 {
                    frames::release_block(child)
                } else {
                    frames::release(child)
                };
                debug_assert!(!last, "the copy refers to it");
            }
        }
        frames::free_frame(node);
    }

    /// The words of a table that are in use.
    fn children(table: PhysAddr) -> impl Iterator<Item = u64> {
        let words = frames::words(table);
        (0..ENTRIES).filter_map(move |index| {
            // SAFETY: the frame is a table of the array's; the index is below 512.
            let word = unsafe { words.add(index).read() };
            (word != 0).then_some(word)
        })
    }

    /// Moves all frames that are nobody else's to `discard`; the array is empty afterwards.
    pub(super) fn discard(&mut self, discard: &mut Discard) {
        let root = PhysAddr::new(self.root & ADDRESS_MASK);
        if self.height > 0 && self.root & LARGE != 0 {
            if frames::release_block(root) {
                discard.push_block(root);
            }
        } else if self.root != 0 && frames::release(root) {
            discard.push(root, self.height, Leaves::Owned);
        }
        self.root = 0;
    }

    /// The word of a table that leads towards `index`, with `level` tables below it.
    fn slot(table: u64, index: u64, level: u32) -> *mut u64 {
        let index = (index >> (INDEX_BITS * level)) as usize & (ENTRIES - 1);
        frames::words(PhysAddr::new(table & ADDRESS_MASK)).wrapping_add(index)
    }
}

/// One reference more to what these words refer to, with `level` tables below them.
fn share_words(words: impl Iterator<Item = u64>, level: u32) {
    if level == 0 {
        frames::share_all(words.map(|word| PhysAddr::new(word & ADDRESS_MASK)));
        return;
    }
    for word in words {
        let frame = PhysAddr::new(word & ADDRESS_MASK);
        if word & LARGE != 0 {
            frames::share_block(frame);
        } else {
            frames::share(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::{Progress, testing};

    fn no_copy(_: FrameKind) -> Result<PhysAddr, Error> {
        panic!("nothing is shared")
    }

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
                let frame = radix.get_or_insert(index, &mut make, &mut no_copy).unwrap();
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
            let result = radix.get_or_insert(12345, &mut make, &mut no_copy);
            assert_eq!(result.is_ok(), allowed == 4);
            assert_eq!(radix.get(12345), result.ok());
            let mut discard = Discard::new();
            radix.discard(&mut discard);
            let mut freed = 0;
            while discard.step(1, &mut freed) == Progress::More {}
            assert_eq!(freed, allowed as u64);
        }
    }

    #[test]
    fn a_write_to_a_shared_block_that_finds_no_memory_changes_nothing() {
        testing::machine();
        let free = |mut radix: Radix| {
            let (mut discard, mut freed) = (Discard::new(), 0);
            radix.discard(&mut discard);
            while discard.step(7, &mut freed) == Progress::More {}
            freed
        };
        // The way to the frame: a table above, one in place of the block, the frame itself.
        for allowed in 0..4 {
            let mut made = 0;
            let mut make = |kind| {
                made += 1;
                frames::allocate_zeroed(kind).ok_or(Error::NoMemory)
            };
            let mut first = Radix::new(1024);
            let block = frames::allocate_order(9, FrameKind::User).unwrap();
            assert_eq!(
                first.insert_large(600, block, true, &mut make, &mut no_copy),
                Ok(true)
            );
            first.get_or_insert(5, &mut make, &mut no_copy).unwrap();
            let mut second = first.share();
            let mut left = allowed;
            let mut copies = 0;
            let mut copy = |kind| {
                left = usize::checked_sub(left, 1).ok_or(Error::NoMemory)?;
                copies += 1;
                frames::allocate_zeroed(kind).ok_or(Error::NoMemory)
            };
            let result = second.own(600, &mut |_| Err(Error::NoMemory), &mut copy);
            assert_eq!(result.is_ok(), allowed == 3);
            for index in 512..1024 {
                let frame = block + (index - 512) * PAGE_BYTES;
                assert_eq!(first.get(index), Some(frame));
                if index != 600 || result.is_err() {
                    assert_eq!(second.get(index), Some(frame));
                    assert!(allowed == 0 || second.find(index) == Found::Shared(frame));
                }
            }
            if allowed == 3 {
                assert_eq!(second.find(600), Found::Own(result.unwrap()));
                // Nobody else has that one now, but the others are shared still.
                assert_eq!(first.find(600), Found::Own(block + 88 * PAGE_BYTES));
                assert!(!first.owns_large(600));
            }
            // In both orders: what one frees is never missing to the other, and all comes back.
            let (one, other) = if allowed % 2 == 0 {
                (first, second)
            } else {
                (second, first)
            };
            let freed = free(one);
            assert!(other.get(700).is_some());
            assert_eq!(freed + free(other), made + copies + 512);
        }
    }
}
