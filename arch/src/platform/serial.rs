//! The first serial port, polled: where the kernel's log goes before user space owns the port, and again in a panic.
//!
//! Many PCs have no serial port. Reading its place then gives all ones, and a driver that waits for "ready" waits for
//! ever or, worse, believes it and crawls. So the port is proven first: the scratch register holds what is written, the
//! transmitter runs empty within a bound, and a byte sent in loop-back comes back. The `uart_16550` crate
//! checks and programs the port, but its `init` and `test_loopback` wait without an end; the first is called only after
//! the transmitter was seen empty, and the second is replaced here. Sending has a bound too, after which the port is given up
//! for the rest of the line: a terminal server that holds the line must not hold the kernel.
//!
//! There is no lock: a panic must get its text out whatever another CPU was doing. Two CPUs that write at once mix their
//! lines, which the log's own lock prevents in ordinary times.

use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use uart_16550::{BaudRate, Config, Uart16550, backend::PioBackend};
use x86_64::instructions::port::Port;

/// The first port's registers.
const COM1: u16 = 0x3F8;
const DATA: u16 = COM1;
const MODEM_CONTROL: u16 = COM1 + 4;
const LINE_STATUS: u16 = COM1 + 5;
/// In the line status: a byte has come.
const DATA_READY: u8 = 1;
/// In the line status: the transmitter has room for a FIFO full.
const ROOM: u8 = 1 << 5;
/// In the line status: the last bit has left.
const EMPTY: u8 = 1 << 6;
/// In the modem control: what is sent is received.
const LOOP_BACK: u8 = 1 << 4;
/// What an absent port reads as.
const ABSENT: u8 = 0xFF;
/// Reads of the status, about a microsecond each, after which a wait is given up: the FIFO's 16 bytes need 1.4 ms at
/// 115200 baud, and firmware may have left the port at 9600 with a full FIFO.
const PROBE_POLLS: u32 = 50_000;
const SEND_POLLS: u32 = 50_000;
/// Bytes that the transmitter takes at once when it has room.
const FIFO_BYTES: usize = 16;
/// Waits that failed in a row after which nothing is waited for any more.
const MOST_FAILURES: u32 = 4;

static PRESENT: AtomicBool = AtomicBool::new(false);
static FAILURES: AtomicU32 = AtomicU32::new(0);

/// Reads a register of the port.
fn read(port: u16) -> u8 {
    // SAFETY: on a PC these ports are the first serial port's, or nothing's; reading them at worst takes a byte that has
    // come, which the kernel has no use for.
    unsafe { Port::new(port).read() }
}

/// Waits, bounded, for a bit of the line status.
fn wait(bit: u8, polls: u32) -> bool {
    (0..polls).any(|_| {
        let status = read(LINE_STATUS);
        status != ABSENT && status & bit != 0 || {
            core::hint::spin_loop();
            false
        }
    })
}

/// The port as the crate has it. Each value is as good as another: it holds no state that matters for sending.
fn port() -> Option<Uart16550<PioBackend>> {
    // SAFETY: on a PC these ports are the first serial port's, or nothing's.
    unsafe { Uart16550::new_port(COM1).ok() }
}

/// Looks for the port and sets it to 115200 baud, 8 data bits, no parity, one stop bit, FIFO on, no interrupts. Returns
/// whether there is one; without one, [`write`] does nothing. It takes a millisecond or two.
///
/// # Safety
/// On the first CPU, while nothing else uses the port.
pub unsafe fn init() -> bool {
    let found = probe();
    PRESENT.store(found, Ordering::Relaxed);
    FAILURES.store(0, Ordering::Relaxed);
    found
}

fn probe() -> bool {
    let Some(mut uart) = port() else {
        return false;
    };
    if read(LINE_STATUS) == ABSENT || !uart.check_present() || !wait(EMPTY, PROBE_POLLS) {
        return false;
    }
    let config = Config {
        baud_rate: BaudRate::Baud115200,
        ..Config::DEFAULT
    };
    uart.init(config).is_ok() && loops_back()
}

/// Whether a byte that is sent with the loop closed comes back.
fn loops_back() -> bool {
    const TEST: u8 = 0xA5;
    let control = read(MODEM_CONTROL);
    // SAFETY: the port is there; the loop is opened again below, and nothing reaches the line meanwhile.
    unsafe {
        Port::new(MODEM_CONTROL).write(LOOP_BACK);
        Port::new(DATA).write(TEST);
    }
    let returned = wait(DATA_READY, PROBE_POLLS) && read(DATA) == TEST;
    // The byte must have left before the loop is opened, else it would go out.
    let empty = wait(EMPTY, PROBE_POLLS);
    // SAFETY: the port is put back to what it was.
    unsafe { Port::new(MODEM_CONTROL).write(control) };
    returned && empty
}

/// Whether there is a first serial port.
#[must_use]
pub fn is_present() -> bool {
    PRESENT.load(Ordering::Relaxed)
}

/// Sends bytes, each wait bounded. What can't be sent is dropped, and a port that failed several times in a row is not
/// waited for again until it is seen ready. Takes no lock.
pub fn write(bytes: &[u8]) {
    if !is_present() {
        return;
    }
    let Some(mut uart) = port() else {
        return;
    };
    for chunk in bytes.chunks(FIFO_BYTES) {
        let polls = match FAILURES.load(Ordering::Relaxed) {
            ..MOST_FAILURES => SEND_POLLS,
            _ => 1,
        };
        if !wait(ROOM, polls) {
            FAILURES.fetch_add(1, Ordering::Relaxed);
            return;
        }
        FAILURES.store(0, Ordering::Relaxed);
        let mut rest = chunk;
        // The transmitter has room for all of it; another CPU may have been faster, or the FIFO may be missing.
        while !rest.is_empty() {
            let sent = uart.send_bytes(rest);
            rest = &rest[sent..];
            if sent == 0 && !wait(ROOM, polls) {
                return;
            }
        }
    }
}

/// Waits, bounded, until all that was sent has left, whoever sent it. Before the power goes.
pub fn drain() {
    if is_present() {
        // What does not leave in time is lost.
        let _ = wait(EMPTY, SEND_POLLS);
    }
}

/// The port as a text writer; a line feed is sent as carriage return and line feed. It never fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    write(line.as_bytes());
                    write(b"\r\n");
                }
                None => write(line.as_bytes()),
            }
        }
        Ok(())
    }
}
