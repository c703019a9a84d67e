//! The loader with a kernel that is not ours: one written from the protocol's text alone, which checks what it was
//! given, says `PASS name` or `FAIL name: why` a line, `N passed, N failed` at the end, and leaves through the
//! debug-exit port. Two of its variants ask for what the loader must refuse.

use std::time::Duration;

use anyhow::Result;

use super::Job;
use super::lab::Lab;
use crate::bios;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::image::{CONFIG, LOADER};
use crate::initrd::Files;
use crate::machine::Start;
use crate::play::{Over, Played};
use crate::report::{Counts, Outcome};
use crate::run::Way;

const LIMIT: Duration = Duration::from_secs(90);
/// What the kernel writes to the debug-exit port if all held.
const ALL_HELD: i32 = 0x10;

/// One boot of the kernel.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Feature of its package that it is built with.
    feature: &'static str,
    cpus: u32,
    cpu: &'static str,
    mem: &'static str,
    graphics: bool,
    modules: bool,
    /// Whether QEMU itself hands the loader to the firmware (`-kernel`), on a volume of its own.
    by_qemu: bool,
    /// What the loader must say, if it must refuse.
    refusal: &'static str,
    /// What starts it.
    way: Way,
}

/// The ordinary case, which the others vary.
const PLAIN: Case = Case {
    name: "plain",
    feature: "",
    cpus: 1,
    cpu: "max",
    mem: "512M",
    graphics: true,
    modules: true,
    by_qemu: false,
    refusal: "",
    way: Way::Uefi,
};

/// A kernel that asks for a base revision.
const fn base(name: &'static str) -> Case {
    Case {
        name,
        feature: name,
        ..PLAIN
    }
}

const CASES: [Case; 16] = [
    PLAIN,
    Case {
        name: "four-cpus",
        cpus: 4,
        cpu: "qemu64",
        ..PLAIN
    },
    Case {
        name: "above-4-gib",
        cpu: "Skylake-Client",
        mem: "6G",
        ..PLAIN
    },
    Case {
        name: "no-modules",
        modules: false,
        ..PLAIN
    },
    Case {
        name: "no-screen",
        graphics: false,
        ..PLAIN
    },
    Case {
        name: "started-by-qemu",
        by_qemu: true,
        ..PLAIN
    },
    base("base-0"),
    base("base-1"),
    base("base-2"),
    base("base-3"),
    base("base-4"),
    base("base-5"),
    base("base-future"),
    base("pie"),
    Case {
        refusal: "insists on 5-level paging",
        ..base("five-level")
    },
    Case {
        refusal: "twice",
        ..base("twice")
    },
];

/// A job for each case: from UEFI; the same started by QEMU itself, but for what is about UEFI; and the ordinary one from a
/// BIOS, which gives a framebuffer of GRUB's.
pub fn jobs() -> Vec<Job> {
    let on = |way: Way| {
        CASES
            .iter()
            .filter(move |case| !(way != Way::Uefi && case.by_qemu))
            .map(move |case| Case { way, ..*case })
    };
    let bios = Case {
        way: Way::Bios,
        ..PLAIN
    };
    on(Way::Uefi)
        .chain(on(Way::Direct))
        .chain([bios])
        .map(|case| {
            let name = match case.way {
                Way::Uefi => format!("foreign/{}", case.name),
                Way::Direct => format!("foreign/direct/{}", case.name),
                Way::Bios => format!("foreign/bios/{}", case.name),
            };
            let feature = case.feature;
            let prepare = move |lab: &Lab| {
                lab.loader().and(lab.multiboot())?;
                lab.foreign(feature).map(drop)
            };
            Job::new(name.clone(), prepare, move |lab| boot(lab, &name, &case))
        })
        .collect()
}

fn boot(lab: &Lab, name: &str, case: &Case) -> Result<Outcome> {
    if case.way == Way::Bios && !bios::is_possible() {
        return Ok(Outcome::skipped(bios::MISSING));
    }
    let mut files = files(lab, case)?;
    if case.by_qemu {
        // The configuration is then on another volume than the loader.
        files.remove(LOADER);
    }
    let mut start = lab.start(case.way, name, &files)?;
    if case.by_qemu
        && let Start::Uefi { loader, .. } = &mut start
    {
        *loader = Some(lab.loader_file());
    }
    let mut spec = lab.machine(start, case.cpus, case.cpu);
    spec.mem = case.mem.into();
    spec.graphics = case.graphics;
    let refused = |line: &String| !case.refusal.is_empty() && is_refusal(line, case.refusal);
    let played = lab.play(name, &spec, Feeder::default(), LIMIT, |said| {
        said.lines().iter().any(refused)
    })?;
    let mut outcome = if case.refusal.is_empty() {
        judge(&played)
    } else if played.over == Over::Said {
        Outcome::passed()
    } else {
        Outcome::failed(format!("the loader did not refuse with '{}'", case.refusal))
    };
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}

/// Whether a line is the loader's refusal of the kernel.
fn is_refusal(line: &str, why: &str) -> bool {
    line.contains("/foreign/kernel") && line.contains(why)
}

fn files(lab: &Lab, case: &Case) -> Result<Files> {
    let screen = if case.graphics { "yes" } else { "no" };
    let firmware = if case.way == Way::Uefi {
        "uefi"
    } else {
        "bios"
    };
    let mut config = format!(
        "timeout: 0\n\n/Foreign\n    protocol: limine\n    path: boot():/foreign/kernel\n    \
         cmdline: check framebuffer={screen} firmware={firmware}"
    );
    if case.modules {
        config.push_str(
            " modules=yes\n    module_path: boot():/foreign/one.txt\n    module_string: one\n    \
             module_path: boot():/foreign/two.bin\n    module_string: two words",
        );
    }
    config.push('\n');
    Ok(Files::from([
        (LOADER.into(), lab.loader()?.clone()),
        (CONFIG.into(), config.into_bytes()),
        ("foreign/kernel".into(), lab.foreign(case.feature)?),
        // What the kernel expects in them, byte for byte.
        ("foreign/one.txt".into(), b"first module\n".to_vec()),
        (
            "foreign/two.bin".into(),
            (0..5000u32).map(|n| (n * 7) as u8).collect(),
        ),
    ]))
}

/// Reads the checks of a kernel that reports in this way.
pub(super) fn judge(played: &Played) -> Outcome {
    let mut outcome = tally(played.transcript().lines());
    let ended = played.over == Over::Ended(Ending::DebugExit(ALL_HELD));
    if !ended && outcome.counts.failed == 0 {
        outcome.fail(format!("the machine ended otherwise: {}", played.over));
    }
    outcome
}

/// What the lines say, wherever the machine ran.
pub(super) fn tally(lines: &[String]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut closing = None;
    for line in lines {
        if let Some(name) = line.strip_prefix("PASS ") {
            outcome.check(name, None);
        } else if let Some(failure) = line.strip_prefix("FAIL ") {
            outcome.fail(failure);
        } else {
            closing = closing.or_else(|| Counts::parse(&format!("{line}, 0 skipped")));
        }
    }
    if closing != Some(outcome.counts) || outcome.counts.total() == 0 {
        outcome.fail(format!(
            "its closing line says {closing:?}, its lines {}",
            outcome.counts
        ));
    }
    outcome
}
