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
use core::mem::offset_of;

use super::frame::{self, pop_general, push_general};
use super::vectors;
use crate::context::{NO_CALL, USER_CODE64, USER_DATA, VECTOR_SYSCALL};
use crate::cpu::offsets as cpu_offset;
use crate::hooks;

const _: () = {
    assert!(abi::SHORT_CALLS.is_power_of_two());
    assert!(
        abi::Call::Call as u64 == abi::SHORT_CALLS,
        "the entry tells it by the comparison for short calls"
    );
};

/// Trap and resume flag: with either, `sysretq` would not do what `iretq` does.
const TF_RF: u32 = 1 << 8 | 1 << 16;

/// Saves what a thread that waits for its partner must get back, and the message, in their places in the context, which RSP points
/// to then. Changes RAX and RSP. ZF is clear if the call must go the long way: it has a deadline, or the thread is single-stepped.
macro_rules! save_message {
    () => {
        "mov rax, gs:[{scratch}]
         sub rsp, {bytes}
         mov [rsp + {rsp}], rax
         mov [rsp + {rip}], rcx
         mov [rsp + {rflags}], r11
         mov [rsp + {saved_rdi}], rdi
         mov [rsp + {saved_rsi}], rsi
         mov [rsp + {saved_rdx}], rdx
         mov [rsp + {saved_r10}], r10
         mov [rsp + {saved_r8}], r8
         mov [rsp + {saved_r9}], r9
         mov [rsp + {saved_r12}], r12
         mov [rsp + {saved_r13}], r13
         mov [rsp + {saved_r15}], r15
         mov [rsp + {saved_rbx}], rbx
         mov [rsp + {saved_rbp}], rbp
         lea rax, [r14 + 1]
         and r11d, {tf_rf}
         or rax, r11"
    };
}

/// Where the kernel's part of a direct call ends that must go the long way.
///
/// In: RAX the call's number; the context as [`save_message`] left it, but for `r14`, which is no deadline. RSP on the thread's kernel
/// stack, anywhere. Out: user mode, at the call's end.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(crate) unsafe extern "C" fn go_the_long_way() -> ! {
    naked_asm!(
        "mov rsp, gs:[{stack_top}]",
        "sub rsp, {bytes}",
        "mov qword ptr [rsp + {r14}], -1",
        "jmp switchyard_long_way",
        stack_top = const cpu_offset::STACK_TOP,
        bytes = const frame::BYTES,
        r14 = const offset_of!(abi::UserContext, r14),
    )
}

/// Makes a context whole of which [`save_message`] has saved the most, the call number excepted.
///
/// In: the context right above the return address. Changes RAX. Flags are kept.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn complete() {
    naked_asm!(
        "mov rax, [rsp + 8 + {rip}]",
        "mov [rsp + 8 + {rcx}], rax",
        "mov rax, [rsp + 8 + {rflags}]",
        "mov [rsp + 8 + {r11}], rax",
        "mov qword ptr [rsp + 8 + {ss}], {user_data}",
        "mov qword ptr [rsp + 8 + {cs}], {user_code}",
        "mov qword ptr [rsp + 8 + {error}], 0",
        "mov qword ptr [rsp + 8 + {vector_place}], {vector}",
        "ret",
        rip = const frame::RIP,
        rflags = const frame::RFLAGS,
        rcx = const offset_of!(abi::UserContext, rcx),
        r11 = const offset_of!(abi::UserContext, r11),
        ss = const offset_of!(abi::UserContext, ss),
        cs = const frame::CS,
        error = const offset_of!(abi::UserContext, error_code),
        vector_place = const frame::VECTOR,
        user_data = const USER_DATA,
        user_code = const USER_CODE64,
        vector = const VECTOR_SYSCALL,
    )
}

