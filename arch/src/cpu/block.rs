//! The per-CPU block: what a CPU finds through GS while it runs the kernel.
//!
//! The first fields are the entry paths' own, at offsets that the assembly uses and that are asserted here. The kernel
//! hangs its own per-CPU data at `extension`. A block belongs to one CPU; the few fields that others touch are atomic.
//!
//! IST stacks carry the block's address at their top, because an NMI, #DB, #MC or #DF can come before `swapgs` and must
//! find the block without trusting GS (see `entry/paranoid.rs`).

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use abi::UserContext;

use super::gdt::{self, Gdt};
use super::idt::Idt;
use super::msr::Msr;
use super::short_calls::{Routines, ShortCalls};
use super::tss::{self, Ist, Tss};
use crate::addr::{ApicId, CpuIndex};
use crate::fpu::Owner;
use crate::hooks;
use crate::paging::KEEP;
use crate::ports::CpuPorts;
use crate::switch::ThreadState;
use crate::tlb::CpuSlot;

/// Reasons why a CPU must not return to user mode at once. Bits of [`CpuBlock::pending`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Pending(pub u32);

impl Pending {
    /// Another thread should run.
    pub const RESCHEDULE: Pending = Pending(1);
    /// The scheduler inbox has something.
    pub const INBOX: Pending = Pending(2);
    /// The current thread was asked to end or stop.
    pub const THREAD: Pending = Pending(4);
    /// A deadline has passed.
    pub const TIMER: Pending = Pending(16);
    /// The log grew, and its owner is to be told.
    pub const LOG: Pending = Pending(32);
    /// A machine check was survived, and is to be told of.
    pub const MACHINE_CHECK: Pending = Pending(64);
    /// Somebody waits for the CPU to pass the way out of the kernel.
    pub const PASS: Pending = Pending(128);
}

/// One CPU's block.
#[repr(C, align(4096))]
pub struct CpuBlock {
    /// The block's own address, so that `mov reg, gs:0` finds it.
    pub(super) self_pointer: Cell<*const CpuBlock>,
    /// The kernel's part of each short call, by number.
    pub(super) short_calls: ShortCalls,
    /// The kernel's part of every other call, as the current thread needs it.
    system_call: Cell<Option<extern "C" fn(&mut UserContext)>>,
    /// Where the entries keep the user's RSP, or a register, while there is no stack.
    scratch: Cell<u64>,
    /// The current thread's switch state. Written by its own CPU.
    current: AtomicPtr<ThreadState>,
    /// [`Pending`] bits. Its own; atomic only so that an exception inside of the kernel may ask as well.
    pending: AtomicU32,
    /// The CPU's index.
    index: u32,
    /// The CPU's local APIC id.
    apic_id: Cell<u32>,
    /// Whether the single step that `sysenter` brought into the kernel is owed to user mode.
    step: Cell<bool>,
    /// How many handlers of NMI, #MC and #DB are under way, those of a #DB from user mode apart. Counted by their entries.
    paranoid_depth: Cell<u8>,
    /// RSP in the frame of the run that is under way; 0 for none (`entry/run.rs`).
    run: Cell<u64>,
    /// Whose state the FPU registers hold, and whether CR0.TS is clear.
    pub(crate) fpu: Owner,
    /// The kernel's per-CPU data.
    extension: Cell<*const ()>,
    /// Levels of locks held.
    pub(super) lock_mask: Cell<u64>,
    /// CR3 of the kernel and of user mode, where the two differ: see [`UserTables`]. 0 where they don't.
    kernel_cr3: Cell<u64>,
    user_cr3: Cell<u64>,
    user_cr3_kept: Cell<u64>,
    /// What VERW is given: a selector that can be written to.
    data_selector: Cell<u16>,
    /// Whether a change of spaces is more than a change of root (`tlb/hardware.rs`).
    careful: Cell<bool>,
    /// Whose branch predictions the CPU may hold: the number of an address space.
    predictions: Cell<u64>,
    /// The space that is loaded, and what others ask of this CPU about it.
    tlb: Shared<CpuSlot>,
    /// Whose port map is in the TSS, and what others ask of this CPU about it.
    ports: Shared<CpuPorts>,
    pub(super) gdt: UnsafeCell<Gdt>,
    pub(super) tss: Tss,
    pub(super) idt: UnsafeCell<Idt>,
}

