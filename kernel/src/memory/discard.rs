//! Trees of frames that wait to be freed.
//!
//! Page tables and [radix arrays](super::radix) have the same shape: a frame of 512 words, each empty or the
//! address of a frame one level below. Freeing such a tree may take a million steps, so it is put here whole, in constant
//! time, and taken apart a bounded piece at a time. What has to be remembered (the stack of tables on the way
//! down, and how far each is done) lies in the frame table's records of the tables themselves, so that freeing memory
//! never needs memory.

use core::sync::atomic::Ordering::Relaxed;

use arch::addr::PhysAddr;
use arch::paging::{ADDRESS_MASK, ENTRIES};

use super::frame_table::FrameList;
use super::{PAGE_BYTES, Progress, frames};

/// Who owns the frames to which the lowest tables of a tree point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaves {
    /// The tree: they are freed with it. Its frames may be [shared](frames::share) with other trees, and then stay.
    Owned,
    /// Somebody else: they are left alone.
    Foreign,
}

const OWNED: u8 = 0x80;
/// A block of frames that are held one by one.
const BLOCK: u8 = 0x40;

/// In a word of a table above the lowest: it is the address of a block, not of a table. The bit is that of page tables (Intel SDM vol. 3A
/// §4.5), so that one walk does for both.
pub(super) const LARGE: u64 = 1 << 7;

/// What freeing a frame counts in entries looked at, as `bench-stretches` has it.
const FREE_COST: usize = 12;
/// The same for a frame that others go on sharing.
const SHARED_COST: usize = 6;

/// A stack of trees.
#[derive(Debug)]
pub(super) struct Discard {
    frames: FrameList,
}

impl Discard {
    pub(super) const fn new() -> Discard {
        Discard {
            frames: FrameList::new(),
        }
    }

    /// Puts a tree in. `level` is how many tables lie on the way to a leaf: 0 for a plain frame.
    ///
    /// The tree must be out of everyone's reach, also of page walkers; of a tree that owns its leaves, at least its root.
    pub(super) fn push(&mut self, root: PhysAddr, level: u32, leaves: Leaves) {
        let table = frames::table();
        let record = table.record(root.as_u64() / PAGE_BYTES);
        record.note.store(
            level as u8 | if leaves == Leaves::Owned { OWNED } else { 0 },
            Relaxed,
        );
        record.tag.store(0, Relaxed);
        self.frames.push(&table, root);
    }

    /// Puts a block in to which no word refers any more. Of its frames those go that nobody else refers to.
    pub(super) fn push_block(&mut self, block: PhysAddr) {
        if frames::is_apart(block) {
            self.push(block, 0, Leaves::Owned);
            let record = frames::table();
            record
                .record(block.as_u64() / PAGE_BYTES)
                .note
                .store(OWNED | BLOCK, Relaxed);
        } else {
            // Held as one, and freed as one: a leaf.
            self.push(block, 0, Leaves::Owned);
        }
    }

    /// Takes all trees of `other` over.
    pub(super) fn append(&mut self, mut other: Discard) {
        let table = frames::table();
        while let Some(frame) = other.frames.pop(&table) {
            self.frames.push(&table, frame);
        }
    }

    /// Frees a piece: about `budget` entries are looked at. `freed` grows by the frames that were freed.
    pub(super) fn step(&mut self, budget: usize, freed: &mut u64) -> Progress {
        let table = frames::table();
        let mut left = budget;
        while let Some(node) = self.frames.peek() {
            if left == 0 {
                return Progress::More;
            }
            let record = table.record(node.as_u64() / PAGE_BYTES);
            let note = record.note.load(Relaxed);
            if note & BLOCK != 0 {
                // The first goes last: its record says how far this has come.
                let mut number = u64::from(record.tag.load(Relaxed));
                while number + 1 < ENTRIES as u64 && left > 0 {
                    number += 1;
                    left -= 1;
                    let frame = node + number * PAGE_BYTES;
                    left = left.saturating_sub(if frames::release(frame) {
                        frames::free_frame(frame);
                        *freed += 1;
                        FREE_COST
                    } else {
                        SHARED_COST
                    });
                }
                record.tag.store(number as u32, Relaxed);
                if number + 1 < ENTRIES as u64 {
                    return Progress::More;
                }
                self.frames.pop(&table);
                if frames::release(node) {
                    frames::free_frame(node);
                    *freed += 1;
                }
                continue;
            }
            let (level, owned) = (note & !OWNED, note & OWNED != 0);
            let mut below = None;
            // The lowest tables of a tree that owns no leaves need no look.
            if level > 1 || level == 1 && owned {
                let mut index = record.tag.load(Relaxed) as usize;
                let words = frames::words(node);
                while index < ENTRIES && left > 0 && below.is_none() {
                    // SAFETY: the frame is a table of a tree that is ours alone, in the direct map; the index is below 512.
                    let entry = unsafe { words.add(index).read() };
                    index += 1;
                    left -= 1;
                    if entry == 0 {
                        continue;
                    }
                    let child = PhysAddr::new(entry & ADDRESS_MASK);
                    let large = level > 1 && entry & LARGE != 0;
                    if large && !owned {
                        continue;
                    }
                    if large && frames::is_apart(child) {
                        if frames::release_block(child) {
                            below = Some((child, true));
                        }
                        continue;
                    }
                    if owned && !frames::release(child) {
                        left = left.saturating_sub(SHARED_COST);
                        continue;
                    }
                    if level == 1 || large {
                        frames::free_frame(child);
                        *freed += if large { ENTRIES as u64 } else { 1 };
                        left = left.saturating_sub(FREE_COST);
                    } else {
                        below = Some((child, false));
                    }
                }
                record.tag.store(index as u32, Relaxed);
                if let Some((block, true)) = below {
                    self.push_block(block);
                    continue;
                }
                if let Some((child, false)) = below {
                    self.push(
                        child,
                        u32::from(level) - 1,
                        if owned {
                            Leaves::Owned
                        } else {
                            Leaves::Foreign
                        },
                    );
                    continue;
                }
                if index < ENTRIES {
                    return Progress::More;
                }
            }
            self.frames.pop(&table);
            frames::free_frame(node);
            *freed += 1;
            left = left.saturating_sub(FREE_COST);
        }
        Progress::Done
    }
}
