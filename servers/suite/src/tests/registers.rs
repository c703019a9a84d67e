//! Whatever way a thread goes into the kernel and out again, its registers are its own.

use abi::{Call, Error};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rt::{AsHandle, Endpoint, Memory, Protection, thread, time};

use super::tests;
use crate::registers::*;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same};

tests! {
    syscall_keeps_all_registers_but_those_documented: 40,
    software_interrupt_keeps_all_registers_but_those_documented: 40,
    refused_calls_leave_no_kernel_value_in_registers: 40,
    page_faults_keep_all_registers: 40,
    first_fpu_use_keeps_all_registers: 40,
    preemption_keeps_all_registers: 40,
    flags_of_the_program_survive_calls: 40,
    ipc_registers_are_as_documented: 40,
}

/// Calls that succeed at once and give no result.
fn plain_calls() -> [(u64, u64); 3] {
    // The second is r14, a deadline that is over.
    [
        (Call::Null as u64, 1),
        (Call::Yield as u64, 1),
        (Call::Sleep as u64, 1),
    ]
}

fn syscall_keeps_all_registers_but_those_documented(_: &'static World) -> Verdict {
    for round in 0..200 {
        for (number, r14) in plain_calls() {
            let before = Registers {
                rax: number,
                r14,
                ..pattern(round)
            };
            let mut after = before;
            // SAFETY: these calls do nothing.
            unsafe { through_syscall(&mut after) };
            same!(after.r11, before.flags);
            let text = through_syscall as *const () as u64;
            check!(
                after.rcx > text && after.rcx < text + 256,
                "rcx is {:#x}, not behind the syscall",
                after.rcx
            );
            same!(
                after,
                Registers {
                    rcx: after.rcx,
                    r11: after.r11,
                    ..done(number, before)
                }
            );
        }
    }
    Ok(())
}

fn software_interrupt_keeps_all_registers_but_those_documented(_: &'static World) -> Verdict {
    for round in 0..200 {
        for (number, r14) in plain_calls() {
            let before = Registers {
                rax: number,
                r14,
                ..pattern(round)
            };
            let mut after = before;
            // SAFETY: these calls do nothing.
            unsafe { through_interrupt(&mut after) };
            // The register map lets go of rcx and r11; an interrupt has no need to.
            same!(after, done(number, before));
        }
    }
    Ok(())
}

fn refused_calls_leave_no_kernel_value_in_registers(_: &'static World) -> Verdict {
    let mut numbers: Vec<u64> = Call::ALL.iter().map(|call| *call as u64).collect();
    numbers.extend([200, u64::MAX, 1 << 63]);
    for number in numbers {
        // Those that have no handle to refuse, or that end the test.
        let harmless = [
            Call::Null,
            Call::Yield,
            Call::ClockNow,
            Call::Sleep,
            Call::ProcessExit,
            Call::ThreadExit,
        ];
        let makes = [
            Call::EndpointCreate,
            Call::NotificationCreate,
            Call::ProcessSelf,
            Call::ThreadSelf,
        ];
        if harmless
            .iter()
            .chain(&makes)
            .any(|call| *call as u64 == number)
        {
            continue;
        }
        let before = Registers {
            rax: number,
            ..pattern(number)
        };
        let mut after = before;
        // SAFETY: none of the arguments is a good one.
        unsafe { through_syscall(&mut after) };
        check!(
            Error::from_code(after.rax).is_some(),
            "call {number:#x} gave status {:#x}",
            after.rax
        );
        same!(
            after,
            Registers {
                rax: after.rax,
                rcx: after.rcx,
                r11: before.flags,
                ..done(number, before)
            }
        );
        let mut after = before;
        // SAFETY: as above.
        unsafe { through_interrupt(&mut after) };
        same!(
            after,
            Registers {
                rax: after.rax,
                ..done(number, before)
            }
        );
    }
    Ok(())
}

fn page_faults_keep_all_registers(_: &'static World) -> Verdict {
    const PAGES: u64 = 200;
    let mapping = must!(must!(Memory::create(PAGES * 4096)).map(Protection::READ_WRITE));
    for page in 0..PAGES {
        let flags = BASE_FLAGS | ARITHMETIC | DIRECTION;
        let before = Registers {
            rbx: mapping.as_ptr() as u64 + page * 4096 + 8,
            flags,
            ..pattern(page)
        };
        let mut after = before;
        // SAFETY: the page is the test's.
        unsafe { through_write(&mut after) };
        same!(after, before);
    }
    Ok(())
}

fn first_fpu_use_keeps_all_registers(_: &'static World) -> Verdict {
    for round in 0..50 {
        // A thread that has not used the FPU yet.
        let thread = must!(thread::spawn(move || {
            let before = Registers {
                flags: BASE_FLAGS | ARITHMETIC,
                ..pattern(round)
            };
            let mut after = before;
            // SAFETY: it may lose xmm0.
            unsafe { through_fpu(&mut after) };
            (before, after)
        }));
        let (before, after) = must!(thread.join(time::after(Duration::from_secs(5))));
        same!(after, before);
    }
    Ok(())
}

