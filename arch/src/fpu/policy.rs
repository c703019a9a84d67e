//! Whose state is in the registers, when it is saved and when it is loaded.
//!
//! Each CPU has an [`Owner`] note: whether the registers are *open* (CR0.TS is clear), and whose they are. Four rules keep every thread to
//! its own registers:
//!
//! 1. While user code runs with the registers open, they are the running thread's.
//! 2. A thread that leaves with the registers open is saved at once. So its area is right wherever it goes on, and whoever takes it
//!    to another CPU needs to ask nobody.
//! 3. The registers still hold a thread's state if this CPU's owner is the thread *and* the thread's note says that it was last loaded
//!    here. The first alone is not enough: the thread may have been elsewhere in between, or have died and a new one lie in its memory;
//!    a new one's note says [`NOWHERE`].
//! 4. With eager loading, closed registers are clean: they hold the initial state and nothing of anybody's. So there is nothing that
//!    speculation past a set TS could read.
//!
//! What is written here runs over any [`Registers`]: the machine's (`mod.rs`), and in tests a model of them with XSAVEOPT's memory.
//!
//! **Preloading.** A #NM costs more than loading the state at the switch, so a thread that used the FPU in more than
//! [`PRELOAD_AFTER`] slices in a row gets it loaded when it comes. From then on its registers are open, and nothing tells whether it
//! uses them: neither XINUSE (a state can be in use and unchanged) nor what XSAVEOPT leaves out. So after so many slices in a row
//! ([`PROBE`]) one is a probe: the registers stay closed, and a #NM in it proves the use for the next row, while a slice without one
//! ends the preloading. A steady user pays one #NM in 59 slices; one that stopped is loaded in vain 58 times at most.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::area::Damaged;

/// No CPU.
const NOWHERE: u32 = u32::MAX;
/// A thread that used the FPU in more slices in a row than this gets its state loaded when it comes.
pub(super) const PRELOAD_AFTER: u8 = 5;
/// The slice in a row in which a thread must prove that it still uses the FPU.
pub(super) const PROBE: u8 = 64;

/// What the policy does to a CPU.
pub(super) trait Registers {
    /// Lets FPU instructions through: clears CR0.TS.
    fn open(&self);
    /// Makes the next FPU instruction a #NM: sets CR0.TS.
    fn close(&self);
    /// Saves the registers.
    ///
    /// # Safety
    /// The registers are open; `area` is a thread's area.
    unsafe fn save(&self, area: *mut u8);
    /// Loads the registers.
    ///
    /// # Errors
    /// [`Damaged`]: they hold something undefined then.
    ///
    /// # Safety
    /// The registers are open; `area` is a thread's area.
    unsafe fn restore(&self, area: *mut u8) -> Result<(), Damaged>;
    /// Brings the registers, which are open, into the initial state.
    fn scrub(&self);
}

/// What a thread's part says beside its numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A user thread.
    User,
    /// A thread that never leaves the kernel, and so leaves the registers as they are.
    Kernel,
    /// A user thread whose area was refused by the CPU.
    Damaged,
}

/// A thread's part.
///
/// It belongs to the CPU on which the thread runs or is queued, as `ThreadState` does.
#[derive(Debug)]
pub struct FpuState {
    area: Cell<*mut u8>,
    /// Where the state was last loaded.
    cpu: Cell<u32>,
    /// Slices in a row in which it used the FPU, or may have.
    row: Cell<u8>,
    /// Whether it used the FPU, or may have, since it last came.
    used: Cell<bool>,
    /// Whether anything is to be done, or decided, when it comes: what [`is_concerned`] looks at. False for a thread without an area,
    /// and for one that has not used the FPU for a slice, until its next #NM.
    concerned: Cell<bool>,
    kind: Cell<Kind>,
}

const _: () = assert!(size_of::<FpuState>() == 16);

impl FpuState {
    /// The part of a user thread that has not used the FPU: it has no area until it does.
    pub const fn new() -> FpuState {
        FpuState::of(Kind::User)
    }

    /// The part of a kernel thread, which never uses the FPU.
    pub const fn none() -> FpuState {
        FpuState::of(Kind::Kernel)
    }

    const fn of(kind: Kind) -> FpuState {
        FpuState {
            area: Cell::new(ptr::null_mut()),
            cpu: Cell::new(NOWHERE),
            row: Cell::new(0),
            used: Cell::new(false),
            concerned: Cell::new(false),
            kind: Cell::new(kind),
        }
    }

