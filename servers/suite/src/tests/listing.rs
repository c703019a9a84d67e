//! Lists of what there is: processes, threads and endpoints with their queues, read in pieces of any size.

use abi::info::{
    CpuInfo, EndpointInfo, ProcessEntry, ProcessState, SystemQuery, ThreadInfo, ThreadState,
};
use abi::{Call, Deadline, Error, Rights};
use alloc::vec;
use alloc::vec::Vec;
use rt::process::Mode;
use rt::{AsHandle, Badge, Endpoint, Plain, Process, System, thread};

use super::ipc::receive;
use super::probe::{soon, until};
use super::tests;
use crate::bare::Bare;
use crate::kernel_calls::{call, refused};
use crate::verdict::{Verdict, Why};
use crate::world::World;
use crate::{check, code, fail, must, same};

tests! {
    processes_are_listed_with_what_they_have: 40,
    endpoints_are_listed_with_their_queues: 40,
    lists_are_read_in_pieces_of_any_size: 40,
}

fn own_id() -> rt::Result<u64> {
    Ok(rt::process::current().info()?.id)
}

fn processes_are_listed_with_what_they_have(world: &'static World) -> Verdict {
    let own = must!(own_id());
    let find = |id: u64| -> Result<Option<ProcessEntry>, Why> {
        let mut found = must!(world.system.processes());
        found.retain(|process| process.id == id);
        check!(found.len() < 2, "process {id} is listed twice");
        Ok(found.pop())
    };
    let Some(suite) = find(own)? else {
        fail!("this process is not listed");
    };
    same!(
        (suite.state, suite.is_32_bit),
        (ProcessState::Alive as u32, 0)
    );
    check!(suite.threads > 0 && suite.handles > 0 && suite.pages > 0);
    // One that was not started, ended, and is gone when nobody has a handle to it.
    let process = must!(Process::create_in(
        Mode::Compat,
        "listed",
        rt::Priority::LOWEST
    ));
    let id = must!(process.info()).id;
    let Some(fresh) = find(id)? else {
        fail!("a new process is not listed");
    };
    same!(&fresh.name[..fresh.name_bytes as usize], b"listed");
    same!(
        (fresh.state, fresh.threads),
        (ProcessState::Alive as u32, 0)
    );
    same!((fresh.is_32_bit, fresh.handles), (1, 0));
    must!(process.kill(9));
    until("it has ended", || {
        Ok(process.info()?.state == ProcessState::Killed as u32)
    })?;
    let Some(dead) = find(id)? else {
        fail!("a process that somebody has a handle to is not listed");
    };
    same!((dead.state, dead.code), (ProcessState::Killed as u32, 9));
    drop(process);
    let mut last = Ok(());
    until("it is gone", || {
        Ok(match find(id) {
            Ok(found) => found.is_none(),
            Err(why) => {
                last = Err(why);
                true
            }
        })
    })?;
    last
}

/// The endpoint of this list that was made last by this process: its number is the highest.
fn newest(list: &[EndpointInfo], creator: u64) -> Result<EndpointInfo, Why> {
    let made = list.iter().filter(|endpoint| endpoint.creator == creator);
    match made.max_by_key(|endpoint| endpoint.id) {
        Some(endpoint) => Ok(*endpoint),
        None => fail!("none of the endpoints is this process's"),
    }
}

fn endpoints_are_listed_with_their_queues(world: &'static World) -> Verdict {
    const CALLERS: u32 = 3;
    let own = must!(own_id());
    let endpoint = must!(Endpoint::create());
    let fresh = newest(&must!(world.system.endpoints()), own)?;
    same!(
        fresh,
        EndpointInfo {
            id: fresh.id,
            creator: own,
            receive_handles: 1,
            ..EndpointInfo::default()
        }
    );
    let look = || -> rt::Result<EndpointInfo> {
        let all = world.system.endpoints()?;
        all.into_iter()
            .find(|endpoint| endpoint.id == fresh.id)
            .ok_or(Error::BadHandle)
    };
    // Callers queue.
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let sender = must!(endpoint.mint(Badge(u64::from(number)), Rights::SEND));
        callers.push(must!(thread::spawn(move || {
            let plain = Plain {
                label: 1,
                words: [0; 6],
            };
            sender.call_plain(plain, Deadline::NEVER).map(|_| ())
        })));
    }
    until("all wait", || Ok(look()?.senders == CALLERS))?;
    let waiting = |state: ThreadState, subject: u64| -> rt::Result<Vec<u64>> {
        let mut threads = world.system.threads()?;
        threads.retain(|one| one.state == state as u32 && one.waits_for == subject);
        Ok(threads.iter().map(|one| one.thread).collect())
    };
    // A thread is in the queue a moment before it says so itself.
    let says_so = |state: ThreadState, subject: u64, count: usize| {
        until(
            "they say so",
            || Ok(waiting(state, subject)?.len() == count),
        )
    };
    says_so(ThreadState::Sending, fresh.id, CALLERS as usize)?;
    let mut queue = must!(waiting(ThreadState::Sending, fresh.id));
    queue.sort_unstable();
    let mut wanted = Vec::new();
    for caller in &callers {
        wanted.push(must!(caller.thread().info()).thread);
    }
    wanted.sort_unstable();
    same!(queue, wanted);
    // Who has received serves it, and whoever waits for the answer names that thread.
    let message = receive(&endpoint, 0)?;
    let now = must!(look());
    let threads = must!(world.system.threads());
    let Some(me) = threads.iter().find(|one| {
        one.process == own && one.thread == now.server && one.state == ThreadState::Running as u32
    }) else {
        fail!("the server is not this thread: {now:?}");
    };
    same!((now.senders, now.servers), (CALLERS - 1, 1));
    same!(now.server_process, own);
    same!(
        must!(waiting(ThreadState::AwaitingReply, me.thread)).len(),
        1
    );
    // All of them hear that nobody is left to answer.
    drop(message);
    drop(endpoint);
    for caller in callers {
        check!(must!(caller.join(soon())).is_err());
    }
    until("it is gone", || Ok(look().is_err()))?;
    // A receiver waits.
    let endpoint = must!(Endpoint::create());
    let id = newest(&must!(world.system.endpoints()), own)?.id;
    check!(id > fresh.id, "a number came twice");
    let sender = must!(endpoint.mint(Badge(1), Rights::SEND));
    let receiver = must!(thread::spawn(move || endpoint
        .recv(0, Deadline::NEVER)
        .is_ok()));
    until("it waits", || {
        Ok(world
            .system
            .endpoints()?
            .iter()
            .any(|one| one.id == id && one.receivers == 1 && one.senders == 0))
    })?;
    says_so(ThreadState::Receiving, id, 1)?;
    must!(sender.send(rt::Message::new(1), soon()));
    check!(must!(receiver.join(soon())));
    Ok(())
}

