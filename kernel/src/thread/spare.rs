//! What an ended thread leaves to the next one of its process: kernel stack and IPC area.
//!
//! An area costs two zeroed frames, their charge, two entries of page tables and, at its end, a shoot-down; so most of what making a thread
//! takes. A process therefore keeps a few of those that its threads have left: mapped, charged to it still, wiped. Its next threads take these
//! first. They go with the process's end: the areas' frames with its address space, the stacks to their pool.
//!
//! The program can write to an area that is kept, as to those of its threads. What it writes is an allegation there as here.

use super::{IpcArea, Machine};

/// How many a process keeps.
const KEPT: usize = 2;

/// What one thread has left.
pub(crate) struct Spare {
    /// The area's number in the address space.
    pub(crate) number: u32,
    /// The area; mapped.
    pub(crate) area: IpcArea,
    /// The stack, on which nobody runs; the host's threads have none.
    #[cfg(target_os = "none")]
    pub(crate) stack: crate::memory::stacks::KernelStack,
}

impl Spare {
    /// What the thread that `machine` was part of leaves, with its area; `None` if it has left its stack already.
    #[cfg_attr(
        not(target_os = "none"),
        expect(unused_variables, clippy::unnecessary_wraps)
    )]
    pub(super) fn new(number: u32, area: IpcArea, machine: &mut Machine) -> Option<Spare> {
        Some(Spare {
            number,
            area,
            #[cfg(target_os = "none")]
            stack: machine.take_stack()?,
        })
    }
}

/// Those of a process.
pub(crate) struct Spares {
    kept: [Option<Spare>; KEPT],
    count: usize,
}

impl Spares {
    /// None.
    pub(crate) const fn none() -> Spares {
        Spares {
            kept: [const { None }; KEPT],
            count: 0,
        }
    }

    /// Whether there is room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.count == KEPT
    }

    /// Keeps one, for which there is room.
    pub(crate) fn keep(&mut self, spare: Spare) {
        self.kept[self.count] = Some(spare);
        self.count += 1;
    }

    /// The one that came last.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Spare> {
        self.count = self.count.checked_sub(1)?;
        self.kept.get_mut(self.count)?.take()
    }
}
