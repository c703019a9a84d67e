//! I/O ports and the serial line.

use core::arch::asm;

/// Writes a byte to a port. The ports used here are the UART's and the debug exit device's.
pub fn outb(port: u16, value: u8) {
    // SAFETY: port output touches no memory; this kernel owns the whole machine.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: port input touches no memory; this kernel owns the whole machine.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// The first serial port, at the speed the firmware set.
pub struct Serial;

impl core::fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            for _ in 0..100_000 {
                if inb(0x3f8 + 5) & 0x20 != 0 {
                    break;
                }
            }
            outb(0x3f8, byte);
        }
        Ok(())
    }
}

/// Ends the machine: through QEMU's isa-debug-exit, or by standing still where there is none.
pub fn end(passed: bool) -> ! {
    outb(0xf4, if passed { 0x10 } else { 0x11 });
    loop {
        // SAFETY: interrupts are off, so this stops the CPU for good; it touches nothing.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