    /// The thread's area; null if it has none.
    pub(super) fn area(&self) -> *mut u8 {
        self.area.get()
    }

    /// Gives the thread an initialised area.
    pub(super) fn provide(&self, area: *mut u8) {
        debug_assert!(self.area.get().is_null() && self.kind.get() == Kind::User);
        self.area.set(area);
        self.concerned.set(true);
        self.cpu.set(NOWHERE);
    }

    /// Takes the area away from a thread that will not run again.
    pub(super) fn withdraw(&self) -> *mut u8 {
        self.concerned.set(false);
        self.cpu.set(NOWHERE);
        self.area.replace(ptr::null_mut())
    }

    /// The area was written: no CPU's registers hold the state any more, and it is sound.
    pub(super) fn area_written(&self) {
        self.cpu.set(NOWHERE);
        self.kind.set(Kind::User);
    }
}

impl Default for FpuState {
    fn default() -> Self {
        Self::new()
    }
}

/// What happened on a CPU. Only that CPU counts; others read.
#[derive(Debug, Default)]
pub struct Counters {
    /// States saved.
    pub saves: AtomicU64,
    /// States loaded.
    pub restores: AtomicU64,
    /// #NM taken for a closed FPU.
    pub traps: AtomicU64,
    /// Loads that were not needed, as the registers still held the state.
    pub skipped: AtomicU64,
    /// States loaded when their thread came: a part of `restores`.
    pub preloads: AtomicU64,
    /// Times that the registers were cleared for a thread without a state (eager loading only).
    pub scrubs: AtomicU64,
    /// Changes of CR0.TS.
    pub ts_changes: AtomicU64,
}

impl Counters {
    const fn new() -> Counters {
        Counters {
            saves: AtomicU64::new(0),
            restores: AtomicU64::new(0),
            traps: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            preloads: AtomicU64::new(0),
            scrubs: AtomicU64::new(0),
            ts_changes: AtomicU64::new(0),
        }
    }
}

/// Counts, without a locked instruction.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// A CPU's part: the state of its registers.
#[derive(Debug)]
pub struct Owner {
    /// Whose state the registers hold.
    whose: Cell<*const FpuState>,
    cpu: Cell<u32>,
    /// Whether CR0.TS is clear.
    open: Cell<bool>,
    /// What happened.
    pub counters: Counters,
}

impl Owner {
    pub(crate) const fn new() -> Owner {
        Owner {
            whose: Cell::new(ptr::null()),
            cpu: Cell::new(NOWHERE - 1),
            open: Cell::new(false),
            counters: Counters::new(),
        }
    }

    /// Whether the registers are open.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Notes that the registers are closed, clean and nobody's.
    pub(super) fn begin(&self, cpu: u32) {
        self.cpu.set(cpu);
        self.whose.set(ptr::null());
        self.open.set(false);
    }

    fn open(&self, registers: &impl Registers) {
        debug_assert!(!self.open.get());
        registers.open();
        self.open.set(true);
        count(&self.counters.ts_changes);
    }

    fn close(&self, registers: &impl Registers) {
        debug_assert!(self.open.get());
        registers.close();
        self.open.set(false);
        count(&self.counters.ts_changes);
    }

    /// Closes open registers that are not the coming thread's.
    fn shut(&self, registers: &impl Registers, eager: bool) {
        if eager {
            registers.scrub();
            self.whose.set(ptr::null());
            count(&self.counters.scrubs);
        }
        self.close(registers);
    }

    /// Whether the registers hold this state.
    fn holds(&self, state: &FpuState) -> bool {
        ptr::eq(self.whose.get(), state) && state.cpu.get() == self.cpu.get()
    }

    /// Makes the open registers hold a state: as they are, or by loading it.
    fn bring(
        &self,
        registers: &impl Registers,
        state: &FpuState,
        preload: bool,
    ) -> Result<(), Damaged> {
        if !self.open.get() {
            self.open(registers);
        }
        if self.holds(state) {
            count(&self.counters.skipped);
            return Ok(());
        }
        // SAFETY: the registers are open; a thread that is present has its area.
        let loaded = unsafe { registers.restore(state.area.get()) };
        count(&self.counters.restores);
        if preload {
            count(&self.counters.preloads);
        }
        if loaded.is_err() {
            // Half of it may be loaded: nobody may see that.
            registers.scrub();
            self.whose.set(ptr::null());
            state.kind.set(Kind::Damaged);
            state.cpu.set(NOWHERE);
            self.close(registers);
            return loaded;
        }
        self.whose.set(state);
        state.cpu.set(self.cpu.get());
        Ok(())
    }
}

