//! Addresses that cannot be mistaken for each other.
//!
//! The loader juggles three kinds of number that all look like `u64`: physical addresses, virtual addresses, and
//! sizes. The first two get types. No arithmetic here wraps: what could overflow says so with `None`.

use core::fmt;

/// Bytes in the smallest page of x86-64 (Intel SDM vol. 3A §4.5).
pub const PAGE_SIZE: u64 = 4096;

/// A physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

/// A virtual address in the kernel's address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(pub u64);

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#x}", self.0)
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virt {:#x}", self.0)
    }
}

/// Where physical memory is seen in the kernel's address space: virtual = physical + offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hhdm(pub u64);

impl Hhdm {
    /// The direct map's address of `phys`. Callers keep physical addresses below 2^47, so this cannot wrap.
    #[must_use]
    pub const fn virt(self, phys: PhysAddr) -> VirtAddr {
        VirtAddr(self.0.wrapping_add(phys.0))
    }
}

/// `n` rounded down to a page boundary.
#[must_use]
pub const fn page_down(n: u64) -> u64 {
    n & !(PAGE_SIZE - 1)
}

/// `n` rounded up to a page boundary, or `None` past the end of the number range.
#[must_use]
pub const fn page_up(n: u64) -> Option<u64> {
    match n.checked_add(PAGE_SIZE - 1) {
        Some(n) => Some(page_down(n)),
        None => None,
    }
}

/// How many pages hold `bytes`.
#[must_use]
pub const fn pages_for(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE)
}

/// The little-endian word at `offset` of `bytes`, or `None` beyond their end.
#[must_use]
pub fn word_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    Some(u64::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// The little-endian double word at `offset` of `bytes`, or `None` beyond their end.
#[must_use]
pub fn dword_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// The little-endian 16-bit word at `offset` of `bytes`, or `None` beyond their end.
#[must_use]
pub fn half_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let end = offset.checked_add(2)?;
    Some(u16::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}
