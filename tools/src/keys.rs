//! What a person types at a raw terminal: every key goes to the machine, except for one escape.
//!
//! Ctrl-A is the escape, as in QEMU's own terminal: Ctrl-A X ends the machine, Ctrl-A Ctrl-A is a Ctrl-A for the guest,
//! and Ctrl-A with any other key passes both.

const CTRL_A: u8 = 1;

/// What typed bytes mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// Bytes for the machine.
    pub send: Vec<u8>,
    /// The user wants out.
    pub quit: bool,
}

/// Watches for the escape, which may be split over two reads.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Judges the next bytes typed.
    pub fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut send = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, CTRL_A) => self.escaped = true,
                (true, b'x' | b'X') => return Typed { send, quit: true },
                (true, CTRL_A) => send.push(CTRL_A),
                (true, other) => send.extend([CTRL_A, other]),
                (false, other) => send.push(other),
            }
        }
        Typed { send, quit: false }
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;

    #[test]
    fn control_c_goes_to_the_guest() {
        let typed = Keys::default().typed(b"ab\x03");
        assert_eq!((typed.send.as_slice(), typed.quit), (&b"ab\x03"[..], false));
    }

    #[test]
    fn escape_split_over_two_reads_quits() {
        let mut keys = Keys::default();
        assert!(keys.typed(b"q\x01").send == b"q");
        assert!(keys.typed(b"x").quit);
    }

    #[test]
    fn other_escapes_pass() {
        let mut keys = Keys::default();
        assert_eq!(keys.typed(b"\x01\x01").send, b"\x01");
        assert_eq!(keys.typed(b"\x01b").send, b"\x01b");
        assert!(!keys.typed(b"x").quit);
    }
}
