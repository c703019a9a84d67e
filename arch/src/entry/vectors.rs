//! Exceptions, interrupts and `int 0x80`.
//!
//! Every vector has a 16-byte stub that makes all frames alike (a zero where the CPU pushes no error code) and jumps to one
//! common path. From user mode the frame lies at the top of the thread's kernel stack, as TSS.RSP0 says; from the kernel
//! (an exception in a copy from user memory, an interrupt in the idle loop) it lies below whatever was there.
//!
//! A faulting `iretq` is the one exception that comes from kernel code with the *user's* GS: the path knows that
//! instruction's address, throws the kernel's frame away and makes it look like a fault of the user's instruction.

use core::arch::naked_asm;

use abi::UserContext;

use super::alternatives::clac_slot;
use super::frame::{self, pop_general, push_general};
use super::isolated;
use crate::context::{NO_CALL, USER_CODE32};
use crate::cpu::{self, KERNEL_DATA, offsets as cpu_offset};
use crate::hooks;

/// Address of the first stub.
pub(super) fn first_stub() -> u64 {
    (stubs as *const () as u64).next_multiple_of(STUB_BYTES)
}

/// Bytes from one stub to the next.
pub(super) const STUB_BYTES: u64 = 16;

/// Vector of `int 0x80`.
const SYSTEM_CALL: u64 = 0x80;

/// One stub for each vector. Those that push an error code: 8, 10 to 14, 17, 21, 29, 30 (Intel SDM vol. 3A §6.15, AMD64 APM
/// vol. 2 §8.2).
///
/// In: the CPU's frame. Out: jumps to [`common`] with error code and vector pushed. Changes no register.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn stubs() {
    naked_asm!(
        // The function's own address may lie before the first stub: nothing aligns it (see `first_stub`).
        ".balign 16",
        ".set switchyard_vector, 0",
        ".rept 256",
        ".balign 16",
        ".if (switchyard_vector == 8) || ((switchyard_vector >= 10) && (switchyard_vector <= 14)) || (switchyard_vector == 17) || (switchyard_vector == 21) || (switchyard_vector == 29) || (switchyard_vector == 30)",
        ".else",
        "push 0",
        ".endif",
        "push switchyard_vector",
        "jmp {common}",
        ".set switchyard_vector, switchyard_vector + 1",
        ".endr",
        common = sym common,
    )
}

