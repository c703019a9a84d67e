//! Interrupts that devices send as messages: a write of one word to the local APICs' addresses (MSI and MSI-X).
//!
//! The address names the CPU, the data the vector (Intel SDM vol. 3A §11.11; AMD APM vol. 2 §16.6). There are 8 bits for the CPU: one with
//! a higher APIC id takes interrupt remapping, which is not there. The message is edge-triggered and wants nothing back but the local
//! APIC's end of interrupt, so all that can hold it back is at the device: a bit in MSI-X's table ("vector control", PCI Local Bus
//! 3.0 §6.8.2.9) or in MSI's capability, if that has mask bits (§6.8.1.7).

use crate::addr::{ApicId, VirtAddr};

/// Where messages go to.
const ADDRESS: u64 = 0xFEE0_0000;
const DESTINATION_SHIFT: u32 = 12;
/// As a destination: all CPUs, in xAPIC mode.
const EVERYBODY: u8 = 0xFF;

/// Address and data of the message that raises `vector` on the CPU `target`, alone, in fixed delivery mode; `None` if none reaches it.
#[must_use]
pub fn message(target: ApicId, vector: u8) -> Option<(u64, u32)> {
    let id = u8::try_from(target.0).ok().filter(|id| *id != EVERYBODY)?;
    Some((
        ADDRESS | u64::from(id) << DESTINATION_SHIFT,
        u32::from(vector),
    ))
}

/// A bit of a device's register that holds a message back while it is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaskBit {
    register: VirtAddr,
    bit: u32,
}

impl MaskBit {
    /// Bit `bit` (0 to 31) of the 32-bit register that is mapped at `register`.
    ///
    /// # Safety
    /// The register must be mapped uncached for good, be a device's, and be aligned.
    pub const unsafe fn new(register: VirtAddr, bit: u32) -> MaskBit {
        MaskBit {
            register,
            bit: bit % u32::BITS,
        }
    }

    /// Sets or clears the bit. On return the device has it: a write may still be on its way until something is read back.
    ///
    /// The caller sees to it that nobody else changes the register meanwhile.
    pub fn set(self, masked: bool) {
        let register: *mut u32 = self.register.as_mut_ptr();
        // SAFETY: the maker's promise.
        unsafe {
            let word = register.read_volatile() & !(1 << self.bit);
            register.write_volatile(word | u32::from(masked) << self.bit);
            register.read_volatile();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_cpu_and_vector() {
        assert_eq!(message(ApicId(0), 0x31), Some((0xFEE0_0000, 0x31)));
        assert_eq!(message(ApicId(0xFE), 0xEF), Some((0xFEEF_E000, 0xEF)));
    }

    #[test]
    fn cpus_that_no_message_reaches_have_none() {
        assert_eq!(message(ApicId(0xFF), 0x31), None, "that would be all CPUs");
        assert_eq!(message(ApicId(0x100), 0x31), None);
        assert_eq!(message(ApicId(u32::MAX), 0x31), None);
    }

    #[test]
    fn a_mask_bit_leaves_the_others_as_they_are() {
        let mut register = 0xA5A5_0000_u32;
        // SAFETY: a variable stands for the register.
        let bit = unsafe { MaskBit::new(VirtAddr::from_ptr(&raw mut register), 3) };
        bit.set(true);
        assert_eq!(register, 0xA5A5_0008);
        bit.set(false);
        assert_eq!(register, 0xA5A5_0000);
    }
}
