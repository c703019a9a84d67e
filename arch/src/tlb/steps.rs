//! Whatever CPUs do one after another, no CPU's TLB shows a page that is gone: random steps against a TLB that forgets only
//! what it is told to.
//!
//! The TLB here is as bad as hardware may be: it keeps every entry that was ever used, for each name, until a flush takes it. User
//! mode may have tables and names of its own, whose flush waits for the next way out.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::names::NAMES;
use super::{CpuSlot, Machine, Name, Space, Tlb};
use crate::addr::{CpuIndex, PhysAddr, VirtAddr};

const CPUS: usize = 3;
const PAGES: u64 = 20;
/// Spaces that are alive at a time: more than a CPU has names.
const SPACES: usize = NAMES + 2;

/// A mistake that the steps must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// A name that should be flushed when it is loaded is not.
    KeepAlways,
    /// A flush that is due on the way out is forgotten when another space is loaded before.
    DueFlushIsLost,
    /// A request flushes the kernel's entries only.
    UserEntriesStay,
}

/// One CPU's TLB: what is held of (root, page) under each name. Kernel and user mode have different names if they are apart.
#[derive(Default)]
struct Hardware {
    held: RefCell<HashMap<(u16, u64), u64>>,
    root: Cell<u64>,
    name: Cell<u16>,
    user_flush_due: Cell<bool>,
}

const USER: u16 = 0x800;

struct Bench {
    slots: Vec<CpuSlot>,
    cpus: Vec<Hardware>,
    me: Cell<u32>,
    /// Whether user mode has tables of its own.
    apart: bool,
    mistake: Mistake,
}

impl Bench {
    fn here(&self) -> &Hardware {
        &self.cpus[self.me.get() as usize]
    }
    fn forget(&self, name: u16) {
        self.here()
            .held
            .borrow_mut()
            .retain(|&(held, _), _| held != name);
    }
    fn user_name(&self) -> u16 {
        self.here().name.get() | if self.apart { USER } else { 0 }
    }
}

impl Machine for Bench {
    type Word = AtomicU64;

    fn this_cpu(&self) -> CpuIndex {
        CpuIndex(self.me.get())
    }
    fn slot(&self, cpu: CpuIndex) -> Option<&CpuSlot> {
        self.slots.get(cpu.0 as usize)
    }
    fn cpus(&self) -> u32 {
        CPUS as u32
    }
    fn fence(&self) {}
    fn publish(&self, word: &AtomicU64, value: u64) {
        word.store(value, std::sync::atomic::Ordering::Relaxed);
    }
    fn interrupt(&self, _cpu: CpuIndex) {}
    fn is_particular(&self) -> bool {
        true
    }
    fn has_names(&self) -> bool {
        true
    }
    unsafe fn load_root(&self, _root: PhysAddr) {
        unreachable!("there are names");
    }
    unsafe fn load_named(&self, space: &Space, name: Name, keep: bool) {
        let here = self.here();
        here.root.set(space.root().as_u64());
        here.name.set(name.0);
        let keep = keep || self.mistake == Mistake::KeepAlways;
        if !keep {
            self.forget(name.0);
        }
        here.user_flush_due.set(!keep && self.apart);
    }
    fn take_due_flush(&self) -> bool {
        self.here().user_flush_due.replace(false) && self.mistake != Mistake::DueFlushIsLost
    }
    fn flush(&self) {
        self.forget(self.here().name.get());
        if self.mistake != Mistake::UserEntriesStay {
            self.here().user_flush_due.set(self.apart);
        }
    }
    fn flush_page(&self, address: VirtAddr) {
        let here = self.here();
        let page = address.as_u64() / 4096;
        here.held.borrow_mut().remove(&(here.name.get(), page));
        here.held.borrow_mut().remove(&(self.user_name(), page));
    }
    fn pause(&self) {
        // The others take their interrupts.
        let me = self.me.get();
        for cpu in 0..CPUS {
            self.me.set(cpu as u32);
            TLB_OF.with(|serve| serve.borrow().as_ref().map(|serve| serve(cpu)));
        }
        self.me.set(me);
    }
}

type Serve = Box<dyn Fn(usize)>;

thread_local! {
    /// How CPU n serves, for [`Machine::pause`].
    static TLB_OF: RefCell<Option<Serve>> = const { RefCell::new(None) };
}

/// A space with its tables: what each page maps to. Only grows, so that an older entry can be told from a newer.
struct Tables {
    space: Box<Space>,
    pages: [u64; PAGES as usize],
}

#[derive(Clone, Debug)]
enum Step {
    /// A CPU goes to a space; `None`: it is idle.
    Load(usize, Option<usize>),
    /// User code on a CPU uses a page; the kernel looks at it if `false`.
    Use(usize, u64, bool),
    /// A CPU takes pages of a space away, and others are mapped there.
    Change(usize, usize, u64, u64),
    /// A space dies, and another gets its place and its memory.
    Replace(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..CPUS, prop::option::of(0..SPACES)).prop_map(|(c, s)| Step::Load(c, s)),
        6 => (0..CPUS, 0..PAGES, any::<bool>()).prop_map(|(c, p, u)| Step::Use(c, p, u)),
        3 => (0..CPUS, 0..SPACES, 0..PAGES, 1..PAGES).prop_map(|(c, s, p, n)| Step::Change(c, s, p, n)),
        1 => (0..CPUS, 0..SPACES).prop_map(|(c, s)| Step::Replace(c, s)),
    ]
}

