//! Which frames are free: a buddy allocator (Knowlton 1965) over the frame table.
//!
//! Free memory is kept as blocks of 2^order frames, aligned to their size, in a list for each order and zone. Taking
//! and giving back cost at most one step an order. Only the first frame of a block has a meaningful record: a block
//! that is merged into a larger one has its record cleared, so that what is not the start of a free or held block is state
//! [`NOTHING`], which is how a double free shows.
//!
//! Zones keep scarce memory for those who need it: a request is served from the highest zone that may serve it, so that
//! what lies below 1 MiB (where CPUs start) and below 4 GiB goes last.

use core::sync::atomic::Ordering::Relaxed;

use super::frame_table::{Frame, FrameTable, NONE, clip};
use super::map::MemoryRange;

/// Largest order: blocks of 4 MiB.
pub(super) const MAX_ORDER: u8 = 10;
/// Blocks of one size that a search for a place looks at.
const BLOCKS_LOOKED_AT: usize = 64;
const ORDERS: usize = MAX_ORDER as usize + 1;

/// A frame that is not the start of anything: inside a block, or no RAM.
const NOTHING: u8 = 0;
const FREE: u8 = 1;
const HELD: u8 = 2;

/// A stretch of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Zone {
    /// Below 1 MiB.
    Low,
    /// Below 4 GiB.
    Below4G,
    /// All the rest.
    High,
}

const ZONES: usize = 3;
/// First frames of the zones above the lowest. Both are aligned to the largest block that can lie below them.
const BELOW_4G_START: u64 = 0x10_0000 / 4096;
const HIGH_START: u64 = 0x1_0000_0000 / 4096;

impl Zone {
    pub(super) fn of(number: u64) -> Zone {
        match number {
            HIGH_START.. => Zone::High,
            BELOW_4G_START.. => Zone::Below4G,
            _ => Zone::Low,
        }
    }
}

/// What frames are held for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Objects and tables of the kernel.
    Kernel = 0,
    /// Page tables.
    PageTable = 1,
    /// Kernel stacks.
    Stack = 2,
    /// Contents of user memory.
    User = 3,
    /// [Prepared](super::prepared) in advance, for whoever comes next: as good as free.
    Prepared = 4,
}

impl FrameKind {
    /// How many kinds there are.
    pub const COUNT: usize = 5;
}

/// Counts of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// All that is managed.
    pub total: u64,
    /// Free now.
    pub free: u64,
    /// Of the total, what was added after the start.
    pub reclaimed: u64,
    /// Held, by [`FrameKind`].
    pub held: [u64; FrameKind::COUNT],
}

/// A frame was given back that is not held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotHeld;

#[derive(Clone, Copy)]
struct Lists {
    heads: [u32; ORDERS],
    /// Bit *n*: the list of order *n* is not empty.
    filled: u16,
}

/// The allocator.
pub(super) struct Buddy {
    table: FrameTable,
    zones: [Lists; ZONES],
    statistics: Statistics,
}

impl Buddy {
    /// An allocator without memory.
    pub(super) const fn new(table: FrameTable) -> Buddy {
        let lists = Lists {
            heads: [NONE; ORDERS],
            filled: 0,
        };
        let statistics = Statistics {
            total: 0,
            free: 0,
            reclaimed: 0,
            held: [0; FrameKind::COUNT],
        };
        Buddy {
            table,
            zones: [lists; ZONES],
            statistics,
        }
    }

    /// As it knows them: see [`prepared::taken`](super::prepared::taken). A count of held frames may be below zero, wrapped around.
    pub(super) fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// More frames are held. The count may be below zero: frames may be given back as another kind than they were taken for.
    fn count(&mut self, kind: FrameKind, frames: u64) {
        let held = &mut self.statistics.held[kind as usize];
        *held = held.wrapping_add(frames);
    }

    /// How many are free.
    pub(super) fn count_free(&self) -> u64 {
        self.statistics.free
    }

    /// Counts frames that are managed and held from the start (the frame table's own).
    pub(super) fn count_held(&mut self, frames: u64, kind: FrameKind) {
        self.statistics.total += frames;
        self.count(kind, frames);
    }

    /// Takes a range over as free memory. The caller promises that it is RAM that nobody uses, within the frame table.
    pub(super) fn add(&mut self, range: MemoryRange, reclaimed: bool) {
        let Some(range) = clip(range) else { return };
        let mut start = range.start;
        while start < range.end() {
            let fits = (range.end() - start).ilog2() as u8;
            let order = MAX_ORDER.min(start.trailing_zeros() as u8).min(fits);
            self.insert(start, order);
            start += 1 << order;
        }
        self.statistics.total += range.frames;
        self.statistics.free += range.frames;
        if reclaimed {
            self.statistics.reclaimed += range.frames;
        }
    }

