//! Address spaces and kernel stacks under switches: nobody sees pages that are gone, nobody enters the kernel on another's stack.

use abi::{Call, CpuSet, Error, Protection};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Deadline, Endpoint, Event, Memory, Message, Notification, Plain, thread, time};

use super::tests;
use crate::bare::{self, Bare, reg};
use crate::clock::since;
use crate::kernel_calls::raw;
use crate::registers::*;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, fail, must, same, skip};

tests! {
    page_that_goes_and_comes_is_on_no_cpu_in_between: 60,
    every_entry_finds_its_threads_stack_after_each_kind_of_switch: 40,
    spaces_that_take_turns_never_see_pages_that_are_gone: 60,
    a_copy_ends_where_another_cpu_unmaps_its_pages: 40,
}

const PAGE: u64 = 4096;
const PATIENCE: Duration = crate::runner::PATIENCE;

fn soon() -> Deadline {
    time::after(PATIENCE)
}

/// Enters the kernel by `syscall`, by a software interrupt and by an exception, with all registers known. The kernel of the test
/// builds asserts at each entry that it came in on the current thread's stack.
fn enter_each_way(seed: u32) -> Verdict {
    let round = u64::from(seed);
    for through in [through_syscall, through_interrupt] {
        let before = Registers {
            rax: Call::Null as u64,
            r14: 1,
            ..pattern(round)
        };
        let mut after = before;
        // SAFETY: the call does nothing.
        unsafe { through(&mut after) };
        // What `syscall` is documented to lose, and a short call to clear.
        let want = Registers {
            rax: 0,
            rcx: after.rcx,
            r11: after.r11,
            rdi: 0,
            rsi: 0,
            rdx: 0,
            r8: 0,
            r9: 0,
            r10: 0,
            ..before
        };
        same!(after, want);
    }
    let mapping = must!(must!(Memory::create(PAGE)).map(Protection::READ_WRITE));
    let before = Registers {
        rbx: mapping.as_ptr() as u64,
        flags: BASE_FLAGS | ARITHMETIC,
        ..pattern(round)
    };
    let mut after = before;
    // SAFETY: the page is the test's.
    unsafe { through_write(&mut after) };
    same!(after, before);
    Ok(())
}

fn every_entry_finds_its_threads_stack_after_each_kind_of_switch(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    // A rival that never blocks: whoever goes on on this CPU was preempted or comes after a preemption.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let rival = must!(thread::Builder::new().cpu(cpu).spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
    }));
    let endpoint = Arc::new(must!(Endpoint::create()));
    let bell = Arc::new(must!(Notification::create()));
    let server = {
        let (endpoint, bell) = (Arc::clone(&endpoint), Arc::clone(&bell));
        must!(thread::Builder::new().cpu(cpu).spawn(move || {
            let mut pending = None;
            loop {
                let event = must!(endpoint.serve_next(pending.take(), 0, soon()));
                let Event::Message(received) = event else {
                    continue;
                };
                enter_each_way(received.label)?;
                must!(bell.signal(1));
                let last = received.label == 0;
                let Some(reply) = received.reply else {
                    fail!("a call came without a reply");
                };
                if last {
                    must!(reply.answer(Message::new(0)));
                    return Ok(());
                }
                pending = Some((reply, Message::new(0)));
            }
        }))
    };
    let client = must!(thread::Builder::new().cpu(cpu).spawn(move || {
        // Its start was a switch.
        enter_each_way(1)?;
        for round in (0..10).rev() {
            thread::yield_now();
            enter_each_way(round)?;
            must!(time::sleep(Duration::from_micros(200)));
            enter_each_way(round)?;
            must!(endpoint.call_plain(
                Plain {
                    label: round,
                    ..Plain::default()
                },
                soon()
            ));
            enter_each_way(round)?;
            must!(bell.wait(soon()));
            enter_each_way(round)?;
            let begin = time::now();
            while since(begin) < Duration::from_millis(3) {
                core::hint::spin_loop();
            }
            enter_each_way(round)?;
        }
        Ok(())
    }));
    let outcome = client.join(time::after(Duration::from_secs(20)));
    stop.store(true, Ordering::Relaxed);
    must!(rival.join(soon()));
    must!(outcome)?;
    must!(server.join(soon()))
}

/// A word that a bare process and the test share.
fn word(mapping: &rt::Mapping, index: usize) -> &AtomicU64 {
    // SAFETY: the page is mapped, the index within it, and all use it as atomic words.
    unsafe { &*mapping.as_ptr().cast::<AtomicU64>().add(index) }
}

