//! Who runs when, where, and by which clock.

use abi::info::ThreadState;
use abi::{Call, CpuSet, Priority};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use rt::{Deadline, Notification, thread, time};

use super::probe::{Probe, soon, until};
use super::tests;
use crate::clock::since;
use crate::kernel_calls::raw;
use crate::verdict::{Verdict, Why};
use crate::world::World;
use crate::{check, must, same};

tests! {
    every_cpu_runs_threads: 40,
    threads_stay_on_their_cpu: 40,
    higher_priority_runs_first: 40,
    lower_priority_waits_for_higher: 40,
    equal_priorities_share_a_cpu: 40,
    yield_lets_equals_run: 40,
    who_never_yields_is_preempted_for_those_who_do: 40,
    time_never_runs_backwards: 40,
    sleepers_wake_in_order_and_not_early: 40,
    a_sleeper_wakes_although_the_one_before_it_spins: 60,
    idle_cpus_are_idle: 40,
    priorities_change_at_once_while_threads_run: 40,
    a_budget_is_all_that_a_thread_gets: 40,
    a_budget_that_ends_when_its_period_does_is_not_lost: 60,
}

fn priority(level: u64) -> Priority {
    Priority::new(level).unwrap_or(Priority::LOWEST)
}

/// Spins for so long.
fn spin(duration: Duration) {
    let start = time::now();
    while since(start) < duration {
        core::hint::spin_loop();
    }
}

/// Two sleep on an idle CPU. The first to wake keeps the CPU, and the timer has come for it alone.
fn a_sleeper_wakes_although_the_one_before_it_spins(world: &'static World) -> Verdict {
    /// How long it spins if nobody stops it.
    const LONG: Duration = Duration::from_secs(10);
    for cpu in 0..world.cpus {
        let awake = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&awake);
        let spins = must!(thread::Builder::new().cpu(cpu).spawn(move || {
            let _ = time::sleep(Duration::from_millis(20));
            let start = time::now();
            while !seen.load(Ordering::Acquire) {
                if since(start) > LONG {
                    return false;
                }
                core::hint::spin_loop();
            }
            true
        }));
        let sleeps = must!(thread::Builder::new().cpu(cpu).spawn(move || {
            let _ = time::sleep(Duration::from_millis(40));
            awake.store(true, Ordering::Release);
        }));
        check!(
            must!(spins.join(soon())),
            "a thread slept on CPU {cpu} as long as another one ran"
        );
        must!(sleeps.join(soon()));
    }
    Ok(())
}

fn every_cpu_runs_threads(world: &'static World) -> Verdict {
    let cpus = must!(world.system.cpus());
    same!(cpus.len() as u32, world.cpus);
    // All at once: each waits for all the others, which only works if all of them run.
    let here = Arc::new(AtomicU64::new(0));
    let all = u64::from(world.cpus);
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        let here = Arc::clone(&here);
        threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
            here.fetch_add(1, Ordering::AcqRel);
            while here.load(Ordering::Acquire) < all {
                core::hint::spin_loop();
            }
        })));
    }
    for thread in threads {
        must!(thread.join(soon()));
    }
    for (before, after) in cpus.iter().zip(must!(world.system.cpus())) {
        same!(before.index, after.index);
        check!(
            after.switches > before.switches,
            "CPU {} did not switch",
            after.index
        );
        check!(
            after.busy_ns <= after.up_ns,
            "CPU {} was busy for longer than it is up",
            after.index
        );
    }
    let mut ids: Vec<u32> = cpus.iter().map(|cpu| cpu.apic_id).collect();
    ids.sort_unstable();
    ids.dedup();
    same!(ids.len(), cpus.len());
    Ok(())
}

fn threads_stay_on_their_cpu(world: &'static World) -> Verdict {
    let own = must!(rt::process::current().info()).id;
    for cpu in 0..world.cpus {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..3 {
            let stop = Arc::clone(&stop);
            threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    thread::yield_now();
                    let _ = time::sleep(Duration::from_micros(100));
                }
            })));
        }
        for _ in 0..10 {
            must!(time::sleep(Duration::from_millis(2)));
            let mine = must!(world.system.threads())
                .into_iter()
                .filter(|info| info.process == own && info.cpu == cpu);
            check!(mine.count() >= 3, "threads of CPU {cpu} are elsewhere");
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            must!(thread.join(soon()));
        }
    }
    Ok(())
}

