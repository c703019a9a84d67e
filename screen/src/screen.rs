//! The screen: geometry, text at the cursor, scrolling, drawing.

use core::fmt;

use crate::cell::Cell;
use crate::color::{Color, PixelFormat, mix};
use crate::glyph::{GLYPH_HEIGHT, GLYPH_WIDTH, Glyph};
use crate::surface::Surface;

/// Columns between tabulator stops.
const TAB: usize = 8;

/// The shape of a framebuffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Pixels a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// Bytes from one line to the next.
    pub pitch_bytes: usize,
    /// Where the colours are.
    pub format: PixelFormat,
}

/// Why a framebuffer can't be a screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScreenError {
    /// Not room for one character.
    TooSmall,
    /// The pitch is not a multiple of four bytes, or less than a line.
    BadPitch,
    /// The lines do not all lie within the surface.
    SurfaceTooSmall,
    /// A colour's shift is above 24.
    BadFormat,
    /// Not two cells of memory for at least one line of characters.
    TooFewCells,
}

impl fmt::Display for ScreenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScreenError::TooSmall => "framebuffer smaller than one character",
            ScreenError::BadPitch => "framebuffer pitch not a multiple of 4 or less than a line",
            ScreenError::SurfaceTooSmall => "framebuffer lines end past its memory",
            ScreenError::BadFormat => "framebuffer colours lie outside a 32-bit pixel",
            ScreenError::TooFewCells => "not enough memory for one line of characters",
        })
    }
}

impl core::error::Error for ScreenError {}

/// A text screen.
///
/// Columns and rows count from 0 at the top left. `fmt::Write` is implemented, and like all writing it only
/// changes what is wanted: [`Screen::flush`] shows it.
pub struct Screen<'a, S> {
    surface: S,
    geometry: Geometry,
    pitch: usize,
    pub(crate) columns: usize,
    pub(crate) rows: usize,
    /// What to show, `rows * columns`, a ring of rows that begins at `top`.
    wanted: &'a mut [Cell],
    /// What the glass shows, `rows * columns`, from the top.
    shown: &'a mut [Cell],
    top: usize,
    pub(crate) column: usize,
    pub(crate) row: usize,
    /// The last column was written: the next character goes to the next line. (So a line of exactly the screen's
    /// width is followed by no empty one.)
    pub(crate) wrap_next: bool,
    cursor_visible: bool,
    pub(crate) foreground: Color,
    pub(crate) background: Color,
    /// Rows from `dirty.0` up to but without `dirty.1` may differ from what is shown.
    dirty: (usize, usize),
}

impl<'a, S: Surface> Screen<'a, S> {
    /// How many cells a screen of this width and height in pixels wants.
    pub const fn cells_for(width: usize, height: usize) -> usize {
        (width / GLYPH_WIDTH)
            .saturating_mul(height / GLYPH_HEIGHT)
            .saturating_mul(2)
    }

