//! Endpoints and replies: where messages are sent, received and answered.
//!
//! What may go wrong: a server that drops a [`Reply`] unanswered gives its caller `NoReply`, never a hang; a caller
//! whose deadline passed gives the server `CallerGone`, which [`Endpoint::serve_next`] passes over, since a server has
//! nothing to do about it.

use abi::{Badge, Call, Deadline, Error, Rights, Tag};

use crate::handle::object;
use crate::message::{accept, accept_after, unload};
use crate::sys::{self, IpcRegisters};
use crate::{AsHandle, Event, Handle, Message, OwnedHandle, Plain, Received, Result};

object! {
    /// A place to send messages to, or to receive them at.
    Endpoint
}

object! {
    /// The one-shot right to answer a caller. Dropped, the caller gets `NoReply`.
    Reply
}

const EMPTY: IpcRegisters = IpcRegisters {
    handle: 0,
    tag: 0,
    words: [0; 6],
    deadline: 0,
    reply: 0,
};

impl Endpoint {
    /// A new endpoint with all rights.
    ///
    /// # Errors
    /// `NoMemory`, `QuotaExceeded`.
    pub fn create() -> Result<Endpoint> {
        // SAFETY: touches no memory.
        let values = unsafe { sys::call(Call::EndpointCreate, [0; 6]) }?;
        Ok(Endpoint(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// A handle to this endpoint whose messages carry `badge`.
    ///
    /// # Errors
    /// `NoRight` without MINT or if `rights` is more than this handle has; `NoMemory`, `QuotaExceeded`.
    pub fn mint(&self, badge: Badge, rights: Rights) -> Result<Endpoint> {
        // SAFETY: touches no memory.
        let values = unsafe {
            sys::call(
                Call::EndpointMint,
                [self.handle().0, badge.0, u64::from(rights.0), 0, 0, 0],
            )
        }?;
        Ok(Endpoint(OwnedHandle::from_raw(Handle(values[0]))))
    }

    /// Sends a message and waits for the answer, of which up to `handles` handles are taken.
    ///
    /// # Errors
    /// `TimedOut`, `PeerClosed`, `NoReply`, `HandlesRefused`, `OutOfRange` (message too large), those of any call.
    /// Handles that the message would have moved are closed.
    pub fn call(&self, message: Message, handles: usize, deadline: Deadline) -> Result<Received> {
        let mut registers = IpcRegisters {
            handle: self.handle().0,
            deadline: deadline.0,
            ..EMPTY
        };
        message.load(&mut registers)?;
        accept_after(&mut registers, handles);
        // SAFETY: touches only the registers and this thread's IPC area.
        sys::check(unsafe { sys::ipc(Call::Call as u64, &mut registers) })?;
        message.sent();
        match unload(&registers) {
            Event::Message(received) => Ok(received),
            // The kernel says "message" with every reply.
            Event::Notification(_) => Err(Error::NoReply),
        }
    }

    /// [`call`](Endpoint::call) with words alone: neither allocation nor copy. Bytes in the answer are passed over.
    ///
    /// # Errors
    /// As for [`call`](Endpoint::call).
    #[inline]
    pub fn call_plain(&self, message: Plain, deadline: Deadline) -> Result<Plain> {
        let mut registers = IpcRegisters {
            handle: self.handle().0,
            tag: Tag::new(message.label).0,
            words: message.words,
            deadline: deadline.0,
            reply: 0,
        };
        // SAFETY: touches only the registers and this thread's IPC area.
        sys::check(unsafe { sys::ipc(Call::Call as u64, &mut registers) })?;
        Ok(Plain {
            label: Tag(registers.tag).label(),
            words: registers.words,
        })
    }

    /// Sends a message and waits until it was received.
    ///
    /// # Errors
    /// As for [`call`](Endpoint::call), but for `NoReply`.
    pub fn send(&self, message: Message, deadline: Deadline) -> Result<()> {
        let mut registers = IpcRegisters {
            handle: self.handle().0,
            deadline: deadline.0,
            ..EMPTY
        };
        message.load(&mut registers)?;
        // SAFETY: touches only the registers and this thread's IPC area.
        sys::check(unsafe { sys::ipc(Call::Send as u64, &mut registers) })?;
        message.sent();
        Ok(())
    }

    /// Waits for a message, of which up to `handles` handles are taken, or for the bound notification.
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`, those of any call.
    pub fn recv(&self, handles: usize, deadline: Deadline) -> Result<Event> {
        let mut registers = IpcRegisters {
            handle: self.handle().0,
            deadline: deadline.0,
            ..EMPTY
        };
        accept(handles);
        // SAFETY: touches only the registers and this thread's IPC area.
        sys::check(unsafe { sys::ipc(Call::Recv as u64, &mut registers) })?;
        Ok(unload(&registers))
    }

    /// Answers and waits for the next message, in one call.
    ///
    /// # Errors
    /// Those of [`Reply::answer`] and of [`recv`](Endpoint::recv); the reply is used up in any case.
    pub fn reply_recv(
        &self,
        reply: Reply,
        message: Message,
        handles: usize,
        deadline: Deadline,
    ) -> Result<Event> {
        let mut registers = IpcRegisters {
            handle: self.handle().0,
            deadline: deadline.0,
            reply: reply.handle().0,
            ..EMPTY
        };
        message.load(&mut registers)?;
        accept_after(&mut registers, handles);
        // The kernel uses the reply up, whatever comes of it.
        let _ = reply.into_handle().into_raw();
        // SAFETY: touches only the registers and this thread's IPC area.
        sys::check(unsafe { sys::ipc(Call::ReplyRecv as u64, &mut registers) })?;
        message.sent();
        Ok(unload(&registers))
    }

    /// The heart of a server's loop: answers what is pending, if anything, then waits for the next event. What went
    /// wrong with the answer alone (its caller is gone, takes no handles, ...) is passed over.
    ///
    /// # Errors
    /// `TimedOut`, `Cancelled`, those of any call.
    pub fn serve_next(
        &self,
        pending: Option<(Reply, Message)>,
        handles: usize,
        deadline: Deadline,
    ) -> Result<Event> {
        if let Some((reply, message)) = pending {
            if message.handles.is_empty() && message.bytes.is_empty() {
                match self.reply_recv(reply, message, handles, deadline) {
                    Err(Error::CallerGone | Error::BadHandle) => {}
                    result => return result,
                }
            } else {
                // Two calls, so that a fault of the answer can be told from one of the receive.
                let _ = reply.answer(message);
            }
        }
        self.recv(handles, deadline)
    }
}

impl Reply {
    /// Answers; the reply is used up in any case.
    ///
    /// # Errors
    /// `CallerGone` if the caller waits no more, `HandlesRefused`, `OutOfRange` (message too large), those of any call.
    pub fn answer(self, message: Message) -> Result<()> {
        let mut registers = IpcRegisters {
            reply: self.handle().0,
            ..EMPTY
        };
        message.load(&mut registers)?;
        // The kernel uses the reply up, whatever comes of it.
        let _ = self.into_handle().into_raw();
        // SAFETY: touches only the registers and this thread's IPC area.
        sys::check(unsafe { sys::ipc(Call::Reply as u64, &mut registers) })?;
        message.sent();
        Ok(())
    }
}
