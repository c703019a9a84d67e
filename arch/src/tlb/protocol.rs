//! The protocol of shoot-downs, over whatever machine: the real one, host threads that stand for CPUs, or loom's model.
//!
//! Who writes what is the heart of it. `loaded` and `coming` are written by their own CPU with plain stores; `requested` grows by
//! the hand of others; `served` is the CPU's own again. Between two changes of tables `loaded` and `coming` are equal.
//!
//! ```text
//! CPU that changes tables               CPU that has changed entries of `root`
//! 1  coming = new                       a  entries changed
//! 2  CR3 = new      (serialises)        b  fence
//! 3  loaded = new                       c  reads `loaded` and `coming` of every CPU
//! ```
//!
//! **Nobody who comes is missed.** MOV to CR3 is a serialising instruction: store 1 is visible to all before anything after
//! step 2 is fetched (Intel SDM vol. 3A §8.3), so before the first walk of `new`. If c does not see store 1, then c
//! comes before it became visible, hence b and a come before it too, hence before every walk of `new`: the CPU can only find the
//! changed entries. And it holds no older copies, as step 2 flushes.
//!
//! **Nobody who leaves is missed.** The former root stays in `loaded` until after step 2, so a CPU whose walks may still go through
//! the former tables, speculative ones too, is seen by every c. Store 3 can't pass step 2, which serialises. That it
//! becomes visible late costs at most a request too many. (c reads `coming` first: see [`CpuSlot::uses`].)
//!
//! So the change of tables needs neither a locked instruction nor a fence of its own: it *is* one.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

/// No root.
pub(super) const NONE: u64 = u64::MAX;

/// An atomic word: the core library's, or loom's.
pub trait Word {
    /// Reads it.
    fn load(&self, order: Ordering) -> u64;
    /// Writes it.
    fn store(&self, value: u64, order: Ordering);
    /// Adds to it and returns what was there.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Writes it and returns what was there.
    fn swap(&self, value: u64, order: Ordering) -> u64;
}

/// Passes the methods of [`Word`] on to an atomic type's own.
macro_rules! word {
    ($atomic:ty) => {
        impl Word for $atomic {
            #[inline(always)]
            fn load(&self, order: Ordering) -> u64 {
                <$atomic>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: u64, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            #[inline(always)]
            fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
                <$atomic>::fetch_add(self, value, order)
            }
            #[inline(always)]
            fn swap(&self, value: u64, order: Ordering) -> u64 {
                <$atomic>::swap(self, value, order)
            }
        }
    };
}

#[cfg(test)]
pub(super) use word;

word!(AtomicU64);

/// One CPU's part in shoot-downs. It lies in the CPU's block.
#[derive(Debug)]
#[repr(C)]
pub struct CpuSlot<W = AtomicU64> {
    /// The root that the CPU has loaded. Written by its own CPU.
    loaded: W,
    /// The root that it is about to load, or the same. Written by its own CPU.
    coming: W,
    /// The tables that it goes to when it is made to leave others. Written by its own CPU, once.
    home: W,
    /// Requests of which the flush is done. Written by its own CPU.
    served: W,
    /// Requests made to the CPU. Grown by all.
    requested: W,
    /// The root that the CPU shall leave; [`NONE`]: none.
    evicted: W,
}

impl CpuSlot {
    /// The slot of a CPU that has loaded nothing: nobody waits for it.
    pub const fn new() -> CpuSlot {
        CpuSlot {
            loaded: AtomicU64::new(NONE),
            coming: AtomicU64::new(NONE),
            home: AtomicU64::new(NONE),
            served: AtomicU64::new(0),
            requested: AtomicU64::new(0),
            evicted: AtomicU64::new(NONE),
        }
    }
}

impl Default for CpuSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Word> CpuSlot<W> {
    /// As [`CpuSlot::new`], of words that `word` makes.
    #[cfg(test)]
    pub(super) fn of(word: impl Fn(u64) -> W) -> CpuSlot<W> {
        CpuSlot {
            loaded: word(NONE),
            coming: word(NONE),
            home: word(NONE),
            served: word(0),
            requested: word(0),
            evicted: word(NONE),
        }
    }