/// The ways out for a thread that was waiting for a message: with that message in its registers. `$badge` and `$reply` bring these into
/// RDI and R15; `$settle` is for when the sender's context is needed no more.
macro_rules! leave {
    ($label:literal, $badge:literal, $reply:literal, $settle:literal $(, $settled:ident = const $mask:expr)?) => {
        naked_asm!(
            "cmp dword ptr gs:[{pending}], 0",
            "jne 2f",
            $badge,
            $reply,
            "mov rdx, [rsi + {rdx}]",
            "mov r10, [rsi + {r10}]",
            "mov r8, [rsi + {r8}]",
            "mov r9, [rsi + {r9}]",
            "mov r12, [rsi + {r12}]",
            "mov r13, [rsi + {r13}]",
            "mov rsi, [rsi + {rsi}]",
            $settle,
            "mov rbx, [rcx + {rbx}]",
            "mov rbp, [rcx + {rbp}]",
            "mov rsp, [rcx + {rsp}]",
            "mov r11, [rcx + {rflags}]",
            "mov rcx, [rcx + {rip}]",
            "xor eax, eax",
            "xor r14d, r14d",
            concat!(".globl ", $label),
            concat!($label, ":"),           // as at `switchyard_sysret`
            "swapgs",
            "sysretq",
            "2:",
            "lea rsp, [rcx - {bytes}]",
            $badge,
            $reply,
            "mov [rcx + {r15}], r15",
            "mov [rcx + {rdi}], rdi",
            "mov qword ptr [rcx + {r14}], 0",
            "mov qword ptr [rcx + {rax}], 0",
            "mov rdi, [rsi + {rsi}]",
            "mov [rcx + {rsi}], rdi",
            "mov rdi, [rsi + {rdx}]",
            "mov [rcx + {rdx}], rdi",
            "mov rdi, [rsi + {r10}]",
            "mov [rcx + {r10}], rdi",
            "mov rdi, [rsi + {r8}]",
            "mov [rcx + {r8}], rdi",
            "mov rdi, [rsi + {r9}]",
            "mov [rcx + {r9}], rdi",
            "mov rdi, [rsi + {r12}]",
            "mov [rcx + {r12}], rdi",
            "mov rdi, [rsi + {r13}]",
            "mov [rcx + {r13}], rdi",
            $settle,
            "jmp switchyard_message_in_context",
            pending = const cpu_offset::PENDING,
            bytes = const frame::BYTES,
            rax = const place(offset_of!(abi::UserContext, rax)),
            rsi = const place(offset_of!(abi::UserContext, rsi)),
            rdi = const place(offset_of!(abi::UserContext, rdi)),
            rdx = const place(offset_of!(abi::UserContext, rdx)),
            r8 = const place(offset_of!(abi::UserContext, r8)),
            r9 = const place(offset_of!(abi::UserContext, r9)),
            r10 = const place(offset_of!(abi::UserContext, r10)),
            r12 = const place(offset_of!(abi::UserContext, r12)),
            r13 = const place(offset_of!(abi::UserContext, r13)),
            r14 = const place(offset_of!(abi::UserContext, r14)),
            r15 = const place(offset_of!(abi::UserContext, r15)),
            rbx = const place(offset_of!(abi::UserContext, rbx)),
            rbp = const place(offset_of!(abi::UserContext, rbp)),
            rip = const place(frame::RIP),
            rsp = const place(frame::RSP),
            rflags = const place(frame::RFLAGS),
            $($settled = const $mask,)?
        )
    };
}

/// The way out of one who receives a call.
///
/// In: RSI the top of the sender's kernel stack, below which its context lies, with the message in it; RCX that of the thread that goes on,
/// this CPU's current one; RDX the badge, R8 the reply. RSP on any kernel stack. Out: user mode, registers as [`abi::register`] says of
/// a receive. If anything is due first, the message is written into the context, and it leaves by that.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(crate) unsafe extern "C" fn leave_with_call() -> ! {
    leave!("switchyard_sysret_call", "mov rdi, rdx", "mov r15, r8", "")
}

