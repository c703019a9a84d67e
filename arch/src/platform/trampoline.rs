//! The page at which another CPU begins: from real mode through protected mode to long mode.
//!
//! A CPU that gets a start-up message begins at the start of a page below 1 MiB, in real mode, with CS naming that page. The
//! code below is copied there. It takes its own address from CS, and all that depends on the page or on the CPU from the
//! [`Parameters`] at its end, which are filled in before every start. It turns on what the kernel's page tables need (PAE,
//! NX) before paging, then reads who it is for.
//!
//! A CPU may come late, when its start was given up and the page is already filled in for another. So it goes on only if
//! the APIC id in the page is its own, and if it can change the mailbox, a word in the kernel, from the ticket of this
//! start to "taken". Otherwise it [parks](super::park). The ticket is read before everything else of the parameters and written
//! after it, so what was read belongs to the ticket.
//!
//! The page is only read and executed by the new CPU: the accessed bits of its descriptors are set, and the mailbox is
//! elsewhere. The page tables must show it at its own address, executable, and the kernel's half as always.
//!
//! | mode | registers |
//! |---|---|
//! | real | CS = page / 16, IP = 0, everything else as INIT leaves it |
//! | protected | EBX = page |
//! | long | RBX = page; then RSP = given stack less 8 (as after a call), RDI = argument, RBP = 0 |
//!
//! Flags: interrupts off and direction up throughout.

use super::park;
use core::{arch::global_asm, mem::offset_of, ptr::NonNull};

/// Selectors of the descriptor table in the page.
const CODE_32: u16 = 0x08;
const DATA: u16 = 0x10;
const CODE_64: u16 = 0x18;
/// Bytes of that table.
const TABLE_BYTES: u16 = 0x20;

/// Bit of the mailbox that the new CPU adds to its ticket.
pub(super) const TAKEN: u32 = 1 << 31;

/// CR0 for the new CPU: paging, write protection, native FPU errors, extension type, monitor coprocessor, protection;
/// and caches on, which INIT leaves off (Intel SDM vol. 3A §2.5).
const CR0: u32 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
/// CR4 for the new CPU: physical address extension.
const CR4: u32 = 1 << 5;
/// EFER: long mode.
pub(super) const EFER_LONG_MODE: u32 = 1 << 8;
/// EFER: no-execute bits in page tables.
pub(super) const EFER_NO_EXECUTE: u32 = 1 << 11;

/// What the code reads. The assembly knows it by its offsets.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Parameters {
    /// Where the local APIC's registers are seen; 0 in x2APIC mode.
    pub(super) apic_registers: u64,
    /// Address of the mailbox, an aligned `u32`.
    pub(super) mailbox: u64,
    pub(super) stack: u64,
    pub(super) entry: u64,
    pub(super) argument: u64,
    /// Where a CPU goes that this is not for.
    pub(super) park: u64,
    /// What the mailbox holds if this start is still wanted. Never 0 in a page that is ready.
    pub(super) ticket: u32,
    pub(super) apic_id: u32,
    pub(super) cr3: u32,
    pub(super) efer: u32,
    cr0: u32,
    cr4: u32,
    /// Far pointers and the table's pseudo-descriptor, which the CPU reads as they are.
    far_32: [u16; 4],
    far_64: [u16; 4],
    table: [u16; 4],
}

