//! Memory: the first 4 GiB as the page tables of [`crate::entry`] show them, the blocks taken from it, and the heap.

use boot_core::acpi::{Extent, PhysMemory};
use boot_core::addr::{PAGE_SIZE, PhysAddr, pages_for};
use boot_core::front::Block;
use core::cell::UnsafeCell;
use talc::DefaultBinning;
use talc::source::Manual;
use talc::sync::TalcLock;

/// What can be reached: the first 4 GiB.
pub const REACH: u64 = 4 << 30;

/// Bytes of the heap to begin with: room for what the Multiboot loader says, which is of bounded size.
const FIRST_HEAP: usize = 512 << 10;
/// Bytes that it gets once it is known what memory there is: room for a configuration of 64 KiB that makes the most of its
/// macros. A small machine gets along with less.
pub const SECOND_HEAP: u64 = 8 << 20;

#[repr(C, align(4096))]
struct Heap(UnsafeCell<[u8; FIRST_HEAP]>);

// SAFETY: only the allocator touches it, from the one CPU there is.
unsafe impl Sync for Heap {}

static HEAP: Heap = Heap(UnsafeCell::new([0; FIRST_HEAP]));

#[global_allocator]
static ALLOCATOR: TalcLock<spin::Mutex<()>, Manual, DefaultBinning> = TalcLock::new(Manual);

/// Gives the heap its first memory.
///
/// # Safety
/// To be called once, before anything is allocated.
pub unsafe fn init_heap() {
    // SAFETY: the memory is the heap's alone, and stays; the caller promises that this happens once. It is far more than the
    // allocator needs for itself, so it takes it.
    unsafe { ALLOCATOR.lock().claim(HEAP.0.get().cast(), FIRST_HEAP) };
}

/// Gives the heap more.
pub fn grow_heap(mut pages: Pages) {
    let bytes = pages.bytes_mut();
    // SAFETY: the pages are nobody else's (`Pages::holding`), and with `pages` goes the last way to them.
    unsafe { ALLOCATOR.lock().claim(bytes.as_mut_ptr(), bytes.len()) };
}

/// Physical memory, as this loader sees it: at its own address.
#[derive(Clone, Copy, Debug)]
pub struct Reach;

impl PhysMemory for Reach {
    fn bytes(&self, at: PhysAddr, length: u64) -> Option<&[u8]> {
        if at.0 == 0 || at.0.checked_add(length)? > REACH {
            return None;
        }
        // SAFETY: not null, and mapped by the page tables that `entry` made. What is read this way is what firmware and the
        // Multiboot loader left, which nobody writes while this loader looks at it; where there is no memory, reads give
        // ones and change nothing, as the chipset has it. Any byte is a valid `u8`.
        Some(unsafe { core::slice::from_raw_parts(at.0 as *const u8, length as usize) })
    }
}

/// Whole pages of this loader's.
#[derive(Debug)]
pub struct Pages(Extent);

impl Pages {
    /// The pages at `extent`, with whatever they hold.
    ///
    /// # Safety
    /// The extent is memory below 4 GiB that begins on a page boundary, nobody else uses it, and no other `Pages` holds a
    /// part of it.
    pub unsafe fn holding(extent: Extent) -> Self {
        Self(Extent {
            length: pages_for(extent.length).max(1) * PAGE_SIZE,
            ..extent
        })
    }
}

impl Block for Pages {
    fn phys(&self) -> PhysAddr {
        self.0.base
    }

    fn size(&self) -> u64 {
        self.0.length
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `holding` was promised that the pages are memory and this value's alone; the borrow of `self` keeps
        // writers away.
        unsafe { core::slice::from_raw_parts(self.0.base.0 as *const u8, self.0.length as usize) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of `self` keeps all others away.
        unsafe { core::slice::from_raw_parts_mut(self.0.base.0 as *mut u8, self.0.length as usize) }
    }
}
