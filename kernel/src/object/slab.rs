//! Typed slabs: the memory of kernel objects.
//!
//! Allocation can fail and never panics. A slot, once made, stays a slot of its type for ever: frames go from the
//! frame allocator to a slab and not back. So a pointer to a slot always points to a slot header of that type, and the
//! header's stamp, which only ever grows, tells whether it is still the same object (replies rely on it).

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::count::Count;
use super::quiescent::Retired;
use crate::memory::frames;
use crate::sync::{Mutex, level};

/// What lives in a slab.
pub trait Object: Sized + Sync + 'static {
    /// The slab of this type.
    fn slab() -> &'static Slab<Self>;

    /// The last counted reference is gone: wake whoever waits for this object. CPUs inside their current sections may
    /// still look at it; it is dropped after they have left.
    fn last_reference(&self) {}

    /// Whether somebody may still come upon it by a way of his own, so that its end must wait until every CPU has passed another
    /// quiescent point. It is asked before each piece of the end.
    fn is_held_up(&mut self) -> bool {
        false
    }

    /// Its number, for a kind that lists show by number; else 0. It does not change.
    fn number(&self) -> u64 {
        0
    }

    /// Frees a bounded piece of what the object holds, before it is dropped; false if something is left.
    fn tear_down(&mut self) -> bool {
        true
    }
}

/// One place for an object.
#[repr(C)]
pub struct Slot<T> {
    /// First, so that a pointer to it is a pointer to the slot.
    pub(super) retired: Retired,
    /// Counted references; 0 means retired or free.
    pub(super) references: Count,
    /// Grows, and is never set back: not when the object dies, nor when the next one moves in.
    pub(super) stamp: AtomicU64,
    /// The [number](Object::number) of the object that lives here, or did last. Whoever has a pointer to the slot may look, whatever becomes of it.
    pub(super) number: AtomicU64,
    pub(super) value: UnsafeCell<MaybeUninit<T>>,
}

struct Free<T> {
    head: *mut Slot<T>,
    /// The first slot of the frame that came last.
    last_frame: *mut Slot<T>,
}

// SAFETY: free slots belong to nobody; the lock hands them on.
unsafe impl<T> Send for Free<T> {}

/// All slots of one type.
pub struct Slab<T> {
    free: Mutex<{ level::SLAB }, Free<T>>,
    /// The first slot of the frame that came first. The last word of each frame is where the next one begins.
    first_frame: AtomicPtr<Slot<T>>,
    frames: AtomicUsize,
    in_use: AtomicUsize,
}

const FRAME_BYTES: usize = 4096;
/// What slots have of a frame.
const SLOT_BYTES: usize = FRAME_BYTES - size_of::<usize>();

/// Where a frame says which one comes next.
///
/// # Safety
/// `first` is the first slot of one of a slab's frames.
unsafe fn next_frame<'a, T>(first: *const Slot<T>) -> &'a AtomicPtr<Slot<T>> {
    // SAFETY: the last word of the frame is no slot's, was written before the frame was linked, and stays for ever.
    unsafe { AtomicPtr::from_ptr(first.wrapping_byte_add(SLOT_BYTES).cast_mut().cast()) }
}

impl<T: Object> Slab<T> {
    pub(super) const PER_FRAME: usize = SLOT_BYTES / size_of::<Slot<T>>();

    /// A slab without slots.
    ///
    /// # Panics
    /// At compile time, if an object does not fit into a frame.
    pub const fn new() -> Slab<T> {
        assert!(
            size_of::<Slot<T>>() <= SLOT_BYTES,
            "an object and its head must fit into a frame"
        );
        Slab {
            free: Mutex::new(Free {
                head: ptr::null_mut(),
                last_frame: ptr::null_mut(),
            }),
            first_frame: AtomicPtr::new(ptr::null_mut()),
            frames: AtomicUsize::new(0),
            in_use: AtomicUsize::new(0),
        }
    }

    /// Objects alive or retired.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Frames this slab holds.
    pub fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }

    /// A slot for the caller to fill, if there is memory.
    pub(super) fn take(&self) -> Option<NonNull<Slot<T>>> {
        let mut free = self.free.lock();
        if free.head.is_null() {
            self.grow(&mut free)?;
        }
        let slot = NonNull::new(free.head)?;
        // SAFETY: free slots are linked by initialised headers, and the lock makes this one ours.
        free.head = unsafe { slot.as_ref().retired.next.cast() };
        self.in_use.fetch_add(1, Ordering::Relaxed);
        Some(slot)
    }

    /// Gives an empty slot back.
    ///
    /// # Safety
    /// The slot came from [`take`](Self::take), holds no value and nobody else knows it.
    pub(super) unsafe fn give_back(&self, slot: NonNull<Slot<T>>) {
        let mut free = self.free.lock();
        // SAFETY: the caller's promise makes the slot ours.
        unsafe { (*slot.as_ptr()).retired.next = free.head.cast() };
        free.head = slot.as_ptr();
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }

    fn grow(&self, free: &mut Free<T>) -> Option<()> {
        let frame = frames::allocate_frame()?;
        let first: *mut Slot<T> = arch::memory::phys_to_virt(frame).cast();
        for index in 0..Self::PER_FRAME {
            // SAFETY: the frame is ours, page-aligned and large enough for PER_FRAME slots; the value part needs
            // no initialisation.
            unsafe {
                let slot = first.add(index);
                (&raw mut (*slot).retired).write(Retired {
                    next: free.head.cast(),
                    epoch: 0,
                    destroy: super::reference::destroy::<T>,
                });
                (&raw mut (*slot).references).write(Count::none());
                (&raw mut (*slot).stamp).write(AtomicU64::new(2));
                (&raw mut (*slot).number).write(AtomicU64::new(0));
                free.head = slot;
            }
        }
        // SAFETY: the frame is ours; both are first slots of frames.
        unsafe {
            next_frame(first).store(ptr::null_mut(), Ordering::Relaxed);
            match free.last_frame.as_ref() {
                None => &self.first_frame,
                Some(last) => next_frame(last),
            }
            .store(first, Ordering::Release);
        }
        free.last_frame = first;
        self.frames.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// The first slot of the frame behind the one that begins with `frame`; of the first one for null. Null: there is none.
    pub(super) fn frame_after(&self, frame: *const Slot<T>) -> *const Slot<T> {
        let link = if frame.is_null() {
            &self.first_frame
        } else {
            // SAFETY: whoever has such a pointer has it from here.
            unsafe { next_frame(frame) }
        };
        link.load(Ordering::Acquire)
    }
}

impl<T: Object> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}
