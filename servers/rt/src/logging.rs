//! The kernel's log, and the `log` crate's macros on top of it.
//!
//! A line is put together on the stack and written by one call, so that lines of several threads and programs never mix
//! and logging allocates nothing (it must work while the heap is broken). A line longer than the buffer is
//! written in pieces.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Call, Handle};

use crate::handle::object;
use crate::{AsHandle, Notification, Result, sys};

object! {
    /// The kernel's log.
    Log
}

impl Log {
    /// Writes text.
    ///
    /// # Errors
    /// `NoRight` without WRITE.
    pub fn write(&self, text: &str) -> Result<()> {
        write(self.handle(), text.as_bytes())
    }

    /// Reads from a byte position on: how many bytes came, and the position after them. What was overwritten already is
    /// passed over; 0 bytes is the end.
    ///
    /// # Errors
    /// `NoRight` without READ.
    pub fn read(&self, position: u64, into: &mut [u8]) -> Result<(usize, u64)> {
        let arguments = [
            self.handle().0,
            position,
            into.as_mut_ptr() as u64,
            into.len() as u64,
            0,
            0,
        ];
        // SAFETY: the kernel writes into `into` and nowhere else.
        let values = unsafe { sys::call(Call::LogRead, arguments) }?;
        Ok(((values[0] as usize).min(into.len()), values[1]))
    }

    /// Takes over the serial port and the screen from the kernel, and has `bits` signalled whenever the log grows.
    ///
    /// # Errors
    /// `NoRight` without MANAGE here or SIGNAL there, `Busy` if another process has them.
    pub fn take(&self, notification: &Notification, bits: u64) -> Result<()> {
        // SAFETY: touches no memory.
        unsafe {
            sys::call(
                Call::LogTake,
                [self.handle().0, notification.handle().0, bits, 0, 0, 0],
            )
        }
        .map(|_| ())
    }
}

fn write(log: Handle, text: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads the text.
    unsafe {
        sys::call(
            Call::LogWrite,
            [log.0, text.as_ptr() as u64, text.len() as u64, 0, 0, 0],
        )
    }
    .map(|_| ())
}

/// The log handle that the program's log lines go to; 0 if it has none.
static TARGET: AtomicU64 = AtomicU64::new(0);

/// Whether the program's log lines go to this handle.
pub(crate) fn is_target(handle: Handle) -> bool {
    TARGET.load(Ordering::Relaxed) == handle.0
}

/// A line under construction.
pub(crate) struct Line {
    bytes: [u8; 512],
    length: usize,
    log: Handle,
}

impl Line {
    /// An empty line.
    pub(crate) fn new() -> Line {
        Line {
            bytes: [0; 512],
            length: 0,
            log: Handle(TARGET.load(Ordering::Relaxed)),
        }
    }

    /// Writes out what there is.
    pub(crate) fn flush(&mut self) {
        if self.length != 0 && !self.log.is_none() {
            // A log that can't be written to leaves nobody to tell.
            let _ = write(self.log, &self.bytes[..self.length]);
        }
        self.length = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut encoded = [0; 4];
        for character in text.chars() {
            // By characters, so that each piece of a long line is UTF-8.
            let bytes = character.encode_utf8(&mut encoded).as_bytes();
            if self.length + bytes.len() > self.bytes.len() {
                self.flush();
            }
            self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
            self.length += bytes.len();
        }
        Ok(())
    }
}

/// What the `log` crate calls.
struct Facade;

static FACADE: Facade = Facade;

impl log::Log for Facade {
    fn enabled(&self, _: &log::Metadata) -> bool {
        TARGET.load(Ordering::Relaxed) != 0
    }

    fn log(&self, record: &log::Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mark = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            log::Level::Info => "",
            log::Level::Debug => "debug: ",
            log::Level::Trace => "trace: ",
        };
        let mut line = Line::new();
        // Writing to a Line can't fail.
        let _ = writeln!(line, "{}: {mark}{}", program(), record.args());
        line.flush();
    }

    fn flush(&self) {}
}

/// Writes one line to the log, as the `log` crate's macros do, whatever its filter says.
pub fn line(text: fmt::Arguments) {
    let mut line = Line::new();
    // Writing to a Line can't fail.
    let _ = writeln!(line, "{}: {text}", program());
    line.flush();
}

/// The program's name: its package's.
pub fn program() -> &'static str {
    #[cfg(target_env = "musl")]
    return crate::bare::program_name();
    #[cfg(not(target_env = "musl"))]
    "host"
}

/// Sends the program's log lines to the entry `log` of its start block, if it was given one.
pub(crate) fn start() {
    if let Some(handle) = crate::start::peek("log") {
        TARGET.store(handle.0, Ordering::Relaxed);
    }
    // An error means that a logger is set already, which is then as good.
    let _ = log::set_logger(&FACADE);
    log::set_max_level(log::LevelFilter::Info);
}
