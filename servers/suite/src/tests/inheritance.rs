//! A server has the priority of those who wait for it: no thread in between gets the CPU first.
//!
//! The tests of inversion all have a *spinner*: a thread of middle priority that is woken when the server is at work, and gives its CPU away only
//! when the client has its answer. Without inheritance it keeps the CPU from the server, and sees in vain to the client.

use abi::Error;
use abi::info::ThreadState;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rt::thread::{self, JoinHandle};
use rt::{
    AsHandle, Deadline, Endpoint, Event, Message, Notification, OwnedHandle, Reply, Rights, Thread,
    time,
};

use super::priorities::priority;
use super::probe::{PATIENCE, soon, until};
use super::tests;
use crate::clock::since;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same};

tests! {
    a_server_is_not_held_up_by_threads_below_its_client: 60,
    a_busy_server_is_not_held_up_by_threads_below_who_waits: 60,
    a_chain_of_three_servers_has_its_clients_priority: 60,
    priority_is_inherited_across_cpus: 60,
    a_server_that_has_answered_gives_way_to_those_above_it: 60,
    a_raise_ends_when_the_call_ends: 60,
    a_server_follows_its_callers_priority: 60,
    a_killed_caller_raises_nobody: 60,
    a_reply_that_is_kept_or_passed_on_carries_its_raise: 60,
}

const LOW: u64 = 3;
const MIDDLE: u64 = 8;
const HIGH: u64 = 12;

/// A thread that keeps its CPU from all below it from when it is woken until `done` is set. It tells whether that came in time.
struct Spinner {
    wake: Arc<Notification>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<bool>,
}

impl Spinner {
    fn new(cpu: u32) -> rt::Result<Spinner> {
        let wake = Arc::new(Notification::create()?);
        let done = Arc::new(AtomicBool::new(false));
        let (waits, seen) = (Arc::clone(&wake), Arc::clone(&done));
        let thread = thread::Builder::new()
            .cpu(cpu)
            .priority(priority(MIDDLE))
            .spawn(move || {
                if waits.wait(soon()).is_err() {
                    return false;
                }
                let start = time::now();
                while !seen.load(Ordering::Acquire) {
                    if since(start) > PATIENCE / 2 {
                        return false;
                    }
                    core::hint::spin_loop();
                }
                true
            })?;
        Ok(Spinner { wake, done, thread })
    }

    fn was_in_time(self) -> Verdict {
        check!(
            must!(self.thread.join(soon())),
            "the client had no answer as long as a thread below it ran"
        );
        Ok(())
    }
}

/// A server that does `work` for each call and then answers, until its endpoint is closed.
fn serve(
    cpu: u32,
    level: u64,
    endpoint: &Arc<Endpoint>,
    mut work: impl FnMut() -> rt::Result<()> + Send + 'static,
) -> rt::Result<JoinHandle<rt::Result<()>>> {
    let endpoint = Arc::clone(endpoint);
    let server = thread::Builder::new()
        .cpu(cpu)
        .priority(priority(level))
        .spawn(move || {
            let mut reply: Option<Reply> = None;
            loop {
                let event = match reply.take() {
                    Some(reply) => endpoint.reply_recv(reply, Message::new(0), 0, Deadline::NEVER),
                    None => endpoint.recv(0, Deadline::NEVER),
                };
                let Event::Message(mut received) = event? else {
                    return Err(Error::NotSupported);
                };
                if received.label == STOP {
                    return Ok(());
                }
                work()?;
                reply = received.reply.take();
            }
        })?;
    waits(server.thread(), ThreadState::Receiving).map_err(|_| Error::TimedOut)?;
    Ok(server)
}

/// The label that ends a server.
const STOP: u32 = 99;

fn stop(endpoint: &Endpoint, server: JoinHandle<rt::Result<()>>) -> Verdict {
    must!(endpoint.send(Message::new(STOP), soon()));
    must!(must!(server.join(soon())));
    Ok(())
}

fn waits(thread: &Thread, state: ThreadState) -> Verdict {
    until(state.text(), || Ok(thread.info()?.state == state as u32))
}

