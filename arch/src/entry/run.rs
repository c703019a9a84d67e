//! `run`: user mode as a function call. It goes to user mode with a context and returns when user mode traps, with the reason and
//! the registers as they are then.
//!
//! There are no entries of its own: a trap comes in as ever, builds its context at the top of the current kernel stack, and calls its
//! hook. What `run` does is to make its own frame that top. A hook of a kernel that uses `run` asks [`come_back`] first; if a run
//! is under way on this CPU, the entry's and the hook's frames are given up and the run returns:
//!
//! ```text
//! stack of the caller        | ...
//!                            | return address of `enter`
//!                            | rbp rbx r12 r13 r14 r15
//!                            | the caller's context's address    <- stack top while the run lasts
//!                            | UserContext: what `iretq` takes; later what the entry saves
//!                            | return addresses of entry and hook, their frames
//! ```
//!
//! So a kernel that does not use it pays nothing, and one that does pays a load and a test in its hooks. Short calls, which have
//! neither context nor hook, reach a routine of this file's for as long as a run lasts: their table is the CPU's.
//!
//! From the first instruction of user mode to the return of `run` nothing else happens on this CPU but NMIs, so what
//! notes the run is the CPU's too, and no switch needs to know of it. Whatever is to be done about a trap (an interrupt's
//! end, a switch of threads, a fault's mending) the caller does after the return, with interrupts off, as a hook would.

use core::arch::naked_asm;

use abi::UserContext;

use super::frame::{self, push_general};
use super::vectors::return_to_user;
use crate::context::{BadContext, USER_CODE64, USER_DATA, VECTOR_SYSCALL, sanitise};
use crate::cpu::{self, CpuBlock};
use crate::hooks::ShortCall;
use crate::run::Trap;
use crate::segments::TlsSlots;
use crate::switch;

/// Goes to user mode with `context`, and returns when it traps: by a system call of any kind, an exception or an interrupt. The
/// context then holds all registers, selectors and bases, and what the entry says of the trap, as described at [`UserContext`].
///
/// Everything else of the user's is the current thread's: address space, floating-point registers, descriptors of its own, ports,
/// debug registers. A first use of the floating-point registers comes back as exception 7 if the thread has no area for them.
///
/// # Errors
/// The first field of the context that may not go to user mode; nothing was run then.
///
/// # Safety
/// Interrupts are off and no lock is held. The CPU has a current thread (`switch::adopt`), whose user part runs in no other way.
/// The kernel's hooks for system calls and for traps from user mode ask [`come_back`].
pub unsafe fn run(context: &mut UserContext) -> Result<Trap, BadContext> {
    let block = cpu::block();
    // SAFETY: a current thread lives as long as it runs.
    let thread = unsafe { block.current().as_ref() };
    let slots = thread.map_or(TlsSlots::EMPTY, |thread| thread.extras().tls());
    sanitise(context, &slots)?;
    let before = block.entry_stack();
    let calls = block.exchange_short_calls([Some(SHORT_CALL); abi::SHORT_CALLS as usize]);
    // SAFETY: the context was checked, with the descriptors that are in the table; the rest is the caller's promise. The trap has
    // left selectors and bases as they were in user mode.
    unsafe {
        switch::load_segments_of(context);
        enter(context, block);
        block.set_stack_top(before);
        switch::save_segments_of(context);
    }
    block.exchange_short_calls(calls);
    Ok(Trap::of(context))
}

/// [`run`] as a method.
pub trait RunContext {
    /// As [`run`].
    ///
    /// # Errors
    /// As [`run`].
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn run(&mut self) -> Result<Trap, BadContext>;
}

impl RunContext for UserContext {
    #[inline]
    unsafe fn run(&mut self) -> Result<Trap, BadContext> {
        // SAFETY: the caller's promise.
        unsafe { run(self) }
    }
}

