//! The jump: from the firmware's address space and descriptor tables to the kernel's.
//!
//! The kernel's page tables do not show the loader, and with base revision 1 and later they show nothing at all in
//! the lower half, so the code that loads them would be gone under its own feet. It is therefore a small routine that
//! lies within one page of the loader and is run at two addresses under three sets of tables:
//!
//! 1. at its physical address, under the firmware's tables and then under *transit* tables, which are the kernel's
//!    with that page, and the page of its parameters, added at their physical addresses;
//! 2. at its address in the direct map (the loader's own memory is bootloader-reclaimable), first under the transit
//!    tables, then under the kernel's own, where the lower half is as the protocol has it.
//!
//! It stays where the loader was loaded, since firmware that protects memory lets nothing else be executed.
//!
//! The state it establishes is that of Limine PROTOCOL, Machine State at Entry.

use boot_core::addr::{PhysAddr, page_down};
use boot_core::load::{HHDM, Start};
use boot_core::protocol::{BaseRevision, GDT, PAT};
use core::arch::x86_64::__cpuid;
use core::arch::{asm, global_asm};

// CR0 bits (Intel SDM vol. 3A §2.5).
const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
// CR4 bits.
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_LA57: u64 = 1 << 12;
// EFER bits.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Everything the routine needs. Field order is known to the assembly.
#[derive(Debug)]
#[repr(C)]
struct Parameters {
    /// CR3 of the transit tables.
    transit_cr3: u64,
    /// CR3 of the kernel's tables.
    kernel_cr3: u64,
    /// CR0 at entry.
    cr0: u64,
    /// CR4 at entry.
    cr4: u64,
    /// EFER at entry.
    efer: u64,
    /// IA32_PAT at entry.
    pat: u64,
    /// Address of this structure in the direct map.
    own_address: u64,
    /// Address of the routine in the direct map.
    routine: u64,
    /// One past the stack's highest byte, in the direct map, a multiple of 16.
    stack_top: u64,
    /// The kernel's entry point.
    entry: u64,
    /// Limit of the GDT, behind padding so that the address after it is aligned.
    gdt_limit: [u16; 4],
    /// Its address in the direct map.
    gdt_base: u64,
}

const _: () = {
    assert!(core::mem::offset_of!(Parameters, kernel_cr3) == 0x08);
    assert!(core::mem::offset_of!(Parameters, pat) == 0x28);
    assert!(core::mem::offset_of!(Parameters, own_address) == 0x30);
    assert!(core::mem::offset_of!(Parameters, entry) == 0x48);
    assert!(core::mem::offset_of!(Parameters, gdt_limit) == 0x50);
    assert!(core::mem::offset_of!(Parameters, gdt_base) == 0x58);
};

// The routine. Entered with interrupts off, RSI = physical address of `Parameters`, in long mode with four levels of
// paging; uses no stack until it has the kernel's; does not return. Position-independent; aligned and padded so that it
// lies within one page (`.org` refuses to go back, should it ever grow too long).
global_asm!(
    ".global switchyard_handover_start",
    ".balign 1024",
    "switchyard_handover_start:",
    // EFER first: the new tables have no-execute bits, which are reserved until NXE is set.
    "mov ecx, 0xc0000080",
    "mov eax, [rsi + 0x20]",
    "mov edx, [rsi + 0x24]",
    "wrmsr",
    // PAT while caches hold nothing that was cached by an entry about to change. Entries 0 to 3 stay what they are
    // at reset, and firmware uses no others.
    "wbinvd",
    "mov ecx, 0x277",
    "mov eax, [rsi + 0x28]",
    "mov edx, [rsi + 0x2c]",
    "wrmsr",
    // CR4 before CR3: it clears PGE, so no global page of the firmware's survives, and PCIDE.
    "mov rax, [rsi + 0x18]",
    "mov cr4, rax",
    "mov rax, [rsi + 0x00]",
    "mov cr3, rax",
    "mov rax, [rsi + 0x10]",
    "mov cr0, rax",
    // Over to the direct map.
    "lea rax, [rip + 2f]",
    "lea rdx, [rip + switchyard_handover_start]",
    "sub rax, rdx",
    "add rax, [rsi + 0x38]",
    "mov rsi, [rsi + 0x30]",
    "jmp rax",
    "2:",
    "mov rax, [rsi + 0x08]",
    "mov cr3, rax",
    "mov rsp, [rsi + 0x40]",
    "lgdt [rsi + 0x56]",
    // An IDT of base 0 and limit 0: two zero quad words on the stack are such a descriptor.
    "push 0",
    "push 0",
    "lidt [rsp]",
    "add rsp, 16",
    "mov eax, 0x30",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "push 0x28",
    "lea rax, [rip + 3f]",
    "push rax",
    "retfq",
    "3:",
    "xor eax, eax",
    "lldt ax",
    "mov eax, 0x38",
    "ltr ax",
    // The kernel finds a return address of 0; below it go its entry point and the flags, which are popped again.
    "mov rsp, [rsi + 0x40]",
    "push 0",
    "push qword ptr [rsi + 0x48]",
    "push 2",
    "xor eax, eax",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "xor esi, esi",
    "xor edi, edi",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r11d, r11d",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "popfq",
    "ret",
    ".org switchyard_handover_start + 1024, 0xcc",
);

