//! The kernel's log.
//!
//! Everybody logs through the `log` crate (`log::info!`, ...). Each line gets the time since boot and goes into a ring of
//! 64 KiB that user space can read, to the serial port, and to the screen; devices that are found later get
//! what was logged before.
//!
//! **Who owns the devices.** At first the kernel. [`take`] gives them to a process: from then on lines go to the
//! ring only, and the owner is told that the ring grew. [`untake`] takes them back when that process ended. A
//! panic asks nobody.
//!
//! **Locks.** The log has one lock, at the end of the lock order: nothing is called under it but the serial port's and the
//! screen's own code. It is never waited for without a bound. Whoever can't have it in that time (an NMI that
//! interrupted its holder, say) loses the line, and the next line says how many were lost. In a panic the
//! panicking CPU, after it stopped the others, takes the log by force if it must; all other CPUs are mute then.
//!
//! **Telling the owner** means signalling a notification, which takes locks that the one who logs may hold. So a line
//! only calls the notify hook, once until the growth was taken; the hook may do no more than mark this CPU
//! as having work on its way out of the kernel. There, with no lock held, [`take_growth`] says whether to
//! signal.

mod level;
mod line;
mod ring;
mod sinks;

use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::info::FramebufferInfo;
use screen::{Cell, Color, Geometry, MappedSurface, PixelFormat, Screen, ScreenError};
use spin::Once;
use spin::mutex::{SpinMutex, SpinMutexGuard};
use spin::relax::RelaxStrategy;

pub use level::{
    DEFAULT as DEFAULT_LEVEL, UnknownLevel, from_command_line as level_from_command_line,
};
pub use line::LineWriter;
pub use ring::Ring;
pub use sinks::RING_BYTES;
use sinks::{Severity, Sinks};

/// Tries after which the lock is given up. A holder that draws a screen needs some milliseconds, and in an emulator
/// its CPU may lose the host's for a while; each try is a pause of tens of cycles.
const TRIES: u32 = 20_000_000;
/// The same in a panic, where the others were stopped: only one that did not stop is worth waiting for.
const PANIC_TRIES: u32 = 1_000_000;
/// Most columns of the kernel's screen.
const MOST_COLUMNS: usize = 200;
/// Cells of its screen: 64 rows of 200.
const CELLS: usize = 2 * 64 * MOST_COLUMNS;

static SINKS: SpinMutex<Sinks, crate::sync::Relax> = SpinMutex::new(Sinks::new());
static RING: SpinMutex<Ring<RING_BYTES>> = SpinMutex::new(Ring::new());
static SERIAL: Once<fn(&[u8])> = Once::new();
static CLOCK: Once<fn() -> u64> = Once::new();
static NOTIFY: Once<fn()> = Once::new();
/// The screen's cells, handed out once by leaking the lock. Zeros, so that they take no room in the image.
static CELL_MEMORY: SpinMutex<[Cell; CELLS]> = SpinMutex::new([ZERO_CELL; CELLS]);
const ZERO_CELL: Cell = Cell {
    character: '\0',
    foreground: Color(0),
    background: Color(0),
};
/// The ring grew while its owner was another, and nobody was told yet.
static GREW: AtomicBool = AtomicBool::new(false);
static LOST: AtomicU32 = AtomicU32::new(0);
/// A CPU panics: the log is its alone.
static PANIC: AtomicBool = AtomicBool::new(false);

/// Begins logging, into the ring only. To be called once, first of all; again it does nothing.
pub fn init() {
    // The ring's own lock is never opened again: `SINKS` guards it from here on.
    if let Some(ring) = RING.try_lock() {
        with_sinks(|sinks| sinks.ring = Some(SpinMutexGuard::leak(ring)));
    }
    // It fails only if a logger is set already: this one.
    let _ = ::log::set_logger(&Facade);
    ::log::set_max_level(DEFAULT_LEVEL);
}

/// Sets how much is logged; see [`level_from_command_line`].
pub fn set_level(level: ::log::LevelFilter) {
    ::log::set_max_level(level);
}

/// Sets what gives the time in nanoseconds since boot. Until then lines say 0. The first call counts.
pub fn set_clock(clock: fn() -> u64) {
    CLOCK.call_once(|| clock);
}

