//! Holds the book to the code where it could go stale unseen: the tables of system calls and of errors, the names of tests
//! that it cites, and its links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn book() -> PathBuf {
    root().join("docs/src")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder whose name has this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(files(&path, ending));
            }
        } else if path.extension().is_some_and(|have| have == ending) {
            found.push(path);
        }
    }
    found
}

/// The first two columns of all table rows that begin with a number and a name in code marks.
fn rows(text: &str) -> BTreeSet<(u64, String)> {
    text.lines()
        .filter_map(|line| {
            let mut columns = line.strip_prefix('|')?.split('|').map(str::trim);
            let number = columns.next()?.parse().ok()?;
            let name = columns.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((number, name.to_owned()))
        })
        .collect()
}

#[test]
fn the_reference_lists_every_call_and_every_error_and_nothing_else() {
    let chapter = read(&book().join("calls.md"));
    let (calls, errors) = chapter.split_once("## Errors").expect("a part on errors");
    let names = |call: &abi::Call| (*call as u64, call.name().to_owned());
    assert_eq!(rows(calls), abi::Call::ALL.iter().map(names).collect());
    let names = |error: &abi::Error| (*error as u64, format!("{error:?}"));
    assert_eq!(rows(errors), abi::Error::ALL.iter().map(names).collect());
}

#[test]
fn the_reference_is_what_abi_says() {
    let page = read(&book().join("calls.md"));
    let made = tools::reference::made(&root()).expect("the reference can be made");
    let differs = page
        .lines()
        .zip(made.lines())
        .find(|(is, should)| is != should);
    assert!(
        page == made,
        "docs/src/calls.md is stale: ./justw calls makes it anew. First difference: {differs:?}"
    );
}

/// Words in code marks that look like a test's name: the project names tests by what they hold, in several words.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.matches('_').count() >= 3
                && !word.starts_with(|first: char| first.is_ascii_digit())
        })
        .filter(|word| {
            word.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        })
}

#[test]
fn every_test_that_is_cited_exists() {
    let sources: String = [
        "abi", "arch", "boot", "fuzz", "kernel", "sched", "screen", "servers", "tools",
    ]
    .iter()
    .flat_map(|room| files(&root().join(room), "rs"))
    .map(|path| read(&path))
    .collect();
    let mut missing = Vec::new();
    let mut chapters = 0;
    for page in files(&book(), "md") {
        let text = read(&page);
        chapters += usize::from(cited(&text).next().is_some());
        let chapter = page.display();
        // A test is a function, or (in the suite) a name in a table. So are a few other names of several words, which exist as well.
        missing.extend(
            cited(&text)
                .filter(|name| {
                    !sources.contains(&format!("fn {name}("))
                        && !sources.contains(&format!("\"{name}\""))
                })
                .map(|name| format!("{chapter}: {name}")),
        );
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(chapters > 5, "only {chapters} chapters cite tests");
}

/// The targets of a text's links and pictures that are files of this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn links_lead_to_files() {
    let mut pages = files(&book(), "md");
    pages.push(root().join("README.md"));
    let mut broken = Vec::new();
    for page in &pages {
        let text = read(page);
        let folder = page.parent().expect("a page lies in a folder");
        broken.extend(
            links(&text)
                .filter(|target| !folder.join(target).exists())
                .map(|target| format!("{}: {target}", page.display())),
        );
    }
    assert_eq!(broken, Vec::<String>::new());
}

/// The parts of source files that a text includes: `{{#include FILE:ANCHOR}}`, as mdbook has it.
fn listings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("{{#include ")
        .skip(1)
        .filter_map(|rest| rest.split_once("}}")?.0.split_once(':'))
}

/// mdbook builds a book with an empty listing if there is no such part.
#[test]
fn listings_are_parts_of_the_source_that_are_marked() {
    let mut missing = Vec::new();
    let mut count = 0;
    for page in files(&book(), "md") {
        let text = read(&page);
        for (file, anchor) in listings(&text) {
            count += 1;
            let path = page.parent().expect("a page lies in a folder").join(file);
            let source = fs::read_to_string(&path).unwrap_or_default();
            let marked = |mark: &str| {
                let mark = format!("{mark}: {anchor}");
                source.lines().any(|line| line.trim().ends_with(&mark))
            };
            if !(marked("// ANCHOR") && marked("// ANCHOR_END")) {
                missing.push(format!("{}: {file}:{anchor}", page.display()));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(count > 0, "the book has no listing");
}

#[test]
fn every_chapter_is_in_the_summary() {
    let summary = read(&book().join("SUMMARY.md"));
    let listed: BTreeSet<PathBuf> = links(&summary).map(|target| book().join(target)).collect();
    let mut there: BTreeSet<PathBuf> = files(&book(), "md").into_iter().collect();
    there.remove(&book().join("SUMMARY.md"));
    assert_eq!(listed, there);
}
