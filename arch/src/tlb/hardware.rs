//! The protocol on the CPUs of this machine.
//!
//! A CPU finds its own slot through GS, without asking anybody for its index; the others' blocks are in a table that only
//! shoot-downs read. Nothing on the way of [`activate`] is initialised at run time, so nothing is checked there.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

use spin::Once;

use super::names::{KERNEL_ID, Name};
use super::protocol::{CpuSlot, Machine, Space, Tlb};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};
use crate::cpu::{self, CpuBlock, Msr, UserTables, features};
use crate::mitigations::decisions;
use crate::paging::{self, KEEP, invalidate_page, load_cr3, reload_cr3};
use crate::platform::apic;

/// The CPUs that take part, by index; null: not yet.
struct Others {
    blocks: &'static [AtomicPtr<CpuBlock>],
    /// The vector whose handler calls [`serve`].
    vector: u8,
}

static OTHERS: Once<Others> = Once::new();

/// How many CPUs take part.
static JOINED: AtomicU32 = AtomicU32::new(0);

/// This machine.
struct Hardware;

static TLB: Tlb<Hardware> = Tlb::new(Hardware);

/// In a user name: which of the two of a space it is. Kernel names have the bit clear.
const USER_NAME: u64 = 1 << 11;

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

    #[inline]
    fn own_slot(&self) -> Option<&CpuSlot> {
        Some(cpu::block().tlb())
    }

    fn cpus(&self) -> u32 {
        OTHERS.get().map_or(0, |others| others.blocks.len() as u32)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn publish(&self, word: &AtomicU64, value: u64) {
        // `xchg`, which is a fence and takes less than a store and `mfence`.
        word.swap(value, Ordering::SeqCst);
    }

    fn interrupt(&self, cpu: CpuIndex) {
        if let (Some(others), Some(block)) = (OTHERS.get(), Hardware::block(cpu)) {
            apic::send_ipi(block.apic_id(), others.vector);
        }
    }

    #[inline(always)]
    fn is_particular(&self) -> bool {
        cpu::block().is_careful()
    }

    fn has_names(&self) -> bool {
        features().pcid
    }

    #[inline(always)]
    unsafe fn load_root(&self, root: PhysAddr) {
        // SAFETY: the caller's promise.
        unsafe { load_cr3(root.as_u64()) };
    }

    unsafe fn load_named(&self, space: &Space, name: Name, keep: bool) {
        if decisions().barrier
            && space.id() != KERNEL_ID
            && cpu::block().change_predictions(space.id())
        {
            // SAFETY: the decision is for CPUs that have the register; bit 0 is IBPB (Intel SDM vol. 4, MSR 49H).
            unsafe { Msr::PRED_CMD.write(1) };
        }
        let (stay, user_name) = if self.has_names() {
            (KEEP, USER_NAME)
        } else {
            (0, 0)
        };
        let kernel = space.root().as_u64() | u64::from(name.0);
        let kept = |keep: bool| if keep { stay } else { 0 };
        if decisions().isolation {
            let user = paging::user_root(space.root()).as_u64() | u64::from(name.0) | user_name;
            cpu::block().set_tables(&UserTables {
                kernel: kernel | stay,
                user: user | kept(keep),
                user_kept: user | stay,
            });
        }
        // SAFETY: the caller's promise; bit 63 is set only where there are names.
        unsafe { load_cr3(kernel | kept(keep)) };
    }

    fn take_due_flush(&self) -> bool {
        cpu::block().take_due_flush()
    }

    fn flush(&self) {
        reload_cr3();
        cpu::block().want_user_flush();
    }

    fn flush_page(&self, address: VirtAddr) {
        invalidate_page(address);
        if decisions().isolation && features().pcid {
            if features().invpcid {
                let name = cpu::block().user_name();
                // SAFETY: the CPU has the instruction.
                unsafe { paging::invalidate_named_page(name, address) };
            } else {
                cpu::block().want_user_flush();
            }
        }
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

/// Lets this CPU, whose block is `block`, take part, and loads the kernel's own space `home`.
///
/// # Safety
/// `block` is this CPU's and in force; the CPU has used no user tables. `home` holds the kernel half.
pub unsafe fn join(block: &'static CpuBlock, home: &'static Space) {
    if let Some(others) = OTHERS.get()
        && let Some(place) = others.blocks.get(block.index().0 as usize)
    {
        place.store(core::ptr::from_ref(block).cast_mut(), Ordering::Release);
    }
    JOINED.fetch_add(1, Ordering::SeqCst);
    block.set_careful(features().pcid || decisions().isolation || decisions().barrier);
    // SAFETY: the caller's promise.
    unsafe { TLB.join(block.tlb(), home) };
}

/// Makes `space` that of this CPU, if it is not yet.
///
/// # Safety
/// As for [`Tlb::activate`].
#[inline(always)]
pub unsafe fn activate(space: &Space) {
    // SAFETY: the caller's promise.
    unsafe { activate_on(cpu::block(), space) };
}

/// [`activate`] for who has this CPU's block at hand.
///
/// # Safety
/// As for [`Tlb::activate`]; `block` is this CPU's.
#[inline(always)]
pub unsafe fn activate_on(block: &CpuBlock, space: &Space) {
    // SAFETY: the caller's promise.
    unsafe { TLB.activate(block.tlb(), space) };
}

/// Whether `space` is that of this CPU, whose block is `block`.
#[inline(always)]
pub(crate) fn is_active(block: &CpuBlock, space: &Space) -> bool {
    Tlb::<Hardware>::is_active(block.tlb(), space)
}

/// [`activate_on`] for a space that is not active, on a CPU whose block is not careful.
///
/// # Safety
/// As for [`activate_on`].
#[inline(always)]
pub(crate) unsafe fn activate_simply(block: &CpuBlock, space: &Space) {
    // SAFETY: the caller's promise.
    unsafe { TLB.activate_simply(block.tlb(), space) };
}

/// Serves what other CPUs asked of this one: called by the interrupt's handler and by everyone who spins. Returns whether
/// there was anything.
#[inline]
pub fn serve() -> bool {
    TLB.serve(cpu::block().tlb())
}

/// Makes all CPUs forget `pages` pages from `start` of `space`.
pub fn shoot_down(space: &Space, start: VirtAddr, pages: u64) {
    TLB.shoot_down(space, start, pages);
}

/// [`shoot_down`] of one page of the space that this CPU has loaded.
///
/// Where no other CPU takes part, and there are no names, to forget the page here is all: the generation is for names.
#[inline(always)]
pub fn shoot_down_page(space: &Space, at: VirtAddr) {
    // It serialises (Intel SDM vol. 3A §9.3), so that a CPU which is not yet counted below sees the changed tables.
    invalidate_page(at);
    if JOINED.load(Ordering::Relaxed) != 1 || cpu::block().is_careful() {
        shoot_down(space, at, 1);
    }
}

/// Makes all CPUs leave `space`, which no thread needs any more.
pub fn evict(space: &Space) {
    TLB.evict(space);
}

/// Forgets one page on this CPU alone: after an entry was made more permissive, or found to be so already.
pub fn forget_here(address: VirtAddr) {
    TLB.machine().flush_page(address);
}
