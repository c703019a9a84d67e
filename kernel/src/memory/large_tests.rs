//! Memory in a row, and large pages.

use abi::{Error, MemoryFlags, Protection, Rights};
use arch::addr::VirtAddr;
use arch::memory::phys_to_virt;
use arch::paging::{Access, Cache, PAGE_BYTES, PageSize, PageTables, Translation};
use proptest::prelude::*;

use super::account::Account;
use super::object::MemoryObject;
use super::regions::access_of;
use super::space::{Fault, Mode, Space};
use super::{Progress, frames, testing};

const LARGE: u64 = PageSize::Size2M.bytes();
const BASE: u64 = 0x30_0000_0000;

fn translate(space: &Space, address: u64) -> Option<Translation> {
    // SAFETY: only looked at, by the one thread that uses the space.
    unsafe { PageTables::from_root(space.tlb().root()) }.translate(VirtAddr::new(address))
}

fn touch(space: &Space, address: u64, access: Access) -> Fault {
    space.handle_user_fault(address, access, &mut || ())
}

fn unmap(space: &Space, address: u64, bytes: u64) {
    while space.unmap(address, bytes).unwrap() == Progress::More {}
}

#[test]
fn memory_in_a_row_lies_where_it_was_asked_for_and_is_zero() {
    testing::kernel_machine();
    let account = Account::create(3000).unwrap();
    let create = |bytes, alignment, limit| {
        MemoryObject::create_contiguous(bytes, alignment, limit, Some(account.clone()), &mut || ())
    };
    for (bytes, alignment, limit) in [
        (1, 0, 0),
        (3 * PAGE_BYTES, 1 << 14, 1 << 32),
        (1 << 20, 1 << 20, 0),
        (4 << 20, 4 << 20, 0),
        (5 * PAGE_BYTES, 0, testing::RAM_START + (32 << 20)),
    ] {
        let (object, start) = create(bytes, alignment, limit).unwrap();
        let pages = bytes.div_ceil(PAGE_BYTES);
        assert_eq!(
            (object.bytes(), account.used()),
            (pages * PAGE_BYTES, pages)
        );
        assert!(start.is_aligned(alignment.max(PAGE_BYTES)));
        assert!(limit == 0 || start.as_u64() + object.bytes() <= limit);
        assert_eq!(object.physical_at(7), Ok((start + 7, object.bytes() - 7)));
        assert_eq!(object.physical_at(object.bytes()), Err(Error::OutOfRange));
        // SAFETY: the object's memory, in the arena.
        let contents =
            unsafe { std::slice::from_raw_parts_mut(phys_to_virt(start), object.bytes() as usize) };
        assert!(contents.iter().all(|&byte| byte == 0));
        contents.fill(0xA5);
        let mut byte = [0];
        object.read(object.bytes() - 1, &mut byte).unwrap();
        assert_eq!(byte, [0xA5]);
        assert_eq!(object.clone_for(None).map(drop), Err(Error::NotSupported));
        drop(object);
        testing::settle(&account);
    }
    for (bytes, alignment, limit, error) in [
        (0, 0, 0, Error::BadArgument),
        (PAGE_BYTES, 1, 0, Error::BadArgument),
        (PAGE_BYTES, 3 << 12, 0, Error::BadArgument),
        ((4 << 20) + 1, 0, 0, Error::OutOfRange),
        (u64::MAX, 0, 0, Error::OutOfRange),
        (PAGE_BYTES, 8 << 20, 0, Error::OutOfRange),
        (PAGE_BYTES, 0, PAGE_BYTES, Error::NoMemory),
        (PAGE_BYTES, 0, 1, Error::NoMemory),
    ] {
        assert_eq!(
            create(bytes, alignment, limit).map(drop),
            Err(error),
            "{bytes:#x} {alignment:#x} {limit:#x}"
        );
    }
    let poor = Account::create(7).unwrap();
    let refused = MemoryObject::create_contiguous(1 << 15, 0, 0, Some(poor.clone()), &mut || ());
    assert_eq!(refused.map(drop), Err(Error::QuotaExceeded));
    assert_eq!(account.used() + poor.used(), 0);
}

#[test]
fn what_lies_in_a_row_is_mapped_by_large_pages_where_it_fits() {
    testing::kernel_machine();
    let space = Space::new(None, Mode::Long).unwrap();
    let device = MemoryObject::create_device(0xA000_0000, 8 * LARGE, Cache::Uncached).unwrap();
    let map = |at, offset, bytes| {
        space.map(
            &device,
            Rights::ALL,
            at,
            offset,
            bytes,
            Protection::READ_WRITE,
        )
    };
    // Aligned; shifted by a page; too short.
    map(BASE, LARGE, 2 * LARGE).unwrap();
    map(BASE + 8 * LARGE, PAGE_BYTES, 2 * LARGE).unwrap();
    map(BASE + 16 * LARGE, 0, LARGE - PAGE_BYTES).unwrap();
    for (place, size) in [
        (BASE + LARGE + 0x5123, PageSize::Size2M),
        (BASE + 8 * LARGE + 0x5123, PageSize::Size4K),
        (BASE + 16 * LARGE + 0x5123, PageSize::Size4K),
    ] {
        assert_eq!(touch(&space, place, Access::Read), Fault::Resolved);
        let found = translate(&space, place).unwrap();
        assert_eq!(
            (found.size, found.attributes.cache),
            (size, Cache::Uncached)
        );
        let offset = match place - BASE {
            near if near < 2 * LARGE => LARGE + near,
            near if near < 10 * LARGE => PAGE_BYTES + near - 8 * LARGE,
            near => near - 16 * LARGE,
        };
        assert_eq!(found.physical.as_u64(), 0xA000_0000 + offset);
    }
}

