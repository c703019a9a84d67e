//! The program from its entry to the jump or the message.

use crate::front::Uefi;
use crate::memory::{Pages, kind_of};
use crate::{console, say};
use alloc::string::ToString;
use boot_core::addr::{PAGE_SIZE, PhysAddr};
use boot_core::load::{MACHINE, Prepared};
use boot_core::memmap::Region;
use boot_core::response::EfiMapFacts;
use boot_core::session;
use uefi::mem::memory_map::{MemoryMap, MemoryMapOwned, MemoryType};
use uefi::prelude::*;

#[entry]
fn main() -> Status {
    console::init();
    let mut front = Uefi {
        began: boot_machine::time_stamp(),
    };
    say!(
        "switchyard boot: version {}, UEFI {}",
        env!("CARGO_PKG_VERSION"),
        system::uefi_revision()
    );
    // The firmware resets the machine 5 minutes after it started a boot option (UEFI specification 2.10 §3.1.2); a
    // kernel that takes its time must not be caught by that. Some firmware has no such timer, which is as good.
    let _ = boot::set_watchdog_timer(0, 0x1_0000, None);

    let failed = match session::run(&mut front) {
        Ok(prepared) => leave(prepared),
        Err(failed) => failed,
    };
    say!("switchyard boot: error: {}", failed.error);
    if failed.patience > 0 {
        say!(
            "switchyard boot: returning to the firmware in {} s, or at a key",
            failed.patience / 10
        );
        console::wait_for_key(Some(failed.patience));
    }
    Status::LOAD_ERROR
}

/// Ends boot services and starts the kernel: no allocation, no return.
fn leave(mut prepared: Prepared<Pages>) -> ! {
    // SAFETY: no protocol, event or pool string is held here; what the heap holds is used until the jump and never
    // freed. The console's flag is set below, before anything could print.
    let map = unsafe { boot::exit_boot_services(Some(MemoryType::LOADER_DATA)) };
    console::firmware_has_left();
    boot_machine::disable_interrupts();

    let revision = prepared.revision();
    let descriptors = map.entries().map(|d| Region {
        base: d.phys_start,
        end: d
            .phys_start
            .saturating_add(d.page_count.saturating_mul(PAGE_SIZE)),
        kind: kind_of(d).kind(revision),
    });
    let code = boot_machine::routine_page();
    match prepared.complete(descriptors, Some(facts_of(&map)), code) {
        // SAFETY: UEFI runs programs in long mode at CPL 0 with memory and devices at their physical addresses, four levels
        // of paging were checked for, boot services have ended and interrupts are off. What was prepared stays: nothing
        // returns from here.
        Ok(start) => unsafe { boot_machine::start(&start, prepared.acpi()) },
        Err(fault) => {
            console::emergency(format_args!("switchyard boot: error: {MACHINE}: {fault}\n"));
            console::halt_or_reset()
        }
    }
}

fn facts_of(map: &MemoryMapOwned) -> EfiMapFacts {
    let meta = map.meta();
    EfiMapFacts {
        address: PhysAddr(map.buffer().as_ptr() as u64),
        size: meta.map_size as u64,
        descriptor_size: meta.desc_size as u64,
        descriptor_version: meta.desc_version.into(),
    }
}

/// A panic is a fault of this loader, not of what it was given.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::emergency(format_args!(
        "switchyard boot: internal error: {}\n",
        info.message()
    ));
    if let Some(place) = info.location() {
        console::emergency(format_args!("switchyard boot: at {place}\n"));
    }
    console::halt_or_reset()
}

/// The firmware's words for a failed call.
pub fn status_text(error: &uefi::Error<impl core::fmt::Debug>) -> alloc::string::String {
    error.status().to_string()
}