/// Reads a list in pieces of so many records of `bytes` bytes. Returns the records' first words.
fn in_pieces(
    system: &System,
    query: SystemQuery,
    bytes: usize,
    piece: usize,
) -> rt::Result<Vec<u64>> {
    let mut room = vec![0_u64; piece * bytes / 8 + 1];
    let (mut list, mut cursor) = (Vec::new(), 0);
    loop {
        // A few bytes more than the records need are left alone.
        let arguments = [
            system.handle().0,
            query as u64,
            cursor,
            room.as_mut_ptr() as u64,
            (piece * bytes + 7) as u64,
        ];
        let [written, _, next] = call(Call::SystemQuery, &arguments)?;
        if room.last() != Some(&0) {
            return Err(Error::OutOfRange);
        }
        list.extend((0..written as usize).map(|index| room[index * bytes / 8]));
        if next == 0 {
            return Ok(list);
        }
        if next == cursor {
            return Err(Error::Busy);
        }
        cursor = next;
    }
}

fn lists_are_read_in_pieces_of_any_size(world: &'static World) -> Verdict {
    // Programs that stay all the while, each with an endpoint of this process's.
    let mut bares = Vec::new();
    let mut endpoints = Vec::new();
    for _ in 0..9 {
        bares.push(must!(Bare::new(code!("ud2"), &crate::bare::pattern())));
        endpoints.push(must!(Endpoint::create()));
    }
    let mut processes = Vec::new();
    for bare in &bares {
        processes.push(must!(bare.process.info()).id);
    }
    let cpu: Vec<u64> = must!(world.system.cpus())
        .iter()
        .map(|cpu| u64::from(cpu.index) | u64::from(cpu.apic_id) << 32)
        .collect();
    for piece in [1, 2, 7, 100] {
        let read = |query, bytes| in_pieces(&world.system, query, bytes, piece);
        let listed = must!(read(SystemQuery::Processes, size_of::<ProcessEntry>()));
        for id in &processes {
            let times = listed.iter().filter(|one| *one == id).count();
            check!(
                times == 1,
                "process {id}, in pieces of {piece}: {times} times"
            );
        }
        // A thread's first word is its process.
        let listed = must!(read(SystemQuery::Threads, size_of::<ThreadInfo>()));
        for id in &processes {
            let times = listed.iter().filter(|one| *one == id).count();
            check!(
                times == 1,
                "its thread, in pieces of {piece}: {times} times"
            );
        }
        let mut listed = must!(read(SystemQuery::Endpoints, size_of::<EndpointInfo>()));
        check!(listed.len() >= endpoints.len());
        let all = listed.len();
        listed.sort_unstable();
        listed.dedup();
        check!(
            listed.len() == all,
            "an endpoint came twice, in pieces of {piece}"
        );
        same!(must!(read(SystemQuery::Cpus, size_of::<CpuInfo>())), cpu);
    }
    // No room, and places that there are not.
    let mut room = [0_u64; 32];
    let place = room.as_mut_ptr() as u64;
    let system = world.system.handle().0;
    for query in [
        SystemQuery::Processes,
        SystemQuery::Threads,
        SystemQuery::Endpoints,
        SystemQuery::Cpus,
    ] {
        let ask = |cursor, bytes| {
            call(
                Call::SystemQuery,
                &[system, query as u64, cursor, place, bytes],
            )
        };
        same!(must!(ask(0, 8))[0], 0);
        for cursor in [1 << 20, 1 << 40, u64::MAX] {
            let [written, _, next] = must!(ask(cursor, 256));
            same!((written, next), (0, 0));
        }
    }
    // Lists that there are not.
    for query in [6, 15, 17, 1 << 32, u64::MAX] {
        refused(
            Call::SystemQuery,
            &[system, query, 0, place, 256],
            Error::BadArgument,
        )?;
    }
    same!(room, [0; 32]);
    Ok(())
}
