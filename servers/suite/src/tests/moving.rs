//! Threads that go from CPU to CPU: because somebody says where they may run, and because a CPU has nothing else to do.

use abi::info::{ProcessState, ThreadState};
use abi::segment::DataSegment;
use abi::{CpuSet, DebugRegisters, FaultKind, Priority, UserContext, Watch};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{AsHandle, Deadline, Notification, Rights, Thread, thread, time};

use super::contexts::START;
use super::faults::faulted;
use super::probe::{PATIENCE, Probe, SHARED, soon, until};
use super::tests;
use crate::clock::since;
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, must, same, skip};

tests! {
    a_running_thread_is_where_its_affinity_says_when_the_call_returns: 40,
    all_of_a_threads_state_goes_with_it: 40,
    a_waiting_thread_goes_with_its_deadline: 40,
    a_wait_for_a_thread_to_leave_its_cpu_has_a_deadline: 40,
    idle_cpus_pull_what_may_run_there_and_nothing_else: 40,
    wake_ups_reach_a_thread_that_moves: 40,
    a_cpu_with_one_thread_takes_no_ticks: 40,
    a_process_is_killed_while_its_threads_move: 40,
}

/// The partners of these tests.
pub const ROLES: &[Role] = &[Role {
    name: "move-about",
    run: move_about,
}];

fn a_running_thread_is_where_its_affinity_says_when_the_call_returns(
    world: &'static World,
) -> Verdict {
    let probe = must!(Probe::counting(&CpuSet::only(0)));
    must!(probe.thread().start());
    probe.goes_on()?;
    let before = must!(probe.info());
    let mut moves = 0;
    for round in 0..10 {
        for cpu in 0..world.cpus {
            must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
            let info = must!(probe.info());
            same!(info.cpu, cpu);
            moves += u64::from(world.cpus > 1 && (round, cpu) != (0, 0));
            probe.goes_on()?;
        }
    }
    let after = must!(probe.info());
    // Each move is counted once, and nobody else moved it.
    same!(after.migrations - before.migrations, moves);
    check!(
        after.switches - before.switches >= moves,
        "it moved without a switch"
    );
    same!(
        must!(probe.thread().affinity()),
        CpuSet::only(world.cpus - 1)
    );
    // It stays in a set that has its CPU.
    must!(
        probe
            .thread()
            .set_affinity(&CpuSet::ALL.without(0).with(world.cpus - 1))
    );
    same!(must!(probe.info()).cpu, world.cpus - 1);
    Ok(())
}

/// Where the low halves of XMM registers are in a floating-point state, and MXCSR.
const XMM: usize = 160;
const MXCSR: usize = 24;

/// Registers that are all different, and all that goes with them.
fn give_state(probe: &Probe) -> rt::Result<(UserContext, Vec<u8>)> {
    let thread = probe.thread();
    thread.set_tls(0, Some(DataSegment::flat(0x1000)))?;
    thread.set_tls(2, Some(DataSegment::flat(0x2000)))?;
    let mut context = super::contexts::full(&thread.registers()?);
    (context.gs, context.r12) = (0x53, SHARED);
    // SAFETY: the thread is of another process.
    unsafe { thread.set_registers(&context) }?;
    let mut fpu = thread.fpu_state()?;
    fpu[MXCSR..MXCSR + 4].copy_from_slice(&0x7F80_u32.to_le_bytes());
    for (index, byte) in fpu[XMM..XMM + 256].iter_mut().enumerate() {
        *byte = index as u8 ^ 0x5A;
    }
    if let Some(header) = fpu.get_mut(512) {
        // SSE is in use.
        *header |= 2;
    }
    thread.set_fpu_state(&fpu)?;
    Ok((context, fpu))
}

/// What of the registers the program does not change.
fn kept(context: &UserContext) -> UserContext {
    /// AC, ID, DF and IF.
    const FLAGS: u64 = 1 << 18 | 1 << 21 | 1 << 10 | 1 << 9;
    UserContext {
        rip: 0,
        rflags: context.rflags & FLAGS,
        vector: 0,
        error_code: 0,
        cr2: 0,
        call_number: 0,
        ..*context
    }
}

