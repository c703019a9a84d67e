//! Bad images and machines too small: each must end in one clear message that names the thing and its fault, from the
//! loader, the kernel or `init`, whoever meets it first; never in silence, and never in a prompt.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Job;
use super::lab::Lab;
use crate::bios;
use crate::feeder::{Feeder, PROMPT};
use crate::image::{CONFIG, FIRST_PROGRAM, INITRD, KERNEL};
use crate::initrd::{self, Files};
use crate::play::Over;
use crate::report::Outcome;
use crate::run::Way;

const LIMIT: Duration = Duration::from_mins(1);

/// One bad image, or one machine that is too small for a good one.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    mem: &'static str,
    spoil: fn(&mut Files) -> Result<()>,
    /// What the message must hold, all in one line: the thing and its fault.
    message: &'static [&'static str],
    /// Whether a prompt is as good.
    may_start: bool,
    /// How it is tried.
    ways: &'static [Way],
}

impl Case {
    /// Whether the message is to come from the kernel or from `init`, and not from the loader.
    fn of_the_system(&self) -> bool {
        !self.message.contains(&SAYS)
    }
}

const MEM: &str = "512M";
/// Under both of the loader's front ends.
const BOTH: &[Way] = &[Way::Uefi, Way::Direct];
/// And with GRUB in front.
const ALL: &[Way] = &[Way::Uefi, Way::Direct, Way::Bios];
/// Where no firmware takes its share of the memory, or another share.
const NO_UEFI: &[Way] = &[Way::Direct, Way::Bios];

const fn case(
    name: &'static str,
    spoil: fn(&mut Files) -> Result<()>,
    message: &'static [&'static str],
) -> Case {
    Case {
        name,
        mem: MEM,
        spoil,
        message,
        may_start: false,
        ways: BOTH,
    }
}

/// The same under all front ends, started in all ways.
const fn always(case: Case) -> Case {
    Case { ways: ALL, ..case }
}

/// The beginning of a message of the loader, which names files as the configuration does.
const SAYS: &str = "switchyard boot: error: ";
const KERNEL_PATH: &str = "boot():/switchyard/kernel";
const INIT_PATH: &str = "boot():/switchyard/init";
const INITRD_PATH: &str = "boot():/switchyard/initrd.tar";

const CASES: [Case; 28] = [
    always(case(
        "no-config",
        |f| remove(f, CONFIG),
        &[SAYS, "limine.conf", "not found on any volume"],
    )),
    case(
        "config-empty",
        |f| set(f, CONFIG, b"\n"),
        &[SAYS, "limine.conf", "no boot entry"],
    ),
    case(
        "config-not-text",
        |f| set(f, CONFIG, b"\xff\xfe/\0"),
        &[SAYS, "limine.conf", "not UTF-8"],
    ),
    case(
        "bad-option",
        |f| edit(f, "timeout: 0", "timeout: soon"),
        &[SAYS, "limine.conf", "line", "'timeout: soon'"],
    ),
    case(
        "bad-line",
        |f| edit(f, "timeout: 0", "what is this"),
        &[SAYS, "limine.conf", "line", "'what is this'"],
    ),
    case(
        "no-such-entry",
        |f| edit(f, "default_entry: 1", "default_entry: 7"),
        &[SAYS, "default_entry '7'"],
    ),
    case(
        "wrong-protocol",
        |f| edit(f, "protocol: limine", "protocol: linux"),
        &[SAYS, "protocol 'linux'"],
    ),
    case(
        "no-path",
        |f| edit(f, "kernel_path: boot():/switchyard/kernel\n", "\n"),
        &[SAYS, "entry 'Switchyard' has no"],
    ),
    case(
        "bad-path",
        |f| {
            edit(
                f,
                "kernel_path: boot():/switchyard/kernel",
                "kernel_path: somewhere",
            )
        },
        &[SAYS, "limine.conf", "path: somewhere'"],
    ),
    case(
        "no-kernel",
        |f| remove(f, KERNEL),
        &[SAYS, KERNEL_PATH, "file not found"],
    ),
    always(case(
        "kernel-empty",
        |f| set(f, KERNEL, b""),
        &[SAYS, KERNEL_PATH, "empty"],
    )),
    always(case(
        "kernel-truncated",
        |f| cut(f, KERNEL),
        &[SAYS, KERNEL_PATH, "truncated"],
    )),
    case(
        "kernel-is-text",
        |f| set(f, KERNEL, b"#!/bin/sh\n"),
        &[SAYS, KERNEL_PATH, "not an ELF file"],
    ),
    // The machine's number in an ELF header (System V ABI, figure 4-3); 183 is AArch64.
    case(
        "kernel-of-another-machine",
        |f| poke(f, KERNEL, 18, 183),
        &[SAYS, KERNEL_PATH, "wrong kind of ELF file"],
    ),
    case(
        "no-such-volume",
        |f| edit(f, "path: boot():", "path: boot(2):"),
        &[SAYS, "boot(2):/switchyard/kernel", "no such volume"],
    ),
    case(
        "kernel-with-another-hash",
        |f| {
            let hash = "0".repeat(128);
            edit(
                f,
                "switchyard/kernel\n",
                &format!("switchyard/kernel#{hash}\n"),
            )
        },
        &[SAYS, KERNEL_PATH, "do not match the hash"],
    ),
    case(
        "module-is-a-folder",
        |f| edit(f, "switchyard/initrd.tar", "switchyard"),
        &[SAYS, "boot():/switchyard: is a folder"],
    ),
    always(case(
        "no-init",
        |f| remove(f, FIRST_PROGRAM),
        &[SAYS, INIT_PATH, "file not found"],
    )),
    case(
        "no-initrd",
        |f| remove(f, INITRD),
        &[SAYS, INITRD_PATH, "file not found"],
    ),
    case(
        "init-is-text",
        |f| set(f, FIRST_PROGRAM, b"#!/bin/sh\n"),
        &["init: not a whole 64-bit ELF file"],
    ),
    case(
        "init-truncated",
        |f| cut(f, FIRST_PROGRAM),
        &["init: not a whole 64-bit ELF file"],
    ),
    always(case(
        "initrd-corrupt",
        |f| poke(f, INITRD, 150, 0xff),
        &["nothing can be started", "initrd: "],
    )),
    case(
        "no-manifest",
        |f| without(f, "services.toml"),
        &["nothing can be started", "services.toml: no such file"],
    ),
    Case {
        mem: "64M",
        ways: &[Way::Uefi],
        ..case(
            "initrd-larger-than-memory",
            |f| set(f, INITRD, &vec![0; 50 << 20]),
            &[SAYS, INITRD_PATH, "too little memory"],
        )
    },
    // Here the initrd stays where it was loaded, so there may be less memory beside it.
    Case {
        mem: "64M",
        ways: &[Way::Direct],
        ..case(
            "initrd-as-large-as-memory",
            |f| set(f, INITRD, &vec![0; 63 << 20]),
            &[SAYS, INITRD_PATH, "too little memory"],
        )
    },
    // The least that OVMF itself gets along with. Whether the system does is not for a test to say; that it says so is.
    Case {
        mem: "48M",
        may_start: true,
        ways: &[Way::Uefi],
        ..case("small-machine", |_| Ok(()), &["too little memory"])
    },
    Case {
        mem: "8M",
        may_start: true,
        ways: NO_UEFI,
        ..case("tiny-machine", |_| Ok(()), &["too little memory"])
    },
    Case {
        mem: "4M",
        ways: &[Way::Direct],
        ..case("toy-machine", |_| Ok(()), &[SAYS, "too little memory"])
    },
];

