//! Ways in and out for machines on which user mode has page tables of its own, or leaves nothing in the CPU's buffers.
//!
//! The entries in the other files know nothing of this and pay nothing for it. Where a CPU needs more, [`patch`](super::patch) makes
//! them come by here: the registers that name an entry (LSTAR and its like) name one of these, and the last two instructions
//! before user mode, or the first two after it, are replaced by a `jmp`.
//!
//! **What user mode's tables hold**, besides its own half: this section of the text (`.text.entry`), the per-CPU block with GDT, TSS
//! and IDT, the four IST stacks, and one page of stack a CPU. No thread's kernel stack, no direct map, no data. So
//!
//! - until CR3 is the kernel's, an entry may touch nothing else: the interrupt frame lies on the CPU's entry stack, and is moved to
//!   the thread's own afterwards, where everybody looks for it;
//! - once CR3 is user mode's, a way out may touch nothing else: the frame for `iretq` is moved to the entry stack before;
//! - an `iretq` that faults does so on user mode's tables.
//!
//! The values for CR3 lie in the block (see [`UserTables`](crate::cpu::UserTables)); the change of address spaces sets them. There is
//! no free register at any of these places, so RAX, or RSP where it is lost anyway, goes to the block's scratch word: interrupts are
//! off, and what may come in between uses neither the word nor this stack: NMI, #MC and #DF never do, and #DB does only when it comes from
//! user mode (`paranoid.rs`).

use core::arch::naked_asm;

use super::{compat, frame, syscall, sysenter, vectors};
use crate::cpu::offsets as cpu_offset;

/// Loads the kernel's tables. Changes RAX only.
macro_rules! load_kernel_tables {
    () => {
        "mov rax, gs:[{kernel_cr3}]
         mov cr3, rax"
    };
}

/// Loads user mode's tables; with a flush, if one was wanted, this once. Changes RAX only.
macro_rules! load_user_tables {
    () => {
        "mov rax, gs:[{user_cr3}]
         mov cr3, rax
         mov rax, gs:[{user_cr3_kept}]
         mov gs:[{user_cr3}], rax"
    };
}

/// Overwrites what a CPU with MDS or a flaw of its kin holds in its buffers (Intel, "Microarchitectural Data Sampling", §VERW). Changes
/// ZF only. The last thing before `swapgs` and the return: nothing of the kernel's is loaded or stored afterwards. The operand is a
/// selector that can be written to.
macro_rules! clear_buffers {
    () => {
        "verw word ptr gs:[{data_selector}]"
    };
}

/// A place for the same: nine bytes that do nothing. `name` becomes a global label.
macro_rules! clear_buffers_slot {
    ($name:literal) => {
        concat!(
            ".globl ",
            $name,
            "\n",
            $name,
            ": .byte 0x66, 0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0"
        )
    };
}

pub(super) use clear_buffers;

/// `syscall` from 64-bit code. In and out as `syscall::entry`, into whose body it leads.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[{scratch}], rsp",
        "mov rsp, gs:[{kernel_cr3}]",
        "mov cr3, rsp",
        "jmp switchyard_syscall_entered",
        scratch = const cpu_offset::SCRATCH,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
    )
}

/// `syscall` from 32-bit code. In and out as `compat::entry`.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn compat_entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[{scratch}], rsp",
        "mov rsp, gs:[{kernel_cr3}]",
        "mov cr3, rsp",
        "jmp switchyard_compat_entered",
        scratch = const cpu_offset::SCRATCH,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
    )
}

/// `sysenter`. In and out as `sysenter::entry`.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn sysenter_entry() {
    naked_asm!(
        "swapgs",
        "mov rsp, gs:[{kernel_cr3}]",
        "mov cr3, rsp",
        "jmp switchyard_sysenter_entered",
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
    )
}

/// Exceptions and interrupts from user mode: comes from `switchyard_trap_from_user`, leads to `switchyard_trap_entered`.
///
/// In: `vector error rip cs rflags rsp ss` on the CPU's entry stack, GS base the user's. Out: the same on the thread's stack, GS the
/// block. All registers are kept.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn trap() {
    naked_asm!(
        "swapgs",
        "lfence",
        "mov gs:[{scratch}], rax",
        load_kernel_tables!(),
        "mov rax, rsp",
        "mov rsp, gs:[{stack_top}]",
        "push qword ptr [rax + 48]", // ss
        "push qword ptr [rax + 40]", // rsp
        "push qword ptr [rax + 32]", // rflags
        "push qword ptr [rax + 24]", // cs
        "push qword ptr [rax + 16]", // rip
        "push qword ptr [rax + 8]",  // error code
        "push qword ptr [rax]",      // vector
        "mov rax, gs:[{scratch}]",
        "jmp switchyard_trap_entered",
        scratch = const cpu_offset::SCRATCH,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
        stack_top = const cpu_offset::STACK_TOP,
    )
}

