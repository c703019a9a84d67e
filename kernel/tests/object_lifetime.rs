//! When objects die: counted references, borrowed ones, and the quiescent points of several CPUs.
//!
//! The list of retired objects is one for the whole kernel, and these tests must know who empties it when. So they are a
//! program of their own, and take turns.

#![allow(
    clippy::disallowed_methods,
    reason = "tests run where memory does not end"
)]

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use abi::Error;
use arch::addr::PhysAddr;
use kernel::memory::frames;
use kernel::memory::map::{MemoryKind, MemoryRange};
use kernel::object::quiescent::{self, Seen};
use kernel::object::{Borrowed, Object, Ref, Section, Slab, stamp_of};

/// Physical address and size of the memory that the tests have.
const RAM_START: u64 = 1 << 32;
const RAM_BYTES: u64 = 8 << 20;

/// What a live object holds in its second word, from its first.
const MAGIC: u64 = 0x5EED_0FA1_171F_EEE5;

/// What became of one object.
#[derive(Default)]
struct Fate {
    last_references: AtomicU32,
    pieces: AtomicU32,
    dropped: AtomicU32,
}

impl Fate {
    /// Calls of `last_reference`, pieces torn down, drops.
    fn seen(&self) -> (u32, u32, u32) {
        let load = |count: &AtomicU32| count.load(Ordering::SeqCst);
        (
            load(&self.last_references),
            load(&self.pieces),
            load(&self.dropped),
        )
    }
}

/// An object that notes what happens to it.
struct Probe {
    number: u64,
    /// `number ^ MAGIC` while it lives.
    check: AtomicU64,
    fate: Arc<Fate>,
    pieces_left: u32,
    next: Option<Ref<Probe>>,
}

static SLAB: Slab<Probe> = Slab::new();

impl Object for Probe {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }

    fn last_reference(&self) {
        assert!(self.is_alive());
        self.fate.last_references.fetch_add(1, Ordering::SeqCst);
    }

    fn tear_down(&mut self) -> bool {
        assert!(self.is_alive());
        if self.pieces_left == 0 {
            return true;
        }
        self.pieces_left -= 1;
        self.fate.pieces.fetch_add(1, Ordering::SeqCst);
        false
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        assert_eq!(self.pieces_left, 0);
        self.check.store(0, Ordering::SeqCst);
        self.fate.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Probe {
    fn new(number: u64, fate: &Arc<Fate>) -> Probe {
        Probe {
            number,
            check: AtomicU64::new(number ^ MAGIC),
            fate: fate.clone(),
            pieces_left: 0,
            next: None,
        }
    }

    /// With so many pieces to tear down, and a reference to another.
    fn with(mut self, pieces: u32, next: Option<Ref<Probe>>) -> Probe {
        (self.pieces_left, self.next) = (pieces, next);
        self
    }

    fn is_alive(&self) -> bool {
        self.check.load(Ordering::Relaxed) == self.number ^ MAGIC
    }
}

fn object(number: u64) -> (Ref<Probe>, Arc<Fate>) {
    let fate = Arc::default();
    (Ref::try_new(Probe::new(number, &fate)).unwrap(), fate)
}

/// The kernel's list of the retired for one test, empty.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    static MACHINE: Once = Once::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    MACHINE.call_once(|| {
        let layout = std::alloc::Layout::from_size_align(RAM_BYTES as usize, 4096).unwrap();
        // SAFETY: the layout is not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) } as u64;
        assert_ne!(base, 0);
        // SAFETY: the memory stays for ever, and nothing was made with another offset.
        unsafe { arch::memory::set_direct_map(base.wrapping_sub(RAM_START)) };
        let ram = MemoryRange {
            start: RAM_START / 4096,
            frames: RAM_BYTES / 4096,
            kind: MemoryKind::Usable,
        };
        frames::init([ram].into_iter()).unwrap();
    });
    reclaim_all(&[]);
    turn
}

/// Tries to destroy a piece, and says which CPUs are in the way.
fn reclaim(budget: usize, cpus: &[Seen]) -> Vec<usize> {
    let mut stragglers = Vec::new();
    quiescent::reclaim(
        budget,
        &|visit| {
            cpus.iter()
                .enumerate()
                .for_each(|(index, seen)| visit(index, seen));
        },
        &mut |straggler| stragglers.push(straggler),
    );
    stragglers
}

