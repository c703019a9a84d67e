//! Exceptions, which here are mistakes of the loader's: each ends in a message instead of the silent reset that a PC makes
//! of a fault that nobody takes.
//!
//! One stub a vector, 16 bytes apart, notes which it was; the rest is a report. Nothing ever returns.

use crate::app::stand_still;
use crate::console;
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

/// Exceptions are the first 32 vectors (Intel SDM vol. 3A §6.3.1).
const VECTORS: usize = 32;
/// Bytes from one stub to the next.
const STUB: u64 = 16;
/// Vectors whose frame begins with an error code (Intel SDM vol. 3A §6.15, AMD APM vol. 2 §8.4).
const WITH_CODE: u32 = 1 << 8
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 17
    | 1 << 21
    | 1 << 29
    | 1 << 30;

// In: what the CPU pushed. The common part hands the vector (RDI) and the frame's address (RSI) on, with the stack aligned to
// 16 bytes; no register is kept, since nothing returns.
global_asm!(
    ".pushsection .text.boot_faults, \"ax\"",
    ".balign 16",
    "boot_faults:",
    ".set n, 0",
    ".rept {vectors}",
    "    .balign 16",
    "    movl $n, %edi",
    "    jmp boot_fault_common",
    "    .set n, n + 1",
    ".endr",
    "    .balign 16",
    "boot_fault_common:",
    "    cld",
    "    movq %rsp, %rsi",
    "    andq $-16, %rsp",
    "    xorl %ebp, %ebp",
    "    call {report}",
    "    ud2",
    ".popsection",
    vectors = const VECTORS,
    report = sym report,
    options(att_syntax)
);

unsafe extern "C" {
    static boot_faults: u8;
}

/// Interrupt gates of 16 bytes (Intel SDM vol. 3A §6.14.1).
#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; VECTORS]>);

// SAFETY: `init` writes it before anything can fault, on the one CPU there is; then only the CPU reads it.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; VECTORS]));

/// What LIDT reads.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Takes all exceptions from now on.
pub fn init() {
    let first = (&raw const boot_faults) as u64;
    let gate = |vector: usize| {
        let at = first + vector as u64 * STUB;
        // Present, interrupt gate, the code segment of `entry`.
        [
            at & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48,
            at >> 32,
        ]
    };
    let pointer = Pointer {
        limit: (VECTORS * 16 - 1) as u16,
        base: TABLE.0.get() as u64,
    };
    // SAFETY: the table is this function's until the CPU knows of it, and static; its gates lead to the stubs above, in the
    // segment that is in force.
    unsafe {
        *TABLE.0.get() = core::array::from_fn(gate);
        asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags));
    }
}

extern "C" fn report(vector: u64, frame: *const u64) -> ! {
    let has_code = WITH_CODE >> vector & 1 != 0;
    // SAFETY: the CPU has just pushed the frame, on the loader's stack: the error code if there is one, then RIP and more.
    let (code, rip) = unsafe {
        if has_code {
            (frame.read(), frame.add(1).read())
        } else {
            (0, frame.read())
        }
    };
    let address: u64;
    // SAFETY: reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) }
    console::emergency(format_args!(
        "switchyard boot: internal error: exception {vector} (code {code:#x}) at {rip:#x}, CR2 {address:#x}"
    ));
    stand_still()
}
