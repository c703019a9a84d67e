//! How a thread comes to be: stack, registers, IPC area, its place in its process. All or nothing.

use core::ptr::NonNull;

use abi::{Error, Priority};
use arch::context;
use arch::memory::phys_to_virt;

use crate::memory::account::Resource;
use crate::memory::space::{Mode, Space};
use crate::memory::stacks;
use crate::object::{Ref, Vacant};
use crate::process::Process;
use crate::reported::are_reported;
use crate::schedule;
use crate::thread::{IpcArea, Machine, Spare, Thread, ThreadPtr};

/// Where a thread begins, and with what.
#[derive(Clone, Copy)]
pub struct Begin {
    /// The address of its first instruction.
    pub entry: u64,
    /// Its stack pointer.
    pub stack: u64,
    /// What it gets.
    pub argument: u64,
    /// Its base priority.
    pub priority: Priority,
}

/// Makes a thread of `process` that will begin so, when it was [listed](list) and started.
///
/// # Errors
/// [`Error::BadArgument`] for an entry or stack that is not the user's; [`Error::NoMemory`], [`Error::QuotaExceeded`],
/// [`Error::Ended`]. Nothing is left of it then.
#[inline(always)]
pub fn thread(process: Ref<Process>, begin: Begin) -> Result<Ref<Thread>, Error> {
    let mode = process.mode();
    let is_good = context::check_fresh(begin.entry, begin.stack, mode == Mode::Long);
    is_good.map_err(|_| Error::BadArgument)?;
    process.account().charge_of(Resource::Threads, 1)?;
    let uncharge = |error| {
        process.account().uncharge_of(Resource::Threads, 1);
        error
    };
    let (space, spare) = process.space_and_spare().map_err(uncharge)?;
    let Spare {
        number,
        area,
        stack,
    } = match spare {
        Some(spare) => {
            // The program may have written over it.
            spare.area.write_address();
            spare
        }
        None => make_parts(&process, &space).map_err(uncharge)?,
    };
    let vacant = Vacant::take().map_err(|error| {
        give_up(&process, &space, number);
        uncharge(error)
    })?;
    let address = area.user_address();
    let Begin {
        entry,
        stack: pointer,
        argument,
        priority,
    } = begin;
    let registers = match mode {
        Mode::Long => context::fresh(entry, pointer, argument, address, address),
        Mode::Compat => context::fresh32(entry, pointer, argument, address),
    };
    // SAFETY: the context was checked; the stack is new, or one that its last owner has given up; the thread holds the space.
    let machine = unsafe { Machine::new(stack, space.tlb(), registers) };
    // From here on the thread's own end gives the area back, and its place in the account.
    let thread = vacant.fill(Thread::new(
        process,
        Some((space, number)),
        machine,
        area,
        priority,
    ));
    Ok(thread)
}

/// Takes a new thread into its process's list, so that it can be found and started. The caller has another reference to it.
///
/// # Errors
/// [`Error::Ended`]
#[inline]
pub fn list(thread: Ref<Thread>) -> Result<(), Error> {
    let pointer = ThreadPtr::new(&thread);
    // It stays alive: whoever calls has a reference of his own.
    let new = pointer.get();
    let process = new.process();
    // Together with its entry into the list, so that whoever finds no thread there and sets a personality then has every thread's calls.
    process.add_thread(thread, || {
        // SAFETY: it does not run yet.
        unsafe { new.machine.state.report_calls(are_reported(process)) };
    })
}

/// An area and a stack for a thread.
#[cold]
#[inline(never)]
fn make_parts(process: &Process, space: &Space) -> Result<Spare, Error> {
    let stack = stacks::allocate()?;
    let (number, mapped) = process.map_area(space, &mut schedule::preemption_point)?;
    let [header, buffer] = mapped.frames.map(phys_to_virt).map(NonNull::new);
    let (Some(header), Some(buffer)) = (header, buffer) else {
        give_up(process, space, number);
        return Err(Error::NoMemory);
    };
    // SAFETY: the space pins both pages until they are unmapped, which is after the thread's end.
    let area = unsafe { IpcArea::new(header, buffer, mapped.address) };
    Ok(Spare {
        number,
        area,
        stack,
    })
}

/// Gives an area back that no thread has.
fn give_up(process: &Process, space: &Space, number: u32) {
    // SAFETY: nobody but the caller knows the area.
    let _ = unsafe { space.unmap_ipc_area(number) };
    process.give_area_number(number);
}
