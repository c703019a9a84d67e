//! See `fuzz/checks/src/elf.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_checks::elf::check(input));
