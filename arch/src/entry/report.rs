//! From a fault to user mode in its handler, and from there back: the last steps of the direct way of both.
//!
//! The thread that has faulted waits with a whole context at the top of its stack, and nothing below that it needs. If anybody but its handler's
//! direct answer wakes it, the ordinary switch finds a return address right below the context: [`woken`].
//!
//! And the short calls of a thread whose calls are reported, which come with a whole context instead: [`short_call`].

use core::arch::naked_asm;
use core::mem::offset_of;

use abi::UserContext;
use abi::report::label;

use super::frame::{self, push_general};
use super::vectors::return_to_user;
use crate::context::{USER_CODE64, USER_DATA, VECTOR_SYSCALL};
use crate::cpu::offsets as cpu_offset;
use crate::hooks::{self, ShortCall};

/// Where a field of a context is from its end, which is the top of the stack.
const fn place(offset: usize) -> isize {
    offset as isize - frame::BYTES as isize
}

/// The way out of a handler that receives a fault.
///
/// In: RSI the top of the stack of the thread that has faulted, below which its context lies; RCX that of the handler's, this CPU's current
/// one; RDX the badge, R8 the reply, R9 the thread's number. RSP on any kernel stack. Out: user mode, registers as [`abi::register`] says of a
/// receive, the words as [`abi::report`] says of a fault. If anything is due first, the message is written into the handler's context, and it leaves by that.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(crate) unsafe extern "C" fn leave_with_fault() -> ! {
    naked_asm!(
        // Where the thread goes on that waits from now on.
        "lea rax, [rip + {woken}]",
        "mov [rsi - {bytes} - 8], rax",
        "mov rdi, rdx",
        "mov r15, r8",
        "mov r13, r9",
        "mov rdx, [rsi + {vector}]",
        "mov r10, [rsi + {error}]",
        "mov r8, [rsi + {rip}]",
        "mov r9, [rsi + {cr2}]",
        "mov r12, [rsi + {rsp}]",
        "movabs rsi, {tag}",
        "cmp dword ptr gs:[{pending}], 0",
        "jne 2f",
        "mov rbx, [rcx + {rbx}]",
        "mov rbp, [rcx + {rbp}]",
        "mov rsp, [rcx + {rsp}]",
        "mov r11, [rcx + {rflags}]",
        "mov rcx, [rcx + {rip}]",
        "xor eax, eax",
        "xor r14d, r14d",
        ".globl switchyard_sysret_fault",
        "switchyard_sysret_fault:",         // as at `switchyard_sysret`
        "swapgs",
        "sysretq",
        "2:",
        "lea rsp, [rcx - {bytes}]",
        "mov [rcx + {saved_r15}], r15",
        "mov [rcx + {saved_rdi}], rdi",
        "mov qword ptr [rcx + {saved_r14}], 0",
        "mov qword ptr [rcx + {saved_rax}], 0",
        "mov [rcx + {saved_rsi}], rsi",
        "mov [rcx + {saved_rdx}], rdx",
        "mov [rcx + {saved_r10}], r10",
        "mov [rcx + {saved_r8}], r8",
        "mov [rcx + {saved_r9}], r9",
        "mov [rcx + {saved_r12}], r12",
        "mov [rcx + {saved_r13}], r13",
        "jmp switchyard_message_in_context",
        woken = sym woken,
        tag = const (label::FAULT as u64) << 32,
        pending = const cpu_offset::PENDING,
        bytes = const frame::BYTES,
        vector = const place(frame::VECTOR),
        error = const place(offset_of!(UserContext, error_code)),
        cr2 = const place(frame::CR2),
        rip = const place(frame::RIP),
        rsp = const place(frame::RSP),
        rflags = const place(frame::RFLAGS),
        rbx = const place(offset_of!(UserContext, rbx)),
        rbp = const place(offset_of!(UserContext, rbp)),
        saved_rax = const place(offset_of!(UserContext, rax)),
        saved_rsi = const place(offset_of!(UserContext, rsi)),
        saved_rdi = const place(offset_of!(UserContext, rdi)),
        saved_rdx = const place(offset_of!(UserContext, rdx)),
        saved_r8 = const place(offset_of!(UserContext, r8)),
        saved_r9 = const place(offset_of!(UserContext, r9)),
        saved_r10 = const place(offset_of!(UserContext, r10)),
        saved_r12 = const place(offset_of!(UserContext, r12)),
        saved_r13 = const place(offset_of!(UserContext, r13)),
        saved_r14 = const place(offset_of!(UserContext, r14)),
        saved_r15 = const place(offset_of!(UserContext, r15)),
    )
}

/// The way out of one who has faulted and is answered.
///
/// In: RCX the top of its stack, below which its whole context lies, this CPU's current thread; RAX a word whose bit 1 is cleared, as the handler waits
/// now. RSP on any kernel stack. Out: user mode, all registers as in the context, by `iretq`.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(crate) unsafe extern "C" fn leave_with_registers() -> ! {
    naked_asm!(
        "and byte ptr [rax], {settled}",
        "lea rsp, [rcx - {bytes}]",
        "cmp dword ptr gs:[{pending}], 0",
        "je {return_to_user}",
        "mov rdi, rsp",
        "call {exit}",
        "jmp {return_to_user}",
        settled = const !2_i8,
        bytes = const frame::BYTES,
        pending = const cpu_offset::PENDING,
        exit = sym hooks::short_call_exit,
        return_to_user = sym return_to_user,
    )
}

/// Where a thread goes on that has reported a fault by the direct way and was woken by an ordinary switch.
///
/// In: RSP at its whole context, all other registers senseless. Out: user mode, all registers as in the context.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn woken() -> ! {
    naked_asm!(
        "mov rdi, rsp",
        "call {handler}",
        "jmp {return_to_user}",
        handler = sym hooks::reporter_woken,
        return_to_user = sym return_to_user,
    )
}

/// What stands in the table of short calls while the current thread's calls are reported. It is a routine of the entry's rather than a C function, and never
/// called as one.
// SAFETY: both are addresses of code; the entry of `syscall` is the only caller.
pub(crate) const REPORTED_SHORT_CALL: ShortCall =
    unsafe { core::mem::transmute::<unsafe extern "C" fn() -> !, ShortCall>(short_call) };

/// A short call of a thread whose calls are reported: makes the context whole that its entry has begun.
///
/// In: what `entry/syscall.rs` calls the table with: a return address at RSP, which is given up, above it a context of which RIP, RSP and RFLAGS are
/// filled, and all general registers the user's. Out: user mode, all registers as in the context.
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
        "call {handler}",
        "jmp {return_to_user}",
        ss = const offset_of!(UserContext, ss),
        cs = const frame::CS,
        error = const offset_of!(UserContext, error_code),
        vector_place = const frame::VECTOR,
        number = const frame::CALL_NUMBER,
        user_data = const USER_DATA,
        user_code = const USER_CODE64,
        vector = const VECTOR_SYSCALL,
        after_general = const frame::AFTER_GENERAL,
        handler = sym hooks::reported_call,
        return_to_user = sym return_to_user,
    )
}
