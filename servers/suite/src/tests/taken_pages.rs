//! Pages that their pager takes back: nobody has them afterwards, nothing that was written is lost, and who touches one asks for it again.

use abi::pager::TakenBack;
use abi::report::Answer;
use abi::{Call, CpuSet, Error, MemoryFlags, Protection, Rights};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Badge, Endpoint, Memory, thread, time};

use super::memory::comes_back;
use super::pagers::{BADGE, PAGE, exited, read, reader, wanted};
use super::probe::{soon, until};
use super::tests;
use crate::kernel_calls::refused;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, fail, must, same};

tests! {
    a_page_that_is_taken_back_is_asked_for_again: 60,
    what_is_written_while_pages_are_taken_back_is_never_lost: 60,
    pages_that_are_supplied_and_taken_back_at_once_leak_nothing: 60,
    pages_are_taken_back_with_good_arguments_only: 60,
}

const PAGES: u64 = 3;

/// Memory whose pages can be taken back, and where they are asked for.
fn reclaimable() -> rt::Result<(Memory, Endpoint)> {
    let endpoint = Endpoint::create()?;
    let badged = endpoint.mint(Badge(BADGE), Rights::SEND)?;
    let memory = Memory::create_paged_with(PAGES * PAGE, &badged, MemoryFlags::RECLAIMABLE)?;
    Ok((memory, endpoint))
}

fn a_page_that_is_taken_back_is_asked_for_again(_: &'static World) -> Verdict {
    let (memory, endpoint) = must!(reclaimable());
    let mut told = [0xEE; PAGE as usize];
    same!(
        memory.take_back(PAGE, Some(&mut told)),
        Ok(TakenBack::Nothing)
    );
    for round in 0..3 {
        let value = 0x1234 + round;
        let program = must!(reader(&memory, PAGE + 8, read()));
        must!(program.thread.start());
        let (page, reply) = wanted(&endpoint)?;
        same!(page.offset, PAGE);
        let contents = [value; 512].map(u64::to_le_bytes);
        same!(memory.supply(PAGE, contents.as_flattened()), Ok(1));
        must!(reply.answer_report(Answer::Resume));
        exited(&program, value)?;
        // It was read, by a program that could have written.
        same!(
            memory.take_back(PAGE, Some(&mut told)),
            Ok(TakenBack::Unchanged)
        );
        check!(
            told == [0xEE; PAGE as usize],
            "what did not change was told"
        );
        same!(memory.read(PAGE, &mut [0; 8]), Err(Error::NotSupplied));
    }
    // A write of the kernel's is one as well, and one through a mapping of this process.
    let mapping = must!(memory.map(Protection::READ_WRITE));
    let word = |page: u64| {
        let place = mapping.as_ptr().wrapping_add((page * PAGE) as usize);
        // SAFETY: mapped, aligned, and used as an atomic; the page is there when it is used.
        unsafe { &*place.cast::<AtomicU64>() }
    };
    same!(memory.supply(0, &[1; 2 * PAGE as usize]), Ok(2));
    must!(memory.write(5, &[7]));
    word(1).store(9, Ordering::Relaxed);
    same!(memory.take_back(0, Some(&mut told)), Ok(TakenBack::Written));
    same!(told[..7], [1, 1, 1, 1, 1, 7, 1]);
    same!(
        memory.take_back(PAGE, Some(&mut told)),
        Ok(TakenBack::Written)
    );
    same!(told[..9], [9, 0, 0, 0, 0, 0, 0, 0, 1]);
    // Nobody wants to know.
    same!(memory.supply(0, &[1; 8]), Ok(1));
    must!(memory.write(5, &[7]));
    same!(memory.take_back(0, None), Ok(TakenBack::Written));
    Ok(())
}

/// Counts in a page, where nobody else writes, and looks each time whether its last number is still there.
fn counts() -> &'static [u8] {
    code!(
        "mov rax, [rbx]",
        "2:",
        "cmp [rbx], rax",
        "jne 3f",
        "inc rax",
        "mov [rbx], rax",
        "pause",
        "jmp 2b",
        "3:",
        "mov edi, 1",
        "mov eax, 50",
        "syscall",
        "ud2"
    )
}

