//! The atomics that protocols without locks are built on: the core library's, or in their models loom's.
//!
//! A protocol is a small type over a family of atomics ([`Atomics`]). The kernel runs it on [`Native`], which is what every type stands for
//! that names no family; its methods are the core library's own, inlined, so that nothing is paid for the choice. The models run the very same code on
//! loom's atomics ([`models`]), which try every interleaving and every value that a load may return.
//!
//! A family has the fences too, and what is done while waiting: so a model can leave out a fence, weaken an ordering, or tear a change into
//! two, and see that its assertions notice.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use spin::relax::RelaxStrategy as _;

#[cfg(test)]
pub(crate) mod models;

/// A word that several CPUs read and write.
pub trait Atomic<V: Copy> {
    /// A word with this value.
    fn new(value: V) -> Self;
    /// Reads it.
    fn load(&self, order: Ordering) -> V;
    /// Writes it.
    fn store(&self, value: V, order: Ordering);
    /// Writes it and returns what was there.
    fn swap(&self, value: V, order: Ordering) -> V;
    /// Writes `new` if `current` is there.
    ///
    /// # Errors
    /// What is there instead; nothing is written.
    fn compare_exchange(
        &self,
        current: V,
        new: V,
        success: Ordering,
        failure: Ordering,
    ) -> Result<V, V>;
    /// Writes what `change` makes of what is there, which it may be asked several times, and returns what was there.
    ///
    /// # Errors
    /// What is there, if `change` makes nothing of it; nothing is written.
    #[inline(always)]
    fn fetch_update(
        &self,
        success: Ordering,
        failure: Ordering,
        mut change: impl FnMut(V) -> Option<V>,
    ) -> Result<V, V> {
        let mut found = self.load(failure);
        while let Some(new) = change(found) {
            match self.compare_exchange(found, new, success, failure) {
                Ok(before) => return Ok(before),
                Err(other) => found = other,
            }
        }
        Err(found)
    }
}

/// One that holds a number.
pub trait Number<V: Copy>: Atomic<V> {
    /// Adds to it, wrapping, and returns what was there.
    fn fetch_add(&self, more: V, order: Ordering) -> V;
    /// Takes from it, wrapping, and returns what was there.
    fn fetch_sub(&self, less: V, order: Ordering) -> V;
    /// Sets these bits and returns what was there.
    fn fetch_or(&self, bits: V, order: Ordering) -> V;
    /// Leaves these bits alone and returns what was there.
    fn fetch_and(&self, bits: V, order: Ordering) -> V;
}

/// A family of atomics.
pub trait Atomics: 'static {
    /// A 32-bit word.
    type U32: Number<u32>;
    /// A 64-bit word.
    type U64: Number<u64>;
    /// A word that holds a pointer.
    type Pointer<T>: Atomic<*mut T>;

    /// A fence.
    fn fence(order: Ordering);
    /// What a CPU does between two looks at what it waits for.
    fn relax();
}

/// The machine's own.
pub struct Native;

impl Atomics for Native {
    type U32 = AtomicU32;
    type U64 = AtomicU64;
    type Pointer<T> = AtomicPtr<T>;

    #[inline(always)]
    fn fence(order: Ordering) {
        core::sync::atomic::fence(order);
    }

    #[inline(always)]
    fn relax() {
        crate::sync::Relax::relax();
    }
}

/// Passes the methods of [`Atomic`] on to an atomic type's own.
macro_rules! atomic {
    ($atomic:ty, $value:ty $(, for $parameter:ident)?) => {
        impl $(<$parameter>)? Atomic<$value> for $atomic {
            #[inline(always)]
            fn new(value: $value) -> Self {
                <$atomic>::new(value)
            }
            #[inline(always)]
            fn load(&self, order: Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: $value, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            #[inline(always)]
            fn swap(&self, value: $value, order: Ordering) -> $value {
                <$atomic>::swap(self, value, order)
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                <$atomic>::compare_exchange(self, current, new, success, failure)
            }
        }
    };
}

/// The same for [`Number`].
macro_rules! number {
    ($atomic:ty, $value:ty) => {
        atomic!($atomic, $value);

        impl Number<$value> for $atomic {
            #[inline(always)]
            fn fetch_add(&self, more: $value, order: Ordering) -> $value {
                <$atomic>::fetch_add(self, more, order)
            }
            #[inline(always)]
            fn fetch_sub(&self, less: $value, order: Ordering) -> $value {
                <$atomic>::fetch_sub(self, less, order)
            }
            #[inline(always)]
            fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                <$atomic>::fetch_or(self, bits, order)
            }
            #[inline(always)]
            fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                <$atomic>::fetch_and(self, bits, order)
            }
        }
    };
}

number!(AtomicU32, u32);
number!(AtomicU64, u64);
atomic!(AtomicPtr<T>, *mut T, for T);
