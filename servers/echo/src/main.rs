//! The echo server: finds its endpoint in the start block as `echo`, and serves.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use rt::start;

rt::entry!(run);

fn run() -> Result<(), String> {
    let endpoint = start::take("echo").map_err(|error| format!("{error}"))?;
    let error = echo::serve(
        &endpoint,
        echo::Echo {
            argument: start::argument().into(),
        },
    );
    Err(format!("can't serve: {error}"))
}
