//! Shoot-downs between host threads that stand for CPUs, with real atomics; without names and with them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::{CpuSlot, Machine, Name, Space, Tlb};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

const CPUS: usize = 4;
const ROOT: PhysAddr = PhysAddr::new(0x1000);
const KERNEL_ROOT: PhysAddr = PhysAddr::new(0x2000);

static HOME: Space = Space::of_kernel(KERNEL_ROOT);

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
    /// A TLB with room for one entry a name.
    static CACHED: RefCell<BTreeMap<u16, u64>> = const { RefCell::new(BTreeMap::new()) };
    static NAME: Cell<u16> = const { Cell::new(0) };
    static LOADED: Cell<u64> = const { Cell::new(0) };
}

fn cached() -> Option<u64> {
    CACHED.with_borrow(|cached| cached.get(&NAME.get()).copied())
}

fn cache(value: u64) {
    CACHED.with_borrow_mut(|cached| cached.insert(NAME.get(), value));
}

/// Threads with a TLB each, in thread-local variables.
struct Threads {
    slots: Vec<CpuSlot>,
    names: bool,
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
    fn publish(&self, word: &AtomicU64, value: u64) {
        word.swap(value, Ordering::SeqCst);
    }
    fn interrupt(&self, _cpu: CpuIndex) {}
    fn is_particular(&self) -> bool {
        self.names
    }
    fn has_names(&self) -> bool {
        self.names
    }
    unsafe fn load_root(&self, root: PhysAddr) {
        fence(Ordering::SeqCst);
        self.flush();
        LOADED.set(root.as_u64());
    }
    unsafe fn load_named(&self, space: &Space, name: Name, keep: bool) {
        fence(Ordering::SeqCst);
        NAME.set(name.0);
        LOADED.set(space.root().as_u64());
        if !keep {
            self.flush();
        }
    }
    fn take_due_flush(&self) -> bool {
        false
    }
    fn flush(&self) {
        CACHED.with_borrow_mut(|cached| cached.remove(&NAME.get()));
    }
    fn flush_page(&self, _address: VirtAddr) {
        self.flush();
    }
    fn pause(&self) {
        std::hint::spin_loop();
    }
}

fn machine(names: bool) -> Tlb<Threads> {
    Tlb::new(Threads {
        slots: (0..CPUS).map(|_| CpuSlot::new()).collect(),
        names,
    })
}

fn own(tlb: &Tlb<Threads>) -> &CpuSlot {
    &tlb.machine().slots[CPU.get() as usize]
}

fn activate(tlb: &Tlb<Threads>, space: &Space) {
    // SAFETY: nothing is really loaded.
    unsafe { tlb.activate(own(tlb), space) };
}

