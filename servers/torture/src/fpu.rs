//! States of the FPU that fill every register, in the format of `fxsave` and of the standard XSAVE area (Intel SDM vol. 1 §10.5.1,
//! §13.4).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::page::{AREA_WORDS, Area};
use crate::random::Random;

/// Where things lie in the area.
const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const LEGACY_BYTES: usize = 512;
const XSTATE_BV: usize = 512;
const HEADER_END: usize = 576;
/// Where the standard format has the upper halves of the `ymm` registers.
pub const AVX: usize = 576;

/// Components of the XSAVE area, by their bits in XCR0.
mod component {
    pub(super) const AVX: u32 = 2;
    pub(super) const OPMASK: u32 = 5;
    pub(super) const ZMM_HIGH: u32 = 6;
    pub(super) const ZMM_16_TO_31: u32 = 7;
}

/// What of the FPU there is on this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// XCR0; 0: there is no XSAVE.
    pub enabled: u64,
    /// Components beyond x87 and SSE: bit in XCR0, offset in the area, bytes.
    pub components: Vec<(u32, usize, usize)>,
}

impl Layout {
    /// Words of an area that mean something.
    pub fn words(&self) -> usize {
        let end = self
            .components
            .iter()
            .map(|(_, offset, bytes)| offset + bytes);
        end.max()
            .unwrap_or(0)
            .max(LEGACY_BYTES)
            .div_ceil(8)
            .min(AREA_WORDS)
    }

    /// The parts that a thread loads and stores by `xrstor` and `xsave`; 0 if `fxrstor` and, for AVX, moves do.
    ///
    /// Where they do, they are preferred: QEMU's TCG lets `xsave` and `xrstor` through although CR0.TS is set, so that a program that
    /// begins with one of them finds the registers of another.
    pub fn by_xsave(&self) -> u64 {
        let plain =
            |&(bit, offset, _): &(u32, usize, usize)| bit == component::AVX && offset == AVX;
        if self.components.iter().all(plain) {
            0
        } else {
            self.enabled
        }
    }

    /// Whether there are `ymm` registers.
    pub fn has_avx(&self) -> bool {
        self.components
            .iter()
            .any(|(bit, ..)| *bit == component::AVX)
    }

    /// What kinds of registers it has, in words.
    pub fn names(&self) -> String {
        let mut names = String::from("x87 SSE");
        for (bit, ..) in &self.components {
            names.push_str(match *bit {
                component::AVX => " AVX",
                component::OPMASK => " opmask",
                component::ZMM_HIGH => " ZMM",
                component::ZMM_16_TO_31 => " ZMM16-31",
                _ => " (another)",
            });
        }
        names
    }

    /// The bits of an area that a thread owns: not what the FPU reports of its last instruction, nor what 32-bit code can't reach.
    pub fn mask(&self, bits32: bool) -> Area {
        let mut mask = Bytes::new();
        mask.fill(FCW, 2);
        mask.fill(FSW, 2);
        mask.fill(FTW, 1);
        mask.fill(MXCSR, 4);
        for register in 0..8 {
            mask.fill(ST + 16 * register, 10);
        }
        let registers = if bits32 { 8 } else { 16 };
        mask.fill(XMM, 16 * registers);
        for &(bit, offset, bytes) in &self.components {
            match bit {
                component::AVX => mask.fill(offset, 16 * registers),
                component::OPMASK => mask.fill(offset, bytes),
                component::ZMM_HIGH => mask.fill(offset, 32 * registers),
                component::ZMM_16_TO_31 if !bits32 => mask.fill(offset, bytes),
                _ => {}
            }
        }
        mask.area()
    }

    /// A state in which every register differs from every other one, and the control words from what they are after a reset.
    pub fn pattern(&self, random: &mut Random) -> Area {
        let mut state = Bytes::new();
        // All exceptions masked; any precision but the reserved one, any rounding. Bit 6 reads as one (SDM vol. 1 §8.1.5).
        let precision = random.pick(&[0x000, 0x200, 0x300]);
        let control = 0x007F | precision | random.below(4) << 10;
        state.put(FCW, &(control as u16).to_le_bytes());
        // The top of the stack and the four condition codes; no exception is pending.
        state.put(FSW, &(random.word() as u16 & 0x7F00).to_le_bytes());
        // All eight are in use.
        state.put(FTW, &[0xFF]);
        // All exceptions masked, any of them reported before, any rounding, flush to zero or not.
        let control = 0x1F80 | random.word() as u32 & 0xE03F;
        state.put(MXCSR, &control.to_le_bytes());
        for register in 0..8 {
            // Normal numbers, of either sign.
            let significand = random.word() | 1 << 63;
            let exponent = (1 + random.below(0x7FFE) as u16) | (random.word() as u16 & 0x8000);
            state.put(ST + 16 * register, &significand.to_le_bytes());
            state.put(ST + 16 * register + 8, &exponent.to_le_bytes());
        }
        let chance = |state: &mut Bytes, random: &mut Random, offset: usize, bytes: usize| {
            for word in 0..bytes / 8 {
                state.put(offset + 8 * word, &random.word().to_le_bytes());
            }
        };
        chance(&mut state, random, XMM, 256);
        for &(_, offset, bytes) in &self.components {
            if offset >= HEADER_END {
                chance(&mut state, random, offset, bytes);
            }
        }
        state.put(XSTATE_BV, &self.enabled.to_le_bytes());
        state.area()
    }

