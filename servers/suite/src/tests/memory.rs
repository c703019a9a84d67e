//! Memory: what is mapped is there on every CPU, what is not is on none, and none is lost.

use abi::info::ProcessState;
use abi::{Call, Error, Protection, Rights};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Memory, Notification, start, thread, time};

use super::tests;
use crate::bare::{self, Bare, reg};
use crate::clock::since;
use crate::kernel_calls::refused;
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, fail, must, same};

tests! {
    new_memory_is_zero: 40,
    used_memory_comes_back_as_zero: 40,
    mapping_can_be_placed_moved_and_taken_away: 40,
    protection_changes_are_obeyed: 40,
    memory_is_shared_between_processes: 40,
    read_and_write_see_what_mappings_see: 40,
    untouched_memory_costs_nothing: 40,
    mapping_outlives_its_handle: 40,
    new_memory_is_mapped_with_what_it_shall_begin_with: 40,
    exhausted_memory_is_an_error_and_comes_back: 120,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[
    Role {
        name: "fill-memory",
        run: fill_memory,
    },
    Role {
        name: "use-all-memory",
        run: use_all_memory,
    },
    Role {
        name: "touch-all-memory",
        run: touch_all_memory,
    },
];

const PAGE: u64 = 4096;
const PATIENCE: Duration = crate::runner::PATIENCE;

fn new_memory_is_zero(_: &'static World) -> Verdict {
    for pages in [1, 3, 64, 700] {
        let mapping = must!(must!(Memory::create(pages * PAGE)).map(Protection::READ_WRITE));
        // SAFETY: nobody else has it.
        let words = unsafe {
            core::slice::from_raw_parts(mapping.as_ptr().cast::<u64>(), mapping.bytes() / 8)
        };
        check!(
            words.iter().all(|word| *word == 0),
            "new memory of {pages} pages is not zero"
        );
    }
    // A length is rounded up to whole pages.
    same!(must!(must!(Memory::create(1)).size()), PAGE);
    same!(must!(must!(Memory::create(PAGE + 1)).size()), 2 * PAGE);
    Ok(())
}

/// Fills memory with a pattern and goes.
fn fill_memory(_: &'static World, _: &str) -> u64 {
    let Ok(memory) = Memory::create(1024 * PAGE) else {
        return 1;
    };
    let Ok(mapping) = memory.map(Protection::READ_WRITE) else {
        return 2;
    };
    // SAFETY: nobody else has it.
    unsafe { mapping.as_ptr().write_bytes(0xA5, mapping.bytes()) };
    0
}

fn used_memory_comes_back_as_zero(world: &'static World) -> Verdict {
    for _ in 0..3 {
        let child = must!(world.spawn("role fill-memory", &[]));
        let info = must!(child.end(PATIENCE));
        check!(
            info.code == 0,
            "the one that fills memory {}",
            ending(&info)
        );
        let mapping = must!(must!(Memory::create(2048 * PAGE)).map(Protection::READ_WRITE));
        // SAFETY: nobody else has it.
        let words = unsafe {
            core::slice::from_raw_parts(mapping.as_ptr().cast::<u64>(), mapping.bytes() / 8)
        };
        let first = words.iter().position(|word| *word != 0);
        check!(first.is_none(), "word {first:?} of new memory is not zero");
    }
    Ok(())
}

fn new_memory_is_mapped_with_what_it_shall_begin_with(_: &'static World) -> Verdict {
    const PLACE: u64 = 0x2000_0000_0000;
    let own = rt::process::current();
    let contents: Vec<u8> = (0..PAGE as usize + 100).map(|byte| byte as u8).collect();
    let handles = must!(own.info()).handles;
    let at = must!(own.map_new(PLACE, 3 * PAGE, Protection::READ, &contents));
    same!(at, PLACE);
    // SAFETY: mapped just now, and only read.
    let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, 3 * PAGE as usize) };
    same!(&bytes[..contents.len()], &contents[..]);
    check!(
        bytes[contents.len()..].iter().all(|byte| *byte == 0),
        "what comes behind is not zero"
    );
    same!(must!(own.info()).handles, handles);
    // SAFETY: not used any more.
    must!(unsafe { own.unmap(at, 3 * PAGE) });
    // None of these leaves anything behind.
    let before = must!(own.info());
    let (good, bad) = (contents.as_ptr() as u64, 0x3000_0000_0000);
    for (arguments, error) in [
        ([0, at + 1, PAGE, 1, good, 1], Error::BadArgument),
        ([0, at, 0, 1, good, 0], Error::BadArgument),
        ([0, at, PAGE, 2, good, 1], Error::BadArgument),
        ([0, at, PAGE, 1, good, PAGE + 1], Error::OutOfRange),
        ([0, at, PAGE, 1, bad, 1], Error::BadPointer),
        ([0, at, 2 * PAGE, 1, good, u64::MAX], Error::BadPointer),
        ([0, 1 << 47, PAGE, 1, good, 1], Error::OutOfRange),
        ([0, good & !0xFFF, PAGE, 1, good, 1], Error::AlreadyMapped),
    ] {
        refused(Call::MemoryMapNew, &arguments, error)?;
    }
    same!(must!(own.info()).handles, before.handles);
    // What was made in vain goes when every CPU has left the kernel once.
    let began = time::now();
    while must!(own.info()).pages > before.pages {
        check!(since(began) < PATIENCE, "memory was lost");
        must!(time::sleep(Duration::from_millis(1)));
    }
    Ok(())
}

