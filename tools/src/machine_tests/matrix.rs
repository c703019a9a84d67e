//! Which machines the suite of test programs runs on: the table, and nothing else.
//!
//! All run under TCG, so that the matrix is the same everywhere. A CPU model's features that TCG lacks are left out by
//! QEMU: what a model adds here is its vendor (which decides the meaning of `sysenter`, `sysret` and null selectors),
//! its family, and what it does *not* have.

use crate::run::Way;

/// One machine of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Number of CPUs.
    pub cpus: u32,
    /// Short name of the CPU.
    pub name: &'static str,
    /// QEMU's CPU model and features.
    pub cpu: &'static str,
    /// TCG's options; empty: one thread a CPU.
    pub tcg: &'static str,
    /// What starts the system.
    pub way: Way,
    /// Words for the kernel's command line.
    pub options: &'static str,
    /// Which tests: the manifest that starts them.
    pub manifest: &'static str,
    /// Which of its tests: a word for the kernel's command line; empty: all.
    pub only: &'static str,
    /// What a line of the log must hold, so that a machine that is not what the row wants shows; empty: nothing.
    pub says: &'static str,
}

/// All that can be done about flaws of CPUs, needed or not: user mode has page tables of its own, and VERW comes last.
pub const MITIGATED: &str = "mitigations=on";
/// Nothing of that, on a CPU that needs it.
const BARE: &str = "mitigations=off";
/// An idle CPU polls, and never halts.
const POLLING: &str = "idle=poll";
/// What the kernel says with each of them.
pub const SAYS: [(&str, &str); 3] = [
    (
        MITIGATED,
        "mitigations: page tables apart, buffers cleared,",
    ),
    (BARE, "mitigations: none, as the command line asks"),
    (POLLING, "idle CPUs poll, as the command line asks"),
];

/// The manifest of the whole suite.
pub const TESTS: &str = "tests";

/// Everything TCG has; it reports AMD as its vendor.
pub const MAX: (&str, &str) = ("max", "max");
/// Next to nothing: no FSGSBASE, no XSAVE, no SMEP or SMAP.
pub const QEMU64: (&str, &str) = ("qemu64", "qemu64");
/// An AMD machine.
pub const AMD: (&str, &str) = ("amd", "EPYC");
/// An Intel machine.
pub const INTEL: (&str, &str) = ("intel", "Skylake-Client");

/// A machine started the fastest way, with nothing special about it.
pub const fn on(cpus: u32, (name, cpu): (&'static str, &'static str)) -> Config {
    Config {
        cpus,
        name,
        cpu,
        tcg: "",
        way: Way::Direct,
        options: "",
        manifest: TESTS,
        only: "",
        says: "",
    }
}

/// The tests that depend on the machine, for a row that differs from another in that alone.
pub const HARDWARE: &str = "only=hardware";

/// The same with the tests alone that depend on the machine.
const fn of_hardware(config: Config) -> Config {
    Config {
        only: HARDWARE,
        ..config
    }
}

/// The same with words for the kernel's command line.
pub const fn with(options: &'static str, cpus: u32, model: (&'static str, &'static str)) -> Config {
    Config {
        options,
        ..on(cpus, model)
    }
}

/// The matrix: the whole suite on machines with everything, the tests that depend on the machine on the others. QEMU loads the system by itself, which is fastest; the way a person's machine starts has one row, and lanes of its own.
pub const MATRIX: [Config; 15] = [
    on(1, MAX),
    on(2, MAX),
    of_hardware(on(2, QEMU64)),
    of_hardware(on(2, AMD)),
    of_hardware(on(2, INTEL)),
    on(4, MAX),
    of_hardware(on(4, INTEL)),
    on(8, MAX),
    // `sysenter`, and a CPU on which far returns work in this emulator, which is one without SMAP.
    of_hardware(on(2, ("intel-plain", "qemu64,vendor=GenuineIntel"))),
    // An Intel CPU without a word on what it is safe from gets page tables apart in any case, as all "intel" rows do.
    of_hardware(with(MITIGATED, 2, ("qemu64-mitigated", "qemu64"))),
    with(MITIGATED, 4, ("max-mitigated", "max")),
    of_hardware(with(BARE, 1, ("intel-bare", "Skylake-Client"))),
    // All CPUs in one thread, in turn: other interleavings, and long ones.
    Config {
        tcg: "thread=single",
        ..on(2, ("max-one-thread", "max"))
    },
    // What several CPUs have to do with each other, where none that is idle is interrupted. In one thread, or they would take all of the host's time.
    Config {
        tcg: "thread=single",
        only: "only=cpu",
        ..with(POLLING, 2, ("max-idle-poll", "max"))
    },
    of_hardware(Config {
        way: Way::Uefi,
        ..on(2, ("max-uefi", "max"))
    }),
];

const fn floating_point(
    options: &'static str,
    says: &'static str,
    cpus: u32,
    model: (&'static str, &'static str),
) -> Config {
    Config {
        manifest: "tests-fpu",
        says,
        ..with(options, cpus, model)
    }
}

/// The machines of the lane for floating-point state: loaded otherwise than the CPU's maker suggests, and saved by other
/// instructions. They run the tests of that alone.
pub const FLOATING_POINT: [Config; 4] = [
    floating_point(
        "fpu=eager",
        "bytes; eager, as the command line asks",
        4,
        ("max-eager", "max"),
    ),
    floating_point(
        "fpu=lazy",
        "bytes; lazy, as the command line asks",
        4,
        ("intel-lazy", "Skylake-Client"),
    ),
    floating_point("", "AVX by xsave,", 2, ("max-no-xsaveopt", "max,-xsaveopt")),
    floating_point(
        "",
        "SSE by fxsave, 512 bytes",
        2,
        ("max-no-xsave", "max,-xsave"),
    ),
];

/// What the kernel logs when it uses the local APICs through MSRs. Without it the lane would show nothing: the suite runs
/// as well in the other mode.
const IN_X2APIC_MODE: &str = "local APIC in x2APIC mode";

const fn x2apic(cpus: u32, model: (&'static str, &'static str)) -> Config {
    Config {
        says: IN_X2APIC_MODE,
        ..on(cpus, model)
    }
}

/// The machines of the lane that needs a QEMU whose TCG has x2APIC (9 and later). The first is the slowest: more CPUs than the older
/// mode can tell apart. All of them on one of the host's threads, as so many threads that wait for each other on two real CPUs get nowhere.
pub const X2APIC: [Config; 3] = [
    Config {
        manifest: "tests-many",
        tcg: "thread=single",
        ..x2apic(288, ("x2apic-many", "max,+x2apic"))
    },
    of_hardware(x2apic(4, ("x2apic", "max,+x2apic"))),
    of_hardware(x2apic(2, ("x2apic-intel", "Skylake-Client,+x2apic"))),
];
