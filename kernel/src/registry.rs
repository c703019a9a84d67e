//! The list of all processes, for those who may look.

use core::ptr;
use core::sync::atomic::Ordering;

use crate::process::Process;
use crate::sync::{Mutex, level};

struct List(*mut Process);

// SAFETY: processes in the list are alive: the last reference takes a process out before it is retired. The lock hands on.
unsafe impl Send for List {}

static ALL: Mutex<{ level::REGISTRY }, List> = Mutex::new(List(ptr::null_mut()));

/// Puts a new process in.
pub(crate) fn add(process: &Process) {
    let pointer = ptr::from_ref(process).cast_mut();
    let mut list = ALL.lock();
    process.next.store(list.0, Ordering::Relaxed);
    // SAFETY: a process in the list is alive.
    if let Some(first) = unsafe { list.0.as_ref() } {
        first.previous.store(pointer, Ordering::Relaxed);
    }
    list.0 = pointer;
}

/// Takes a process out whose last reference is gone.
pub(crate) fn remove(process: &Process) {
    let mut list = ALL.lock();
    let next = process.next.load(Ordering::Relaxed);
    let previous = process.previous.load(Ordering::Relaxed);
    // SAFETY: neighbours are in the list, so they are alive.
    unsafe {
        match previous.as_ref() {
            Some(previous) => previous.next.store(next, Ordering::Relaxed),
            None => list.0 = next,
        }
        if let Some(next) = next.as_ref() {
            next.previous.store(previous, Ordering::Relaxed);
        }
    }
}

/// Calls `visit` with each process, under the list's lock, until it returns false.
pub(crate) fn for_each(visit: &mut dyn FnMut(&Process) -> bool) {
    let list = ALL.lock();
    let mut next = list.0;
    // SAFETY: processes in the list are alive under its lock.
    while let Some(process) = unsafe { next.as_ref() } {
        if !visit(process) {
            return;
        }
        next = process.next.load(Ordering::Relaxed);
    }
}
