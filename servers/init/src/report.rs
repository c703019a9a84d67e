//! How the end of a program is told.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use abi::FaultKind;
use abi::info::{ProcessInfo, ProcessState};

/// How a process stands; a state that this program doesn't know counts as killed.
pub fn state(info: &ProcessInfo) -> ProcessState {
    match info.state {
        0 => ProcessState::Alive,
        1 => ProcessState::Exited,
        3 => ProcessState::Faulted,
        _ => ProcessState::Killed,
    }
}

/// Whether it ended as it should.
pub fn succeeded(info: &ProcessInfo) -> bool {
    state(info) == ProcessState::Exited && info.code == 0
}

/// How it ended, in a line.
pub fn ending(info: &ProcessInfo) -> String {
    match state(info) {
        ProcessState::Alive => "is alive".to_owned(),
        ProcessState::Exited => format!("exited with code {}", info.code),
        ProcessState::Killed => format!("was killed with code {}", info.code),
        ProcessState::Faulted => {
            let context = &info.context;
            let kind = FaultKind::from_vector(context.vector);
            let place = format!("{} at rip {:#x}", kind.text(), context.rip);
            match kind {
                FaultKind::Page => format!(
                    "faulted: {place}: {} {:#x}",
                    access(context.error_code),
                    context.cr2
                ),
                _ => format!("faulted: {place}, error code {:#x}", context.error_code),
            }
        }
    }
}

/// What a page fault's error code says was tried (Intel SDM vol. 3A §4.7).
const fn access(error_code: u64) -> &'static str {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    match (
        error_code & PRESENT != 0,
        error_code & WRITE != 0,
        error_code & FETCH != 0,
    ) {
        (false, _, true) => "execution of unmapped",
        (true, _, true) => "forbidden execution of",
        (false, true, _) => "write to unmapped",
        (true, true, _) => "forbidden write to",
        (false, false, _) => "read of unmapped",
        (true, false, _) => "forbidden read of",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_told_with_code_and_place() {
        let mut info = ProcessInfo {
            state: 1,
            code: 3,
            ..ProcessInfo::default()
        };
        assert_eq!(ending(&info), "exited with code 3");
        assert!(!succeeded(&info));
        info.code = 0;
        assert!(succeeded(&info));
        info.state = 2;
        assert_eq!(ending(&info), "was killed with code 0");
        assert!(!succeeded(&info));
        info.state = 3;
        info.context.vector = 14;
        info.context.error_code = 6;
        info.context.rip = 0x20_1234;
        info.context.cr2 = 0x10;
        assert_eq!(
            ending(&info),
            "faulted: page fault at rip 0x201234: write to unmapped 0x10"
        );
        info.context.vector = 13;
        assert_eq!(
            ending(&info),
            "faulted: general protection fault at rip 0x201234, error code 0x6"
        );
    }
}
