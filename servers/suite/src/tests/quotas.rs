//! Quotas: parts that are given, taken back and changed; what is used up ends in an error to the one who used it up, and in nothing else.
//!
//! Each test is a role of a process that has a part of its own, so that nobody else changes what it counts.

use abi::info::{Quota, QuotaInfo};
use abi::{Call, Error, Protection, Rights};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;
use rt::process::Mode;
use rt::{AsHandle, Memory, Notification, Priority, Process, Thread, process, time};

use super::tests;
use crate::clock::since;
use crate::kernel_calls::call;
use crate::roles::Role;
use crate::verdict::{Verdict, Why};
use crate::world::{self, World};
use crate::{check, fail, must, same};

tests! {
    a_part_of_a_quota_is_taken_and_comes_back: 100,
    a_part_of_a_quota_is_changed_by_whose_it_is: 100,
    who_uses_up_a_quota_gets_an_error_and_nobody_else: 100,
    a_call_that_runs_out_half_way_leaves_nothing: 100,
    processes_that_cannot_be_made_one_after_the_other_leave_nothing: 100,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[
    Role {
        name: "quota-parts",
        run: |_, _| verdict(parts()),
    },
    Role {
        name: "quota-changes",
        run: |_, _| verdict(changes()),
    },
    Role {
        name: "quota-ends",
        run: |_, _| verdict(ends()),
    },
    Role {
        name: "quota-half-way",
        run: |_, _| verdict(half_way()),
    },
    Role {
        name: "quota-failing",
        run: |_, _| verdict(failing()),
    },
];

const PATIENCE: Duration = crate::runner::PATIENCE;
const PAGE: u64 = 4096;
/// What a process of these tests has.
const OWN: Quota = Quota {
    pages: 3000,
    handles: 800,
    threads: 40,
};
/// What it gives on.
const PART: Quota = Quota {
    pages: 200,
    handles: 90,
    threads: 4,
};

/// How a role ends that is a part of a test.
pub(super) fn verdict(verdict: Verdict) -> u64 {
    match verdict {
        Ok(()) => 0,
        Err(Why::Failed(reason) | Why::Skipped(reason)) => {
            let _ = world::report(&reason);
            1
        }
    }
}

/// Plays a role in a process with a part of its own.
fn play(world: &World, role: &str) -> Verdict {
    play_with(world, role, &OWN)
}

/// The same, with this part.
pub(super) fn play_with(world: &World, role: &str, part: &Quota) -> Verdict {
    let child = must!(world.spawn_with(&format!("role {role}"), &[], part));
    // Longer than it waits itself, so that it can say for what.
    let info = must!(child.end(PATIENCE + Duration::from_secs(20)));
    if info.code != 0 {
        fail!("{}", child.reason());
    }
    Ok(())
}

fn a_part_of_a_quota_is_taken_and_comes_back(world: &'static World) -> Verdict {
    play(world, "quota-parts")
}

fn a_part_of_a_quota_is_changed_by_whose_it_is(world: &'static World) -> Verdict {
    play(world, "quota-changes")
}

fn who_uses_up_a_quota_gets_an_error_and_nobody_else(world: &'static World) -> Verdict {
    play(world, "quota-ends")
}

fn a_call_that_runs_out_half_way_leaves_nothing(world: &'static World) -> Verdict {
    play(world, "quota-half-way")
}

fn processes_that_cannot_be_made_one_after_the_other_leave_nothing(
    world: &'static World,
) -> Verdict {
    play(world, "quota-failing")
}

fn made(part: &Quota) -> rt::Result<Process> {
    Process::make_with(Mode::Long, "part", Priority::LOWEST, Some(part)).map(|made| made.process)
}

fn own() -> rt::Result<QuotaInfo> {
    process::current().quota()
}

/// Asks over and over for processes that get all handles and threads that are left, and no page to be made of.
fn failing() -> Verdict {
    let start = must!(own());
    let part = Quota {
        pages: 0,
        handles: start.limit.handles - start.used.handles,
        threads: start.limit.threads - start.used.threads,
    };
    for _ in 0..200 {
        same!(made(&part).map(drop), Err(Error::QuotaExceeded));
        same!(must!(own()).used, start.used);
    }
    same!(made(&PART).map(drop), Ok(()));
    Ok(())
}

const fn sum(a: Quota, b: Quota) -> Quota {
    Quota {
        pages: a.pages + b.pages,
        handles: a.handles + b.handles,
        threads: a.threads + b.threads,
    }
}

/// Waits until a process uses just this.
fn comes_to(of: impl Fn() -> rt::Result<QuotaInfo>, used: Quota, what: &str) -> Verdict {
    let start = time::now();
    loop {
        let now = must!(of()).used;
        if now == used {
            return Ok(());
        }
        check!(
            since(start) < PATIENCE,
            "{what}: {now:?} is in use, not {used:?}"
        );
        must!(time::sleep(Duration::from_millis(1)));
    }
}

fn parts() -> Verdict {
    let start = must!(own());
    same!(start.limit, OWN);
    check!(start.used.threads == 1, "{:?}", start.used);
    let part = must!(made(&PART));
    same!(must!(part.quota()).limit, PART);
    same!(must!(own()).used, sum(start.used, PART));
    // More than is left of any of the three: refused, and nothing is taken.
    for (pages, handles, threads) in [(OWN.pages, 1, 1), (1, OWN.handles, 1), (1, 1, OWN.threads)] {
        let much = Quota {
            pages,
            handles,
            threads,
        };
        same!(made(&much).err(), Some(Error::QuotaExceeded));
        let endless = Quota {
            pages: u64::MAX,
            ..much
        };
        same!(made(&endless).err(), Some(Error::QuotaExceeded));
    }
    comes_to(own, sum(start.used, PART), "what was refused")?;
    // One that shares uses what its maker has.
    let sharing = must!(Process::create("sharing"));
    same!(must!(sharing.quota()).limit, OWN);
    must!(sharing.map_new(0x10_0000, PAGE, Protection::READ, &[1]));
    let used = must!(sharing.quota()).used;
    same!(must!(own()).used, sum(sum(start.used, PART), used));
    drop(sharing);
    drop(part);
    comes_to(own, start.used, "what was given")
}

fn changes() -> Verdict {
    // First, as the heap may grow for it.
    let contents = alloc::vec![1; 20 * PAGE as usize];
    let start = must!(own());
    let part = must!(made(&PART));
    let more = Quota {
        pages: PART.pages + 50,
        threads: 0,
        ..PART
    };
    must!(part.set_quota(&more));
    same!(must!(part.quota()).limit, more);
    same!(must!(own()).used, sum(start.used, more));
    must!(part.map_new(0x10_0000, 20 * PAGE, Protection::READ, &contents));
    let used = must!(part.quota()).used;
    for pages in [0, used.pages - 1, OWN.pages, u64::MAX] {
        let other = Quota { pages, ..more };
        same!(part.set_quota(&other), Err(Error::QuotaExceeded));
        same!(must!(part.quota()).limit, more);
        same!(must!(own()).used, sum(start.used, more));
    }
    let least = Quota {
        pages: used.pages,
        ..more
    };
    must!(part.set_quota(&least));
    same!(
        part.map_new(0x20_0000, PAGE, Protection::READ, &[1]).err(),
        Some(Error::QuotaExceeded)
    );
    // It is not its own to change, nor that of one who has none.
    let sharing = must!(Process::create("sharing"));
    same!(sharing.set_quota(&PART), Err(Error::WrongState));
    let own_handle = process::current().handle();
    same!(
        call(
            Call::ProcessSetQuota,
            &[own_handle.0, core::ptr::from_ref(&PART) as u64]
        ),
        Err(Error::NoRight)
    );
    must!(part.kill(0));
    same!(part.set_quota(&PART), Err(Error::WrongState));
    drop(part);
    drop(sharing);
    comes_to(own, start.used, "what was changed")
}

fn ends() -> Verdict {
    let start = must!(own());
    let part = must!(made(&PART));
    // Threads.
    let thread = || -> rt::Result<Thread> {
        // SAFETY: it is never started.
        unsafe { part.create_thread(0x40_0000, 0x80_0000, 0) }
    };
    let threads: Vec<Thread> = (0..PART.threads).map_while(|_| thread().ok()).collect();
    same!(threads.len() as u64, PART.threads);
    same!(thread().err(), Some(Error::QuotaExceeded));
    same!(must!(part.quota()).used.threads, PART.threads);
    // Handles.
    let bell = must!(Notification::create());
    let mut granted = 0;
    let error = loop {
        match part.grant(&bell, Rights::SIGNAL) {
            Ok(_) => granted += 1,
            Err(error) => break error,
        }
    };
    same!((granted, error), (PART.handles, Error::QuotaExceeded));
    // Memory: touched by the kernel for it, and by page tables.
    let mut address = 0x10_0000;
    let error = loop {
        match part.map_new(address, PAGE, Protection::READ, &[1]) {
            Ok(_) => address += PAGE,
            Err(error) => break error,
        }
    };
    same!(error, Error::QuotaExceeded);
    same!(must!(part.quota()).used.pages, PART.pages);
    // Nobody else has less for it.
    same!(must!(own()).used.pages, start.used.pages + PART.pages);
    let mine = must!(Memory::create(PAGE));
    must!(mine.write(0, &[1]));
    drop(mine);
    drop(bell);
    drop(threads);
    drop(part);
    comes_to(own, start.used, "what was used up")
}

/// Lets a call in a process run out of memory at each frame that it takes, one after the other, until it has enough. `tables` are page
/// tables that may stay, empty, for the next who maps something there.
fn runs_out_everywhere(
    what: &str,
    tables: u64,
    act: &dyn Fn(&Process) -> rt::Result<()>,
) -> Verdict {
    let part = must!(made(&PART));
    let start = must!(part.quota()).used;
    for pages in 0..100 {
        must!(part.set_quota(&Quota {
            pages: start.pages + pages,
            ..PART
        }));
        match act(&part) {
            Ok(()) => {
                check!(pages > 0, "{what}: it takes no memory");
                return Ok(());
            }
            Err(Error::QuotaExceeded) => {}
            Err(error) => fail!("{what}: {error} with {pages} pages left"),
        }
        let begin = time::now();
        loop {
            let now = must!(part.quota()).used;
            if now.threads == start.threads
                && now.handles == start.handles
                && now.pages <= start.pages + tables
            {
                break;
            }
            check!(
                since(begin) < PATIENCE,
                "{what}: {now:?} with {pages} pages, after {start:?}"
            );
            must!(time::sleep(Duration::from_millis(1)));
        }
    }
    fail!("{what}: a hundred pages are not enough")
}

fn half_way() -> Verdict {
    // As above.
    let contents = alloc::vec![7; 8 * PAGE as usize];
    let start = must!(own());
    let memory = must!(Memory::create(8 * PAGE));
    let bell = must!(Notification::create());
    runs_out_everywhere("new memory", 0, &|part| {
        part.map_new(0x10_0000, 8 * PAGE, Protection::READ, &contents)
            .map(drop)
    })?;
    runs_out_everywhere("a thread", 3, &|part| {
        // SAFETY: it is never started.
        unsafe { part.create_thread(0x40_0000, 0x80_0000, 0) }.map(drop)
    })?;
    runs_out_everywhere("a handle", 0, &|part| {
        part.grant(&bell, Rights::SIGNAL).map(drop)
    })?;
    // The regions of a space have a limit of their own.
    let part = must!(made(&PART));
    let used = must!(part.quota()).used;
    must!(part.map(&memory, 0x10_0000, 0, 8 * PAGE, Protection::READ));
    same!(must!(part.quota()).used, used);
    drop((part, memory, bell));
    comes_to(own, start.used, "what ran out")
}
