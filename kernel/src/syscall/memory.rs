//! Calls on memory objects and mappings.

use abi::{Error, Handle, MemoryFlags, Protection, Rights};
use arch::hooks::ShortResult;
use arch::paging::Cache;

use super::{Caller, report, short};
use crate::memory::object::MemoryObject;
use crate::memory::space::Part;
use crate::memory::user::{self, UserSlice};
use crate::memory::{PAGE_BYTES, Progress};
use crate::object::AnyObject;
use crate::schedule;
use crate::thread::Thread;

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
    memory.let_go_ahead(&mut schedule::preemption_point);
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
///
/// One page of ordinary memory in the caller's own space comes first, and takes as little as it can.
pub(super) extern "C" fn map(
    process: u64,
    memory: u64,
    address: u64,
    offset: u64,
    bytes: u64,
    protection: u64,
) -> ShortResult {
    let caller = Caller::of_short_call();
    if process == 0
        && bytes == PAGE_BYTES
        && let Some(protection) = Protection::from_bits(protection)
        && map_page(caller.thread(), Handle(memory), address, offset, protection)
    {
        return ShortResult::of(address);
    }
    map_any(
        caller,
        process,
        memory,
        [address, offset, bytes, protection],
    )
}

/// Whether it was done, by the short way. If not, nothing is.
#[inline(always)]
fn map_page(
    thread: &Thread,
    memory: Handle,
    address: u64,
    offset: u64,
    protection: Protection,
) -> bool {
    let Some(space) = thread.space() else {
        return false;
    };
    // The object is in the table as long as the lock is held. The locks of the space and of memory come after the table's.
    let table = thread.process().table.lock();
    let Ok(memory) = table.get(memory) else {
        return false;
    };
    let AnyObject::Memory(object) = memory.object() else {
        return false;
    };
    space.map_page(object, memory.rights(), address, offset, protection)
}

#[cold]
#[inline(never)]
fn map_any(caller: Caller, process: u64, memory: u64, place: [u64; 4]) -> ShortResult {
    let [address, offset, bytes, protection] = place;
    let map = || {
        let protection = Protection::from_bits(protection).ok_or(Error::BadArgument)?;
        let process = caller.process_by(Handle(process))?;
        let (memory, rights) =
            caller.hold_with_rights::<MemoryObject>(Handle(memory), Rights::NONE)?;
        let space = process.space()?;
        let part = Part { offset, bytes };
        space.map_with(
            &memory,
            rights,
            address,
            part,
            protection,
            &mut schedule::preemption_point,
        )
    };
    short::result(map())
}

/// `memory_unmap`. As for [`map`].
pub(super) extern "C" fn unmap(process: u64, address: u64, bytes: u64) -> ShortResult {
    let caller = Caller::of_short_call();
    if process == 0
        && bytes == PAGE_BYTES
        && caller
            .thread()
            .space()
            .is_some_and(|space| space.unmap_page(address))
    {
        short::see_to_the_dead();
        return ShortResult::NOTHING;
    }
    unmap_any(caller, process, address, bytes)
}

#[cold]
#[inline(never)]
fn unmap_any(caller: Caller, process: u64, address: u64, bytes: u64) -> ShortResult {
    let unmap = || {
        let process = caller.process_by(Handle(process))?;
        let space = process.space()?;
        while space.unmap(address, bytes)? == Progress::More {
            schedule::preemption_point();
        }
        short::see_to_the_dead();
        Ok(0)
    };
    short::result(unmap())
}

/// `memory_map_new`.
pub(super) fn map_new(caller: Caller) -> Result<(), Error> {
    let protection = Protection::from_bits(caller.argument(3)).ok_or(Error::BadArgument)?;
    let process = caller.process_by(caller.handle(0))?;
    let [address, bytes] = [1, 2].map(|index| caller.argument(index));
    let source = UserSlice::new(caller.argument(4), caller.argument(5))?;
    if bytes == 0 || !(bytes | address).is_multiple_of(PAGE_BYTES) {
        return Err(Error::BadArgument);
    }
    let space = process.space()?;
    let memory = MemoryObject::create(bytes, Some(process.account().clone()))?;
    if !source.is_empty() {
        copy_in(&memory, 0, source)?;
    }
    let address = space.map_with(
        &memory,
        Rights::ALL,
        address,
        Part { offset: 0, bytes },
        protection,
        &mut schedule::preemption_point,
    )?;
    caller.set_result(0, address);
    Ok(())
}

/// Copies all of `source` into an object, from `offset` on.
fn copy_in(memory: &MemoryObject, mut offset: u64, mut source: UserSlice) -> Result<(), Error> {
    loop {
        let copied = memory.copy_piece(offset, source, user::Direction::FromUser)?;
        source = source.after(copied);
        offset += copied as u64;
        if source.is_empty() {
            return Ok(());
        }
        schedule::preemption_point();
    }
}

/// `memory_create_paged`.
pub(super) fn create_paged(caller: Caller) -> Result<(), Error> {
    let flags = MemoryFlags::from_bits(caller.argument(2)).ok_or(Error::BadArgument)?;
    let pager = report::behind(caller, caller.handle(1))?;
    let account = caller.process().account().clone();
    let memory = MemoryObject::create_paged(caller.argument(0), flags, pager, Some(account))?;
    caller.give(AnyObject::Memory(memory), Rights::ALL)
}

/// `memory_supply`.
pub(super) fn supply(caller: Caller) -> Result<(), Error> {
    let memory = caller.hold::<MemoryObject>(caller.handle(0), Rights::MANAGE)?;
    let offset = caller.argument(1);
    let mut rest = UserSlice::new(caller.argument(2), caller.argument(3))?;
    if rest.is_empty() || !offset.is_multiple_of(PAGE_BYTES) {
        return Err(Error::BadArgument);
    }
    let end = offset.checked_add(rest.len() as u64);
    if end.is_none_or(|end| end > memory.bytes()) {
        return Err(Error::OutOfRange);
    }
    let mut page = offset / PAGE_BYTES;
    let mut new = 0;
    loop {
        new += u64::from(memory.supply(page, rest)?);
        rest = rest.after(PAGE_BYTES as usize);
        if rest.is_empty() {
            caller.set_result(0, new);
            return Ok(());
        }
        page += 1;
        schedule::preemption_point();
    }
}

/// `memory_take_back`.
pub(super) fn take_back(caller: Caller) -> Result<(), Error> {
    let memory = caller.hold::<MemoryObject>(caller.handle(0), Rights::MANAGE)?;
    let (offset, pointer) = (caller.argument(1), caller.argument(2));
    if !offset.is_multiple_of(PAGE_BYTES) {
        return Err(Error::BadArgument);
    }
    let into = match pointer {
        0 => None,
        _ => Some(UserSlice::new(pointer, PAGE_BYTES)?),
    };
    let taken = memory.take_back(offset / PAGE_BYTES, into)?;
    caller.set_result(0, taken as u64);
    Ok(())
}

/// `memory_protect`.
pub(super) fn protect(caller: Caller) -> Result<(), Error> {
    let protection = Protection::from_bits(caller.argument(3)).ok_or(Error::BadArgument)?;
    let process = caller.process_by(caller.handle(0))?;
    process.space()?.protect(
        caller.argument(1),
        caller.argument(2),
        protection,
        &mut schedule::preemption_point,
    )
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
                Direction::Out => user::Direction::ToUser,
                Direction::In => user::Direction::FromUser,
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
