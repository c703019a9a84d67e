//! System calls that are reported: to a supervisor that may change them, and of programs of another system.

use abi::info::{ProcessState, ThreadState};
use abi::report::{Answer, ReportKind};
use abi::{Call, CpuSet, Deadline, Error, UserContext};
use alloc::vec;
use rt::process::Mode;
use rt::report::{CallPoint, ReportedCall};
use rt::{AsHandle, Endpoint, Reply};

use super::contexts::{START, full, prepared};
use super::ipc::receive;
use super::probe::{soon, until};
use super::reports::{exited, fault, listener, then_exit};
use super::suspended_registers::own;
use super::tests;
use crate::bare::{Bare, STACK_TOP};
use crate::kernel_calls::refused;
use crate::verdict::{Verdict, Why};
use crate::world::{World, ending};
use crate::{check, code, fail, must, same};

tests! {
    calls_by_every_entry_are_reported_before_and_after: 60,
    a_reported_call_may_be_changed_and_its_result: 40,
    a_reported_call_may_be_answered_and_not_made: 40,
    a_reported_call_without_an_answer_is_not_made: 40,
    a_thread_is_killed_or_suspended_in_a_reported_call: 60,
    a_thread_is_suspended_in_a_call_that_is_reported: 40,
    a_step_goes_through_a_reported_call: 40,
    calls_are_reported_of_threads_that_stand_still: 40,
    foreign_calls_are_reported_to_their_personality: 60,
    foreign_calls_keep_all_registers_but_what_is_set: 40,
    foreign_calls_without_a_personality_end_the_thread: 40,
}

/// The number of no call.
pub(super) const UNKNOWN: u64 = 0x1234;

/// A program of machine code that reports to a new endpoint. Not started.
fn reporting(
    kind: ReportKind,
    code: &[u8],
    change: impl FnOnce(&mut UserContext),
) -> rt::Result<(Bare, Endpoint)> {
    let (endpoint, badged) = listener()?;
    let bare = if kind == ReportKind::ForeignCalls {
        // Before it has a thread.
        Bare::reporting(Mode::Long, kind, &badged, code)?
    } else {
        prepared(code, |_| {})?
    };
    let mut context = bare.thread.registers()?;
    context.rip = START;
    context.rsp = STACK_TOP - 64;
    change(&mut context);
    // SAFETY: the thread is of another process.
    unsafe { bare.thread.set_registers(&context) }?;
    if kind != ReportKind::ForeignCalls {
        bare.thread.report_to(kind, Some(&badged))?;
    }
    Ok((bare, endpoint))
}

/// The next call, and how to answer it.
pub(super) fn next(endpoint: &Endpoint, point: CallPoint) -> Result<(ReportedCall, Reply), Why> {
    let message = receive(endpoint, 0)?;
    let Some(call) = ReportedCall::of(&message) else {
        fail!("that is no call: {message:x?}");
    };
    check!(call.point == point, "{point:?} should come: {call:x?}");
    same!(call.badge.0, super::reports::BADGE);
    match message.reply {
        Some(reply) => Ok((call, reply)),
        None => fail!("a call came without a reply"),
    }
}

/// Lets the next call be made as it is. Returns its number, and what the registers were before and after.
pub(super) fn let_pass(endpoint: &Endpoint) -> Result<(u64, UserContext, UserContext), Why> {
    let (before, reply) = next(endpoint, CallPoint::Begins)?;
    must!(reply.answer_report(Answer::Resume));
    let (after, reply) = next(endpoint, CallPoint::Ends)?;
    same!(after.number, before.number);
    must!(reply.answer_report(Answer::Resume));
    Ok((before.number, before.registers, after.registers))
}

/// Lets the program make its last call, which does not come back.
pub(super) fn let_exit(what: &str, endpoint: &Endpoint, bare: &Bare) -> Verdict {
    let (last, reply) = next(endpoint, CallPoint::Begins)?;
    same!(last.number, Call::ProcessExit as u64);
    must!(reply.answer_report(Answer::Resume));
    exited(what, bare)
}

