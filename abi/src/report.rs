//! Reports: what a thread says to its supervisor without knowing it, as a message.
//!
//! A thread or a process can have an endpoint for each [`ReportKind`] ([`Call::ReportTo`](crate::Call::ReportTo)). What the thread does
//! then becomes a message to that endpoint, as if the thread had made a `call` there: it has the badge of the handle that was given, a
//! label that says what it is ([`label`]), six words, and for some kinds bytes; and it brings a reply. While the reply stands, the thread stands
//! still, and whoever has the reply reads and changes the thread's state with it ([`Call::ThreadGetContext`](crate::Call::ThreadGetContext)
//! and its like take a reply for a thread). The label of the answer says how it goes on ([`Answer`]).
//!
//! | label | word 0 | word 1 | word 2 | word 3 | word 4 | word 5 | bytes |
//! |---|---|---|---|---|---|---|---|
//! | [`FAULT`](label::FAULT) | vector | error code | RIP | address (vector 14) or DR6 (vector 1) | RSP | thread | none |
//! | [`CALL_BEGINS`](label::CALL_BEGINS), [`FOREIGN_CALL`](label::FOREIGN_CALL) | number | RDI | RSI | RDX | R10 | thread | registers |
//! | [`CALL_ENDS`](label::CALL_ENDS) | number as entered | RAX | RDI | RSI | RDX | thread | registers |
//!
//! | [`PAGE`](label::PAGE) | offset in the object | [`PageAccess`] | 0 | 0 | 0 | thread | none |
//!
//! *Registers* are a whole [`UserContext`](crate::UserContext), as the thread has them (32-bit code in its own map). In an answer they are the thread's
//! from then on. Of a call in the [block form](crate::compat) of 32-bit code, words 1 to 4 are those of the block, at the same names; the rest of the block, and
//! what shall be changed of it, is in the thread's IPC area, which can be read and written as any memory of its process.
//!
//! A badge tells a genuine report from one that somebody made up, if nobody else has a handle with that badge.

/// What can be reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ReportKind {
    /// Exceptions of the thread's own: what would end it else.
    Faults = 0,
    /// System calls by any entry, before and after. For threads that do not run, or for those that the process makes later.
    Calls = 1,
    /// System calls by any entry, which are not the kernel's at all but another system's: whoever listens does what they are to do. For
    /// processes that have no thread yet.
    ForeignCalls = 2,
}

impl ReportKind {
    /// All of them, each at the place that is its number.
    pub const ALL: [ReportKind; 3] = [
        ReportKind::Faults,
        ReportKind::Calls,
        ReportKind::ForeignCalls,
    ];

    /// The kind with this number.
    pub const fn from_number(number: u64) -> Option<ReportKind> {
        match number {
            0 => Some(ReportKind::Faults),
            1 => Some(ReportKind::Calls),
            2 => Some(ReportKind::ForeignCalls),
            _ => None,
        }
    }
}

/// Labels of reports.
pub mod label {
    /// A fault: an exception that the thread has caused, and that the kernel has no answer to.
    pub const FAULT: u32 = 0xFA17_0001;
    /// A page of memory is wanted that has a pager ([`Call::MemoryCreatePaged`](crate::Call::MemoryCreatePaged)). It goes to the object's endpoint, whoever else listens to the thread.
    /// The answer is [`Resume`](super::Answer::Resume), when the page was supplied, or [`End`](super::Answer::End): then the thread has a page fault.
    /// The reply gives no access to the thread's state.
    pub const PAGE: u32 = 0xFA17_0002;
    /// A system call is about to be made.
    pub const CALL_BEGINS: u32 = 0xCA11_0001;
    /// It was made.
    pub const CALL_ENDS: u32 = 0xCA11_0002;
    /// A system call of another system.
    pub const FOREIGN_CALL: u32 = 0xCA11_0003;
}

/// The label of an answer: how the thread goes on. Any other label, a tag with handles, and bytes that are no registers are
/// [`BadArgument`](crate::Error::BadArgument) for who answers so; as the reply is used up, the thread has no answer then.
///
/// An answer of [`REGISTER_BYTES`] bytes sets the thread's registers first, as [`Call::ThreadSetContext`](crate::Call::ThreadSetContext) does with a
/// [`UserContext`](crate::UserContext).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Answer {
    /// It goes on with its registers as they are. After a fault that is the faulting instruction again, after a trap (breakpoint, step) the next. A call
    /// that begins is made with these registers, RAX its number.
    Resume = 0,
    /// It goes on at the address in word 0; its other registers are as they are.
    ResumeAt = 1,
    /// It executes one instruction and then faults with vector 1.
    Step = 2,
    /// It ends, as it would have ended without anybody to report to.
    End = 3,
    /// Of calls alone: one that begins is not made. RAX is word 0, unless the answer sets registers.
    Result = 4,
}

impl Answer {
    /// The answer with this label.
    pub const fn from_label(label: u32) -> Option<Answer> {
        match label {
            0 => Some(Answer::Resume),
            1 => Some(Answer::ResumeAt),
            2 => Some(Answer::Step),
            3 => Some(Answer::End),
            4 => Some(Answer::Result),
            _ => None,
        }
    }
}

/// What a page is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum PageAccess {
    /// To be read.
    Read = 0,
    /// To be written.
    Write = 1,
    /// To be executed.
    Execute = 2,
}

impl PageAccess {
    /// The access with this number.
    pub const fn from_number(number: u64) -> Option<PageAccess> {
        match number {
            0 => Some(PageAccess::Read),
            1 => Some(PageAccess::Write),
            2 => Some(PageAccess::Execute),
            _ => None,
        }
    }
}

/// In a page fault's error code: the page's pager has refused it. No CPU sets this bit.
pub const PAGE_REFUSED: u64 = 1 << 32;
/// In a page fault's error code: the page has a pager that does not answer: it is gone, has dropped the question, or is the thread itself.
pub const NO_PAGER: u64 = 1 << 33;
/// In the error code of a page fault: the page is mapped, but the quota or the machine has no memory for it. In that of a fault for want of the FPU (vector
/// 7): there is none for the thread's state. The access may be tried again.
pub const NO_MEMORY: u64 = 1 << 34;

/// Bytes of an answer that sets registers.
pub const REGISTER_BYTES: usize = size_of::<crate::UserContext>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_answers_come_back_from_their_numbers() {
        for (number, kind) in ReportKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            assert_eq!(ReportKind::from_number(number as u64), Some(kind));
        }
        assert_eq!(ReportKind::from_number(ReportKind::ALL.len() as u64), None);
        assert_eq!(ReportKind::from_number(u64::MAX), None);
        for access in [PageAccess::Read, PageAccess::Write, PageAccess::Execute] {
            assert_eq!(PageAccess::from_number(access as u64), Some(access));
        }
        assert_eq!(PageAccess::from_number(3), None);
        for answer in [
            Answer::Resume,
            Answer::ResumeAt,
            Answer::Step,
            Answer::End,
            Answer::Result,
        ] {
            assert_eq!(Answer::from_label(answer as u32), Some(answer));
        }
        assert_eq!(Answer::from_label(u32::MAX), None);
    }
}
