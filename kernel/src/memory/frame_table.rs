//! What is known of each physical frame: sixteen bytes for each.
//!
//! The table is cut into sections of 128 MiB of memory, and only sections with RAM in them have storage, so that a
//! machine whose RAM lies far apart pays for the RAM and not for the gaps. It is placed at boot in usable memory and read
//! through the direct map, whose offset changes once; so physical addresses are kept here and never pointers.
//!
//! A record's `next`, `tag` and `note` belong to whoever holds the frame ([`FrameList`] strings frames together by
//! them without a byte of their contents), and so does `prev`, which counts how many [arrays](super::radix) share a held frame; the other
//! fields are the allocator's, under its lock, but that what a [prepared](super::prepared) frame is for is noted when it is handed out. All are atomics, since the allocator looks at neighbours that others hold.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use abi::Error;
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;

use super::PAGE_BYTES;
use super::map::MemoryRange;

/// No frame.
pub(super) const NONE: u32 = u32::MAX;
/// Frames from this number up (16 TiB) have no name in 32 bits and are left unused.
pub(super) const FRAME_LIMIT: u64 = NONE as u64;

const SECTION_SHIFT: u32 = 15;
const SECTION_FRAMES: u64 = 1 << SECTION_SHIFT;

/// One frame's record.
#[repr(C)]
pub(super) struct Frame {
    pub(super) next: AtomicU32,
    /// Free: the neighbour in the list. Held: how many words refer to it; 1 when it is handed out.
    pub(super) prev: AtomicU32,
    /// The holder's own.
    pub(super) tag: AtomicU32,
    pub(super) state: AtomicU8,
    pub(super) order: AtomicU8,
    pub(super) kind: AtomicU8,
    /// The holder's own.
    pub(super) note: AtomicU8,
}

const FRAME_BYTES: u64 = size_of::<Frame>() as u64;
const _: () = assert!(FRAME_BYTES == 16);

/// The table, by the place where it lies. All zero: no table, no frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameTable {
    /// Physical address of an array of physical addresses, one for each section; 0: no storage.
    sections: u64,
    /// One past the highest frame.
    end: u64,
    /// Physical address and number of the managed ranges, as pairs of first frame and end.
    ranges: u64,
    range_count: u64,
}

impl FrameTable {
    /// No table.
    pub(super) const NONE: FrameTable = FrameTable {
        sections: 0,
        end: 0,
        ranges: 0,
        range_count: 0,
    };

    /// Places a table for all managed ranges of `map` at the end of the highest usable range that can hold it. Returns it with
    /// the frames (first, count) that it takes; all of its records are zero.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if no usable range is large enough; [`Error::BadArgument`] if managed ranges overlap.
    pub(super) fn place(
        map: &(impl Iterator<Item = MemoryRange> + Clone),
    ) -> Result<(FrameTable, u64, u64), Error> {
        let managed = || {
            map.clone()
                .filter_map(clip)
                .filter(|range| range.kind.is_managed())
        };
        let mut end = 0;
        let mut range_count = 0;
        for (index, range) in managed().enumerate() {
            if managed()
                .take(index)
                .any(|other| other.start < range.end() && range.start < other.end())
            {
                return Err(Error::BadArgument);
            }
            end = end.max(range.end());
            range_count += 1;
        }
        let sections = end.div_ceil(SECTION_FRAMES);
        let has_ram = |section: u64| {
            let start = section << SECTION_SHIFT;
            managed().any(|range| range.start < start + SECTION_FRAMES && start < range.end())
        };
        let records = |section: u64| SECTION_FRAMES.min(end - (section << SECTION_SHIFT));
        let record_bytes: u64 = (0..sections)
            .filter(|&s| has_ram(s))
            .map(|s| records(s) * FRAME_BYTES)
            .sum();
        let head_bytes = sections * 8 + range_count * 16;
        let frames = head_bytes
            .next_multiple_of(16)
            .saturating_add(record_bytes)
            .div_ceil(PAGE_BYTES);

        let home = managed()
            .filter(|range| range.kind == super::map::MemoryKind::Usable && range.frames > frames)
            .max_by_key(|range| range.start)
            .ok_or(Error::NoMemory)?;
        let first = home.end() - frames;
        let base = first * PAGE_BYTES;
        // SAFETY: the frames are usable RAM that nobody holds, and in the direct map.
        unsafe { phys_to_virt(PhysAddr::new(base)).write_bytes(0, (frames * PAGE_BYTES) as usize) };

        let table = FrameTable {
            sections: base,
            end,
            ranges: base + sections * 8,
            range_count,
        };
        let mut next = base + head_bytes.next_multiple_of(16);
        for section in (0..sections).filter(|&section| has_ram(section)) {
            table.section(section).store(next, Ordering::Relaxed);
            next += records(section) * FRAME_BYTES;
        }
        for (index, range) in managed().enumerate() {
            table
                .range_word(index as u64 * 2)
                .store(range.start, Ordering::Relaxed);
            table
                .range_word(index as u64 * 2 + 1)
                .store(range.end(), Ordering::Relaxed);
        }
        Ok((table, first, frames))
    }

