//! Pictures of a machine's screen: taken through QEMU, written as PNG, and read as text.
//!
//! The system draws its letters itself, always the same way, so a picture is read by comparing each cell with what the crate `screen`
//! draws. That is how a test sees what a machine without a serial line has to say.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use screen::{Cell, GLYPH_HEIGHT, GLYPH_WIDTH, Geometry, PixelFormat, Screen};
use serde_json::json;

use crate::qmp::Qmp;

/// What stands in a text for what is none.
pub const UNKNOWN: char = char::REPLACEMENT_CHARACTER;

/// Three bytes a pixel, red first.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    pixels: Vec<u8>,
}

impl Picture {
    /// What a machine's screen shows.
    ///
    /// # Errors
    /// If QEMU does not give it.
    pub fn take(qmp: &mut Qmp) -> Result<Self> {
        let scratch = tempfile::tempdir().context("temporary folder")?;
        let dump = scratch.path().join("screen.ppm");
        qmp.command("screendump", &json!({ "filename": dump }))?;
        Self::parse(&fs::read(&dump).context("QEMU's picture")?)
    }

    /// The lines of text on it, without the spaces at their ends. A cell that shows no character of ASCII reads as [`UNKNOWN`].
    pub fn text(&self) -> Vec<String> {
        let known = Shape::of_all();
        let rows = self.height as usize / GLYPH_HEIGHT;
        let columns = self.width as usize / GLYPH_WIDTH;
        (0..rows)
            .map(|row| {
                let line: String = (0..columns)
                    .map(|column| {
                        let shape = Shape::of(|x, y| {
                            self.pixel(column * GLYPH_WIDTH + x, row * GLYPH_HEIGHT + y)
                        });
                        known.get(&shape).copied().unwrap_or(UNKNOWN)
                    })
                    .collect();
                line.trim_end().to_owned()
            })
            .collect()
    }

    fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width as usize + x) * 3;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    /// Reads the one form of PPM that QEMU writes: `P6`, no comments, 255 levels.
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let mut word = || -> Result<String> {
            let end = rest
                .iter()
                .position(u8::is_ascii_whitespace)
                .context("PPM header")?;
            let word = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            Ok(word)
        };
        ensure!(word()? == "P6", "not a PPM picture");
        let width: u32 = word()?.parse().context("PPM width")?;
        let height: u32 = word()?.parse().context("PPM height")?;
        ensure!(word()? == "255", "PPM with other than 255 levels");
        let size = u128::from(width) * u128::from(height) * 3;
        ensure!(
            rest.len() as u128 == size,
            "PPM of {} bytes instead of {size}",
            rest.len()
        );
        Ok(Self {
            width,
            height,
            pixels: rest.to_vec(),
        })
    }

    /// Writes it as a PNG.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        let mut writer = encoder.write_header().context("PNG")?;
        writer.write_image_data(&self.pixels).context("PNG")?;
        writer.finish().context("PNG")
    }
}

/// Which pixels of a cell are nearer to the character's colour than to the background's, whatever colours these are.
#[derive(PartialEq, Eq, Hash)]
struct Shape(Vec<bool>);

impl Shape {
    /// The shape of a cell by its pixels. Its corner is taken for the background, which no letter reaches.
    fn of(pixel: impl Fn(usize, usize) -> [u8; 3]) -> Self {
        let background = pixel(0, 0);
        let contrast = |x, y| -> u32 {
            let parts = pixel(x, y).into_iter().zip(background);
            parts.map(|(a, b)| u32::from(a.abs_diff(b))).sum()
        };
        let cells = (0..GLYPH_HEIGHT).flat_map(|y| (0..GLYPH_WIDTH).map(move |x| (x, y)));
        let contrasts: Vec<u32> = cells.map(|(x, y)| contrast(x, y)).collect();
        let most = contrasts.iter().copied().max().unwrap_or(0);
        Self(
            contrasts
                .into_iter()
                .map(|c| most > 0 && 2 * c > most)
                .collect(),
        )
    }

    /// Those of ASCII's characters, as the system draws them.
    fn of_all() -> HashMap<Self, char> {
        let characters = || ' '..='~';
        let width = characters().count() * GLYPH_WIDTH;
        let mut pixels = vec![0; width * GLYPH_HEIGHT];
        let geometry = Geometry {
            width,
            height: GLYPH_HEIGHT,
            pitch_bytes: width * size_of::<u32>(),
            format: PixelFormat {
                red_shift: 16,
                green_shift: 8,
                blue_shift: 0,
            },
        };
        let mut cells = vec![Cell::BLANK; Screen::<&mut [u32]>::cells_for(width, GLYPH_HEIGHT)];
        let mut screen = Screen::new(pixels.as_mut_slice(), geometry, &mut cells)
            .expect("the geometry is sound");
        for character in characters() {
            screen.write_char(character);
        }
        screen.flush();
        characters()
            .enumerate()
            .map(|(index, character)| {
                let shape = Self::of(|x, y| {
                    let [blue, green, red, _] =
                        pixels[y * width + index * GLYPH_WIDTH + x].to_le_bytes();
                    [red, green, blue]
                });
                (shape, character)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use screen::Color;

    use super::*;

    #[test]
    fn picture_of_qemu_is_read() {
        let picture = Picture::parse(b"P6\n2 1\n255\nabcdef").unwrap();
        assert_eq!(
            (picture.width, picture.height, picture.pixels.as_slice()),
            (2, 1, &b"abcdef"[..])
        );
    }

    #[test]
    fn bad_pictures_are_refused() {
        for bytes in [
            &b""[..],
            b"P5\n1 1\n255\nabc",
            b"P6\n2 1\n255\nabc",
            b"P6\n1 1\n65535\nabc",
            b"P6\n4294967295 4294967295\n255\n",
        ] {
            assert!(Picture::parse(bytes).is_err());
        }
    }

    #[test]
    fn text_is_read_off_a_picture_whatever_its_colours() {
        const TEXT: &str = "switchyard> Aa1!|_ {~}";
        let (width, height) = (40 * GLYPH_WIDTH + 5, 3 * GLYPH_HEIGHT + 7);
        let mut pixels = vec![0; width * height];
        let geometry = Geometry {
            width,
            height,
            pitch_bytes: width * size_of::<u32>(),
            format: PixelFormat {
                red_shift: 0,
                green_shift: 8,
                blue_shift: 16,
            },
        };
        let mut cells = vec![Cell::BLANK; Screen::<&mut [u32]>::cells_for(width, height)];
        let mut screen = Screen::new(pixels.as_mut_slice(), geometry, &mut cells).unwrap();
        screen.write_str(TEXT).unwrap();
        screen.write_str("\r\n").unwrap();
        screen.set_colors(Color::YELLOW, Color::RED);
        screen.write_str(TEXT).unwrap();
        screen.write_str("\r\n─").unwrap();
        screen.flush();
        let picture = Picture {
            width: width as u32,
            height: height as u32,
            pixels: pixels
                .iter()
                .flat_map(|pixel: &u32| pixel.to_le_bytes().into_iter().take(3))
                .collect(),
        };
        let unknown = UNKNOWN.to_string();
        assert_eq!(picture.text(), [TEXT, TEXT, &unknown]);
    }
}
