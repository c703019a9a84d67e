//! Breakpoints of user programs, in the CPU's debug registers.
//!
//! The switch loads them for a thread that has some, and switches them off after it (`extras.rs`). They stay in force while
//! the thread is in the kernel: to switch them off at each entry would cost an instruction that serialises. So what may be
//! set is cut to what can't touch the kernel ([`check`]):
//!
//! - addresses are the user's, down to the last byte watched, so that no instruction of the kernel and no data of its own is ever
//!   hit;
//! - no breakpoint on I/O ports, whose numbers are nobody's addresses;
//! - no *general detect*, which would make the kernel's own accesses to the debug registers trap.
//!
//! What is left is data of the user's that the kernel reads or writes for the thread, in a copy from or to user memory. That
//! traps in the kernel, after the access. The trap is noted, the copy goes on, and the thread gets its #DB on its way out, as it would
//! for an instruction of its own. The shadow of a `mov ss` whose operand is watched ends the same way: the trap comes at the first
//! instruction of the kernel (CVE-2018-8897), and is noted there.

use abi::DebugRegisters;
use abi::layout::USER_END;

/// Why debug registers can't be a thread's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadDebugRegisters {
    /// An address, or the end of what is watched from it on, is not the user's.
    Address,
    /// An address is not aligned to what is watched.
    Alignment,
    /// A breakpoint on I/O ports.
    Io,
    /// A breakpoint on more than the first byte of an instruction.
    Length,
    /// A bit of DR7 that is not for user programs: general detect, transactional memory, or one that is reserved.
    Control,
}

/// DR7: the bits that enable something, two for each register.
const ENABLED: u64 = 0xFF;
/// DR7: bits that have no effect any more (exact breakpoints), and one that is always set.
const WITHOUT_EFFECT: u64 = 0x700;
/// DR7: kind and length, four bits for each register.
const KINDS: u64 = 0xFFFF_0000;
/// DR6: which breakpoint it was.
pub const HITS: u64 = 0xF;
/// DR6: single step.
pub const STEP: u64 = 1 << 14;
/// DR6: the bits that a program sees.
const STATUS: u64 = HITS | STEP;

/// Checks debug registers that somebody set, and gives them back without what has no effect: the kinds of registers that are
/// not enabled, and bits that the CPU ignores.
///
/// # Errors
/// The first thing that could reach beyond the thread's own user code.
pub fn check(registers: &DebugRegisters) -> Result<DebugRegisters, BadDebugRegisters> {
    let control = registers.control;
    if control & !(ENABLED | WITHOUT_EFFECT | KINDS) != 0 {
        return Err(BadDebugRegisters::Control);
    }
    let mut kept = control & ENABLED;
    for (index, &address) in registers.address.iter().enumerate() {
        // Also one that is not enabled: nothing of the kernel's is ever in a user's register.
        if address >= USER_END {
            return Err(BadDebugRegisters::Address);
        }
        if !is_enabled(control, index) {
            continue;
        }
        let place = 16 + 4 * index;
        let (kind, length) = (control >> place & 0b11, control >> (place + 2) & 0b11);
        let bytes = match length {
            0b00 => 1,
            0b01 => 2,
            0b11 => 4,
            _ => 8,
        };
        match kind {
            0b10 => return Err(BadDebugRegisters::Io),
            0b00 if bytes != 1 => return Err(BadDebugRegisters::Length),
            _ => {}
        }
        if !address.is_multiple_of(bytes) {
            return Err(BadDebugRegisters::Alignment);
        }
        if address + bytes > USER_END {
            return Err(BadDebugRegisters::Address);
        }
        kept |= control & 0b1111 << place;
    }
    Ok(DebugRegisters {
        address: registers.address,
        status: registers.status & STATUS,
        control: kept,
    })
}

/// Whether one of the two bits of a breakpoint is set.
const fn is_enabled(control: u64, index: usize) -> bool {
    control & 0b11 << (2 * index) != 0
}

/// Whether any breakpoint is enabled.
pub const fn is_active(registers: &DebugRegisters) -> bool {
    registers.control & ENABLED != 0
}

/// What a DR6 says to a thread with these registers: the CPU may also set the bit of a breakpoint that is not enabled (Intel SDM
/// vol. 3B §17.2.3).
pub fn relevant(status: u64, registers: &DebugRegisters) -> u64 {
    let enabled = (0..4).filter(|&index| is_enabled(registers.control, index));
    status & enabled.fold(STATUS & !HITS, |mask, index| mask | 1 << index)
}

#[cfg(target_os = "none")]
pub(crate) use loading::{load, switch_off, take_status};

#[cfg(target_os = "none")]
mod loading {
    //! The registers themselves.

    use core::arch::asm;

    use super::DebugRegisters;

    /// DR7 with nothing enabled: bit 10 is always set.
    const OFF: u64 = 1 << 10;
    /// DR6 with nothing reported.
    const RESET: u64 = 0xFFFF_0FF0;