    /// The name of what lies at a byte of an area, and its first byte.
    pub fn register(&self, byte: usize) -> (String, usize) {
        match byte {
            FCW..FSW => (String::from("FCW"), FCW),
            FSW..FTW => (String::from("FSW"), FSW),
            FTW => (String::from("FTW"), FTW),
            MXCSR..28 => (String::from("MXCSR"), MXCSR),
            ST..XMM => {
                let register = (byte - ST) / 16;
                (format!("st{register}"), ST + 16 * register)
            }
            XMM..LEGACY_BYTES => {
                let register = (byte - XMM) / 16;
                (format!("xmm{register}"), XMM + 16 * register)
            }
            _ => self.extended(byte),
        }
    }

    fn extended(&self, byte: usize) -> (String, usize) {
        let Some(&(bit, offset, _)) = self
            .components
            .iter()
            .find(|(_, offset, bytes)| (*offset..offset + bytes).contains(&byte))
        else {
            return (format!("byte {byte} of the area"), byte);
        };
        let (name, bytes, first) = match bit {
            component::AVX => ("upper half of ymm", 16, 0),
            component::OPMASK => ("k", 8, 0),
            component::ZMM_HIGH => ("upper half of zmm", 32, 0),
            component::ZMM_16_TO_31 => ("zmm", 64, 16),
            _ => return (format!("byte {} of component {bit}", byte - offset), byte),
        };
        let register = (byte - offset) / bytes;
        (
            format!("{name}{}", first + register),
            offset + bytes * register,
        )
    }

    /// A bit of each kind of register, as bytes and bits of an area: for damage on purpose.
    pub fn samples(&self, bits32: bool) -> Vec<(usize, u32)> {
        let last = if bits32 { 7 } else { 15 };
        let mut samples = Vec::from([(FCW + 1, 2), (FSW + 1, 3), (FTW, 4), (MXCSR + 1, 5)]);
        samples.extend((0..8).map(|register| (ST + 16 * register + 3, register as u32)));
        samples.push((ST + 9, 7));
        samples.extend((0..=last).map(|register| (XMM + 16 * register + 11, 1)));
        for &(bit, offset, _) in &self.components {
            match bit {
                component::AVX => samples.extend((0..=last).map(|r| (offset + 16 * r + 5, 6))),
                component::OPMASK => samples.extend((0..8).map(|r| (offset + 8 * r + 7, 7))),
                component::ZMM_HIGH => {
                    samples.extend((0..=last).map(|r| (offset + 32 * r + 31, 0)));
                }
                component::ZMM_16_TO_31 if !bits32 => {
                    samples.extend((0..16).map(|r| (offset + 64 * r + 40, 3)));
                }
                _ => {}
            }
        }
        samples
    }
}

/// An area as bytes.
struct Bytes([u8; 8 * AREA_WORDS]);

impl Bytes {
    const fn new() -> Bytes {
        Bytes([0; 8 * AREA_WORDS])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn fill(&mut self, at: usize, bytes: usize) {
        if let Some(place) = self.0.get_mut(at..at + bytes) {
            place.fill(0xFF);
        }
    }

    fn area(&self) -> Area {
        let mut words = [0; AREA_WORDS];
        for (word, bytes) in words.iter_mut().zip(self.0.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
        }
        Area(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn avx512() -> Layout {
        Layout {
            enabled: 0xE7,
            components: Vec::from([
                (2, 576, 256),
                (5, 1088, 64),
                (6, 1152, 512),
                (7, 1664, 1024),
            ]),
        }
    }

    #[test]
    fn the_area_ends_with_its_last_component() {
        assert_eq!(Layout::default().words(), 64);
        assert_eq!(avx512().words(), 336);
    }

    #[test]
    fn every_sample_is_of_a_register_with_a_name_of_its_own() {
        let layout = avx512();
        for bits32 in [false, true] {
            let mask = layout.mask(bits32);
            let mut names = Vec::new();
            for (byte, bit) in layout.samples(bits32) {
                assert_ne!(mask.0[byte / 8] >> (8 * (byte % 8) as u32 + bit) & 1, 0);
                names.push(layout.register(byte).0);
            }
            names.sort();
            names.dedup();
            // FCW, FSW, FTW, MXCSR, st, xmm, ymm, k, zmm and upper zmm.
            let (vectors, more) = if bits32 { (8, 0) } else { (16, 16) };
            assert_eq!(names.len(), 4 + 8 + 3 * vectors + 8 + more);
        }
    }

    #[test]
    fn patterns_mask_all_exceptions_and_differ() {
        let layout = avx512();
        let mut random = Random::new(3);
        let mut before = None;
        for _ in 0..100 {
            let state = layout.pattern(&mut random);
            assert_eq!(state.0[0] & 0x7F, 0x7F);
            assert_ne!(state.0[0] >> 8 & 3, 1, "reserved precision");
            assert_eq!(state.0[0] >> 16 & 0x80FF, 0, "an exception is pending");
            assert_eq!(state.0[3] & 0xFFFF_1FC0, 0x1F80);
            assert_eq!(state.0[64], 0xE7);
            assert!(state.0[65..72].iter().all(|word| *word == 0));
            assert_ne!(before.replace(state), Some(state));
        }
    }
}
