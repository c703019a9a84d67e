//! A machine in miniature: the kernel's rules of who runs where, acted out one after the other with the policy of this crate.
//!
//! What must hold whatever happens: a CPU runs the highest of its threads, equal ones get their turns, no thread is where it may
//! not be, and no CPU idles while a thread that it could run waits elsewhere.

mod common;

use common::ThreadRef;
use proptest::prelude::*;
use sched::{
    Affinity, BasePriority, CpuLoad, CpuPicker, IdleSet, RunQueue, SharedAffinity, Slice,
    ThreadPriority, Turn, busiest,
};

const CPUS: u32 = 18;
const THREADS: usize = 10;
const QUANTUM: u64 = 100;
/// As many ready threads as the kernel looks at.
const LOOKED_AT: usize = 16;

fn base(level: u8) -> BasePriority {
    BasePriority::new(level).expect("a test's level is below 64")
}

struct Thread {
    node: ThreadRef,
    priority: ThreadPriority,
    affinity: SharedAffinity,
    /// Where it runs or waits for its turn.
    cpu: Option<u32>,
    slice: Slice,
}

struct Cpu {
    queue: RunQueue<ThreadRef>,
    current: Option<usize>,
}

struct Machine {
    threads: Vec<Thread>,
    cpus: Vec<Cpu>,
    idle: IdleSet,
    picker: CpuPicker,
}

impl Machine {
    fn new() -> Machine {
        Machine::with(THREADS)
    }

    fn with(threads: usize) -> Machine {
        let machine = Machine {
            threads: ThreadRef::many(threads)
                .into_iter()
                .map(|node| Thread {
                    node,
                    priority: ThreadPriority::new(base(10)),
                    affinity: SharedAffinity::any(),
                    cpu: None,
                    slice: Slice::new(QUANTUM),
                })
                .collect(),
            cpus: (0..CPUS)
                .map(|_| Cpu {
                    queue: RunQueue::new(),
                    current: None,
                })
                .collect(),
            idle: IdleSet::new(),
            picker: CpuPicker::new(),
        };
        (0..CPUS).for_each(|cpu| machine.idle.enter(cpu));
        machine
    }

    fn load(&self, cpu: u32) -> u64 {
        let cpu = &self.cpus[cpu as usize];
        // To count goes through all levels.
        let queued = if cpu.queue.is_empty() {
            0
        } else {
            cpu.queue.len() as u64
        };
        queued + u64::from(cpu.current.is_some())
    }

    fn loads(&self) -> Vec<CpuLoad> {
        (0..CPUS)
            .map(|cpu| CpuLoad {
                cpu,
                threads: self.load(cpu),
            })
            .collect()
    }

    /// Queues a thread that is nowhere on `cpu`, or on a better one.
    fn enqueue(&mut self, cpu: u32, index: usize) {
        let thread = &self.threads[index];
        let mut to = cpu;
        if !thread.affinity.allows(cpu) {
            to = self
                .picker
                .pick(self.loads(), |cpu| thread.affinity.allows(cpu))
                .expect("every affinity of the test has a CPU");
        } else if self.load(cpu) != 0
            && self.idle.has_any(cpu, CPUS)
            && let Some(idle) = self.idle.claim(cpu, &thread.affinity)
        {
            to = idle;
        }
        let (node, priority) = (thread.node, thread.priority.effective());
        self.threads[index].cpu = Some(to);
        self.cpus[to as usize].queue.push_back(node, priority);
    }

    /// Takes a thread from wherever it is. Returns where that was.
    fn take_out(&mut self, index: usize) -> Option<u32> {
        let cpu = self.threads[index].cpu.take()?;
        let place = &mut self.cpus[cpu as usize];
        if place.current == Some(index) {
            place.current = None;
        } else {
            assert!(place.queue.remove(self.threads[index].node));
        }
        Some(cpu)
    }

    fn wake(&mut self, index: usize) {
        if self.threads[index].cpu.is_none() {
            let affinity = &self.threads[index].affinity;
            let cpu = self.picker.pick(self.loads(), |cpu| affinity.allows(cpu));
            self.enqueue(cpu.expect("every affinity of the test has a CPU"), index);
        }
    }

