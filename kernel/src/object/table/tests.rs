//! The handle table against a plain model, and at its limits.

use std::collections::BTreeMap;

use abi::{Badge, Error, Handle, Rights};
use proptest::prelude::*;

use super::{HandleTable, MAX_SLOTS, SLOTS_PER_FRAME};
use crate::ipc::Notification;
use crate::memory::testing;
use crate::object::{AnyObject, Capability, Ref};

/// Looks at any number of slots.
const ALL: u32 = u32::MAX;

impl HandleTable {
    /// Slots promised to receivers.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Lets a slot look as if its handle had been closed often; gives the handle that its capability has now.
    fn age(&mut self, handle: Handle, generation: u32) -> Handle {
        self.get(handle).expect("the handle is good");
        let slot = self.slot(handle.index()).expect("the slot exists");
        // SAFETY: slots of the table are initialised, and `&mut self` gives exclusive access.
        unsafe { &*slot }.generation.set(generation);
        Handle::new(handle.index(), generation)
    }
}

fn capability(badge: u64) -> Capability {
    Capability::new(AnyObject::Log, Rights::ALL, Badge(badge))
}

fn insert(table: &mut HandleTable, badge: u64) -> Result<Handle, (Error, u64)> {
    table
        .insert(capability(badge))
        .map_err(|(error, back)| (error, back.badge().0))
}

fn badge(table: &HandleTable, handle: Handle) -> Result<u64, Error> {
    table.get(handle).map(|capability| capability.badge().0)
}

fn table(limit: u32) -> HandleTable {
    testing::machine();
    HandleTable::new(limit, None)
}

#[test]
fn an_empty_table_knows_no_handle() {
    let mut table = table(10);
    for handle in [
        Handle::NONE,
        Handle(u64::MAX),
        Handle::new(0, 1),
        Handle::new(u32::MAX, 1),
    ] {
        assert_eq!(badge(&table, handle), Err(Error::BadHandle));
        assert_eq!(table.remove(handle).err(), Some(Error::BadHandle));
    }
    assert!(table.is_empty() && table.remove_any(&mut 0, &mut { ALL }).is_none());
}

#[test]
fn a_stale_handle_never_reaches_a_later_object() {
    let mut table = table(1);
    let mut former = Vec::new();
    for number in 0..1000 {
        let handle = insert(&mut table, number).unwrap();
        assert_eq!(handle.index(), 0);
        assert_eq!(badge(&table, handle), Ok(number));
        for &stale in &former {
            assert_eq!(badge(&table, stale), Err(Error::BadHandle));
            assert!(table.remove(stale).is_err());
        }
        assert_eq!(table.remove(handle).unwrap().badge().0, number);
        assert_eq!(badge(&table, handle), Err(Error::BadHandle));
        former.push(handle);
        former.truncate(40);
    }
}

#[test]
fn a_handle_of_another_generation_or_slot_is_bad() {
    let mut table = table(10);
    let handle = insert(&mut table, 1).unwrap();
    for index in 0..200 {
        for generation in [0, 1, 2, u32::MAX] {
            let tried = Handle::new(index, generation);
            assert_eq!(badge(&table, tried).is_ok(), tried == handle);
        }
    }
}

#[test]
fn a_slot_whose_generation_is_used_up_is_retired() {
    let mut table = table(2);
    let first = insert(&mut table, 1).unwrap();
    let aged = table.age(first, u32::MAX - 1);
    assert_eq!(badge(&table, first), Err(Error::BadHandle));
    assert_eq!(table.remove(aged).unwrap().badge().0, 1);
    // The last generation is still good.
    let last = insert(&mut table, 2).unwrap();
    assert_eq!(last, Handle::new(first.index(), u32::MAX));
    assert_eq!(table.remove(last).unwrap().badge().0, 2);
    // From here on nothing moves in, whatever is asked for, and none of its handles is good again.
    let other = insert(&mut table, 3).unwrap();
    assert_ne!(other.index(), first.index());
    assert_eq!(
        insert(&mut table, 4),
        Err((Error::QuotaExceeded, 4)),
        "a retired slot counts as used"
    );
    assert_eq!(table.reserve(1), Err(Error::QuotaExceeded));
    for generation in [0, 1, u32::MAX - 1, u32::MAX] {
        let stale = Handle::new(first.index(), generation);
        assert_eq!(badge(&table, stale), Err(Error::BadHandle));
        assert!(table.remove(stale).is_err());
    }
    let (mut from, mut looks) = (0, ALL);
    let last = table.remove_any(&mut from, &mut looks);
    assert_eq!(last.unwrap().badge().0, 3);
    assert!(table.remove_any(&mut from, &mut looks).is_none());
}

