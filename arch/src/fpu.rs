//! The floating-point state of threads: saved when a thread leaves that used it, brought in when one uses it.
//!
//! Between its use and its next need a thread's state costs nothing: CR0.TS is set, and the first FPU instruction is a
//! #NM, which loads the registers. If a thread comes back to a CPU whose registers still hold its state, nothing is
//! loaded at all. The registers are a thread's only if this CPU's owner is the thread *and* the thread was last loaded
//! here: a thread that went elsewhere in between, or a new one in the memory of a dead one, fails the second test.
//!
//! CPUs that speculate past a set TS leak the registers that are kept lazily (CVE-2018-3665). On those the state is loaded at
//! every switch instead ([`set_eager`]), and no thread ever sees TS set.
//!
//! The kernel itself is built without FPU instructions, so nothing in here races with it.

use core::arch::asm;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::addr::PhysAddr;
use crate::cpu::{self, CpuBlock, features};
use crate::memory::phys_to_virt;
use crate::switch::ThreadState;

/// Bytes of the area that each thread has: a frame. `cpu::detect` enables no components that need more.
pub const AREA_BYTES: u64 = 4096;
/// x87 control word after `fninit` (Intel SDM vol. 1 §8.1.5).
const INITIAL_FCW: u16 = 0x037F;
/// MXCSR after reset (Intel SDM vol. 1 §10.2.3). `xrstor` loads it from the area even when SSE is in its initial state.
const INITIAL_MXCSR: u32 = 0x1F80;
const MXCSR_OFFSET: usize = 24;
/// No CPU.
const NOWHERE: u32 = u32::MAX;

static EAGER: AtomicBool = AtomicBool::new(false);

/// Loads each thread's state when the thread comes, instead of at its first use. To be chosen once, before any thread runs.
pub fn set_eager(eager: bool) {
    EAGER.store(eager, Ordering::Relaxed);
}

/// Whether this CPU is of a kind that is known to leak state that is kept lazily (CVE-2018-3665): Intel's.
pub fn leaks_when_lazy() -> bool {
    features().intel
}

/// A thread's part.
pub struct FpuState {
    area: Cell<*mut u8>,
    /// Where the state was last loaded.
    cpu: Cell<u32>,
}

impl FpuState {
    /// The state of a kernel thread, which never uses the FPU.
    pub const fn none() -> FpuState {
        FpuState {
            area: Cell::new(ptr::null_mut()),
            cpu: Cell::new(NOWHERE),
        }
    }

    /// A fresh state in `frame`, which stays the caller's to free when the thread is gone.
    ///
    /// # Safety
    /// The frame must be in the direct map and the thread's alone.
    pub unsafe fn new(frame: PhysAddr) -> FpuState {
        let area = phys_to_virt(frame);
        // SAFETY: the frame is the caller's; an all-zero header means that every component is in its initial state.
        unsafe {
            ptr::write_bytes(area, 0, AREA_BYTES as usize);
            area.copy_from_nonoverlapping(INITIAL_FCW.to_le_bytes().as_ptr(), 2);
            area.add(MXCSR_OFFSET)
                .copy_from_nonoverlapping(INITIAL_MXCSR.to_le_bytes().as_ptr(), 4);
        }
        FpuState {
            area: Cell::new(area),
            cpu: Cell::new(NOWHERE),
        }
    }
}

/// Sets CR0.TS, so that nobody's registers are anybody's.
///
/// # Safety
/// To be called in `cpu_init`, before this CPU runs a thread.
pub(crate) unsafe fn init_this_cpu(block: &CpuBlock) {
    block.fpu_owner.set(ptr::null_mut());
    trap_next_use(block);
}

/// A thread leaves the CPU: saves its registers if they were open to it.
///
/// # Safety
/// `thread` is the current one on this CPU.
#[inline]
pub(crate) unsafe fn leave(block: &CpuBlock, thread: &ThreadState) {
    // A kernel thread has no state; with eager loading it finds the registers open.
    if !block.fpu_trapped.get() && !thread.fpu.area.get().is_null() {
        // SAFETY: TS is clear only while the current thread's state is in the registers.
        unsafe { save(thread.fpu.area.get()) };
    }
}

/// A thread comes to the CPU: opens the registers to it if they hold its state, else closes them.
#[inline]
pub(crate) fn enter(block: &CpuBlock, thread: &ThreadState) {
    let holds = ptr::eq(block.fpu_owner.get(), thread) && thread.fpu.cpu.get() == block.index().0;
    if EAGER.load(Ordering::Relaxed) {
        if !holds && !thread.fpu.area.get().is_null() {
            load(block, thread);
        }
        return;
    }
    if holds == block.fpu_trapped.get() {
        if holds {
            open(block);
        } else {
            trap_next_use(block);
        }
    }
}

/// #NM in user mode: brings the current thread's state in. False if that is no reason for a #NM.
pub(crate) fn handle_trap() -> bool {
    let block = cpu::block();
    if !block.fpu_trapped.get() {
        return false;
    }
    // SAFETY: a trap from user mode has a current thread, whose state lives as long as it runs.
    let thread = unsafe { &*block.current() };
    load(block, thread);
    true
}

/// Brings a thread's state into the registers and opens them to it.
fn load(block: &CpuBlock, thread: &ThreadState) {
    if block.fpu_trapped.get() {
        open(block);
    }
    // SAFETY: a user thread has an area of its own, written by `new` or `save` only; TS is clear.
    unsafe { restore(thread.fpu.area.get()) };
    block.fpu_owner.set(ptr::from_ref(thread).cast_mut());
    thread.fpu.cpu.set(block.index().0);
}

fn open(block: &CpuBlock) {
    // SAFETY: clearing TS lets FPU instructions through; the caller sees to whose registers they find.
    unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) };
    block.fpu_trapped.set(false);
}

fn trap_next_use(block: &CpuBlock) {
    const TASK_SWITCHED: u64 = 1 << 3;
    // SAFETY: TS only makes the next FPU instruction a #NM.
    unsafe {
        asm!("mov {t}, cr0", "or {t}, {ts}", "mov cr0, {t}", t = out(reg) _, ts = const TASK_SWITCHED,
            options(nomem, nostack));
    }
    block.fpu_trapped.set(true);
}

/// # Safety
/// `area` is a thread's area, 64-byte aligned, and TS is clear.
unsafe fn save(area: *mut u8) {
    let features = features();
    // SAFETY: the area is large enough for all enabled components; all-ones masks mean all of those. The area is never moved
    // or copied, which is what XSAVEOPT's memory of its last XRSTOR needs (Intel SDM vol. 1 §13.9).
    unsafe {
        if features.xsaveopt {
            asm!("xsaveopt64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags));
        } else if features.xsave {
            asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags));
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}

/// # Safety
/// `area` holds what `FpuState::new` or [`save`] wrote, so that `xrstor` can't fault; TS is clear.
unsafe fn restore(area: *const u8) {
    /// What `fild` reads.
    static ZERO: u32 = 0;
    if features().amd {
        // AMD's CPUs before Zen 2 leave the x87's last instruction and data pointers alone when no exception is pending, and the
        // next thread could read another's (CVE-2006-1056). A harmless load overwrites them.
        // SAFETY: the registers are about to be replaced; TS is clear, and pending exceptions are dropped first.
        unsafe {
            asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) &raw const ZERO, options(readonly, nostack));
        }
    }
    // SAFETY: the caller's promise. FPU registers are nobody's operands, as the kernel is built without them.
    unsafe {
        if features().xsave {
            asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags));
        } else {
            asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}
