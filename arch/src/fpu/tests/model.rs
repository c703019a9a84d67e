//! The policy over a model of CPUs with XSAVEOPT's memory: threads come, use the FPU, migrate, die and are made anew in the same
//! memory, in any order, and nobody ever sees anything but its own.

use core::cell::Cell;

use proptest::prelude::*;

use crate::fpu::area::Damaged;
use crate::fpu::policy::{self, Exchange, FpuState, Owner, PRELOAD_AFTER, PROBE, Registers, Trap};

const CPUS: usize = 3;
const THREADS: usize = 5;
/// What the registers hold in their initial state.
const INITIAL: u64 = 0;

/// A state in memory: whether it is in use (not initial), its value, whether the CPU accepts it.
#[derive(Default)]
#[repr(C)]
struct Area {
    in_use: Cell<bool>,
    value: Cell<u64>,
    bad: Cell<bool>,
}

/// One CPU's hardware.
#[derive(Default)]
struct Hardware {
    ts: Cell<bool>,
    value: Cell<u64>,
    /// XRSTOR_INFO: where the registers were loaded from, and whether they were changed since (Intel SDM vol. 1 §13.6).
    loaded_from: Cell<usize>,
    modified: Cell<bool>,
}

impl Registers for Hardware {
    fn open(&self) {
        assert!(self.ts.replace(false), "CR0 was written for nothing");
    }

    fn close(&self) {
        assert!(!self.ts.replace(true), "CR0 was written for nothing");
    }

    unsafe fn save(&self, area: *mut u8) {
        assert!(!self.ts.get(), "saving with TS set is a #NM in the kernel");
        if self.loaded_from.get() == area as usize && !self.modified.get() {
            return;
        }
        // SAFETY: the model's threads have areas of this type.
        let area = unsafe { &*area.cast::<Area>() };
        area.in_use.set(self.value.get() != INITIAL);
        if area.in_use.get() {
            area.value.set(self.value.get());
        }
    }

    unsafe fn restore(&self, area: *mut u8) -> Result<(), Damaged> {
        assert!(!self.ts.get(), "loading with TS set is a #NM in the kernel");
        self.loaded_from.set(area as usize);
        self.modified.set(false);
        // SAFETY: as above.
        let area = unsafe { &*area.cast::<Area>() };
        if area.bad.get() {
            self.value.set(0xBAD);
            return Err(Damaged);
        }
        self.value.set(if area.in_use.get() {
            area.value.get()
        } else {
            INITIAL
        });
        Ok(())
    }

    fn scrub(&self) {
        assert!(!self.ts.get(), "loading with TS set is a #NM in the kernel");
        self.loaded_from.set(0);
        self.modified.set(false);
        self.value.set(INITIAL);
    }
}

/// A CPU: its hardware, its note, and who runs on it (none: its idle thread).
struct Cpu {
    hardware: Hardware,
    owner: Owner,
    idle: FpuState,
    current: Option<usize>,
}

/// What a thread ought to find in its registers.
struct Thread {
    /// In a box, so that a thread made anew lies where the one before it lay.
    state: Box<FpuState>,
    own: u64,
}

#[allow(clippy::vec_box, reason = "an area must stay where it is")]
struct World {
    eager: bool,
    cpus: Vec<Cpu>,
    threads: Vec<Thread>,
    /// Areas; one that comes back is the next to go out.
    areas: Vec<Box<Area>>,
    lent: Vec<Box<Area>>,
    next: u64,
}

impl World {
    fn new(eager: bool) -> World {
        let cpus = (0..CPUS)
            .map(|_| {
                let cpu = Cpu {
                    hardware: Hardware::default(),
                    owner: Owner::new(),
                    idle: FpuState::none(),
                    current: None,
                };
                cpu.hardware.ts.set(true);
                cpu.owner.begin();
                cpu
            })
            .collect();
        let thread = |_| Thread {
            state: Box::new(FpuState::new()),
            own: INITIAL,
        };
        World {
            eager,
            cpus,
            threads: (0..THREADS).map(thread).collect(),
            areas: (0..THREADS).map(|_| Box::default()).collect(),
            lent: Vec::new(),
            next: 1,
        }
    }

    fn state(&self, cpu: usize) -> &FpuState {
        self.state_of(cpu, self.cpus[cpu].current)
    }

    /// The short way; false: it is not one.
    fn exchange(&self, cpu: usize, leaving: &FpuState, coming: &FpuState) -> bool {
        let this = &self.cpus[cpu];
        // SAFETY: the model's current thread, which is not dead.
        match unsafe {
            policy::exchange(&this.hardware, &this.owner, leaving, coming, || self.eager)
        } {
            Exchange::Done => true,
            Exchange::Undecided => false,
            Exchange::Refused => {
                this.owner.give_up(&this.hardware, coming);
                true
            }
        }
    }

