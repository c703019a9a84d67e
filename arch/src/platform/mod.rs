//! The machine around the CPUs: firmware tables, interrupt controllers, start of the other CPUs, power, serial port.
//!
//! Firmware tables and device registers lie outside the direct map, so whoever reads them asks the kernel for a mapping
//! through [`PhysicalMap`]. Nothing here allocates: what is found is handed out by iterators, and what must be kept
//! is plain data. What may go wrong is the firmware: a table may be cut short, lie about its length or be absent,
//! and a device may never answer. So each table is checked whole before it is read, each fault has a name, and each wait
//! has an end.
//!
//! What only reads bytes or computes builds on the host too and is tested there; what touches the machine is built for
//! `target_os = "none"` only.

pub mod acpi;
pub mod apic_registers;
pub mod fadt;
pub mod hypervisor;
pub mod machine_check;
pub mod madt;
pub mod msi;
pub mod sleep_state;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod ioapic;
#[cfg(target_os = "none")]
pub mod pic;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod serial;
#[cfg(target_os = "none")]
pub mod smp;
#[cfg(target_os = "none")]
mod trampoline;

#[cfg(target_os = "none")]
mod park;

#[cfg(test)]
mod tables_test;

use core::ptr::NonNull;

use crate::addr::PhysAddr;

/// How a mapping goes through the caches (Intel SDM vol. 3A §12.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cache {
    /// Ordinary memory: firmware tables.
    WriteBack,
    /// Device registers: every access reaches the device, in order.
    Uncached,
    /// Framebuffers: writes are gathered, never read back.
    WriteCombining,
}

/// Makes physical memory that is outside the direct map reachable.
pub trait PhysicalMap {
    /// Maps `bytes` bytes from `phys` on, which need not be page-aligned, readable and writable, and returns the address
    /// that shows the byte at `phys`. The mapping stays for good. `None` if it can't be made: no room, no memory for
    /// page tables, a range that wraps or exceeds the CPU's physical addresses.
    fn map(&self, phys: PhysAddr, bytes: u64, cache: Cache) -> Option<NonNull<u8>>;
}