    /// Switches all breakpoints of this CPU off.
    pub(crate) fn switch_off() {
        // SAFETY: without breakpoints nothing changes for the kernel.
        unsafe { asm!("mov dr7, {}", in(reg) OFF, options(nomem, nostack)) };
    }

    /// Puts a thread's breakpoints in force.
    ///
    /// # Safety
    /// They went through [`check`](super::check).
    pub(crate) unsafe fn load(registers: &DebugRegisters) {
        switch_off();
        let [first, second, third, fourth] = registers.address;
        // SAFETY: they watch user addresses only, which the kernel touches where a #DB does no harm.
        unsafe {
            asm!(
                "mov dr0, {}",
                "mov dr1, {}",
                "mov dr2, {}",
                "mov dr3, {}",
                "mov dr7, {}",
                in(reg) first,
                in(reg) second,
                in(reg) third,
                in(reg) fourth,
                in(reg) registers.control | OFF,
                options(nomem, nostack),
            );
        }
    }

    /// Reads DR6 and resets it, as the CPU only ever sets bits there (Intel SDM vol. 3B §17.2.3).
    pub(crate) fn take_status() -> u64 {
        let status;
        // SAFETY: DR6 only reports.
        unsafe {
            asm!("mov {}, dr6", out(reg) status, options(nomem, nostack));
            asm!("mov dr6, {}", in(reg) RESET, options(nomem, nostack));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::{Watch, Width};

    fn with(index: usize, address: u64, control: u64) -> DebugRegisters {
        let mut registers = DebugRegisters {
            control,
            ..DebugRegisters::default()
        };
        registers.address[index] = address;
        registers
    }

    #[test]
    fn breakpoints_on_user_memory_are_taken() {
        for index in 0..4 {
            for (watch, bytes) in [
                (Watch::Execute, 1),
                (Watch::Write(Width::One), 1),
                (Watch::Write(Width::Two), 2),
                (Watch::Access(Width::Four), 4),
                (Watch::Access(Width::Eight), 8),
            ] {
                let control = DebugRegisters::enable(index, watch);
                let last = with(index, USER_END - bytes, control);
                assert_eq!(check(&last), Ok(last), "{watch:?}");
                assert!(is_active(&last));
                // The other of the two enabling bits does as well.
                let global = (control & !ENABLED) | 2 << (2 * index);
                assert_eq!(
                    check(&with(index, 0, global)).map(|r| r.control),
                    Ok(global)
                );
            }
        }
    }

    #[test]
    fn what_could_reach_the_kernel_is_refused() {
        let write = |width| DebugRegisters::enable(2, Watch::Write(width));
        for (address, control, want) in [
            (USER_END, 0, BadDebugRegisters::Address),
            (USER_END, write(Width::One), BadDebugRegisters::Address),
            (1 << 47, write(Width::One), BadDebugRegisters::Address),
            (u64::MAX, 0, BadDebugRegisters::Address),
            (
                0xFFFF_8000_0000_0000,
                write(Width::Eight),
                BadDebugRegisters::Address,
            ),
            (1, write(Width::Two), BadDebugRegisters::Alignment),
            (6, write(Width::Four), BadDebugRegisters::Alignment),
            (4, write(Width::Eight), BadDebugRegisters::Alignment),
            (0x80, 1 << 4 | 0b10 << 24, BadDebugRegisters::Io),
            (0x80, 1 << 5 | 0b0110 << 24, BadDebugRegisters::Io),
            (0x80, 1 << 4 | 0b0100 << 24, BadDebugRegisters::Length),
            (0, 1 << 13, BadDebugRegisters::Control),
            (0, 1 << 11, BadDebugRegisters::Control),
            (0, 1 << 12, BadDebugRegisters::Control),
            (0, 1 << 14, BadDebugRegisters::Control),
            (0, 1 << 15, BadDebugRegisters::Control),
            (0, 1 << 32, BadDebugRegisters::Control),
            (0, 1 << 63, BadDebugRegisters::Control),
        ] {
            assert_eq!(
                check(&with(2, address, control)),
                Err(want),
                "{address:#x} {control:#x}"
            );
        }
    }

    #[test]
    fn what_is_not_enabled_is_not_kept() {
        // An I/O breakpoint that is not enabled is no breakpoint.
        let idle = with(1, 7, 0b10 << 20 | 0x700);
        let kept = check(&idle).unwrap();
        assert_eq!(kept, with(1, 7, 0));
        assert!(!is_active(&kept));
    }

    #[test]
    fn a_report_names_enabled_breakpoints_only() {
        let registers = with(1, 0, DebugRegisters::enable(1, Watch::Execute) | 2 << 6);
        assert_eq!(relevant(0xFFFF_FFFF, &registers), 0b1010 | STEP);
        assert_eq!(relevant(0b0101, &registers), 0);
        assert_eq!(relevant(STEP | 1, &DebugRegisters::default()), STEP);
    }
}
