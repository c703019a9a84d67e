//! On the host nothing runs: who was made ready is noted, for the tests to look at.

use core::sync::atomic::Ordering;

use crate::thread::{Thread, ThreadPtr};

#[cfg(test)]
std::thread_local!(static READY: std::cell::RefCell<Vec<ThreadPtr>> = const { std::cell::RefCell::new(Vec::new()) });

#[cfg(test)]
std::thread_local! {
    /// How many were made ready since the last preemption point, and the most between any two.
    static STRETCH: std::cell::Cell<(usize, usize)> = const { std::cell::Cell::new((0, 0)) };
}

/// Notes that a thread was made ready.
pub fn make_ready(thread: ThreadPtr) {
    #[cfg(test)]
    {
        READY.with_borrow_mut(|ready| ready.push(thread));
        let (now, most) = STRETCH.get();
        STRETCH.set((now + 1, most.max(now + 1)));
    }
    #[cfg(not(test))]
    let _ = thread;
}

/// No thread runs on the host.
pub fn is_running(_thread: &Thread) -> bool {
    false
}

/// So none has anything to end.
pub fn current() -> Option<&'static Thread> {
    None
}

/// Has nothing to do.
pub fn owe(_thread: &Thread) {}

/// There is nobody to compare it with.
pub fn compare_running() {}

/// Nobody waits for the CPU.
pub fn preemption_point() {
    #[cfg(test)]
    STRETCH.set((0, STRETCH.get().1));
}

/// The most threads that were made ready between two preemption points since the last call.
#[cfg(test)]
pub fn longest_stretch() -> usize {
    STRETCH.replace((0, 0)).1
}

/// Notes what is asked for a thread, in the thread.
pub fn ask(thread: ThreadPtr, what: u32) {
    thread.get().asked.fetch_or(what, Ordering::SeqCst);
}

/// The same for its home.
pub fn look_again(thread: ThreadPtr) {
    ask(thread, crate::thread::ask::LOOK);
}

/// The same, as what it inherits may have changed.
pub fn reconsider(thread: ThreadPtr) {
    ask(thread, crate::thread::ask::LOOK);
}

/// The threads that were made ready since the last call.
#[cfg(test)]
pub fn take_ready() -> Vec<ThreadPtr> {
    READY.take()
}