    /// A blank screen; the whole surface is cleared.
    ///
    /// `cells` is working memory, [`Screen::cells_for`] of it; with fewer the screen has fewer rows.
    ///
    /// # Errors
    /// Names what of the geometry has no sense, or that `cells` does not suffice for one row.
    pub fn new(
        surface: S,
        geometry: Geometry,
        cells: &'a mut [Cell],
    ) -> Result<Screen<'a, S>, ScreenError> {
        let Geometry {
            width,
            height,
            pitch_bytes,
            format,
        } = geometry;
        let columns = width / GLYPH_WIDTH;
        let rows = (height / GLYPH_HEIGHT).min(cells.len() / 2 / columns.max(1));
        if columns == 0 || height < GLYPH_HEIGHT {
            return Err(ScreenError::TooSmall);
        }
        if !format.is_valid() {
            return Err(ScreenError::BadFormat);
        }
        let pitch = pitch_bytes / size_of::<u32>();
        if !pitch_bytes.is_multiple_of(size_of::<u32>()) || pitch < width {
            return Err(ScreenError::BadPitch);
        }
        let end = pitch
            .checked_mul(height - 1)
            .and_then(|last| last.checked_add(width));
        if end.is_none_or(|end| end > surface.len()) {
            return Err(ScreenError::SurfaceTooSmall);
        }
        if rows == 0 {
            return Err(ScreenError::TooFewCells);
        }
        let (wanted, rest) = cells.split_at_mut(rows * columns);
        let shown = &mut rest[..rows * columns];
        wanted.fill(Cell::BLANK);
        let mut screen = Screen {
            surface,
            geometry,
            pitch,
            columns,
            rows,
            wanted,
            shown,
            top: 0,
            column: 0,
            row: 0,
            wrap_next: false,
            cursor_visible: false,
            foreground: Color::FOREGROUND,
            background: Color::BACKGROUND,
            dirty: (0, 0),
        };
        screen.wipe_glass();
        Ok(screen)
    }

    /// Columns and rows.
    pub const fn size(&self) -> (usize, usize) {
        (self.columns, self.rows)
    }

    /// Column and row of the cursor.
    pub const fn cursor(&self) -> (usize, usize) {
        (self.column, self.row)
    }

    /// The surface, for one that was mapped elsewhere.
    pub const fn surface_mut(&mut self) -> &mut S {
        &mut self.surface
    }

    /// The cell wanted at a place, `None` outside.
    pub fn cell(&self, column: usize, row: usize) -> Option<Cell> {
        (column < self.columns && row < self.rows).then(|| self.wanted[self.index(column, row)])
    }

    /// Colours of what is written from now on.
    pub const fn set_colors(&mut self, foreground: Color, background: Color) {
        self.foreground = foreground;
        self.background = background;
    }

    /// Shows the cursor (as a reversed cell) or hides it.
    pub fn show_cursor(&mut self, visible: bool) {
        self.cursor_visible = visible;
        self.touch(self.row);
    }

    /// Writes one character at the cursor.
    ///
    /// `\n` goes to the start of the next line, `\r` to the start of this one, `\x08` one back, `\t` to the next
    /// multiple of eight; other control characters do nothing.
    pub fn write_char(&mut self, character: char) {
        match character {
            '\n' => {
                self.carriage_return();
                self.line_feed();
            }
            '\r' => self.carriage_return(),
            '\x08' => self.backspace(),
            '\t' => self.tab(),
            c if c.is_control() => {}
            c => self.put(c),
        }
    }

    /// One line down in the same column; scrolls at the bottom.
    pub fn line_feed(&mut self) {
        self.wrap_next = false;
        if self.row + 1 < self.rows {
            self.touch(self.row);
            self.row += 1;
            self.touch(self.row);
        } else {
            self.scroll_up(1);
        }
    }

    /// To the start of the line.
    pub fn carriage_return(&mut self) {
        self.move_to(0, self.row);
    }

    /// One column back, not past the start of the line. Erases nothing.
    pub fn backspace(&mut self) {
        self.move_to(self.column.saturating_sub(1), self.row);
    }

    /// To the next tabulator stop, at most to the last column. Erases nothing.
    pub fn tab(&mut self) {
        self.move_to((self.column / TAB + 1) * TAB, self.row);
    }

    /// Moves the cursor; what lies outside is moved to the edge.
    pub fn move_to(&mut self, column: usize, row: usize) {
        self.touch(self.row);
        self.column = column.min(self.columns - 1);
        self.row = row.min(self.rows - 1);
        self.wrap_next = false;
        self.touch(self.row);
    }

    /// Moves the whole text up, with blank lines (in the present background) from below.
    pub fn scroll_up(&mut self, lines: usize) {
        let lines = lines.min(self.rows);
        self.top = (self.top + lines) % self.rows;
        for row in self.rows - lines..self.rows {
            self.blank(row, 0, self.columns);
        }
        self.dirty = (0, self.rows);
    }

    /// Draws what differs from what the glass shows.
    pub fn flush(&mut self) {
        let (from, to) = self.dirty;
        self.dirty = (self.rows, 0);
        for row in from..to {
            for column in 0..self.columns {
                let mut cell = self.wanted[self.index(column, row)];
                if self.cursor_visible && (column, row) == (self.column, self.row) {
                    cell = cell.reversed();
                }
                let shown = &mut self.shown[row * self.columns + column];
                if *shown != cell {
                    *shown = cell;
                    self.draw(column, row, cell);
                }
            }
        }
    }

    /// Clears the glass and draws everything anew: somebody else has drawn on it.
    pub fn redraw(&mut self) {
        self.wipe_glass();
        self.dirty = (0, self.rows);
        self.flush();
    }

    /// Overwrites every pixel with the usual background.
    fn wipe_glass(&mut self) {
        let pixel = self.geometry.format.pixel(Color::BACKGROUND.rgb());
        let run = [pixel; 64];
        for y in 0..self.geometry.height {
            let mut x = 0;
            while x < self.geometry.width {
                let length = run.len().min(self.geometry.width - x);
                self.surface.write(y * self.pitch + x, &run[..length]);
                x += length;
            }
        }
        // That is what blank cells look like; nothing else is left.
        self.shown.fill(Cell::BLANK);
        self.dirty = (0, self.rows);
    }

    fn draw(&mut self, column: usize, row: usize, cell: Cell) {
        let format = self.geometry.format;
        let (foreground, background) = (cell.foreground.rgb(), cell.background.rgb());
        let (full, none) = (format.pixel(foreground), format.pixel(background));
        let glyph = Glyph::of(cell.character);
        let mut at = row * GLYPH_HEIGHT * self.pitch + column * GLYPH_WIDTH;
        for y in 0..GLYPH_HEIGHT {
            let pixels = glyph.row(y).map(|intensity| match intensity {
                0 => none,
                255 => full,
                share => format.pixel(mix(background, foreground, share)),
            });
            self.surface.write(at, &pixels);
            at += self.pitch;
        }
    }

    fn put(&mut self, character: char) {
        if self.wrap_next {
            self.carriage_return();
            self.line_feed();
        }
        let at = self.index(self.column, self.row);
        self.wanted[at] = Cell {
            character,
            foreground: self.foreground,
            background: self.background,
        };
        self.touch(self.row);
        if self.column + 1 < self.columns {
            self.column += 1;
        } else {
            self.wrap_next = true;
        }
    }

    /// Blanks columns `from..to` of a row, all within the screen.
    pub(crate) fn blank(&mut self, row: usize, from: usize, to: usize) {
        let start = self.index(0, row);
        self.wanted[start + from..start + to].fill(Cell {
            background: self.background,
            ..Cell::BLANK
        });
        self.touch(row);
    }

    /// The wanted cells of a row, which becomes dirty.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [Cell] {
        self.touch(row);
        let start = self.index(0, row);
        &mut self.wanted[start..start + self.columns]
    }

    /// Where the cell at a place within the screen is in `wanted`.
    fn index(&self, column: usize, row: usize) -> usize {
        (self.top + row) % self.rows * self.columns + column
    }

    fn touch(&mut self, row: usize) {
        self.dirty = (self.dirty.0.min(row), self.dirty.1.max(row + 1));
    }
}

impl<S: Surface> fmt::Write for Screen<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().for_each(|c| self.write_char(c));
        Ok(())
    }
}
