//! Clones against a plain model, in which every object has bytes of its own.

use abi::{Error, MemoryFlags, Protection, Rights};
use arch::addr::VirtAddr;
use arch::memory::phys_to_virt;
use arch::paging::{Access, PAGE_BYTES, PageSize, PageTables, Translation};
use proptest::prelude::*;

use super::account::Account;
use super::cloning::{MAX_PLACES, Page, Sharing};
use super::frames::{self, FrameKind};
use super::object::MemoryObject;
use super::space::{Fault, Mode, Space};
use super::{Progress, testing};
use crate::object::{Object, Ref, quiescent};

/// An object: its pages, and the first of those that are used, of which a border of tables lies in the middle.
#[derive(Clone, Copy, Debug)]
struct Shape {
    pages: u64,
    flags: MemoryFlags,
}

const PAGES_USED: u64 = 8;
const FIRST_USED: u64 = 512 - PAGES_USED / 2;
/// Two tables, the second with little in it.
const SMALL: Shape = Shape {
    pages: 512 + PAGES_USED / 2,
    flags: MemoryFlags::CLONABLE,
};
/// Two large pages and a bit.
const LARGE: Shape = Shape {
    pages: 1024 + 3,
    flags: MemoryFlags(MemoryFlags::CLONABLE.0 | MemoryFlags::LARGE_PAGES.0),
};
/// One large page, and nothing else.
const ONE_LARGE: Shape = Shape {
    pages: 512,
    flags: LARGE.flags,
};
const SPACES: usize = 2;
const BASE: u64 = 0x20_0000_0000;

/// Where a space has object number `slot`, or its page.
fn address(slot: usize, page: u64) -> u64 {
    BASE + slot as u64 * (8 << 20) + page * PAGE_BYTES
}

fn translate(space: &Space, address: u64) -> Option<Translation> {
    // SAFETY: only looked at, by the one thread that uses the space.
    unsafe { PageTables::from_root(space.tlb().root()) }.translate(VirtAddr::new(address))
}

fn byte_at(found: Translation) -> *mut u8 {
    phys_to_virt(found.physical)
}

/// Frames held but for those that slabs keep.
fn frames_held() -> u64 {
    let held = frames::statistics().held;
    let slabs = MemoryObject::slab().frames()
        + Sharing::slab().frames()
        + Space::slab().frames()
        + Account::slab().frames();
    held[FrameKind::User as usize]
        + held[FrameKind::PageTable as usize]
        + held[FrameKind::Kernel as usize]
        - slabs as u64
}

/// Whether no other test runs in this process, which might use frames meanwhile.
fn is_alone() -> bool {
    std::env::var_os("NEXTEST").is_some()
}

fn clonable(account: &Ref<Account>, bytes: u64) -> Ref<MemoryObject> {
    MemoryObject::create_with(bytes, MemoryFlags::CLONABLE, Some(account.clone())).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Clone(usize),
    Drop(usize),
    Map(usize, usize, bool),
    Unmap(usize, usize, u64, u64),
    UserWrite(usize, usize, u64, u8),
    UserRead(usize, usize, u64),
    Write(usize, u64, u8),
}

fn step(shape: Shape) -> impl Strategy<Value = Step> {
    let page = move || FIRST_USED..shape.pages.min(FIRST_USED + PAGES_USED);
    let slot = || 0usize..6;
    let space = || 0usize..SPACES;
    prop_oneof![
        3 => slot().prop_map(Step::Clone),
        2 => slot().prop_map(Step::Drop),
        3 => (space(), slot(), any::<bool>()).prop_map(|(s, o, w)| Step::Map(s, o, w)),
        1 => (space(), slot(), page(), 1u64..shape.pages).prop_map(|(s, o, p, n)| Step::Unmap(s, o, p, n)),
        6 => (space(), slot(), page(), any::<u8>()).prop_map(|(s, o, p, v)| Step::UserWrite(s, o, p, v)),
        4 => (space(), slot(), page()).prop_map(|(s, o, p)| Step::UserRead(s, o, p)),
        3 => (slot(), page(), any::<u8>()).prop_map(|(o, p, v)| Step::Write(o, p, v)),
    ]
}

