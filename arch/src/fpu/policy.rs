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
const NOWHERE: *const Owner = ptr::null();
/// A thread that used the FPU in more slices in a row than this gets its state loaded when it comes.
pub(super) const PRELOAD_AFTER: u8 = 5;
/// The slice in a row in which a thread must prove that it still uses the FPU.
pub(super) const PROBE: u8 = 64;
/// For how many slices a thread gets its state loaded without a question, once it has proved that it uses the FPU.
const SURE: u8 = PROBE - PRELOAD_AFTER - 1;

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
    /// Where the state was last loaded: the CPU's note.
    cpu: Cell<*const Owner>,
    /// For how many slices to come its state is loaded with it, without a question. It has an area that is sound, then.
    sure: Cell<u8>,
    /// Slices in a row in which it used the FPU, or may have; [`PRELOAD_AFTER`] at most.
    row: Cell<u8>,
    /// Whether it used the FPU, or may have, since it last came.
    used: Cell<bool>,
    /// Whether anything is to be done, or decided, when it comes, or leaves: see [`is_concerned`](Self::is_concerned). False for a
    /// thread without an area, and for one that has not used the FPU for a slice, until its next #NM.
    concerned: Cell<bool>,
    kind: Cell<Kind>,
}

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
            sure: Cell::new(0),
            row: Cell::new(0),
            used: Cell::new(false),
            concerned: Cell::new(false),
            kind: Cell::new(kind),
        }
    }

    /// Whether anything is to be done when the thread comes or leaves. If neither a user thread that leaves nor one that comes is
    /// concerned, the registers are closed and stay so: they are open to none but the running one, which is concerned then.
    #[inline(always)]
    pub(super) fn is_concerned(&self) -> bool {
        self.concerned.get()
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
        self.sure.set(0);
        self.cpu.set(NOWHERE);
        self.area.replace(ptr::null_mut())
    }

    /// The area was written: no CPU's registers hold the state any more, and it is sound.
    pub(super) fn area_written(&self) {
        self.cpu.set(NOWHERE);
        self.kind.set(Kind::User);
    }

    /// The FPU was used, or may be, in another slice: in enough of them, and it is preloaded for a while.
    fn count_use(&self) {
        self.used.set(true);
        let row = self.row.get() + 1;
        if row > PRELOAD_AFTER {
            self.sure.set(SURE);
        } else {
            self.row.set(row);
        }
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
    /// States loaded when they were used.
    pub restores: AtomicU64,
    /// #NM taken for a closed FPU.
    pub traps: AtomicU64,
    /// Loads that were not needed, as the registers still held the state.
    pub skipped: AtomicU64,
    /// States loaded when their thread came. Not in `restores`.
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
#[inline]
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// A CPU's part: the state of its registers.
#[derive(Debug)]
pub struct Owner {
    /// Whose state the registers hold.
    whose: Cell<*const FpuState>,
    /// Whether CR0.TS is clear.
    open: Cell<bool>,
    /// What happened.
    pub counters: Counters,
}

impl Owner {
    pub(crate) const fn new() -> Owner {
        Owner {
            whose: Cell::new(ptr::null()),
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
    pub(super) fn begin(&self) {
        self.whose.set(ptr::null());
        self.open.set(false);
    }

    #[inline]
    fn open(&self, registers: &impl Registers) {
        debug_assert!(!self.open.get());
        registers.open();
        self.open.set(true);
        count(&self.counters.ts_changes);
    }

    #[inline]
    fn close(&self, registers: &impl Registers) {
        debug_assert!(self.open.get());
        registers.close();
        self.open.set(false);
        count(&self.counters.ts_changes);
    }

    /// Closes open registers that are not the coming thread's.
    #[inline]
    fn shut(&self, registers: &impl Registers, eager: bool) {
        if eager {
            registers.scrub();
            self.whose.set(ptr::null());
            count(&self.counters.scrubs);
        }
        self.close(registers);
    }

    /// Whether the registers hold this state.
    #[inline]
    fn holds(&self, state: &FpuState) -> bool {
        ptr::eq(self.whose.get(), state) && ptr::eq(state.cpu.get(), self)
    }

    /// Makes the registers open, and hold a state: as they are, or by loading it.
    #[inline]
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
        count(if preload {
            &self.counters.preloads
        } else {
            &self.counters.restores
        });
        let loaded = self.load(registers, state);
        if loaded.is_err() {
            self.give_up(registers, state);
        }
        loaded
    }

    /// Loads a state into the open registers. If that fails, it must be [given up](Self::give_up).
    #[inline(always)]
    fn load(&self, registers: &impl Registers, state: &FpuState) -> Result<(), Damaged> {
        // SAFETY: the registers are open; a thread that is concerned has its area.
        unsafe { registers.restore(state.area.get()) }?;
        self.whose.set(state);
        state.cpu.set(self);
        Ok(())
    }
}

impl Owner {
    /// Saves the open registers of a thread that leaves.
    ///
    /// # Safety
    /// They are its own: it is the CPU's current thread, and has not [forgotten](forget) them.
    #[inline(always)]
    unsafe fn save(&self, registers: &impl Registers, leaving: &FpuState) {
        debug_assert!(ptr::eq(self.whose.get(), leaving));
        // SAFETY: they are open.
        unsafe { registers.save(leaving.area.get()) };
        count(&self.counters.saves);
    }

    /// The CPU refused a state. Half of it may be loaded: nobody may see that.
    #[cold]
    #[inline(never)]
    pub(super) fn give_up(&self, registers: &impl Registers, state: &FpuState) {
        registers.scrub();
        self.whose.set(ptr::null());
        state.kind.set(Kind::Damaged);
        state.sure.set(0);
        state.cpu.set(NOWHERE);
        self.close(registers);
    }
}

/// A thread leaves while the registers are open.
///
/// # Safety
/// The thread is the CPU's current one.
#[inline]
pub(super) unsafe fn leave(registers: &impl Registers, owner: &Owner, state: &FpuState) {
    // A kernel thread finds them as the one before it left them. One that has ended owns nothing any more.
    if ptr::eq(owner.whose.get(), state) {
        // SAFETY: so they are its own.
        unsafe { owner.save(registers, state) };
    }
}

/// What [`exchange`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exchange {
    /// All that is to be done.
    Done,
    /// Nothing: something is to be decided, which takes [`leave`] and [`enter`].
    Undecided,
    /// All, but that the state of the one that comes must be [given up](Owner::give_up).
    Refused,
}

/// [`leave`] and [`enter`] for two user threads, in the few steps that most switches need: the registers of the one that leaves are
/// saved if they are open, and the other is either sure to use them or does not.
///
/// # Safety
/// `leaving` is that of the CPU's current thread, which will go on later.
#[inline(always)]
pub(super) unsafe fn exchange(
    registers: &impl Registers,
    owner: &Owner,
    leaving: &FpuState,
    coming: &FpuState,
    eager: impl FnOnce() -> bool,
) -> Exchange {
    let sure = coming.sure.get();
    if sure == 0 {
        if coming.concerned.get() || eager() {
            return Exchange::Undecided;
        }
        if owner.open.get() {
            // SAFETY: the caller's promise.
            unsafe { owner.save(registers, leaving) };
            owner.close(registers);
        }
        return Exchange::Done;
    }
    coming.sure.set(sure - 1);
    if owner.open.get() {
        // SAFETY: the caller's promise.
        unsafe { owner.save(registers, leaving) };
    } else {
        owner.open(registers);
        if owner.holds(coming) {
            count(&owner.counters.skipped);
            return Exchange::Done;
        }
    }
    count(&owner.counters.preloads);
    match owner.load(registers, coming) {
        Ok(()) => Exchange::Done,
        Err(Damaged) => Exchange::Refused,
    }
}

/// A thread comes that is concerned, or finds the registers open. Returns whether the answer of
/// [`is_concerned`](FpuState::is_concerned) may be another now.
#[inline(always)]
pub(super) fn enter(
    registers: &impl Registers,
    owner: &Owner,
    state: &FpuState,
    eager: impl FnOnce() -> bool,
) -> bool {
    let sure = state.sure.get();
    if sure != 0 {
        state.sure.set(sure - 1);
        // If it is damaged, the thread learns of it at its first use.
        let _ = owner.bring(registers, state, true);
        false
    } else if !state.concerned.get() {
        // The kernel executes no FPU instruction, so a kernel thread may find anything, and the next one perhaps its own.
        if owner.is_open() && state.kind.get() != Kind::Kernel {
            owner.shut(registers, eager());
        }
        false
    } else {
        decide(registers, owner, state, eager());
        true
    }
}

/// A thread with an area comes, and may or may not be preloaded.
#[inline(never)]
fn decide(registers: &impl Registers, owner: &Owner, state: &FpuState, eager: bool) {
    let open = owner.is_open();
    if !state.used.replace(false) {
        state.row.set(0);
    }
    // Back from idleness, with the registers as they were left: nothing at all is to be done.
    let found = state.row.get() < PRELOAD_AFTER && open && owner.holds(state);
    let wanted = state.kind.get() != Kind::Damaged && (eager || found);
    if wanted {
        if owner.bring(registers, state, true).is_ok() {
            state.count_use();
            if eager {
                // There is nothing to prove: it is asked again in a while, and the answer is the same.
                state.sure.set(u8::MAX);
            }
        }
    } else {
        if open {
            owner.shut(registers, eager);
        }
        // It has rested for a slice: there is nothing to decide before it uses the FPU again, which is a #NM.
        state.concerned.set(state.row.get() != 0 || eager);
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
    state.count_use();
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
