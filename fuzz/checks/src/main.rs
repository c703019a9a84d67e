//! Writes the inputs that are made by code into `fuzz/corpus`.

use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for seed in fuzz_checks::seeds::all() {
        let folder = corpus.join(seed.target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(seed.name), &seed.bytes)?;
    }
    Ok(())
}
