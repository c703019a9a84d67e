//! Segments of user code: what may stand in a selector register and in a thread's own descriptors, and how both are loaded.
//!
//! A thread has three slots in the descriptor table (`abi::segment`), which the switch fills when it brings the thread, if they
//! differ from what the CPU has there. What may be put into one is a present, 32-bit data segment of privilege level 3 and
//! nothing else:
//!
//! - no system descriptor and no code: a gate or a far jump into them would be a way into other places;
//! - none that is not present: a selector that names it would be worth nothing but a fault;
//! - none of 16 bits: `iret` to a 16-bit stack restores only half of ESP and leaves the kernel's stack pointer in the rest, which
//!   Linux needs its `espfix` stacks for.
//!
//! A selector may go bad after it was checked: its slot is emptied while a register, or a saved context, names it. Loading
//! it then faults *in the kernel*. DS, ES, FS and GS become null instead ([`fixup`]), which 32-bit code notices at its next use,
//! and 64-bit code never; a bad SS is found by `iretq`, whose fault is made the thread's (`entry/vectors.rs`).

use abi::UserContext;
use abi::segment::{TLS_FIRST_SELECTOR, TLS_SLOTS};

/// Why a descriptor can't be a thread's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadDescriptor {
    /// There is no such slot.
    Slot,
    /// It is not present, though not empty.
    NotPresent,
    /// It is not for privilege level 3.
    Privilege,
    /// It is a system segment or a gate.
    System,
    /// It is a code segment.
    Code,
    /// It is no 32-bit segment.
    Width,
}

/// Bits of a descriptor (Intel SDM vol. 3A §3.4.5).
mod bit {
    pub(super) const ACCESSED: u64 = 1 << 40;
    pub(super) const WRITABLE: u64 = 1 << 41;
    pub(super) const CODE: u64 = 1 << 43;
    pub(super) const NOT_SYSTEM: u64 = 1 << 44;
    pub(super) const USER: u64 = 3 << 45;
    pub(super) const PRESENT: u64 = 1 << 47;
    pub(super) const LONG: u64 = 1 << 53;
    pub(super) const WIDTH_32: u64 = 1 << 54;
}

/// Bits of a selector: its place in the table, without RPL.
const INDEX: u16 = !3;

/// The descriptors of one thread. Those that are not empty can be loaded without a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlsSlots([u64; TLS_SLOTS]);

impl TlsSlots {
    /// Three empty slots.
    pub const EMPTY: TlsSlots = TlsSlots([0; TLS_SLOTS]);

    /// Puts a descriptor into a slot; 0 empties it. The accessed bit is set, so that the CPU never writes to its table.
    ///
    /// # Errors
    /// What makes the descriptor unfit; nothing is changed then.
    pub const fn set(&mut self, slot: usize, descriptor: u64) -> Result<(), BadDescriptor> {
        if slot >= TLS_SLOTS {
            return Err(BadDescriptor::Slot);
        }
        if descriptor == 0 {
            self.0[slot] = 0;
            return Ok(());
        }
        if descriptor & bit::PRESENT == 0 {
            return Err(BadDescriptor::NotPresent);
        }
        if descriptor & bit::NOT_SYSTEM == 0 {
            return Err(BadDescriptor::System);
        }
        if descriptor & bit::CODE != 0 {
            return Err(BadDescriptor::Code);
        }
        if descriptor & bit::USER != bit::USER {
            return Err(BadDescriptor::Privilege);
        }
        if descriptor & bit::WIDTH_32 == 0 || descriptor & bit::LONG != 0 {
            return Err(BadDescriptor::Width);
        }
        self.0[slot] = descriptor | bit::ACCESSED;
        Ok(())
    }

    /// The descriptors.
    pub const fn descriptors(&self) -> &[u64; TLS_SLOTS] {
        &self.0
    }

    /// Whether all are empty.
    pub const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] == 0
    }

    /// The descriptor that a selector names, if it names a slot; 0 for an empty one.
    const fn named_by(&self, selector: u16) -> Option<u64> {
        match slot_of(selector) {
            Some(slot) => Some(self.0[slot]),
            None => None,
        }
    }

    /// Brings a context into line with a slot that was changed: a base that came with a selector of it is the new one's, or 0.
    pub const fn renew_bases(&self, slot: usize, context: &mut UserContext) {
        if slot >= TLS_SLOTS {
            return;
        }
        let base = base_of(self.0[slot]);
        if matches!(slot_of(context.fs), Some(named) if named == slot) {
            context.fs_base = base;
        }
        if matches!(slot_of(context.gs), Some(named) if named == slot) {
            context.gs_base = base;
        }
    }
}

