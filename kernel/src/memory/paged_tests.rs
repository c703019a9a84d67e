//! Memory with a pager, against a model of which pages are there.

use proptest::prelude::*;

use abi::{Badge, Protection, Rights};
use arch::paging::Access;

use super::super::space::{Fault, Mode, Space};
use super::super::testing;
use super::*;
use crate::ipc::Endpoint;

const PAGES: u64 = 5;
const BASE: u64 = 0x4000_0000;

fn paged(account: &Ref<Account>) -> Ref<MemoryObject> {
    let endpoint = Ref::try_new(Endpoint::made_by(0)).unwrap();
    let pager = Listener::create(endpoint, Badge(7)).unwrap();
    MemoryObject::create_paged(PAGES * PAGE_BYTES, pager, Some(account.clone())).unwrap()
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
    Touch { page: u64 },
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
        page.prop_map(|page| Step::Touch { page }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The model: of each page that is there its first byte and its last.
    #[test]
    fn memory_with_a_pager_has_what_was_supplied_and_nothing_else(steps in prop::collection::vec(step(), 1..60)) {
        testing::kernel_machine();
        let account = Account::create(100).unwrap();
        let object = paged(&account);
        let space = Space::new(None, Mode::Long).unwrap();
        space.map(&object, Rights::ALL, BASE, 0, PAGES * PAGE_BYTES, Protection::READ_WRITE).unwrap();
        let mut model = [None; PAGES as usize];
        for step in steps {
            match step {
                Step::Supply { page, byte, bytes } => {
                    let new = model[page as usize].is_none();
                    prop_assert_eq!(supply(&object, page, &vec![byte; bytes]), Ok(new));
                    if new {
                        let last = if bytes == 4096 { byte } else { 0 };
                        model[page as usize] = Some((byte, last));
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
                    }
                }
                Step::Touch { page } => {
                    let address = BASE + page * PAGE_BYTES + 123;
                    let fault = space.handle_page_fault(address, Access::ReadWrite);
                    let there = model[page as usize].is_some();
                    prop_assert_eq!(fault, if there { Fault::Resolved } else { Fault::Unsupplied });
                    let (mapped, offset) = space.mapped_at(address).unwrap();
                    prop_assert!(mapped.is(&object) && mapped.pager().is_some());
                    prop_assert_eq!(offset, page * PAGE_BYTES + 123);
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
    let object = paged(&account);
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
