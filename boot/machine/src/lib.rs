//! The last thing that a front end does, whatever firmware it came from: hardware that could interrupt the kernel is
//! brought to rest, then the jump.
//!
//! Front ends share it because the protocol promises one state of the machine at the kernel's entry. They come here with
//! the same footing: long mode with four levels of paging, CPL 0, the loader and all device registers below 4 GiB mapped
//! at their physical addresses, interrupts off, and the firmware no longer in charge.
#![no_std]

mod handover;
mod port;
mod quiet;

pub use handover::{firmware_has_five_levels, paging_features, routine_page};
pub use port::{inb, inl, inw, outb, outl, outw};

use boot_core::acpi::AcpiFacts;
use boot_core::load::Start;

/// Ticks of the time-stamp counter.
#[must_use]
pub fn time_stamp() -> u64 {
    // SAFETY: RDTSC has no effect but its result; every CPU with long mode has it, and a loader runs at CPL 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Turns interrupts off for good.
pub fn disable_interrupts() {
    // SAFETY: the callers have left the firmware, so none of its timers needs interrupts any more.
    unsafe { core::arch::asm!("cli", options(nomem, nostack)) }
}

/// Brings the hardware to rest and starts the kernel.
///
/// # Safety
/// The machine stands as the crate's documentation says. `start` is what [`boot_core::load::Prepared::complete`] gave for
/// the page [`routine_page`], and everything that was prepared is still in place.
pub unsafe fn start(start: &Start, acpi: &AcpiFacts) -> ! {
    let strict = start.revision.strict_machine_state();
    quiet::mask_pics();
    quiet::mask_io_apics(acpi, strict);
    if strict {
        quiet::init_local_apic(acpi);
        if !start.keep_iommus {
            quiet::disable_iommus(acpi);
        }
    }
    // SAFETY: the caller's promises are the ones asked for.
    unsafe { handover::jump(start) }
}
