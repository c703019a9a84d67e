//! A machine for host tests: an arena that stands for physical memory, and the frame allocator over it.

use std::sync::{Mutex, MutexGuard, OnceLock};

use super::PAGE_BYTES;
use super::account::Account;
use super::frames;
use super::map::{MemoryKind, MemoryRange};
use crate::object::quiescent;

/// The physical address at which the arena begins: 64 MiB below 4 GiB, so that there is memory on both sides.
const ARENA_START: u64 = (4 << 30) - (64 << 20);
const ARENA_BYTES: u64 = 448 << 20;
/// RAM of the test machine's allocator, in bytes of physical address.
pub(crate) const RAM_START: u64 = ARENA_START;
const RAM_BYTES: u64 = 384 << 20;
/// RAM for allocators that tests make for themselves.
const WINDOW_START: u64 = ARENA_START + RAM_BYTES;

/// Lets this process have a machine: direct map and frame allocator work afterwards. May be called any number of times.
pub(crate) fn machine() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // Aligned by hand: the host zeroes what it is asked for with an alignment byte by byte, and so brings every page of it into memory.
        let bytes = (ARENA_BYTES + PAGE_BYTES) as usize;
        let layout = std::alloc::Layout::from_size_align(bytes, 16).unwrap();
        // SAFETY: the layout is not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) } as u64;
        assert!(base != 0, "no memory for the arena");
        let base = base.next_multiple_of(PAGE_BYTES);
        // SAFETY: the arena lives for ever, and nothing was made with another offset.
        unsafe { arch::memory::set_direct_map(base.wrapping_sub(ARENA_START)) };
        let usable = |start: u64, bytes: u64| MemoryRange {
            start: start / PAGE_BYTES,
            frames: bytes / PAGE_BYTES,
            kind: MemoryKind::Usable,
        };
        // The low pages are not backed: they may be handed out, but not touched.
        let map = [usable(0, 0x9000), usable(RAM_START, RAM_BYTES)];
        frames::init(map.into_iter()).unwrap();
    });
}

/// Memory for one test's own allocator.
pub(crate) struct Window {
    /// Number of its first frame.
    pub(crate) start: u64,
    _held: MutexGuard<'static, ()>,
}

/// Memory that the machine's allocator does not know, for one test at a time.
pub(crate) fn exclusive_window() -> Window {
    static WINDOW: Mutex<()> = Mutex::new(());
    machine();
    let held = WINDOW
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Window {
        start: WINDOW_START / PAGE_BYTES,
        _held: held,
    }
}

/// As [`machine`], with the kernel's tables built (and not in use).
pub(crate) fn kernel_machine() {
    use super::kernel_space::{self, KernelImage};
    use arch::addr::PhysAddr;

    static ONCE: OnceLock<()> = OnceLock::new();
    machine();
    ONCE.get_or_init(|| {
        let start = 0xFFFF_FFFF_8000_0000;
        let image = KernelImage {
            physical: PhysAddr::new(0x20_0000),
            start,
            text: start + 0x1000..start + 0x5000,
            entries: start + 0x1000..start + 0x2000,
            rodata: start + 0x5000..start + 0x7000,
            data: start + 0x7000..start + 0xA000,
            guard: start + 0x8000..start + 0x9000,
        };
        let range = |start: u64, frames, kind| MemoryRange {
            start: start / PAGE_BYTES,
            frames,
            kind,
        };
        let map = [
            range(0, 0x9F, MemoryKind::Usable),
            range(0x10_0000, 0x300, MemoryKind::Usable),
            range(0x40_0000, 0x100, MemoryKind::Kernel),
            range(0x50_0000, 0x10, MemoryKind::Reserved),
            range(RAM_START, RAM_BYTES / PAGE_BYTES, MemoryKind::Usable),
            range(1 << 40, 1 << 18, MemoryKind::Reclaimable),
        ];
        kernel_space::build(map.into_iter(), &image, true, true).unwrap();
    });
}

/// Destroys what was let go until nothing is charged to `account`.
///
/// # Panics
/// If something stays charged: a leak.
pub(crate) fn settle(account: &Account) {
    for _ in 0..100_000 {
        if account.used() == 0 {
            return;
        }
        quiescent::reclaim(64, &|_| {}, &mut |_| {});
        std::thread::yield_now();
    }
    panic!("{} frames stay charged", account.used());
}