    /// Takes a block of 2^`order` frames from `highest` or a zone below it; gives the number of its first frame.
    pub(super) fn allocate(&mut self, order: u8, highest: Zone, kind: FrameKind) -> Option<u64> {
        if order > MAX_ORDER {
            return None;
        }
        let zone = (0..=highest as usize)
            .rev()
            .find(|&zone| self.zones[zone].filled >> order != 0)?;
        let found = order + (self.zones[zone].filled >> order).trailing_zeros() as u8;
        let number = u64::from(self.zones[zone].heads[found as usize]);
        self.unlist(number, found);
        for half in (order..found).rev() {
            self.list(number + (1 << half), half);
        }
        let record = self.table.record(number);
        record.state.store(HELD, Relaxed);
        record.order.store(order, Relaxed);
        record.prev.store(1, Relaxed);
        record.kind.store(kind as u8, Relaxed);
        self.statistics.free -= 1 << order;
        self.count(kind, 1 << order);
        Some(number)
    }

    /// Takes `frames` frames in a row, of which the first has a number that is a multiple of 2^`align` and the last one below `limit`; gives
    /// the number of the first. They are held as blocks of their own sizes, and [`free_run`](Self::free_run) gives them back. Looks
    /// at a bounded number of blocks, so it may find none although there is one.
    pub(super) fn allocate_run(
        &mut self,
        frames: u64,
        align: u8,
        limit: u64,
        kind: FrameKind,
    ) -> Option<u64> {
        let order = align.max(frames.next_power_of_two().trailing_zeros() as u8);
        if frames == 0 || order > MAX_ORDER {
            return None;
        }
        let (number, found) = self.find_below(order, frames, limit)?;
        self.unlist(number, found);
        for half in (order..found).rev() {
            self.list(number + (1 << half), half);
        }
        let (mut next, end) = (number, number + frames);
        while next < end {
            let part = (end - next).ilog2() as u8;
            let record = self.table.record(next);
            record.state.store(HELD, Relaxed);
            record.order.store(part, Relaxed);
            record.prev.store(1, Relaxed);
            record.kind.store(kind as u8, Relaxed);
            next += 1 << part;
        }
        self.statistics.free -= frames;
        self.count(kind, frames);
        let end = number + (1 << order);
        while next < end {
            let part = (next.trailing_zeros() as u8).min((end - next).ilog2() as u8);
            self.insert(next, part);
            next += 1 << part;
        }
        Some(number)
    }

    /// A free block of 2^`order` frames or more whose first `frames` end at `limit` or below; its number and order.
    fn find_below(&self, order: u8, frames: u64, limit: u64) -> Option<(u64, u8)> {
        for lists in self.zones.iter().rev() {
            for found in order..=MAX_ORDER {
                let mut number = lists.heads[found as usize];
                for _ in 0..BLOCKS_LOOKED_AT {
                    if number == NONE {
                        break;
                    }
                    if u64::from(number) + frames <= limit {
                        return Some((u64::from(number), found));
                    }
                    number = self.table.record(u64::from(number)).next.load(Relaxed);
                }
            }
        }
        None
    }

    /// Gives back what [`allocate_run`](Self::allocate_run) gave.
    pub(super) fn free_run(&mut self, number: u64, frames: u64) -> Result<(), NotHeld> {
        let mut next = number;
        while next < number + frames {
            let order = self.table.get(next).ok_or(NotHeld)?.order.load(Relaxed);
            self.free(next)?;
            next += 1 << order;
        }
        Ok(())
    }

    /// Makes a block that was taken into as many frames that are held one by one.
    pub(super) fn take_apart(&mut self, number: u64) {
        let first = self.table.record(number);
        let frames = 1 << first.order.load(Relaxed);
        let kind = first.kind.load(Relaxed);
        for record in self.table.block(number, frames) {
            record.state.store(HELD, Relaxed);
            record.order.store(0, Relaxed);
            record.prev.store(1, Relaxed);
            record.kind.store(kind, Relaxed);
        }
    }

    /// Gives back a block that was taken.
    pub(super) fn free(&mut self, number: u64) -> Result<(), NotHeld> {
        let record = self.table.get(number).ok_or(NotHeld)?;
        if record.state.load(Relaxed) != HELD {
            return Err(NotHeld);
        }
        let order = record.order.load(Relaxed);
        self.statistics.free += 1 << order;
        let held = &mut self.statistics.held[record.kind.load(Relaxed) as usize];
        *held = held.wrapping_sub(1 << order);
        record.state.store(NOTHING, Relaxed);
        self.insert(number, order);
        Ok(())
    }

    /// Puts a free block in, merged with its free buddies.
    fn insert(&mut self, mut number: u64, mut order: u8) {
        while order < MAX_ORDER {
            let buddy = number ^ 1 << order;
            if Zone::of(buddy) != Zone::of(number)
                || !self
                    .table
                    .get(buddy)
                    .is_some_and(|b| is_free_block(b, order))
            {
                break;
            }
            self.unlist(buddy, order);
            number = number.min(buddy);
            order += 1;
        }
        self.list(number, order);
    }

