//! What the boot sequence found out about the machine and system calls want to know.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::Error;
use abi::info::FramebufferInfo;
#[cfg(target_os = "none")]
use abi::info::MachineInfo;
use spin::Once;

use crate::irq::Line;

/// Facts that don't change after boot.
pub struct Facts {
    /// The framebuffer.
    pub framebuffer: FramebufferInfo,
    /// Seconds since 1970 at boot; 0 if unknown.
    pub boot_seconds: u64,
    /// CPUs that were listed and not started.
    pub cpus_failed: u32,
    /// What was decided, as [`MachineInfo::decisions`](abi::info::MachineInfo::decisions) has it. Who acts on a decision keeps it
    /// himself: this is what it was, so that a test sees where it is not obeyed.
    pub decisions: u32,
    /// Bytes of the kernel image.
    pub image_bytes: u64,
    /// Lines of the ISA bus, as the I/O APICs see them.
    pub isa_lines: [Result<Line, Error>; 16],
}

static FACTS: Once<Facts> = Once::new();
static RECLAIMED: AtomicU64 = AtomicU64::new(0);
static FIRST_USER_NS: AtomicU64 = AtomicU64::new(0);

/// Sets the facts, once.
pub fn set(facts: Facts) {
    FACTS.call_once(|| facts);
}

/// The facts, once the boot sequence has set them.
pub fn facts() -> Option<&'static Facts> {
    FACTS.get()
}

/// The line of the ISA bus with this number.
///
/// # Errors
/// [`Error::OutOfRange`] from 16 up; [`Error::NotSupported`] if the machine's tables don't tell.
pub fn isa_line(number: u8) -> Result<Line, Error> {
    let facts = facts().ok_or(Error::NotSupported)?;
    *facts
        .isa_lines
        .get(usize::from(number))
        .ok_or(Error::OutOfRange)?
}

/// Notes bytes that came back from the boot loader.
pub fn add_reclaimed(bytes: u64) {
    RECLAIMED.fetch_add(bytes, Ordering::Relaxed);
}

/// Bytes that came back from the boot loader.
pub fn reclaimed() -> u64 {
    RECLAIMED.load(Ordering::Relaxed)
}

/// Notes when the first user instruction was about to run.
pub fn set_first_user_ns(now: u64) {
    FIRST_USER_NS.store(now, Ordering::Relaxed);
}

/// What user space is told.
#[cfg(target_os = "none")]
pub fn info() -> MachineInfo {
    let facts = facts();
    MachineInfo {
        cpus: crate::cpu::count(),
        cpus_failed: facts.map_or(0, |facts| facts.cpus_failed),
        tsc_hz: arch::time::tsc_hz(),
        boot_seconds: facts.map_or(0, |facts| facts.boot_seconds),
        kernel_boot_ns: FIRST_USER_NS.load(Ordering::Relaxed),
        framebuffer: facts.map_or_else(FramebufferInfo::default, |facts| facts.framebuffer),
        decisions: facts.map_or(0, |facts| facts.decisions),
        reserved: 0,
    }
}
