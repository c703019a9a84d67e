//! `syscall`: the entry that ordinary programs use, and its way back.
//!
//! The CPU gives little: RIP in RCX, RFLAGS in R11, flags cleared by FMASK, CS and SS from STAR (Intel SDM vol. 2B, SYSCALL).
//! RSP is still the user's, so the first instructions must find a stack without one, through GS. Between `swapgs` and the
//! stack switch, and on the way out between the switch back and `sysretq`, nothing but NMI, #DB, #MC and #DF can come, and
//! those use stacks of their own and trust neither.
//!
//! The way back is `sysretq` only if the context proves it safe: RIP in the lower half (a non-canonical RCX
//! faults in the kernel on the user's stack on Intel's CPUs, CVE-2012-0217), RIP and RFLAGS equal to RCX and R11, CS and SS as
//! STAR loads them, no TF or RF. A context that somebody changed leaves by `iretq`.

use core::arch::naked_asm;

use super::alternatives::cr3_slot;
use super::frame::{self, pop_general, push_general};
use super::vectors;
use crate::context::{USER_CODE64, USER_DATA, VECTOR_SYSCALL};
use crate::cpu;
use crate::hooks;

/// Trap and resume flag: with either, `sysretq` would not do what `iretq` does.
const TF_RF: u32 = 1 << 8 | 1 << 16;

/// The entry of `syscall` from 64-bit code.
///
/// In: RAX call number, RCX user RIP, R11 user RFLAGS, RSP the user's, GS base the user's. Flags as FMASK left them.
///
/// ```text
/// stack top ->  ss rsp rflags cs rip | error (0) vector (256) | call number (rax)
///               cr2 dr6 selectors gs_base fs_base (room only) | rdi ... r15   <- rsp, 16-byte aligned
/// ```
///
/// Out: all registers as in the context, except that RCX = RIP and R11 = RFLAGS as `sysretq` has it.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn entry() {
    naked_asm!(
        "swapgs",
        cr3_slot!(),
        "mov gs:[{scratch}], rsp",
        "mov rsp, gs:[{stack_top}]",
        "push {user_data}",
        "push qword ptr gs:[{scratch}]",
        "push r11",
        "push {user_code}",
        "push rcx",
        "push 0",               // error code
        "push {vector}",
        "push rax",             // call number
        "sub rsp, {room}",      // filled by the switch, or when somebody asks
        push_general!(),
        "mov rdi, rsp",
        "call {handler}",
        // A thread that blocked in the call comes back here, perhaps on another CPU.
        "mov rcx, [rsp + {rip}]",
        "mov r11, [rsp + {rflags}]",
        "cmp rcx, [rsp + {saved_rcx}]",
        "jne {iret}",
        "cmp r11, [rsp + {saved_r11}]",
        "jne {iret}",
        "mov rax, rcx",
        "shr rax, 47",
        "jnz {iret}",
        "test r11d, {tf_rf}",
        "jnz {iret}",
        "cmp qword ptr [rsp + {cs}], {user_code}",
        "jne {iret}",
        "cmp qword ptr [rsp + {ss}], {user_data}",
        "jne {iret}",
        pop_general!(),         // rcx and r11 get the same values again
        cr3_slot!(),
        "mov rsp, [rsp + {rsp_after_pops}]",
        "swapgs",
        "sysretq",
        scratch = const cpu_offset::SCRATCH,
        stack_top = const cpu_offset::STACK_TOP,
        user_data = const USER_DATA,
        user_code = const USER_CODE64,
        vector = const VECTOR_SYSCALL,
        room = const frame::MIDDLE - 8,
        handler = sym hooks::system_call,
        rip = const frame::RIP,
        rflags = const frame::RFLAGS,
        saved_rcx = const core::mem::offset_of!(abi::UserContext, rcx),
        saved_r11 = const core::mem::offset_of!(abi::UserContext, r11),
        cs = const frame::CS,
        ss = const core::mem::offset_of!(abi::UserContext, ss),
        tf_rf = const TF_RF,
        iret = sym vectors::return_to_user,
        rsp_after_pops = const frame::RSP - frame::AFTER_GENERAL,
    )
}

use cpu::offsets as cpu_offset;