fn higher_priority_runs_first(world: &'static World) -> Verdict {
    // A low one spins; a high one on the same CPU must get in soon after it is woken.
    for cpu in 0..world.cpus {
        let stop = Arc::new(AtomicBool::new(false));
        let spinning = Arc::clone(&stop);
        let low = must!(
            thread::Builder::new()
                .cpu(cpu)
                .priority(priority(4))
                .spawn(move || {
                    while !spinning.load(Ordering::Relaxed) {
                        core::hint::spin_loop();
                    }
                })
        );
        let wake = Arc::new(must!(Notification::create()));
        let done = Arc::new(must!(Notification::create()));
        let (woken, tells) = (Arc::clone(&wake), Arc::clone(&done));
        let high = must!(
            thread::Builder::new()
                .cpu(cpu)
                .priority(priority(20))
                .spawn(move || {
                    for _ in 0..10 {
                        woken.wait(soon())?;
                        tells.signal(1)?;
                    }
                    Ok::<(), abi::Error>(())
                })
        );
        for _ in 0..10 {
            must!(wake.signal(1));
            must!(done.wait(soon()));
        }
        must!(must!(high.join(soon())));
        stop.store(true, Ordering::Relaxed);
        must!(low.join(soon()));
    }
    Ok(())
}

fn lower_priority_waits_for_higher(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let count = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&count);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let low = must!(
        thread::Builder::new()
            .cpu(cpu)
            .priority(priority(2))
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    counting.fetch_add(1, Ordering::Relaxed);
                }
            })
    );
    while count.load(Ordering::Relaxed) == 0 {
        must!(time::sleep(Duration::from_millis(1)));
    }
    let counted = Arc::clone(&count);
    let high = must!(
        thread::Builder::new()
            .cpu(cpu)
            .priority(priority(30))
            .spawn(move || {
                let before = counted.load(Ordering::Relaxed);
                spin(Duration::from_millis(60));
                counted.load(Ordering::Relaxed) - before
            })
    );
    same!(must!(high.join(soon())), 0);
    stop.store(true, Ordering::Relaxed);
    must!(low.join(soon()));
    Ok(())
}

fn equal_priorities_share_a_cpu(world: &'static World) -> Verdict {
    let cpu = world.cpus - 1;
    let counts = Arc::new([const { AtomicU64::new(0) }; 3]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for number in 0..3 {
        let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
        threads.push(must!(
            thread::Builder::new()
                .cpu(cpu)
                .priority(priority(10))
                .spawn(move || {
                    let mut last = time::now_ns();
                    while !stop.load(Ordering::Relaxed) {
                        // Time that passed while others ran doesn't count: a turn is far longer than one round of this loop.
                        let now = time::now_ns();
                        if now - last < 1_000_000 {
                            counts[number].fetch_add(now - last, Ordering::Relaxed);
                        }
                        last = now;
                    }
                })
        ));
    }
    must!(time::sleep(Duration::from_millis(400)));
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        must!(thread.join(soon()));
    }
    let times: Vec<u64> = counts
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    let (least, most) = (times.iter().min().copied(), times.iter().max().copied());
    // Far from exact: the emulator's own threads take turns as well.
    check!(
        least.unwrap_or(0) * 8 > most.unwrap_or(0),
        "shares of {times:?} ns"
    );
    Ok(())
}

fn yield_lets_equals_run(world: &'static World) -> Verdict {
    // Two threads hand a counter to and fro by nothing but `yield`.
    let cpu = world.cpus - 1;
    let turn = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for parity in 0..2 {
        let turn = Arc::clone(&turn);
        threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
            for _ in 0..1000 {
                while turn.load(Ordering::Acquire) % 2 != parity {
                    thread::yield_now();
                }
                turn.fetch_add(1, Ordering::AcqRel);
            }
        })));
    }
    for thread in threads {
        must!(thread.join(soon()));
    }
    same!(turn.load(Ordering::Relaxed), 2000);
    Ok(())
}

