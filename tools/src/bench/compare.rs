//! Figures beside those that were accepted last.
//!
//! `bench/results.json` is committed, so that a change that makes an operation longer shows in the run after it, and in the diff of the
//! change that accepts it; `bench/scale.json` is the same for how costs grow. Under `-icount` the same build gives the same figures, so what
//! differs at all was changed; what is named is what differs by more than a figure's bound, two parts in a hundred for most, and any other
//! count of what is dear.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Figure;

/// Parts in a hundred of a figure that are passed over, unless it has a bound of its own.
pub const PASSED_OVER: u64 = 2;

/// The figures that were accepted last; none if there is no such file yet.
///
/// # Errors
/// If the file can't be read, is no list of figures, or has one twice.
pub fn read(path: &Path) -> Result<Vec<Figure>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| path.display().to_string())?,
    };
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Figure>> {
    let figures: Vec<Figure> = serde_json::from_str(text)?;
    for (index, figure) in figures.iter().enumerate() {
        ensure!(
            figures[..index].iter().all(|other| !is_same(other, figure)),
            "two figures for {} on {} with {} CPUs",
            figure.name,
            figure.cpu,
            figure.cpus
        );
    }
    Ok(figures)
}

/// Whether two figures are of one operation on one machine.
fn is_same(one: &Figure, other: &Figure) -> bool {
    one.name == other.name && one.cpu == other.cpu && one.cpus == other.cpus
}

/// The figure of the same operation on the same machine among others.
pub fn find<'a>(figure: &Figure, among: &'a [Figure]) -> Option<&'a Figure> {
    among.iter().find(|other| is_same(other, figure))
}

/// What has changed, a line each: what grew, what fell, what is dearer in another way, what came and what went. Empty if nothing did.
pub fn changes(before: &[Figure], now: &[Figure]) -> String {
    changes_beyond(|_| PASSED_OVER, before, now)
}

/// The same with a bound of each figure's own, in parts in a hundred.
pub fn changes_beyond(bound: impl Fn(&Figure) -> u64, before: &[Figure], now: &[Figure]) -> String {
    let mut text = String::new();
    // Writing to a string can't fail, here and below.
    for figure in now {
        let name = named(figure);
        let Some(old) = find(figure, before) else {
            let _ = writeln!(text, "new:  {name} {}", figure.instructions);
            continue;
        };
        let (then, today) = (old.instructions, figure.instructions);
        if then.abs_diff(today) * 100 > then * bound(figure) {
            let word = if today > then { "GREW" } else { "fell" };
            let parts = then.abs_diff(today) * 1000 / then.max(1);
            let sign = if today > then { '+' } else { '-' };
            let _ = writeln!(
                text,
                "{word}: {name} {then} to {today} ({sign}{}.{} %)",
                parts / 10,
                parts % 10
            );
        }
        if let (Some(old), Some(price)) = (old.price, figure.price) {
            for (what, then, today) in [
                ("writes of CR0", old.cr0_writes, price.cr0_writes),
                ("writes of CR3", old.cr3_writes, price.cr3_writes),
                ("writes of MSRs", old.msr_writes, price.msr_writes),
                ("locked instructions", old.locked, price.locked),
            ] {
                if then != today {
                    let word = if today > then { "MORE" } else { "less" };
                    let _ = writeln!(text, "{word}: {name} {what}: {then} to {today}");
                }
            }
        }
    }
    for gone in before.iter().filter(|old| find(old, now).is_none()) {
        let _ = writeln!(text, "gone: {} {}", named(gone), gone.instructions);
    }
    text
}

/// A figure's name, and its machine unless that is the usual one.
fn named(figure: &Figure) -> String {
    let mut name = figure.name.clone();
    if figure.cpu != super::CPU {
        let _ = write!(name, " (-cpu {})", figure.cpu);
    }
    if figure.cpus != super::CPUS {
        let _ = write!(name, " ({} CPUs)", figure.cpus);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::super::steps::Price;
    use super::*;

    fn figure(name: &str, instructions: u64) -> Figure {
        Figure {
            name: name.into(),
            instructions,
            cpu: super::super::CPU.into(),
            cpus: 1,
            price: None,
        }
    }

    #[test]
    fn more_than_two_parts_in_a_hundred_are_named() {
        let before = [figure("a", 100), figure("b", 100), figure("c", 100)];
        let now = [figure("a", 102), figure("b", 103), figure("c", 97)];
        assert_eq!(
            changes(&before, &now),
            "GREW: b 100 to 103 (+3.0 %)\nfell: c 100 to 97 (-3.0 %)\n"
        );
        assert_eq!(changes(&before, &before), "");
    }

    #[test]
    fn a_figure_may_have_a_bound_of_its_own() {
        let before = [figure("a", 100), figure("b", 100), figure("c", 0)];
        let now = [figure("a", 104), figure("b", 104), figure("c", 1)];
        let bound = |figure: &Figure| if figure.name == "a" { 5 } else { 0 };
        assert_eq!(
            changes_beyond(bound, &before, &now),
            "GREW: b 100 to 104 (+4.0 %)\nGREW: c 0 to 1 (+100.0 %)\n"
        );
    }

    #[test]
    fn what_comes_and_goes_is_named() {
        let old = [figure("a", 100)];
        let mut elsewhere = figure("a", 100);
        elsewhere.cpu = "max,-fsgsbase".into();
        assert_eq!(
            changes(&old, &[elsewhere]),
            "new:  a (-cpu max,-fsgsbase) 100\ngone: a 100\n"
        );
    }

    #[test]
    fn what_is_dear_is_named_however_little_it_is() {
        let with = |locked| Figure {
            price: Some(Price {
                locked,
                ..Price::default()
            }),
            ..figure("a", 1000)
        };
        assert_eq!(
            changes(&[with(1)], &[with(2)]),
            "MORE: a locked instructions: 1 to 2\n"
        );
        assert_eq!(
            changes(&[with(2)], &[with(0)]),
            "less: a locked instructions: 2 to 0\n"
        );
    }

    #[test]
    fn what_is_written_is_read_back_and_twice_is_refused() {
        let mut all = vec![figure("a", 100), figure("b", 2)];
        all[0].price = Some(Price {
            lines: 7,
            ..Price::default()
        });
        let text = serde_json::to_string_pretty(&all).unwrap();
        assert_eq!(parse(&text).unwrap(), all);
        all.push(figure("a", 1));
        assert!(parse(&serde_json::to_string(&all).unwrap()).is_err());
        assert!(parse("{}").is_err());
        assert!(parse(&text[1..]).is_err());
    }
}
