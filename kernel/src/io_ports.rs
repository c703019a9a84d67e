//! I/O ports: ranges of ports as objects, and the map of the ports that a process may use.
//!
//! A process that enables a range gets a map of its own, two frames, which its threads carry into the TSS of whatever CPU
//! they run on (`arch::ports`). The map lives as long as the process.

use abi::Error;
use arch::memory::{direct_virt_to_phys, phys_to_virt};
use arch::ports::{Bits, PortMap};

use crate::memory::frames::{self, FrameKind};
use crate::object::{Object, Slab};

/// Ports that there are.
pub const PORTS: u32 = 65_536;
/// Order of the block of frames that holds a map.
const MAP_ORDER: u8 = 1;

const _: () = assert!(size_of::<Bits>() == 4096 << MAP_ORDER);

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

/// The ports that a process may use.
pub struct ProcessPorts {
    map: PortMap,
}

impl Default for ProcessPorts {
    fn default() -> Self {
        Self::new()
    }
}

impl ProcessPorts {
    /// No port.
    pub const fn new() -> ProcessPorts {
        ProcessPorts {
            map: PortMap::new(),
        }
    }

    /// The map, as the process's threads carry it.
    pub fn map(&self) -> &PortMap {
        &self.map
    }

    /// Allows a range.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn allow(&self, ports: &IoPorts) -> Result<(), Error> {
        if !self.map.has_bits() {
            let block =
                frames::allocate_order(MAP_ORDER, FrameKind::Kernel).ok_or(Error::NoMemory)?;
            // SAFETY: the block is fresh, two frames, in the direct map, and freed after the map's end only.
            if !unsafe { self.map.provide(phys_to_virt(block).cast::<Bits>()) } {
                frames::free_frame(block);
            }
        }
        self.map.allow(ports.first, ports.count);
        Ok(())
    }

    /// Forbids a range. Until [`tell_cpus`] returns, CPUs may go on with the former map.
    pub fn forbid(&self, ports: &IoPorts) {
        self.map.forbid(ports.first, ports.count);
    }
}

impl Drop for ProcessPorts {
    fn drop(&mut self) {
        let bits = self.map.place();
        if !bits.is_null() {
            frames::free_frame(direct_virt_to_phys(bits));
        }
    }
}

/// Makes all CPUs learn that a map lost ports: on return none lets user mode have them.
///
/// The caller holds no lock. It serves the others while it waits, so that two who take ports back at once both get on.
#[cfg(target_os = "none")]
pub fn tell_cpus(map: &PortMap) {
    use crate::cpu;
    use crate::schedule::SERVE_VECTOR;

    let this = cpu::this().index();
    let others = || cpu::all().filter(move |cpu| cpu.index() != this);
    for cpu in others().filter(|cpu| cpu.block().ports().ask(map)) {
        arch::platform::apic::send_ipi(cpu.apic_id(), SERVE_VECTOR);
    }
    // All are asked before the first is waited for. Requests that came later are counted too; their answer is as good.
    for cpu in others() {
        let ports = cpu.block().ports();
        let requests = ports.requests();
        while !ports.has_answered(requests, map) {
            arch::cpu::relax();
        }
    }
    arch::ports::renew(map);
}

#[cfg(test)]
mod tests;