global_asm!(
    ".pushsection .rodata.ap_trampoline, \"a\"",
    ".balign 16",
    ".global switchyard_ap_begin",
    ".global switchyard_ap_table",
    ".global switchyard_ap_protected",
    ".global switchyard_ap_long",
    ".global switchyard_ap_parameters",
    ".global switchyard_ap_end",
    ".set AP_P, switchyard_ap_parameters - switchyard_ap_begin",

    ".code16",
    "switchyard_ap_begin:",
    "    cli",
    "    cld",
    "    movw %cs, %ax",
    "    movw %ax, %ds",
    "    xorl %ebx, %ebx",
    "    movw %cs, %bx",
    "    shll $4, %ebx",
    "    lgdtl (AP_P + {table})",
    "    movl %cr0, %eax",
    "    orl $1, %eax",
    "    movl %eax, %cr0",
    "    ljmpl *(AP_P + {far_32})",

    ".code32",
    "switchyard_ap_protected:",
    "    movw ${DATA}, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %ss",
    "    movl (AP_P + {cr4})(%ebx), %eax",
    "    movl %eax, %cr4",
    "    movl (AP_P + {cr3})(%ebx), %eax",
    "    movl %eax, %cr3",
    "    movl $0xC0000080, %ecx",           // EFER
    "    movl (AP_P + {efer})(%ebx), %eax",
    "    xorl %edx, %edx",
    "    wrmsr",
    "    movl (AP_P + {cr0})(%ebx), %eax",
    "    movl %eax, %cr0",                  // Paging is on; the next fetch is through the new tables.
    "    ljmpl *(AP_P + {far_64})(%ebx)",

    ".code64",
    "switchyard_ap_long:",
    "    movl %ebx, %ebx",                  // The upper half is undefined after the change of mode.
    "    leaq AP_P(%rbx), %rbx",
    "    movl {ticket}(%rbx), %r8d",        // Before all else: see above.
    "    movl {apic_id}(%rbx), %r9d",
    "    movq {stack}(%rbx), %r10",
    "    movq {entry}(%rbx), %r11",
    "    movq {argument}(%rbx), %rdi",
    "    movq {mailbox}(%rbx), %rsi",
    "    movq {apic_registers}(%rbx), %rdx",
    "    testq %rdx, %rdx",
    "    jz 2f",
    "    movl 0x20(%rdx), %eax",            // The id register: the id is in its top byte.
    "    shrl $24, %eax",
    "    jmp 3f",
    "2:  movl $0xB, %eax",                  // CPUID leaf 0Bh: EDX is the x2APIC id, whatever the mode.
    "    xorl %ecx, %ecx",
    "    movq %rbx, %r12",                  // CPUID takes EBX.
    "    cpuid",
    "    movq %r12, %rbx",
    "    movl %edx, %eax",
    "3:  cmpl %r9d, %eax",
    "    jne 4f",
    "    movl %r8d, %eax",
    "    movl %r8d, %ecx",
    "    orl ${TAKEN}, %ecx",
    "    lock cmpxchgl %ecx, (%rsi)",
    "    jne 4f",
    "    movq %r10, %rsp",
    "    xorl %ebp, %ebp",
    "    pushq $0",                         // The return address that a walk of the stack ends at.
    "    jmpq *%r11",
    "4:  jmpq *{park}(%rbx)",

    ".balign 8",
    "switchyard_ap_table:",                 // Accessed bits set, so that nothing is written here.
    "    .quad 0",
    "    .quad 0x00CF9B000000FFFF",         // 32-bit code, 4 GiB
    "    .quad 0x00CF93000000FFFF",         // data, 4 GiB
    "    .quad 0x00209B0000000000",         // 64-bit code
    ".balign 8",
    "switchyard_ap_parameters:",
    "    .fill {bytes}, 1, 0",
    "switchyard_ap_end:",
    ".popsection",
    table = const offset_of!(Parameters, table),
    far_32 = const offset_of!(Parameters, far_32),
    far_64 = const offset_of!(Parameters, far_64),
    cr0 = const offset_of!(Parameters, cr0),
    cr3 = const offset_of!(Parameters, cr3),
    cr4 = const offset_of!(Parameters, cr4),
    efer = const offset_of!(Parameters, efer),
    ticket = const offset_of!(Parameters, ticket),
    apic_id = const offset_of!(Parameters, apic_id),
    stack = const offset_of!(Parameters, stack),
    park = const offset_of!(Parameters, park),
    entry = const offset_of!(Parameters, entry),
    argument = const offset_of!(Parameters, argument),
    mailbox = const offset_of!(Parameters, mailbox),
    apic_registers = const offset_of!(Parameters, apic_registers),
    bytes = const size_of::<Parameters>(),
    DATA = const DATA,
    TAKEN = const TAKEN,
    options(att_syntax)
);

unsafe extern "C" {
    static switchyard_ap_begin: u8;
    static switchyard_ap_table: u8;
    static switchyard_ap_protected: u8;
    static switchyard_ap_long: u8;
    static switchyard_ap_parameters: u8;
    static switchyard_ap_end: u8;
}

/// How far a label is from the beginning.
fn offset(label: *const u8) -> usize {
    label as usize - (&raw const switchyard_ap_begin) as usize
}

impl Parameters {
    /// The parameters of a page at physical address `page`, without those of a start.
    pub(super) fn new(page: u32) -> Parameters {
        let at = |label: *const u8| {
            let address = page + offset(label) as u32;
            (address as u16, (address >> 16) as u16)
        };
        let (low_32, high_32) = at(&raw const switchyard_ap_protected);
        let (low_64, high_64) = at(&raw const switchyard_ap_long);
        let (low_table, high_table) = at(&raw const switchyard_ap_table);
        Parameters {
            apic_registers: 0,
            mailbox: 0,
            stack: 0,
            entry: 0,
            argument: 0,
            park: park::address(),
            ticket: 0,
            apic_id: 0,
            cr3: 0,
            efer: EFER_LONG_MODE,
            cr0: CR0,
            cr4: CR4,
            far_32: [low_32, high_32, CODE_32, 0],
            far_64: [low_64, high_64, CODE_64, 0],
            table: [TABLE_BYTES - 1, low_table, high_table, 0],
        }
    }

    /// Copies the code to `page`, unless it is there, and these parameters behind it, the ticket last.
    ///
    /// Code that is written anew is translated anew by an emulator, which tells all of its CPUs: for the last of three hundred CPUs
    /// that took longer than everything else.
    ///
    /// # Safety
    /// `page` must be the reserved page, as the direct map shows it, and no CPU must be running in it except late ones.
    pub(super) unsafe fn install(self, page: NonNull<u8>) {
        let code = &raw const switchyard_ap_begin;
        let code_bytes = offset(&raw const switchyard_ap_parameters);
        debug_assert!(offset(&raw const switchyard_ap_end) <= 4096);
        // SAFETY: the label's offset is within the page, and aligned to 8 as the page is.
        let parameters = unsafe { page.add(code_bytes).cast::<Parameters>() };
        let without = Parameters { ticket: 0, ..self };
        // SAFETY: the code and its parameters are less than a page, which is writable and reserved. Writes are volatile
        // and in this order, which other CPUs see too (Intel SDM vol. 3A §9.2.2). A late CPU may run the code: it is complete
        // then, and not written.
        unsafe {
            (&raw mut (*parameters.as_ptr()).ticket).write_volatile(0);
            for byte in 0..code_bytes {
                let (place, wanted) = (page.add(byte), code.add(byte).read());
                if place.read_volatile() != wanted {
                    place.write_volatile(wanted);
                }
            }
            parameters.write_volatile(without);
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
            (&raw mut (*parameters.as_ptr()).ticket).write_volatile(self.ticket);
        }
    }
}