    fn give_priority(&mut self, index: usize, level: u8) {
        let thread = &self.threads[index];
        thread.priority.give(base(level));
        let changed = thread.priority.settle([]).is_some();
        if let Some(cpu) = thread.cpu
            && changed
        {
            let (node, priority) = (thread.node, thread.priority.effective());
            let _ = self.cpus[cpu as usize].queue.requeue(node, priority);
        }
    }

    fn give_affinity(&mut self, index: usize, mask: u64) {
        let thread = &self.threads[index];
        thread.affinity.set(&Affinity::from_words(&[mask]));
        if thread.cpu.is_some_and(|cpu| !thread.affinity.allows(cpu))
            && let Some(cpu) = self.take_out(index)
        {
            self.enqueue(cpu, index);
        }
    }

    /// The running thread of a CPU runs for so long.
    fn run(&mut self, cpu: u32, ticks: u64) {
        if let Some(current) = self.cpus[cpu as usize].current {
            let slice = &mut self.threads[current].slice;
            *slice = Slice::new(slice.left().saturating_sub(ticks));
        }
    }

    /// What a CPU does on its way out of the kernel. True if something changed.
    fn look(&mut self, cpu: u32) -> bool {
        let place = &mut self.cpus[cpu as usize];
        if let Some(current) = place.current {
            let thread = &mut self.threads[current];
            let priority = thread.priority.effective();
            match Turn::judge(priority, thread.slice, place.queue.peek_priority()) {
                Turn::Continue => {
                    thread.slice = thread.slice.renewed(QUANTUM);
                    return false;
                }
                Turn::Front => place.queue.push_front(thread.node, priority),
                Turn::Back => {
                    thread.slice = Slice::new(QUANTUM);
                    place.queue.push_back(thread.node, priority);
                }
            }
        }
        place.current = place.queue.pop_highest().map(|node| node.0.number);
        if place.current.is_some() {
            let _ = self.idle.leave(cpu);
            return true;
        }
        // Idle: it asks the busiest of the others that has something for it.
        self.idle.enter(cpu);
        if self.cpus.iter().all(|cpu| cpu.queue.is_empty()) {
            return false;
        }
        let mut others: Vec<_> = self.loads();
        while let Some(busy) = busiest(others.iter().copied()) {
            if self.shed(busy) {
                return true;
            }
            // It has nothing for any idle CPU, and says so for a while.
            others.retain(|other| other.cpu != busy);
        }
        false
    }

    /// A busy CPU gives a ready thread to an idle one.
    fn shed(&mut self, cpu: u32) -> bool {
        let (idle, threads) = (&self.idle, &self.threads);
        let mut target = None;
        let found = self.cpus[cpu as usize].queue.take_first(LOOKED_AT, |node| {
            target = idle.claim(cpu, &threads[node.0.number].affinity);
            target.is_some()
        });
        let (Some(node), Some(to)) = (found, target) else {
            return false;
        };
        let thread = &mut self.threads[node.0.number];
        thread.cpu = Some(to);
        let priority = thread.priority.effective();
        self.cpus[to as usize].queue.push_back(node, priority);
        true
    }

