//! What the boot decides about flaws of the CPU, and says: docs, chapter on mitigations.

use arch::cpu::features;
use arch::fpu;
use arch::mitigations::{self, Choice, Decisions, decisions};

use super::command_line::{self, FpuMode};

fn choice(line: &str) -> Choice {
    command_line::mitigations(line).unwrap_or(Choice::Auto)
}

/// Decides, before page tables are built, control registers set and entry paths patched.
pub(super) fn choose(line: &str) {
    if let Err(other) = command_line::mitigations(line) {
        ::log::warn!("mitigations={other}: unknown; auto, off and on are known");
    }
    let choice = choice(line);
    let cpu = &features().speculation;
    let done = mitigations::choose(choice, cpu);
    let Decisions {
        isolation,
        clear_buffers,
        ibrs,
        automatic_ibrs,
        barrier,
    } = done;
    let why = match choice {
        Choice::Auto => "as this CPU needs it",
        Choice::Off => "as the command line asks",
        Choice::On => "as the command line asks, whether this CPU needs it or not",
    };
    let word = |on: bool, what: &'static str| if on { what } else { "" };
    if done == Decisions::default() {
        ::log::info!("mitigations: none, {why}");
    } else {
        ::log::info!(
            "mitigations:{}{}{}{} {why}",
            word(isolation, " page tables apart,"),
            word(clear_buffers, " buffers cleared,"),
            word(ibrs || automatic_ibrs, " branches restricted,"),
            word(barrier, " branch barriers,"),
        );
    }
    if choice == Choice::Off && !cpu.amd && !cpu.rdcl_no {
        ::log::warn!("this CPU may be vulnerable to Meltdown, and nothing is done about it");
    }
}

/// Says how the TLB tells address spaces apart here (`arch::tlb`). To be called after [`choose`].
pub(super) fn say_names() {
    let cpu = features();
    let how = match (cpu.pcid, decisions().isolation, cpu.invpcid) {
        (false, ..) => "no names in the TLB: each load of CR3 flushes it",
        (true, false, _) => "names in the TLB (PCIDs)",
        (true, true, true) => "names in the TLB (PCIDs), pages of user tables flushed by INVPCID",
        (true, true, false) => "names in the TLB (PCIDs), user tables flushed as a whole",
    };
    ::log::info!("address spaces: {how}");
}

/// Decides when the state of the floating-point unit is loaded. Returns whether that is eagerly.
pub(super) fn choose_fpu(line: &str) -> bool {
    let choice = choice(line);
    let mode = FpuMode::from_command_line(line).unwrap_or_else(|other| {
        ::log::warn!("fpu={other}: unknown; auto, lazy and eager are known");
        FpuMode::Auto
    });
    let leaks = fpu::leaks_when_lazy();
    let eager = match mode {
        FpuMode::Auto => choice == Choice::On || leaks && choice == Choice::Auto,
        FpuMode::Lazy => false,
        FpuMode::Eager => true,
    };
    fpu::set_eager(eager);
    let why = match mode {
        FpuMode::Lazy | FpuMode::Eager => "as the command line asks",
        FpuMode::Auto if leaks && eager => {
            "as this CPU may leak lazily kept registers (CVE-2018-3665)"
        }
        FpuMode::Auto if eager => "as all mitigations are on",
        FpuMode::Auto if leaks => "as mitigations are off",
        FpuMode::Auto => "as this CPU is not known to leak lazily kept registers",
    };
    let when = if eager { "eager" } else { "lazy" };
    ::log::info!("floating-point state: {}; {when}, {why}", features().fpu);
    if leaks && !eager && choice != Choice::Off {
        ::log::warn!("this CPU may leak lazily kept floating-point registers (CVE-2018-3665)");
    }
    eager
}