#[test]
fn a_large_page_breaks_where_a_part_is_changed() {
    testing::kernel_machine();
    let account = Account::create(5000).unwrap();
    let object =
        MemoryObject::create_with(2 * LARGE, MemoryFlags::LARGE_PAGES, Some(account.clone()))
            .unwrap();
    let space = Space::create(Some(account.clone()), Mode::Long).unwrap();
    space
        .map(
            &object,
            Rights::ALL,
            BASE,
            0,
            2 * LARGE,
            Protection::READ_WRITE,
        )
        .unwrap();
    let mut pauses = 0;
    assert_eq!(
        space.handle_user_fault(BASE + 5, Access::ReadWrite, &mut || pauses += 1),
        Fault::Resolved
    );
    assert!(pauses >= 30, "2 MiB were zeroed with {pauses} pauses");
    let size_at = |at| translate(&space, at).map(|found| found.size);
    assert_eq!(size_at(BASE + LARGE - 1), Some(PageSize::Size2M));
    assert_eq!(size_at(BASE + LARGE), None);
    assert_eq!(object.committed(), 512 + 1);
    object.write(LARGE / 2, b"here").unwrap();
    // Stricter in a part: the whole comes back by small pages, the same frames.
    let frame = object.frame_if_committed(256).unwrap();
    space
        .protect(BASE, PAGE_BYTES, Protection::READ, &mut || {})
        .unwrap();
    assert_eq!(size_at(BASE + LARGE / 2), None);
    assert_eq!(touch(&space, BASE, Access::ReadWrite), Fault::NotMine);
    assert_eq!(
        touch(&space, BASE + LARGE / 2, Access::ReadWrite),
        Fault::Resolved
    );
    let found = translate(&space, BASE + LARGE / 2).unwrap();
    assert_eq!(
        (found.size, Some(found.physical)),
        (PageSize::Size4K, frame)
    );
    assert_eq!(touch(&space, BASE, Access::Read), Fault::Resolved);
    assert_eq!(
        translate(&space, BASE).unwrap().attributes.access,
        Access::Read
    );
    // Looser in a part, and a part taken away.
    let second = BASE + LARGE;
    space
        .protect(second, LARGE, Protection::READ, &mut || {})
        .unwrap();
    assert_eq!(touch(&space, second, Access::Read), Fault::Resolved);
    assert_eq!(size_at(second), Some(PageSize::Size2M));
    space
        .protect(second, PAGE_BYTES, Protection::READ_WRITE, &mut || {})
        .unwrap();
    assert_eq!(touch(&space, second, Access::ReadWrite), Fault::Resolved);
    assert_eq!(
        touch(&space, second + PAGE_BYTES, Access::ReadWrite),
        Fault::NotMine
    );
    assert_eq!(
        touch(&space, second + PAGE_BYTES, Access::Read),
        Fault::Resolved
    );
    let found = translate(&space, second + PAGE_BYTES).unwrap();
    assert_eq!(found.attributes.access, Access::Read);
    unmap(&space, second + PAGE_BYTES, PAGE_BYTES);
    assert_eq!(size_at(second + PAGE_BYTES), None);
    drop((space, object));
    testing::settle(&account);
}

#[test]
fn without_two_mebibytes_there_are_small_pages() {
    testing::kernel_machine();
    let account = Account::create(300).unwrap();
    let create = || {
        MemoryObject::create_with(LARGE, MemoryFlags::LARGE_PAGES, Some(account.clone())).unwrap()
    };
    let space = Space::new(None, Mode::Long).unwrap();
    let object = create();
    let at = space
        .map(&object, Rights::ALL, 0, 0, LARGE, Protection::READ_WRITE)
        .unwrap();
    assert_eq!(touch(&space, at, Access::ReadWrite), Fault::Resolved);
    assert_eq!(translate(&space, at).unwrap().size, PageSize::Size4K);
    assert!(account.used() < 5);
    // A fault of the kernel's has no time for more.
    let rich = MemoryObject::create_with(LARGE, MemoryFlags::LARGE_PAGES, None).unwrap();
    let at = space
        .map(&rich, Rights::ALL, 0, 0, LARGE, Protection::READ_WRITE)
        .unwrap();
    assert_eq!(
        space.handle_page_fault(at, Access::ReadWrite),
        Fault::Resolved
    );
    assert_eq!(translate(&space, at).unwrap().size, PageSize::Size4K);
    drop((space, object));
    testing::settle(&account);
}

