//! The first instructions of the kernel.
//!
//! The loader's stack is in memory that will be reclaimed and is unmapped by the kernel's own tables, so the kernel changes to
//! a stack in its own image at once.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::ops::Range;

/// Bytes of the boot stack. The boot sequence leaves it for the first CPU's idle stack, which has a guard page.
const STACK_BYTES: usize = 64 * 1024;

#[repr(C, align(4096))]
struct Stack(UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: it is used as a stack by the first CPU only.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_BYTES]));

/// Where the loader jumps to: 64-bit mode, paging on, interrupts off, all as the Limine protocol's "x86-64 machine state at
/// entry" has it. RSP is the loader's and is given up; no register carries anything.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "cld",
        "lea rsp, [rip + {stack} + {bytes}]",
        "xor ebp, ebp",         // the end of every backtrace
        "call {start}",         // RSP is 16-byte aligned here
        "ud2",
        stack = sym STACK,
        bytes = const STACK_BYTES,
        start = sym super::start::start,
    )
}

/// The boot stack's bounds.
pub(super) fn stack() -> Range<u64> {
    let start = STACK.0.get() as u64;
    start..start + STACK_BYTES as u64
}

/// Goes on in `next` on another stack, for good.
///
/// In: RDI new RSP (16-byte aligned), RSI the function. RBP is cleared, so that backtraces end here.
///
/// # Safety
/// `top` is the top of a mapped stack that nothing else uses; the caller's frame is lost.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn continue_on(top: u64, next: extern "C" fn() -> !) -> ! {
    naked_asm!("mov rsp, rdi", "xor ebp, ebp", "call rsi", "ud2")
}