/// A thread that calls an endpoint once.
fn client(
    cpu: u32,
    level: u64,
    endpoint: &Arc<Endpoint>,
    deadline: Deadline,
    then: impl FnOnce() + Send + 'static,
) -> rt::Result<JoinHandle<rt::Result<()>>> {
    let endpoint = Arc::clone(endpoint);
    thread::Builder::new()
        .cpu(cpu)
        .priority(priority(level))
        .spawn(move || {
            let answer = endpoint.call(Message::new(1), 0, deadline);
            then();
            answer.map(drop)
        })
}

fn sets(done: &Arc<AtomicBool>) -> impl FnOnce() + Send + 'static {
    let done = Arc::clone(done);
    move || done.store(true, Ordering::Release)
}

fn wakes(wake: &Arc<Notification>) -> impl FnMut() -> rt::Result<()> + Send + 'static {
    let wake = Arc::clone(wake);
    move || wake.signal(1)
}

fn a_server_is_not_held_up_by_threads_below_its_client(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    // Without a deadline the call is a direct one.
    for deadline in [Deadline::NEVER, soon()] {
        let endpoint = Arc::new(must!(Endpoint::create()));
        let spinner = must!(Spinner::new(cpu));
        waits(spinner.thread.thread(), ThreadState::Waiting)?;
        let server = must!(serve(cpu, LOW, &endpoint, wakes(&spinner.wake)));
        let client = must!(client(cpu, HIGH, &endpoint, deadline, sets(&spinner.done)));
        must!(must!(client.join(soon())));
        spinner.was_in_time()?;
        stop(&endpoint, server)?;
    }
    Ok(())
}

fn a_busy_server_is_not_held_up_by_threads_below_who_waits(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let endpoint = Arc::new(must!(Endpoint::create()));
    let spinner = must!(Spinner::new(cpu));
    waits(spinner.thread.thread(), ThreadState::Waiting)?;
    let go = Arc::new(must!(Notification::create()));
    let (goes, mut wake) = (Arc::clone(&go), wakes(&spinner.wake));
    // At work for a low client it lets the high one come, and the spinner.
    let mut calls = 0;
    let server = must!(serve(cpu, LOW, &endpoint, move || {
        calls += 1;
        if calls == 1 {
            goes.signal(1)?;
            wake()?;
        }
        Ok(())
    }));
    let done = sets(&spinner.done);
    let called = Arc::clone(&endpoint);
    let high = must!(
        thread::Builder::new()
            .cpu(cpu)
            .priority(priority(HIGH))
            .spawn(move || {
                go.wait(soon())?;
                let answer = called.call(Message::new(1), 0, soon());
                done();
                answer.map(drop)
            })
    );
    waits(high.thread(), ThreadState::Waiting)?;
    let low = must!(client(cpu, LOW - 1, &endpoint, soon(), || ()));
    must!(must!(high.join(soon())));
    must!(must!(low.join(soon())));
    spinner.was_in_time()?;
    stop(&endpoint, server)
}

/// What a server does after its first answer, which it gives with a `reply_recv`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It has the next message at once.
    Receives,
    /// It can't wait, as it has moved its handle away.
    Fails,
}

fn a_server_that_has_answered_gives_way_to_those_above_it(world: &'static World) -> Verdict {
    for then in [Then::Receives, Then::Fails] {
        give_way(world, then)?;
    }
    Ok(())
}

