//! What the fuzz targets do with an input: read it as the system does, and look whether what came of it keeps its promises.
//!
//! Whoever reads files and registers of others must answer each with a value or a named error. A panic shows by itself, and so does reading
//! beyond the input; what else could be wrong is a plan that was accepted and harms when it is carried out. So each check carries out what it can,
//! and compares the rest with what the reader's caller relies on.
//!
//! It is a library of its own so that two run it: the fuzzer (`fuzz/fuzz_targets`, with `just fuzz`), which looks for new inputs, and an
//! ordinary test (`tests/corpus.rs`), which goes through all inputs in `fuzz/corpus` every time and needs neither fuzzer nor sanitizer.

pub mod archive;
pub mod calls;
pub mod elf;
pub mod limine_conf;
pub mod manifest;
pub mod seeds;

/// What is done with an input; it panics if something is wrong.
pub type Check = fn(&[u8]);

/// All targets by name, which is that of their program in `fuzz/fuzz_targets` and of their folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Check); 5] = [
    ("archive", archive::check),
    ("calls", calls::check),
    ("elf", elf::check),
    ("limine_conf", limine_conf::check),
    ("manifest", manifest::check),
];

/// Whether `part` lies within `whole`, as memory.
fn lies_in(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    part.start >= whole.start && part.end <= whole.end
}

/// A named error is one line that says something.
fn is_one_line(error: &impl core::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error without words");
    assert!(
        !text.contains('\n'),
        "an error of more than a line: {text:?}"
    );
}
