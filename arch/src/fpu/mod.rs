//! The floating-point state of threads: x87, SSE, AVX, AVX-512.
//!
//! | file | what |
//! |---|---|
//! | `layout.rs` | what the CPU can save, by which instruction, in how many bytes |
//! | `area.rs` | one state in memory; saving and loading it |
//! | `policy.rs` | whose state is in the registers, when it is saved and loaded |
//! | `chosen.rs` | the machine's own way to save and load, without a choice |
//! | `image.rs` | a state for others to see and set |
//! | `hosted.rs` | states inside a process of another system |
//!
//! Between its use and its next need a thread's state costs nothing: CR0.TS is set, and the first FPU instruction is a
//! #NM, which loads the registers. A thread that comes back to registers that still hold its state finds them as they were, and one that
//! uses them slice after slice has them loaded at the switch. A thread gets an area at its first FPU instruction; one that never uses
//! the FPU never has any.
//!
//! CPUs that speculate past a set TS leak registers that are kept lazily (CVE-2018-3665). On those states are loaded at
//! every switch instead ([`set_eager`]), and before a thread without a state runs the registers are cleared.
//!
//! The kernel itself is built without FPU instructions, so nothing in here races with it.

mod area;
#[cfg(target_os = "none")]
mod chosen;
#[cfg(not(target_os = "none"))]
pub mod hosted;
mod image;
mod layout;
#[cfg_attr(
    not(any(target_os = "none", test)),
    allow(dead_code, reason = "there is no CR0.TS in a process")
)]
mod policy;
#[cfg(test)]
mod tests;

pub use area::{Damaged, fixup};
#[cfg(target_os = "none")]
pub(crate) use chosen::patch;
pub use image::ImageError;
pub use layout::{
    AREA_ALIGNMENT, IMAGE_ROOM, Layout, Method, allow_components, use_standard_format_only,
};
#[cfg(target_os = "none")]
pub(crate) use policy::Exchange;
pub use policy::{Counters, FpuState, Owner, Trap};

#[cfg(target_os = "none")]
pub use bare::*;

#[cfg(target_os = "none")]
mod bare {
    use core::arch::asm;
    use core::ptr::NonNull;
    use core::slice;
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::layout::{Layout, Method};
    use super::policy::{self, Registers, Trap};
    use super::{Damaged, Exchange, ImageError, area, chosen, image, layout};
    use crate::cpu::{self, CpuBlock, Msr, features};
    use crate::extras;
    use crate::switch::ThreadState;

    static EAGER: AtomicBool = AtomicBool::new(false);
    /// Bytes of an area; 0 before the first CPU is set up.
    static AREA_BYTES: AtomicU32 = AtomicU32::new(0);
    static MXCSR_MASK: AtomicU32 = AtomicU32::new(0);

    /// Loads each thread's state when the thread comes, instead of at its first use. To be chosen once, before any thread runs.
    pub fn set_eager(eager: bool) {
        EAGER.store(eager, Ordering::Relaxed);
    }

    /// Whether states are loaded when their threads come.
    pub fn is_eager() -> bool {
        EAGER.load(Ordering::Relaxed)
    }

    /// Whether this CPU is of a kind that is known to leak registers that are kept lazily (CVE-2018-3665).
    pub fn leaks_when_lazy() -> bool {
        layout::leaks_when_lazy(layout::cpuid)
    }

    /// Bytes of an area, a multiple of 64.
    pub fn area_bytes() -> usize {
        AREA_BYTES.load(Ordering::Relaxed) as usize
    }

    /// Bytes of a state as [`read_state`] and [`write_state`] have it, the standard XSAVE format: at most
    /// [`IMAGE_ROOM`](super::IMAGE_ROOM).
    pub fn image_bytes() -> usize {
        features().fpu.standard_bytes as usize
    }

    /// This CPU's registers.
    struct ThisCpu;

