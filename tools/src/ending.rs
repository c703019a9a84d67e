//! How a machine ended, read off QEMU's exit status.
//!
//! ACPI power-off ends QEMU with 0. The kernel's other way out is QEMU's `isa-debug-exit` device (port 0xf4): a value V
//! written there ends QEMU with status `V * 2 + 1`, never 0. A panic writes [`PANIC_VALUE`].

use std::process::ExitStatus;

/// I/O port of the `isa-debug-exit` device.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// What the kernel writes there when it panics.
pub const PANIC_VALUE: i32 = 0x20;

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest switched the power off.
    PoweredOff,
    /// The guest reset the machine, by intent or by a triple fault, where that ends QEMU. The exit status alone can't
    /// tell it from a power-off; [`crate::machine::Machine::wait`] asks QMP.
    Reset,
    /// The kernel panicked.
    Panicked,
    /// The guest wrote another value to the debug-exit port.
    DebugExit(i32),
    /// QEMU itself failed, with this status, or by a signal.
    Failed(Option<i32>),
}

impl Ending {
    /// Judges QEMU's exit status.
    pub fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Ending::PoweredOff,
            Some(code) if code == PANIC_VALUE * 2 + 1 => Ending::Panicked,
            // QEMU's own failures are 1; the guest's value 0 makes a 1 as well, so it is not one of ours.
            Some(code) if code > 1 && code % 2 == 1 => Ending::DebugExit(code / 2),
            code => Ending::Failed(code),
        }
    }

    /// The status this program ends with.
    pub fn exit_code(self) -> u8 {
        match self {
            Ending::PoweredOff => 0,
            Ending::Panicked => (PANIC_VALUE * 2 + 1) as u8,
            Ending::DebugExit(value) => (value * 2 + 1) as u8,
            Ending::Reset | Ending::Failed(_) => 1,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::PoweredOff => write!(f, "powered off"),
            Ending::Reset => write!(f, "the machine was reset"),
            Ending::Panicked => write!(f, "kernel panic (QEMU's status {})", PANIC_VALUE * 2 + 1),
            Ending::DebugExit(value) => {
                write!(f, "the guest wrote {value:#x} to the debug-exit port")
            }
            Ending::Failed(Some(code)) => write!(f, "QEMU failed with status {code}"),
            Ending::Failed(None) => write!(f, "QEMU was killed by a signal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn only_a_power_off_is_success() {
        let ending = |code: i32| Ending::of(ExitStatus::from_raw(code << 8));
        assert_eq!(ending(0), Ending::PoweredOff);
        assert_eq!(ending(65), Ending::Panicked);
        assert_eq!(ending(1), Ending::Failed(Some(1)));
        assert_eq!(ending(35), Ending::DebugExit(0x11));
        assert_eq!(Ending::of(ExitStatus::from_raw(9)), Ending::Failed(None));
        for code in 1..=255 {
            assert_ne!(ending(code).exit_code(), 0, "status {code}");
        }
    }
}
