//! Holds the workspace to its rooms: dependencies point one way only (see "Rooms" in `docs/`), and crates without need of
//! `unsafe` forbid it.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Each room and the workspace packages it may depend on. A rule ends in `*` for all packages in a folder.
const RULES: [(&str, &[&str]); 13] = [
    ("abi", &[]),
    ("arch", &["abi"]),
    ("arch/*", &["abi", "arch"]),
    ("sched", &[]),
    ("screen", &[]),
    ("stream", &[]),
    ("kernel", &["abi", "arch", "sched", "screen"]),
    ("boot/*", &["boot-core", "boot-machine"]),
    ("servers/rt", &["abi", "stream"]),
    ("servers/rt32", &["abi"]),
    ("servers/*", &["abi", "rt", "rt32"]),
    ("tools", &["abi", "screen"]),
    // It looks at all that reads what others wrote.
    (
        "fuzz/checks",
        &["abi", "arch", "boot-core", "init", "kernel", "rt", "sched"],
    ),
];

/// What one package may use beyond its room.
const EXTRA: [(&str, &str); 2] = [("console", "screen"), ("boot-multiboot", "screen")];

/// Packages that hold no `unsafe` code at all.
const SAFE: [&str; 10] = [
    "abi",
    "sched",
    "boot-core",
    "echo",
    "hello",
    "init",
    "names",
    "shell",
    "stream",
    "torture",
];

fn workspace() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata")
}

/// Folder of a package below the root, and the packages of the workspace it depends on.
fn rooms(metadata: &Metadata) -> BTreeMap<String, (String, Vec<String>)> {
    let names: Vec<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    metadata
        .packages
        .iter()
        .map(|package| {
            let folder = package
                .manifest_path
                .parent()
                .expect("a manifest lies in a folder");
            let folder = folder
                .strip_prefix(&metadata.workspace_root)
                .expect("in the workspace");
            let used = package
                .dependencies
                .iter()
                // Tests may look across rooms; what ships may not.
                .filter(|d| d.kind != DependencyKind::Development && d.path.is_some())
                .map(|d| d.name.clone())
                .filter(|name| names.contains(&name.as_str()))
                .collect();
            (package.name.to_string(), (folder.to_string(), used))
        })
        .collect()
}

/// What is wrong, a line for each package that has no room or uses what it may not.
fn violations(rooms: &BTreeMap<String, (String, Vec<String>)>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, (folder, used)) in rooms {
        let rule = RULES.iter().find(|(room, _)| {
            room.strip_suffix('*')
                .map_or(room == folder, |parent| folder.starts_with(parent))
        });
        let Some((room, allowed)) = rule else {
            found.push(format!("{name} in {folder}/ belongs to no room"));
            continue;
        };
        for other in used {
            let may = allowed.contains(&other.as_str()) || EXTRA.contains(&(name, other));
            if !may {
                found.push(format!("{name} uses {other}, which {room} may not"));
            }
        }
    }
    found
}

#[test]
fn dependencies_point_one_way_only() {
    assert_eq!(violations(&rooms(&workspace())), Vec::<String>::new());
}

#[test]
fn wrong_dependency_and_missing_room_are_noticed() {
    let room = |folder: &str, used: &[&str]| {
        (
            folder.to_owned(),
            used.iter().map(|&u| u.to_owned()).collect(),
        )
    };
    let bad = BTreeMap::from([
        ("abi".to_owned(), room("abi", &["sched"])),
        ("shell".to_owned(), room("servers/shell", &["rt", "kernel"])),
        (
            "console".to_owned(),
            room("servers/console", &["rt", "screen"]),
        ),
        ("attic".to_owned(), room("attic", &[])),
    ]);
    assert_eq!(
        violations(&bad),
        [
            "abi uses sched, which abi may not",
            "attic in attic/ belongs to no room",
            "shell uses kernel, which servers/* may not",
        ]
    );
}

#[test]
fn crates_without_need_of_unsafe_forbid_it() {
    for package in workspace().packages {
        if !SAFE.contains(&package.name.as_str()) {
            continue;
        }
        let library = package
            .targets
            .iter()
            .find(|t| t.is_lib())
            .expect("a library");
        let source = std::fs::read_to_string(&library.src_path).expect("its source");
        assert!(
            source.contains("#![forbid(unsafe_code)]"),
            "{} lacks #![forbid(unsafe_code)]",
            library.src_path
        );
    }
}
