//! Whether the book still tells what the kernel does: the chapter that follows a call has every instruction of it.
//!
//! Its blocks marked `x86asm` hold one instruction a line, with a comment behind a semicolon. Together they must be what a debugger saw the
//! kernel execute ([`steps`](super::steps)): the same instructions in the same order, with the same operands. Only where in a structure a
//! field lies is left out ([`essence`]), as that changes with every other field. Each heading below the two ways says how many there are under it.
//!
//! What may go wrong: a change of the kernel or of the compiler that changes one instruction. That is the purpose: who makes
//! it sees here what the chapter has to say anew.

use std::collections::VecDeque;

use anyhow::{Context, Result};

use super::steps::{self, Executed, Steps};
use super::{ACCEPTED, CPU, Figure, USER, compare};
use crate::cargo::{self, Profile};
use crate::machine::Spec;
use crate::workspace::Workspace;

/// The chapter.
pub const CHAPTER: &str = "docs/src/call.md";
/// What it follows.
pub const FOLLOWED: &str = "call_reply_cross_space";
/// How a heading of one of the two ways begins, in the order in which they are gone.
const WAYS: [&str; 2] = ["## The way there", "## The way back"];

/// A line of a block.
#[derive(Debug)]
struct Told {
    way: usize,
    line: usize,
    text: String,
}

/// What in the chapter is not so, a sentence each; none if it is as it should be.
///
/// # Errors
/// If the chapter can't be read, or the operation was not followed.
pub fn complaints(ws: &Workspace, figures: &[Figure], followed: &[Steps]) -> Result<Vec<String>> {
    let (figure, steps) = figures
        .iter()
        .zip(followed)
        .find(|(figure, _)| figure.name == FOLLOWED)
        .with_context(|| format!("{FOLLOWED} was not followed"))?;
    Ok(judge(&chapter(ws)?, figure, steps))
}

/// The same, with nothing measured but what is followed: on a machine with the shipped build, of which the figures are those that were accepted last.
///
/// # Errors
/// If the machine or the debugger fails, or the chapter or the figures can't be read.
pub fn follow(ws: &Workspace, spec: &Spec) -> Result<Vec<String>> {
    let accepted = compare::read(&ws.root.join(ACCEPTED))?;
    let place = accepted
        .iter()
        .position(|figure| figure.name == FOLLOWED && figure.cpu == CPU)
        .with_context(|| format!("{ACCEPTED} has no {FOLLOWED}"))?;
    let built = |target, name| cargo::artefact(ws, target, Profile::Release, name);
    // The first is the measuring itself.
    let followed = steps::follow(
        spec,
        &built(cargo::BARE, "kernel"),
        &built(USER, "bench"),
        place + 2,
    )?;
    let steps = followed.last().context("nothing was followed")?;
    let figure = Figure {
        price: Some(steps.price),
        ..accepted[place].clone()
    };
    Ok(judge(&chapter(ws)?, &figure, steps))
}

