//! Names what a thread found wrong: the register, the first wrong bit of it, what was found and what should have been.

use core::fmt::Write;

use abi::{Error, UserContext};
use alloc::format;
use alloc::string::{String, ToString};

use crate::fpu::Layout;
use crate::page::{FLAGS, GENERAL, Page, Segments, Stack, Step, bad, reg};
use crate::plan::{bad_text, image_of};

/// What was found wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// The register's name.
    pub register: String,
    /// Its first wrong bit.
    pub bit: u32,
    /// What it held, in hexadecimal.
    pub found: String,
    /// What it should have held.
    pub wanted: String,
}

impl core::fmt::Display for Wrong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} is wrong from bit {} on: found {}, expected {}",
            self.register, self.bit, self.found, self.wanted
        )
    }
}

/// Names of the general registers, in machine-code order.
const NAMES: [&str; GENERAL] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "flags",
];

/// The first register that differs in a bit that counts.
pub fn general(
    found: &[u64; GENERAL],
    want: &[u64; GENERAL],
    mask: &[u64; GENERAL],
) -> Option<Wrong> {
    (0..GENERAL)
        .find(|&at| (found[at] ^ want[at]) & mask[at] != 0)
        .map(|at| words(NAMES[at], found[at], want[at], mask[at]))
}

fn words(name: &str, found: u64, want: u64, mask: u64) -> Wrong {
    Wrong {
        register: name.to_string(),
        bit: ((found ^ want) & mask).trailing_zeros(),
        found: format!("{found:#x}"),
        wanted: format!("{want:#x}"),
    }
}

/// The first selector or base that differs.
pub fn segments(selectors: &[u64; 4], bases: &[u64; 4], want: &Segments) -> Option<Wrong> {
    const SELECTORS: [&str; 4] = ["ds", "es", "fs", "gs"];
    const BASES: [&str; 4] = ["ds base", "es base", "fs base", "gs base"];
    let all = (0..4)
        .map(|at| (SELECTORS[at], selectors[at], want.selectors[at]))
        .chain((0..4).map(|at| (BASES[at], bases[at], want.words[at])));
    all.into_iter()
        .find(|(_, found, want)| found != want)
        .map(|(name, found, want)| words(name, found, want, u64::MAX))
}

/// What of SS differs.
pub fn stack(found: &[u64; 2], want: &Stack) -> Option<Wrong> {
    [
        ("ss", found[0], want.want),
        ("ss base", found[1], want.word),
    ]
    .into_iter()
    .find(|(_, found, want)| found != want)
    .map(|(name, found, want)| words(name, found, want, u64::MAX))
}

/// What the general registers must be after a step, of which RAX says whether somebody ended it.
pub fn wanted<'a>(step: &'a Step, found: &[u64; GENERAL]) -> &'a [u64; GENERAL] {
    if step.waits != 0 && found[reg::RAX] == Error::Cancelled as u64 {
        &step.cancelled
    } else {
        &step.want
    }
}

/// The first register of the FPU that differs.
pub fn fpu(layout: &Layout, page: &Page) -> Option<Wrong> {
    let want = page.fpu_want.get(page.held_fpu as usize)?;
    let bytes = 8 * layout.words();
    let byte_of = |words: &[u64], byte: usize| (words[byte / 8] >> (8 * (byte % 8))) as u8;
    let differs = |byte: usize| {
        (byte_of(&page.fpu_found.0, byte) ^ byte_of(&want.0, byte))
            & byte_of(&page.fpu_mask.0, byte)
    };
    let first = (0..bytes).find(|&byte| differs(byte) != 0)?;
    let (register, begin) = layout.register(first);
    // As many bytes as have the same name.
    let end = (first..bytes)
        .find(|&byte| layout.register(byte).0 != register)
        .unwrap_or(bytes);
    let hex = |words: &[u64]| {
        let mut text = String::from("0x");
        for byte in (begin..end).rev() {
            // Writing to a string can't fail.
            let _ = write!(text, "{:02x}", byte_of(words, byte));
        }
        text
    };
    Some(Wrong {
        register,
        bit: 8 * (first - begin) as u32 + differs(first).trailing_zeros(),
        found: hex(&page.fpu_found.0),
        wanted: hex(&want.0),
    })
}

