//! The physical frame allocator: the one source of memory of the kernel.
//!
//! It is a [buddy allocator](super::buddy) behind one lock. Everything that can be had here can be refused, so each
//! function gives an `Option`. Frame 0 is never handed out (a physical address of 0 means *none* in tables), and memory below
//! 1 MiB is the last to go. Zeroed frames come from what each CPU has [prepared](super::prepared), past the lock.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Error;
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;
use arch::paging::{ENTRIES, FrameSource};

use super::PAGE_BYTES;
use super::buddy::{Buddy, Zone};
use super::prepared;

pub use super::buddy::{FrameKind, Statistics};
use super::frame_table::{Frame, FrameTable};
use super::map::{MemoryKind, MemoryRange};
use crate::sync::{Mutex, level};

/// Frames that are zeroed between two pauses: some eight thousand instructions.
const ZERO_PIECE: u64 = 16;

static FRAMES: Mutex<{ level::FRAMES }, Buddy> = Mutex::new(Buddy::new(FrameTable::NONE));

/// The frame table, readable without the lock: it is written once, before anything is handed out.
static TABLE: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Takes the machine's memory over: all usable ranges are free from now on, and reclaimable ones can be
/// [added](add_region) later. Called once, with the loader's direct map in force. Order and overlap of other kinds don't matter.
///
/// # Errors
/// [`Error::NoMemory`] if no usable range can hold the table of frames; [`Error::BadArgument`] if usable or reclaimable ranges
/// overlap; [`Error::WrongState`] the second time.
pub fn init(map: impl Iterator<Item = MemoryRange> + Clone) -> Result<(), Error> {
    let mut frames = FRAMES.lock();
    if frames.statistics().total != 0 {
        return Err(Error::WrongState);
    }
    let (table, first, count) = FrameTable::place(&map)?;
    for (word, value) in TABLE.iter().zip(table.to_words()) {
        word.store(value, Ordering::Release);
    }
    *frames = Buddy::new(table);
    frames.count_held(count, FrameKind::Kernel);
    for range in map.filter(|range| range.kind == MemoryKind::Usable) {
        // The table lies at the end of one of them.
        let holds_table = range.start <= first && first < range.end();
        let end = if holds_table { first } else { range.end() };
        frames.add(
            MemoryRange {
                frames: end - range.start,
                ..range
            },
            false,
        );
    }
    Ok(())
}

/// Takes over a range that was reclaimable at [`init`] and that nobody uses any more.
///
/// # Errors
/// [`Error::OutOfRange`] if the range was not in the map given at the start.
///
/// # Safety
/// Nothing may use the memory any more, and each range may be added once.
pub unsafe fn add_region(range: MemoryRange) -> Result<(), Error> {
    let Some(clipped) = super::frame_table::clip(range) else {
        return Ok(());
    };
    if !table().is_managed(clipped.start, clipped.end()) {
        return Err(Error::OutOfRange);
    }
    FRAMES.lock().add(range, true);
    Ok(())
}

/// Takes a page below 1 MiB, for the code with which other CPUs start (it begins at a page that has an 8-bit number).
///
/// Low memory is handed out last, so one is left as long as this is asked for before memory runs short.
pub fn reserve_low_page() -> Option<PhysAddr> {
    take(0, Zone::Low, FrameKind::Kernel)
}

/// A frame for the kernel's own use, with arbitrary contents.
#[inline]
pub fn allocate_frame() -> Option<PhysAddr> {
    allocate(FrameKind::Kernel)
}

/// A frame with arbitrary contents.
#[inline]
pub fn allocate(kind: FrameKind) -> Option<PhysAddr> {
    // The machine's last frames may be those that were zeroed in advance.
    take(0, Zone::High, kind).or_else(|| prepared::take_any(kind))
}

/// A frame full of zeros.
pub fn allocate_zeroed(kind: FrameKind) -> Option<PhysAddr> {
    if let Some(frame) = prepared::take_zeroed(kind) {
        return Some(frame);
    }
    zero_one(kind)
}

/// A frame that is zeroed on the spot.
#[cold]
#[inline(never)]
fn zero_one(kind: FrameKind) -> Option<PhysAddr> {
    let frame = allocate(kind)?;
    zero(frame);
    Some(frame)
}

/// The record of a frame that the caller holds.
pub(super) fn record(frame: PhysAddr) -> &'static Frame {
    table().record(frame.as_u64() / PAGE_BYTES)
}

/// 2^`order` frames in a row, aligned to their size, with arbitrary contents. `order` is at most 10 (4 MiB).
pub fn allocate_order(order: u8, kind: FrameKind) -> Option<PhysAddr> {
    or_of_the_prepared(|| take(order, Zone::High, kind))
}

