//! Where lines go: always into the ring, and to serial port and screen as long as the kernel owns them.

use core::fmt::Write as _;

use screen::{Color, MappedSurface, Screen};

use super::line::LineWriter;
use super::ring::Ring;

/// Bytes of log that are kept.
pub const RING_BYTES: usize = 64 * 1024;

/// How a line is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Severity {
    Normal,
    Detail,
    Warning,
    Error,
    /// Part of a panic report.
    Panic,
}

impl Severity {
    pub(super) fn of(level: ::log::Level) -> Severity {
        match level {
            ::log::Level::Error => Severity::Error,
            ::log::Level::Warn => Severity::Warning,
            ::log::Level::Info => Severity::Normal,
            ::log::Level::Debug | ::log::Level::Trace => Severity::Detail,
        }
    }

    fn color(self) -> Color {
        match self {
            Severity::Normal => Color::FOREGROUND,
            Severity::Detail => Color(8),
            Severity::Warning => Color::YELLOW,
            Severity::Error | Severity::Panic => Color::RED,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Severity::Normal | Severity::Panic => "",
            Severity::Detail => "debug: ",
            Severity::Warning => "warning: ",
            Severity::Error => "error: ",
        }
    }
}

/// The log behind its lock.
pub(super) struct Sinks {
    /// Apart from the rest, which is not all zeros and would take the ring along into the image.
    pub(super) ring: Option<&'static mut Ring<RING_BYTES>>,
    pub(super) serial: Option<fn(&[u8])>,
    pub(super) screen: Option<Screen<'static, MappedSurface>>,
    /// User space owns the devices.
    pub(super) taken: bool,
}

impl Sinks {
    pub(super) const fn new() -> Sinks {
        Sinks {
            ring: None,
            serial: None,
            screen: None,
            taken: false,
        }
    }

    /// One line, with `nanoseconds` since boot before it. `forced`: to the devices whoever owns them.
    pub(super) fn line(&mut self, severity: Severity, nanoseconds: u64, text: &str, forced: bool) {
        let mut prefix = Prefix {
            bytes: [0; PREFIX_BYTES],
            used: 0,
        };
        let micros = nanoseconds / 1000;
        // It fits; and a prefix that is cut short would harm nobody.
        let _ = write!(
            prefix,
            "[{:5}.{:06}] {}",
            micros / 1_000_000,
            micros % 1_000_000,
            severity.word()
        );
        let prefix = str::from_utf8(&prefix.bytes[..prefix.used]).unwrap_or_default();
        if let Some(ring) = &mut self.ring {
            for part in [prefix, text, "\n"] {
                ring.write(part.as_bytes());
            }
        }
        let to_devices = forced || !self.taken;
        if let (Some(serial), true) = (self.serial, to_devices) {
            for part in [prefix, text, "\r\n"] {
                serial(part.as_bytes());
            }
        }
        if let Some(screen) = &mut self.screen {
            // Also while another owns the glass: so a panic can show what came before it.
            show(screen, severity, prefix, text);
            if to_devices {
                screen.flush();
            }
        }
    }

    /// Sends all that the ring holds to a serial port that was found only now.
    pub(super) fn replay_to_serial(&self, serial: fn(&[u8])) {
        self.ring_lines(&mut |line| {
            serial(line.as_bytes());
            serial(b"\r\n");
        });
    }

    /// Shows what the ring holds on a screen that was found only now.
    pub(super) fn replay_to_screen(&self, screen: &mut Screen<'static, MappedSurface>) {
        self.ring_lines(&mut |line| show(screen, Severity::Normal, "", line));
    }

    fn ring_lines(&self, emit: &mut dyn FnMut(&str)) {
        let mut writer = LineWriter::new(|line: &str| emit(line));
        let Some(ring) = &self.ring else {
            return;
        };
        let mut position = 0;
        let mut chunk = [0; 256];
        loop {
            let (count, next) = ring.read(position, &mut chunk);
            if count == 0 {
                break;
            }
            // A character that two chunks share shows as a replacement mark in this copy; the log is ASCII but for names.
            writer.write_bytes(&chunk[..count]);
            position = next;
        }
        writer.finish();
    }
}

fn show(screen: &mut Screen<'static, MappedSurface>, severity: Severity, prefix: &str, text: &str) {
    // `write_str` of a screen never fails.
    screen.set_colors(Color(8), Color::BACKGROUND);
    let _ = screen.write_str(prefix);
    screen.set_colors(severity.color(), Color::BACKGROUND);
    let _ = screen.write_str(text);
    screen.write_char('\n');
}