/// What the thread says is wrong. `steps` is the address of its first step.
pub fn page(layout: &Layout, page: &Page, bits32: bool, steps: u64) -> Wrong {
    let step = step_of(page, steps).and_then(|number| page.steps.get(number));
    let low = |value: u64| if bits32 { value & 0xFFFF_FFFF } else { value };
    let named = match page.bad {
        bad::GENERAL => {
            step.and_then(|step| general(&page.found, wanted(step, &page.found), &step.mask))
        }
        bad::STACK => step.and_then(|step| stack(&page.found_stack, &step.stack)),
        bad::SEGMENTS => page
            .segments_want
            .get(page.held_segments as usize)
            .and_then(|want| segments(&page.found_selectors, &page.found_words, want)),
        bad::SLOTS => (0..3)
            .find(|&slot| low(page.found_limits[slot]) != low(page.limits[slot]))
            .map(|slot| {
                let name = format!("limit of slot {slot}");
                let (found, want) = (page.found_limits[slot], page.limits[slot]);
                words(&name, low(found), low(want), u64::MAX)
            }),
        bad::FPU => fpu(layout, page),
        bad::CPU => Some(words("CPU", page.cpu, page.pinned, u64::MAX)),
        bad::SURVIVED => {
            let how = step.map_or(0, |step| step.how);
            Some(words(crate::plan::how_text(how), 0, 1, u64::MAX))
        }
        _ => None,
    };
    named.unwrap_or_else(|| words(bad_text(page.bad), page.bad, 0, u64::MAX))
}

/// The number of the step at hand.
pub fn step_of(page: &Page, steps: u64) -> Option<usize> {
    let offset = page.step.checked_sub(steps)?;
    Some((offset / size_of::<Step>() as u64) as usize)
}

/// What is wrong with the registers in the report of a fault that ended the thread in its step `number`. RF is the fault's own.
pub fn report(page: &Page, number: usize, context: &UserContext, bits32: bool) -> Option<Wrong> {
    const RF: u64 = 1 << 16;
    let mut mask = [u64::MAX; GENERAL];
    mask[FLAGS] = !RF;
    let want = &page.segments_want[page.held_segments as usize];
    let selectors = [context.ds, context.es, context.fs, context.gs].map(u64::from);
    let mut bases = [
        want.words[0],
        want.words[1],
        context.fs_base,
        context.gs_base,
    ];
    if bits32 {
        bases = want.words;
    }
    let step = &page.steps[number];
    let (ss, word) = (context.ss, step.stack.word);
    general(&image_of(context), &step.load, &mask)
        .or_else(|| segments(&selectors, &bases, want))
        .or_else(|| stack(&[ss, word], &step.stack))
}

/// A general register's name by its number.
pub fn general_name(at: usize) -> &'static str {
    NAMES[at.min(FLAGS)]
}

/// General registers that 32-bit code has.
pub const GENERAL32: core::ops::RangeInclusive<usize> = reg::RAX..=reg::RDI;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_bit_of_the_first_wrong_register_is_named() {
        let want = core::array::from_fn(|at| 0x1111 * at as u64);
        let mut found = want;
        assert_eq!(general(&found, &want, &[u64::MAX; GENERAL]), None);
        found[reg::RSI] ^= 0xA0;
        found[FLAGS] ^= 1;
        let wrong = general(&found, &want, &[u64::MAX; GENERAL]).unwrap();
        assert_eq!((wrong.register.as_str(), wrong.bit), ("rsi", 5));
        let mut mask = [u64::MAX; GENERAL];
        mask[reg::RSI] = !0xA0;
        let wrong = general(&found, &want, &mask).unwrap();
        assert_eq!((wrong.register.as_str(), wrong.bit), ("flags", 0));
    }

    #[test]
    fn a_wait_that_somebody_ended_has_registers_of_its_own() {
        let mut step = Step::ZERO;
        let mut found = [0; GENERAL];
        found[reg::RAX] = Error::Cancelled as u64;
        step.want[reg::RBX] = 1;
        step.cancelled[reg::RBX] = 2;
        assert_eq!(wanted(&step, &found), &step.want);
        step.waits = 1;
        assert_eq!(wanted(&step, &found), &step.cancelled);
        assert_eq!(wanted(&step, &[0; GENERAL]), &step.want);
    }

    #[test]
    fn selectors_come_before_bases() {
        let want = Segments::default();
        assert_eq!(segments(&[0; 4], &[0; 4], &want), None);
        let wrong = segments(&[0, 0, 0, 3], &[1; 4], &want).unwrap();
        assert_eq!((wrong.register.as_str(), wrong.bit), ("gs", 0));
        let wrong = segments(&[0; 4], &[0, 0, 16, 0], &want).unwrap();
        assert_eq!((wrong.register.as_str(), wrong.bit), ("fs base", 4));
    }
}
