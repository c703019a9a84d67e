//! Which CPU a thread goes to: a new one, and one that waits for its turn while another CPU has nothing to do.
//!
//! A new thread goes to the least loaded CPU that it may run on; among equals they take turns, so that a row of threads
//! started before any of them ran still spreads out.
//!
//! # Pulling
//!
//! A CPU with nothing to run enters the [`IdleSet`], looks which CPU has most threads, and asks that one. Only a thread's home
//! can give it away, so it is the busy CPU that picks one of its ready threads that may run on an idle CPU, takes that
//! CPU's place in the set ([`IdleSet::claim`]), and hands the thread over. The same happens when a busy CPU makes a
//! thread ready, and when a turn ends, so that a thread that waits meets an idle CPU whichever of the two was there first.
//!
//! Entering the set and counting a ready thread are plain stores to two places, each followed by a look at the other's,
//! so both may miss each other by a hair. A busy CPU therefore looks again when its timer comes, a turn after a
//! thread began to wait at the latest. By then each sees the other's store. The models at the end show both.
//!
//! The set is one word for each sixteen CPUs, so that entering and leaving it is no matter between distant CPUs.

use crate::affinity::{MAX_CPUS, SharedAffinity};
use crate::atomic::{AtomicU32, Ordering, const_unless_loom};

/// How loaded a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuLoad {
    /// Its index.
    pub cpu: u32,
    /// Threads that are ready or running there. It may be stale.
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

    /// The CPU for a new thread: the least loaded that `allows` has. `None` if it has none of them, or there is none.
    ///
    /// Two CPUs that pick at the same time may pick the same; that is a matter of balance, not of correctness.
    pub fn pick(
        &self,
        loads: impl IntoIterator<Item = CpuLoad>,
        allows: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let turn = self.turn.load(Ordering::Relaxed);
        let best = loads
            .into_iter()
            .filter(|load| allows(load.cpu))
            // How far a CPU is ahead of the turn; those behind it come last, as the difference wraps.
            .min_by_key(|load| (load.threads, load.cpu.wrapping_sub(turn)))?;
        self.turn.store(best.cpu.wrapping_add(1), Ordering::Relaxed);
        Some(best.cpu)
    }
}

impl Default for CpuPicker {
    fn default() -> Self {
        Self::new()
    }
}

/// The CPU that an idle one asks for work: the one with most threads of `loads`, if that has more than it runs. Among equals the
/// first.
pub fn busiest(loads: impl IntoIterator<Item = CpuLoad>) -> Option<u32> {
    let mut best: Option<CpuLoad> = None;
    for load in loads {
        if load.threads > 1 && best.is_none_or(|best| load.threads > best.threads) {
            best = Some(load);
        }
    }
    best.map(|load| load.cpu)
}

/// CPUs that share a word.
const GROUP: u32 = 16;
/// In the models one is enough, and every other would be tried in every interleaving.
const GROUPS: usize = if cfg!(test) {
    1
} else {
    (MAX_CPUS / GROUP) as usize
};

/// One word, on a cache line of its own.
#[repr(align(64))]
struct Group(AtomicU32);

/// The CPUs that have nothing to run.
pub struct IdleSet {
    groups: [Group; GROUPS],
}

impl IdleSet {
    /// No CPU is idle.
    #[cfg(not(test))]
    pub const fn new() -> IdleSet {
        IdleSet {
            groups: [const { Group(AtomicU32::new(0)) }; GROUPS],
        }
    }

    /// No CPU is idle.
    #[cfg(test)]
    pub fn new() -> IdleSet {
        IdleSet {
            groups: core::array::from_fn(|_| Group(AtomicU32::new(0))),
        }
    }

    /// A CPU has nothing to run. To be called by itself; it then looks at the others' loads.
    pub fn enter(&self, cpu: u32) {
        if let Some(group) = self.groups.get((cpu / GROUP) as usize) {
            group.0.fetch_or(1 << (cpu % GROUP), Ordering::SeqCst);
        }
    }

    /// A CPU has something to run, or is about to look by itself. To be called by itself. False if somebody had claimed it: a
    /// thread is on its way.
    pub fn leave(&self, cpu: u32) -> bool {
        let Some(group) = self.groups.get((cpu / GROUP) as usize) else {
            return true;
        };
        let bit = 1 << (cpu % GROUP);
        group.0.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Whether one of the first `count` CPUs seems to be idle: one load if there is one near `cpu`, or if all are near each other.
    #[inline]
    pub fn has_any(&self, cpu: u32, count: u32) -> bool {
        self.has_in((cpu / GROUP) as usize) || (count > GROUP && self.has_far(count))
    }

    #[cold]
    fn has_far(&self, count: u32) -> bool {
        (0..count.div_ceil(GROUP) as usize).any(|group| self.has_in(group))
    }

    #[inline]
    fn has_in(&self, group: usize) -> bool {
        let group = self.groups.get(group);
        group.is_some_and(|group| group.0.load(Ordering::Relaxed) != 0)
    }

    /// Whether no CPU seems to be idle.
    pub fn is_empty(&self) -> bool {
        self.groups
            .iter()
            .all(|group| group.0.load(Ordering::Relaxed) == 0)
    }

    /// Takes a CPU that `affinity` allows out of the set, one near `cpu` if there is one: the caller hands it a thread. The first of
    /// several callers gets it.
    pub fn claim(&self, cpu: u32, affinity: &SharedAffinity) -> Option<u32> {
        let first = (cpu / GROUP) as usize;
        let mut groups = (0..GROUPS).cycle().skip(first).take(GROUPS);
        groups.find_map(|group| self.claim_in(group, affinity))
    }

    fn claim_in(&self, index: usize, affinity: &SharedAffinity) -> Option<u32> {
        let word = &self.groups[index].0;
        let first = index as u32 * GROUP;
        // Only those that it may run on, however many others there are.
        let mut idle = word.load(Ordering::SeqCst) & affinity.bits_from(first);
        while idle != 0 {
            let bit = idle & idle.wrapping_neg();
            if word.fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
                return Some(first + bit.trailing_zeros());
            }
            idle &= !bit;
        }
        None
    }
}

impl Default for IdleSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod models;
