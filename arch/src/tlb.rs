//! TLB shoot-down: what one CPU unmaps is unmapped on all of them when the call returns.
//!
//! Each CPU has a [`CpuSlot`] that says whose tables it walks, and counts the requests made to it and those served. A CPU
//! that has changed tables asks every CPU whose slot names their root, interrupts it and waits until each has
//! served. Requests are counted, not queued: they never overflow, any number of them are served by one flush, and no lock is
//! taken. A request is a *must-serve-anywhere* message: it is served from the interrupt, by CPUs that spin on a
//! lock, and by CPUs that wait here themselves, so that two which shoot each other down with interrupts off both get on.
//!
//! Why nobody is missed: a CPU publishes a root *before* it loads it, and the requester changes the tables before
//! it reads the slots; both with a full fence between. So either the requester sees the CPU, or the CPU's load of CR3
//! (which flushes) comes after the change. The former root stays published until the load is done, because page walks of
//! the former tables, speculative ones too, go on until then.
//!
//! A target flushes all but its global entries. Global entries (the kernel half) are never taken away, so that
//! no flush has to reach them; the only kernel mapping that goes is the one through which CPUs start, which is
//! not global.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use spin::Once;

use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

/// No root.
const NONE: u64 = u64::MAX;

/// One CPU's part in shoot-downs, on cache lines of its own.
#[repr(C, align(128))]
pub struct CpuSlot {
    /// The root that the CPU has loaded. Written by its own CPU.
    current: AtomicU64,
    /// The root that it is about to load. Written by its own CPU.
    next: AtomicU64,
    /// Requests made to the CPU. Grown by all.
    requested: AtomicU64,
    /// Requests of which the flush is done. Written by its own CPU.
    served: AtomicU64,
    /// The root that the CPU shall leave; [`NONE`]: none.
    evicted: AtomicU64,
}

impl CpuSlot {
    /// The slot of a CPU that has not started: nobody waits for it.
    pub const fn new() -> CpuSlot {
        CpuSlot {
            current: AtomicU64::new(NONE),
            next: AtomicU64::new(NONE),
            requested: AtomicU64::new(0),
            served: AtomicU64::new(0),
            evicted: AtomicU64::new(NONE),
        }
    }

    fn uses(&self, root: PhysAddr) -> bool {
        self.current.load(Ordering::SeqCst) == root.as_u64()
            || self.next.load(Ordering::SeqCst) == root.as_u64()
    }
}

impl Default for CpuSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// What shoot-downs need from the rest of the kernel.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// The CPU that runs this.
    pub this_cpu: fn() -> CpuIndex,
    /// Interrupts a CPU; its handler calls [`serve`]. It orders itself after all earlier stores.
    pub interrupt: fn(CpuIndex),
    /// Loads a root on this CPU, with a flush of all but global entries.
    pub load_root: fn(PhysAddr),
    /// Flushes this CPU's TLB but for global entries.
    pub flush: fn(),
    /// Flushes one page and the paging-structure caches of this CPU.
    pub flush_page: fn(VirtAddr),
}

/// The machine's CPUs as shoot-downs see them.
pub struct Tlb {
    slots: &'static [CpuSlot],
    kernel_root: PhysAddr,
    hooks: Hooks,
}

/// Above so many pages the local flush is one of everything: `invlpg` by the page would take longer than refilling.
const PAGES_ONE_BY_ONE: u64 = 16;

impl Tlb {
    /// A machine with one slot for each CPU that may ever run, whose kernel-only tables have `kernel_root`.
    pub const fn new(slots: &'static [CpuSlot], kernel_root: PhysAddr, hooks: Hooks) -> Tlb {
        Tlb {
            slots,
            kernel_root,
            hooks,
        }
    }

    fn slot(&self, cpu: CpuIndex) -> &CpuSlot {
        &self.slots[cpu.0 as usize]
    }