/// For hooks, before anything else: returns to the caller of [`run`] if a run is under way on this CPU, and then not to the hook.
///
/// # Safety
/// To be called by a hook with the context that it was given, with nothing in its frame or below that needs an end: no lock, no
/// guard, no destructor.
#[inline]
pub unsafe fn come_back(context: &UserContext) {
    let block = cpu::block();
    if let Some(record) = block.end_run() {
        // SAFETY: the record is the stack pointer that `enter` noted, and what lies below it is given up.
        unsafe { leave(context, record) };
    }
}

/// The first half of [`run`], which lasts until [`leave`]: callee-saved registers and the context's address to the stack, which ends there
/// for all entries; then the context below, and off.
///
/// In: RDI the context, RSI the CPU's block. Out, by `leave`: the context filled, callee-saved registers as they were, flags
/// undefined but for DF and IF, which are clear. Stack: see the picture above.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn enter(context: *mut UserContext, block: &CpuBlock) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",                 // now RSP is 16-byte aligned
        "mov rdi, rsp",
        "call {begin}",
        "mov rsi, [rsp]",
        "sub rsp, {bytes}",
        "mov rdi, rsp",
        "mov ecx, {words}",
        "rep movsq",
        "jmp {return_to_user}",
        begin = sym begin,
        bytes = const frame::BYTES,
        words = const frame::BYTES / 8,
        return_to_user = sym return_to_user,
    )
}

/// Notes the run.
extern "C" fn begin(record: u64, block: &CpuBlock) {
    block.begin_run(record);
    // SAFETY: the stack below the record is free.
    unsafe { block.set_stack_top(record) };
}

/// The other half: back to the frame of [`enter`], with the context that an entry has built below it.
///
/// In: RDI that context, RSI what `begin` was given. Does not return, but where `enter` was called. Interrupts are off and NMIs have stacks of their own,
/// so what lies below RSP stays as it is for these few instructions.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn leave(context: *const UserContext, record: u64) -> ! {
    naked_asm!(
        "mov rsp, rsi",
        "mov rsi, rdi",
        "pop rdi",
        "mov ecx, {words}",
        "rep movsq",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        words = const frame::BYTES / 8,
    )
}

/// What stands in the table of short calls while a run lasts. It is a routine of the entry's rather than a C function, and
/// never called as one.
// SAFETY: both are addresses of code; the entry of `syscall` is the only caller.
const SHORT_CALL: ShortCall =
    unsafe { core::mem::transmute::<unsafe extern "C" fn() -> !, ShortCall>(short_call) };

/// A short call in a run: makes the context whole that its entry has begun, and ends the run.
///
/// In: what `entry/syscall.rs` calls the table with: a return address at RSP, above it a context of which RIP, RSP and RFLAGS are
/// filled, and all general registers the user's. Does not return.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn short_call() -> ! {
    naked_asm!(
        "mov qword ptr [rsp + 8 + {ss}], {user_data}",
        "mov qword ptr [rsp + 8 + {cs}], {user_code}",
        "mov qword ptr [rsp + 8 + {error}], 0",
        "mov qword ptr [rsp + 8 + {vector_place}], {vector}",
        "mov [rsp + 8 + {number}], rax",
        "add rsp, 8 + {after_general}",
        push_general!(),
        "mov rdi, rsp",
        "call {end}",
        "ud2",
        ss = const core::mem::offset_of!(UserContext, ss),
        cs = const frame::CS,
        error = const core::mem::offset_of!(UserContext, error_code),
        vector_place = const frame::VECTOR,
        number = const frame::CALL_NUMBER,
        user_data = const USER_DATA,
        user_code = const USER_CODE64,
        vector = const VECTOR_SYSCALL,
        after_general = const frame::AFTER_GENERAL,
        end = sym end_by_short_call,
    )
}

extern "C" fn end_by_short_call(context: &UserContext) {
    // SAFETY: there is nothing in this frame; the table holds that routine during a run only.
    unsafe { come_back(context) };
}