fn all_of_a_threads_state_goes_with_it(world: &'static World) -> Verdict {
    let code = code!("2:", "movaps xmm6, xmm6", "inc qword ptr [r12]", "jmp 2b",);
    let probe = must!(Probe::new(code, |_| {}));
    let (context, fpu) = must!(give_state(&probe));
    let tls = must!(probe.thread().tls());
    // Another that uses the same registers of one of the CPUs, in turn with it.
    let rival = must!(Probe::new(code, |_| {}));
    let (mut theirs, mut image) = must!(give_state(&rival));
    (theirs.fs_base, theirs.gs_base, theirs.rbp) = (0x100, 0x200, 0x300);
    image[XMM..XMM + 256].fill(0x77);
    // SAFETY: the thread is of another process.
    must!(unsafe { rival.thread().set_registers(&theirs) });
    must!(rival.thread().set_fpu_state(&image));
    must!(rival.thread().set_affinity(&CpuSet::only(world.cpus - 1)));
    must!(rival.thread().start());
    must!(probe.thread().start());
    let mut debug = DebugRegisters::default();
    for round in 0..8_u32 {
        let cpu = round * 3 % world.cpus;
        must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
        probe.goes_on()?;
        same!(must!(probe.info()).cpu, cpu);
        if round % 2 == 0 {
            // Also while it stands still.
            probe.stop()?;
            must!(
                probe
                    .thread()
                    .set_affinity(&CpuSet::only(round % world.cpus))
            );
            same!(must!(probe.info()).cpu, round % world.cpus);
            must!(probe.thread().resume());
            probe.goes_on()?;
        }
        probe.stop()?;
        let seen = must!(probe.thread().registers());
        same!(kept(&seen), kept(&context));
        check!(
            (START..START + code.len() as u64).contains(&seen.rip),
            "it is at {:#x}",
            seen.rip
        );
        let image = must!(probe.thread().fpu_state());
        same!(image[XMM..XMM + 256], fpu[XMM..XMM + 256]);
        same!(image[MXCSR..MXCSR + 4], fpu[MXCSR..MXCSR + 4]);
        same!(must!(probe.thread().tls()), tls);
        same!(must!(probe.thread().debug_registers()), debug);
        // Where it never comes, each time another.
        debug.address = [u64::from(round) * 8 + 0x1000; 4];
        debug.control = DebugRegisters::enable(round as usize % 4, Watch::Execute);
        must!(probe.thread().set_debug_registers(&debug));
        must!(probe.thread().resume());
    }
    probe.goes_on()?;
    probe.stop()?;
    debug.address = [START; 4];
    must!(probe.thread().set_debug_registers(&debug));
    must!(probe.thread().resume());
    let info = must!(probe.bare.run_to_end());
    faulted("a breakpoint in its way", &info, FaultKind::Debug)?;
    same!(info.context.rip, START);
    same!(kept(&info.context).r15, context.r15);
    Ok(())
}

fn a_waiting_thread_goes_with_its_deadline(world: &'static World) -> Verdict {
    let mut patience_ns = 30_000_000;
    let mut cpu = 0;
    while cpu < world.cpus {
        let deadline = Deadline(time::now_ns() + patience_ns);
        let sleeper = must!(
            thread::Builder::new()
                .cpu(world.cpus - 1 - cpu)
                .spawn(move || {
                    let slept = time::sleep_until(deadline);
                    (slept, time::now_ns(), rt::landing::cpu_number())
                })
        );
        let info = || sleeper.thread().info();
        until("it sleeps", || {
            Ok(sleeper.is_finished() || info()?.state == ThreadState::Sleeping as u32)
        })?;
        let moved = sleeper.thread().set_affinity(&CpuSet::only(cpu));
        let in_time = time::now_ns() < deadline.0;
        let (slept, woke, woke_on) = must!(sleeper.join(soon()));
        must!(slept);
        check!(woke >= deadline.0, "it woke early");
        if !in_time {
            // It woke before it was sent anywhere.
            patience_ns *= 4;
            continue;
        }
        must!(moved);
        check!(
            woke_on.is_none_or(|found| found == cpu),
            "it woke on CPU {woke_on:?}, not {cpu}"
        );
        cpu += 1;
    }
    Ok(())
}

