//! The block that the first CPU has until its real one can be allocated.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use super::block::CpuBlock;
use super::gdt::Gdt;
use super::idt::Idt;
use super::tss::Ist;

/// The first CPU's block until its real one can be allocated: enough for logging, locks and a panic.
struct BootBlock(UnsafeCell<CpuBlock>);

// SAFETY: it is used by the first CPU only, before any other runs.
unsafe impl Sync for BootBlock {}

static BOOT: BootBlock = BootBlock(UnsafeCell::new(CpuBlock::empty(0)));

/// Where a double fault of the early boot is reported: the boot stack may be what failed.
#[repr(C, align(16))]
struct EarlyStack(UnsafeCell<[u8; 8192]>);

// SAFETY: as for the block.
unsafe impl Sync for EarlyStack {}

static EARLY_STACK: EarlyStack = EarlyStack(UnsafeCell::new([0; 8192]));
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Points GS of the first CPU at a static block, so that [`block`](super::block()) works from the kernel's first lines on. Its IDT catches
/// exceptions on the loader's stack.
///
/// # Safety
/// To be called once, first of all, on the first CPU with interrupts off, on a stack that is kernel memory.
pub unsafe fn install_boot_block() {
    // SAFETY: nobody else refers to the boot block yet.
    let block = unsafe { &*BOOT.0.get() };
    block.self_pointer.set(block);
    // SAFETY: as above; block and stack are static, and the stack's top has room for the block's address. The other IST slots are
    // empty, so the IDT does not name them.
    unsafe {
        block.give_ist_stack(
            Ist::DoubleFault,
            EARLY_STACK.0.get() as u64 + size_of::<EarlyStack>() as u64,
        );
        *block.gdt.get() = Gdt::new(0, block.tss.segment(false));
        Idt::fill_early(block.idt.get());
        block.load();
    }
    INSTALLED.store(true, Ordering::Release);
}

/// Whether GS points at a block on the first CPU.
pub fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}