fn who_never_yields_is_preempted_for_those_who_do(world: &'static World) -> Verdict {
    // Yields leave the timer alone, so that it must be set already whenever one lets a thread run that does not give its turn back.
    let cpu = world.cpus - 1;
    let yields = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut yielding = Vec::new();
    for _ in 0..2 {
        let (yields, stop) = (Arc::clone(&yields), Arc::clone(&stop));
        yielding.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                yields.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        })));
    }
    let spinning = must!(thread::Builder::new().cpu(cpu).spawn(move || {
        // All of this CPU's, so that the count grows only while this thread is off it.
        for _ in 0..5 {
            let before = yields.load(Ordering::Relaxed);
            while yields.load(Ordering::Relaxed) == before {
                core::hint::spin_loop();
            }
        }
    }));
    let ended = spinning.join(soon());
    stop.store(true, Ordering::Relaxed);
    must!(ended);
    for thread in yielding {
        must!(thread.join(soon()));
    }
    Ok(())
}

fn time_never_runs_backwards(world: &'static World) -> Verdict {
    // One clock for all: each reads it and raises the highest reading so far, which must not be above its own next one.
    let highest = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        let highest = Arc::clone(&highest);
        threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
            let mut worst = 0_u64;
            for _ in 0..3000 {
                let seen = highest.load(Ordering::SeqCst);
                let now = time::now_ns();
                worst = worst.max(seen.saturating_sub(now));
                highest.fetch_max(now, Ordering::SeqCst);
            }
            worst
        })));
    }
    for thread in threads {
        let worst = must!(thread.join(soon()));
        check!(worst == 0, "time ran backwards by {worst} ns");
    }
    Ok(())
}

fn sleepers_wake_in_order_and_not_early(world: &'static World) -> Verdict {
    let start = time::now_ns();
    let mut threads = Vec::new();
    for number in 0..12_u64 {
        let deadline = start + 20_000_000 + (number * 7 % 12) * 5_000_000;
        let cpu = (number % u64::from(world.cpus)) as u32;
        threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
            time::sleep_until(Deadline(deadline)).map(|()| (deadline, time::now_ns()))
        })));
    }
    for thread in threads {
        let (deadline, woke) = must!(must!(thread.join(soon())));
        check!(
            woke >= deadline,
            "a sleeper woke {} ns early",
            deadline - woke
        );
        check!(
            woke - deadline < 1_000_000_000,
            "a sleeper woke {} ns late",
            woke - deadline
        );
    }
    Ok(())
}

/// What a CPU does while nobody wants anything from it, if it is more than it should.
fn at_rest(world: &'static World) -> Result<Option<String>, Why> {
    let before = must!(world.system.cpus());
    must!(time::sleep(Duration::from_millis(300)));
    let after = must!(world.system.cpus());
    for (before, after) in before.iter().zip(&after) {
        let (busy, up) = (after.busy_ns - before.busy_ns, after.up_ns - before.up_ns);
        let index = after.index;
        if busy >= up / 2 {
            return Ok(Some(format!("CPU {index} was busy for {busy} of {up} ns")));
        }
        // Without work, no clock ticks.
        let interrupts = after.interrupts - before.interrupts;
        if interrupts >= 100 {
            return Ok(Some(format!("CPU {index} took {interrupts} interrupts")));
        }
    }
    Ok(None)
}

fn idle_cpus_are_idle(world: &'static World) -> Verdict {
    /// What earlier tests have left behind is cleared away in the background, for a while.
    const PATIENCE: Duration = Duration::from_secs(20);
    let start = time::now();
    loop {
        match at_rest(world)? {
            None => break,
            Some(why) => check!(since(start) < PATIENCE, "{why}"),
        }
    }
    same!(raw(Call::Yield as u64, &[]).status, 0);
    Ok(())
}

fn priorities_change_at_once_while_threads_run(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        // Below this thread, which must be able to look at them on a machine with one CPU.
        let first = must!(Probe::counting(&CpuSet::only(cpu)));
        let second = must!(Probe::counting(&CpuSet::only(cpu)));
        let give = |probe: &Probe, level| probe.thread().set_priority(priority(level));
        must!(give(&first, 4));
        must!(give(&second, 4));
        must!(first.thread().start());
        must!(second.thread().start());
        for round in 0..10 {
            let (high, low) = if round % 2 == 0 {
                (&first, &second)
            } else {
                (&second, &first)
            };
            // One goes up, or the other goes down.
            if round % 4 < 2 {
                must!(give(low, 2));
                must!(give(high, 4));
            } else {
                must!(give(high, 6));
                must!(give(low, 4));
            }
            until("their CPU has heard of it", || {
                let (high, low) = (high.info()?, low.info()?);
                Ok((high.priority, low.priority) == (high.base_priority, low.base_priority))
            })?;
            high.goes_on()?;
            let still = low.count();
            for _ in 0..3 {
                high.goes_on()?;
            }
            same!(low.count(), still);
        }
        // Equals share.
        must!(give(&first, 5));
        must!(give(&second, 5));
        first.goes_on()?;
        second.goes_on()?;
    }
    Ok(())
}

