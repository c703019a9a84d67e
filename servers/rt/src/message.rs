//! Messages: what goes out, what comes in.
//!
//! A message owns its bytes and the handles that it moves. So it can be built at leisure, also while other calls use the
//! thread's IPC area; the area is filled only at the moment of sending, and emptied right after a receive. A message of
//! words alone costs no allocation.

use alloc::vec::Vec;

use abi::ipc_area::{BUFFER_BYTES, MAX_HANDLES};
use abi::register::{MESSAGE_WORDS, RECEIVED_NOTIFICATION};
use abi::{Badge, Error, Handle, Tag};

use crate::sys::{self, IpcRegisters};
use crate::{AsHandle, OwnedHandle, Reply, Result};

/// A handle in an outgoing message.
#[derive(PartialEq, Eq, Debug)]
pub enum Carried {
    /// The receiver gets a copy with the same rights; the sender keeps its own, which must live until the send.
    Copied(Handle),
    /// The sender's handle goes over.
    Moved(OwnedHandle),
}

/// An outgoing message.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// The two sides' own: an operation, a result.
    pub label: u32,
    /// What travels in registers.
    pub words: [u64; MESSAGE_WORDS],
    /// Up to 4096 bytes.
    pub bytes: Vec<u8>,
    /// Up to four handles.
    pub handles: Vec<Carried>,
}

impl Message {
    /// A message of a label alone.
    pub const fn new(label: u32) -> Message {
        Message {
            label,
            words: [0; MESSAGE_WORDS],
            bytes: Vec::new(),
            handles: Vec::new(),
        }
    }

    /// With these words.
    #[must_use]
    pub const fn with_words(mut self, words: [u64; MESSAGE_WORDS]) -> Message {
        self.words = words;
        self
    }

    /// With these bytes.
    #[must_use]
    pub fn with_bytes(mut self, bytes: &[u8]) -> Message {
        self.bytes = bytes.to_vec();
        self
    }

    /// With a copy of this handle (it needs the right TRANSFER).
    #[must_use]
    pub fn with_copy(mut self, handle: &impl AsHandle) -> Message {
        self.handles.push(Carried::Copied(handle.handle()));
        self
    }

    /// With this handle, which goes over (it needs the right TRANSFER).
    #[must_use]
    pub fn with_moved(mut self, handle: impl Into<OwnedHandle>) -> Message {
        self.handles.push(Carried::Moved(handle.into()));
        self
    }

    /// Puts it into the registers and the IPC area, ready to send.
    ///
    /// # Errors
    /// `OutOfRange` with more than 4096 bytes or more than four handles.
    pub(crate) fn load(&self, registers: &mut IpcRegisters) -> Result<()> {
        if self.bytes.len() > BUFFER_BYTES || self.handles.len() > MAX_HANDLES {
            return Err(Error::OutOfRange);
        }
        let mut moved = 0;
        for (index, carried) in self.handles.iter().enumerate() {
            let handle = match carried {
                Carried::Copied(handle) => *handle,
                Carried::Moved(handle) => {
                    moved |= 1 << index;
                    handle.raw()
                }
            };
            // SAFETY: the area is this thread's own and always mapped; index is below MAX_HANDLES.
            unsafe { (*sys::area()).handles_out[index] = handle.0 };
        }
        if !self.bytes.is_empty() {
            // SAFETY: the buffer holds BUFFER_BYTES, checked above, and no reference to it ever exists.
            unsafe {
                self.bytes
                    .as_ptr()
                    .copy_to_nonoverlapping(sys::buffer(), self.bytes.len());
            }
        }
        registers.tag = Tag::new(self.label)
            .with_bytes(self.bytes.len())
            .with_handles(self.handles.len(), moved)
            .0;
        registers.words = self.words;
        Ok(())
    }

    /// The message was sent: what it moved is no longer here to close.
    pub(crate) fn sent(self) {
        for carried in self.handles {
            if let Carried::Moved(handle) = carried {
                let _ = handle.into_raw();
            }
        }
    }
}

/// A message of a label and words alone: no bytes, no handles, no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Plain {
    /// The two sides' own.
    pub label: u32,
    /// What travels in registers.
    pub words: [u64; MESSAGE_WORDS],
}

/// A message that came.
#[derive(PartialEq, Eq, Debug)]
pub struct Received {
    /// Of the handle through which it was sent; 0 in a reply.
    pub badge: Badge,
    /// The two sides' own.
    pub label: u32,
    /// What travelled in registers.
    pub words: [u64; MESSAGE_WORDS],
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its handles, now ours.
    pub handles: Vec<OwnedHandle>,
    /// How to answer, if the sender waits for that.
    pub reply: Option<Reply>,
}

/// What a receive brings.
#[derive(PartialEq, Eq, Debug)]
pub enum Event {
    /// A message.
    Message(Received),
    /// The bits of the thread's bound notification, now cleared.
    Notification(u64),
}

/// Sets how many handles the next receive takes.
pub(crate) fn accept(handles: usize) {
    // SAFETY: the area is this thread's own and always mapped.
    unsafe { (*sys::area()).accept = handles.min(MAX_HANDLES) as u64 };
}

/// The same for a call that sends first: its tag says whether there is anything to look at.
pub(crate) fn accept_after(registers: &mut IpcRegisters, handles: usize) {
    if handles > 0 {
        registers.tag = Tag(registers.tag).taking_handles().0;
        accept(handles);
    }
}

/// Takes what a receive left in the registers and the IPC area.
pub(crate) fn unload(registers: &IpcRegisters) -> Event {
    if registers.deadline == RECEIVED_NOTIFICATION {
        return Event::Notification(registers.words[0]);
    }
    let tag = Tag(registers.tag);
    let bytes = tag.bytes().min(BUFFER_BYTES);
    let mut received = Received {
        badge: Badge(registers.handle),
        label: tag.label(),
        words: registers.words,
        bytes: Vec::new(),
        handles: Vec::new(),
        reply: (registers.reply != 0)
            .then(|| Reply::from_handle(OwnedHandle::from_raw(Handle(registers.reply)))),
    };
    if bytes != 0 {
        received.bytes.reserve_exact(bytes);
        // SAFETY: the buffer holds BUFFER_BYTES, of which the kernel has written `bytes`; the vector has room for them,
        // and they don't overlap.
        unsafe {
            sys::buffer().copy_to_nonoverlapping(received.bytes.as_mut_ptr(), bytes);
            received.bytes.set_len(bytes);
        }
    }
    for index in 0..tag.handles().min(MAX_HANDLES) {
        // SAFETY: the area is this thread's own and always mapped; index is below MAX_HANDLES.
        let handle = unsafe { (*sys::area()).handles_in[index] };
        received.handles.push(OwnedHandle::from_raw(Handle(handle)));
    }
    Event::Message(received)
}
