//! Keeps the firmware's painting off the user's terminal.
//!
//! OVMF clears the serial terminal and moves its cursor about, several times, before the loader starts. Until the first
//! line that begins with one of our programs' names, control sequences are dropped and the text is kept; from then on
//! every byte passes as it came.

use crate::ansi::Stripper;
use crate::transcript::Transcript;

/// Whether the firmware has said that a loader came back to it, or that it found none, or the loader that it has nothing to
/// go back to: the system will not start any more, and what follows is the firmware's own menu or shell, or nothing.
pub fn firmware_gave_up(said: &Transcript) -> bool {
    let gave_up = |l: &String| {
        l.starts_with("BdsDxe: failed to start")
            || l.starts_with("BdsDxe: No bootable option")
            || l.starts_with("switchyard boot: the machine stands still")
    };
    said.lines().iter().any(gave_up)
}

/// How a line begins that comes from the project's loader, from its kernel, or from stock Limine, in small letters.
const OURS: [&[u8]; 2] = [b"switchyard", b"limine"];

/// The filter on the way from the machine to the user.
#[derive(Debug, Default)]
pub struct Filter {
    stripper: Stripper,
    line: Vec<u8>,
    open: bool,
}

impl Filter {
    /// What the user is to see of `bytes`.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for (at, byte) in bytes.iter().enumerate() {
            if self.open {
                shown.extend_from_slice(&bytes[at..]);
                break;
            }
            for text in self.stripper.push(&[*byte]) {
                self.take(text, &mut shown);
            }
        }
        shown
    }

    fn take(&mut self, byte: u8, shown: &mut Vec<u8>) {
        match byte {
            b'\n' | b'\r' => {
                // The empty lines between two screens say nothing.
                if !self.line.is_empty() {
                    shown.extend_from_slice(b"\r\n");
                }
                self.line.clear();
            }
            0x20.. | b'\t' => {
                self.line.push(byte.to_ascii_lowercase());
                shown.push(byte);
                self.open = OURS.contains(&self.line.as_slice());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, firmware_gave_up};
    use crate::transcript::Transcript;

    #[test]
    fn loader_that_comes_back_is_noticed() {
        let mut said = Transcript::default();
        said.push(b"BdsDxe: loading Boot0001 \"x\"\r\nBdsDxe: starting Boot0001\r\n");
        assert!(!firmware_gave_up(&said));
        said.push(b"error\r\n\x1b[2JBdsDxe: failed to start Boot0001 \"x\": Load Error\r\n");
        assert!(firmware_gave_up(&said));
        let mut said = Transcript::default();
        said.push(b"switchyard boot: error: a\r\nswitchyard boot: the machine stands still; restart it\r\n");
        assert!(firmware_gave_up(&said));
    }

    #[test]
    fn screen_clearing_is_dropped_before_our_first_line_only() {
        let mut filter = Filter::default();
        let mut shown = filter.push(b"\x1b[2J\x1b[01;01H\r\n\r\nBdsDxe: starting\r\n\x1b[0mSwitch");
        shown.extend(filter.push(b"yard \x1b[32mloader\x1b[0m\r\n\r\n\x1b[2J"));
        assert_eq!(
            shown,
            b"BdsDxe: starting\r\nSwitchyard \x1b[32mloader\x1b[0m\r\n\r\n\x1b[2J"
        );
    }

    #[test]
    fn our_name_within_a_line_does_not_open_the_filter() {
        let mut filter = Filter::default();
        assert_eq!(
            filter.push(b"a switchyard\r\n\x1b[2Jb"),
            b"a switchyard\r\nb"
        );
    }
}