    /// Puts a block at the head of its list.
    fn list(&mut self, number: u64, order: u8) {
        let lists = &mut self.zones[Zone::of(number) as usize];
        let head = lists.heads[order as usize];
        let record = self.table.record(number);
        record.state.store(FREE, Relaxed);
        record.order.store(order, Relaxed);
        record.prev.store(NONE, Relaxed);
        record.next.store(head, Relaxed);
        if head != NONE {
            self.table
                .record(u64::from(head))
                .prev
                .store(number as u32, Relaxed);
        }
        lists.heads[order as usize] = number as u32;
        lists.filled |= 1 << order;
    }

    /// Takes a block out of its list.
    fn unlist(&mut self, number: u64, order: u8) {
        let lists = &mut self.zones[Zone::of(number) as usize];
        let record = self.table.record(number);
        debug_assert!(is_free_block(record, order));
        record.state.store(NOTHING, Relaxed);
        let (next, prev) = (record.next.load(Relaxed), record.prev.load(Relaxed));
        if next != NONE {
            self.table.record(u64::from(next)).prev.store(prev, Relaxed);
        }
        if prev == NONE {
            lists.heads[order as usize] = next;
            if next == NONE {
                lists.filled &= !(1 << order);
            }
        } else {
            self.table.record(u64::from(prev)).next.store(next, Relaxed);
        }
    }
}