/// Whether there is anything to do when a thread comes: the cheap test before [`enter`].
#[inline(always)]
pub(super) fn is_concerned(owner: &Owner, next: &FpuState) -> bool {
    // One branch for both.
    owner.open.get() | next.concerned.get()
}

/// A thread leaves while the registers are open.
///
/// # Safety
/// The thread is the CPU's current one.
pub(super) unsafe fn leave(registers: &impl Registers, owner: &Owner, state: &FpuState) {
    // A kernel thread finds them as the one before it left them. One that has ended owns nothing any more.
    if ptr::eq(owner.whose.get(), state) {
        // SAFETY: open registers of the current thread are its own.
        unsafe { registers.save(state.area.get()) };
        count(&owner.counters.saves);
    }
}

/// A thread comes that [`is_concerned`].
pub(super) fn enter(registers: &impl Registers, owner: &Owner, state: &FpuState, eager: bool) {
    let open = owner.is_open();
    if state.area.get().is_null() {
        // The kernel executes no FPU instruction, so a kernel thread may find anything, and the next one perhaps its own.
        if open && state.kind.get() != Kind::Kernel {
            owner.shut(registers, eager);
        }
        return;
    }
    let row = if state.used.replace(false) {
        state.row.get()
    } else {
        0
    };
    state.row.set(row);
    let wanted = if state.kind.get() == Kind::Damaged {
        false
    } else if eager {
        true
    } else {
        // Back from idleness, with the registers as they were left: nothing at all is to be done.
        row < PROBE && (row > PRELOAD_AFTER || open && owner.holds(state))
    };
    if wanted {
        if owner.bring(registers, state, true).is_ok() {
            state.used.set(true);
            state.row.set((row + 1).min(PROBE));
        }
    } else {
        if open {
            owner.shut(registers, eager);
        }
        // It has rested for a slice: there is nothing to decide before it uses the FPU again, which is a #NM.
        state.concerned.set(row != 0 || eager);
    }
}

/// What a #NM in user mode was about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// The state is in the registers now; the instruction is to be tried again.
    Loaded,
    /// The thread's first use: it needs an area.
    NoArea,
    /// The state was refused by the CPU and is lost.
    Damaged,
    /// The registers were open: it is not about them.
    NotOurs,
}

/// #NM in user mode: brings the current thread's state in.
pub(super) fn trap(registers: &impl Registers, owner: &Owner, state: &FpuState) -> Trap {
    if owner.is_open() {
        return Trap::NotOurs;
    }
    count(&owner.counters.traps);
    use_now(registers, owner, state)
}

/// The current thread uses the FPU, whose registers are closed: brings its state in.
pub(super) fn use_now(registers: &impl Registers, owner: &Owner, state: &FpuState) -> Trap {
    if state.area.get().is_null() {
        return Trap::NoArea;
    }
    if state.kind.get() == Kind::Damaged || owner.bring(registers, state, false).is_err() {
        return Trap::Damaged;
    }
    state.concerned.set(true);
    state.used.set(true);
    state.row.set(if state.row.get() >= PROBE {
        PRELOAD_AFTER + 1
    } else {
        state.row.get() + 1
    });
    Trap::Loaded
}

/// The current thread will not use the FPU again: nothing needs to be saved for it, and its area may be given away.
pub(super) fn forget(owner: &Owner, state: &FpuState) {
    if ptr::eq(owner.whose.get(), state) {
        owner.whose.set(ptr::null());
    }
    state.cpu.set(NOWHERE);
}

/// Makes the current thread's area hold its state.
pub(super) fn flush(registers: &impl Registers, owner: &Owner, state: &FpuState) {
    if owner.is_open() {
        // SAFETY: the thread is the current one, says the caller.
        unsafe { leave(registers, owner, state) };
    }
}

/// The current thread's area was written: its registers must be loaded again before it goes on.
pub(super) fn reload(registers: &impl Registers, owner: &Owner, state: &FpuState, eager: bool) {
    state.area_written();
    if owner.is_open() {
        // Whatever the registers hold is nobody's now. Its next FPU instruction is a #NM, with eager loading too.
        owner.whose.set(ptr::null());
        owner.shut(registers, eager);
    }
}