    /// All CPUs look until nothing changes any more.
    fn settle(&mut self) {
        let mut rounds = 0;
        while (0..CPUS).fold(false, |changed, cpu| self.look(cpu) | changed) {
            rounds += 1;
            assert!(rounds < 100, "the machine never comes to rest");
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (index, thread) in self.threads.iter().enumerate() {
            let Some(cpu) = thread.cpu else { continue };
            prop_assert!(
                thread.affinity.allows(cpu),
                "thread {} is on CPU {}",
                index,
                cpu
            );
            let place = &self.cpus[cpu as usize];
            if place.current == Some(index) {
                continue;
            }
            let Some(running) = place.current else {
                return Err(TestCaseError::fail(
                    "a CPU idles with a thread in its queue",
                ));
            };
            prop_assert!(
                self.threads[running].priority.effective() >= thread.priority.effective(),
                "thread {} waits for a lower one",
                index
            );
            for (idle, other) in (0..).zip(&self.cpus) {
                prop_assert!(
                    other.current.is_some() || !thread.affinity.allows(idle),
                    "thread {} waits while CPU {} idles",
                    index,
                    idle
                );
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wake(usize),
    Block(u32),
    Run(u32, u64),
    Priority(usize, u8),
    Affinity(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..THREADS).prop_map(Step::Wake),
        2 => (0..CPUS).prop_map(Step::Block),
        4 => (0..CPUS, 1..2 * QUANTUM).prop_map(|(cpu, ticks)| Step::Run(cpu, ticks)),
        2 => (0..THREADS, 8_u8..13).prop_map(|(thread, level)| Step::Priority(thread, level)),
        2 => (0..THREADS, 1_u64..1 << CPUS).prop_map(|(thread, mask)| Step::Affinity(thread, mask)),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn the_highest_runs_where_it_may_and_no_cpu_idles_beside_work(steps in steps()) {
        let mut machine = Machine::new();
        for step in steps {
            match step {
                Step::Wake(thread) => machine.wake(thread),
                Step::Block(cpu) => {
                    if let Some(current) = machine.cpus[cpu as usize].current {
                        let _ = machine.take_out(current);
                    }
                }
                Step::Run(cpu, ticks) => machine.run(cpu, ticks),
                Step::Priority(thread, level) => machine.give_priority(thread, level),
                Step::Affinity(thread, mask) => machine.give_affinity(thread, mask),
            }
            machine.settle();
            machine.check()?;
        }
    }

    /// However the time is cut into pieces, and whoever pushes them aside meanwhile: between two turns of a thread each of its equals has
    /// one turn, and one quantum at most.
    #[test]
    fn none_of_equal_priority_starves(
        equals in 2..6_usize,
        pieces in proptest::collection::vec((1..QUANTUM, any::<bool>()), 60..200),
    ) {
        let mut machine = Machine::new();
        for thread in 0..=equals {
            machine.give_affinity(thread, 1);
        }
        let urgent = equals;
        machine.give_priority(urgent, 20);
        (0..equals).for_each(|thread| machine.wake(thread));
        machine.settle();
        // What each has run since a thread's last turn.
        let mut since = vec![vec![0; equals]; equals];
        let mut last = None;
        for (ticks, interrupted) in pieces {
            let current = machine.cpus[0].current.expect("somebody runs");
            prop_assert!(current < equals);
            if last != Some(current) {
                since[current].fill(0);
            }
            last = Some(current);
            let ticks = ticks.min(machine.threads[current].slice.left());
            machine.run(0, ticks);
            for (thread, ran) in since.iter_mut().enumerate() {
                if thread != current {
                    ran[current] += ticks;
                    prop_assert!(ran[current] <= QUANTUM, "{} waits for {}", thread, current);
                }
            }
            if interrupted {
                machine.wake(urgent);
                machine.settle();
                prop_assert_eq!(machine.cpus[0].current, Some(urgent));
                let _ = machine.take_out(urgent);
            }
            machine.settle();
        }
    }
}

/// CPUs share words of the idle set, and the nearest word is looked at first. That it has nobody must not be the end of the search.
#[test]
fn a_thread_that_would_wait_goes_to_an_idle_cpu_however_far() {
    let last = CPUS - 1;
    let waiting = last as usize;
    let mut machine = Machine::with(waiting + 1);
    for cpu in 0..last {
        machine.give_affinity(cpu as usize, 1 << cpu);
        machine.wake(cpu as usize);
    }
    machine.settle();
    for cpu in 0..last {
        assert_eq!(machine.cpus[cpu as usize].current, Some(cpu as usize));
    }
    // It is made ready where it was before.
    machine.enqueue(0, waiting);
    assert_eq!(machine.threads[waiting].cpu, Some(last));
    machine.settle();
    assert_eq!(machine.cpus[waiting].current, Some(waiting));
}