/// The values of CR3 for a CPU whose user mode has tables of its own.
#[derive(Clone, Copy, Debug)]
pub struct UserTables {
    /// What an entry loads. The kernel's entries stay in the TLB.
    pub kernel: u64,
    /// What the next way out loads: with a flush, if one is due.
    pub user: u64,
    /// What the ways out after that load. Differs from `user` in bit 63 at most.
    pub user_kept: u64,
}

/// Keeps what other CPUs write to on cache lines of its own.
#[repr(align(64))]
struct Shared<T>(T);

/// Offsets that the assembly uses.
pub(crate) mod offsets {
    use super::{CpuBlock, offset_of};

    /// Top of the current thread's kernel stack: TSS.RSP0 itself, so that a system call and an interrupt can't find two (unless user
    /// mode has page tables of its own; then an interrupt finds it in a second step).
    pub(crate) const STACK_TOP: usize = offset_of!(CpuBlock, tss) + super::tss::STACK_TOP_OFFSET;
    /// The table of short calls.
    pub(crate) const SHORT_CALLS: usize = offset_of!(CpuBlock, short_calls);
    /// The address of the routine for other calls.
    pub(crate) const SYSTEM_CALL: usize = offset_of!(CpuBlock, system_call);
    /// The requests.
    pub(crate) const PENDING: usize = offset_of!(CpuBlock, pending);
    /// The scratch word.
    pub(crate) const SCRATCH: usize = offset_of!(CpuBlock, scratch);
    /// How many handlers of NMI, #MC and #DB are under way.
    pub(crate) const PARANOID_DEPTH: usize = offset_of!(CpuBlock, paranoid_depth);
    /// The top of the CPU's entry stack, if it has one.
    pub(crate) const ENTRY_STACK: usize = offset_of!(CpuBlock, tss) + super::tss::RSP0_OFFSET;
    /// CR3 of the kernel; 0 if user mode has no tables of its own.
    pub(crate) const KERNEL_CR3: usize = offset_of!(CpuBlock, kernel_cr3);
    /// CR3 for the next way out.
    pub(crate) const USER_CR3: usize = offset_of!(CpuBlock, user_cr3);
    /// CR3 for the ways out after that.
    pub(crate) const USER_CR3_KEPT: usize = offset_of!(CpuBlock, user_cr3_kept);
    /// The kernel data selector.
    pub(crate) const DATA_SELECTOR: usize = offset_of!(CpuBlock, data_selector);
}

const _: () = {
    assert!(offset_of!(CpuBlock, self_pointer) == 0);
    // RSP0 is no multiple of eight; a load of it must not touch two cache lines all the same.
    assert!(offsets::STACK_TOP % 64 <= 56);
};

/// Pages of a block.
pub const BLOCK_PAGES: u64 = (size_of::<CpuBlock>() / 4096) as u64;

/// Bytes at the top of an IST stack that hold the block's address, 16 to keep the stack aligned.
pub(crate) const IST_BLOCK_POINTER: u64 = 16;

impl CpuBlock {
    pub(super) const fn empty(index: u32) -> CpuBlock {
        CpuBlock {
            self_pointer: Cell::new(ptr::null()),
            short_calls: ShortCalls::empty(),
            system_call: Cell::new(None),
            scratch: Cell::new(0),
            current: AtomicPtr::new(ptr::null_mut()),
            pending: AtomicU32::new(0),
            index,
            apic_id: Cell::new(0),
            step: Cell::new(false),
            paranoid_depth: Cell::new(0),
            run: Cell::new(0),
            fpu: Owner::new(),
            extension: Cell::new(ptr::null()),
            lock_mask: Cell::new(0),
            kernel_cr3: Cell::new(0),
            user_cr3: Cell::new(0),
            user_cr3_kept: Cell::new(0),
            data_selector: Cell::new(gdt::KERNEL_DATA),
            careful: Cell::new(false),
            predictions: Cell::new(0),
            tlb: Shared(CpuSlot::new()),
            ports: Shared(CpuPorts::new()),
            gdt: UnsafeCell::new(Gdt::new(0, (0, 0))),
            tss: Tss::new(),
            idt: UnsafeCell::new(Idt::new()),
        }
    }

