//! The table of short calls in a CPU's block: the kernel's part of each, which the entry of `syscall` jumps to by its number.
//!
//! What stands there is one of three routines for each number: the call itself; the same with a note of it for traces; or, while the current thread's calls are reported, the
//! one that brings it to the hook with a whole context. So the entry asks nothing, and a call costs what it costs in the first case. The third is the CPU's own matter, at a
//! switch between threads. The first two are the machine's, and are exchanged in the tables of all CPUs while these run.
//!
//! What may go wrong: the machine's decision changes while a CPU fills its own table by the former one. So the decision ([`NOTED`]) is written before any table is, and whoever has filled
//! one looks whether it is still the same.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use abi::SHORT_CALLS;

use super::block::CpuBlock;
use crate::entry::REPORTED_SHORT_CALL;
use crate::hooks::{self, ShortCall};

/// The kernel's part of each short call, by number.
pub(crate) type Routines = [Option<ShortCall>; SHORT_CALLS as usize];

/// Whether short calls are noted.
static NOTED: AtomicBool = AtomicBool::new(false);

/// Has short calls go to the routines of those that are noted on these CPUs from now on, or to the others. Threads whose calls are reported keep theirs.
///
/// Whoever calls it decides by something that others change as well, and looks afterwards whether that is still so.
pub fn note_short_calls(on: bool, blocks: impl Iterator<Item = &'static CpuBlock>) {
    NOTED.store(on, Ordering::SeqCst);
    for block in blocks {
        block.short_calls.fill(Slot::renew);
    }
}

/// The table, as the entry's assembly reads it.
#[repr(transparent)]
pub(super) struct ShortCalls([Slot; SHORT_CALLS as usize]);

impl ShortCalls {
    /// Without routines, for a block that no CPU runs with yet.
    pub(super) const fn empty() -> ShortCalls {
        ShortCalls([const { Slot::new(None) }; SHORT_CALLS as usize])
    }

    /// Has the current thread's calls reported from now on, or not. For the table's own CPU.
    pub(super) fn report(&self, on: bool) {
        if on {
            for slot in &self.0 {
                slot.set(Some(REPORTED_SHORT_CALL));
            }
        } else {
            self.fill(|slot, call| slot.set(Some(call)));
        }
    }

    /// Puts the kernel's routines in by `put`, those that note calls or the others; again if that was changed meanwhile.
    fn fill(&self, put: impl Fn(&Slot, ShortCall)) {
        loop {
            let noted = NOTED.load(Ordering::SeqCst);
            let calls = if noted {
                &hooks::noted_short_calls
            } else {
                &hooks::short_calls
            };
            for (slot, call) in self.0.iter().zip(calls) {
                put(slot, *call);
            }
            if NOTED.load(Ordering::SeqCst) == noted {
                return;
            }
        }
    }

    /// Puts other routines in, and returns those that were there.
    pub(super) fn exchange(&self, calls: Routines) -> Routines {
        core::array::from_fn(|number| {
            let slot = &self.0[number];
            let before = slot.get();
            slot.set(calls[number]);
            before
        })
    }
}

/// The place of a short call's routine. Its own CPU's entry reads it, and others may change it from one of the kernel's routines to another.
#[repr(transparent)]
struct Slot(AtomicPtr<()>);

impl Slot {
    const fn new(call: Option<ShortCall>) -> Slot {
        Slot(AtomicPtr::new(Slot::address(call)))
    }

    const fn address(call: Option<ShortCall>) -> *mut () {
        match call {
            Some(call) => call as *mut (),
            None => ptr::null_mut(),
        }
    }

    fn get(&self) -> Option<ShortCall> {
        let address = self.0.load(Ordering::SeqCst);
        // SAFETY: a null pointer is `None`, and what is none was made of such a function by `address`.
        unsafe { core::mem::transmute::<*mut (), Option<ShortCall>>(address) }
    }

    fn set(&self, call: Option<ShortCall>) {
        self.0.store(Slot::address(call), Ordering::SeqCst);
    }

    /// Puts another of the kernel's routines there, unless the current thread's calls are reported.
    fn renew(&self, call: ShortCall) {
        let (new, reported) = (
            Slot::address(Some(call)),
            Slot::address(Some(REPORTED_SHORT_CALL)),
        );
        // The CPU may do the same at this moment, or a reported thread may come: it is tried again with what is there then.
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                (now != reported && now != new).then_some(new)
            });
    }
}
