//! What a terminal does to text that is there: erase, insert, delete, move about.

use crate::screen::Screen;
use crate::surface::Surface;

/// What to erase, as seen from the cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Erase {
    /// From the cursor's cell to the end.
    ToEnd,
    /// From the start to the cursor's cell.
    ToStart,
    /// All. The cursor stays.
    All,
}

impl<S: Surface> Screen<'_, S> {
    /// Moves the cursor by columns and rows, not past the edges.
    pub fn move_by(&mut self, columns: isize, rows: isize) {
        self.move_to(
            self.column.saturating_add_signed(columns),
            self.row.saturating_add_signed(rows),
        );
    }

    /// Erases in the cursor's line.
    pub fn erase_line(&mut self, what: Erase) {
        let (from, to) = match what {
            Erase::ToEnd => (self.column, self.columns),
            Erase::ToStart => (0, self.column + 1),
            Erase::All => (0, self.columns),
        };
        self.wrap_next = false;
        self.blank(self.row, from, to);
    }

    /// Erases in the screen.
    pub fn erase_screen(&mut self, what: Erase) {
        let rows = match what {
            Erase::ToEnd => self.row + 1..self.rows,
            Erase::ToStart => 0..self.row,
            Erase::All => 0..self.rows,
        };
        if what != Erase::All {
            self.erase_line(what);
        }
        self.wrap_next = false;
        for row in rows {
            self.blank(row, 0, self.columns);
        }
    }

    /// Moves the rest of the line to the right and leaves blank cells at the cursor.
    pub fn insert_blanks(&mut self, count: usize) {
        let (column, row, columns) = (self.column, self.row, self.columns);
        let count = count.min(columns - column);
        self.wrap_next = false;
        self.row_mut(row)
            .copy_within(column..columns - count, column + count);
        self.blank(row, column, column + count);
    }

    /// Takes cells out at the cursor; the rest of the line moves up from the right.
    pub fn delete_cells(&mut self, count: usize) {
        let (column, row, columns) = (self.column, self.row, self.columns);
        let count = count.min(columns - column);
        self.wrap_next = false;
        self.row_mut(row).copy_within(column + count.., column);
        self.blank(row, columns - count, columns);
    }
}
