//! Frames that idle CPUs have prepared in advance: zeroed ones, and roots of page tables.
//!
//! Memory that programs and page tables get must be zero, and 4 KiB of zeros cost more than all else about a page fault; a new
//! address space's root has the kernel's 256 upper entries besides. So a CPU with nothing to do fills its *shelf*, and then
//! the pool that all CPUs have in common, and whoever wants such a frame looks there first: on the own shelf, whose lock nobody
//! else wants but at the end of all memory, so that a frame costs a few dozen instructions and no other CPU's cache line.
//! All are bounded: when they are full the idle CPU stops, when they are empty the frame is zeroed on the spot.
//!
//! Frames kept here count as free to everybody who asks: they are handed out when nothing else is left, those of other CPUs'
//! shelves too. Who needs several in a row, and finds none, has some of them given back first.

use core::sync::atomic::Ordering;

use arch::addr::PhysAddr;
use crossbeam_queue::ArrayQueue;
use spin::Once;

use super::frame_table::Frame;
use super::frames::{self, FrameKind};
use super::kernel_space;
use crate::sync::{Guard, Mutex, level};

/// Frames that the common pool holds at most: 1 MiB.
const CAPACITY: usize = 256;
/// Nothing is prepared of the machine's last frames.
const KEPT_FREE: u64 = 4 * CAPACITY as u64;
/// Zeroed frames on one CPU's shelf at most: what two small processes take.
const SHELF: usize = 32;
/// Frames that go back at once where somebody needs some in a row: some ten thousand instructions.
const GIVEN_BACK: usize = 64;
/// Roots on one CPU's shelf at most.
const ROOTS: usize = 4;

static POOL: Once<ArrayQueue<Entry>> = Once::new();

/// What one CPU has prepared for itself.
pub struct Shelf(Mutex<{ level::SHELF }, Inner>);

type Held<'a> = Guard<'a, { level::SHELF }, Inner>;

struct Inner {
    zeroed: Stack<SHELF>,
    roots: Stack<ROOTS>,
    /// Frames that were ever taken from here, by what for. The allocator, which has counted them as prepared, is not told of each.
    taken: [u64; FrameKind::COUNT],
}

/// A frame with its record, which is looked up by the one who has the time.
#[derive(Clone, Copy)]
struct Entry {
    frame: PhysAddr,
    record: &'static Frame,
}

/// Frames, the last one first.
struct Stack<const N: usize> {
    entries: [Option<Entry>; N],
    count: usize,
}

impl<const N: usize> Stack<N> {
    const NEW: Stack<N> = Stack {
        entries: [None; N],
        count: 0,
    };

    const fn is_full(&self) -> bool {
        self.count >= N
    }

    /// False if there is no room.
    fn push(&mut self, entry: Entry) -> bool {
        let Some(place) = self.entries.get_mut(self.count) else {
            return false;
        };
        *place = Some(entry);
        self.count += 1;
        true
    }

    #[inline]
    fn pop(&mut self) -> Option<Entry> {
        let last = self.count.checked_sub(1)?;
        let entry = *self.entries.get(last)?;
        self.count = last;
        entry
    }
}

impl Shelf {
    /// An empty one.
    #[expect(
        clippy::new_without_default,
        reason = "one for each CPU, made in a constant"
    )]
    pub const fn new() -> Shelf {
        Shelf(Mutex::new(Inner {
            zeroed: Stack::NEW,
            roots: Stack::NEW,
            taken: [0; FrameKind::COUNT],
        }))
    }
}

/// This CPU's shelf; none before it is set up.
#[cfg(target_os = "none")]
#[inline]
fn own() -> Option<&'static Shelf> {
    crate::cpu::try_this().map(|cpu| &cpu.shelf)
}

#[cfg(target_os = "none")]
fn all() -> impl Iterator<Item = &'static Shelf> {
    crate::cpu::all().map(|cpu| &cpu.shelf)
}

/// On the host all threads have one.
#[cfg(not(target_os = "none"))]
static HOSTED: Shelf = Shelf::new();

