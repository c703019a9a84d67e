//! System calls by number, with arguments that nobody vouches for.

use abi::{Call, Error};
use alloc::format;
use rt::sys;

use crate::verdict::{Verdict, Why};

/// Any call with any arguments, the missing ones 0, and no deadline.
pub fn raw(number: u64, arguments: &[u64]) -> sys::Results {
    raw_until(number, arguments, u64::MAX)
}

/// The same with a deadline.
pub fn raw_until(number: u64, arguments: &[u64], deadline: u64) -> sys::Results {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: nothing here can promise what the arguments do. But the process was made for one test alone and holds nothing
    // that the test does not know of; a call that does harm harms that process, which is what the test is to find out.
    unsafe { sys::raw(number, six, deadline) }
}

/// A call's result.
pub fn call(call: Call, arguments: &[u64]) -> rt::Result<[u64; 3]> {
    let results = raw(call as u64, arguments);
    sys::check(results.status).map(|()| results.values)
}

/// Says so unless the call is refused with this error.
pub fn refused(call: Call, arguments: &[u64], want: Error) -> Verdict {
    // With a deadline in the past, so that a call that is let through does not wait.
    let status = raw_until(call as u64, arguments, 0).status;
    if status == want as u64 {
        return Ok(());
    }
    let got = match Error::from_code(status) {
        Some(error) => error.text(),
        None if status == 0 => "success",
        None => "a status that is no error",
    };
    Err(Why::Failed(format!(
        "{}({arguments:x?}): {got}, not '{want}'",
        call.name()
    )))
}
