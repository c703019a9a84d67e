//! `switch_to`: one thread leaves a CPU, another comes.
//!
//! The kernel keeps no thread in hardware: a switch is a handful of loads and stores in a stated order (see
//! [`switch_to`]). Each thread has a kernel stack of its own. A thread that is not running has its callee-saved registers on
//! that stack, and its stack pointer in its [`ThreadState`]; its user registers lie at the top of the stack, where the entry
//! put them.
//!
//! What most threads don't have costs most switches nothing: the words of both threads' [`Extras`] and the four selector
//! registers are or-ed together, and only if anything is set the long way is taken ([`switch_extras`]).
//!
//! What may go wrong: a base or selector that is not saved is another thread's afterwards; a kernel stack's top that is not
//! changed lets the next entry write over another thread's stack.

use core::arch::{asm, naked_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::ptr;

use abi::segment::TLS_SLOTS;
use abi::{DebugRegisters, UserContext};

use crate::context::{self, BadContext};
use crate::cpu::{self, CpuBlock, Msr, features};
use crate::debug_registers::{self, BadDebugRegisters};
use crate::entry::{context_at, return_to_user};
use crate::exchange::exchange_code;
use crate::extras::{self, Extras};
use crate::fpu::{self, Exchange, FpuState};
use crate::ports::PortMap;
use crate::segments::{self, BadDescriptor, TlsSlots};
use crate::tlb::{self, Space};

/// What the switch knows of a thread.
///
/// It belongs to the CPU on which the thread runs or is queued.
#[repr(C)]
pub struct ThreadState {
    /// Stack pointer while the thread is not running. First, where [`exchange_stacks`] expects it.
    rsp: Cell<u64>,
    /// Top of its kernel stack; the thread's user context lies right below.
    stack_top: u64,
    /// Its address space.
    space: *const Space,
    pub(crate) fpu: FpuState,
    /// What few threads have.
    extras: Extras,
    /// Whether it ever runs in user mode; a CPU's idle thread does not.
    user: bool,
}

// SAFETY: the cells are touched by one CPU at a time, as the type's documentation says; the scheduler sees to it.
unsafe impl Sync for ThreadState {}
// SAFETY: it is data; the pointers in it are valid on every CPU.
unsafe impl Send for ThreadState {}

/// What [`exchange_stacks`] pops at a thread's first switch: six registers and the address to "return" to.
#[repr(C)]
struct FirstFrame {
    callee_saved: [u64; 6],
    return_address: u64,
}

const _: () = assert!(offset_of!(ThreadState, rsp) == 0);

impl ThreadState {
    /// A user thread that has not run: its first switch leads to user mode with `context`.
    ///
    /// # Safety
    /// `stack_top` is the 16-byte aligned top of a mapped stack of the thread's own; `space` maps the kernel; `context` was
    /// checked (`context::sanitise`). The state must not outlive stack and space.
    pub unsafe fn for_user(
        stack_top: u64,
        space: &Space,
        fpu: FpuState,
        context: UserContext,
    ) -> ThreadState {
        let place = context_at(stack_top);
        let frame = (place as u64 - size_of::<FirstFrame>() as u64) as *mut FirstFrame;
        // SAFETY: the stack is the caller's and large enough.
        unsafe {
            place.write(context);
            frame.write(FirstFrame {
                callee_saved: [0; 6],
                return_address: first_run as *const () as u64,
            });
        }
        let extras = Extras::none();
        extras.mark(extras::BASES_BY_MSR, !features().fsgsbase);
        extras.mark(extras::SELECTORS, has_selectors(&context));
        ThreadState {
            rsp: Cell::new(frame as u64),
            stack_top,
            space,
            fpu,
            extras,
            user: true,
        }
    }

    /// The state of a thread that is already running: a CPU's idle thread, which never sees user mode.
    pub const fn for_idle(stack_top: u64, space: &'static Space) -> ThreadState {
        ThreadState {
            rsp: Cell::new(0),
            stack_top,
            space,
            fpu: FpuState::none(),
            extras: Extras::idle(),
            user: false,
        }
    }

    /// The thread's user context, as its last entry left it. Bases and selectors are right while it is not running.
    #[inline]
    pub fn context(&self) -> *mut UserContext {
        context_at(self.stack_top)
    }

    /// Top of its kernel stack.
    pub fn stack_top(&self) -> u64 {
        self.stack_top
    }

    /// What few threads have.
    #[inline]
    pub fn extras(&self) -> &Extras {
        &self.extras
    }

    /// The thread's debug registers.
    pub fn debug_registers(&self) -> DebugRegisters {
        DebugRegisters {
            // SAFETY: the context lives as long as the thread.
            status: unsafe { (*self.context()).debug_status },
            ..self.extras.breakpoints()
        }
    }

    /// Changes the thread's debug registers. For a thread that does not run.
    ///
    /// # Errors
    /// What makes them unfit; nothing is changed then.
    ///
    /// # Safety
    /// The caller holds the thread stopped.
    pub unsafe fn set_debug_registers(
        &self,
        registers: &DebugRegisters,
    ) -> Result<(), BadDebugRegisters> {
        let checked = debug_registers::check(registers)?;
        // SAFETY: just checked; the caller is the only one who touches the context now.
        unsafe {
            self.extras.set_breakpoints(checked);
            (*self.context()).debug_status = checked.status;
        }
        Ok(())
    }

    /// Changes the thread's registers, but for what they say of its last entry. For a thread that does not run.
    ///
    /// # Errors
    /// What makes them unfit; nothing is changed then.
    ///
    /// # Safety
    /// The caller holds the thread stopped, on its way out of the kernel or before its first run.
    pub unsafe fn set_registers(&self, registers: &UserContext) -> Result<(), BadContext> {
        let mut registers = *registers;
        context::sanitise(&mut registers, &self.extras.tls())?;
        // SAFETY: the caller is the only one who touches the context now.
        let place = unsafe { &mut *self.context() };
        *place = UserContext {
            debug_status: place.debug_status,
            cr2: place.cr2,
            call_number: place.call_number,
            vector: place.vector,
            error_code: place.error_code,
            ..registers
        };
        self.selectors_changed();
        Ok(())
    }

    /// Changes one of the thread's own descriptors, and the bases that came with it. For a thread that does not run.
    ///
    /// # Errors
    /// What makes the descriptor unfit; nothing is changed then.
    ///
    /// # Safety
    /// The caller holds the thread stopped; its bases and selectors are in its context.
    pub unsafe fn set_tls(&self, slot: usize, descriptor: u64) -> Result<(), BadDescriptor> {
        let mut slots = self.extras.tls();
        slots.set(slot, descriptor)?;
        self.extras.set_tls(slots);
        // SAFETY: the caller is the only one who touches the context now.
        slots.renew_bases(slot, unsafe { &mut *self.context() });
        Ok(())
    }

    /// Changes all of the thread's own descriptors. For a thread that does not run.
    ///
    /// # Errors
    /// As [`set_tls`](Self::set_tls); nothing is changed then.
    ///
    /// # Safety
    /// As [`set_tls`](Self::set_tls).
    pub unsafe fn set_all_tls(&self, descriptors: &[u64; TLS_SLOTS]) -> Result<(), BadDescriptor> {
        let mut checked = TlsSlots::EMPTY;
        for (slot, &descriptor) in descriptors.iter().enumerate() {
            checked.set(slot, descriptor)?;
        }
        let before = self.extras.tls();
        for (slot, &descriptor) in checked.descriptors().iter().enumerate() {
            if before.descriptors()[slot] != descriptor {
                // SAFETY: the caller's promise.
                unsafe { self.set_tls(slot, descriptor) }?;
            }
        }
        Ok(())
    }

    /// Notes whether the thread has selectors, after they were saved or set.
    fn selectors_changed(&self) {
        // SAFETY: the caller runs the thread in the kernel, or holds it stopped.
        let has = has_selectors(unsafe { &*self.context() });
        self.extras.mark(extras::SELECTORS, has);
    }
}

/// Whether a data selector is not null.
fn has_selectors(context: &UserContext) -> bool {
    (context.ds | context.es | context.fs | context.gs) != 0
}

/// Makes a state this CPU's current thread without a switch: for the idle thread that grows out of the boot code.
///
/// # Safety
/// The caller runs on the state's stack, and the state lives for ever.
pub unsafe fn adopt(state: &'static ThreadState) {
    let block = cpu::block();
    block.set_current(ptr::from_ref(state).cast_mut());
    // SAFETY: the stack is the state's own.
    unsafe { block.set_stack_top(state.stack_top) };
}

/// Leaves `previous` and goes on where `next` left; returns when somebody switches back.
///
/// Order: floating-point state, what few threads have, selectors and bases, page tables, the stack top, the current
/// thread, callee-saved registers and stack.
///
/// # Safety
/// Interrupts are off and no lock is held. `previous` is this CPU's current thread; `next` runs nowhere and belongs to this CPU.
/// Both live until the switch is done; nobody frees `previous` before this CPU's next quiescent point.
#[inline]
pub unsafe fn switch_to(previous: &ThreadState, next: &ThreadState) -> Switched {
    let block = cpu::block();
    let concerns = concerns(previous, next);
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        if concerns.need(extras::FPU | extras::IDLE) {
            fpu::exchange(block, previous, next);
        }
        if concerns.need(!(extras::FPU | extras::BASES_BY_MSR)) {
            switch_extras(block, previous, next);
        } else if concerns.need(extras::BASES_BY_MSR) {
            exchange_bases_by_msr(previous, next);
        } else {
            exchange_bases(previous, next);
        }
        tlb::activate_on(block, &*next.space);
        exchange_threads(block, previous, next)
    }
}

