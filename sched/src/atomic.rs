//! The atomics that the room is built on: the core library's, or loom's in this crate's own test build.
//!
//! loom explores every interleaving that the memory model allows, which no number of runs on a real machine
//! does. Its atomics can't be made in a constant, so constructors come in two forms through
//! [`const_unless_loom`].

#[cfg(not(test))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(test)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

/// Makes a function `const` in every build but loom's.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident() -> $result:ty $body:block) => {
        $(#[$meta])*
        #[cfg(not(test))]
        $visibility const fn $name() -> $result $body

        $(#[$meta])*
        #[cfg(test)]
        $visibility fn $name() -> $result $body
    };
}
pub(crate) use const_unless_loom;
