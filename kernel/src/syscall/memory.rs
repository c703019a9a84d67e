//! Calls on memory objects and mappings.

use abi::{Call, Error, Handle, MemoryFlags, Protection, Rights};
use arch::paging::Cache;

use super::Caller;
use crate::memory::object::MemoryObject;
use crate::memory::user::UserSlice;
use crate::memory::{PAGE_BYTES, Progress};
use crate::object::{AnyObject, Capability};
use crate::process::Process;
use crate::schedule;
use crate::thread::Thread;

/// `memory_map` and `memory_unmap` of one page of the caller's own space, where that is simple; whether it was done, results included.
/// If not, nothing is: the call goes its ordinary way.
#[inline]
pub(super) fn short(thread: &Thread) -> bool {
    const MAP: u64 = Call::MemoryMap as u64;
    const UNMAP: u64 = Call::MemoryUnmap as u64;
    let registers = thread.registers();
    match registers.call_number {
        MAP if registers.r8 == PAGE_BYTES => short_map(thread),
        UNMAP if registers.rdx == PAGE_BYTES => short_unmap(thread),
        _ => false,
    }
}

/// Whether a capability is a handle to the process of `thread` by which it can be changed.
#[inline]
fn is_own(capability: &Capability, thread: &Thread) -> bool {
    matches!(capability.object(), AnyObject::Process(process) if process.is(thread.process()))
        && capability.rights().contains(Rights::MANAGE)
}

fn short_map(thread: &Thread) -> bool {
    let registers = thread.registers_mut();
    let (address, offset) = (registers.rdx, registers.r10);
    let Some((protection, space)) = Protection::from_bits(registers.r9).zip(thread.space()) else {
        return false;
    };
    // The object is in the table as long as the lock is held. The locks of the space and of memory come after the table's.
    let table = thread.process().table.lock();
    let (Ok(process), Ok(memory)) = (
        table.get(Handle(registers.rdi)),
        table.get(Handle(registers.rsi)),
    ) else {
        return false;
    };
    let AnyObject::Memory(object) = memory.object() else {
        return false;
    };
    let done = is_own(process, thread)
        && space.map_page(object, memory.rights(), address, offset, protection);
    if done {
        registers.rdi = address;
        registers.rax = 0;
    }
    done
}

fn short_unmap(thread: &Thread) -> bool {
    let registers = thread.registers_mut();
    let own = {
        let table = thread.process().table.lock();
        table
            .get(Handle(registers.rdi))
            .is_ok_and(|process| is_own(process, thread))
    };
    let done = own
        && thread
            .space()
            .is_some_and(|space| space.unmap_page(registers.rsi));
    if done {
        registers.rax = 0;
    }
    done
}

/// `memory_create`.
pub(super) fn create(caller: Caller) -> Result<(), Error> {
    let flags = MemoryFlags::from_bits(caller.argument(1)).ok_or(Error::BadArgument)?;
    let account = caller.process().account().clone();
    let memory = MemoryObject::create_with(caller.argument(0), flags, Some(account))?;
    caller.give(AnyObject::Memory(memory), Rights::ALL)
}

/// `memory_clone`.
pub(super) fn clone(caller: Caller) -> Result<(), Error> {
    if caller.argument(1) != 0 {
        return Err(Error::BadArgument);
    }
    let (memory, rights) =
        caller.hold_with_rights::<MemoryObject>(caller.handle(0), Rights::READ)?;
    let clone = memory.clone_for(Some(caller.process().account().clone()))?;
    let kept = rights & Rights::EXECUTE;
    caller.give(
        AnyObject::Memory(clone),
        (Rights::ALL - Rights::EXECUTE) | kept,
    )
}

/// `memory_create_physical`.
pub(super) fn create_physical(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::HARDWARE)?;
    let cache = match caller.argument(3) {
        0 => Cache::Uncached,
        1 => Cache::WriteCombining,
        _ => return Err(Error::BadArgument),
    };
    let memory = MemoryObject::create_device(caller.argument(1), caller.argument(2), cache)?;
    caller.give(AnyObject::Memory(memory), Rights::ALL - Rights::EXECUTE)
}

/// `memory_create_contiguous`.
pub(super) fn create_contiguous(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::HARDWARE)?;
    let [bytes, alignment, limit] = [1, 2, 3].map(|index| caller.argument(index));
    let account = caller.process().account().clone();
    let (memory, start) = MemoryObject::create_contiguous(
        bytes,
        alignment,
        limit,
        Some(account),
        &mut schedule::preemption_point,
    )?;
    caller.give(AnyObject::Memory(memory), Rights::ALL)?;
    caller.set_result(1, start.as_u64());
    Ok(())
}

/// `memory_physical`.
pub(super) fn physical(caller: Caller) -> Result<(), Error> {
    caller.demand(caller.handle(0), false, Rights::HARDWARE)?;
    let memory = caller.hold::<MemoryObject>(caller.handle(1), Rights::NONE)?;
    let (address, bytes) = memory.physical_at(caller.argument(2))?;
    caller.set_result(0, address.as_u64());
    caller.set_result(1, bytes);
    Ok(())
}

/// `memory_map`.
pub(super) fn map(caller: Caller) -> Result<(), Error> {
    let protection = Protection::from_bits(caller.argument(5)).ok_or(Error::BadArgument)?;
    let process = caller.hold::<Process>(caller.handle(0), Rights::MANAGE)?;
    let (memory, rights) =
        caller.hold_with_rights::<MemoryObject>(caller.handle(1), Rights::NONE)?;
    let space = process.space()?;
    let address = space.map(
        &memory,
        rights,
        caller.argument(2),
        caller.argument(3),
        caller.argument(4),
        protection,
    )?;
    caller.set_result(0, address);
    Ok(())
}

/// `memory_unmap`.
pub(super) fn unmap(caller: Caller) -> Result<(), Error> {
    let process = caller.hold::<Process>(caller.handle(0), Rights::MANAGE)?;
    let space = process.space()?;
    while space.unmap(caller.argument(1), caller.argument(2))? == Progress::More {
        schedule::preemption_point();
    }
    Ok(())
}

/// `memory_protect`.
pub(super) fn protect(caller: Caller) -> Result<(), Error> {
    let protection = Protection::from_bits(caller.argument(3)).ok_or(Error::BadArgument)?;
    let process = caller.hold::<Process>(caller.handle(0), Rights::MANAGE)?;
    process
        .space()?
        .protect(caller.argument(1), caller.argument(2), protection)
}

/// Which way [`copy`] goes, as user space sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the object to the caller.
    Out,
    /// From the caller into the object.
    In,
}

/// `memory_read`, `memory_write`.
pub(super) fn copy(caller: Caller, direction: Direction) -> Result<(), Error> {
    let right = if direction == Direction::Out {
        Rights::READ
    } else {
        Rights::WRITE
    };
    let memory = caller.hold::<MemoryObject>(caller.handle(0), right)?;
    let mut offset = caller.argument(1);
    let mut rest = UserSlice::new(caller.argument(2), caller.argument(3))?;
    loop {
        let copied = memory.copy_piece(
            offset,
            rest,
            match direction {
                Direction::Out => crate::memory::user::Direction::ToUser,
                Direction::In => crate::memory::user::Direction::FromUser,
            },
        )?;
        rest = rest.after(copied);
        offset += copied as u64;
        if rest.is_empty() {
            return Ok(());
        }
        schedule::preemption_point();
    }
}
