//! The loader with a kernel that is not ours: one written from the protocol's text alone, which checks what it was given.

use std::time::Duration;

use anyhow::Result;

use super::lab::Lab;
use super::{Job, protocol};
use crate::cargo::{self, Profile, UEFI};
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::image::{CONFIG, LOADER};
use crate::initrd::Files;
use crate::play::Over;
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_secs(90);

/// On machines of several sizes.
pub fn jobs() -> Vec<Job> {
    [(1, "max"), (4, "qemu64"), (2, "Skylake-Client")]
        .into_iter()
        .map(|(cpus, cpu)| {
            let name = format!("foreign/{cpus}");
            Job::new(
                name.clone(),
                |lab| lab.foreign().map(drop),
                move |lab| boot(lab, &name, cpus, cpu),
            )
        })
        .collect()
}

fn boot(lab: &Lab, name: &str, cpus: u32, cpu: &str) -> Result<Outcome> {
    let loader = cargo::artefact(&lab.ws, UEFI, Profile::Release, "bootx64.efi");
    let folder = lab.ws.root.join("boot/foreign");
    let files = Files::from([
        (LOADER.into(), std::fs::read(loader)?),
        (CONFIG.into(), std::fs::read(folder.join("limine.conf"))?),
        ("foreign/kernel".into(), lab.foreign()?.clone()),
        (
            "foreign/module.txt".into(),
            std::fs::read(folder.join("module.txt"))?,
        ),
    ]);
    let image = lab.image(name, &files)?;
    let played = lab.play(
        name,
        &lab.machine(image, cpus, cpu),
        Feeder::default(),
        LIMIT,
        |_| false,
    )?;
    let mut outcome = protocol::judge(played.transcript().lines());
    if !matches!(
        played.over,
        Over::Ended(Ending::PoweredOff | Ending::DebugExit(_))
    ) {
        outcome.fail(format!(
            "the kernel did not end the machine: {}",
            played.over
        ));
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}
