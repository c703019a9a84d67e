//! Each figure as a part of its peer's, read from criterion's own results of this run.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::{register_switch, round_trip};

/// Prints a table. Figures that are not there (criterion was asked for others only) are left out.
pub fn print() {
    println!();
    for (group, ours, peer) in [
        (round_trip::GROUP, &round_trip::OURS[..], round_trip::PEER),
        (
            register_switch::GROUP,
            &register_switch::OURS[..],
            register_switch::PEER,
        ),
    ] {
        let Some(peers) = median(group, peer) else {
            continue;
        };
        println!("{group}:");
        println!("  {peer:<32} {peers:8.2} ns");
        for name in ours {
            if let Some(figure) = median(group, name) {
                println!("  {name:<32} {figure:8.2} ns  {:6.3} of it", figure / peers);
            }
        }
    }
}

/// The median of a figure, in nanoseconds.
fn median(group: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(
        results()
            .join(folder(group))
            .join(folder(name))
            .join("new/estimates.json"),
    )
    .ok()?;
    let (_, rest) = text.split_once("\"median\":")?;
    let (_, rest) = rest.split_once("\"point_estimate\":")?;
    rest.split([',', '}']).next()?.trim().parse().ok()
}

/// Where criterion keeps its results: beside the profile's folder that this program lies in, `target/release/deps`.
fn results() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    program
        .ancestors()
        .nth(3)
        .unwrap_or(Path::new("target"))
        .join("criterion")
}

/// A name as criterion writes it for folders.
fn folder(name: &str) -> String {
    name.replace(['?', '"', '/', '\\', '*', '<', '>', ':', '|', '^'], "_")
}