static HOME: Space = Space::of_kernel(PhysAddr::new(0x1000));

/// Takes the steps; an error says which page was seen that is gone.
fn take(steps: &[Step], apart: bool, mistake: Mistake) -> Result<(), String> {
    let tlb = std::rc::Rc::new(Tlb::new(Bench {
        slots: (0..CPUS).map(|_| CpuSlot::new()).collect(),
        cpus: (0..CPUS).map(|_| Hardware::default()).collect(),
        me: Cell::new(0),
        apart,
        mistake,
    }));
    let other = tlb.clone();
    TLB_OF.set(Some(Box::new(move |cpu| {
        other.serve(&other.machine().slots[cpu]);
    })));
    let machine = tlb.machine();
    let mut counter = 0;
    let mut pages = move || {
        core::array::from_fn(|_| {
            counter += 1;
            counter
        })
    };
    let root = |index: usize| PhysAddr::new(0x2000 + 0x2000 * index as u64);
    let mut spaces: Vec<Tables> = (0..SPACES)
        .map(|index| Tables {
            space: Box::new(Space::new(root(index))),
            pages: pages(),
        })
        .collect();
    for cpu in 0..CPUS {
        machine.me.set(cpu as u32);
        // SAFETY: nothing is really loaded.
        unsafe { tlb.join(&machine.slots[cpu], &HOME) };
    }
    for step in steps {
        match *step {
            Step::Load(cpu, space) => {
                machine.me.set(cpu as u32);
                let space = space.map_or(&HOME, |index| &*spaces[index].space);
                // SAFETY: as above.
                unsafe { tlb.activate(&machine.slots[cpu], space) };
            }
            Step::Use(cpu, page, user) => {
                machine.me.set(cpu as u32);
                let here = machine.here();
                let Some(tables) = spaces
                    .iter()
                    .find(|tables| tables.space.root().as_u64() == here.root.get())
                else {
                    continue;
                };
                let name = if user {
                    if here.user_flush_due.replace(false) {
                        machine.forget(machine.user_name());
                    }
                    machine.user_name()
                } else {
                    here.name.get()
                };
                let there = tables.pages[page as usize];
                let seen = *here.held.borrow_mut().entry((name, page)).or_insert(there);
                if seen != there {
                    return Err(format!("CPU {cpu} sees {seen} for {there}"));
                }
            }
            Step::Change(cpu, space, page, count) => {
                machine.me.set(cpu as u32);
                let count = count.min(PAGES - page);
                let fresh: [u64; PAGES as usize] = pages();
                let range = page as usize..(page + count) as usize;
                spaces[space].pages[range.clone()].copy_from_slice(&fresh[range]);
                tlb.shoot_down(&spaces[space].space, VirtAddr::new(page * 4096), count);
            }
            Step::Replace(cpu, space) => {
                machine.me.set(cpu as u32);
                tlb.evict(&spaces[space].space);
                for slot in &machine.slots {
                    assert!(!slot.uses(&spaces[space].space));
                }
                *spaces[space].space = Space::new(root(space));
                spaces[space].pages = pages();
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_cpu_ever_sees_a_page_that_is_gone(
        steps in prop::collection::vec(step(), 1..150),
        apart in any::<bool>(),
    ) {
        prop_assert_eq!(take(&steps, apart, Mistake::None), Ok(()));
    }
}

/// Whether the steps are right, and would find the mistake.
fn is_found(apart: bool, mistake: Mistake, way: &[Step]) -> bool {
    assert_eq!(take(way, apart, Mistake::None), Ok(()));
    take(way, apart, mistake).is_err()
}

/// CPU 1 uses a page in user mode.
const USED: [Step; 2] = [Step::Load(1, Some(0)), Step::Use(1, 3, true)];

#[test]
fn the_steps_find_a_name_without_a_check_of_generations() {
    let [load, used] = USED;
    let way = [
        load.clone(),
        used.clone(),
        Step::Load(1, None),
        Step::Change(0, 0, 3, 1),
        load,
        used,
    ];
    assert!(is_found(false, Mistake::KeepAlways, &way));
    assert!(is_found(true, Mistake::KeepAlways, &way));
}

#[test]
fn the_steps_find_a_flush_for_user_mode_that_is_lost() {
    let [load, used] = USED;
    let asked = [load.clone(), used.clone(), Step::Change(0, 0, 3, 1)];
    let at_once = [&asked[..], core::slice::from_ref(&used)].concat();
    assert!(is_found(true, Mistake::UserEntriesStay, &at_once));
    // The CPU goes elsewhere before it goes out to user mode.
    let later = [&asked[..], &[Step::Load(1, None), load, used]].concat();
    assert!(is_found(true, Mistake::DueFlushIsLost, &later));
}
