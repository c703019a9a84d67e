//! Memory with a pager, against a model of which pages are there.

use proptest::prelude::*;

use abi::{Badge, Protection, Rights};
use arch::addr::VirtAddr;
use arch::paging::{Access, PageTables, Translation};

use super::super::space::{Fault, Mode, Space};
use super::super::testing;
use super::*;
use crate::ipc::Endpoint;

const PAGES: u64 = 5;
const BASE: u64 = 0x4000_0000;

fn paged(account: &Ref<Account>, flags: MemoryFlags) -> Ref<MemoryObject> {
    let endpoint = Ref::try_new(Endpoint::made_by(0)).unwrap();
    let pager = Listener::create(endpoint, Badge(7)).unwrap();
    MemoryObject::create_paged(PAGES * PAGE_BYTES, flags, pager, Some(account.clone())).unwrap()
}

fn translate(space: &Space, address: u64) -> Option<Translation> {
    // SAFETY: only looked at, by the one thread that uses the space.
    unsafe { PageTables::from_root(space.tlb().root()) }.translate(VirtAddr::new(address))
}

fn supply(object: &MemoryObject, page: u64, bytes: &[u8]) -> Result<bool, Error> {
    object.supply(
        page,
        UserSlice::new(bytes.as_ptr() as u64, bytes.len() as u64).unwrap(),
    )
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Supply { page: u64, byte: u8, bytes: usize },
    Read { page: u64 },
    Write { page: u64, byte: u8 },
    Touch { page: u64, write: bool },
    TakeBack { page: u64, told: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let page = 0..PAGES;
    prop_oneof![
        (page.clone(), any::<u8>(), 1..=4096_usize).prop_map(|(page, byte, bytes)| Step::Supply {
            page,
            byte,
            bytes
        }),
        page.clone().prop_map(|page| Step::Read { page }),
        (page.clone(), any::<u8>()).prop_map(|(page, byte)| Step::Write { page, byte }),
        (page.clone(), any::<bool>()).prop_map(|(page, write)| Step::Touch { page, write }),
        (page, any::<bool>()).prop_map(|(page, told)| Step::TakeBack { page, told }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The model: of each page that is there its first byte and its last.
    #[test]
    fn memory_with_a_pager_has_what_was_supplied_and_nothing_else(
        steps in prop::collection::vec(step(), 1..80), reclaimable in any::<bool>()
    ) {
        testing::kernel_machine();
        let account = Account::create(100).unwrap();
        let flags = if reclaimable { MemoryFlags::RECLAIMABLE } else { MemoryFlags::NONE };
        let object = paged(&account, flags);
        let space = Space::create(None, Mode::Long).unwrap();
        space.map(&object, Rights::ALL, BASE, 0, PAGES * PAGE_BYTES, Protection::READ_WRITE).unwrap();
        let mut model = [None; PAGES as usize];
        let mut written = [false; PAGES as usize];
        for step in steps {
            match step {
                Step::Supply { page, byte, bytes } => {
                    let new = model[page as usize].is_none();
                    prop_assert_eq!(supply(&object, page, &vec![byte; bytes]), Ok(new));
                    if new {
                        let last = if bytes == 4096 { byte } else { 0 };
                        model[page as usize] = Some((byte, last));
                        written[page as usize] = false;
                    }
                }
                Step::Read { page } => {
                    let (mut first, mut last) = ([0], [0]);
                    let read = object
                        .read(page * PAGE_BYTES, &mut first)
                        .and_then(|()| object.read(page * PAGE_BYTES + 4095, &mut last))
                        .map(|()| (first[0], last[0]));
                    prop_assert_eq!(read, model[page as usize].ok_or(Error::NotSupplied));
                }
                Step::Write { page, byte } => {
                    let place = model[page as usize].as_mut();
                    let wanted = if place.is_some() { Ok(()) } else { Err(Error::NotSupplied) };
                    prop_assert_eq!(object.write(page * PAGE_BYTES, &[byte]), wanted);
                    if let Some(place) = place {
                        place.0 = byte;
                        written[page as usize] = true;
                    }
                }
                Step::Touch { page, write } => {
                    let address = BASE + page * PAGE_BYTES + 123;
                    let access = if write { Access::ReadWrite } else { Access::Read };
                    let fault = space.handle_page_fault(address, access);
                    let there = model[page as usize].is_some();
                    written[page as usize] |= there && write;
                    let found = translate(&space, address);
                    prop_assert_eq!(found.is_some(), there);
                    if let Some(found) = found {
                        let writable = !reclaimable || written[page as usize];
                        prop_assert_eq!(found.attributes.access == Access::ReadWrite, writable);
                        prop_assert_eq!(Some(found.physical - 123), object.frame_if_committed(page).unwrap());
                    }
                    prop_assert_eq!(fault, if there { Fault::Resolved } else { Fault::Unsupplied });
                    let (mapped, offset) = space.mapped_at(address).unwrap();
                    prop_assert!(mapped.is(&object) && mapped.pager().is_some());
                    prop_assert_eq!(offset, page * PAGE_BYTES + 123);
                }
                Step::TakeBack { page, told } => {
                    let mut bytes = [0x5A_u8; PAGE_BYTES as usize];
                    let into = UserSlice::new(bytes.as_mut_ptr() as u64, PAGE_BYTES).unwrap();
                    let used = account.used();
                    let taken = object.take_back(page, told.then_some(into));
                    if !reclaimable {
                        prop_assert_eq!(taken, Err(Error::NotSupported));
                        continue;
                    }
                    let was = model[page as usize].take();
                    prop_assert_eq!(taken, Ok(match was {
                        None => TakenBack::Nothing,
                        Some(_) if written[page as usize] => TakenBack::Written,
                        Some(_) => TakenBack::Unchanged,
                    }));
                    prop_assert_eq!(account.used(), used - u64::from(was.is_some()));
                    prop_assert_eq!(translate(&space, BASE + page * PAGE_BYTES), None);
                    let expected = match was {
                        Some(ends) if told && written[page as usize] => ends,
                        _ => (0x5A, 0x5A),
                    };
                    prop_assert_eq!((bytes[0], bytes[4095]), expected);
                    written[page as usize] = false;
                }
            }
        }
        drop(space);
        drop(object);
        testing::settle(&account);
    }
}

#[test]
fn what_cannot_be_supplied_changes_nothing() {
    testing::kernel_machine();
    let account = Account::create(0).unwrap();
    let object = paged(&account, MemoryFlags::NONE);
    for frames in 0..2 {
        account.set_limit(frames);
        assert_eq!(supply(&object, 0, &[1]), Err(Error::QuotaExceeded));
        assert_eq!(object.read(0, &mut [0]), Err(Error::NotSupplied));
        assert_eq!(account.used(), 0, "{frames}");
    }
    account.set_limit(2);
    assert_eq!(supply(&object, PAGES, &[1]), Err(Error::OutOfRange));
    assert_eq!(supply(&object, 0, &[1]), Ok(true));
    assert_eq!(supply(&object, 1, &[1]), Err(Error::QuotaExceeded));
    assert_eq!(account.used(), 2);
    let plain = MemoryObject::create(PAGE_BYTES, None).unwrap();
    assert_eq!(supply(&plain, 0, &[1]), Err(Error::NotSupported));
    drop(object);
    testing::settle(&account);
}

#[test]
fn only_what_was_made_for_it_is_taken_back() {
    testing::kernel_machine();
    let account = Account::create(10).unwrap();
    let object = paged(&account, MemoryFlags::RECLAIMABLE);
    assert_eq!(object.take_back(PAGES, None), Err(Error::OutOfRange));
    assert_eq!(object.take_back(0, None), Ok(TakenBack::Nothing));
    assert_eq!(object.clone_for(None).map(drop), Err(Error::NotSupported));
    for (flags, pager) in [
        (MemoryFlags::NONE, false),
        (MemoryFlags::CLONABLE, false),
        (MemoryFlags::NONE, true),
    ] {
        let other = if pager {
            paged(&account, flags)
        } else {
            MemoryObject::create_with(PAGE_BYTES, flags, None).unwrap()
        };
        assert_eq!(other.take_back(0, None), Err(Error::NotSupported));
    }
    for bits in [4, 5, 6, 7] {
        assert_eq!(
            MemoryObject::create_with(PAGE_BYTES, MemoryFlags(bits), None).map(drop),
            Err(Error::BadArgument)
        );
    }
    // A page can go and come as often as one likes, and takes no more than it did.
    assert_eq!(supply(&object, 3, &[1]), Ok(true));
    let used = account.used();
    for byte in 0..20 {
        assert_eq!(object.take_back(3, None), Ok(TakenBack::Unchanged));
        assert_eq!(account.used(), used - 1);
        assert_eq!(supply(&object, 3, &[byte]), Ok(true));
        assert_eq!(account.used(), used);
    }
    drop(object);
    testing::settle(&account);
}

#[test]
fn nobody_supplies_a_page_while_what_was_written_to_it_is_being_told() {
    testing::kernel_machine();
    let account = Account::create(10).unwrap();
    let object = paged(&account, MemoryFlags::RECLAIMABLE);
    let (anonymous, sharing) = (object.changeable().unwrap(), object.sharing().unwrap());
    let space = Space::create(None, Mode::Long).unwrap();
    let rights = Protection::READ_WRITE;
    space
        .map(&object, Rights::ALL, BASE, 0, PAGES * PAGE_BYTES, rights)
        .unwrap();
    for told in [Err(Error::BadPointer), Ok(()), Err(Error::NotSupplied)] {
        assert_eq!(supply(&object, 1, &[1]), Ok(true));
        object.write(PAGE_BYTES, &[7]).unwrap();
        let used = account.used();
        let address = BASE + PAGE_BYTES;
        assert_eq!(
            space.handle_page_fault(address, Access::ReadWrite),
            Fault::Resolved
        );
        // One thread of the pager is at its buffer, and nobody has the page.
        let taken = anonymous.begin_to_take(sharing, 1, true).unwrap();
        assert!(matches!(taken, Taken::Hidden(_)));
        assert_eq!(object.read(PAGE_BYTES, &mut [0]), Err(Error::NotSupplied));
        assert_eq!(object.write(PAGE_BYTES, &[8]), Err(Error::NotSupplied));
        for access in [Access::Read, Access::ReadWrite] {
            let fault = space.handle_page_fault(address, access);
            assert_eq!(fault, Fault::Unsupplied);
        }
        assert_eq!(translate(&space, address), None);
        // Another thread of the pager is there, and has what the page was before.
        assert_eq!(supply(&object, 1, &[1]), Err(Error::Busy));
        let mut bytes = [0_u8; PAGE_BYTES as usize];
        let into = UserSlice::new(bytes.as_mut_ptr() as u64, PAGE_BYTES).unwrap();
        for into in [None, Some(into)] {
            assert_eq!(object.take_back(1, into), Err(Error::Busy));
        }
        assert_eq!(account.used(), used);
        // Pages beside it are nobody's concern.
        assert_eq!(supply(&object, 2, &[2]), Ok(true));
        assert_eq!(object.take_back(2, Some(into)), Ok(TakenBack::Unchanged));

        let ended = anonymous.end_to_take(1, told);
        assert_eq!(ended, told.map(|()| TakenBack::Written));
        let mut byte = [0];
        let read = object.read(PAGE_BYTES, &mut byte).map(|()| byte[0]);
        if told.is_err() {
            // It is there, and still what was written.
            assert_eq!((read, account.used()), (Ok(7), used));
            assert_eq!(supply(&object, 1, &[1]), Ok(false));
            assert_eq!(object.take_back(1, Some(into)), Ok(TakenBack::Written));
            assert_eq!(bytes[0], 7);
        } else {
            assert_eq!((read, account.used()), (Err(Error::NotSupplied), used - 1));
        }
    }
    drop((space, object));
    testing::settle(&account);
}
