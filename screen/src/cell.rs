//! One place for a character.

use crate::color::Color;

/// A character and its colours. Eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Cell {
    /// What to show; a character that the font lacks shows as a replacement mark.
    pub character: char,
    /// Colour of the character.
    pub foreground: Color,
    /// Colour behind it.
    pub background: Color,
}

impl Cell {
    /// An empty place in the usual colours.
    pub const BLANK: Cell = Cell {
        character: ' ',
        foreground: Color::FOREGROUND,
        background: Color::BACKGROUND,
    };

    /// The same with the colours exchanged, as the cursor shows.
    #[must_use]
    pub(crate) const fn reversed(self) -> Cell {
        Cell {
            character: self.character,
            foreground: self.background,
            background: self.foreground,
        }
    }
}

const _: () = assert!(size_of::<Cell>() == 8);
