//! One CPU: its block, its tables, its control registers.

mod block;
mod boot_block;
mod features;
mod gdt;
mod halt;
mod idt;
mod init;
mod msr;
mod mtrr;
mod short_calls;
mod tss;

pub(crate) use block::offsets;
pub use block::{BLOCK_PAGES, CpuBlock, Pending, UserTables, block, current_index};
pub use boot_block::{install_boot_block, is_installed};
pub use features::{Features, features};
pub use gdt::{CPU_NUMBER, KERNEL_CODE, KERNEL_DATA, USER_CODE32, USER_CODE64, USER_DATA};
pub use halt::{halt_until_interrupt, skip_halt};
pub(crate) use init::{CR0, CR0_TASK_SWITCHED};
pub use init::{ControlState, InitError, cpu_init, detect};
pub use msr::Msr;
pub use short_calls::note_short_calls;

use core::arch::asm;

/// What a CPU does while it waits for another: it serves the requests that must be served anywhere, and pauses.
#[inline]
pub fn relax() {
    crate::hooks::serve_requests();
    core::hint::spin_loop();
}

/// The levels of the locks that this CPU holds, for the kernel's check of the lock order.
#[inline]
pub fn lock_mask() -> u64 {
    block().lock_mask.get()
}

/// Sets what [`lock_mask`] returns.
#[inline]
pub fn set_lock_mask(mask: u64) {
    block().lock_mask.set(mask);
}

/// Lets interrupts that wait be served now, then shuts them out again. For kernel threads of control that hold nothing.
#[inline]
pub fn allow_pending_interrupts() {
    // SAFETY: the handlers that run meanwhile keep every register; memory may change, so no `nomem`. The `nop` ends the shadow of
    // `sti`, so that one waiting interrupt at least is taken.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Shuts interrupts out.
#[inline]
pub fn disable_interrupts() {
    // SAFETY: clearing IF touches no memory and no register but the flags; no `nomem`, so that nothing moves across.
    unsafe { asm!("cli", options(nostack)) };
}

/// Stops this CPU for good. NMIs still arrive.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts off nothing but an NMI ends `hlt`, and then the loop halts again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The time-stamp counter.
#[inline]
pub fn read_tsc() -> u64 {
    // SAFETY: RDTSC has no effect but its result; CR4.TSD is never set.
    unsafe { core::arch::x86_64::_rdtsc() }
}
