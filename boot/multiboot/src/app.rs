//! The program from its first line to the jump or the message.

use crate::front::Pc;
use crate::memory::{Pages, Reach, init_heap};
use crate::{console, fault, say};
use boot_core::addr::PhysAddr;
use boot_core::error::{BootError, InFile};
use boot_core::load::{MACHINE, Prepared};
use boot_core::multiboot::{Display, Info};
use boot_core::session;
use core::arch::asm;
use core::convert::Infallible;

/// Everything after the change to long mode. `info` is the address of what the Multiboot loader has to say.
pub extern "C" fn main(info: u32) -> ! {
    // SAFETY: the entry code calls this once, and nothing came before.
    unsafe { init_heap() };
    fault::init();
    console::init();
    let Err(error) = boot(PhysAddr(info.into()));
    console::be_seen();
    say!("switchyard boot: error: {error}");
    stand_still()
}

fn boot(info: PhysAddr) -> Result<Infallible, BootError> {
    let began = boot_machine::time_stamp();
    let info = Info::read(&Reach, info).in_file(MACHINE)?;
    match &info.display {
        Display::Text => {}
        Display::Linear(facts) => console::on_framebuffer(facts, true),
        Display::Other => console::blind(),
    }
    say!(
        "switchyard boot: version {}, Multiboot by {}",
        env!("CARGO_PKG_VERSION"),
        if info.loader.is_empty() {
            "a loader without a name"
        } else {
            &info.loader
        }
    );
    let mut front = Pc::new(began, info)?;
    let prepared = session::run(&mut front).map_err(|failed| failed.error)?;
    leave(&front, prepared)
}

/// Starts the kernel.
fn leave(front: &Pc, mut prepared: Prepared<Pages>) -> Result<Infallible, BootError> {
    let regions = front.final_regions();
    let start = prepared
        .complete(regions.into_iter(), None, boot_machine::routine_page())
        .in_file(MACHINE)?;
    // SAFETY: the entry code left long mode with four levels of paging and the first 4 GiB at their own addresses, this
    // program and all devices' registers among them; interrupts have been off since the first instruction, and there is
    // no firmware to answer to. What was prepared stays: nothing returns from here.
    unsafe { boot_machine::start(&start, prepared.acpi()) }
}

/// The end of the road. There is no firmware to go back to, and a machine that started anew would take the message with it.
pub fn stand_still() -> ! {
    console::emergency(format_args!(
        "switchyard boot: the machine stands still; restart it"
    ));
    loop {
        // SAFETY: with interrupts off this stops the CPU for good; it touches nothing.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// A panic is a fault of this loader, not of what it was given.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::emergency(format_args!(
        "switchyard boot: internal error: {}",
        info.message()
    ));
    if let Some(place) = info.location() {
        console::emergency(format_args!("switchyard boot: at {place}"));
    }
    stand_still()
}