/// What a switch has to carry besides bases and general registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Concerns(u32);

impl Concerns {
    /// Nothing: [`switch_plainly`] will do.
    #[inline(always)]
    pub fn are_none(self) -> bool {
        self.0 == 0
    }

    /// These, and the caller's own reasons to take a longer way, if `more` is not 0; a bit of its lower half is set then.
    #[inline(always)]
    #[must_use]
    pub fn and(self, more: u32) -> Concerns {
        Concerns(self.0 | more)
    }

    /// Floating-point state and nothing else: [`switch_with_fpu`] will do.
    #[inline(always)]
    pub fn are_fpu_alone(self) -> bool {
        self.0 == extras::FPU
    }

    /// Floating-point state, bases by MSRs, or both, and nothing else: [`switch_by_msrs`] will do.
    #[inline(always)]
    pub fn are_few(self) -> bool {
        self.0 & !(extras::FPU | extras::BASES_BY_MSR) == 0
    }

    #[inline(always)]
    fn need(self, kinds: u32) -> bool {
        self.0 & kinds != 0
    }
}

/// What a switch from `previous`, the current thread, to `next` has to carry: the words of both and the selectors, or-ed. A selector
/// may look like kinds of the long way, which it needs itself.
#[inline(always)]
pub fn concerns(previous: &ThreadState, next: &ThreadState) -> Concerns {
    Concerns(selectors_in_use() | previous.extras.kinds() | next.extras.kinds())
}