fn a_wait_for_a_thread_to_leave_its_cpu_has_a_deadline(world: &'static World) -> Verdict {
    if world.cpus == 1 {
        skip!("there is nowhere to go to");
    }
    let own = must!(Thread::current());
    must!(own.set_affinity(&CpuSet::only(0)));
    let probe = must!(Probe::counting(&CpuSet::only(1)));
    must!(probe.thread().start());
    probe.goes_on()?;
    let mut late = 0;
    for round in 0..40 {
        let target = round % 2;
        let words = [1_u64 << target];
        let arguments = [probe.thread().handle().0, words.as_ptr() as u64, 8];
        // It takes another CPU to get it there, which takes longer than no time at all.
        let status =
            crate::kernel_calls::raw_until(abi::Call::ThreadSetAffinity as u64, &arguments, 0)
                .status;
        check!(
            status == 0 || status == abi::Error::TimedOut as u64,
            "status {status:#x}"
        );
        late += u32::from(status != 0);
        // It is on its way nevertheless.
        until("it is where it may be", || {
            Ok(probe.info()?.cpu == target && probe.thread().affinity()? == CpuSet::only(target))
        })?;
        probe.goes_on()?;
    }
    check!(late != 0, "a thread on another CPU left it in no time");
    Ok(())
}

fn idle_cpus_pull_what_may_run_there_and_nothing_else(world: &'static World) -> Verdict {
    if world.cpus == 1 {
        skip!("there is nobody to pull");
    }
    let steals = |world: &World| -> rt::Result<u64> {
        Ok(world.system.cpus()?.iter().map(|cpu| cpu.steals).sum())
    };
    let mut probes = Vec::new();
    for _ in 0..world.cpus {
        let probe = must!(Probe::counting(&CpuSet::only(0)));
        must!(probe.thread().start());
        probes.push(probe);
    }
    for probe in &probes {
        probe.goes_on()?;
        let info = must!(probe.info());
        same!((info.cpu, info.migrations), (0, 0));
    }
    // Each other CPU takes one, as soon as it may. Not all of them count as pulled: one that gives way to another on its own CPU is sent
    // to an idle one, and where the idle ones are slow that may be each, for once.
    let start = time::now();
    loop {
        let before = must!(steals(world));
        for probe in &probes[1..] {
            must!(probe.thread().set_affinity(&CpuSet::ALL));
        }
        let mut cpus = Vec::new();
        until("all CPUs are in use", || {
            cpus.clear();
            for probe in &probes {
                cpus.push(probe.info()?.cpu);
            }
            cpus.sort_unstable();
            cpus.dedup();
            Ok(cpus.len() == probes.len())
        })?;
        same!(must!(probes[0].info()).migrations, 0);
        if must!(steals(world)) > before {
            break;
        }
        check!(since(start) < PATIENCE, "no thread counts as pulled");
        for probe in &probes[1..] {
            must!(probe.thread().set_affinity(&CpuSet::only(0)));
        }
    }
    for probe in &probes {
        probe.goes_on()?;
    }
    Ok(())
}

