//! `init`: the one program that the kernel loads itself.
//!
//! It gets the handles from which all others derive: the system, the log, the initrd. They are named in its start block,
//! whose argument is the kernel's command line.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::layout::{IPC_AREAS_START, PAGE_SIZE};
use abi::start::{self, StartEntry, StartHeader};
use abi::{Badge, Error, Handle, Priority, Protection, Rights};

use super::image::{Image, ImageError};
use super::protocol::Extent;
use crate::memory::account::Account;
use crate::memory::frames;
use crate::memory::object::MemoryObject;
use crate::memory::space::{Mode, Space};
use crate::object::{AnyObject, Capability, Ref};
use crate::process::{Name, Process};
use crate::spawn::{self, Begin};
use crate::{machine, schedule};

/// Bytes of its stack, given on demand.
const STACK_BYTES: u64 = 256 * 1024;
/// Top of its stack.
const STACK_TOP: u64 = IPC_AREAS_START - (1 << 30);
/// Where its start block is mapped.
const START_BLOCK: u64 = STACK_TOP + (1 << 20);

/// Number of the first process; 0 before it exists.
static FIRST: AtomicU64 = AtomicU64::new(0);

/// Why `init` can't be started.
#[derive(Debug)]
pub(super) enum FirstProcessError {
    Missing,
    NoInitrd,
    Image(ImageError),
    Kernel(Error),
}

impl fmt::Display for FirstProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FirstProcessError::Missing => f.write_str("the boot loader brought no module `init`"),
            FirstProcessError::NoInitrd => {
                f.write_str("the boot loader brought no module `initrd`")
            }
            FirstProcessError::Image(error) => write!(f, "init: {error}"),
            FirstProcessError::Kernel(error) => write!(f, "init can't be started: {error}"),
        }
    }
}

impl From<Error> for FirstProcessError {
    fn from(error: Error) -> Self {
        FirstProcessError::Kernel(error)
    }
}

/// Whether this process number is the first process's.
pub fn is(process: u64) -> bool {
    FIRST.load(Ordering::Relaxed) == process
}

/// Loads and starts `init`.
pub(super) fn start(
    init: Option<Extent>,
    initrd: Option<Extent>,
    line: &str,
) -> Result<(), FirstProcessError> {
    let init = init.ok_or(FirstProcessError::Missing)?;
    let initrd = initrd.ok_or(FirstProcessError::NoInitrd)?;
    // SAFETY: modules lie in memory of the kernel's kind, which is never reclaimed, and nobody writes to it.
    let image = Image::parse(unsafe { init.contents() }).map_err(FirstProcessError::Image)?;
    let process = Process::create(
        Name::new(b"init")?,
        Account::create(frames::statistics().total)?,
        Priority::HIGHEST,
        Mode::Long,
    )?;
    // Until it is started it is in our hands: one that only its own handles name would end.
    let ours = Capability::new(AnyObject::Process(process.clone()), Rights::NONE, Badge(0));
    let space = process.space()?;
    for segment in image.segments() {
        let memory = MemoryObject::create(segment.bytes, Some(process.account().clone()))?;
        memory.write(segment.skip, segment.contents)?;
        space.map(
            &memory,
            segment.protection.needs(),
            segment.address,
            0,
            segment.bytes,
            segment.protection,
        )?;
    }
    let stack = MemoryObject::create(STACK_BYTES, Some(process.account().clone()))?;
    let at = STACK_TOP - STACK_BYTES;
    space.map(
        &stack,
        Rights::READ | Rights::WRITE,
        at,
        0,
        STACK_BYTES,
        Protection::READ_WRITE,
    )?;
    map_start_block(&process, &space, initrd, line)?;
    let begin = Begin {
        entry: image.entry(),
        stack: STACK_TOP,
        argument: START_BLOCK,
        priority: Priority::NORMAL,
    };
    let thread = spawn::thread(process, begin)?;
    spawn::list(thread.clone())?;
    FIRST.store(thread.process().id(), Ordering::Relaxed);
    machine::set_first_user_ns(arch::time::now_ns());
    schedule::start(&thread)?;
    drop(ours);
    Ok(())
}

fn map_start_block(
    process: &Ref<Process>,
    space: &Space,
    initrd: Extent,
    line: &str,
) -> Result<(), FirstProcessError> {
    let give = |object, rights| {
        process
            .grant(Capability::new(object, rights, Badge(0)))
            .map_err(|(error, refused)| {
                drop(refused);
                error
            })
    };
    let whole = initrd.bytes.next_multiple_of(PAGE_SIZE);
    // SAFETY: the module lies in the direct map, in memory that nobody else uses and that is never reclaimed.
    let archive = unsafe { MemoryObject::create_from_ram(initrd.start.as_u64(), whole) }?;
    let entries = [
        StartEntry::new(
            start::init::SYSTEM,
            give(AnyObject::System, Rights::ALL)?,
            0,
        ),
        StartEntry::new(start::init::LOG, give(AnyObject::Log, Rights::ALL)?, 0),
        StartEntry::new(
            start::init::INITRD,
            give(
                AnyObject::Memory(archive),
                Rights::READ | Rights::DUPLICATE | Rights::TRANSFER | Rights::QUERY,
            )?,
            initrd.bytes,
        ),
        StartEntry::new(
            start::names::PROCESS,
            give(
                AnyObject::Process(process.clone()),
                Rights::MANAGE | Rights::QUERY | Rights::DUPLICATE | Rights::TRANSFER,
            )?,
            0,
        ),
        StartEntry::new(
            start::names::SYSINFO_EHDR,
            Handle::NONE,
            space.landing_image(),
        ),
    ];
    let header = StartHeader {
        magic: start::MAGIC,
        version: start::VERSION,
        count: entries.len() as u32,
        argument_bytes: line.len() as u64,
    };
    let block = MemoryObject::create(2 * PAGE_SIZE, Some(process.account().clone()))?;
    block.write(0, bytes_of(&header))?;
    let mut offset = size_of::<StartHeader>() as u64;
    for entry in &entries {
        block.write(offset, bytes_of(entry))?;
        offset += size_of::<StartEntry>() as u64;
    }
    block.write(offset, line.as_bytes())?;
    space.map(
        &block,
        Rights::READ,
        START_BLOCK,
        0,
        2 * PAGE_SIZE,
        Protection::READ,
    )?;
    Ok(())
}

/// The bytes of a structure of the ABI.
fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: the structures of `abi::start` are `repr(C)` and have no padding (their sizes are asserted there).
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}
