//! Waiting for an interrupt without missing one.
//!
//! `sti` holds interrupts back for one more instruction (Intel SDM vol. 2B, STI), so `sti; hlt` leaves no gap for an interrupt
//! whose work was not seen yet. That holds for interrupts alone: an NMI or a #MC may come between the two, and its `iretq`
//! ends the shadow. An interrupt that waited is then served with RIP at the `hlt`, which would sleep with the work just come.
//! So whoever has handled something at that very instruction goes on behind it: [`skip_halt`].

use core::arch::naked_asm;

use abi::UserContext;

unsafe extern "C" {
    /// The `hlt`: a label, no function.
    fn switchyard_halt();
}

/// Bytes of `hlt`.
const HALT_BYTES: u64 = 1;

/// Lets interrupts in and stops the CPU until one has come, then shuts them out again.
///
/// The caller tested for work with interrupts off. The kernel's handlers of interrupts and of #MC must call [`skip_halt`].
#[inline]
pub fn halt_until_interrupt() {
    // SAFETY: the handlers that run meanwhile keep every register.
    unsafe { halt() }
}

/// Registers: none is changed. Stack: the return address is taken; handlers use it below. Flags: IF is set meanwhile and clear
/// afterwards.
///
/// # Safety
/// On a stack on which interrupts may be handled, with interrupts off.
#[unsafe(naked)]
unsafe extern "C" fn halt() {
    naked_asm!(
        "sti",
        ".globl switchyard_halt",
        "switchyard_halt:",
        "hlt",
        "cli",
        "ret",
    )
}

/// For the handlers of interrupts and of #MC in the kernel: if `context` is about to halt, it goes on behind that.
#[inline]
pub fn skip_halt(context: &mut UserContext) {
    if context.rip == switchyard_halt as *const () as u64 {
        context.rip += HALT_BYTES;
    }
}
