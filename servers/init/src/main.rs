//! `init`: finds its handles, reads the manifest that the command line names, and supervises.

#![cfg_attr(target_env = "musl", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::start::init::{INITRD, LOG, SYSTEM};
use init::instance::expand;
use init::manifest::{INIT_ENDPOINT, Manifest};
use init::options::{self, manifest_name};
use init::supervise::Supervisor;
use init::wiring::Stores;
use rt::archive::Archive;
use rt::{Endpoint, Log, Memory, Priority, System, Thread, start};

rt::entry!(run);

/// The supervisor's own priority; a manifest's services should stay below.
const PRIORITY: Priority = Priority::HIGHEST;

/// Says that nothing can be started and why; the kernel then reports the end of `init` as a failure of the machine.
fn run() -> Result<(), String> {
    boot().map_err(|error| format!("nothing can be started: {error}"))
}

fn boot() -> Result<(), String> {
    let log: Log = start::take(LOG).map_err(|error| format!("{error}"))?;
    let system: System = start::take(SYSTEM).map_err(|error| format!("{error}"))?;
    let initrd: Memory = start::take(INITRD).map_err(|error| format!("{error}"))?;
    let bytes = start::value(INITRD).map_err(|error| format!("{error}"))?;
    let archive = Archive::map(&initrd, bytes).map_err(|error| format!("initrd: {error}"))?;

    let name = manifest_name(start::argument())
        .map_err(|name| format!("manifest={name}: not a manifest's name"))?;
    let file = format!("{name}.toml");
    let text = archive
        .find(&file)
        .ok_or_else(|| format!("{file}: no such file in the initrd"))?;
    let mut manifest = Manifest::parse(text).map_err(|error| format!("{file}: {error}"))?;
    for service in &mut manifest.services {
        if let Some(value) = options::value(start::argument(), &service.option) {
            service.arguments.push(' ');
            service.arguments.push_str(value);
        }
    }
    for problem in &manifest.problems {
        log::error!("{file}: {problem}");
    }
    let cpus: Vec<u32> = system
        .cpus()
        .map_err(|error| format!("can't list the CPUs: {error}"))?
        .iter()
        .map(|cpu| cpu.index)
        .collect();
    let (instances, problems) = expand(&manifest, &cpus);
    for problem in &problems {
        log::error!("{file}: {problem}");
    }
    if instances.is_empty() {
        return Err(format!("{file}: no service is in order"));
    }
    log::info!(
        "{file}: {} services on {} CPUs",
        instances.len(),
        cpus.len()
    );

    let kernel = |error| format!("{error}");
    // Above all that it supervises, so that no program that spins keeps it from its work.
    let raised = Thread::current().and_then(|thread| thread.set_priority(PRIORITY));
    raised.map_err(|error| format!("can't raise its priority: {error}"))?;
    let endpoint = Endpoint::create().map_err(kernel)?;
    let mut stores = Stores::new(archive, initrd, bytes, system, log);
    let own = endpoint.duplicate(abi::Rights::ALL).map_err(kernel)?;
    stores.endpoints.insert(INIT_ENDPOINT.into(), (own, false));
    let mut supervisor = Supervisor::new(stores, manifest, instances).map_err(kernel)?;
    supervisor.start_due();
    if supervisor.alive() == 0 {
        return Err(format!("{file}: none of its services could be started"));
    }
    Err(format!("can't serve: {}", supervisor.serve(&endpoint)))
}