    /// Whether the CPU may walk the tables of `root`. "No" is an answer only after a fence.
    ///
    /// `coming` is read first. Read the other way round, a CPU on its way from A by `root` to B could show A as loaded before
    /// it has arrived at `root`, and B as coming before it has left it.
    pub(super) fn uses(&self, root: PhysAddr) -> bool {
        self.coming.load(Ordering::Acquire) == root.as_u64()
            || self.loaded.load(Ordering::Acquire) == root.as_u64()
    }
}

/// What the protocol needs of a machine. Everything is called with interrupts off.
pub trait Machine {
    /// Its atomic words.
    type Word: Word;

    /// This CPU.
    fn this_cpu(&self) -> CpuIndex;
    /// The slot of a CPU that has joined.
    fn slot(&self, cpu: CpuIndex) -> Option<&CpuSlot<Self::Word>>;
    /// How many CPUs may have joined.
    fn cpus(&self) -> u32;
    /// A full fence.
    fn fence(&self);
    /// Interrupts a CPU; its handler calls [`Tlb::serve`]. It orders itself after all earlier stores.
    fn interrupt(&self, cpu: CpuIndex);
    /// Loads a root on this CPU: flushes all but global entries, and is a full fence.
    ///
    /// # Safety
    /// The tables hold the kernel half and stay valid as long as they are loaded.
    unsafe fn load_root(&self, root: PhysAddr);
    /// Flushes this CPU's TLB but for global entries.
    fn flush(&self);
    /// Flushes one page and the paging-structure caches of this CPU.
    fn flush_page(&self, address: VirtAddr);
    /// Waits a moment.
    fn pause(&self);
}

/// Above so many pages the local flush is one of everything: `invlpg` by the page would take longer than refilling.
const PAGES_ONE_BY_ONE: u64 = 16;

/// The machine's CPUs as shoot-downs see them.
#[derive(Debug)]
pub struct Tlb<M> {
    machine: M,
}

impl<M: Machine> Tlb<M> {
    /// The protocol on a machine.
    pub const fn new(machine: M) -> Tlb<M> {
        Tlb { machine }
    }

    #[cfg(test)]
    pub(super) fn machine(&self) -> &M {
        &self.machine
    }

    /// Makes `root` the tables of this CPU, whose slot is `slot`; does nothing if they are already. Callers need not (and must
    /// not) remember what is loaded: an eviction may have changed it.
    ///
    /// # Safety
    /// As for loading a root: the tables must hold the kernel half and stay valid until no CPU uses them
    /// (see [`evict`](Self::evict)).
    #[inline(always)]
    pub unsafe fn activate(&self, slot: &CpuSlot<M::Word>, root: PhysAddr) {
        if slot.loaded.load(Ordering::Relaxed) == root.as_u64() {
            return;
        }
        slot.coming.store(root.as_u64(), Ordering::Release);
        // SAFETY: the caller's promise.
        unsafe { self.machine.load_root(root) };
        slot.loaded.store(root.as_u64(), Ordering::Release);
    }