    impl Registers for ThisCpu {
        #[inline]
        fn open(&self) {
            // SAFETY: clearing TS lets FPU instructions through; the policy sees to whose registers they find.
            unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) };
        }

        #[inline]
        fn close(&self) {
            // SAFETY: every CPU runs with this value and TS clear or set; TS makes the next FPU instruction a #NM.
            unsafe {
                asm!("mov cr0, {}", in(reg) cpu::CR0 | cpu::CR0_TASK_SWITCHED,
                    options(nomem, nostack));
            }
        }

        #[inline(always)]
        unsafe fn save(&self, area: *mut u8) {
            // SAFETY: the caller's promise.
            unsafe { chosen::save(area) };
        }

        #[inline(always)]
        unsafe fn restore(&self, area: *mut u8) -> Result<(), Damaged> {
            // SAFETY: the kernel is built without FPU instructions; the rest is the caller's promise.
            unsafe { chosen::restore(area) }
        }

        #[inline]
        fn scrub(&self) {
            let layout = &features().fpu;
            // SAFETY: the method is this machine's; the kernel is built without FPU instructions; the registers are open.
            unsafe { area::scrub(layout.method, layout.keeps_x87_pointers) };
        }
    }

    /// Brings this CPU's registers into the initial state and closes them. False if the CPU wants larger areas than the first one: it
    /// can't be used.
    ///
    /// # Safety
    /// To be called in `cpu_init`, with CR0, CR4 and XCR0 set, before this CPU runs a thread.
    pub(crate) unsafe fn init_this_cpu(block: &CpuBlock) -> bool {
        /// IA32_XSS: supervisor components, of which there are none here.
        const XSS: Msr = Msr(0xDA0);
        let layout = &features().fpu;
        let bytes = layout.bytes.max(layout.bytes_reported());
        let first = AREA_BYTES.compare_exchange(0, bytes, Ordering::Relaxed, Ordering::Relaxed);
        if let Err(of_first) = first
            && bytes > of_first
        {
            return false;
        }
        if layout.method == Method::Xsaves {
            // SAFETY: a CPU with XSAVES has the register (Intel SDM vol. 1 §13.3).
            unsafe { XSS.write(0) };
        }
        // TS is clear, as `cpu_init` has just set CR0.
        ThisCpu.scrub();
        MXCSR_MASK.store(area::mxcsr_mask(), Ordering::Relaxed);
        ThisCpu.close();
        block.fpu.begin();
        true
    }

    /// One thread leaves and another comes: saves the registers if they were open to the one, opens them to the other or closes them.
    /// Not for two user threads without the bit [`extras::FPU`]: nothing is to be done then.
    ///
    /// # Safety
    /// `previous` is the current one on the CPU of `block`.
    #[inline(always)]
    pub(crate) unsafe fn exchange(block: &CpuBlock, previous: &ThreadState, next: &ThreadState) {
        if block.fpu.is_open() {
            // SAFETY: the caller's promise.
            unsafe { policy::leave(&ThisCpu, &block.fpu, &previous.fpu) };
        }
        if (block.fpu.is_open() | next.fpu.is_concerned())
            && policy::enter(&ThisCpu, &block.fpu, &next.fpu, is_eager)
        {
            note(next);
        }
    }

    /// [`exchange`] for two user threads, if nothing needs to be decided.
    ///
    /// # Safety
    /// As for that; `previous` will go on later. After [`Exchange::Undecided`], [`exchange`] is to be called, after
    /// [`Exchange::Refused`], [`refuse`].
    #[inline(always)]
    pub(crate) unsafe fn exchange_steadily(
        block: &CpuBlock,
        previous: &ThreadState,
        next: &ThreadState,
    ) -> Exchange {
        // SAFETY: the caller's promise.
        unsafe { policy::exchange(&ThisCpu, &block.fpu, &previous.fpu, &next.fpu, is_eager) }
    }

    /// The CPU refused the state of a thread that comes: it learns of it at its next FPU instruction.
    pub(crate) fn refuse(block: &CpuBlock, next: &ThreadState) {
        block.fpu.give_up(&ThisCpu, &next.fpu);
    }

    /// Brings what the policy says of a thread to where the switch looks.
    #[inline]
    fn note(thread: &ThreadState) {
        thread.extras().mark(extras::FPU, thread.fpu.is_concerned());
    }

    /// #NM in user mode: brings the current thread's state in. False if it has none, or it is no reason for a #NM: see
    /// [`lacks_area`].
    pub(crate) fn handle_trap() -> bool {
        let block = cpu::block();
        // SAFETY: a trap from user mode has a current thread, whose state lives as long as it runs.
        let thread = unsafe { &*block.current() };
        let trap = policy::trap(&ThisCpu, &block.fpu, &thread.fpu);
        note(thread);
        trap == Trap::Loaded
    }

    /// Whether a thread has no area yet: after a #NM, that it is its first use of the FPU.
    pub fn lacks_area(thread: &ThreadState) -> bool {
        thread.fpu.area().is_null()
    }

    /// Gives a thread an area, with the initial state in it, which it keeps until [`take_area`]. The current one also has the registers
    /// open afterwards, as it was about to use them.
    ///
    /// # Safety
    /// `area` points to [`area_bytes`] bytes of kernel memory, all zero, aligned to [`AREA_ALIGNMENT`](super::AREA_ALIGNMENT) and
    /// the thread's alone until it is taken back. The thread has none, and runs nowhere else.
    pub unsafe fn provide(thread: &ThreadState, area: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { area::initialise(&features().fpu, area.as_ptr()) };
        thread.fpu.provide(area.as_ptr());
        let block = cpu::block();
        if core::ptr::eq(block.current(), thread) {
            let loaded = policy::use_now(&ThisCpu, &block.fpu, &thread.fpu);
            debug_assert!(
                loaded == Trap::Loaded,
                "the initial state can always be loaded"
            );
        }
        note(thread);
    }

    /// Takes a thread's area away, to be freed.
    ///
    /// # Safety
    /// The thread runs nowhere and will not run again.
    pub unsafe fn take_area(thread: &ThreadState) -> Option<NonNull<u8>> {
        let area = NonNull::new(thread.fpu.withdraw());
        note(thread);
        area
    }

    /// The current thread ends: what it has in the registers needs not be saved.
    ///
    /// # Safety
    /// It must not go back to user mode.
    pub unsafe fn forget_current() {
        let block = cpu::block();
        // SAFETY: there is a current thread once the scheduler runs.
        policy::forget(&block.fpu, unsafe { &(*block.current()).fpu });
    }

    /// Writes a thread's floating-point state to `image`, in the standard XSAVE format (Intel SDM vol. 1 §13.4).
    ///
    /// # Errors
    /// [`ImageError::Size`] if the image has not [`image_bytes`] bytes.
    ///
    /// # Safety
    /// The thread is this CPU's current one, or runs nowhere.
    pub unsafe fn read_state(thread: &ThreadState, image: &mut [u8]) -> Result<(), ImageError> {
        let block = cpu::block();
        let layout = &features().fpu;
        if core::ptr::eq(block.current(), thread) {
            policy::flush(&ThisCpu, &block.fpu, &thread.fpu);
        }
        if lacks_area(thread) {
            return image::export_initial(layout, image);
        }
        // SAFETY: a thread's area has that many bytes, and nobody writes to it now.
        let area = unsafe { slice::from_raw_parts(thread.fpu.area(), layout.bytes as usize) };
        image::export(layout, area, image)
    }

    /// Sets a thread's floating-point state from an image in the standard XSAVE format.
    ///
    /// # Errors
    /// What the CPU would not accept; nothing is changed then. [`ImageError::NoArea`] if the thread must be given one first.
    ///
    /// # Safety
    /// As [`read_state`].
    pub unsafe fn write_state(thread: &ThreadState, image: &[u8]) -> Result<(), ImageError> {
        let block = cpu::block();
        let layout = &features().fpu;
        image::check(layout, MXCSR_MASK.load(Ordering::Relaxed), image)?;
        if lacks_area(thread) {
            return Err(ImageError::NoArea);
        }
        // SAFETY: as in `read_state`.
        let area = unsafe { slice::from_raw_parts_mut(thread.fpu.area(), layout.bytes as usize) };
        image::import(layout, image, area);
        if core::ptr::eq(block.current(), thread) {
            policy::reload(&ThisCpu, &block.fpu, &thread.fpu, is_eager());
        } else {
            thread.fpu.area_written();
        }
        Ok(())
    }

    /// What happened to floating-point state on a CPU.
    pub fn counters(block: &CpuBlock) -> &super::Counters {
        &block.fpu.counters
    }

    /// How states lie in memory on this machine.
    pub fn layout_in_use() -> &'static Layout {
        &features().fpu
    }
}
