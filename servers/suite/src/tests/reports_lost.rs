//! Reports that are not simply answered: handlers that go, threads that are killed or suspended while they wait, handlers that fault themselves.

use abi::info::{ProcessState, ThreadState};
use abi::report::{Answer, ReportKind};
use abi::{Call, CpuSet, Deadline, Error, FaultKind, Rights, UserContext};
use rt::report::Fault;
use rt::sys::{self, IpcRegisters};
use rt::{AsHandle, Badge, Endpoint, Event, thread};

use super::contexts::{START, prepared};
use super::faults::faulted;
use super::probe::{soon, until};
use super::reports::{BADGE, exited, fault, listener, reporting, then_exit};
use super::tests;
use crate::bare::Bare;
use crate::verdict::Verdict;
use crate::world::{World, ending};
use crate::{check, code, fail, must, same};

tests! {
    a_report_without_an_answer_ends_the_thread: 60,
    a_thread_is_killed_in_its_report: 60,
    a_thread_is_suspended_in_its_report: 60,
    a_thread_that_is_suspended_in_a_report_at_once_reports_again: 60,
    a_handlers_own_fault_is_not_reported_to_itself: 40,
    threads_report_to_their_own_handler_before_their_processs: 40,
}

fn a_report_without_an_answer_ends_the_thread(world: &'static World) -> Verdict {
    let ends = |what: &str, bare: &Bare| {
        let info = must!(bare.run_to_end());
        faulted(what, &info, FaultKind::InvalidInstruction)
    };
    for cpu in [0, world.cpus - 1] {
        let made = || -> rt::Result<(Bare, Endpoint)> {
            let made = reporting(code!("ud2"), |_| {})?;
            made.0.thread.set_affinity(&CpuSet::only(cpu))?;
            Ok(made)
        };
        // The reply is dropped.
        let (bare, endpoint) = must!(made());
        must!(bare.thread.start());
        drop(fault(&endpoint)?);
        ends("with the reply dropped", &bare)?;
        // The endpoint is closed before, and while it waits there.
        let (bare, endpoint) = must!(made());
        drop(endpoint);
        must!(bare.thread.start());
        ends("with the endpoint closed", &bare)?;
        let (bare, endpoint) = must!(made());
        must!(bare.thread.start());
        until("it waits", || {
            Ok(bare.thread.info()?.state == ThreadState::Sending as u32)
        })?;
        drop(endpoint);
        ends("with the endpoint closed under it", &bare)?;
        // Its handler, a thread of this process that waits on the same CPU or not, ends with the reply held.
        for handlers in [0, world.cpus - 1] {
            let (bare, endpoint) = must!(made());
            let handle = endpoint.handle();
            let handler = must!(thread::Builder::new().cpu(handlers).spawn(move || {
                let mut registers = IpcRegisters {
                    handle: handle.0,
                    tag: 0,
                    words: [0; 6],
                    deadline: Deadline::NEVER.0,
                    reply: 0,
                };
                // SAFETY: a message of words alone.
                unsafe { sys::ipc(Call::Recv as u64, &mut registers) }
            }));
            until("it waits", || {
                Ok(handler.thread().info()?.state == ThreadState::Receiving as u32)
            })?;
            must!(bare.thread.start());
            same!(must!(handler.join(soon())), 0);
            ends("with the handler gone", &bare)?;
        }
    }
    Ok(())
}

fn a_thread_is_killed_in_its_report(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        // Before its report is received, and after; the thread alone, and its process.
        for (received, whole) in [(false, false), (true, false), (false, true), (true, true)] {
            let (bare, endpoint) = must!(reporting(code!("ud2"), |_| {}));
            must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
            must!(bare.thread.start());
            until("it waits", || {
                Ok(bare.thread.info()?.state == ThreadState::Sending as u32)
            })?;
            let reply = if received {
                Some(fault(&endpoint)?.1)
            } else {
                None
            };
            if whole {
                must!(bare.process.kill(5));
            } else {
                // SAFETY: the thread is of another process.
                must!(unsafe { bare.thread.kill() });
            }
            let info = must!(bare.run_to_end());
            let expected = if whole {
                ProcessState::Killed
            } else {
                ProcessState::Exited
            };
            check!(info.state == expected as u32, "{}", ending(&info));
            if let Some(reply) = reply {
                same!(reply.registers().err(), Some(Error::CallerGone));
                same!(
                    reply.answer_report(Answer::Resume).err(),
                    Some(Error::CallerGone)
                );
            }
            same!(endpoint.recv(0, Deadline::NOW).err(), Some(Error::TimedOut));
        }
    }
    Ok(())
}