/// A file of the image; a case that spoils nothing would hold nothing.
fn file<'a>(files: &'a mut Files, name: &str) -> Result<&'a mut Vec<u8>> {
    files
        .get_mut(name)
        .with_context(|| format!("the image has no file {name}"))
}

fn remove(files: &mut Files, name: &str) -> Result<()> {
    file(files, name)?;
    files.remove(name);
    Ok(())
}

fn set(files: &mut Files, name: &str, bytes: &[u8]) -> Result<()> {
    *file(files, name)? = bytes.into();
    Ok(())
}

/// Leaves the first quarter of a file: of a kernel, less than is loaded, as names follow that.
fn cut(files: &mut Files, name: &str) -> Result<()> {
    let bytes = file(files, name)?;
    bytes.truncate(bytes.len() / 4);
    Ok(())
}

fn poke(files: &mut Files, name: &str, at: usize, value: u8) -> Result<()> {
    let byte = file(files, name)?.get_mut(at);
    *byte.with_context(|| format!("{name} has no byte {at}"))? = value;
    Ok(())
}

/// Changes the configuration's text.
fn edit(files: &mut Files, old: &str, new: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&files[CONFIG]).into_owned();
    anyhow::ensure!(text.contains(old), "limine.cfg no longer holds '{old}'");
    set(files, CONFIG, text.replacen(old, new, 1).as_bytes())
}

/// Takes a file out of the boot archive.
fn without(files: &mut Files, name: &str) -> Result<()> {
    let mut inside = initrd::unpack(&files[INITRD])?;
    anyhow::ensure!(inside.remove(name).is_some(), "the archive has no '{name}'");
    set(files, INITRD, &initrd::pack(&inside)?)
}

/// A job for each case and each way it is tried.
pub fn jobs() -> Vec<Job> {
    let tried = |case: &'static Case| case.ways.iter().map(move |way| (case, *way));
    CASES
        .iter()
        .flat_map(tried)
        .map(|(case, way)| {
            let name = match way {
                Way::Uefi => format!("boot/{}", case.name),
                Way::Direct => format!("boot/direct/{}", case.name),
                Way::Bios => format!("boot/bios/{}", case.name),
            };
            Job::new(
                name.clone(),
                |lab| lab.product().and(lab.multiboot()).map(drop),
                move |lab| boot(lab, &name, case, way),
            )
        })
        .collect()
}

fn boot(lab: &Lab, name: &str, case: &Case, way: Way) -> Result<Outcome> {
    if way == Way::Bios && !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let mut files = lab.product()?.clone();
    (case.spoil)(&mut files)?;
    let mut spec = lab.machine(lab.start(way, name, &files)?, 2, "max");
    spec.mem = case.mem.into();
    let is_message = |line: &String| case.message.iter().all(|part| line.contains(part));
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |said| {
        said.current() == PROMPT || (case.of_the_system() && said.lines().iter().any(is_message))
    })?;
    let said = played.transcript();
    if case.may_start && said.current() == PROMPT {
        return Ok(Outcome::passed());
    }
    let times = said.lines().iter().filter(|l| is_message(l)).count();
    let ended = match played.over {
        // The loader's message is followed by the way back to the firmware, or by its last words where there is none.
        Over::NotBooted => !case.of_the_system(),
        Over::Said => case.of_the_system() && said.current() != PROMPT,
        Over::Ended(_) => case.of_the_system(),
        Over::Fed | Over::TimedOut => false,
    };
    Ok(if ended && times == 1 {
        Outcome::passed()
    } else {
        Outcome::failed(format!(
            "{times} lines say {:?}; {}",
            case.message,
            played.tail()
        ))
    })
}
