//! The screen drawn into plain memory.

use std::fmt::Write as _;

use proptest::prelude::*;
use screen::{
    Cell, Color, Erase, GLYPH_HEIGHT, GLYPH_WIDTH, Geometry, PixelFormat, Screen, ScreenError,
    Surface,
};

const FORMAT: PixelFormat = PixelFormat {
    red_shift: 16,
    green_shift: 8,
    blue_shift: 0,
};
/// What the test's framebuffer holds before anything is drawn: no colour has it.
const UNTOUCHED: u32 = 0xDEAD_BEEF;

/// A framebuffer that counts what is written to it.
struct Glass {
    pixels: Vec<u32>,
    writes: usize,
}

impl Surface for Glass {
    fn len(&self) -> usize {
        self.pixels.len()
    }
    fn write(&mut self, at: usize, pixels: &[u32]) {
        assert!(
            at + pixels.len() <= self.pixels.len(),
            "a write outside the framebuffer"
        );
        self.pixels[at..at + pixels.len()].copy_from_slice(pixels);
        self.writes += pixels.len();
    }
}

fn geometry(width: usize, height: usize, pitch: usize) -> Geometry {
    Geometry {
        width,
        height,
        pitch_bytes: pitch * 4,
        format: FORMAT,
    }
}

fn glass(geometry: Geometry) -> Glass {
    Glass {
        pixels: vec![UNTOUCHED; geometry.pitch_bytes / 4 * geometry.height],
        writes: 0,
    }
}

