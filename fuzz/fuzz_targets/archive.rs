//! See `fuzz/checks/src/archive.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_checks::archive::check(input));
