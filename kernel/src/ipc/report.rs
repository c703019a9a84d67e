//! Reports as messages: what one says, and what its answer does.
//!
//! A thread that makes a report waits as one that calls (in an endpoint's queue, then for the answer), so that everything that may happen
//! to a call happens to it. The differences are here: the message is made of its registers, and the answer is an order.

use abi::compat::{BLOCK_FORM, block};
use abi::report::{Answer, REGISTER_BYTES, label};
use abi::{Error, Tag, UserContext};
use arch::context::USER_CODE64;

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
        label::FAULT | label::PAGE => tag,
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
        label::PAGE => {
            (to.rdx, to.r10) = sender.reporting.page();
            [to.r8, to.r9, to.r12] = [0; 3];
        }
        label => {
            to.rdx = from.call_number;
            let [rdi, rsi, rdx, r10] = arguments(sender, label);
            [to.r10, to.r8, to.r9, to.r12] = if label == label::CALL_ENDS {
                [from.rax, rdi, rsi, rdx]
            } else {
                [rdi, rsi, rdx, r10]
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

/// What a call has in the registers of its first four arguments, or, if it came in the block form of 32-bit code, in their places in the thread's IPC area.
fn arguments(sender: &Thread, label: u32) -> [u64; 4] {
    let from = sender.registers();
    let is_block = label != label::FOREIGN_CALL
        && from.cs != u64::from(USER_CODE64)
        && from.call_number & u64::from(BLOCK_FORM) != 0;
    if is_block {
        [block::RDI, block::RSI, block::RDX, block::R10].map(|place| sender.area.register(place))
    } else {
        [from.rdi, from.rsi, from.rdx, from.r10]
    }
}

/// An order that an answer gives.
struct Order {
    answer: Answer,
    /// What word 0 says.
    word: u64,
    /// What the thread's registers shall be first.
    registers: Option<UserContext>,
}

/// The order in the message in the registers of `current`.
fn order(current: &Thread) -> Result<Order, Error> {
    let tag = Tag(current.registers().rsi)
        .check()
        .map_err(|_| Error::BadArgument)?;
    let answer = Answer::from_label(tag.label()).ok_or(Error::BadArgument)?;
    if tag.handles() != 0 {
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
    Ok(Order {
        answer,
        word: current.registers().rdx,
        registers,
    })
}

/// Answers the report `stamp` of `caller` with the message in the registers of `current`. The caller is then out of its wait, and must be made
/// ready.
///
/// # Errors
/// [`Error::CallerGone`], whatever the answer is. [`Error::BadArgument`]: it is no answer, or sets registers to what they can't be; then the caller still waits.
#[cold]
pub(super) fn answer(current: &Thread, caller: &Thread, stamp: u64) -> Result<(), Error> {
    let order = order(current);
    caller.take_awaiting_after(stamp, current, || {
        let order = order?;
        obey(caller, &order)?;
        caller
            .reporting
            .set_outcome(Outcome::Answered(order.answer));
        Ok(())
    })
}

/// Sets the state of a thread that waits for the answer to its report as the answer says.
fn obey(caller: &Thread, order: &Order) -> Result<(), Error> {
    if caller.reporting.label() == label::PAGE {
        // It says no more than whether the page is there.
        let says = matches!(order.answer, Answer::Resume | Answer::End);
        return if says && order.registers.is_none() {
            Ok(())
        } else {
            Err(Error::BadArgument)
        };
    }
    let is_of_call = caller.reporting.label() != label::FAULT;
    if order.answer == Answer::Result && !is_of_call {
        return Err(Error::BadArgument);
    }
    let given = order.registers.unwrap_or(*caller.registers());
    let mut wanted = given;
    match order.answer {
        Answer::ResumeAt => {
            wanted.rip = order.word;
            wanted.rflags &= !RESUME_FLAG;
        }
        Answer::Step => wanted.rflags |= TRAP_FLAG,
        Answer::Result if order.registers.is_none() => wanted.rax = order.word,
        Answer::Resume | Answer::Result | Answer::End => {}
    }
    if order.registers.is_some() || wanted != *caller.registers() {
        caller.set_registers(&wanted)?;
    }
    // A step that a call comes into is still on its way: unless this answer has taken the flag away.
    let is_new = order.answer == Answer::Step && given.rflags & TRAP_FLAG == 0;
    let goes_on = caller.reporting.is_stepped() && wanted.rflags & TRAP_FLAG != 0;
    caller.reporting.step(is_new || goes_on);
    Ok(())
}