fn mapping_can_be_placed_moved_and_taken_away(_: &'static World) -> Verdict {
    const PLACE: u64 = 0x2000_0000_0000;
    let own = rt::process::current();
    let memory = must!(Memory::create(4 * PAGE));
    same!(
        must!(own.map(&memory, PLACE, 0, 4 * PAGE, Protection::READ_WRITE)),
        PLACE
    );
    same!(
        own.map(&memory, PLACE + PAGE, 0, PAGE, Protection::READ),
        Err(Error::AlreadyMapped)
    );
    same!(
        own.map(&memory, PLACE - PAGE, 0, 2 * PAGE, Protection::READ),
        Err(Error::AlreadyMapped)
    );
    // A second view of a part of it.
    let second = must!(own.map(&memory, 0, 2 * PAGE, PAGE, Protection::READ));
    let (first, second) = (
        (PLACE + 2 * PAGE) as usize as *mut u64,
        second as usize as *mut u64,
    );
    // SAFETY: both are mapped, to the same page, and nobody else has it.
    unsafe {
        first.write_volatile(0x1234);
        same!(second.read_volatile(), 0x1234);
    }
    // A hole in the middle, which can be filled again.
    // SAFETY: nothing uses it.
    must!(unsafe { own.unmap(PLACE + PAGE, PAGE) });
    // SAFETY: unmapping what is unmapped is fine.
    must!(unsafe { own.unmap(PLACE + PAGE, PAGE) });
    must!(own.map(&memory, PLACE + PAGE, 3 * PAGE, PAGE, Protection::READ));
    // SAFETY: as above, across all three mappings.
    must!(unsafe { own.unmap(PLACE, 4 * PAGE) });
    must!(own.map(&memory, PLACE, 0, 4 * PAGE, Protection::READ));
    // SAFETY: as above.
    must!(unsafe { own.unmap(PLACE, 4 * PAGE) });
    Ok(())
}

/// Runs code with `rbx` pointing to `memory` mapped so; whether it came to its end.
fn try_access(
    memory: &Memory,
    protection: Protection,
    changed: Option<Protection>,
    code: &[u8],
) -> rt::Result<bool> {
    const PLACE: u64 = 0x2000_0000;
    let mut values = bare::pattern();
    values[reg::RBX] = PLACE;
    let bare = Bare::new(code, &values)?;
    bare.process.map(memory, PLACE, 0, PAGE, protection)?;
    if let Some(changed) = changed {
        // SAFETY: the process is not this one.
        unsafe { bare.process.protect(PLACE, PAGE, changed) }?;
    }
    Ok(bare.run()?.state == ProcessState::Exited as u32)
}

