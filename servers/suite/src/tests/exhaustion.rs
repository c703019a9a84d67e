//! Exhaustion: who makes things without end takes nothing from others, and a call for which anything is lacking is undone.
//!
//! Both tests play with a process that has a part of a quota, and that is told by notifications and shared memory what to do: messages
//! would take places in the table of handles, of which it is to have none left.

use abi::info::Quota;
use abi::{Call, Error, Handle, MemoryFlags, Protection, Rights};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;
use rt::{AsHandle, Memory, Notification, OwnedHandle, Process, process, start, time};

use super::{quotas, tests};
use crate::clock::since;
use crate::kernel_calls::call;
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, fail, must, same};

tests! {
    who_makes_things_without_end_starves_nobody: 100,
    a_call_that_makes_something_and_runs_out_is_undone: 100,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[
    Role {
        name: "quota-rival",
        run: |world, _| quotas::verdict(rival(world)),
    },
    Role {
        name: "quota-greedy",
        run: |_, _| quotas::verdict(greedy()),
    },
    Role {
        name: "quota-limits",
        run: |world, _| quotas::verdict(limits(world)),
    },
    Role {
        name: "quota-maker",
        run: |_, _| quotas::verdict(maker()),
    },
];

const PATIENCE: Duration = crate::runner::PATIENCE;
const PAGE: u64 = 4096;
/// What the process has that looks on: enough for itself, its partner and what it makes.
const OWN: Quota = Quota {
    pages: 2000,
    handles: 4000,
    threads: 60,
};
/// What it gives its partner, whose program alone takes some 130 pages: of handles some frames' worth, as their table never becomes
/// smaller.
const PART: Quota = Quota {
    pages: 400,
    handles: 2500,
    threads: 20,
};
/// The same for who uses all of it again and again.
const LITTLE: Quota = Quota {
    handles: 128,
    ..PART
};
/// Page tables that may stay, empty, after a call that could not map anything.
const TABLES: u64 = 3;
/// A page of contents and its tables, which stay.
const CONTENTS: u64 = 4;

/// More than a frame of the table holds.
const SLOTS: u64 = 256;

const GO: &str = "go";
const DONE: &str = "done";
const ORDER: &str = "order";

/// What can be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Thing {
    Endpoint,
    Notification,
    Memory,
    Duplicate,
    Badged,
    Process,
    ProcessWithPart,
    Thread,
    Mapping,
    NewMapping,
    Contents,
    Clone,
    OwnProcess,
}

const THINGS: [Thing; 13] = [
    Thing::Endpoint,
    Thing::Notification,
    Thing::Memory,
    Thing::Duplicate,
    Thing::Badged,
    Thing::Process,
    Thing::ProcessWithPart,
    Thing::Thread,
    Thing::Mapping,
    Thing::NewMapping,
    Thing::Contents,
    Thing::Clone,
    Thing::OwnProcess,
];

impl Thing {
    /// Whether a handle names it.
    fn has_handle(self) -> bool {
        !matches!(self, Thing::Mapping | Thing::NewMapping | Thing::Contents)
    }
}

/// What things are made from.
struct Stock {
    endpoint: OwnedHandle,
    /// With one page that has a frame.
    clonable: Memory,
    memory: Memory,
    mapped: u64,
}

/// What was made, and is to be taken away.
enum Made {
    Handle { _closed_at_its_end: OwnedHandle },
    Mapping(u64),
    Nothing,
}

impl Stock {
    fn new() -> rt::Result<Stock> {
        let clonable = Memory::create_with(4 * PAGE, MemoryFlags::CLONABLE)?;
        clonable.write(0, &[1])?;
        Ok(Stock {
            endpoint: OwnedHandle::from_raw(Handle(call(Call::EndpointCreate, &[])?[0])),
            clonable,
            memory: Memory::create(1 << 30)?,
            mapped: 0,
        })
    }

    /// The same after another one's end, which takes its time.
    fn new_when_there_is_room() -> rt::Result<Stock> {
        loop {
            match Stock::new() {
                Err(Error::QuotaExceeded) => time::sleep(Duration::from_millis(1))?,
                made => return made,
            }
        }
    }

