//! What a character looks like: one byte a pixel, 0 the background, 255 the character.
//!
//! Letters come from the Noto font in the `noto-sans-mono-bitmap` crate: ASCII and Latin-1, anti-aliased. It
//! has no lines and blocks, so those that programs draw frames with are made here.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const HEIGHT: RasterHeight = RasterHeight::Size16;
const WEIGHT: FontWeight = FontWeight::Regular;

/// Height of a cell in pixels.
pub const GLYPH_HEIGHT: usize = HEIGHT.val();
/// Width of a cell in pixels.
pub const GLYPH_WIDTH: usize = get_raster_width(WEIGHT, HEIGHT);

/// One glyph.
pub(crate) enum Glyph {
    /// From the font.
    Letter(noto_sans_mono_bitmap::RasterizedChar),
    /// Lines from the centre, a set of [`arm`]s.
    Frame(u8),
    /// The whole cell at one intensity.
    Shade(u8),
    /// The character is not known: a small box.
    Missing,
}

/// The arms of a frame character.
mod arm {
    pub(super) const UP: u8 = 1;
    pub(super) const DOWN: u8 = 2;
    pub(super) const LEFT: u8 = 4;
    pub(super) const RIGHT: u8 = 8;
}

impl Glyph {
    /// The glyph of a character.
    pub(crate) fn of(character: char) -> Glyph {
        use arm::{DOWN, LEFT, RIGHT, UP};
        match character {
            '\0'..=' ' | '\u{7F}'..='\u{A0}' => Glyph::Shade(0),
            '─' | '━' | '═' => Glyph::Frame(LEFT | RIGHT),
            '│' | '┃' | '║' => Glyph::Frame(UP | DOWN),
            '┌' | '╭' | '╔' => Glyph::Frame(DOWN | RIGHT),
            '┐' | '╮' | '╗' => Glyph::Frame(DOWN | LEFT),
            '└' | '╰' | '╚' => Glyph::Frame(UP | RIGHT),
            '┘' | '╯' | '╝' => Glyph::Frame(UP | LEFT),
            '├' | '╠' => Glyph::Frame(UP | DOWN | RIGHT),
            '┤' | '╣' => Glyph::Frame(UP | DOWN | LEFT),
            '┬' | '╦' => Glyph::Frame(DOWN | LEFT | RIGHT),
            '┴' | '╩' => Glyph::Frame(UP | LEFT | RIGHT),
            '┼' | '╬' => Glyph::Frame(UP | DOWN | LEFT | RIGHT),
            '░' => Glyph::Shade(64),
            '▒' => Glyph::Shade(128),
            '▓' => Glyph::Shade(192),
            '█' => Glyph::Shade(255),
            _ => get_raster(character, WEIGHT, HEIGHT).map_or(Glyph::Missing, Glyph::Letter),
        }
    }

    /// One row of intensities, `y` counted from the top.
    pub(crate) fn row(&self, y: usize) -> [u8; GLYPH_WIDTH] {
        const MIDDLE_X: usize = GLYPH_WIDTH / 2;
        const MIDDLE_Y: usize = GLYPH_HEIGHT / 2;
        match self {
            Glyph::Letter(letter) => {
                let mut row = [0; GLYPH_WIDTH];
                let pixels = letter
                    .pixels()
                    .chunks_exact(letter.width())
                    .nth(y)
                    .unwrap_or(&[]);
                for (place, pixel) in row.iter_mut().zip(pixels) {
                    *place = *pixel;
                }
                row
            }
            Glyph::Shade(intensity) => [*intensity; GLYPH_WIDTH],
            Glyph::Frame(arms) => core::array::from_fn(|x| {
                let vertical = x == MIDDLE_X
                    && (arms & arm::UP != 0 && y <= MIDDLE_Y
                        || arms & arm::DOWN != 0 && y >= MIDDLE_Y);
                let horizontal = y == MIDDLE_Y
                    && (arms & arm::LEFT != 0 && x <= MIDDLE_X
                        || arms & arm::RIGHT != 0 && x >= MIDDLE_X);
                if vertical || horizontal { 255 } else { 0 }
            }),
            Glyph::Missing => core::array::from_fn(|x| {
                let (left, right, top, bottom) = (1, GLYPH_WIDTH - 2, 3, GLYPH_HEIGHT - 4);
                let inside = (left..=right).contains(&x) && (top..=bottom).contains(&y);
                let edge = x == left || x == right || y == top || y == bottom;
                if inside && edge { 160 } else { 0 }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(character: char) -> Vec<u8> {
        let glyph = Glyph::of(character);
        (0..GLYPH_HEIGHT).flat_map(|y| glyph.row(y)).collect()
    }

    #[test]
    fn every_visible_ascii_character_has_its_own_look() {
        let looks: std::collections::HashSet<_> = ('!'..='~').map(pixels).collect();
        assert_eq!(looks.len(), 94);
        assert!(
            !looks.contains(&pixels('日')),
            "a letter looks like the missing mark"
        );
    }

    #[test]
    fn latin_1_letters_and_frames_are_not_missing() {
        let missing = pixels('日');
        for character in "äöüÄÖÜßéèñçÅø¡¿│─┌┐└┘├┤┬┴┼█░".chars()
        {
            assert_ne!(pixels(character), missing, "{character}");
            assert_ne!(pixels(character), pixels(' '), "{character}");
        }
    }

    #[test]
    fn frames_join_from_cell_to_cell() {
        let last = GLYPH_WIDTH - 1;
        let middle = Glyph::of('─').row(GLYPH_HEIGHT / 2);
        assert_eq!((middle[0], middle[last]), (255, 255));
        let bar = Glyph::of('│');
        assert!((0..GLYPH_HEIGHT).all(|y| bar.row(y).contains(&255)));
        let corner = Glyph::of('┌');
        assert_eq!(corner.row(0), [0; GLYPH_WIDTH]);
        assert_eq!(corner.row(GLYPH_HEIGHT / 2)[last], 255);
    }

    #[test]
    fn rows_past_the_glyph_are_empty() {
        assert_eq!(Glyph::of('A').row(GLYPH_HEIGHT), [0; GLYPH_WIDTH]);
    }
}
