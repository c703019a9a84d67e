//! All tests, a file a subject.

mod bases;
mod breakpoints;
mod call_numbers;
mod calls;
mod cancelling;
mod clones;
mod compat;
mod contexts;
mod deadlocks;
mod debugging;
mod direct;
mod direct_bound;
mod direct_waits;
mod exhaustion;
mod faults;
mod forgotten;
mod fpu;
mod fpu_cost;
mod grinder;
mod handles;
mod inheritance;
mod injection;
mod interrupts;
mod ipc;
mod killed_servers;
mod landing;
mod large;
mod limits;
mod listing;
mod many;
mod memory;
mod memory_on_cpus;
mod messages;
mod moving;
mod notifications;
mod pagers;
mod ports;
mod priorities;
mod privilege;
mod probe;
mod processes;
mod quotas;
mod registers;
mod report_registers;
mod reported_calls;
mod reported_calls32;
mod reports;
mod reports_lost;
mod reports_refused;
mod schedule;
mod segments;
mod spaces;
mod steps;
mod streams;
mod suspended_registers;
mod suspending;
mod taken_pages;
mod tasks;
mod things;
mod threads;
mod traces;

use crate::roles::Role;
use crate::runner::Test;

/// The tests, in the order in which they run.
pub const ALL: &[&[Test]] = &[
    calls::TESTS,
    handles::TESTS,
    registers::TESTS,
    fpu::TESTS,
    fpu_cost::TESTS,
    faults::TESTS,
    privilege::TESTS,
    segments::TESTS,
    tasks::TESTS,
    bases::TESTS,
    landing::TESTS,
    compat::TESTS,
    contexts::TESTS,
    breakpoints::TESTS,
    steps::TESTS,
    ports::TESTS,
    interrupts::TESTS,
    messages::TESTS,
    ipc::TESTS,
    direct::TESTS,
    direct_bound::TESTS,
    direct_waits::TESTS,
    notifications::TESTS,
    streams::TESTS,
    processes::TESTS,
    forgotten::TESTS,
    quotas::TESTS,
    exhaustion::TESTS,
    pagers::TESTS,
    taken_pages::TESTS,
    threads::TESTS,
    memory::TESTS,
    memory_on_cpus::TESTS,
    clones::TESTS,
    large::TESTS,
    spaces::TESTS,
    limits::TESTS,
    listing::TESTS,
    schedule::TESTS,
    priorities::TESTS,
    inheritance::TESTS,
    deadlocks::TESTS,
    cancelling::TESTS,
    killed_servers::TESTS,
    suspended_registers::TESTS,
    suspending::TESTS,
    reports::TESTS,
    report_registers::TESTS,
    reports_refused::TESTS,
    reports_lost::TESTS,
    debugging::TESTS,
    reported_calls::TESTS,
    reported_calls32::TESTS,
    moving::TESTS,
    many::TESTS,
    traces::TESTS,
    call_numbers::TESTS,
    grinder::TESTS,
];

/// Those of them that depend on the CPU, the emulator, or how the machine was started, and not on the kernel's own logic alone: for machines
/// that differ from another one in that.
pub const HARDWARE: &[&[Test]] = &[
    calls::TESTS,
    registers::TESTS,
    fpu::TESTS,
    fpu_cost::TESTS,
    faults::TESTS,
    privilege::TESTS,
    segments::TESTS,
    tasks::TESTS,
    bases::TESTS,
    landing::TESTS,
    compat::TESTS,
    contexts::TESTS,
    breakpoints::TESTS,
    steps::TESTS,
    ports::TESTS,
    interrupts::TESTS,
    direct::TESTS,
    direct_bound::TESTS,
    direct_waits::TESTS,
    spaces::TESTS,
    schedule::TESTS,
    suspended_registers::TESTS,
    reported_calls::TESTS,
    reported_calls32::TESTS,
    many::TESTS,
];

/// Those of them that depend on how floating-point state is loaded and saved: the whole of what a machine has to show that differs
/// from others only in that.
pub const FLOATING_POINT: &[&[Test]] = &[
    registers::TESTS,
    fpu::TESTS,
    fpu_cost::TESTS,
    contexts::TESTS,
];

/// What is worth its time on machines of some hundred CPUs.
pub const MANY_CPUS: &[&[Test]] = &[many::TESTS];

/// The tests that need somebody outside of the machine.
pub const INJECTED: &[&[Test]] = &[injection::TESTS];

/// The partners that some of them start.
pub const ROLES: &[&[Role]] = &[
    ipc::ROLES,
    streams::ROLES,
    processes::ROLES,
    quotas::ROLES,
    exhaustion::ROLES,
    pagers::ROLES,
    memory::ROLES,
    limits::ROLES,
    moving::ROLES,
    grinder::ROLES,
    interrupts::ROLES,
];

/// A line of a table of tests: a function, whose name is the test's, and the seconds that it may take: more than it has patience for,
/// or the machine would end it before it could say what it waited for.
macro_rules! tests {
    ($($name:ident: $seconds:literal,)+) => {
        const _: () = {
            $(assert!(
                $seconds > $crate::runner::PATIENCE.as_secs(),
                concat!("no time to say what was waited for: ", stringify!($name)),
            );)+
        };
        /// The tests of this subject.
        pub const TESTS: &[$crate::runner::Test] =
            &[$($crate::runner::Test { name: stringify!($name), run: $name, seconds: $seconds },)+];
    };
}
use tests;