/// The client is on another CPU if there is one, so that its answer makes nobody ready on the server's.
fn give_way(world: &'static World, then: Then) -> Verdict {
    let (cpu, far) = (world.cpus - 1, 0);
    let (endpoint, go, wake) = (
        Arc::new(must!(Endpoint::create())),
        Arc::new(must!(Notification::create())),
        Arc::new(must!(Notification::create())),
    );
    let ran = Arc::new(AtomicBool::new(false));
    let (woken, runs) = (Arc::clone(&wake), Arc::clone(&ran));
    let middle = must!(
        thread::Builder::new()
            .cpu(cpu)
            .priority(priority(MIDDLE))
            .spawn(move || {
                woken.wait(soon())?;
                runs.store(true, Ordering::Release);
                Ok::<_, Error>(())
            })
    );
    waits(middle.thread(), ThreadState::Waiting)?;
    let serves = must!(endpoint.duplicate(Rights::ALL));
    let (goes, wakes) = (Arc::clone(&go), Arc::clone(&wake));
    let server = must!(
        thread::Builder::new()
            .cpu(cpu)
            .priority(priority(LOW))
            .spawn(move || -> rt::Result<bool> {
                let Event::Message(mut received) = serves.recv(0, soon())? else {
                    return Err(Error::NotSupported);
                };
                goes.wait(soon())?;
                // This one is between the server and its client, so it does not run yet.
                wakes.signal(1)?;
                let early = ran.load(Ordering::Acquire);
                let reply = received.reply.take().ok_or(Error::NoReply)?;
                let answer = match then {
                    Then::Receives => Message::new(0),
                    Then::Fails => {
                        Message::new(0).with_moved(OwnedHandle::from_raw(serves.handle()))
                    }
                };
                let next = serves.reply_recv(reply, answer, 0, Deadline::NEVER);
                let late = !ran.load(Ordering::Acquire);
                match (then, next) {
                    (Then::Receives, Ok(Event::Message(_)))
                    | (Then::Fails, Err(Error::BadHandle)) => {}
                    (_, next) => return Err(next.err().unwrap_or(Error::NotSupported)),
                }
                Ok(!early && !late)
            })
    );
    waits(server.thread(), ThreadState::Receiving)?;
    let takes = usize::from(then == Then::Fails);
    let called = Arc::clone(&endpoint);
    let high = must!(
        thread::Builder::new()
            .cpu(far)
            .priority(priority(HIGH))
            .spawn(move || {
                let answer = called.call(Message::new(1), takes, soon())?;
                Ok::<_, Error>(answer.handles)
            })
    );
    waits(high.thread(), ThreadState::AwaitingReply)?;
    let low = must!(client(far, 1, &endpoint, soon(), || ()));
    waits(low.thread(), ThreadState::Sending)?;
    must!(go.signal(1));
    check!(
        must!(must!(server.join(soon()))),
        "the server went on before a thread that was above it"
    );
    must!(must!(middle.join(soon())));
    let moved = must!(must!(high.join(soon())));
    same!(moved.len(), takes);
    for handle in moved {
        // It serves whoever has it now: the other caller still waits.
        let event = must!(Endpoint::from_handle(handle).recv(0, soon()));
        check!(matches!(event, Event::Message(_)), "no message came");
    }
    // Its reply was dropped by either.
    same!(must!(low.join(soon())), Err(Error::NoReply));
    Ok(())
}

/// An endpoint, and the thread that serves it.
type Served = (Arc<Endpoint>, JoinHandle<rt::Result<()>>);

/// Servers that each call the next one, and the last wakes the spinner.
fn chain(cpus: [u32; 4], spinner: &Spinner) -> rt::Result<Vec<Served>> {
    let mut chain: Vec<Served> = Vec::new();
    for (level, cpu) in (1..=LOW).zip(cpus) {
        let endpoint = Arc::new(Endpoint::create()?);
        let server = match chain.last() {
            Some((next, _)) => {
                let next = Arc::clone(next);
                serve(cpu, level, &endpoint, move || {
                    next.call(Message::new(1), 0, Deadline::NEVER).map(drop)
                })?
            }
            None => serve(cpu, level, &endpoint, wakes(&spinner.wake))?,
        };
        chain.push((endpoint, server));
    }
    Ok(chain)
}

fn a_chain_of_three_servers_has_its_clients_priority(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let spinner = must!(Spinner::new(cpu));
    waits(spinner.thread.thread(), ThreadState::Waiting)?;
    let chain = must!(chain([cpu; 4], &spinner));
    for deadline in [Deadline::NEVER, soon()] {
        if let Some((endpoint, _)) = chain.last() {
            let high = must!(client(cpu, HIGH, endpoint, deadline, sets(&spinner.done)));
            must!(must!(high.join(soon())));
        }
    }
    spinner.was_in_time()?;
    for (endpoint, server) in chain {
        stop(&endpoint, server)?;
    }
    Ok(())
}