fn reclaim_all(cpus: &[Seen]) {
    while quiescent::pending() != 0 {
        cpus.iter().for_each(Seen::pass);
        assert!(reclaim(64, cpus).is_empty());
    }
}

/// CPUs that run, each past a first quiescent point.
fn running<const CPUS: usize>() -> [Seen; CPUS] {
    let cpus = [const { Seen::new() }; CPUS];
    cpus.iter().for_each(Seen::pass);
    cpus
}

fn section() -> Section {
    // SAFETY: the tests let it end before the next `pass` of the CPU that they stand for.
    unsafe { Section::enter() }
}

#[test]
fn an_object_dies_after_every_cpu_has_passed_a_quiescent_point() {
    let _turn = alone();
    let cpus = running::<3>();
    let (reference, fate) = object(1);
    cpus[0].pass();
    drop(reference);
    assert_eq!((fate.seen(), quiescent::pending()), ((1, 0, 0), 1));
    assert_eq!(
        reclaim(8, &cpus),
        [0, 1, 2],
        "a point before the retirement does not count"
    );
    cpus[1].pass();
    assert_eq!(reclaim(8, &cpus), [0, 2]);
    cpus[1].pass();
    cpus[0].pass();
    assert_eq!(reclaim(8, &cpus), [2]);
    assert_eq!(fate.seen(), (1, 0, 0));
    cpus[2].pass();
    assert!(reclaim(8, &cpus).is_empty());
    assert_eq!((fate.seen(), quiescent::pending()), ((1, 0, 1), 0));
}

#[test]
fn a_cpu_that_sleeps_or_has_not_begun_is_not_waited_for() {
    let _turn = alone();
    let cpus = [Seen::new(), Seen::new()];
    cpus[1].pass();
    let (first, first_fate) = object(1);
    let (second, second_fate) = object(2);
    drop(first);
    cpus[1].leave();
    assert!(reclaim(8, &cpus).is_empty());
    assert_eq!(first_fate.seen(), (1, 0, 1));
    // Back again, it counts for what is retired from now on.
    cpus[1].return_to_if_away();
    drop(second);
    assert_eq!(reclaim(8, &cpus), [1]);
    // It is not away: this must not pass for a quiescent point.
    cpus[1].return_to_if_away();
    assert_eq!(reclaim(8, &cpus), [1]);
    assert_eq!(second_fate.seen(), (1, 0, 0));
    cpus[1].pass();
    assert!(reclaim(8, &cpus).is_empty());
    assert_eq!(second_fate.seen(), (1, 0, 1));
}

#[test]
fn the_last_of_many_references_ends_the_object_once() {
    let _turn = alone();
    let (reference, fate) = object(7);
    let copies: Vec<_> = (0..10).map(|_| reference.clone()).collect();
    assert!(
        copies
            .iter()
            .all(|copy| copy.is(&reference) && copy.as_ptr() == reference.as_ptr())
    );
    drop(reference);
    let raw = copies[0].clone().into_raw();
    drop(copies);
    assert_eq!((fate.seen(), quiescent::pending()), ((0, 0, 0), 0));
    // SAFETY: the pointer comes from `into_raw` and is taken up once.
    let last = unsafe { Ref::from_raw(raw) };
    assert_eq!(last.number, 7);
    drop(last);
    assert_eq!(fate.seen(), (1, 0, 0));
    reclaim_all(&[]);
    assert_eq!(fate.seen(), (1, 0, 1));
}

#[test]
fn a_borrowed_object_outlives_its_last_reference_but_is_not_revived() {
    let _turn = alone();
    let cpus = running::<1>();
    let (reference, fate) = object(3);
    {
        let section = section();
        let borrowed = reference.borrow(&section);
        let copy = borrowed;
        let counted = borrowed.to_ref().expect("it is still counted");
        assert!(counted.is(&reference));
        drop(counted);
        let pointer = reference.as_ptr();
        drop(reference);
        assert!(reclaim(8, &cpus) == [0] && borrowed.get().is_alive() && copy.is_alive());
        assert!(borrowed.to_ref().is_none() && copy.to_ref().is_none());
        // SAFETY: it was reachable in this section.
        let again = unsafe { Borrowed::from_ptr(pointer, &section) };
        assert!(again.to_ref().is_none() && again.number == 3);
        assert_eq!(fate.seen(), (1, 0, 0));
    }
    reclaim_all(&cpus);
    assert_eq!(fate.seen(), (1, 0, 1));
}

