//! Frames that idle CPUs have zeroed in advance.
//!
//! Memory that programs and page tables get must be zero, and 4 KiB of zeros cost more than all else about a page fault. So a
//! CPU with nothing to do fills this pool, and whoever wants a zeroed frame looks here first. The queue is bounded and
//! without a lock: when it is full the idle CPU stops, when it is empty the frame is zeroed on the spot.
//!
//! Frames in the pool count as free to everybody who asks: they are handed out when nothing else is left.

use arch::addr::PhysAddr;
use crossbeam_queue::ArrayQueue;
use spin::Once;

use super::frames::{self, FrameKind};

/// Frames that the pool holds at most: 1 MiB.
const CAPACITY: usize = 256;
/// The pool is not filled from the machine's last frames.
const KEPT_FREE: u64 = 4 * CAPACITY as u64;

static POOL: Once<ArrayQueue<PhysAddr>> = Once::new();

/// Makes the pool, while the boot heap is open.
pub fn init() {
    POOL.call_once(|| ArrayQueue::new(CAPACITY));
}

/// Zeroes one frame for the pool. False if the pool is full, or memory is short.
pub fn fill_one() -> bool {
    let Some(pool) = POOL.get() else { return false };
    if pool.is_full() || frames::statistics().free < KEPT_FREE {
        return false;
    }
    let Some(frame) = frames::allocate(FrameKind::Zeroed) else {
        return false;
    };
    frames::zero(frame);
    match pool.push(frame) {
        Ok(()) => true,
        // Another CPU was faster.
        Err(frame) => {
            frames::free_frame(frame);
            false
        }
    }
}

/// A zeroed frame from the pool; it still counts as the pool's.
pub(super) fn take() -> Option<PhysAddr> {
    POOL.get()?.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing;

    #[test]
    fn frames_from_the_pool_are_zero_and_change_their_kind() {
        testing::machine();
        init();
        while fill_one() {}
        let before = frames::statistics();
        let frame = frames::allocate_zeroed(FrameKind::User).unwrap();
        // SAFETY: the frame is ours, in the arena.
        let bytes = unsafe { std::slice::from_raw_parts(arch::memory::phys_to_virt(frame), 4096) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        let after = frames::statistics();
        assert!(after.held[FrameKind::User as usize] > 0);
        assert_eq!(before.total, after.total);
        frames::free_frame(frame);
    }
}
