//! Kernel objects: where they live, how long, and how a process names them.

mod capability;
mod count;
mod epoch;
mod generation;
pub mod quiescent;
mod reference;
mod slab;
pub(crate) mod table;
mod walk;

pub(crate) use capability::Waking;
pub use capability::{Capability, Object as AnyObject};
pub use quiescent::Section;
pub(crate) use reference::number_of;
pub use reference::{Borrowed, Ref, Vacant, stamp_of};
pub use slab::{Object, Slab, Slot};
pub use table::HandleTable;
#[cfg(any(test, target_os = "none"))]
pub(crate) use walk::{Step, Walk};
