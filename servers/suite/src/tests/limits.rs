//! Using up everything that can be used up: an error with a name, and then all of it is free again.

use abi::info::ProcessState;
use abi::{Call, Error, Protection, Rights};
use alloc::vec::Vec;
use core::time::Duration;
use rt::{AsHandle, Memory, Notification, Process, Thread, start, time};

use super::tests;
use crate::clock::since;
use crate::kernel_calls::{call, raw};
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, must, same};

tests! {
    handles_run_out_with_an_error: 40,
    what_a_process_used_up_is_free_after_its_end: 60,
    same_work_again_and_again_takes_no_memory: 60,
    watchers_run_out_with_an_error: 40,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[Role {
    name: "use-up",
    run: use_up,
}];

const PATIENCE: Duration = crate::runner::PATIENCE;

fn handles_run_out_with_an_error(_: &'static World) -> Verdict {
    let mut handles = Vec::new();
    let error = loop {
        let results = raw(Call::NotificationCreate as u64, &[]);
        if results.status != 0 {
            break results.status;
        }
        handles.push(results.values[0]);
        check!(
            handles.len() < 1 << 20,
            "a million handles are no end of it"
        );
    };
    same!(error, Error::QuotaExceeded as u64);
    check!(handles.len() > 1000, "only {} handles", handles.len());
    // Every way to get a handle is closed, and opens again with the first that is given back.
    for full in [Call::EndpointCreate, Call::ProcessSelf, Call::ThreadSelf] {
        same!(raw(full as u64, &[]).status, Error::QuotaExceeded as u64);
    }
    same!(
        raw(Call::HandleDuplicate as u64, &[handles[0], 0]).status,
        Error::QuotaExceeded as u64
    );
    let own = rt::process::current().handle().0;
    same!(
        raw(Call::HandleGrant as u64, &[own, handles[0], 0]).status,
        Error::QuotaExceeded as u64
    );
    same!(
        raw(Call::MemoryCreate as u64, &[4096, 0]).status,
        Error::QuotaExceeded as u64
    );
    same!(
        raw(Call::ThreadCreate as u64, &[own, 0x40_0000, 0x80_0000, 0]).status,
        Error::QuotaExceeded as u64
    );
    must!(call(Call::HandleClose, &[handles[0]]));
    must!(call(Call::EndpointCreate, &[]));
    for handle in &handles[1..] {
        must!(call(Call::Signal, &[*handle, 1]));
        must!(call(Call::HandleClose, &[*handle]));
    }
    Ok(())
}

/// Uses up one thing until there is an error, says so, and waits to be ended. The exit code names an unexpected error.
fn use_up(_: &'static World, what: &str) -> u64 {
    let Ok(full) = start::take::<Notification>("full") else {
        return 1;
    };
    let mut count = 0_u64;
    let error = loop {
        let result = match what {
            "handles" => call(Call::EndpointCreate, &[]).map(|_| ()),
            "threads" => {
                let process = rt::process::current();
                // SAFETY: it is never started.
                unsafe { process.create_thread(use_up as *const () as u64, 0x40_0000, 0) }
                    // Its handle stays: a thread that was never started ends with its last one.
                    .map(|thread: Thread| {
                        let _ = thread.into_handle().into_raw();
                    })
            }
            "processes" => Process::create("one-of-many").and_then(|process| {
                // SAFETY: the process is not this one.
                let thread = unsafe { process.create_thread(0x40_0000, 0x80_0000, 0) }?;
                let _ = (
                    process.into_handle().into_raw(),
                    thread.into_handle().into_raw(),
                );
                Ok(())
            }),
            "mappings" => Memory::create(4096).and_then(|memory| {
                let address = 0x3000_0000_0000 + count * (1 << 21);
                rt::process::current().map(&memory, address, 0, 4096, Protection::READ_WRITE)?;
                // SAFETY: just mapped, and nobody else's.
                unsafe { (address as usize as *mut u64).write_volatile(count) };
                Ok(())
            }),
            _ => return 2,
        };
        match result {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        // Enough to show what is not given back; memory is used up elsewhere.
        if count == 1000 {
            break Error::QuotaExceeded;
        }
    };
    if !matches!(error, Error::QuotaExceeded | Error::NoMemory) {
        return 100 + error as u64;
    }
    let _ = full.signal(1);
    let _ = time::sleep_until(rt::Deadline::NEVER);
    3
}

/// Waits until as much is free as before, but for a little.
fn comes_back(world: &World, before: u64, tolerance: u64, what: &str) -> Verdict {
    let start = time::now();
    loop {
        let free = must!(world.system.memory()).free;
        if free + tolerance >= before {
            return Ok(());
        }
        check!(
            since(start) < PATIENCE,
            "{what}: {} KiB of memory did not come back",
            (before - free) / 1024
        );
        must!(time::sleep(Duration::from_millis(5)));
    }
}

/// Free memory when no more comes back: what died is destroyed little by little, and until then the next round would need more at a
/// time than the first.
fn settled(world: &World) -> rt::Result<u64> {
    let start = time::now();
    let mut last = world.system.memory()?.free;
    loop {
        time::sleep(Duration::from_millis(100))?;
        let free = world.system.memory()?.free;
        if free == last || since(start) > PATIENCE {
            return Ok(free);
        }
        last = free;
    }
}

fn what_a_process_used_up_is_free_after_its_end(world: &'static World) -> Verdict {
    for what in ["handles", "threads", "processes", "mappings"] {
        // The first round lets the kernel's slabs and tables grow to what they need, which they keep.
        let mut before = 0;
        for round in 0..2 {
            if round == 1 {
                before = must!(settled(world));
            }
            let full = must!(Notification::create());
            let given = must!(full.duplicate(Rights::SIGNAL | Rights::TRANSFER | Rights::QUERY));
            let child = must!(world.spawn(
                &alloc::format!("role use-up {what}"),
                &[("full", given.handle())]
            ));
            if full.wait(time::after(Duration::from_secs(20))).is_err() {
                crate::fail!("{what}: it {}", ending(&must!(child.process.info())));
            }
            must!(child.process.kill(9));
            let info = must!(child.end(PATIENCE));
            same!(
                (info.state, info.threads, info.handles),
                (ProcessState::Killed as u32, 0, 0)
            );
        }
        comes_back(world, before, 256 * 1024, what)?;
    }
    Ok(())
}

fn same_work_again_and_again_takes_no_memory(world: &'static World) -> Verdict {
    let work = || -> rt::Result<()> {
        let child = world.spawn("role panic", &[])?;
        child.end(PATIENCE)?;
        let endpoint = rt::Endpoint::create()?;
        let caller = endpoint.duplicate(Rights::SEND)?;
        let server = rt::thread::spawn(move || endpoint.recv(0, time::after(PATIENCE)).map(drop))?;
        let _ = caller.call(rt::Message::new(0), 0, time::after(PATIENCE));
        server.join(time::after(PATIENCE))??;
        let mapping = Memory::create(100 * 4096)?.map(Protection::READ_WRITE)?;
        // SAFETY: nobody else has it.
        unsafe { mapping.as_ptr().write_bytes(1, mapping.bytes()) };
        Ok(())
    };
    for _ in 0..5 {
        must!(work());
    }
    must!(time::sleep(Duration::from_millis(50)));
    let before = must!(world.system.memory()).free;
    for _ in 0..20 {
        must!(work());
    }
    comes_back(world, before, 128 * 1024, "the work")
}

fn watchers_run_out_with_an_error(_: &'static World) -> Verdict {
    let process = must!(Process::create("watched"));
    let notification = must!(Notification::create());
    let mut count = 0;
    let error = loop {
        match process.watch(&notification, 1 << count) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        check!(count < 64, "there is no end to watchers");
    };
    check!(
        matches!(error, Error::Busy | Error::QuotaExceeded),
        "{error}"
    );
    must!(process.kill(0));
    same!(
        notification.wait(time::after(PATIENCE)),
        Ok((1 << count) - 1)
    );
    Ok(())
}