    fn make(&mut self, thing: Thing) -> rt::Result<Made> {
        const ALL: u64 = Rights::ALL.0 as u64;
        let name = b"made";
        let quota = Quota {
            pages: 8,
            handles: 4,
            threads: 1,
        };
        let endpoint = self.endpoint.raw().0;
        let process = |part: u64| {
            call(
                Call::ProcessCreate,
                &[name.as_ptr() as u64, name.len() as u64, 0, 0, part],
            )
        };
        let values = match thing {
            Thing::Endpoint => call(Call::EndpointCreate, &[]),
            Thing::Notification => call(Call::NotificationCreate, &[]),
            Thing::Memory => call(Call::MemoryCreate, &[PAGE, 0]),
            Thing::Duplicate => call(Call::HandleDuplicate, &[endpoint, Rights::SEND.0.into()]),
            Thing::Badged => call(Call::EndpointMint, &[endpoint, 7, ALL]),
            Thing::Process => process(0),
            Thing::ProcessWithPart => process(&raw const quota as u64),
            Thing::Thread => call(Call::ThreadCreate, &[0, 0x40_0000, 0x80_0000, 0]),
            Thing::Clone => call(Call::MemoryClone, &[self.clonable.handle().0, 0]),
            Thing::OwnProcess => call(Call::ProcessSelf, &[]),
            Thing::Mapping => {
                let memory = self.memory.handle().0;
                let read = u64::from(Protection::READ.0);
                let address = call(Call::MemoryMap, &[0, memory, 0, 0, PAGE, read])?[0];
                return Ok(Made::Mapping(address));
            }
            Thing::NewMapping => {
                let read = u64::from(Protection::READ.0);
                let begin = (name.as_ptr() as u64, name.len() as u64);
                let address = call(Call::MemoryMapNew, &[0, 0, PAGE, read, begin.0, begin.1])?[0];
                return Ok(Made::Mapping(address));
            }
            Thing::Contents => {
                // Never the same page again, and each in a table of its own: pages stay, and count, until the object's end.
                self.memory.write(self.mapped * PAGE, &[1])?;
                self.mapped += 512;
                return Ok(Made::Nothing);
            }
        };
        values.map(|values| Made::Handle {
            _closed_at_its_end: OwnedHandle::from_raw(Handle(values[0])),
        })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Made::Mapping(address) = self {
            // What could not be unmapped would be found in what is in use.
            let _ = call(Call::MemoryUnmap, &[0, *address, PAGE]);
        }
    }
}

fn who_makes_things_without_end_starves_nobody(world: &'static World) -> Verdict {
    quotas::play_with(world, "quota-rival", &OWN)
}

fn a_call_that_makes_something_and_runs_out_is_undone(world: &'static World) -> Verdict {
    quotas::play_with(world, "quota-limits", &OWN)
}

/// Makes as much as it can of each thing, and lets it go, for ever.
fn greedy() -> Verdict {
    let done: Notification = must!(start::take(DONE).map_err(|_| Error::NotSupported));
    let mut stock = must!(Stock::new());
    let mut made = Vec::with_capacity(PART.pages as usize);
    loop {
        for thing in THINGS {
            let error = loop {
                match stock.make(thing) {
                    Ok(more) if made.len() < made.capacity() => made.push(more),
                    // Of mappings of nothing there are 25,000, which take no memory that is counted.
                    Ok(_) if thing == Thing::Mapping => break Error::QuotaExceeded,
                    Ok(_) => fail!("{thing:?}: there is no end"),
                    Err(error) => break error,
                }
            };
            made.clear();
            if thing == Thing::Contents {
                drop(stock);
                stock = must!(Stock::new_when_there_is_room());
            }
            check!(
                error == Error::QuotaExceeded,
                "{thing:?}: {error} at the end"
            );
        }
        must!(done.signal(1));
    }
}

/// Makes one of each thing beside somebody who makes them without end.
fn rival(world: &World) -> Verdict {
    let done = must!(Notification::create());
    let mut stock = must!(Stock::new());
    drop(must!(all(&mut stock)));
    let start = must!(process::current().quota()).used;
    let extra = [(DONE, done.handle())];
    let greedy = must!(world.spawn_with("role quota-greedy", &extra, &LITTLE));
    for _ in 0..2 {
        if let Err(error) = done.wait(time::after(PATIENCE)) {
            fail!("it does not come around: {error}, {}", greedy.reason());
        }
        drop(must!(all(&mut stock)));
    }
    let used = must!(greedy.process.quota()).used;
    let within = used.pages <= LITTLE.pages && used.handles <= LITTLE.handles;
    check!(within && used.threads <= LITTLE.threads, "{used:?}");
    drop(greedy);
    // What this one wrote stays; its partner's comes back.
    let most = Quota {
        pages: start.pages + 2 * CONTENTS,
        ..start
    };
    let own = || process::current().quota().map(|quota| quota.used);
    comes_to(&own, most, "after an endless loop")
}

fn all(stock: &mut Stock) -> rt::Result<Vec<Made>> {
    THINGS.into_iter().map(|thing| stock.make(thing)).collect()
}

/// What the partner of [`limits`] is told, and says.
const FILL: u64 = 1;
const MAKE: u64 = 2;