    /// Makes `root` the tables of this CPU; does nothing if they are already. Callers need not (and must not) remember what is
    /// loaded: an eviction may have changed it.
    ///
    /// # Safety
    /// As for loading a root: the tables must hold the kernel half and stay valid until no CPU uses them
    /// (see [`evict`](Self::evict)).
    #[inline]
    pub unsafe fn activate(&self, root: PhysAddr) {
        let slot = self.slot((self.hooks.this_cpu)());
        if slot.current.load(Ordering::Relaxed) == root.as_u64() {
            return;
        }
        // An eviction of a former tree may still be noted here, and this root may be made of the same frame.
        slot.evicted.store(NONE, Ordering::SeqCst);
        slot.next.store(root.as_u64(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        (self.hooks.load_root)(root);
        slot.current.store(root.as_u64(), Ordering::SeqCst);
        slot.next.store(NONE, Ordering::SeqCst);
    }

    /// Serves what was asked of this CPU. Returns whether there was anything.
    #[inline]
    pub fn serve(&self) -> bool {
        let slot = self.slot((self.hooks.this_cpu)());
        let requested = slot.requested.load(Ordering::SeqCst);
        if slot.served.load(Ordering::Relaxed) == requested {
            return false;
        }
        let evicted = slot.evicted.swap(NONE, Ordering::SeqCst);
        if evicted != NONE && slot.current.load(Ordering::Relaxed) == evicted {
            // SAFETY: the kernel's tables hold the kernel half and live for ever; a root is evicted only when no thread
            // needs its user half any more.
            unsafe { self.activate(self.kernel_root) };
        } else {
            (self.hooks.flush)();
        }
        slot.served.store(requested, Ordering::SeqCst);
        true
    }

    /// Makes all CPUs forget `pages` pages from `start` of the tables `root`, after they were taken out of them or
    /// restricted. On return no CPU uses the former entries.
    pub fn shoot_down(&self, root: PhysAddr, start: VirtAddr, pages: u64) {
        let me = (self.hooks.this_cpu)();
        fence(Ordering::SeqCst);
        if self.slot(me).uses(root) {
            if pages <= PAGES_ONE_BY_ONE {
                for page in 0..pages {
                    (self.hooks.flush_page)(VirtAddr::new_truncate(
                        start.as_u64().wrapping_add(page * 4096),
                    ));
                }
            } else {
                (self.hooks.flush)();
            }
        }
        self.ask(me, root, false);
    }

    /// Makes every CPU that has `root` loaded leave it for the kernel's tables, this one too. No thread may be left that
    /// needs the user half of `root`, and none may be started. On return no CPU walks its tables.
    pub fn evict(&self, root: PhysAddr) {
        let me = (self.hooks.this_cpu)();
        debug_assert!(root != self.kernel_root);
        fence(Ordering::SeqCst);
        if self.slot(me).uses(root) {
            // SAFETY: the kernel's tables hold the kernel half and live for ever.
            unsafe { self.activate(self.kernel_root) };
        }
        self.ask(me, root, true);
    }

    /// Asks all others that use `root`, and waits for them.
    fn ask(&self, me: CpuIndex, root: PhysAddr, evict: bool) {
        let others = || {
            self.slots
                .iter()
                .enumerate()
                .filter(move |&(index, _)| index != me.0 as usize)
        };
        let mut asked = false;
        for (index, slot) in others().filter(|(_, slot)| slot.uses(root)) {
            if evict {
                slot.evicted.store(root.as_u64(), Ordering::SeqCst);
            }
            slot.requested.fetch_add(1, Ordering::SeqCst);
            (self.hooks.interrupt)(CpuIndex(index as u32));
            asked = true;
        }
        if !asked {
            return;
        }
        // All are asked before the first is waited for. The target count is read after the request, so that it counts ours;
        // it may count later ones too, whose flush is as good. A CPU that has left the root meanwhile has flushed by that.
        for (index, slot) in others() {
            let mut target = slot.requested.load(Ordering::SeqCst);
            while slot.uses(root) && (evict || slot.served.load(Ordering::SeqCst) < target) {
                if evict && slot.served.load(Ordering::SeqCst) >= target {
                    // Another eviction took the place of ours.
                    slot.evicted.store(root.as_u64(), Ordering::SeqCst);
                    target = slot.requested.fetch_add(1, Ordering::SeqCst) + 1;
                    (self.hooks.interrupt)(CpuIndex(index as u32));
                }
                self.serve();
                core::hint::spin_loop();
            }
        }
    }
}

static MACHINE: Once<Tlb> = Once::new();

/// Begins shoot-downs, once, before a second CPU starts.
pub fn init(tlb: Tlb) {
    MACHINE.call_once(|| tlb);
}

/// Makes `root` the tables of this CPU. Before [`init`] there is one CPU, and the root is loaded plainly.
///
/// # Safety
/// As for [`Tlb::activate`].
#[inline]
pub unsafe fn activate(root: PhysAddr) {
    match MACHINE.get() {
        // SAFETY: the caller's promise.
        Some(tlb) => unsafe { tlb.activate(root) },
        // SAFETY: the caller's promise.
        None => unsafe { alone::load_root(root) },
    }
}

/// Serves what other CPUs asked of this one: called by the interrupt's handler and by everyone who spins. Returns whether
/// there was anything.
#[inline]
pub fn serve() -> bool {
    MACHINE.get().is_some_and(Tlb::serve)
}

/// Makes all CPUs forget `pages` pages from `start` of the tables `root`.
pub fn shoot_down(root: PhysAddr, start: VirtAddr, pages: u64) {
    match MACHINE.get() {
        Some(tlb) => tlb.shoot_down(root, start, pages),
        None => alone::flush(),
    }
}

/// Makes all CPUs leave the tables `root`, which no thread needs any more.
pub fn evict(root: PhysAddr) {
    if let Some(tlb) = MACHINE.get() {
        tlb.evict(root);
    }
}

/// Forgets one page on this CPU alone: after an entry was made more permissive, or found to be so already.
pub fn forget_here(address: VirtAddr) {
    alone::flush_page(address);
}

/// What is done on one CPU. A host process has no tables to load.
#[cfg(target_os = "none")]
mod alone {
    pub(super) use crate::paging::{
        flush_all_but_global as flush, invalidate_page as flush_page, load_root,
    };
}

#[cfg(not(target_os = "none"))]
mod alone {
    use super::{PhysAddr, VirtAddr};

    pub(super) unsafe fn load_root(_: PhysAddr) {}
    pub(super) fn flush() {}
    pub(super) fn flush_page(_: VirtAddr) {}
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A machine of threads, each with a TLB of one entry that is filled from `pte` while `ROOT` is loaded.
    const CPUS: usize = 4;
    const ROOT: PhysAddr = PhysAddr::new(0x1000);
    const KERNEL_ROOT: PhysAddr = PhysAddr::new(0x2000);

    thread_local! {
        static CPU: Cell<u32> = const { Cell::new(0) };
        static CACHED: Cell<Option<u64>> = const { Cell::new(None) };
        static LOADED: Cell<u64> = const { Cell::new(0) };
    }

    fn machine() -> Tlb {
        let slots: &'static [CpuSlot] = Box::leak((0..CPUS).map(|_| CpuSlot::new()).collect());
        let hooks = Hooks {
            this_cpu: || CpuIndex(CPU.get()),
            interrupt: |_| {},
            load_root: |root| {
                CACHED.set(None);
                LOADED.set(root.as_u64());
            },
            flush: || CACHED.set(None),
            flush_page: |_| CACHED.set(None),
        };
        Tlb::new(slots, KERNEL_ROOT, hooks)
    }

    /// Runs `cpu` on as many threads as there are CPUs, with its number; one that ends goes on serving.
    fn run(tlb: &Arc<Tlb>, cpu: impl Fn(&Tlb, usize) + Send + Sync + 'static) {
        let cpu = Arc::new(cpu);
        let ended = Arc::new(AtomicU64::new(0));
        let started = Arc::new(std::sync::Barrier::new(CPUS));
        let threads: Vec<_> = (0..CPUS)
            .map(|index| {
                let (tlb, cpu, ended, started) =
                    (tlb.clone(), cpu.clone(), ended.clone(), started.clone());
                std::thread::spawn(move || {
                    CPU.set(index as u32);
                    // SAFETY: nothing is really loaded.
                    unsafe { tlb.activate(ROOT) };
                    started.wait();
                    cpu(&tlb, index);
                    ended.fetch_add(1, Ordering::SeqCst);
                    while ended.load(Ordering::SeqCst) < CPUS as u64 {
                        tlb.serve();
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn no_cpu_sees_a_former_entry_after_a_shoot_down() {
        let tlb = Arc::new(machine());
        let pte = Arc::new(AtomicU64::new(0));
        let floor = Arc::new(AtomicU64::new(0));
        run(&tlb, move |tlb, index| {
            for round in 0..2000u64 {
                if index < 2 && round % 4 == 0 {
                    // Two CPUs change the entry and shoot each other down.
                    let version = pte.fetch_add(1, Ordering::SeqCst) + 1;
                    tlb.shoot_down(ROOT, VirtAddr::new(0x1000), 1 + round % 32);
                    floor.fetch_max(version, Ordering::SeqCst);
                }
                if round % 16 == index as u64 {
                    let other = if LOADED.get() == ROOT.as_u64() {
                        KERNEL_ROOT
                    } else {
                        ROOT
                    };
                    // SAFETY: nothing is really loaded.
                    unsafe { tlb.activate(other) };
                }
                if LOADED.get() == ROOT.as_u64() {
                    let known = floor.load(Ordering::SeqCst);
                    let seen = CACHED.get().unwrap_or_else(|| pte.load(Ordering::SeqCst));
                    CACHED.set(Some(seen));
                    assert!(
                        seen >= known,
                        "entry {seen} was used after {known} was announced"
                    );
                }
                // Interrupts come in only now and then.
                if round % 3 == 0 {
                    tlb.serve();
                }
            }
        });
    }

    #[test]
    fn an_evicted_root_is_loaded_nowhere() {
        let tlb = Arc::new(machine());
        let gone = Arc::new(AtomicBool::new(false));
        run(&tlb, move |tlb, index| {
            if index == 0 {
                tlb.evict(ROOT);
                assert!(tlb.slots.iter().all(|slot| !slot.uses(ROOT)));
                gone.store(true, Ordering::SeqCst);
            }
            while !gone.load(Ordering::SeqCst) {
                tlb.serve();
                std::thread::yield_now();
            }
            assert_eq!(LOADED.get(), KERNEL_ROOT.as_u64());
            // The same root may be used again for another space, and is not evicted by what is left over.
            // SAFETY: nothing is really loaded.
            unsafe { tlb.activate(ROOT) };
            tlb.serve();
            assert_eq!(LOADED.get(), ROOT.as_u64());
        });
    }

    #[test]
    fn cpus_that_have_not_started_are_not_waited_for() {
        let tlb = machine();
        CPU.set(0);
        tlb.shoot_down(ROOT, VirtAddr::new(0), 1);
        tlb.evict(ROOT);
        assert!(!tlb.serve());
    }
}
