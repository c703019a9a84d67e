//! `syscall` from 32-bit code, which only AMD's CPUs have in long mode.
//!
//! The CPU does what it does for 64-bit code (Intel has only that), but starts at CSTAR: the return address goes to ECX,
//! the flags to R11, FMASK clears flags (AMD64 APM vol. 3, SYSCALL). So ECX can't carry an argument: by convention the
//! caller has pushed it, and the kernel takes it off the stack again. Upper halves of registers are whatever 64-bit
//! code left there last; the kernel cuts them off before it looks at anything (`kernel`, `syscall/compat.rs`).
//!
//! The way back is `iretq`, which can give every register, ECX too, and every flag back. `sysret` would need ECX for the
//! return address and would leave SS with attributes that 32-bit code faults with on some of AMD's CPUs. A 32-bit
//! call is not the path that the kernel is tuned for.

use core::arch::naked_asm;

use super::frame::{self, push_general};
use super::vectors;
use crate::context::{USER_CODE32, USER_DATA, VECTOR_SYSCALL32};
use crate::cpu::offsets as cpu_offset;
use crate::hooks;

/// The entry of `syscall` from 32-bit code.
///
/// In: EAX call number, ECX user EIP, R11 user flags, ESP the user's, GS base the user's. Flags as FMASK left them. Upper halves
/// of all registers are senseless.
///
/// ```text
/// stack top ->  ss esp flags cs eip | error (0) vector (257) | call number (rax)
///               cr2 dr6 selectors gs_base fs_base (room only) | rdi ... r15   <- rsp, 16-byte aligned
/// ```
///
/// Out: by `iretq`, all registers as in the context.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[{scratch}], rsp",
        ".globl switchyard_compat_entered",
        "switchyard_compat_entered:",       // from `isolated::compat_entry`, if user mode has tables of its own
        "mov rsp, gs:[{stack_top}]",
        "push {user_data}",
        "push qword ptr gs:[{scratch}]",
        "push r11",
        "push {user_code}",
        "push rcx",
        "push 0",               // error code
        "push {vector}",
        "push rax",             // call number
        "sub rsp, {room}",
        push_general!(),
        "mov rdi, rsp",
        "call {handler}",
        "jmp {return_to_user}",
        scratch = const cpu_offset::SCRATCH,
        stack_top = const cpu_offset::STACK_TOP,
        user_data = const USER_DATA,
        user_code = const USER_CODE32,
        vector = const VECTOR_SYSCALL32,
        room = const frame::MIDDLE - 8,
        handler = sym hooks::compat_call,
        return_to_user = sym vectors::return_to_user,
    )
}
