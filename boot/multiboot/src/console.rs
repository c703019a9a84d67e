//! Messages: on the first serial port, if there is one, and on the screen.
//!
//! The screen is VGA text, or a framebuffer if the Multiboot loader set one. When this loader itself sets a graphics mode
//! for the kernel, text would be gone a moment later anyway: the framebuffer is then only drawn on if there is an error
//! to be read.

use crate::clock;
use alloc::vec;
use alloc::vec::Vec;
use boot_core::response::FramebufferFacts;
use boot_machine::{inb, outb};
use core::fmt::{self, Write};
use screen::{Cell, Geometry, MappedSurface, PixelFormat, Screen};
use spin::Mutex;

/// COM1's first register.
const COM1: u16 = 0x3f8;

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::console::line(format_args!($($part)*)) };
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    serial: false,
    glass: Glass::None,
    next: None,
});

struct Console {
    serial: bool,
    glass: Glass,
    /// A framebuffer that is shown but not drawn on yet.
    next: Option<FramebufferFacts>,
}

/// What the screen is.
enum Glass {
    None,
    Text(VgaText),
    Pixels(Screen<'static, MappedSurface>),
}

/// Starts with what is always there.
pub fn init() {
    let mut console = CONSOLE.lock();
    console.serial = init_serial();
    console.glass = Glass::Text(VgaText::blank());
}

/// From now on the screen is this framebuffer. It is drawn on at once, or only when something went wrong.
pub fn on_framebuffer(facts: &FramebufferFacts, at_once: bool) {
    let mut console = CONSOLE.lock();
    console.glass = Glass::None;
    console.next = Some(facts.clone());
    if at_once {
        console.draw_on_next();
    }
}

/// From now on there is no screen.
pub fn blind() {
    CONSOLE.lock().glass = Glass::None;
}

/// Something went wrong, so what is said from now on must be seen.
pub fn be_seen() {
    CONSOLE.lock().draw_on_next();
}

/// Prints one line.
pub fn line(text: fmt::Arguments<'_>) {
    // Neither device reports errors.
    let _ = writeln!(CONSOLE.lock(), "{text}");
}

/// Prints in a panic, which may have come while a line was printed: then only on the serial port.
pub fn emergency(text: fmt::Arguments<'_>) {
    if let Some(mut console) = CONSOLE.try_lock() {
        console.draw_on_next();
        let _ = writeln!(console, "{text}");
    } else {
        let _ = writeln!(Com1, "{text}");
    }
}

/// Waits for a key on the keyboard or a byte on the serial port, at most `tenths` tenths of a second.
pub fn wait_for_key(tenths: Option<u32>) {
    let serial = CONSOLE.lock().serial;
    // What was typed before the question is not an answer. A full buffer holds 16 bytes.
    for _ in 0..32 {
        take_key(serial);
    }
    let mut left = tenths;
    loop {
        if take_key(serial) {
            return;
        }
        match &mut left {
            Some(0) => return,
            Some(n) => *n -= 1,
            None => {}
        }
        clock::wait_a_tenth();
    }
}

/// Whether a key went down since the last question.
fn take_key(serial: bool) -> bool {
    // Keyboard controller: status at 64h, bit 0 a byte waits, bit 5 it is the mouse's; FFh if there is no controller.
    let status = inb(0x64);
    if status != 0xff && status & 1 != 0 {
        let code = inb(0x60);
        // Bit 7: a key came up. The controller translates to this set of codes after a BIOS.
        if status & 0x20 == 0 && code & 0x80 == 0 {
            return true;
        }
    }
    if serial && inb(COM1 + 5) & 1 != 0 {
        let _ = inb(COM1);
        return true;
    }
    false
}

impl Console {
    fn draw_on_next(&mut self) {
        if let Some(facts) = self.next.take()
            && let Some(screen) = screen_on(&facts)
        {
            self.glass = Glass::Pixels(screen);
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.serial {
            Com1.write_str(text)?;
        }
        match &mut self.glass {
            Glass::None => Ok(()),
            Glass::Text(vga) => vga.write_str(text),
            Glass::Pixels(screen) => {
                let result = screen.write_str(text);
                screen.flush();
                result
            }
        }
    }
}

/// A screen on a framebuffer, if it has 32-bit pixels and lies where this loader can reach it.
fn screen_on(facts: &FramebufferFacts) -> Option<Screen<'static, MappedSurface>> {
    let mode = &facts.mode;
    let bytes = mode.pitch.checked_mul(mode.height)?;
    let end = facts.address.0.checked_add(bytes)?;
    if mode.bpp != 32 || end > crate::memory::REACH || !facts.address.0.is_multiple_of(4) {
        return None;
    }
    let (width, height) = (mode.width as usize, mode.height as usize);
    let cells: &'static mut [Cell] =
        vec![Cell::BLANK; Screen::<MappedSurface>::cells_for(width, height)].leak();
    let geometry = Geometry {
        width,
        height,
        pitch_bytes: mode.pitch as usize,
        format: PixelFormat {
            red_shift: mode.layout.red.1,
            green_shift: mode.layout.green.1,
            blue_shift: mode.layout.blue.1,
        },
    };
    // SAFETY: the Multiboot loader, or the display's own registers, said that a framebuffer of this size lies there; it is
    // aligned, and within the 4 GiB that are mapped writable. Nothing else of this loader's uses it.
    let surface = unsafe { MappedSurface::new(facts.address.0 as *mut u32, bytes as usize / 4) };
    Screen::new(surface, geometry, cells).ok()
}

/// Sets the port to 115200 baud, 8 bits, no parity; whether there is one: its scratch register keeps what is written
/// (National Semiconductor PC16550D data sheet, §8).
fn init_serial() -> bool {
    outb(COM1 + 7, 0x5a);
    if inb(COM1 + 7) != 0x5a {
        return false;
    }
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        outb(COM1 + register, value);
    }
    true
}