/// Sets what sends bytes to the serial port, and sends it all that was logged so far. The hook is called under the
/// log's lock and in a panic: it must not log, nor wait without a bound. The first call counts.
pub fn set_serial(serial: fn(&[u8])) {
    SERIAL.call_once(|| serial);
    with_sinks(|sinks| {
        if sinks.serial.is_none() {
            sinks.serial = Some(serial);
            sinks.replay_to_serial(serial);
        }
    });
}

/// Sets what is called when the log grows while another owns the devices. It is called by whoever logs, under any of the
/// kernel's locks (but not the log's): it must take none, only mark work for later (see the module's
/// text). The first call counts.
pub fn set_notify(notify: fn()) {
    NOTIFY.call_once(|| notify);
}

/// Logs on this framebuffer too, from now on and what came before. It works once: the cells are static.
///
/// # Errors
/// What is wrong with the framebuffer's shape; [`ScreenError::TooFewCells`] if there was a screen before.
///
/// # Safety
/// `pitch * height` bytes at `base` are the framebuffer, mapped writable, best write-combining, until
/// [`rebase_screen`] or [`drop_screen`]; nobody else writes there while the kernel owns the screen.
pub unsafe fn set_screen(base: *mut u32, info: &FramebufferInfo) -> Result<(), ScreenError> {
    let geometry = Geometry {
        width: (info.width as usize).min(MOST_COLUMNS * screen::GLYPH_WIDTH),
        height: info.height as usize,
        pitch_bytes: info.pitch as usize,
        format: PixelFormat {
            red_shift: info.red_shift,
            green_shift: info.green_shift,
            blue_shift: info.blue_shift,
        },
    };
    let pixels = geometry.pitch_bytes.saturating_mul(geometry.height) / size_of::<u32>();
    // SAFETY: the caller's promise is for just these pixels.
    let surface = unsafe { MappedSurface::new(base, pixels) };
    let cells: &mut [Cell] = match CELL_MEMORY.try_lock() {
        Some(cells) => SpinMutexGuard::leak(cells).as_mut_slice(),
        None => &mut [],
    };
    let mut screen = Screen::new(surface, geometry, cells)?;
    with_sinks(|sinks| {
        sinks.replay_to_screen(&mut screen);
        if !sinks.taken {
            screen.flush();
        }
        sinks.screen = Some(screen);
    });
    Ok(())
}

/// The framebuffer is mapped at `base` now.
///
/// # Safety
/// As for [`set_screen`].
pub unsafe fn rebase_screen(base: *mut u32) {
    with_sinks(|sinks| {
        if let Some(screen) = &mut sinks.screen {
            // SAFETY: the caller's promise.
            unsafe { screen.surface_mut().rebase(base) };
        }
    });
}

/// Logs on the screen no more, also not in a panic: its mapping goes.
pub fn drop_screen() {
    with_sinks(|sinks| sinks.screen = None);
}

/// Gives serial port and screen to user space. `false` if they were given already.
pub fn take() -> bool {
    with_sinks(|sinks| !core::mem::replace(&mut sinks.taken, true)).unwrap_or(false)
}

/// Takes serial port and screen back: their owner ended. What it drew is replaced by the log.
pub fn untake() {
    with_sinks(|sinks| {
        if core::mem::replace(&mut sinks.taken, false)
            && let Some(screen) = &mut sinks.screen
        {
            screen.redraw();
        }
    });
    GREW.store(false, Ordering::Release);
}

/// Whether the log grew since this was last asked, while user space owns the devices. To be called on the way out of the
/// kernel with no lock held; if it is `true` the owner's notification is to be signalled.
pub fn take_growth() -> bool {
    // The common case is a plain load.
    GREW.load(Ordering::Relaxed) && GREW.swap(false, Ordering::AcqRel)
}

/// Position after the newest byte of the ring.
pub fn end() -> u64 {
    with_sinks(|sinks| sinks.ring.as_ref().map_or(0, |ring| ring.end())).unwrap_or(0)
}

/// Copies from the ring: see [`Ring::read`]. A log that can't be had gives nothing and the same position.
pub fn read(position: u64, into: &mut [u8]) -> (usize, u64) {
    with_sinks(|sinks| sinks.ring.as_ref().map(|ring| ring.read(position, into)))
        .flatten()
        .unwrap_or((0, position))
}

