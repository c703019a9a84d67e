//! The inputs that the fuzzer begins with, for those targets whose inputs are no text: made by code, so that one can read what they are.
//!
//! `fuzz/corpus` has them as files, and a test holds it to what stands here; `cargo run -p fuzz-checks` writes them anew. The texts are
//! there by hand. So is what a fuzzer found: an input that was a defect stays as a file, under a name that says what it was.
//!
//! They are small: a good one of each kind, and one for each thing that can be wrong.

mod archives;
mod files;
mod registers;

/// An input of a target's corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// The file's name.
    pub name: &'static str,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// All of them.
pub fn all() -> Vec<Seed> {
    let named = |target| {
        move |(name, bytes)| Seed {
            target,
            name,
            bytes,
        }
    };
    let archives = archives::all().into_iter().map(named("archive"));
    let calls = registers::all().into_iter().map(named("calls"));
    let files = files::all().into_iter().map(named("elf"));
    archives.chain(calls).chain(files).collect()
}