/// The way out of one who is answered.
///
/// In and out as [`leave_with_call`], but for badge and reply, which are none; and in: RAX a word whose bit 1 is cleared when the sender's context is needed no more.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(crate) unsafe extern "C" fn leave_with_answer() -> ! {
    leave!("switchyard_sysret_answer", "xor edi, edi", "xor r15d, r15d", "and byte ptr [rax], {settled}", settled = const !2_i8)
}

/// The way out of one whose registers, all of them, are in its context.
///
/// In: RCX the top of the kernel stack of this CPU's current thread, below which its context lies. RSP on any kernel stack. Out: user mode,
/// registers as in the context, but that RCX is RIP and R11 is RFLAGS. If anything is due first, it leaves by the context.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(crate) unsafe extern "C" fn leave_with_own() -> ! {
    naked_asm!(
        "cmp dword ptr gs:[{pending}], 0",
        "jne 2f",
        "mov rax, [rcx + {rax}]",
        "mov rdi, [rcx + {rdi}]",
        "mov rsi, [rcx + {rsi}]",
        "mov rdx, [rcx + {rdx}]",
        "mov r10, [rcx + {r10}]",
        "mov r8, [rcx + {r8}]",
        "mov r9, [rcx + {r9}]",
        "mov r12, [rcx + {r12}]",
        "mov r13, [rcx + {r13}]",
        "mov r14, [rcx + {r14}]",
        "mov r15, [rcx + {r15}]",
        "mov rbx, [rcx + {rbx}]",
        "mov rbp, [rcx + {rbp}]",
        "mov rsp, [rcx + {rsp}]",
        "mov r11, [rcx + {rflags}]",
        "mov rcx, [rcx + {rip}]",
        ".globl switchyard_sysret_own",
        "switchyard_sysret_own:",           // as at `switchyard_sysret`
        "swapgs",
        "sysretq",
        "2:",
        "lea rsp, [rcx - {bytes}]",
        "jmp switchyard_message_in_context",
        pending = const cpu_offset::PENDING,
        bytes = const frame::BYTES,
        rax = const place(offset_of!(abi::UserContext, rax)),
        rsi = const place(offset_of!(abi::UserContext, rsi)),
        rdi = const place(offset_of!(abi::UserContext, rdi)),
        rdx = const place(offset_of!(abi::UserContext, rdx)),
        r8 = const place(offset_of!(abi::UserContext, r8)),
        r9 = const place(offset_of!(abi::UserContext, r9)),
        r10 = const place(offset_of!(abi::UserContext, r10)),
        r12 = const place(offset_of!(abi::UserContext, r12)),
        r13 = const place(offset_of!(abi::UserContext, r13)),
        r14 = const place(offset_of!(abi::UserContext, r14)),
        r15 = const place(offset_of!(abi::UserContext, r15)),
        rbx = const place(offset_of!(abi::UserContext, rbx)),
        rbp = const place(offset_of!(abi::UserContext, rbp)),
        rip = const place(frame::RIP),
        rsp = const place(frame::RSP),
        rflags = const place(frame::RFLAGS),
    )
}

/// Goes on behind a wait in the entry of this CPU's current thread, in whose context all of its registers are, with what is due before user mode.
///
/// RSP on the thread's kernel stack, anywhere.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(crate) unsafe extern "C" fn go_on_behind_wait() -> ! {
    naked_asm!(
        "mov rsp, gs:[{stack_top}]",
        "sub rsp, {bytes}",
        "jmp switchyard_message_in_context",
        stack_top = const cpu_offset::STACK_TOP,
        bytes = const frame::BYTES,
    )
}

