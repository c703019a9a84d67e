//! The tests of 32-bit code that only 32-bit code can make: `suite` starts this program, once for each, with the test's name as
//! its argument.
//!
//! It ends with code 0 if the test held, 2 if this machine can't show it, and otherwise 1, with the reason in the log. A test whose name
//! begins with `step_` is meant to end by a debug trap, which `suite` looks at.

#![cfg_attr(target_arch = "x86", no_std, no_main)]

#[cfg(target_arch = "x86")]
mod entries;
#[cfg(target_arch = "x86")]
mod grinder;
#[cfg(target_arch = "x86")]
mod messages;
#[cfg(target_arch = "x86")]
mod steps;
#[cfg(target_arch = "x86")]
mod threads;

rt32::entry!(run);

/// Why a test did not hold: a line of it, and what was found there.
#[cfg(target_arch = "x86")]
enum Why {
    /// Something is not as it should be.
    Failed(&'static str, u32, u64),
    /// This machine can't show it.
    Skipped,
}

#[cfg(target_arch = "x86")]
type Verdict = Result<(), Why>;

#[cfg(target_arch = "x86")]
impl From<abi::Error> for Why {
    fn from(error: abi::Error) -> Why {
        Why::Failed("unexpected error", 0, error as u64)
    }
}

/// Ends the test unless the condition holds; a value that explains it may follow.
#[cfg(target_arch = "x86")]
#[macro_export]
macro_rules! check {
    ($condition:expr) => {
        $crate::check!($condition, 0u32)
    };
    ($condition:expr, $value:expr) => {
        if !$condition {
            return Err($crate::Why::Failed(
                stringify!($condition),
                line!(),
                u64::from($value),
            ));
        }
    };
}

#[cfg(target_arch = "x86")]
fn run() -> u64 {
    let name = rt32::start::argument();
    let verdict = match name {
        "registers_survive_every_entry" => entries::registers_survive_every_entry(),
        "block_form_keeps_all_registers" => entries::block_form_keeps_all_registers(),
        "bad_numbers_are_error_values" => entries::bad_numbers_are_error_values(),
        "wide_values_travel" => entries::wide_values_travel(),
        "bad_stacks_are_error_values" => entries::bad_stacks_are_error_values(),
        "landing_page_stays" => entries::landing_page_stays(),
        "mappings_stay_below_4_gib" => entries::mappings_stay_below_4_gib(),
        "messages_travel_whole" => messages::messages_travel_whole(),
        "threads_have_storage_of_their_own" => threads::threads_have_storage_of_their_own(),
        "preemption_keeps_registers" => threads::preemption_keeps_registers(),
        "random_calls_do_no_harm" => grinder::random_calls_do_no_harm(),
        "step_interrupt" => steps::over_interrupt(),
        "step_syscall" => steps::over_syscall(),
        "step_sysenter" => steps::over_sysenter(),
        _ => Err(Why::Failed("there is no such test", line!(), 0)),
    };
    match verdict {
        Ok(()) => 0,
        Err(Why::Skipped) => 2,
        Err(Why::Failed(what, line, value)) => {
            rt32::log::write(format_args!(
                "suite32 {name}: not so: {what} (line {line}, {value:#x})\n"
            ));
            1
        }
    }
}
