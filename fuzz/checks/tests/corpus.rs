//! All inputs that are kept, by the checks of the fuzz targets: without a fuzzer, in every run of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz_checks::{Check, TARGETS, seeds};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    files
}

/// Puts all inputs of a target through its check.
fn go_through(target: &str) {
    let (_, check) = TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("it is one");
    let inputs = files(&root().join("fuzz/corpus").join(target));
    assert!(inputs.len() >= 10, "{target} has few inputs");
    for input in inputs {
        put_through(*check, &input);
    }
}

fn put_through(check: Check, input: &Path) {
    // Shown if the check panics.
    println!("{}", input.display());
    check(&fs::read(input).expect("it can be read"));
}

#[test]
fn kept_archives_are_opened_or_refused() {
    go_through("archive");
}

#[test]
fn kept_registers_are_judged() {
    go_through("calls");
}

#[test]
fn kept_elf_files_are_loaded_or_refused() {
    go_through("elf");
}

#[test]
fn kept_configurations_boot_or_are_refused() {
    go_through("limine_conf");
    put_through(fuzz_checks::limine_conf::check, &root().join("limine.cfg"));
}

#[test]
fn kept_manifests_start_or_are_refused() {
    go_through("manifest");
    for file in files(&root().join("initrd")) {
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            put_through(fuzz_checks::manifest::check, &file);
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let names = |folder: &str| -> BTreeSet<String> {
        let files = files(&root().join(folder));
        let stem = |file: &PathBuf| file.file_stem().expect("a name").to_string_lossy().into();
        files.iter().map(stem).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz/fuzz_targets"), targets);
    assert_eq!(names("fuzz/corpus"), targets);
}

#[test]
fn inputs_made_by_code_are_as_the_code_makes_them() {
    for seed in seeds::all() {
        let path = root().join("fuzz/corpus").join(seed.target).join(seed.name);
        let kept = fs::read(&path).unwrap_or_default();
        let same = path.exists() && kept == seed.bytes;
        assert!(
            same,
            "{}: cargo run -p fuzz-checks writes it",
            path.display()
        );
    }
}

/// A good input must be read as one, or all others test nothing but refusals.
#[test]
fn good_inputs_are_accepted() {
    let seeds = seeds::all();
    let bytes = |target: &str, name: &str| {
        let seed = seeds
            .iter()
            .find(|seed| seed.target == target && seed.name == name);
        seed.unwrap_or_else(|| panic!("{target}/{name}"))
            .bytes
            .clone()
    };
    for name in ["program", "program32", "movable32"] {
        let plan = rt::loader::Plan::new(&bytes("elf", name));
        assert!(plan.is_ok(), "{name}: {plan:?}");
    }
    let file = bytes("elf", "program");
    let first = kernel::boot::image::Image::parse(&file);
    assert_eq!(first.map(|image| image.entry()).ok(), Some(0x20_0000));
    for name in ["kernel", "movable"] {
        let file = bytes("elf", name);
        let plan = boot_core::elf::Plan::new(&file).expect(name);
        let mut image = vec![0; plan.size as usize];
        plan.load(&file, &mut image).expect(name);
        boot_core::reloc::apply(&plan, &mut image).expect(name);
        let requests = boot_core::request::Requests::scan(&plan, &image).expect(name);
        assert_eq!(requests.count(), usize::from(name == "kernel"), "{name}");
    }
    let file = bytes("elf", "symbols");
    let Ok(symbols) = kernel::symbols::Symbols::parse(&file) else {
        panic!("it has symbols");
    };
    assert_eq!(
        symbols.lookup(0x20_0010).map(|symbol| symbol.name),
        Some("begin")
    );
    let archive = bytes("archive", "two_files_and_a_folder");
    let archive = rt::archive::Archive::new(&archive).expect("it is one");
    assert_eq!(archive.find("bin/echo"), Some(&b"\x7FELF"[..]));
}
