//! The ends of a stream, on their way to whoever opens them.

use alloc::vec::Vec;

use abi::info::ObjectKind;
use abi::layout::PAGE_SIZE;
use abi::{MemoryFlags, Rights};
use stream::{Capacity, HEADER_BYTES, Reader, Writer};

use super::mapped::Mapped;
use super::{CAPACITIES, StreamError, StreamReader, StreamWriter};
use crate::wire::{Carries, Decoder, Encoder, Wire, WireError};
use crate::{Carried, Memory, Message, Notification, OwnedHandle};

/// Handles of an end.
const HANDLES: usize = 3;
/// What every handle of an end allows: passing it on, and asking what it is.
const ANY: Rights = Rights::TRANSFER.with(Rights::QUERY);

/// What an end is made of.
#[derive(PartialEq, Eq, Debug)]
struct End {
    memory: Memory,
    data: Notification,
    room: Notification,
}

/// The end that writes, not yet opened.
#[derive(PartialEq, Eq, Debug)]
pub struct WriterEnd(End);

/// The end that reads, not yet opened.
#[derive(PartialEq, Eq, Debug)]
pub struct ReaderEnd(End);

/// A stream that holds `bytes`, rounded up to a power of two within [`CAPACITIES`]. This process pays for its memory, which is all there at once.
///
/// # Errors
/// `NoMemory`, `QuotaExceeded`.
pub fn create(bytes: usize) -> Result<(WriterEnd, ReaderEnd), StreamError> {
    let bytes = bytes
        .clamp(*CAPACITIES.start(), *CAPACITIES.end())
        .next_power_of_two();
    let total = (HEADER_BYTES + bytes) as u64;
    let memory = Memory::create_with(total, MemoryFlags::NONE)?;
    for page in (0..total).step_by(PAGE_SIZE as usize) {
        // Later it would be a fault where there is none now.
        memory.write(page, &[0; 8])?;
    }
    let (data, room) = (Notification::create()?, Notification::create()?);
    let end = |on_data: Rights, on_room: Rights| {
        Ok::<End, StreamError>(End {
            memory: memory.duplicate(Rights::READ | Rights::WRITE | ANY)?,
            data: data.duplicate(on_data | ANY)?,
            room: room.duplicate(on_room | ANY)?,
        })
    };
    // The handles with all rights go with this function: only the ends are left.
    Ok((
        WriterEnd(end(Rights::SIGNAL, Rights::WAIT)?),
        ReaderEnd(end(Rights::WAIT, Rights::SIGNAL)?),
    ))
}

impl End {
    fn handles(self) -> [OwnedHandle; HANDLES] {
        [self.memory.into(), self.data.into(), self.room.into()]
    }

    /// Checks what came: the right kinds, and the notifications with one of the two rights each. With both, a side would keep open itself
    /// what tells it of its peer's end.
    fn of(
        handles: [OwnedHandle; HANDLES],
        on_data: Rights,
        on_room: Rights,
    ) -> Result<End, StreamError> {
        let [memory, data, room] = handles;
        for (handle, kind, has, lacks) in [
            (
                &memory,
                ObjectKind::Memory,
                Rights::READ | Rights::WRITE,
                Rights::NONE,
            ),
            (&data, ObjectKind::Notification, on_data, on_room),
            (&room, ObjectKind::Notification, on_room, on_data),
        ] {
            let info = handle.query()?;
            let rights = Rights(info.rights);
            if info.kind != kind as u32 || !rights.contains(has) || (rights & lacks) != Rights::NONE
            {
                return Err(StreamError::NotAnEnd);
            }
        }
        Ok(End {
            memory: memory.into(),
            data: data.into(),
            room: room.into(),
        })
    }

    /// Maps it. The handle to the memory is not needed any more.
    fn open(self) -> Result<(Mapped, Capacity, Notification, Notification), StreamError> {
        let (mapped, capacity) = Mapped::new(&self.memory)?;
        Ok((mapped, capacity, self.data, self.room))
    }

    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        self.handles()
            .into_iter()
            .try_for_each(|handle| encoder.handle(Carried::Moved(handle)))
    }
}

fn three(handles: Vec<OwnedHandle>) -> Result<[OwnedHandle; HANDLES], StreamError> {
    handles.try_into().map_err(|_| StreamError::NotAnEnd)
}

fn decode_three(decoder: &mut Decoder) -> Result<[OwnedHandle; HANDLES], WireError> {
    Ok([decoder.handle()?, decoder.handle()?, decoder.handle()?])
}

macro_rules! end {
    ($end:ident, $open:ident, $rules:ident, $on_data:ident, $on_room:ident) => {
        impl $end {
            /// The handles of a message, as an end. They are closed if they are none.
            ///
            /// # Errors
            /// `NotAnEnd`; those of a query.
            pub fn from_handles(handles: Vec<OwnedHandle>) -> Result<$end, StreamError> {
                $end::checked(three(handles)?)
            }

            fn checked(handles: [OwnedHandle; HANDLES]) -> Result<$end, StreamError> {
                End::of(handles, Rights::$on_data, Rights::$on_room).map($end)
            }

            /// Its handles: memory, notification of data, notification of room.
            pub fn into_handles(self) -> [OwnedHandle; HANDLES] {
                self.0.handles()
            }

            /// A message that takes it along.
            pub fn into_message(self, label: u32) -> Message {
                self.into_handles()
                    .into_iter()
                    .fold(Message::new(label), Message::with_moved)
            }

            /// Opens it: from now on it belongs to this process.
            ///
            /// # Errors
            /// `NotAnEnd` if the memory has no such size; `NoMemory`, `QuotaExceeded`.
            pub fn open(self) -> Result<$open, StreamError> {
                let (mapped, capacity, data, room) = self.0.open()?;
                Ok($open::new($rules::new(mapped, capacity), data, room))
            }
        }

        impl Wire for $end {
            const HANDLES: usize = HANDLES;

            fn decode(decoder: &mut Decoder) -> Result<$end, WireError> {
                $end::checked(decode_three(decoder)?).map_err(|_| WireError::OutOfRange)
            }
        }

        /// Moves it.
        impl Carries<$end> for $end {
            fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
                self.0.encode(encoder)
            }
        }
    };
}
end!(WriterEnd, StreamWriter, Writer, SIGNAL, WAIT);
end!(ReaderEnd, StreamReader, Reader, WAIT, SIGNAL);