fn is_free_block(record: &Frame, order: u8) -> bool {
    record.state.load(Relaxed) == FREE && record.order.load(Relaxed) == order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::map::MemoryKind;
    use crate::memory::testing;

    /// Some memory in each zone, with odd borders and holes; the table lies in the last range, which is backed.
    fn machine(window: u64) -> (Buddy, Vec<(u64, u64)>) {
        let usable = |start, frames| MemoryRange {
            start,
            frames,
            kind: MemoryKind::Usable,
        };
        let map = [
            usable(0, 13),
            usable(17, 142),
            usable(256, 700),
            usable(0x8_0003, 77),
            usable(window, 1024),
        ];
        let (table, first, count) = FrameTable::place(&map.iter().copied()).unwrap();
        let mut buddy = Buddy::new(table);
        let mut free = Vec::new();
        for mut range in map {
            if range.start == window {
                assert_eq!(first + count, range.end());
                range.frames -= count;
            }
            buddy.add(range, false);
            free.push((range.start.max(1), range.end()));
        }
        (buddy, free)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn blocks_are_aligned_disjoint_and_all_come_back(
            steps in prop::collection::vec((0u8..4, 0u8..=MAX_ORDER, any::<prop::sample::Index>()), 1..400)
        ) {
            let window = testing::exclusive_window();
            let (mut buddy, ranges) = machine(window.start);
            let total: u64 = ranges.iter().map(|(start, end)| end - start).sum();
            prop_assert_eq!(buddy.statistics().total, total);
            // First frame -> frames, of what is held.
            let mut held: BTreeMap<u64, u64> = BTreeMap::new();
            for (what, order, pick) in steps {
                if what < 3 {
                    let order = if what == 0 { order } else { 0 };
                    let zone = [Zone::High, Zone::Below4G, Zone::Low][what as usize];
                    if let Some(number) = buddy.allocate(order, zone, FrameKind::User) {
                        let frames = 1u64 << order;
                        prop_assert_eq!(number % frames, 0);
                        prop_assert!(Zone::of(number) <= zone);
                        prop_assert!(ranges.iter().any(|&(start, end)| start <= number && number + frames <= end));
                        let before = held.range(..=number).next_back();
                        prop_assert!(before.is_none_or(|(start, count)| start + count <= number));
                        prop_assert!(held.range(number..).next().is_none_or(|(&start, _)| number + frames <= start));
                        held.insert(number, frames);
                    } else if order == 0 {
                        // A single frame is refused only if the zones that may serve are used up.
                        let in_zone = |number: u64| Zone::of(number) <= zone;
                        let free: u64 = ranges.iter().filter(|r| in_zone(r.0)).map(|r| r.1 - r.0).sum::<u64>()
                            - held.iter().filter(|h| in_zone(*h.0)).map(|h| h.1).sum::<u64>();
                        prop_assert_eq!(free, 0);
                    }
                } else if !held.is_empty() {
                    let number = *held.keys().nth(pick.index(held.len())).unwrap();
                    held.remove(&number);
                    prop_assert_eq!(buddy.free(number), Ok(()));
                    prop_assert_eq!(buddy.free(number), Err(NotHeld));
                }
                prop_assert_eq!(buddy.statistics().free, total - held.values().sum::<u64>());
            }
            for &number in held.keys() {
                prop_assert_eq!(buddy.free(number), Ok(()));
            }
            prop_assert_eq!(buddy.statistics().held, [0; FrameKind::COUNT]);
            // All is merged again: the same blocks can be had as from a fresh allocator. Both tables are the same memory, so one
            // is counted after the other.
            let blocks = |buddy: &mut Buddy| -> Vec<usize> {
                (0..=MAX_ORDER)
                    .rev()
                    .map(|order| std::iter::from_fn(|| buddy.allocate(order, Zone::High, FrameKind::User)).count())
                    .collect()
            };
            let used = blocks(&mut buddy);
            prop_assert_eq!(used, blocks(&mut machine(window.start).0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn runs_lie_where_they_were_asked_for_and_come_back(
            wishes in prop::collection::vec((1u64..1100, 0u8..=MAX_ORDER + 1, prop::sample::select(vec![64u64, 200, 0x8_0040, 1 << 40])), 1..24)
        ) {
            let window = testing::exclusive_window();
            let (mut buddy, ranges) = machine(window.start);
            let before = buddy.statistics();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (frames, align, limit) in wishes {
                let Some(number) = buddy.allocate_run(frames, align, limit, FrameKind::User) else {
                    continue;
                };
                prop_assert_eq!(number % (1 << align), 0);
                prop_assert!(number + frames <= limit);
                prop_assert!(ranges.iter().any(|&(start, end)| start <= number && number + frames <= end));
                prop_assert!(held.iter().all(|&(first, count)| first + count <= number || number + frames <= first));
                held.push((number, frames));
                let used: u64 = held.iter().map(|held| held.1).sum();
                prop_assert_eq!(buddy.statistics().free, before.free - used);
            }
            for (number, frames) in held {
                prop_assert_eq!(buddy.free_run(number, frames), Ok(()));
                prop_assert_eq!(buddy.free_run(number, frames), Err(NotHeld));
            }
            prop_assert_eq!(buddy.statistics(), before);
            // All is merged again: the same blocks can be had as from a fresh allocator.
            let blocks = |buddy: &mut Buddy| -> Vec<usize> {
                (0..=MAX_ORDER)
                    .rev()
                    .map(|order| std::iter::from_fn(|| buddy.allocate(order, Zone::High, FrameKind::User)).count())
                    .collect()
            };
            let used = blocks(&mut buddy);
            prop_assert_eq!(used, blocks(&mut machine(window.start).0));
        }
    }

    #[test]
    fn high_memory_goes_first_and_low_memory_last() {
        let window = testing::exclusive_window();
        let (mut buddy, _) = machine(window.start);
        let zones: Vec<Zone> =
            std::iter::from_fn(|| buddy.allocate(0, Zone::High, FrameKind::Kernel))
                .map(Zone::of)
                .collect();
        assert!(zones.is_sorted_by(|a, b| a >= b));
        assert_eq!(
            zones.iter().filter(|&&zone| zone == Zone::Low).count(),
            12 + 142
        );
        assert_eq!(buddy.allocate(0, Zone::High, FrameKind::Kernel), None);
    }

    #[test]
    fn what_was_never_taken_cannot_be_given_back() {
        let window = testing::exclusive_window();
        let (mut buddy, _) = machine(window.start);
        for number in [0, 5, 14, 0x8_0000, window.start + 1, u64::MAX / 4096] {
            assert_eq!(buddy.free(number), Err(NotHeld));
        }
        assert_eq!(
            buddy.allocate(MAX_ORDER + 1, Zone::High, FrameKind::Kernel),
            None
        );
    }

    #[test]
    fn memory_that_comes_later_is_counted_and_merged() {
        let window = testing::exclusive_window();
        let range = |start, frames, kind| MemoryRange {
            start,
            frames,
            kind,
        };
        let half = window.start.next_multiple_of(1 << MAX_ORDER);
        let map = [
            range(half, 512, MemoryKind::Reclaimable),
            range(half + 512, 512, MemoryKind::Usable),
            range(half + 1024, 1024, MemoryKind::Usable),
        ];
        let (table, first, count) = FrameTable::place(&map.iter().copied()).unwrap();
        let mut buddy = Buddy::new(table);
        buddy.add(map[1], false);
        buddy.add(
            range(half + 1024, first - (half + 1024), MemoryKind::Usable),
            false,
        );
        assert_eq!(first + count, half + 2048);
        assert_eq!(
            buddy.allocate(MAX_ORDER, Zone::High, FrameKind::Kernel),
            None
        );
        buddy.add(map[0], true);
        assert_eq!(buddy.statistics().reclaimed, 512);
        assert_eq!(
            buddy.allocate(MAX_ORDER, Zone::High, FrameKind::Kernel),
            Some(half)
        );
    }
}