fn calls_by_every_entry_are_reported_before_and_after(world: &'static World) -> Verdict {
    // A short call, long ones, calls that have a direct way, all by `syscall` and by `int 0x80`.
    let numbers = [
        (Call::ClockNow as u64, 0),
        (Call::Null as u64, 0),
        (Call::ProcessSelf as u64, 0),
        (Call::ThreadKill as u64, Error::BadHandle as u64),
        (Call::Call as u64, Error::BadHandle as u64),
        (Call::ReplyRecv as u64, Error::BadHandle as u64),
        (Call::Recv as u64, Error::BadHandle as u64),
        (UNKNOWN, Error::UnknownCall as u64),
        (u64::MAX - 1, Error::UnknownCall as u64),
    ];
    let entries = [
        then_exit!("2:", "mov rax, rbx", "syscall", "nop", "nop"),
        then_exit!("2:", "mov rax, rbx", "int 0x80", "nop", "nop"),
    ];
    for cpu in [0, world.cpus - 1] {
        for entry in entries {
            for (number, status) in numbers {
                let (bare, endpoint) = must!(reporting(ReportKind::Calls, entry, |context| {
                    context.rbx = number;
                    context.rdi = 0x7777_0000;
                    context.r14 = Deadline::NEVER.0;
                }));
                must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
                must!(bare.thread.start());
                let (seen, before, after) = let_pass(&endpoint)?;
                same!(seen, number);
                same!(
                    (before.rax, before.rdi, before.call_number),
                    (number, 0x7777_0000, number)
                );
                same!((before.rip, after.rip), (START + 5, START + 5));
                same!((after.rax, after.call_number), (status, number));
                check!(number != Call::ClockNow as u64 || after.rdi != 0);
                let_exit("after a call that was reported", &endpoint, &bare)?;
            }
        }
    }
    Ok(())
}

fn a_reported_call_may_be_changed_and_its_result(_: &'static World) -> Verdict {
    // Asks for nothing, and gets a handle; as number and arguments are others, and the result another again.
    let code = then_exit!(
        "syscall",
        "cmp rdi, rbx",
        "je 2f",
        "ud2",
        "2:",
        "cmp rax, 99",
        "je 3f",
        "ud2",
        "3:",
        "nop"
    );
    let (bare, endpoint) = must!(reporting(ReportKind::Calls, code, |context| {
        context.rax = UNKNOWN;
        context.rbx = 0x1357;
    }));
    must!(bare.thread.start());
    let (call, reply) = next(&endpoint, CallPoint::Begins)?;
    let changed = UserContext {
        rax: Call::ThreadKill as u64,
        rdi: 0x55AA,
        ..call.registers
    };
    must!(reply.answer_with_registers(Answer::Resume, &changed));
    let (call, reply) = next(&endpoint, CallPoint::Ends)?;
    same!(
        (call.number, call.registers.call_number),
        (UNKNOWN, UNKNOWN)
    );
    same!(
        (call.registers.rax, call.registers.rdi),
        (Error::BadHandle as u64, 0x55AA)
    );
    let result = UserContext {
        rax: 99,
        rdi: 0x1357,
        ..call.registers
    };
    must!(reply.answer_with_registers(Answer::Resume, &result));
    let_exit("with another result", &endpoint, &bare)
}

fn a_reported_call_may_be_answered_and_not_made(_: &'static World) -> Verdict {
    // It would end by this call.
    let code = then_exit!("syscall", "cmp rax, 5", "je 2f", "ud2", "2:", "nop");
    let (bare, endpoint) = must!(reporting(ReportKind::Calls, code, |context| {
        context.rax = Call::ProcessExit as u64;
    }));
    must!(bare.thread.start());
    let (_, reply) = next(&endpoint, CallPoint::Begins)?;
    must!(reply.give_result(5));
    let_exit("with an answer", &endpoint, &bare)?;
    // It ends instead.
    let (bare, endpoint) = must!(reporting(
        ReportKind::Calls,
        code!("syscall", "ud2"),
        |_| {}
    ));
    must!(bare.thread.start());
    let (_, reply) = next(&endpoint, CallPoint::Begins)?;
    must!(reply.answer_report(Answer::End));
    let info = must!(bare.run_to_end());
    check!(
        info.state == ProcessState::Exited as u32,
        "{}",
        ending(&info)
    );
    Ok(())
}

