//! The thread reference of queues.

use core::num::NonZeroUsize;
use core::ptr::NonNull;

use crate::thread::Thread;

/// A bare pointer to a thread, for queues. Whoever puts it into a queue sees to it that the thread lives while it is there: a
/// thread leaves all queues before it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct ThreadPtr(NonNull<Thread>);

// SAFETY: a thread may be referred to from any CPU; what may be done with it where is the module's protocol.
unsafe impl Send for ThreadPtr {}
// SAFETY: as above.
unsafe impl Sync for ThreadPtr {}

impl ThreadPtr {
    /// The pointer to a thread.
    #[inline]
    pub fn new(thread: &Thread) -> ThreadPtr {
        ThreadPtr(NonNull::from(thread))
    }

    /// The thread whose switch state this is; `None` for null. It must be a thread's, not a CPU's own.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn of_state(state: *mut arch::switch::ThreadState) -> Option<ThreadPtr> {
        // The state is the first thing of a thread, whose address was given away when it came into its first queue.
        NonNull::new(core::ptr::with_exposed_provenance_mut(state.addr())).map(ThreadPtr)
    }

    /// The thread.
    #[inline]
    pub fn get<'a>(self) -> &'a Thread {
        // SAFETY: by the type's contract the thread lives while the pointer is in use.
        unsafe { self.0.as_ref() }
    }

    /// The address.
    #[inline]
    pub fn as_ptr(self) -> *const Thread {
        self.0.as_ptr()
    }
}

impl sched::Node for ThreadPtr {
    #[inline]
    fn links(&self) -> &sched::Links<Self> {
        &self.get().links
    }

    #[inline]
    fn into_word(self) -> NonZeroUsize {
        NonZeroUsize::from(self.0.expose_provenance())
    }

    #[inline]
    fn from_word(word: NonZeroUsize) -> Self {
        // SAFETY: by the trait's contract the word came from `into_word`, so it is the exposed address of a thread.
        ThreadPtr(unsafe {
            NonNull::new_unchecked(core::ptr::with_exposed_provenance_mut(word.get()))
        })
    }
}
