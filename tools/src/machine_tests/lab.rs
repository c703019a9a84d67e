//! What all machine tests share: the firmware, and the files and images they boot, each built once, when first asked for.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::accel::Accel;
use crate::cargo::{self, BARE, Profile};
use crate::feeder::Feeder;
use crate::firmware::{self, Firmware};
use crate::image::{self, Plan};
use crate::initrd::Files;
use crate::machine::{OnReset, Qemu, Spec};
use crate::play::{Played, play};
use crate::qemu10;
use crate::transcript::Transcript;
use crate::workspace::Workspace;

/// A thing that is made once; the error of a failed attempt is kept for all who ask.
type Once<T> = OnceLock<Result<T, String>>;

fn once<T>(cell: &Once<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    cell.get_or_init(|| make().map_err(|e| format!("{e:#}")))
        .as_ref()
        .map_err(|e| anyhow!("{e}"))
}

/// The shared things.
#[derive(Debug)]
pub struct Lab {
    /// The workspace.
    pub ws: Workspace,
    firmware: Firmware,
    product: Once<Files>,
    tests: Once<PathBuf>,
    foreign: Once<Vec<u8>>,
    qemu10: Once<Qemu>,
}

impl Lab {
    /// A lab with nothing built yet.
    ///
    /// # Errors
    /// If the firmware is missing.
    pub fn new(ws: Workspace) -> Result<Self> {
        Ok(Self {
            ws,
            firmware: firmware::find().context("no OVMF firmware found (./justw setup)")?,
            product: OnceLock::new(),
            tests: OnceLock::new(),
            foreign: OnceLock::new(),
            qemu10: OnceLock::new(),
        })
    }

    /// The product's files, as they go into its image.
    ///
    /// # Errors
    /// If they can't be built.
    pub fn product(&self) -> Result<&Files> {
        once(&self.product, || {
            cargo::build_system(&self.ws, Profile::Release)?;
            image::contents(&self.ws, &Plan::product())
        })
    }

    /// The image of the test programs.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn tests(&self) -> Result<&PathBuf> {
        once(&self.tests, || {
            image::make(&self.ws, &Plan::tests("tests"), "test")
        })
    }

    /// The foreign test kernel's file.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn foreign(&self) -> Result<&Vec<u8>> {
        once(&self.foreign, || {
            cargo::build(&self.ws, BARE, Profile::Release, &["boot-foreign"])?;
            cargo::build_loader(&self.ws)?;
            let path = cargo::artefact(&self.ws, BARE, Profile::Release, "boot-foreign");
            cargo::read_stripped(&self.ws, &path)
        })
    }

    /// A QEMU whose TCG has x2APIC.
    ///
    /// # Errors
    /// If there is none to be had here, and why.
    pub fn qemu10(&self) -> Result<&Qemu> {
        once(&self.qemu10, || {
            qemu10::get(&self.ws.root.join(".tools/qemu10"))
        })
    }

    /// An image of `files` for the test `name`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn image(&self, name: &str, files: &Files) -> Result<PathBuf> {
        let path = self
            .ws
            .build
            .join("cases")
            .join(format!("{}.img", name.replace('/', "-")));
        image::write_if_changed(&path, files)?;
        Ok(path)
    }

    /// A machine of this lab: TCG, 512 MiB, ends at a reset.
    pub fn machine(&self, image: PathBuf, cpus: u32, cpu: &str) -> Spec {
        Spec {
            qemu: Qemu::system(),
            firmware: self.firmware.clone(),
            image,
            cpus,
            mem: "512M".into(),
            cpu: cpu.into(),
            accel: Accel::Tcg,
            accel_options: "",
            display: "none".into(),
            icount: false,
            on_reset: OnReset::End,
        }
    }

    /// Plays a session and keeps its transcript as `build/logs/NAME.log`.
    ///
    /// # Errors
    /// As [`play`].
    pub fn play(
        &self,
        name: &str,
        spec: &Spec,
        feeder: Feeder,
        limit: Duration,
        stop: impl Fn(&Transcript) -> bool,
    ) -> Result<Played> {
        let played = play(spec, feeder, limit, stop)?;
        let folder = self.ws.build.join("logs");
        let mut log = played.transcript().lines().join("\n");
        log.push('\n');
        log.push_str(&played.transcript().current());
        std::fs::create_dir_all(&folder)
            .and_then(|()| {
                std::fs::write(folder.join(format!("{}.log", name.replace('/', "-"))), log)
            })
            .context("build/logs")?;
        Ok(played)
    }
}
