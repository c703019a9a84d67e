//! Reports as messages: what one says, and what its answer does.
//!
//! A thread that makes a report waits as one that calls (in an endpoint's queue, then for the answer), so that everything that may happen
//! to a call happens to it. The differences are here: the message is made of its registers, and the answer is an order.

use abi::report::{Answer, REGISTER_BYTES, label};
use abi::{Error, Tag, UserContext};

use crate::thread::{Outcome, Thread};

const DEBUG: u64 = 1;
/// Single step.
const TRAP_FLAG: u64 = 1 << 8;
/// The next instruction is not stopped at by a breakpoint.
const RESUME_FLAG: u64 = 1 << 16;

/// The tag of the report that a thread makes.
pub(super) fn tag(sender: &Thread) -> Tag {
    let tag = Tag::new(sender.reporting.label());
    match sender.reporting.label() {
        label::FAULT => tag,
        _ => tag.with_bytes(REGISTER_BYTES),
    }
}

/// Writes the report of `sender` into a receiver that was taken out of its queue.
pub(super) fn write(sender: &Thread, receiver: &Thread) {
    let from = sender.registers();
    let to = receiver.registers_mut();
    to.rsi = tag(sender).0;
    match sender.reporting.label() {
        label::FAULT => {
            to.rdx = from.vector;
            to.r10 = from.error_code;
            to.r8 = from.rip;
            to.r9 = if from.vector == DEBUG {
                from.debug_status
            } else {
                from.cr2
            };
            to.r12 = from.rsp;
        }
        label => {
            to.rdx = from.call_number;
            [to.r10, to.r8, to.r9, to.r12] = if label == label::CALL_ENDS {
                [from.rax, from.rdi, from.rsi, from.rdx]
            } else {
                [from.rdi, from.rsi, from.rdx, from.r10]
            };
            // SAFETY: the buffer is a whole pinned page, so it is large enough and aligned. Its program may write to it meanwhile, which is its own to blame.
            unsafe {
                receiver
                    .area
                    .buffer()
                    .cast::<UserContext>()
                    .write_volatile(*from);
            };
        }
    }
    to.r13 = sender.id();
}

/// Answers the report `stamp` of `caller` with the message in the registers of `current`. The caller is then out of its wait, and must be made
/// ready.
///
/// # Errors
/// [`Error::BadArgument`]: it is no answer, or sets registers to what they can't be. [`Error::CallerGone`].
#[cold]
pub(super) fn answer(current: &Thread, caller: &Thread, stamp: u64) -> Result<(), Error> {
    let tag = Tag(current.registers().rsi)
        .check()
        .map_err(|_| Error::BadArgument)?;
    let answer = Answer::from_label(tag.label()).ok_or(Error::BadArgument)?;
    let is_of_call = caller.reporting.label() != label::FAULT;
    if tag.handles() != 0 || answer == Answer::Result && !is_of_call {
        return Err(Error::BadArgument);
    }
    let registers = match tag.bytes() {
        0 => None,
        REGISTER_BYTES => {
            // SAFETY: the buffer is a whole pinned page, so it is large enough and aligned, and any bytes are a context. Its program may write to it
            // meanwhile; then what is read is its own to blame, and checked as a copy.
            Some(unsafe { current.area.buffer().cast::<UserContext>().read_volatile() })
        }
        _ => return Err(Error::BadArgument),
    };
    let word = current.registers().rdx;
    caller.while_reporting(stamp, || {
        let mut wanted = registers.unwrap_or(*caller.registers());
        match answer {
            Answer::ResumeAt => {
                wanted.rip = word;
                wanted.rflags &= !RESUME_FLAG;
            }
            Answer::Step => wanted.rflags |= TRAP_FLAG,
            Answer::Result if registers.is_none() => wanted.rax = word,
            Answer::Resume | Answer::Result | Answer::End => {}
        }
        let had_trap_flag = registers.unwrap_or(*caller.registers()).rflags & TRAP_FLAG != 0;
        if registers.is_some() || wanted != *caller.registers() {
            caller.set_registers(&wanted)?;
        }
        caller
            .reporting
            .step(answer == Answer::Step && !had_trap_flag);
        Ok(())
    })?;
    if !caller.take_awaiting(Some(stamp), Some(current)) {
        return Err(Error::CallerGone);
    }
    caller.reporting.set_outcome(Outcome::Answered(answer));
    Ok(())
}
