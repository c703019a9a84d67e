//! Kernel stacks: one a thread, from a pool.
//!
//! A stack is four pages with an unmapped page below, so that an overflow is a double fault on another stack and never
//! a neighbour's data. Stacks that are given back stay mapped and are reused last in, first out: taking one costs a few
//! instructions and no TLB flush, and a stack is never unmapped under a CPU that still runs on it.
//!
//! Which stacks are free is remembered in the records of their lowest frames, not on the stacks.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use abi::Error;
use arch::addr::{PhysAddr, VirtAddr};
use arch::paging::PAGE_BYTES;

use super::frame_table::FrameList;
use super::{frames, kernel_space};
use crate::sync::{Mutex, level};

/// Where stacks lie.
const AREA: Range<u64> = 0xFFFF_C000_0000_0000..0xFFFF_D000_0000_0000;
/// Mapped pages of a stack.
pub const STACK_PAGES: u64 = 4;
/// Its bytes.
pub const STACK_BYTES: u64 = STACK_PAGES * PAGE_BYTES;
/// From one stack to the next: the unmapped page comes first.
const STRIDE: u64 = STACK_BYTES + PAGE_BYTES;

struct Pool {
    /// Lowest frames of the free stacks; their tags are the stacks' numbers.
    free: FrameList,
    /// Stacks made so far.
    made: u32,
}

/// Its level is that of memory objects, with which it is never nested: the kernel space's lock is taken inside.
static POOL: Mutex<{ level::STACKS }, Pool> = Mutex::new(Pool {
    free: FrameList::new(),
    made: 0,
});

/// A kernel stack. It goes back to the pool when it is dropped, which must not be done while running on it.
#[derive(Debug)]
pub struct KernelStack {
    number: u32,
    lowest: PhysAddr,
}

/// Takes a stack from the pool; its contents are arbitrary.
///
/// # Errors
/// [`Error::NoMemory`]
pub fn allocate() -> Result<KernelStack, Error> {
    let mut pool = POOL.lock();
    let table = frames::table();
    if let Some(lowest) = pool.free.pop(&table) {
        let number = table.record(lowest.as_u64() / PAGE_BYTES).tag.load(Relaxed);
        return Ok(KernelStack { number, lowest });
    }
    let number = pool.made;
    let base = base_of(number);
    if base + STACK_BYTES > AREA.end {
        return Err(Error::NoMemory);
    }
    kernel_space::map_stack(base, STACK_PAGES)?;
    let lowest = kernel_space::translate(VirtAddr::new(base))
        .ok_or(Error::NoMemory)?
        .physical;
    pool.made += 1;
    Ok(KernelStack { number, lowest })
}

impl KernelStack {
    /// One past the highest byte: where a stack pointer starts. Aligned to a page.
    pub fn top(&self) -> VirtAddr {
        VirtAddr::new(base_of(self.number) + STACK_BYTES)
    }

    /// The lowest byte.
    pub fn bottom(&self) -> VirtAddr {
        VirtAddr::new(base_of(self.number))
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let mut pool = POOL.lock();
        let table = frames::table();
        table
            .record(self.lowest.as_u64() / PAGE_BYTES)
            .tag
            .store(self.number, Relaxed);
        pool.free.push(&table, self.lowest);
    }
}

/// Stacks made, and how many of them are free.
pub fn statistics() -> (u32, u32) {
    let pool = POOL.lock();
    (pool.made, pool.free.count())
}

/// Whether `address` lies in the unmapped page below a kernel stack: the stack has overflowed.
pub fn is_guard(address: u64) -> bool {
    AREA.contains(&address) && (address - AREA.start) % STRIDE < PAGE_BYTES
}

fn base_of(number: u32) -> u64 {
    AREA.start + u64::from(number) * STRIDE + PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing;

    #[test]
    fn stacks_are_disjoint_guarded_and_reused() {
        testing::kernel_machine();
        let stacks: Vec<KernelStack> = (0..5).map(|_| allocate().unwrap()).collect();
        for (index, stack) in stacks.iter().enumerate() {
            assert_eq!(stack.top() - stack.bottom(), STACK_BYTES);
            for page in 0..STACK_PAGES {
                let mapped = kernel_space::translate(stack.bottom() + page * PAGE_BYTES).unwrap();
                assert_eq!(mapped.attributes.access, arch::paging::Access::ReadWrite);
            }
            let guard = stack.bottom() - 1;
            assert!(is_guard(guard.as_u64()) && !is_guard(stack.bottom().as_u64()));
            assert_eq!(kernel_space::translate(guard), None);
            assert!(
                stacks[..index].iter().all(|other| other
                    .bottom()
                    .as_u64()
                    .abs_diff(stack.bottom().as_u64())
                    >= STRIDE)
            );
        }
        let tops: Vec<VirtAddr> = stacks.iter().map(KernelStack::top).collect();
        drop(stacks);
        let again: Vec<KernelStack> = (0..5).map(|_| allocate().unwrap()).collect();
        assert!(again.iter().all(|stack| tops.contains(&stack.top())));
    }
}