#[test]
fn stamps_grow_over_the_lives_of_a_slots_objects() {
    let _turn = alone();
    let frames = {
        drop(object(0));
        reclaim_all(&[]);
        SLAB.frames()
    };
    let mut former = (core::ptr::null(), 0);
    for number in 0..100 {
        let (reference, _) = object(number);
        // SAFETY: the pointer is to a slot's value.
        let stamp = unsafe { stamp_of::<Probe>(reference.as_ptr()) }.load(Ordering::SeqCst);
        let place = reference.as_ptr();
        if number > 0 {
            assert_eq!(place, former.0, "the slot is used again");
            assert!(stamp > former.1);
        }
        drop(reference);
        reclaim_all(&[]);
        // SAFETY: slots are never given back, so the stamp of an empty one can be read.
        let after = unsafe { stamp_of::<Probe>(place) }.load(Ordering::SeqCst);
        assert!(
            after > stamp,
            "also a stale stamp of the last life is recognised before the next one"
        );
        former = (place, after - 1);
    }
    assert_eq!(
        SLAB.frames(),
        frames,
        "no memory is taken for slots that are free"
    );
}

#[test]
fn a_large_object_is_torn_down_piece_by_piece() {
    let _turn = alone();
    let fate = Arc::default();
    let large = Ref::try_new(Probe::new(1, &fate).with(5, None));
    let (small, small_fate) = object(2);
    drop(large.unwrap());
    drop(small);
    for done in 1..=5 {
        assert!(reclaim(1, &[]).is_empty());
        assert_eq!((fate.seen(), small_fate.seen()), ((1, done, 0), (1, 0, 0)));
        assert_eq!(quiescent::pending(), 2);
    }
    reclaim(1, &[]);
    assert_eq!((fate.seen(), small_fate.seen()), ((1, 5, 1), (1, 0, 0)));
    reclaim(1, &[]);
    assert_eq!((small_fate.seen(), quiescent::pending()), ((1, 0, 1), 0));
    // The list is sound after it was empty but for the one in work.
    let (again, again_fate) = object(3);
    drop(again);
    reclaim_all(&[]);
    assert_eq!(again_fate.seen(), (1, 0, 1));
}

#[test]
fn the_last_piece_of_the_only_object_and_one_retired_meanwhile_are_both_found() {
    let _turn = alone();
    let fate = Arc::default();
    let large = Ref::try_new(Probe::new(1, &fate).with(2, None));
    drop(large.unwrap());
    reclaim(1, &[]);
    let (other, other_fate) = object(2);
    drop(other);
    reclaim_all(&[]);
    assert_eq!((fate.seen(), other_fate.seen()), ((1, 2, 1), (1, 0, 1)));
}

#[test]
fn a_long_chain_of_objects_ends_one_by_one() {
    const LENGTH: usize = 20_000;
    let _turn = alone();
    let fate = Arc::default();
    let mut head = None;
    for number in 0..LENGTH {
        head = Some(Ref::try_new(Probe::new(number as u64, &fate).with(0, head)).unwrap());
    }
    assert!(head.as_ref().is_some_and(|head| head.next.is_some()));
    let cpus = running::<2>();
    drop(head);
    // Each one's end only retires the next: no recursion, and each waits for the CPUs anew.
    for done in 0..10 {
        assert_eq!(
            (fate.seen(), quiescent::pending()),
            ((done + 1, 0, done), 1)
        );
        assert_eq!(reclaim(8, &cpus), [0, 1]);
        cpus.iter().for_each(Seen::pass);
        assert_eq!(reclaim(8, &cpus), [0, 1]);
    }
    reclaim_all(&[]);
    assert_eq!(fate.seen().2 as usize, LENGTH);
}

