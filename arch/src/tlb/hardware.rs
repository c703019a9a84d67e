//! The protocol on the CPUs of this machine.
//!
//! A CPU finds its own slot through GS, without asking anybody for its index; the others' blocks are in a table that only
//! shoot-downs read. Nothing on the way of [`activate`] is initialised at run time, so nothing is checked there.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

use spin::Once;

use super::protocol::{CpuSlot, Machine, Tlb};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};
use crate::cpu::{self, CpuBlock};
use crate::paging::{flush_all_but_global, invalidate_page, load_root};
use crate::platform::apic;

/// The CPUs that take part, by index; null: not yet.
struct Others {
    blocks: &'static [AtomicPtr<CpuBlock>],
    /// The vector whose handler calls [`serve`].
    vector: u8,
}

static OTHERS: Once<Others> = Once::new();

/// This machine.
struct Hardware;

static TLB: Tlb<Hardware> = Tlb::new(Hardware);

impl Hardware {
    fn block(cpu: CpuIndex) -> Option<&'static CpuBlock> {
        let block = OTHERS
            .get()?
            .blocks
            .get(cpu.0 as usize)?
            .load(Ordering::Acquire);
        // SAFETY: only blocks that live for ever are put into the table.
        unsafe { block.as_ref() }
    }
}

impl Machine for Hardware {
    type Word = AtomicU64;

    fn this_cpu(&self) -> CpuIndex {
        cpu::current_index()
    }

    fn slot(&self, cpu: CpuIndex) -> Option<&CpuSlot> {
        Hardware::block(cpu).map(CpuBlock::tlb)
    }

    fn cpus(&self) -> u32 {
        OTHERS.get().map_or(0, |others| others.blocks.len() as u32)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn interrupt(&self, cpu: CpuIndex) {
        if let (Some(others), Some(block)) = (OTHERS.get(), Hardware::block(cpu)) {
            apic::send_ipi(block.apic_id(), others.vector);
        }
    }

    #[inline(always)]
    unsafe fn load_root(&self, root: PhysAddr) {
        // SAFETY: the caller's promise.
        unsafe { load_root(root) };
    }

    fn flush(&self) {
        flush_all_but_global();
    }

    fn flush_page(&self, address: VirtAddr) {
        invalidate_page(address);
    }

    fn pause(&self) {
        core::hint::spin_loop();
    }
}

/// Prepares shoot-downs, once, before a second CPU starts: room for the blocks of all CPUs that may ever run, all null, and the
/// vector on which the kernel calls [`serve`].
pub fn init(blocks: &'static [AtomicPtr<CpuBlock>], vector: u8) {
    OTHERS.call_once(|| Others { blocks, vector });
}

/// Lets this CPU, whose block is `block`, take part, and loads the kernel's tables `home`.
///
/// # Safety
/// `block` is this CPU's and in force; the CPU has used no user tables. `home` holds the kernel half and lives for ever.
pub unsafe fn join(block: &'static CpuBlock, home: PhysAddr) {
    if let Some(others) = OTHERS.get()
        && let Some(place) = others.blocks.get(block.index().0 as usize)
    {
        place.store(core::ptr::from_ref(block).cast_mut(), Ordering::Release);
    }
    // SAFETY: the caller's promise.
    unsafe { TLB.join(block.tlb(), home) };
}

/// Makes `root` the tables of this CPU, if they are not yet.
///
/// # Safety
/// As for [`Tlb::activate`].
#[inline(always)]
pub unsafe fn activate(root: PhysAddr) {
    // SAFETY: the caller's promise.
    unsafe { activate_on(cpu::block(), root) };
}

/// [`activate`] for who has this CPU's block at hand.
///
/// # Safety
/// As for [`Tlb::activate`]; `block` is this CPU's.
#[inline(always)]
pub unsafe fn activate_on(block: &CpuBlock, root: PhysAddr) {
    // SAFETY: the caller's promise.
    unsafe { TLB.activate(block.tlb(), root) };
}

/// Serves what other CPUs asked of this one: called by the interrupt's handler and by everyone who spins. Returns whether
/// there was anything.
#[inline]
pub fn serve() -> bool {
    TLB.serve(cpu::block().tlb())
}

/// Makes all CPUs forget `pages` pages from `start` of the tables `root`.
pub fn shoot_down(root: PhysAddr, start: VirtAddr, pages: u64) {
    TLB.shoot_down(root, start, pages);
}

/// Makes all CPUs leave the tables `root`, which no thread needs any more.
pub fn evict(root: PhysAddr) {
    TLB.evict(root);
}

/// Forgets one page on this CPU alone: after an entry was made more permissive, or found to be so already.
pub fn forget_here(address: VirtAddr) {
    invalidate_page(address);
}
