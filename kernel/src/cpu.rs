//! The kernel's part of each CPU: its queues, its clock, its statistics.
//!
//! All but the inbox and the counters is touched by its own CPU only, with interrupts off, so it needs no lock. The table of
//! all CPUs is as long as the machine's list of them.

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use abi::Error;
use arch::addr::{ApicId, CpuIndex};
use arch::cpu::{BLOCK_PAGES, CpuBlock};
use arch::memory::phys_to_virt;
use arch::mitigations::decisions;
use arch::switch::ThreadState;
use spin::Once;

use crate::counter::{Counter, Lasting};
use crate::memory::frames::{self, FrameKind};
use crate::memory::prepared::Shelf;
use crate::memory::{PAGE_BYTES, kernel_space};
use crate::object::quiescent::Seen;
use crate::schedule::SERVE_VECTOR;
use crate::thread::{Thread, ThreadPtr};
use crate::trace;

/// Pages of each IST stack.
const IST_PAGES: u64 = 2;
/// Pages of the stack on which interrupts come in if user mode has page tables of its own. A frame or two lie on it.
const ENTRY_STACK_PAGES: u64 = 1;
/// Pages of a CPU's first stack, which becomes its idle thread's.
const IDLE_STACK_PAGES: u64 = 4;

/// One CPU.
pub struct Cpu {
    index: u32,
    apic_id: ApicId,
    block: &'static CpuBlock,
    /// Top of the idle thread's stack.
    idle_stack_top: u64,
    /// The idle thread's switch state.
    pub(crate) idle: ThreadState,
    /// Ready threads. Its own.
    run: UnsafeCell<sched::RunQueue<ThreadPtr>>,
    /// Deadlines. Its own.
    timers: UnsafeCell<sched::TimerQueue<ThreadPtr>>,
    /// Wake-ups from other CPUs.
    pub(crate) inbox: sched::Inbox<ThreadPtr>,
    /// For the reclamation of objects.
    pub(crate) seen: Seen,
    /// Frames that it has prepared for itself.
    pub(crate) shelf: Shelf,
    /// When the running thread's turn began, by this CPU's time-stamp counter. Its own.
    pub(crate) turn_began: Cell<u64>,
    /// The value of the time-stamp counter that the timer is set to, or an earlier one; `u64::MAX`: nothing. Its own.
    pub(crate) armed: Cell<u64>,
    /// When interrupts that are held back are to be let in, in absolute nanoseconds; `u64::MAX`: there are none. Its own.
    pub(crate) gates_open_ns: Cell<u64>,
    /// What it notes of what it does.
    pub(crate) trace: trace::Ring,
    /// Ticks of the time-stamp counter in a whole turn. Its own.
    pub(crate) quantum: Cell<u64>,
    /// Threads that belong here and are not blocked.
    pub(crate) load: Counter,
    /// When it began to take part, by its time-stamp counter.
    pub(crate) started: AtomicU64,
    /// For how long it had no thread to run.
    pub(crate) idle_time: Lasting,
    pub(crate) switches: Counter,
    pub(crate) interrupts: Counter,
    /// Interrupts of its timer.
    pub(crate) timer_ticks: Counter,
    pub(crate) ipis_sent: Counter,
    pub(crate) nmis: Counter,
    pub(crate) machine_checks: Counter,
    /// The last machine check that was survived and not yet told of: its bank's status; 0: none.
    pub(crate) machine_check: AtomicU64,
    /// A copy from or to user memory has met a page that its pager has not supplied. Its own, from the fault to the copy's end.
    pub(crate) lacks_page: Cell<bool>,
    /// Threads that came from another CPU.
    pub(crate) migrations_in: Counter,
    /// Threads that went to another CPU.
    pub(crate) migrations_out: Counter,
    /// Of those that came: threads that waited elsewhere while this CPU was idle.
    pub(crate) steals: Counter,
    /// An idle CPU has asked for threads. Set by any CPU.
    pub(crate) shed_asked: AtomicBool,
    /// Until when it is no use to ask for threads, by the time-stamp counter. Written by its own CPU.
    pub(crate) barren_until: AtomicU64,
    /// CPUs that were looked at for work since this one went idle. Its own.
    pub(crate) scanned: Cell<u32>,
}

// SAFETY: each cell is touched by its own CPU only, as its line says; the rest is atomic.
unsafe impl Sync for Cpu {}

struct Table {
    slots: &'static [AtomicPtr<Cpu>],
    online: AtomicU32,
}

static TABLE: Once<Table> = Once::new();

/// Makes the tables for up to `capacity` CPUs, the kernel's and that of TLB shoot-downs.
///
/// # Errors
/// [`Error::NoMemory`].
pub fn create_table(capacity: u32) -> Result<(), Error> {
    let slots = null_pointers(capacity)?;
    let blocks = null_pointers(capacity)?;
    TABLE.call_once(|| Table {
        slots,
        online: AtomicU32::new(0),
    });
    arch::tlb::init(blocks, SERVE_VECTOR);
    Ok(())
}

