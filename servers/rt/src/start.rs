//! The start block: what the program was given, by name; and how such a block is made for another.
//!
//! Each handle can be taken once, since it then has an owner. Values and the argument string can be read at any time.
//! A block is data from another process, so it is checked before use; the parser works on plain bytes and never panics.

use alloc::string::String;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use abi::Handle;
use abi::start::{MAGIC, NAME_BYTES, StartEntry, StartHeader, VERSION};

use crate::OwnedHandle;

const HEADER_BYTES: usize = size_of::<StartHeader>();
const ENTRY_BYTES: usize = size_of::<StartEntry>();
/// Most entries whose taking can be noted; a block with more is refused.
pub const MAX_ENTRIES: usize = 1024;

/// Why a start block is none, or lacks something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartError {
    /// It does not begin with the magic number.
    NoMagic,
    /// It is of another version.
    Version(u32),
    /// It is shorter than it says.
    Truncated,
    /// It has more than [`MAX_ENTRIES`] entries.
    TooManyEntries,
    /// The argument string is not UTF-8.
    NotUtf8,
    /// There is no entry of this name.
    Missing(String),
    /// The handle of this name was taken before.
    Taken(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoMagic => f.write_str("not a start block"),
            StartError::Version(version) => write!(f, "start block of version {version}"),
            StartError::Truncated => f.write_str("start block is truncated"),
            StartError::TooManyEntries => f.write_str("start block has too many entries"),
            StartError::NotUtf8 => f.write_str("argument string is not UTF-8"),
            StartError::Missing(name) => write!(f, "was not given '{name}'"),
            StartError::Taken(name) => write!(f, "'{name}' was taken before"),
        }
    }
}

impl core::error::Error for StartError {}

/// A start block, read from bytes.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    entries: &'a [u8],
    argument: &'a str,
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

impl<'a> Block<'a> {
    /// How long the block with this header is; `None` if no block could be.
    fn length(header: &[u8]) -> Option<usize> {
        let count = (word(header, 8) >> 32) as usize;
        let argument = usize::try_from(word(header, 16)).ok()?;
        count
            .checked_mul(ENTRY_BYTES)?
            .checked_add(HEADER_BYTES)?
            .checked_add(argument)
    }

    /// Reads a block.
    ///
    /// # Errors
    /// Names the first thing wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Block<'a>, StartError> {
        if bytes.len() < HEADER_BYTES {
            return Err(StartError::Truncated);
        }
        if word(bytes, 0) != MAGIC {
            return Err(StartError::NoMagic);
        }
        let version = word(bytes, 8) as u32;
        if version != VERSION {
            return Err(StartError::Version(version));
        }
        let count = (word(bytes, 8) >> 32) as usize;
        if count > MAX_ENTRIES {
            return Err(StartError::TooManyEntries);
        }
        let length = Block::length(bytes).ok_or(StartError::Truncated)?;
        let end = HEADER_BYTES + count * ENTRY_BYTES;
        let entries = bytes.get(HEADER_BYTES..end).ok_or(StartError::Truncated)?;
        let argument = bytes.get(end..length).ok_or(StartError::Truncated)?;
        Ok(Block {
            entries,
            argument: str::from_utf8(argument).map_err(|_| StartError::NotUtf8)?,
        })
    }

    /// The argument string.
    pub const fn argument(&self) -> &'a str {
        self.argument
    }

    /// All entries in order: name, handle, value. A name that is not UTF-8 is passed over.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        self.entries
            .chunks_exact(ENTRY_BYTES)
            .enumerate()
            .filter_map(|(index, entry)| {
                let name = &entry[..NAME_BYTES];
                let end = name
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(NAME_BYTES);
                Some(Entry {
                    index,
                    name: str::from_utf8(&name[..end]).ok()?,
                    handle: Handle(word(entry, NAME_BYTES)),
                    value: word(entry, NAME_BYTES + 8),
                })
            })
    }
}

/// One entry of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    index: usize,
    /// Its name.
    pub name: &'a str,
    /// Its handle, [`Handle::NONE`] if it is a plain value.
    pub handle: Handle,
    /// The value that belongs to it.
    pub value: u64,
}

/// Makes a start block.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    entries: Vec<StartEntry>,
}

