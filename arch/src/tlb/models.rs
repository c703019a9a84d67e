//! Models of the protocol, run by loom in every interleaving and with every value that a load may return.
//!
//! A CPU is a thread with a TLB of one entry. What a serialising MOV to CR3 is to hardware, a sequentially consistent fence is
//! to the model. Each model has a planted mistake that it must notice, so that a model that looks at nothing can't pass.

use core::cell::Cell;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

use super::names::{KERNEL_ID, Name};
use super::protocol::{CpuSlot, Machine, Space, Tlb, Word, word};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

word!(AtomicU64);

const ROOT: PhysAddr = PhysAddr::new(0x1000);
const KERNEL_ROOT: PhysAddr = PhysAddr::new(0x2000);
const OTHER_ROOT: PhysAddr = PhysAddr::new(0x3000);

/// The spaces of a model, by index.
const HOME: usize = 0;
const SPACE: usize = 1;
const OTHER: usize = 2;

const FORMER: u64 = 1;
const CHANGED: u64 = 2;

/// What both CPUs see.
struct Memory {
    slots: [CpuSlot<AtomicU64>; 2],
    spaces: [Space<AtomicU64>; 3],
    /// The one entry of `SPACE`'s tables.
    entry: AtomicU64,
    /// Set when the requester was told that nobody uses the former entry any more.
    announced: AtomicU64,
}

/// A mistake that a model must notice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// The load of a root orders nothing.
    LoadIsNoFence,
    /// The requester does not fence between its change and its look at the slots.
    RequesterDoesNotFence,
    /// With names, a CPU does not fence between saying where it goes and its look at the generation.
    PublishIsNoFence,
}

/// One CPU.
struct Cpu {
    memory: Arc<Memory>,
    me: CpuIndex,
    loaded: Cell<PhysAddr>,
    /// What the TLB holds of the entry. It stands for one name: that of `SPACE`.
    cached: Cell<Option<u64>>,
    names: bool,
    mistake: Mistake,
}

impl Machine for Cpu {
    type Word = AtomicU64;

    fn this_cpu(&self) -> CpuIndex {
        self.me
    }
    fn slot(&self, cpu: CpuIndex) -> Option<&CpuSlot<AtomicU64>> {
        self.memory.slots.get(cpu.0 as usize)
    }
    fn cpus(&self) -> u32 {
        2
    }
    fn fence(&self) {
        if self.mistake != Mistake::RequesterDoesNotFence {
            fence(Ordering::SeqCst);
        }
    }
    fn publish(&self, word: &AtomicU64, value: u64) {
        // loom takes sequentially consistent accesses for weaker than they are, but not fences.
        word.store(value, Ordering::Release);
        if self.mistake != Mistake::PublishIsNoFence {
            fence(Ordering::SeqCst);
        }
    }
    fn interrupt(&self, _cpu: CpuIndex) {}
    fn is_particular(&self) -> bool {
        self.names
    }
    fn has_names(&self) -> bool {
        self.names
    }
    unsafe fn load_root(&self, root: PhysAddr) {
        // The CPU walks, and uses what it holds, up to the load.
        self.look();
        if self.mistake != Mistake::LoadIsNoFence {
            fence(Ordering::SeqCst);
        }
        self.loaded.set(root);
        self.cached.set(None);
    }
    unsafe fn load_named(&self, space: &Space<AtomicU64>, _name: Name, keep: bool) {
        self.look();
        fence(Ordering::SeqCst);
        self.loaded.set(space.root());
        if !keep && space.root() == ROOT {
            self.cached.set(None);
        }
    }
    fn take_due_flush(&self) -> bool {
        false
    }
    fn flush(&self) {
        self.cached.set(None);
    }
    fn flush_page(&self, _address: VirtAddr) {
        self.cached.set(None);
    }
    fn pause(&self) {
        thread::yield_now();
    }
}

