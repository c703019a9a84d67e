//! The direct map: where physical memory is seen in the kernel's half.
//!
//! At first the loader's direct map is in force, later the kernel's own; both are one offset. It is written twice, on
//! one CPU, before any other runs. Only RAM is in it: device memory and firmware tables are mapped by request
//! (the kernel's `memory::kernel_space`).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::PhysAddr;

/// Where the kernel's own direct map begins.
pub const DIRECT_MAP_START: u64 = 0xFFFF_8000_0000_0000;

static OFFSET: AtomicU64 = AtomicU64::new(DIRECT_MAP_START);

/// Sets the offset of the direct map in force (on the host: the address of an arena that stands for memory).
///
/// # Safety
/// All RAM that is reached through [`phys_to_virt`] from now on must be mapped readable and writable at this offset, and
/// no pointer made with the former offset may be used once its mapping is gone.
pub unsafe fn set_direct_map(offset: u64) {
    OFFSET.store(offset, Ordering::Relaxed);
}

/// The offset in force.
#[inline]
pub fn direct_map() -> u64 {
    OFFSET.load(Ordering::Relaxed)
}

/// The address at which the kernel sees physical RAM.
#[inline]
pub fn phys_to_virt(address: PhysAddr) -> *mut u8 {
    (address.as_u64().wrapping_add(direct_map())) as *mut u8
}

/// The physical address of a pointer into the direct map.
#[inline]
pub fn direct_virt_to_phys<T>(pointer: *const T) -> PhysAddr {
    PhysAddr::new_truncate((pointer as u64).wrapping_sub(direct_map()))
}
