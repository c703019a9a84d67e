//! Areas for the floating-point state of threads.
//!
//! A thread gets one at its first FPU instruction and keeps it to its end, so threads that never use the FPU take none. All areas
//! of a machine have one size, which CPUID says at boot: from 512 bytes to a few KiB, more than a frame on some CPUs. They are
//! cut out of blocks of frames and kept in a list; as with objects' slots, an area stays an area for ever.
//!
//! A state may hold keys. So an area is zeroed when it is given back, and a free one is all zero but for its link.

use core::ptr::{self, NonNull};

use arch::fpu::AREA_ALIGNMENT;
use arch::memory::phys_to_virt;

use super::PAGE_BYTES;
use super::frames::{self, FrameKind};
use crate::sync::{Mutex, level};

/// A free area begins with the address of the next.
type Link = *mut u8;

/// Free areas, all of one size.
struct Pool {
    free: Link,
    /// Bytes of an area; 0 before the first was asked for.
    bytes: usize,
    /// Frames that all areas lie in.
    frames: u64,
}

// SAFETY: free areas belong to nobody; the lock hands them on.
unsafe impl Send for Pool {}

static POOL: Mutex<{ level::SLAB }, Pool> = Mutex::new(Pool::new());

/// An area of `bytes` bytes, all zero, aligned as the FPU wants it. Every call must ask for the same size.
///
/// None if there is no memory.
pub fn allocate(bytes: usize) -> Option<NonNull<u8>> {
    POOL.lock().take(bytes)
}

/// Takes an area back.
///
/// # Safety
/// It came from [`allocate`], and nobody uses it any more.
pub unsafe fn free(area: NonNull<u8>) {
    // SAFETY: the caller's promise.
    unsafe { POOL.lock().give(area) };
}

/// Frames that areas lie in, used and free ones.
pub fn frames() -> u64 {
    POOL.lock().frames
}

/// The order of the block of frames from which areas are cut: the smallest that holds one, or one more if that wastes less than
/// half as much of each frame.
fn block_orders(bytes: usize) -> [u8; 2] {
    let block = |order: u8| (PAGE_BYTES as usize) << order;
    let mut least = 0;
    while block(least) < bytes {
        least += 1;
    }
    let waste = |order| block(order) % bytes;
    if waste(least + 1) < waste(least) {
        [least + 1, least]
    } else {
        [least, least]
    }
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            free: ptr::null_mut(),
            bytes: 0,
            frames: 0,
        }
    }

    fn take(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        debug_assert!(bytes.is_multiple_of(AREA_ALIGNMENT) && bytes >= size_of::<Link>());
        debug_assert!(self.bytes == 0 || self.bytes == bytes);
        self.bytes = bytes;
        if self.free.is_null() {
            self.grow()?;
        }
        let area = NonNull::new(self.free)?;
        // SAFETY: a free area begins with its link; without it, it is all zero.
        unsafe {
            self.free = area.cast::<Link>().read();
            area.cast::<Link>().write(ptr::null_mut());
        }
        Some(area)
    }

    /// # Safety
    /// The area is of this pool, and nobody uses it any more.
    unsafe fn give(&mut self, area: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe {
            area.write_bytes(0, self.bytes);
            area.cast::<Link>().write(self.free);
        }
        self.free = area.as_ptr();
    }

    fn grow(&mut self) -> Option<()> {
        let (order, block) = block_orders(self.bytes)
            .into_iter()
            .find_map(|order| Some((order, frames::allocate_order(order, FrameKind::Kernel)?)))?;
        let first = phys_to_virt(block);
        for index in 0..((PAGE_BYTES as usize) << order) / self.bytes {
            // SAFETY: the block is ours and has room for that many areas.
            unsafe { self.give(NonNull::new(first.add(index * self.bytes))?) };
        }
        self.frames += 1 << order;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing;

    /// # Safety
    /// The area is the caller's.
    unsafe fn bytes_of<'a>(area: NonNull<u8>, bytes: usize) -> &'a mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(area.as_ptr(), bytes) }
    }

    #[test]
    fn areas_of_every_size_are_aligned_disjoint_and_zero() {
        testing::machine();
        // FXSAVE, AVX, AVX-512 in both formats, and with AMX's tiles.
        for bytes in [512, 832, 2432, 2688, 4096, 4160, 11008] {
            let mut pool = Pool::new();
            let areas: Vec<_> = (0..9).map(|_| pool.take(bytes).unwrap()).collect();
            for (index, area) in areas.iter().enumerate() {
                assert!((area.as_ptr() as usize).is_multiple_of(AREA_ALIGNMENT));
                // SAFETY: just allocated.
                let contents = unsafe { bytes_of(*area, bytes) };
                assert!(contents.iter().all(|&byte| byte == 0));
                contents.fill(index as u8 + 1);
            }
            for (index, area) in areas.iter().enumerate() {
                // SAFETY: as above.
                let contents = unsafe { bytes_of(*area, bytes) };
                assert!(
                    contents.iter().all(|&byte| byte == index as u8 + 1),
                    "areas of {bytes} bytes overlap"
                );
            }
        }
    }

    #[test]
    fn nothing_of_a_former_state_is_left_in_an_area() {
        testing::machine();
        let mut pool = Pool::new();
        let first = pool.take(832).unwrap();
        // SAFETY: the area is ours, and given back once.
        unsafe {
            bytes_of(first, 832).fill(0xA5);
            pool.give(first);
        }
        // The last that came back is the next that goes out.
        let again = pool.take(832).unwrap();
        assert_eq!(first, again);
        // SAFETY: just allocated.
        let contents = unsafe { bytes_of(again, 832) };
        assert!(contents.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn blocks_waste_little() {
        assert_eq!(block_orders(512), [0, 0]);
        // Four in a frame leave 768 bytes, nine in two frames 704.
        assert_eq!(block_orders(832), [1, 0]);
        assert_eq!(block_orders(2688), [1, 0]);
        // One in two frames, three in four.
        assert_eq!(block_orders(4160), [2, 1]);
        assert_eq!(block_orders(11008), [2, 2]);
    }
}
