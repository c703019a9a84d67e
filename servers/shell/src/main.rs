//! The shell: greets, then serves one session for ever, also over a restart of the console.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

use alloc::string::String;
use core::time::Duration;

use rt::time;
use shell::machine::Machine;
use shell::session::Session;
use shell::show;
use shell::world::World;

rt::entry!(run);

/// How long to wait for a console that is gone.
const RETRY: Duration = Duration::from_millis(100);

fn run() -> Result<(), String> {
    let mut machine = Machine::take()?;
    if let Ok(Some(greeting)) = machine.file("motd") {
        machine.write(&show::file("motd", &greeting));
    }
    let mut session = Session::start(&mut machine);
    loop {
        if session.turn(&mut machine).is_err() {
            // A cancelled sleep only means an earlier try.
            let _ = time::sleep(RETRY);
            session.again(&mut machine);
        }
    }
}