fn a_budget_is_all_that_a_thread_gets(world: &'static World) -> Verdict {
    const BUDGET: Duration = Duration::from_millis(2);
    const PERIOD: Duration = Duration::from_millis(10);
    for cpu in [0, world.cpus - 1] {
        // Above everybody else, this thread included.
        let probe = must!(Probe::counting(&CpuSet::only(cpu)));
        must!(probe.thread().set_budget(Some((BUDGET, PERIOD))));
        must!(probe.thread().set_priority(priority(40)));
        must!(probe.thread().start());
        probe.goes_on()?;
        probe.comes_to(ThreadState::Throttled)?;
        let ran = |probe: &Probe| -> rt::Result<Duration> {
            Ok(Duration::from_nanos(probe.info()?.cpu_ns))
        };
        let (start, before) = (time::now(), must!(ran(&probe)));
        for _ in 0..10 {
            // The timer comes for others' deadlines in the midst of its turn, and still ends that.
            let nap = must!(
                thread::Builder::new()
                    .cpu(cpu)
                    .spawn(|| time::sleep(Duration::from_micros(500)))
            );
            probe.goes_on()?;
            probe.comes_to(ThreadState::Throttled)?;
            must!(must!(nap.join(soon())));
        }
        // What it overran, as the machine was late, is taken off the periods that follow.
        until("it has had its share and no more", || {
            let used = ran(&probe)?.saturating_sub(before);
            Ok(used < since(start).mul_f32(0.2) + BUDGET)
        })?;
        // It can be suspended, moved and let go while it waits for its next period.
        probe.stop()?;
        must!(
            probe
                .thread()
                .set_affinity(&CpuSet::only(world.cpus - 1 - cpu))
        );
        must!(probe.thread().resume());
        probe.goes_on()?;
        probe.comes_to(ThreadState::Throttled)?;
        must!(probe.thread().set_affinity(&CpuSet::only(cpu)));
        probe.goes_on()?;
        // Without a budget, and below everybody else, it takes what is left.
        must!(probe.thread().set_priority(Priority::LOWEST));
        must!(probe.thread().set_budget(None));
        until("it has most of a CPU", || {
            let (start, before) = (time::now(), ran(&probe)?);
            time::sleep(4 * PERIOD)?;
            Ok(ran(&probe)?.saturating_sub(before) > since(start) / 2)
        })?;
    }
    Ok(())
}

/// Whether a budget is used up is asked when the timer comes, and again when the thread is about to leave its CPU. If the next period
/// begins between the two the thread stays, and the timer must be set for the end of what it has then: where nothing else
/// happens, nobody would ever come back to it.
fn a_budget_that_ends_when_its_period_does_is_not_lost(world: &'static World) -> Verdict {
    const PERIOD: Duration = Duration::from_micros(100);
    // With each period the end comes that much earlier in it, until it comes before the next one's begin.
    const BUDGET: Duration = Duration::from_nanos(99_900);
    const ENDS: u32 = 40;
    for cpu in [0, world.cpus - 1] {
        let probe = Arc::new(must!(Probe::counting(&CpuSet::only(cpu))));
        must!(probe.thread().set_budget(Some((BUDGET, PERIOD))));
        must!(probe.thread().start());
        probe.goes_on()?;
        // Who looks does so from another CPU, if there is one: his own deadlines would set the timer.
        let seen = Arc::clone(&probe);
        let looks = move || -> Verdict {
            for end in 0..ENDS {
                let before = must!(seen.info()).switches;
                until(&format!("its budget has ended {} times", end + 1), || {
                    Ok(seen.info()?.switches != before)
                })?;
            }
            Ok(())
        };
        let other = (cpu + 1) % world.cpus;
        let watch = must!(thread::Builder::new().cpu(other).spawn(looks));
        must!(watch.join(Deadline::NEVER))?;
    }
    Ok(())
}
