//! The two ends of a typed call, which [`interface!`](crate::interface) is built from.

use alloc::string::String;
use core::fmt;
use core::marker::PhantomData;

use abi::{Badge, Deadline, Error};

use crate::wire::{Carries, Decoder, Encoder, Wire, WireError};
use crate::{Endpoint, Failure, FailureKind, Message, Received, Reply};

/// The label of a successful answer; others are a [`FailureKind`]'s code.
pub const SUCCESS: u32 = 0;

/// Why a typed call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallError {
    /// The message did not get there or no answer came. `NoReply` means that the server died with it: worth a retry,
    /// if the operation may be done twice.
    Kernel(Error),
    /// The server refused.
    Failed(Failure),
    /// The arguments don't fit a message, or the answer is not what the interface says.
    Wire(WireError),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Kernel(error) => error.fmt(f),
            CallError::Failed(failure) => failure.fmt(f),
            CallError::Wire(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CallError {}

impl From<Error> for CallError {
    fn from(error: Error) -> CallError {
        CallError::Kernel(error)
    }
}

impl From<WireError> for CallError {
    fn from(error: WireError) -> CallError {
        CallError::Wire(error)
    }
}

/// The client's end: sends the message and takes the answer apart.
///
/// # Errors
/// All of [`CallError`].
pub fn invoke<T: Wire>(
    endpoint: &Endpoint,
    message: Message,
    deadline: Deadline,
) -> Result<T, CallError> {
    let received = endpoint.call(message, T::HANDLES, deadline)?;
    if received.label != SUCCESS {
        let kind = FailureKind::from_code(received.label);
        return Err(CallError::Failed(Failure::new(
            kind,
            String::from_utf8_lossy(&received.bytes),
        )));
    }
    let mut decoder = Decoder::new(received);
    let value = T::decode(&mut decoder)?;
    decoder.finish()?;
    Ok(value)
}

/// The answer that carries a result. One that doesn't fit a message is turned into a failure that says so.
pub fn answer<T: Carries<T>>(result: Result<T, Failure>) -> Message {
    let mut encoder = Encoder::new(SUCCESS);
    let failure = match result {
        Ok(value) => match value.encode(&mut encoder) {
            Ok(()) => return encoder.finish(),
            Err(error) => Failure::new(FailureKind::Internal, error.text()),
        },
        Err(failure) => failure,
    };
    let mut end = failure.detail.len().min(abi::ipc_area::BUFFER_BYTES);
    while !failure.detail.is_char_boundary(end) {
        end -= 1;
    }
    Message::new(failure.kind as u32).with_bytes(&failure.detail.as_bytes()[..end])
}

/// Who called.
#[derive(Debug)]
pub struct Caller {
    /// The badge of the handle that was used.
    pub badge: Badge,
    reply: Option<Reply>,
}

impl Caller {
    /// Takes the caller off a message.
    pub fn new(received: &mut Received) -> Caller {
        Caller {
            badge: received.badge,
            reply: received.reply.take(),
        }
    }

    /// Keeps the caller waiting, to be answered later; the operation then returns [`Outcome::Later`]. `T` is the
    /// operation's result. `None` if it doesn't wait for an answer.
    pub fn later<T>(&mut self) -> Option<Later<T>> {
        self.reply.take().map(|reply| Later {
            reply,
            result: PhantomData,
        })
    }

    /// Pairs the answer with whom it is for.
    pub fn finish<T: Carries<T>>(self, outcome: Outcome<T>) -> Option<(Reply, Message)> {
        let result = match outcome {
            Outcome::Done(value) => Ok(value),
            Outcome::Failed(failure) => Err(failure),
            // If the operation didn't take the caller, dropping the reply tells it `NoReply`.
            Outcome::Later => return None,
        };
        self.reply.map(|reply| (reply, answer(result)))
    }
}

/// A caller that waits for its answer.
#[derive(Debug)]
#[must_use = "dropping it leaves the caller without an answer"]
pub struct Later<T> {
    reply: Reply,
    result: PhantomData<fn(T)>,
}

impl<T: Carries<T>> Later<T> {
    /// Answers it.
    ///
    /// # Errors
    /// `CallerGone` if it waits no more.
    pub fn answer(self, result: Result<T, Failure>) -> crate::Result<()> {
        self.reply.answer(answer(result))
    }
}

/// What an operation did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// It is done.
    Done(T),
    /// It is refused.
    Failed(Failure),
    /// [`Caller::later`] took the caller.
    Later,
}

impl<T> From<Result<T, Failure>> for Outcome<T> {
    fn from(result: Result<T, Failure>) -> Outcome<T> {
        match result {
            Ok(value) => Outcome::Done(value),
            Err(failure) => Outcome::Failed(failure),
        }
    }
}
