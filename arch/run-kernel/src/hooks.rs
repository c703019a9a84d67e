//! This kernel's part of an entry: everything that comes from user mode goes back to `run`.

use abi::{Call, SHORT_CALLS, UserContext};
use arch::entry::come_back;
use arch::hooks::{ShortCall, ShortResult};

use crate::checks::tasks;
use crate::report::{end_machine, say};

/// Ends the run, or the machine if there is none.
fn back(context: &UserContext) -> ! {
    // SAFETY: nothing in these frames needs an end.
    unsafe { come_back(context) };
    unexpected("an entry from user mode outside of a run", context)
}

fn unexpected(what: &str, context: &UserContext) -> ! {
    say(format_args!("FAIL {what}: {context:x?}"));
    end_machine(false)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_system_call(context: &mut UserContext) {
    back(context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_direct_call(_: u64, _: u64) -> ! {
    // SAFETY: this is in such a call, and nothing was done.
    unsafe { arch::switch::long_way(Call::Call) }
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_direct_reply_recv(_: u64, _: u64, _: u64) -> ! {
    // SAFETY: as above.
    unsafe { arch::switch::long_way(Call::ReplyRecv) }
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_direct_wait(_: u64) -> ! {
    // SAFETY: as above.
    unsafe { arch::switch::long_way(Call::Wait) }
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_direct_signal_wait(_: u64, _: u64, _: u64) -> ! {
    // SAFETY: as above.
    unsafe { arch::switch::long_way(Call::SignalWait) }
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_woken(context: &mut UserContext) {
    unexpected("the end of a wait", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_reported_call(context: &mut UserContext) {
    unexpected("a call to report", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_reporter_woken(context: &mut UserContext) {
    unexpected("the end of a report", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_compat_call(context: &mut UserContext) {
    back(context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_user_trap(context: &mut UserContext) {
    back(context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_short_call_exit(context: &mut UserContext) {
    unexpected("the way out of a short call", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_kernel_trap(context: &mut UserContext) {
    if tasks::caught(context) {
        return;
    }
    unexpected("a trap in the kernel", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_nmi(context: &mut UserContext) {
    unexpected("an NMI", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_machine_check(context: &mut UserContext) {
    unexpected("a machine check", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_double_fault(context: &mut UserContext) -> ! {
    unexpected("a double fault", context)
}

#[unsafe(no_mangle)]
extern "C" fn switchyard_thread_begin() {}

#[unsafe(no_mangle)]
extern "C" fn switchyard_serve_requests() {}

/// Never called: a run has a table of its own, and there is no user mode outside of one.
extern "C" fn short_call(_: u64, _: u64, _: u64) -> ShortResult {
    say(format_args!("FAIL a short call outside of a run"));
    end_machine(false)
}

#[unsafe(export_name = "switchyard_short_calls")]
static SHORT: [ShortCall; SHORT_CALLS as usize] = [short_call; SHORT_CALLS as usize];

/// Nothing is noted here.
#[unsafe(export_name = "switchyard_noted_short_calls")]
static NOTED: [ShortCall; SHORT_CALLS as usize] = SHORT;