/// Does as it is told: makes as many handles as it can and keeps them, or makes one thing and lets it go.
fn maker() -> Verdict {
    let go: Notification = must!(start::take(GO).map_err(|_| Error::NotSupported));
    let done: Notification = must!(start::take(DONE).map_err(|_| Error::NotSupported));
    let order: Memory = must!(start::take(ORDER).map_err(|_| Error::NotSupported));
    let mut stock = must!(Stock::new());
    let mut kept = Vec::with_capacity(PART.handles as usize);
    // Whatever it needs itself, it has from now on.
    drop(must!(all(&mut stock)));
    must!(done.signal(1));
    loop {
        must!(go.wait(time::after(PATIENCE)));
        let mut words = [0; 16];
        must!(order.read(0, &mut words));
        let word = |at: usize| words[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let made = match (word(0), THINGS.get(word(8) as usize)) {
            (FILL, _) => loop {
                match stock.make(Thing::Duplicate) {
                    Ok(more) => kept.push(more),
                    Err(error) => break Err(error),
                }
            },
            (_, Some(thing)) => stock.make(*thing).map(drop),
            (order, None) => fail!("order {order}"),
        };
        let code = made.map_or_else(|error| error as u64, |()| 0);
        must!(order.write(16, &code.to_le_bytes()));
        must!(done.signal(1));
    }
}

/// The one who tells the maker what to do.
struct Teller {
    go: Notification,
    done: Notification,
    order: Memory,
}

impl Teller {
    /// What comes of an order.
    fn tell(&self, order: u64, thing: usize) -> rt::Result<Option<Error>> {
        self.order.write(0, &order.to_le_bytes())?;
        self.order.write(8, &(thing as u64).to_le_bytes())?;
        self.go.signal(1)?;
        self.done.wait(time::after(PATIENCE))?;
        let mut code = [0; 8];
        self.order.read(16, &mut code)?;
        Ok(Error::from_code(u64::from_le_bytes(code)))
    }
}

/// Has a partner make each thing with just so many handles, threads and pages that it can't, up to where it can.
fn limits(world: &World) -> Verdict {
    let teller = Teller {
        go: must!(Notification::create()),
        done: must!(Notification::create()),
        order: must!(Memory::create(PAGE)),
    };
    let extra = [
        (GO, teller.go.handle()),
        (DONE, teller.done.handle()),
        (ORDER, teller.order.handle()),
    ];
    let maker = must!(world.spawn_with("role quota-maker", &extra, &PART));
    if let Err(error) = teller.done.wait(time::after(PATIENCE)) {
        fail!("it does not begin: {error}, {}", maker.reason());
    }
    // What it made before, to have what it needs, is gone when its thread alone is left: threads are given back last.
    let alone = Quota { threads: 1, ..PART };
    let used = || maker.process.quota().map(|quota| quota.used);
    comes_to(&used, alone, "at the begin")?;
    for (number, thing) in THINGS.into_iter().enumerate() {
        run_out(&maker.process, &teller, number, thing)?;
    }
    Ok(())
}

fn run_out(part: &Process, teller: &Teller, number: usize, thing: Thing) -> Verdict {
    let used = || part.quota().map(|quota| quota.used);
    let start = must!(used());
    let what = format!("{thing:?}");
    let make = || teller.tell(MAKE, number);
    let full = Some(Error::QuotaExceeded);
    let left = Quota {
        pages: start.pages + TABLES,
        ..start
    };
    // The table of handles may have grown by a frame before it was seen that something else is lacking. It stays so.
    let grown = Quota {
        pages: left.pages + 1,
        handles: start.handles + SLOTS,
        ..start
    };
    if thing.has_handle() {
        // No place for a handle.
        must!(part.set_quota(&Quota {
            handles: start.handles,
            ..PART
        }));
        same!(must!(teller.tell(FILL, 0)), full);
        same!(must!(make()), full);
        comes_to(&used, left, &what)?;
    }
    if thing == Thing::Thread || thing == Thing::ProcessWithPart {
        must!(part.set_quota(&Quota {
            threads: start.threads,
            ..PART
        }));
        same!(must!(make()), full);
        comes_to(&used, grown, &what)?;
    }
    // Tables that the calls before have left count as well.
    let base = must!(used()).pages;
    for pages in 0..100 {
        must!(part.set_quota(&Quota {
            pages: base + pages,
            ..PART
        }));
        match must!(make()) {
            None => {
                let most = Quota {
                    pages: grown.pages + CONTENTS,
                    ..grown
                };
                return comes_to(&used, most, &what);
            }
            Some(Error::QuotaExceeded) => comes_to(&used, grown, &what)?,
            Some(error) => fail!("{what}: {error} with {pages} pages left"),
        }
    }
    fail!("{what}: a hundred pages are not enough")
}

/// Waits until no more than this is in use.
fn comes_to(used: &dyn Fn() -> rt::Result<Quota>, most: Quota, what: &str) -> Verdict {
    let begin = time::now();
    loop {
        let now = must!(used());
        if now.handles <= most.handles && now.threads <= most.threads && now.pages <= most.pages {
            return Ok(());
        }
        check!(
            since(begin) < PATIENCE,
            "{what}: {now:?} is in use, not {most:?}"
        );
        must!(time::sleep(Duration::from_millis(1)));
    }
}
