//! Counting what held.

use crate::port::Serial;
use core::fmt::{Arguments, Write};

/// The tally.
pub struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Nothing checked yet.
    pub const fn new() -> Self {
        Self {
            passed: 0,
            failed: 0,
        }
    }

    /// Notes whether the promise `name` held; `why` is printed if not.
    pub fn check(&mut self, name: &str, held: bool, why: Arguments<'_>) {
        // The serial line has no way to fail.
        let _ = if held {
            self.passed += 1;
            writeln!(Serial, "PASS {name}")
        } else {
            self.failed += 1;
            writeln!(Serial, "FAIL {name}: {why}")
        };
    }

    /// Notes whether `found` is `wanted`.
    pub fn equal(&mut self, name: &str, found: u64, wanted: u64) {
        self.check(
            name,
            found == wanted,
            format_args!("is {found:#x}, not {wanted:#x}"),
        );
    }

    /// Prints the tally and ends the machine.
    pub fn end(self) -> ! {
        let _ = writeln!(Serial, "{} passed, {} failed", self.passed, self.failed);
        crate::port::end(self.failed == 0)
    }
}
