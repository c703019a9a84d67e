//! Memory objects that share until one side writes: a clone is the contents at one moment, and stays it.

use abi::info::SystemQuery;
use abi::{Call, Error, MemoryFlags, Protection, Rights};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rt::{AsHandle, Mapping, Memory, thread, time};

use super::memory::comes_back;
use super::tests;
use crate::bare::{self, Bare, reg};
use crate::clock::since;
use crate::kernel_calls::raw;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, must, same};

tests! {
    clones_are_apart_once_written: 40,
    clones_need_the_flag_and_the_right: 40,
    clone_is_the_contents_of_one_moment: 60,
    clone_is_out_of_reach_of_other_processes: 60,
    kernel_writes_to_what_is_shared_reach_one_side: 40,
    clones_give_all_memory_back: 60,
    large_pages_are_cloned_whole_and_written_in_small_ones: 60,
}

const PAGE: u64 = 4096;
const PATIENCE: core::time::Duration = crate::runner::PATIENCE;

fn clonable(pages: u64) -> rt::Result<Memory> {
    Memory::create_with(pages * PAGE, MemoryFlags::CLONABLE)
}

/// The first word of a page of a mapping, which all may use at once.
fn word(mapping: &Mapping, page: u64) -> &AtomicU64 {
    let place = mapping.as_ptr().wrapping_add((page * PAGE) as usize);
    assert!(((page + 1) * PAGE) as usize <= mapping.bytes());
    // SAFETY: mapped as long as the mapping is there, aligned, and used as an atomic by all.
    unsafe { &*place.cast::<AtomicU64>() }
}

