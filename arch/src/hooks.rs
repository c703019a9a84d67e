//! The few places where mechanism calls policy: symbols that the kernel supplies.
//!
//! They are plain symbols and not function pointers, so that an entry costs no indirect call. Each is entered with
//! interrupts off, GS at this CPU's block, and DF clear.

use abi::{SHORT_CALLS, UserContext};

/// What a short call leaves: RAX (0, or an error's code) and RDX (the result) of the C convention.
///
/// It is one number, so that a function which returns another's result can end in a jump to it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct ShortResult(u128);

impl ShortResult {
    /// Success without a result.
    pub const NOTHING: ShortResult = ShortResult(0);

    /// Success.
    #[inline]
    pub const fn of(value: u64) -> ShortResult {
        ShortResult((value as u128) << 64)
    }

    /// An error's code.
    #[inline]
    pub const fn failed(status: u64) -> ShortResult {
        ShortResult(status as u128)
    }

    /// 0, or an error's code.
    #[inline]
    pub const fn status(self) -> u64 {
        self.0 as u64
    }

    /// The result.
    #[inline]
    pub const fn value(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// The kernel's part of a short call: three arguments as the user gave them ([more](crate::short_call_of_six) by a detour).
///
/// It is an ordinary function, so callee-saved registers, which are still the user's, come back as they were. It may block. What
/// it must not do is look at the thread's general registers in its user context: they are not there.
pub type ShortCall = extern "C" fn(u64, u64, u64) -> ShortResult;

/// A short call of six arguments: makes of `$call`, a C function of six words, a [`ShortCall`] called `$name`.
///
/// The fourth argument comes in R10, as RCX is lost to `syscall`, and C wants it in RCX. R8 and R9 are as they came.
#[macro_export]
macro_rules! short_call_of_six {
    ($(#[$doc:meta])* $name:ident => $call:path) => {
        $(#[$doc])*
        #[unsafe(naked)]
        extern "C" fn $name(_: u64, _: u64, _: u64) -> $crate::hooks::ShortResult {
            const _: extern "C" fn(u64, u64, u64, u64, u64, u64) -> $crate::hooks::ShortResult = $call;
            // In: registers as the user gave them. Changes RCX. No stack is used, flags are kept.
            core::arch::naked_asm!("mov rcx, r10", "jmp {call}", call = sym $call)
        }
    };
}

unsafe extern "C" {
    /// A system call came, by any entry; `context.call_number` says which. On return the context is what user mode gets.
    #[link_name = "switchyard_system_call"]
    pub(crate) safe fn system_call(context: &mut UserContext);

    /// The same for a thread whose calls are reported ([`report_calls`](crate::switch::ThreadState::report_calls)), short ones as well.
    #[link_name = "switchyard_reported_call"]
    pub(crate) safe fn reported_call(context: &mut UserContext);

    /// A system call came from 32-bit code: by `int 0x80`, `syscall` (vector 257, the return address in ECX and RIP, the caller's ECX
    /// on its stack) or `sysenter` (vector 258, the caller's ESP in EBP and RSP, no return address). Upper halves of
    /// registers are senseless. On return the context is what user mode gets.
    #[link_name = "switchyard_compat_call"]
    pub(crate) safe fn compat_call(context: &mut UserContext);

    /// Something is due before a short call may return to user mode. The context is whole now.
    #[link_name = "switchyard_short_call_exit"]
    pub(crate) safe fn short_call_exit(context: &mut UserContext);

    /// `call`, of which all but `r14` is saved in the context, perhaps by the direct way: the endpoint's handle and the tag. The thread has
    /// no deadline and is not single-stepped. It ends in [`hand_over`](crate::switch::hand_over), and, when the thread is
    /// woken by a switch, seems to return; or in [`long_way`](crate::switch::long_way), and has done nothing.
    #[link_name = "switchyard_direct_call"]
    pub(crate) safe fn direct_call(endpoint: u64, tag: u64) -> !;

    /// The same for `reply_recv`, with the reply's handle.
    #[link_name = "switchyard_direct_reply_recv"]
    pub(crate) safe fn direct_reply_recv(endpoint: u64, tag: u64, reply: u64) -> !;

    /// `wait` for a notification, of which all is saved in the context; else as [`direct_call`]. The thread that goes on may be the same.
    #[link_name = "switchyard_direct_wait"]
    pub(crate) safe fn direct_wait(notification: u64) -> !;

    /// `signal_wait`, likewise: the notification to signal, the bits, and the notification to wait for.
    #[link_name = "switchyard_direct_signal_wait"]
    pub(crate) safe fn direct_signal_wait(signalled: u64, bits: u64, awaited: u64) -> !;

    /// A thread that waited as one of these leaves it was woken. On return the context, which is whole, is what user mode gets.
    #[link_name = "switchyard_woken"]
    pub(crate) safe fn woken(context: &mut UserContext);

    /// A thread that has reported a fault by the direct way was woken, not by the direct way of its answer. On return the context, which is
    /// whole, is what user mode gets.
    #[link_name = "switchyard_reporter_woken"]
    pub(crate) safe fn reporter_woken(context: &mut UserContext);

    /// The short calls, by number.
    #[link_name = "switchyard_short_calls"]
    pub(crate) safe static short_calls: [ShortCall; SHORT_CALLS as usize];

    /// The short calls while calls are noted ([`note_short_calls`](crate::cpu::note_short_calls)), by number.
    #[link_name = "switchyard_noted_short_calls"]
    pub(crate) safe static noted_short_calls: [ShortCall; SHORT_CALLS as usize];

    /// An exception or interrupt came from user mode.
    #[link_name = "switchyard_user_trap"]
    pub(crate) safe fn user_trap(context: &mut UserContext);

    /// An exception came from the kernel itself, or an interrupt to the idle loop.
    #[link_name = "switchyard_kernel_trap"]
    pub(crate) safe fn kernel_trap(context: &mut UserContext);

    /// An NMI came, at any instruction whatever: no lock may be taken.
    #[link_name = "switchyard_nmi"]
    pub(crate) safe fn nmi(context: &mut UserContext);

    /// The CPU reports an error of its own, at any instruction whatever: no lock may be taken.
    #[link_name = "switchyard_machine_check"]
    pub(crate) safe fn machine_check(context: &mut UserContext);

    /// A double fault came, at any instruction whatever. There is nothing to return to.
    #[link_name = "switchyard_double_fault"]
    pub(crate) safe fn double_fault(context: &mut UserContext) -> !;

    /// A thread runs for the first time: do what is due on the way to user mode.
    #[link_name = "switchyard_thread_begin"]
    pub(crate) safe fn thread_begin();

    /// Serves what other CPUs want served at once: TLB shoot-downs. Called while waiting for a lock or an answer.
    #[link_name = "switchyard_serve_requests"]
    pub safe fn serve_requests();
}