/// A screen of so many columns and rows, with edges and a pitch that fit nothing.
fn with_screen(columns: usize, rows: usize, test: impl FnOnce(&mut Screen<'_, Glass>)) {
    let geometry = geometry(
        columns * GLYPH_WIDTH + 3,
        rows * GLYPH_HEIGHT + 5,
        columns * GLYPH_WIDTH + 16,
    );
    let mut cells = vec![Cell::BLANK; Screen::<Glass>::cells_for(geometry.width, geometry.height)];
    let mut screen = Screen::new(glass(geometry), geometry, &mut cells).expect("a sound geometry");
    assert_eq!(screen.size(), (columns, rows));
    test(&mut screen);
}

fn text(screen: &Screen<'_, Glass>) -> Vec<String> {
    let (columns, rows) = screen.size();
    (0..rows)
        .map(|row| {
            let line: String = (0..columns)
                .map(|column| {
                    screen
                        .cell(column, row)
                        .expect("inside the screen")
                        .character
                })
                .collect();
            line.trim_end().to_string()
        })
        .collect()
}

/// The pixels of one cell.
fn look(screen: &mut Screen<'_, Glass>, column: usize, row: usize) -> Vec<u32> {
    let pitch = screen.size().0 * GLYPH_WIDTH + 16;
    let pixels = &screen.surface_mut().pixels;
    (0..GLYPH_HEIGHT)
        .flat_map(|y| {
            let start = (row * GLYPH_HEIGHT + y) * pitch + column * GLYPH_WIDTH;
            pixels[start..start + GLYPH_WIDTH].iter().copied()
        })
        .collect()
}

#[test]
fn a_new_screen_clears_every_pixel_of_its_lines_and_nothing_between_them() {
    with_screen(4, 2, |screen| {
        let (width, pitch) = (4 * GLYPH_WIDTH + 3, 4 * GLYPH_WIDTH + 16);
        for (i, pixel) in screen.surface_mut().pixels.iter().enumerate() {
            let expected = if i % pitch < width { 0 } else { UNTOUCHED };
            assert_eq!(*pixel, expected, "pixel {i}");
        }
    });
}

#[test]
fn text_shows_where_it_was_written_after_a_flush() {
    with_screen(10, 3, |screen| {
        let blank = look(screen, 0, 0);
        screen.move_to(2, 1);
        write!(screen, "Hé").unwrap();
        assert_eq!(
            look(screen, 2, 1),
            blank,
            "nothing is drawn before the flush"
        );
        screen.flush();
        assert_ne!(look(screen, 2, 1), blank);
        assert_ne!(look(screen, 3, 1), blank);
        assert_ne!(look(screen, 2, 1), look(screen, 3, 1));
        for (column, row) in [(1, 1), (4, 1), (2, 0), (2, 2)] {
            assert_eq!(look(screen, column, row), blank);
        }
    });
}

#[test]
fn colours_reach_the_pixels() {
    with_screen(4, 2, |screen| {
        screen.set_colors(Color::RED, Color(4));
        screen.write_char('█');
        screen.write_char(' ');
        screen.flush();
        let pixel = |c: Color| {
            let [r, g, b] = c.rgb();
            u32::from(r) << 16 | u32::from(g) << 8 | u32::from(b)
        };
        assert!(look(screen, 0, 0).iter().all(|p| *p == pixel(Color::RED)));
        assert!(look(screen, 1, 0).iter().all(|p| *p == pixel(Color(4))));
    });
}

#[test]
fn lines_wrap_and_a_full_line_leaves_no_empty_one() {
    with_screen(4, 4, |screen| {
        write!(screen, "abcd\nefghij").unwrap();
        assert_eq!(text(screen), ["abcd", "efgh", "ij", ""]);
    });
}

#[test]
fn the_text_scrolls_and_the_glass_with_it() {
    with_screen(4, 3, |screen| {
        write!(screen, "1\n2\n3").unwrap();
        screen.flush();
        let (two, three, blank) = (look(screen, 0, 1), look(screen, 0, 2), look(screen, 1, 1));
        writeln!(screen).unwrap();
        screen.flush();
        assert_eq!(text(screen), ["2", "3", ""]);
        assert_eq!(look(screen, 0, 0), two);
        assert_eq!(look(screen, 0, 1), three);
        assert_eq!(look(screen, 0, 2), blank);
        write!(screen, "4\n5\n6\n7").unwrap();
        assert_eq!(text(screen), ["5", "6", "7"]);
        screen.scroll_up(usize::MAX);
        assert_eq!(text(screen), ["", "", ""]);
    });
}

#[test]
fn only_cells_that_changed_are_drawn() {
    with_screen(20, 10, |screen| {
        for _ in 0..9 {
            writeln!(screen, "the same line").unwrap();
        }
        screen.flush();
        screen.surface_mut().writes = 0;
        screen.flush();
        assert_eq!(screen.surface_mut().writes, 0, "nothing changed");
        screen.write_char('x');
        screen.flush();
        assert_eq!(screen.surface_mut().writes, GLYPH_WIDTH * GLYPH_HEIGHT);
        screen.surface_mut().writes = 0;
        // Eight of nine equal lines look the same after scrolling by one; so only the last two change.
        write!(screen, "\r \n").unwrap();
        screen.flush();
        let cells = screen.surface_mut().writes / (GLYPH_WIDTH * GLYPH_HEIGHT);
        assert!((1..=15).contains(&cells), "{cells} cells were drawn");
    });
}

#[test]
fn control_characters_move_the_cursor() {
    with_screen(20, 2, |screen| {
        write!(screen, "abc\x08X\rY\tZ\x07\x1b").unwrap();
        assert_eq!(text(screen), ["YbX     Z", ""]);
        assert_eq!(screen.cursor(), (9, 0));
        write!(screen, "\t\t\t\t").unwrap();
        assert_eq!(screen.cursor(), (19, 0));
        write!(screen, "\r\x08").unwrap();
        assert_eq!(screen.cursor(), (0, 0));
        screen.move_by(-5, 7);
        assert_eq!(screen.cursor(), (0, 1));
        screen.move_by(isize::MAX, isize::MIN);
        assert_eq!(screen.cursor(), (19, 0));
    });
}

#[test]
fn the_cursor_is_a_reversed_cell_that_leaves_no_trace() {
    with_screen(4, 2, |screen| {
        let blank = look(screen, 0, 0);
        screen.show_cursor(true);
        screen.flush();
        assert_ne!(look(screen, 0, 0), blank);
        screen.move_to(3, 1);
        screen.flush();
        assert_eq!(look(screen, 0, 0), blank);
        assert_ne!(look(screen, 3, 1), blank);
        screen.line_feed();
        screen.flush();
        assert_eq!(look(screen, 3, 0), blank);
        assert_ne!(look(screen, 3, 1), blank);
        screen.show_cursor(false);
        screen.flush();
        assert_eq!(look(screen, 3, 1), blank);
    });
}

#[test]
fn erasing_follows_the_cursor() {
    let full = |screen: &mut Screen<'_, Glass>| {
        screen.move_to(0, 0);
        write!(screen, "abcdefghijkl").unwrap();
        screen.move_to(1, 1);
    };
    with_screen(4, 3, |screen| {
        for (what, expected) in [
            (Erase::ToEnd, ["abcd", "e", "ijkl"]),
            (Erase::ToStart, ["abcd", "  gh", "ijkl"]),
            (Erase::All, ["abcd", "", "ijkl"]),
        ] {
            full(screen);
            screen.erase_line(what);
            assert_eq!(text(screen), expected);
        }
        for (what, expected) in [
            (Erase::ToEnd, ["abcd", "e", ""]),
            (Erase::ToStart, ["", "  gh", "ijkl"]),
            (Erase::All, ["", "", ""]),
        ] {
            full(screen);
            screen.erase_screen(what);
            assert_eq!(text(screen), expected);
            assert_eq!(screen.cursor(), (1, 1));
        }
        full(screen);
        screen.insert_blanks(2);
        assert_eq!(text(screen), ["abcd", "e  f", "ijkl"]);
        screen.delete_cells(1);
        assert_eq!(text(screen), ["abcd", "e f", "ijkl"]);
        screen.delete_cells(usize::MAX);
        screen.insert_blanks(usize::MAX);
        assert_eq!(text(screen), ["abcd", "e", "ijkl"]);
    });
}

