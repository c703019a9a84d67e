//! What can be done at an instruction, by what it is and where it stands.

use std::collections::BTreeSet;

use iced_x86::{
    InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, Register, UsedMemory,
};

use super::Event;
use crate::entry_text::Place;
use crate::gdb::Registers;

/// Whether an event can be injected here at all.
pub(super) fn applies(event: Event, place: &Place) -> bool {
    let inside = |routine: &str| {
        place
            .routine
            .starts_with(&format!("entry::paranoid::{routine}"))
    };
    match event {
        Event::Nmi => true,
        Event::MachineCheck => !inside("machine_check"),
        Event::DoubleFault => !inside("double_fault"),
        // A return to user mode takes the flags with it: the trap would be user code's. Behind the call of #DF's handler the end has
        // begun, and it is too late for `iretq` to let NMIs in too early.
        Event::Debug => {
            let last_call =
                inside("double_fault") && place.instruction.mnemonic() == Mnemonic::Call;
            !inside("debug") && !leaves(place) && !last_call
        }
    }
}

/// Whether an instruction may leave the kernel.
pub(super) fn leaves(place: &Place) -> bool {
    matches!(
        place.instruction.mnemonic(),
        Mnemonic::Iretq
            | Mnemonic::Sysretq
            | Mnemonic::Sysret
            | Mnemonic::Sysexit
            | Mnemonic::Sysexitq
    )
}

/// The address of the memory that an instruction reads and writes, if it does: `inc byte ptr gs:[depth]`.
pub(super) fn counter(place: &Place, registers: &Registers) -> Option<u64> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(
        &place.instruction,
        InstructionInfoOptions::NO_REGISTER_USAGE,
    );
    let both = |memory: &&UsedMemory| memory.access() == OpAccess::ReadWrite;
    info.used_memory()
        .iter()
        .find(both)?
        .virtual_address(0, |register, _, _| match register {
            Register::GS => Some(registers.get("gs_base")),
            _ => None,
        })
}

/// Whether this is a stub's last instruction.
pub(super) fn ends(place: &Place) -> bool {
    place.instruction.mnemonic() == Mnemonic::Jmp
}

/// The NMI's own entry, and the stretches of the other entries that return to it: they end in `ret`, with which nothing else of them
/// ends.
pub(super) fn inside_nmi<'a>(places: impl DoubleEndedIterator<Item = &'a Place>) -> BTreeSet<u64> {
    let mut returns_to_nmi = false;
    let mut inside = BTreeSet::new();
    for place in places.rev() {
        match place.instruction.mnemonic() {
            Mnemonic::Ret => returns_to_nmi = place.routine.starts_with("entry::paranoid"),
            Mnemonic::Iretq | Mnemonic::Jmp | Mnemonic::Ud2 => returns_to_nmi = false,
            _ => {}
        }
        if returns_to_nmi || place.routine == "entry::paranoid::nmi" {
            inside.insert(place.address);
        }
    }
    inside
}
