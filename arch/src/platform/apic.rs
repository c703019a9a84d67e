//! The local APIC of this CPU: its mode, its interrupts, messages to other CPUs, its timer.
//!
//! All CPUs run in one mode: x2APIC where the CPU has it, else xAPIC. That is also how the `x2apic` crate chooses, and it
//! can't be told otherwise. A firmware that hands over in x2APIC mode is thereby met too: there is no way back to xAPIC
//! but through "disabled", and none is tried. (Device interrupts need a CPU with an id below 255 then; see `ioapic`.)
//!
//! The crate sends INIT, start-up and NMI messages and sets up the timer. It is not used for:
//! - enabling: its `enable` writes 0 to LINT0 and LINT1, which is vector 0 and *not* masked, unmasks and starts the timer
//!   before the vectors are safe, and sets the x2APIC bit of an APIC that may be off, which faults;
//! - the end of an interrupt and messages between running CPUs, which are hot: its value is built anew by `cpuid`, since it
//!   may not be shared between CPUs;
//! - the error register, which must be written before it is read.
//!
//! What may go wrong: a message sent in xAPIC mode before the last one has left is lost, so there is a bounded wait;
//! and a write to the x2APIC's command register is not serialising, so what the message is about must be fenced before.
//! Nothing here takes a lock. Interrupts are off in the kernel, so the two writes of an xAPIC command are not
//! torn apart, except by an NMI handler, which therefore sends nothing but the one shorthand message of a panic.

use core::{
    fmt,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use x2apic::lapic::{IpiAllShorthand, LocalApic, LocalApicBuilder, TimerDivide, TimerMode};
use x86_64::registers::model_specific::Msr;

pub use super::apic_registers::Mode;
use super::{
    Cache, PhysicalMap,
    apic_registers::{
        BASE_ADDRESS, BASE_ENABLE, BASE_MSR, BASE_X2APIC, COMMAND_PENDING, LVT_MASKED, LVT_NMI,
        SOFTWARE_ENABLE, destination_word, fixed_command, msr, offset,
    },
    hypervisor::cpuid,
};
use crate::addr::{ApicId, PhysAddr};

/// The vector of an interrupt that was withdrawn before it was taken. Its handler returns at once: no end of interrupt
/// (Intel SDM vol. 3A §11.9).
pub const SPURIOUS_VECTOR: u8 = 0xFF;
/// The vector that reports errors of the local APIC itself; see [`take_errors`].
pub const ERROR_VECTOR: u8 = 0xFE;
/// The timer's vector.
pub const TIMER_VECTOR: u8 = 0xFD;

/// Times that the command register is read before a message is taken for stuck: some milliseconds.
const COMMAND_POLLS: u32 = 100_000;
/// IA32_TSC_DEADLINE (Intel SDM vol. 3A §11.5.4.1).
const TSC_DEADLINE_MSR: u32 = 0x6E0;
/// Bytes of the register page.
const REGISTER_BYTES: u64 = 0x1000;

/// Where the registers are seen in xAPIC mode; two small values that no mapping has stand for the other states.
static REGISTERS: AtomicU64 = AtomicU64::new(NOT_READY);
const X2APIC: u64 = 0;
const NOT_READY: u64 = 1;

/// Messages that were sent although the one before seemed stuck.
static STUCK: AtomicU32 = AtomicU32::new(0);

/// Why a CPU's local APIC can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicError {
    /// The CPU has none.
    Absent,
    /// Its registers could not be mapped.
    NotMapped(PhysAddr),
    /// It is in x2APIC mode although the CPU says it has none, or the other way round than all CPUs.
    WrongMode,
    /// [`init_boot_cpu`] was not called.
    NotReady,
    /// This mode can't name that CPU.
    Unreachable(ApicId),
    /// An earlier message has not left.
    Stuck,
}

impl fmt::Display for ApicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("the CPU has no local APIC"),
            Self::NotMapped(address) => {
                write!(
                    f,
                    "the local APIC at {:#x} can't be mapped",
                    address.as_u64()
                )
            }
            Self::WrongMode => {
                f.write_str("the local APIC can't be put into the mode of the others")
            }
            Self::NotReady => f.write_str("the first CPU's local APIC has not been set up"),
            Self::Unreachable(id) => write!(f, "APIC id {id} can't be reached in xAPIC mode"),
            Self::Stuck => f.write_str("an interprocessor message does not leave"),
        }
    }
}

impl core::error::Error for ApicError {}

/// The mode all CPUs are in; `None` before [`init_boot_cpu`].
#[inline]
#[must_use]
pub fn mode() -> Option<Mode> {
    match REGISTERS.load(Ordering::Relaxed) {
        X2APIC => Some(Mode::X2Apic),
        NOT_READY => None,
        _ => Some(Mode::XApic),
    }
}

