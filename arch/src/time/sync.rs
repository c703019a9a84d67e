//! Bringing a new CPU's time-stamp counter in step with the first CPU's.
//!
//! Both CPUs take part: the new one asks, the first answers, as [`offset`](super::offset) explains. The new one corrects
//! its own counter if need be and asks again, to see whether that helped. The first names the CPU that it serves, and only that
//! one asks; should one that was given up have looked just before and overwrite a question, it is asked once more. Both
//! sides give up after a bounded time. When that happens, or the counters can't be brought in step, the guard is set that keeps time from
//! running backwards.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::registers::model_specific::Msr;

use super::{guard, offset::Bounds, tsc, tsc_hz};
use crate::{
    addr::ApicId,
    platform::{apic, hypervisor},
};

/// Exchanges in one pass: at least so many, and at most.
const LEAST_EXCHANGES: u32 = 4;
const MOST_EXCHANGES: u32 = 64;
/// The part of a second after which the least is enough: an emulator that runs both CPUs in turns on one of its own takes
/// milliseconds for each exchange, and many wouldn't tell more.
const ENOUGH: u64 = 1_000;
/// Passes: one to find the offset, more to correct it.
const PASSES: u32 = 4;
/// Seconds that either CPU waits for the other, on hardware and under a hypervisor, which may not run it for a while.
const PATIENCE_S: u64 = 1;
const VIRTUAL_PATIENCE_S: u64 = 10;
/// IA32_TIME_STAMP_COUNTER and IA32_TSC_ADJUST (Intel SDM vol. 3B §18.17.3).
const TSC_MSR: u32 = 0x10;
const TSC_ADJUST_MSR: u32 = 0x3B;

/// How a new CPU's counter stands to the first one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TscSync {
    /// In step as it was.
    InStep,
    /// In step after so many ticks were added to it.
    Corrected(i64),
    /// It can't be brought in step; it is off by about so many ticks.
    Off(i64),
    /// One of the two did not answer in time.
    NoAnswer,
}

/// Polls between two looks at the clock: emulators make that look slow, and slower if many look.
const POLLS: u32 = 200;

/// On a cache line of its own: it is polled.
#[repr(align(64))]
struct Line(AtomicU64);

/// The APIC id of the CPU that is being served; [`NOTHING`] if none is.
static SERVED: Line = Line(AtomicU64::new(NOTHING));
/// What the new CPU asks: its APIC id above, a number of its own below. Or its verdict.
static QUESTION: Line = Line(AtomicU64::new(NOTHING));
/// The question that was answered.
static ANSWERED: Line = Line(AtomicU64::new(NOTHING));
/// The first CPU's counter when it answered.
static ANSWER: Line = Line(AtomicU64::new(0));
/// The ticks of the verdict.
static TICKS: Line = Line(AtomicU64::new(0));

/// No question has all bits set: an APIC id has not.
const NOTHING: u64 = u64::MAX;
/// The lower half of a verdict; numbers of questions stay below.
const VERDICTS: u32 = 0xFFFF_FF00;

impl TscSync {
    fn to_word(self) -> (u32, i64) {
        match self {
            TscSync::InStep => (VERDICTS, 0),
            TscSync::Corrected(ticks) => (VERDICTS + 1, ticks),
            TscSync::Off(ticks) => (VERDICTS + 2, ticks),
            TscSync::NoAnswer => (VERDICTS + 3, 0),
        }
    }

    fn from_word(word: u32, ticks: i64) -> TscSync {
        match word - VERDICTS {
            0 => TscSync::InStep,
            1 => TscSync::Corrected(ticks),
            2 => TscSync::Off(ticks),
            _ => TscSync::NoAnswer,
        }
    }

    /// Sets the guard if this is not in step.
    fn settle(self) -> TscSync {
        if matches!(self, TscSync::Off(_) | TscSync::NoAnswer) {
            guard();
        }
        self
    }
}

/// Ticks that either CPU waits for the other.
fn patience() -> u64 {
    let seconds = if hypervisor::present() {
        VIRTUAL_PATIENCE_S
    } else {
        PATIENCE_S
    };
    tsc_hz().saturating_mul(seconds)
}

/// The first CPU's side: answers the CPU `new` until it has come to a verdict, which is returned. Waits some seconds at most.
pub fn synchronise_with_new_cpu(new: ApicId) -> TscSync {
    // What the same CPU may have left at an earlier start.
    QUESTION.0.store(NOTHING, Ordering::Relaxed);
    ANSWERED.0.store(NOTHING, Ordering::Relaxed);
    SERVED.0.store(u64::from(new.0), Ordering::Release);
    let verdict = serve(new);
    SERVED.0.store(NOTHING, Ordering::Release);
    verdict.unwrap_or(TscSync::NoAnswer).settle()
}