/// [`switch_to`] for two threads whose [`concerns`] were none just now.
///
/// It is part of its caller. A caller for which the switch is the last thing to do jumps to [`exchange_stacks`] instead of calling it,
/// and needs no callee-saved register of its own: that routine saves them, once.
///
/// # Safety
/// As for [`switch_to`], and as said; `block` is this CPU's.
#[inline(always)]
pub unsafe fn switch_plainly(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        exchange_bases(previous, next);
        exchange_spaces_and_threads(block, previous, next)
    }
}

/// [`switch_to`] for two threads whose [`concerns`] were few: the short way of a CPU without FSGSBASE.
///
/// # Safety
/// As for [`switch_to`], and as said; `block` is this CPU's.
#[inline(always)]
pub unsafe fn switch_by_msrs(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
    concerns: Concerns,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        if concerns.need(extras::FPU) {
            match fpu::exchange_steadily(block, previous, next) {
                Exchange::Done => {}
                Exchange::Undecided => return decide_and_switch(previous, next),
                Exchange::Refused => return refuse_and_switch(block, previous, next),
            }
        }
        exchange_bases_by_msr(previous, next);
        exchange_spaces_and_threads(block, previous, next)
    }
}

/// What comes after the bases.
///
/// # Safety
/// As for [`switch_to`]; `block` is this CPU's.
#[inline(always)]
unsafe fn exchange_spaces_and_threads(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        let space = &*next.space;
        if !tlb::is_active(block, space) {
            if block.is_careful() {
                return activate_and_exchange(block, previous, next);
            }
            tlb::activate_simply(block, space);
        }
        exchange_threads(block, previous, next)
    }
}

