//! A kernel that panics must say so, with a backtrace a person can read, and end the machine with a failing status.

use std::time::Duration;

use anyhow::Result;

use super::Job;
use super::lab::Lab;
use crate::config;
use crate::ending::Ending;
use crate::feeder::Feeder;
use crate::image::CONFIG;
use crate::play::{Over, Played};
use crate::report::Outcome;

const LIMIT: Duration = Duration::from_mins(2);

/// One way to make the kernel panic, and what it must then say.
#[derive(Debug)]
struct Case {
    name: &'static str,
    cpus: u32,
    /// The kernel's command line.
    cmdline: &'static str,
    /// What the report's first line holds.
    headline: &'static str,
}

const CASES: [Case; 7] = [
    Case {
        name: "panic/1",
        cpus: 1,
        cmdline: "panic=test",
        headline: "KERNEL PANIC on CPU 0: asked for on the command line",
    },
    // The others have to be stopped.
    Case {
        name: "panic/4",
        cpus: 4,
        cmdline: "panic=test",
        headline: "KERNEL PANIC on CPU 0: asked for on the command line",
    },
    Case {
        name: "panic/ap/4",
        cpus: 4,
        cmdline: "panic=ap",
        headline: "KERNEL PANIC on CPU 1: ",
    },
    // The registers are those of the interrupted code here.
    Case {
        name: "panic/fault/1",
        cpus: 1,
        cmdline: "panic=fault",
        headline: "page fault in the kernel",
    },
    // The page fault of a stack that runs over finds no stack: a double fault, whose report must know whose stack it was.
    Case {
        name: "panic/stack/2",
        cpus: 2,
        cmdline: "panic=stack",
        headline: ": double fault, the kernel stack overflowed, thread 1 of process 1 (init)",
    },
    Case {
        name: "panic/boot-stack/1",
        cpus: 1,
        cmdline: "panic=boot-stack",
        headline: "KERNEL PANIC on CPU 0: double fault, the boot stack overflowed, no thread",
    },
    Case {
        name: "panic/idle-stack/1",
        cpus: 1,
        cmdline: "panic=idle-stack",
        headline: "KERNEL PANIC on CPU 0: double fault, the idle stack overflowed, no thread",
    },
];

/// On one CPU and on several, on the first and on another, by a call, by a fault and by stacks that run over.
pub fn jobs() -> Vec<Job> {
    CASES
        .iter()
        .map(|case| {
            Job::new(
                case.name.into(),
                |lab| lab.product().and(lab.multiboot()).map(drop),
                move |lab| boot(lab, case),
            )
        })
        .collect()
}

fn boot(lab: &Lab, case: &Case) -> Result<Outcome> {
    let mut files = lab.product()?.clone();
    let text = String::from_utf8_lossy(&files[CONFIG]).into_owned();
    files.insert(
        CONFIG.into(),
        config::with_cmdline(&text, case.cmdline)?.into_bytes(),
    );
    let played = lab.play(
        case.name,
        &lab.machine(lab.direct(case.name, &files)?, case.cpus, "max"),
        Feeder::default(),
        LIMIT,
        |_| false,
    )?;
    let mut outcome = Outcome::default();
    for (what, problem) in judge(&played, case.headline) {
        outcome.check(what, problem);
    }
    if outcome.counts.failed > 0 {
        outcome.details.push(played.tail());
    }
    Ok(outcome)
}

fn judge(played: &Played, headline: &str) -> [(&'static str, Option<String>); 4] {
    let lines = played.transcript().lines();
    let ended = (played.over != Over::Ended(Ending::Panicked))
        .then(|| format!("{}, not by a panic", played.over));
    let said = (!lines
        .iter()
        .any(|l| l.contains("KERNEL PANIC") && l.contains(headline)))
    .then(|| format!("no line says KERNEL PANIC and '{headline}'"));
    let registers =
        (!has_registers(lines)).then(|| "no line shows rip and rsp in the kernel's half".into());
    let traced = (!has_symbols(lines)).then(|| "no line of the backtrace names a function".into());
    [
        ("ends with a failing status", ended),
        ("says KERNEL PANIC", said),
        ("shows registers", registers),
        ("names functions", traced),
    ]
}

/// Whether, after the panic's line, some line has the registers `rip` and `rsp` with addresses of the kernel's half.
fn has_registers(lines: &[String]) -> bool {
    let of_the_kernel = |line: &str, register: &str| {
        let mut words = line.split_whitespace();
        words.any(|word| word == register) && words.next().is_some_and(|v| v.starts_with("ffff"))
    };
    lines
        .iter()
        .skip_while(|l| !l.contains("KERNEL PANIC"))
        .any(|l| of_the_kernel(l, "rip") && of_the_kernel(l, "rsp"))
}

/// Whether, after the panic's line, some line has both an address of the kernel's half and a function of the kernel's.
fn has_symbols(lines: &[String]) -> bool {
    lines
        .iter()
        .skip_while(|l| !l.contains("KERNEL PANIC"))
        .any(|l| l.contains("ffffffff") && l.contains("kernel::"))
}

#[cfg(test)]
mod tests {
    use super::{has_registers, has_symbols};

    #[test]
    fn addresses_alone_are_no_backtrace() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(!has_symbols(&lines(
            "KERNEL PANIC\n 0: 0xffffffff80001234\n"
        )));
        assert!(!has_symbols(&lines(
            "0xffffffff80001234 kernel::main\nKERNEL PANIC\n"
        )));
        assert!(has_symbols(&lines(
            "KERNEL PANIC\n 0: 0xffffffff80001234 kernel::main+0x10\n"
        )));
    }

    #[test]
    fn registers_without_addresses_are_no_registers() {
        let panic = "KERNEL PANIC".to_owned();
        let good = "  rip ffffffff8002d946  rsp ffffe00000015a20  rbp 0".to_owned();
        assert!(has_registers(&[panic.clone(), good.clone()]));
        assert!(!has_registers(&[good, panic.clone()]));
        assert!(!has_registers(&[
            panic,
            "  rip 0000000000000000  rsp".into()
        ]));
    }
}