/// Answers the CPU `new` until its verdict; `None` if that doesn't come.
fn serve(new: ApicId) -> Option<TscSync> {
    let mut answered = NOTHING;
    loop {
        let mut question = NOTHING;
        poll(|| {
            question = QUESTION.0.load(Ordering::Acquire);
            question != answered && question != NOTHING && (question >> 32) as u32 == new.0
        })?;
        let word = question as u32;
        if word >= VERDICTS {
            let ticks = TICKS.0.load(Ordering::Relaxed) as i64;
            return Some(TscSync::from_word(word, ticks));
        }
        ANSWER.0.store(tsc(), Ordering::Relaxed);
        ANSWERED.0.store(question, Ordering::Release);
        answered = question;
    }
}

/// Polls until `done`, for the time of [`patience`]; `None` if it ran out. What takes time is done late, since an
/// exchange is the better the shorter it is.
fn poll(mut done: impl FnMut() -> bool) -> Option<()> {
    let mut limit = None;
    loop {
        for _ in 0..POLLS {
            if done() {
                return Some(());
            }
            core::hint::spin_loop();
        }
        let (begin, patience) = *limit.get_or_insert_with(|| (tsc(), patience()));
        if tsc().wrapping_sub(begin) >= patience {
            return None;
        }
    }
}

/// The new CPU's side, called while the first is in [`synchronise_with_new_cpu`], or soon will be.
pub fn synchronise_as_new_cpu() -> TscSync {
    let id = u64::from(apic::id().0) << 32;
    let mut number = 0;
    let mut corrected = 0i64;
    let mut verdict = TscSync::NoAnswer;
    for pass in 0..PASSES {
        let Some(bounds) = exchange(id, &mut number) else {
            verdict = TscSync::NoAnswer;
            break;
        };
        match bounds.correction() {
            Some(0) if corrected == 0 => verdict = TscSync::InStep,
            Some(0) => verdict = TscSync::Corrected(corrected),
            Some(ticks) if pass + 1 < PASSES => {
                advance(ticks);
                corrected = corrected.wrapping_add(ticks);
                continue;
            }
            Some(ticks) => verdict = TscSync::Off(ticks),
            None => verdict = TscSync::Off(0),
        }
        break;
    }
    if is_served(id) {
        let (word, ticks) = verdict.to_word();
        TICKS.0.store(ticks as u64, Ordering::Relaxed);
        QUESTION.0.store(id | u64::from(word), Ordering::Release);
    }
    verdict.settle()
}

/// Whether the first CPU serves the one whose questions begin with `id`.
fn is_served(id: u64) -> bool {
    SERVED.0.load(Ordering::Acquire) == id >> 32
}

/// One pass of questions; `None` if one was not answered.
fn exchange(id: u64, number: &mut u32) -> Option<Bounds> {
    poll(|| is_served(id))?;
    let mut bounds = Bounds::UNKNOWN;
    let begin = tsc();
    for done in 0..MOST_EXCHANGES {
        if done >= LEAST_EXCHANGES && tsc().wrapping_sub(begin) >= tsc_hz() / ENOUGH {
            break;
        }
        let question = id | u64::from(*number);
        *number += 1;
        let asked = tsc();
        QUESTION.0.store(question, Ordering::Release);
        poll(|| {
            if QUESTION.0.load(Ordering::Relaxed) != question && is_served(id) {
                QUESTION.0.store(question, Ordering::Release);
            }
            ANSWERED.0.load(Ordering::Acquire) == question
        })?;
        let answer = ANSWER.0.load(Ordering::Relaxed);
        bounds.narrow(asked, answer, tsc());
    }
    Some(bounds)
}

/// Adds `ticks` to this CPU's counter.
fn advance(ticks: i64) {
    let adjustable = hypervisor::cpuid()
        .get_extended_feature_info()
        .is_some_and(|info| info.has_tsc_adjust_msr());
    // SAFETY: the first register exists where CPUID says so, the second on every x86-64 CPU. This CPU runs nothing
    // yet that has looked at its counter.
    unsafe {
        if adjustable {
            let mut register = Msr::new(TSC_ADJUST_MSR);
            register.write(register.read().wrapping_add_signed(ticks));
        } else {
            Msr::new(TSC_MSR).write(tsc().wrapping_add_signed(ticks));
        }
    }
}