    fn state_of(&self, cpu: usize, thread: Option<usize>) -> &FpuState {
        match thread {
            Some(thread) => &self.threads[thread].state,
            None => &self.cpus[cpu].idle,
        }
    }

    /// Lets a thread, or the idle one, run on a CPU; false if it runs elsewhere.
    fn switch(&mut self, cpu: usize, to: Option<usize>) -> bool {
        if self.cpus[cpu].current == to {
            return true;
        }
        if to.is_some() && self.cpus.iter().any(|other| other.current == to) {
            return false;
        }
        let this = &self.cpus[cpu];
        let (leaving, coming) = (self.state(cpu), self.state_of(cpu, to));
        let both = this.current.is_some() && to.is_some();
        if both && !leaving.is_concerned() && !coming.is_concerned() {
            // What the switch takes for granted.
            assert!(!this.owner.is_open());
        } else if !(both && self.exchange(cpu, leaving, coming)) {
            if this.owner.is_open() {
                // SAFETY: the model's current thread.
                unsafe { policy::leave(&this.hardware, &this.owner, leaving) };
            }
            if this.owner.is_open() || coming.is_concerned() {
                policy::enter(&this.hardware, &this.owner, coming, || self.eager);
            }
        }
        self.cpus[cpu].current = to;
        self.check();
        true
    }

    /// An FPU instruction of the thread that runs: a look at the registers, and a change of them or not.
    fn use_fpu(&mut self, cpu: usize, change: bool) {
        let Some(thread) = self.cpus[cpu].current else {
            return;
        };
        if self.cpus[cpu].hardware.ts.get() {
            let this = &self.cpus[cpu];
            match policy::trap(&this.hardware, &this.owner, self.state(cpu)) {
                Trap::Loaded => {}
                Trap::NoArea => {
                    let area = self.areas.pop().expect("one for each thread");
                    let place = (&raw const *area).cast_mut().cast();
                    self.lent.push(area);
                    let this = &self.cpus[cpu];
                    self.state(cpu).provide(place);
                    let loaded = policy::use_now(&this.hardware, &this.owner, self.state(cpu));
                    assert_eq!(loaded, Trap::Loaded);
                }
                trap => panic!("{trap:?}"),
            }
        }
        let found = self.cpus[cpu].hardware.value.get();
        assert_eq!(
            found, self.threads[thread].own,
            "thread {thread} found another's"
        );
        if change {
            self.next += 1;
            // Back to the initial state now and then.
            self.threads[thread].own = if self.next.is_multiple_of(7) {
                INITIAL
            } else {
                self.next
            };
            self.cpus[cpu].hardware.value.set(self.threads[thread].own);
            self.cpus[cpu].hardware.modified.set(true);
        }
        self.check();
    }

    /// Frees what a thread had that runs nowhere, and makes a new one in its place.
    fn remake(&mut self, thread: usize) {
        let area = self.threads[thread].state.withdraw();
        if let Some(at) = self
            .lent
            .iter()
            .position(|lent| core::ptr::eq(&raw const **lent, area.cast()))
        {
            let area = self.lent.remove(at);
            area.in_use.set(false);
            area.value.set(INITIAL);
            area.bad.set(false);
            self.areas.push(area);
        }
        *self.threads[thread].state = FpuState::new();
        self.threads[thread].own = INITIAL;
    }

    fn die(&mut self, cpu: usize) {
        if let Some(thread) = self.cpus[cpu].current {
            policy::forget(&self.cpus[cpu].owner, self.state(cpu));
            self.switch(cpu, None);
            self.remake(thread);
        }
    }

    fn kill(&mut self, thread: usize) {
        if self.cpus.iter().all(|cpu| cpu.current != Some(thread)) {
            self.remake(thread);
            self.check();
        }
    }

    /// The CPU on which a thread runs.
    fn runs_on(&self, thread: usize) -> Option<usize> {
        (0..CPUS).find(|&cpu| self.cpus[cpu].current == Some(thread))
    }

    fn area(&self, thread: usize) -> Option<&Area> {
        // SAFETY: an area of this world's, alive as long as it is lent.
        unsafe { self.threads[thread].state.area().cast::<Area>().as_ref() }
    }

