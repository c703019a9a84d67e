//! The two clocks that every PC has: the one that knows the date, and the timer that measures a tenth of a second.
//!
//! Either may be missing or stuck, so every wait ends by count as well.

use boot_core::date::{ClockRegisters, from_clock};
use boot_machine::{inb, outb};

/// Bounds every wait for a device.
const PATIENCE: u32 = 1_000_000;

fn cmos(register: u8) -> u8 {
    // Bit 7 keeps NMI masked while the index stands.
    outb(0x70, 0x80 | register);
    inb(0x71)
}

/// Seconds, minutes, hours, day of the month, month, year, status B.
const REGISTERS: [u8; 7] = [0, 2, 4, 7, 8, 9, 0xb];

fn registers() -> Option<[u8; 7]> {
    // Status A bit 7: an update is under way. Two readings that agree had none in between.
    let read = || {
        (0..PATIENCE).find(|_| cmos(0xa) & 0x80 == 0)?;
        Some(REGISTERS.map(cmos))
    };
    let mut last = read()?;
    for _ in 0..8 {
        let next = read()?;
        if next == last {
            return Some(next);
        }
        last = next;
    }
    None
}

/// UNIX time by the battery-backed clock.
pub fn date() -> Option<i64> {
    let [second, minute, hour, day, month, year, status_b] = registers()?;
    // Index 0Dh with NMI allowed again, as the data sheet wants the index left.
    outb(0x70, 0x0d);
    let _ = inb(0x71);
    from_clock(ClockRegisters {
        time: [second, minute, hour, day, month, year],
        status_b,
    })
}

/// Waits a tenth of a second, by the timer's third channel, which nothing but the loudspeaker hangs on (Intel 8254 data
/// sheet, mode 0; 1,193,182 ticks a second). It counts at most 65,535 ticks, so twice half of it.
pub fn wait_a_tenth() {
    const TICKS: u16 = 59_659;
    for _ in 0..2 {
        // Port 61h: bit 0 lets the channel count, bit 1 is the loudspeaker, bit 5 shows that the count is over.
        let control = inb(0x61) & !3;
        outb(0x61, control);
        outb(0x43, 0xb0);
        let [low, high] = TICKS.to_le_bytes();
        outb(0x42, low);
        outb(0x42, high);
        outb(0x61, control | 1);
        for _ in 0..PATIENCE {
            if inb(0x61) & 0x20 != 0 {
                break;
            }
        }
        outb(0x61, control);
    }
}
