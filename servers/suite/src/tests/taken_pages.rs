//! Pages that their pager takes back: nobody has them afterwards, nothing that was written is lost, and who touches one asks for it again.

use abi::pager::TakenBack;
use abi::report::Answer;
use abi::{Call, CpuSet, Error, MemoryFlags, Protection, Rights};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Badge, Endpoint, Event, Memory, thread, time};

use super::memory::comes_back;
use super::pagers::{BADGE, PAGE, exited, read, reader, wanted};
use super::probe::{soon, until};
use super::tests;
use crate::kernel_calls::{call, refused};
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, fail, must, same};

tests! {
    a_page_that_is_taken_back_is_asked_for_again: 60,
    what_is_written_while_pages_are_taken_back_is_never_lost: 60,
    what_programs_of_several_spaces_write_while_a_page_is_taken_back_is_never_lost: 60,
    pages_that_are_supplied_and_taken_back_at_once_leak_nothing: 60,
    a_page_that_two_threads_take_back_at_once_is_told_to_one: 60,
    no_supply_takes_the_place_of_what_could_not_be_told: 60,
    pages_are_taken_back_with_good_arguments_only: 60,
}

const PAGES: u64 = 3;
/// Programs that write to one page.
const SPACES: u32 = 3;

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

/// The words that some programs count in, of a page as the kernel reads it.
fn words(memory: &Memory) -> rt::Result<[u64; SPACES as usize]> {
    let mut bytes = [0; 8 * SPACES as usize];
    memory.read(0, &mut bytes)?;
    Ok(numbers(&bytes))
}

/// The first numbers of a page.
fn numbers(bytes: &[u8]) -> [u64; SPACES as usize] {
    let mut words = [0; SPACES as usize];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Answers whoever wants the page, as long as somebody does within `patience`.
fn serve(
    memory: &Memory,
    endpoint: &Endpoint,
    contents: &[u8],
    patience: Duration,
) -> rt::Result<u64> {
    let mut answered = 0;
    loop {
        let message = match endpoint.recv(0, time::after(patience)) {
            Ok(Event::Message(message)) => message,
            Ok(Event::Notification(_)) | Err(Error::TimedOut) => return Ok(answered),
            Err(error) => return Err(error),
        };
        match memory.supply(0, contents) {
            // Another thread is about to learn what is to be supplied: who wants it asks again.
            Ok(_) | Err(Error::Busy) => {}
            Err(error) => return Err(error),
        }
        if let Some(reply) = message.reply {
            reply.answer_report(Answer::Resume)?;
            answered += 1;
        }
    }
}

fn what_programs_of_several_spaces_write_while_a_page_is_taken_back_is_never_lost(
    world: &'static World,
) -> Verdict {
    let (memory, endpoint) = must!(reclaimable());
    let mut programs = Vec::new();
    for number in 0..SPACES {
        let program = must!(reader(&memory, u64::from(number) * 8, counts()));
        let cpu = CpuSet::only((number + 1) % world.cpus);
        must!(program.thread.set_affinity(&cpu));
        must!(program.thread.start());
        programs.push(program);
    }
    let mut contents = [0; PAGE as usize];
    let (mut rounds, start) = (0, time::now());
    while rounds < 40 && (rounds < 3 || crate::clock::since(start) < Duration::from_secs(2)) {
        let last = numbers(&contents);
        until("all of them count", || {
            serve(&memory, &endpoint, &contents, Duration::from_micros(100))?;
            match words(&memory) {
                Ok(now) => Ok(now.iter().zip(&last).all(|(now, last)| now > last)),
                Err(Error::NotSupplied) => Ok(false),
                Err(error) => Err(error),
            }
        })?;
        same!(
            memory.take_back(0, Some(&mut contents)),
            Ok(TakenBack::Written)
        );
        let now = numbers(&contents);
        check!(
            now.iter().zip(&last).all(|(now, last)| now > last),
            "{now:?} were counted, and {last:?} before"
        );
        rounds += 1;
    }
    // Each ends by itself if one of its numbers is lost.
    for program in &programs {
        must!(program.process.kill(5));
        same!(must!(program.run_to_end()).code, 5);
    }
    Ok(())
}

/// Reads a word over and over.
fn reads() -> &'static [u8] {
    code!("2:", "mov rax, [rbx]", "pause", "jmp 2b")
}