fn a_reported_call_without_an_answer_is_not_made(_: &'static World) -> Verdict {
    let code = code!("syscall", "ud2");
    let made = || {
        reporting(ReportKind::Calls, code, |context| {
            context.rax = Call::ProcessExit as u64;
        })
    };
    // The reply is dropped, the endpoint closed before and while it waits.
    let (bare, endpoint) = must!(made());
    must!(bare.thread.start());
    drop(next(&endpoint, CallPoint::Begins)?);
    let info = must!(bare.run_to_end());
    same!(
        (info.context.vector, info.context.rax),
        (6, Error::NoReply as u64)
    );
    let (bare, endpoint) = must!(made());
    drop(endpoint);
    must!(bare.thread.start());
    let info = must!(bare.run_to_end());
    same!(
        (info.context.vector, info.context.rax),
        (6, Error::PeerClosed as u64)
    );
    let (bare, endpoint) = must!(made());
    must!(bare.thread.start());
    until("it waits", || {
        Ok(bare.thread.info()?.state == ThreadState::Sending as u32)
    })?;
    drop(endpoint);
    let info = must!(bare.run_to_end());
    same!(
        (info.context.vector, info.context.rax),
        (6, Error::PeerClosed as u64)
    );
    Ok(())
}

fn a_thread_is_killed_or_suspended_in_a_reported_call(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        for point in [CallPoint::Begins, CallPoint::Ends, CallPoint::Foreign] {
            let kind = if point == CallPoint::Foreign {
                ReportKind::ForeignCalls
            } else {
                ReportKind::Calls
            };
            let made = || -> Result<(Bare, Endpoint, ReportedCall, Reply), Why> {
                let (bare, endpoint) =
                    must!(reporting(kind, then_exit!("syscall", "nop"), |context| {
                        context.rax = UNKNOWN;
                    }));
                must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
                must!(bare.thread.start());
                if point == CallPoint::Ends {
                    let (_, reply) = next(&endpoint, CallPoint::Begins)?;
                    must!(reply.answer_report(Answer::Resume));
                }
                let (call, reply) = next(&endpoint, point)?;
                Ok((bare, endpoint, call, reply))
            };
            let (bare, _endpoint, _, reply) = made()?;
            // SAFETY: the thread is of another process.
            must!(unsafe { bare.thread.kill() });
            let info = must!(bare.run_to_end());
            check!(
                info.state == ProcessState::Exited as u32,
                "{}",
                ending(&info)
            );
            same!(
                reply.answer_report(Answer::Resume).err(),
                Some(Error::CallerGone)
            );

            let (bare, endpoint, call, reply) = made()?;
            // SAFETY: as above.
            must!(unsafe { bare.thread.stop(soon()) });
            same!(own(&must!(bare.thread.registers())), own(&call.registers));
            drop(reply);
            must!(bare.thread.resume());
            if point != CallPoint::Ends {
                let (again, reply) = next(&endpoint, point)?;
                same!(own(&again.registers), own(&call.registers));
                must!(reply.give_result(0));
            }
            if point == CallPoint::Foreign {
                let (_, reply) = next(&endpoint, point)?;
                must!(reply.answer_report(Answer::End));
                must!(bare.run_to_end());
            } else {
                let_exit("after it was stopped", &endpoint, &bare)?;
            }
        }
    }
    Ok(())
}

fn a_thread_is_suspended_in_a_call_that_is_reported(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        for changed in [false, true] {
            let code = then_exit!("syscall", "cmp rax, rbx", "je 2f", "ud2", "2:", "nop");
            let (bare, endpoint) = must!(reporting(ReportKind::Calls, code, |context| {
                context.rax = Call::Sleep as u64;
                context.rbx = Error::Cancelled as u64;
                context.r14 = Deadline::NEVER.0;
            }));
            must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
            must!(bare.thread.start());
            let (_, reply) = next(&endpoint, CallPoint::Begins)?;
            must!(reply.answer_report(Answer::Resume));
            until("it sleeps", || {
                Ok(bare.thread.info()?.state == ThreadState::Sleeping as u32)
            })?;
            // It stands behind its call, which nobody has to hear of first.
            // SAFETY: the thread is of another process.
            must!(unsafe { bare.thread.stop(soon()) });
            let seen = must!(bare.thread.registers());
            same!((seen.rip, seen.rax), (START + 2, Error::Cancelled as u64));
            same!(endpoint.recv(0, Deadline::NOW).err(), Some(Error::TimedOut));
            let wanted = UserContext {
                r15: if changed { 0x5E7 } else { seen.r15 },
                ..seen
            };
            if changed {
                // SAFETY: as above.
                must!(unsafe { bare.thread.set_registers(&wanted) });
            }
            must!(bare.thread.resume());
            let (call, reply) = next(&endpoint, CallPoint::Ends)?;
            same!(own(&call.registers), own(&wanted));
            same!(call.number, Call::Sleep as u64);
            must!(reply.answer_report(Answer::Resume));
            let_exit("after it was stopped in its call", &endpoint, &bare)?;
        }
    }
    Ok(())
}

