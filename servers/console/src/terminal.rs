//! A terminal on the screen: what escape sequences mean there.
//!
//! The parser is `vte`'s; here is the small part of ECMA-48 that line editors and coloured lists use. What is not
//! known is passed over. Text that is no UTF-8 shows as replacement characters.

use screen::{Color, Erase, Screen, Surface};
use vte::{Params, Parser, Perform};

/// A terminal.
pub struct Terminal<'a, S> {
    parser: Parser,
    display: Display<'a, S>,
}

struct Display<'a, S> {
    screen: Screen<'a, S>,
    saved: (usize, usize),
    foreground: Color,
    background: Color,
    bright: bool,
    reversed: bool,
}

impl<'a, S: Surface> Terminal<'a, S> {
    /// A terminal on this screen.
    pub fn new(mut screen: Screen<'a, S>) -> Terminal<'a, S> {
        screen.show_cursor(true);
        let display = Display {
            screen,
            saved: (0, 0),
            foreground: Color::FOREGROUND,
            background: Color::BACKGROUND,
            bright: false,
            reversed: false,
        };
        Terminal {
            parser: Parser::new(),
            display,
        }
    }

    /// Writes text; a line feed also returns to the start of the line.
    pub fn write(&mut self, text: &[u8]) {
        self.parser.advance(&mut self.display, text);
    }

    /// Draws what changed.
    pub fn flush(&mut self) {
        self.display.screen.flush();
    }

    /// The screen.
    pub const fn screen(&self) -> &Screen<'a, S> {
        &self.display.screen
    }
}

impl<S: Surface> Display<'_, S> {
    fn paint(&mut self) {
        let mut foreground = self.foreground;
        if self.bright && foreground.0 < 8 {
            foreground = Color(foreground.0 + 8);
        }
        if self.reversed {
            self.screen.set_colors(self.background, foreground);
        } else {
            self.screen.set_colors(foreground, self.background);
        }
    }

    fn set_attributes(&mut self, params: &Params) {
        let mut numbers = params.iter().map(|part| part.first().copied().unwrap_or(0));
        if params.is_empty() {
            self.set_attribute(0);
        }
        while let Some(number) = numbers.next() {
            match number {
                // 256 colours and true colour: 38;5;N, 38;2;R;G;B, and 48 for the background.
                38 | 48 => {
                    let mut byte = || numbers.next().map_or(0, |value| value.min(255) as u8);
                    let color = match byte() {
                        5 => indexed(byte()),
                        2 => {
                            let (red, green, blue) = (byte(), byte(), byte());
                            Color::nearest(red, green, blue)
                        }
                        _ => break,
                    };
                    if number == 38 {
                        self.foreground = color;
                    } else {
                        self.background = color;
                    }
                }
                number => self.set_attribute(number),
            }
        }
        self.paint();
    }

    fn set_attribute(&mut self, number: u16) {
        match number {
            0 => {
                self.foreground = Color::FOREGROUND;
                self.background = Color::BACKGROUND;
                self.bright = false;
                self.reversed = false;
            }
            1 => self.bright = true,
            22 => self.bright = false,
            7 => self.reversed = true,
            27 => self.reversed = false,
            30..=37 => self.foreground = Color((number - 30) as u8),
            39 => self.foreground = Color::FOREGROUND,
            40..=47 => self.background = Color((number - 40) as u8),
            49 => self.background = Color::BACKGROUND,
            90..=97 => self.foreground = Color((number - 90 + 8) as u8),
            100..=107 => self.background = Color((number - 100 + 8) as u8),
            _ => {}
        }
        self.paint();
    }
}

/// Colour `index` of the 256: 16 fixed ones, a cube of 6 by 6 by 6, 24 greys (as xterm has them).
fn indexed(index: u8) -> Color {
    match index {
        0..16 => Color(index),
        16..232 => {
            let step = |value: u8| if value == 0 { 0 } else { 55 + value * 40 };
            let place = index - 16;
            Color::nearest(step(place / 36), step(place / 6 % 6), step(place % 6))
        }
        _ => {
            let grey = 8 + (index - 232) * 10;
            Color::nearest(grey, grey, grey)
        }
    }
}