fn protection_changes_are_obeyed(_: &'static World) -> Verdict {
    let memory = must!(Memory::create(PAGE));
    // Code that ends the process with code 0, to be jumped to.
    must!(memory.write(0, code!("xor edi, edi", "mov eax, 50", "syscall")));
    let read = code!("mov rcx, [rbx]", "mov eax, 50", "syscall");
    let write = code!("mov byte ptr [rbx + 100], 1", "mov eax, 50", "syscall");
    let jump = code!("jmp rbx");
    let [r, rw, rx] = [
        Protection::READ,
        Protection::READ_WRITE,
        Protection::READ_EXECUTE,
    ];
    for (first, changed) in [(r, None), (rw, None), (rx, None)].into_iter().chain(
        [r, rw, rx]
            .into_iter()
            .flat_map(|first| [r, rw, rx].map(|changed| (first, Some(changed)))),
    ) {
        let now = changed.unwrap_or(first);
        same!(must!(try_access(&memory, first, changed, read)), true);
        same!(
            (
                first,
                changed,
                must!(try_access(&memory, first, changed, write))
            ),
            (first, changed, now.writable())
        );
        same!(
            (
                first,
                changed,
                must!(try_access(&memory, first, changed, jump))
            ),
            (first, changed, now.executable())
        );
    }
    Ok(())
}

fn memory_is_shared_between_processes(_: &'static World) -> Verdict {
    let memory = must!(Memory::create(PAGE));
    let mapping = must!(memory.map(Protection::READ_WRITE));
    let word = mapping.as_ptr().cast::<AtomicU64>();
    // SAFETY: mapped, aligned, and used as an atomic by all.
    let word = unsafe { &*word };
    let mut bares = Vec::new();
    for _ in 0..8 {
        let mut values = bare::pattern();
        values[reg::RBX] = 0x2000_0000;
        values[reg::RCX] = 1000;
        let code = code!(
            "2:",
            "lock inc qword ptr [rbx]",
            "loop 2b",
            "mov eax, 50",
            "syscall"
        );
        let bare = must!(Bare::new(code, &values));
        must!(
            bare.process
                .map(&memory, 0x2000_0000, 0, PAGE, Protection::READ_WRITE)
        );
        must!(bare.thread.start());
        bares.push(bare);
    }
    let start = time::now();
    while word.load(Ordering::Acquire) < 8000 {
        check!(
            since(start) < PATIENCE,
            "{} of 8000 were counted",
            word.load(Ordering::Relaxed)
        );
        must!(time::sleep(Duration::from_millis(1)));
    }
    same!(word.load(Ordering::Acquire), 8000);
    Ok(())
}

fn read_and_write_see_what_mappings_see(_: &'static World) -> Verdict {
    let memory = must!(Memory::create(5 * PAGE));
    let text: Vec<u8> = (0..3 * PAGE).map(|index| (index % 251) as u8).collect();
    must!(memory.write(PAGE - 100, &text));
    let mapping = must!(memory.map(Protection::READ));
    // SAFETY: nobody writes to it now.
    let bytes = unsafe { mapping.as_slice() };
    same!(
        bytes[..PAGE as usize - 100].iter().all(|byte| *byte == 0),
        true
    );
    same!(bytes[PAGE as usize - 100..][..text.len()] == text, true);
    let mut back = alloc::vec![0; text.len()];
    must!(memory.read(PAGE - 100, &mut back));
    same!(back == text, true);
    // Never-touched pages read as zeros.
    let mut last = [1; 16];
    must!(memory.read(5 * PAGE - 16, &mut last));
    same!(last, [0; 16]);
    same!(memory.read(5 * PAGE - 8, &mut last), Err(Error::OutOfRange));
    Ok(())
}

fn untouched_memory_costs_nothing(world: &'static World) -> Verdict {
    let before = must!(world.system.memory()).free;
    let started = time::now();
    // More than there is.
    let large = must!(Memory::create(1 << 40));
    let mapping = must!(large.map(Protection::READ_WRITE));
    let middle = (mapping.bytes() / 2) as u64;
    // SAFETY: the page is nobody else's.
    unsafe { mapping.as_ptr().add(middle as usize).write_volatile(1) };
    let mut byte = [0];
    must!(large.read(middle, &mut byte));
    same!(byte, [1]);
    let used = before.saturating_sub(must!(world.system.memory()).free);
    check!(
        used < 64 * PAGE,
        "a terabyte with one page in use takes {used} bytes"
    );
    drop(mapping);
    drop(large);
    check!(
        since(started) < Duration::from_secs(2),
        "it took {:?}",
        since(started)
    );
    Ok(())
}