/// Logs text of a user program: bytes that should be UTF-8, each line with the time before it. The caller bounds the
/// length; it takes time in proportion to it.
pub fn write_text(bytes: &[u8]) {
    let mut writer = LineWriter::new(|line: &str| log_line(Severity::Normal, line));
    writer.write_bytes(bytes);
    writer.finish();
}

/// The `log` crate's way in.
struct Facade;

impl ::log::Log for Facade {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let severity = Severity::of(record.level());
            let mut writer = LineWriter::new(|line: &str| log_line(severity, line));
            // It fails only if a value's own formatting does; what came before that is logged.
            let _ = writer.write_fmt(*record.args());
            writer.finish();
        }
    }

    fn flush(&self) {}
}

fn now() -> u64 {
    CLOCK.get().map_or(0, |clock| clock())
}

fn log_line(severity: Severity, text: &str) {
    let time = now();
    let lost = LOST.swap(0, Ordering::Relaxed);
    let taken = with_sinks(|sinks| {
        if lost > 0 {
            let mut writer =
                LineWriter::new(|line: &str| sinks.line(Severity::Warning, time, line, false));
            let _ = write!(writer, "lines lost from the log: {lost}");
            writer.finish();
        }
        sinks.line(severity, time, text, false);
        sinks.taken
    });
    match taken {
        None => {
            LOST.fetch_add(lost + 1, Ordering::Relaxed);
        }
        Some(true) if !GREW.swap(true, Ordering::AcqRel) => {
            if let Some(notify) = NOTIFY.get() {
                notify();
            }
        }
        Some(_) => {}
    }
}

/// Runs `work` under the lock; `None` if it can't be had in time, or a CPU panics.
fn with_sinks<R>(work: impl FnOnce(&mut Sinks) -> R) -> Option<R> {
    for _ in 0..TRIES {
        if PANIC.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(mut sinks) = SINKS.try_lock() {
            return Some(work(&mut sinks));
        }
        crate::sync::Relax::relax();
    }
    None
}

/// From now on the log belongs to the panicking CPU. The screen shows the log again, whoever owned it.
///
/// # Safety
/// The caller is the first CPU that panics, and all others were told to stop and do not log any more (a CPU that
/// did not obey and is inside the log right now is waited for, but not for ever).
pub unsafe fn enter_panic() {
    PANIC.store(true, Ordering::SeqCst);
    // SAFETY: passed on.
    unsafe {
        with_forced(|sinks| {
            if let Some(screen) = &mut sinks.screen {
                // What is half drawn, or another's, is drawn anew.
                screen.redraw();
            }
        });
    }
}

/// Logs in a panic, to all devices.
///
/// # Safety
/// As for [`enter_panic`], which was called before.
pub unsafe fn panic_write(arguments: fmt::Arguments<'_>) {
    let time = now();
    let mut writer = LineWriter::new(|line: &str| {
        // SAFETY: passed on.
        unsafe { with_forced(|sinks| sinks.line(Severity::Panic, time, line, true)) };
    });
    let _ = writer.write_fmt(arguments);
    writer.finish();
}

/// Sends bytes to the serial port and touches nothing else: for a panic within the panic report.
pub fn emergency(bytes: &[u8]) {
    if let Some(serial) = SERIAL.get() {
        serial(bytes);
    }
}

/// Runs `work` under the lock, or without it if it is not to be had.
///
/// # Safety
/// As for [`enter_panic`].
unsafe fn with_forced<R>(work: impl FnOnce(&mut Sinks) -> R) -> R {
    for _ in 0..PANIC_TRIES {
        if let Some(mut sinks) = SINKS.try_lock() {
            return work(&mut sinks);
        }
        core::hint::spin_loop();
    }
    // SAFETY: the holder is stopped, or is this very CPU below its own panic, and does not go on; the caller is the only
    // CPU that is still at work here. What the holder left half done is in bounds: each step of the ring and
    // of the screen checks its indices, and a failed check ends in `emergency`.
    work(unsafe { &mut *SINKS.as_mut_ptr() })
}

#[cfg(test)]
mod tests;
