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
//!
//! A badge tells a genuine report from one that somebody made up, if nobody else has a handle with that badge.

/// What can be reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ReportKind {
    /// Exceptions of the thread's own: what would end it else.
    Faults = 0,
}

impl ReportKind {
    /// All of them, each at the place that is its number.
    pub const ALL: [ReportKind; 1] = [ReportKind::Faults];

    /// The kind with this number.
    pub const fn from_number(number: u64) -> Option<ReportKind> {
        match number {
            0 => Some(ReportKind::Faults),
            _ => None,
        }
    }
}

/// Labels of reports.
pub mod label {
    /// A fault: an exception that the thread has caused, and that the kernel has no answer to.
    pub const FAULT: u32 = 0xFA17_0001;
}

/// The label of an answer: how the thread goes on. Any other label, a tag with handles, and bytes that are no registers are
/// [`BadArgument`](crate::Error::BadArgument) for who answers so; as the reply is used up, the thread has no answer then.
///
/// An answer of [`REGISTER_BYTES`] bytes sets the thread's registers first, as [`Call::ThreadSetContext`](crate::Call::ThreadSetContext) does with a
/// [`UserContext`](crate::UserContext).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Answer {
    /// It goes on with its registers as they are. After a fault that is the faulting instruction again, after a trap (breakpoint, step) the next.
    Resume = 0,
    /// It goes on at the address in word 0; its other registers are as they are.
    ResumeAt = 1,
    /// It executes one instruction and then faults with vector 1.
    Step = 2,
    /// It ends, as it would have ended without anybody to report to.
    End = 3,
}

impl Answer {
    /// The answer with this label.
    pub const fn from_label(label: u32) -> Option<Answer> {
        match label {
            0 => Some(Answer::Resume),
            1 => Some(Answer::ResumeAt),
            2 => Some(Answer::Step),
            3 => Some(Answer::End),
            _ => None,
        }
    }
}

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
        for answer in [Answer::Resume, Answer::ResumeAt, Answer::Step, Answer::End] {
            assert_eq!(Answer::from_label(answer as u32), Some(answer));
        }
        assert_eq!(Answer::from_label(u32::MAX), None);
    }
}