impl<S: Surface> Perform for Display<'_, S> {
    fn print(&mut self, character: char) {
        self.screen.write_char(character);
    }

    fn execute(&mut self, byte: u8) {
        self.screen.write_char(char::from(byte));
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        if ignore {
            return;
        }
        let nth = |index: usize| {
            params
                .iter()
                .nth(index)
                .and_then(|part| part.first().copied())
                .map(usize::from)
        };
        // A count that is missing or 0 is 1.
        let count = nth(0).unwrap_or(1).max(1);
        let steps = count as isize;
        let (column, row) = self.screen.cursor();
        let what = match nth(0).unwrap_or(0) {
            0 => Some(Erase::ToEnd),
            1 => Some(Erase::ToStart),
            2 | 3 => Some(Erase::All),
            _ => None,
        };
        match (intermediates, action) {
            // DEC's "text cursor enable".
            (b"?", 'h' | 'l') if params.iter().any(|part| part.first() == Some(&25)) => {
                self.screen.show_cursor(action == 'h');
            }
            (b"", 'A') => self.screen.move_by(0, -steps),
            (b"", 'B') => self.screen.move_by(0, steps),
            (b"", 'C') => self.screen.move_by(steps, 0),
            (b"", 'D') => self.screen.move_by(-steps, 0),
            (b"", 'G') => self.screen.move_to(count - 1, row),
            (b"", 'd') => self.screen.move_to(column, count - 1),
            (b"", 'H' | 'f') => self
                .screen
                .move_to(nth(1).unwrap_or(1).max(1) - 1, count - 1),
            (b"", 'J') => what
                .into_iter()
                .for_each(|what| self.screen.erase_screen(what)),
            (b"", 'K') => what
                .into_iter()
                .for_each(|what| self.screen.erase_line(what)),
            (b"", '@') => self.screen.insert_blanks(count),
            (b"", 'P') => self.screen.delete_cells(count),
            (b"", 'S') => self.screen.scroll_up(count),
            (b"", 'm') => self.set_attributes(params),
            (b"", 's') => self.saved = self.screen.cursor(),
            (b"", 'u') => self.screen.move_to(self.saved.0, self.saved.1),
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _: bool, byte: u8) {
        match (intermediates, byte) {
            (b"", b'7') => self.saved = self.screen.cursor(),
            (b"", b'8') => self.screen.move_to(self.saved.0, self.saved.1),
            (b"", b'c') => {
                self.set_attribute(0);
                self.screen.erase_screen(Erase::All);
                self.screen.move_to(0, 0);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use screen::{Cell, GLYPH_HEIGHT, GLYPH_WIDTH, Geometry, PixelFormat};

    const COLUMNS: usize = 10;
    const ROWS: usize = 4;

    /// Writes to a terminal of 10 by 4, and gives its rows and its cursor.
    fn shown(text: &[u8]) -> (Vec<String>, (usize, usize)) {
        let (width, height) = (COLUMNS * GLYPH_WIDTH, ROWS * GLYPH_HEIGHT);
        let mut pixels = vec![0_u32; width * height];
        let mut cells = vec![Cell::BLANK; 2 * COLUMNS * ROWS];
        let format = PixelFormat {
            red_shift: 16,
            green_shift: 8,
            blue_shift: 0,
        };
        let geometry = Geometry {
            width,
            height,
            pitch_bytes: width * 4,
            format,
        };
        let screen = Screen::new(pixels.as_mut_slice(), geometry, &mut cells).unwrap();
        let mut terminal = Terminal::new(screen);
        terminal.write(text);
        terminal.flush();
        let screen = terminal.screen();
        let row = |row| {
            (0..COLUMNS)
                .map(|column| screen.cell(column, row).unwrap().character)
                .collect::<String>()
        };
        (
            (0..ROWS)
                .map(|index| row(index).trim_end().to_owned())
                .collect(),
            screen.cursor(),
        )
    }

    #[test]
    fn line_editing_sequences_do_what_they_say() {
        assert_eq!(shown(b"ab\ncd").0[..2], ["ab", "cd"]);
        assert_eq!(shown(b"abcdef\x1b[3D\x1b[K").0[0], "abc");
        assert_eq!(shown(b"abc\r\x1b[2C!").0[0], "ab!");
        assert_eq!(shown(b"abc\x1b[2D\x1b[@X").0[0], "aXbc");
        assert_eq!(shown(b"abc\x1b[3D\x1b[P").0[0], "bc");
        assert_eq!(shown(b"abc\x1b[1G\x1b[2PZ").0[0], "Z");
        assert_eq!(
            shown(b"one\ntwo\x1b[H\x1b[2Jx"),
            (
                vec!["x".into(), String::new(), String::new(), String::new()],
                (1, 0)
            )
        );
        assert_eq!(shown(b"a\x1b[3;5Hb").0[2], "    b");
        assert_eq!(shown(b"a\x1b7bc\x1b8d").0[0], "adc");
    }

    #[test]
    fn colours_are_no_text() {
        assert_eq!(
            shown(b"\x1b[1;31;48;5;200mred\x1b[0m \x1b[38;2;1;2;3mx\x1b[m").0[0],
            "red x"
        );
        assert_eq!(shown(b"\x1b]0;title\x07a\x1bPq#0\x1b\\b").0[0], "ab");
    }

    #[test]
    fn bad_utf8_shows_as_replacement() {
        assert_eq!(shown(b"a\xFFb\xC3(").0[0], "a\u{FFFD}b\u{FFFD}(");
        assert_eq!(shown("ü".as_bytes()).0[0], "ü");
    }

    proptest! {
        #[test]
        fn any_bytes_leave_a_cursor_on_the_screen(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_, (column, row)) = shown(&text);
            prop_assert!(column < COLUMNS && row < ROWS);
        }

        #[test]
        fn any_sequence_leaves_a_cursor_on_the_screen(
            parts in proptest::collection::vec(("[ab]{0,4}", 0_u32..70_000, 0_u32..70_000, "[A-Za-z@]"), 0..30),
        ) {
            let texts: Vec<_> = parts.iter().map(|(text, a, b, end)| format!("{text}\x1b[{a};{b}{end}")).collect();
            let text = texts.concat();
            let (_, (column, row)) = shown(text.as_bytes());
            prop_assert!(column < COLUMNS && row < ROWS);
        }
    }
}