#[test]
fn a_large_table_that_is_nearly_empty_is_looked_through_in_pieces() {
    let mut table = table(400);
    let handles: Vec<Handle> = (0..400)
        .map(|badge| insert(&mut table, badge).unwrap())
        .collect();
    for handle in &handles[..399] {
        drop(table.remove(*handle).unwrap());
    }
    let mut from = 0;
    for end in [100, 200, 300] {
        let mut looks = 100;
        assert!(table.remove_any(&mut from, &mut looks).is_none());
        assert_eq!((from, looks), (end, 0));
    }
    let mut looks = 101;
    let last = table.remove_any(&mut from, &mut looks);
    assert_eq!((last.unwrap().badge().0, looks), (399, 1));
    assert!(table.remove_any(&mut from, &mut looks).is_none());
}

#[test]
fn at_the_limit_the_capability_comes_back_and_nothing_is_lost() {
    for limit in [
        1,
        2,
        SLOTS_PER_FRAME as u32 - 1,
        SLOTS_PER_FRAME as u32,
        SLOTS_PER_FRAME as u32 + 1,
        300,
    ] {
        let mut table = table(limit);
        let handles: Vec<Handle> = (0..u64::from(limit))
            .map(|number| insert(&mut table, number).unwrap())
            .collect();
        assert_eq!(table.len(), limit);
        assert_eq!(insert(&mut table, 9999), Err((Error::QuotaExceeded, 9999)));
        assert_eq!(table.reserve(1), Err(Error::QuotaExceeded));
        assert_eq!(table.reserved(), 0);
        for (number, handle) in handles.iter().enumerate() {
            assert_eq!(badge(&table, *handle), Ok(number as u64));
        }
        assert!(table.remove(handles[0]).is_ok());
        assert_eq!(table.reserve(1), Ok(()));
        assert_eq!(insert(&mut table, 9999), Err((Error::QuotaExceeded, 9999)));
        let late = table.insert_reserved(capability(7));
        assert_eq!((badge(&table, late), table.len()), (Ok(7), limit));
    }
}

#[test]
fn a_table_without_a_limit_ends_at_its_directory() {
    assert_eq!(table(u32::MAX).limit as usize, MAX_SLOTS);
    assert_eq!(insert(&mut table(0), 5), Err((Error::QuotaExceeded, 5)));
    assert_eq!(table(0).reserve(1), Err(Error::QuotaExceeded));
    assert_eq!(table(0).reserve(0), Ok(()));
}

#[test]
fn what_is_reserved_can_be_filled_and_is_nobody_elses() {
    let mut table = table(10);
    assert_eq!(table.reserve(4), Ok(()));
    let others: Vec<_> = (0..6)
        .map(|number| insert(&mut table, number).unwrap())
        .collect();
    assert_eq!(insert(&mut table, 6), Err((Error::QuotaExceeded, 6)));
    assert_eq!(table.reserve(1), Err(Error::QuotaExceeded));
    for number in 10..14 {
        let handle = table.insert_reserved(capability(number));
        assert_eq!(badge(&table, handle), Ok(number));
    }
    assert_eq!((table.reserved(), table.len()), (0, 10));
    assert_eq!(others.len(), 6);
    table.remove(others[3]).unwrap();
    assert_eq!(table.reserve(1), Ok(()));
    table.release(1);
    assert!(insert(&mut table, 20).is_ok());
}

#[test]
#[should_panic(expected = "a slot was reserved")]
fn filling_what_was_not_reserved_is_a_kernel_bug() {
    let mut table = table(10);
    insert(&mut table, 1).unwrap();
    table.insert_reserved(capability(2));
}

#[test]
fn the_end_of_a_table_drops_what_is_in_it() {
    testing::machine();
    let object = Ref::try_new(Notification::new()).unwrap();
    let waiter = crate::thread::testing::Program::alone("waiter");
    waiter.wait(&object, abi::Deadline::NEVER).unwrap();
    let mut table = table(500);
    for _ in 0..300 {
        let capability = Capability::new(
            AnyObject::Notification(object.clone()),
            Rights::ALL,
            Badge(0),
        );
        table
            .insert(capability)
            .map_err(|(error, _)| error)
            .unwrap();
    }
    drop(object);
    assert!(crate::thread::testing::woken().is_empty());
    drop(table);
    assert_eq!(crate::thread::testing::woken(), [waiter.pointer()]);
}

