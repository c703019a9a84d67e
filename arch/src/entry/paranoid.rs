//! Entries that can come at any instruction: #DB, NMI, #DF and #MC.
//!
//! They may interrupt the kernel between `swapgs` and the stack switch, with the user's GS base in force, or with the kernel's
//! CS on the user's stack. So each has a stack of its own (IST), at whose top lies the address of the CPU's block, and
//! from kernel mode they don't guess which GS base is in force: they read it, set the block's, and put back what they found.
//! (Its sign says nothing: with FSGSBASE user code may write a base that looks like the kernel's.)
//!
//! The same goes for the page tables, where user mode has its own: one bit of CR3 tells which are in force. From user mode and from
//! kernel code on user mode's tables, the kernel's are loaded; in the end what was found is put back. All that is touched before and after
//! is in both.
//!
//! From user mode things are simple: GS is the user's for certain. An NMI, #MC or #DF is handled where it is; a #DB moves its
//! frame to the thread's own stack, so that it may block.
//!
//! Each has its stack, but none may come twice on it. #DB and #DF raise no second one of their kind, and the CPU holds NMIs back
//! until the handler's `iretq`, and shuts down at a second #MC. What is left is a #MC or #DB *inside* an NMI's code, whose
//! `iretq` would let the next NMI in too early: they return to it in another way. So they do to each other's code, since that may have
//! interrupted an NMI's in turn.

use core::arch::naked_asm;

use super::alternatives::clac_slot;
use super::frame::{self, pop_general, push_general};
use super::isolated::clear_buffers;
use super::vectors;
use crate::context::NO_CALL;
use crate::cpu::{self, KERNEL_DATA, Msr, offsets as cpu_offset};
use crate::debug_registers;
use crate::hooks;
use crate::paging::PAGE_BYTES;

/// The bit of CR3 that says whose tables are loaded: those of user mode are in the frame behind the kernel's, and each such pair is
/// aligned to its size.
const USER_ROOT_BIT: u8 = 12;

const _: () = assert!(PAGE_BYTES == 1 << USER_ROOT_BIT);

/// Room for the rest of a context, and the general registers.
macro_rules! push_registers {
    () => {
        concat!(
            "push {no_call}
             sub rsp, {room}
             ",
            push_general!()
        )
    };
}

/// For an entry that has interrupted the kernel: its GS base and page tables, whatever is in force. See [`build_context`].
macro_rules! enter_from_kernel {
    () => {
        "lfence
         mov ecx, {gs_base}
         rdmsr
         mov r12d, eax
         shl rdx, 32
         or r12, rdx
         mov rax, [rsp + {block}]
         mov rdx, rax
         shr rdx, 32
         wrmsr
         xor r14d, r14d
         mov rax, gs:[{kernel_cr3}]
         test rax, rax
         jz 3f
         mov rcx, cr3
         bt ecx, {user_root_bit}
         jnc 3f
         mov cr3, rax
         shr rax, 63
         shl rax, 63
         lea r14, [rax + rcx]
         3:"
    };
}

/// The rest of an entry that stays on its IST stack, down to the call of its handler.
///
/// In: `vector error rip cs rflags rsp ss` on the IST stack, the block's address right above. Out: a whole [`abi::UserContext`] at
/// RSP, GS and page tables the kernel's. R13 is 1 if the kernel was interrupted, and R12 then the GS base that was found; R14 is CR3 as
/// it is to be put back, 0 if it need not be. All three are callee-saved in the C convention.
macro_rules! build_context {
    () => {
        concat!(
            push_registers!(),
            "
             xor r13d, r13d
             test byte ptr [rsp + {cs}], 3
             jz 2f
             swapgs
             lfence
             xor r14d, r14d
             mov rax, gs:[{kernel_cr3}]
             test rax, rax
             jz 3f
             mov cr3, rax
             jmp 3f
             2:
             inc r13d
             ",
            enter_from_kernel!(),
            "
             mov rdi, rsp
             "
        )
    };
}

/// Puts back page tables and the GS base that were found. In: R12, R14. Clobbers RAX, RCX, RDX.
macro_rules! put_gs_back {
    () => {
        "test r14, r14
         jz 8f
         mov cr3, r14
         8:
         mov ecx, {gs_base}
         mov eax, r12d
         mov rdx, r12
         shr rdx, 32
         wrmsr"
    };
}

/// To the kernel code that was interrupted. In: RSP at the context, the GS base as it was found.
macro_rules! leave_to_kernel {
    () => {
        concat!(
            pop_general!(),
            "
             add rsp, {after_general}
             iretq
             "
        )
    };
}

/// To user mode. In: RSP at the context, GS and page tables the kernel's.
macro_rules! leave_to_user {
    () => {
        concat!(
            "mov rax, gs:[{user_cr3}]
             test rax, rax
             jz 9f
             mov cr3, rax
             mov rax, gs:[{user_cr3_kept}]
             mov gs:[{user_cr3}], rax
             9:
             ",
            pop_general!(),
            "
             add rsp, {after_general}
             ",
            clear_buffers!(),
            "
             swapgs
             iretq
             "
        )
    };
}

