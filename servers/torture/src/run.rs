//! The order of things, and what is said of them.

use alloc::format;
use alloc::string::String;

use abi::info::{MachineInfo, PowerAction};
use rt::{Log, Priority, System, Thread, start};
use torture::options::Options;
use torture::page::BOARD_CPUS;
use torture::random::Random;

use crate::servers::Servers;
use crate::shop::Shop;
use crate::{control, features, selftest};

/// The controller's own priority, above all that it torments; the servers' is one less.
const PRIORITY: u64 = 16;

/// Runs both tests and switches the machine off.
///
/// # Errors
/// What this program lacks, in words.
pub fn run(argument: &str) -> Result<(), String> {
    let kernel = |error: rt::Error| format!("{error}");
    let log: Log = start::take("log").map_err(|error| format!("{error}"))?;
    let system: System = start::take("system").map_err(|error| format!("{error}"))?;
    let options = Options::parse(argument)?;
    let priority = |level| Priority::new(level).unwrap_or(Priority::LOWEST);
    Thread::current()
        .and_then(|thread| thread.set_priority(priority(PRIORITY)))
        .map_err(kernel)?;
    let machine = system.machine().map_err(kernel)?;
    let cpus = machine.cpus.min(BOARD_CPUS);
    let eager = machine.has_decided(MachineInfo::EAGER_FPU);
    let servers = Servers::start(cpus, priority(PRIORITY - 1)).map_err(kernel)?;
    let shop = Shop::open(&system, servers, cpus, eager).map_err(kernel)?;
    let seed = options.seed.unwrap_or_else(features::new_seed);
    let say = |line: &str| log.write(line).map_err(kernel);
    say(&format!(
        "torture: seed {seed:#x} (again with torture=seed={seed:#x}), {} threads on {cpus} CPUs, bases by {}, FPU: {}; {}, page tables {};\n",
        control::threads(cpus),
        if shop.fsgsbase {
            "instructions"
        } else {
            "calls"
        },
        shop.layout.names(),
        if eager { "eager" } else { "lazy" },
        if machine.has_decided(MachineInfo::TABLES_APART) {
            "apart"
        } else {
            "shared"
        },
    ))?;
    let random = Random::new(seed);
    let (mut passed, mut failed) = (0, 0);
    let mut verdict = |name: &str, result: Result<(), String>| {
        let line = match result {
            Ok(()) => {
                passed += 1;
                format!("test {name} ... ok\n")
            }
            Err(reason) => {
                failed += 1;
                format!("test {name} ... FAILED: seed {seed:#x}: {reason}\n")
            }
        };
        say(&line)
    };
    let named = selftest::damage_is_named(&shop, priority(control::LOW), &mut random.branch(1));
    if let Ok(count) = named {
        say(&format!("torture: {count} kinds of damage were named\n"))?;
    }
    verdict("damage_of_every_kind_is_named", named.map(drop))?;
    let (tally, result) = control::torture(&shop, &system, &options, random.branch(2));
    say(&format!("torture: {tally}\n"))?;
    verdict("no_bit_is_lost_in_all_these_switches", result)?;
    say(&format!(
        "suite done: {passed} passed, {failed} failed, 0 skipped\n"
    ))?;
    system.power(PowerAction::Off).map_err(kernel)
}