#[derive(Clone, Debug)]
enum Step {
    Insert,
    Remove { pick: usize },
    RemoveStale { pick: usize },
    Reserve { count: u32 },
    Release { pick: u32 },
    InsertReserved,
    Age { pick: usize, left: u32 },
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Insert),
        6 => any::<usize>().prop_map(|pick| Step::Remove { pick }),
        2 => any::<usize>().prop_map(|pick| Step::RemoveStale { pick }),
        3 => (0..6u32).prop_map(|count| Step::Reserve { count }),
        2 => any::<u32>().prop_map(|pick| Step::Release { pick }),
        3 => Just(Step::InsertReserved),
        1 => (any::<usize>(), 0..2u32).prop_map(|(pick, left)| Step::Age { pick, left }),
        1 => Just(Step::Empty),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_a_model(limit in 1..200u32, steps in prop::collection::vec(step(), 1..400)) {
        let mut table = table(limit);
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut stale: Vec<Handle> = Vec::new();
        let (mut reserved, mut retired, mut next) = (0, 0, 0);
        for step in steps {
            let room = limit - model.len() as u32 - reserved - retired;
            let picked = |pick: usize| model.keys().nth(pick % model.len().max(1)).map(|&handle| Handle(handle));
            match step {
                Step::Insert => {
                    next += 1;
                    match insert(&mut table, next) {
                        Ok(handle) => {
                            prop_assert!(room > 0);
                            prop_assert!(model.insert(handle.0, next).is_none());
                        }
                        Err(refused) => prop_assert_eq!((room, refused), (0, (Error::QuotaExceeded, next))),
                    }
                }
                Step::Remove { pick } => if let Some(handle) = picked(pick) {
                    let badge = model.remove(&handle.0).unwrap();
                    prop_assert_eq!(table.remove(handle).unwrap().badge().0, badge);
                    stale.push(handle);
                    retired += u32::from(handle.generation() == u32::MAX);
                }
                Step::RemoveStale { pick } => if !stale.is_empty() {
                    prop_assert!(table.remove(stale[pick % stale.len()]).is_err());
                }
                Step::Reserve { count } => {
                    let expected = if count <= room { Ok(()) } else { Err(Error::QuotaExceeded) };
                    prop_assert_eq!(table.reserve(count), expected);
                    reserved += if expected.is_ok() { count } else { 0 };
                }
                Step::Release { pick } => {
                    let count = pick % (reserved + 1);
                    table.release(count);
                    reserved -= count;
                }
                Step::InsertReserved => if reserved > 0 {
                    next += 1;
                    let handle = table.insert_reserved(capability(next));
                    prop_assert!(model.insert(handle.0, next).is_none());
                    reserved -= 1;
                }
                Step::Age { pick, left } => if let Some(handle) = picked(pick).filter(|handle| handle.generation() < u32::MAX - 1) {
                    let badge = model.remove(&handle.0).unwrap();
                    let aged = table.age(handle, u32::MAX - left);
                    stale.push(handle);
                    model.insert(aged.0, badge);
                }
                Step::Empty => {
                    let (mut from, mut looks) = (0, ALL);
                    let mut out: Vec<u64> = Vec::new();
                    while let Some(capability) = table.remove_any(&mut from, &mut looks) {
                        out.push(capability.badge().0);
                    }
                    out.sort_unstable();
                    let mut expected: Vec<u64> = model.values().copied().collect();
                    expected.sort_unstable();
                    prop_assert_eq!(out, expected);
                    retired += model.keys().filter(|&&handle| Handle(handle).generation() == u32::MAX).count() as u32;
                    stale.extend(model.keys().map(|&handle| Handle(handle)));
                    model.clear();
                }
            }
            prop_assert_eq!((table.len(), table.reserved()), (model.len() as u32 + retired, reserved));
        }
        for (&handle, &expected) in &model {
            prop_assert_eq!(badge(&table, Handle(handle)), Ok(expected));
        }
        for handle in stale {
            prop_assert_eq!(badge(&table, handle), Err(Error::BadHandle));
        }
    }
}