    /// Lets a CPU take part, whose slot `slot` others can find from now on, and loads `home`: the kernel's tables.
    ///
    /// # Safety
    /// To be called by the CPU itself, before it walks any user tables. `home` holds the kernel half and lives for ever.
    pub unsafe fn join(&self, slot: &CpuSlot<M::Word>, home: PhysAddr) {
        slot.home.store(home.as_u64(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.activate(slot, home) };
    }

    /// Makes this CPU leave what it has loaded for the kernel's tables.
    fn go_home(&self, slot: &CpuSlot<M::Word>) {
        let home = PhysAddr::new_truncate(slot.home.load(Ordering::Relaxed));
        // SAFETY: the kernel's tables hold the kernel half and live for ever; a root is evicted only when no thread
        // needs its user half any more.
        unsafe { self.activate(slot, home) };
    }

    /// Serves what was asked of this CPU, whose slot is `slot`. Returns whether there was anything.
    #[inline]
    pub fn serve(&self, slot: &CpuSlot<M::Word>) -> bool {
        let requested = slot.requested.load(Ordering::Acquire);
        if slot.served.load(Ordering::Relaxed) == requested {
            return false;
        }
        let evicted = slot.evicted.swap(NONE, Ordering::AcqRel);
        if evicted != NONE && slot.loaded.load(Ordering::Relaxed) == evicted {
            self.go_home(slot);
        } else {
            self.machine.flush();
        }
        // Released: whoever sees this count sees the flush before it.
        slot.served.store(requested, Ordering::Release);
        true
    }

    /// Makes all CPUs forget `pages` pages from `start` of the tables `root`, after they were taken out of them or
    /// restricted. On return no CPU uses the former entries.
    pub fn shoot_down(&self, root: PhysAddr, start: VirtAddr, pages: u64) {
        let me = self.machine.this_cpu();
        self.machine.fence();
        if self.machine.slot(me).is_some_and(|slot| slot.uses(root)) {
            if pages <= PAGES_ONE_BY_ONE {
                for page in 0..pages {
                    self.machine.flush_page(VirtAddr::new_truncate(
                        start.as_u64().wrapping_add(page * 4096),
                    ));
                }
            } else {
                self.machine.flush();
            }
        }
        self.ask(me, root, false);
    }

    /// Makes every CPU that has `root` loaded leave it for the kernel's tables, this one too. No thread may be left that
    /// needs the user half of `root`, and none may be started. On return no CPU walks its tables, and none has a
    /// request left that names it, so the root can be used for another space.
    pub fn evict(&self, root: PhysAddr) {
        let me = self.machine.this_cpu();
        self.machine.fence();
        if let Some(slot) = self.machine.slot(me)
            && slot.uses(root)
        {
            self.go_home(slot);
        }
        self.ask(me, root, true);
    }

    /// Asks all others that use `root`, and waits for them.
    fn ask(&self, me: CpuIndex, root: PhysAddr, evict: bool) {
        let others = || {
            (0..self.machine.cpus())
                .map(CpuIndex)
                .filter(move |&cpu| cpu != me)
                .filter_map(|cpu| Some((cpu, self.machine.slot(cpu)?)))
        };
        let request = |cpu: CpuIndex, slot: &CpuSlot<M::Word>| {
            if evict {
                slot.evicted.store(root.as_u64(), Ordering::Relaxed);
            }
            slot.requested.fetch_add(1, Ordering::AcqRel);
            self.machine.interrupt(cpu);
        };
        let mut asked = false;
        for (cpu, slot) in others().filter(|(_, slot)| slot.uses(root)) {
            request(cpu, slot);
            asked = true;
        }
        if !asked {
            return;
        }
        // All are asked before the first is waited for. The target count is read after the request, so that it counts ours;
        // it may count later ones too, whose flush is as good. A CPU that has left the root meanwhile has flushed by that;
        // an eviction waits for it all the same, or its note would be found when the root is another space's.
        for (cpu, slot) in others() {
            let target = slot.requested.load(Ordering::Acquire);
            while (evict || slot.uses(root)) && slot.served.load(Ordering::Acquire) < target {
                self.wait(me);
            }
            while evict && slot.uses(root) {
                // Another eviction took the place of ours.
                request(cpu, slot);
                let target = slot.requested.load(Ordering::Acquire);
                while slot.served.load(Ordering::Acquire) < target {
                    self.wait(me);
                }
            }
        }
    }

    /// Serves what is asked of this CPU while it waits: the other side may wait for it.
    fn wait(&self, me: CpuIndex) {
        if let Some(slot) = self.machine.slot(me) {
            self.serve(slot);
        }
        self.machine.pause();
    }
}
