//! Reports: faults and system calls of other threads as messages, and what their supervisor answers ([`abi::report`]).
//!
//! A supervisor gives a thread or a process an endpoint ([`Thread::report_to`](crate::Thread::report_to),
//! [`Process::report_to`](crate::Process::report_to)), receives there as any server, and takes what came for a [`Fault`] or a [`ReportedCall`]. With the [`Reply`] it reads
//! and changes the thread's registers, and then answers, which is one of the functions here.
//!
//! What may go wrong: a supervisor that keeps a reply keeps the thread; one that drops it ends the thread by its fault. Its own faults go nowhere, as
//! nobody is left to receive them. The host has no faults to report: there these calls are `NotSupported`.

use abi::report::{Answer, PageAccess, ReportKind, label};
use abi::{Badge, Call, FaultKind, Handle, UserContext};

use crate::{AsHandle, Endpoint, Message, Plain, Received, Reply, Result, sys};

pub use abi::report;

/// A thread's fault, as its report says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Of the handle that was given for the reports.
    pub badge: Badge,
    /// The exception's number.
    pub vector: u64,
    /// The exception's error code; 0 if it has none.
    pub error_code: u64,
    /// Where the thread stands: at the faulting instruction, or behind one that traps.
    pub rip: u64,
    /// What a page fault was about; for a debug trap, DR6.
    pub address: u64,
    /// The thread's stack pointer.
    pub rsp: u64,
    /// The thread's number.
    pub thread: u64,
}

impl Fault {
    /// The fault that a message reports; `None` if it is another kind of message.
    pub fn of(message: &Received) -> Option<Fault> {
        let [vector, error_code, rip, address, rsp, thread] = message.words;
        (message.label == label::FAULT).then_some(Fault {
            badge: message.badge,
            vector,
            error_code,
            rip,
            address,
            rsp,
            thread,
        })
    }

    /// What kind of fault it is.
    pub const fn kind(&self) -> FaultKind {
        FaultKind::from_vector(self.vector)
    }
}

/// A page that a thread waits for, of memory whose pager the receiver is ([`Memory::create_paged`](crate::Memory::create_paged)). It is answered by
/// [`resume`] when it was supplied, or by [`end`]: then the thread has a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageWanted {
    /// Of the handle that the memory was made with.
    pub badge: Badge,
    /// Where it is in the memory, in bytes.
    pub offset: u64,
    /// What it is wanted for.
    pub access: PageAccess,
    /// The thread's number.
    pub thread: u64,
}

impl PageWanted {
    /// The page that a message asks for; `None` if it is another kind of message.
    pub fn of(message: &Received) -> Option<PageWanted> {
        let [offset, access, _, _, _, thread] = message.words;
        if message.label != label::PAGE {
            return None;
        }
        PageAccess::from_number(access).map(|access| PageWanted {
            badge: message.badge,
            offset,
            access,
            thread,
        })
    }
}

/// When a system call is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallPoint {
    /// It is about to be made.
    Begins,
    /// It was made.
    Ends,
    /// It is another system's, and not made here at all.
    Foreign,
}

/// A thread's system call, as its report says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReportedCall {
    /// Of the handle that was given for the reports.
    pub badge: Badge,
    /// When this is.
    pub point: CallPoint,
    /// Its number as the thread entered, whatever became of it.
    pub number: u64,
    /// What the report says beside it: four arguments of a call that begins or is another system's; status and three results of one that ends. Of 32-bit code
    /// these are the program's registers, or the words of its block, if the call came in that form ([`abi::compat`]).
    pub arguments: [u64; 4],
    /// The thread's number.
    pub thread: u64,
    /// All of the thread's registers, as they are now.
    pub registers: UserContext,
}

impl ReportedCall {
    /// The call that a message reports; `None` if it is another kind of message.
    pub fn of(message: &Received) -> Option<ReportedCall> {
        let point = match message.label {
            label::CALL_BEGINS => CallPoint::Begins,
            label::CALL_ENDS => CallPoint::Ends,
            label::FOREIGN_CALL => CallPoint::Foreign,
            _ => return None,
        };
        if message.bytes.len() != report::REGISTER_BYTES {
            return None;
        }
        let [number, first, second, third, fourth, thread] = message.words;
        Some(ReportedCall {
            badge: message.badge,
            point,
            number,
            arguments: [first, second, third, fourth],
            thread,
            // SAFETY: there are as many bytes as a context has, and any bytes are one.
            registers: unsafe {
                message
                    .bytes
                    .as_ptr()
                    .cast::<UserContext>()
                    .read_unaligned()
            },
        })
    }
}

/// An answer that is no more than an order.
pub const fn plain(answer: Answer) -> Plain {
    Plain {
        label: answer as u32,
        words: [0; abi::register::MESSAGE_WORDS],
    }
}

/// The answer by which the thread goes on at `address`.
pub const fn resume_at(address: u64) -> Plain {
    let mut message = plain(Answer::ResumeAt);
    message.words[0] = address;
    message
}

/// An answer that sets the thread's registers first.
pub fn with_registers(answer: Answer, registers: &UserContext) -> Message {
    // SAFETY: a context is plain numbers without gaps (its size is the sum of its fields', asserted in `abi`), so all of its bytes are set.
    let bytes = unsafe {
        core::slice::from_raw_parts(
            core::ptr::from_ref(registers).cast::<u8>(),
            report::REGISTER_BYTES,
        )
    };
    Message::new(answer as u32).with_bytes(bytes)
}

/// `report_to`.
pub(crate) fn report_to(
    subject: Handle,
    kind: ReportKind,
    endpoint: Option<&Endpoint>,
) -> Result<()> {
    let endpoint = endpoint.map_or(Handle::NONE, AsHandle::handle);
    // SAFETY: touches no memory.
    unsafe {
        sys::call(
            Call::ReportTo,
            [subject.0, kind as u64, endpoint.0, 0, 0, 0],
        )
    }
    .map(|_| ())
}

impl Reply {
    /// Answers a report so that its thread goes on, or ends.
    ///
    /// # Errors
    /// `CallerGone` if the thread waits no more.
    pub fn answer_report(self, answer: Answer) -> Result<()> {
        self.answer(Message::new(answer as u32))
    }

    /// Answers a report so that its thread goes on at `address`.
    ///
    /// # Errors
    /// `CallerGone` if the thread waits no more; `BadArgument` if no code can be there: then the thread has no answer.
    pub fn resume_at(self, address: u64) -> Result<()> {
        let Plain { label, words } = resume_at(address);
        self.answer(Message::new(label).with_words(words))
    }

    /// Answers the report of a call, which is not made (any more), with what it gives in RAX.
    ///
    /// # Errors
    /// `CallerGone` if the thread waits no more; `BadArgument` if it is the report of a fault: then the thread has no answer.
    pub fn give_result(self, result: u64) -> Result<()> {
        self.answer(Message::new(Answer::Result as u32).with_words([result, 0, 0, 0, 0, 0]))
    }

    /// Answers a report, and sets the thread's registers first.
    ///
    /// # Errors
    /// `CallerGone` if the thread waits no more; `BadArgument` for registers that user code could not have: then the thread has no answer.
    pub fn answer_with_registers(self, answer: Answer, registers: &UserContext) -> Result<()> {
        self.answer(with_registers(answer, registers))
    }
}
