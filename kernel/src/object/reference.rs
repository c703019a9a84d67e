//! Counted and borrowed references to kernel objects.
//!
//! [`Ref`] keeps an object alive across blocking; it is what handle tables and objects hold. [`Borrowed`] costs
//! nothing and lives at most as long as the kernel entry; see [`quiescent`](super::quiescent) for why it is sound.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Error;

use super::quiescent::{Destroyed, Retired, Section, retire};
use super::slab::{Object, Slot};

/// A counted reference.
pub struct Ref<T: Object> {
    slot: NonNull<Slot<T>>,
}

// SAFETY: a `Ref` gives shared access only, and objects are `Sync`.
unsafe impl<T: Object> Send for Ref<T> {}
// SAFETY: as above.
unsafe impl<T: Object> Sync for Ref<T> {}

/// A place for an object that is still to be made: a large one is made there, and is moved nowhere.
pub struct Vacant<T: Object> {
    slot: NonNull<Slot<T>>,
}

impl<T: Object> Vacant<T> {
    /// A place from the kind's slab.
    ///
    /// # Errors
    /// [`Error::NoMemory`]
    #[inline]
    pub fn take() -> Result<Vacant<T>, Error> {
        let slot = T::slab().take().ok_or(Error::NoMemory)?;
        Ok(Vacant { slot })
    }

    /// Puts the object there.
    #[inline(always)]
    pub fn fill(self, value: T) -> Ref<T> {
        let slot = self.slot;
        core::mem::forget(self);
        let number = value.number();
        // SAFETY: the slot is fresh from the slab and ours alone.
        unsafe {
            (*slot.as_ref().value.get()).write(value);
            slot.as_ref().number.store(number, Ordering::Relaxed);
            slot.as_ref().references.begin();
        }
        Ref { slot }
    }
}

impl<T: Object> Drop for Vacant<T> {
    fn drop(&mut self) {
        // SAFETY: the slot came from there, and nothing was put into it.
        unsafe { T::slab().give_back(self.slot) };
    }
}

impl<T: Object> Ref<T> {
    /// Moves a value into a new object.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; the value is dropped.
    #[inline(always)]
    pub fn try_new(value: T) -> Result<Ref<T>, Error> {
        Ok(Vacant::take()?.fill(value))
    }

    /// The same object, borrowed for a section.
    #[inline]
    pub fn borrow<'s>(&self, _section: &'s Section) -> Borrowed<'s, T> {
        Borrowed {
            slot: self.slot,
            _section: PhantomData,
        }
    }

    /// Whether both are references to one object.
    #[inline]
    pub fn is(&self, other: &Ref<T>) -> bool {
        self.slot == other.slot
    }

    /// The object's address, as a name for it.
    #[inline]
    pub fn as_ptr(&self) -> *const T {
        // SAFETY: the slot is valid as long as we count; a pointer is all that is made.
        unsafe { self.slot.as_ref().value.get() as *const T }
    }

    /// Gives up this reference without counting it down; [`from_raw`](Self::from_raw) takes it up again.
    pub fn into_raw(self) -> *const T {
        let pointer = self.as_ptr();
        core::mem::forget(self);
        pointer
    }

    /// Takes up a reference that [`into_raw`](Self::into_raw) gave up.
    ///
    /// # Safety
    /// `pointer` must come from `into_raw`, and each such pointer is taken up once.
    pub unsafe fn from_raw(pointer: *const T) -> Ref<T> {
        // SAFETY: the pointer is to the value of a slot.
        let slot = unsafe { slot_of(pointer) };
        Ref { slot }
    }
}

impl<T: Object> Clone for Ref<T> {
    fn clone(&self) -> Self {
        // SAFETY: as we count, the slot is valid.
        unsafe { self.slot.as_ref() }.references.add();
        Ref { slot: self.slot }
    }
}

impl<T: Object> Deref for Ref<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value is initialised while anyone counts.
        unsafe { &*self.as_ptr() }
    }
}

impl<T: Object> Drop for Ref<T> {
    fn drop(&mut self) {
        // SAFETY: as we count, the slot is valid.
        let slot = unsafe { self.slot.as_ref() };
        if slot.references.remove() {
            // SAFETY: the value stays initialised until it is destroyed by `destroy`.
            unsafe { &*self.as_ptr() }.last_reference();
            // SAFETY: nobody counts, so the object is reachable only inside current sections.
            unsafe { retire(self.slot.as_ptr().cast()) };
        }
    }
}