fn pages_that_are_supplied_and_taken_back_at_once_leak_nothing(world: &'static World) -> Verdict {
    let before = must!(world.system.memory()).free;
    let (memory, endpoint) = must!(reclaimable());
    let (memory, endpoint) = (Arc::new(memory), Arc::new(endpoint));
    let program = must!(reader(&memory, 0, reads()));
    must!(program.thread.set_affinity(&CpuSet::only(2 % world.cpus)));
    must!(program.thread.start());
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let supplying = {
        let (memory, endpoint) = (Arc::clone(&memory), Arc::clone(&endpoint));
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        must!(thread::Builder::new().cpu(1 % world.cpus).spawn(move || {
            let contents = [0; PAGE as usize];
            while !stop.load(Ordering::Relaxed) {
                let some = serve(&memory, &endpoint, &contents, Duration::from_micros(100))?;
                answered.fetch_add(some, Ordering::Relaxed);
                // Also unasked.
                memory.supply(0, &contents)?;
            }
            Ok::<_, Error>(())
        }))
    };
    let (mut taken, start) = (0, time::now());
    // A hundred times, or as often as they come by turns in a while: where one thread of the host runs all CPUs a turn takes long.
    while answered.load(Ordering::Relaxed) == 0
        || taken < 100 && (taken < 4 || crate::clock::since(start) < Duration::from_millis(500))
    {
        let answer = must!(memory.take_back(0, None));
        if answer == TakenBack::Nothing {
            check!(
                crate::clock::since(start) < super::probe::PATIENCE,
                "nobody supplies, or nobody reads: {taken} were taken"
            );
            thread::yield_now();
        } else {
            same!(answer, TakenBack::Unchanged);
            taken += 1;
        }
    }
    // Before the program's end: who is answered lives.
    stop.store(true, Ordering::Relaxed);
    must!(must!(supplying.join(soon())));
    must!(program.process.kill(5));
    same!(must!(program.run_to_end()).code, 5);
    drop((program, endpoint, memory));
    comes_back(world, before, 64 * PAGE)
}

fn a_page_that_two_threads_take_back_at_once_is_told_to_one(world: &'static World) -> Verdict {
    let (memory, _endpoint) = must!(reclaimable());
    let memory = Arc::new(memory);
    let (stop, theirs, told) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let other = {
        let (memory, stop) = (Arc::clone(&memory), Arc::clone(&stop));
        let (theirs, told) = (Arc::clone(&theirs), Arc::clone(&told));
        must!(thread::Builder::new().cpu(1 % world.cpus).spawn(move || {
            let mut contents = [0; PAGE as usize];
            while !stop.load(Ordering::Relaxed) {
                match memory.take_back(0, Some(&mut contents)) {
                    Ok(TakenBack::Written) => {
                        theirs.fetch_add(1, Ordering::Relaxed);
                        told.store(numbers(&contents)[0], Ordering::Release);
                    }
                    Ok(_) | Err(Error::Busy) => thread::yield_now(),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        }))
    };
    let mut contents = [0; PAGE as usize];
    let (mut round, mut mine, start) = (0, 0, time::now());
    while round < 500 && (round < 3 || crate::clock::since(start) < Duration::from_secs(1)) {
        round += 1;
        until("it is there, and written", || {
            match memory.supply(0, &[0; 8]) {
                Ok(_) | Err(Error::Busy) => {}
                Err(error) => return Err(error),
            }
            match memory.write(0, &u64::to_le_bytes(round)) {
                // The other one was faster.
                Err(Error::NotSupplied) => Ok(false),
                done => done.map(|()| true),
            }
        })?;
        match memory.take_back(0, Some(&mut contents)) {
            Ok(TakenBack::Written) => {
                same!(numbers(&contents)[0], round);
                mine += 1;
            }
            Ok(TakenBack::Nothing) | Err(Error::Busy) => until("the other one was told", || {
                Ok(told.load(Ordering::Acquire) == round)
            })?,
            answer => fail!("what was written is {answer:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    must!(must!(other.join(soon())));
    same!(mine + theirs.load(Ordering::Relaxed), round);
    Ok(())
}

fn no_supply_takes_the_place_of_what_could_not_be_told(world: &'static World) -> Verdict {
    let (memory, _endpoint) = must!(reclaimable());
    let memory = Arc::new(memory);
    same!(memory.supply(0, &[6; PAGE as usize]), Ok(1));
    must!(memory.write(0, &[5]));
    let (stop, failed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let other = {
        let (memory, stop) = (Arc::clone(&memory), Arc::clone(&stop));
        let failed = Arc::clone(&failed);
        must!(thread::Builder::new().cpu(1 % world.cpus).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // No memory is there.
                let arguments = [memory.handle().0, 0, 0x10];
                match call(Call::MemoryTakeBack, &arguments) {
                    Err(Error::BadPointer) => failed.fetch_add(1, Ordering::Relaxed),
                    other => return other.map(drop),
                };
                core::hint::spin_loop();
            }
            Ok(())
        }))
    };
    let mut calls = 0;
    let start = time::now();
    while calls < 2000 && crate::clock::since(start) < Duration::from_millis(500)
        || failed.load(Ordering::Relaxed) < 4
    {
        check!(
            crate::clock::since(start) < super::probe::PATIENCE,
            "nobody takes it back"
        );
        match memory.supply(0, &[1; 8]) {
            Ok(0) | Err(Error::Busy) => {}
            other => fail!("what was written is there, and a supply {other:?}"),
        }
        let mut bytes = [0; 2];
        match memory.read(0, &mut bytes) {
            Ok(()) => same!(bytes, [5, 6]),
            Err(error) => same!(error, Error::NotSupplied),
        }
        calls += 1;
        if failed.load(Ordering::Relaxed) < 4 {
            thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    must!(must!(other.join(soon())));
    let mut told = [0; PAGE as usize];
    same!(memory.take_back(0, Some(&mut told)), Ok(TakenBack::Written));
    same!(told[..3], [5, 6, 6]);
    Ok(())
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