fn what_is_written_while_pages_are_taken_back_is_never_lost(world: &'static World) -> Verdict {
    let (memory, endpoint) = must!(reclaimable());
    let program = must!(reader(&memory, 0, counts()));
    must!(
        program
            .thread
            .set_affinity(&CpuSet::only(u32::from(world.cpus > 1)))
    );
    must!(program.thread.start());
    let mut contents = [0; PAGE as usize];
    let mut last = 0;
    for _ in 0..60 {
        let (page, reply) = wanted(&endpoint)?;
        same!(page.offset, 0);
        same!(memory.supply(0, &contents), Ok(1));
        must!(reply.answer_report(Answer::Resume));
        let now = || {
            let mut bytes = [0; 8];
            memory
                .read(0, &mut bytes)
                .map(|()| u64::from_le_bytes(bytes))
        };
        let begun = must!(now());
        until("it counts", || Ok(now()? > begun))?;
        same!(
            memory.take_back(0, Some(&mut contents)),
            Ok(TakenBack::Written)
        );
        let Some(word) = contents.first_chunk().copied().map(u64::from_le_bytes) else {
            fail!("a page has a first word");
        };
        check!(word > last, "{word} was counted, and {last} before");
        last = word;
    }
    // The program ends by itself if one of its numbers is lost.
    let (_, _reply) = wanted(&endpoint)?;
    must!(program.process.kill(5));
    same!(must!(program.run_to_end()).code, 5);
    Ok(())
}

fn pages_that_are_supplied_and_taken_back_at_once_leak_nothing(world: &'static World) -> Verdict {
    let before = must!(world.system.memory()).free;
    let (memory, endpoint) = must!(reclaimable());
    let memory = Arc::new(memory);
    let program = must!(reader(&memory, 0, counts()));
    let stop = Arc::new(AtomicBool::new(false));
    let supplying = {
        let (memory, stop) = (Arc::clone(&memory), Arc::clone(&stop));
        must!(thread::Builder::new().cpu(1 % world.cpus).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                memory.supply(0, &[0; PAGE as usize])?;
                thread::yield_now();
            }
            Ok::<_, Error>(())
        }))
    };
    let (mut taken, start) = (0, time::now());
    // A hundred times, or as often as they come by turns in a while: where one thread of the host runs all CPUs a turn takes long.
    while taken < 100 && (taken < 4 || crate::clock::since(start) < Duration::from_millis(500)) {
        let answer = must!(memory.take_back(0, None));
        if answer == TakenBack::Nothing {
            check!(
                crate::clock::since(start) < super::probe::PATIENCE,
                "nobody supplies: {taken} were taken"
            );
            thread::yield_now();
        } else {
            taken += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    must!(must!(supplying.join(soon())));
    drop((program, endpoint, memory));
    comes_back(world, before, 64 * PAGE)
}

fn pages_are_taken_back_with_good_arguments_only(_: &'static World) -> Verdict {
    let (memory, _endpoint) = must!(reclaimable());
    same!(memory.supply(0, &[6; PAGE as usize]), Ok(1));
    must!(memory.write(0, &[5]));
    let handle = memory.handle().0;
    for (offset, pointer, error) in [
        (8, 0, Error::BadArgument),
        (PAGES * PAGE, 0, Error::OutOfRange),
        (u64::MAX - PAGE + 1, 0, Error::OutOfRange),
        (0, 0x10, Error::BadPointer),
        (0, u64::MAX - PAGE, Error::BadPointer),
    ] {
        refused(Call::MemoryTakeBack, &[handle, offset, pointer], error)?;
        // It is there as it was.
        let mut bytes = [0; 2];
        must!(memory.read(0, &mut bytes));
        same!(bytes, [5, 6]);
    }
    // Into a page of its own that is not there, which nobody can supply now.
    let mapping = must!(memory.map(Protection::READ_WRITE));
    let there = mapping.as_ptr() as u64 + PAGE;
    refused(
        Call::MemoryTakeBack,
        &[handle, 0, there],
        Error::NotSupplied,
    )?;
    same!(memory.take_back(0, None), Ok(TakenBack::Written));
    let lesser = must!(memory.duplicate(Rights::READ | Rights::WRITE));
    same!(lesser.take_back(0, None), Err(Error::NoRight));
    let endpoint = must!(Endpoint::create());
    for other in [
        must!(Memory::create(PAGE)),
        must!(Memory::create_with(PAGE, MemoryFlags::CLONABLE)),
        must!(Memory::create_paged(PAGE, &endpoint)),
    ] {
        same!(other.take_back(0, None), Err(Error::NotSupported));
    }
    same!(memory.clone_on_write().map(drop), Err(Error::NotSupported));
    for flags in [
        MemoryFlags::CLONABLE,
        MemoryFlags::LARGE_PAGES,
        MemoryFlags(6),
        MemoryFlags(8),
    ] {
        same!(
            Memory::create_paged_with(PAGE, &endpoint, flags).map(drop),
            Err(Error::BadArgument)
        );
    }
    same!(
        Memory::create_with(PAGE, MemoryFlags::RECLAIMABLE).map(drop),
        Err(Error::BadArgument)
    );
    Ok(())
}