/// Where this kernel sees the registers; 0 in x2APIC mode.
pub(super) fn registers() -> u64 {
    match REGISTERS.load(Ordering::Relaxed) {
        NOT_READY => X2APIC,
        registers => registers,
    }
}

#[inline]
fn read(register: u32) -> u32 {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on, and all registers named here can be read in it (§11.12.1.2).
        X2APIC => unsafe { Msr::new(msr(register)).read() as u32 },
        // SAFETY: else this is the mapping of the register page, which stays for good.
        base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
    }
}

/// # Safety
/// [`REGISTERS`] must be set, and the value must be right for the register: it decides which interrupts come.
#[inline]
unsafe fn write(register: u32, value: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on; the caller vouches for the value.
        X2APIC => unsafe { Msr::new(msr(register)).write(u64::from(value)) },
        // SAFETY: else this is the mapping of the register page, which stays for good.
        base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Makes all that this CPU wrote visible before anything after: a write to an x2APIC register does not wait for it
/// (Intel SDM vol. 3A §11.12.3).
#[inline]
fn fence() {
    // SAFETY: fences change nothing.
    unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

/// This CPU's local APIC as the crate has it. It identifies the CPU anew, which traps under a hypervisor: not for hot
/// paths.
fn local() -> Result<LocalApic, ApicError> {
    let base = REGISTERS.load(Ordering::Relaxed);
    if base == NOT_READY {
        return Err(ApicError::NotReady);
    }
    LocalApicBuilder::new()
        .timer_vector(usize::from(TIMER_VECTOR))
        .error_vector(usize::from(ERROR_VECTOR))
        .spurious_vector(usize::from(SPURIOUS_VECTOR))
        .set_xapic_base(base)
        .build()
        .map_err(|_| ApicError::NotReady)
}

/// Chooses the mode for all CPUs, maps the registers if it needs them, and sets up this CPU's local APIC.
///
/// # Errors
/// There is no local APIC, or its registers can't be mapped.
///
/// # Safety
/// On the first CPU, once, before any other starts; handlers for the three vectors of this module must be in place before
/// interrupts are allowed.
pub unsafe fn init_boot_cpu(map: &dyn PhysicalMap) -> Result<Mode, ApicError> {
    let features = cpuid().get_feature_info().ok_or(ApicError::Absent)?;
    if !features.has_apic() || !features.has_msr() {
        return Err(ApicError::Absent);
    }
    // SAFETY: a CPU with an APIC and model-specific registers has this one.
    let base = unsafe { Msr::new(BASE_MSR).read() };
    if features.has_x2apic() {
        REGISTERS.store(X2APIC, Ordering::Relaxed);
    } else {
        let address = PhysAddr::new_truncate(base & BASE_ADDRESS);
        let registers = map
            .map(address, REGISTER_BYTES, Cache::Uncached)
            .ok_or(ApicError::NotMapped(address))?;
        REGISTERS.store(registers.as_ptr() as u64, Ordering::Relaxed);
    }
    // SAFETY: the mode is chosen; the rest is the caller's promise.
    unsafe { init_this_cpu()? };
    mode().ok_or(ApicError::NotReady)
}

/// Brings this CPU's local APIC into the mode of all, with every local interrupt masked but the timer, which is stopped,
/// the error interrupt, and NMI on LINT1.
///
/// # Errors
/// [`init_boot_cpu`] was not called, or the CPU can't do what the first one could.
///
/// # Safety
/// With interrupts off, on a CPU that takes part; handlers for the three vectors of this module must be in place before
/// interrupts are allowed.
pub unsafe fn init_this_cpu() -> Result<(), ApicError> {
    let mode = mode().ok_or(ApicError::NotReady)?;
    let features = cpuid().get_feature_info().ok_or(ApicError::Absent)?;
    if !features.has_apic() {
        return Err(ApicError::Absent);
    }
    let mut base_register = Msr::new(BASE_MSR);
    // SAFETY: a CPU with an APIC has this register.
    let mut base = unsafe { base_register.read() };
    if (mode == Mode::X2Apic) != features.has_x2apic()
        || (mode == Mode::XApic && base & BASE_X2APIC != 0)
    {
        return Err(ApicError::WrongMode);
    }
    // Off to x2APIC in one step faults (Intel SDM vol. 3A §11.12.5): first on, then x2APIC.
    if base & BASE_ENABLE == 0 {
        base |= BASE_ENABLE;
        // SAFETY: off to xAPIC is allowed; the software enable bit is still 0.
        unsafe { base_register.write(base) };
    }
    if mode == Mode::X2Apic && base & BASE_X2APIC == 0 {
        // SAFETY: xAPIC to x2APIC is allowed, and the CPU has x2APIC.
        unsafe { base_register.write(base | BASE_X2APIC) };
    }

    // Software-enabled first: while it is off, the local vector table can't be unmasked.
    // SAFETY: each value is what the manual has for "nothing comes but what is listed above"; the caller has handlers
    // for it.
    unsafe {
        write(
            offset::SPURIOUS,
            SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR),
        );
        write(offset::LVT_TIMER, LVT_MASKED | u32::from(TIMER_VECTOR));
        write(offset::LVT_LINT0, LVT_MASKED);
        // NMI sources of the board (a button, a bus error) are wired to LINT1 on practically every PC.
        write(offset::LVT_LINT1, LVT_NMI);
        write(offset::LVT_ERROR, LVT_MASKED | u32::from(ERROR_VECTOR));
        // The entry's count less one stands in the version register.
        let highest_entry = version() >> 16 & 0xFF;
        if highest_entry >= 4 {
            write(offset::LVT_PERFORMANCE, LVT_MASKED);
        }
        if highest_entry >= 5 {
            write(offset::LVT_THERMAL, LVT_MASKED);
        }
        if highest_entry >= 6 {
            write(offset::LVT_CMCI, LVT_MASKED);
        }
        write(offset::TASK_PRIORITY, 0);
        clear_in_service();
        take_errors();
        write(offset::LVT_ERROR, u32::from(ERROR_VECTOR));

        let mut local = local()?;
        local.set_timer_divide(TimerDivide::Div1);
        local.set_timer_mode(TimerMode::OneShot);
        local.set_timer_initial(0);
        local.enable_timer();
    }
    Ok(())
}

/// The version register (its offset is the crate's matter; it has no name for the whole word).
fn version() -> u32 {
    const VERSION: u32 = 0x030;
    read(VERSION)
}

/// Ends what firmware left in service: it would block all interrupts of its priority and below for good.
///
/// # Safety
/// During set-up only, with interrupts off.
unsafe fn clear_in_service() {
    // At most one for each vector.
    for _ in 0..256 {
        let any = (0..8).any(|word| read(offset::IN_SERVICE + word * 0x10) != 0);
        if !any {
            return;
        }
        eoi();
    }
}

/// This CPU's local APIC id.
#[must_use]
pub fn id() -> ApicId {
    const ID: u32 = 0x020;
    let word = read(ID);
    match mode() {
        Some(Mode::X2Apic) => ApicId(word),
        // The id is in the top byte, as a destination is; the crate's `id` returns the word as it stands.
        _ => ApicId(word >> 24),
    }
}

/// Tells the local APIC that the interrupt in service has been handled. Not after a spurious interrupt or an NMI.
#[inline]
pub fn eoi() {
    // SAFETY: interrupts are only handled after set-up; at worst an interrupt in service is ended early.
    unsafe { write(offset::END_OF_INTERRUPT, 0) };
}

/// Waits, bounded, until the last message has left. There is nothing to wait for in x2APIC mode.
#[inline]
fn wait_for_command() -> Result<(), ApicError> {
    if mode() != Some(Mode::XApic) {
        return Ok(());
    }
    for _ in 0..COMMAND_POLLS {
        if read(offset::COMMAND) & COMMAND_PENDING == 0 {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    STUCK.fetch_add(1, Ordering::Relaxed);
    Err(ApicError::Stuck)
}

/// How many messages were sent although the one before seemed stuck.
#[must_use]
pub fn stuck_messages() -> u32 {
    STUCK.load(Ordering::Relaxed)
}

/// Sends the interrupt `vector` (16 or above) to one CPU, which may be this one. What was written before is visible to
/// the handler. Takes no lock. Before [`init_boot_cpu`], or to an id that can't be named, nothing is sent.
#[inline]
pub fn send_ipi(target: ApicId, vector: u8) {
    let registers = REGISTERS.load(Ordering::Relaxed);
    if registers == NOT_READY {
        return;
    }
    if registers == X2APIC {
        let command = u64::from(target.0) << 32 | u64::from(fixed_command(vector));
        fence();
        // SAFETY: x2APIC mode is on; the kernel has a handler for what it sends.
        unsafe { Msr::new(msr(offset::COMMAND)).write(command) };
        return;
    }
    let Some(destination) = destination_word(Mode::XApic, target) else {
        return;
    };
    // If the last one is stuck, sending is still the best that can be done: a lost message hangs the other side.
    let _ = wait_for_command();
    // SAFETY: the register page is mapped; uncached writes come after all earlier ones. The kernel has a handler for
    // what it sends.
    unsafe {
        write(offset::COMMAND_HIGH, destination);
        write(offset::COMMAND, fixed_command(vector));
    }
}

/// Runs `send` on the crate's local APIC, with the destination word for `target`, when the last message has left.
fn send_through_crate(
    target: ApicId,
    send: impl FnOnce(&mut LocalApic, u32),
) -> Result<(), ApicError> {
    let mode = mode().ok_or(ApicError::NotReady)?;
    let destination = destination_word(mode, target).ok_or(ApicError::Unreachable(target))?;
    let mut local = local()?;
    wait_for_command()?;
    fence();
    send(&mut local, destination);
    wait_for_command()
}

/// Sends an NMI to one CPU.
///
/// # Errors
/// Local APICs are not set up, can't name that CPU, or a message is stuck.
pub fn send_nmi(target: ApicId) -> Result<(), ApicError> {
    // SAFETY: every CPU that runs has an NMI handler, and one that doesn't run ignores it.
    send_through_crate(target, |local, word| unsafe { local.send_nmi(word) })
}

/// Sends an NMI to all CPUs but this one, for a panic: it works without locks, tries even if a message is stuck, and does
/// nothing before set-up.
pub fn send_nmi_all_but_self() {
    if let Ok(mut local) = local() {
        let _ = wait_for_command();
        fence();
        // SAFETY: every CPU that runs has an NMI handler. A shorthand needs no destination, so both modes are alike.
        unsafe { local.send_nmi_all(IpiAllShorthand::AllExcludingSelf) };
    }
}

/// Sends INIT to one CPU: it stops whatever it does and waits for a start-up message.
///
/// # Errors
/// Local APICs are not set up, can't name that CPU, or a message is stuck.
///
/// # Safety
/// That CPU must not be running anything that is still needed.
pub unsafe fn send_init(target: ApicId) -> Result<(), ApicError> {
    // SAFETY: the caller vouches that nothing is lost with what that CPU does.
    send_through_crate(target, |local, word| unsafe { local.send_init_ipi(word) })
}

/// Sends a start-up message to one CPU that waits for it after INIT: it begins in real mode at page `page` (a number from
/// [`startup_vector`](super::apic_registers::startup_vector)).
///
/// # Errors
/// Local APICs are not set up, can't name that CPU, or a message is stuck.
///
/// # Safety
/// That page must hold code for this.
pub unsafe fn send_startup(target: ApicId, page: u8) -> Result<(), ApicError> {
    // SAFETY: the caller vouches for the code.
    send_through_crate(target, |local, word| unsafe { local.send_sipi(page, word) })
}

/// Reads and clears this CPU's error bits (Intel SDM vol. 3A §11.5.3): the register shows errors only after a write.
pub fn take_errors() -> u32 {
    if mode().is_none() {
        return 0;
    }
    // SAFETY: writing 0 latches the errors, nothing else.
    unsafe { write(offset::ERROR_STATUS, 0) };
    read(offset::ERROR_STATUS)
}

/// Lets this CPU's timer fire once, `ticks` of its own clock from now; 0 stops it.
#[inline]
pub fn timer_arm(ticks: u32) {
    // SAFETY: the timer's vector has a handler.
    unsafe { write(offset::TIMER_INITIAL, ticks) };
}

/// What is left of the ticks given to [`timer_arm`].
#[inline]
#[must_use]
pub fn timer_left() -> u32 {
    read(offset::TIMER_CURRENT)
}

/// Stops this CPU's timer, in either of its modes. An interrupt that is already on its way still comes.
#[inline]
pub fn timer_stop(deadline_mode: bool) {
    if deadline_mode {
        timer_arm_deadline(0);
    } else {
        timer_arm(0);
    }
}

/// Whether this CPU's timer can fire at a value of the time-stamp counter.
#[must_use]
pub fn has_deadline_timer() -> bool {
    cpuid()
        .get_feature_info()
        .is_some_and(|features| features.has_tsc_deadline())
}

/// Switches this CPU's timer to deadlines in the time-stamp counter.
///
/// # Errors
/// Local APICs are not set up.
///
/// # Safety
/// The CPU must have [`has_deadline_timer`], and [`init_this_cpu`] must have run on it.
pub unsafe fn timer_use_deadlines() -> Result<(), ApicError> {
    let mut local = local()?;
    // SAFETY: the CPU has this mode.
    unsafe { local.set_timer_mode(TimerMode::TscDeadline) };
    // The mode must have arrived before the first deadline is written (Intel SDM vol. 3A §11.5.4.1).
    fence();
    Ok(())
}

/// Lets this CPU's timer fire when its time-stamp counter reaches `tsc`, at once if it has; 0 stops it. Only after
/// [`timer_use_deadlines`].
#[inline]
pub fn timer_arm_deadline(tsc: u64) {
    // SAFETY: the register exists where the mode does, and the timer's vector has a handler.
    unsafe { Msr::new(TSC_DEADLINE_MSR).write(tsc) };
}
