//! Machine checks: what the CPU says about an error of its own, and whether the machine can go on.
//!
//! An error that was contained (poisoned memory that nobody has consumed yet, say) is reported by #MC with everything needed
//! to go on: RIP is valid, no bank says that the processor's context is corrupt, and none demands that the software act
//! before it goes on. Such a report is taken, cleared and counted. Anything else ends the machine in a report.
//!
//! What may go wrong: a second #MC before the first one's status is cleared shuts the machine down (Intel SDM vol. 3B
//! §16.3.1.2, MCIP), so the status is cleared here and nothing slow comes before it.

use x86_64::registers::model_specific::Msr;

/// IA32_MCG_CAP, IA32_MCG_STATUS and the first bank's status (Intel SDM vol. 3B §16.3.1, §16.3.2); four registers a bank.
const CAPABILITIES: u32 = 0x179;
const GLOBAL_STATUS: u32 = 0x17A;
const FIRST_BANK_STATUS: u32 = 0x401;
const REGISTERS_A_BANK: u32 = 4;

/// IA32_MCG_CAP: the number of banks, and whether S and AR below have their meaning.
const BANKS: u64 = 0xFF;
const SOFTWARE_RECOVERY: u64 = 1 << 24;
/// IA32_MCG_STATUS.RIPV: the interrupted program can go on.
const CAN_GO_ON: u64 = 1;

/// IA32_MCi_STATUS (Intel SDM vol. 3B §16.3.2.2): valid, uncorrected, context corrupt, action required.
const VALID: u64 = 1 << 63;
const UNCORRECTED: u64 = 1 << 61;
const CONTEXT_CORRUPT: u64 = 1 << 57;
const ACTION_REQUIRED: u64 = 1 << 55;

/// What to do about a machine check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineCheck {
    /// The interrupted program can go on; this is the status of the worst bank, or 0 if none had anything to say.
    Survivable(u64),
    /// It can't; this is the status of the bank that says so, or 0 if that is the processor's general verdict.
    Fatal(u64),
}

/// Judges one bank.
fn judge(status: u64, recovery: bool) -> MachineCheck {
    let fatal = status & CONTEXT_CORRUPT != 0
        || status & UNCORRECTED != 0 && (!recovery || status & ACTION_REQUIRED != 0);
    if fatal {
        MachineCheck::Fatal(status)
    } else {
        MachineCheck::Survivable(status)
    }
}

/// Judges all banks.
fn judge_all(global: u64, recovery: bool, banks: impl Iterator<Item = u64>) -> MachineCheck {
    if global & CAN_GO_ON == 0 {
        return MachineCheck::Fatal(0);
    }
    let mut worst = MachineCheck::Survivable(0);
    for status in banks.filter(|status| status & VALID != 0) {
        match judge(status, recovery) {
            fatal @ MachineCheck::Fatal(_) => return fatal,
            survivable => worst = survivable,
        }
    }
    worst
}

/// Reads what the CPU reports, and if it can be survived, clears it, so that the next one is no shutdown.
///
/// # Safety
/// To be called in the handler of #MC: only a CPU that has the registers raises it.
pub unsafe fn take_machine_check() -> MachineCheck {
    // SAFETY: see above; the banks' registers exist up to their number.
    unsafe {
        let capabilities = Msr::new(CAPABILITIES).read();
        let bank =
            |number: u64| Msr::new(FIRST_BANK_STATUS + REGISTERS_A_BANK * (number & BANKS) as u32);
        let count = capabilities & BANKS;
        let verdict = judge_all(
            Msr::new(GLOBAL_STATUS).read(),
            capabilities & SOFTWARE_RECOVERY != 0,
            (0..count).map(|number| bank(number).read()),
        );
        if matches!(verdict, MachineCheck::Survivable(_)) {
            for number in 0..count {
                if bank(number).read() & VALID != 0 {
                    bank(number).write(0);
                }
            }
            Msr::new(GLOBAL_STATUS).write(0);
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONAL: u64 = VALID | UNCORRECTED | 1 << 56;

    #[test]
    fn contained_errors_are_survived_where_the_cpu_can_tell() {
        assert_eq!(
            judge_all(CAN_GO_ON, true, [0, OPTIONAL].into_iter()),
            MachineCheck::Survivable(OPTIONAL)
        );
        assert_eq!(
            judge_all(CAN_GO_ON, false, [OPTIONAL].into_iter()),
            MachineCheck::Fatal(OPTIONAL)
        );
    }

    #[test]
    fn corrected_errors_are_survived_everywhere() {
        assert_eq!(
            judge_all(CAN_GO_ON, false, [VALID].into_iter()),
            MachineCheck::Survivable(VALID)
        );
    }

    #[test]
    fn what_the_program_cannot_go_on_from_is_fatal() {
        assert_eq!(
            judge_all(0, true, [].into_iter()),
            MachineCheck::Fatal(0),
            "RIP is not valid"
        );
        for worse in [CONTEXT_CORRUPT, ACTION_REQUIRED] {
            assert_eq!(
                judge_all(CAN_GO_ON, true, [VALID, OPTIONAL | worse].into_iter()),
                MachineCheck::Fatal(OPTIONAL | worse)
            );
        }
    }

    #[test]
    fn banks_without_a_valid_report_say_nothing() {
        let garbage = !VALID;
        assert_eq!(
            judge_all(CAN_GO_ON, false, [garbage].into_iter()),
            MachineCheck::Survivable(0)
        );
    }
}