/// A reference that lives at most as long as the kernel entry.
pub struct Borrowed<'s, T: Object> {
    slot: NonNull<Slot<T>>,
    _section: PhantomData<&'s Section>,
}

impl<T: Object> Clone for Borrowed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Object> Copy for Borrowed<'_, T> {}

impl<'s, T: Object> Borrowed<'s, T> {
    /// Borrows an object through a bare pointer.
    ///
    /// # Safety
    /// The object must have been reachable (not yet retired) at some moment of this section.
    pub unsafe fn from_ptr(pointer: *const T, _section: &'s Section) -> Borrowed<'s, T> {
        // SAFETY: the caller's promise.
        let slot = unsafe { slot_of(pointer) };
        Borrowed {
            slot,
            _section: PhantomData,
        }
    }

    /// A counted reference, unless the last one is gone already.
    pub fn to_ref(self) -> Option<Ref<T>> {
        // SAFETY: inside the section the slot is valid.
        let references = &unsafe { self.slot.as_ref() }.references;
        // Made only if it is counted: one that is not would count the object down where it is dropped.
        references
            .add_unless_none()
            .then(|| Ref { slot: self.slot })
    }

    /// The object, for as long as the section.
    #[inline]
    pub fn get(self) -> &'s T {
        // SAFETY: the value is destroyed only after this section has ended.
        unsafe { &*(self.slot.as_ref().value.get() as *const T) }
    }
}

impl<T: Object> Deref for Borrowed<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as in `get`.
        unsafe { &*(self.slot.as_ref().value.get() as *const T) }
    }
}

/// The stamp of the slot in which an object lives: it only grows, also over the lives of several objects.
///
/// # Safety
/// `pointer` must point to the value part of a slab slot of this type, alive or not: slots are never given back.
#[inline]
pub unsafe fn stamp_of<'a, T: Object>(pointer: *const T) -> &'a AtomicU64 {
    // SAFETY: the caller's promise; slots and their headers are valid for ever.
    unsafe { &(*slot_of(pointer).as_ptr()).stamp }
}

/// The number of the object that lives in a slot, or did last.
///
/// # Safety
/// As [`stamp_of`].
pub(crate) unsafe fn number_of<T: Object>(pointer: *const T) -> u64 {
    // SAFETY: as in `stamp_of`; nothing but this kind of word is ever at that place of a slot, alive or not.
    unsafe { (*slot_of(pointer).as_ptr()).number.load(Ordering::Relaxed) }
}

/// # Safety
/// `pointer` must point to the value part of a slot.
#[inline]
unsafe fn slot_of<T: Object>(pointer: *const T) -> NonNull<Slot<T>> {
    // SAFETY: the value lies at this offset in its slot, so the result is not null.
    unsafe {
        NonNull::new_unchecked(
            pointer.byte_sub(core::mem::offset_of!(Slot<T>, value)) as *mut Slot<T>
        )
    }
}

/// Ends a retired object, or a piece of it.
///
/// # Safety
/// `retired` is the head of a slot of a `T` that nobody else can reach any more.
pub(super) unsafe fn destroy<T: Object>(retired: *mut Retired) -> Destroyed {
    let slot: *mut Slot<T> = retired.cast();
    // SAFETY: the head is the slot's first field, and the caller has made the object ours.
    unsafe {
        let value: *mut MaybeUninit<T> = (*slot).value.get();
        if (*value).assume_init_mut().is_held_up() {
            return Destroyed::Later;
        }
        if !(*value).assume_init_mut().tear_down() {
            return Destroyed::More;
        }
        ptr::drop_in_place((*value).as_mut_ptr());
        // Even, as of an object that waits for nothing (see `thread/stamp.rs`), and another than any that was.
        let stamp = (*slot).stamp.load(Ordering::Relaxed);
        (*slot).stamp.store((stamp | 1) + 1, Ordering::Relaxed);
        T::slab().give_back(NonNull::new_unchecked(slot));
    }
    Destroyed::Done
}
