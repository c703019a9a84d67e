//! TLB shoot-down: what one CPU unmaps is unmapped on all of them when the call returns.
//!
//! Each CPU has a [`CpuSlot`] in its block that says whose tables it walks, and counts the requests made to it and those served. A
//! CPU that has changed tables asks every CPU whose slot names their root, interrupts it and waits until each has
//! served. Requests are counted, not queued: they never overflow, any number of them are served by one flush, and no lock is
//! taken. A request is a *must-serve-anywhere* message: it is served from the interrupt, by CPUs that spin on a
//! lock, and by CPUs that wait here themselves, so that two which shoot each other down with interrupts off both get on.
//!
//! The hot side of this is [`activate_on`], which every switch between threads passes: a comparison if the space stays, three
//! stores if it changes, nothing locked and nothing fenced. Why nobody is missed all the same is said where the protocol
//! is, in `protocol.rs`; `models.rs` lets loom look for a counterexample. On CPUs that have names for address spaces (PCIDs,
//! `names.rs`) a space finds its entries again when it comes back, and a CPU that has another loaded is not asked at all.
//!
//! A target flushes all but its global entries. Global entries (the kernel half) are never taken away, so that
//! no flush has to reach them; the only kernel mapping that goes is the one through which CPUs start, which is
//! not global.

#[cfg(test)]
mod models;
mod names;
mod protocol;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;

pub use names::Name;
pub use protocol::{CpuSlot, Machine, Space, Tlb, Word};

#[cfg(target_os = "none")]
mod hardware;
#[cfg(target_os = "none")]
pub use hardware::{
    activate, activate_on, evict, forget_here, init, join, serve, shoot_down, shoot_down_page,
};
#[cfg(target_os = "none")]
pub(crate) use hardware::{activate_simply, is_active};

/// A host process has no tables to load.
#[cfg(not(target_os = "none"))]
mod hosted {
    use super::Space;
    use crate::addr::VirtAddr;

    /// Nothing, on the host.
    ///
    /// # Safety
    /// None is needed here; on a machine the tables must hold the kernel half and stay valid until the space is evicted.
    pub unsafe fn activate(_space: &Space) {}

    /// Nothing, on the host.
    pub fn serve() -> bool {
        false
    }

    /// Nothing, on the host.
    pub fn shoot_down(_space: &Space, _start: VirtAddr, _pages: u64) {}

    /// Nothing, on the host.
    pub fn shoot_down_page(_space: &Space, _at: VirtAddr) {}

    /// Nothing, on the host.
    pub fn evict(_space: &Space) {}

    /// Nothing, on the host.
    pub fn forget_here(_address: VirtAddr) {}
}
#[cfg(not(target_os = "none"))]
pub use hosted::{activate, evict, forget_here, serve, shoot_down, shoot_down_page};
