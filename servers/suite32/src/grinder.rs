//! Random calls in both forms by every entry: each ends in success or an error that has a name, and the program lives on.
//!
//! A call may hit a handle of this program's, so what it does to the program is avoided: its end, waits without a deadline, and changes
//! of memory that it uses.

use abi::compat::{BLOCK_FORM, BLOCK_WORDS, block};
use abi::{Call, Error};
use rt32::call::{self, BASE_FLAGS, Registers, pass};

use crate::entries::entries;
use crate::{Verdict, check};

const CALLS: u32 = 6_000;

/// A generator of Marsaglia's, good enough for tests.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// A number of some kind: small, large, a page, all ones.
    fn value(&mut self) -> u32 {
        let value = self.next();
        match self.next() % 6 {
            0 => value,
            1 => value & 0xF,
            2 => value & 0xFFF,
            3 => value & !0xFFF,
            4 => u32::MAX - (value & 3),
            _ => 0,
        }
    }
}

/// Whether a call could end this program, take its storage away or make it wait for ever, whatever its arguments.
fn is_harmful(number: u32, block_form: bool) -> bool {
    const ENDS: [Call; 3] = [Call::ProcessExit, Call::ThreadExit, Call::ThreadSetTls];
    const WAITS: [Call; 1] = [Call::Sleep];
    let is = |calls: &[Call]| calls.iter().any(|call| *call as u32 == number);
    is(&ENDS) || !block_form && is(&WAITS)
}

pub(crate) fn random_calls_do_no_harm() -> Verdict {
    let mut random = Random(0x2545_F491);
    let (mut good, mut bad) = (0u32, 0u32);
    for entry in entries() {
        for _ in 0..CALLS {
            let block_form = random.next() & 1 != 0;
            let number = match random.next() % 8 {
                0 => random.value() & !BLOCK_FORM,
                _ => random.next() % 100,
            };
            if is_harmful(number, block_form) {
                continue;
            }
            let mut words: [u64; BLOCK_WORDS] = core::array::from_fn(|_| {
                u64::from(random.value()) | u64::from(random.value()) << 32
            });
            // A deadline that has passed.
            words[block::R14] &= 0xFFFF;
            // SAFETY: the area is the thread's own.
            unsafe { (&raw mut (*call::area()).registers).write_volatile(words) };
            let mut registers = Registers {
                eax: number | if block_form { BLOCK_FORM } else { 0 },
                ebx: random.value(),
                ecx: random.value(),
                edx: random.value(),
                esi: random.value(),
                edi: random.value(),
                ebp: random.value(),
                flags: BASE_FLAGS,
            };
            // SAFETY: nothing here can promise what the arguments do. But the program was started for this test alone.
            unsafe { pass(&mut registers, entry) };
            if registers.eax == 0 {
                good += 1;
            } else {
                check!(
                    Error::from_code(u64::from(registers.eax)).is_some(),
                    registers.eax
                );
                bad += 1;
            }
        }
    }
    check!(good > 0 && bad > 1000, good);
    Ok(())
}
