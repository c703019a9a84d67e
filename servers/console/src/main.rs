//! The console server: finds its devices in the start block, takes the log over, and serves.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use console::serial::{NoLine, Port, SerialLine};
use console::server::Console;
use console::terminal::Terminal;
use rt::interfaces::console::{HANDLES, Server};
use rt::{Endpoint, Error, Event, IoPorts, Irq, Log, Memory, Notification, Protection, start};
use screen::{Cell, Geometry, MappedSurface, PixelFormat, Screen};

rt::entry!(run);

/// Where the PC's first serial port is, and what it interrupts.
const PORT: u16 = 0x3F8;
const PORTS_ENTRY: &str = "ports.3f8";
const IRQ_ENTRY: &str = "irq.4";
/// The notification's bits.
const INTERRUPT: u64 = 1 << 0;
const LOG_GREW: u64 = 1 << 1;

fn run() -> Result<(), String> {
    let endpoint: Endpoint = start::take("console").map_err(|error| format!("{error}"))?;
    let events =
        Notification::create().map_err(|error| format!("can't make a notification: {error}"))?;
    events
        .bind()
        .map_err(|error| format!("can't bind the notification: {error}"))?;
    let terminal = open_screen();
    let error = match open_port(&events) {
        Some((port, polled)) => serve(&endpoint, &events, Console::new(port, terminal, polled)),
        None => serve(&endpoint, &events, Console::new(NoLine, terminal, false)),
    };
    Err(format!("can't serve: {error}"))
}

/// The serial port, and whether it must be polled; `None` if there is none or it was not given.
fn open_port(events: &Notification) -> Option<(Port, bool)> {
    let ports: IoPorts = start::take(PORTS_ENTRY).ok()?;
    if let Err(error) = ports.enable() {
        log::warn!("can't use the serial port: {error}");
        return None;
    }
    // The ports stay enabled for the process's life: closing the handle must not take them away.
    let _ = ports.into_handle().into_raw();
    let irq: Option<Irq> = start::take(IRQ_ENTRY).ok();
    let bound = irq.as_ref().map(|irq| irq.bind(events, INTERRUPT));
    if let Some(Err(error)) = bound {
        log::warn!("can't use the serial port's interrupt: {error}");
    }
    let polled = !matches!(bound, Some(Ok(())));
    // SAFETY: the manifest gave this process the eight ports from PORT on, and they are enabled.
    let port = unsafe { Port::open(PORT, irq) };
    if port.is_none() {
        log::info!("this machine has no serial port");
    }
    port.map(|port| (port, polled))
}

/// The screen, `None` on a machine without one.
fn open_screen() -> Option<Terminal<'static, MappedSurface>> {
    let memory: Memory = start::take("framebuffer").ok()?;
    let number = |name: &str| {
        start::value(name)
            .ok()
            .and_then(|value| usize::try_from(value).ok())
    };
    let [red_shift, green_shift, blue_shift, ..] =
        start::value("framebuffer.shifts").ok()?.to_le_bytes();
    let geometry = Geometry {
        width: number("framebuffer.width")?,
        height: number("framebuffer.height")?,
        pitch_bytes: number("framebuffer.pitch")?,
        format: PixelFormat {
            red_shift,
            green_shift,
            blue_shift,
        },
    };
    let mapping = match memory.map(Protection::READ_WRITE) {
        Ok(mapping) => mapping,
        Err(error) => {
            log::warn!("can't map the framebuffer: {error}");
            return None;
        }
    };
    let pixels = mapping.bytes() / size_of::<u32>();
    let count = Screen::<MappedSurface>::cells_for(geometry.width, geometry.height);
    let cells = alloc::vec![Cell::BLANK; count].leak();
    // SAFETY: mapped writable for as long as the process lives (it is leaked), page-aligned, and nobody else's.
    let surface = unsafe { MappedSurface::new(mapping.leak().cast(), pixels) };
    match Screen::new(surface, geometry, cells) {
        Ok(screen) => Some(Terminal::new(screen)),
        Err(error) => {
            log::warn!("{error}");
            None
        }
    }
}

/// Takes the log over and serves until the endpoint fails; returns why.
fn serve<L: SerialLine>(
    endpoint: &Endpoint,
    events: &Notification,
    mut console: Console<'static, L, MappedSurface>,
) -> Error {
    match start::take::<Log>("log") {
        Ok(log) => {
            console.show_past_log(log);
            if let Some(Err(error)) = console.log().map(|log| log.take(events, LOG_GREW)) {
                log::warn!("can't take the log over: {error}");
            }
            console.pump_log();
        }
        Err(error) => log::warn!("{error}"),
    }
    let mut answer = None;
    loop {
        let deadline = console.tick(answer.is_some());
        match endpoint.serve_next(answer.take(), HANDLES, deadline) {
            Ok(Event::Message(message)) => answer = console.dispatch(message),
            Ok(Event::Notification(bits)) => {
                if bits & INTERRUPT != 0 {
                    console.interrupted();
                }
                if bits & LOG_GREW != 0 {
                    console.pump_log();
                }
            }
            Err(Error::TimedOut | Error::Cancelled) => {}
            Err(error) => return error,
        }
    }
}
