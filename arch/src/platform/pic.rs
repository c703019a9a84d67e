//! The two 8259 interrupt controllers of old: put out of the way.
//!
//! They are masked and never used, and yet they have to be set up, because a masked 8259 still raises its lowest
//! interrupt (7 or 15) when a line goes away between request and acknowledge (8259A datasheet, "spurious interrupts"), and
//! from reset these arrive on vectors that belong to exceptions. So they are moved to vectors 20h to 2Fh, where only
//! two can ever come: [`SPURIOUS_FIRST`] and [`SPURIOUS_SECOND`]. Neither is ended at the controller that raised it; but the
//! second's travels through the first, which does want an end.

use x86_64::instructions::port::Port;

/// The vector of the first controller's line 0.
pub const FIRST_VECTOR: u8 = 0x20;
/// The vector at which the first controller's spurious interrupt comes.
pub const SPURIOUS_FIRST: u8 = FIRST_VECTOR + 7;
/// The vector at which the second controller's spurious interrupt comes.
pub const SPURIOUS_SECOND: u8 = FIRST_VECTOR + 15;

const FIRST_COMMAND: u16 = 0x20;
const FIRST_DATA: u16 = 0x21;
const SECOND_COMMAND: u16 = 0xA0;
const SECOND_DATA: u16 = 0xA1;

/// ICW1: begin initialisation, edge-triggered, cascaded, ICW4 follows.
const ICW1_INIT: u8 = 0x11;
/// ICW4: 8086 mode.
const ICW4_8086: u8 = 0x01;
/// OCW2: non-specific end of interrupt.
const END_OF_INTERRUPT: u8 = 0x20;
/// The line of the first controller at which the second is.
const CASCADE_LINE: u8 = 2;

/// Writes a port and gives slow controllers time to follow.
///
/// # Safety
/// The port must be one of the controllers'.
unsafe fn write(port: u16, value: u8) {
    // SAFETY: the caller vouches for the port; port 80h is the diagnostic one, written to pass a microsecond.
    unsafe {
        Port::<u8>::new(port).write(value);
        Port::<u8>::new(0x80).write(0);
    }
}

/// Moves both controllers' vectors to 20h and up and masks every line.
///
/// # Safety
/// Once, on the first CPU, with interrupts off; handlers that call [`handle_spurious`] must be in place at the two vectors
/// before interrupts are allowed.
pub unsafe fn disable() {
    // SAFETY: these are the controllers' ports, on machines without them nothing is there; the sequence is the
    // datasheet's, masked before and after.
    unsafe {
        write(FIRST_DATA, 0xFF);
        write(SECOND_DATA, 0xFF);
        write(FIRST_COMMAND, ICW1_INIT);
        write(SECOND_COMMAND, ICW1_INIT);
        write(FIRST_DATA, FIRST_VECTOR);
        write(SECOND_DATA, FIRST_VECTOR + 8);
        write(FIRST_DATA, 1 << CASCADE_LINE);
        write(SECOND_DATA, CASCADE_LINE);
        write(FIRST_DATA, ICW4_8086);
        write(SECOND_DATA, ICW4_8086);
        write(FIRST_DATA, 0xFF);
        write(SECOND_DATA, 0xFF);
    }
}

/// Handles an interrupt at vectors 20h to 2Fh. All lines are masked, so it is spurious, and the local APIC knows nothing of
/// it: no end of interrupt there.
pub fn handle_spurious(vector: u8) {
    if vector == SPURIOUS_SECOND {
        // SAFETY: ends the cascade line's interrupt at the first controller, where nothing else can be in service.
        unsafe { write(FIRST_COMMAND, END_OF_INTERRUPT) };
    }
}