/// The spinner and the last server share a CPU, and all others are elsewhere if there is an elsewhere.
fn priority_is_inherited_across_cpus(world: &'static World) -> Verdict {
    let other = |number: u32| number % world.cpus;
    for _ in 0..5 {
        let spinner = must!(Spinner::new(0));
        waits(spinner.thread.thread(), ThreadState::Waiting)?;
        let chain = must!(chain([0, other(1), other(2), 0], &spinner));
        let Some((endpoint, _)) = chain.last() else {
            return Ok(());
        };
        // The last server is kept busy by a low client, and the high one queues behind that at the first.
        let low = must!(client(other(3), 1, endpoint, soon(), || ()));
        let high = must!(client(
            other(1),
            HIGH,
            endpoint,
            soon(),
            sets(&spinner.done)
        ));
        must!(must!(high.join(soon())));
        must!(must!(low.join(soon())));
        spinner.was_in_time()?;
        for (endpoint, server) in chain {
            stop(&endpoint, server)?;
        }
    }
    Ok(())
}

fn comes_to(thread: &Thread, level: u64) -> Verdict {
    until(&alloc::format!("it has priority {level}"), || {
        Ok(u64::from(thread.info()?.priority) == level)
    })
}

/// A server that holds a call until it is told what to do with the reply.
struct Holder {
    endpoint: Arc<Endpoint>,
    /// [`ANSWER`] or [`DROP`]; after [`KEEP`] once more.
    told: Arc<Notification>,
    thread: JoinHandle<rt::Result<()>>,
}

const ANSWER: u64 = 1;
const DROP: u64 = 2;
const KEEP: u64 = 8;

impl Holder {
    fn new(cpu: u32) -> rt::Result<Holder> {
        let endpoint = Arc::new(Endpoint::create()?);
        let told = Arc::new(Notification::create()?);
        let (serves, waits_for) = (Arc::clone(&endpoint), Arc::clone(&told));
        let thread = thread::Builder::new()
            .cpu(cpu)
            .priority(priority(LOW))
            .spawn(move || {
                loop {
                    let Event::Message(mut received) = serves.recv(0, Deadline::NEVER)? else {
                        return Err(Error::NotSupported);
                    };
                    if received.label == STOP {
                        return Ok(());
                    }
                    let reply = received.reply.take();
                    let mut bits = waits_for.wait(soon())?;
                    if bits & KEEP != 0 {
                        // The reply becomes an ordinary handle by this.
                        let _ = serves.recv(0, Deadline::NOW);
                        bits = waits_for.wait(soon())?;
                    }
                    if bits & ANSWER != 0
                        && let Some(reply) = reply
                    {
                        // The caller may be gone.
                        let _ = reply.answer(Message::new(0));
                    }
                }
            })?;
        waits(thread.thread(), ThreadState::Receiving).map_err(|_| Error::TimedOut)?;
        Ok(Holder {
            endpoint,
            told,
            thread,
        })
    }

    fn stop(self) -> Verdict {
        stop(&self.endpoint, self.thread)
    }
}

fn a_raise_ends_when_the_call_ends(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let holder = must!(Holder::new(world.cpus - 1));
        let short = Duration::from_millis(30);
        for (deadline, told, result) in [
            (soon(), ANSWER, Ok(())),
            (Deadline::NEVER, ANSWER, Ok(())),
            (soon(), DROP, Err(Error::NoReply)),
            (Deadline::NEVER, DROP, Err(Error::NoReply)),
            (time::after(short), 0, Err(Error::TimedOut)),
        ] {
            let client = must!(client(cpu, HIGH, &holder.endpoint, deadline, || ()));
            if told != 0 {
                comes_to(holder.thread.thread(), HIGH)?;
                must!(holder.told.signal(told));
            }
            same!(must!(client.join(soon())), result);
            comes_to(holder.thread.thread(), LOW)?;
            if told == 0 {
                must!(holder.told.signal(ANSWER));
            }
        }
        holder.stop()?;
    }
    Ok(())
}