impl Builder {
    /// An empty one.
    pub const fn new() -> Builder {
        Builder {
            entries: Vec::new(),
        }
    }

    /// Adds a handle, by its number in the program's own table, and the value that belongs to it.
    ///
    /// # Errors
    /// `OutOfRange` if the name is longer than 32 bytes, or there are too many entries.
    pub fn add(&mut self, name: &str, handle: Handle, value: u64) -> crate::Result<()> {
        if name.len() > NAME_BYTES || self.entries.len() >= MAX_ENTRIES {
            return Err(abi::Error::OutOfRange);
        }
        self.entries.push(StartEntry::new(name, handle, value));
        Ok(())
    }

    /// The block's bytes.
    pub fn build(&self, argument: &str) -> Vec<u8> {
        Self::bytes(argument, self.entries.iter())
    }

    /// The block's bytes, with plain values behind its own entries, but for those that are 0.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn build_with(&self, argument: &str, values: &[(&str, u64)]) -> crate::Result<Vec<u8>> {
        let values = || values.iter().filter(|(_, value)| *value != 0);
        if values().any(|(name, _)| name.len() > NAME_BYTES)
            || self.entries.len() + values().count() > MAX_ENTRIES
        {
            return Err(abi::Error::OutOfRange);
        }
        let more = values().map(|&(name, value)| StartEntry::new(name, Handle::NONE, value));
        Ok(Self::bytes(
            argument,
            self.entries.iter().copied().chain(more),
        ))
    }

    fn bytes(
        argument: &str,
        entries: impl Iterator<Item = impl Borrow<StartEntry>> + Clone,
    ) -> Vec<u8> {
        let count = entries.clone().count();
        let mut block = Vec::with_capacity(HEADER_BYTES + count * ENTRY_BYTES + argument.len());
        block.extend_from_slice(&MAGIC.to_le_bytes());
        block.extend_from_slice(&VERSION.to_le_bytes());
        block.extend_from_slice(&(count as u32).to_le_bytes());
        block.extend_from_slice(&(argument.len() as u64).to_le_bytes());
        for entry in entries {
            let entry = entry.borrow();
            block.extend_from_slice(&entry.name);
            block.extend_from_slice(&entry.handle.to_le_bytes());
            block.extend_from_slice(&entry.value.to_le_bytes());
        }
        block.extend_from_slice(argument.as_bytes());
        block
    }
}

/// The program's own block; null on the host until [`adopt`].
static BLOCK: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static BLOCK_BYTES: AtomicU64 = AtomicU64::new(0);
/// One bit for each entry whose handle has an owner.
static TAKEN: [AtomicU64; MAX_ENTRIES / 64] = [const { AtomicU64::new(0) }; MAX_ENTRIES / 64];

/// Makes a block the program's own.
pub(crate) fn adopt(block: &'static [u8]) {
    BLOCK_BYTES.store(block.len() as u64, Ordering::Relaxed);
    BLOCK.store(block.as_ptr().cast_mut(), Ordering::Release);
}

/// Makes the block that `_start` found the program's own, after checking it.
///
/// # Safety
/// `address` is null or points to a start block that stays mapped and unchanged.
#[cfg(target_env = "musl")]
pub(crate) unsafe fn adopt_raw(address: *const u8) -> Result<(), StartError> {
    if address.is_null() {
        return Err(StartError::NoMagic);
    }
    // SAFETY: the caller's promise: at least a header is there.
    let header = unsafe { core::slice::from_raw_parts(address, HEADER_BYTES) };
    if word(header, 0) != MAGIC {
        return Err(StartError::NoMagic);
    }
    let length = Block::length(header).ok_or(StartError::Truncated)?;
    // SAFETY: the caller's promise: a block is as long as its header says.
    let block = unsafe { core::slice::from_raw_parts(address, length) };
    Block::parse(block)?;
    adopt(block);
    Ok(())
}

/// The program's own block; an empty one if it was given none.
pub fn block() -> Block<'static> {
    let address = BLOCK.load(Ordering::Acquire);
    if address.is_null() {
        return Block {
            entries: &[],
            argument: "",
        };
    }
    // SAFETY: `adopt` stored a static slice's address and length, the length first.
    let bytes = unsafe {
        core::slice::from_raw_parts(address, BLOCK_BYTES.load(Ordering::Relaxed) as usize)
    };
    Block::parse(bytes).unwrap_or(Block {
        entries: &[],
        argument: "",
    })
}