#[test]
fn without_memory_the_value_is_dropped_and_the_error_named() {
    let _turn = alone();
    let fate: Arc<Fate> = Arc::default();
    // One at least, so that there is one to give back.
    let first = Ref::try_new(Probe::new(0, &fate)).unwrap();
    let mut taken: Vec<PhysAddr> = core::iter::from_fn(frames::allocate_frame).collect();
    let mut held = vec![first];
    let error = loop {
        match Ref::try_new(Probe::new(0, &fate)) {
            Ok(reference) => held.push(reference),
            Err(error) => break error,
        }
    };
    assert_eq!((error, fate.seen()), (Error::NoMemory, (0, 0, 1)));
    assert_eq!(SLAB.in_use(), held.len());
    // What is given back can be had again.
    held.pop();
    reclaim_all(&[]);
    assert!(Ref::try_new(Probe::new(0, &fate)).is_ok());
    frames::free_frame(taken.pop().unwrap());
    held.push(Ref::try_new(Probe::new(0, &fate)).unwrap());
    taken.into_iter().for_each(frames::free_frame);
    drop(held);
    reclaim_all(&[]);
    assert_eq!(SLAB.in_use(), 0);
}

/// One CPU of the stress test.
struct Stress<'a> {
    index: usize,
    random: u64,
    cpus: &'a [Seen],
    /// What handle tables are in the kernel: the only places where objects can be found.
    places: &'a [Mutex<Option<Ref<Probe>>>],
    created: &'a AtomicUsize,
    fate: &'a Arc<Fate>,
}

impl Stress<'_> {
    /// A number below `end`; the generator is Steele, Lea and Flood's SplitMix64.
    fn below(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) as usize % end
    }

    /// One entry into the kernel.
    fn enter(&mut self) {
        let place = &self.places[self.below(self.places.len())];
        {
            let section = section();
            let borrowed = place
                .lock()
                .unwrap()
                .as_ref()
                .map(|reference| reference.borrow(&section));
            if self.below(3) == 0 {
                let number = self.created.fetch_add(1, Ordering::Relaxed) as u64;
                let fresh = Ref::try_new(Probe::new(number, self.fate)).unwrap();
                let former = place.lock().unwrap().replace(fresh);
                drop(former);
            }
            if let Some(borrowed) = borrowed {
                for _ in 0..self.below(100) {
                    assert!(borrowed.is_alive(), "CPU {} sees a dead object", self.index);
                }
                // If it can still be counted it may also be put where others find it.
                if let Some(counted) = borrowed.to_ref() {
                    let elsewhere = self.below(self.places.len());
                    let former = self.places[elsewhere].lock().unwrap().replace(counted);
                    drop(former);
                }
                assert!(borrowed.get().is_alive());
            }
        }
        self.cpus[self.index].pass();
        if quiescent::pending() != 0 {
            reclaim(8, self.cpus);
        }
        if self.below(16) == 0 {
            self.cpus[self.index].leave();
            std::thread::yield_now();
            self.cpus[self.index].return_to();
        }
    }
}

#[test]
fn cpus_never_see_a_dead_object_and_all_objects_die() {
    const CPUS: usize = 4;
    const ENTRIES: usize = 100_000;
    let _turn = alone();
    let cpus = running::<CPUS>();
    let places: [Mutex<Option<Ref<Probe>>>; 4] = [const { Mutex::new(None) }; 4];
    let (created, fate) = (AtomicUsize::new(0), Arc::default());
    std::thread::scope(|scope| {
        for index in 0..CPUS {
            let mut cpu = Stress {
                index,
                random: index as u64,
                cpus: &cpus,
                places: &places,
                created: &created,
                fate: &fate,
            };
            scope.spawn(move || {
                for _ in 0..ENTRIES {
                    cpu.enter();
                }
                // It goes to sleep, or the others would wait for it.
                cpu.cpus[index].leave();
            });
        }
    });
    for place in &places {
        drop(place.lock().unwrap().take());
    }
    reclaim_all(&[]);
    let created = created.load(Ordering::Relaxed) as u32;
    assert!(created > 1000);
    assert_eq!((fate.seen(), SLAB.in_use()), ((created, 0, created), 0));
}
