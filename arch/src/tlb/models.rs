//! Models of the protocol, run by loom in every interleaving and with every value that a load may return.
//!
//! A CPU is a thread with a TLB of one entry. What a serialising MOV to CR3 is to hardware, a sequentially consistent fence is
//! to the model. Each model has a planted mistake that it must notice, so that a model that looks at nothing can't pass.

use core::cell::Cell;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

use super::protocol::{CpuSlot, Machine, Tlb, Word, word};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

word!(AtomicU64);

const ROOT: PhysAddr = PhysAddr::new(0x1000);
const KERNEL_ROOT: PhysAddr = PhysAddr::new(0x2000);
const OTHER_ROOT: PhysAddr = PhysAddr::new(0x3000);

const FORMER: u64 = 1;
const CHANGED: u64 = 2;

/// What both CPUs see.
struct Memory {
    slots: [CpuSlot<AtomicU64>; 2],
    /// The one entry of `ROOT`'s tables.
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
}

/// One CPU.
struct Cpu {
    memory: Arc<Memory>,
    me: CpuIndex,
    loaded: Cell<PhysAddr>,
    cached: Cell<Option<u64>>,
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
    fn interrupt(&self, _cpu: CpuIndex) {}
    unsafe fn load_root(&self, root: PhysAddr) {
        // The CPU walks, and uses what it holds, up to the load.
        self.look();
        if self.mistake != Mistake::LoadIsNoFence {
            fence(Ordering::SeqCst);
        }
        self.loaded.set(root);
        self.cached.set(None);
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

fn cpu(memory: &Arc<Memory>, me: u32, mistake: Mistake) -> Tlb<Cpu> {
    Tlb::new(Cpu {
        memory: memory.clone(),
        me: CpuIndex(me),
        loaded: Cell::new(KERNEL_ROOT),
        cached: Cell::new(None),
        mistake,
    })
}

fn activate(tlb: &Tlb<Cpu>, root: PhysAddr) {
    let cpu = tlb.machine();
    // SAFETY: nothing is really loaded.
    unsafe { tlb.activate(&cpu.memory.slots[cpu.me.0 as usize], root) };
}

/// CPU 0 changes the entry and shoots it down, while CPU 1 loads `roots` one after the other and uses whatever it finds.
fn model(roots: &'static [PhysAddr], mistake: Mistake) {
    let mut builder = loom::model::Builder::new();
    // More changes of the running thread than this find nothing new, and take minutes.
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let memory = Arc::new(Memory {
            slots: [CpuSlot::of(AtomicU64::new), CpuSlot::of(AtomicU64::new)],
            entry: AtomicU64::new(FORMER),
            announced: AtomicU64::new(0),
        });
        let target = {
            let memory = memory.clone();
            thread::spawn(move || {
                let tlb = cpu(&memory, 1, mistake);
                for &root in roots {
                    activate(&tlb, root);
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
        let tlb = cpu(&memory, 0, mistake);
        memory.entry.store(CHANGED, Ordering::Relaxed);
        tlb.shoot_down(ROOT, VirtAddr::new(0), 1);
        memory.announced.store(1, Ordering::Release);
        target.join().unwrap();
    });
}

#[test]
fn a_cpu_that_comes_during_a_shoot_down_is_asked_or_finds_the_change() {
    model(&[ROOT], Mistake::None);
}

#[test]
fn a_cpu_that_passes_through_during_a_shoot_down_is_not_missed() {
    model(&[OTHER_ROOT, ROOT, KERNEL_ROOT], Mistake::None);
}

#[test]
#[should_panic(expected = "the former entry is used")]
fn the_model_notices_a_load_of_tables_that_orders_nothing() {
    model(&[ROOT], Mistake::LoadIsNoFence);
}

#[test]
#[should_panic(expected = "the former entry is used")]
fn the_model_notices_a_requester_without_a_fence() {
    model(&[ROOT], Mistake::RequesterDoesNotFence);
}
