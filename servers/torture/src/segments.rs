//! Sets of selectors, bases and descriptors, as many kinds as user code can have.

use abi::segment::{DataSegment, TLS_SLOTS, tls_selector};

use crate::page::{SETS, Segments, bases};
use crate::random::Random;

/// The user data segment, and the two code segments, which can be read.
const DATA: u64 = 0x23;
const CODE32: u64 = 0x1B;
const CODE64: u64 = 0x2B;
/// No word to look at.
pub const NO_PROBE: u64 = u64::MAX;

/// What a thread has of segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kit {
    /// The sets; the first is the one that it begins with.
    pub sets: [Segments; SETS],
    /// Whether it can change to the others.
    pub changes: bool,
    /// FS and GS base that it begins with.
    pub first_bases: [u64; 2],
    /// Its descriptors.
    pub descriptors: [u64; TLS_SLOTS],
    /// Their limits, as `lsl` shows them; all ones: none.
    pub limits: [u64; TLS_SLOTS],
}

/// What can be had.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// It is 32-bit code.
    pub bits32: bool,
    /// Bases can be read and written by instructions.
    pub fsgsbase: bool,
    /// It shall have descriptors.
    pub slots: bool,
    /// Addresses of words that hold their own addresses.
    pub anchors: [u64; 8],
}

/// The slots that are not empty, as selectors, each with the base of its descriptor.
fn filled(descriptors: &[u64; TLS_SLOTS], anchors: &[u64; 8]) -> ([(u64, u64); TLS_SLOTS], usize) {
    let mut filled = [(0, 0); TLS_SLOTS];
    let mut count = 0;
    for (slot, descriptor) in descriptors.iter().enumerate() {
        if *descriptor != 0 {
            filled[count] = (u64::from(tls_selector(slot).unwrap_or(0)), anchors[slot]);
            count += 1;
        }
    }
    (filled, count)
}

/// Chooses.
pub fn kit(means: &Means, random: &mut Random) -> Kit {
    let mut descriptors = [0; TLS_SLOTS];
    let mut limits = [u64::MAX; TLS_SLOTS];
    for slot in 0..TLS_SLOTS {
        // The last one is always there: without instructions for bases a thread needs one to change GS's.
        if means.slots && (slot == TLS_SLOTS - 1 || !random.one_in(4)) {
            let segment = DataSegment {
                base: means.anchors[slot] as u32,
                limit: 0x100 + random.below(0xF_0000) as u32,
                limit_in_pages: false,
                writable: true,
                expand_down: false,
            };
            descriptors[slot] = segment.descriptor();
            limits[slot] = u64::from(segment.limit);
        }
    }
    let (filled, count) = filled(&descriptors, &means.anchors);
    let slots = &filled[..count];
    let mut kit = Kit {
        sets: [Segments::default(); SETS],
        changes: means.bits32 || means.fsgsbase || means.slots,
        first_bases: [0; 2],
        descriptors,
        limits,
    };
    for number in 0..SETS {
        kit.sets[number] = if means.bits32 {
            set32(means, slots, random)
        } else {
            set64(means, slots, number, random)
        };
    }
    kit.first_bases = [kit.sets[0].words[2], kit.sets[0].words[3]];
    if means.bits32 {
        kit.first_bases = [2, 3].map(|index| base32(kit.sets[0].selectors[index], slots));
    }
    kit
}

/// A selector that DS or ES can have, or FS or GS if the base is set apart.
fn any(slots: &[(u64, u64)], random: &mut Random) -> u64 {
    let all = [
        0,
        DATA,
        CODE32,
        CODE64,
        u64::from(abi::landing::CPU_NUMBER_SELECTOR),
    ];
    let choice = random.below((all.len() + slots.len()) as u64) as usize;
    all.get(choice)
        .copied()
        .unwrap_or_else(|| slots[choice - all.len()].0)
}

fn set64(means: &Means, slots: &[(u64, u64)], number: usize, random: &mut Random) -> Segments {
    let mut set = Segments {
        probe: [NO_PROBE, NO_PROBE, 0, 0],
        ..Segments::default()
    };
    // Often none at all: the kernel has a shorter way for threads whose selectors are null.
    if !random.one_in(3) {
        for selector in &mut set.selectors {
            *selector = any(slots, random);
        }
    }
    if means.fsgsbase {
        set.how = bases::INSTRUCTIONS;
        for base in &mut set.words[2..] {
            *base = random.word() >> 17;
            // A thread's first bases come with its context, which takes none that looks like the kernel's.
            if number != 0 && random.one_in(2) {
                *base |= 0xFFFF_8000_0000_0000;
            }
        }
        return set;
    }
    // Bases can only be read through memory, so they are addresses of words that hold their own.
    set.words[2] = random.pick(&means.anchors[3..]);
    if number == 0 || slots.is_empty() {
        set.words[3] = random.pick(&means.anchors[3..]);
        return set;
    }
    let (selector, base) = random.pick(slots);
    (set.selectors[3], set.words[3]) = (selector, base);
    set.how = bases::CALL;
    if random.one_in(2) {
        let (selector, base) = random.pick(slots);
        (set.selectors[2], set.words[2]) = (selector, base);
        set.how = bases::SELECTORS;
    }
    set
}

fn set32(means: &Means, slots: &[(u64, u64)], random: &mut Random) -> Segments {
    let mut set = Segments::default();
    for index in 0..4 {
        // Null, flat, or one of its own.
        let choice = random.below(2 + slots.len() as u64) as usize;
        let anchor = random.pick(&means.anchors[3..]);
        (set.selectors[index], set.probe[index], set.words[index]) = match choice {
            0 => (0, NO_PROBE, 0),
            1 => (DATA, anchor, anchor),
            _ => {
                let (selector, base) = slots[choice - 2];
                (selector, 0, base)
            }
        };
    }
    set
}

fn base32(selector: u64, slots: &[(u64, u64)]) -> u64 {
    slots
        .iter()
        .find(|(own, _)| *own == selector)
        .map_or(0, |(_, base)| *base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kits(bits32: bool, fsgsbase: bool, slots: bool) -> impl Iterator<Item = Kit> {
        let means = Means {
            bits32,
            fsgsbase,
            slots,
            anchors: core::array::from_fn(|index| 0x40_3000 + 8 * index as u64),
        };
        (0..200).map(move |seed| kit(&means, &mut Random::new(seed)))
    }

    #[test]
    fn the_first_bases_are_such_as_a_context_may_have() {
        for (bits32, fsgsbase) in [(false, false), (false, true), (true, true)] {
            for kit in kits(bits32, fsgsbase, true) {
                assert!(kit.first_bases.iter().all(|base| *base < 1 << 47));
            }
        }
    }

    #[test]
    fn selectors_name_only_slots_that_are_filled() {
        for bits32 in [false, true] {
            for kit in kits(bits32, false, true) {
                for selector in kit.sets.iter().flat_map(|set| set.selectors) {
                    for slot in 0..TLS_SLOTS {
                        if u64::from(tls_selector(slot).unwrap()) == selector {
                            assert_ne!(kit.descriptors[slot], 0);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn without_slots_and_instructions_nothing_is_changed() {
        assert!(kits(false, false, false).all(|kit| !kit.changes && kit.descriptors == [0; 3]));
        assert!(kits(false, true, false).all(|kit| kit.changes));
    }
}