/// `frames` frames in a row (at most 1024), with arbitrary contents. The first has an address that is a multiple of 2^`align` pages, and the
/// last ends at the physical address `limit` or below.
pub(super) fn allocate_run(
    frames: u64,
    align: u8,
    limit: u64,
    kind: FrameKind,
) -> Option<PhysAddr> {
    let number = or_of_the_prepared(|| {
        FRAMES
            .lock()
            .allocate_run(frames, align, limit / PAGE_BYTES, kind)
    })?;
    Some(PhysAddr::new(number * PAGE_BYTES))
}

/// Gives back what [`allocate_run`] gave.
pub(crate) fn free_run(start: PhysAddr, frames: u64) {
    let freed = FRAMES.lock().free_run(start.as_u64() / PAGE_BYTES, frames);
    debug_assert!(freed.is_ok(), "frames at {start:?} are not held");
}

/// A frame below 4 GiB, with arbitrary contents.
pub fn allocate_below_4g(kind: FrameKind) -> Option<PhysAddr> {
    or_of_the_prepared(|| take(0, Zone::Below4G, kind))
}

/// Gives back what was allocated, by its first frame.
///
/// # Panics
/// In builds with debug assertions, if it is not held: a double free. Otherwise that is ignored.
pub fn free_frame(frame: PhysAddr) {
    let freed = FRAMES.lock().free(frame.as_u64() / PAGE_BYTES);
    debug_assert!(
        freed.is_ok(),
        "frame {frame:?} was given back but is not held"
    );
}

/// One more word refers to a held frame.
#[inline]
pub(super) fn share(frame: PhysAddr) {
    let before = references(frame).fetch_add(1, Ordering::Relaxed);
    debug_assert!(before != 0 && before < u32::MAX / 2);
}

/// [`share`] for many.
pub(super) fn share_all(held: impl Iterator<Item = PhysAddr>) {
    let numbers = held.map(|frame| frame.as_u64() / PAGE_BYTES);
    table().visit(numbers, one_more);
}

/// The same for each frame of a block that was [taken apart](take_apart).
pub(super) fn share_each_of(block: PhysAddr) {
    let records = table().block(block.as_u64() / PAGE_BYTES, ENTRIES as u64);
    records.iter().for_each(one_more);
}

/// One word more refers to the frame with this record.
fn one_more(record: &Frame) {
    let before = record.prev.fetch_add(1, Ordering::Relaxed);
    debug_assert!(before != 0 && before < u32::MAX / 2);
}

/// Whether several words refer to a held frame. What the others did with it, if there are none any more, is seen.
#[inline]
pub(super) fn is_shared(frame: PhysAddr) -> bool {
    references(frame).load(Ordering::Acquire) != 1
}

/// One word less refers to a held frame; whether it was the last. Then the frame is the caller's, to be freed.
#[inline]
#[must_use]
pub(super) fn release(frame: PhysAddr) -> bool {
    !is_shared(frame) || references(frame).fetch_sub(1, Ordering::AcqRel) == 1
}

/// Makes a held block of 512 frames into frames that are held one by one, each referred to once, by the block. To the block one word refers.
pub(super) fn take_apart(block: PhysAddr) {
    FRAMES.lock().take_apart(block.as_u64() / PAGE_BYTES);
    block_references(block).store(1, Ordering::Relaxed);
}

/// Whether a block was [taken apart](take_apart).
pub(super) fn is_apart(block: PhysAddr) -> bool {
    let order = &table().record(block.as_u64() / PAGE_BYTES).order;
    order.load(Ordering::Relaxed) == 0
}

/// One word more refers to a block that was taken apart.
pub(super) fn share_block(block: PhysAddr) {
    let before = block_references(block).fetch_add(1, Ordering::Relaxed);
    debug_assert!(before != 0 && before < u32::MAX / 2);
}

/// Whether several words refer to a block. One that is held as one is never shared.
pub(super) fn is_block_shared(block: PhysAddr) -> bool {
    is_apart(block) && block_references(block).load(Ordering::Acquire) != 1
}

/// Whether one word refers to a block, and no other word to any of its frames.
pub(super) fn is_block_alone(block: PhysAddr) -> bool {
    let records = || table().block(block.as_u64() / PAGE_BYTES, ENTRIES as u64);
    let alone = |record: &Frame| record.prev.load(Ordering::Acquire) == 1;
    !is_block_shared(block) && (!is_apart(block) || records().iter().all(alone))
}

/// One word less refers to a block; whether it was the last.
#[must_use]
pub(super) fn release_block(block: PhysAddr) -> bool {
    !is_apart(block) || block_references(block).fetch_sub(1, Ordering::AcqRel) == 1
}

/// How many words refer to a block that was taken apart. It stands with the second of its frames, as the first one's record is in use while the
/// block is [discarded](super::discard); no frame of a block goes as long as this is not 0.
fn block_references(block: PhysAddr) -> &'static AtomicU32 {
    &table().record(block.as_u64() / PAGE_BYTES + 1).tag
}

/// How many words refer to a held frame. Who counts it up holds one of them.
#[inline]
fn references(frame: PhysAddr) -> &'static AtomicU32 {
    &table().record(frame.as_u64() / PAGE_BYTES).prev
}