impl Cpu {
    /// Uses the entry as user code, or speculation, may at any time: what is held of it may not be what was announced to be gone.
    fn look(&self) {
        if self.loaded.get() != ROOT {
            return;
        }
        let announced = self.memory.announced.load(Ordering::Acquire) != 0;
        let seen = self
            .cached
            .get()
            .unwrap_or_else(|| self.memory.entry.load(Ordering::Relaxed));
        self.cached.set(Some(seen));
        assert!(
            !(announced && seen == FORMER),
            "the former entry is used after the shoot-down"
        );
    }
}

fn cpu(memory: &Arc<Memory>, me: u32, names: bool, mistake: Mistake) -> Tlb<Cpu> {
    Tlb::new(Cpu {
        memory: memory.clone(),
        me: CpuIndex(me),
        loaded: Cell::new(KERNEL_ROOT),
        cached: Cell::new(None),
        names,
        mistake,
    })
}

fn activate(tlb: &Tlb<Cpu>, space: usize) {
    let cpu = tlb.machine();
    let memory = &cpu.memory;
    // SAFETY: nothing is really loaded.
    unsafe { tlb.activate(&memory.slots[cpu.me.0 as usize], &memory.spaces[space]) };
}

/// CPU 0 changes the entry and shoots it down, while CPU 1 loads `spaces` one after the other and uses whatever it finds. `names`:
/// the TLB keeps what it holds, and CPU 1 has been in these spaces before.
fn model(spaces: &'static [usize], names: bool, mistake: Mistake) {
    let mut builder = loom::model::Builder::new();
    // More changes of the running thread than this find nothing new, and take minutes.
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let memory = Arc::new(Memory {
            slots: [CpuSlot::of(AtomicU64::new), CpuSlot::of(AtomicU64::new)],
            spaces: [
                Space::of(KERNEL_ROOT, KERNEL_ID, AtomicU64::new),
                Space::of(ROOT, 1, AtomicU64::new),
                Space::of(OTHER_ROOT, 2, AtomicU64::new),
            ],
            entry: AtomicU64::new(FORMER),
            announced: AtomicU64::new(0),
        });
        let target = {
            let memory = memory.clone();
            let tlb = cpu(&memory, 1, names, mistake);
            if names {
                for space in [SPACE, HOME] {
                    activate(&tlb, space);
                    tlb.machine().look();
                }
            }
            thread::spawn(move || {
                for &space in spaces {
                    activate(&tlb, space);
                    tlb.machine().look();
                }
                // From here on interrupts come in.
                while memory.announced.load(Ordering::Acquire) == 0 {
                    tlb.serve(&memory.slots[1]);
                    tlb.machine().look();
                    thread::yield_now();
                }
                tlb.machine().look();
            })
        };
        let tlb = cpu(&memory, 0, names, mistake);
        memory.entry.store(CHANGED, Ordering::Relaxed);
        tlb.shoot_down(&memory.spaces[SPACE], VirtAddr::new(0), 1);
        memory.announced.store(1, Ordering::Release);
        target.join().unwrap();
    });
}

#[test]
fn a_cpu_that_comes_during_a_shoot_down_is_asked_or_finds_the_change() {
    model(&[SPACE], false, Mistake::None);
}

#[test]
fn a_cpu_that_passes_through_during_a_shoot_down_is_not_missed() {
    model(&[OTHER, SPACE, HOME], false, Mistake::None);
}

#[test]
fn a_cpu_that_comes_back_during_a_shoot_down_is_asked_or_finds_the_generation() {
    model(&[SPACE], true, Mistake::None);
    model(&[SPACE, HOME, SPACE], true, Mistake::None);
}

#[test]
#[should_panic(expected = "the former entry is used")]
fn the_model_notices_a_load_of_tables_that_orders_nothing() {
    model(&[SPACE], false, Mistake::LoadIsNoFence);
}

#[test]
#[should_panic(expected = "the former entry is used")]
fn the_model_notices_a_requester_without_a_fence() {
    model(&[SPACE], false, Mistake::RequesterDoesNotFence);
}

#[test]
#[should_panic(expected = "the former entry is used")]
fn the_model_notices_a_look_at_the_generation_that_comes_too_early() {
    model(&[SPACE], true, Mistake::PublishIsNoFence);
}
