//! When the memory of a dead object may be used again.
//!
//! The fast path follows a pointer out of a handle table without counting a reference. That is sound
//! because an object whose last counted reference is gone is only *retired*: it is destroyed after every CPU has passed
//! a quiescent point (an exit from the kernel, or idle), at which it can hold no such pointer any more. It is the
//! idea of read-copy-update (McKenney & Slingwine 1998) with the whole kernel entry as the read side.
//!
//! In Rust's terms: a kernel entry owns a [`Section`]; a borrowed object lives as long as a shared borrow of
//! it; whatever may block or leave takes the section by `&mut`, so that no borrow can outlive it.
//!
//! How that is counted is in `epoch.rs`.
//!
//! What may go wrong: a CPU that stays in user mode for long passes no quiescent point. Then [`reclaim`] names it as a
//! straggler to the caller, who sends it an interrupt.

use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::epoch::Epoch;
pub use super::epoch::Seen;
use crate::sync::{Mutex, level};

/// A stretch of kernel execution between two quiescent points.
///
/// It is made by the entry paths and never stored: borrowed objects live at most as long as it.
pub struct Section {
    /// A section belongs to the CPU that entered.
    _not_send: PhantomData<*mut ()>,
}

impl Section {
    /// Begins a section.
    ///
    /// # Safety
    /// The caller must be on its way into the kernel (or at a point where this CPU holds no borrowed object), and
    /// must let the section end before this CPU's next call of [`Seen::pass`].
    pub unsafe fn enter() -> Section {
        Section {
            _not_send: PhantomData,
        }
    }
}

/// The global epoch.
static EPOCH: Epoch = Epoch::first();

impl Seen {
    /// Declares a quiescent point of the CPU that this belongs to.
    #[inline]
    pub fn pass(&self) {
        self.pass_in(&EPOCH);
    }

    /// The CPU is back from its sleep, before anything else.
    pub fn return_to(&self) {
        self.return_in(&EPOCH);
    }

    /// [`return_to`](Self::return_to), if the CPU had left.
    pub fn return_to_if_away(&self) {
        if self.is_away() {
            self.return_to();
        }
    }
}

/// The head of every slab slot, through which retired objects of any type hang together.
pub(super) struct Retired {
    pub(super) next: *mut Retired,
    pub(super) epoch: u64,
    /// Destroys (a piece of) the object.
    pub(super) destroy: unsafe fn(*mut Retired) -> Destroyed,
}

/// What became of a retired object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Destroyed {
    /// It is gone, and the slot is free again.
    Done,
    /// A piece is left, whose time has come as well.
    More,
    /// Nothing was done: every CPU must pass another quiescent point first.
    Later,
}

struct List {
    head: *mut Retired,
    tail: *mut Retired,
}

// SAFETY: the pointers are to slots that nobody else may touch while they are retired; the lock hands them on.
unsafe impl Send for List {}

static LIST: Mutex<{ level::RETIRED }, List> = Mutex::new(List {
    head: ptr::null_mut(),
    tail: ptr::null_mut(),
});
static PENDING: AtomicUsize = AtomicUsize::new(0);

/// How many objects wait for their end.
#[inline]
pub fn pending() -> usize {
    PENDING.load(Ordering::Relaxed)
}

/// Hangs a slot into the list of the retired.
///
/// # Safety
/// The slot's object must be out of reach of everyone but CPUs inside their current sections.
pub(super) unsafe fn retire(slot: *mut Retired) {
    let mut list = LIST.lock();
    // SAFETY: the slot is ours alone to link.
    unsafe { append(&mut list, slot) };
    // Under the lock, or another CPU could count the object's end before its beginning.
    PENDING.fetch_add(1, Ordering::Relaxed);
}

/// Puts a slot at the end of the list: its time comes when every CPU has passed a quiescent point from now on.
///
/// # Safety
/// The slot must be the caller's alone.
unsafe fn append(list: &mut List, slot: *mut Retired) {
    // The advance comes after the removal that made the object unreachable, and is what other CPUs must have seen.
    let epoch = EPOCH.retire();
    // SAFETY: the slot is the caller's; the tail, if any, is a retired slot under the list's lock.
    unsafe {
        (*slot).next = ptr::null_mut();
        (*slot).epoch = epoch;
        if list.tail.is_null() {
            list.head = slot;
        } else {
            (*list.tail).next = slot;
        }
    }
    list.tail = slot;
}

/// Calls what it is given with each running CPU's index and [`Seen`].
pub type EveryCpu<'a> = dyn Fn(&mut dyn FnMut(usize, &Seen)) + 'a;

/// Destroys up to `budget` pieces of retired objects whose time has come.
///
/// `cpus` gives each running CPU's [`Seen`] and `straggler` is told of the position of each that holds the oldest
/// retired object back. Returns whether there may be more to do at once. The caller is between two sections: it holds no
/// borrow and no lock.
pub fn reclaim(budget: usize, cpus: &EveryCpu<'_>, straggler: &mut dyn FnMut(usize)) -> bool {
    for _ in 0..budget {
        let Some(mut list) = LIST.try_lock() else {
            return false;
        };
        let slot = list.head;
        if slot.is_null() {
            return false;
        }
        // SAFETY: a slot in the list stays valid until it is taken out under the lock.
        let epoch = unsafe { (*slot).epoch };
        let mut late = false;
        cpus(&mut |index, seen| {
            if !seen.has_passed(epoch) {
                late = true;
                straggler(index);
            }
        });
        if late {
            return false;
        }
        // SAFETY: as above.
        list.head = unsafe { (*slot).next };
        if list.head.is_null() {
            list.tail = ptr::null_mut();
        }
        drop(list);
        // SAFETY: every CPU has passed a quiescent point since the retirement, so this CPU alone knows the object.
        match unsafe { ((*slot).destroy)(slot) } {
            Destroyed::Done => {
                PENDING.fetch_sub(1, Ordering::Relaxed);
            }
            Destroyed::More => {
                let mut list = LIST.lock();
                // A piece is left: it goes back to the head, its time has come already.
                // SAFETY: the slot is still ours alone.
                unsafe { (*slot).next = list.head };
                list.head = slot;
                if list.tail.is_null() {
                    list.tail = slot;
                }
            }
            // SAFETY: the slot is still ours alone.
            Destroyed::Later => unsafe { append(&mut LIST.lock(), slot) },
        }
    }
    pending() != 0
}
