//! What a thread has looked up in its table: nearly every call names the object that the thread's last call of the kind named.
//!
//! So that is kept, with the place of the handle's slot: as long as the slot is in the handle's generation, the handle names what it did, and two
//! comparisons take the place of a look-up under the table's lock. It keeps nothing alive: the handle does.
//!
//! What may go wrong: the handle is closed by another thread just after the look. Then the object may end, but its memory stays for this
//! section, as for everybody who has borrowed it.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use abi::{Badge, Handle, Rights};

use crate::object::table::Spot;
use crate::syscall::Named;
use crate::thread::Thread;

/// An object that a thread has looked up, and will look up again.
///
/// The thread's own. It is good as long as the handle is, which one look at the handle's slot tells.
pub(crate) struct Known<T> {
    handle: Cell<Handle>,
    /// Of the handle, for the comparison.
    generation: Cell<u32>,
    spot: Cell<Spot>,
    object: Cell<NonNull<T>>,
    badge: Cell<Badge>,
}

impl<T: Named> Known<T> {
    pub(crate) const fn nothing() -> Known<T> {
        Known {
            handle: Cell::new(Handle::NONE),
            generation: Cell::new(0),
            spot: Cell::new(Spot::NOWHERE),
            object: Cell::new(NonNull::dangling()),
            badge: Cell::new(Badge(0)),
        }
    }

    /// The object that `handle` names, if it is this one.
    ///
    /// # Safety
    /// For the thread itself, inside a section.
    #[inline(always)]
    pub(crate) unsafe fn look<'s>(&self, handle: Handle) -> Option<&'s T> {
        // SAFETY: the thread's table lives as long as the thread. While the slot is in the handle's generation it counts on the
        // object, which is then reachable in this section.
        unsafe {
            if self.handle.get() == handle && self.spot.get().is_in(self.generation.get()) {
                Some(self.object.get().as_ref())
            } else {
                None
            }
        }
    }

    /// The object of the last [`look`](Self::look), which found it.
    ///
    /// # Safety
    /// For the thread itself, in the section of that look.
    pub(super) unsafe fn last<'s>(&self) -> &'s T {
        // SAFETY: the caller's promise.
        unsafe { self.object.get().as_ref() }
    }

    /// The same, looked up if it is another.
    #[inline(always)]
    pub(crate) fn find<'s>(&self, thread: &Thread, handle: Handle, right: Rights) -> Option<&'s T> {
        // SAFETY: callers are the thread itself, and all kernel code between two quiescent points is inside a section.
        unsafe {
            if let Some(object) = self.look(handle) {
                return Some(object);
            }
            self.learn(thread, handle, right).then(|| self.last())
        }
    }

    /// The badge of the handle.
    #[inline(always)]
    pub(super) fn badge(&self) -> Badge {
        self.badge.get()
    }

    /// Whether it was learnt from this handle, which still names what it named then.
    pub(crate) fn is_of(&self, handle: Handle) -> bool {
        // SAFETY: the thread's table lives as long as the thread.
        self.handle.get() == handle && unsafe { self.spot.get().is_in(self.generation.get()) }
    }

    /// Whether it is this object, by a handle that is still there.
    pub(crate) fn names(&self, object: &T) -> bool {
        self.is_of(self.handle.get()) && ptr::eq(self.object.get().as_ptr(), object)
    }

    /// Forgets it.
    pub(crate) fn forget(&self) {
        self.handle.set(Handle::NONE);
        self.generation.set(0);
        self.spot.set(Spot::NOWHERE);
    }

    /// Looks a handle up in the table; true if it names such an object with this right.
    #[cold]
    #[inline(never)]
    pub(crate) fn learn(&self, thread: &Thread, handle: Handle, right: Rights) -> bool {
        let table = thread.process().table.lock();
        let Ok(capability) = table.get(handle) else {
            return false;
        };
        let Some(object) = T::in_entry(capability.object()) else {
            return false;
        };
        let Some(spot) = table.spot(handle) else {
            return false;
        };
        if capability.demand(right).is_err() {
            return false;
        }
        self.handle.set(handle);
        self.generation.set(handle.generation());
        self.spot.set(spot);
        self.object.set(NonNull::from(&**object));
        self.badge.set(capability.badge());
        true
    }
}