/// Pieces that the tests below move: a quarter of a large page.
const PIECE: u64 = LARGE / 4;
const PIECES: u64 = 14;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn large_pages_agree_with_a_model_and_give_everything_back(
        steps in prop::collection::vec((0u8..8, 0..PIECES, 1..PIECES, 0u8..3, any::<u64>()), 1..60)
    ) {
        testing::kernel_machine();
        let account = Account::create(50_000).unwrap();
        // Its last large page is not whole.
        let object = MemoryObject::create_with(
            PIECES * PIECE, MemoryFlags::LARGE_PAGES, Some(account.clone())
        ).unwrap();
        let space = Space::create(Some(account.clone()), Mode::Long).unwrap();
        let at = |piece: u64| BASE + piece * PIECE;
        let mut model: Vec<Option<Access>> = vec![None; PIECES as usize];
        let mut words = vec![0u64; (PIECES * PIECE / PAGE_BYTES) as usize];
        for (what, piece, pieces, protection, pick) in steps {
            let pieces = pieces.min(PIECES - piece);
            let protection = [Protection::READ, Protection::READ_WRITE, Protection::READ_EXECUTE][protection as usize];
            let range = piece as usize..(piece + pieces) as usize;
            match what {
                0 | 1 => {
                    let free = model[range.clone()].iter().all(Option::is_none);
                    let mapped = space.map(
                        &object, Rights::ALL, at(piece), piece * PIECE, pieces * PIECE, protection
                    );
                    prop_assert_eq!(mapped.is_ok(), free);
                    if free {
                        model[range].fill(Some(access_of(protection)));
                    }
                }
                2 => {
                    unmap(&space, at(piece), pieces * PIECE);
                    model[range].fill(None);
                }
                3 => {
                    let all = model[range.clone()].iter().all(Option::is_some);
                    prop_assert_eq!(space.protect(at(piece), pieces * PIECE, protection, &mut || {}).is_ok(), all);
                    if all {
                        model[range].fill(Some(access_of(protection)));
                    }
                }
                4 => {
                    let index = piece * PIECE / PAGE_BYTES + pick % (PIECE / PAGE_BYTES);
                    object.write(index * PAGE_BYTES, &pick.to_ne_bytes()).unwrap();
                    words[index as usize] = pick;
                }
                _ => {
                    let index = piece * PIECE / PAGE_BYTES + pick % (PIECE / PAGE_BYTES);
                    let address = BASE + index * PAGE_BYTES;
                    let access = access_of(protection);
                    let allowed = model[piece as usize].is_some_and(|have| have.allows(access));
                    let fault = touch(&space, address, access);
                    prop_assert_eq!(fault, if allowed { Fault::Resolved } else { Fault::NotMine });
                    if allowed {
                        let found = translate(&space, address).unwrap();
                        prop_assert!(found.attributes.access.allows(access));
                        if access == Access::ReadWrite {
                            // SAFETY: a page of the object's, in the arena.
                            unsafe { phys_to_virt(found.physical).cast::<u64>().write(pick) };
                            words[index as usize] = pick;
                        }
                    }
                }
            }
            for index in (0..words.len() as u64).step_by(61) {
                let allowed = model[(index * PAGE_BYTES / PIECE) as usize];
                if let Some(found) = translate(&space, BASE + index * PAGE_BYTES) {
                    prop_assert!(allowed.is_some_and(|have| have.allows(found.attributes.access)));
                    prop_assert_eq!(Some(found.physical), object.frame_if_committed(index).unwrap());
                }
                let mut bytes = [0; 8];
                object.read(index * PAGE_BYTES, &mut bytes).unwrap();
                prop_assert_eq!(u64::from_ne_bytes(bytes), words[index as usize]);
            }
        }
        drop((space, object));
        testing::settle(&account);
    }
}

#[test]
fn large_blocks_come_back_whole() {
    testing::kernel_machine();
    if std::env::var_os("NEXTEST").is_none() {
        // Other tests in this process use frames meanwhile.
        return;
    }
    let account = Account::create(5000).unwrap();
    let held = || frames::statistics().held[frames::FrameKind::User as usize];
    let before = held();
    for _ in 0..3 {
        for pages in [512, 513, 1024, 1100] {
            let object = MemoryObject::create_with(
                pages * PAGE_BYTES,
                MemoryFlags::LARGE_PAGES,
                Some(account.clone()),
            )
            .unwrap();
            let space = Space::create(None, Mode::Long).unwrap();
            let bytes = object.bytes();
            space
                .map(&object, Rights::ALL, BASE, 0, bytes, Protection::READ_WRITE)
                .unwrap();
            for page in (0..pages).step_by(100) {
                let at = BASE + page * PAGE_BYTES;
                assert_eq!(touch(&space, at, Access::ReadWrite), Fault::Resolved);
            }
            assert!(held() >= before + 512);
            drop((object, space));
            testing::settle(&account);
        }
    }
    assert_eq!(held(), before, "frames were lost");
}