    /// The record of a frame, if it lies in a section with RAM.
    #[inline]
    pub(super) fn get(&self, number: u64) -> Option<&'static Frame> {
        // SAFETY: it has a record; records are atomics, and the table lives for ever.
        self.place_of(number).map(|record| unsafe { &*record })
    }

    /// Where it lies. [`place`](Self::place) gave the section a record for each frame below `end`, in a row.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "sections and records are aligned to 16 bytes"
    )]
    #[inline]
    fn place_of(&self, number: u64) -> Option<*const Frame> {
        if number >= self.end {
            return None;
        }
        let section = self
            .section(number >> SECTION_SHIFT)
            .load(Ordering::Relaxed);
        if section == 0 {
            return None;
        }
        let record = PhysAddr::new(section + (number & (SECTION_FRAMES - 1)) * FRAME_BYTES);
        Some(phys_to_virt(record).cast::<Frame>().cast_const())
    }

    /// The record of a frame that the caller holds.
    ///
    /// # Panics
    /// If there is none: the frame is not RAM.
    #[inline]
    pub(super) fn record(&self, number: u64) -> &'static Frame {
        self.get(number).expect("a held frame has a record")
    }

    /// The records of a block of frames that the caller holds: at most a section's, on a multiple of its size.
    ///
    /// # Panics
    /// If there are none: the block is not RAM.
    pub(super) fn block(&self, number: u64, frames: u64) -> &'static [Frame] {
        assert!(
            frames.is_power_of_two() && number.is_multiple_of(frames),
            "a block is one"
        );
        self.row(number, frames)
    }

    /// So many records from a frame's on, of one section.
    ///
    /// # Panics
    /// If there are none.
    fn row(&self, first: u64, frames: u64) -> &'static [Frame] {
        let last = first + frames - 1;
        assert!(
            first >> SECTION_SHIFT == last >> SECTION_SHIFT && last < self.end,
            "a row of records lies in one section"
        );
        let place = self.place_of(first).expect("a held frame has a record");
        // SAFETY: the records of a section lie in a row, and these are some of them; records are atomics, and the table lives for ever.
        unsafe { core::slice::from_raw_parts(place, frames as usize) }
    }

    /// Calls `visit` with the record of each frame, all of which the caller holds. For many that lie near each other: what it takes to find a section's
    /// records is done once for each time that the section changes.
    ///
    /// # Panics
    /// If there is none: a frame is not RAM.
    pub(super) fn visit(&self, numbers: impl Iterator<Item = u64>, mut visit: impl FnMut(&Frame)) {
        let (mut near, mut records): (u64, &[Frame]) = (u64::MAX, &[]);
        for number in numbers {
            let section = number >> SECTION_SHIFT;
            if section != near {
                let first = section << SECTION_SHIFT;
                records = self.row(first, SECTION_FRAMES.min(self.end.saturating_sub(first)));
                near = section;
            }
            let within = (number & (SECTION_FRAMES - 1)) as usize;
            visit(&records[within]);
        }
    }

    /// Whether any of the frames belongs to a managed range.
    pub(super) fn overlaps_managed(&self, start: u64, end: u64) -> bool {
        (0..self.range_count).any(|index| {
            let first = self.range_word(index * 2).load(Ordering::Relaxed);
            let last = self.range_word(index * 2 + 1).load(Ordering::Relaxed);
            start < last && first < end
        })
    }

    /// Whether all of the frames lie in one managed range.
    pub(super) fn is_managed(&self, start: u64, end: u64) -> bool {
        (0..self.range_count).any(|index| {
            self.range_word(index * 2).load(Ordering::Relaxed) <= start
                && end <= self.range_word(index * 2 + 1).load(Ordering::Relaxed)
        })
    }

    fn section(&self, section: u64) -> &'static AtomicU64 {
        // SAFETY: `place` reserved a zeroed word for each section below `end`, in the direct map, for ever.
        unsafe { &*phys_to_virt(PhysAddr::new(self.sections + section * 8)).cast() }
    }

    fn range_word(&self, word: u64) -> &'static AtomicU64 {
        // SAFETY: as in `section`, for two words a range.
        unsafe { &*phys_to_virt(PhysAddr::new(self.ranges + word * 8)).cast() }
    }

    /// Parts for storage in atomics.
    pub(super) fn to_words(self) -> [u64; 4] {
        [self.sections, self.end, self.ranges, self.range_count]
    }

    /// The table with these parts.
    pub(super) fn from_words([sections, end, ranges, range_count]: [u64; 4]) -> FrameTable {
        FrameTable {
            sections,
            end,
            ranges,
            range_count,
        }
    }
}

/// The part of a range that can be managed: not frame 0, nothing from [`FRAME_LIMIT`] up, not empty.
pub(super) fn clip(range: MemoryRange) -> Option<MemoryRange> {
    let start = range.start.max(1);
    let end = range.end().min(FRAME_LIMIT);
    (start < end).then(|| MemoryRange {
        start,
        frames: end - start,
        ..range
    })
}

/// A stack of held frames, strung together by their records.
#[derive(Debug)]
pub(super) struct FrameList {
    head: u32,
    count: u32,
}

impl FrameList {
    pub(super) const fn new() -> FrameList {
        FrameList {
            head: NONE,
            count: 0,
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Puts a frame that the caller holds on top.
    pub(super) fn push(&mut self, table: &FrameTable, frame: PhysAddr) {
        let number = frame.as_u64() / PAGE_BYTES;
        table
            .record(number)
            .next
            .store(self.head, Ordering::Relaxed);
        self.head = number as u32;
        self.count += 1;
    }

    /// The frame on top.
    pub(super) fn peek(&self) -> Option<PhysAddr> {
        (self.head != NONE).then(|| PhysAddr::new(u64::from(self.head) * PAGE_BYTES))
    }

    /// Takes the frame on top.
    pub(super) fn pop(&mut self, table: &FrameTable) -> Option<PhysAddr> {
        let frame = self.peek()?;
        self.head = table
            .record(u64::from(self.head))
            .next
            .load(Ordering::Relaxed);
        self.count -= 1;
        Some(frame)
    }
}