#[test]
fn redraw_brings_back_what_somebody_painted_over() {
    with_screen(6, 2, |screen| {
        write!(screen, "hello").unwrap();
        screen.flush();
        let before = screen.surface_mut().pixels.clone();
        let pitch = 6 * GLYPH_WIDTH + 16;
        let width = 6 * GLYPH_WIDTH + 3;
        for (i, pixel) in screen.surface_mut().pixels.iter_mut().enumerate() {
            if i % pitch < width {
                *pixel = 0x00FF_00FF;
            }
        }
        screen.redraw();
        assert!(screen.surface_mut().pixels == before);
    });
}

#[test]
fn geometry_without_sense_is_refused_by_name() {
    let mut cells = vec![Cell::BLANK; 10_000];
    let mut try_new = |geometry: Geometry, pixels: usize| {
        let glass = Glass {
            pixels: vec![0; pixels],
            writes: 0,
        };
        Screen::new(glass, geometry, &mut cells)
            .map(|s| s.size())
            .err()
    };
    let sound = geometry(70, 160, 70);
    assert_eq!(try_new(sound, 70 * 160), None);
    assert_eq!(
        try_new(sound, 70 * 160 - 1),
        Some(ScreenError::SurfaceTooSmall)
    );
    assert_eq!(try_new(geometry(0, 0, 0), 0), Some(ScreenError::TooSmall));
    assert_eq!(
        try_new(geometry(GLYPH_WIDTH - 1, 16, 100), 1600),
        Some(ScreenError::TooSmall)
    );
    assert_eq!(
        try_new(geometry(70, GLYPH_HEIGHT - 1, 70), 9999),
        Some(ScreenError::TooSmall)
    );
    assert_eq!(
        try_new(geometry(70, 160, 69), 70 * 160),
        Some(ScreenError::BadPitch)
    );
    assert_eq!(
        try_new(
            Geometry {
                pitch_bytes: 281,
                ..sound
            },
            99_999
        ),
        Some(ScreenError::BadPitch)
    );
    assert_eq!(
        try_new(
            Geometry {
                pitch_bytes: usize::MAX & !3,
                ..sound
            },
            99_999
        ),
        Some(ScreenError::SurfaceTooSmall)
    );
    let format = PixelFormat {
        blue_shift: 32,
        ..FORMAT
    };
    assert_eq!(
        try_new(Geometry { format, ..sound }, 70 * 160),
        Some(ScreenError::BadFormat)
    );

    let glass = Glass {
        pixels: vec![0; 70 * 160],
        writes: 0,
    };
    let few = Screen::new(glass, sound, &mut cells[..19]).err();
    assert_eq!(few, Some(ScreenError::TooFewCells));
}

#[test]
fn few_cells_make_a_screen_with_fewer_rows() {
    let geometry = geometry(70, 160, 70);
    let mut cells = vec![Cell::BLANK; 2 * 10 * 3 + 1];
    let screen = Screen::new(glass(geometry), geometry, &mut cells).expect("three rows");
    assert_eq!(screen.size(), (10, 3));
}

#[derive(Clone, Debug)]
enum Step {
    Text(String),
    MoveTo(usize, usize),
    EraseLine(u8),
    EraseScreen(u8),
    Insert(usize),
    Delete(usize),
    Scroll(usize),
    Cursor(bool),
    Flush,
}

fn erase(number: u8) -> Erase {
    [Erase::ToEnd, Erase::ToStart, Erase::All][number as usize % 3]
}

proptest! {
    /// However the text came about, the glass shows what a fresh screen with the same cells shows.
    #[test]
    fn the_glass_shows_the_cells(
        columns in 1..9usize,
        rows in 1..6usize,
        steps in prop::collection::vec(
            prop_oneof![
                4 => "[a-f\n\r\t\u{8}é┼日]{0,12}".prop_map(Step::Text),
                1 => (0..10usize, 0..10usize).prop_map(|(c, r)| Step::MoveTo(c, r)),
                1 => any::<u8>().prop_map(Step::EraseLine),
                1 => any::<u8>().prop_map(Step::EraseScreen),
                1 => (0..10usize).prop_map(Step::Insert),
                1 => (0..10usize).prop_map(Step::Delete),
                1 => (0..7usize).prop_map(Step::Scroll),
                1 => any::<bool>().prop_map(Step::Cursor),
                2 => Just(Step::Flush),
            ],
            0..30,
        )
    ) {
        with_screen(columns, rows, |screen| {
            for step in steps {
                match step {
                    Step::Text(text) => screen.write_str(&text).unwrap(),
                    Step::MoveTo(c, r) => screen.move_to(c, r),
                    Step::EraseLine(n) => screen.erase_line(erase(n)),
                    Step::EraseScreen(n) => screen.erase_screen(erase(n)),
                    Step::Insert(n) => screen.insert_blanks(n),
                    Step::Delete(n) => screen.delete_cells(n),
                    Step::Scroll(n) => screen.scroll_up(n),
                    Step::Cursor(on) => screen.show_cursor(on),
                    Step::Flush => screen.flush(),
                }
            }
            screen.flush();
            let shown = screen.surface_mut().pixels.clone();
            screen.redraw();
            assert!(shown == screen.surface_mut().pixels);
        });
    }
}
