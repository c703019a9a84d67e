//! The registers of threads that others hold still: they are those of the border, can be had, and can be set.

use abi::info::{ProcessState, ThreadState};
use abi::{Call, CpuSet, Error, FaultKind, UserContext};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;
use rt::{Deadline, Memory};

use super::contexts::{START, full};
use super::faults::faulted;
use super::probe::{Probe, soon, until};
use super::tests;
use crate::bare::{self, Bare, PREAMBLE32_BYTES, reg};
use crate::verdict::{Verdict, Why};
use crate::world::World;
use crate::{check, code, code32, must, same};

tests! {
    registers_of_a_suspended_thread_can_be_had_and_set: 40,
    a_thread_whose_budget_ends_in_a_call_is_suspended_at_the_calls_end: 60,
    a_thread_in_short_calls_is_suspended_with_all_of_its_registers: 40,
    threads_of_32_bit_code_are_suspended_between_calls: 40,
    floating_point_state_of_a_suspended_thread_can_be_had_and_set: 40,
}

/// What is the thread's alone in a context, and not its last entry's.
pub(super) fn own(context: &UserContext) -> UserContext {
    UserContext {
        vector: 0,
        error_code: 0,
        cr2: 0,
        call_number: 0,
        debug_status: 0,
        // RF is the fault's.
        rflags: context.rflags & !(1 << 16),
        ..*context
    }
}

fn registers_of_a_suspended_thread_can_be_had_and_set(world: &'static World) -> Verdict {
    let code = code!("2:", "pause", "jmp 2b", "ud2");
    for cpu in 0..world.cpus {
        let bare = must!(Bare::new(code, &bare::pattern()));
        must!(
            bare.thread
                .set_tls(0, Some(abi::segment::DataSegment::flat(0)))
        );
        let wanted = full(&must!(bare.thread.registers()));
        // SAFETY: the thread is of another process.
        must!(unsafe { bare.thread.set_registers(&wanted) });
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        must!(bare.thread.start());
        until("it runs", || Ok(bare.thread.info()?.cpu_ns > 0))?;
        same!(bare.thread.registers().err(), Some(Error::WrongState));
        // SAFETY: as above.
        must!(unsafe { bare.thread.suspend(soon()) });
        let seen = must!(bare.thread.registers());
        check!(
            seen.rip == START || seen.rip == START + 2,
            "it is at {:#x}",
            seen.rip
        );
        same!(
            own(&seen),
            UserContext {
                rip: seen.rip,
                ..own(&wanted)
            }
        );
        let changed = UserContext {
            rip: START + code.len() as u64 - 2,
            rax: 0x1111,
            r15: !seen.r15,
            rsp: 0x2222,
            fs_base: 0x3333_0000,
            // Such as `wrgsbase` would give it.
            gs_base: 0xFFFF_8000_4444_0000,
            fs: 0,
            gs: 0,
            ds: 0x43,
            es: 0,
            rflags: 0x202,
            ..seen
        };
        // What user code could not have set is refused, and nothing is changed.
        for bad in [
            UserContext {
                rip: 1 << 47,
                ..changed
            },
            UserContext {
                cs: 0x08,
                ..changed
            },
            UserContext {
                gs_base: 1 << 63,
                ..changed
            },
        ] {
            // SAFETY: as above.
            let result = unsafe { bare.thread.set_registers(&bad) };
            same!(result, Err(Error::BadArgument));
        }
        same!(must!(bare.thread.registers()), seen);
        // SAFETY: as above.
        must!(unsafe { bare.thread.set_registers(&changed) });
        same!(own(&must!(bare.thread.registers())), own(&changed));
        must!(bare.thread.resume());
        let info = must!(bare.run_to_end());
        faulted("ud2", &info, FaultKind::InvalidInstruction)?;
        same!(own(&info.context), own(&changed));
    }
    Ok(())
}

