//! A thread's fault, told to whoever listens: the long way, and what becomes of the thread afterwards.
//!
//! The short way is `ipc/fault.rs`. Both end here if anything but a plain answer comes: there is one place that says what an answer does, and what
//! the want of one.
//!
//! | what happens | the thread |
//! |---|---|
//! | answered | goes on, or ends, as the answer says |
//! | nobody listens; the endpoint is closed; the reply is dropped, its holder dies | ends by its fault, as ever |
//! | it has received at that endpoint itself | the same: nobody is left to wait for |
//! | its wait is cancelled (it is to be suspended in it) | stands at its fault. When it is resumed it reports it again, unless its registers were set: then it goes on with them |
//! | it is to stand still, and has not reported yet | the same |
//! | it is killed | ends |

use abi::report::{Answer, PageAccess, ReportKind, label};
use abi::{Deadline, Error};

use crate::cpu;
use crate::ipc::{Flow, Listener, report_directly};
use crate::object::Section;
use crate::schedule;
use crate::thread::{Outcome, Thread};

const TRAP_FLAG: u64 = 1 << 8;

/// Exceptions for which the kernel has no answer, whatever the program has: #DE, #BP, #OF, #BR, #UD, #NP, #SS, #MF, #AC, #XF. One bit each.
const PLAIN: u64 =
    1 << 0 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 16 | 1 << 17 | 1 << 19;

/// Reports the running thread's fault to a handler that waits on this CPU, if it is of a kind for which the kernel has no answer. Returns if it is not, if
/// there is no such handler, or anything is unusual; nothing is done then.
#[inline(always)]
pub(crate) fn report_at_once(vector: u64) {
    if vector < 64 && PLAIN >> vector & 1 != 0 {
        go_directly();
    }
}

/// The same for a fault of any kind, when the kernel has no answer to it.
#[inline(always)]
pub(crate) fn go_directly() {
    let block = arch::cpu::block();
    // SAFETY: an exception from user mode is a thread's.
    report_directly(block, unsafe { cpu::running(block) }.get());
}

/// Reports the running thread's fault, which is in its registers, and waits for the answer. Returns whether the thread goes on; else it is to end by
/// its fault.
pub(crate) fn report(thread: &Thread) -> bool {
    loop {
        if stand_still_if_due(thread) {
            return true;
        }
        let Some(outcome) = send(thread, ReportKind::Faults, label::FAULT) else {
            return false;
        };
        if let Some(goes_on) = conclude(thread, outcome) {
            return goes_on;
        }
    }
}

/// The running thread goes on after a report by the direct way. As [`report`].
pub(crate) fn after_report(thread: &Thread) -> bool {
    schedule::after_wait();
    let outcome = thread.reporting.take_outcome();
    conclude(thread, outcome).unwrap_or_else(|| report(thread))
}

/// What a report's outcome says of the thread; `None`: it reports again.
fn conclude(thread: &Thread, outcome: Outcome) -> Option<bool> {
    match outcome {
        Outcome::Answered(answer) => Some(answer != Answer::End),
        // It ends on its way out.
        Outcome::Failed(_) if thread.marks().is_killed() => Some(true),
        Outcome::Failed(Error::Cancelled) => stand_still(thread).then_some(true),
        Outcome::Failed(_) => Some(false),
    }
}

/// The running thread's wait was ended by somebody who wants it to stand still: it does so here, as all of its registers are in its context. Returns whether
/// they were set meanwhile.
pub(crate) fn stand_still(thread: &Thread) -> bool {
    schedule::exit_work();
    thread.reporting.note_change(false)
}

/// The same if it is to stand still and has no wait that could be ended: a report that it began now would go on for as long as its answer takes, and whoever
/// wants it to stand still may be the one who is to answer.
pub(crate) fn stand_still_if_due(thread: &Thread) -> bool {
    if !thread.marks().is_suspended() {
        return false;
    }
    thread.reporting.note_change(false);
    stand_still(thread)
}

/// The running thread sends a report, which is in its registers, and waits; `None` if there is nobody to send it to.
pub(crate) fn send(thread: &Thread, kind: ReportKind, label: u32) -> Option<Outcome> {
    // SAFETY: no borrowed object is in anybody's hands here; it ends before a quiescent point is declared.
    let mut section = unsafe { Section::enter() };
    let flow = {
        let listener = listener(thread, kind, &section)?;
        if thread.serves(&listener.endpoint) {
            return None;
        }
        // A call in the middle of a step is no end of it.
        if kind == ReportKind::Faults && thread.reporting.step(false) {
            thread.registers_mut().rflags &= !TRAP_FLAG;
        }
        thread.reporting.begin(label);
        begin(thread, listener)
    };
    Some(wait(thread, flow, &mut section))
}

/// Sends the report that the running thread has begun to make.
fn begin(thread: &Thread, listener: &Listener) -> Result<Flow, Error> {
    thread.reporting.note_change(false);
    thread
        .poised
        .store(core::ptr::null_mut(), core::sync::atomic::Ordering::Relaxed);
    thread.wait.set_accept(0);
    listener
        .endpoint
        .send(thread, listener.badge, true, Deadline::NEVER)
}

/// Waits for what comes of a report.
fn wait(thread: &Thread, flow: Result<Flow, Error>, section: &mut Section) -> Outcome {
    match flow {
        Ok(Flow::Block) => schedule::block(Deadline::NEVER, section),
        Ok(Flow::SwitchTo(next)) => schedule::switch_directly(next, Deadline::NEVER, section),
        // A call has an answer only after a wait.
        Ok(Flow::Done) => {}
        Err(error) => thread.reporting.set_outcome(Outcome::Failed(error)),
    }
    thread.reporting.take_outcome()
}

/// What came of a question after a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// The access can be tried again: then it is seen whether the page is there. Or the thread ends on its way out.
    TryAgain,
    /// Somebody wants it to [stand still](stand_still); then the access can be tried again.
    StandStill,
    /// The pager has refused the page.
    Refused,
    /// Nobody is there to answer.
    NoPager,
}

/// The running thread asks the pager of an object for the page at an offset, and waits for the answer. It waits as one that reports, so that whatever
/// ends such a wait ends this one; the pager has its priority meanwhile.
pub(crate) fn ask_pager(
    thread: &Thread,
    pager: &Listener,
    offset: u64,
    access: PageAccess,
) -> Asked {
    if thread.marks().is_suspended() {
        return Asked::StandStill;
    }
    // SAFETY: as in `send`.
    let mut section = unsafe { Section::enter() };
    if thread.serves(&pager.endpoint) {
        return Asked::NoPager;
    }
    thread.reporting.begin_page(offset, access);
    let flow = begin(thread, pager);
    match wait(thread, flow, &mut section) {
        Outcome::Answered(Answer::End) => Asked::Refused,
        Outcome::Answered(_) => Asked::TryAgain,
        Outcome::Failed(_) if thread.marks().is_killed() => Asked::TryAgain,
        Outcome::Failed(Error::Cancelled) => Asked::StandStill,
        Outcome::Failed(_) => Asked::NoPager,
    }
}

/// Who listens to what a thread does of this kind.
fn listener<'s>(
    thread: &'s Thread,
    kind: ReportKind,
    section: &'s Section,
) -> Option<&'s Listener> {
    thread
        .listeners
        .get(kind, section)
        .or_else(|| thread.process().listeners.get(kind, section))
}
