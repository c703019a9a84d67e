//! Address spaces against a plain model, page by page.

use abi::layout::{IPC_AREAS_START, MAP_START, USER_END, USER_START};
use abi::{Error, Protection, Rights};
use arch::addr::VirtAddr;
use arch::paging::{Access, PAGE_BYTES, PageTables, Translation};
use proptest::prelude::*;

use super::account::Account;
use super::object::MemoryObject;
use super::regions::access_of;
use super::space::{Fault, Mode, Space};
use super::{Progress, testing};
use crate::object::Ref;

const PAGES: u64 = 128;
/// Half of the pages lie below a border between tables of all levels but the highest.
const BASE: u64 = 0x10_0000_0000 - PAGES / 2 * PAGE_BYTES;

fn page(number: u64) -> u64 {
    BASE + number * PAGE_BYTES
}

fn translate(space: &Space, address: u64) -> Option<Translation> {
    // SAFETY: only looked at, by the one thread that uses the space.
    unsafe { PageTables::from_root(space.tlb().root()) }.translate(VirtAddr::new(address))
}

fn unmap(space: &Space, address: u64, bytes: u64) -> Result<(), Error> {
    while space.unmap(address, bytes)? == Progress::More {}
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map {
        at: u64,
        pages: u64,
        object: usize,
        offset: u64,
        protection: Protection,
        rights: Rights,
    },
    Unmap {
        at: u64,
        pages: u64,
    },
    Protect {
        at: u64,
        pages: u64,
        protection: Protection,
    },
    Touch {
        at: u64,
        access: Access,
    },
    /// One page by the short way, which may not be for it.
    MapPage {
        at: u64,
        object: usize,
        index: u64,
        protection: Protection,
        rights: Rights,
    },
    UnmapPage {
        at: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Page {
    object: usize,
    index: u64,
    access: Access,
    limit: Rights,
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        Just(Protection::READ),
        Just(Protection::READ_WRITE),
        Just(Protection::READ_EXECUTE)
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        Just(Access::Read),
        Just(Access::ReadWrite),
        Just(Access::ReadExecute)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let rights = prop_oneof![
        4 => Just(Rights::ALL),
        1 => Just(Rights::READ),
        1 => Just(Rights::READ | Rights::EXECUTE)
    ];
    let few_rights = prop_oneof![4 => Just(Rights::ALL), 1 => Just(Rights::READ)];
    prop_oneof![
        3 => (0..PAGES, 0usize..3, 0u64..70, protection(), few_rights).prop_map(
            |(at, object, index, protection, rights)| Step::MapPage { at, object, index, protection, rights }
        ),
        3 => (0..PAGES).prop_map(|at| Step::UnmapPage { at }),
        3 => (0..PAGES, 1u64..20, 0usize..3, 0u64..64, protection(), rights).prop_map(
            |(at, pages, object, offset, protection, rights)| Step::Map { at, pages, object, offset, protection, rights }
        ),
        1 => (0..PAGES, 1u64..40).prop_map(|(at, pages)| Step::Unmap { at, pages }),
        2 => (0..PAGES, 1u64..20, protection()).prop_map(|(at, pages, protection)| Step::Protect { at, pages, protection }),
        6 => (0..PAGES, access()).prop_map(|(at, access)| Step::Touch { at, access }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_space_agrees_with_a_model_and_gives_everything_back(steps in prop::collection::vec(step(), 1..150)) {
        testing::kernel_machine();
        let account = Account::create(10_000).unwrap();
        let objects: Vec<Ref<MemoryObject>> =
            (0..3).map(|_| MemoryObject::create(64 * PAGE_BYTES, Some(account.clone())).unwrap()).collect();
        let mut space = Space::new(Some(account.clone()), Mode::Long).unwrap();
        let mut model: Vec<Option<Page>> = vec![None; PAGES as usize + 64];
        for step in steps {
            match step {
                Step::Map { at, pages, object, offset, protection, rights } => {
                    let range = at as usize..(at + pages) as usize;
                    let expected = if offset + pages > 64 {
                        Err(Error::OutOfRange)
                    } else if !rights.contains(protection.needs()) {
                        Err(Error::NoRight)
                    } else if model[range.clone()].iter().any(Option::is_some) {
                        Err(Error::AlreadyMapped)
                    } else {
                        Ok(page(at))
                    };
                    let result = space.map(
                        &objects[object], rights, page(at), offset * PAGE_BYTES, pages * PAGE_BYTES, protection,
                    );
                    prop_assert_eq!(result, expected);
                    if expected.is_ok() {
                        for (place, index) in model[range].iter_mut().zip(offset..) {
                            *place = Some(Page { object, index, access: access_of(protection), limit: rights });
                        }
                    }
                }
                Step::Unmap { at, pages } => {
                    prop_assert_eq!(unmap(&space, page(at), pages * PAGE_BYTES), Ok(()));
                    model[at as usize..(at + pages) as usize].fill(None);
                }
                Step::Protect { at, pages, protection } => {
                    let range = &mut model[at as usize..(at + pages) as usize];
                    let refused = range.iter().find_map(|place| match place {
                        None => Some(Error::NotMapped),
                        Some(page) if !page.limit.contains(protection.needs()) => Some(Error::NoRight),
                        Some(_) => None,
                    });
                    let result = space.protect(page(at), pages * PAGE_BYTES, protection, &mut || {});
                    prop_assert_eq!(result, refused.map_or(Ok(()), Err));
                    if result.is_ok() {
                        range.iter_mut().flatten().for_each(|page| page.access = access_of(protection));
                    }
                }
                Step::MapPage { at, object, index, protection, rights } => {
                    let there = objects[object].frame_if_committed(index);
                    let allowed = rights.contains(protection.needs()) && model[at as usize].is_none();
                    if space.map_page(&objects[object], rights, page(at), index * PAGE_BYTES, protection) {
                        prop_assert!(allowed && matches!(there, Ok(Some(_))));
                        model[at as usize] =
                            Some(Page { object, index, access: access_of(protection), limit: rights });
                    }
                }
                Step::UnmapPage { at } => {
                    if space.unmap_page(page(at)) {
                        prop_assert!(model[at as usize].take().is_some());
                        prop_assert!(translate(&space, page(at)).is_none());
                    }
                }
                Step::Touch { at, access } => {
                    let allowed = model[at as usize].is_some_and(|page| page.access.allows(access));
                    let expected = if allowed { Fault::Resolved } else { Fault::NotMine };
                    prop_assert_eq!(space.handle_page_fault(page(at) + 0x123, access), expected);
                    if allowed {
                        let found = translate(&space, page(at)).unwrap();
                        prop_assert!(found.attributes.access.allows(access));
                    }
                }
            }
            for (number, place) in model.iter().enumerate() {
                // What is in the tables is never more than what is mapped.
                if let Some(found) = translate(&space, page(number as u64)) {
                    let page = place.expect("an unmapped page is in no table");
                    prop_assert_eq!(Some(found.physical), objects[page.object].frame_if_committed(page.index).unwrap());
                    prop_assert!(page.access.allows(found.attributes.access));
                }
            }
        }
        while !space.tear_down() {}
        drop(space);
        prop_assert_eq!(account.used(), objects.iter().map(|object| object.committed()).sum::<u64>());
        drop(objects);
        testing::settle(&account);
    }
}

#[test]
fn the_short_way_is_for_pages_beside_others_and_there_at_once() {
    testing::kernel_machine();
    let space = Space::new(None, Mode::Long).unwrap();
    let object = MemoryObject::create(4 * PAGE_BYTES, None).unwrap();
    object.write(0, b"here").unwrap();
    let all = Rights::ALL;
    let (read, write) = (Protection::READ, Protection::READ_WRITE);
    // Nothing is there beside which it could be.
    assert!(!space.map_page(&object, all, page(3), 0, write));
    space
        .map(&object, all, page(1), 0, PAGE_BYTES, read)
        .unwrap();
    assert_eq!(
        space.handle_page_fault(page(1), Access::Read),
        Fault::Resolved
    );
    assert!(space.map_page(&object, all, page(3), 0, write));
    let found = translate(&space, page(3)).unwrap();
    assert_eq!(
        (Some(found.physical), found.attributes.access),
        (object.frame_if_committed(0).unwrap(), Access::ReadWrite)
    );
    for (at, offset, rights, protection) in [
        (page(3), 0, all, read),
        (page(4) + 8, 0, all, read),
        (page(4), 8, all, read),
        (page(4), PAGE_BYTES, all, read),
        (page(4), 4 * PAGE_BYTES, all, read),
        (page(4), u64::MAX - 0xFFF, all, read),
        (page(4), 0, Rights::READ, write),
        (page(4), 0, Rights::READ, Protection::READ_EXECUTE),
        (0, 0, all, read),
        (IPC_AREAS_START, 0, all, read),
        (USER_END, 0, all, read),
        (1 << 47, 0, all, read),
        (u64::MAX - 0xFFF, 0, all, read),
    ] {
        assert!(
            !space.map_page(&object, rights, at, offset, protection),
            "{at:#x} {offset:#x}"
        );
    }
    assert_eq!(space.statistics().1, 2);
    for at in [page(2), page(3) + 8, page(4), 0, u64::MAX - 0xFFF] {
        assert!(!space.unmap_page(at), "{at:#x}");
    }
    assert!(space.unmap_page(page(3)));
    assert!(!space.unmap_page(page(3)));
    assert_eq!(translate(&space, page(3)), None);
    assert_eq!(
        space.handle_page_fault(page(3), Access::Read),
        Fault::NotMine
    );
    // The last one there goes the long way, which frees its table; those above stay.
    assert!(!space.unmap_page(page(1)));
    assert_eq!(space.statistics(), (4, 1));
    unmap(&space, page(1), PAGE_BYTES).unwrap();
    assert_eq!(space.statistics(), (3, 0));
}

#[test]
fn a_failure_for_want_of_memory_changes_nothing_and_leaks_nothing() {
    testing::kernel_machine();
    let mut complete = false;
    for limit in 0..50 {
        let account = Account::create(limit).unwrap();
        let object = MemoryObject::create(1 << 30, Some(account.clone())).unwrap();
        let Ok(space) = Space::new(Some(account.clone()), Mode::Long) else {
            assert_eq!(limit, 0);
            continue;
        };
        let mapped = space.map(&object, Rights::ALL, 0, 0, 1 << 30, Protection::READ_WRITE);
        let Ok(address) = mapped else {
            // There is nothing to note it in.
            assert_eq!(mapped, Err(Error::QuotaExceeded));
            drop((space, object));
            testing::settle(&account);
            continue;
        };
        let mut failed = None;
        for touched in [0, 1 << 21, 1 << 29, 0xFFF, 3 << 20] {
            match space.handle_page_fault(address + touched, Access::ReadWrite) {
                Fault::Resolved => assert!(translate(&space, address + touched).is_some()),
                Fault::Failed(error) => {
                    assert!(translate(&space, address + touched).is_none());
                    failed = Some(error);
                }
                Fault::NotMine | Fault::Unsupplied => panic!("the page is mapped"),
            }
        }
        let area = space.map_ipc_area(7);
        if let Err(error) = area {
            failed = Some(error);
            let area = IPC_AREAS_START + 7 * 0x4000;
            assert!(
                translate(&space, area).is_none() && translate(&space, area + PAGE_BYTES).is_none()
            );
        }
        assert!(failed.is_none_or(|error| error == Error::QuotaExceeded));
        complete |= failed.is_none();
        assert!(account.used() <= limit);
        // The area is left to the end of the space.
        drop(space);
        assert_eq!(account.used(), object.committed());
        drop(object);
        testing::settle(&account);
    }
    assert!(complete, "the largest quota is enough");
}

#[test]
fn arguments_without_meaning_are_named() {
    testing::kernel_machine();
    let object = MemoryObject::create(5 * PAGE_BYTES - 7, None).unwrap();
    assert_eq!(object.bytes(), 5 * PAGE_BYTES);
    let space = Space::new(None, Mode::Long).unwrap();
    let map = |address, offset, bytes| {
        space.map(
            &object,
            Rights::ALL,
            address,
            offset,
            bytes,
            Protection::READ,
        )
    };
    let page = PAGE_BYTES;
    for (address, offset, bytes, error) in [
        (0, 0, 0, Error::BadArgument),
        (0, 0, 1, Error::BadArgument),
        (0, 1, page, Error::BadArgument),
        (BASE + 8, 0, page, Error::BadArgument),
        (0, page, 5 * page, Error::OutOfRange),
        (0, u64::MAX - 0xFFF, page, Error::OutOfRange),
        (0, 0, u64::MAX - 0xFFF, Error::OutOfRange),
        (page, 0, page, Error::OutOfRange),
        (USER_START - page, 0, 2 * page, Error::OutOfRange),
        (IPC_AREAS_START - page, 0, 2 * page, Error::OutOfRange),
        (IPC_AREAS_START, 0, page, Error::OutOfRange),
        (USER_END, 0, page, Error::OutOfRange),
        (1 << 47, 0, page, Error::OutOfRange),
        (0xFFFF_8000_0000_0000, 0, page, Error::OutOfRange),
        (u64::MAX - 0xFFF, 0, page, Error::OutOfRange),
    ] {
        assert_eq!(
            map(address, offset, bytes),
            Err(error),
            "{address:#x} {offset:#x} {bytes:#x}"
        );
        if address != 0 && bytes != 0 {
            assert_eq!(space.unmap(address, bytes), Err(error));
            assert_eq!(
                space.protect(address, bytes, Protection::READ, &mut || {}),
                Err(error)
            );
        }
    }
    for address in [
        0,
        USER_START - 1,
        IPC_AREAS_START,
        USER_END,
        1 << 47,
        u64::MAX,
    ] {
        assert_eq!(
            space.handle_page_fault(address, Access::Read),
            Fault::NotMine
        );
    }
    assert_eq!(space.statistics(), (1, 0));
}

#[test]
fn chosen_addresses_are_free_and_apart() {
    testing::kernel_machine();
    let object = MemoryObject::create(1 << 22, None).unwrap();
    let space = Space::new(None, Mode::Long).unwrap();
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for bytes in [PAGE_BYTES, 1 << 22, 3 * PAGE_BYTES, 1 << 21, PAGE_BYTES] {
        let address = space
            .map(&object, Rights::ALL, 0, 0, bytes, Protection::READ)
            .unwrap();
        assert!(address >= MAP_START);
        assert!(
            taken
                .iter()
                .all(|&(start, end)| address + bytes < start || end < address)
        );
        taken.push((address, address + bytes));
    }
}

#[test]
fn a_page_that_was_unmapped_and_mapped_again_is_the_new_one() {
    testing::kernel_machine();
    let first = MemoryObject::create(PAGE_BYTES, None).unwrap();
    let second = MemoryObject::create(PAGE_BYTES, None).unwrap();
    let space = Space::new(None, Mode::Long).unwrap();
    for object in [&first, &second] {
        object.write(0, b"here").unwrap();
        space
            .map(
                object,
                Rights::ALL,
                BASE,
                0,
                PAGE_BYTES,
                Protection::READ_WRITE,
            )
            .unwrap();
        assert_eq!(space.handle_page_fault(BASE, Access::Read), Fault::Resolved);
        assert_eq!(
            translate(&space, BASE).map(|t| t.physical),
            object.frame_if_committed(0).unwrap()
        );
        unmap(&space, BASE, PAGE_BYTES).unwrap();
        assert_eq!(translate(&space, BASE), None);
        assert_eq!(space.handle_page_fault(BASE, Access::Read), Fault::NotMine);
    }
}