    /// Lays out the block of CPU `index` at `place`.
    ///
    /// `ist_tops` are the tops (one past the last byte, 16-byte aligned) of the IST stacks, in the order of [`Ist`];
    /// `entry_stack_top` is that of the entry stack, if user mode has page tables of its own.
    ///
    /// # Safety
    /// `place` must point to [`BLOCK_PAGES`] pages of kernel memory, and each top to a stack, that belong to this CPU for ever. With
    /// tables of its own, user mode's have all of these.
    pub unsafe fn create(
        place: *mut CpuBlock,
        index: CpuIndex,
        ist_tops: &[u64; 4],
        entry_stack_top: Option<u64>,
    ) -> &'static CpuBlock {
        // SAFETY: the caller gives the memory; the block is written whole before it is referred to. It is filled in place,
        // as it is larger than an early stack likes.
        unsafe {
            ptr::write_bytes(place.cast::<u8>(), 0, size_of::<CpuBlock>());
            (&raw mut (*place).index).write(index.0);
            (&raw mut (*place).tlb).write(Shared(CpuSlot::new()));
            (&raw mut (*place).tss).write(Tss::new());
            (&raw mut (*place).fpu).write(Owner::new());
            let block = &*place;
            block.self_pointer.set(place);
            block.report_calls(false);
            block.data_selector.set(gdt::KERNEL_DATA);
            for (slot, top) in [Ist::DoubleFault, Ist::Nmi, Ist::MachineCheck, Ist::Debug]
                .into_iter()
                .zip(ist_tops)
            {
                block.give_ist_stack(slot, *top);
            }
            if let Some(top) = entry_stack_top {
                block.tss.set_entry_stack(top);
            }
            let segment = block.tss.segment(entry_stack_top.is_some());
            *block.gdt.get() = Gdt::new(index.0, segment);
            Idt::fill(block.idt.get());
            block
        }
    }

    /// Puts the block's address at a stack's top, where entries that can't trust GS find it, and the stack into the TSS.
    ///
    /// # Safety
    /// `top` is the 16-byte aligned top of a mapped stack of this CPU's own; the block's address is set; the CPU does not use
    /// the slot yet.
    pub(super) unsafe fn give_ist_stack(&self, slot: Ist, top: u64) {
        let stack = top - IST_BLOCK_POINTER;
        // SAFETY: the caller's promise.
        unsafe {
            *(stack as *mut u64) = self.self_pointer.get() as u64;
            self.tss.set_ist(slot, stack);
        }
    }

    /// The CPU's index.
    #[inline]
    pub fn index(&self) -> CpuIndex {
        CpuIndex(self.index)
    }

    /// The CPU's local APIC id.
    pub fn apic_id(&self) -> ApicId {
        ApicId(self.apic_id.get())
    }

    /// Notes the CPU's local APIC id.
    pub fn set_apic_id(&self, id: ApicId) {
        self.apic_id.set(id.0);
    }

    /// What lies right behind the block, where the kernel may keep data that it comes by without a load.
    #[inline(always)]
    pub fn behind(&self) -> *const () {
        ptr::with_exposed_provenance(ptr::from_ref(self).addr() + size_of::<CpuBlock>())
    }

    /// The kernel's per-CPU data; null before it was set.
    #[inline]
    pub fn extension(&self) -> *const () {
        self.extension.get()
    }

    /// Hangs in the kernel's per-CPU data.
    pub fn set_extension(&self, extension: *const ()) {
        self.extension.set(extension);
    }

    /// The current thread's switch state; null before the first. Of another CPU's block, it may be current no more.
    #[inline]
    pub fn current(&self) -> *mut ThreadState {
        self.current.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_current(&self, thread: *mut ThreadState) {
        self.current.store(thread, Ordering::Relaxed);
    }

    /// Asks the CPU to do something before it returns to user mode. To be called by this CPU only, as the functions below
    /// are: others send it an interrupt, whose handler asks. So one instruction without a lock is enough, in the middle of which not
    /// even an NMI or a machine check comes.
    #[inline]
    pub fn request(&self, what: Pending) {
        // SAFETY: the word is this block's; `or` changes nothing else but flags.
        unsafe {
            asm!("or dword ptr [{}], {:e}", in(reg) self.pending.as_ptr(), in(reg) what.0, options(nostack));
        }
    }

    /// Asks another CPU for something that may get lost, and is then asked for again: if the CPU asks itself for something in the same
    /// moment its own word stands. What it asked itself for is never lost, as this instruction is locked.
    #[inline]
    pub fn request_from_afar(&self, what: Pending) {
        if self.pending.load(Ordering::Relaxed) & what.0 != what.0 {
            self.pending.fetch_or(what.0, Ordering::Relaxed);
        }
    }

    /// Whether anything is asked.
    #[inline]
    pub fn has_requests(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// Takes all that is asked.
    #[inline]
    pub fn take_requests(&self) -> Pending {
        let asked = Pending(self.pending.load(Ordering::Relaxed));
        self.drop_requests(asked);
        asked
    }

    /// Takes some of what is asked, and leaves the rest.
    #[inline]
    pub fn take_requests_of(&self, what: Pending) -> Pending {
        let asked = Pending(self.pending.load(Ordering::Relaxed) & what.0);
        self.drop_requests(asked);
        asked
    }

    /// Takes these requests back; others that come in between stay.
    #[inline]
    fn drop_requests(&self, what: Pending) {
        // SAFETY: as in `request`.
        unsafe {
            asm!("and dword ptr [{}], {:e}", in(reg) self.pending.as_ptr(), in(reg) !what.0, options(nostack));
        }
    }

    /// Notes, before the first instruction of the entry of `sysenter`, that user mode came with TF.
    pub(crate) fn note_step(&self) {
        self.step.set(true);
    }

    /// Takes that note.
    #[inline]
    pub(crate) fn take_step(&self) -> bool {
        self.step.replace(false)
    }

    /// Sets the kernel stack for the next entry from user mode, by `syscall` and by everything else alike.
    ///
    /// # Safety
    /// To be called by this CPU only; `top` is the top of the stack of the thread that it runs next.
    #[inline]
    pub(crate) unsafe fn set_stack_top(&self, top: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.tss.set_rsp0(top) };
    }

    /// Notes that a run is under way: user mode's next trap goes back to the frame where RSP is `record`.
    pub(crate) fn begin_run(&self, record: u64) {
        debug_assert!(self.run.get() == 0, "a run begins inside of a run");
        self.run.set(record);
    }

    /// Ends the run that is under way, if there is one.
    #[inline]
    pub(crate) fn end_run(&self) -> Option<u64> {
        match self.run.replace(0) {
            0 => None,
            record => Some(record),
        }
    }

    /// From now on the calls of the current thread, by `syscall` and `int 0x80` of 64-bit code, are brought to the hook for calls that are reported, each with a whole
    /// context; or they go their usual ways.
    pub(crate) fn report_calls(&self, on: bool) {
        self.short_calls.report(on);
        self.system_call.set(Some(if on {
            hooks::reported_call
        } else {
            hooks::system_call
        }));
    }

    /// Runs a system call of the current thread that came with a whole context.
    #[inline]
    pub(crate) fn system_call(&self, context: &mut UserContext) {
        if let Some(call) = self.system_call.get() {
            call(context);
        }
    }

    /// Puts other routines into the table of short calls, and returns those that were there.
    pub(crate) fn exchange_short_calls(&self, calls: Routines) -> Routines {
        self.short_calls.exchange(calls)
    }

    /// How many handlers of NMI, #MC and #DB are under way, those of a #DB from user mode apart.
    pub(crate) fn paranoid_depth(&self) -> u8 {
        self.paranoid_depth.get()
    }

    /// Where the next entry from user mode begins to push.
    pub fn entry_stack(&self) -> u64 {
        self.tss.rsp0()
    }

    /// Sets what entries and ways out load into CR3.
    pub(crate) fn set_tables(&self, tables: &UserTables) {
        self.kernel_cr3.set(tables.kernel);
        self.user_cr3.set(tables.user);
        self.user_cr3_kept.set(tables.user_kept);
    }

    /// The name under which user mode's entries are in the TLB.
    pub(crate) fn user_name(&self) -> u64 {
        self.user_cr3_kept.get() & 0xFFF
    }

    /// Lets the next way out flush what the TLB holds for user mode, if that has tables and a name of its own.
    pub(crate) fn want_user_flush(&self) {
        self.user_cr3.set(self.user_cr3_kept.get() & !KEEP);
    }

    /// Whether such a flush was wanted and has not been. It is wanted no longer.
    pub(crate) fn take_due_flush(&self) -> bool {
        let kept = self.user_cr3_kept.get();
        self.user_cr3.replace(kept) != kept
    }

    /// Whether a change of spaces is more than a change of root.
    #[inline(always)]
    pub(crate) fn is_careful(&self) -> bool {
        self.careful.get()
    }

    /// Says whether it is.
    pub(crate) fn set_careful(&self, careful: bool) {
        self.careful.set(careful);
    }

    /// Notes that the address space with this number is about to be used; returns whether the CPU may hold another's
    /// branch predictions.
    pub(crate) fn change_predictions(&self, space: u64) -> bool {
        self.predictions.replace(space) != space
    }

    /// The CPU's part in shoot-downs.
    #[inline(always)]
    pub(crate) fn tlb(&self) -> &CpuSlot {
        &self.tlb.0
    }

    /// The CPU's part in port maps.
    #[inline]
    pub fn ports(&self) -> &CpuPorts {
        &self.ports.0
    }

    /// Fills the slots of the descriptor table that are for the current thread's own segments.
    ///
    /// # Safety
    /// To be called by this CPU only; the descriptors went through `TlsSlots::set`.
    pub(crate) unsafe fn set_tls(&self, descriptors: &[u64; abi::segment::TLS_SLOTS]) {
        // SAFETY: this CPU alone refers to its table from Rust; the CPU itself reads descriptors only when a selector is loaded,
        // and none is loaded meanwhile: an NMI or a debug trap loads CS alone, whose slot is not touched.
        unsafe { (*self.gdt.get()).set_tls(descriptors) };
    }

    /// The segment that the CPU's task register names.
    pub(crate) fn tss(&self) -> &Tss {
        &self.tss
    }

    /// Loads GDT, IDT, task register and segment selectors, and points GS at this block.
    ///
    /// # Safety
    /// This CPU must be the block's, with interrupts off, running on a kernel stack.
    pub(super) unsafe fn load(&self) {
        let gdtr = Pointer {
            limit: gdt::LIMIT,
            base: self.gdt.get() as u64,
        };
        let idtr = Pointer {
            limit: super::idt::LIMIT,
            base: self.idt.get() as u64,
        };
        // SAFETY: both tables are complete and live for ever. The far return reloads CS with the kernel code
        // selector of the new table; DS, ES, FS and SS get null or kernel data; the TSS descriptor is fresh, so `ltr` finds it
        // available. Loading GS last clears its base, which is written right after.
        unsafe {
            asm!(
                "lgdt [{gdtr}]",
                "push {cs}",
                "lea {t}, [rip + 2f]",
                "push {t}",
                "retfq",
                "2:",
                "mov ss, {ss:e}",
                "xor {t:e}, {t:e}",
                "mov ds, {t:e}",
                "mov es, {t:e}",
                "mov fs, {t:e}",
                "mov gs, {t:e}",
                "ltr {tr:x}",           // before the IDT, whose gates name stacks of this TSS
                "lidt [{idtr}]",
                gdtr = in(reg) &raw const gdtr,
                idtr = in(reg) &raw const idtr,
                cs = in(reg) u64::from(gdt::KERNEL_CODE),
                ss = in(reg) u64::from(gdt::KERNEL_DATA),
                tr = in(reg) u64::from(gdt::TSS),
                t = out(reg) _,
            );
            Msr::FS_BASE.write(0);
            Msr::GS_BASE.write(self.self_pointer.get() as u64);
            Msr::KERNEL_GS_BASE.write(0);
        }
    }
}

/// What `lgdt` and `lidt` read.
#[repr(C, packed(2))]
struct Pointer {
    limit: u16,
    base: u64,
}

/// This CPU's block.
#[inline]
pub fn block() -> &'static CpuBlock {
    let pointer: *const CpuBlock;
    // SAFETY: in the kernel GS points at this CPU's block, whose first word is its address. `pure` and `readonly` are left
    // out on purpose: a thread that blocks may go on on another CPU, so the address must be read again.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) pointer, options(nostack, preserves_flags));
        &*pointer
    }
}

/// This CPU's index.
#[inline]
pub fn current_index() -> CpuIndex {
    block().index()
}