/// NMI.
///
/// In: the CPU's frame on the IST stack, NMIs blocked until the `iretq`. All registers are kept.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn nmi() {
    naked_asm!(
        "push 0",               // error code
        "push 2",
        "cld",
        clac_slot!("switchyard_clac_nmi"),
        build_context!(),
        "inc byte ptr gs:[{depth}]",
        "call {handler}",
        "dec byte ptr gs:[{depth}]",
        "test r13d, r13d",
        "jz 4f",
        put_gs_back!(),
        leave_to_kernel!(),
        "4:",
        leave_to_user!(),
        ".globl switchyard_nmi_end",
        "switchyard_nmi_end:",
        depth = const cpu_offset::PARANOID_DEPTH,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
        user_cr3 = const cpu_offset::USER_CR3,
        user_cr3_kept = const cpu_offset::USER_CR3_KEPT,
        data_selector = const cpu_offset::DATA_SELECTOR,
        user_root_bit = const USER_ROOT_BIT,
        handler = sym hooks::nmi,
        no_call = const NO_CALL as i32,
        room = const frame::MIDDLE - 8,
        cs = const frame::CS,
        gs_base = const Msr::GS_BASE.0,
        block = const frame::BYTES,
        after_general = const frame::RIP - frame::AFTER_GENERAL,
    )
}

/// #DF. The CPU pushes an error code, always 0. There is no way back: what was interrupted can't go on (Intel SDM vol. 3A §6.15,
/// interrupt 8).
///
/// In: the CPU's frame on the IST stack.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn double_fault() {
    naked_asm!(
        "push 8",
        "cld",
        clac_slot!("switchyard_clac_df"),
        build_context!(),
        "call {handler}",
        "ud2",
        ".globl switchyard_double_fault_end",
        "switchyard_double_fault_end:",
        handler = sym double_fault_anywhere,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
        user_root_bit = const USER_ROOT_BIT,
        no_call = const NO_CALL as i32,
        room = const frame::MIDDLE - 8,
        cs = const frame::CS,
        gs_base = const Msr::GS_BASE.0,
        block = const frame::BYTES,
    )
}

/// Back to kernel code, which may be an NMI's. There `iretq` would let the next NMI in, on the stack that is in use (Intel SDM vol. 3A
/// §6.7.1), so it returns by `popfq` and `ret`: the two words that they need go below the stack pointer of the interrupted code,
/// where the kernel keeps nothing. SS stays as it is, which is as it was: an interrupt without a change of privilege leaves it alone.
///
/// In: RAX whether code of this file was interrupted, as the handler says; RSP at the context; R12, R14 as [`build_context`] left them.
macro_rules! leave_to_kernel_or_nmi {
    () => {
        concat!(
            "mov r15d, eax
             ",
            put_gs_back!(),
            "
             test r15b, r15b
             jnz 5f
             ",
            leave_to_kernel!(),
            "
             5:
             mov rax, [rsp + {rsp}]
             sub rax, 16
             mov rdx, [rsp + {rip}]
             mov [rax + 8], rdx
             mov rdx, [rsp + {rflags}]
             mov [rax], rdx
             mov [rsp + {rsp}], rax
             ",
            pop_general!(),
            "
             mov rsp, [rsp + {rsp_after_pops}]
             popfq
             ret
             "
        )
    };
}

/// #MC. All registers are kept.
///
/// In: the CPU's frame on the IST stack.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn machine_check() {
    naked_asm!(
        "push 0",               // error code
        "push 18",
        "cld",
        clac_slot!("switchyard_clac_mc"),
        build_context!(),
        "inc byte ptr gs:[{depth}]",
        "call {handler}",
        "dec byte ptr gs:[{depth}]",
        "test r13d, r13d",
        "jz 4f",
        leave_to_kernel_or_nmi!(),
        "4:",
        leave_to_user!(),
        ".globl switchyard_machine_check_end",
        "switchyard_machine_check_end:",
        handler = sym machine_check_handler,
        depth = const cpu_offset::PARANOID_DEPTH,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
        user_cr3 = const cpu_offset::USER_CR3,
        user_cr3_kept = const cpu_offset::USER_CR3_KEPT,
        data_selector = const cpu_offset::DATA_SELECTOR,
        user_root_bit = const USER_ROOT_BIT,
        no_call = const NO_CALL as i32,
        room = const frame::MIDDLE - 8,
        cs = const frame::CS,
        rip = const frame::RIP,
        rflags = const frame::RFLAGS,
        rsp = const frame::RSP,
        rsp_after_pops = const frame::RSP - frame::AFTER_GENERAL,
        gs_base = const Msr::GS_BASE.0,
        block = const frame::BYTES,
        after_general = const frame::RIP - frame::AFTER_GENERAL,
    )
}

