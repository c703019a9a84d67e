//! What few threads have, and the switch must carry for those that have it: thread-area segments, breakpoints, I/O ports.
//!
//! A thread's [`Extras`] begin with a word that has a bit for each kind that the thread has. The switch ors the words of
//! the two threads; if nothing is set, which is the rule, it does nothing more. So each kind costs only those that use it, and the
//! thread that runs after them. Floating-point state, which has a policy of its own (`fpu/`), has a bit in the word as well, so that one
//! test serves for all.

use core::cell::Cell;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::AtomicU32;

use abi::DebugRegisters;

use crate::cpu::{CpuBlock, Pending};
use crate::debug_registers;
use crate::ports::PortMap;
use crate::segments::TlsSlots;

/// The thread has thread-area segments.
const TLS: u32 = 1 << 0;
/// A data selector of the thread is not null. Said by the last save of its context; while it runs the registers themselves tell.
pub(crate) const SELECTORS: u32 = 1 << 3;
/// The thread uses I/O ports.
const PORTS: u32 = 1 << 4;
/// The thread's calls are reported.
const REPORTS: u32 = 1 << 5;
/// The thread never sees user mode: it has neither selectors nor bases. Above bit 15, as the next: no selector is taken for it.
pub(crate) const IDLE: u32 = 1 << 17;

/// The CPU has no FSGSBASE: bases go through MSRs. Every thread has it then, or none.
pub(crate) const BASES_BY_MSR: u32 = 1 << 18;
/// Something is to be done for the thread's floating-point state when it comes or leaves. The policy's note of it
/// (`fpu/policy.rs`), brought here whenever that may have changed.
pub(crate) const FPU: u32 = 1 << 16;

/// The thread has breakpoints.
const DEBUG: u32 = 1 << 1;
/// One of its breakpoints was hit in the kernel, and it does not know yet.
const HIT: u32 = 1 << 2;

/// A thread's part. It is touched by the CPU that runs the thread, or by whoever holds the thread stopped.
#[repr(C, align(8))]
pub struct Extras {
    kinds: Cell<u32>,
    /// The kernel's own word, behind the other: the switch reads both at once.
    marks: AtomicU32,
    tls: Cell<TlsSlots>,
    /// `status` is not kept here but in the thread's context.
    debug: Cell<DebugRegisters>,
    /// Breakpoints that were hit in the kernel, as DR6 has them.
    hits: Cell<u64>,
    /// The map of its process, once the thread has used a port; null before.
    ports: Cell<*const PortMap>,
}

impl Extras {
    /// Where the two words are that the switch reads.
    pub(crate) const WORDS: usize = offset_of!(Extras, kinds);
}

const _: () = assert!(offset_of!(Extras, marks) == Extras::WORDS + 4);

const NO_BREAKPOINTS: DebugRegisters = DebugRegisters {
    address: [0; 4],
    status: 0,
    control: 0,
};

impl Extras {
    /// Nothing of all.
    pub(crate) const fn none() -> Extras {
        Extras {
            kinds: Cell::new(0),
            marks: AtomicU32::new(0),
            tls: Cell::new(TlsSlots::EMPTY),
            debug: Cell::new(NO_BREAKPOINTS),
            hits: Cell::new(0),
            ports: Cell::new(ptr::null()),
        }
    }

    /// What a CPU's idle thread has.
    pub(crate) const fn idle() -> Extras {
        Extras {
            kinds: Cell::new(IDLE),
            ..Extras::none()
        }
    }

    /// A word of which this crate knows nothing but that [`concerns`](crate::switch::concerns) are not none while it is not 0. Anybody
    /// may change it.
    #[inline]
    pub fn marks(&self) -> &AtomicU32 {
        &self.marks
    }

    /// A bit for each kind that the thread has.
    #[inline]
    pub(crate) fn kinds(&self) -> u32 {
        self.kinds.get()
    }

    /// Notes that the thread has something of a kind, or no more.
    #[inline]
    pub(crate) fn mark(&self, kind: u32, has: bool) {
        let others = self.kinds.get() & !kind;
        self.kinds.set(others | if has { kind } else { 0 });
    }

