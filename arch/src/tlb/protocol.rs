//! The protocol of shoot-downs, over whatever machine: the real one, host threads that stand for CPUs, or loom's model.
//!
//! Who writes what is the heart of it. `loaded` and `coming` are written by their own CPU with plain stores; `requested` grows by
//! the hand of others; `served` is the CPU's own again. Between two changes of spaces `loaded` and `coming` are equal.
//!
//! ```text
//! CPU that changes to `new`             CPU that has changed entries of `space`
//! 1  coming = new                       a  entries changed
//! 2  CR3 = new      (serialises)        b  generation += 1  (a fence)
//! 3  loaded = new                       c  reads `coming` and `loaded` of every CPU
//! ```
//!
//! **Nobody who comes is missed.** MOV to CR3 is a serialising instruction: store 1 is visible to all before anything after
//! step 2 is fetched (Intel SDM vol. 3A §8.3), so before the first walk of `new`. If c does not see store 1, then c
//! comes before it became visible, hence b and a come before it too, hence before every walk of `new`: the CPU can only find the
//! changed entries. And it holds no older copies, as step 2 flushes.
//!
//! **Nobody who leaves is missed.** The former space stays in `loaded` until after step 2, so a CPU whose walks may still go through
//! the former tables, speculative ones too, is seen by every c. Store 3 can't pass step 2, which serialises. That it
//! becomes visible late costs at most a request too many. (c reads `coming` first: see [`CpuSlot::uses`].)
//!
//! So the change of tables needs neither a locked instruction nor a fence of its own: it *is* one.
//!
//! **With names** ([`names`](super::names)) step 2 may keep what the TLB holds of the space, if its generation is still the one that this
//! CPU knows. Then a CPU that is not using a space need not be asked when the space loses pages: it finds out
//! when it comes back. But now the CPU *reads* something after store 1, and decides by it before step 2 could order the two:
//!
//! ```text
//! 1   coming = new         with `xchg`: a fence
//! 1a  reads the generation of `new`
//! ```
//!
//! Either 1a finds the generation of b, and step 2 flushes; or 1a came before b, so store 1 came before c, and c finds the CPU. Looking
//! at the generation after step 2 instead would spare the `xchg`, but for the time in between user code's stale entries
//! would be in force, and speculation, which runs ahead of the comparison into user code, could use them.

use core::sync::atomic::{AtomicU64, Ordering};

use super::names::{KERNEL_ID, Name, Names};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

/// No space, no eviction.
pub(super) const NONE: u64 = u64::MAX;

/// An atomic word: the core library's, or loom's.
pub trait Word {
    /// Reads it.
    fn load(&self, order: Ordering) -> u64;
    /// Reads it, for the one who alone writes it, at whatever time. So it needs not be one access of its own.
    ///
    /// # Safety
    /// Nobody else writes it.
    #[inline(always)]
    unsafe fn load_own(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }
    /// Writes it.
    fn store(&self, value: u64, order: Ordering);
    /// Adds to it and returns what was there.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Writes it and returns what was there.
    fn swap(&self, value: u64, order: Ordering) -> u64;
}

