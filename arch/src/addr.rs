//! Addresses and CPU names as types, so that a physical address is never used as a virtual one and an APIC id never
//! as an index.

pub use x86_64::{PhysAddr, VirtAddr};

/// A CPU's index: 0 for the first, counted up in the order in which CPUs started. Not an APIC id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct CpuIndex(pub u32);

/// A local APIC's id: 8 bits wide in xAPIC mode, 32 in x2APIC mode. It may have gaps and is never an index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct ApicId(pub u32);

impl core::fmt::Display for CpuIndex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::fmt::Display for ApicId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}