/// More processes than any CPU has names for take turns on one CPU, each at the same addresses. While they wait for their turn, or
/// in it, their page is exchanged for one with a higher number; whoever was told the number may not read a lower one.
fn spaces_that_take_turns_never_see_pages_that_are_gone(world: &'static World) -> Verdict {
    const SPACES: usize = 20;
    const ROUNDS: u64 = 40;
    const DATA: u64 = 0x2000_0000;
    const CONTROL: u64 = 0x3000_0000;
    /// Words of the control page.
    const WANTED: usize = 0;
    const SEEN: usize = 1;
    const STALE: usize = 2;
    struct One {
        bare: Bare,
        control: rt::Mapping,
    }
    let mut values = bare::pattern();
    values[reg::RBX] = DATA;
    values[reg::RBP] = CONTROL;
    let mut all = Vec::new();
    for _ in 0..SPACES {
        let bare = must!(Bare::new(
            code!(
                "2:",
                "mov rdi, [rbp]", // the lowest number that it may find; 0: it shall not look
                "test rdi, rdi",
                "jz 3f",
                "mov rsi, [rbx]", // what is there
                "cmp rsi, rdi",
                "jae 4f",
                "mov [rbp + 16], rdi",
                "jmp 4f",
                "3:",
                "xor esi, esi",
                "4:",
                "mov [rbp + 8], rsi",
                "mov eax, 1", // yield
                "xor r14d, r14d",
                "syscall",
                "jmp 2b",
            ),
            &values
        ));
        let control = must!(Memory::create(PAGE));
        must!(
            bare.process
                .map(&control, CONTROL, 0, PAGE, Protection::READ_WRITE)
        );
        let control = must!(control.map(Protection::READ_WRITE));
        must!(put(&bare, DATA, 1));
        word(&control, WANTED).store(1, Ordering::SeqCst);
        must!(bare.thread.set_affinity(&CpuSet::only(world.cpus - 1)));
        must!(bare.thread.start());
        all.push(One { bare, control });
    }
    let reaches = |one: &One, number: u64| {
        let begin = time::now();
        loop {
            let seen = word(&one.control, SEEN).load(Ordering::SeqCst);
            if seen == number {
                return Ok(());
            }
            check!(
                since(begin) < PATIENCE,
                "it stands still at {seen}, before {number}"
            );
            thread::yield_now();
        }
    };
    for one in &all {
        reaches(one, 1)?;
    }
    for round in 2..ROUNDS {
        // Not all of them in each round: some come back to pages that they know, through tables that have not changed.
        let mine = || {
            all.iter()
                .enumerate()
                .filter(|(index, _)| (*index as u64 + round).is_multiple_of(3))
                .map(|(_, one)| one)
        };
        for one in mine() {
            word(&one.control, WANTED).store(0, Ordering::SeqCst);
        }
        for one in mine() {
            reaches(one, 0)?;
            // SAFETY: the process is not this one, and does not look.
            must!(unsafe { one.bare.process.unmap(DATA, PAGE) });
            must!(put(&one.bare, DATA, round));
            word(&one.control, WANTED).store(round, Ordering::SeqCst);
        }
        for one in mine() {
            reaches(one, round)?;
        }
    }
    for (index, one) in all.iter().enumerate() {
        let stale = word(&one.control, STALE).load(Ordering::SeqCst);
        check!(
            stale == 0,
            "process {index} read an older page after it was told of number {stale}"
        );
    }
    for one in all {
        must!(one.bare.process.kill(0));
    }
    Ok(())
}

/// Puts a page that holds `number` at `place`, where nothing is.
fn put(bare: &Bare, place: u64, number: u64) -> rt::Result<u64> {
    let page = Memory::create(PAGE)?;
    page.write(0, &number.to_le_bytes())?;
    bare.process.map(&page, place, 0, PAGE, Protection::READ)
}

