//! Memory that several CPUs use at once: what a call has taken away or restricted is so on all of them when it returns.

use abi::info::ProcessState;
use abi::{Call, CpuSet, Error, Protection};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Memory, thread, time};

use super::tests;
use crate::bare::{self, Bare, reg};
use crate::clock::since;
use crate::kernel_calls::raw;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, fail, must, same};

tests! {
    unmapping_holds_on_every_cpu_when_the_call_returns: 60,
    protection_holds_on_every_cpu_when_the_call_returns: 60,
    threads_that_touch_one_page_see_one_page: 40,
    copies_survive_unmapping_under_way: 40,
}

const PAGE: u64 = 4096;
const PATIENCE: Duration = crate::runner::PATIENCE;

/// Threads on several CPUs hammer a page of a bare process; `change` takes it away from them. Once the call has
/// returned, a word that only they count up must stand still.
fn hammer(world: &World, change: fn(&Bare, u64) -> rt::Result<()>) -> Verdict {
    const PLACE: u64 = 0x2000_0000;
    for round in 0..3_u64 {
        let memory = must!(Memory::create(PAGE));
        let view = must!(memory.map(Protection::READ_WRITE));
        // SAFETY: mapped, aligned, and used as an atomic by all.
        let word = unsafe { &*view.as_ptr().cast::<AtomicU64>() };
        let mut values = bare::pattern();
        values[reg::RBX] = PLACE;
        let bare = must!(Bare::new(
            code!("2:", "lock inc qword ptr [rbx]", "jmp 2b"),
            &values
        ));
        must!(
            bare.process
                .map(&memory, PLACE, 0, PAGE, Protection::READ_WRITE)
        );
        let mut threads = Vec::new();
        // At most four: an emulator that has fewer CPUs itself takes ages over more that spin.
        let step = world.cpus.div_ceil(4);
        for cpu in (0..world.cpus).rev().step_by(step as usize) {
            // SAFETY: the process is not this one.
            let thread =
                must!(unsafe { bare.process.create_thread(bare::CODE, bare::STACK_TOP, 0) });
            must!(thread.set_affinity(&CpuSet::only(cpu)));
            must!(thread.start());
            threads.push(thread);
        }
        let start = time::now();
        while word.load(Ordering::Acquire) < 200 * (round + 1) {
            check!(since(start) < PATIENCE, "nobody counts");
            thread::yield_now();
        }
        must!(change(&bare, PLACE));
        // From here on each of them faults at its next write. The first fault ends them all.
        let then = word.load(Ordering::SeqCst);
        must!(time::sleep(Duration::from_millis(5)));
        let now = word.load(Ordering::SeqCst);
        check!(
            now == then,
            "{} writes came after the page was taken away",
            now - then
        );
        let info = must!(bare.run_to_end());
        check!(
            info.state == ProcessState::Faulted as u32,
            "it {}",
            ending(&info)
        );
        same!(info.context.cr2, PLACE);
    }
    Ok(())
}

fn unmapping_holds_on_every_cpu_when_the_call_returns(world: &'static World) -> Verdict {
    // SAFETY: the process is not this one.
    hammer(world, |bare, place| unsafe {
        bare.process.unmap(place, PAGE)
    })
}

fn protection_holds_on_every_cpu_when_the_call_returns(world: &'static World) -> Verdict {
    // SAFETY: the process is not this one.
    hammer(world, |bare, place| unsafe {
        bare.process.protect(place, PAGE, Protection::READ)
    })
}

fn threads_that_touch_one_page_see_one_page(world: &'static World) -> Verdict {
    const PAGES: usize = 300;
    for _ in 0..3 {
        let mapping = Arc::new(must!(
            must!(Memory::create(PAGES as u64 * PAGE)).map(Protection::READ_WRITE)
        ));
        let go = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for cpu in 0..world.cpus {
            let (mapping, go) = (Arc::clone(&mapping), Arc::clone(&go));
            threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                while !go.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                for page in 0..PAGES {
                    // SAFETY: mapped, aligned, and used as an atomic by all.
                    let word = unsafe {
                        &*mapping
                            .as_ptr()
                            .add(page * PAGE as usize)
                            .cast::<AtomicU64>()
                    };
                    word.fetch_add(1, Ordering::Relaxed);
                }
            })));
        }
        go.store(true, Ordering::Release);
        for thread in threads {
            must!(thread.join(time::after(Duration::from_secs(10))));
        }
        for page in 0..PAGES {
            // SAFETY: as above.
            let word = unsafe {
                &*mapping
                    .as_ptr()
                    .add(page * PAGE as usize)
                    .cast::<AtomicU64>()
            };
            same!(
                (page, word.load(Ordering::Relaxed)),
                (page, u64::from(world.cpus))
            );
        }
    }
    Ok(())
}

fn copies_survive_unmapping_under_way(world: &'static World) -> Verdict {
    const PLACE: u64 = 0x2100_0000_0000;
    const BYTES: u64 = 64 * PAGE;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let remapper = must!(thread::Builder::new().cpu(world.cpus - 1).spawn(move || {
        let own = rt::process::current();
        let mut rounds = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            let memory = Memory::create(BYTES)?;
            own.map(&memory, PLACE, 0, BYTES, Protection::READ_WRITE)?;
            thread::yield_now();
            // SAFETY: nothing uses it but the kernel's copies, which must bear it.
            unsafe { own.unmap(PLACE, BYTES) }?;
            rounds += 1;
        }
        Ok::<u64, Error>(rounds)
    }));
    let source = must!(Memory::create(BYTES));
    let (mut good, mut bad) = (0, 0);
    let start = time::now();
    while since(start) < Duration::from_millis(400) {
        for call in [Call::MemoryRead, Call::MemoryWrite] {
            match Error::from_code(raw(call as u64, &[source.handle().0, 0, PLACE, BYTES]).status) {
                None => good += 1,
                Some(Error::BadPointer) => bad += 1,
                Some(error) => fail!("a copy failed otherwise: {error}"),
            }
        }
        if world.cpus == 1 {
            thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = must!(must!(remapper.join(time::after(PATIENCE))));
    check!(
        rounds > 0 && good + bad > 0,
        "{rounds} rounds, {good} good copies, {bad} bad"
    );
    Ok(())
}
