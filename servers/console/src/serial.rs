//! The serial line: what the console needs of it, and the PC's 16550.
//!
//! The line is interrupt-driven. An ISA interrupt is an edge, and an edge that comes while the line is masked is lost; so
//! after the interrupt was acknowledged the port is asked again until it has nothing pending, with a bound, since a port
//! that always has something is broken.

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{BaudRate, Config, Uart16550};

/// A serial line.
pub trait SerialLine {
    /// Takes up to `room` bytes that came and gives each to `sink`.
    fn receive(&mut self, room: usize, sink: &mut dyn FnMut(u8));
    /// Sends some of these bytes and says how many; 0 if it can't take any now.
    fn send(&mut self, bytes: &[u8]) -> usize;
    /// Whether an interrupt should come when it can take more.
    fn want_room(&mut self, wanted: bool);
    /// Whether it has an interrupt pending; reading it may clear it.
    fn is_pending(&mut self) -> bool;
    /// Lets the line interrupt again after an interrupt.
    fn acknowledge(&mut self);
}

/// A machine without a serial port.
#[derive(Clone, Copy, Debug)]
pub struct NoLine;

impl SerialLine for NoLine {
    fn receive(&mut self, _: usize, _: &mut dyn FnMut(u8)) {}

    /// Takes all, since nobody listens.
    fn send(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn want_room(&mut self, _: bool) {}

    fn is_pending(&mut self) -> bool {
        false
    }

    fn acknowledge(&mut self) {}
}

/// The PC's serial port, a 16550.
pub struct Port {
    uart: Uart16550<PioBackend>,
    irq: Option<rt::Irq>,
    wants_room: bool,
}

impl Port {
    /// Sets up the port at `base`: 115200 baud, 8 data bits, no parity, FIFO on, receive interrupt on. `None` if no
    /// device answers there. Without an interrupt line the console asks it now and then.
    ///
    /// # Safety
    /// The eight ports from `base` on are this process's, and enabled.
    pub unsafe fn open(base: u16, irq: Option<rt::Irq>) -> Option<Port> {
        // SAFETY: the caller's promise.
        let mut uart = unsafe { Uart16550::new_port(base) }.ok()?;
        let config = Config {
            baud_rate: BaudRate::Baud115200,
            interrupts: IER::DATA_READY,
            ..Config::DEFAULT
        };
        uart.init(config).ok()?;
        Some(Port {
            uart,
            irq,
            wants_room: false,
        })
    }
}

impl SerialLine for Port {
    fn receive(&mut self, room: usize, sink: &mut dyn FnMut(u8)) {
        for _ in 0..room {
            let Ok(byte) = self.uart.try_receive_byte() else {
                return;
            };
            sink(byte);
        }
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.uart.send_bytes(bytes)
    }

    fn want_room(&mut self, wanted: bool) {
        if wanted == self.wants_room {
            return;
        }
        self.wants_room = wanted;
        if wanted {
            self.uart.enable_interrupts(IER::THR_EMPTY);
        } else {
            self.uart.disable_interrupts(IER::THR_EMPTY);
        }
    }

    fn is_pending(&mut self) -> bool {
        // Bit 0 of the interrupt identification is 0 while one is pending (16550 data sheet, IIR).
        self.uart.isr().bits() & 1 == 0
    }

    fn acknowledge(&mut self) {
        if let Some(irq) = &self.irq {
            // An interrupt that can't be acknowledged leaves polling, which goes on in any case.
            let _ = irq.acknowledge();
        }
    }
}