/// Room for `count` pointers that are all null, for ever.
fn null_pointers<T>(count: u32) -> Result<&'static [AtomicPtr<T>], Error> {
    let bytes = count as usize * size_of::<AtomicPtr<T>>();
    let order = bytes
        .div_ceil(PAGE_BYTES as usize)
        .next_power_of_two()
        .trailing_zeros() as u8;
    let block = frames::allocate_order(order, FrameKind::Kernel).ok_or(Error::NoMemory)?;
    let first: *mut AtomicPtr<T> = phys_to_virt(block).cast();
    for index in 0..count as usize {
        // SAFETY: the block is ours for ever and large enough.
        unsafe {
            first
                .add(index)
                .write(AtomicPtr::new(core::ptr::null_mut()));
        };
    }
    // SAFETY: as above, and initialised.
    Ok(unsafe { core::slice::from_raw_parts(first, count as usize) })
}

/// Makes the next CPU: block, IST stacks, first stack, queues. It is not online yet.
///
/// # Errors
/// [`Error::NoMemory`], also if the table is full; [`Error::OutOfRange`] for more CPUs than sets of them have room for.
pub fn create(apic_id: ApicId) -> Result<&'static Cpu, Error> {
    let table = TABLE.get().ok_or(Error::WrongState)?;
    let index = table.online.load(Ordering::Relaxed);
    if index as usize >= table.slots.len() {
        return Err(Error::NoMemory);
    }
    if index >= sched::MAX_CPUS {
        // No thread could be kept to it, or away from it.
        return Err(Error::OutOfRange);
    }
    let guarded = |pages: u64| kernel_space::allocate_guarded(pages);
    // What the CPU needs while it changes page tables.
    let shared = |pages: u64| {
        let start = guarded(pages)?;
        kernel_space::share_with_entries(start, pages)?;
        Ok::<_, Error>(start)
    };
    // The block and this CPU's `Cpu` right behind it.
    let start = guarded(BLOCK_PAGES + (size_of::<Cpu>() as u64).div_ceil(PAGE_BYTES))?;
    kernel_space::share_with_entries(start, BLOCK_PAGES)?;
    let place = start.as_mut_ptr::<CpuBlock>();
    let mut ist_tops = [0; 4];
    for top in &mut ist_tops {
        *top = shared(IST_PAGES)?.as_u64() + IST_PAGES * PAGE_BYTES;
    }
    let entry_stack_top = if decisions().isolation {
        Some(shared(ENTRY_STACK_PAGES)?.as_u64() + ENTRY_STACK_PAGES * PAGE_BYTES)
    } else {
        None
    };
    let idle_stack_top = guarded(IDLE_STACK_PAGES)?.as_u64() + IDLE_STACK_PAGES * PAGE_BYTES;
    // SAFETY: the pages are fresh and this CPU's for ever.
    let block = unsafe { CpuBlock::create(place, CpuIndex(index), &ist_tops, entry_stack_top) };
    block.set_apic_id(apic_id);
    let cpu = (start + BLOCK_PAGES * PAGE_BYTES).as_mut_ptr::<Cpu>();
    debug_assert!(
        core::ptr::addr_eq(cpu, block.behind()),
        "every look-up of a CPU counts on it"
    );
    // For `CpuBlock::behind`.
    let _ = cpu.expose_provenance();
    // SAFETY: as above; it is initialised whole before it is referred to.
    let cpu: &'static Cpu = unsafe {
        cpu.write(Cpu {
            index,
            apic_id,
            block,
            idle_stack_top,
            idle: ThreadState::for_idle(idle_stack_top, kernel_space::as_loaded()),
            run: UnsafeCell::new(sched::RunQueue::new()),
            timers: UnsafeCell::new(sched::TimerQueue::new()),
            inbox: sched::Inbox::new(),
            seen: Seen::new(),
            shelf: Shelf::new(),
            turn_began: Cell::new(0),
            armed: Cell::new(u64::MAX),
            gates_open_ns: Cell::new(u64::MAX),
            trace: trace::Ring::new(),
            quantum: Cell::new(0),
            load: Counter::new(),
            started: AtomicU64::new(0),
            idle_time: Lasting::new(),
            switches: Counter::new(),
            interrupts: Counter::new(),
            timer_ticks: Counter::new(),
            ipis_sent: Counter::new(),
            nmis: Counter::new(),
            machine_checks: Counter::new(),
            machine_check: AtomicU64::new(0),
            lacks_page: Cell::new(false),
            migrations_in: Counter::new(),
            migrations_out: Counter::new(),
            steals: Counter::new(),
            shed_asked: AtomicBool::new(false),
            barren_until: AtomicU64::new(0),
            scanned: Cell::new(0),
        });
        &*cpu
    };
    block.set_extension(core::ptr::from_ref(cpu).cast());
    Ok(cpu)
}