    /// A debugger looks at a thread and, if it has an area, sets its state.
    fn debug(&mut self, thread: usize, set: bool) {
        let cpu = self.runs_on(thread);
        if let Some(cpu) = cpu {
            let this = &self.cpus[cpu];
            policy::flush(&this.hardware, &this.owner, self.state(cpu));
        }
        self.next += 1;
        let next = self.next;
        let Some(area) = self.area(thread) else {
            return;
        };
        let value = if area.in_use.get() {
            area.value.get()
        } else {
            INITIAL
        };
        assert_eq!(
            value, self.threads[thread].own,
            "a debugger saw another state"
        );
        if set {
            area.in_use.set(true);
            area.value.set(next);
            self.threads[thread].own = next;
            match cpu {
                Some(cpu) => {
                    let this = &self.cpus[cpu];
                    policy::reload(&this.hardware, &this.owner, self.state(cpu), self.eager);
                }
                None => self.threads[thread].state.area_written(),
            }
        }
        self.check();
    }

    /// The rules of `policy.rs`.
    fn check(&self) {
        for cpu in &self.cpus {
            let (open, value) = (!cpu.hardware.ts.get(), cpu.hardware.value.get());
            assert_eq!(
                open,
                cpu.owner.is_open(),
                "TS is not what it is thought to be"
            );
            let Some(thread) = cpu.current else { continue };
            if open {
                assert_eq!(value, self.threads[thread].own, "open to thread {thread}");
            } else if self.eager {
                assert_eq!(value, INITIAL, "speculation would see it");
            }
        }
    }

    fn counters(&self, cpu: usize) -> [u64; 7] {
        let c = &self.cpus[cpu].owner.counters;
        let mut counts = [
            &c.saves,
            &c.restores,
            &c.traps,
            &c.skipped,
            &c.preloads,
            &c.scrubs,
            &c.ts_changes,
        ]
        .map(|counter| counter.load(core::sync::atomic::Ordering::Relaxed));
        // All of them.
        counts[RESTORES] += counts[PRELOADS];
        counts
    }
}