/// Runs `cpu` on as many threads as there are CPUs, with its number; one that ends goes on serving.
fn run(
    names: bool,
    space: &Arc<Space>,
    cpu: impl Fn(&Tlb<Threads>, usize) + Send + Sync + 'static,
) {
    let tlb = Arc::new(machine(names));
    let cpu = Arc::new(cpu);
    let ended = Arc::new(AtomicU64::new(0));
    let started = Arc::new(std::sync::Barrier::new(CPUS));
    let threads: Vec<_> = (0..CPUS)
        .map(|index| {
            let (tlb, cpu, ended, started) =
                (tlb.clone(), cpu.clone(), ended.clone(), started.clone());
            let space = space.clone();
            std::thread::spawn(move || {
                CPU.set(index as u32);
                // SAFETY: nothing is really loaded.
                unsafe { tlb.join(own(&tlb), &HOME) };
                activate(&tlb, &space);
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

fn shoot_each_other_down(names: bool) {
    let space = Arc::new(Space::new(ROOT));
    let pte = AtomicU64::new(0);
    let floor = AtomicU64::new(0);
    let shared = space.clone();
    run(names, &shared, move |tlb, index| {
        for round in 0..2000u64 {
            if index < 2 && round % 4 == 0 {
                // Two CPUs change the entry and shoot each other down.
                let version = pte.fetch_add(1, Ordering::SeqCst) + 1;
                tlb.shoot_down(&space, VirtAddr::new(0x1000), 1 + round % 32);
                floor.fetch_max(version, Ordering::SeqCst);
            }
            if round % 16 == index as u64 {
                let other = if LOADED.get() == ROOT.as_u64() {
                    &HOME
                } else {
                    &*space
                };
                activate(tlb, other);
            }
            if LOADED.get() == ROOT.as_u64() {
                let known = floor.load(Ordering::SeqCst);
                let seen = cached().unwrap_or_else(|| pte.load(Ordering::SeqCst));
                cache(seen);
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
fn no_cpu_sees_a_former_entry_after_a_shoot_down() {
    shoot_each_other_down(false);
}

#[test]
fn no_cpu_sees_a_former_entry_that_its_tlb_kept_under_a_name() {
    shoot_each_other_down(true);
}

#[test]
fn an_evicted_space_is_loaded_nowhere() {
    for names in [false, true] {
        let space = Arc::new(Space::new(ROOT));
        let gone = AtomicBool::new(false);
        let shared = space.clone();
        run(names, &shared, move |tlb, index| {
            if index == 0 {
                tlb.evict(&space);
                assert!(tlb.machine().slots.iter().all(|slot| !slot.uses(&space)));
                gone.store(true, Ordering::SeqCst);
            }
            while !gone.load(Ordering::SeqCst) {
                tlb.serve(own(tlb));
                std::thread::yield_now();
            }
            assert_eq!(LOADED.get(), KERNEL_ROOT.as_u64());
            // Its memory may be used again for another space, and that one is not evicted by what is left over.
            activate(tlb, &space);
            tlb.serve(own(tlb));
            assert_eq!(LOADED.get(), ROOT.as_u64());
        });
    }
}

#[test]
fn cpus_that_have_not_started_are_not_waited_for() {
    let tlb = machine(true);
    let space = Space::new(ROOT);
    CPU.set(0);
    tlb.shoot_down(&space, VirtAddr::new(0), 1);
    tlb.evict(&space);
    assert!(!tlb.serve(own(&tlb)));
}

#[test]
fn a_space_that_is_loaded_is_not_loaded_again() {
    for names in [false, true] {
        let tlb = machine(names);
        let space = Space::new(ROOT);
        CPU.set(1);
        activate(&tlb, &space);
        cache(7);
        activate(&tlb, &space);
        assert_eq!(cached(), Some(7));
        activate(&tlb, &HOME);
        assert_eq!(cached(), None);
    }
}

#[test]
fn a_space_that_comes_back_finds_its_entries_unless_it_lost_pages() {
    let tlb = machine(true);
    let space = Space::new(ROOT);
    CPU.set(1);
    // SAFETY: nothing is really loaded.
    unsafe { tlb.join(own(&tlb), &HOME) };
    activate(&tlb, &space);
    cache(7);
    activate(&tlb, &HOME);
    activate(&tlb, &space);
    assert_eq!(cached(), Some(7));
    // Its own CPU takes a page away: what it flushes then need not be flushed again when it comes back.
    tlb.shoot_down(&space, VirtAddr::new(0), 1);
    assert_eq!(cached(), None);
    cache(8);
    activate(&tlb, &HOME);
    activate(&tlb, &space);
    assert_eq!(cached(), Some(8));
    // Another does, while the space is not loaded here: nobody asks this CPU.
    activate(&tlb, &HOME);
    CPU.set(2);
    tlb.shoot_down(&space, VirtAddr::new(0), 1);
    CPU.set(1);
    assert!(!tlb.serve(own(&tlb)));
    activate(&tlb, &space);
    assert_eq!(cached(), None);
}

#[test]
fn a_name_that_another_space_had_is_flushed() {
    let tlb = machine(true);
    let spaces: Vec<Space> = (0..=super::names::NAMES)
        .map(|_| Space::new(ROOT))
        .collect();
    CPU.set(3);
    // SAFETY: nothing is really loaded.
    unsafe { tlb.join(own(&tlb), &HOME) };
    activate(&tlb, &spaces[0]);
    cache(7);
    let name = NAME.get();
    // The last one gets the name of the first.
    for space in &spaces[1..] {
        activate(&tlb, space);
        assert_eq!(cached(), None);
    }
    assert_eq!(NAME.get(), name);
    activate(&tlb, &spaces[0]);
    assert_eq!(cached(), None);
}
