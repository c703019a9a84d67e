//! Page tables over an arena that stands for physical memory.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::addr::{PhysAddr, VirtAddr};

const ARENA_BYTES: u64 = 256 << 20;

/// One arena for all tests of the process; each test takes its own frames from it.
struct Arena {
    left: u64,
    used: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(0x10_0000);

fn arena(frames: u64) -> Arena {
    static BASE: OnceLock<u64> = OnceLock::new();
    BASE.get_or_init(|| {
        let layout = std::alloc::Layout::from_size_align(ARENA_BYTES as usize, 4096).unwrap();
        // SAFETY: the layout is not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) } as u64;
        assert!(base != 0);
        // SAFETY: the arena lives for ever, and nothing was made with another offset.
        unsafe { crate::memory::set_direct_map(base) };
        base
    });
    Arena {
        left: frames,
        used: 0,
    }
}

impl FrameSource for Arena {
    fn allocate_table(&mut self) -> Option<PhysAddr> {
        self.left = self.left.checked_sub(1)?;
        self.used += 1;
        let frame = NEXT.fetch_add(PAGE_BYTES, Ordering::Relaxed);
        assert!(frame < ARENA_BYTES, "the arena is too small for the tests");
        Some(PhysAddr::new(frame))
    }
}

fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

fn map(
    tables: &mut PageTables,
    address: u64,
    frame: u64,
    size: PageSize,
    arena: &mut Arena,
) -> Result<(), MapError> {
    // SAFETY: no CPU uses these tables.
    unsafe {
        tables.map(
            at(address),
            PhysAddr::new(frame),
            size,
            Attributes::user(Access::ReadWrite),
            arena,
        )
    }
}

#[test]
fn a_mapped_page_translates_with_its_offset_and_attributes() {
    let mut arena = arena(300);
    let mut tables = PageTables::new(&mut arena).unwrap();
    for access in [Access::Read, Access::ReadWrite, Access::ReadExecute] {
        for cache in [
            Cache::WriteBack,
            Cache::WriteThrough,
            Cache::Uncached,
            Cache::WriteCombining,
        ] {
            for owner in [Owner::User, Owner::Kernel, Owner::KernelLocal] {
                for size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
                    let attributes = Attributes {
                        access,
                        cache,
                        owner,
                    };
                    let (page, frame) = (at(0x40_0000_0000), PhysAddr::new(0xFFC0_0000_0000));
                    // SAFETY: no CPU uses these tables.
                    unsafe { tables.map(page, frame, size, attributes, &mut arena) }.unwrap();
                    let expected = Translation {
                        physical: frame + 0x123,
                        size,
                        attributes,
                    };
                    assert_eq!(tables.translate(page + 0x123), Some(expected));
                    // SAFETY: as above.
                    let removed = unsafe {
                        tables.unlink(page.as_u64(), page.as_u64() + (1 << 30), &mut |_, _| {})
                    };
                    assert!(removed);
                    assert_eq!(tables.translate(page), None);
                }
            }
        }
    }
}

#[test]
fn bits_are_those_of_the_manual() {
    let writable = Attributes::kernel(Access::ReadWrite);
    assert_eq!(
        writable.leaf_bits(PageSize::Size4K),
        1 << 63 | 1 << 8 | 0b11
    );
    let combining = Attributes::user(Access::Read).cached(Cache::WriteCombining);
    assert_eq!(
        combining.leaf_bits(PageSize::Size4K),
        1 << 63 | 1 << 7 | 1 << 3 | 0b101
    );
    assert_eq!(
        combining.leaf_bits(PageSize::Size2M),
        1 << 63 | 1 << 12 | 1 << 7 | 1 << 3 | 0b101
    );
    assert_eq!(
        Attributes::user(Access::ReadExecute).leaf_bits(PageSize::Size4K),
        0b101
    );
    assert_eq!(PAT_VALUE, 0x0007_0105_0007_0406);
}

#[test]
fn a_second_mapping_is_refused_at_every_size() {
    let mut arena = arena(16);
    let mut tables = PageTables::new(&mut arena).unwrap();
    map(&mut tables, 0x20_0000, 0x1000, PageSize::Size4K, &mut arena).unwrap();
    for size in [PageSize::Size4K, PageSize::Size2M] {
        assert_eq!(
            map(&mut tables, 0x20_0000, 0x20_0000, size, &mut arena),
            Err(MapError::AlreadyMapped)
        );
    }
    map(
        &mut tables,
        0x40_0000,
        0x40_0000,
        PageSize::Size2M,
        &mut arena,
    )
    .unwrap();
    assert_eq!(
        map(&mut tables, 0x40_1000, 0x1000, PageSize::Size4K, &mut arena),
        Err(MapError::AlreadyMapped)
    );
    // SAFETY: no CPU uses these tables.
    let refused = unsafe { tables.unmap(at(0x40_1000), PageSize::Size4K) };
    assert_eq!(refused, Err(MapError::OtherSize));
}

