//! See `fuzz/checks/src/limine_conf.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_checks::limine_conf::check(input));