fn a_step_goes_through_a_reported_call(_: &'static World) -> Verdict {
    const TRAP: u64 = 1 << 8;
    for (name, code) in [
        ("syscall", then_exit!("int3", "syscall", "nop", "nop")),
        ("int 0x80", then_exit!("int3", "int 0x80", "nop", "nop")),
    ] {
        let (bare, endpoint) = must!(reporting(ReportKind::Calls, code, |context| {
            context.rax = UNKNOWN;
        }));
        let (faults, badged) = must!(listener());
        must!(bare.thread.report_to(ReportKind::Faults, Some(&badged)));
        must!(bare.thread.start());
        let (told, reply) = fault(&faults)?;
        same!((told.vector, told.rip), (3, START + 1));
        must!(reply.answer_report(Answer::Step));
        same!(let_pass(&endpoint)?.0, UNKNOWN);
        // A return with the trap flag set stops at once or after one more instruction.
        let (told, reply) = fault(&faults)?;
        let there = [START + 3, START + 4].contains(&told.rip);
        check!(told.vector == 1 && there, "{name}: {told:x?}");
        let seen = must!(reply.registers());
        check!(
            seen.rflags & TRAP == 0 && seen.rax == Error::UnknownCall as u64,
            "{name}: {seen:x?}"
        );
        must!(reply.answer_report(Answer::Resume));
        let_exit(name, &endpoint, &bare)?;
    }
    Ok(())
}

fn calls_are_reported_of_threads_that_stand_still(_: &'static World) -> Verdict {
    let (endpoint, badged) = must!(listener());
    let code = code!("2:", "xor eax, eax", "syscall", "pause", "jmp 2b");
    let bare = must!(prepared(code, |_| {}));
    let kind = ReportKind::Calls as u64;
    let (thread, to) = (bare.thread.handle().0, badged.handle().0);
    must!(bare.thread.start());
    until("it runs", || Ok(bare.thread.info()?.cpu_ns > 0))?;
    refused(Call::ReportTo, &[thread, kind, to], Error::WrongState)?;
    // Foreign calls are a process's, from its beginning.
    let foreign = ReportKind::ForeignCalls as u64;
    refused(Call::ReportTo, &[thread, foreign, to], Error::BadArgument)?;
    refused(
        Call::ReportTo,
        &[bare.process.handle().0, foreign, to],
        Error::WrongState,
    )?;
    // SAFETY: the thread is of another process.
    must!(unsafe { bare.thread.stop(soon()) });
    must!(bare.thread.report_to(ReportKind::Calls, Some(&badged)));
    must!(bare.thread.resume());
    for _ in 0..3 {
        same!(let_pass(&endpoint)?.0, Call::Null as u64);
    }
    // And no more.
    let (_, reply) = next(&endpoint, CallPoint::Begins)?;
    // SAFETY: as above.
    must!(unsafe { bare.thread.stop(soon()) });
    must!(bare.thread.report_to(ReportKind::Calls, None));
    drop(reply);
    must!(bare.thread.resume());
    let before = must!(bare.thread.info()).cpu_ns;
    until("it goes on", || {
        Ok(bare.thread.info()?.cpu_ns > before + 1_000_000)
    })?;
    same!(endpoint.recv(0, Deadline::NOW).err(), Some(Error::TimedOut));
    // A thread that the process makes later reports to whom its process reports.
    must!(bare.process.report_to(ReportKind::Calls, Some(&badged)));
    // SAFETY: as above.
    let second = must!(unsafe { bare.process.create_thread(START, STACK_TOP - 256, 0) });
    must!(second.start());
    let (_, reply) = next(&endpoint, CallPoint::Begins)?;
    same!(endpoint.recv(0, Deadline::NOW).err(), Some(Error::TimedOut));
    drop(reply);
    Ok(())
}

/// Numbers of the other system.
mod foreign {
    pub const WRITE: u64 = 1;
    pub const BREAK: u64 = 12;
    pub const NUMBER: u64 = 39;
    pub const EXIT: u64 = 60;
}

