//! The first instructions of the kernel.
//!
//! The loader's stack is in memory that will be reclaimed and is unmapped by the kernel's own tables, so the kernel changes to
//! a stack in its own image at once. The page below that stack is left out of the kernel's tables
//! ([`KernelImage`](crate::memory::kernel_space::KernelImage)): once those are in use, an overflow is a double fault and not the end of
//! whatever lies below.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::ops::Range;

/// Bytes of the boot stack. The boot sequence leaves it for the first CPU's idle stack, which has a guard page.
const STACK_BYTES: usize = 64 * 1024;

/// Bytes of the page below it.
const GUARD_BYTES: usize = 4096;

#[repr(C, align(4096))]
struct Stack {
    guard: UnsafeCell<[u8; GUARD_BYTES]>,
    stack: UnsafeCell<[u8; STACK_BYTES]>,
}

// SAFETY: it is used as a stack by the first CPU only.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack {
    guard: UnsafeCell::new([0; GUARD_BYTES]),
    stack: UnsafeCell::new([0; STACK_BYTES]),
};

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
        bytes = const size_of::<Stack>(),
        start = sym super::start::start,
    )
}

/// The boot stack's bounds.
pub(super) fn stack() -> Range<u64> {
    let start = STACK.stack.get() as u64;
    start..start + STACK_BYTES as u64
}

/// The bounds of the page below the boot stack, which is to be left unmapped.
pub(crate) fn stack_guard() -> Range<u64> {
    let start = STACK.guard.get() as u64;
    start..start + GUARD_BYTES as u64
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
