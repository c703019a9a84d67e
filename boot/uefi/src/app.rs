//! The program from its entry to the jump or the message.

use crate::{console, files, load, say};
use alloc::string::ToString;
use boot_core::config::{Config, MESSAGE_TENTHS, Timeout};
use boot_core::error::{BootError, InFile};
use core::convert::Infallible;
use core::sync::atomic::{AtomicU64, Ordering};
use uefi::prelude::*;

/// The time-stamp counter at the first line.
static BEGAN: AtomicU64 = AtomicU64::new(0);

/// Ticks of the time-stamp counter since the first line: what the loader took, in whatever unit the machine counts.
pub fn ticks() -> u64 {
    read_counter().wrapping_sub(BEGAN.load(Ordering::Relaxed))
}

fn read_counter() -> u64 {
    // SAFETY: RDTSC has no effect but its result, and UEFI runs at the highest privilege.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[entry]
fn main() -> Status {
    console::init();
    BEGAN.store(read_counter(), Ordering::Relaxed);
    say!(
        "switchyard boot: version {}, UEFI {}",
        env!("CARGO_PKG_VERSION"),
        system::uefi_revision()
    );
    // The firmware resets the machine 5 minutes after it started a boot option (UEFI specification 2.10 §3.1.2); a
    // kernel that takes its time must not be caught by that. Some firmware has no such timer, which is as good.
    let _ = boot::set_watchdog_timer(0, 0x1_0000, None);

    let mut patience = MESSAGE_TENTHS;
    let Err(error) = boot_default(&mut patience);
    say!("switchyard boot: error: {error}");
    if patience > 0 {
        say!(
            "switchyard boot: returning to the firmware in {} s, or at a key",
            patience / 10
        );
        console::wait_for_key(Some(patience));
    }
    Status::LOAD_ERROR
}

/// Boots the default entry of the first configuration file found. Sets `patience` to what the configuration says of
/// messages, in tenths of a second.
fn boot_default(patience: &mut u32) -> Result<Infallible, BootError> {
    let found = files::find_config()?;
    say!(
        "switchyard boot: configuration {} on {}",
        found.path,
        found.volume.name()
    );
    *patience = Config::message_tenths(&found.contents);
    let config = Config::parse(&found.contents).in_file(&found.path)?;
    if config.quiet {
        console::be_quiet();
    }
    for warning in &config.warnings {
        say!("switchyard boot: warning: {}: {warning}", found.path);
    }
    let entry = config.default_entry().in_file(&found.path)?;
    match config.timeout {
        Timeout::Seconds(0) => {}
        Timeout::Seconds(seconds) => {
            say!(
                "switchyard boot: '{}' in {seconds} s, or at a key",
                entry.name
            );
            console::wait_for_key(Some(seconds.saturating_mul(10)));
        }
        Timeout::Never => {
            say!("switchyard boot: '{}' at a key", entry.name);
            console::wait_for_key(None);
        }
    }
    load::boot(&config, &found.volume, &entry)
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