/// #DB. From user mode it goes on on the thread's own stack; from kernel mode it is handled here.
///
/// In: `rip cs rflags rsp ss` on the IST stack, the block's address above it.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn debug() {
    naked_asm!(
        "test byte ptr [rsp + 8], 3",       // CS
        "jz {kernel}",
        ".globl switchyard_debug_from_user",
        "switchyard_debug_from_user:",
        "cld",
        clac_slot!("switchyard_clac_debug_user"),
        "swapgs",
        "lfence",
        "mov gs:[{scratch}], rax",
        "mov rax, gs:[{kernel_cr3}]",
        "test rax, rax",
        "jz 2f",
        "mov cr3, rax",
        "2:",
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
        "mov eax, {kernel_data}",           // as after any interrupt from user mode
        "mov ss, eax",
        "mov rdi, rsp",
        "call {handler}",
        "jmp {return_to_user}",
        kernel = sym debug_in_kernel,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
        scratch = const cpu_offset::SCRATCH,
        stack_top = const cpu_offset::STACK_TOP,
        kernel_data = const KERNEL_DATA,
        no_call = const NO_CALL as i32,
        room = const frame::MIDDLE - 8,
        handler = sym debug_from_user,
        return_to_user = sym vectors::return_to_user,
    )
}

/// #DB with the kernel's CS: the shadow of a `mov ss` before `syscall` (CVE-2018-8897), or TF carried in by an entry
/// that does not clear it.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn debug_in_kernel() {
    naked_asm!(
        "push 0",               // error code
        "push 1",
        "cld",
        clac_slot!("switchyard_clac_debug"),
        push_registers!(),
        enter_from_kernel!(),
        "mov rdi, rsp",
        "inc byte ptr gs:[{depth}]",
        "call {handler}",
        "dec byte ptr gs:[{depth}]",
        leave_to_kernel_or_nmi!(),
        ".globl switchyard_debug_in_kernel_end",
        "switchyard_debug_in_kernel_end:",
        handler = sym debug_from_kernel,
        depth = const cpu_offset::PARANOID_DEPTH,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
        user_root_bit = const USER_ROOT_BIT,
        no_call = const NO_CALL as i32,
        room = const frame::MIDDLE - 8,
        rip = const frame::RIP,
        rflags = const frame::RFLAGS,
        rsp = const frame::RSP,
        rsp_after_pops = const frame::RSP - frame::AFTER_GENERAL,
        gs_base = const Msr::GS_BASE.0,
        block = const frame::BYTES,
        after_general = const frame::RIP - frame::AFTER_GENERAL,
    )
}

/// CR2 still holds the address of the page fault, if one was that could not be delivered: below an overflown stack, for one.
extern "C" fn double_fault_anywhere(context: &mut abi::UserContext) -> ! {
    context.cr2 = vectors::read_cr2();
    hooks::double_fault(context)
}

extern "C" fn debug_from_user(context: &mut abi::UserContext) {
    let status = debug_registers::take_status();
    // SAFETY: an exception from user mode has a current thread, which lives as long as it runs.
    let thread = unsafe { &*cpu::block().current() };
    context.debug_status = debug_registers::relevant(status, &thread.extras().breakpoints());
    hooks::user_trap(context);
}

/// The kernel sets no breakpoints of its own, so a #DB here is the doing of user code, and the kernel goes on without TF.
///
/// A watched place that the kernel touched for the thread, or that a `mov ss` right before the entry read, is the thread's to
/// hear of on its way out. So is a single step over `sysenter`: its entry is told of it (see `sysenter.rs`).
extern "C" fn debug_from_kernel(context: &mut abi::UserContext) -> bool {
    const TRAP_FLAG: u64 = 1 << 8;
    let block = cpu::block();
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
    interrupted_its_like(context)
}

extern "C" fn machine_check_handler(context: &mut abi::UserContext) -> bool {
    hooks::machine_check(context);
    interrupted_its_like(context)
}

/// Whether the interrupted code is this file's: a handler, which is counted in the block, or the assembly around one. That need not be an
/// NMI's to have interrupted one: a #MC may come inside a #DB inside an NMI. In all of this code RSP is on an IST stack, so that the
/// way back that is right inside an NMI is right here. (In the part of [`debug`] that came from user mode it is not.)
fn interrupted_its_like(context: &abi::UserContext) -> bool {
    unsafe extern "C" {
        static switchyard_nmi_end: u8;
        static switchyard_double_fault_end: u8;
        static switchyard_machine_check_end: u8;
        static switchyard_debug_from_user: u8;
        static switchyard_debug_in_kernel_end: u8;
    }
    let assembly = [
        (nmi as *const (), &raw const switchyard_nmi_end),
        (
            double_fault as *const (),
            &raw const switchyard_double_fault_end,
        ),
        (
            machine_check as *const (),
            &raw const switchyard_machine_check_end,
        ),
        (debug as *const (), &raw const switchyard_debug_from_user),
        (
            debug_in_kernel as *const (),
            &raw const switchyard_debug_in_kernel_end,
        ),
    ];
    // The handler that asks is counted, too.
    cpu::block().paranoid_depth() > 1
        || assembly
            .iter()
            .any(|(start, end)| (*start as u64..*end as u64).contains(&context.rip))
}
