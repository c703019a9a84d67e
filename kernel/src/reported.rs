//! Calls of a thread that is watched, by whatever entry: told before and after, or not made here at all.
//!
//! A thread whose calls are reported has a mark that the switch sees. While it is a CPU's current thread, that CPU's entries bring all of its calls here, with whole
//! contexts (`arch`'s `entry/report.rs`); no other thread pays for it. 32-bit calls come here from `syscall/compat.rs`.
//!
//! | what happens to the report | before a call | after a call | of a foreign call |
//! |---|---|---|---|
//! | answered `Resume` | the call is made, as the registers then say | goes on | goes on, with the registers that the answer has set |
//! | answered `Result` | the call is not made | goes on | goes on |
//! | answered `End` | the thread ends | the thread ends | the thread ends |
//! | no answer | the call is not made, and fails by that error | goes on | the thread ends |
//! | its wait is cancelled | it stands before the call, and reports again when it goes on, unless its registers were set | goes on | as before a call |
//! | it is to stand still already | the same, and reports then | stands behind the call, and reports then | as before a call |

use abi::Error;
use abi::info::ThreadEnd;
use abi::report::{Answer, ReportKind, label};
use arch::cpu::Pending;

use crate::cpu;
use crate::fault::{send, stand_still, stand_still_if_due};
use crate::object::Section;
use crate::process::Process;
use crate::thread::{Outcome, Thread};

/// What becomes of a call that was reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is made.
    Made,
    /// It is not; the registers say what the thread gets.
    Over,
}

/// Reports the call in the registers of the running thread, makes it by `make` if it is to be made, and reports its end. What is due on the way out is the
/// caller's.
///
/// `make` gets the number as it is to be made; it may be another than the thread has given.
pub(crate) fn call(thread: &Thread, make: impl FnOnce(&Thread)) {
    // SAFETY: the thread is the current one of this CPU.
    unsafe { arch::switch::complete_context(&thread.machine.state) };
    let entered = thread.registers().call_number;
    if is_reported(thread.process(), ReportKind::ForeignCalls) {
        foreign(thread);
        return;
    }
    let fate = before(thread);
    // What the answer has set is in the context; the CPU has what it had.
    if thread.marks().is_killed() || fate == Fate::Over {
        return;
    }
    make(thread);
    thread.registers_mut().call_number = entered;
    if !thread.marks().is_killed() {
        after(thread);
    }
}

/// Whether somebody listens to what the threads of a process do of this kind.
fn is_reported(process: &Process, kind: ReportKind) -> bool {
    // SAFETY: all kernel code between two quiescent points is inside a section.
    let section = unsafe { Section::enter() };
    process.listeners.get(kind, &section).is_some()
}

/// Whether the calls of a process's new threads are reported, of either kind.
pub(crate) fn are_reported(process: &Process) -> bool {
    is_reported(process, ReportKind::Calls) || is_reported(process, ReportKind::ForeignCalls)
}

fn before(thread: &Thread) -> Fate {
    loop {
        if stand_still_if_due(thread) {
            return Fate::Over;
        }
        let Some(outcome) = send(thread, ReportKind::Calls, label::CALL_BEGINS) else {
            return Fate::Made;
        };
        match outcome {
            Outcome::Answered(Answer::Resume | Answer::Step) => {
                return Fate::Made;
            }
            Outcome::Answered(Answer::Result | Answer::ResumeAt) => return Fate::Over,
            Outcome::Answered(Answer::End) => return end(thread),
            Outcome::Failed(_) if thread.marks().is_killed() => return Fate::Over,
            Outcome::Failed(Error::Cancelled) => {
                if stand_still(thread) {
                    return Fate::Over;
                }
            }
            Outcome::Failed(error) => {
                thread.set_status(Err(error));
                return Fate::Over;
            }
        }
    }
}

fn after(thread: &Thread) {
    // SAFETY: the thread is the current one of this CPU. What it has waited for may have changed its bases.
    unsafe { arch::switch::complete_context(&thread.machine.state) };
    // The call's wait may have been ended for this. What its registers were set to meanwhile is what it reports.
    stand_still_if_due(thread);
    let outcome = send(thread, ReportKind::Calls, label::CALL_ENDS);
    if outcome == Some(Outcome::Answered(Answer::End)) {
        end(thread);
    }
}

fn foreign(thread: &Thread) {
    loop {
        if stand_still_if_due(thread) {
            return;
        }
        let kind = ReportKind::ForeignCalls;
        match send(thread, kind, label::FOREIGN_CALL) {
            Some(Outcome::Answered(Answer::End)) => {
                end(thread);
                return;
            }
            Some(Outcome::Answered(_)) => return,
            Some(Outcome::Failed(_)) if thread.marks().is_killed() => return,
            Some(Outcome::Failed(Error::Cancelled)) => {
                if stand_still(thread) {
                    return;
                }
            }
            // Nobody knows what the call should have done.
            Some(Outcome::Failed(_)) | None => {
                end(thread);
                return;
            }
        }
    }
}

/// The running thread ends, as if it had been killed.
fn end(thread: &Thread) -> Fate {
    thread.rest.note_end(ThreadEnd::Killed, 0);
    thread.marks().kill();
    cpu::this().block().request(Pending::THREAD);
    Fate::Over
}
