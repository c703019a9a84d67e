//! Keys out of bytes: UTF-8 text, control characters, and the escape sequences that terminals send for the other keys.
//!
//! Sequences are those of ECMA-48 and of xterm. One that is not known is passed over as a whole; one that
//! is longer than any real one ends at a bound. Bytes that are no UTF-8 are passed over.

/// Most bytes of an escape sequence.
const MOST_SEQUENCE: usize = 16;

/// A key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A printable character.
    Char(char),
    /// Return.
    Enter,
    /// Backspace.
    Backspace,
    /// Delete.
    Delete,
    /// Cursor left.
    Left,
    /// Cursor right.
    Right,
    /// One word left.
    WordLeft,
    /// One word right.
    WordRight,
    /// Cursor up.
    Up,
    /// Cursor down.
    Down,
    /// Home.
    Home,
    /// End.
    End,
    /// Control and a letter, `a` to `z`.
    Control(char),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC [, with the first parameter, the last one, and how many bytes there were.
    Sequence(u16, u16, usize),
    /// After ESC O.
    Function,
}

/// Turns bytes into keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    state: State,
    utf8: [u8; 4],
    utf8_length: usize,
    after_return: bool,
}

impl Decoder {
    /// The key that this byte completes, if it does.
    pub fn add(&mut self, byte: u8) -> Option<Key> {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        // ESC begins anew wherever it comes.
        if byte == 0x1B {
            self.state = State::Escape;
            self.utf8_length = 0;
            return None;
        }
        match self.state {
            State::Text => self.text(byte, after_return),
            State::Escape => {
                self.state = match byte {
                    b'[' => State::Sequence(0, 0, 0),
                    b'O' => State::Function,
                    _ => State::Text,
                };
                match byte {
                    b'b' => Some(Key::WordLeft),
                    b'f' => Some(Key::WordRight),
                    _ => None,
                }
            }
            State::Function => {
                self.state = State::Text;
                named(byte, 0)
            }
            State::Sequence(first, last, length) => self.sequence(byte, first, last, length + 1),
        }
    }

    fn sequence(&mut self, byte: u8, first: u16, last: u16, length: usize) -> Option<Key> {
        self.state = State::Text;
        match byte {
            _ if length > MOST_SEQUENCE => None,
            b'0'..=b'9' => {
                let last = last
                    .saturating_mul(10)
                    .saturating_add(u16::from(byte - b'0'));
                self.state = State::Sequence(first, last, length);
                None
            }
            b';' => {
                self.state = State::Sequence(if first == 0 { last } else { first }, 0, length);
                None
            }
            0x20..=0x3F => {
                self.state = State::Sequence(first, last, length);
                None
            }
            b'~' => match if first == 0 { last } else { first } {
                1 | 7 => Some(Key::Home),
                4 | 8 => Some(Key::End),
                3 => Some(Key::Delete),
                _ => None,
            },
            _ => named(byte, last),
        }
    }

    fn text(&mut self, byte: u8, after_return: bool) -> Option<Key> {
        if self.utf8_length > 0 {
            if byte & 0xC0 == 0x80 {
                self.utf8[self.utf8_length] = byte;
                self.utf8_length += 1;
                return self.finish_utf8();
            }
            // The character was cut off; this byte begins anew.
            self.utf8_length = 0;
        }
        match byte {
            b'\n' if after_return => None,
            b'\r' | b'\n' => Some(Key::Enter),
            0x08 | 0x7F => Some(Key::Backspace),
            0x01..=0x1A => Some(Key::Control(char::from(byte - 1 + b'a'))),
            0x20..=0x7E => Some(Key::Char(char::from(byte))),
            0xC2..=0xF4 => {
                self.utf8[0] = byte;
                self.utf8_length = 1;
                None
            }
            _ => None,
        }
    }

    fn finish_utf8(&mut self) -> Option<Key> {
        let wanted = match self.utf8[0] {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            _ => 4,
        };
        if self.utf8_length < wanted {
            return None;
        }
        self.utf8_length = 0;
        let character = str::from_utf8(&self.utf8[..wanted]).ok()?.chars().next()?;
        (!character.is_control()).then_some(Key::Char(character))
    }
}

/// The key of a sequence's last byte; the modifier 5 is control.
fn named(byte: u8, modifier: u16) -> Option<Key> {
    match (byte, modifier) {
        (b'C', 5) => Some(Key::WordRight),
        (b'D', 5) => Some(Key::WordLeft),
        (b'A', _) => Some(Key::Up),
        (b'B', _) => Some(Key::Down),
        (b'C', _) => Some(Key::Right),
        (b'D', _) => Some(Key::Left),
        (b'H', _) => Some(Key::Home),
        (b'F', _) => Some(Key::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|byte| decoder.add(*byte)).collect()
    }

    #[test]
    fn text_and_controls_are_keys() {
        let expected = [
            Key::Char('a'),
            Key::Char('ü'),
            Key::Char('€'),
            Key::Control('u'),
            Key::Backspace,
            Key::Enter,
        ];
        assert_eq!(keys("aü€\x15\x7f\r".as_bytes()), expected);
    }

    #[test]
    fn each_kind_of_line_end_is_one_enter() {
        assert_eq!(keys(b"\r\n\n\r\r\n"), [Key::Enter; 4]);
    }

    #[test]
    fn sequences_of_terminals_are_keys() {
        assert_eq!(
            keys(b"\x1b[A\x1b[B\x1b[C\x1b[D"),
            [Key::Up, Key::Down, Key::Right, Key::Left]
        );
        assert_eq!(keys(b"\x1bOA\x1bOH\x1bOF"), [Key::Up, Key::Home, Key::End]);
        assert_eq!(
            keys(b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1b[7~\x1b[8~\x1b[3~"),
            [
                Key::Home,
                Key::End,
                Key::Home,
                Key::End,
                Key::Home,
                Key::End,
                Key::Delete
            ]
        );
        assert_eq!(
            keys(b"\x1b[1;5C\x1b[1;5D\x1bb\x1bf"),
            [Key::WordRight, Key::WordLeft, Key::WordLeft, Key::WordRight]
        );
    }

    #[test]
    fn junk_gives_no_key_and_text_after_it_does() {
        assert_eq!(
            keys(b"\xFF\xC3\x28a\x80\x00"),
            [Key::Char('('), Key::Char('a')]
        );
        assert_eq!(
            keys(b"\x1b[99999999999999999999999zx").last(),
            Some(&Key::Char('x'))
        );
        assert_eq!(keys(b"\x1b[?25h\x1b[200~a"), [Key::Char('a')]);
        assert_eq!(keys(b"\xED\xA0\x80\xC2\x9Ba"), [Key::Char('a')]);
        assert_eq!(keys(b"\x1b\x1b[Aa"), [Key::Up, Key::Char('a')]);
    }
}