fn foreign_calls_are_reported_to_their_personality(world: &'static World) -> Verdict {
    // It asks for its number, writes eight bytes of its stack, with an argument that tells how often it was interrupted, and ends with the sum of the results.
    // The first by `int 0x80`.
    let code = code!(
        "mov eax, 39",
        "int 0x80",
        "mov rbx, rax",
        "mov rax, 0x6F6C6C65682D2D21",
        "push rax",
        "mov eax, 1",
        "mov edi, 2",
        "mov rsi, rsp",
        "mov edx, 8",
        "syscall",
        "add rbx, rax",
        "mov eax, 12",
        "syscall",
        "add rbx, rax",
        "mov rdi, rbx",
        "mov eax, 60",
        "syscall",
        "ud2",
    );
    for cpu in [0, world.cpus - 1] {
        let (bare, endpoint) = must!(reporting(ReportKind::ForeignCalls, code, |_| {}));
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        must!(bare.thread.start());
        let mut written = vec![];
        let mut interrupted = 0;
        loop {
            let (call, reply) = next(&endpoint, CallPoint::Foreign)?;
            let registers = call.registers;
            same!(call.number, registers.call_number);
            match call.number {
                foreign::NUMBER => must!(reply.give_result(1000)),
                foreign::WRITE if interrupted < 2 => {
                    // As if a signal had come: the call is to be made once more.
                    interrupted += 1;
                    let again = UserContext {
                        rip: registers.rip - 2,
                        rax: registers.call_number,
                        ..registers
                    };
                    must!(reply.answer_with_registers(Answer::Resume, &again));
                }
                foreign::WRITE => {
                    same!(registers.rdi, 2);
                    let mut bytes = vec![0; registers.rdx as usize];
                    same!(
                        must!(bare.process.read_memory(registers.rsi, &mut bytes)),
                        8
                    );
                    written.extend(bytes);
                    must!(reply.give_result(registers.rdx));
                }
                foreign::BREAK => {
                    let set = UserContext {
                        rax: 3,
                        ..registers
                    };
                    must!(reply.answer_with_registers(Answer::Resume, &set));
                }
                foreign::EXIT => {
                    must!(bare.process.kill(registers.rdi));
                    break;
                }
                other => fail!("a call of number {other}"),
            }
        }
        let info = must!(bare.run_to_end());
        same!((info.state, info.code), (ProcessState::Killed as u32, 1011));
        same!(&written[..], b"!--hello");
        same!(interrupted, 2);
    }
    Ok(())
}

fn foreign_calls_keep_all_registers_but_what_is_set(_: &'static World) -> Verdict {
    let code = code!("2:", "syscall", "jmp 2b");
    let (bare, endpoint) = must!(reporting(ReportKind::ForeignCalls, code, |context| {
        *context = UserContext {
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
            ..full(context)
        };
    }));
    let mut wanted = must!(bare.thread.registers());
    wanted.rip += 2;
    wanted.rcx = wanted.rip;
    must!(bare.thread.start());
    // Numbers of all kinds that this system has ways of its own for.
    for number in [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        34,
        35,
        50,
        58,
        999,
        u64::MAX,
        1 << 63,
    ] {
        let (call, reply) = next(&endpoint, CallPoint::Foreign)?;
        wanted.rax = call.registers.rax;
        wanted.r11 = call.registers.rflags;
        same!(own(&call.registers), own(&wanted));
        same!(call.number, wanted.rax);
        same!(own(&must!(reply.registers())), own(&wanted));
        must!(reply.give_result(number));
    }
    let (call, _reply) = next(&endpoint, CallPoint::Foreign)?;
    same!(call.number, 1 << 63);
    Ok(())
}

fn foreign_calls_without_a_personality_end_the_thread(_: &'static World) -> Verdict {
    let ends = |what: &str, bare: &Bare| {
        let info = must!(bare.run_to_end());
        check!(
            info.state == ProcessState::Exited as u32,
            "{what}: {}",
            ending(&info)
        );
        same!(info.code, 0);
        Ok(())
    };
    let made = || reporting(ReportKind::ForeignCalls, then_exit!("syscall"), |_| {});
    let (bare, endpoint) = must!(made());
    must!(bare.thread.start());
    drop(next(&endpoint, CallPoint::Foreign)?);
    ends("with the reply dropped", &bare)?;
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
    ends("with the endpoint closed under it", &bare)
}
