//! Memory for the few library types that allocate when they are made: queues, at boot.
//!
//! The kernel has no heap: objects live in slabs, tables in frames, and every allocation can fail. A library's bounded queue
//! allocates once, infallibly, when it is made, and never again. So there is this small heap, from which nothing comes back,
//! and which is closed before the first user instruction. What asks later gets null, which is a panic: a kernel bug, and one
//! that clippy's list of disallowed calls (kernel/clippy.toml) should have caught.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes in all.
const BYTES: usize = 16 * 1024;

#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; BYTES]>);

/// A heap that only grows.
struct BootHeap {
    area: Area,
    used: AtomicUsize,
    closed: AtomicBool,
}

// SAFETY: the area is handed out in parts that don't overlap, by an atomic counter.
unsafe impl Sync for BootHeap {}

#[global_allocator]
static HEAP: BootHeap = BootHeap {
    area: Area(UnsafeCell::new([0; BYTES])),
    used: AtomicUsize::new(0),
    closed: AtomicBool::new(false),
};

/// Closes the heap for good.
pub(super) fn close() {
    HEAP.closed.store(true, Ordering::Release);
}

// SAFETY: `alloc` gives aligned parts of a static area, each once, or null.
unsafe impl GlobalAlloc for BootHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.closed.load(Ordering::Acquire) {
            return ptr::null_mut();
        }
        let base = self.area.0.get().cast::<u8>();
        let mut place = 0;
        let taken = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                let start = (base as usize + used).checked_next_multiple_of(layout.align())?;
                place = start - base as usize;
                place.checked_add(layout.size()).filter(|end| *end <= BYTES)
            });
        match taken {
            Ok(_) => base.wrapping_add(place),
            Err(_) => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        // What the heap gave stays with its queue for ever.
    }
}
