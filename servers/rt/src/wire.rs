//! How typed values travel in a message.
//!
//! Numbers take the message's words in order, and spill into its bytes as eight bytes each when the six words are used
//! up. Strings and byte strings take a number (their length) and their bytes. Kernel objects take a handle slot. Both
//! sides walk the same types in the same order, so nothing else is written down; what is left over or missing at the end
//! is an error, as is a value out of its type's range. Nothing here trusts the other side.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use abi::ipc_area::{BUFFER_BYTES, MAX_HANDLES};
use abi::register::MESSAGE_WORDS;

use crate::{
    AsHandle, Carried, Endpoint, Memory, Message, Notification, OwnedHandle, Process, Received,
};

/// Why a message doesn't carry the values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// The values take more than 4096 bytes.
    TooLong,
    /// They take more than four handles.
    TooManyHandles,
    /// The message ends before the values do.
    Missing,
    /// The values end before the message does.
    LeftOver,
    /// A number is out of its type's range.
    OutOfRange,
    /// A string is not UTF-8.
    NotUtf8,
}

impl WireError {
    /// The error in words.
    pub const fn text(self) -> &'static str {
        match self {
            WireError::TooLong => "more than 4096 bytes",
            WireError::TooManyHandles => "more than 4 handles",
            WireError::Missing => "message too short",
            WireError::LeftOver => "message too long",
            WireError::OutOfRange => "number out of range",
            WireError::NotUtf8 => "text is not UTF-8",
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for WireError {}

/// Puts values into a message.
#[derive(Debug)]
pub struct Encoder {
    message: Message,
    words: usize,
}

impl Encoder {
    /// Begins a message.
    pub const fn new(label: u32) -> Encoder {
        Encoder {
            message: Message::new(label),
            words: 0,
        }
    }

    /// Adds a number.
    ///
    /// # Errors
    /// `TooLong`.
    pub fn word(&mut self, word: u64) -> Result<(), WireError> {
        if self.words < MESSAGE_WORDS {
            self.message.words[self.words] = word;
            self.words += 1;
            return Ok(());
        }
        self.raw_bytes(&word.to_le_bytes())
    }

    /// Adds a byte string.
    ///
    /// # Errors
    /// `TooLong`.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.word(bytes.len() as u64)?;
        self.raw_bytes(bytes)
    }

    fn raw_bytes(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if self.message.bytes.len() + bytes.len() > BUFFER_BYTES {
            return Err(WireError::TooLong);
        }
        self.message.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds a handle.
    ///
    /// # Errors
    /// `TooManyHandles`.
    pub fn handle(&mut self, carried: Carried) -> Result<(), WireError> {
        if self.message.handles.len() == MAX_HANDLES {
            return Err(WireError::TooManyHandles);
        }
        self.message.handles.push(carried);
        Ok(())
    }

    /// The message.
    pub fn finish(self) -> Message {
        self.message
    }
}

/// Takes values out of a message.
#[derive(Debug)]
pub struct Decoder {
    words: [u64; MESSAGE_WORDS],
    next_word: usize,
    bytes: Vec<u8>,
    next_byte: usize,
    handles: alloc::vec::IntoIter<OwnedHandle>,
}

impl Decoder {
    /// Begins to take a message apart.
    pub fn new(received: Received) -> Decoder {
        Decoder {
            words: received.words,
            next_word: 0,
            bytes: received.bytes,
            next_byte: 0,
            handles: received.handles.into_iter(),
        }
    }

    /// The next number.
    ///
    /// # Errors
    /// `Missing`.
    pub fn word(&mut self) -> Result<u64, WireError> {
        if self.next_word < MESSAGE_WORDS {
            self.next_word += 1;
            return Ok(self.words[self.next_word - 1]);
        }
        let bytes = self.raw_bytes(8)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }

    /// The next byte string.
    ///
    /// # Errors
    /// `Missing`.
    pub fn bytes(&mut self) -> Result<&[u8], WireError> {
        let length = usize::try_from(self.word()?).map_err(|_| WireError::Missing)?;
        self.raw_bytes(length)
    }

    fn raw_bytes(&mut self, length: usize) -> Result<&[u8], WireError> {
        let end = self
            .next_byte
            .checked_add(length)
            .ok_or(WireError::Missing)?;
        let bytes = self
            .bytes
            .get(self.next_byte..end)
            .ok_or(WireError::Missing)?;
        self.next_byte = end;
        Ok(bytes)
    }

    /// The next handle.
    ///
    /// # Errors
    /// `Missing`.
    pub fn handle(&mut self) -> Result<OwnedHandle, WireError> {
        self.handles.next().ok_or(WireError::Missing)
    }

    /// Whether all was taken.
    ///
    /// # Errors
    /// `LeftOver`.
    pub fn finish(self) -> Result<(), WireError> {
        if self.next_byte != self.bytes.len() || self.handles.len() != 0 {
            return Err(WireError::LeftOver);
        }
        Ok(())
    }
}

/// A type that can come out of a message.
pub trait Wire: Sized {
    /// How many handles it brings at most.
    const HANDLES: usize = 0;

    /// Takes a value.
    ///
    /// # Errors
    /// Names what doesn't fit.
    fn decode(decoder: &mut Decoder) -> Result<Self, WireError>;
}

/// A type that can be put into a message where a `T` is taken out at the other side.
pub trait Carries<T> {
    /// Puts it in.
    ///
    /// # Errors
    /// `TooLong`, `TooManyHandles`.
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            fn decode(decoder: &mut Decoder) -> Result<Self, WireError> {
                <$number>::try_from(decoder.word()?).map_err(|_| WireError::OutOfRange)
            }
        }
        impl Carries<$number> for $number {
            fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
                encoder.word(u64::from(self))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

impl Wire for bool {
    fn decode(decoder: &mut Decoder) -> Result<bool, WireError> {
        match decoder.word()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::OutOfRange),
        }
    }
}

impl Carries<bool> for bool {
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        encoder.word(u64::from(self))
    }
}