/// One CPU copies from pages that another takes away meanwhile. The copy must end where they end, and nothing that was
/// written to them after the unmapping returned may be in it.
fn a_copy_ends_where_another_cpu_unmaps_its_pages(world: &'static World) -> Verdict {
    const PLACE: u64 = 0x2200_0000_0000;
    const PAGES: u64 = 512;
    const BYTES: u64 = PAGES * PAGE;
    /// What is taken away, from the end on, by one call.
    const STRIDE: u64 = 64;
    const BEFORE: u64 = 0x1111_1111_1111_1111;
    const AFTER: u64 = 0x2222_2222_2222_2222;
    if world.cpus == 1 {
        skip!("the copy has the only CPU");
    }
    let source = must!(Memory::create(BYTES));
    let view = must!(source.map(Protection::READ_WRITE));
    let target = must!(Memory::create(BYTES));
    let copied = must!(target.map(Protection::READ_WRITE));
    let fill = |mapping: &rt::Mapping, value: u64| {
        for page in 0..PAGES as usize {
            word(mapping, page * 512).store(value, Ordering::SeqCst);
        }
    };
    let own = rt::process::current();
    let begin = time::now();
    let (mut whole, mut cut, mut nothing) = (0, 0, 0);
    let mut delay = 0;
    while cut < 5 {
        check!(
            since(begin) < Duration::from_secs(20),
            "no copy was cut: {whole} were whole, {nothing} found nothing"
        );
        fill(&view, BEFORE);
        fill(&copied, 0);
        must!(own.map(&source, PLACE, 0, BYTES, Protection::READ_WRITE));
        let ready = Arc::new(AtomicBool::new(false));
        let copier = {
            let (ready, handle) = (Arc::clone(&ready), target.handle().0);
            must!(thread::Builder::new().cpu(world.cpus - 1).spawn(move || {
                ready.store(true, Ordering::SeqCst);
                raw(Call::MemoryWrite as u64, &[handle, 0, PLACE, BYTES]).status
            }))
        };
        while !ready.load(Ordering::SeqCst) {
            core::hint::spin_loop();
        }
        for _ in 0..delay {
            core::hint::spin_loop();
        }
        // From its end to its beginning, so that the copy runs into the hole somewhere.
        for first in (0..PAGES / STRIDE).rev().map(|block| block * STRIDE) {
            // SAFETY: nothing uses it but the kernel's copy, which must bear it.
            must!(unsafe { own.unmap(PLACE + first * PAGE, STRIDE * PAGE) });
            for page in first..first + STRIDE {
                word(&view, page as usize * 512).store(AFTER, Ordering::SeqCst);
            }
        }
        let status = must!(copier.join(soon()));
        let good = (0..PAGES as usize)
            .take_while(|page| word(&copied, page * 512).load(Ordering::SeqCst) == BEFORE)
            .count();
        for page in 0..PAGES as usize {
            let found = word(&copied, page * 512).load(Ordering::SeqCst);
            check!(
                found != AFTER,
                "page {page} was read after the call that unmapped it had returned"
            );
            same!((page, found), (page, if page < good { BEFORE } else { 0 }));
        }
        match Error::from_code(status) {
            None => {
                same!(good as u64, PAGES);
                whole += 1;
                // Begin earlier.
                delay /= 2;
            }
            Some(Error::BadPointer) if good == 0 => {
                nothing += 1;
                delay = delay * 2 + 100;
            }
            Some(Error::BadPointer) => cut += 1,
            Some(error) => fail!("the copy failed otherwise: {error}"),
        }
    }
    Ok(())
}

/// A page of this process is mapped and unmapped again and again, by the short way, while threads on other CPUs have the kernel write to
/// it. Once an unmapping has returned nobody reaches it.
fn page_that_goes_and_comes_is_on_no_cpu_in_between(world: &'static World) -> Verdict {
    let own = rt::process::current();
    // Room, in which the first page stays.
    let room = must!(must!(Memory::create(16 * PAGE)).map(Protection::READ)).leak() as u64;
    // SAFETY: nothing uses it.
    must!(unsafe { own.unmap(room + PAGE, 15 * PAGE) });
    let place = room + 3 * PAGE;
    let memory = must!(Memory::create(PAGE));
    let view = must!(memory.map(Protection::READ_WRITE));
    // SAFETY: mapped, aligned, and used as an atomic by all.
    let word = unsafe { &*view.as_ptr().cast::<AtomicU64>() };
    let source = Arc::new(must!(Memory::create(PAGE)));
    must!(source.write(0, &[0xFF; 8]));
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<Vec<[AtomicU64; 2]>> = Arc::new(
        (0..world.cpus.min(4))
            .map(|_| [AtomicU64::new(0), AtomicU64::new(0)])
            .collect(),
    );
    let mut threads = Vec::new();
    for cpu in 0..counts.len() {
        let (source, stop, counts) = (Arc::clone(&source), Arc::clone(&stop), Arc::clone(&counts));
        threads.push(must!(thread::Builder::new().cpu(cpu as u32).spawn(
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let copied = raw(Call::MemoryRead as u64, &[source.handle().0, 0, place, 8]);
                    let done = usize::from(copied.status == 0);
                    counts[cpu][done].fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                }
            }
        )));
    }
    let started = time::now();
    // Until each of them has done so once more.
    let wait = |which: usize| -> Verdict {
        for count in counts.iter() {
            let now = count[which].load(Ordering::SeqCst);
            while count[which].load(Ordering::SeqCst) < now + 2 {
                check!(
                    since(started) < crate::runner::PATIENCE,
                    "a thread does not get on"
                );
                thread::yield_now();
            }
        }
        Ok(())
    };
    for round in 0..10 {
        must!(own.map(&memory, place, 0, PAGE, Protection::READ_WRITE));
        wait(1)?;
        check!(word.load(Ordering::SeqCst) != 0, "nobody wrote");
        // SAFETY: nothing uses it but the kernel's copies, which must bear it.
        must!(unsafe { own.unmap(place, PAGE) });
        word.store(0, Ordering::SeqCst);
        wait(0)?;
        same!((round, word.load(Ordering::SeqCst)), (round, 0));
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        must!(thread.join(time::after(crate::runner::PATIENCE)));
    }
    Ok(())
}
