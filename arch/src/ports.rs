//! I/O ports of user programs: a map for each process, and its copy in each CPU's TSS.
//!
//! A process's ports are a [`PortMap`], which its threads that use ports carry with them (`extras.rs`). The CPU reads a copy
//! of it, in its own TSS ([`CpuPorts`]), which the switch lets user mode have or not by the offset in the TSS, and renews if it differs:
//! each change of any map gives it a number that no map ever had, and the copy has the number of what it was made from.
//! So a thread that comes back finds the copy as it left it, and what is copied for somebody else, or is out of date, is noticed.
//!
//! To allow a port takes no haste: a thread whose CPU does not know of it faults, and the fault's handler brings the copy up to date.
//! To take one back does: when the call returns, no CPU may let the process use it. A CPU *publishes* the map that it lets user mode
//! have, before it reads the map; who takes a port back changes the map before he reads what CPUs have published. Both are
//! sequentially consistent, so either he sees the CPU, asks it and waits, or the CPU sees the change. Requests are counted, as in
//! [`tlb`](crate::tlb), and are served wherever a CPU waits.
//!
//! What may go wrong: a copy that is in force while it is out of date. It is put out of force before anything else, and
//! comes into force last.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

/// Words of a map: a bit for each of the 65,536 ports, clear if the port is allowed.
pub const MAP_WORDS: usize = 1024;

/// The bits of a map.
pub type Bits = [AtomicU64; MAP_WORDS];

/// The number of the next change of any map. 0 is no change's.
static NEXT_CHANGE: AtomicU64 = AtomicU64::new(1);

/// The ports that one process may use.
pub struct PortMap {
    /// Null as long as none was ever allowed.
    bits: AtomicPtr<Bits>,
    /// The number of the last change.
    change: AtomicU64,
}

impl Default for PortMap {
    fn default() -> PortMap {
        PortMap::new()
    }
}

impl PortMap {
    /// No port.
    pub const fn new() -> PortMap {
        PortMap {
            bits: AtomicPtr::new(ptr::null_mut()),
            change: AtomicU64::new(0),
        }
    }

    /// The place of the bits; null if there is none yet.
    pub fn place(&self) -> *mut Bits {
        self.bits.load(Ordering::Acquire)
    }

