//! Models of an idle CPU that pulls work, run by loom in every interleaving.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::thread;

use super::IdleSet;
use crate::affinity::SharedAffinity;

const BUSY: u32 = 0;
const IDLE: u32 = 1;

struct Machine {
    idle: IdleSet,
    affinity: SharedAffinity,
    /// Threads of the busy CPU: counted by plain stores, as the kernel does it.
    load: AtomicU64,
    handed_over: AtomicUsize,
    asked: AtomicUsize,
}

impl Machine {
    fn new() -> Arc<Machine> {
        Arc::new(Machine {
            idle: IdleSet::new(),
            affinity: SharedAffinity::any(),
            load: AtomicU64::new(1),
            handed_over: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
        })
    }

    /// The busy CPU has a ready thread besides the running one: it looks for an idle CPU.
    fn shed(&self, cpu: u32) {
        if self.idle.claim(cpu, &self.affinity).is_some() {
            self.handed_over.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A thread becomes ready on a busy CPU while another goes idle. Should both miss each other, the busy CPU's next look
/// finds the idle one.
#[test]
fn a_thread_that_waits_and_a_cpu_that_idles_meet_at_the_next_tick_at_the_latest() {
    loom::model(|| {
        let machine = Machine::new();
        let idle = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.idle.enter(IDLE);
                if machine.load.load(Ordering::Relaxed) > 1 {
                    machine.asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        machine.load.store(2, Ordering::Relaxed);
        machine.shed(BUSY);
        idle.join().unwrap();
        // The tick: much later, as the join is in the model.
        if machine.handed_over.load(Ordering::Relaxed) == 0 {
            machine.shed(BUSY);
        }
        assert_eq!(machine.handed_over.load(Ordering::Relaxed), 1);
    });
}

/// Two busy CPUs see one idle CPU: one of them hands a thread over, the other keeps its own. And the idle CPU, which finds work
/// by itself meanwhile, is told whether a thread is on its way.
#[test]
fn an_idle_cpu_is_claimed_by_one() {
    loom::model(|| {
        let machine = Machine::new();
        machine.idle.enter(IDLE);
        let others: [_; 2] = core::array::from_fn(|index| {
            let machine = machine.clone();
            thread::spawn(move || machine.shed(index as u32 * 2))
        });
        let undisturbed = machine.idle.leave(IDLE);
        for other in others {
            other.join().unwrap();
        }
        let handed_over = machine.handed_over.load(Ordering::Relaxed);
        assert_eq!(handed_over, usize::from(!undisturbed));
    });
}