/// The program's argument string.
pub fn argument() -> &'static str {
    block().argument()
}

/// The value of an entry.
///
/// # Errors
/// `Missing`.
pub fn value(name: &str) -> Result<u64, StartError> {
    find(name).map(|entry| entry.value)
}

/// Takes the handle of an entry, as the type of its object.
///
/// # Errors
/// `Missing` if there is no such entry or it has no handle, `Taken` if it was taken before.
pub fn take<T: From<OwnedHandle>>(name: &str) -> Result<T, StartError> {
    let entry = find(name)?;
    if entry.handle.is_none() {
        return Err(StartError::Missing(String::from(name)));
    }
    let bit = 1 << (entry.index % 64);
    if TAKEN[entry.index / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return Err(StartError::Taken(String::from(name)));
    }
    Ok(T::from(OwnedHandle::from_raw(entry.handle)))
}

/// The number of an entry's handle, without taking it.
pub(crate) fn peek(name: &str) -> Option<Handle> {
    block()
        .entries()
        .find(|entry| entry.name == name && !entry.handle.is_none())
        .map(|entry| entry.handle)
}

fn find(name: &str) -> Result<Entry<'static>, StartError> {
    block()
        .entries()
        .find(|entry| entry.name == name)
        .ok_or_else(|| StartError::Missing(String::from(name)))
}

/// What `main` may return.
pub trait ExitCode {
    /// The process's exit code.
    fn code(self) -> u64;
}

impl ExitCode for () {
    fn code(self) -> u64 {
        0
    }
}

impl ExitCode for u64 {
    fn code(self) -> u64 {
        self
    }
}

impl ExitCode for core::convert::Infallible {
    fn code(self) -> u64 {
        match self {}
    }
}

impl<E: fmt::Display> ExitCode for Result<(), E> {
    /// An error is logged and makes code 1.
    fn code(self) -> u64 {
        match self {
            Ok(()) => 0,
            Err(error) => {
                log::error!("{error}");
                1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn sample() -> Vec<u8> {
        let mut builder = Builder::new();
        builder.add("log", Handle::new(3, 1), 0).unwrap();
        builder
            .add("a-name-of-exactly-thirty-two-byt", Handle::NONE, 77)
            .unwrap();
        builder.build("manifest=tests")
    }

    #[test]
    fn block_comes_back_as_it_was_built() {
        let bytes = sample();
        let block = Block::parse(&bytes).unwrap();
        assert_eq!(block.argument(), "manifest=tests");
        let entries: Vec<_> = block
            .entries()
            .map(|entry| (entry.name, entry.handle, entry.value))
            .collect();
        assert_eq!(
            entries,
            vec![
                ("log", Handle::new(3, 1), 0),
                ("a-name-of-exactly-thirty-two-byt", Handle::NONE, 77)
            ]
        );
    }

    #[test]
    fn name_too_long_is_refused() {
        let name = "x".repeat(33);
        assert_eq!(
            Builder::new().add(&name, Handle::NONE, 0),
            Err(abi::Error::OutOfRange)
        );
    }

    #[test]
    fn every_truncation_is_named() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert_eq!(
                Block::parse(&bytes[..length]).unwrap_err(),
                StartError::Truncated,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn bad_fields_are_named() {
        let mut bytes = sample();
        bytes[0] ^= 1;
        assert_eq!(Block::parse(&bytes).unwrap_err(), StartError::NoMagic);
        let mut bytes = sample();
        bytes[8] = 9;
        assert_eq!(Block::parse(&bytes).unwrap_err(), StartError::Version(9));
        let mut bytes = sample();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            Block::parse(&bytes).unwrap_err(),
            StartError::TooManyEntries
        );
        let mut bytes = sample();
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Block::parse(&bytes).unwrap_err(), StartError::Truncated);
        let mut bytes = sample();
        *bytes.last_mut().unwrap() = 0xFF;
        assert_eq!(Block::parse(&bytes).unwrap_err(), StartError::NotUtf8);
    }
}
