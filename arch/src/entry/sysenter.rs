//! `sysenter`: the 32-bit code's entry on Intel's CPUs.
//!
//! The CPU gives even less than for `syscall`: it loads CS, SS, RIP and RSP from MSRs, clears IF, VM and RF, and keeps nothing
//! (Intel SDM vol. 2B, SYSENTER). Where the caller was and where its stack is, it must have agreed with the kernel before:
//! it comes from the landing page, whose address the kernel knows, with its ESP in EBP. Not even the caller's CS is known: 64-bit
//! code can execute `sysenter` as well. So the kernel asks the process, not the CPU, where to return to.
//!
//! NT, AC and TF come in as user code had them. One `popfq` clears all three, before anything that they could harm: NT would make
//! `iretq` fault, AC would open user memory in spite of SMAP. TF acts earlier: with it the CPU stops by #DB after
//! `sysenter` itself, that is before this entry's first instruction, with the kernel's CS and the user's GS. The paranoid entry of
//! #DB knows that address; it takes TF away and leaves a note ([`CpuBlock::note_step`](crate::cpu::CpuBlock)) from which this entry
//! puts it back into the flags that user mode returns with. So a single step over `sysenter` ends where one over `int 0x80`
//! does: behind the first instruction after the return.
//!
//! The way back is `iretq`. `sysexit` would lose ECX and EDX, restore no flags, and need a window with interrupts open before it.

use core::arch::naked_asm;

use abi::UserContext;

use super::frame::{self, push_general};
use super::vectors;
use crate::context::{USER_CODE32, USER_DATA, VECTOR_SYSENTER};
use crate::cpu::{self, offsets as cpu_offset};
use crate::hooks;

/// What the flags are while the kernel runs: the bit that is always one.
const KERNEL_FLAGS: u8 = 2;
const TRAP_FLAG: u64 = 1 << 8;
const INTERRUPT_FLAG: u64 = 1 << 9;

/// The entry of `sysenter`.
///
/// In: EAX call number, EBP user ESP by convention, CS and SS the kernel's, RSP 0 (the MSR), GS base the user's, flags the user's but
/// for IF, VM and RF. Upper halves of all registers are senseless.
///
/// ```text
/// stack top ->  ss ebp flags cs 0 | error (0) vector (258) | call number (rax)
///               cr2 dr6 selectors gs_base fs_base (room only) | rdi ... r15   <- rsp, 16-byte aligned
/// ```
///
/// Out: by `iretq`, all registers as in the context, whose RIP the kernel sets.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn entry() {
    naked_asm!(
        "swapgs",
        ".globl switchyard_sysenter_entered",
        "switchyard_sysenter_entered:",     // from `isolated::sysenter_entry`, if user mode has tables of its own
        "mov rsp, gs:[{stack_top}]",
        "push {user_data}",
        "push rbp",             // where the user's stack is
        "pushfq",
        "push {kernel_flags}",
        "popfq",                // NT, AC, TF, DF go
        "push {user_code}",
        "push 0",               // RIP: the landing page's, set by the kernel
        "push 0",               // error code
        "push {vector}",
        "push rax",             // call number
        "sub rsp, {room}",
        push_general!(),
        "mov rdi, rsp",
        "call {handler}",
        "jmp {return_to_user}",
        stack_top = const cpu_offset::STACK_TOP,
        user_data = const USER_DATA,
        kernel_flags = const KERNEL_FLAGS,
        user_code = const USER_CODE32,
        vector = const VECTOR_SYSENTER,
        room = const frame::MIDDLE - 8,
        handler = sym from_user,
        return_to_user = sym vectors::return_to_user,
    )
}

/// Gives the context the flags that the CPU or the #DB entry took away, then goes on as any 32-bit call.
extern "C" fn from_user(context: &mut UserContext) {
    context.rflags |= INTERRUPT_FLAG;
    if cpu::block().take_step() {
        context.rflags |= TRAP_FLAG;
    }
    hooks::compat_call(context);
}