#[test]
fn unaligned_addresses_and_absent_pages_are_named() {
    let mut arena = arena(8);
    let mut tables = PageTables::new(&mut arena).unwrap();
    assert_eq!(
        map(&mut tables, 0x1800, 0x1000, PageSize::Size4K, &mut arena),
        Err(MapError::Unaligned)
    );
    assert_eq!(
        map(&mut tables, 0x20_0000, 0x1000, PageSize::Size2M, &mut arena),
        Err(MapError::Unaligned)
    );
    // SAFETY: no CPU uses these tables.
    unsafe {
        assert_eq!(
            tables.unmap(at(0x1000), PageSize::Size4K),
            Err(MapError::NotMapped)
        );
        assert_eq!(
            tables.protect(at(0x1000), Attributes::user(Access::Read)),
            Err(MapError::NotMapped)
        );
    }
}

#[test]
fn too_few_frames_for_tables_map_nothing() {
    for frames in 1..4 {
        let mut arena = arena(frames);
        let mut tables = PageTables::new(&mut arena).unwrap();
        assert_eq!(
            map(&mut tables, 0x1000, 0x1000, PageSize::Size4K, &mut arena),
            Err(MapError::NoMemory)
        );
        assert_eq!(tables.translate(at(0x1000)), None);
    }
}

#[test]
fn the_kernel_half_is_one_for_all_trees() {
    let mut arena = arena(400);
    let mut kernel = PageTables::new(&mut arena).unwrap();
    kernel.fill_kernel_half(&mut arena).unwrap();
    let user = PageTables::with_kernel_half_of(&kernel, &mut arena).unwrap();
    let address = 0xFFFF_D000_1234_5000;
    map(&mut kernel, address, 0x5000, PageSize::Size4K, &mut arena).unwrap();
    assert_eq!(
        user.translate(at(address + 5)).unwrap().physical.as_u64(),
        0x5005
    );
    assert_eq!(user.translate(at(0x5000)), None);
}

#[test]
fn unlinking_a_range_takes_whole_tables_and_spares_the_rest() {
    let mut arena = arena(64);
    let mut tables = PageTables::new(&mut arena).unwrap();
    let pages = [
        0x1F_F000,
        0x20_0000,
        0x3F_F000,
        0x40_0000,
        0x4000_0000,
        0x80_0000_0000,
    ];
    for page in pages {
        map(&mut tables, page, page, PageSize::Size4K, &mut arena).unwrap();
    }
    let mut taken = Vec::new();
    // SAFETY: no CPU uses these tables.
    assert!(unsafe { tables.unlink(0x20_0000, 0x40_0000, &mut |_, level| taken.push(level)) });
    assert_eq!(taken, [1]);
    let left: Vec<u64> = pages
        .into_iter()
        .filter(|&page| tables.translate(at(page)).is_some())
        .collect();
    assert_eq!(left, [0x1F_F000, 0x40_0000, 0x4000_0000, 0x80_0000_0000]);
    taken.clear();
    // SAFETY: as above.
    unsafe { tables.unlink_user_half(&mut |_, level| taken.push(level)) };
    assert_eq!(taken, [3, 3]);
    // SAFETY: as above.
    assert!(!unsafe { tables.unlink(0, 1 << 47, &mut |_, _| {}) });
}