/// Lets this CPU take part: it is set up, knows the time, and is about to run threads.
pub fn set_online(cpu: &'static Cpu) {
    let Some(table) = TABLE.get() else { return };
    let now = arch::time::ticks();
    cpu.started.store(now, Ordering::Relaxed);
    cpu.idle_time.begin(now);
    cpu.quantum
        .set(arch::time::ns_to_ticks(sched::QUANTUM_NS).max(1));
    table.slots[cpu.index as usize].store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
    table.online.store(cpu.index + 1, Ordering::Release);
}

/// How many CPUs take part.
pub fn count() -> u32 {
    TABLE
        .get()
        .map_or(0, |table| table.online.load(Ordering::Acquire))
}

/// The CPU with this index.
///
/// # Panics
/// If there is none: a kernel bug.
#[inline]
pub fn by_index(index: u32) -> &'static Cpu {
    get(index).expect("a CPU index is below the number of CPUs")
}

/// The CPU with this index, if it takes part.
pub fn get(index: u32) -> Option<&'static Cpu> {
    let pointer = TABLE
        .get()?
        .slots
        .get(index as usize)?
        .load(Ordering::Acquire);
    // SAFETY: a CPU in the table lives for ever.
    unsafe { pointer.as_ref() }
}

/// All CPUs that take part.
pub fn all() -> impl Iterator<Item = &'static Cpu> {
    (0..count()).filter_map(get)
}

/// This CPU.
#[inline]
pub fn this() -> &'static Cpu {
    of(arch::cpu::block())
}

/// The CPU of a block.
#[inline(always)]
pub(crate) fn of(block: &CpuBlock) -> &'static Cpu {
    // SAFETY: `create` alone makes blocks, and puts a `Cpu` behind each; no CPU uses one before that.
    unsafe { &*block.behind().cast::<Cpu>() }
}

/// The thread that runs on the CPU of a block, where it is known that there is one: a load. For the CPU itself.
///
/// # Safety
/// The caller runs in a thread's kernel entry, not in the idle loop.
#[inline(always)]
pub(crate) unsafe fn running(block: &CpuBlock) -> ThreadPtr {
    // SAFETY: the caller's promise.
    unsafe { ThreadPtr::of_state(block.current()).unwrap_unchecked() }
}

/// This CPU, if it is set up far enough to have one.
pub fn try_this() -> Option<&'static Cpu> {
    // SAFETY: the extension is null or this CPU's `Cpu`.
    unsafe { arch::cpu::block().extension().cast::<Cpu>().as_ref() }
}

impl Cpu {
    /// Its index.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its local APIC's id.
    #[inline]
    pub fn apic_id(&self) -> ApicId {
        self.apic_id
    }

    /// The running thread; `None`: idle. On another CPU it may run no more, so that it is good for comparison only.
    #[inline]
    pub fn current(&self) -> Option<ThreadPtr> {
        let state = self.block.current();
        if core::ptr::eq(state, &raw const self.idle) {
            None
        } else {
            ThreadPtr::of_state(state)
        }
    }

    /// When `current`, the running thread, has had its turn, by this CPU's time-stamp counter.
    #[inline]
    pub(crate) fn turn_end(&self, current: &Thread) -> u64 {
        current.slice.get().end(self.turn_began.get())
    }

    /// Its block.
    #[inline]
    pub fn block(&self) -> &'static CpuBlock {
        self.block
    }

    /// Top of its first stack.
    pub fn idle_stack_top(&self) -> u64 {
        self.idle_stack_top
    }

    /// Its first stack's bounds.
    pub fn idle_stack(&self) -> core::ops::Range<u64> {
        self.idle_stack_top - IDLE_STACK_PAGES * PAGE_BYTES..self.idle_stack_top
    }

    /// Its ready threads.
    ///
    /// # Safety
    /// To be called by this CPU only, and no two borrows may overlap.
    #[inline]
    #[allow(
        clippy::mut_from_ref,
        reason = "exclusive by ownership of the CPU, see Safety"
    )]
    pub(crate) unsafe fn run_queue(&self) -> &mut sched::RunQueue<ThreadPtr> {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.run.get() }
    }

    /// Its deadlines.
    ///
    /// # Safety
    /// As [`run_queue`](Self::run_queue).
    #[inline]
    #[allow(
        clippy::mut_from_ref,
        reason = "exclusive by ownership of the CPU, see Safety"
    )]
    pub(crate) unsafe fn timers(&self) -> &mut sched::TimerQueue<ThreadPtr> {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.timers.get() }
    }
}