/// [`switch_to`] for two threads whose [`concerns`] were floating-point state alone.
///
/// # Safety
/// As for [`switch_to`], and as said; `block` is this CPU's.
#[inline(always)]
pub unsafe fn switch_with_fpu(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        match fpu::exchange_steadily(block, previous, next) {
            Exchange::Done => switch_plainly(block, previous, next),
            Exchange::Undecided => decide_and_switch(previous, next),
            Exchange::Refused => refuse_and_switch(block, previous, next),
        }
    }
}

/// [`switch_with_fpu`] when something is to be decided.
///
/// # Safety
/// As for that.
#[inline(never)]
unsafe fn decide_and_switch(previous: &ThreadState, next: &ThreadState) -> Switched {
    // SAFETY: the caller's promise.
    unsafe { switch_to(previous, next) }
}

/// [`switch_with_fpu`] when the CPU refuses the state of the one that comes: that is noted, and all else is done as ever.
///
/// # Safety
/// As for that.
#[cold]
#[inline(never)]
unsafe fn refuse_and_switch(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    fpu::refuse(block, next);
    // SAFETY: the caller's promise.
    unsafe { switch_to(previous, next) }
}

/// The end of [`switch_plainly`] where a change of spaces is more than a change of root.
///
/// # Safety
/// As for that.
#[inline(never)]
unsafe fn activate_and_exchange(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        tlb::activate_on(block, &*next.space);
        exchange_threads(block, previous, next)
    }
}

/// The last steps of a switch.
///
/// # Safety
/// As for [`switch_to`]; `block` is this CPU's.
#[inline(always)]
unsafe fn exchange_threads(
    block: &CpuBlock,
    previous: &ThreadState,
    next: &ThreadState,
) -> Switched {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        block.set_stack_top(next.stack_top);
        block.set_current(ptr::from_ref(next).cast_mut());
        exchange_stacks(previous, next)
    }
}

/// What [`switch_to`] returns when somebody has switched back: the result of a short call that did nothing but switch.
pub type Switched = crate::hooks::ShortResult;

/// The four data selectors or-ed: 0 if all are null, as 64-bit code has them.
#[inline(always)]
fn selectors_in_use() -> u32 {
    let (all, one): (u32, u32);
    // SAFETY: reading selectors has no effect; a 32-bit destination is zero-extended.
    unsafe {
        asm!(
            "mov {all:e}, ds",
            "mov {one:e}, es",
            "or {all:e}, {one:e}",
            "mov {one:e}, fs",
            "or {all:e}, {one:e}",
            "mov {one:e}, gs",
            "or {all:e}, {one:e}",
            all = out(reg) all, one = out(reg) one, options(nomem, nostack),
        );
    }
    let _ = one;
    all
}

