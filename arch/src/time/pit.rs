//! The 8254 interval timer as a reference clock: the last resort.
//!
//! Its channel 2, the loudspeaker's, counts down 16 bits in 55 ms, with the loudspeaker kept silent. It is read through the
//! latch command and not waited for by its output bit: where there is no 8254, that bit reads as 1 and ends a wait at once, or
//! as 0 and never ends it, while a count that never changes is noticed.

use x86_64::instructions::port::Port;

use super::calibrate::Reference;

/// The PC's 14.31818 MHz crystal, divided by twelve.
const CRYSTAL_HZ: u64 = 14_318_180;
const DIVIDER: u64 = 12;

const CHANNEL_2: u16 = 0x42;
const COMMAND: u16 = 0x43;
const CONTROL: u16 = 0x61;
/// In the control port: channel 2 counts.
const GATE: u8 = 1;
/// In the control port: its output goes to the loudspeaker.
const SPEAKER: u8 = 2;
/// Channel 2, low then high byte, mode 0, binary (8254 datasheet, "control word").
const COUNT_DOWN: u8 = 0b1011_0000;
/// Latch channel 2's count.
const LATCH: u8 = 0b1000_0000;

pub(super) struct Counter {
    control_before: u8,
}

impl Counter {
    /// Starts the count.
    ///
    /// # Safety
    /// On the first CPU, while nothing else uses the loudspeaker's channel.
    pub(super) unsafe fn new() -> Counter {
        // SAFETY: these are the ports of the timer and of its gate on every PC; on others nothing is there.
        unsafe {
            let control_before = Port::<u8>::new(CONTROL).read();
            Port::<u8>::new(CONTROL).write(control_before & !SPEAKER | GATE);
            Port::<u8>::new(COMMAND).write(COUNT_DOWN);
            Port::<u8>::new(CHANNEL_2).write(0xFF);
            Port::<u8>::new(CHANNEL_2).write(0xFF);
            Counter { control_before }
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: the gate and the loudspeaker are put back as they were found.
        unsafe { Port::<u8>::new(CONTROL).write(self.control_before) };
    }
}

impl Reference for Counter {
    fn read(&mut self) -> u32 {
        // SAFETY: latching and reading don't disturb the count.
        let count = unsafe {
            Port::<u8>::new(COMMAND).write(LATCH);
            let low = Port::<u8>::new(CHANNEL_2).read();
            let high = Port::<u8>::new(CHANNEL_2).read();
            u16::from_le_bytes([low, high])
        };
        u32::from(!count)
    }

    fn bits(&self) -> u32 {
        16
    }

    fn frequency(&self) -> (u64, u64) {
        (CRYSTAL_HZ, DIVIDER)
    }
}
