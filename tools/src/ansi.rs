//! Takes terminal control sequences out of a byte stream, across any split into chunks.
//!
//! Firmware paints its serial console with cursor movements and colours, and a shell redraws its line with them; who
//! looks for text must not see them. Sequences as in ECMA-48: `ESC [` parameters and a final byte, `ESC` intermediates
//! and a final byte, and operating-system commands ended by BEL or `ESC \`.

/// Where in a sequence the stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    Control,
    Command,
    CommandEscape,
}

/// Removes control sequences; keeps every other byte.
#[derive(Debug, Default)]
pub struct Stripper {
    state: State,
}

impl Stripper {
    /// The text in `bytes`, which follow the bytes given before.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .filter(|&&b| self.is_text(b))
            .copied()
            .collect()
    }

    fn is_text(&mut self, byte: u8) -> bool {
        // A line end inside a sequence: the sequence was cut off, and the line end is real.
        let cut_off = matches!(byte, b'\r' | b'\n');
        let next = match self.state {
            State::Text if byte == 0x1b => State::Escape,
            State::Text => return true,
            State::Command => match byte {
                0x07 => State::Text,
                0x1b => State::CommandEscape,
                _ => State::Command,
            },
            State::CommandEscape => State::Text,
            State::Escape | State::Control if cut_off => {
                self.state = State::Text;
                return true;
            }
            State::Escape => match byte {
                b'[' => State::Control,
                b']' => State::Command,
                0x1b | 0x20..=0x2f => State::Escape,
                _ => State::Text,
            },
            State::Control => match byte {
                0x1b => State::Escape,
                0x20..=0x3f => State::Control,
                _ => State::Text,
            },
        };
        self.state = next;
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Stripper;

    #[test]
    fn firmware_noise_vanishes_and_text_stays() {
        let noise = b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[0m\x1b[35m\x1b[40mBds\x1b]0;title\x07Dxe\x1b(B: ok\r\n";
        assert_eq!(Stripper::default().push(noise), b"BdsDxe: ok\r\n");
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(bytes in proptest::collection::vec(
            prop_oneof![Just(0x1b), Just(b'['), Just(b']'), Just(b'm'), Just(7), Just(b'\n'), any::<u8>()], 0..60), cut in 0usize..60) {
            let cut = cut.min(bytes.len());
            let whole = Stripper::default().push(&bytes);
            let mut split = Stripper::default();
            let mut parts = split.push(&bytes[..cut]);
            parts.extend(split.push(&bytes[cut..]));
            prop_assert_eq!(whole, parts);
        }

        #[test]
        fn plain_text_is_untouched(text in "[ -~\r\n]*") {
            prop_assert_eq!(Stripper::default().push(text.as_bytes()), text.as_bytes());
        }
    }
}