/// Room for the prefix: 20 digits of seconds would be 600 billion years.
const PREFIX_BYTES: usize = 48;

struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    used: usize,
}

impl core::fmt::Write for Prefix {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = &mut self.bytes[self.used..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.used += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use screen::{Cell, Geometry, PixelFormat};
    use std::cell::RefCell;

    std::thread_local!(static SENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

    fn serial(bytes: &[u8]) {
        SENT.with_borrow_mut(|sent| sent.extend(bytes));
    }

    fn sent() -> String {
        String::from_utf8(SENT.take()).expect("the log is UTF-8")
    }

    fn new_sinks() -> Sinks {
        Sinks {
            ring: Some(Box::leak(Box::new(Ring::new()))),
            ..Sinks::new()
        }
    }

    fn ring_text(sinks: &Sinks) -> String {
        let mut buffer = vec![0; RING_BYTES];
        let ring = sinks.ring.as_ref().expect("tests set a ring");
        let (count, _) = ring.read(0, &mut buffer);
        buffer.truncate(count);
        String::from_utf8(buffer).expect("the log is UTF-8")
    }

    /// A screen of 60 columns and 4 rows, on memory that is never freed.
    fn small_screen() -> Screen<'static, MappedSurface> {
        let (width, height) = (60 * screen::GLYPH_WIDTH, 4 * screen::GLYPH_HEIGHT);
        let pixels = vec![0u32; width * height].leak();
        let cells = vec![Cell::BLANK; 60 * 4 * 2].leak();
        let geometry = Geometry {
            width,
            height,
            pitch_bytes: width * 4,
            format: PixelFormat {
                red_shift: 16,
                green_shift: 8,
                blue_shift: 0,
            },
        };
        // SAFETY: leaked memory that nobody else uses.
        let surface = unsafe { MappedSurface::new(pixels.as_mut_ptr(), pixels.len()) };
        Screen::new(surface, geometry, cells).expect("a sound geometry")
    }

    fn row(screen: &Screen<'static, MappedSurface>, row: usize) -> String {
        let line: String = (0..60)
            .filter_map(|c| screen.cell(c, row))
            .map(|c| c.character)
            .collect();
        line.trim_end().to_string()
    }

    #[test]
    fn a_line_goes_to_all_sinks_with_its_time() {
        let mut sinks = new_sinks();
        sinks.serial = Some(serial);
        sinks.screen = Some(small_screen());
        sinks.line(Severity::Normal, 12_345_678_900, "hello", false);
        sinks.line(Severity::Warning, 999, "odd", false);
        assert_eq!(
            ring_text(&sinks),
            "[   12.345678] hello\n[    0.000000] warning: odd\n"
        );
        assert_eq!(
            sent(),
            "[   12.345678] hello\r\n[    0.000000] warning: odd\r\n"
        );
        let screen = sinks.screen.expect("it was set");
        assert_eq!(row(&screen, 0), "[   12.345678] hello");
        assert_eq!(
            screen.cell(25, 1).map(|c| c.foreground),
            Some(Color::YELLOW)
        );
    }

    #[test]
    fn taken_devices_are_left_alone_but_in_a_panic() {
        let mut sinks = new_sinks();
        sinks.serial = Some(serial);
        sinks.taken = true;
        sinks.line(Severity::Normal, 0, "quiet", false);
        assert_eq!(sent(), "");
        sinks.line(Severity::Error, 0, "loud", true);
        assert_eq!(sent(), "[    0.000000] error: loud\r\n");
        assert_eq!(ring_text(&sinks).lines().count(), 2);
    }

    #[test]
    fn a_port_found_late_gets_what_was_logged_before() {
        let mut sinks = new_sinks();
        for i in 0..20 {
            sinks.line(
                Severity::Normal,
                0,
                &format!("line {i} of a few, long enough to cross chunks"),
                false,
            );
        }
        sinks.replay_to_serial(serial);
        let sent = sent();
        assert_eq!(sent.replace("\r\n", "\n"), ring_text(&sinks));
        let mut screen = small_screen();
        sinks.replay_to_screen(&mut screen);
        assert!(row(&screen, 2).contains("line 19"), "{}", row(&screen, 2));
    }

    #[test]
    fn absurd_times_do_not_break_the_prefix() {
        let mut sinks = new_sinks();
        sinks.line(Severity::Warning, u64::MAX, "x", false);
        assert_eq!(ring_text(&sinks), "[18446744073.709551] warning: x\n");
    }
}