#[cfg(not(target_os = "none"))]
#[expect(clippy::unnecessary_wraps, reason = "a CPU has none at first")]
fn own() -> Option<&'static Shelf> {
    Some(&HOSTED)
}

#[cfg(not(target_os = "none"))]
fn all() -> impl Iterator<Item = &'static Shelf> {
    core::iter::once(&HOSTED)
}

/// Makes the pool, while the boot heap is open.
pub fn init() {
    POOL.call_once(|| ArrayQueue::new(CAPACITY));
}

/// Prepares one frame. False if there is no room for more, or memory is short.
pub fn prepare_one() -> bool {
    let (Some(pool), Some(shelf)) = (POOL.get(), own()) else {
        return false;
    };
    let (zeroed_full, roots_full) = {
        let shelf = shelf.0.lock();
        (shelf.zeroed.is_full(), shelf.roots.is_full())
    };
    let wants_root = zeroed_full && !roots_full && kernel_space::has_simple_roots();
    if (zeroed_full && !wants_root && pool.is_full()) || frames::count_free() < KEPT_FREE {
        return false;
    }
    let Some(frame) = frames::allocate(FrameKind::Prepared) else {
        return false;
    };
    frames::zero(frame);
    let entry = Entry {
        frame,
        record: frames::record(frame),
    };
    let kept = if wants_root {
        kernel_space::fill_root(frame);
        shelf.0.lock().roots.push(entry)
    } else {
        shelf.0.lock().zeroed.push(entry) || pool.push(entry).is_ok()
    };
    if !kept {
        // Another CPU was faster.
        frames::free_frame(frame);
    }
    kept
}

/// A zeroed frame.
#[inline]
pub(super) fn take_zeroed(kind: FrameKind) -> Option<PhysAddr> {
    let mut shelf = own()?.0.lock();
    let entry = match shelf.zeroed.pop() {
        Some(entry) => entry,
        None => POOL.get()?.pop()?,
    };
    Some(handed_out(shelf, entry, kind))
}

/// A root whose upper half is the kernel's and whose lower half is empty.
#[inline]
pub(super) fn take_root() -> Option<PhysAddr> {
    let mut shelf = own()?.0.lock();
    let entry = shelf.roots.pop()?;
    Some(handed_out(shelf, entry, FrameKind::PageTable))
}

/// Any frame, when there is none elsewhere. What is in it is not known.
#[cold]
pub(super) fn take_any(kind: FrameKind) -> Option<PhysAddr> {
    if let Some(frame) = take_zeroed(kind) {
        return Some(frame);
    }
    for shelf in all() {
        let mut shelf = shelf.0.lock();
        let entry = match shelf.zeroed.pop() {
            Some(entry) => Some(entry),
            None => shelf.roots.pop(),
        };
        if let Some(entry) = entry {
            return Some(handed_out(shelf, entry, kind));
        }
    }
    None
}

/// Gives some of what is prepared back to the allocator, for one who needs frames in a row; whether that was any.
#[cold]
pub(super) fn give_back() -> bool {
    let mut any = false;
    for _ in 0..GIVEN_BACK {
        let Some(frame) = take_any(FrameKind::Prepared) else {
            break;
        };
        frames::free_frame(frame);
        any = true;
    }
    any
}

/// Frames that were taken from here, by kind: so many more are of the kind than the allocator knows, and so many fewer are prepared.
pub(super) fn taken() -> [u64; FrameKind::COUNT] {
    let mut sum = [0; FrameKind::COUNT];
    for shelf in all() {
        let shelf = shelf.0.lock();
        for (sum, taken) in sum.iter_mut().zip(shelf.taken) {
            *sum += taken;
        }
    }
    sum
}

