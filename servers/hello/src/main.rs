//! The program to try `run` with: writes its greeting to the console if it was given one, else to the log, and ends.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use rt::interfaces::console::Client;
use rt::{start, time};

rt::entry!(run);

/// How long the console may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn run() -> Result<(), String> {
    let text = hello::text(start::argument());
    if let Ok(console) = start::take::<Client>("console") {
        let written = console.write(text.as_bytes(), time::after(PATIENCE));
        return written.map_err(|error| format!("console: {error}"));
    }
    for line in text.lines() {
        log::info!("{line}");
    }
    Ok(())
}