/// Saves the bases of `previous` and loads those of `next`, on a CPU with FSGSBASE.
///
/// The user's GS base is the one that `swapgs` brings in, for three instructions. No interrupt can come, and an NMI does
/// not trust GS.
///
/// # Safety
/// Both are user threads, `previous` this CPU's current one; the bases in the context of `next` are canonical.
#[inline(always)]
unsafe fn exchange_bases(previous: &ThreadState, next: &ThreadState) {
    /// A context lies right below its stack's top.
    const CONTEXT_BYTES: isize = size_of::<UserContext>() as isize;
    // SAFETY: the caller's promise; the contexts are the threads' own.
    unsafe {
        asm!(
            // ANCHOR: exchange_bases
            "rdfsbase {t}",
            "mov [{from} + {fs_base}], {t}",
            "mov {t}, [{to} + {fs_base}]",
            "wrfsbase {t}",
            "mov {t}, [{to} + {gs_base}]",
            "swapgs",
            "rdgsbase {u}",
            "wrgsbase {t}",
            "swapgs",
            "mov [{from} + {gs_base}], {u}",
            // ANCHOR_END: exchange_bases
            from = in(reg) previous.stack_top,
            to = in(reg) next.stack_top,
            t = out(reg) _,
            u = out(reg) _,
            fs_base = const offset_of!(UserContext, fs_base) as isize - CONTEXT_BYTES,
            gs_base = const offset_of!(UserContext, gs_base) as isize - CONTEXT_BYTES,
            options(nostack, preserves_flags),
        );
    }
}

/// The same on a CPU without FSGSBASE. The bases must be read there as well: user mode changes them by loading selectors, null ones too.
///
/// # Safety
/// As for [`exchange_bases`].
#[inline(always)]
unsafe fn exchange_bases_by_msr(previous: &ThreadState, next: &ThreadState) {
    // SAFETY: the contexts are the threads' own, and the one that comes has canonical bases. While the kernel runs, KERNEL_GS_BASE holds
    // the user's base.
    unsafe {
        let (from, to) = (previous.context(), next.context());
        (*from).fs_base = Msr::FS_BASE.read();
        Msr::FS_BASE.write((*to).fs_base);
        (*from).gs_base = Msr::KERNEL_GS_BASE.read();
        Msr::KERNEL_GS_BASE.write((*to).gs_base);
    }
}

/// The long way of selectors, bases and whatever else few threads have.
///
/// # Safety
/// As for [`switch_to`].
#[cold]
#[inline(never)]
unsafe fn switch_extras(block: &CpuBlock, previous: &ThreadState, next: &ThreadState) {
    // SAFETY: the caller's promises are those of the parts.
    unsafe {
        if previous.user {
            save_segments(previous);
        }
        extras::switch(block, &previous.extras, &next.extras);
        if next.user {
            load_segments(next);
        }
    }
}

/// Lets the running thread have the ports of a map, at once and whenever it runs.
///
/// # Safety
/// `thread` is this CPU's current user thread; the map lives as long as the thread.
pub unsafe fn use_ports(thread: &ThreadState, map: &PortMap) {
    // SAFETY: the caller's promise.
    unsafe {
        thread.extras.set_ports(map);
        extras::load_ports(cpu::block(), &thread.extras);
    }
}

/// Saves what user mode may have changed without the kernel's knowledge: selectors, and with them or by `wrfsbase`, bases.
///
/// # Safety
/// `thread` is the current user thread.
#[inline]
unsafe fn save_segments(thread: &ThreadState) {
    // SAFETY: the context is the thread's own.
    unsafe { save_segments_of(&mut *thread.context()) };
    thread.selectors_changed();
}

/// Saves selectors and bases as user mode left them.
///
/// # Safety
/// Nobody has loaded others since user mode was left.
#[inline]
pub(crate) unsafe fn save_segments_of(context: &mut UserContext) {
    // SAFETY: reading has no effect; KERNEL_GS_BASE holds the user's base while the kernel runs.
    unsafe {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
        (context.ds, context.es, context.fs, context.gs) = (ds, es, fs, gs);
        if features().fsgsbase {
            asm!("rdfsbase {}", out(reg) context.fs_base, options(nomem, nostack, preserves_flags));
        } else {
            context.fs_base = Msr::FS_BASE.read();
        }
        context.gs_base = Msr::KERNEL_GS_BASE.read();
    }
}