/// Where a field of a context is from its end, which is the top of the stack.
const fn place(offset: usize) -> isize {
    offset as isize - frame::BYTES as isize
}

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
        "jae 4f",
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

        // A call that may go straight to its partner. ZF: it is the first long one, `call`.
        "4:",
        "je 8f",
        "cmp rax, {reply_recv_number}",
        "jne 20f",
        save_message!(),
        "jnz 3f",
        "mov rdx, r15",
        "call {reply_recv}",
        "31:",
        "jmp 2f",
        "8:",
        save_message!(),
        "jnz 4f",
        "call {call}",
        "30:",

        // It went to its partner, and was woken another way than by its partner's going straight back. The answer, or an error, is in
        // the context. The number is not: which call it was is told by the address that was left right below the context, by the `call`
        // of the direct way. It is another if the thread went the long way, which has left the number in its place.
        ".globl switchyard_message_in_context",
        "switchyard_message_in_context:",   // from `leave_with_message` as well
        "2:",
        "mov rax, [rsp - 8]",
        "mov edx, {call_number}",
        "lea rcx, [rip + 30b]",
        "cmp rax, rcx",
        "je 35f",
        "mov edx, {reply_recv_number}",
        "lea rcx, [rip + 31b]",
        "cmp rax, rcx",
        "je 35f",
        "mov edx, {wait_number}",
        "lea rcx, [rip + 32f]",
        "cmp rax, rcx",
        "je 35f",
        "mov edx, {signal_wait_number}",
        "lea rcx, [rip + 33f]",
        "cmp rax, rcx",
        "jne 36f",
        "35:",
        "mov [rsp + {number}], rdx",
        "36:",
        "call {complete}",
        "mov rdi, rsp",
        "call {woken}",
        "jmp 7f",

        // A wait that nearly always has to be waited for. All that comes back is in the context.
        "20:",
        "cmp rax, {wait_number}",
        "jne 22f",
        save_message!(),
        "jnz 21f",
        "mov [rsp + {saved_r14}], r14",
        "call {wait}",
        "32:",
        "jmp 2b",
        "21:",
        "mov eax, {wait_number}",
        "jmp 9f",
        "22:",
        "cmp rax, {signal_wait_number}",
        "jne 5f",
        save_message!(),
        "jnz 23f",
        "mov [rsp + {saved_r14}], r14",
        "call {signal_wait}",
        "33:",
        "jmp 2b",
        "23:",
        "mov eax, {signal_wait_number}",
        "jmp 9f",

        // It has a deadline, or is single-stepped.
        "3:",
        "mov eax, {reply_recv_number}",
        "jmp 9f",
        "4:",
        "mov eax, {call_number}",
        "9:",
        "mov [rsp + {saved_r14}], r14",

        // It goes the long way: the context is made whole, and it is a call as any other.
        ".globl switchyard_long_way",
        "switchyard_long_way:",             // from `go_the_long_way`
        "mov [rsp + {number}], rax",
        "mov [rsp + {saved_rax}], rax",
        "call {complete}",
        "mov rdi, rsp",
        "call qword ptr gs:[{handler}]",
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
        "call qword ptr gs:[{handler}]",
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
        handler = const cpu_offset::SYSTEM_CALL,
        call_number = const abi::Call::Call as u64,
        reply_recv_number = const abi::Call::ReplyRecv as u64,
        call = sym hooks::direct_call,
        reply_recv = sym hooks::direct_reply_recv,
        wait_number = const abi::Call::Wait as u64,
        wait = sym hooks::direct_wait,
        signal_wait_number = const abi::Call::SignalWait as u64,
        signal_wait = sym hooks::direct_signal_wait,
        complete = sym complete,
        woken = sym hooks::woken,
        saved_rax = const offset_of!(abi::UserContext, rax),
        saved_rdi = const offset_of!(abi::UserContext, rdi),
        saved_rsi = const offset_of!(abi::UserContext, rsi),
        saved_rdx = const offset_of!(abi::UserContext, rdx),
        saved_r8 = const offset_of!(abi::UserContext, r8),
        saved_r9 = const offset_of!(abi::UserContext, r9),
        saved_r10 = const offset_of!(abi::UserContext, r10),
        saved_r12 = const offset_of!(abi::UserContext, r12),
        saved_r13 = const offset_of!(abi::UserContext, r13),
        saved_r14 = const offset_of!(abi::UserContext, r14),
        saved_r15 = const offset_of!(abi::UserContext, r15),
        saved_rbx = const offset_of!(abi::UserContext, rbx),
        saved_rbp = const offset_of!(abi::UserContext, rbp),
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