#[test]
fn two_roots_share_the_user_half_and_only_user_mode_may_execute_it() {
    let mut arena = arena(700);
    let mut kernel = PageTables::new(&mut arena).unwrap();
    kernel.fill_kernel_half(&mut arena).unwrap();
    let mut entry = PageTables::new(&mut arena).unwrap();
    let entries = 0xFFFF_FFFF_8000_0000;
    map(&mut entry, entries, 0x7000, PageSize::Size4K, &mut arena).unwrap();
    // A pair of frames, aligned to its size.
    let root = loop {
        let root = arena.allocate_table().unwrap();
        if root.is_aligned(2 * PAGE_BYTES) && arena.allocate_table().unwrap() == user_root(root) {
            break root;
        }
    };
    // SAFETY: both frames are zeroed and the test's.
    let mut tables = unsafe { PageTables::from_roots(root) };
    tables.share_kernel_half(&kernel);
    tables.share_entry_half(&entry);
    // SAFETY: as above; it is only looked at.
    let user = unsafe { PageTables::from_root(user_root(root)) };
    let at_both = |address: u64| {
        // SAFETY: as above.
        let kernels = unsafe { PageTables::from_root(root) };
        (
            kernels.translate(at(address)).map(|t| t.physical.as_u64()),
            user.translate(at(address)).map(|t| t.physical.as_u64()),
        )
    };
    let other = 0xFFFF_D000_1234_5000;
    map(&mut kernel, other, 0x5000, PageSize::Size4K, &mut arena).unwrap();
    assert_eq!(at_both(other), (Some(0x5000), None));
    assert_eq!(at_both(entries), (None, Some(0x7000)));
    let place = 0x80_0000_1000;
    map(&mut tables, place, 0x9000, PageSize::Size4K, &mut arena).unwrap();
    assert_eq!(at_both(place), (Some(0x9000), Some(0x9000)));
    let word = |root: PhysAddr, index: u64| {
        // SAFETY: a table of the test's, in the arena.
        unsafe {
            crate::memory::phys_to_virt(root + 8 * index)
                .cast::<u64>()
                .read()
        }
    };
    assert_eq!(word(root, 1), word(user_root(root), 1) | 1 << 63);
    assert_eq!(word(user_root(root), 1) >> 63, 0);
    // SAFETY: no CPU uses these tables.
    unsafe {
        assert!(tables.unlink(0x80_0000_0000, 0x100_0000_0000, &mut |_, _| {}));
    }
    assert_eq!(at_both(place), (None, None));
    map(&mut tables, 0x1000, 0x9000, PageSize::Size4K, &mut arena).unwrap();
    // SAFETY: as above.
    unsafe { tables.unlink_user_half(&mut |_, _| {}) };
    assert_eq!((word(root, 0), word(user_root(root), 0)), (0, 0));
    assert_eq!(at_both(entries), (None, Some(0x7000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pages around the edges of tables of all levels, against a plain map of pages.
    #[test]
    fn mapping_and_unlinking_agree_with_a_plain_map(
        steps in prop::collection::vec((0u8..6, 0u64..24, 0u64..24), 1..120)
    ) {
        // 24 page numbers that straddle a 2 MiB, a 1 GiB and a 512 GiB border.
        let page_at = |n: u64| match n / 8 {
            0 => 0x20_0000 - 0x4000 + n % 8 * 0x1000,
            1 => 0x4000_0000 - 0x4000 + n % 8 * 0x1000,
            _ => 0x80_0000_0000 - 0x4000 + n % 8 * 0x1000,
        };
        let mut arena = arena(4000);
        let mut tables = PageTables::new(&mut arena).unwrap();
        let mut model = BTreeMap::new();
        for (step, (what, a, b)) in steps.into_iter().enumerate() {
            let page = page_at(a);
            let frame = (step as u64 + 1) * 0x1000;
            match what {
                0 | 1 => {
                    let result = map(&mut tables, page, frame, PageSize::Size4K, &mut arena);
                    let expected = if model.contains_key(&page) { Err(MapError::AlreadyMapped) } else { Ok(()) };
                    prop_assert_eq!(result, expected);
                    model.entry(page).or_insert(frame);
                }
                4 => {
                    let attributes = Attributes::user(Access::ReadWrite);
                    // SAFETY: no CPU uses these tables.
                    if unsafe { tables.map_simply(at(page), PhysAddr::new(frame), attributes) } {
                        prop_assert_eq!(model.insert(page, frame), None);
                    }
                }
                5 => {
                    // SAFETY: as above.
                    let there = unsafe { tables.unmap_simply(at(page)) };
                    prop_assert_eq!(there, model.remove(&page).is_some());
                }
                2 => {
                    // SAFETY: no CPU uses these tables.
                    let result = unsafe { tables.unmap(at(page), PageSize::Size4K) };
                    let expected = model.remove(&page).map(PhysAddr::new).ok_or(MapError::NotMapped);
                    prop_assert_eq!(result, expected);
                }
                _ => {
                    let (start, end) = (page.min(page_at(b)), page.max(page_at(b)) + 0x1000);
                    // SAFETY: as above.
                    let changed = unsafe { tables.unlink(start, end, &mut |_, _| {}) };
                    let before = model.len();
                    model.retain(|&page, _| page < start || page >= end);
                    // Empty tables may go as well.
                    prop_assert!(changed || model.len() == before);
                }
            }
            for n in 0..24 {
                let found = tables.translate(at(page_at(n))).map(|t| t.physical.as_u64());
                prop_assert_eq!(found, model.get(&page_at(n)).copied());
            }
        }
    }
}
