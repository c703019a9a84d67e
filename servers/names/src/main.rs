//! The names server: finds its endpoint in the start block as `names`, the public endpoints as `public.NAME`, and serves.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use rt::start;

rt::entry!(run);

fn run() -> Result<(), String> {
    let endpoint = start::take("names").map_err(|error| format!("{error}"))?;
    let server = names::Names::from_start_block();
    log::info!("{} public names", server.count());
    let error = names::serve(&endpoint, server);
    Err(format!("can't serve: {error}"))
}
