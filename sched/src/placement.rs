//! Which CPU a new thread goes to.
//!
//! The least loaded of those it may run on; among equals they take turns, so that a row of threads started
//! before any of them ran still spreads out. There is no balancing afterwards yet: a thread stays where it was put.

use crate::atomic::{AtomicU32, Ordering, const_unless_loom};

/// Where a thread may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Affinity {
    /// Anywhere.
    #[default]
    Any,
    /// Only on the CPU with this index.
    Only(u32),
}

impl Affinity {
    /// Whether the thread may run on the CPU with this index.
    pub const fn allows(self, cpu: u32) -> bool {
        match self {
            Affinity::Any => true,
            Affinity::Only(only) => only == cpu,
        }
    }
}

/// How loaded a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuLoad {
    /// Its index.
    pub cpu: u32,
    /// Threads that are assigned to it, or those ready and running there: any figure that is comparable between
    /// CPUs. It may be stale.
    pub threads: u64,
}

/// Chooses CPUs for new threads.
pub struct CpuPicker {
    /// The CPU after the one chosen last: where the next search among equals begins.
    turn: AtomicU32,
}

impl CpuPicker {
    const_unless_loom! {
        /// A picker that begins with CPU 0.
        pub fn new() -> CpuPicker {
            CpuPicker { turn: AtomicU32::new(0) }
        }
    }

    /// The CPU for a new thread: the least loaded that `affinity` allows. `None` if it allows none of them, or
    /// there is none.
    ///
    /// Two CPUs that pick at the same time may pick the same; that is a matter of balance, not of correctness.
    pub fn pick(
        &self,
        loads: impl IntoIterator<Item = CpuLoad>,
        affinity: Affinity,
    ) -> Option<u32> {
        let turn = self.turn.load(Ordering::Relaxed);
        let best = loads
            .into_iter()
            .filter(|load| affinity.allows(load.cpu))
            // How far a CPU is ahead of the turn; those behind it come last, as the difference wraps.
            .min_by_key(|load| (load.threads, load.cpu.wrapping_sub(turn)))?;
        if affinity == Affinity::Any {
            self.turn.store(best.cpu.wrapping_add(1), Ordering::Relaxed);
        }
        Some(best.cpu)
    }
}

impl Default for CpuPicker {
    fn default() -> Self {
        Self::new()
    }
}
