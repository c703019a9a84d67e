//! Messages: on the firmware's console, and on the first serial port if the console does not reach it.
//!
//! Most firmware of virtual machines and servers shows its console on a serial port as well, and then writing there
//! too would print everything twice. A PC without a screen may have no console at all. The firmware's `ConOut` variable lists the devices its console consists of
//! (UEFI specification 2.10 §3.3); if none of them is a UART, the loader drives COM1 itself, provided there is one.

use boot_machine::{inb, outb};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use uefi::proto::console::text::{Input, Output};
use uefi::runtime::VariableVendor;
use uefi::{Status, boot, cstr16, system};

/// COM1's first register.
const COM1: u16 = 0x3f8;

static MIRROR: AtomicBool = AtomicBool::new(false);
static EXITED: AtomicBool = AtomicBool::new(false);

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::console::line(format_args!($($part)*)) };
}

/// Finds out where messages go.
pub fn init() {
    let heard = devices().0 && console_is_serial();
    MIRROR.store(!heard && com1_present(), Ordering::Relaxed);
}

/// Prints one line.
pub fn line(text: fmt::Arguments<'_>) {
    // A console that fails leaves nobody to tell.
    let _ = with_output(|out| out.write_fmt(format_args!("{text}\n")));
    if MIRROR.load(Ordering::Relaxed) {
        let _ = Com1.write_fmt(format_args!("{text}\n"));
    }
}

/// From now on the firmware's console is gone.
pub fn firmware_has_left() {
    EXITED.store(true, Ordering::Relaxed);
}

/// Prints when little can be relied on: on the firmware's console if it is still there, else on COM1.
pub fn emergency(text: fmt::Arguments<'_>) {
    if EXITED.load(Ordering::Relaxed) {
        if com1_present() {
            let _ = Com1.write_fmt(text);
        }
    } else {
        line(text);
    }
}

/// The end of the road after a fault of the loader itself: back to the firmware by a reset, after a while to read.
pub fn halt_or_reset() -> ! {
    if !EXITED.load(Ordering::Relaxed) {
        boot::stall(Duration::from_secs(5));
    }
    uefi::runtime::reset(uefi::runtime::ResetType::COLD, Status::ABORTED, None)
}

/// Waits for a key, at most `tenths` tenths of a second.
pub fn wait_for_key(tenths: Option<u32>) {
    // What was typed before the question is not an answer.
    let _ = with_input(|input| input.reset(false));
    let mut left = tenths;
    loop {
        if let Some(Ok(Some(_))) = with_input(Input::read_key) {
            return;
        }
        match &mut left {
            Some(0) => return,
            Some(n) => *n -= 1,
            None => {}
        }
        boot::stall(Duration::from_millis(100));
    }
}

/// Asks the console's output, if the firmware has one; the crate's own way there panics without, and a panic would be
/// reported there too.
fn with_output<R>(ask: impl FnMut(&mut Output) -> R) -> Option<R> {
    devices().0.then(|| system::with_stdout(ask))
}

/// As [`with_output`], for the input.
fn with_input<R>(ask: impl FnMut(&mut Input) -> R) -> Option<R> {
    devices().1.then(|| system::with_stdin(ask))
}

/// Whether the firmware's console has an output, and an input.
fn devices() -> (bool, bool) {
    let Some(table) = uefi::table::system_table_raw() else {
        return (false, false);
    };
    // SAFETY: the table that the entry point was given, which stays where it is and as it is until boot services end
    // (UEFI specification 2.10 §4.3); only pointers in it are compared.
    let table = unsafe { table.as_ref() };
    let services = !table.boot_services.is_null();
    (
        services && !table.stdout.is_null(),
        services && !table.stdin.is_null(),
    )
}

/// Whether one of the console's output devices is a UART.
fn console_is_serial() -> bool {
    let Ok((path, _)) =
        uefi::runtime::get_variable_boxed(cstr16!("ConOut"), &VariableVendor::GLOBAL_VARIABLE)
    else {
        return false;
    };
    // Device path nodes: type, subtype, 16-bit length; messaging type 3, UART subtype 14 (UEFI specification 2.10
    // §10.3.4.15).
    let mut rest = &path[..];
    while let [kind, subtype, low, high, ..] = *rest {
        if (kind, subtype) == (3, 14) {
            return true;
        }
        let length = usize::from(u16::from_le_bytes([low, high]));
        if length < 4 || length > rest.len() {
            return false;
        }
        rest = &rest[length..];
    }
    false
}

/// Whether a UART answers at COM1: its scratch register keeps what is written.
fn com1_present() -> bool {
    outb(COM1 + 7, 0x5a);
    inb(COM1 + 7) == 0x5a
}

/// COM1, with whatever speed the firmware left it at.
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