impl Wire for Vec<u8> {
    fn decode(decoder: &mut Decoder) -> Result<Vec<u8>, WireError> {
        decoder.bytes().map(<[u8]>::to_vec)
    }
}

impl Carries<Vec<u8>> for &[u8] {
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        encoder.bytes(self)
    }
}

impl Carries<Vec<u8>> for Vec<u8> {
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        encoder.bytes(&self)
    }
}

impl Wire for String {
    fn decode(decoder: &mut Decoder) -> Result<String, WireError> {
        str::from_utf8(decoder.bytes()?)
            .map(String::from)
            .map_err(|_| WireError::NotUtf8)
    }
}

impl Carries<String> for &str {
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        encoder.bytes(self.as_bytes())
    }
}

impl Carries<String> for String {
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        encoder.bytes(self.as_bytes())
    }
}

/// A list of values, each as it travels alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct List<T>(pub Vec<T>);

impl<T: Wire> Wire for List<T> {
    const HANDLES: usize = if T::HANDLES == 0 { 0 } else { MAX_HANDLES };

    fn decode(decoder: &mut Decoder) -> Result<List<T>, WireError> {
        let count = decoder.word()?;
        // Not reserved at once: the count is the other side's word, and a wrong one ends at the message's end.
        if count > BUFFER_BYTES as u64 {
            return Err(WireError::Missing);
        }
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(T::decode(decoder)?);
        }
        Ok(List(list))
    }
}

impl<T: Carries<T>> Carries<List<T>> for List<T> {
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        encoder.word(self.0.len() as u64)?;
        self.0.into_iter().try_for_each(|item| item.encode(encoder))
    }
}

impl<T: Wire> Wire for Option<T> {
    const HANDLES: usize = T::HANDLES;

    fn decode(decoder: &mut Decoder) -> Result<Option<T>, WireError> {
        if bool::decode(decoder)? {
            T::decode(decoder).map(Some)
        } else {
            Ok(None)
        }
    }
}

impl<T, C: Carries<T>> Carries<Option<T>> for Option<C> {
    fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
        self.is_some().encode(encoder)?;
        self.map_or(Ok(()), |value| value.encode(encoder))
    }
}

