//! The command line of the host program; the recipes in the `justfile` call it. See the library for what it does.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use tools::cargo::{self, Profile};
use tools::report::{Counts, Outcome};
use tools::run::{Options, bios_name, plan};
use tools::workspace::{Archive, Workspace};
use tools::{
    bench, fuzz, grind, host_tests, image, lint, machine_tests, reference, run, screenshot, setup,
};

/// Builds, runs, tests and measures Switchyard
#[derive(Debug, Parser)]
#[command(name = "tools")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check for QEMU and OVMF, and install them where possible
    Setup {
        /// Also for what only some recipes need
        #[arg(long)]
        everything: bool,
    },
    /// Build the loader, the kernel and the user programs
    Build,
    /// Make the boot image
    Image {
        /// The kernel's command line; empty: as in limine.cfg
        #[arg(long, default_value = "")]
        cmdline: String,
        /// A folder with stock Limine's BOOTX64.EFI; empty: the project's own loader
        #[arg(long, default_value = "")]
        limine_dir: String,
    },
    /// Make the image for machines without UEFI
    Bios {
        /// The kernel's command line; empty: as in limine.cfg
        #[arg(long, default_value = "")]
        cmdline: String,
    },
    /// Boot the image in QEMU
    Run(Options),
    /// Run the tests
    Test {
        /// Only this kind
        #[arg(long)]
        only: Option<Kind>,
        /// Only machine tests whose name contains this
        #[arg(long, default_value = "")]
        filter: String,
        /// More words for the kernel's command line, in all machine tests with test programs
        #[arg(long, default_value = "")]
        cmdline: String,
        /// List the machine tests instead
        #[arg(long)]
        list: bool,
    },
    /// Count guest instructions per operation, and compare
    Bench {
        /// Write the figures that later runs are compared with
        #[arg(long)]
        accept: bool,
    },
    /// The same for how costs grow with threads, handles and CPUs
    BenchScale {
        /// Write the figures that later runs are compared with
        #[arg(long)]
        accept: bool,
    },
    /// What Linux takes for the like
    BenchLinux,
    /// The longest stretches of instructions with interrupts off
    BenchStretches,
    /// Save a picture of the framebuffer console
    Screenshot {
        /// Where the PNG goes
        path: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Make random system calls
    Grind {
        /// `seed=N`, `calls=N`, `cpus=N`
        words: Vec<String>,
    },
    /// Look for inputs that a reader can't bear
    Fuzz {
        /// `target=NAME`, `seconds=N`
        words: Vec<String>,
    },
    /// Make the tables of the system calls' reference
    Calls,
    /// Run clippy on every package for its own target
    Lint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Host,
    Machine,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup { everything } => setup::run(everything)?,
        Command::Build => {
            cargo::build_system(&Workspace::find()?, Profile::Release, Archive::Product)?;
        }
        Command::Image {
            cmdline,
            limine_dir,
        } => {
            let (plan, name) = plan(&cmdline, &limine_dir);
            image::make(&Workspace::find()?, &plan, name)?;
        }
        Command::Bios { cmdline } => {
            let (plan, name) = plan(&cmdline, "");
            image::make_bios(&Workspace::find()?, &plan, bios_name(name))?;
        }
        Command::Run(options) => return run::run(&options),
        Command::Test { list: true, .. } => {
            for name in machine_tests::names() {
                println!("{name}");
            }
        }
        Command::Test {
            only,
            filter,
            cmdline,
            ..
        } => return test(only, &filter, &cmdline),
        Command::Bench { accept } => bench::run(accept)?,
        Command::BenchScale { accept } => bench::scale::run(accept)?,
        Command::BenchLinux => bench::linux::run()?,
        Command::BenchStretches => bench::stretches::run()?,
        Command::Screenshot { path, options } => screenshot::run(&options, &path)?,
        Command::Grind { words } => return grind::run(&words),
        Command::Fuzz { words } => return fuzz::run(&words),
        Command::Calls => reference::run()?,
        Command::Lint => lint::run()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the tests asked for; the last line is their count.
fn test(only: Option<Kind>, filter: &str, cmdline: &str) -> Result<ExitCode> {
    let ws = Workspace::find()?;
    let mut total = Counts::default();
    // A filter names machine tests.
    if only == Some(Kind::Host) || (only.is_none() && filter.is_empty()) {
        let outcome = host_tests::run(&ws)?;
        for detail in &outcome.details {
            println!("{detail}");
        }
        total += outcome.counts;
    }
    if only != Some(Kind::Host) {
        // What can't be built is a failure among the tests, so that the count is there in any case.
        total += machine_tests::run(ws, filter, cmdline).unwrap_or_else(|error| {
            let outcome = Outcome::failed(format!("machine tests: {error:#}"));
            println!("{}", outcome.details.join("\n"));
            outcome.counts
        });
    }
    println!("{total}");
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
