//! What of the grinder needs no kernel under it: its options, and where all chance comes from.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod options;
pub mod random;
