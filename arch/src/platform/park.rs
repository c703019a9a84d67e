//! Where a CPU that came too late stays: halted, and unharmed by the NMI of a panic.
//!
//! Such a CPU has no interrupt table and no stack of its own. Its local APIC is turned off, which on hardware keeps
//! messages from it, but emulators deliver an NMI even so, and without an interrupt table that is a triple fault, which
//! resets the machine just when a panic wants to be read. So it gets a table whose only gate, NMI's, leads to
//! another halt that never returns; as long as an NMI handler has not returned, no further NMI comes. The stack is shared
//! by all parked CPUs: what is pushed on it is never used.
//!
//! All of it is in the kernel, so that the trampoline can be unmapped; the page tables the CPU was started on must stay.

use core::arch::naked_asm;

use spin::Once;

/// The selector of the only code segment.
const CODE: u16 = 0x08;
/// IA32_APIC_BASE, and its bits for "on" and "x2APIC".
const APIC_BASE: u32 = 0x1B;
const APIC_ON: u32 = 0xC00;
/// NMI's vector.
const NMI: usize = 2;
/// A 64-bit interrupt gate, present, for privilege 0 (Intel SDM vol. 3A §6.14.1).
const GATE: u64 = 0x8E00;

/// What a parked CPU uses.
#[repr(C, align(16))]
struct Park {
    stack: [u64; 32],
    segments: [u64; 2],
    gates: [[u64; 2]; NMI + 1],
    segments_pointer: Pointer,
    gates_pointer: Pointer,
}

/// What `lgdt` and `lidt` read.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Filled in once; the CPU pushes on the stack, nobody reads that.
struct Shared(core::cell::UnsafeCell<Park>);

// SAFETY: it is written before its first use (`address` does it once), and then only by CPUs pushing on a stack that
// nobody reads.
unsafe impl Sync for Shared {}

static PARK: Shared = Shared(core::cell::UnsafeCell::new(Park {
    stack: [0; 32],
    // 64-bit code, accessed, so that nothing is written here.
    segments: [0, 0x0020_9B00_0000_0000],
    gates: [[0; 2]; NMI + 1],
    segments_pointer: Pointer { limit: 0, base: 0 },
    gates_pointer: Pointer { limit: 0, base: 0 },
}));

static READY: Once = Once::new();

/// The address to jump to, in long mode, with interrupts off, to stay for good.
pub(super) fn address() -> u64 {
    READY.call_once(|| {
        let park = PARK.0.get();
        let handler = halt as *const () as u64;
        // SAFETY: this runs once, before any CPU was told of the address.
        unsafe {
            (*park).gates[NMI] = [
                handler & 0xFFFF
                    | u64::from(CODE) << 16
                    | GATE << 32
                    | (handler >> 16 & 0xFFFF) << 48,
                handler >> 32,
            ];
            (*park).segments_pointer = Pointer {
                limit: size_of::<[u64; 2]>() as u16 - 1,
                base: &raw const (*park).segments as u64,
            };
            (*park).gates_pointer = Pointer {
                limit: size_of::<[[u64; 2]; NMI + 1]>() as u16 - 1,
                base: &raw const (*park).gates as u64,
            };
        }
    });
    enter as *const () as u64
}

/// Takes a CPU out of play. Entered by a jump in long mode, interrupts off, with any registers and no stack; never left.
#[unsafe(naked)]
extern "C" fn enter() -> ! {
    naked_asm!(
        "lea rdx, [rip + {park}]",
        "lea rsp, [rdx + {stack_end}]",
        "lgdt [rdx + {segments}]",
        "lidt [rdx + {gates}]",
        "push {code}",
        "lea rax, [rip + 2f]",
        "push rax",
        "retfq", // to the code segment that stays
        "2: mov ecx, {base}",
        "rdmsr",
        "and eax, {off}",
        "wrmsr",
        "jmp {halt}",
        park = sym PARK,
        stack_end = const core::mem::offset_of!(Park, segments),
        segments = const core::mem::offset_of!(Park, segments_pointer),
        gates = const core::mem::offset_of!(Park, gates_pointer),
        code = const CODE,
        base = const APIC_BASE,
        off = const !APIC_ON as i32,
        halt = sym halt,
    )
}

/// Halts for good. Entered by a jump, or as NMI's handler, which so never returns.
#[unsafe(naked)]
extern "C" fn halt() -> ! {
    naked_asm!("2: cli", "hlt", "jmp 2b")
}
