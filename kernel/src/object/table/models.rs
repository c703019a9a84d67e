//! Models of handles that move between two tables, run by loom.
//!
//! Two locks of one level are never held at once: a handle is taken out under the one and put in under the other, into a slot that was
//! reserved there before, so that nothing can fail in between. loom's locks stand for the kernel's; the tables are the kernel's own.

use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Badge, Handle, Rights};
use loom::sync::{Arc, Mutex};

use super::HandleTable;
use crate::atomics::models::{Race, check};
use crate::memory::testing;
use crate::object::{AnyObject, Capability};

/// Two processes' tables, each with a handle that is to move to the other.
struct Scene {
    tables: [Mutex<HandleTable>; 2],
    handles: [Handle; 2],
    /// Whether somebody who holds the table wants the other. No part of the model.
    wants_other: [AtomicBool; 2],
}

/// What a party of the model does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slip {
    None,
    /// Who moves a handle looks it up, and takes it out in a second holding of the lock.
    LooksThenTakes,
    /// It holds the sender's lock while it takes the receiver's.
    HoldsBothLocks,
}

impl Scene {
    fn new() -> Arc<Scene> {
        let mut handles = [Handle::NONE; 2];
        let tables = [0, 1].map(|index| {
            let mut table = HandleTable::new(8, None);
            let badge = Badge(index as u64 + 1);
            let capability = Capability::new(AnyObject::Log, Rights::ALL, badge);
            let Ok(handle) = table.insert(capability) else {
                unreachable!("there is room")
            };
            handles[index] = handle;
            // It receives one.
            table.reserve(1).expect("there is room");
            Mutex::new(table)
        });
        Arc::new(Scene {
            tables,
            handles,
            wants_other: [const { AtomicBool::new(false) }; 2],
        })
    }

    /// Moves the handle of the table `from` to the other one; gives its name there.
    fn transfer(&self, from: usize, slip: Slip) -> Option<Handle> {
        let to = 1 - from;
        let mut sender = self.tables[from].lock().unwrap();
        if slip == Slip::LooksThenTakes {
            sender.get(self.handles[from]).ok()?;
            drop(sender);
            sender = self.tables[from].lock().unwrap();
            let taken = sender.remove(self.handles[from]);
            assert!(taken.is_ok(), "what was looked up is gone");
            drop(sender);
            return taken.ok().map(|taken| self.put(to, taken));
        }
        let taken = sender.remove(self.handles[from]).ok()?;
        if slip == Slip::HoldsBothLocks {
            self.wants_other[from].store(true, Ordering::Relaxed);
            let is_wanted = self.wants_other[to].load(Ordering::Relaxed);
            let receiver = self.tables[to].try_lock();
            let is_stuck = receiver.is_err() && is_wanted;
            drop((receiver, sender));
            assert!(!is_stuck, "each waits for the other's lock");
            return Some(self.put(to, taken));
        }
        drop(sender);
        Some(self.put(to, taken))
    }

    fn put(&self, to: usize, capability: Capability) -> Handle {
        self.tables[to].lock().unwrap().insert_reserved(capability)
    }

    fn badge(&self, table: usize, handle: Handle) -> Option<u64> {
        let table = self.tables[table].lock().unwrap();
        table
            .get(handle)
            .ok()
            .map(|capability| capability.badge().0)
    }

    fn len(&self) -> u32 {
        self.tables
            .iter()
            .map(|table| table.lock().unwrap().len())
            .sum()
    }
}

/// Two processes move a handle to each other, while the one that the first is about to move is closed.
fn two_transfers_and_a_close(slip: Slip) {
    testing::machine();
    check(2, move || {
        let scene = Scene::new();
        let [one, other, closer] = core::array::from_fn(|_| scene.clone());
        let moved: [Arc<Mutex<Option<Handle>>>; 2] = core::array::from_fn(|_| Arc::default());
        let closed = Arc::new(AtomicBool::new(false));
        let ([one_moved, other_moved], was_closed) = (moved.clone(), closed.clone());
        Race {
            parties: [
                Box::new(move || *one_moved.lock().unwrap() = one.transfer(0, slip)),
                Box::new(move || *other_moved.lock().unwrap() = other.transfer(1, slip)),
                Box::new(move || {
                    let taken = closer.tables[0].lock().unwrap().remove(closer.handles[0]);
                    was_closed.store(taken.is_ok(), Ordering::Relaxed);
                }),
            ],
            end: Box::new(move || {
                let [one, other] = moved.map(|moved| *moved.lock().unwrap());
                let is_closed = closed.load(Ordering::Relaxed);
                assert_eq!(one.is_none(), is_closed, "it is moved, or closed");
                assert_eq!(scene.len(), 2 - u32::from(is_closed), "one is lost");
                assert_eq!(one.and_then(|one| scene.badge(1, one)), one.map(|_| 1));
                assert_eq!(other.and_then(|other| scene.badge(0, other)), Some(2));
                for table in [0, 1] {
                    assert_eq!(
                        scene.badge(table, scene.handles[table]),
                        None,
                        "a stale handle"
                    );
                }
            }),
        }
    });
}

#[test]
fn handles_that_change_places_are_in_one_table_each() {
    two_transfers_and_a_close(Slip::None);
}

#[test]
#[should_panic(expected = "what was looked up is gone")]
fn the_model_notices_a_transfer_that_lets_go_of_the_table_in_between() {
    two_transfers_and_a_close(Slip::LooksThenTakes);
}

#[test]
#[should_panic(expected = "each waits for the other's lock")]
fn the_model_notices_a_transfer_that_holds_both_tables() {
    two_transfers_and_a_close(Slip::HoldsBothLocks);
}
