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

// The path is one, read from top to bottom; a naked function takes no such attribute.
#![expect(clippy::too_many_lines)]

use core::arch::naked_asm;

use super::frame::{self, pop_general, push_general};
use super::vectors;
use crate::context::{NO_CALL, USER_CODE64, USER_DATA, VECTOR_SYSCALL};
use crate::cpu::offsets as cpu_offset;
use crate::hooks;

const _: () = assert!(abi::SHORT_CALLS.is_power_of_two());

/// Trap and resume flag: with either, `sysretq` would not do what `iretq` does.
const TF_RF: u32 = 1 << 8 | 1 << 16;

/// The entry of `syscall` from 64-bit code.
///
/// In: RAX call number, RCX user RIP, R11 user RFLAGS, RSP the user's, GS base the user's. Flags as FMASK left them.
///
/// A *short call* (RAX below [`abi::SHORT_CALLS`]) saves the three registers that C does not keep and the way back needs, in
/// their places in the context. The other places hold what an earlier entry left. The other registers are the C function's to
/// keep, or need not be kept ([`abi::register`]), and are cleared so that they say nothing of the kernel.
///
/// If anything is due on the way out, or the flags forbid `sysretq`, the context is made whole after all (label 6), as it is from
/// the start for every other call (label 5):
///
/// ```text
/// stack top ->  ss rsp rflags cs rip | error (0) vector (256) | call number (rax)
///               cr2 dr6 selectors gs_base fs_base (room only) | rdi ... r15   <- rsp, 16-byte aligned
/// ```
///
/// Out: all registers as in the context, except that RCX = RIP and R11 = RFLAGS as `sysretq` has it.
///
/// Why the short way back needs no look at RIP, CS and SS: they are what `syscall` itself gave, nobody can have changed them,
/// and the last page below the border of the address space is never mapped (`abi::layout`), so that RIP is canonical.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn entry() {
    naked_asm!(
        // ANCHOR: short_call
        "swapgs",
        "mov gs:[{scratch}], rsp",
        ".globl switchyard_syscall_entered",
        "switchyard_syscall_entered:",      // from `isolated::syscall_entry`, if user mode has tables of its own
        "mov rsp, gs:[{stack_top}]",
        "cmp rax, {short_calls}",
        "jae 5f",
        "and eax, {short_mask}",    // also where the branch was guessed wrongly: no call through what lies behind the table

        // A short call. Nothing comes in on this stack meanwhile, so that places below RSP may be written. No register is at hand: a run
        // (`run.rs`) keeps them all.
        "push qword ptr gs:[{scratch}]",
        "pop qword ptr [rsp + {rsp} - {bytes}]",    // RSP counts after the pop
        "mov [rsp + {rflags} - {bytes}], r11",
        "mov [rsp + {rip} - {bytes}], rcx",
        "sub rsp, {bytes}",
        "call qword ptr gs:[{table} + rax * 8]",
        // A thread that blocked in the call comes back here, perhaps on another CPU.
        "mov r11, [rsp + {rflags}]",
        "mov esi, {tf_rf}",
        "and esi, r11d",
        "or esi, gs:[{pending}]",
        "jnz 6f",               // else RSI is cleared by that
        "mov rcx, [rsp + {rip}]",
        "mov rdi, rdx",         // the result
        "xor edx, edx",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "mov rsp, [rsp + {rsp}]",
        ".globl switchyard_sysret_short",
        "switchyard_sysret_short:",         // as at `switchyard_sysret` below
        "swapgs",
        "sysretq",
        // ANCHOR_END: short_call

        // A short call with something due: its registers become a whole context, in the place where RSP is.
        "6:",
        "mov rdi, rdx",
        "xor edx, edx",
        "xor esi, esi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "mov rcx, [rsp + {rip}]",
        "mov r11, [rsp + {rflags}]",
        "mov qword ptr [rsp + {ss}], {user_data}",
        "mov qword ptr [rsp + {cs}], {user_code}",
        "mov qword ptr [rsp + {error}], 0",
        "mov qword ptr [rsp + {vector_place}], {vector}",
        "mov qword ptr [rsp + {number}], {no_call}",    // it is done
        "add rsp, {after_general}",
        push_general!(),
        "mov rdi, rsp",
        "call {exit}",
        "jmp 7f",

        // Any other call.
        "5:",
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
        "7:",
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
        "mov rsp, [rsp + {rsp_after_pops}]",
        ".globl switchyard_sysret",
        "switchyard_sysret:",               // with tables of user mode's own, or VERW, a `jmp` to `isolated.rs`
        "swapgs",
        "sysretq",
        scratch = const cpu_offset::SCRATCH,
        stack_top = const cpu_offset::STACK_TOP,
        pending = const cpu_offset::PENDING,
        table = const cpu_offset::SHORT_CALLS,
        short_calls = const abi::SHORT_CALLS,
        short_mask = const abi::SHORT_CALLS - 1,
        user_data = const USER_DATA,
        user_code = const USER_CODE64,
        vector = const VECTOR_SYSCALL,
        no_call = const NO_CALL as i32,
        room = const frame::MIDDLE - 8,
        handler = sym hooks::system_call,
        exit = sym hooks::short_call_exit,
        bytes = const frame::BYTES,
        rsp = const frame::RSP,
        error = const core::mem::offset_of!(abi::UserContext, error_code),
        vector_place = const frame::VECTOR,
        number = const frame::CALL_NUMBER,
        after_general = const frame::AFTER_GENERAL,
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
