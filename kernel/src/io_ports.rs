//! I/O ports: ranges of ports as objects, and the map of the ports that a process may use.
//!
//! A process that enables a range gets a map of its own, two frames, which its threads carry into the TSS of whatever CPU
//! they run on. Ports are only ever added to a map, and the map lives as long as the process.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::Error;
use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;

use crate::memory::frames::{self, FrameKind};
use crate::object::{Object, Slab};

/// Ports that there are.
pub const PORTS: u32 = 65_536;
/// Bytes of a map.
const MAP_BYTES: usize = 8192;
/// Order of the block that holds one.
const MAP_ORDER: u8 = 1;

/// A range of I/O ports.
pub struct IoPorts {
    first: u16,
    count: u32,
}

static SLAB: Slab<IoPorts> = Slab::new();

impl Object for IoPorts {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }
}

impl IoPorts {
    /// The range of `count` ports from `first` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if it is empty or goes past the last port.
    pub fn new(first: u64, count: u64) -> Result<IoPorts, Error> {
        if count == 0 || first >= u64::from(PORTS) || count > u64::from(PORTS) - first {
            return Err(Error::OutOfRange);
        }
        Ok(IoPorts {
            first: first as u16,
            count: count as u32,
        })
    }
}

/// The ports that a process may use: a map as the CPU reads it, a clear bit for each allowed port.
pub struct PortMap {
    /// Physical address of the map; 0 while no port is allowed.
    block: AtomicU64,
}

impl Default for PortMap {
    fn default() -> Self {
        Self::new()
    }
}

impl PortMap {
    /// No port.
    pub const fn new() -> PortMap {
        PortMap {
            block: AtomicU64::new(0),
        }
    }

    /// The map's bytes; null while no port is allowed.
    pub fn bytes(&self) -> *const [u8; MAP_BYTES] {
        match self.block.load(Ordering::Acquire) {
            0 => core::ptr::null(),
            address => phys_to_virt(PhysAddr::new_truncate(address))
                .cast_const()
                .cast(),
        }
    }

    /// Allows a range.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn allow(&self, ports: &IoPorts) -> Result<(), Error> {
        if self.block.load(Ordering::Acquire) == 0 {
            let block =
                frames::allocate_order(MAP_ORDER, FrameKind::Kernel).ok_or(Error::NoMemory)?;
            // SAFETY: the block is fresh, two frames, in the direct map.
            unsafe { phys_to_virt(block).write_bytes(0xFF, MAP_BYTES) };
            if self
                .block
                .compare_exchange(0, block.as_u64(), Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                frames::free_frame(block);
            }
        }
        let bytes = phys_to_virt(PhysAddr::new_truncate(self.block.load(Ordering::Acquire)));
        let (mut port, end) = (u32::from(ports.first), u32::from(ports.first) + ports.count);
        while port < end {
            // The rest of this byte, or of the range.
            let next = (port / 8 * 8 + 8).min(end);
            let bits = ((1u32 << (next - port)) - 1) << (port % 8);
            // SAFETY: the map has a bit for each of the 65,536 ports. Two threads may allow ports at once, so bits are
            // cleared by an atomic operation.
            let byte =
                unsafe { core::sync::atomic::AtomicU8::from_ptr(bytes.add(port as usize / 8)) };
            byte.fetch_and(!(bits as u8), Ordering::Relaxed);
            port = next;
        }
        Ok(())
    }
}

impl Drop for PortMap {
    fn drop(&mut self) {
        let address = *self.block.get_mut();
        if address != 0 {
            frames::free_frame(PhysAddr::new_truncate(address));
        }
    }
}

#[cfg(test)]
mod tests;