/// The common path of all vectors without a stack of their own.
///
/// In: `vector error rip cs rflags rsp ss` on the stack. Builds a whole [`UserContext`] and calls [`trap`].
/// From user mode it falls through to [`return_to_user`]; to the kernel it returns by `iretq` on the same stack.
///
/// An interrupt from user mode leaves SS null. It is loaded again, because on AMD's CPUs a `sysret` of the thread that the CPU
/// switches to would give user mode an SS whose hidden part is a null segment's, with which 32-bit code would fault (AMD64
/// APM vol. 3, SYSRET; Linux calls it X86_BUG_SYSRET_SS_ATTRS). Here it costs two instructions an interrupt; in the switch it
/// would cost a test at each.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn common() {
    naked_asm!(
        // ANCHOR: from_user
        "cld",
        clac_slot!("switchyard_clac_trap"),
        "test byte ptr [rsp + 24], 3",      // CS
        "jz 3f",
        ".globl switchyard_trap_from_user",
        "switchyard_trap_from_user:",       // with tables of user mode's own, a `jmp` to `isolated::trap`
        "swapgs",
        "lfence",                           // no speculation past a conditional swapgs (CVE-2019-1125)
        ".globl switchyard_trap_entered",
        "switchyard_trap_entered:",
        "2:",
        "push {no_call}",
        "sub rsp, {room}",
        push_general!(),
        "mov eax, {kernel_data}",           // null since the interrupt; see above
        "mov ss, eax",
        "mov rdi, rsp",
        "call {trap_from_user}",
        "jmp {return_to_user}",
        // ANCHOR_END: from_user

        // From the kernel: was it one of the three `iretq` to user mode?
        "3:",
        "lfence",
        "push rax",
        "lea rax, [rip + switchyard_iretq]",
        "cmp rax, [rsp + 24]",              // RIP
        "je 4f",
        "lea rax, [rip + switchyard_iretq_clearing]",
        "cmp rax, [rsp + 24]",
        "je 4f",
        "lea rax, [rip + switchyard_iretq_isolated]",
        "cmp rax, [rsp + 24]",
        "pop rax",
        "je {bad_isolated_return}",
        "push {no_call}",
        "sub rsp, {room}",
        push_general!(),
        "mov rdi, rsp",
        "call {trap_from_kernel}",
        pop_general!(),
        "add rsp, {after_general}",
        "iretq",

        // A faulting `iretq`: every general register is the user's, and so is GS. RSP before the fault pointed at the user's own
        // frame; vector and error code go below it, as if the user's instruction had faulted.
        "4:",
        "pop rax",
        "swapgs",
        "lfence",
        "mov gs:[{scratch}], rax",
        "mov rax, [rsp]",                   // vector
        "push rax",
        "mov rax, [rsp + 16]",              // error code
        "push rax",
        "mov rax, [rsp + 16 + 40]",         // RSP before the fault
        "pop qword ptr [rax - 8]",
        "pop qword ptr [rax - 16]",
        "lea rsp, [rax - 16]",
        // The CPU's frame lay over what is "room only" below. No address of the kernel's shall be shown to anybody.
        "xor eax, eax",
        "mov [rsp - 16], rax",              // cr2
        "mov [rsp - 24], rax",              // debug status
        "mov [rsp - 32], rax",              // selectors
        "mov [rsp - 40], rax",              // gs base
        "mov [rsp - 48], rax",              // fs base
        "mov rax, gs:[{scratch}]",
        "jmp 2b",
        no_call = const NO_CALL as i32,
        kernel_data = const KERNEL_DATA,
        room = const frame::MIDDLE - 8,
        trap_from_user = sym trap_from_user,
        trap_from_kernel = sym trap_from_kernel,
        return_to_user = sym return_to_user,
        bad_isolated_return = sym isolated::bad_return,
        after_general = const frame::RIP - frame::AFTER_GENERAL,
        scratch = const cpu_offset::SCRATCH,
    )
}

/// Leaves the kernel for the context at RSP, by `iretq`.
///
/// In: RSP at a whole, valid [`UserContext`] at the top of the current thread's kernel stack, interrupts off, GS the kernel's.
/// Never returns; every register is the context's.
///
/// # Safety
/// The registers must be as stated.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub unsafe extern "C" fn return_to_user() {
    naked_asm!(
        // ANCHOR: return_to_user
        pop_general!(),
        "add rsp, {after_general}",
        ".globl switchyard_leave",
        "switchyard_leave:",                // with tables of user mode's own, or VERW, a `jmp` to `isolated.rs`
        "swapgs",
        ".globl switchyard_iretq",
        "switchyard_iretq:",
        "iretq",
        // ANCHOR_END: return_to_user
        after_general = const frame::RIP - frame::AFTER_GENERAL,
    )
}

const PAGE_FAULT: u64 = 14;
const FPU_TRAP: u64 = 7;

extern "C" fn trap_from_user(context: &mut UserContext) {
    match context.vector {
        SYSTEM_CALL if context.cs == u64::from(USER_CODE32) => hooks::compat_call(context),
        SYSTEM_CALL => {
            context.call_number = context.rax;
            cpu::block().system_call(context);
        }
        FPU_TRAP if crate::fpu::handle_trap() => {}
        _ => {
            if context.vector == PAGE_FAULT {
                context.cr2 = read_cr2();
            }
            hooks::user_trap(context);
        }
    }
}

extern "C" fn trap_from_kernel(context: &mut UserContext) {
    if context.vector == PAGE_FAULT {
        context.cr2 = read_cr2();
    }
    hooks::kernel_trap(context);
}

pub(super) fn read_cr2() -> u64 {
    let value;
    // SAFETY: reading CR2 has no effect.
    unsafe {
        core::arch::asm!("mov {}, cr2", out(reg) value, options(nomem, nostack));
    }
    value
}