    /// Gives the map its bits, with all ports forbidden. False if somebody was faster; then they stay the caller's.
    ///
    /// # Safety
    /// `bits` is memory for a map that nobody else uses, for as long as this map lives.
    pub unsafe fn provide(&self, bits: *mut Bits) -> bool {
        // SAFETY: the caller's promise; all ones are valid bits.
        unsafe { bits.write_bytes(0xFF, 1) };
        self.bits
            .compare_exchange(ptr::null_mut(), bits, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether any port was ever allowed.
    pub fn has_bits(&self) -> bool {
        !self.place().is_null()
    }

    /// Allows `count` ports from `first` on, if the map has bits. CPUs learn of it at the first use.
    pub fn allow(&self, first: u16, count: u32) {
        self.change(first, count, |word, mask| {
            word.fetch_and(!mask, Ordering::Relaxed);
        });
    }

    /// Forbids `count` ports from `first` on. CPUs that have the map in force must be told ([`CpuPorts::ask`]).
    pub fn forbid(&self, first: u16, count: u32) {
        self.change(first, count, |word, mask| {
            word.fetch_or(mask, Ordering::Relaxed);
        });
        // Before what CPUs have published is read: see the file's head.
        fence(Ordering::SeqCst);
    }

    fn change(&self, first: u16, count: u32, apply: impl Fn(&AtomicU64, u64)) {
        // SAFETY: bits live as long as the map.
        let Some(bits) = (unsafe { self.place().as_ref() }) else {
            return;
        };
        let mut port = u32::from(first);
        let end = (port + count).min(64 * MAP_WORDS as u32);
        while port < end {
            // The rest of this word, or of the range.
            let next = (port / 64 * 64 + 64).min(end);
            let mask = (u64::MAX >> (64 - (next - port))) << (port % 64);
            apply(&bits[port as usize / 64], mask);
            port = next;
        }
        // Behind the bits: a copy with this number has them.
        let number = NEXT_CHANGE.fetch_add(1, Ordering::Relaxed);
        self.change.store(number, Ordering::SeqCst);
    }

    /// Whether a port is allowed.
    pub fn allows(&self, port: u16) -> bool {
        // SAFETY: bits live as long as the map.
        let bits = unsafe { self.place().as_ref() };
        bits.is_some_and(|bits| {
            bits[usize::from(port) / 64].load(Ordering::Relaxed) >> (port % 64) & 1 == 0
        })
    }
}

/// What the CPU itself looks at.
pub trait Hardware {
    /// Forbids user mode every port.
    ///
    /// # Safety
    /// Only the CPU that owns the hardware may call it.
    unsafe fn forbid_all(&self);

    /// Lets user mode have the ports of the copy.
    ///
    /// # Safety
    /// As [`forbid_all`](Self::forbid_all).
    unsafe fn open(&self);

    /// Makes the copy of these bits. It is not in force meanwhile.
    ///
    /// # Safety
    /// As [`forbid_all`](Self::forbid_all).
    unsafe fn copy(&self, bits: &Bits);
}

/// One CPU's part.
pub struct CpuPorts {
    /// The map that user mode has here, or is about to have; null: none. Written by its own CPU.
    published: AtomicPtr<PortMap>,
    /// The number of the change that the copy was made after; 0: it is nobody's. Its own CPU's.
    copied: AtomicU64,
    /// Requests made to the CPU. Grown by all.
    requested: AtomicU64,
    /// Requests that are served. Written by its own CPU.
    served: AtomicU64,
}

impl Default for CpuPorts {
    fn default() -> CpuPorts {
        CpuPorts::new()
    }
}

impl CpuPorts {
    /// No port.
    pub const fn new() -> CpuPorts {
        CpuPorts {
            published: AtomicPtr::new(ptr::null_mut()),
            copied: AtomicU64::new(0),
            requested: AtomicU64::new(0),
            served: AtomicU64::new(0),
        }
    }

    /// Whether user mode has just the ports of a map here, as it is now. For the CPU itself.
    pub fn are_those_of(&self, map: &PortMap) -> bool {
        ptr::eq(self.published.load(Ordering::Relaxed), map)
            && self.copied.load(Ordering::Relaxed) == map.change.load(Ordering::SeqCst)
    }

    /// Lets user mode have the ports of a map, as it is now; null: none. For the CPU itself.
    ///
    /// # Safety
    /// The map lives until the CPU has left it for another one or none. `hardware` is this CPU's.
    pub unsafe fn enter(&self, map: *const PortMap, hardware: &impl Hardware) {
        // SAFETY: the caller's promise.
        let Some(next) = (unsafe { map.as_ref() }) else {
            // SAFETY: the caller's promise.
            unsafe { hardware.forbid_all() };
            // Release: who sees that the CPU has left the map knows that it is out of force.
            self.published.store(ptr::null_mut(), Ordering::Release);
            return;
        };
        if self.are_those_of(next) {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { hardware.forbid_all() };
        // Before the map is read: see the file's head.
        self.published.store(map.cast_mut(), Ordering::SeqCst);
        let change = next.change.load(Ordering::SeqCst);
        // SAFETY: bits live as long as their map.
        let Some(bits) = (unsafe { next.place().as_ref() }) else {
            return;
        };
        if self.copied.load(Ordering::Relaxed) != change {
            // SAFETY: the caller's promise.
            unsafe { hardware.copy(bits) };
            self.copied.store(change, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { hardware.open() };
    }

    /// Asks the CPU to renew its copy of a map that lost ports, if it has the map in force. Any CPU may ask, after
    /// [`PortMap::forbid`]. True: interrupt it, then wait until [`has_answered`](Self::has_answered).
    pub fn ask(&self, map: &PortMap) -> bool {
        let uses = ptr::eq(self.published.load(Ordering::SeqCst), map);
        if uses {
            self.requested.fetch_add(1, Ordering::SeqCst);
        }
        uses
    }

    /// How many requests there are. Read after one's own was made, it is a number to wait for.
    pub fn requests(&self) -> u64 {
        self.requested.load(Ordering::SeqCst)
    }

    /// Whether the CPU has served so many requests, or has left the map: either way it is in force as it was at the request, or not at all.
    pub fn has_answered(&self, requests: u64, map: &PortMap) -> bool {
        self.served.load(Ordering::Acquire) >= requests
            || !ptr::eq(self.published.load(Ordering::Acquire), map)
    }

    /// Serves what was asked of this CPU. For the CPU itself.
    ///
    /// # Safety
    /// `hardware` is this CPU's.
    #[inline]
    pub unsafe fn serve(&self, hardware: &impl Hardware) {
        let requested = self.requested.load(Ordering::SeqCst);
        if self.served.load(Ordering::Relaxed) == requested {
            return;
        }
        // SAFETY: the published map is the current thread's, which lives as long as the thread.
        unsafe { self.enter(self.published.load(Ordering::Relaxed), hardware) };
        self.served.store(requested, Ordering::Release);
    }
}

#[cfg(target_os = "none")]
pub use machine::{are_loaded, renew, serve};

#[cfg(target_os = "none")]
mod machine {
    use super::PortMap;
    use crate::cpu;

    /// Serves what other CPUs ask of this one's ports.
    #[inline]
    pub fn serve() {
        let block = cpu::block();
        // SAFETY: the segment is this CPU's.
        unsafe { block.ports().serve(block.tss()) };
    }

    /// Renews this CPU's copy of a map, if it has the map in force.
    pub fn renew(map: &PortMap) {
        if cpu::block().ports().ask(map) {
            serve();
        }
    }

    /// Whether user mode has just the ports of a map on this CPU, as it is now.
    pub fn are_loaded(map: &PortMap) -> bool {
        cpu::block().ports().are_those_of(map)
    }
}

#[cfg(test)]
mod tests;