macro_rules! tuples {
    ($(($($type:ident $carried:ident $field:tt),*))*) => {$(
        impl<$($type: Wire),*> Wire for ($($type,)*) {
            const HANDLES: usize = 0 $(+ $type::HANDLES)*;

            #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple takes nothing")]
            fn decode(decoder: &mut Decoder) -> Result<Self, WireError> {
                Ok(($($type::decode(decoder)?,)*))
            }
        }
        impl<$($type, $carried: Carries<$type>),*> Carries<($($type,)*)> for ($($carried,)*) {
            #[allow(unused_variables, reason = "the empty tuple puts nothing in")]
            fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
                $(self.$field.encode(encoder)?;)*
                Ok(())
            }
        }
    )*};
}
tuples! {
    ()
    (A CA 0)
    (A CA 0, B CB 1)
    (A CA 0, B CB 1, C CC 2)
    (A CA 0, B CB 1, C CC 2, D CD 3)
    (A CA 0, B CB 1, C CC 2, D CD 3, E CE 4)
    (A CA 0, B CB 1, C CC 2, D CD 3, E CE 4, F CF 5)
}

macro_rules! objects {
    ($($object:ty),*) => {$(
        impl Wire for $object {
            const HANDLES: usize = 1;

            fn decode(decoder: &mut Decoder) -> Result<Self, WireError> {
                decoder.handle().map(<$object>::from)
            }
        }
        /// Moves it.
        impl Carries<$object> for $object {
            fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
                encoder.handle(Carried::Moved(self.into()))
            }
        }
        /// Copies it, with all the rights that this handle has.
        impl Carries<$object> for &$object {
            fn encode(self, encoder: &mut Encoder) -> Result<(), WireError> {
                encoder.handle(Carried::Copied(self.handle()))
            }
        }
    )*};
}
objects!(OwnedHandle, Endpoint, Memory, Notification, Process);

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Badge;
    use std::string::ToString;
    use std::vec;

    fn over(message: Message) -> Received {
        let handles = message
            .handles
            .into_iter()
            .map(|carried| match carried {
                Carried::Copied(handle) => OwnedHandle::from_raw(handle),
                Carried::Moved(handle) => handle,
            })
            .collect();
        Received {
            badge: Badge(0),
            label: message.label,
            words: message.words,
            bytes: message.bytes,
            handles,
            reply: None,
        }
    }

    #[test]
    fn values_come_back_and_spill_into_bytes() {
        type Values = (u64, String, List<u32>, (bool, Option<u8>), Vec<u8>);
        let values: Values = (
            u64::MAX,
            "grüße".to_string(),
            List(vec![1, 2, 3, u32::MAX]),
            (true, Some(7)),
            vec![0, 255],
        );
        let mut encoder = Encoder::new(5);
        values.clone().encode(&mut encoder).unwrap();
        let mut decoder = Decoder::new(over(encoder.finish()));
        assert_eq!(Values::decode(&mut decoder).unwrap(), values);
        decoder.finish().unwrap();
    }

    #[test]
    fn bytes_past_the_buffer_are_refused() {
        let mut encoder = Encoder::new(0);
        assert_eq!(vec![0; 4097].encode(&mut encoder), Err(WireError::TooLong));
        let mut encoder = Encoder::new(0);
        assert_eq!(vec![0; 4096].encode(&mut encoder), Ok(()));
    }

    #[test]
    fn lies_of_the_other_side_are_named() {
        let mut short = Received {
            badge: Badge(0),
            label: 0,
            words: [u64::MAX, 0, 0, 0, 0, 0],
            bytes: vec![1, 2, 3],
            handles: vec![],
            reply: None,
        };
        let take = |received: &Received| {
            Decoder::new(Received {
                badge: Badge(0),
                label: 0,
                words: received.words,
                bytes: received.bytes.clone(),
                handles: vec![],
                reply: None,
            })
        };
        assert_eq!(
            Vec::<u8>::decode(&mut take(&short)),
            Err(WireError::Missing)
        );
        assert_eq!(u32::decode(&mut take(&short)), Err(WireError::OutOfRange));
        assert_eq!(bool::decode(&mut take(&short)), Err(WireError::OutOfRange));
        assert_eq!(
            List::<u8>::decode(&mut take(&short)),
            Err(WireError::Missing)
        );
        assert_eq!(Endpoint::decode(&mut take(&short)), Err(WireError::Missing));
        short.words[0] = 2;
        let mut decoder = take(&short);
        assert_eq!(Vec::<u8>::decode(&mut decoder), Ok(vec![1, 2]));
        assert_eq!(decoder.finish(), Err(WireError::LeftOver));
        short.bytes = vec![0xFF, 0xFE];
        assert_eq!(String::decode(&mut take(&short)), Err(WireError::NotUtf8));
    }
}
