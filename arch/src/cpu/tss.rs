//! The task state segment of one CPU.
//!
//! In 64-bit mode it holds no task: it holds the stack for entries from user mode (RSP0), the seven stacks that vectors
//! can ask for by number (IST), and the map of I/O ports that user mode may use (Intel SDM vol. 3A §7.7, vol. 1 §19.5.2).
//!
//! The map has a bit for each of the 65,536 ports and one byte of ones behind it, because the CPU always reads two
//! bytes; both lie within the segment's limit. A process without ports gets `iomap_base` past the limit, so that nothing
//! is copied for it.
//!
//! There are two fixed parts before the one map, and the CPU's task register names either. Where user mode has page tables of its
//! own, an interrupt must not push onto the thread's stack, which those tables do not have, but onto the CPU's entry stack: RSP0 of
//! the first part, which never changes. The switch knows nothing of that and always writes RSP0 of the second, where nobody
//! but the kernel's own code reads it then.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use x86_64::VirtAddr;
use x86_64::structures::tss::TaskStateSegment;

use crate::ports::{Bits, Hardware, MAP_WORDS};

/// Bytes of the map proper.
const IO_BITMAP_BYTES: usize = 8 * MAP_WORDS;

/// The segment with its map.
#[repr(C, align(16))]
pub struct Tss {
    isolated: UnsafeCell<TaskStateSegment>,
    hardware: UnsafeCell<TaskStateSegment>,
    bitmap: UnsafeCell<[u64; MAP_WORDS]>,
    /// All ones; the CPU reads it for ports at the end of the map.
    end: u8,
}

/// Where RSP0 lies in a fixed part (Intel SDM vol. 3A §7.7).
pub(super) const RSP0_OFFSET: usize = 4;
const HARDWARE_BYTES: usize = size_of::<TaskStateSegment>();
/// Where the RSP0 lies in the segment that the switch writes: that of the second part.
pub(super) const STACK_TOP_OFFSET: usize = HARDWARE_BYTES + RSP0_OFFSET;
/// Where the map is, from each of the two fixed parts on.
const BITMAP_OFFSETS: [u16; 2] = [2 * HARDWARE_BYTES as u16, HARDWARE_BYTES as u16];

/// Offset of the segment's last byte, if it begins with the second fixed part.
const LIMIT: u32 = (HARDWARE_BYTES + IO_BITMAP_BYTES) as u32;
/// An offset past the limit, from each part: no port is allowed.
const NO_BITMAP: u16 = LIMIT as u16 + HARDWARE_BYTES as u16 + 1;

const _: () = {
    assert!(HARDWARE_BYTES == 104);
    assert!(core::mem::offset_of!(TaskStateSegment, privilege_stack_table) == RSP0_OFFSET);
    assert!(core::mem::offset_of!(Tss, isolated) == 0);
    assert!(core::mem::offset_of!(Tss, hardware) == HARDWARE_BYTES);
    assert!(core::mem::offset_of!(Tss, bitmap) == 2 * HARDWARE_BYTES);
    assert!(core::mem::offset_of!(Tss, end) == HARDWARE_BYTES + LIMIT as usize);
};

/// Which IST slot (1 to 7) a vector uses; each has its own, as a second event on one slot overwrites the first frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ist {
    /// #DF.
    DoubleFault = 1,
    /// NMI.
    Nmi = 2,
    /// #MC.
    MachineCheck = 3,
    /// #DB.
    Debug = 4,
}

impl Tss {
    /// A segment without stacks and without ports.
    pub const fn new() -> Tss {
        let mut hardware = TaskStateSegment::new();
        hardware.iomap_base = NO_BITMAP;
        let mut isolated = TaskStateSegment::new();
        isolated.iomap_base = NO_BITMAP;
        Tss {
            isolated: UnsafeCell::new(isolated),
            hardware: UnsafeCell::new(hardware),
            bitmap: UnsafeCell::new([u64::MAX; MAP_WORDS]),
            end: 0xFF,
        }
    }

    /// Where the segment begins that the task register shall name, and the offset of its last byte. `isolated`: whether user mode has
    /// page tables of its own.
    pub fn segment(&self, isolated: bool) -> (u64, u32) {
        if isolated {
            (self.isolated.get() as u64, LIMIT + HARDWARE_BYTES as u32)
        } else {
            (self.hardware.get() as u64, LIMIT)
        }
    }

    /// Both fixed parts.
    fn parts(&self) -> [*mut TaskStateSegment; 2] {
        [self.isolated.get(), self.hardware.get()]
    }

    /// Sets the CPU's entry stack.
    ///
    /// # Safety
    /// As for [`set_ist`](Self::set_ist).
    pub unsafe fn set_entry_stack(&self, top: u64) {
        // SAFETY: nobody uses the segment yet; the field is packed.
        unsafe {
            (&raw mut (*self.isolated.get()).privilege_stack_table[0])
                .write_unaligned(VirtAddr::new_unsafe(top));
        }
    }

    /// Sets the stack for entries from user mode.
    ///
    /// # Safety
    /// Only the CPU that owns the segment may call it, and `top` must be the top of the stack of the thread that it will run.
    #[inline]
    pub unsafe fn set_rsp0(&self, top: u64) {
        // SAFETY: the owning CPU alone writes; the field is packed, so it is written unaligned.
        unsafe {
            (&raw mut (*self.hardware.get()).privilege_stack_table[0])
                .write_unaligned(VirtAddr::new_unsafe(top));
        }
    }

    /// The stack for entries from user mode.
    pub fn rsp0(&self) -> u64 {
        // SAFETY: the owning CPU alone writes; the field is packed.
        unsafe {
            (&raw const (*self.hardware.get()).privilege_stack_table[0])
                .read_unaligned()
                .as_u64()
        }
    }

    /// Sets an IST stack, before the segment is loaded.
    ///
    /// # Safety
    /// `top` must be the top of a stack that nothing else uses.
    pub unsafe fn set_ist(&self, slot: Ist, top: u64) {
        // SAFETY: nobody uses the segment yet.
        unsafe {
            for part in self.parts() {
                (&raw mut (*part).interrupt_stack_table[slot as usize - 1])
                    .write_unaligned(VirtAddr::new_unsafe(top));
            }
        }
    }
}

impl Hardware for Tss {
    #[inline]
    unsafe fn forbid_all(&self) {
        // SAFETY: the owning CPU alone writes; the field is packed.
        unsafe {
            for part in self.parts() {
                (&raw mut (*part).iomap_base).write_unaligned(NO_BITMAP);
            }
        }
    }

    unsafe fn open(&self) {
        // SAFETY: as above.
        unsafe {
            for (part, offset) in self.parts().into_iter().zip(BITMAP_OFFSETS) {
                (&raw mut (*part).iomap_base).write_unaligned(offset);
            }
        }
    }

    unsafe fn copy(&self, bits: &Bits) {
        // SAFETY: the owning CPU alone writes; the CPU reads the map only for user mode's `in` and `out`, and none is running.
        let copy = unsafe { &mut *self.bitmap.get() };
        for (to, from) in copy.iter_mut().zip(bits) {
            *to = from.load(Ordering::Relaxed);
        }
    }
}