fn wake_ups_reach_a_thread_that_moves(world: &'static World) -> Verdict {
    const LAST: u64 = 2;
    const ROUNDS: u32 = 1000;
    let bell = Arc::new(must!(Notification::create()));
    let answer = Arc::new(must!(Notification::create()));
    let (rung, answers) = (Arc::clone(&bell), Arc::clone(&answer));
    let woken = must!(thread::spawn(move || {
        let mut rounds = 0;
        loop {
            let bits = rung.wait(soon())?;
            answers.signal(1)?;
            if bits & LAST != 0 {
                return Ok::<u32, abi::Error>(rounds);
            }
            rounds += 1;
        }
    }));
    let handle = must!(woken.thread().duplicate(Rights::ALL));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let cpus = world.cpus;
    let mover = must!(thread::spawn(move || {
        let mut round = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            round = round.wrapping_add(1);
            handle.set_affinity(&CpuSet::only(round % cpus))?;
            thread::yield_now();
        }
        Ok::<(), abi::Error>(())
    }));
    for _ in 0..ROUNDS {
        must!(bell.signal(1));
        must!(answer.wait(soon()));
    }
    stop.store(true, Ordering::Relaxed);
    must!(must!(mover.join(soon())));
    must!(bell.signal(LAST));
    same!(must!(must!(woken.join(soon()))), ROUNDS);
    Ok(())
}

fn a_cpu_with_one_thread_takes_no_ticks(world: &'static World) -> Verdict {
    /// Turns that would have ended meanwhile.
    const TURNS: u64 = 30;
    let Some(cpu) = world.cpus.checked_sub(1).filter(|&cpu| cpu > 0) else {
        skip!("the test's own deadlines are this CPU's");
    };
    must!(must!(Thread::current()).set_affinity(&CpuSet::only(0)));
    let probe = must!(Probe::counting(&CpuSet::only(cpu)));
    // Nobody else runs before it.
    must!(probe.thread().set_priority(Priority::NORMAL));
    must!(probe.thread().start());
    let ticks = || -> rt::Result<(u64, u64)> {
        let cpus = world.system.cpus()?;
        let info = &cpus[cpu as usize];
        Ok((info.timer_ticks, info.switches))
    };
    // Others may come by for a moment, and what was set for them may still come.
    let mut best = u64::MAX;
    for _ in 0..5 {
        probe.goes_on()?;
        let (before, switches) = must!(ticks());
        must!(time::sleep(Duration::from_nanos(TURNS * 10_000_000)));
        let (after, switched) = must!(ticks());
        best = best.min(after - before);
        if best == 0 && switched == switches {
            return Ok(());
        }
    }
    check!(best == 0, "at least {best} ticks in {TURNS} turns");
    Ok(())
}

/// Threads that keep sending each other from CPU to CPU.
fn move_about(world: &'static World, _: &str) -> u64 {
    let Ok(ready) = rt::start::take::<Notification>("ready") else {
        return 1;
    };
    let begun = Arc::new(AtomicU64::new(0));
    let all = u64::from(world.cpus) * 2;
    for number in 0..all {
        let begun = Arc::clone(&begun);
        let spawned = thread::spawn(move || {
            let own = Thread::current()?;
            begun.fetch_add(1, Ordering::Relaxed);
            let mut step = number as u32;
            loop {
                step = step.wrapping_mul(5).wrapping_add(1);
                let cpu = (step >> 8) % world.cpus;
                own.set_affinity(&CpuSet::only(cpu))?;
                if own.info()?.cpu != cpu {
                    // The caller itself comes there on its way out.
                    return Err::<(), _>(abi::Error::WrongState);
                }
            }
        });
        if spawned.is_err() {
            return 2;
        }
    }
    while begun.load(Ordering::Relaxed) < all {
        let _ = time::sleep(Duration::from_millis(1));
    }
    let _ = ready.signal(1);
    let _ = time::sleep_until(Deadline::NEVER);
    3
}

fn a_process_is_killed_while_its_threads_move(world: &'static World) -> Verdict {
    for round in 0..6 {
        let ready = must!(Notification::create());
        let child = must!(world.spawn("role move-about", &[("ready", ready.handle())]));
        same!(ready.wait(soon()), Ok(1));
        // At another moment each time.
        must!(time::sleep(Duration::from_millis(round)));
        same!(must!(child.process.info()).threads, world.cpus * 2 + 1);
        must!(child.process.kill(round));
        let info = must!(child.end(PATIENCE));
        same!(
            (info.state, info.code, info.threads, info.handles),
            (ProcessState::Killed as u32, round, 0, 0)
        );
    }
    Ok(())
}
