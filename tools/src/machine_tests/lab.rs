//! What all machine tests share: the firmware, and the files and images they boot, each built once, when first asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::accel::Accel;
use crate::cargo::{self, BARE, Profile, UEFI};
use crate::config::with_options;
use crate::feeder::Feeder;
use crate::firmware::{self, Firmware};
use crate::image::{self, Plan};
use crate::initrd::Files;
use crate::machine::{OnReset, Qemu, Spec, Start};
use crate::play::{Played, play};
use crate::qemu10;
use crate::run::Way;
use crate::transcript::Transcript;
use crate::workspace::{Archive, Workspace};
use crate::{bios, direct};

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
    /// Words at the end of the command line of kernels that run test programs.
    cmdline: String,
    firmware: Firmware,
    product: Once<Files>,
    tests: Once<Files>,
    loader: Once<Vec<u8>>,
    multiboot: Once<Vec<u8>>,
    foreign: Mutex<BTreeMap<String, Vec<u8>>>,
    qemu10: Once<Qemu>,
}

impl Lab {
    /// A lab with nothing built yet. `cmdline`: more words for kernels that run test programs.
    ///
    /// # Errors
    /// If the firmware is missing.
    pub fn new(ws: Workspace, cmdline: &str) -> Result<Self> {
        Ok(Self {
            ws,
            cmdline: cmdline.to_owned(),
            firmware: firmware::find().context("no OVMF firmware found (./justw setup)")?,
            product: OnceLock::new(),
            tests: OnceLock::new(),
            loader: OnceLock::new(),
            multiboot: OnceLock::new(),
            foreign: Mutex::default(),
            qemu10: OnceLock::new(),
        })
    }

    /// The product's files, as they go into its image.
    ///
    /// # Errors
    /// If they can't be built.
    pub fn product(&self) -> Result<&Files> {
        once(&self.product, || {
            cargo::build_system(&self.ws, Profile::Release, Archive::Product)?;
            image::contents(&self.ws, &Plan::product())
        })
    }

    /// The files of the test programs' image.
    ///
    /// # Errors
    /// If they can't be built.
    pub fn tests(&self) -> Result<&Files> {
        once(&self.tests, || {
            let files = image::build(&self.ws, &Plan::tests("tests"))?;
            with_options(&files, &self.cmdline)
        })
    }