const SAVES: usize = 0;
const RESTORES: usize = 1;
const TRAPS: usize = 2;
const SKIPPED: usize = 3;
const PRELOADS: usize = 4;
const SCRUBS: usize = 5;
const TS_CHANGES: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Switch(usize, Option<usize>),
    Use(usize, bool),
    Die(usize),
    Kill(usize),
    Debug(usize, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let (cpu, thread) = (0..CPUS, 0..THREADS);
    prop_oneof![
        6 => (cpu.clone(), prop::option::weighted(0.8, thread.clone())).prop_map(|(c, t)| Step::Switch(c, t)),
        6 => (cpu.clone(), any::<bool>()).prop_map(|(c, change)| Step::Use(c, change)),
        1 => cpu.prop_map(Step::Die),
        1 => thread.clone().prop_map(Step::Kill),
        1 => (thread, any::<bool>()).prop_map(|(t, set)| Step::Debug(t, set)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nobody_ever_sees_anothers_registers(eager: bool, steps in prop::collection::vec(steps(), 1..400)) {
        let mut world = World::new(eager);
        for step in steps {
            match step {
                Step::Switch(cpu, to) => {
                    world.switch(cpu, to);
                }
                Step::Use(cpu, change) => world.use_fpu(cpu, change),
                Step::Die(cpu) => world.die(cpu),
                Step::Kill(thread) => world.kill(thread),
                Step::Debug(thread, set) => world.debug(thread, set),
            }
        }
    }
}

#[test]
fn threads_that_never_use_the_fpu_cost_nothing() {
    for eager in [false, true] {
        let mut world = World::new(eager);
        for _ in 0..10 {
            world.switch(0, Some(0));
            world.switch(0, Some(1));
            world.switch(0, None);
        }
        assert_eq!(world.counters(0), [0; 7]);
        assert!(world.lent.is_empty());
    }
}

#[test]
fn a_thread_that_stopped_using_it_is_not_saved_any_more() {
    let mut world = World::new(false);
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    for _ in 0..10 {
        world.switch(0, Some(1));
        world.switch(0, Some(0));
    }
    let counters = world.counters(0);
    assert_eq!((counters[SAVES], counters[RESTORES]), (1, 1));
    // Opened at its use, closed for the other.
    assert_eq!(counters[TS_CHANGES], 2);
}

#[test]
fn a_thread_finds_its_registers_as_it_left_them_without_a_load() {
    let mut world = World::new(false);
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    // Behind one that does not use them, it costs a trap.
    world.switch(0, Some(1));
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    let [_, restores, traps, skipped, ..] = world.counters(0);
    assert_eq!((restores, traps, skipped), (1, 2, 1));
    // Behind idleness, nothing at all.
    let before = world.counters(0);
    world.switch(0, None);
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    let after = world.counters(0);
    assert_eq!(after[TS_CHANGES], before[TS_CHANGES]);
    assert_eq!(after[RESTORES], before[RESTORES]);
    assert_eq!(after[TRAPS], before[TRAPS]);
    assert_eq!(after[SKIPPED], before[SKIPPED] + 1);
}

/// A slice of thread 0, between two of thread 1, which uses the FPU as well or not.
fn slice(world: &mut World, used: bool, other: bool) {
    world.switch(0, Some(0));
    if used {
        world.use_fpu(0, true);
    }
    world.switch(0, Some(1));
    if other {
        world.use_fpu(0, true);
    }
}

#[test]
fn steady_users_are_preloaded_and_prove_it_now_and_then() {
    let mut world = World::new(false);
    let row = u32::from(PRELOAD_AFTER) + 1;
    for _ in 0..row {
        slice(&mut world, true, true);
    }
    assert_eq!(world.counters(0)[PRELOADS], 0);
    assert_eq!(world.counters(0)[TRAPS], u64::from(2 * row));
    let before = world.counters(0);
    let rounds = 590;
    for _ in 0..rounds {
        slice(&mut world, true, true);
    }
    let after = world.counters(0);
    // One slice in 59 of each of the two.
    assert_eq!(after[TRAPS] - before[TRAPS], 20);
    assert_eq!(after[PRELOADS] - before[PRELOADS], 2 * rounds - 20);
    assert_eq!(after[RESTORES] - before[RESTORES], 2 * rounds);
}

#[test]
fn a_preloaded_thread_that_stops_is_dropped() {
    let mut world = World::new(false);
    for _ in 0..10 {
        slice(&mut world, true, true);
    }
    // In vain until the next proof is due, and then never again.
    for _ in 0..PROBE {
        slice(&mut world, false, true);
    }
    // Thread 1 is preloaded all the time; thread 0 is not any more.
    let before = world.counters(0);
    world.switch(0, Some(0));
    assert_eq!(world.counters(0)[PRELOADS], before[PRELOADS]);
    assert!(world.cpus[0].hardware.ts.get());
    // It begins again from nothing.
    slice(&mut world, true, true);
    slice(&mut world, true, true);
    assert_eq!(world.counters(0)[TRAPS], before[TRAPS] + 2);
}

#[test]
fn a_migrated_thread_brings_its_state_along() {
    let mut world = World::new(false);
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    world.switch(0, None);
    world.switch(1, Some(0));
    world.use_fpu(1, true);
    world.switch(1, None);
    // The first CPU's registers are still those of before, and its owner is still the thread.
    world.switch(0, Some(0));
    world.use_fpu(0, false);
    assert_eq!(world.counters(0)[RESTORES], 2);
}

#[test]
fn a_new_thread_where_a_dead_one_lay_is_not_taken_for_it() {
    let mut world = World::new(false);
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    world.switch(0, None);
    // It dies elsewhere; the first CPU's owner still points to where it lay, and the new one gets the same area as well.
    world.switch(1, Some(0));
    world.die(1);
    world.switch(0, Some(0));
    world.use_fpu(0, false);
    assert_eq!(world.threads[0].own, INITIAL);
}

#[test]
fn with_eager_loading_registers_are_clean_before_somebody_without_a_state_runs() {
    let mut world = World::new(true);
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    let first = world.counters(0);
    assert_eq!(first[TRAPS], 1);
    world.switch(0, Some(1));
    assert_eq!(world.cpus[0].hardware.value.get(), INITIAL);
    assert_eq!(world.counters(0)[SCRUBS], 1);
    // Another without a state finds them clean.
    world.switch(0, Some(2));
    assert_eq!(world.counters(0)[SCRUBS], 1);
    // No trap again for one that has a state.
    world.switch(0, Some(0));
    world.use_fpu(0, true);
    assert_eq!(world.counters(0)[TRAPS], 1);
}

#[test]
fn a_damaged_state_ends_in_an_error_of_its_thread_alone() {
    for eager in [false, true] {
        for row in [1, 10] {
            let mut world = World::new(eager);
            for _ in 0..row {
                slice(&mut world, true, true);
            }
            world.area(0).unwrap().bad.set(true);
            world.switch(0, Some(0));
            // At the switch or at the use: either way by the trap.
            let this = &world.cpus[0];
            assert!(this.hardware.ts.get());
            let trap = policy::trap(&this.hardware, &this.owner, &world.threads[0].state);
            assert_eq!(trap, Trap::Damaged);
            assert_ne!(this.hardware.value.get(), 0xBAD, "half a state is left");
            // Again and again, and the other thread goes on.
            world.switch(0, Some(1));
            world.use_fpu(0, false);
            world.switch(0, Some(0));
            assert!(world.cpus[0].hardware.ts.get());
            // A debugger may set a new one.
            world.area(0).unwrap().bad.set(false);
            world.area(0).unwrap().in_use.set(false);
            world.threads[0].own = INITIAL;
            world.debug(0, true);
            world.use_fpu(0, true);
        }
    }
}