/// The slot that a selector names.
const fn slot_of(selector: u16) -> Option<usize> {
    let offset = (selector & INDEX).wrapping_sub(TLS_FIRST_SELECTOR & INDEX);
    // Bit 2 names the local table, which there is none of.
    if offset.is_multiple_of(8) && ((offset / 8) as usize) < TLS_SLOTS {
        Some((offset / 8) as usize)
    } else {
        None
    }
}

/// The base in a descriptor.
const fn base_of(descriptor: u64) -> u64 {
    descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000
}

/// Whether DS, ES, FS or GS can be loaded with a selector, by a thread with these slots: null, a segment that all user code
/// shares, or a slot that is not empty.
pub const fn is_loadable(selector: u16, slots: &TlsSlots) -> bool {
    match selector & INDEX {
        // The code segments of this table can be read.
        0 | CODE32 | DATA | CODE64 | CPU_NUMBER => true,
        _ => matches!(slots.named_by(selector), Some(descriptor) if descriptor != 0),
    }
}

/// Whether SS can be loaded with a selector at privilege level 3: RPL 3, and a segment that can be written.
pub const fn is_stack(selector: u16, slots: &TlsSlots) -> bool {
    selector & 3 == 3
        && (selector & INDEX == DATA
            || matches!(slots.named_by(selector), Some(descriptor) if descriptor & bit::WRITABLE != 0))
}

const CODE32: u16 = crate::context::USER_CODE32 & INDEX;
const DATA: u16 = crate::context::USER_DATA & INDEX;
const CODE64: u16 = crate::context::USER_CODE64 & INDEX;
/// The slot whose limit is the CPU's index.
const CPU_NUMBER: u16 = 0x58;

#[cfg(target_os = "none")]
const _: () = assert!(CPU_NUMBER == crate::cpu::CPU_NUMBER & INDEX);

#[cfg(target_os = "none")]
pub use loading::fixup;
#[cfg(target_os = "none")]
pub(crate) use loading::{load_ds, load_es, load_fs, load_gs};

#[cfg(target_os = "none")]
mod loading {
    //! Loads of selector registers that survive a fault.

    use core::arch::naked_asm;

    use crate::cpu::Msr;

    /// Where to go on after a fault at `rip` (#GP, #NP), if it is one of the loads below. The register becomes null there.
    ///
    /// The handler sets the frame's instruction pointer to the result, changes nothing else and returns.
    pub fn fixup(rip: u64) -> Option<u64> {
        let at = |label: unsafe extern "C" fn()| label as usize as u64;
        [
            (at(switchyard_load_ds), at(switchyard_load_ds_fixup)),
            (at(switchyard_load_es), at(switchyard_load_es_fixup)),
            (at(switchyard_load_fs), at(switchyard_load_fs_fixup)),
            (at(switchyard_load_gs), at(switchyard_load_gs_fixup)),
        ]
        .into_iter()
        .find_map(|(faulting, landing)| (rip == faulting).then_some(landing))
    }

    unsafe extern "C" {
        // The instructions that may fault, and where each goes on. They are labels, not functions.
        fn switchyard_load_ds();
        fn switchyard_load_ds_fixup();
        fn switchyard_load_es();
        fn switchyard_load_es_fixup();
        fn switchyard_load_fs();
        fn switchyard_load_fs_fixup();
        fn switchyard_load_gs();
        fn switchyard_load_gs_fixup();
    }

