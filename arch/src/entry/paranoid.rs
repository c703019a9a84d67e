//! Entries that can come at any instruction: #DB, NMI, #DF and #MC.
//!
//! They may interrupt the kernel between `swapgs` and the stack switch, with the user's GS base in force, or with the kernel's
//! CS on the user's stack. So each has a stack of its own (IST), at whose top lies the address of the CPU's block, and
//! from kernel mode they don't guess which GS base is in force: they read it, set the block's, and put back what they found.
//! (Its sign says nothing: with FSGSBASE user code may write a base that looks like the kernel's.)
//!
//! From user mode things are simple: GS is the user's for certain. An NMI, #MC or #DF is handled where it is; a #DB moves its
//! frame to the thread's own stack, so that it may block.

use core::arch::naked_asm;

use super::alternatives::{clac_slot, cr3_slot};
use super::frame::{self, pop_general, push_general};
use super::vectors;
use crate::context::NO_CALL;
use crate::cpu::{Msr, offsets as cpu_offset};
use crate::debug_registers;
use crate::hooks;

/// Body of an entry that stays on its IST stack. `$slot` names its place for `clac`.
///
/// In: `[error] rip cs rflags rsp ss` on the IST stack, the block's address 16 bytes below the stack's top. All registers are
/// kept. R12 holds the GS base that was found (callee-saved in the C convention), R13 says whether it is to be put back.
macro_rules! on_own_stack {
    ($slot:literal, $vector:literal, $push_error:literal, $handler:path) => {
        naked_asm!(
            $push_error,
            concat!("push ", $vector),
            "cld",
            clac_slot!($slot),
            "push {no_call}",
            "sub rsp, {room}",
            push_general!(),
            "xor r13d, r13d",
            "test byte ptr [rsp + {cs}], 3",
            "jz 2f",
            "swapgs",
            "lfence",
            cr3_slot!(),
            "jmp 3f",
            "2:",
            "lfence",
            "mov ecx, {gs_base}",
            "rdmsr",
            "mov r12d, eax",
            "shl rdx, 32",
            "or r12, rdx",
            "mov rax, [rsp + {block}]",
            "mov rdx, rax",
            "shr rdx, 32",
            "wrmsr",
            "inc r13d",
            "3:",
            "mov rdi, rsp",
            "call {handler}",
            "test r13d, r13d",
            "jz 4f",
            "mov ecx, {gs_base}",
            "mov eax, r12d",
            "mov rdx, r12",
            "shr rdx, 32",
            "wrmsr",
            pop_general!(),
            "add rsp, {after_general}",
            "iretq",
            "4:",
            cr3_slot!(),
            pop_general!(),
            "add rsp, {after_general}",
            "swapgs",
            "iretq",
            no_call = const NO_CALL as i32,
            room = const frame::MIDDLE - 8,
            cs = const frame::CS,
            gs_base = const Msr::GS_BASE.0,
            block = const frame::BYTES,
            handler = sym $handler,
            after_general = const frame::RIP - frame::AFTER_GENERAL,
        )
    };
}

/// NMI.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn nmi() {
    on_own_stack!("switchyard_clac_nmi", "2", "push 0", hooks::nmi)
}

/// #DF. The CPU pushes an error code, always 0.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn double_fault() {
    on_own_stack!("switchyard_clac_df", "8", "", double_fault_anywhere)
}

/// #MC.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn machine_check() {
    on_own_stack!("switchyard_clac_mc", "18", "push 0", hooks::kernel_trap)
}

/// #DB. From user mode it goes on on the thread's own stack; from kernel mode it is handled here.
///
/// In: `rip cs rflags rsp ss` on the IST stack, the block's address above it.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn debug() {
    naked_asm!(
        "test byte ptr [rsp + 8], 3",       // CS
        "jz {kernel}",
        "cld",
        clac_slot!("switchyard_clac_debug_user"),
        "swapgs",
        "lfence",
        cr3_slot!(),
        "mov gs:[{scratch}], rax",
        "mov rax, rsp",                     // the CPU's frame
        "mov rsp, gs:[{stack_top}]",
        "push qword ptr [rax + 32]",                  // ss
        "push qword ptr [rax + 24]",                  // rsp
        "push qword ptr [rax + 16]",                  // rflags
        "push qword ptr [rax + 8]",                   // cs
        "push qword ptr [rax]",                       // rip
        "push 0",                           // error code
        "push 1",                           // vector
        "mov rax, gs:[{scratch}]",
        "push {no_call}",
        "sub rsp, {room}",
        push_general!(),
        "mov rdi, rsp",
        "call {handler}",
        "jmp {return_to_user}",
        kernel = sym debug_in_kernel,
        scratch = const cpu_offset::SCRATCH,
        stack_top = const cpu_offset::STACK_TOP,
        no_call = const NO_CALL as i32,
        room = const frame::MIDDLE - 8,
        handler = sym debug_from_user,
        return_to_user = sym vectors::return_to_user,
    )
}

/// #DB with the kernel's CS: the shadow of a `mov ss` before `syscall` (CVE-2018-8897), or TF carried in by an entry
/// that does not clear it.
#[unsafe(naked)]
unsafe extern "C" fn debug_in_kernel() {
    on_own_stack!("switchyard_clac_debug", "1", "push 0", debug_from_kernel)
}

/// CR2 still holds the address of the page fault, if one was that could not be delivered: below an overflown stack, for one.
extern "C" fn double_fault_anywhere(context: &mut abi::UserContext) {
    context.cr2 = vectors::read_cr2();
    hooks::kernel_trap(context);
}

extern "C" fn debug_from_user(context: &mut abi::UserContext) {
    let status = debug_registers::take_status();
    // SAFETY: an exception from user mode has a current thread, which lives as long as it runs.
    let thread = unsafe { &*crate::cpu::block().current() };
    context.debug_status = debug_registers::relevant(status, &thread.extras().breakpoints());
    hooks::user_trap(context);
}

/// The kernel sets no breakpoints of its own, so a #DB here is the doing of user code, and the kernel goes on without TF.
///
/// A watched place that the kernel touched for the thread, or that a `mov ss` right before the entry read, is the thread's to
/// hear of on its way out. So is a single step over `sysenter`: its entry is told of it (see `sysenter.rs`).
extern "C" fn debug_from_kernel(context: &mut abi::UserContext) {
    const TRAP_FLAG: u64 = 1 << 8;
    let block = crate::cpu::block();
    context.debug_status = debug_registers::take_status();
    // SAFETY: the current thread is none, or it lives as long as it runs.
    if let Some(thread) = unsafe { block.current().as_ref() } {
        let extras = thread.extras();
        let hits = debug_registers::relevant(context.debug_status, &extras.breakpoints());
        if hits & debug_registers::HITS != 0 {
            extras.note_hits(block, hits & debug_registers::HITS);
        }
    }
    if context.rip == super::sysenter_address() && context.rflags & TRAP_FLAG != 0 {
        block.note_step();
    }
    context.rflags &= !TRAP_FLAG;
}