fn a_thread_in_short_calls_is_suspended_with_all_of_its_registers(
    world: &'static World,
) -> Verdict {
    const { assert!(Call::Yield as u64 == 1 && Call::ProcessExit as u64 == 50) };
    let turn = code!(
        "2:",
        "inc qword ptr [rbx]",
        "mov eax, 1", // yield
        "syscall",
        "jmp 2b",
    );
    let end = code!("mov eax, 50", "syscall");
    let code = [turn, end].concat();
    for cpu in 0..world.cpus {
        // Two that do nothing but switch to each other.
        let mut probes = Vec::new();
        for _ in 0..2 {
            let probe = must!(Probe::new(&code, |context| {
                let page = context.rbx;
                *context = full(context);
                (context.fs, context.gs, context.rbx) = (0, 0, page);
                (context.rflags, context.ds, context.es) = (0x202, 0, 0);
            }));
            must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
            probes.push(probe);
        }
        let given = must!(probes[0].thread().registers());
        for probe in &probes {
            must!(probe.thread().start());
        }
        for _ in 0..25 {
            for probe in &probes {
                probe.goes_on()?;
                probe.stop()?;
                let seen = must!(probe.thread().registers());
                check!(
                    (START..START + turn.len() as u64).contains(&seen.rip),
                    "it is at {:#x}",
                    seen.rip
                );
                // What a call leaves as it is.
                for (name, seen, given) in [
                    ("rbx", seen.rbx, given.rbx),
                    ("rbp", seen.rbp, given.rbp),
                    ("rsp", seen.rsp, given.rsp),
                    ("r12", seen.r12, given.r12),
                    ("r13", seen.r13, given.r13),
                    ("r14", seen.r14, given.r14),
                    ("r15", seen.r15, given.r15),
                    ("cs", seen.cs, given.cs),
                    ("ss", seen.ss, given.ss),
                    ("fs base", seen.fs_base, given.fs_base),
                    ("gs base", seen.gs_base, given.gs_base),
                ] {
                    check!(seen == given, "{name} is {seen:#x}, not {given:#x}");
                }
                // What it has read is what it finds, also if it was just coming back from its call.
                // SAFETY: the thread is of another process.
                must!(unsafe { probe.thread().set_registers(&seen) });
                must!(probe.thread().resume());
            }
        }
        for (number, probe) in probes.iter().enumerate() {
            probe.stop()?;
            let mut context = must!(probe.thread().registers());
            context.rip = START + turn.len() as u64;
            context.rdi = 0x77 + number as u64;
            // SAFETY: as above.
            must!(unsafe { probe.thread().set_registers(&context) });
            must!(probe.thread().resume());
            let info = must!(probe.bare.run_to_end());
            same!(
                (info.state, info.code),
                (ProcessState::Exited as u32, 0x77 + number as u64)
            );
        }
    }
    Ok(())
}

/// What was seen of a thread whose budget never ended in a call.
fn with_looks(why: Why, (throttled, calls): (u32, u32)) -> Why {
    match why {
        Why::Failed(reason) => Why::Failed(format!(
            "{reason}; seen without budget {throttled} times, in a call {calls} times"
        )),
        skipped @ Why::Skipped(_) => skipped,
    }
}

/// A budget that is used up ends a thread's turn in the middle of a long system call as well. If it is to be suspended then, it still
/// has the rest of the call to run: its registers would not be those of user code, and what is set in them would be lost.
fn a_thread_whose_budget_ends_in_a_call_is_suspended_at_the_calls_end(
    world: &'static World,
) -> Verdict {
    /// What a call copies: many times what a budget is enough for.
    const BYTES: u64 = 0x20_0000;
    const BUFFER: u64 = 0x1000_0000;
    const BUDGET: Duration = Duration::from_micros(100);
    const PERIOD: Duration = Duration::from_millis(2);
    /// What the program has in the last word before each call, which leaves 0 there.
    const BEFORE: u64 = u64::MAX;
    const { assert!(Call::MemoryCreate as u64 == 32 && Call::MemoryRead as u64 == 37) };
    let begin = code!(
        "mov edi, 0x200000",
        "xor esi, esi",
        "mov eax, 32", // memory_create
        "syscall",
        "mov r15, rdi",
    );
    let turn = code!(
        "mov qword ptr [r12 + 0x1FFFF8], -1",
        "mov rdi, r15",
        "xor esi, esi",
        "mov rdx, r12",
        "mov r10d, 0x200000",
        "mov eax, 37", // memory_read
        "syscall",
    );
    // Whatever is not the result that it should be.
    let end = code!(
        "test rax, rax",
        "jz 2f",
        "mov [rbx + 8], rax",
        "2:",
        "inc qword ptr [rbx]",
        "jmp r13",
    );
    let code = [begin, turn, end].concat();
    let again = START + begin.len() as u64;
    let after = again + turn.len() as u64;
    let buffer = must!(Memory::create(BYTES));
    let last_word = || -> rt::Result<u64> {
        let mut word = [0; 8];
        buffer.read(BYTES - 8, &mut word)?;
        Ok(u64::from_le_bytes(word))
    };
    for cpu in [0, world.cpus - 1] {
        let probe = must!(Probe::new(&code, |context| {
            (context.r12, context.r13) = (BUFFER, again);
        }));
        let read_write = abi::Protection::READ_WRITE;
        must!(
            probe
                .bare
                .process
                .map(&buffer, BUFFER, 0, BYTES, read_write)
        );
        must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
        must!(probe.thread().start());
        // The first call makes all of the pages.
        probe.goes_on()?;
        let mut round = 0;
        while round < 5 {
            must!(probe.thread().set_budget(Some((BUDGET, PERIOD))));
            let mut looks = (0, 0);
            until("its budget ends in a call", || {
                let throttled = probe.info()?.state == ThreadState::Throttled as u32;
                let calls = last_word()? == BEFORE;
                looks.0 += u32::from(throttled);
                looks.1 += u32::from(calls);
                Ok(throttled && calls)
            })
            .map_err(|why| with_looks(why, looks))?;
            // Not as a thread that waits for its budget, but when the next one has ended.
            // SAFETY: the thread is of another process.
            let early = unsafe { probe.thread().suspend(Deadline::NOW) };
            check!(matches!(early, Ok(()) | Err(Error::TimedOut)), "{early:?}");
            // SAFETY: as above.
            must!(unsafe { probe.thread().suspend(soon()) });
            let seen = must!(probe.thread().registers());
            if (again..after).contains(&seen.rip) {
                // It was about to begin the call.
                must!(probe.thread().resume());
                continue;
            }
            same!((seen.rip, seen.rax), (after, 0));
            same!(must!(last_word()), 0);
            round += 1;
            let marker = 0x5EED_0000 + round;
            // SAFETY: as above.
            must!(unsafe {
                probe.thread().set_registers(&UserContext {
                    rax: marker,
                    ..seen
                })
            });
            must!(probe.thread().set_budget(None));
            let before = probe.count();
            must!(probe.thread().resume());
            // The program notes what it finds in the register, and goes on to the next call.
            until("it goes on", || Ok(probe.count() > before))?;
            same!(probe.word(1).load(Ordering::SeqCst), marker);
        }
    }
    Ok(())
}

