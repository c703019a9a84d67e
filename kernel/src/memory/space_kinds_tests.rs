//! Address spaces with things that are out of the ordinary: IPC areas, devices, objects without end, thousands of mappings, 32 bits.

use abi::layout::{IPC_AREAS_START, MAP_START, MAP_START_32, USER_END, USER_START};
use abi::{Error, Protection, Rights};
use arch::addr::VirtAddr;
use arch::paging::{Access, Cache, PAGE_BYTES, PageTables, Translation};

use super::account::Account;
use super::object::MemoryObject;
use super::space::{Fault, Mode, Part, Space, max_ipc_areas};
use super::{Progress, testing};
use crate::object::Ref;

const BASE: u64 = 0x10_0000_0000;

fn translate(space: &Space, address: u64) -> Option<Translation> {
    // SAFETY: only looked at, by the one thread that uses the space.
    unsafe { PageTables::from_root(space.tlb().root()) }.translate(VirtAddr::new(address))
}

fn unmap(space: &Space, address: u64, bytes: u64) -> Result<(), Error> {
    while space.unmap(address, bytes)? == Progress::More {}
    Ok(())
}

#[test]
fn ipc_areas_are_zeroed_apart_and_closed_to_others() {
    testing::kernel_machine();
    let account = Account::create(100).unwrap();
    let space = Space::new(Some(account.clone()), Mode::Long).unwrap();
    let areas =
        [0, 1, max_ipc_areas(Mode::Long) - 1].map(|index| space.map_ipc_area(index).unwrap());
    for area in areas {
        assert!(area.address >= IPC_AREAS_START && area.address + 2 * PAGE_BYTES <= USER_END);
        for (number, frame) in area.frames.into_iter().enumerate() {
            let found = translate(&space, area.address + number as u64 * PAGE_BYTES).unwrap();
            assert_eq!(
                (found.physical, found.attributes.access),
                (frame, Access::ReadWrite)
            );
            // SAFETY: the frame belongs to the area, and nobody writes it.
            let bytes =
                unsafe { std::slice::from_raw_parts(arch::memory::phys_to_virt(frame), 4096) };
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
        assert_eq!(translate(&space, area.address + 2 * PAGE_BYTES), None);
        assert_eq!(
            space.unmap(area.address, PAGE_BYTES),
            Err(Error::OutOfRange)
        );
    }
    assert_eq!(space.map_ipc_area(1), Err(Error::AlreadyMapped));
    assert_eq!(
        space.map_ipc_area(max_ipc_areas(Mode::Long)),
        Err(Error::OutOfRange)
    );
    // SAFETY: the frames are not used any more.
    unsafe {
        assert_eq!(space.unmap_ipc_area(1), Ok(()));
        assert_eq!(space.unmap_ipc_area(1), Err(Error::NotMapped));
    }
    assert_eq!(translate(&space, areas[1].address), None);
    drop(space);
    assert_eq!(account.used(), 0);
}

#[test]
fn device_memory_keeps_its_address_and_memory_type() {
    testing::kernel_machine();
    let device = MemoryObject::create_device(0xA000_0000, 1 << 20, Cache::WriteCombining).unwrap();
    let space = Space::new(None, Mode::Long).unwrap();
    let address = space
        .map(
            &device,
            Rights::ALL,
            0,
            0x3000,
            0x2000,
            Protection::READ_WRITE,
        )
        .unwrap();
    assert_eq!(
        space.handle_page_fault(address + 0x1000, Access::ReadWrite),
        Fault::Resolved
    );
    let found = translate(&space, address + 0x1004).unwrap();
    assert_eq!(
        (found.physical.as_u64(), found.attributes.cache),
        (0xA000_4004, Cache::WriteCombining)
    );
    assert_eq!(device.read(0, &mut [0; 4]), Err(Error::NotSupported));
    for (start, bytes, error) in [
        (0xA000_0001, PAGE_BYTES, Error::BadArgument),
        (0xA000_0000, 1, Error::BadArgument),
        (0xA000_0000, 0, Error::BadArgument),
        (1 << 52, PAGE_BYTES, Error::OutOfRange),
        (u64::MAX - 0xFFF, PAGE_BYTES, Error::OutOfRange),
        (testing::RAM_START, PAGE_BYTES, Error::Busy),
    ] {
        let refused = MemoryObject::create_device(start, bytes, Cache::Uncached).map(|_| ());
        assert_eq!(refused, Err(error), "{start:#x} {bytes:#x}");
    }
}

#[test]
fn a_huge_object_costs_nothing_until_it_is_touched() {
    testing::kernel_machine();
    let account = Account::create(100).unwrap();
    let object = MemoryObject::create(1 << 46, Some(account.clone())).unwrap();
    assert_eq!(account.used(), 0);
    let mut bytes = [1; 8];
    object.read((1 << 46) - 8, &mut bytes).unwrap();
    assert_eq!((bytes, account.used()), ([0; 8], 0));
    object.write((1 << 45) - 4, b"straddle").unwrap();
    object.read((1 << 45) - 4, &mut bytes).unwrap();
    assert_eq!(&bytes, b"straddle");
    assert!(account.used() > 2 && account.used() < 12);
    assert_eq!(object.write((1 << 46) - 7, &bytes), Err(Error::OutOfRange));
    assert_eq!(object.read(u64::MAX, &mut bytes), Err(Error::OutOfRange));
    for (bytes, error) in [
        (0, Error::BadArgument),
        (1 << 47, Error::OutOfRange),
        (u64::MAX, Error::OutOfRange),
    ] {
        assert_eq!(MemoryObject::create(bytes, None).map(|_| ()), Err(error));
    }
    drop(object);
    testing::settle(&account);
}

#[test]
fn unmapping_thousands_of_regions_goes_by_pieces() {
    testing::kernel_machine();
    let account = Account::create(50_000).unwrap();
    let object = MemoryObject::create(PAGE_BYTES, None).unwrap();
    let space = Space::new(Some(account.clone()), Mode::Long).unwrap();
    let span = 1000 * (1 << 21);
    for number in 0..1000 {
        let address = BASE + number * (1 << 21);
        space
            .map(
                &object,
                Rights::ALL,
                address,
                0,
                PAGE_BYTES,
                Protection::READ,
            )
            .unwrap();
        assert_eq!(
            space.handle_page_fault(address, Access::Read),
            Fault::Resolved
        );
    }
    assert!(space.statistics().0 > 1000);
    let mut pieces = 0;
    while space.unmap(BASE, span).unwrap() == Progress::More {
        pieces += 1;
    }
    assert!(pieces >= 60);
    // The lowest tables are gone as well: what stays are the few above them.
    assert!(
        space.statistics().0 < 10,
        "{} frames stay",
        space.statistics().0
    );
    assert_eq!(space.statistics().1, 0);
}

/// A thousand mappings of a page each, side by side from [`BASE`] on, the last with fewer rights if so said.
fn thousand(object: &Ref<MemoryObject>, last: Rights) -> Space {
    let space = Space::new(None, Mode::Long).unwrap();
    for number in 0..1000 {
        let address = BASE + number * PAGE_BYTES;
        let rights = if number == 999 { last } else { Rights::ALL };
        space
            .map(object, rights, address, 0, PAGE_BYTES, Protection::READ)
            .unwrap();
        assert_eq!(
            space.handle_page_fault(address, Access::Read),
            Fault::Resolved
        );
    }
    space
}

/// Which of the thousand can be written.
fn writable(space: &Space) -> Vec<u64> {
    let can_write = |&number: &u64| {
        let address = BASE + number * PAGE_BYTES;
        space.handle_page_fault(address, Access::ReadWrite) == Fault::Resolved
    };
    (0..1000).filter(can_write).collect()
}

#[test]
fn protecting_thousands_of_regions_goes_by_pieces() {
    testing::kernel_machine();
    let object = MemoryObject::create(PAGE_BYTES, None).unwrap();
    let space = thousand(&object, Rights::ALL);
    let mut pauses = 0;
    for (protection, changed) in [(Protection::READ_WRITE, 1000), (Protection::READ, 0)] {
        pauses = 0;
        space
            .protect(BASE, 1000 * PAGE_BYTES, protection, &mut || pauses += 1)
            .unwrap();
        assert_eq!(writable(&space).len(), changed);
    }
    assert!(pauses >= 120, "{pauses} pauses");
    // What is refused at its end was not begun, and few mappings take no pause.
    let space = thousand(&object, Rights::READ);
    let all = 1000 * PAGE_BYTES;
    let mut protect =
        |bytes| space.protect(BASE, bytes, Protection::READ_WRITE, &mut || pauses += 1);
    assert_eq!(protect(all), Err(Error::NoRight));
    assert_eq!(protect(all + PAGE_BYTES), Err(Error::NoRight));
    assert_eq!(writable(&space), []);
    pauses = 0;
    space
        .protect(BASE, 10 * PAGE_BYTES, Protection::READ_WRITE, &mut || {
            pauses += 1;
        })
        .unwrap();
    assert_eq!((pauses, writable(&space).len()), (0, 10));
}

#[test]
fn a_page_that_goes_while_its_range_is_protected_is_missed_where_it_was() {
    testing::kernel_machine();
    let object = MemoryObject::create(PAGE_BYTES, None).unwrap();
    for (gone_at, changed) in [(30, 0), (50, 496), (80, 496)] {
        let space = thousand(&object, Rights::ALL);
        let mut pauses = 0;
        let result = space.protect(BASE, 1000 * PAGE_BYTES, Protection::READ_WRITE, &mut || {
            pauses += 1;
            if pauses == gone_at {
                unmap(&space, BASE + 500 * PAGE_BYTES, PAGE_BYTES).unwrap();
            }
        });
        assert_eq!(result, Err(Error::NotMapped));
        // Those of a whole piece, from the first on, or none.
        assert_eq!(writable(&space), (0..changed).collect::<Vec<_>>());
    }
}

/// A space below 4 GiB with thousands of gaps that are too small, and one of two pages behind them, which is given.
fn space_with_one_gap() -> (Space, u64) {
    let small = MemoryObject::create(PAGE_BYTES, None).unwrap();
    let large = MemoryObject::create(1 << 32, None).unwrap();
    let space = Space::new(None, Mode::Compat).unwrap();
    let map = |object, start, end| {
        space
            .map(object, Rights::ALL, start, 0, end - start, Protection::READ)
            .unwrap();
    };
    map(&large, USER_START, MAP_START_32 - PAGE_BYTES);
    let mut at = MAP_START_32;
    for _ in 0..2000 {
        map(&small, at, at + PAGE_BYTES);
        at += 2 * PAGE_BYTES;
    }
    map(&large, at + PAGE_BYTES, Mode::Compat.areas_start());
    (space, at - PAGE_BYTES)
}

#[test]
fn room_is_searched_by_pieces_and_found_wherever_it_is() {
    testing::kernel_machine();
    let object = MemoryObject::create(1 << 21, None).unwrap();
    let (space, gap) = space_with_one_gap();
    let map = |bytes, pause: &mut dyn FnMut()| {
        let part = Part { offset: 0, bytes };
        space.map_with(&object, Rights::ALL, 0, part, Protection::READ, pause)
    };
    let mut pauses = 0;
    let mut count = || pauses += 1;
    assert_eq!(map(2 * PAGE_BYTES, &mut count), Err(Error::NoMemory));
    assert_eq!(map(1 << 21, &mut count), Err(Error::NoMemory));
    assert_eq!(map(PAGE_BYTES, &mut count), Ok(gap + PAGE_BYTES));
    assert_eq!(map(PAGE_BYTES, &mut count), Err(Error::NoMemory));
    // Two thousand mappings, by one pass where there is room, by two or three where there is none.
    assert!(pauses >= 400, "{pauses} pauses");
    // What comes to be free ahead of the search is found, also if that is in its last pass.
    let mut pauses = 0;
    let freed = MAP_START_32 + 2000 * PAGE_BYTES;
    let found = map(PAGE_BYTES, &mut || {
        pauses += 1;
        if pauses == 80 {
            unmap(&space, freed, PAGE_BYTES).unwrap();
        }
    });
    assert_eq!(found, Ok(freed));
}

#[test]
fn room_that_goes_during_a_search_is_not_given() {
    testing::kernel_machine();
    let object = MemoryObject::create(PAGE_BYTES, None).unwrap();
    let (space, gap) = space_with_one_gap();
    let part = Part {
        offset: 0,
        bytes: PAGE_BYTES,
    };
    let mut pauses = 0;
    let result = space.map_with(&object, Rights::ALL, 0, part, Protection::READ, &mut || {
        pauses += 1;
        if pauses == 10 {
            let taken = gap + PAGE_BYTES;
            space
                .map(&object, Rights::ALL, taken, 0, PAGE_BYTES, Protection::READ)
                .unwrap();
        }
    });
    assert_eq!(result, Err(Error::NoMemory));
}

#[test]
fn a_32_bit_space_has_everything_below_4_gib() {
    testing::kernel_machine();
    let account = Account::create(1000).unwrap();
    let space = Space::new(Some(account.clone()), Mode::Compat).unwrap();
    let object = MemoryObject::create(4 * PAGE_BYTES, None).unwrap();
    let map = |address| {
        space.map(
            &object,
            Rights::ALL,
            address,
            0,
            PAGE_BYTES,
            Protection::READ_WRITE,
        )
    };
    let areas = Mode::Compat.areas_start();
    for address in [
        areas,
        areas + PAGE_BYTES,
        1 << 32,
        MAP_START,
        IPC_AREAS_START - PAGE_BYTES,
    ] {
        assert_eq!(map(address), Err(Error::OutOfRange), "{address:#x}");
    }
    assert_eq!(map(areas - PAGE_BYTES), Ok(areas - PAGE_BYTES));
    let chosen = map(0).unwrap();
    assert!((Mode::Compat.map_start()..areas).contains(&chosen));
    assert_eq!(
        space.handle_page_fault(chosen, Access::ReadWrite),
        Fault::Resolved
    );
    // More than there is room for below 4 GiB, and no room above is taken.
    let large = MemoryObject::create(1 << 32, None).unwrap();
    assert_eq!(
        space.map(&large, Rights::ALL, 0, 0, 1 << 32, Protection::READ),
        Err(Error::NoMemory)
    );
    let last = max_ipc_areas(Mode::Compat) - 1;
    for index in [0, last] {
        let area = space.map_ipc_area(index).unwrap();
        assert!(area.address >= areas && area.address + 2 * PAGE_BYTES <= 1 << 32);
    }
    assert_eq!(space.map_ipc_area(last + 1), Err(Error::OutOfRange));
    drop(space);
    assert_eq!(account.used(), 0, "frames were lost");
}
