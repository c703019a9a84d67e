//! See `fuzz/checks/src/calls.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_checks::calls::check(input));