fn chapter(ws: &Workspace) -> Result<String> {
    let path = ws.root.join(CHAPTER);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The same for a chapter at hand.
fn judge(chapter: &str, figure: &Figure, steps: &Steps) -> Vec<String> {
    let (told, mut found) = read(chapter);
    let ways = ways(&steps.listing);
    for (index, way) in WAYS.iter().enumerate() {
        let told: Vec<&Told> = told.iter().filter(|line| line.way == index).collect();
        let executed: &[String] = ways.get(index).map_or(&[], Vec::as_slice);
        let differs = told
            .iter()
            .zip(executed)
            .find(|(told, executed)| told.text != **executed);
        if let Some((told, executed)) = differs {
            found.push(format!(
                "line {}: it says '{}', and the kernel has '{executed}'",
                told.line, told.text
            ));
        } else if told.len() != executed.len() {
            found.push(format!(
                "'{way}' has {} instructions, and the kernel {}",
                told.len(),
                executed.len()
            ));
        }
    }
    let mut sentences = vec![format!(
        "{} instructions, of which {} are the kernel's",
        figure.instructions,
        ways.iter().map(Vec::len).sum::<usize>()
    )];
    if let Some(price) = figure.price {
        sentences.push(format!(
            "{} locked, {} writes of CR3, {} lines of the kernel's data",
            price.locked, price.cr3_writes, price.kernel_lines
        ));
    }
    for sentence in sentences {
        if !chapter.contains(&sentence) {
            found.push(format!("it does not say: '{sentence}'"));
        }
    }
    found
}

/// The kernel's instructions of each way: up to the program's next, and so on.
fn ways(listing: &[Executed]) -> Vec<Vec<String>> {
    listing
        .chunk_by(|one, next| one.is_kernel == next.is_kernel)
        .filter(|chunk| chunk[0].is_kernel)
        .map(|chunk| chunk.iter().map(|one| essence(&one.text)).collect())
        .collect()
}

/// An instruction without the place of a field in its structure: `[r9+0x30]` and `[r9]` become `[r9+*]`, `gs:[0x50]` becomes `gs:[*]`. What lies on the
/// stack stays, as a context's layout is for good, and so does what `lea` adds.
fn essence(text: &str) -> String {
    let place = text.find('[').zip(text.find(']'));
    let Some((open, close)) = place.filter(|_| !text.starts_with("lea ")) else {
        return text.to_owned();
    };
    let (before, inside, after) = (&text[..=open], &text[open + 1..close], &text[close..]);
    let base = inside.split(['+', '-']).next().unwrap_or_default();
    let kept = if base == "rsp" {
        inside.to_owned()
    } else if base.starts_with('r') {
        format!("{base}+*")
    } else {
        "*".to_owned()
    };
    format!("{before}{kept}{after}")
}

/// The lines of the blocks, and which headings say a wrong number.
fn read(chapter: &str) -> (Vec<Told>, Vec<String>) {
    let (mut told, mut wrong): (Vec<Told>, _) = (Vec::new(), Vec::new());
    let mut way = None;
    let mut is_block = false;
    // Headings whose instructions are being counted, the way's first: line, number, and how many were told before.
    let mut open: VecDeque<(usize, usize, usize)> = VecDeque::new();
    let mut close = |open: &mut VecDeque<(usize, usize, usize)>, keep: usize, now: usize| {
        while open.len() > keep
            && let Some((line, number, before)) = open.pop_back()
        {
            if now - before != number {
                wrong.push(format!(
                    "line {line}: the heading says {number}, and there are {}",
                    now - before
                ));
            }
        }
    };
    for (line, text) in (1..).zip(chapter.lines()) {
        if is_block {
            is_block = text != "```";
            if let (true, Some(way)) = (is_block, way) {
                let text = text.split(';').next().unwrap_or_default().trim();
                if !text.is_empty() {
                    let text = text.to_owned();
                    told.push(Told { way, line, text });
                }
            }
            continue;
        }
        is_block = text == "```x86asm";
        let level = text.bytes().take_while(|byte| *byte == b'#').count();
        if level == 2 {
            close(&mut open, 0, told.len());
            way = WAYS.iter().position(|begin| text.starts_with(begin));
        } else if level == 3 {
            close(&mut open, 1, told.len());
        }
        if let (2 | 3, Some(_)) = (level, way) {
            let number = text.rsplit(' ').next().and_then(|word| word.parse().ok());
            // A heading without its number has none right.
            open.push_back((line, number.unwrap_or(0), told.len()));
        }
    }
    close(&mut open, 0, told.len());
    (told, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::steps::Price;

    const CHAPTER: &str = "# A call\n5 instructions, of which 3 are the kernel's\n\
        1 locked, 0 writes of CR3, 7 lines of the kernel's data\n\
        ## The way there: 2\n### Entry: 1\n```x86asm\nswapgs ; why\n```\n### Rest: 1\n```x86asm\nsysretq\n```\n\
        ## The way back: 1\n### All: 1\ntext\n```x86asm\nlock cmpxchg [rdx+*], rcx     ; taken\n```\n## More\n### No number\n";

    fn judged(chapter: &str) -> Vec<String> {
        let executed = |is_kernel, text: &str| Executed {
            is_kernel,
            new_lines: 0,
            text: text.into(),
        };
        let steps = Steps {
            functions: Vec::new(),
            price: Price::default(),
            listing: vec![
                executed(false, "syscall"),
                executed(true, "swapgs"),
                executed(true, "sysretq"),
                executed(false, "syscall"),
                executed(true, "lock cmpxchg [rdx], rcx"),
            ],
        };
        let figure = Figure {
            name: FOLLOWED.into(),
            instructions: 5,
            cpu: "max".into(),
            cpus: 1,
            price: Some(Price {
                locked: 1,
                kernel_lines: 7,
                ..Price::default()
            }),
        };
        judge(chapter, &figure, &steps)
    }

    #[test]
    fn where_a_field_lies_is_left_out() {
        for (text, left) in [
            ("mov rax, [r9+0x30]", "mov rax, [r9+*]"),
            ("mov [rcx-0x68], rax", "mov [rcx+*], rax"),
            ("lock cmpxchg [rdx], rcx", "lock cmpxchg [rdx+*], rcx"),
            ("mov gs:[0x50], rsp", "mov gs:[*], rsp"),
            ("mov [rsp+0xd0], rax", "mov [rsp+0xd0], rax"),
            ("lea rcx, [r9+1]", "lea rcx, [r9+1]"),
            ("swapgs", "swapgs"),
        ] {
            assert_eq!(essence(text), left);
            assert_eq!(essence(left), left);
        }
    }

    #[test]
    fn a_chapter_that_is_so_is_left_alone() {
        assert_eq!(judged(CHAPTER), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_not_so_is_named() {
        for (from, to, complaint) in [
            (
                "swapgs ;",
                "nop ;",
                "line 7: it says 'nop', and the kernel has 'swapgs'",
            ),
            (
                "sysretq\n",
                "sysretq\nnop\n",
                "'## The way there' has 3 instructions",
            ),
            ("Rest: 1", "Rest: 2", "the heading says 2, and there are 1"),
            ("back: 1", "back: 3", "the heading says 3, and there are 1"),
            ("Entry: 1", "Entry", "the heading says 0, and there are 1"),
            (
                "which 3",
                "which 4",
                "it does not say: '5 instructions, of which 3",
            ),
            ("7 lines", "8 lines", "it does not say: '1 locked"),
        ] {
            let found = judged(&CHAPTER.replace(from, to));
            assert!(
                found.iter().any(|said| said.contains(complaint)),
                "{to}: {found:?}"
            );
        }
    }
}