/// How many frames there are, and what for. Frames that are prepared, or handed out, meanwhile may be counted twice.
pub fn statistics() -> Statistics {
    let mut known = FRAMES.lock().statistics();
    // In this order: whatever was taken from a shelf and given back since is counted in neither, not below zero.
    let mut all = 0;
    for (held, taken) in known.held.iter_mut().zip(prepared::taken()) {
        *held = held.wrapping_add(taken);
        all += taken;
    }
    let prepared = &mut known.held[FrameKind::Prepared as usize];
    *prepared = prepared.saturating_sub(all);
    known
}

/// How many frames are free, without those that are prepared.
pub(super) fn count_free() -> u64 {
    FRAMES.lock().count_free()
}

/// Whether any byte of the range is RAM that is or will be this allocator's. Bounds are physical addresses.
pub fn overlaps_managed(start: u64, end: u64) -> bool {
    table().overlaps_managed(start / PAGE_BYTES, end.div_ceil(PAGE_BYTES))
}

/// Fills a frame with zeros.
pub(super) fn zero(frame: PhysAddr) {
    // SAFETY: the callers hold the frame, which is RAM in the direct map. Eight bytes a step.
    unsafe { words(frame).write_bytes(0, (PAGE_BYTES / 8) as usize) };
}

/// Fills many frames in a row with zeros, with a call of `pause` after each piece.
pub(super) fn zero_run(start: PhysAddr, frames: u64, pause: &mut dyn FnMut()) {
    for number in 0..frames {
        zero(start + number * PAGE_BYTES);
        if number % ZERO_PIECE == ZERO_PIECE - 1 {
            pause();
        }
    }
}

/// A frame's contents as words, in the direct map.
#[inline]
pub(super) fn words(frame: PhysAddr) -> *mut u64 {
    debug_assert!(frame.is_aligned(PAGE_BYTES));
    phys_to_virt(frame).cast()
}

/// The frame table.
#[inline]
pub(super) fn table() -> FrameTable {
    FrameTable::from_words([0, 1, 2, 3].map(|word: usize| TABLE[word].load(Ordering::Acquire)))
}

fn take(order: u8, highest: Zone, kind: FrameKind) -> Option<PhysAddr> {
    let number = FRAMES.lock().allocate(order, highest, kind)?;
    Some(PhysAddr::new(number * PAGE_BYTES))
}

/// What `attempt` finds; if that is nothing, what it finds when some of what was prepared is free again.
fn or_of_the_prepared<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    attempt().or_else(|| {
        let any = prepared::give_back();
        any.then(attempt).flatten()
    })
}

/// Page tables come from the frame allocator.
pub struct TableFrames;

impl FrameSource for TableFrames {
    fn allocate_table(&mut self) -> Option<PhysAddr> {
        allocate_zeroed(FrameKind::PageTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing;

    #[test]
    fn frames_are_counted_by_kind_and_zeroed_when_asked() {
        testing::machine();
        let frame = allocate(FrameKind::User).unwrap();
        // SAFETY: the frame is ours.
        unsafe { phys_to_virt(frame).write_bytes(0xA5, 4096) };
        free_frame(frame);
        let zeroed = allocate_zeroed(FrameKind::User).unwrap();
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(phys_to_virt(zeroed), 4096) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert!(statistics().held[FrameKind::User as usize] > 0);
        free_frame(zeroed);
    }

    #[test]
    fn zones_are_kept() {
        testing::machine();
        let below = allocate_below_4g(FrameKind::Kernel).unwrap();
        assert!(below.as_u64() < 1 << 32);
        free_frame(below);
        let low = reserve_low_page().unwrap();
        assert!(low.as_u64() < 0x10_0000 && low.as_u64() != 0);
        free_frame(low);
    }

    #[test]
    fn a_large_block_is_aligned_to_its_size() {
        testing::machine();
        let block = allocate_order(9, FrameKind::User).unwrap();
        assert!(block.is_aligned(2u64 << 20));
        free_frame(block);
        assert_eq!(allocate_order(11, FrameKind::User), None);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "not held")]
    fn a_double_free_is_caught() {
        testing::machine();
        free_frame(PhysAddr::new(0));
    }

    #[test]
    fn device_memory_is_told_from_ram() {
        testing::machine();
        assert!(!overlaps_managed(0xA000_0000, 0xA000_1000));
        assert!(overlaps_managed(
            testing::RAM_START + 1,
            testing::RAM_START + 2
        ));
        // SAFETY: the range is refused.
        let refused = unsafe {
            add_region(MemoryRange {
                start: 0xA0000,
                frames: 1,
                kind: MemoryKind::Reclaimable,
            })
        };
        assert_eq!(refused, Err(Error::OutOfRange));
        assert_eq!(init(std::iter::empty()), Err(Error::WrongState));
    }
}