fn mapping_outlives_its_handle(_: &'static World) -> Verdict {
    let memory = must!(Memory::create(PAGE));
    let mapping = must!(memory.map(Protection::READ_WRITE));
    drop(memory);
    // SAFETY: mapped until the mapping is dropped, and nobody else has it.
    unsafe {
        mapping.as_ptr().write_volatile(7);
        same!(mapping.as_ptr().read_volatile(), 7);
    }
    Ok(())
}

/// Takes memory until there is none, by system calls.
fn use_all_memory(_: &'static World, _: &str) -> u64 {
    let Ok(full) = start::take::<Notification>("full") else {
        return 1;
    };
    let Ok(memory) = Memory::create(1 << 40) else {
        return 2;
    };
    let piece = alloc::vec![1_u8; 256 * 1024];
    let mut offset = 0;
    let error = loop {
        match memory.write(offset, &piece) {
            Ok(()) => offset += piece.len() as u64,
            Err(error) => break error,
        }
    };
    if !matches!(
        error,
        Error::NoMemory | Error::QuotaExceeded | Error::BadPointer
    ) {
        return 3;
    }
    // Everything else fails as it should, or works.
    for _ in 0..200 {
        let _ = Notification::create().map(|notification| notification.into_handle().into_raw());
        let _ = rt::Process::create("late").map(|process| process.into_handle().into_raw());
        let _ = thread::spawn(|| ());
    }
    let _ = full.signal(1);
    let _ = time::sleep_until(rt::Deadline::NEVER);
    4
}

/// Takes memory until there is none, by touching it.
fn touch_all_memory(_: &'static World, _: &str) -> u64 {
    let Ok(memory) = Memory::create(1 << 40) else {
        return 2;
    };
    let Ok(mapping) = memory.map(Protection::READ_WRITE) else {
        return 3;
    };
    for page in 0.. {
        // SAFETY: nobody else has it; at its end it faults, which is what this is for.
        unsafe { mapping.as_ptr().add(page * PAGE as usize).write_volatile(1) };
    }
    4
}

/// Waits until as much is free as before, but for a little.
pub(super) fn comes_back(world: &World, before: u64, tolerance: u64) -> Verdict {
    let start = time::now();
    loop {
        let free = must!(world.system.memory()).free;
        if free + tolerance >= before {
            return Ok(());
        }
        check!(
            since(start) < PATIENCE,
            "{} KiB of memory did not come back",
            (before - free) / 1024
        );
        must!(time::sleep(Duration::from_millis(5)));
    }
}

/// Has a child take all memory by system calls, and ends it.
fn use_it_all(world: &World) -> Verdict {
    let full = must!(Notification::create());
    let given = must!(full.duplicate(Rights::SIGNAL | Rights::TRANSFER | Rights::QUERY));
    let child = must!(world.spawn("role use-all-memory", &[("full", given.handle())]));
    if full.wait(time::after(PATIENCE)).is_err() {
        fail!("it {}", ending(&must!(child.process.info())));
    }
    must!(child.process.kill(0));
    let info = must!(child.end(PATIENCE));
    check!(
        info.state == ProcessState::Killed as u32,
        "it {}",
        ending(&info)
    );
    Ok(())
}

/// Has a child touch memory until there is none, which ends it.
fn touch_it_all(world: &World) -> Verdict {
    let child = must!(world.spawn("role touch-all-memory", &[]));
    let info = must!(child.end(PATIENCE));
    check!(
        info.state == ProcessState::Faulted as u32,
        "it {}",
        ending(&info)
    );
    Ok(())
}

fn exhausted_memory_is_an_error_and_comes_back(world: &'static World) -> Verdict {
    // The first lets the kernel's own tables grow to what they need, which they keep.
    let first = must!(world.system.memory()).free;
    use_it_all(world)?;
    comes_back(world, first, 2048 * PAGE)?;
    must!(time::sleep(Duration::from_millis(50)));
    let before = must!(world.system.memory()).free;
    touch_it_all(world)?;
    comes_back(world, before, 64 * PAGE)
}
