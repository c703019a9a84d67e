//! Counting what held, and the end of the machine.

use core::fmt::{Arguments, Write};

use arch::cpu::halt_forever;
use arch::platform::{power, serial};

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        serial::write(text.as_bytes());
        Ok(())
    }
}

/// Prints a line.
pub fn say(what: Arguments<'_>) {
    // The serial line has no way to fail.
    let _ = writeln!(Serial, "{what}");
}

/// Ends the machine: through QEMU's isa-debug-exit, or through Bochs's port for it, or by standing still where there is neither.
pub fn end_machine(passed: bool) -> ! {
    power::exit_emulator(if passed { 0x10 } else { 0x11 });
    serial::drain();
    for byte in *b"Shutdown" {
        // SAFETY: in Bochs this port is for just that; elsewhere, on a machine that is at its end anyway, it is nobody's.
        unsafe {
            core::arch::asm!("out dx, al", in("dx") 0x8900_u16, in("al") byte, options(nomem, nostack, preserves_flags));
        }
    }
    halt_forever()
}

/// The tally.
pub struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Nothing checked yet.
    pub const fn new() -> Report {
        Report {
            passed: 0,
            failed: 0,
        }
    }

    /// Notes how a check went.
    pub fn note(&mut self, name: &str, outcome: Result<(), Difference>) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                say(format_args!("PASS {name}"));
            }
            Err(Difference { what, have, want }) => {
                self.failed += 1;
                say(format_args!(
                    "FAIL {name}: {what} is {have:#x}, not {want:#x}"
                ));
            }
        }
    }

    /// Prints the tally and ends the machine.
    pub fn end(self) -> ! {
        say(format_args!(
            "{} passed, {} failed",
            self.passed, self.failed
        ));
        end_machine(self.failed == 0)
    }
}

/// What was not as it should be.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    what: &'static str,
    have: u64,
    want: u64,
}

/// Whether two values are equal.
///
/// # Errors
/// If not.
pub fn equal(what: &'static str, have: u64, want: u64) -> Result<(), Difference> {
    if have == want {
        Ok(())
    } else {
        Err(Difference { what, have, want })
    }
}
