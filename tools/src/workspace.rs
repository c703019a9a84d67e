//! What the workspace holds, asked of cargo: the root, the target folder, and the programs under `servers/`.
//!
//! Servers are found, not listed: a new folder in `servers/` is built and packed without a word here. A server that only
//! tests need, or that is a 32-bit program, says so in its own `Cargo.toml`:
//!
//! ```toml
//! [package.metadata.initrd]
//! archive = "test"
//! target = "i686-unknown-linux-gnu"
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};

use crate::cargo::{USER, USER32};

/// The program the kernel loads by itself; it lies beside the initrd, not in it.
pub const INIT: &str = "init";

/// The targets of user programs.
pub const USER_TARGETS: [&str; 2] = [USER, USER32];

/// Which archive a program belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    /// Every image.
    Product,
    /// The test image only.
    Test,
}

/// A user program: one binary of a package in `servers/`.
#[derive(Clone, Debug)]
pub struct Program {
    /// Package that builds it.
    pub package: String,
    /// Name of the binary, and of its file in the archive's `bin/`.
    pub name: String,
    /// Where it is packed.
    pub archive: Archive,
    /// What it is built for: one of [`USER_TARGETS`].
    pub target: &'static str,
}

impl Program {
    /// Whether an image of this kind needs the program.
    pub fn is_in(&self, archive: Archive) -> bool {
        archive == Archive::Test || self.archive == Archive::Product
    }
}

/// The workspace as cargo sees it.
#[derive(Debug)]
pub struct Workspace {
    /// The repository's root.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// Where images and results go.
    pub build: PathBuf,
    /// User programs, sorted by name; [`INIT`] among them.
    pub programs: Vec<Program>,
    /// Everything else cargo said.
    pub metadata: Metadata,
}

impl Workspace {
    /// Asks `cargo metadata` about the workspace of the current folder.
    ///
    /// # Errors
    /// If cargo can't be run, or a server's `metadata.initrd.archive` is a word that is not known.
    pub fn find() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .no_deps()
            .exec()
            .context("cargo metadata")?;
        let root = metadata.workspace_root.clone().into_std_path_buf();
        let mut programs = Vec::new();
        for package in &metadata.packages {
            if !package.manifest_path.starts_with(root.join("servers")) {
                continue;
            }
            let archive = archive_of(package)?;
            let built_for = target_of(package)?;
            for target in package.targets.iter().filter(|t| is_bin(t)) {
                programs.push(Program {
                    package: package.name.to_string(),
                    name: target.name.clone(),
                    archive,
                    target: built_for,
                });
            }
        }
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = programs.windows(2).find(|w| w[0].name == w[1].name) {
            bail!("two programs in servers/ are called '{}'", twice[0].name);
        }
        ensure!(
            programs.iter().any(|p| p.name == INIT),
            "there is no program '{INIT}' in servers/"
        );
        Ok(Self {
            build: root.join("build"),
            target: metadata.target_directory.clone().into_std_path_buf(),
            root,
            programs,
            metadata,
        })
    }
}

impl Workspace {
    /// The packages of the programs that are built for `target` and that `wanted` says yes to.
    pub fn packages_for(&self, target: &str, wanted: impl Fn(&Program) -> bool) -> Vec<&str> {
        let mut packages: Vec<&str> = self
            .programs
            .iter()
            .filter(|program| program.target == target && wanted(program))
            .map(|program| program.package.as_str())
            .collect();
        packages.dedup();
        packages
    }
}

/// Whether cargo builds a program from this target.
pub fn is_bin(target: &cargo_metadata::Target) -> bool {
    target.kind.contains(&TargetKind::Bin)
}

fn archive_of(package: &Package) -> Result<Archive> {
    match package.metadata["initrd"]["archive"].as_str() {
        None | Some("product") => Ok(Archive::Product),
        Some("test") => Ok(Archive::Test),
        Some(other) => bail!(
            "{}: metadata.initrd.archive is '{other}'; it may be 'product' or 'test'",
            package.manifest_path
        ),
    }
}

fn target_of(package: &Package) -> Result<&'static str> {
    match package.metadata["initrd"]["target"].as_str() {
        None => Ok(USER),
        Some(name) => USER_TARGETS
            .into_iter()
            .find(|target| *target == name)
            .with_context(|| {
                format!(
                    "{}: metadata.initrd.target is '{name}'; it may be one of {USER_TARGETS:?}",
                    package.manifest_path
                )
            }),
    }
}