/// The first word of a page of an object, as the kernel reads it.
fn stored(memory: &Memory, page: u64) -> rt::Result<u64> {
    let mut bytes = [0; 8];
    memory.read(page * PAGE, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn clones_are_apart_once_written(_: &'static World) -> Verdict {
    const PAGES: u64 = 40;
    let first = must!(clonable(PAGES));
    let view = must!(first.map(Protection::READ_WRITE));
    for page in 0..PAGES / 2 {
        word(&view, page).store(100 + page, Ordering::Relaxed);
    }
    let second = must!(first.clone_on_write());
    let second_view = must!(second.map(Protection::READ_WRITE));
    for page in 0..PAGES {
        let expected = if page < PAGES / 2 { 100 + page } else { 0 };
        same!(word(&second_view, page).load(Ordering::Relaxed), expected);
        match page % 3 {
            0 => word(&view, page).store(1, Ordering::Relaxed),
            1 => word(&second_view, page).store(2, Ordering::Relaxed),
            _ => must!(second.write(page * PAGE, &3_u64.to_le_bytes())),
        }
        let both = if page % 3 == 0 {
            (1, expected)
        } else {
            (expected, 1 + page % 3)
        };
        same!(
            (
                word(&view, page).load(Ordering::Relaxed),
                word(&second_view, page).load(Ordering::Relaxed)
            ),
            both
        );
        same!(
            (must!(stored(&first, page)), must!(stored(&second, page))),
            both
        );
    }
    // A clone of a clone, and the one in between goes first.
    let third = must!(second.clone_on_write());
    word(&second_view, 1).store(77, Ordering::Relaxed);
    drop((second, second_view));
    same!(must!(stored(&third, 1)), 2);
    drop((first, view));
    let third_view = must!(third.map(Protection::READ_WRITE));
    for page in 1..PAGES / 2 {
        let expected = [100 + page, 2, 3][(page % 3) as usize];
        same!(word(&third_view, page).load(Ordering::Relaxed), expected);
        word(&third_view, page).fetch_add(1, Ordering::Relaxed);
        same!(must!(stored(&third, page)), expected + 1);
    }
    Ok(())
}

fn clones_need_the_flag_and_the_right(_: &'static World) -> Verdict {
    same!(
        must!(Memory::create(PAGE)).clone_on_write().map(drop),
        Err(Error::NotSupported)
    );
    same!(
        Memory::create_with(PAGE, MemoryFlags(1 << 31)).map(drop),
        Err(Error::BadArgument)
    );
    let memory = must!(clonable(1));
    let status =
        |handle, flags| Error::from_code(raw(Call::MemoryClone as u64, &[handle, flags]).status);
    same!(status(memory.handle().0, 1), Some(Error::BadArgument));
    let blind = must!(memory.duplicate(Rights::ALL - Rights::READ));
    same!(blind.clone_on_write().map(drop), Err(Error::NoRight));
    // What a handle may not execute, a clone's may not either; all else is the cloner's own.
    for rights in [Rights::READ, Rights::READ | Rights::EXECUTE] {
        let given = must!(memory.duplicate(rights));
        let info = must!(must!(given.clone_on_write()).query());
        let expected = (Rights::ALL - Rights::EXECUTE) | (rights & Rights::EXECUTE);
        same!(info.rights, expected.0);
        same!(info.size, PAGE);
    }
    Ok(())
}

/// Threads that count: each has two pages, and counts up the first before the second.
struct Counters {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Counters {
    fn start(world: &World, mapping: &Arc<Mapping>) -> rt::Result<Counters> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for cpu in 0..world.cpus.min(4) {
            let (mapping, stop) = (Arc::clone(mapping), Arc::clone(&stop));
            threads.push(thread::Builder::new().cpu(cpu).spawn(move || {
                let page = 2 * u64::from(cpu);
                while !stop.load(Ordering::Relaxed) {
                    word(&mapping, page).fetch_add(1, Ordering::SeqCst);
                    word(&mapping, page + 1).fetch_add(1, Ordering::SeqCst);
                }
            })?);
        }
        Ok(Counters { stop, threads })
    }

    fn end(self) -> Verdict {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            must!(thread.join(time::after(PATIENCE)));
        }
        Ok(())
    }
}

fn clone_is_the_contents_of_one_moment(world: &'static World) -> Verdict {
    const PAGES: u64 = 8;
    let counting = u64::from(world.cpus.min(4));
    let memory = must!(clonable(PAGES));
    let mapping = Arc::new(must!(memory.map(Protection::READ_WRITE)));
    let counters = must!(Counters::start(world, &mapping));
    let mut clones: Vec<(Memory, Vec<u64>)> = Vec::new();
    let start = time::now();
    for round in 0..16 {
        let before: Vec<u64> = (0..PAGES)
            .map(|page| word(&mapping, page).load(Ordering::SeqCst))
            .collect();
        let clone = must!(memory.clone_on_write());
        let after: Vec<u64> = (0..PAGES)
            .map(|page| word(&mapping, page).load(Ordering::SeqCst))
            .collect();
        let mut seen = Vec::new();
        for page in 0..PAGES {
            let value = must!(stored(&clone, page));
            let (low, high) = (before[page as usize], after[page as usize]);
            check!(
                (low..=high).contains(&value),
                "round {round}, page {page}: {value} is not what was there from {low} to {high}"
            );
            seen.push(value);
        }
        for thread in 0..counting as usize {
            let (first, second) = (seen[2 * thread], seen[2 * thread + 1]);
            check!(
                first == second || first == second + 1,
                "round {round}: {first} and {second} were never there at one time"
            );
        }
        clones.push((clone, seen));
        if round % 8 == 7 {
            // Every thread gets on, however much is cloned.
            for page in 0..2 * counting {
                let now = word(&mapping, page).load(Ordering::SeqCst);
                while word(&mapping, page).load(Ordering::SeqCst) == now {
                    check!(since(start) < PATIENCE, "nobody counts in page {page}");
                    thread::yield_now();
                }
            }
            for (clone, seen) in clones.drain(..) {
                for (page, value) in (0..).zip(&seen) {
                    same!(must!(stored(&clone, page)), *value);
                }
            }
        }
    }
    counters.end()
}

fn clone_is_out_of_reach_of_other_processes(world: &'static World) -> Verdict {
    const PLACE: u64 = 0x2000_0000;
    let memory = must!(clonable(2));
    let view = must!(memory.map(Protection::READ_WRITE));
    let mut bares = Vec::new();
    for _ in 0..world.cpus.min(3) {
        let mut values = bare::pattern();
        values[reg::RBX] = PLACE;
        let code = code!(
            "2:",
            "lock inc qword ptr [rbx]",
            "lock inc qword ptr [rbx + 4096]",
            "jmp 2b"
        );
        let bare = must!(Bare::new(code, &values));
        must!(
            bare.process
                .map(&memory, PLACE, 0, 2 * PAGE, Protection::READ_WRITE)
        );
        must!(bare.thread.start());
        bares.push(bare);
    }
    let start = time::now();
    for _ in 0..8 {
        let now = word(&view, 1).load(Ordering::SeqCst);
        while word(&view, 1).load(Ordering::SeqCst) < now + 3 {
            check!(since(start) < PATIENCE, "nobody counts");
            thread::yield_now();
        }
        let clone = must!(memory.clone_on_write());
        let pair = (must!(stored(&clone, 0)), must!(stored(&clone, 1)));
        check!(
            (pair.1..=pair.1 + bares.len() as u64).contains(&pair.0),
            "{} and {} were never there at one time",
            pair.0,
            pair.1
        );
        let clone_view = must!(clone.map(Protection::READ_WRITE));
        // The clone's own counter is not theirs.
        word(&clone_view, 0).store(5, Ordering::SeqCst);
        let now = word(&view, 0).load(Ordering::SeqCst);
        while word(&view, 0).load(Ordering::SeqCst) < now + 3 {
            check!(since(start) < PATIENCE, "nobody counts any more");
            thread::yield_now();
        }
        same!(word(&clone_view, 0).load(Ordering::SeqCst), 5);
        same!(must!(stored(&clone, 1)), pair.1);
    }
    for bare in &bares {
        must!(bare.process.kill(0));
    }
    Ok(())
}

fn kernel_writes_to_what_is_shared_reach_one_side(world: &'static World) -> Verdict {
    let memory = must!(clonable(2));
    let view = must!(memory.map(Protection::READ_WRITE));
    must!(memory.write(0, &[0x11; 2 * PAGE as usize]));
    let source = must!(Memory::create(PAGE));
    must!(source.write(0, &[0x22; PAGE as usize]));
    let clone = must!(memory.clone_on_write());
    // Into a mapping, over the border of the two pages: what another object holds, and what the kernel tells.
    let middle = view.as_ptr() as u64 + PAGE - 8;
    must!(rt::sys::check(
        raw(Call::MemoryRead as u64, &[source.handle().0, 0, middle, 16]).status
    ));
    let system = world.system.handle().0;
    must!(rt::sys::check(
        raw(
            Call::SystemQuery as u64,
            &[
                system,
                SystemQuery::Memory as u64,
                0,
                view.as_ptr() as u64,
                64
            ]
        )
        .status
    ));
    let mut bytes = [0; 2 * PAGE as usize];
    must!(clone.read(0, &mut bytes));
    check!(
        bytes.iter().all(|byte| *byte == 0x11),
        "a write of the kernel's reached the clone"
    );
    must!(memory.read(0, &mut bytes));
    check!(
        bytes[PAGE as usize - 8..][..16] == [0x22; 16] && bytes[..8] != [0x11; 8],
        "a write of the kernel's did not reach the object"
    );
    // From an object into a mapping of itself, all of it shared.
    let third = must!(memory.clone_on_write());
    must!(rt::sys::check(
        raw(
            Call::MemoryRead as u64,
            &[memory.handle().0, 0, view.as_ptr() as u64 + PAGE, PAGE]
        )
        .status
    ));
    let mut now = [0; 2 * PAGE as usize];
    must!(memory.read(0, &mut now));
    check!(
        now[..PAGE as usize] == now[PAGE as usize..],
        "an object can't be copied into itself"
    );
    must!(third.read(0, &mut now));
    check!(now == bytes, "a clone changed");
    Ok(())
}

fn clones_give_all_memory_back(world: &'static World) -> Verdict {
    const PAGES: u64 = 600;
    let round = |keep: u64| -> Verdict {
        let first = must!(clonable(PAGES));
        let view = must!(first.map(Protection::READ_WRITE));
        for page in 0..PAGES {
            word(&view, page).store(page, Ordering::Relaxed);
        }
        let mut clones = Vec::new();
        for number in 0..6 {
            let clone = must!(first.clone_on_write());
            must!(clone.write(number * 100 * PAGE, &[1; 3 * PAGE as usize]));
            word(&view, number).store(1, Ordering::Relaxed);
            clones.push(clone);
        }
        // In one order or the other.
        if keep == 0 {
            drop((first, view));
            clones.truncate(3);
        } else {
            clones.drain(..4);
        }
        Ok(())
    };
    // The first lets the kernel's own tables grow to what they need, which they keep.
    round(0)?;
    let before = must!(world.system.memory()).free;
    for number in 0..12 {
        round(number % 2)?;
    }
    comes_back(world, before, 64 * PAGE)
}

fn large_pages_are_cloned_whole_and_written_in_small_ones(world: &'static World) -> Verdict {
    const LARGE: u64 = 512;
    const PAGES: u64 = 2 * LARGE;
    let flags = MemoryFlags(MemoryFlags::CLONABLE.0 | MemoryFlags::LARGE_PAGES.0);
    let round = || -> Verdict {
        let first = must!(Memory::create_with(PAGES * PAGE, flags));
        let view = Arc::new(must!(first.map(Protection::READ_WRITE)));
        word(&view, 0).store(7, Ordering::SeqCst);
        word(&view, LARGE).store(8, Ordering::SeqCst);
        // One who counts in two pages, in this order, while the large page that they are in is shared and written.
        let stop = Arc::new(AtomicBool::new(false));
        let counter = {
            let (view, stop) = (Arc::clone(&view), Arc::clone(&stop));
            must!(thread::Builder::new().cpu(1 % world.cpus).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    word(&view, 1).fetch_add(1, Ordering::SeqCst);
                    word(&view, 2).fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                }
            }))
        };
        for turn in 0..4 {
            let now = word(&view, 2).load(Ordering::SeqCst);
            let start = time::now();
            while word(&view, 2).load(Ordering::SeqCst) < now + 2 {
                check!(since(start) < PATIENCE, "nobody counts");
                thread::yield_now();
            }
            let free = must!(world.system.memory()).free;
            let clone = must!(first.clone_on_write());
            let clone_view = must!(clone.map(Protection::READ_WRITE));
            let pair = [1, 2].map(|page| word(&clone_view, page).load(Ordering::SeqCst));
            check!(
                pair[0] == pair[1] || pair[0] == pair[1] + 1,
                "{pair:?} were never there at one time"
            );
            same!(word(&clone_view, LARGE).load(Ordering::SeqCst), 8);
            // Every third page becomes the clone's own.
            for page in (turn..PAGES).step_by(3) {
                word(&clone_view, page).store(0x5000 + page, Ordering::SeqCst);
            }
            let took = free.saturating_sub(must!(world.system.memory()).free);
            check!(
                took < PAGES * PAGE * 3 / 4,
                "a third of the pages was written, and {} KiB taken",
                took / 1024
            );
            for page in 3..PAGES {
                let (mine, theirs) = (must!(stored(&first, page)), must!(stored(&clone, page)));
                let before = if page == LARGE { 8 } else { 0 };
                let written = page % 3 == turn % 3;
                same!((page, mine), (page, before));
                same!(
                    (page, theirs),
                    (
                        page,
                        if written && page >= turn {
                            0x5000 + page
                        } else {
                            before
                        }
                    )
                );
            }
            same!(must!(stored(&first, 0)), 7);
        }
        stop.store(true, Ordering::Relaxed);
        must!(counter.join(time::after(PATIENCE)));
        Ok(())
    };
    round()?;
    let before = must!(world.system.memory()).free;
    for _ in 0..2 {
        round()?;
    }
    comes_back(world, before, 64 * PAGE)
}
