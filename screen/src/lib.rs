//! A text screen on a linear framebuffer of 32-bit pixels.
//!
//! The kernel writes its log on it until the console server takes the devices, and again in a panic; the
//! console server draws its terminal with it. So it needs no allocator and no floating point, and it does all
//! that a VT-like terminal asks for without knowing an escape sequence itself.
//!
//! A framebuffer must never be read: it is mapped write-combining, where a read takes a microsecond and more.
//! So the screen keeps two cells of text for each place on the glass, what it *wants* to show and what it *has*
//! shown, in memory that the caller gives. Writing and scrolling only change what is wanted;
//! [`Screen::flush`] draws the cells that differ. Twenty lines that scroll by between two flushes cost one
//! redraw.
//!
//! What may go wrong is the geometry, which comes from firmware: [`Screen::new`] checks it and names what does
//! not fit. After that nothing fails; what falls off the edges is clipped.

#![cfg_attr(not(test), no_std)]

mod cell;
mod color;
mod edit;
mod glyph;
mod screen;
mod surface;

pub use cell::Cell;
pub use color::{Color, PixelFormat};
pub use edit::Erase;
pub use glyph::{GLYPH_HEIGHT, GLYPH_WIDTH};
pub use screen::{Geometry, Screen, ScreenError};
pub use surface::{MappedSurface, Surface};
