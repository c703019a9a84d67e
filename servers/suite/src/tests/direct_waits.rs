//! Waits for signals that go straight from one thread to the other: all registers of those who wait, and what comes in between.

use abi::info::ThreadState;
use abi::{Call, CpuSet, Deadline, Error, Handle};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::{AsHandle, Notification, thread, time};

use super::direct::leave_work_behind;
use super::ipc::soon;
use super::tests;
use crate::registers::*;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{must, same};

tests! {
    a_wait_keeps_all_registers_whoever_ends_it: 60,
    those_who_wait_for_signals_may_be_moved_to_other_cpus: 60,
}

const NEVER: u64 = Deadline::NEVER.0;

/// A wait for `bits`, with all registers looked at.
fn wait(notification: Handle, bits: u64, seed: u64, deadline: u64) -> Verdict {
    wait_by(
        Registers {
            rax: Call::Wait as u64,
            rdi: notification.0,
            r14: deadline,
            flags: BASE_FLAGS | ARITHMETIC | DIRECTION,
            ..pattern(seed)
        },
        bits,
    )
}

/// A signal of the same `bits` and a wait for them, in one call.
fn signal_wait(signalled: Handle, awaited: Handle, bits: u64, seed: u64, deadline: u64) -> Verdict {
    wait_by(
        Registers {
            rax: Call::SignalWait as u64,
            rdi: signalled.0,
            rsi: bits,
            rdx: awaited.0,
            r14: deadline,
            flags: BASE_FLAGS | ARITHMETIC | DIRECTION,
            ..pattern(seed)
        },
        bits,
    )
}

fn wait_by(before: Registers, bits: u64) -> Verdict {
    let mut after = before;
    // SAFETY: it waits, and that is all.
    unsafe { through_syscall(&mut after) };
    same!(
        after,
        Registers {
            rax: 0,
            rdx: bits,
            rcx: after.rcx,
            r11: before.flags,
            ..before
        }
    );
    Ok(())
}

/// Two notifications: one side waits for the first and signals the second, the other the other way round.
pub(super) struct Bells(Notification, Notification);

impl Bells {
    pub(super) fn new() -> rt::Result<Bells> {
        Ok(Bells(Notification::create()?, Notification::create()?))
    }

    /// Answers each signal with the same bits, until one has the highest.
    pub(super) fn answer_all(&self, seed: u64) -> Verdict {
        let mut bits = must!(self.0.wait(Deadline::NEVER));
        for round in 1_u64.. {
            if bits >> 63 != 0 {
                break;
            }
            if round % 3 == 0 {
                must!(self.1.signal(bits));
                bits = must!(self.0.wait(Deadline::NEVER));
            } else {
                bits = must!(self.1.signal_and_wait(bits, &self.0, Deadline::NEVER));
            }
            // Its own bits are there at once.
            if round % 8 == 3 {
                must!(self.1.signal(0));
                let own = must!(Notification::create());
                must!(own.signal(round));
                wait(own.handle(), round, seed ^ round, NEVER)?;
            }
        }
        Ok(())
    }

    /// There and back, `count` times.
    pub(super) fn ring(&self, count: u64, seed: u64) -> Verdict {
        for round in 1..=count {
            if round % 32 == 9 {
                must!(leave_work_behind());
            }
            // Two long ways one after the other: the partner leaves for one that does not doze, and is left for by it.
            let deadline = if matches!(round % 16, 5..=7) {
                time::after(core::time::Duration::from_mins(10)).0
            } else {
                NEVER
            };
            let seed = seed ^ round;
            if matches!(round % 16, 7 | 10..16) {
                signal_wait(self.0.handle(), self.1.handle(), round, seed, deadline)?;
            } else {
                must!(self.0.signal(round));
                wait(self.1.handle(), round, seed, deadline)?;
            }
        }
        Ok(())
    }

    /// Ends [`answer_all`](Self::answer_all).
    pub(super) fn end(&self) -> rt::Result<()> {
        self.0.signal(1 << 63)
    }
}

/// By a partner on the same CPU and on others, and by the handle's end.
fn a_wait_keeps_all_registers_whoever_ends_it(world: &'static World) -> Verdict {
    for cpu in 0..world.cpus {
        let bells = Arc::new(must!(Bells::new()));
        let other = Arc::clone(&bells);
        let partner = must!(
            thread::Builder::new()
                .cpu(cpu)
                .spawn(move || other.answer_all(u64::from(cpu)))
        );
        let own = Arc::clone(&bells);
        let ringer = thread::Builder::new()
            .cpu(0)
            .spawn(move || own.ring(500, u64::from(cpu) << 32));
        must!(must!(ringer).join(soon()))?;
        must!(bells.end());
        must!(partner.join(soon()))?;
    }
    let notification = must!(Notification::create());
    let handle = notification.handle();
    let waiter = must!(thread::Builder::new().cpu(0).spawn(move || {
        let before = Registers {
            rax: Call::Wait as u64,
            rdi: handle.0,
            r14: NEVER,
            flags: BASE_FLAGS | ARITHMETIC,
            ..pattern(5)
        };
        let mut after = before;
        // SAFETY: it waits, and that is all.
        unsafe { through_syscall(&mut after) };
        same!(
            after,
            Registers {
                rax: Error::PeerClosed as u64,
                rcx: after.rcx,
                r11: before.flags,
                ..before
            }
        );
        Ok(())
    }));
    super::probe::until("it waits", || {
        Ok(waiter.thread().info()?.state == ThreadState::Waiting as u32)
    })?;
    drop(notification);
    must!(waiter.join(soon()))
}

/// Both are moved about while they wait, are ready, and run.
fn those_who_wait_for_signals_may_be_moved_to_other_cpus(world: &'static World) -> Verdict {
    let bells = Arc::new(must!(Bells::new()));
    let (first, second) = (Arc::clone(&bells), Arc::clone(&bells));
    let partner = must!(thread::spawn(move || first.answer_all(3)));
    let stop = Arc::new(AtomicU64::new(0));
    let stopped = Arc::clone(&stop);
    let ringer = must!(thread::spawn(move || -> Verdict {
        while stopped.load(Ordering::Relaxed) == 0 {
            second.ring(40, 9)?;
        }
        Ok(())
    }));
    for round in 0..40 {
        let cpu = round % world.cpus;
        must!(partner.thread().set_affinity(&CpuSet::only(cpu)));
        if round % 3 != 0 {
            must!(ringer.thread().set_affinity(&CpuSet::only(cpu)));
        }
        let before = must!(partner.thread().info()).switches;
        super::probe::until("it is woken again", || {
            Ok(partner.thread().info()?.switches > before + 4)
        })?;
    }
    stop.store(1, Ordering::Relaxed);
    must!(ringer.join(soon()))?;
    must!(bells.end());
    must!(partner.join(soon()))
}
