//! See `fuzz/checks/src/manifest.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_checks::manifest::check(input));