fn a_server_follows_its_callers_priority(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let holder = must!(Holder::new(world.cpus - 1));
        let server = holder.thread.thread();
        let first = must!(client(cpu, HIGH, &holder.endpoint, soon(), || ()));
        comes_to(server, HIGH)?;
        for level in [14, 2, MIDDLE] {
            must!(first.thread().set_priority(priority(level)));
            comes_to(server, level.max(LOW))?;
        }
        // One that waits in the queue counts as well.
        let second = must!(client(cpu, 5, &holder.endpoint, soon(), || ()));
        waits(second.thread(), ThreadState::Sending)?;
        for level in [14, 2, HIGH] {
            must!(second.thread().set_priority(priority(level)));
            comes_to(server, level.max(MIDDLE))?;
        }
        must!(holder.told.signal(ANSWER));
        must!(must!(first.join(soon())));
        comes_to(server, HIGH)?;
        must!(holder.told.signal(ANSWER));
        must!(must!(second.join(soon())));
        comes_to(server, LOW)?;
        holder.stop()?;
    }
    Ok(())
}

fn a_killed_caller_raises_nobody(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let holder = must!(Holder::new(world.cpus - 1));
        let server = holder.thread.thread();
        let first = must!(client(
            cpu,
            MIDDLE,
            &holder.endpoint,
            Deadline::NEVER,
            || ()
        ));
        comes_to(server, MIDDLE)?;
        let second = must!(client(cpu, HIGH, &holder.endpoint, Deadline::NEVER, || ()));
        comes_to(server, HIGH)?;
        // SAFETY: both wait in a call, where they hold nothing that others of this process wait for.
        unsafe {
            must!(second.thread().kill());
            comes_to(server, MIDDLE)?;
            must!(first.thread().kill());
        }
        comes_to(server, LOW)?;
        must!(holder.told.signal(ANSWER));
        holder.stop()?;
    }
    Ok(())
}

fn a_reply_that_is_kept_or_passed_on_carries_its_raise(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let (endpoint, work) = (
            Arc::new(must!(Endpoint::create())),
            Arc::new(must!(Endpoint::create())),
        );
        let (go, told) = (
            Arc::new(must!(Notification::create())),
            Arc::new(must!(Notification::create())),
        );
        let (serves, goes, to_work) = (Arc::clone(&endpoint), Arc::clone(&go), Arc::clone(&work));
        let server = must!(
            thread::Builder::new()
                .priority(priority(LOW))
                .spawn(move || {
                    let Event::Message(mut received) = serves.recv(0, soon())? else {
                        return Err(Error::NotSupported);
                    };
                    goes.wait(soon())?;
                    // The reply becomes an ordinary handle by this.
                    let _ = serves.recv(0, Deadline::NOW);
                    goes.wait(soon())?;
                    if let Some(reply) = received.reply.take() {
                        to_work.send(Message::new(1).with_moved(reply), soon())?;
                    }
                    goes.wait(soon()).map(drop)
                })
        );
        let (works, tells) = (Arc::clone(&work), Arc::clone(&told));
        let worker = must!(
            thread::Builder::new()
                .cpu(cpu)
                .priority(priority(LOW - 1))
                .spawn(move || {
                    let Event::Message(mut received) = works.recv(1, soon())? else {
                        return Err(Error::NotSupported);
                    };
                    tells.wait(soon())?;
                    let reply = received.handles.pop().ok_or(Error::NoReply)?;
                    Reply::from_handle(reply).answer(Message::new(0))?;
                    tells.wait(soon()).map(drop)
                })
        );
        let high = must!(client(cpu, HIGH, &endpoint, Deadline::NEVER, || ()));
        // Held, kept, and passed on.
        comes_to(server.thread(), HIGH)?;
        must!(go.signal(1));
        waits(server.thread(), ThreadState::Waiting)?;
        comes_to(server.thread(), HIGH)?;
        must!(go.signal(1));
        comes_to(worker.thread(), HIGH)?;
        comes_to(server.thread(), LOW)?;
        must!(high.thread().set_priority(priority(MIDDLE)));
        comes_to(worker.thread(), MIDDLE)?;
        must!(told.signal(1));
        must!(must!(high.join(soon())));
        comes_to(worker.thread(), LOW - 1)?;
        // Both may not be there yet: bits are not lost.
        must!(told.signal(1));
        must!(go.signal(1));
        must!(must!(server.join(soon())));
        must!(must!(worker.join(soon())));
    }
    Ok(())
}