fn threads_of_32_bit_code_are_suspended_between_calls(world: &'static World) -> Verdict {
    let turn = code32!("2:", "mov eax, 1", "int 0x80", "jmp 2b");
    let end = code32!("ud2");
    let code = [turn, end].concat();
    let start = bare::CODE + PREAMBLE32_BYTES;
    let given = bare::pattern32();
    for cpu in 0..world.cpus {
        let bare = must!(Bare::new32(&code, &given));
        must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
        must!(bare.thread.start());
        let mut stops = 0;
        while stops < 10 {
            // SAFETY: the thread is of another process.
            must!(unsafe { bare.thread.stop(soon()) });
            let seen = must!(bare.thread.registers());
            if seen.rip >= start {
                stops += 1;
                check!(
                    seen.rip < start + turn.len() as u64,
                    "it is at {:#x}",
                    seen.rip
                );
                same!(
                    (seen.rsp, seen.rbp, seen.cs),
                    (u64::from(given[reg::RSP]), u64::from(given[reg::RBP]), 0x1B)
                );
                // SAFETY: as above.
                must!(unsafe { bare.thread.set_registers(&seen) });
            }
            let switches = must!(bare.thread.info()).switches;
            must!(bare.thread.resume());
            until("it runs again", || {
                Ok(bare.thread.info()?.switches != switches)
            })?;
        }
        // SAFETY: as above.
        must!(unsafe { bare.thread.stop(soon()) });
        let mut context = must!(bare.thread.registers());
        (context.rip, context.rsi) = (start + turn.len() as u64, 0x1234_5678);
        // SAFETY: as above.
        must!(unsafe { bare.thread.set_registers(&context) });
        must!(bare.thread.resume());
        let info = must!(bare.run_to_end());
        faulted("ud2", &info, FaultKind::InvalidInstruction)?;
        same!(
            (info.context.rip, info.context.rsi),
            (context.rip, 0x1234_5678)
        );
    }
    Ok(())
}

fn floating_point_state_of_a_suspended_thread_can_be_had_and_set(world: &'static World) -> Verdict {
    const XMM5: usize = 160 + 5 * 16;
    let turn = code!(
        "movd xmm5, esi",
        "2:",
        "inc qword ptr [rbx]",
        "pause",
        "jmp 2b"
    );
    let end = code!("movd edi, xmm5", "mov eax, 50", "syscall");
    let code = [turn, end].concat();
    for cpu in 0..world.cpus {
        let probe = must!(Probe::new(&code, |context| context.rsi = 0x5678_1234));
        must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
        must!(probe.thread().start());
        probe.goes_on()?;
        same!(probe.thread().fpu_state().err(), Some(Error::WrongState));
        probe.stop()?;
        // Its CPU has nobody else who uses the registers, so they may still be there.
        let mut image = must!(probe.thread().fpu_state());
        same!(image[XMM5..XMM5 + 4], 0x5678_1234_u32.to_le_bytes());
        image[XMM5..XMM5 + 4].copy_from_slice(&0x1BAD_CAFE_u32.to_le_bytes());
        must!(probe.thread().set_fpu_state(&image));
        let mut context = must!(probe.thread().registers());
        context.rip = START + turn.len() as u64;
        // SAFETY: the thread is of another process.
        must!(unsafe { probe.thread().set_registers(&context) });
        must!(probe.thread().resume());
        same!(must!(probe.bare.run_to_end()).code, 0x1BAD_CAFE);
    }
    Ok(())
}