/// Passes the methods of [`Word`] on to an atomic type's own.
macro_rules! word {
    ($atomic:ty $(, { $($more:tt)* })?) => {
        impl Word for $atomic {
            $($($more)*)?
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

word!(AtomicU64, {
    #[inline(always)]
    unsafe fn load_own(&self) -> u64 {
        // SAFETY: as nobody else writes it, nothing races with the read; other reads do not count.
        unsafe { self.as_ptr().read() }
    }
});

/// An address space as CPUs load it.
///
/// CPUs name it by its address, so it may move no more once it was loaded, and go only after it was
/// [evicted](Tlb::evict).
#[derive(Debug)]
#[repr(C)]
pub struct Space<W = AtomicU64> {
    /// Its tables.
    root: PhysAddr,
    /// Its number, which no other space ever has.
    id: u64,
    /// How often pages were taken away from it.
    generation: W,
}

impl Space {
    /// A space with these tables.
    pub fn new(root: PhysAddr) -> Space {
        static NEXT: AtomicU64 = AtomicU64::new(KERNEL_ID + 1);
        Space {
            root,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            generation: AtomicU64::new(0),
        }
    }

    /// The kernel's own space, whose user half is empty for ever. There is one.
    pub const fn of_kernel(root: PhysAddr) -> Space {
        Space {
            root,
            id: KERNEL_ID,
            generation: AtomicU64::new(0),
        }
    }
}

impl<W: Word> Space<W> {
    #[cfg(test)]
    pub(super) fn of(root: PhysAddr, id: u64, word: impl Fn(u64) -> W) -> Space<W> {
        Space {
            root,
            id,
            generation: word(0),
        }
    }

    /// Its root table.
    #[inline(always)]
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn generation(&self, order: Ordering) -> u64 {
        self.generation.load(order)
    }

    #[inline(always)]
    fn address(&self) -> u64 {
        core::ptr::from_ref(self).addr() as u64
    }
}

/// One CPU's part in shoot-downs. It lies in the CPU's block.
#[derive(Debug)]
#[repr(C)]
pub struct CpuSlot<W = AtomicU64> {
    /// The space that the CPU has loaded, by address. Written by its own CPU.
    loaded: W,
    /// The space that it is about to load, or the same. Written by its own CPU.
    coming: W,
    /// The space that it goes to when it is made to leave another. Written by its own CPU, once.
    home: W,
    /// Requests of which the flush is done. Written by its own CPU.
    served: W,
    /// The number of the space that is loaded. Its own CPU's alone.
    id: W,
    /// Requests made to the CPU. Grown by all.
    requested: W,
    /// The space that the CPU shall leave, by address; [`NONE`]: none.
    evicted: W,
    /// What the TLB may hold of which space. Its own CPU's alone.
    names: Names<W>,
}

impl CpuSlot {
    /// The slot of a CPU that has loaded nothing: nobody waits for it.
    pub const fn new() -> CpuSlot {
        CpuSlot {
            loaded: AtomicU64::new(NONE),
            coming: AtomicU64::new(NONE),
            home: AtomicU64::new(NONE),
            served: AtomicU64::new(0),
            id: AtomicU64::new(KERNEL_ID),
            requested: AtomicU64::new(0),
            evicted: AtomicU64::new(NONE),
            names: Names::new(),
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
            id: word(KERNEL_ID),
            requested: word(0),
            evicted: word(NONE),
            names: Names::of(&word),
        }
    }

    /// Whether the CPU may walk the tables of `space`. "No" is an answer only after a fence.
    ///
    /// `coming` is read first. Read the other way round, a CPU on its way from A by `space` to B could show A as loaded before
    /// it has arrived at `space`, and B as coming before it has left it.
    pub(super) fn uses(&self, space: &Space<W>) -> bool {
        self.coming.load(Ordering::Acquire) == space.address()
            || self.loaded.load(Ordering::Acquire) == space.address()
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

    /// The slot of the CPU that asks, if it takes part.
    fn own_slot(&self) -> Option<&CpuSlot<Self::Word>> {
        self.slot(self.this_cpu())
    }
    /// How many CPUs may have joined.
    fn cpus(&self) -> u32;
    /// A full fence.
    fn fence(&self);
    /// Stores, and is a full fence behind it.
    fn publish(&self, word: &Self::Word, value: u64);
    /// Interrupts a CPU; its handler calls [`Tlb::serve`]. It orders itself after all earlier stores.
    fn interrupt(&self, cpu: CpuIndex);
    /// Whether a change of spaces is more than a change of root: names are in use, or user mode has tables of its own.
    fn is_particular(&self) -> bool;
    /// Whether names are in use.
    fn has_names(&self) -> bool;
    /// Loads a root on this CPU: flushes all but global entries, and is a full fence.
    ///
    /// # Safety
    /// The tables hold the kernel half and stay valid as long as they are loaded.
    unsafe fn load_root(&self, root: PhysAddr);
    /// Loads a space under a name, and unless `keep` flushes what the TLB holds under it, for user mode as well. Is a full fence.
    ///
    /// # Safety
    /// As for [`load_root`](Self::load_root).
    unsafe fn load_named(&self, space: &Space<Self::Word>, name: Name, keep: bool);
    /// Whether a flush of what user mode sees of the loaded space is still due, on the next way out. It is due no longer.
    fn take_due_flush(&self) -> bool;
    /// Flushes this CPU's TLB, but for global entries and other names.
    fn flush(&self);
    /// Flushes one page and the paging-structure caches of this CPU, under the name in use.
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

    #[cfg(any(test, target_os = "none"))]
    pub(super) fn machine(&self) -> &M {
        &self.machine
    }

    /// Makes `space` that of this CPU, whose slot is `slot`; does nothing if it is already. Callers need not (and must
    /// not) remember what is loaded: an eviction may have changed it.
    ///
    /// # Safety
    /// The tables must hold the kernel half; tables and space must stay as they are until no CPU uses them (see
    /// [`evict`](Self::evict)).
    #[inline(always)]
    pub unsafe fn activate(&self, slot: &CpuSlot<M::Word>, space: &Space<M::Word>) {
        if Self::is_active(slot, space) {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            if self.machine.is_particular() {
                self.activate_with_care(slot, space);
            } else {
                self.activate_simply(slot, space);
            }
        }
    }

    /// Whether `space` is that of this CPU, whose slot is `slot`.
    #[inline(always)]
    pub fn is_active(slot: &CpuSlot<M::Word>, space: &Space<M::Word>) -> bool {
        // SAFETY: callers are the slot's own CPU, which alone writes the word.
        unsafe { slot.loaded.load_own() == space.address() }
    }

    /// [`activate`](Self::activate) for a space that is not active, where there are neither names nor tables for user mode.
    ///
    /// # Safety
    /// As for that.
    #[inline(always)]
    pub unsafe fn activate_simply(&self, slot: &CpuSlot<M::Word>, space: &Space<M::Word>) {
        slot.coming.store(space.address(), Ordering::Release);
        // SAFETY: the caller's promise.
        unsafe { self.machine.load_root(space.root) };
        slot.loaded.store(space.address(), Ordering::Release);
    }

    /// [`activate`](Self::activate) where there are names, or tables for user mode.
    ///
    /// # Safety
    /// As for that.
    #[inline(never)]
    unsafe fn activate_with_care(&self, slot: &CpuSlot<M::Word>, space: &Space<M::Word>) {
        if self.machine.take_due_flush() {
            slot.names.forget(slot.id.load(Ordering::Relaxed));
        }
        let (name, keep) = if self.machine.has_names() {
            self.machine.publish(&slot.coming, space.address());
            slot.names.take(space)
        } else {
            slot.coming.store(space.address(), Ordering::Release);
            (Name(0), false)
        };
        // SAFETY: the caller's promise.
        unsafe { self.machine.load_named(space, name, keep) };
        slot.id.store(space.id, Ordering::Relaxed);
        slot.loaded.store(space.address(), Ordering::Release);
    }

    /// Lets a CPU take part, whose slot `slot` others can find from now on, and loads `home`: the kernel's own space.
    ///
    /// # Safety
    /// To be called by the CPU itself, before it walks any user tables. `home` holds the kernel half.
    pub unsafe fn join(&self, slot: &CpuSlot<M::Word>, home: &'static Space<M::Word>) {
        slot.home.store(home.address(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.activate(slot, home) };
        // Whatever was loaded before.
        self.machine.flush();
    }

    /// Makes this CPU leave what it has loaded for the kernel's own space.
    fn go_home(&self, slot: &CpuSlot<M::Word>) {
        let home = slot.home.load(Ordering::Relaxed) as usize as *const Space<M::Word>;
        debug_assert!(!home.is_null());
        // SAFETY: only CPUs that have joined use user spaces and come here, so it is the address of a space that lives for ever, whose
        // tables hold the kernel half. A space is evicted only when no thread needs its user half any more.
        unsafe { self.activate(slot, &*home) };
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
            // SAFETY: a space that is loaded here lives until this CPU has left it, which it does not do meanwhile; and no CPU is
            // asked before it has loaded one.
            let space = unsafe {
                &*(slot.loaded.load(Ordering::Relaxed) as usize as *const Space<M::Word>)
            };
            // Before the flush, so that the flush is the younger.
            let generation = space.generation(Ordering::Acquire);
            self.machine.flush();
            slot.names.renew(space.id, generation);
        }
        // Released: whoever sees this count sees the flush before it.
        slot.served.store(requested, Ordering::Release);
        true
    }

    /// Makes all CPUs forget `pages` pages from `start` of `space`, after they were taken out of its tables or
    /// restricted. On return no CPU uses the former entries.
    pub fn shoot_down(&self, space: &Space<M::Word>, start: VirtAddr, pages: u64) {
        let generation = space.generation.fetch_add(1, Ordering::SeqCst) + 1;
        self.machine.fence();
        if let Some(slot) = self.machine.own_slot()
            && slot.uses(space)
        {
            if pages <= PAGES_ONE_BY_ONE {
                for page in 0..pages {
                    self.machine.flush_page(VirtAddr::new_truncate(
                        start.as_u64().wrapping_add(page * 4096),
                    ));
                }
            } else {
                self.machine.flush();
            }
            // Unless another CPU has taken pages away as well, and its request waits here.
            if slot.names.generation(space.id) == Some(generation - 1) {
                slot.names.renew(space.id, generation);
            }
        }
        self.ask(self.machine.this_cpu(), space, false);
    }

    /// Makes every CPU that has `space` loaded leave it for the kernel's own, this one too. No thread may be left that
    /// needs the user half of `space`, and none may be started. On return no CPU walks its tables, and none has a
    /// request left that names it, so memory of space and tables can be used for others.
    pub fn evict(&self, space: &Space<M::Word>) {
        let me = self.machine.this_cpu();
        self.machine.fence();
        if let Some(slot) = self.machine.slot(me)
            && slot.uses(space)
        {
            self.go_home(slot);
        }
        self.ask(me, space, true);
    }

    /// Asks all others that use `space`, and waits for them.
    fn ask(&self, me: CpuIndex, space: &Space<M::Word>, evict: bool) {
        if self.machine.cpus() == 1 {
            return;
        }
        let others = || {
            (0..self.machine.cpus())
                .map(CpuIndex)
                .filter(move |&cpu| cpu != me)
                .filter_map(|cpu| Some((cpu, self.machine.slot(cpu)?)))
        };
        let request = |cpu: CpuIndex, slot: &CpuSlot<M::Word>| {
            if evict {
                slot.evicted.store(space.address(), Ordering::Relaxed);
            }
            slot.requested.fetch_add(1, Ordering::AcqRel);
            self.machine.interrupt(cpu);
        };
        let mut asked = false;
        for (cpu, slot) in others().filter(|(_, slot)| slot.uses(space)) {
            request(cpu, slot);
            asked = true;
        }
        if !asked {
            return;
        }
        // All are asked before the first is waited for. The target count is read after the request, so that it counts ours;
        // it may count later ones too, whose flush is as good. A CPU that has left the space meanwhile has flushed by that,
        // or will when it comes back; an eviction waits for it all the same, or its note would be found when the address is
        // another space's.
        for (cpu, slot) in others() {
            let target = slot.requested.load(Ordering::Acquire);
            while (evict || slot.uses(space)) && slot.served.load(Ordering::Acquire) < target {
                self.wait(me);
            }
            while evict && slot.uses(space) {
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
