//! How a thread comes to be: stack, registers, IPC area, its place in its process. All or nothing.

use core::ptr::NonNull;

use abi::{Error, Priority};
use arch::context;
use arch::memory::phys_to_virt;

use crate::memory::account::Resource;
use crate::memory::space::{Mode, Space, max_ipc_areas};
use crate::object::{Ref, Vacant};
use crate::process::Process;
use crate::reported::are_reported;
use crate::thread::{IpcArea, Machine, Thread};

/// How many numbers of IPC areas are tried when the numbers have wrapped and the first ones are in use.
const AREA_TRIES: u32 = 1024;

/// Makes a thread of `process` that will begin at `entry`.
///
/// # Errors
/// [`Error::BadArgument`] for an entry or stack that is not the user's; [`Error::NoMemory`], [`Error::QuotaExceeded`],
/// [`Error::Ended`]. Nothing is left of it then.
pub fn thread(
    process: &Ref<Process>,
    entry: u64,
    stack: u64,
    argument: u64,
    priority: Priority,
) -> Result<Ref<Thread>, Error> {
    let mode = process.mode();
    let is_good = context::check_fresh(entry, stack, mode == Mode::Long);
    is_good.map_err(|_| Error::BadArgument)?;
    let space = process.space()?;
    process.account().charge_of(Resource::Threads, 1)?;
    let uncharge = || process.account().uncharge_of(Resource::Threads, 1);
    let (number, area) = map_area(process, &space).inspect_err(|_| uncharge())?;
    let give_up = |error| {
        // SAFETY: nobody but this function knows the area.
        let _ = unsafe { space.unmap_ipc_area(number) };
        process.give_area_number(number);
        uncharge();
        error
    };
    let registers = match mode {
        Mode::Long => context::fresh(entry, stack, argument, area.address, area.address),
        Mode::Compat => context::fresh32(entry, stack, argument, area.address),
    };
    // SAFETY: the context was checked, and the thread holds the space.
    let machine = unsafe { Machine::new(space.tlb(), registers) }.map_err(give_up)?;
    let [header, buffer] = area.frames.map(phys_to_virt).map(NonNull::new);
    let (Some(header), Some(buffer)) = (header, buffer) else {
        return Err(give_up(Error::NoMemory));
    };
    // SAFETY: the space pins both pages until the thread's end.
    let area = unsafe { IpcArea::new(header, buffer, area.address) };
    // From here on the thread's own end gives the area back, and its place in the account.
    let vacant = Vacant::take().map_err(give_up)?;
    let space = Some((space.clone(), number));
    let thread = vacant.fill(Thread::new(process.clone(), space, machine, area, priority));
    // Together with its entry into the list, so that whoever finds no thread there and sets a personality then has every thread's calls.
    process.add_thread(thread.clone(), || {
        // SAFETY: it does not run yet.
        unsafe { thread.machine.state.report_calls(are_reported(process)) };
    })?;
    Ok(thread)
}

fn map_area(
    process: &Process,
    space: &Space,
) -> Result<(u32, crate::memory::space::IpcArea), Error> {
    for _ in 0..AREA_TRIES.min(max_ipc_areas(process.mode())) {
        let number = process.take_area_number();
        match space.map_ipc_area(number) {
            Ok(area) => return Ok((number, area)),
            Err(Error::AlreadyMapped) => {}
            Err(error) => {
                process.give_area_number(number);
                return Err(error);
            }
        }
    }
    Err(Error::QuotaExceeded)
}
