//! Locks with a stated order.
//!
//! The kernel runs with interrupts off, so a lock needs no irq-saving; what can interrupt it (NMI, machine check)
//! takes no lock. A CPU that spins serves the requests that must be served anywhere (TLB shoot-down, stop)
//! through [`Relax`], so that two CPUs which wait for each other can't hang.
//!
//! Each lock has a level, and a CPU takes locks in rising levels only. Builds with debug assertions check that at
//! every lock; [`level`] is the one place where the order is stated.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use spin::mutex::{SpinMutex, SpinMutexGuard};
use spin::relax::RelaxStrategy;

/// The lock order: a lock may be taken only while all locks held have a lower level.
pub mod level {
    /// Which processes are to be ended by whoever comes to it.
    pub const DOOMED: u8 = 1;
    /// A process's list of threads and its state.
    pub const PROCESS: u8 = 2;
    /// Which interrupt line signals what; who is told of the log's growth.
    pub const IRQ: u8 = 3;
    /// A notification.
    pub const NOTIFICATION: u8 = 4;
    /// An endpoint's queues. After the notification's: a signal may have to take a thread out of an endpoint's queue.
    pub const ENDPOINT: u8 = 5;
    /// A process's handle table. After the endpoint's: handles are taken out only when a partner is there for certain.
    pub const TABLE: u8 = 6;
    /// Who changes the parts of quotas that were given away.
    pub const PARTS: u8 = 7;
    /// Whether a thread is at rest, and who waits for that. After the process's: its end asks threads to look under its lock.
    pub const REST: u8 = 8;
    /// Who changes what a memory object shares with its clones. Before the space's: every space that maps it is asked to let go.
    pub const CHANGES: u8 = 9;
    /// A user address space.
    pub const SPACE: u8 = 10;
    /// A memory object.
    pub const MEMORY: u8 = 11;
    /// The pool of kernel stacks.
    pub const STACKS: u8 = 12;
    /// Where mask bits of devices are mapped.
    pub const MASK_PAGES: u8 = 13;
    /// The kernel's own address space.
    pub const KERNEL_SPACE: u8 = 14;
    /// A slab's free list.
    pub const SLAB: u8 = 15;
    /// The list of retired objects.
    pub const RETIRED: u8 = 16;
    /// Frames that a CPU has prepared for itself.
    pub const SHELF: u8 = 17;
    /// Physical frames.
    pub const FRAMES: u8 = 18;
}

/// What a CPU does while it waits for a lock: it serves what must be served anywhere.
pub struct Relax;

impl RelaxStrategy for Relax {
    #[inline]
    fn relax() {
        #[cfg(target_os = "none")]
        arch::cpu::relax();
        #[cfg(not(target_os = "none"))]
        core::hint::spin_loop();
    }
}

/// A spin lock of level `LEVEL` around a `T`.
pub struct Mutex<const LEVEL: u8, T> {
    inner: SpinMutex<T, Relax>,
}

impl<const LEVEL: u8, T> Mutex<LEVEL, T> {
    /// An open lock around `value`.
    pub const fn new(value: T) -> Self {
        Mutex {
            inner: SpinMutex::new(value),
        }
    }

    /// Takes the lock; spins until it is had.
    ///
    /// # Panics
    /// In builds with debug assertions, if this CPU holds a lock of the same or a higher level.
    #[inline]
    pub fn lock(&self) -> Guard<'_, LEVEL, T> {
        order::taking(LEVEL);
        let inner = match self.inner.try_lock() {
            Some(inner) => inner,
            None => self.wait(),
        };
        Guard {
            inner,
            _not_send: PhantomData,
        }
    }

    /// Waits for the lock. Apart, as what is done meanwhile is long, and the way past it is short.
    #[cold]
    #[inline(never)]
    fn wait(&self) -> SpinMutexGuard<'_, T, Relax> {
        self.inner.lock()
    }

    /// Takes the lock if it is open.
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, LEVEL, T>> {
        let inner = self.inner.try_lock()?;
        order::taking(LEVEL);
        Some(Guard {
            inner,
            _not_send: PhantomData,
        })
    }

    /// The value, without locking, as nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// The value whoever holds the lock.
    ///
    /// # Safety
    /// No other CPU may run code that uses the value: this is for a panic, after the others were stopped.
    pub unsafe fn force(&self) -> *mut T {
        self.inner.as_mut_ptr()
    }
}

/// A held lock. It opens when it is dropped.
pub struct Guard<'a, const LEVEL: u8, T> {
    inner: SpinMutexGuard<'a, T, Relax>,
    /// A lock belongs to the CPU that took it.
    _not_send: PhantomData<*mut ()>,
}

impl<const LEVEL: u8, T> Deref for Guard<'_, LEVEL, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<const LEVEL: u8, T> DerefMut for Guard<'_, LEVEL, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<const LEVEL: u8, T> Drop for Guard<'_, LEVEL, T> {
    #[inline]
    fn drop(&mut self) {
        order::released(LEVEL);
    }
}

/// Asserts, in checked builds, that this CPU holds no lock: on the way out of the kernel and before a switch.
#[inline]
pub fn assert_none_held() {
    order::none_held();
}

/// The check of the order: a mask of held levels for each CPU (each thread on the host).
mod order {
    #[cfg(not(any(target_os = "none", test)))]
    mod mask {
        pub(super) fn get() -> u64 {
            0
        }
        pub(super) fn set(_: u64) {}
    }

    #[cfg(target_os = "none")]
    mod mask {
        pub(super) fn get() -> u64 {
            arch::cpu::lock_mask()
        }
        pub(super) fn set(mask: u64) {
            arch::cpu::set_lock_mask(mask);
        }
    }

    #[cfg(all(test, not(target_os = "none")))]
    mod mask {
        use std::cell::Cell;
        std::thread_local!(static MASK: Cell<u64> = const { Cell::new(0) });
        pub(super) fn get() -> u64 {
            MASK.get()
        }
        pub(super) fn set(mask: u64) {
            MASK.set(mask);
        }
    }

    #[inline]
    pub(super) fn taking(level: u8) {
        if cfg!(debug_assertions) {
            let held = mask::get();
            assert!(
                held >> level == 0,
                "lock order: level {level} taken while {held:#b} are held"
            );
            mask::set(held | 1 << level);
        }
    }

    #[inline]
    pub(super) fn released(level: u8) {
        if cfg!(debug_assertions) {
            mask::set(mask::get() & !(1 << level));
        }
    }

    #[inline]
    pub(super) fn none_held() {
        if cfg!(debug_assertions) {
            let held = mask::get();
            assert!(held == 0, "locks {held:#b} are still held");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rising_levels_may_nest_and_levels_are_released() {
        let low: Mutex<1, u32> = Mutex::new(1);
        let high: Mutex<2, u32> = Mutex::new(2);
        for _ in 0..2 {
            let a = low.lock();
            let b = high.lock();
            assert_eq!(*a + *b, 3);
        }
        assert_none_held();
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn falling_levels_are_caught() {
        let low: Mutex<1, u32> = Mutex::new(1);
        let high: Mutex<2, u32> = Mutex::new(2);
        let _b = high.lock();
        let _a = low.lock();
    }
}
