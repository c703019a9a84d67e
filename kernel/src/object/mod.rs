//! Kernel objects: where they live, how long, and how a process names them.

pub mod quiescent;
mod reference;
mod slab;

pub use quiescent::Section;
pub use reference::{Borrowed, Ref};
pub use slab::{Object, Slab};