/// The way out by `sysretq`: comes from `switchyard_sysret`.
///
/// In: every register the user's, GS the block. Never returns.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn sysret() {
    naked_asm!(
        "mov gs:[{scratch}], rax",
        load_user_tables!(),
        "mov rax, gs:[{scratch}]",
        clear_buffers_slot!("switchyard_clear_sysret"),
        "swapgs",
        "sysretq",
        scratch = const cpu_offset::SCRATCH,
        user_cr3 = const cpu_offset::USER_CR3,
        user_cr3_kept = const cpu_offset::USER_CR3_KEPT,
    )
}

/// The way out by `iretq`: comes from `switchyard_leave`.
///
/// In: every register the user's but RSP, which points at `rip cs rflags rsp ss` on the thread's stack; GS the block. Never returns.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn iret() {
    naked_asm!(
        "mov gs:[{scratch}], rax",
        "mov rax, rsp",
        "mov rsp, gs:[{entry_stack}]",
        "push qword ptr [rax + 32]", // ss
        "push qword ptr [rax + 24]", // rsp
        "push qword ptr [rax + 16]", // rflags
        "push qword ptr [rax + 8]",  // cs
        "push qword ptr [rax]",      // rip
        load_user_tables!(),
        "mov rax, gs:[{scratch}]",
        clear_buffers_slot!("switchyard_clear_iret"),
        "swapgs",
        ".globl switchyard_iretq_isolated",
        "switchyard_iretq_isolated:",
        "iretq",
        scratch = const cpu_offset::SCRATCH,
        entry_stack = const cpu_offset::ENTRY_STACK,
        user_cr3 = const cpu_offset::USER_CR3,
        user_cr3_kept = const cpu_offset::USER_CR3_KEPT,
    )
}

/// The `iretq` above has faulted: makes it look like a fault of the user's instruction, on the thread's stack.
///
/// In: GS base and all registers but RSP the user's, user mode's tables. On the entry stack, from its top down: the frame that was for
/// user mode (40 bytes), 8 bytes that align, the CPU's frame for the kernel (40 bytes), error code, vector. Out: as [`trap`].
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn bad_return() {
    naked_asm!(
        "swapgs",
        "lfence",
        "mov gs:[{scratch}], rax",
        load_kernel_tables!(),
        "mov rax, gs:[{entry_stack}]",
        "mov rsp, gs:[{stack_top}]",
        "push qword ptr [rax - 8]",   // ss
        "push qword ptr [rax - 16]",  // rsp
        "push qword ptr [rax - 24]",  // rflags
        "push qword ptr [rax - 32]",  // cs
        "push qword ptr [rax - 40]",  // rip
        "push qword ptr [rax - 96]",  // error code
        "push qword ptr [rax - 104]", // vector
        "mov rax, gs:[{scratch}]",
        "jmp switchyard_trap_entered",
        scratch = const cpu_offset::SCRATCH,
        kernel_cr3 = const cpu_offset::KERNEL_CR3,
        entry_stack = const cpu_offset::ENTRY_STACK,
        stack_top = const cpu_offset::STACK_TOP,
    )
}

/// The way out by `sysretq` where tables are shared but buffers are to be cleared. As [`sysret`].
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn clearing_sysret() {
    naked_asm!(
        clear_buffers!(),
        "swapgs",
        "sysretq",
        data_selector = const cpu_offset::DATA_SELECTOR,
    )
}

/// The way out by `iretq` where tables are shared but buffers are to be cleared. In: as `switchyard_leave`.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
pub(super) unsafe extern "C" fn clearing_iret() {
    naked_asm!(
        clear_buffers!(),
        "swapgs",
        ".globl switchyard_iretq_clearing",
        "switchyard_iretq_clearing:",
        "iretq",
        data_selector = const cpu_offset::DATA_SELECTOR,
    )
}

const _: () = {
    // What `trap` moves is what `vectors::stubs` and the CPU push.
    assert!(frame::BYTES - frame::VECTOR == 56);
    // The bodies into which the entries lead are these; naming them here keeps the labels in the program.
    let _ = (
        syscall::entry,
        compat::entry,
        sysenter::entry,
        vectors::return_to_user,
    );
};