/// Spins until told to stop, at the same priority and on the same CPU as the test's threads.
fn rivals(cpus: u32, stop: &Arc<AtomicBool>) -> rt::Result<Vec<thread::JoinHandle<()>>> {
    let rival = |cpu| {
        let stop = Arc::clone(stop);
        thread::Builder::new().cpu(cpu).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        })
    };
    (0..cpus).map(rival).collect()
}

fn preemption_keeps_all_registers(world: &'static World) -> Verdict {
    const SPINS: u64 = 3_000_000;
    let stop = Arc::new(AtomicBool::new(false));
    let rivals = must!(rivals(world.cpus, &stop));
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
            for round in 0..4 {
                let flags =
                    BASE_FLAGS | ARITHMETIC | ID | if round % 2 == 0 { DIRECTION } else { NESTED };
                let before = Registers {
                    rcx: SPINS,
                    flags,
                    ..pattern(round << 8 | u64::from(cpu))
                };
                let mut after = before;
                // SAFETY: it spins and that is all.
                unsafe { through_time(&mut after) };
                let want = Registers { rcx: 0, ..before };
                if after != want {
                    return Some((after, want));
                }
            }
            None
        })));
    }
    let mut results = Vec::new();
    for thread in threads {
        results.push(thread.join(time::after(Duration::from_secs(20))));
    }
    stop.store(true, Ordering::Relaxed);
    for rival in rivals {
        must!(rival.join(time::after(Duration::from_secs(5))));
    }
    for result in results {
        if let Some((after, want)) = must!(result) {
            same!(after, want);
        }
    }
    Ok(())
}

fn flags_of_the_program_survive_calls(_: &'static World) -> Verdict {
    for extra in [
        0,
        ARITHMETIC,
        DIRECTION,
        NESTED,
        ALIGNMENT,
        ID,
        ARITHMETIC | DIRECTION | ALIGNMENT | ID,
    ] {
        for number in [
            Call::Null as u64,
            999,
            Call::ClockNow as u64,
            Call::Yield as u64,
        ] {
            let before = Registers {
                rax: number,
                flags: BASE_FLAGS | extra,
                ..pattern(extra)
            };
            let mut after = before;
            // SAFETY: these calls do nothing.
            unsafe { through_syscall(&mut after) };
            // NT has a test of its own: it acts on `iret` alone.
            same!(after.flags & !NESTED, before.flags & !NESTED);
            let mut after = before;
            // SAFETY: as above.
            unsafe { through_interrupt(&mut after) };
            same!(after.flags & !NESTED, before.flags & !NESTED);
        }
    }
    Ok(())
}

fn ipc_registers_are_as_documented(_: &'static World) -> Verdict {
    let endpoint = Arc::new(must!(Endpoint::create()));
    let ours = must!(endpoint.mint(rt::Badge(0xBAD6E), abi::Rights::SEND));
    let theirs = Arc::clone(&endpoint);
    let server = must!(thread::spawn(move || {
        let before = Registers {
            rax: Call::Recv as u64,
            rdi: theirs.handle().0,
            r14: u64::MAX,
            ..pattern(1)
        };
        let mut request = before;
        // SAFETY: a receive, whose results are looked at below.
        unsafe { through_syscall(&mut request) };
        let answer = Registers {
            rax: Call::Reply as u64,
            rsi: 7 << 32,
            r15: request.r15,
            ..pattern(2)
        };
        let mut answered = answer;
        // SAFETY: the answer to the request.
        unsafe { through_syscall(&mut answered) };
        (before, request, answer, answered)
    }));
    let call = Registers {
        rax: Call::Call as u64,
        rdi: ours.handle().0,
        rsi: 5 << 32,
        r14: time::after(Duration::from_secs(5)).0,
        ..pattern(3)
    };
    let mut result = call;
    // SAFETY: a call of words alone.
    unsafe { through_syscall(&mut result) };
    let (before, request, answer, answered) =
        must!(server.join(time::after(Duration::from_secs(5))));
    // The request has the caller's words, its badge, and a reply; the server's other registers are the server's.
    check!(request.r15 != 0, "no reply came");
    same!(
        request,
        Registers {
            rax: 0,
            rdi: 0xBAD6E,
            rsi: call.rsi,
            rdx: call.rdx,
            r10: call.r10,
            r8: call.r8,
            r9: call.r9,
            r12: call.r12,
            r13: call.r13,
            r14: abi::register::RECEIVED_MESSAGE,
            r15: request.r15,
            rcx: request.rcx,
            r11: before.flags,
            ..before
        }
    );
    // The answering thread keeps everything.
    same!(
        answered,
        Registers {
            rax: 0,
            rcx: answered.rcx,
            r11: answer.flags,
            ..answer
        }
    );
    // The answer has the server's words.
    same!(
        result,
        Registers {
            rax: 0,
            rdi: 0,
            rsi: answer.rsi,
            rdx: answer.rdx,
            r10: answer.r10,
            r8: answer.r8,
            r9: answer.r9,
            r12: answer.r12,
            r13: answer.r13,
            r14: 0,
            r15: 0,
            rcx: result.rcx,
            r11: call.flags,
            ..call
        }
    );
    Ok(())
}