fn a_thread_is_suspended_in_its_report(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let (bare, endpoint) = must!(reporting(then_exit!("int3"), |_| {}));
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        must!(bare.thread.start());
        let (told, reply) = fault(&endpoint)?;
        // It stands still already; its answer may come, but it runs only when it is resumed.
        // SAFETY: the thread is of another process.
        must!(unsafe { bare.thread.suspend(soon()) });
        must!(reply.answer_report(Answer::Resume));
        until("it is parked", || {
            Ok(bare.thread.info()?.state == ThreadState::Suspended as u32)
        })?;
        same!(must!(bare.thread.registers()).rip, told.rip);
        must!(bare.thread.resume());
        exited("resumed", &bare)?;

        // Its wait is ended: it reports again.
        for received in [false, true] {
            let (bare, endpoint) = must!(reporting(then_exit!("int3"), |_| {}));
            must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
            must!(bare.thread.start());
            until("it waits", || {
                Ok(bare.thread.info()?.state == ThreadState::Sending as u32)
            })?;
            let reply = if received {
                Some(fault(&endpoint)?.1)
            } else {
                None
            };
            // SAFETY: as above.
            must!(unsafe { bare.thread.stop(soon()) });
            if let Some(reply) = reply {
                same!(
                    reply.answer_report(Answer::End).err(),
                    Some(Error::CallerGone)
                );
            }
            same!(must!(bare.thread.registers()).rip, START + 1);
            must!(bare.thread.resume());
            let (again, reply) = fault(&endpoint)?;
            same!((again.vector, again.rip), (3, START + 1));
            must!(reply.answer_report(Answer::Resume));
            exited("after it has reported again", &bare)?;
        }

        // Its wait is ended and its registers are set: it goes on with these.
        let (bare, endpoint) = must!(reporting(then_exit!("ud2"), |_| {}));
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        must!(bare.thread.start());
        let (_, reply) = fault(&endpoint)?;
        // SAFETY: as above.
        must!(unsafe { bare.thread.stop(soon()) });
        let seen = must!(bare.thread.registers());
        // SAFETY: as above.
        must!(unsafe {
            bare.thread.set_registers(&UserContext {
                rip: START + 2,
                ..seen
            })
        });
        must!(bare.thread.resume());
        exited("with other registers", &bare)?;
        drop(reply);
    }
    Ok(())
}

/// Its registers were set before it was started, and its handler waits on its CPU, so that the report goes straight there.
fn a_thread_that_is_suspended_in_a_report_at_once_reports_again(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let (bare, endpoint) = must!(reporting(then_exit!("int3"), |context| context.rbx = 1));
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        let handler = must!(thread::Builder::new().cpu(cpu).spawn(move || -> Verdict {
            let next = || match endpoint.recv(0, Deadline::NEVER) {
                Ok(Event::Message(message)) => Ok(message),
                other => fail!("no report: {other:x?}"),
            };
            let first = next()?;
            let again = next()?;
            let told =
                [&first, &again].map(|message| Fault::of(message).map(|f| (f.vector, f.rip)));
            same!(told, [Some((3, START + 1)); 2]);
            for (report, want) in [(first, Some(Error::CallerGone)), (again, None)] {
                let answered = report
                    .reply
                    .map(|reply| reply.answer_report(Answer::Resume).err());
                same!(answered, Some(want));
            }
            Ok(())
        }));
        until("the handler waits", || {
            Ok(handler.thread().info()?.state == ThreadState::Receiving as u32)
        })?;
        must!(bare.thread.start());
        until("it waits for its answer", || {
            Ok(bare.thread.info()?.state == ThreadState::AwaitingReply as u32)
        })?;
        // SAFETY: the thread is of another process.
        must!(unsafe { bare.thread.stop(soon()) });
        must!(bare.thread.resume());
        must!(handler.join(soon()))?;
        exited("after it has reported again", &bare)?;
    }
    Ok(())
}

/// Receives what is reported to an endpoint of its own, and then faults itself.
fn fault_in_the_handler(_: &'static World, by_process: bool) -> Verdict {
    // RBX: the endpoint. It receives, and falls over what comes.
    let code = code!(
        "mov rdi, rbx",
        "mov eax, 10",
        "mov r14, -1",
        "syscall",
        "ud2"
    );
    let handler = must!(prepared(code, |_| {}));
    let endpoint = must!(Endpoint::create());
    let theirs = must!(handler.process.grant(&endpoint.handle(), Rights::RECEIVE));
    let mut registers = must!(handler.thread.registers());
    registers.rbx = theirs.0;
    // SAFETY: the thread is of another process.
    must!(unsafe { handler.thread.set_registers(&registers) });
    let badged = must!(endpoint.mint(Badge(BADGE), Rights::SEND));
    let kind = ReportKind::Faults;
    must!(if by_process {
        handler.process.report_to(kind, Some(&badged))
    } else {
        handler.thread.report_to(kind, Some(&badged))
    });
    // Nobody else can receive there.
    drop(endpoint);
    must!(handler.thread.start());
    until("it receives", || {
        Ok(handler.thread.info()?.state == ThreadState::Receiving as u32)
    })?;
    let client = must!(prepared(code!("ud2"), |_| {}));
    must!(client.thread.report_to(kind, Some(&badged)));
    must!(client.thread.start());
    for (what, bare) in [("the handler", &handler), ("its client", &client)] {
        let info = must!(bare.run_to_end());
        faulted(what, &info, FaultKind::InvalidInstruction)?;
    }
    Ok(())
}

fn a_handlers_own_fault_is_not_reported_to_itself(world: &'static World) -> Verdict {
    fault_in_the_handler(world, false)?;
    fault_in_the_handler(world, true)
}

fn threads_report_to_their_own_handler_before_their_processs(_: &'static World) -> Verdict {
    let code = code!("2:", "ud2", "jmp 2b");
    let (bare, of_process) = must!(reporting(code, |_| {}));
    let (of_thread, badged) = must!(listener());
    must!(bare.thread.report_to(ReportKind::Faults, Some(&badged)));
    must!(bare.thread.start());
    let (_, reply) = fault(&of_thread)?;
    same!(
        of_process.recv(0, Deadline::NOW).err(),
        Some(Error::TimedOut)
    );
    // It counts from the next fault on.
    must!(bare.thread.report_to(ReportKind::Faults, None));
    must!(reply.resume_at(START + 2));
    let (_, reply) = fault(&of_process)?;
    must!(bare.process.report_to(ReportKind::Faults, None));
    must!(reply.resume_at(START + 2));
    let info = must!(bare.run_to_end());
    faulted("with nobody to tell", &info, FaultKind::InvalidInstruction)
}
