//! The page tables through which other CPUs start.
//!
//! A CPU turns paging on in code that lies below 1 MiB, at its physical address, and goes on in the kernel half. So these
//! tables show both. They are separate, so that no other CPU ever sees the low page; their root lies below 4 GiB,
//! because a CPU loads it before it is in 64-bit mode; and they are freed when all CPUs have started.

use abi::Error;
use arch::addr::{PhysAddr, VirtAddr};
use arch::paging::{
    Access, Attributes, Cache, FrameSource, Owner, PAGE_BYTES, PageSize, PageTables,
};

use super::frames::{self, FrameKind};
use super::kernel_space::new_user_tables;

/// The tables through which other CPUs start: the kernel half, and one page at its physical address.
pub struct StartTables {
    tables: PageTables,
    /// The three tables below the root.
    below: [PhysAddr; 3],
}

/// Three frames for tables, told one by one.
struct Remembered {
    given: [Option<PhysAddr>; 3],
}

impl FrameSource for Remembered {
    fn allocate_table(&mut self) -> Option<PhysAddr> {
        let place = self.given.iter_mut().find(|place| place.is_none())?;
        *place = frames::allocate_zeroed(FrameKind::PageTable);
        *place
    }
}

impl StartTables {
    /// Makes them. `page` is the page below 1 MiB that holds the code; it is executable and not writable there (it is filled
    /// through the direct map). The root lies below 4 GiB, as a CPU loads it before it is in 64-bit mode.
    ///
    /// # Errors
    /// [`Error::NoMemory`], also if nothing is free below 4 GiB; [`Error::BadArgument`] if the page is not below 1 MiB.
    pub fn create(page: PhysAddr) -> Result<StartTables, Error> {
        if !page.is_aligned(PAGE_BYTES) || page.as_u64() >= 0x10_0000 {
            return Err(Error::BadArgument);
        }
        let root = frames::allocate_below_4g(FrameKind::PageTable).ok_or(Error::NoMemory)?;
        frames::zero(root);
        let mut tables = new_user_tables(root, false);
        let mut source = Remembered { given: [None; 3] };
        let attributes = Attributes {
            access: Access::ReadExecute,
            cache: Cache::WriteBack,
            owner: Owner::KernelLocal,
        };
        // SAFETY: nobody uses these tables yet, and the page is the caller's.
        let mapped = unsafe {
            tables.map(
                VirtAddr::new(page.as_u64()),
                page,
                PageSize::Size4K,
                attributes,
                &mut source,
            )
        };
        match (mapped, source.given) {
            (Ok(()), [Some(a), Some(b), Some(c)]) => Ok(StartTables {
                tables,
                below: [a, b, c],
            }),
            (_, given) => {
                given
                    .into_iter()
                    .flatten()
                    .chain([root])
                    .for_each(frames::free_frame);
                Err(Error::NoMemory)
            }
        }
    }

    /// The physical address of the root, below 4 GiB.
    pub fn root(&self) -> PhysAddr {
        self.tables.root()
    }

    /// Frees them.
    ///
    /// # Safety
    /// No CPU may have them loaded any more, nor be about to load them.
    pub unsafe fn free(self) {
        self.below
            .into_iter()
            .chain([self.tables.root()])
            .for_each(frames::free_frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::kernel_space::translate;
    use crate::memory::testing;

    #[test]
    fn start_tables_hold_one_executable_low_page_and_the_kernel() {
        testing::kernel_machine();
        for bad in [0x8001, 0x10_0000] {
            assert!(matches!(
                StartTables::create(PhysAddr::new(bad)),
                Err(Error::BadArgument)
            ));
        }
        let start = StartTables::create(PhysAddr::new(0x8000)).unwrap();
        assert!(start.root().as_u64() < 1 << 32);
        let found = start.tables.translate(VirtAddr::new(0x8000)).unwrap();
        assert_eq!(
            (found.physical.as_u64(), found.attributes.access),
            (0x8000, Access::ReadExecute)
        );
        assert_eq!(found.attributes.owner, Owner::KernelLocal);
        assert_eq!(start.tables.translate(VirtAddr::new(0x9000)), None);
        let image = VirtAddr::new(0xFFFF_FFFF_8000_1000);
        assert_eq!(start.tables.translate(image), translate(image));
        // SAFETY: no CPU ever used them.
        unsafe { start.free() };
    }
}
