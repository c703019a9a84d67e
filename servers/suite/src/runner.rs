//! Runs the tests one after another, and says what became of each.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use abi::info::{PowerAction, ProcessInfo, ProcessState};

use crate::verdict::{Verdict, Why};
use crate::world::{self, World};
use crate::{roles, tests};

/// Exit codes of a test's process.
const HELD: u64 = 0;
const FAILED: u64 = 1;
const SKIPPED: u64 = 2;
/// Exit code of a program that panicked, as the SDK has it.
const PANICKED: u64 = 101;

/// How long a test waits for something that is about to happen, unless it says otherwise. Each test may take longer than that, so
/// that one that waits in vain says for what.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A test: its name and what it does.
pub struct Test {
    /// Named for the behaviour that it holds.
    pub name: &'static str,
    /// The test. It may leave things behind: the process ends with it.
    pub run: fn(&'static World) -> Verdict,
    /// How long it may take, in seconds. Generous: an emulator with eight CPUs on two shares them out in slices.
    pub seconds: u64,
}

/// What the program does, by its argument. Returns its exit code.
pub fn run(argument: &str) -> u64 {
    let world = match World::take() {
        Ok(world) => world,
        Err(reason) => panic!("{reason}"),
    };
    match argument.split_once(' ').unwrap_or((argument, "")) {
        // What is asked of the machine stands before the name, if anything does.
        ("test", rest) => run_one(world, rest.rsplit(' ').next().unwrap_or(rest)),
        ("role", rest) => roles::run(world, rest),
        ("injection", filter) => run_all(world, tests::INJECTED, filter, ""),
        ("many-cpus", filter) => run_all(world, tests::MANY_CPUS, filter, ""),
        ("floating-point", "") => run_all(world, tests::FLOATING_POINT, "", "auto"),
        ("floating-point", mode) => run_all(world, tests::FLOATING_POINT, "", mode),
        (_, "hardware") => run_all(world, tests::HARDWARE, "", ""),
        _ => run_all(world, tests::ALL, argument.trim(), ""),
    }
}

/// What is asked of this machine: when floating-point state is loaded (`auto`, `lazy`, `eager`), as its manifest says. `None` in a
/// manifest that does not say.
pub fn asked() -> Option<&'static str> {
    let mut words = rt::start::argument().split(' ').skip(1);
    // The last is the test's name.
    words.next().filter(|_| words.next().is_some())
}

fn run_one(world: &'static World, name: &str) -> u64 {
    let Some(test) = find(name) else {
        panic!("there is no test '{name}'")
    };
    let (code, reason) = match (test.run)(world) {
        Ok(()) => return HELD,
        Err(Why::Failed(reason)) => (FAILED, reason),
        Err(Why::Skipped(reason)) => (SKIPPED, reason),
    };
    // Without it the code still says which of the two it was.
    let _ = world::report(&reason);
    code
}

fn find(name: &str) -> Option<&'static Test> {
    [tests::ALL, tests::INJECTED]
        .into_iter()
        .flatten()
        .copied()
        .flatten()
        .find(|test| test.name == name)
}

/// Runs all of these tests whose name contains `filter`, each with the word for what is [`asked`], then switches the machine off.
fn run_all(world: &'static World, tests: &[&[Test]], filter: &str, asked: &str) -> u64 {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for test in tests
        .iter()
        .copied()
        .flatten()
        .filter(|test| test.name.contains(filter))
    {
        let verdict = run_in_process(world, test, asked);
        let line = match verdict {
            Ok(()) => {
                passed += 1;
                format!("test {} ... ok\n", test.name)
            }
            Err(Why::Failed(reason)) => {
                failed += 1;
                format!("test {} ... FAILED: {}\n", test.name, one_line(&reason))
            }
            Err(Why::Skipped(reason)) => {
                skipped += 1;
                format!("test {} ... skipped: {}\n", test.name, one_line(&reason))
            }
        };
        say(world, &line);
    }
    say(
        world,
        &format!("suite done: {passed} passed, {failed} failed, {skipped} skipped\n"),
    );
    match world.system.power(PowerAction::Off) {
        Ok(()) => 0,
        Err(error) => panic!("can't switch the machine off: {error}"),
    }
}

fn run_in_process(world: &World, test: &Test, asked: &str) -> Verdict {
    let blank = if asked.is_empty() { "" } else { " " };
    let child = world
        .spawn(&format!("test {asked}{blank}{}", test.name), &[])
        .map_err(|error| Why::Failed(format!("can't be started: {error}")))?;
    let info: ProcessInfo = child
        .end(Duration::from_secs(test.seconds))
        .map_err(|error| Why::Failed(format!("can't be ended: {error}")))?;
    let exited = info.state == ProcessState::Exited as u32;
    match info.code {
        HELD if exited => Ok(()),
        FAILED if exited => Err(Why::Failed(child.reason())),
        SKIPPED if exited => Err(Why::Skipped(child.reason())),
        PANICKED if exited => Err(Why::Failed(String::from("panicked, as said above"))),
        _ => Err(Why::Failed(format!("its process {}", world::ending(&info)))),
    }
}

fn say(world: &World, line: &str) {
    // There is nowhere else to say that this failed.
    let _ = world.log.write(line);
}

fn one_line(text: &str) -> String {
    text.replace('\n', " | ")
}