    /// The thread's slots.
    pub fn tls(&self) -> TlsSlots {
        self.tls.get()
    }

    /// Changes the thread's slots, from its next switch on.
    pub(crate) fn set_tls(&self, slots: TlsSlots) {
        self.tls.set(slots);
        self.mark(TLS, !slots.is_empty());
    }

    /// Gives the thread the ports of a map, from its next switch on.
    ///
    /// # Safety
    /// The map lives as long as the thread.
    pub(crate) unsafe fn set_ports(&self, map: &PortMap) {
        self.ports.set(map);
        self.mark(PORTS, true);
    }

    /// The thread's calls are reported from its next switch on, or go their usual ways.
    pub(crate) fn set_reporting(&self, on: bool) {
        self.mark(REPORTS, on);
    }

    /// Whether the thread's calls are reported.
    #[inline]
    pub fn is_reporting(&self) -> bool {
        self.kinds.get() & REPORTS != 0
    }

    /// The thread's breakpoints; their status is 0.
    pub(crate) fn breakpoints(&self) -> DebugRegisters {
        self.debug.get()
    }

    /// Changes the thread's breakpoints, from its next switch on.
    ///
    /// # Safety
    /// They went through [`debug_registers::check`].
    pub(crate) unsafe fn set_breakpoints(&self, registers: DebugRegisters) {
        self.debug.set(DebugRegisters {
            status: 0,
            ..registers
        });
        self.mark(DEBUG, debug_registers::is_active(&registers));
    }

    /// Notes that breakpoints of this thread, the current one, were hit in the kernel. It gets its #DB on its way out.
    pub(crate) fn note_hits(&self, block: &CpuBlock, hits: u64) {
        self.hits.set(self.hits.get() | hits);
        self.mark(HIT, true);
        block.request(Pending::THREAD);
    }

    /// The breakpoints that were hit in the kernel, if any; they are forgotten. For the thread itself, on its way out.
    pub fn take_hits(&self) -> Option<u64> {
        if self.kinds.get() & HIT == 0 {
            return None;
        }
        self.mark(HIT, false);
        Some(self.hits.replace(0))
    }
}

/// Takes from this CPU what `previous` had and `next` has not, and gives it what `next` has. Before selectors are loaded.
///
/// # Safety
/// To be called by the CPU of `block`, in a switch between the two.
pub(crate) unsafe fn switch(block: &CpuBlock, previous: &Extras, next: &Extras) {
    let either = previous.kinds() | next.kinds();
    if either & TLS != 0 {
        // SAFETY: the caller's promise.
        unsafe { load_tls(block, next) };
    }
    if either & PORTS != 0 {
        // SAFETY: the caller's promise.
        unsafe { load_ports(block, next) };
    }
    if either & REPORTS != 0 {
        block.report_calls(next.is_reporting());
    }
    if next.kinds() & DEBUG != 0 {
        // SAFETY: they were checked when they were set.
        unsafe { debug_registers::load(&next.debug.get()) };
    } else if previous.kinds() & DEBUG != 0 {
        debug_registers::switch_off();
    }
    if next.kinds() & HIT != 0 {
        // It was preempted on its way out; the request was taken by whoever ran in between.
        block.request(Pending::THREAD);
    }
}

/// Lets user mode on this CPU have the ports of a thread.
///
/// # Safety
/// To be called by the CPU of `block`, for the thread that runs on it or is about to.
pub(crate) unsafe fn load_ports(block: &CpuBlock, thread: &Extras) {
    // SAFETY: the caller's promise; a thread leaves the CPU before its process and the map are gone.
    unsafe { block.ports().enter(thread.ports.get(), block.tss()) };
}

/// Fills this CPU's slots with those of a thread.
///
/// # Safety
/// To be called by the CPU of `block`, for the thread that runs on it or is about to.
pub(crate) unsafe fn load_tls(block: &CpuBlock, thread: &Extras) {
    // SAFETY: the caller's promise.
    unsafe { block.set_tls(thread.tls.get().descriptors()) };
}