    /// The loader for machines without UEFI.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn multiboot(&self) -> Result<&Vec<u8>> {
        once(&self.multiboot, || {
            cargo::build_loader(&self.ws)?;
            image::multiboot_loader(&self.ws)
        })
    }

    /// The files of an image of the test programs that starts those of another manifest, `initrd/MANIFEST.toml`.
    ///
    /// # Errors
    /// If they can't be built.
    pub fn tests_of(&self, manifest: &str) -> Result<Files> {
        self.tests_with(&format!("manifest={manifest}"))
    }

    /// The same with a kernel command line.
    ///
    /// # Errors
    /// If they can't be built.
    pub fn tests_with(&self, cmdline: &str) -> Result<Files> {
        self.tests()?;
        let plan = Plan {
            cmdline: Some(format!("{cmdline} {}", self.cmdline).trim_end().to_owned()),
            ..Plan::tests("tests")
        };
        image::contents(&self.ws, &plan)
    }

    /// The loader.
    ///
    /// # Errors
    /// If it can't be built.
    pub fn loader(&self) -> Result<&Vec<u8>> {
        once(&self.loader, || {
            cargo::build_loader(&self.ws)?;
            let path = self.loader_file();
            std::fs::read(&path).with_context(|| path.display().to_string())
        })
    }

    /// Where the loader is once it is built.
    pub fn loader_file(&self) -> PathBuf {
        cargo::artefact(&self.ws, UEFI, Profile::Release, "bootx64.efi")
    }

    /// The foreign test kernel, built with a feature of its package, or with none if that is empty.
    ///
    /// # Errors
    /// If they can't be built.
    pub fn foreign(&self, feature: &str) -> Result<Vec<u8>> {
        let mut built = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = built.get(feature) {
            return Ok(bytes.clone());
        }
        // The workspace's kernels are static; this one variant is to be relocated by the loader.
        let flags =
            (feature == "pie").then_some("-C relocation-model=pie -C force-frame-pointers=yes");
        // Every feature makes the same file anew, so it is read before the next one is built.
        let packages = ["boot-foreign"];
        cargo::build_with(&self.ws, BARE, Profile::Release, &packages, feature, flags)?;
        let path = cargo::artefact(&self.ws, BARE, Profile::Release, "foreign");
        let bytes = cargo::read_stripped(&self.ws, &path)?;
        built.insert(feature.to_owned(), bytes.clone());
        Ok(bytes)
    }

    /// A QEMU whose TCG has x2APIC.
    ///
    /// # Errors
    /// If there is none to be had here, and why.
    pub fn qemu10(&self) -> Result<&Qemu> {
        once(&self.qemu10, || {
            qemu10::get(&self.ws.root.join(qemu10::FOLDER))
        })
    }

    /// A start in the given way with `files`, for the test `name`.
    ///
    /// # Errors
    /// If the files can't be written, or there are no tools to make a BIOS image.
    pub fn start(&self, way: Way, name: &str, files: &Files) -> Result<Start> {
        match way {
            Way::Uefi => self.uefi(name, files),
            Way::Bios => self.bios(name, files),
            Way::Direct => self.direct(name, files),
        }
    }

    /// UEFI with an image of `files`, for the test `name`. Tests that share their files may share a name.
    ///
    /// # Errors
    /// If the image can't be written.
    pub fn uefi(&self, name: &str, files: &Files) -> Result<Start> {
        let image = self.case(name, "img");
        image::write_if_changed(&image, files)?;
        Ok(Start::Uefi {
            firmware: self.firmware.clone(),
            image,
            loader: None,
        })
    }

    /// A BIOS with a CD of `files`, for the test `name`.
    ///
    /// # Errors
    /// If the image can't be written.
    pub fn bios(&self, name: &str, files: &Files) -> Result<Start> {
        let image = self.case(name, "iso");
        bios::write_if_changed(&image, self.multiboot()?, files)?;
        Ok(Start::Bios { image })
    }

    /// A start by QEMU itself with `files`, for the test `name`: the fastest, for tests of what comes after the loader.
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn direct(&self, name: &str, files: &Files) -> Result<Start> {
        let folder = self.case(name, "files");
        direct::write(&folder, self.multiboot()?, files).map(Start::Direct)
    }

    fn case(&self, name: &str, kind: &str) -> PathBuf {
        let file = format!("{}.{kind}", name.replace('/', "-"));
        self.ws.build.join("cases").join(file)
    }

    /// A machine of this lab: TCG, 512 MiB, ends at a reset.
    pub fn machine(&self, start: Start, cpus: u32, cpu: &str) -> Spec {
        Spec {
            qemu: Qemu::system(),
            start,
            cpus,
            mem: "512M".into(),
            cpu: cpu.into(),
            accel: Accel::Tcg,
            accel_options: "",
            display: "none".into(),
            graphics: true,
            devices: &[],
            serial: true,
            icount: false,
            on_reset: OnReset::End,
        }
    }

    /// Plays a session to its end and keeps its transcript as `build/logs/NAME.log`.
    ///
    /// # Errors
    /// If QEMU can't be run or the log can't be written.
    pub fn play(
        &self,
        name: &str,
        spec: &Spec,
        feeder: Feeder,
        limit: Duration,
        stop: impl Fn(&Transcript) -> bool,
    ) -> Result<Played> {
        let played = play(spec, feeder, limit, stop)?;
        self.keep(name, &played)?;
        Ok(played)
    }

    /// Keeps a session's transcript as `build/logs/NAME.log`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep(&self, name: &str, played: &Played) -> Result<()> {
        self.keep_log(name, played.transcript())
    }

    /// Keeps a transcript as `build/logs/NAME.log`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep_log(&self, name: &str, transcript: &Transcript) -> Result<()> {
        let folder = self.ws.build.join("logs");
        let mut log = transcript.lines().join("\n");
        log.push('\n');
        log.push_str(&transcript.current());
        std::fs::create_dir_all(&folder)
            .and_then(|()| {
                std::fs::write(folder.join(format!("{}.log", name.replace('/', "-"))), log)
            })
            .context("build/logs")
    }
}