unsafe extern "C" {
    static switchyard_handover_start: u8;
}

/// Where the routine is: loaders run at physical addresses.
fn routine() -> PhysAddr {
    PhysAddr(&raw const switchyard_handover_start as u64)
}

/// The page that the jump's code lies in.
#[must_use]
pub fn routine_page() -> PhysAddr {
    PhysAddr(page_down(routine().0))
}

/// Whether the firmware runs with five levels of paging, which can only be left by leaving long mode.
#[must_use]
pub fn firmware_has_five_levels() -> bool {
    cr4() & CR4_LA57 != 0
}

/// What page tables can use on this CPU.
#[must_use]
pub fn paging_features() -> boot_core::paging::Features {
    let extended = if __cpuid(0x8000_0000).eax >= 0x8000_0001 {
        __cpuid(0x8000_0001).edx
    } else {
        0
    };
    boot_core::paging::Features {
        no_execute: extended & 1 << 20 != 0,
        gib_pages: extended & 1 << 26 != 0,
    }
}

fn cr0() -> u64 {
    let value: u64;
    // SAFETY: reading CR0 changes nothing; loaders run at CPL 0.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

fn cr4() -> u64 {
    let value: u64;
    // SAFETY: reading CR4 changes nothing; loaders run at CPL 0.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// CR0, CR4 and EFER at entry. Base revision 5 and later state every bit; earlier ones leave what they do not state
/// to the loader, and then the firmware's settings for floating point and machine checks stay.
fn control_registers(revision: BaseRevision, no_execute: bool) -> (u64, u64, u64) {
    let (mut keep0, mut keep4) = (CR0_MP | CR0_NE, CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT);
    if revision.strict_machine_state() {
        (keep0, keep4) = (0, 0);
    }
    let efer = EFER_LME | EFER_LMA | if no_execute { EFER_NXE } else { 0 };
    (
        CR0_PG | CR0_WP | CR0_ET | CR0_PE | (cr0() & keep0),
        CR4_PAE | (cr4() & keep4),
        efer,
    )
}

/// Puts the parameters into the page that was taken for them and runs the routine.
///
/// # Safety
/// The machine is out of the firmware's hands and interrupts are off. `start.page` is memory that nothing else uses. The
/// transit tables show it and [`routine_page`] at their own addresses, the latter executable; transit and kernel tables show
/// both in the direct map with all rights; the kernel's tables show stack, GDT and entry point at the addresses in `start`.
pub unsafe fn jump(start: &Start) -> ! {
    let (cr0, cr4, efer) = control_registers(start.revision, start.no_execute);
    let parameters = Parameters {
        transit_cr3: start.transit_cr3.0,
        kernel_cr3: start.kernel_cr3.0,
        cr0,
        cr4,
        efer,
        pat: PAT,
        own_address: HHDM.virt(start.page).0,
        routine: HHDM.virt(routine()).0,
        stack_top: start.stack_top.0,
        entry: start.entry.0,
        gdt_limit: [0, 0, 0, size_of_val(&GDT) as u16 - 1],
        gdt_base: start.gdt.0,
    };
    // SAFETY: the caller gives the page to this function alone, and it is aligned for anything. The routine's needs are
    // the caller's promises.
    unsafe {
        let place = start.page.0 as *mut Parameters;
        place.write(parameters);
        asm!("cld", "jmp rax", in("rax") routine().0, in("rsi") place, options(noreturn));
    }
}
