//! The heap: `talc` on memory objects.
//!
//! It grows upwards in one stretch of the address space that is kept for it, so that what is added joins what was there.
//! Each growth is a memory object of its own, whose handle is closed at once since the mapping keeps the pages. The
//! lock sleeps (see [`crate::sync`]), so the heap can be used by any thread at any priority.

use core::alloc::Layout;
use core::ptr::NonNull;

use abi::{Call, Handle, Protection};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;
use talc::sync::TalcLock;

use crate::sync::RawMutex;
use crate::{memory, sys};

/// Where the heap begins: below `abi::layout::MAP_START`, where the kernel never puts anything by itself.
const HEAP_START: u64 = 0x0000_0800_0000_0000;
/// Where it must end.
const HEAP_END: u64 = 0x0000_0C00_0000_0000;
/// Least growth in bytes.
const GROWTH: u64 = 256 * 1024;

#[global_allocator]
static HEAP: TalcLock<RawMutex, Pages, DefaultBinning> = TalcLock::new(Pages {
    end: HEAP_START,
    claimed: None,
});

/// Where the heap's memory comes from.
#[derive(Debug)]
struct Pages {
    /// One past the last mapped byte.
    end: u64,
    /// The end of talc's heap, once there is one.
    claimed: Option<NonNull<u8>>,
}

// SAFETY: `claimed` points into the heap, which is the process's and guarded by the lock around it.
unsafe impl Send for Pages {}

/// Maps `bytes` of new memory at `address`.
fn map_new(address: u64, bytes: u64) -> crate::Result<()> {
    let protection = u64::from(Protection::READ_WRITE.0);
    let arguments = [Handle::NONE.0, address, bytes, protection, 0, 0];
    // SAFETY: a mapping only adds memory where none was.
    unsafe { sys::call(Call::MemoryMapNew, arguments) }.map(|_| ())
}

// SAFETY: `acquire` allocates nothing, directly or indirectly.
unsafe impl Source for Pages {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Talc's own overhead, and the alignment, come on top of what was asked for.
        let wanted = (layout.size() as u64)
            .checked_add(layout.align() as u64)
            .and_then(|sum| sum.checked_add(4096));
        let wanted = wanted.and_then(memory::page_up).ok_or(())?;
        // A heap that is large already grows in larger steps.
        let held = talc.source.end - HEAP_START;
        let start = talc.source.end;
        // With little memory left, take at least what is needed.
        let bytes = [wanted.max(GROWTH).max((held / 4) & !0xFFF), wanted]
            .into_iter()
            .find(|bytes| {
                start.checked_add(*bytes).is_some_and(|end| end <= HEAP_END)
                    && map_new(start, *bytes).is_ok()
            })
            .ok_or(())?;
        talc.source.end = start + bytes;
        let end = (start + bytes) as usize as *mut u8;
        talc.source.claimed = match talc.source.claimed {
            // SAFETY: the memory from the old end to the new one was just mapped, for the heap alone.
            Some(old) => Some(unsafe { talc.extend(old, end) }),
            // SAFETY: as above.
            None => unsafe { talc.claim(start as usize as *mut u8, bytes as usize) },
        };
        talc.source.claimed.map(|_| ()).ok_or(())
    }
}