/// An object, and what it should hold.
struct Held {
    object: Ref<MemoryObject>,
    bytes: [u8; PAGES_USED as usize],
}

impl Held {
    fn byte(&mut self, page: u64) -> &mut u8 {
        &mut self.bytes[(page - FIRST_USED) as usize]
    }
}

/// What a space has mapped of an object: whether for writing, and from which page to which.
type Mapped = Option<(bool, Vec<bool>)>;

fn check(shape: Shape, slots: &mut [Option<Held>], spaces: &[Ref<Space>], mapped: &[Vec<Mapped>]) {
    for (number, slot) in slots.iter_mut().enumerate() {
        let Some(held) = slot else { continue };
        for page in FIRST_USED..shape.pages.min(FIRST_USED + PAGES_USED) {
            let mut byte = [0];
            held.object.read(page * PAGE_BYTES, &mut byte).unwrap();
            assert_eq!(byte[0], *held.byte(page), "object {number}, page {page}");
            for (space, mapped) in spaces.iter().zip(mapped) {
                let Some(found) = translate(space, address(number, page)) else {
                    continue;
                };
                let (writable, pages) = mapped[number].as_ref().expect("it is mapped");
                assert!(pages[page as usize]);
                // SAFETY: a page of an object, in the arena.
                assert_eq!(unsafe { byte_at(found).read() }, *held.byte(page));
                if found.attributes.access == Access::ReadWrite {
                    assert!(writable);
                    let now = held.object.changeable().unwrap().page(page, true).unwrap();
                    assert!(matches!(now, Page::Own(_)), "{now:?} is mapped for writing");
                }
            }
        }
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one step of each kind after the other"
)]
fn clones_are_copies(shape: Shape, steps: Vec<Step>) {
    testing::kernel_machine();
    let account = Account::create(100_000).unwrap();
    testing::settle(&account);
    let before = frames_held();
    let spaces: Vec<Ref<Space>> = (0..SPACES)
        .map(|_| Space::create(Some(account.clone()), Mode::Long).unwrap())
        .collect();
    let mut mapped: Vec<Vec<Mapped>> = vec![vec![None; 6]; SPACES];
    let mut slots: Vec<Option<Held>> = (0..6).map(|_| None).collect();
    slots[0] = Some(Held {
        object: MemoryObject::create_with(
            shape.pages * PAGE_BYTES,
            shape.flags,
            Some(account.clone()),
        )
        .unwrap(),
        bytes: [0; PAGES_USED as usize],
    });
    for step in steps {
        match step {
            Step::Clone(from) => {
                let Some(to) = slots.iter().position(Option::is_none) else {
                    continue;
                };
                let Some(held) = &slots[from] else { continue };
                let object = held.object.clone_for(Some(account.clone())).unwrap();
                assert_eq!(object.committed(), held.object.committed());
                slots[to] = Some(Held {
                    object,
                    bytes: held.bytes,
                });
            }
            Step::Drop(slot) => {
                for (space, mapped) in spaces.iter().zip(&mut mapped) {
                    if mapped[slot].take().is_some() {
                        while space
                            .unmap(address(slot, 0), shape.pages * PAGE_BYTES)
                            .unwrap()
                            == Progress::More
                        {}
                    }
                }
                // One stays, or there is nothing to do any more.
                if slots.iter().flatten().count() > 1 {
                    slots[slot] = None;
                }
            }
            Step::Map(space, slot, writable) => {
                let (Some(held), None) = (&slots[slot], &mapped[space][slot]) else {
                    continue;
                };
                let protection = if writable {
                    Protection::READ_WRITE
                } else {
                    Protection::READ
                };
                let at = address(slot, 0);
                assert_eq!(
                    spaces[space].map(
                        &held.object,
                        Rights::ALL,
                        at,
                        0,
                        shape.pages * PAGE_BYTES,
                        protection
                    ),
                    Ok(at)
                );
                mapped[space][slot] = Some((writable, vec![true; shape.pages as usize]));
            }
            Step::Unmap(space, slot, page, pages) => {
                let Some((_, there)) = &mut mapped[space][slot] else {
                    continue;
                };
                let pages = pages.min(shape.pages - page);
                let (at, bytes) = (address(slot, page), pages * PAGE_BYTES);
                while spaces[space].unmap(at, bytes).unwrap() == Progress::More {}
                there[page as usize..(page + pages) as usize].fill(false);
            }
            Step::UserWrite(space, slot, page, value) => {
                let Some((writable, pages)) = &mapped[space][slot] else {
                    continue;
                };
                let allowed = *writable && pages[page as usize];
                let at = address(slot, page);
                let fault = spaces[space].handle_user_fault(at, Access::ReadWrite, &mut || ());
                assert_eq!(
                    fault,
                    if allowed {
                        Fault::Resolved
                    } else {
                        Fault::NotMine
                    }
                );
                if allowed {
                    let found = translate(&spaces[space], at).unwrap();
                    assert_eq!(found.attributes.access, Access::ReadWrite);
                    // SAFETY: a page of the object's, in the arena.
                    unsafe { byte_at(found).write(value) };
                    *slots[slot].as_mut().unwrap().byte(page) = value;
                }
            }
            Step::UserRead(space, slot, page) => {
                let Some((_, pages)) = &mapped[space][slot] else {
                    continue;
                };
                let fault =
                    spaces[space].handle_user_fault(address(slot, page), Access::Read, &mut || ());
                assert_eq!(
                    fault,
                    if pages[page as usize] {
                        Fault::Resolved
                    } else {
                        Fault::NotMine
                    }
                );
            }
            Step::Write(slot, page, value) => {
                let Some(held) = &mut slots[slot] else {
                    continue;
                };
                held.object.write(page * PAGE_BYTES, &[value]).unwrap();
                *held.byte(page) = value;
            }
        }
        check(shape, &mut slots, &spaces, &mapped);
    }
    drop(slots);
    drop(spaces);
    testing::settle(&account);
    if is_alone() {
        assert_eq!(frames_held(), before, "frames were lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn clones_agree_with_copies_and_give_everything_back(steps in prop::collection::vec(step(SMALL), 1..120)) {
        clones_are_copies(SMALL, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn clones_of_large_pages_agree_with_copies_and_give_everything_back(steps in prop::collection::vec(step(LARGE), 1..80)) {
        clones_are_copies(LARGE, steps);
    }

    #[test]
    fn clones_of_one_large_page_agree_with_copies_and_give_everything_back(steps in prop::collection::vec(step(ONE_LARGE), 1..60)) {
        clones_are_copies(ONE_LARGE, steps);
    }
}

#[test]
fn a_clone_shares_until_one_side_writes() {
    testing::kernel_machine();
    let account = Account::create(1000).unwrap();
    let first = clonable(&account, 4 * PAGE_BYTES);
    first.write(0, b"both").unwrap();
    let used = account.used();
    let second = first.clone_for(Some(account.clone())).unwrap();
    // It is paid for twice, and there once.
    assert_eq!(account.used(), 2 * used);
    let frame = |object: &MemoryObject| object.frame_if_committed(0).unwrap().unwrap();
    assert_eq!(frame(&first), frame(&second));
    let before = frame(&first);
    second.write(0, b"mine").unwrap();
    assert_eq!(frame(&first), before);
    assert_ne!(frame(&second), before);
    assert_eq!(account.used(), 2 * used);
    let third = second.clone_for(Some(account.clone())).unwrap();
    drop(second);
    let mut bytes = [0; 4];
    third.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"mine");
    drop((first, third));
    testing::settle(&account);
}

#[test]
fn a_clone_that_cannot_be_had_changes_nothing() {
    testing::kernel_machine();
    let rich = Account::create(1000).unwrap();
    let plain = MemoryObject::create(PAGE_BYTES, None).unwrap();
    assert_eq!(plain.clone_for(None).map(drop), Err(Error::NotSupported));
    let object = clonable(&rich, 4 * PAGE_BYTES);
    for page in 0..4 {
        object.write(page * PAGE_BYTES, b"here").unwrap();
    }
    let space = Space::create(None, Mode::Long).unwrap();
    let place = space
        .map(
            &object,
            Rights::ALL,
            0,
            0,
            PAGE_BYTES,
            Protection::READ_WRITE,
        )
        .unwrap();
    for limit in 0..object.committed() {
        let poor = Account::create(limit).unwrap();
        assert_eq!(
            object.clone_for(Some(poor.clone())).map(drop),
            Err(Error::QuotaExceeded)
        );
        testing::settle(&poor);
        // It is its own still, and can be mapped as ever.
        assert_eq!(
            space.handle_page_fault(place, Access::ReadWrite),
            Fault::Resolved
        );
        let page = object.changeable().unwrap().page(0, true);
        assert!(matches!(page, Ok(Page::Own(_))));
    }
    // A write to what is shared needs no quota.
    // What it shares, and what it needs to be cloned itself.
    let fits = Account::create(object.committed() + 1).unwrap();
    let clone = object.clone_for(Some(fits.clone())).unwrap();
    for page in 0..4 {
        clone.write(page * PAGE_BYTES, b"mine").unwrap();
    }
    drop((object, clone, space));
    testing::settle(&rich);
    testing::settle(&fits);
}

#[test]
fn spaces_let_go_one_by_one_before_a_clone() {
    testing::kernel_machine();
    let account = Account::create(10_000).unwrap();
    let object = clonable(&account, PAGE_BYTES);
    let places: Vec<(Ref<Space>, u64)> = (0..3)
        .map(|_| {
            let space = Space::create(None, Mode::Long).unwrap();
            let rights = Protection::READ_WRITE;
            let place = space
                .map(&object, Rights::ALL, 0, 0, PAGE_BYTES, rights)
                .unwrap();
            assert_eq!(touch(&space, place, Access::ReadWrite), Fault::Resolved);
            (space, place)
        })
        .collect();
    let mapped = || {
        let is_mapped = |(space, place): &&(Ref<Space>, u64)| translate(space, *place).is_some();
        places.iter().filter(is_mapped).count()
    };
    let mut left = Vec::new();
    object.let_go_ahead(&mut || {
        crate::sync::assert_none_held();
        left.push(mapped());
    });
    assert_eq!(left, [2, 1, 0]);
    // It comes back by a fault, and what cannot be cloned is left alone.
    let (space, place) = &places[0];
    assert_eq!(touch(space, *place, Access::ReadWrite), Fault::Resolved);
    let plain = MemoryObject::create(PAGE_BYTES, None).unwrap();
    plain.let_go_ahead(&mut || panic!("it has no places"));
    drop((object, places, plain));
    testing::settle(&account);
}

#[test]
fn what_can_be_cloned_is_mapped_at_as_many_places_as_are_allowed() {
    testing::kernel_machine();
    let account = Account::create(10_000).unwrap();
    let object = clonable(&account, 3 * PAGE_BYTES);
    let map_at = |space: &Ref<Space>, address, offset| {
        let rights = Protection::READ_WRITE;
        space.map(&object, Rights::ALL, address, offset, PAGE_BYTES, rights)
    };
    let map = |space: &Ref<Space>, offset| map_at(space, 0, offset);
    let mut spaces: Vec<(Ref<Space>, u64)> = (1..MAX_PLACES)
        .map(|_| {
            let space = Space::create(None, Mode::Long).unwrap();
            let place = map(&space, 0).unwrap();
            (space, place)
        })
        .collect();
    // At another distance it is another place.
    let (first, place) = &spaces[0];
    let again = map(first, PAGE_BYTES).unwrap();
    let late = Space::create(None, Mode::Long).unwrap();
    for space in [first, &late] {
        assert_eq!(map(space, 0), Err(Error::QuotaExceeded));
    }
    // At the same one it is not.
    let next = *place + PAGE_BYTES;
    assert_eq!(map_at(first, next, PAGE_BYTES), Ok(next));
    for at in [*place, next, again] {
        assert_eq!(
            first.handle_page_fault(at, Access::ReadWrite),
            Fault::Resolved
        );
    }
    let clone = object.clone_for(None).unwrap();
    for at in [*place, next, again] {
        assert_eq!(translate(first, at), None, "it was mapped for writing");
    }
    // All mappings of a place must go before there is room.
    assert!(first.unmap(*place, PAGE_BYTES).is_ok());
    assert_eq!(map(&late, 0), Err(Error::QuotaExceeded));
    assert!(first.unmap(next, PAGE_BYTES).is_ok());
    let place = map(&late, 0).unwrap();
    assert_eq!(map(first, 0), Err(Error::QuotaExceeded));
    // A space that dies makes room as well.
    drop(spaces.pop());
    for _ in 0..1000 {
        quiescent::reclaim(64, &|_| {}, &mut |_| {});
    }
    assert!(map(&spaces[0].0, 0).is_ok());
    clone.write(0, b"clone").unwrap();
    assert_eq!(
        late.handle_page_fault(place, Access::ReadWrite),
        Fault::Resolved
    );
    drop((object, clone, late, spaces));
    testing::settle(&account);
}

#[test]
fn a_page_that_changes_goes_alone_wherever_a_space_maps_it() {
    const PAGES: u64 = 5;
    testing::kernel_machine();
    let account = Account::create(10_000).unwrap();
    let object = clonable(&account, PAGES * PAGE_BYTES);
    let other = MemoryObject::create(PAGES * PAGE_BYTES, Some(account.clone())).unwrap();
    let space = Space::create(None, Mode::Long).unwrap();
    let map = |object: &Ref<MemoryObject>, at, offset| {
        let bytes = PAGES * PAGE_BYTES - offset;
        let rights = Protection::READ_WRITE;
        assert_eq!(
            space.map(object, Rights::ALL, at, offset, bytes, rights),
            Ok(at)
        );
    };
    // Twice, the second time from another offset on, and something else in between.
    let (first, between, second) = (0x4000_0000, 0x4000_8000, 0x4001_0000);
    map(&object, first, 0);
    map(&other, between, 0);
    map(&object, second, 2 * PAGE_BYTES);
    for page in 0..PAGES {
        object.write(page * PAGE_BYTES, &[page as u8]).unwrap();
    }
    let clone = object.clone_for(None).unwrap();
    let touch_all = || {
        for page in 0..PAGES {
            let at = page * PAGE_BYTES;
            assert_eq!(touch(&space, first + at, Access::Read), Fault::Resolved);
            assert_eq!(touch(&space, between + at, Access::Read), Fault::Resolved);
            if page >= 2 {
                let at = second + at - 2 * PAGE_BYTES;
                assert_eq!(touch(&space, at, Access::Read), Fault::Resolved);
            }
        }
    };
    touch_all();
    for changed in [3, 1] {
        object.write(changed * PAGE_BYTES, &[0x77]).unwrap();
        for page in 0..PAGES {
            let at = page * PAGE_BYTES;
            let stays = page != changed;
            assert_eq!(translate(&space, first + at).is_some(), stays, "{page}");
            assert!(translate(&space, between + at).is_some(), "{page}");
            if page >= 2 {
                let at = second + at - 2 * PAGE_BYTES;
                assert_eq!(translate(&space, at).is_some(), stays, "{page}");
            }
        }
        touch_all();
        let at = first + changed * PAGE_BYTES;
        // SAFETY: a page of the object's, in the arena.
        let byte = unsafe { byte_at(translate(&space, at).unwrap()).read() };
        assert_eq!(byte, 0x77);
    }
    drop((object, clone, other, space));
    testing::settle(&account);
}

fn touch(space: &Space, at: u64, access: Access) -> Fault {
    space.handle_user_fault(at, access, &mut || ())
}

#[test]
fn a_large_page_is_shared_as_a_whole_and_written_by_small_ones() {
    testing::kernel_machine();
    let account = Account::create(10_000).unwrap();
    let bytes = 1024 * PAGE_BYTES;
    let first = MemoryObject::create_with(bytes, LARGE.flags, Some(account.clone())).unwrap();
    let space = Space::create(None, Mode::Long).unwrap();
    let map = |object: &Ref<MemoryObject>, at| {
        space
            .map(object, Rights::ALL, at, 0, bytes, Protection::READ_WRITE)
            .unwrap()
    };
    let (here, there) = (map(&first, BASE), BASE + (8 << 20));
    let size = |at| translate(&space, at).map(|found| found.size);
    assert_eq!(touch(&space, here, Access::ReadWrite), Fault::Resolved);
    assert_eq!(size(here), Some(PageSize::Size2M));
    // The large page, a table for the day when a part of it is written, and the table above.
    assert_eq!(first.committed(), 512 + 1 + 1);
    first.write(7 * PAGE_BYTES, b"seven").unwrap();
    let second = first.clone_for(Some(account.clone())).unwrap();
    map(&second, there);
    assert_eq!(size(here), None, "it was mapped for writing");
    for at in [here, there] {
        assert_eq!(touch(&space, at + 5, Access::Read), Fault::Resolved);
        let found = translate(&space, at).unwrap();
        assert_eq!(
            (found.size, found.attributes.access),
            (PageSize::Size2M, Access::Read)
        );
    }
    let used = account.used();
    let page = there + 7 * PAGE_BYTES;
    assert_eq!(touch(&space, page, Access::ReadWrite), Fault::Resolved);
    assert_eq!(account.used(), used, "a write needs no quota");
    assert_eq!(
        translate(&space, page).map(|found| (found.size, found.attributes.access)),
        Some((PageSize::Size4K, Access::ReadWrite))
    );
    assert_eq!(
        size(here),
        Some(PageSize::Size2M),
        "that is the other one's"
    );
    second.write(7 * PAGE_BYTES, b"other").unwrap();
    let mut read = [0; 5];
    first.read(7 * PAGE_BYTES, &mut read).unwrap();
    assert_eq!(&read, b"seven");
    let frames = |number| [&first, &second].map(|object| object.frame_if_committed(number));
    assert!((0..512).all(|number| (frames(number)[0] == frames(number)[1]) == (number != 7)));
    // Where nobody else has the page any more, it is written where it is; the rest of the large page is still shared.
    let page = here + 7 * PAGE_BYTES;
    let before = first.frame_if_committed(7);
    assert_eq!(touch(&space, page, Access::ReadWrite), Fault::Resolved);
    assert_eq!(first.frame_if_committed(7), before);
    assert_eq!(size(page), Some(PageSize::Size4K));
    // Alone again, it is written as a whole again.
    while space.unmap(there, bytes).unwrap() == Progress::More {}
    drop(second);
    for _ in 0..1000 {
        quiescent::reclaim(64, &|_| {}, &mut |_| {});
    }
    while space.unmap(here, bytes).unwrap() == Progress::More {}
    map(&first, here);
    assert_eq!(touch(&space, page, Access::ReadWrite), Fault::Resolved);
    assert_eq!(size(page), Some(PageSize::Size2M));
    drop((first, space));
    testing::settle(&account);
}

#[test]
fn a_large_page_that_cannot_be_paid_for_is_small_pages() {
    testing::kernel_machine();
    for limit in [0, 1, 2, 3, 511, 512, 513, 514] {
        // Beside what it needs to be cloned.
        let account = Account::create(limit + 1).unwrap();
        let object =
            MemoryObject::create_with(512 * PAGE_BYTES, LARGE.flags, Some(account.clone()))
                .unwrap();
        let space = Space::create(None, Mode::Long).unwrap();
        let at = BASE;
        space
            .map(
                &object,
                Rights::ALL,
                at,
                0,
                512 * PAGE_BYTES,
                Protection::READ_WRITE,
            )
            .unwrap();
        let fault = touch(&space, at, Access::ReadWrite);
        let size = translate(&space, at).map(|found| found.size);
        match limit {
            0 | 1 => assert_eq!(fault, Fault::Failed(Error::QuotaExceeded)),
            2..513 => assert_eq!((fault, size), (Fault::Resolved, Some(PageSize::Size4K))),
            _ => assert_eq!((fault, size), (Fault::Resolved, Some(PageSize::Size2M))),
        }
        drop((object, space));
        testing::settle(&account);
    }
}