/// COM1 as it was set up.
struct Com1;

impl Write for Com1 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    // Bit 5 of the line status register: room for a byte. Bounded, so that a stuck port costs time and not the boot.
    for _ in 0..100_000 {
        if inb(COM1 + 5) & 0x20 != 0 {
            break;
        }
    }
    outb(COM1, byte);
}

/// VGA text of 80 columns and 25 rows.
struct VgaText {
    row: usize,
    column: usize,
    /// What it shows, since reading it back is slow.
    shown: Vec<u16>,
}

const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// A space, light grey on black.
const BLANK: u16 = 0x0720;

impl VgaText {
    fn blank() -> Self {
        let this = Self {
            row: 0,
            column: 0,
            shown: vec![BLANK; COLUMNS * ROWS],
        };
        this.show_from(0);
        this
    }

    fn show_from(&self, first: usize) {
        for (n, cell) in self.shown.iter().enumerate().skip(first) {
            // SAFETY: the text window of every VGA, mapped by the tables of `entry` and used by nothing else; without a
            // VGA the write goes nowhere. `n` is below 80 * 25.
            unsafe { (0xb_8000 as *mut u16).add(n).write_volatile(*cell) }
        }
    }

    fn new_line(&mut self) {
        self.column = 0;
        if self.row + 1 < ROWS {
            self.row += 1;
        } else {
            self.shown.copy_within(COLUMNS.., 0);
            self.shown[COLUMNS * (ROWS - 1)..].fill(BLANK);
            self.show_from(0);
        }
    }
}

impl Write for VgaText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c == '\n' {
                self.new_line();
                continue;
            }
            if self.column == COLUMNS {
                self.new_line();
            }
            let at = self.row * COLUMNS + self.column;
            let byte = if c.is_ascii_graphic() || c == ' ' {
                c as u16
            } else {
                u16::from(b'?')
            };
            self.shown[at] = BLANK & 0xff00 | byte;
            self.column += 1;
        }
        self.show_from(self.row * COLUMNS);
        Ok(())
    }
}
