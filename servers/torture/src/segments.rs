//! Sets of selectors, bases and descriptors, as many kinds as user code can have.

use abi::segment::{DataSegment, TLS_SLOTS, tls_selector};

use crate::page::{BELOW, SETS, Segments, Stack, bases};
use crate::random::Random;

/// The user data segment, and the two code segments, which can be read.
pub const DATA: u64 = 0x23;
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
    /// What SS can be loaded with.
    pub stacks: Stacks,
    /// Their limits, as `lsl` shows them; all ones: none.
    pub limits: [u64; TLS_SLOTS],
}

/// What SS can be loaded with: the user data segment, or one of the thread's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stacks {
    /// The user data segment.
    pub flat: Stack,
    /// Own ones; the flat one where there are fewer.
    pub own: [Stack; TLS_SLOTS],
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

/// A slot that is not empty.
#[derive(Clone, Copy, Default)]
struct Slot {
    selector: u64,
    base: u64,
    /// Offset of a word that holds its own address.
    probe: u64,
    /// That address.
    word: u64,
}

/// The slots that are not empty.
fn filled(
    descriptors: &[u64; TLS_SLOTS],
    means: &Means,
    random: &mut Random,
) -> ([Slot; TLS_SLOTS], usize) {
    let mut filled = [Slot::default(); TLS_SLOTS];
    let mut count = 0;
    for (slot, descriptor) in descriptors.iter().enumerate() {
        if *descriptor == 0 {
            continue;
        }
        let selector = u64::from(tls_selector(slot).unwrap_or(0));
        let anchor = means.anchors[slot];
        filled[count] = if means.is_stack(slot) {
            let word = random.pick(&means.anchors[3..]);
            Slot {
                selector,
                base: u64::from(BASE_BELOW),
                probe: word + BELOW,
                word,
            }
        } else {
            Slot {
                selector,
                base: anchor,
                probe: 0,
                word: anchor,
            }
        };
        count += 1;
    }
    (filled, count)
}

/// The base of 32-bit code's own stack segment: offsets wrap around the end of the address space.
const BASE_BELOW: u32 = (BELOW as u32).wrapping_neg();

impl Means {
    /// Whether a slot is for SS: in 32-bit code, which reaches all of its page through SS, it can't be any.
    const fn is_stack(&self, slot: usize) -> bool {
        self.bits32 && slot == TLS_SLOTS - 1
    }

    fn segment(&self, slot: usize, random: &mut Random) -> DataSegment {
        let plain = DataSegment {
            base: self.anchors[slot] as u32,
            limit: 0x100 + random.below(0xF_0000) as u32,
            limit_in_pages: false,
            writable: true,
            expand_down: false,
        };
        if !self.is_stack(slot) {
            return plain;
        }
        let plain = DataSegment {
            base: BASE_BELOW,
            ..plain
        };
        // Both hold the page and what is above it: one up to its limit, one from its limit on.
        if random.one_in(2) {
            DataSegment {
                expand_down: true,
                ..plain
            }
        } else {
            DataSegment {
                limit: 0x2_0000 + random.below(0x8_0000) as u32,
                limit_in_pages: true,
                ..plain
            }
        }
    }

    fn stacks(&self, slots: &[Slot], random: &mut Random) -> Stacks {
        let anchor = random.pick(&self.anchors[3..]);
        let stack = |selector, word, probe| Stack {
            load: selector,
            want: selector,
            word: if self.bits32 { word } else { 0 },
            probe: if self.bits32 { probe } else { 0 },
            base: if self.bits32 {
                u64::from((word as u32).wrapping_sub(probe as u32))
            } else {
                0
            },
        };
        let flat = stack(DATA, anchor, anchor);
        let mut own = [flat; TLS_SLOTS];
        // 64-bit code has no bases there, and any of them will do.
        let fit = slots
            .iter()
            .filter(|slot| !self.bits32 || slot.base == u64::from(BASE_BELOW));
        for (place, slot) in own.iter_mut().zip(fit) {
            *place = stack(slot.selector, slot.word, slot.probe);
        }
        Stacks { flat, own }
    }
}

/// Chooses.
pub fn kit(means: &Means, random: &mut Random) -> Kit {
    let mut descriptors = [0; TLS_SLOTS];
    let mut limits = [u64::MAX; TLS_SLOTS];
    for slot in 0..TLS_SLOTS {
        // The last one is always there: without instructions for bases a thread needs one to change GS's.
        if means.slots && (slot == TLS_SLOTS - 1 || !random.one_in(4)) {
            let segment = means.segment(slot, random);
            descriptors[slot] = segment.descriptor();
            limits[slot] = if segment.limit_in_pages {
                u64::from(segment.limit) << 12 | 0xFFF
            } else {
                u64::from(segment.limit)
            };
        }
    }
    let (filled, count) = filled(&descriptors, means, random);
    let slots = &filled[..count];
    let mut kit = Kit {
        sets: [Segments::default(); SETS],
        changes: means.bits32 || means.fsgsbase || means.slots,
        first_bases: [0; 2],
        descriptors,
        stacks: means.stacks(slots, random),
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
fn any(slots: &[Slot], random: &mut Random) -> u64 {
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
        .unwrap_or_else(|| slots[choice - all.len()].selector)
}

fn set64(means: &Means, slots: &[Slot], number: usize, random: &mut Random) -> Segments {
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
    let slot = random.pick(slots);
    (set.selectors[3], set.words[3]) = (slot.selector, slot.base);
    set.how = bases::CALL;
    if random.one_in(2) {
        let slot = random.pick(slots);
        (set.selectors[2], set.words[2]) = (slot.selector, slot.base);
        set.how = bases::SELECTORS;
    }
    set
}

fn set32(means: &Means, slots: &[Slot], random: &mut Random) -> Segments {
    let mut set = Segments::default();
    for index in 0..4 {
        // Null, flat, or one of its own.
        let choice = random.below(2 + slots.len() as u64) as usize;
        let anchor = random.pick(&means.anchors[3..]);
        (set.selectors[index], set.probe[index], set.words[index]) = match choice {
            0 => (0, NO_PROBE, 0),
            1 => (DATA, anchor, anchor),
            _ => {
                let slot = slots[choice - 2];
                (slot.selector, slot.probe, slot.word)
            }
        };
    }
    set
}

fn base32(selector: u64, slots: &[Slot]) -> u64 {
    slots
        .iter()
        .find(|slot| slot.selector == selector)
        .map_or(0, |slot| slot.base)
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
    fn a_stack_segment_shows_its_base_and_holds_the_page() {
        for kit in kits(true, false, true) {
            let Stacks { flat, own } = kit.stacks;
            assert_eq!((flat.load, flat.base, flat.word), (DATA, 0, flat.probe));
            assert_eq!(own[0].load, u64::from(tls_selector(2).unwrap()));
            assert_eq!(own[0].base + BELOW, 1 << 32);
            assert_eq!(own[0].probe - BELOW, own[0].word);
            assert_eq!(own[1], flat);
        }
        for kit in kits(false, true, true) {
            assert!(kit.stacks.own.iter().all(|stack| stack.word == 0));
            assert!(kit.stacks.own.iter().any(|stack| stack.load != DATA));
        }
    }

    #[test]
    fn without_slots_and_instructions_nothing_is_changed() {
        assert!(kits(false, false, false).all(|kit| !kit.changes && kit.descriptors == [0; 3]));
        assert!(kits(false, true, false).all(|kit| kit.changes));
    }
}
