//! The numbers of a process's IPC areas.
//!
//! Those that were given back come first, and then all in turn. Few are remembered: what is forgotten comes round again when the numbers have
//! wrapped. Then many may be in use in a row, so they are looked at by pieces.

use abi::Error;

use super::Process;
use crate::memory::space::{IpcArea, Space, max_ipc_areas};

/// IPC area numbers that are remembered for reuse.
pub(super) const FREE_AREAS: usize = 64;
/// Numbers that are looked at in a row.
const NUMBERS_A_PIECE: u32 = 64;

impl Process {
    /// Makes an IPC area in the process's space, for a thread; gives its number and the area. `pause` is called between pieces of the
    /// search for a number, without a lock.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] if each number is in use; those of [`Space::map_ipc_area`].
    pub(crate) fn map_area(
        &self,
        space: &Space,
        pause: &mut dyn FnMut(),
    ) -> Result<(u32, IpcArea), Error> {
        // All in turn, and before that those that are remembered, which may have come in turn since.
        for tried in 0..max_ipc_areas(self.mode) + FREE_AREAS as u32 {
            if tried % NUMBERS_A_PIECE == NUMBERS_A_PIECE - 1 {
                pause();
            }
            let number = self.take_area_number();
            // To try takes two frames.
            if tried > 0 && space.has_ipc_area(number) {
                continue;
            }
            match space.map_ipc_area(number) {
                Ok(area) => return Ok((number, area)),
                Err(Error::AlreadyMapped) => {}
                Err(error) => {
                    self.give_area_number(number);
                    return Err(error);
                }
            }
        }
        Err(Error::QuotaExceeded)
    }

    /// A number for an IPC area that no thread of the process uses.
    pub(crate) fn take_area_number(&self) -> u32 {
        let mut inner = self.inner.lock();
        if inner.free_area_count > 0 {
            inner.free_area_count -= 1;
            return inner.free_areas[inner.free_area_count];
        }
        let number = inner.next_area;
        inner.next_area = (number + 1) % max_ipc_areas(self.mode);
        number
    }

    /// Gives such a number back.
    pub(crate) fn give_area_number(&self, number: u32) {
        let mut inner = self.inner.lock();
        let count = inner.free_area_count;
        // One too many to remember comes round again when the numbers wrap.
        if count < FREE_AREAS {
            inner.free_areas[count] = number;
            inner.free_area_count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::Priority;

    use super::*;
    use crate::memory::account::Account;
    use crate::memory::space::Mode;
    use crate::memory::testing;
    use crate::process::Name;

    #[test]
    fn the_one_free_ipc_area_is_found_by_pieces() {
        testing::kernel_machine();
        let account = Account::create(50_000).unwrap();
        let name = Name::new(b"areas").unwrap();
        let process = Process::create(name, account, Priority::NORMAL, Mode::Compat).unwrap();
        let space = process.space().unwrap();
        let all = max_ipc_areas(Mode::Compat);
        let map = |pauses: &mut u32| {
            let mapped = process.map_area(&space, &mut || *pauses += 1);
            mapped.map(|(number, _)| number)
        };
        let mut pauses = 0;
        for number in 0..all {
            assert_eq!(map(&mut pauses), Ok(number));
        }
        assert_eq!(pauses, 0);
        assert_eq!(map(&mut pauses), Err(Error::QuotaExceeded));
        assert!(pauses >= all / NUMBERS_A_PIECE, "{pauses} pauses");
        // The only one that is free is far from where the search begins, and was not remembered.
        for free in [5, all - 1, all / 2] {
            // SAFETY: no thread has it.
            unsafe { space.unmap_ipc_area(free) }.unwrap();
            assert_eq!(map(&mut pauses), Ok(free));
        }
        // None that is remembered is free, and all others are.
        let remembered = 0..FREE_AREAS as u32;
        remembered
            .clone()
            .for_each(|number| process.give_area_number(number));
        // SAFETY: no thread has it.
        unsafe { space.unmap_ipc_area(FREE_AREAS as u32 + 1) }.unwrap();
        assert_eq!(map(&mut pauses), Ok(FREE_AREAS as u32 + 1));
    }
}