/// Says in the frame's record and in the shelf's counts what it is for from now on.
#[inline]
fn handed_out(mut shelf: Held<'_>, entry: Entry, kind: FrameKind) -> PhysAddr {
    shelf.taken[kind as usize] += 1;
    entry.record.kind.store(kind as u8, Ordering::Relaxed);
    entry.frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing;

    fn bytes_of(frame: PhysAddr) -> &'static [u8] {
        // SAFETY: the frame is the test's, in the arena.
        unsafe { std::slice::from_raw_parts(arch::memory::phys_to_virt(frame), 4096) }
    }

    #[test]
    fn prepared_frames_are_zero_and_change_their_kind() {
        testing::kernel_machine();
        init();
        while prepare_one() {}
        // More than a shelf has.
        let taken: Vec<_> = (0..2 * SHELF)
            .map(|_| frames::allocate_zeroed(FrameKind::User).unwrap())
            .collect();
        for frame in taken {
            assert!(bytes_of(frame).iter().all(|&byte| byte == 0));
            frames::free_frame(frame);
        }
    }

    /// What there was before `act`, between it and `undo`, and afterwards: of each kind, the free ones last, and of all.
    fn counts(act: impl FnOnce() -> Vec<PhysAddr>) -> [[u64; FrameKind::COUNT + 2]; 3] {
        let now = || {
            let known = frames::statistics();
            let mut counts = [known.free; FrameKind::COUNT + 2];
            counts[..FrameKind::COUNT].copy_from_slice(&known.held);
            counts[FrameKind::COUNT + 1] = known.total;
            counts
        };
        let before = now();
        let taken = act();
        let between = now();
        for frame in taken {
            frames::free_frame(frame);
        }
        [before, between, now()]
    }

    #[test]
    fn every_frame_is_counted_once_and_as_what_it_is() {
        const COUNT: u64 = 2 * SHELF as u64;
        testing::kernel_machine();
        init();
        let zeroed = || {
            let take = |_| frames::allocate_zeroed(FrameKind::User).unwrap();
            (0..COUNT).map(take).collect()
        };
        let in_a_row = || {
            give_back();
            Vec::new()
        };
        // Other tests of the same process may take frames meanwhile, so it is done until they don't.
        let exactly = |what: &str, right: &dyn Fn() -> bool| {
            let found = (0..2000).any(|_| {
                while prepare_one() {}
                std::thread::yield_now();
                right()
            });
            assert!(found, "{what}: the counts are never right");
        };
        let all_there = |counts: [u64; FrameKind::COUNT + 2]| {
            counts[..=FrameKind::COUNT].iter().sum::<u64>() == counts[FrameKind::COUNT + 1]
        };
        let (user, prepared, free) = (
            FrameKind::User as usize,
            FrameKind::Prepared as usize,
            FrameKind::COUNT,
        );
        exactly("taken and given back", &|| {
            let [before, between, after] = counts(zeroed);
            let mut wanted = [before; 2];
            for wanted in &mut wanted {
                wanted[prepared] -= COUNT;
            }
            wanted[0][user] += COUNT;
            wanted[1][free] += COUNT;
            wanted == [between, after] && [before, between, after].into_iter().all(all_there)
        });
        exactly("given back unused", &|| {
            let [before, _, after] = counts(in_a_row);
            let mut wanted = before;
            wanted[prepared] -= GIVEN_BACK as u64;
            wanted[free] += GIVEN_BACK as u64;
            wanted == after
        });
    }

    #[test]
    fn a_prepared_root_has_the_kernels_half_and_nothing_else() {
        testing::kernel_machine();
        init();
        while prepare_one() {}
        let words = |frame| {
            // SAFETY: as in `bytes_of`.
            unsafe { std::slice::from_raw_parts(frames::words(frame).cast_const(), 512) }
        };
        let kernel = words(kernel_space::root());
        let mut seen = 0;
        while let Some(root) = take_root() {
            assert!(words(root)[..256].iter().all(|&entry| entry == 0));
            assert_eq!(words(root)[256..], kernel[256..]);
            frames::free_frame(root);
            seen += 1;
        }
        assert!(seen > 0);
    }

    #[test]
    fn whoever_takes_any_gets_all_that_are_prepared() {
        testing::kernel_machine();
        init();
        while prepare_one() {}
        let mut all = Vec::new();
        while let Some(frame) = take_any(FrameKind::User) {
            all.push(frame);
        }
        assert!(all.len() > SHELF);
        assert_eq!(take_root(), None);
        assert_eq!(take_zeroed(FrameKind::User), None);
        let mut distinct = all.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
        for frame in all {
            frames::free_frame(frame);
        }
    }
}
