//! Large pages, and memory in a row for devices.

use abi::{Error, MemoryFlags, Protection, Rights};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::{Memory, thread, time};

use super::memory::comes_back;
use super::tests;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same};

tests! {
    large_page_is_one_memory_for_all_threads: 60,
    large_page_in_parts_keeps_its_contents: 40,
    memory_in_a_row_is_where_it_says: 40,
    memory_in_a_row_needs_the_right: 40,
}

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;

fn large_page_is_one_memory_for_all_threads(world: &'static World) -> Verdict {
    const BYTES: u64 = 2 * LARGE;
    let round = || -> Verdict {
        let memory = must!(Memory::create_with(BYTES, MemoryFlags::LARGE_PAGES));
        let mapping = Arc::new(must!(memory.map(Protection::READ_WRITE)));
        check!(
            (mapping.as_ptr() as u64).is_multiple_of(LARGE),
            "a large mapping is not where a large page fits"
        );
        let go = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let count = world.cpus.min(4);
        for cpu in 0..count {
            let (mapping, go) = (Arc::clone(&mapping), Arc::clone(&go));
            threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                while !go.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                for page in 0..mapping.bytes() / PAGE as usize {
                    let place = mapping.as_ptr().wrapping_add(page * PAGE as usize);
                    // SAFETY: mapped, aligned, and used as an atomic by all.
                    let word = unsafe { &*place.cast::<AtomicU64>() };
                    word.fetch_add(1, Ordering::Relaxed);
                }
            })));
        }
        go.store(true, Ordering::Release);
        for thread in threads {
            must!(thread.join(time::after(crate::runner::PATIENCE)));
        }
        for page in 0..BYTES / PAGE {
            let mut bytes = [1; 16];
            must!(memory.read(page * PAGE, &mut bytes));
            let mut expected = [0; 16];
            expected[0] = count as u8;
            same!((page, bytes), (page, expected));
        }
        Ok(())
    };
    round()?;
    let before = must!(world.system.memory()).free;
    for _ in 0..3 {
        round()?;
    }
    comes_back(world, before, 64 * PAGE)
}

fn large_page_in_parts_keeps_its_contents(world: &'static World) -> Verdict {
    let own = rt::process::current();
    let memory = must!(Memory::create_with(LARGE, MemoryFlags::LARGE_PAGES));
    let before = must!(world.system.memory()).free;
    let place = must!(own.map(&memory, 0, 0, LARGE, Protection::READ_WRITE));
    let word = |page: u64| {
        let place = (place + page * PAGE) as usize as *const AtomicU64;
        // SAFETY: mapped where the test looks, aligned, and nobody else's.
        unsafe { &*place }
    };
    word(3).store(33, Ordering::Relaxed);
    let after = must!(world.system.memory()).free;
    check!(
        before.saturating_sub(after) >= LARGE / 2,
        "the first touch took {} bytes",
        before.saturating_sub(after)
    );
    for page in 0..512 {
        word(page).store(page + 1, Ordering::Relaxed);
    }
    // SAFETY: nothing uses what is taken away, or writes to what may only be read.
    unsafe {
        must!(own.protect(place + 7 * PAGE, PAGE, Protection::READ));
        must!(own.unmap(place + 200 * PAGE, 100 * PAGE));
    }
    for page in (0..200).chain(300..512) {
        same!((page, word(page).load(Ordering::Relaxed)), (page, page + 1));
        if page != 7 {
            word(page).store(page + 2, Ordering::Relaxed);
        }
    }
    must!(own.map(
        &memory,
        place + 200 * PAGE,
        200 * PAGE,
        100 * PAGE,
        Protection::READ_WRITE
    ));
    same!(word(250).load(Ordering::Relaxed), 251);
    let mut bytes = [0; 8];
    for (page, expected) in [(6, 8_u64), (7, 8), (250, 251), (400, 402)] {
        must!(memory.read(page * PAGE, &mut bytes));
        same!((page, u64::from_le_bytes(bytes)), (page, expected));
    }
    // SAFETY: nothing uses it any more.
    must!(unsafe { own.unmap(place, LARGE) });
    Ok(())
}

fn memory_in_a_row_is_where_it_says(world: &'static World) -> Verdict {
    let before = must!(world.system.memory()).free;
    for (bytes, alignment, limit) in [
        (1, 0, 0),
        (5 * PAGE, 0, 1 << 32),
        (64 * 1024, 64 * 1024, 1 << 32),
        (LARGE, LARGE, 0),
        (3 * PAGE, 0, 16 << 20),
    ] {
        let made = Memory::create_contiguous(&world.system, bytes, alignment, limit);
        if limit == 16 << 20 && made.as_ref().err() == Some(&Error::NoMemory) {
            // What lies so low may all be in use.
            continue;
        }
        let (memory, start) = must!(made);
        let size = must!(memory.size());
        same!(size, bytes.next_multiple_of(PAGE));
        same!(start % alignment.max(PAGE), 0);
        check!(
            limit == 0 || start + size <= limit,
            "{start:#x} is too high"
        );
        same!(
            must!(memory.physical(&world.system, size - 1)),
            (start + size - 1, 1)
        );
        same!(memory.physical(&world.system, size), Err(Error::OutOfRange));
        let mapping = must!(memory.map(Protection::READ_WRITE));
        // SAFETY: nobody else has it.
        let words = unsafe {
            core::slice::from_raw_parts_mut(mapping.as_ptr().cast::<u64>(), mapping.bytes() / 8)
        };
        check!(words.iter().all(|word| *word == 0), "it is not zero");
        words.fill(0x1234);
        let mut back = [0; 8];
        must!(memory.read(size - 8, &mut back));
        same!(u64::from_le_bytes(back), 0x1234);
    }
    comes_back(world, before, 64 * PAGE)
}

fn memory_in_a_row_needs_the_right(world: &'static World) -> Verdict {
    let rights = Rights(must!(world.system.query()).rights);
    let weak = must!(world.system.duplicate(rights - Rights::HARDWARE));
    let create = |system: &rt::System, bytes, alignment, limit| {
        Memory::create_contiguous(system, bytes, alignment, limit).map(drop)
    };
    same!(create(&weak, PAGE, 0, 0), Err(Error::NoRight));
    let (memory, _) = must!(Memory::create_contiguous(&world.system, PAGE, 0, 0));
    same!(memory.physical(&weak, 0), Err(Error::NoRight));
    let ordinary = must!(Memory::create(PAGE));
    same!(
        ordinary.physical(&world.system, 0),
        Err(Error::NotSupported)
    );
    for (bytes, alignment, limit, error) in [
        (0, 0, 0, Error::BadArgument),
        (PAGE, 8, 0, Error::BadArgument),
        (PAGE, 3 * PAGE, 0, Error::BadArgument),
        (PAGE, 8 << 20, 0, Error::OutOfRange),
        (5 << 20, 0, 0, Error::OutOfRange),
        (u64::MAX, 0, 0, Error::OutOfRange),
        (PAGE, 0, 1, Error::NoMemory),
        (PAGE, 0, PAGE, Error::NoMemory),
    ] {
        same!(
            (bytes, create(&world.system, bytes, alignment, limit)),
            (bytes, Err(error))
        );
    }
    same!(memory.clone_on_write().map(drop), Err(Error::NotSupported));
    Ok(())
}
