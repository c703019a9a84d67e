//! Mapping a page and taking it away again.

use abi::Protection;
use rt::{Memory, process};

use crate::measure::{Cost, measure};

/// Bytes of the page.
const PAGE: u64 = 4096;

/// Maps one page that has its memory already, at an address of the program's choice, reads it once, and unmaps it: two system
/// calls and one load, so that the page is really there.
pub fn map_unmap_4k() -> rt::Result<Cost> {
    let memory = Memory::create(PAGE)?;
    memory.write(0, &[1])?;
    // A neighbour that stays, as a program's other mappings do: the tables on the way are there.
    let neighbour = memory.map(Protection::READ_WRITE)?;
    let place = neighbour.as_ptr() as u64 + 2 * PAGE;
    // SAFETY: mapped, and nobody else's.
    unsafe { neighbour.as_ptr().read_volatile() };
    let own = process::current();
    let mut failed = false;
    let mut seen = 0;
    let cost = measure(|| {
        if let Ok(address) = own.map(&memory, place, 0, PAGE, Protection::READ_WRITE) {
            // SAFETY: mapped just now, and nobody else's.
            seen |= unsafe { (address as usize as *const u8).read_volatile() };
        }
        // SAFETY: nothing refers to it.
        failed |= unsafe { own.unmap(place, PAGE) }.is_err();
    });
    if failed || seen != 1 {
        return Err(abi::Error::WrongState);
    }
    Ok(cost)
}
