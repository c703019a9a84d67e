//! Numbers that user space can't guess: where the kernel puts things in address spaces.
//!
//! Each number mixes a state that every call advances, the time-stamp counter, and RDRAND where the CPU has it, by a function that
//! leaves no bit where it was (the finaliser of MurmurHash3). Without RDRAND somebody who knows the boot to the tick could
//! guess them; that makes addresses hard to guess, and is not meant for keys.

use core::sync::atomic::{AtomicU64, Ordering};

/// An odd number without a pattern: 2 to the 64th over the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// How often RDRAND may come back empty-handed (Intel SDM vol. 1 §7.3.17.1 advises ten tries).
#[cfg(target_os = "none")]
const TRIES: u32 = 10;

static STATE: AtomicU64 = AtomicU64::new(STEP);

/// A number that is hard to guess.
pub fn number() -> u64 {
    let state = STATE.fetch_add(STEP, Ordering::Relaxed);
    let number = mix(state ^ mix(crate::time::tsc()) ^ hardware());
    // What came of it goes on counting, so that one good source is enough for all that follow.
    STATE.fetch_xor(number, Ordering::Relaxed);
    mix(number)
}

const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    value ^= value >> 33;
    value = value.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    value ^ value >> 33
}

/// RDRAND's word; 0 without it.
#[cfg(target_os = "none")]
fn hardware() -> u64 {
    if !crate::cpu::features().rdrand {
        return 0;
    }
    for _ in 0..TRIES {
        let (value, good): (u64, u8);
        // SAFETY: the CPU has the instruction, which changes a register and the flags.
        unsafe {
            core::arch::asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) good, options(nomem, nostack));
        }
        if good != 0 {
            return value;
        }
    }
    0
}

#[cfg(not(target_os = "none"))]
const fn hardware() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_do_not_repeat_and_use_every_bit() {
        let numbers: std::collections::BTreeSet<u64> = (0..1000).map(|_| super::number()).collect();
        assert_eq!(numbers.len(), 1000);
        for bit in 0..64 {
            let ones = numbers.iter().filter(|n| *n >> bit & 1 != 0).count();
            assert!((350..650).contains(&ones), "bit {bit}: {ones} ones");
        }
    }
}