/// Loads a thread's selectors, then its bases: loading a selector changes the base (or, on AMD, a null one does not), so the
/// bases come last.
///
/// # Safety
/// The context holds selectors of user code (`context::sanitise`) and canonical bases; the thread's own descriptors are in the table.
#[inline]
unsafe fn load_segments(next: &ThreadState) {
    // SAFETY: the context is the thread's own; the rest is the caller's promise.
    unsafe { load_segments_of(&*next.context()) };
}

/// Loads selectors and bases.
///
/// # Safety
/// As [`load_segments`].
#[inline]
pub(crate) unsafe fn load_segments_of(context: &UserContext) {
    // SAFETY: the caller's promise. A selector that went bad since it was checked becomes null.
    unsafe {
        let (ds, es): (u16, u16);
        let (fs, gs): (u16, u16);
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
        if (ds | context.ds) != 0 {
            segments::load_ds(u32::from(context.ds));
        }
        if (es | context.es) != 0 {
            segments::load_es(u32::from(context.es));
        }
        if (fs | context.fs) != 0 {
            segments::load_fs(u32::from(context.fs));
        }
        if (gs | context.gs) != 0 {
            segments::load_gs(u32::from(context.gs), ptr::from_ref(cpu::block()) as u64);
        }
        if features().fsgsbase {
            asm!("wrfsbase {}", in(reg) context.fs_base, options(nostack, preserves_flags));
        } else {
            Msr::FS_BASE.write(context.fs_base);
        }
        Msr::KERNEL_GS_BASE.write(context.gs_base);
    }
}

/// Sets the FS base of the running thread.
///
/// # Safety
/// To be called in a system call of the current user thread; the base is canonical and the user's.
pub unsafe fn set_current_fs_base(base: u64) {
    // SAFETY: the caller's promise.
    unsafe { Msr::FS_BASE.write(base) };
}

/// Changes one of the running thread's own descriptors. Registers that name it are loaded anew, with its base.
///
/// # Errors
/// What makes the descriptor unfit; nothing is changed then.
///
/// # Safety
/// `thread` is this CPU's current user thread.
pub unsafe fn set_current_tls(
    thread: &ThreadState,
    slot: usize,
    descriptor: u64,
) -> Result<(), BadDescriptor> {
    // SAFETY: the caller's promise; while this runs the thread is as good as stopped.
    unsafe {
        save_segments(thread);
        thread.set_tls(slot, descriptor)?;
        extras::load_tls(cpu::block(), &thread.extras);
        load_segments(thread);
    }
    Ok(())
}

/// Brings the bases and selectors of the running thread into its context.
///
/// # Safety
/// `thread` is this CPU's current user thread.
pub unsafe fn complete_context(thread: &ThreadState) {
    // SAFETY: the caller's promise.
    unsafe { save_segments(thread) };
}

/// Saves the callee-saved registers on the current stack, stores RSP in the thread that leaves, and pops the same from the one
/// that comes. The code is in [`exchange`](crate::exchange).
///
/// In: RDI the state of the one that leaves, RSI that of the one that comes; RSP is the first word of each. Out: returns on the
/// other stack, to where that thread left, callee-saved registers its own; RAX and RDX are zero, which is what a short call gives
/// back that had nothing else to do. Flags are not kept; interrupts stay off. Clobbers what a C call may.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn exchange_stacks(previous: &ThreadState, next: &ThreadState) -> Switched {
    exchange_code!()
}

/// Where a thread's first switch comes out: RSP is at its context. Does what is due on the way to user mode, then goes there.
#[unsafe(naked)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn first_run() {
    naked_asm!(
        "call {begin}",
        "jmp {return_to_user}",
        begin = sym crate::hooks::thread_begin,
        return_to_user = sym return_to_user,
    )
}
