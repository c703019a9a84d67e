//! The registers of threads that report: had and set by whoever answers, and kept by whoever does not touch them, on both sides.

use abi::info::ThreadState;
use abi::report::{Answer, label};
use abi::{Call, CpuSet, Deadline, FaultKind, Handle, UserContext};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::report::resume_at;
use rt::sys::{self, IpcRegisters};
use rt::{AsHandle, Reply, thread};

use super::contexts::START;
use super::faults::faulted;
use super::probe::{soon, until};
use super::reports::{BADGE, all_but_selectors, fault, reporting};
use super::suspended_registers::own;
use super::tests;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{code, must, same};

tests! {
    registers_of_a_thread_that_reports_are_had_and_set_by_the_reply: 40,
    many_reports_are_answered_at_once_with_all_registers_kept: 60,
    reports_keep_the_vector_registers_of_both_sides: 60,
}

fn registers_of_a_thread_that_reports_are_had_and_set_by_the_reply(
    world: &'static World,
) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let code = code!("ud2", "ud2", "ud2");
        let (bare, endpoint) = must!(reporting(code, all_but_selectors));
        let wanted = must!(bare.thread.registers());
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        must!(bare.thread.start());
        // As a whole, by the reply and by the thread's handle.
        let (_, reply) = fault(&endpoint)?;
        let seen = must!(reply.registers());
        same!(own(&seen), own(&wanted));
        same!(must!(bare.thread.registers()), seen);
        let changed = UserContext {
            rip: START + 2,
            rax: 0x1111,
            r15: !seen.r15,
            fs_base: 0x3333_0000,
            gs_base: 0x4444_0000,
            ..seen
        };
        // SAFETY: the thread is of another process.
        must!(unsafe { reply.set_registers(&changed) });
        let image = must!(reply.fpu_state());
        must!(reply.set_fpu_state(&image));
        let debug = must!(reply.debug_registers());
        must!(reply.set_debug_registers(&debug));
        must!(reply.set_all_tls(&must!(reply.tls())));
        must!(reply.answer_report(Answer::Resume));
        // By the answer itself.
        let (_, reply) = fault(&endpoint)?;
        same!(own(&must!(reply.registers())), own(&changed));
        let again = UserContext {
            rip: START + 4,
            rbx: 0x2222,
            gs_base: 0x5555_0000,
            ..changed
        };
        must!(reply.answer_with_registers(Answer::Resume, &again));
        // By the thread's handle.
        let (told, reply) = fault(&endpoint)?;
        same!((told.rip, told.rsp), (again.rip, again.rsp));
        same!(own(&must!(bare.thread.registers())), own(&again));
        // SAFETY: as above.
        must!(unsafe { bare.thread.set_registers(&UserContext { rdx: 3, ..again }) });
        must!(reply.answer_report(Answer::End));
        let info = must!(bare.run_to_end());
        same!(own(&info.context), own(&UserContext { rdx: 3, ..again }));
    }
    Ok(())
}

/// Receives faults of a program that says `ud2` again and again, and lets it go on behind each, as a server that waits without a deadline, until the
/// endpoint is closed. Looks at its registers now and then.
fn answer_all(
    endpoint: Handle,
    wanted: UserContext,
    uses_fpu: bool,
    rounds: &AtomicU64,
) -> Verdict {
    let empty = IpcRegisters {
        handle: endpoint.0,
        tag: 0,
        words: [0; 6],
        deadline: Deadline::NEVER.0,
        reply: 0,
    };
    let mut registers = empty;
    for round in 0_u64.. {
        // SAFETY: a message of words alone.
        if unsafe { sys::ipc(Call::ReplyRecv as u64, &mut registers) } != 0 {
            return Ok(());
        }
        let came = registers;
        same!(
            (came.handle, came.tag >> 32),
            (BADGE, u64::from(label::FAULT))
        );
        same!(came.words[..3], [6, 0, wanted.rip]);
        same!((came.words[4], came.deadline), (wanted.rsp, 0));
        if round % 8 == 3 {
            let reply = Reply::from_handle(rt::OwnedHandle::from_raw(Handle(came.reply)));
            let seen = reply.registers();
            // It is answered by what comes next.
            let _ = reply.into_handle().into_raw();
            same!(own(&must!(seen)), own(&wanted));
        }
        rounds.store(round + 1, Ordering::SeqCst);
        if uses_fpu {
            // SAFETY: changes one register, which it says.
            unsafe {
                core::arch::asm!("pcmpeqd xmm3, xmm3", out("xmm3") _, options(nomem, nostack));
            };
        }
        let answer = resume_at(wanted.rip + 2);
        registers = IpcRegisters {
            tag: abi::Tag::new(answer.label).0,
            words: answer.words,
            reply: came.reply,
            // Not by the direct way.
            deadline: if round % 16 == 5 {
                soon().0
            } else {
                Deadline::NEVER.0
            },
            ..empty
        };
    }
    Ok(())
}

/// Lets `code`, which is `ud2` at an offset and a way back to it, fault 300 times on `cpu` with its handler on `other`.
fn fault_again_and_again(
    code: &[u8],
    offset: u64,
    uses_fpu: bool,
    [cpu, other]: [u32; 2],
) -> Verdict {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    ROUNDS.store(0, Ordering::SeqCst);
    let (bare, endpoint) = must!(reporting(code, all_but_selectors));
    let mut wanted = must!(bare.thread.registers());
    wanted.rip += offset;
    if uses_fpu {
        wanted.rcx = wanted.rbx;
    }
    must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
    let handle = endpoint.handle();
    let handler = must!(
        thread::Builder::new()
            .cpu(other)
            .spawn(move || answer_all(handle, wanted, uses_fpu, &ROUNDS))
    );
    must!(bare.thread.start());
    until("so many faults are answered", || {
        Ok(ROUNDS.load(Ordering::SeqCst) > 300
            || handler.thread().info()?.state == ThreadState::Ended as u32)
    })?;
    drop(endpoint);
    must!(handler.join(soon()))?;
    // Nobody answers any more.
    let info = must!(bare.run_to_end());
    faulted("without a handler", &info, FaultKind::InvalidInstruction)?;
    same!(own(&info.context), own(&wanted));
    Ok(())
}

fn many_reports_are_answered_at_once_with_all_registers_kept(world: &'static World) -> Verdict {
    let last = world.cpus - 1;
    let code = code!("2:", "ud2", "jmp 2b");
    fault_again_and_again(code, 0, false, [0, 0])?;
    fault_again_and_again(code, 0, false, [last, last])?;
    if last > 0 {
        fault_again_and_again(code, 0, false, [0, last])?;
    }
    Ok(())
}

fn reports_keep_the_vector_registers_of_both_sides(world: &'static World) -> Verdict {
    let last = world.cpus - 1;
    let code = code!("movq xmm3, rbx", "2:", "movq rcx, xmm3", "ud2", "jmp 2b");
    fault_again_and_again(code, 10, true, [last, last])
}