    macro_rules! load {
        ($(#[$doc:meta])* $name:ident, $register:literal) => {
            $(#[$doc])*
            ///
            /// In: EDI the selector. Lost: EDI and flags if the selector can't be loaded; then the register is null. No stack.
            #[unsafe(naked)]
            pub(crate) unsafe extern "C" fn $name(selector: u32) {
                naked_asm!(
                    concat!(".globl switchyard_load_", $register),
                    concat!("switchyard_load_", $register, ": mov ", $register, ", edi"),
                    "ret",
                    concat!(".globl switchyard_load_", $register, "_fixup"),
                    concat!("switchyard_load_", $register, "_fixup: xor edi, edi"),
                    concat!("mov ", $register, ", edi"),
                    "ret",
                )
            }
        };
    }

    load! {
        /// Loads DS.
        load_ds, "ds"
    }
    load! {
        /// Loads ES.
        load_es, "es"
    }
    load! {
        /// Loads FS. Its base becomes the descriptor's; with a null selector 0 on Intel's CPUs, and what it was on AMD's.
        load_fs, "fs"
    }

    /// Loads GS and puts the kernel's GS base back, which the load overwrites.
    ///
    /// There is no `swapgs` around it, so that a fault finds the kernel's base still in force; between the load and the end
    /// only NMI, #MC and #DB can come, which trust no base. The user's base, in KERNEL_GS_BASE, stays.
    ///
    /// In: EDI the selector, RSI the kernel's GS base. Lost: RAX, RCX, RDX, EDI, flags. No stack.
    #[unsafe(naked)]
    pub(crate) unsafe extern "C" fn load_gs(selector: u32, kernel_base: u64) {
        naked_asm!(
            ".globl switchyard_load_gs",
            "switchyard_load_gs: mov gs, edi",
            "2:",
            "mov ecx, {gs_base}",
            "mov eax, esi",
            "mov rdx, rsi",
            "shr rdx, 32",
            "wrmsr",
            "ret",
            ".globl switchyard_load_gs_fixup",
            "switchyard_load_gs_fixup: xor edi, edi",
            "mov gs, edi",
            "jmp 2b",
            gs_base = const Msr::GS_BASE.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::segment::DataSegment;

    const GOOD: u64 = DataSegment::flat(0x8048_1000).descriptor();

    #[test]
    fn only_present_32_bit_data_segments_of_user_code_are_taken() {
        for (descriptor, want) in [
            (GOOD & !(1 << 47), BadDescriptor::NotPresent),
            (1, BadDescriptor::NotPresent),
            (GOOD & !(1 << 44), BadDescriptor::System),
            // An available TSS, a call gate and a local table, all of DPL 3 and present.
            (0x0000_E900_0000_0067, BadDescriptor::System),
            (0x0000_EC00_0008_0000, BadDescriptor::System),
            (0x0000_E200_0000_0067, BadDescriptor::System),
            (GOOD | 1 << 43, BadDescriptor::Code),
            (0x00AF_FB00_0000_FFFF, BadDescriptor::Code),
            (GOOD & !(1 << 45), BadDescriptor::Privilege),
            (GOOD & !(1 << 46), BadDescriptor::Privilege),
            (GOOD & !(3 << 45), BadDescriptor::Privilege),
            (GOOD & !(1 << 54), BadDescriptor::Width),
            (GOOD | 1 << 53, BadDescriptor::Width),
        ] {
            let mut slots = TlsSlots::EMPTY;
            assert_eq!(slots.set(0, descriptor), Err(want), "{descriptor:#x}");
            assert!(slots.is_empty());
        }
        let mut slots = TlsSlots::EMPTY;
        assert_eq!(slots.set(3, GOOD), Err(BadDescriptor::Slot));
        assert_eq!(slots.set(usize::MAX, 0), Err(BadDescriptor::Slot));
        assert!(slots.is_empty());
    }

    #[test]
    fn the_cpu_never_has_to_write_to_a_descriptor() {
        let mut slots = TlsSlots::EMPTY;
        slots.set(1, GOOD & !(1 << 40)).unwrap();
        assert_eq!(slots.descriptors(), &[0, GOOD, 0]);
        slots.set(1, 0).unwrap();
        assert!(slots.is_empty());
    }

    #[test]
    fn selectors_are_loadable_only_if_they_name_a_segment_of_user_code() {
        let mut slots = TlsSlots::EMPTY;
        slots.set(1, GOOD).unwrap();
        let loadable: Vec<u16> = (0..0x100).filter(|&s| is_loadable(s, &slots)).collect();
        let want: Vec<u16> = [0, 0x18, 0x20, 0x28, 0x48, 0x58]
            .into_iter()
            .flat_map(|s| s..s + 4)
            .collect();
        assert_eq!(loadable, want);
        assert!((0x100..=u16::MAX).all(|s| !is_loadable(s, &slots)));
    }

    #[test]
    fn stacks_are_segments_that_can_be_written() {
        let mut slots = TlsSlots::EMPTY;
        slots.set(1, GOOD).unwrap();
        slots.set(2, GOOD & !(1 << 41)).unwrap();
        let stacks: Vec<u16> = (0..=u16::MAX).filter(|&s| is_stack(s, &slots)).collect();
        assert_eq!(stacks, [0x23, 0x4B]);
    }

    #[test]
    fn bases_follow_the_slot_that_a_selector_names() {
        let mut slots = TlsSlots::EMPTY;
        slots.set(2, GOOD).unwrap();
        let mut context = UserContext {
            fs: 0x53,
            gs: 0x4B,
            fs_base: 7,
            gs_base: 8,
            ..UserContext::default()
        };
        slots.renew_bases(2, &mut context);
        assert_eq!((context.fs_base, context.gs_base), (0x8048_1000, 8));
        slots.set(2, 0).unwrap();
        slots.renew_bases(2, &mut context);
        slots.renew_bases(0, &mut context);
        slots.renew_bases(3, &mut context);
        assert_eq!((context.fs_base, context.gs_base), (0, 8));
    }
}
