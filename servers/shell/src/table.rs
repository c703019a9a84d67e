//! Tables: columns as wide as their widest cell, with two spaces between.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Left, for words.
    Left,
    /// Right, for numbers.
    Right,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[(&str, Align)]) -> Table {
        Table {
            columns: headings.iter().map(|(_, align)| *align).collect(),
            rows: alloc::vec![
                headings
                    .iter()
                    .map(|(heading, _)| (*heading).to_owned())
                    .collect()
            ],
        }
    }

    /// Adds a row; cells beyond the headings are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().take(self.columns.len()).collect());
    }

    /// The table as lines.
    pub fn finish(&self) -> String {
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                let padding = widths[column] - cell.chars().count();
                let padding = core::iter::repeat_n(' ', padding);
                match self.columns[column] {
                    Align::Left => {
                        line.push_str(cell);
                        line.extend(padding);
                    }
                    Align::Right => {
                        line.extend(padding);
                        line.push_str(cell);
                    }
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("NOTE", Align::Left),
        ]);
        table.row(["größer".to_owned(), "1".to_owned(), String::new()]);
        table.row(["a".to_owned(), "12345".to_owned(), "x".to_owned()]);
        assert_eq!(
            table.finish(),
            "NAME     SIZE  NOTE\ngrößer      1\na       12345  x\n"
        );
    }
}
