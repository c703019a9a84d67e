//! Shoot-downs between host threads that stand for CPUs, with real atomics.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::{CpuSlot, Machine, Tlb};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

const CPUS: usize = 4;
const ROOT: PhysAddr = PhysAddr::new(0x1000);
const KERNEL_ROOT: PhysAddr = PhysAddr::new(0x2000);

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
    /// A TLB of one entry, filled while `ROOT` is loaded.
    static CACHED: Cell<Option<u64>> = const { Cell::new(None) };
    static LOADED: Cell<u64> = const { Cell::new(0) };
}

/// Threads with a TLB each, in thread-local variables.
struct Threads {
    slots: Vec<CpuSlot>,
}

impl Machine for Threads {
    type Word = AtomicU64;

    fn this_cpu(&self) -> CpuIndex {
        CpuIndex(CPU.get())
    }
    fn slot(&self, cpu: CpuIndex) -> Option<&CpuSlot> {
        self.slots.get(cpu.0 as usize)
    }
    fn cpus(&self) -> u32 {
        CPUS as u32
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    fn interrupt(&self, _cpu: CpuIndex) {}
    unsafe fn load_root(&self, root: PhysAddr) {
        fence(Ordering::SeqCst);
        CACHED.set(None);
        LOADED.set(root.as_u64());
    }
    fn flush(&self) {
        CACHED.set(None);
    }
    fn flush_page(&self, _address: VirtAddr) {
        CACHED.set(None);
    }
    fn pause(&self) {
        std::hint::spin_loop();
    }
}

fn machine() -> Tlb<Threads> {
    Tlb::new(Threads {
        slots: (0..CPUS).map(|_| CpuSlot::new()).collect(),
    })
}

fn own(tlb: &Tlb<Threads>) -> &CpuSlot {
    &tlb.machine().slots[CPU.get() as usize]
}

fn activate(tlb: &Tlb<Threads>, root: PhysAddr) {
    // SAFETY: nothing is really loaded.
    unsafe { tlb.activate(own(tlb), root) };
}

/// Runs `cpu` on as many threads as there are CPUs, with its number; one that ends goes on serving.
fn run(tlb: &Arc<Tlb<Threads>>, cpu: impl Fn(&Tlb<Threads>, usize) + Send + Sync + 'static) {
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
                unsafe { tlb.join(own(&tlb), KERNEL_ROOT) };
                activate(&tlb, ROOT);
                started.wait();
                cpu(&tlb, index);
                ended.fetch_add(1, Ordering::SeqCst);
                while ended.load(Ordering::SeqCst) < CPUS as u64 {
                    tlb.serve(own(&tlb));
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
                activate(tlb, other);
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
                tlb.serve(own(tlb));
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
            assert!(tlb.machine().slots.iter().all(|slot| !slot.uses(ROOT)));
            gone.store(true, Ordering::SeqCst);
        }
        while !gone.load(Ordering::SeqCst) {
            tlb.serve(own(tlb));
            std::thread::yield_now();
        }
        assert_eq!(LOADED.get(), KERNEL_ROOT.as_u64());
        // The same root may be used again for another space, and is not evicted by what is left over.
        activate(tlb, ROOT);
        tlb.serve(own(tlb));
        assert_eq!(LOADED.get(), ROOT.as_u64());
    });
}

#[test]
fn cpus_that_have_not_started_are_not_waited_for() {
    let tlb = machine();
    CPU.set(0);
    tlb.shoot_down(ROOT, VirtAddr::new(0), 1);
    tlb.evict(ROOT);
    assert!(!tlb.serve(own(&tlb)));
}

#[test]
fn tables_that_are_loaded_are_not_loaded_again() {
    let tlb = machine();
    CPU.set(1);
    activate(&tlb, ROOT);
    CACHED.set(Some(7));
    activate(&tlb, ROOT);
    assert_eq!(CACHED.get(), Some(7));
    activate(&tlb, KERNEL_ROOT);
    assert_eq!(CACHED.get(), None);
}
