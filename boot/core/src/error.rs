//! The one message a person reads when a boot fails.
//!
//! A loader's user sees a single line on a console that may scroll away, so it has to name the file and the
//! fault, in words that say what to mend. Every fault is a value of [`Fault`]; [`BootError`] joins it to the file.

use alloc::string::String;
use core::fmt;

/// What was wrong. The `Display` text is the second half of the message, after the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "fields: `line` counts from 1, `bytes` and `size` are in bytes, `index` is a program header's number"
)]
pub enum Fault {
    // Configuration.
    /// No configuration file on any volume.
    NoConfig,
    /// The configuration is not UTF-8.
    NotText,
    /// A line that is neither an entry, an option, a macro nor a comment.
    BadLine { line: usize, text: String },
    /// An option whose value cannot be understood.
    BadOption {
        line: usize,
        key: String,
        value: String,
        expected: &'static str,
    },
    /// `${` without its `}`.
    UnclosedMacro { line: usize },
    /// Macros that blow the file up beyond reason.
    MacroOverflow,
    /// A sub-entry deeper than its place allows.
    ParentlessEntry { line: usize, name: String },
    /// No entry at all.
    NoEntries,
    /// `default_entry` names nothing.
    NoSuchEntry { wanted: String, count: usize },
    /// The chosen entry is a folder of entries.
    EntryIsFolder { name: String },
    /// An entry lacks an option it cannot do without.
    MissingOption { entry: String, key: &'static str },
    /// An entry asks for a boot protocol other than Limine's.
    WrongProtocol { entry: String, protocol: String },
    /// `module_string` before any `module_path`.
    StringWithoutModule { line: usize },

    // Paths and files.
    /// A path that does not read `resource(argument):/path`.
    BadPath,
    /// A path on a kind of volume that this loader cannot read.
    UnsupportedResource(String),
    /// A `#` suffix that is no BLAKE2b hash.
    BadHash,
    /// The volume is not there.
    NoSuchVolume,
    /// The file is not there.
    NotFound,
    /// The path names a folder.
    IsFolder,
    /// The firmware failed to read the file.
    ReadFailed(String),
    /// The contents do not have the stated hash.
    HashMismatch,
    /// The file is empty.
    Empty,
    /// No memory for the file.
    NoMemory { bytes: u64 },

    // ELF.
    /// Not an ELF file, or one cut off within its headers.
    NotElf(&'static str),
    /// An ELF file for something else.
    WrongMachine { what: &'static str, found: u64 },
    /// Nothing to load.
    NoSegments,
    /// A segment's bytes lie beyond the end of the file.
    SegmentTruncated { index: usize, end: u64, size: u64 },
    /// A segment holds more bytes in the file than in memory.
    SegmentShrinks { index: usize },
    /// A segment's alignment is not a power of two, or its address and offset disagree with it.
    SegmentMisaligned { index: usize, align: u64 },
    /// A segment ends past the end of the address space.
    SegmentWraps { index: usize },
    /// Two segments cover the same bytes.
    SegmentsOverlap { first: usize, second: usize },
    /// A static kernel linked below the higher half.
    LowerHalf { index: usize, vaddr: u64 },
    /// The image does not fit between 2^64 - 2 GiB and the end.
    ImageTooLarge { bytes: u64 },
    /// The entry point lies outside every executable segment.
    BadEntryPoint { entry: u64 },
    /// A relocation table that lies outside the image or has a wrong entry size.
    BadRelocationTable,
    /// A relocation that no loader of freestanding images does.
    UnsupportedRelocation { kind: u32 },
    /// A relocation whose place lies outside the image.
    RelocationOutside { offset: u64 },

    // Requests.
    /// Two requests with one ID.
    DuplicateRequest(&'static str),
    /// Request delimiters in the wrong order.
    BadDelimiters,
    /// A request reaches beyond the image.
    RequestTruncated(&'static str),
    /// The kernel or the configuration insists on 5-level paging.
    PagingMode,
    /// The requested stack is beyond reason.
    StackTooLarge { bytes: u64 },

    // Machine.
    /// Not enough memory for what the kernel is owed.
    OutOfMemory { what: &'static str, bytes: u64 },
    /// A table that was measured beforehand came out larger.
    ArenaFull { what: &'static str },
    /// Physical memory beyond what the direct map has room for.
    PhysicalTooHigh { end: u64 },
    /// The firmware runs with 5-level paging, which cannot be left in long mode.
    FirmwarePaging,
    /// What the Multiboot loader says of the machine makes no sense.
    Multiboot { what: &'static str },
    /// The firmware refused something.
    Firmware { what: &'static str, status: String },
}

impl fmt::Display for Fault {
    #[allow(
        clippy::too_many_lines,
        reason = "one line a fault: splitting the table would only hide it"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConfig => f.write_str("not found on any volume"),
            Self::NotText => f.write_str("is not UTF-8 text"),
            Self::BadLine { line, text } => {
                write!(
                    f,
                    "line {line}: '{text}' is neither an entry (/Name), an option (key: value) nor a comment (#)"
                )
            }
            Self::BadOption {
                line,
                key,
                value,
                expected,
            } => {
                write!(
                    f,
                    "line {line}: bad option '{key}: {value}', expected {expected}"
                )
            }
            Self::UnclosedMacro { line } => write!(f, "line {line}: '${{' without a closing '}}'"),
            Self::MacroOverflow => f.write_str("macros expand to more than 1 MiB"),
            Self::ParentlessEntry { line, name } => {
                write!(f, "line {line}: sub-entry '{name}' has no entry above it")
            }
            Self::NoEntries => f.write_str("has no boot entry (/Name)"),
            Self::NoSuchEntry { wanted, count } => {
                write!(
                    f,
                    "default_entry '{wanted}' names no entry, there are {count}"
                )
            }
            Self::EntryIsFolder { name } => {
                write!(
                    f,
                    "default_entry names '{name}', which is a folder of entries"
                )
            }
            Self::MissingOption { entry, key } => write!(f, "entry '{entry}' has no '{key}'"),
            Self::WrongProtocol { entry, protocol } => write!(
                f,
                "entry '{entry}' wants protocol '{protocol}', this loader speaks only 'limine'"
            ),
            Self::StringWithoutModule { line } => {
                write!(
                    f,
                    "line {line}: module_string without a module_path before it"
                )
            }
            Self::BadPath => f.write_str("bad path, expected one like boot():/folder/file"),
            Self::UnsupportedResource(r) => {
                write!(
                    f,
                    "'{r}' is no volume this loader can read (boot, guid, uuid, fslabel)"
                )
            }
            Self::BadHash => {
                f.write_str("bad hash after '#', expected 128 hexadecimal digits (BLAKE2b)")
            }
            Self::NoSuchVolume => f.write_str("no such volume"),
            Self::NotFound => f.write_str("file not found"),
            Self::IsFolder => f.write_str("is a folder, not a file"),
            Self::ReadFailed(why) => write!(f, "cannot be read ({why})"),
            Self::HashMismatch => f.write_str("its contents do not match the hash in its path"),
            Self::Empty => f.write_str("the file is empty"),
            Self::NoMemory { bytes } => write!(
                f,
                "too little memory, {} KiB needed to load it",
                bytes.div_ceil(1024)
            ),
            Self::NotElf(why) => write!(f, "not an ELF file ({why})"),
            Self::WrongMachine { what, found } => {
                write!(f, "wrong kind of ELF file: {what} (found {found})")
            }
            Self::NoSegments => f.write_str("ELF file has no loadable segment"),
            Self::SegmentTruncated { index, end, size } => write!(
                f,
                "truncated ELF file: segment {index} ends at byte {end}, the file has {size}"
            ),
            Self::SegmentShrinks { index } => {
                write!(
                    f,
                    "bad ELF file: segment {index} is larger in the file than in memory"
                )
            }
            Self::SegmentMisaligned { index, align } => {
                write!(
                    f,
                    "bad ELF file: segment {index} does not fit its alignment {align:#x}"
                )
            }
            Self::SegmentWraps { index } => {
                write!(
                    f,
                    "bad ELF file: segment {index} runs past the end of the address space"
                )
            }
            Self::SegmentsOverlap { first, second } => {
                write!(f, "bad ELF file: segments {first} and {second} overlap")
            }
            Self::LowerHalf { index, vaddr } => write!(
                f,
                "static ELF file linked too low: segment {index} at {vaddr:#x}, the lowest is 0xffffffff80000000"
            ),
            Self::ImageTooLarge { bytes } => {
                write!(
                    f,
                    "bad ELF file: its image of {bytes} bytes does not fit the top 2 GiB"
                )
            }
            Self::BadEntryPoint { entry } => {
                write!(f, "entry point {entry:#x} lies in no executable segment")
            }
            Self::BadRelocationTable => {
                f.write_str("bad ELF file: its relocation table lies outside the image")
            }
            Self::UnsupportedRelocation { kind } => {
                write!(f, "ELF relocation of type {kind} is not supported")
            }
            Self::RelocationOutside { offset } => {
                write!(
                    f,
                    "bad ELF file: relocation at {offset:#x} lies outside the image"
                )
            }
            Self::DuplicateRequest(name) => write!(f, "makes the Limine request '{name}' twice"),
            Self::BadDelimiters => {
                f.write_str("its Limine request end marker comes before the start marker")
            }
            Self::RequestTruncated(name) => {
                write!(f, "its Limine request '{name}' reaches past the image")
            }
            Self::PagingMode => {
                f.write_str("insists on 5-level paging, this loader offers 4 levels")
            }
            Self::StackTooLarge { bytes } => write!(f, "asks for a stack of {bytes} bytes"),
            Self::OutOfMemory { what, bytes } => {
                write!(
                    f,
                    "too little memory, {} KiB needed for {what}",
                    bytes.div_ceil(1024)
                )
            }
            Self::ArenaFull { what } => write!(f, "no room left for {what}"),
            Self::PhysicalTooHigh { end } => {
                write!(
                    f,
                    "physical memory up to {end:#x} is more than the direct map holds"
                )
            }
            Self::FirmwarePaging => {
                f.write_str("the firmware runs with 5-level paging, which this loader cannot leave")
            }
            Self::Multiboot { what } => {
                write!(f, "the Multiboot loader's information {what}")
            }
            Self::Firmware { what, status } => {
                write!(f, "the firmware failed to {what} ({status})")
            }
        }
    }
}

/// A fault and the file, or the part of the machine, that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootError {
    /// The file as the configuration names it, or what else is at fault.
    pub file: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.fault)
    }
}

/// Joins a fault to the file that has it.
pub trait InFile<T> {
    /// Names `file` as the one at fault.
    ///
    /// # Errors
    /// The fault, joined to `file`.
    fn in_file(self, file: &str) -> Result<T, BootError>;
}

impl<T> InFile<T> for Result<T, Fault> {
    fn in_file(self, file: &str) -> Result<T, BootError> {
        self.map_err(|fault| BootError {
            file: file.into(),
            fault,
        })
    }
}
