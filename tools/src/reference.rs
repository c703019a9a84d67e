//! `just calls`: the tables of `docs/src/calls.md`, made of what `abi/` says of its calls and errors.
//!
//! The page's own text is written by hand; the tables stand between two marks each, and a host test fails when they are not what would be
//! made. The form that a call's text has in `abi/src/call.rs` is stated there; one that has another is an error that names the call.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Ident, Item, Lit, LitInt, LitStr, Meta, Token};

use crate::workspace::Workspace;

/// The page, and the sources, from the root on.
const PAGE: &str = "docs/src/calls.md";
const CALLS: &str = "abi/src/call.rs";
const ERRORS: &str = "abi/src/error.rs";

/// Registers of arguments and of results, in order (`abi/src/register.rs`).
const REGISTERS: [&str; 6] = ["rdi", "rsi", "rdx", "r10", "r8", "r9"];

/// What the parts of the page are called: by how the names of their calls begin. Others are a part of their own.
const PARTS: [(&str, &[&str]); 11] = [
    (
        "Messages and turns",
        &[
            "null",
            "yield",
            "signal",
            "clock_now",
            "call",
            "send",
            "recv",
            "reply",
            "wait",
        ],
    ),
    ("Handles", &["handle"]),
    ("Endpoints and notifications", &["endpoint", "notification"]),
    ("Memory", &["memory"]),
    ("Processes", &["process"]),
    ("Threads", &["thread"]),
    ("Devices", &["irq", "msi", "io_ports"]),
    ("Time", &["sleep"]),
    ("The log", &["log"]),
    ("The system", &["system"]),
    ("Others", &[]),
];

/// Arguments that are handles. Of `handle` itself any object will do.
const OBJECTS: [&str; 14] = [
    "endpoint",
    "notification",
    "memory",
    "process",
    "thread",
    "irq",
    "io ports",
    "log",
    "system",
    "hardware",
    "reply",
    "pager",
    "debug",
    "trace",
];

/// Writes the page anew.
///
/// # Errors
/// If a source or the page can't be read, or has another form.
pub fn run() -> Result<()> {
    let ws = Workspace::find()?;
    let page = ws.root.join(PAGE);
    std::fs::write(&page, made(&ws.root)?).with_context(|| page.display().to_string())?;
    eprintln!("calls: wrote {PAGE}");
    Ok(())
}

/// The page as it should be, from the repository at `root`.
///
/// # Errors
/// As [`run`].
pub fn made(root: &Path) -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).context(path.to_owned());
    let errors = entries(&read(ERRORS)?, "errors").context(ERRORS)?;
    let calls = entries(&read(CALLS)?, "calls").context(CALLS)?;
    let page = between(&read(PAGE)?, "calls", &call_tables(&calls, &errors)?)?;
    between(&page, "errors", &error_table(&errors))
}

/// One row of `abi/`'s tables: `/// doc`, `Name = number, "text";`.
struct Entry {
    doc: String,
    name: String,
    number: u64,
    text: String,
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> syn::Result<Entry> {
        let attributes = input.call(Attribute::parse_outer)?;
        let name: Ident = input.parse()?;
        input.parse::<Token![=]>()?;
        let number: LitInt = input.parse()?;
        input.parse::<Token![,]>()?;
        let text: LitStr = input.parse()?;
        Ok(Entry {
            doc: doc_of(&attributes),
            name: name.to_string(),
            number: number.base10_parse()?,
            text: text.value(),
        })
    }
}

/// The lines of doc comments.
fn doc_of(attributes: &[Attribute]) -> String {
    let mut doc = String::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let Expr::Lit(literal) = &meta.value
            && let Lit::Str(line) = &literal.lit
        {
            doc += line.value().trim();
            doc.push('\n');
        }
    }
    doc
}

/// The rows in a macro's invocation.
fn entries(source: &str, name: &str) -> Result<Vec<Entry>> {
    struct Rows(Punctuated<Entry, Token![;]>);
    impl Parse for Rows {
        fn parse(input: ParseStream<'_>) -> syn::Result<Rows> {
            Punctuated::parse_terminated(input).map(Rows)
        }
    }
    let file = syn::parse_file(source)?;
    let invocation = file.items.iter().find_map(|item| match item {
        Item::Macro(item) if item.mac.path.is_ident(name) => Some(&item.mac),
        _ => None,
    });
    let invocation = invocation.with_context(|| format!("there is no {name}!"))?;
    let rows: Rows = invocation.parse_body()?;
    ensure!(!rows.0.is_empty(), "{name}! is empty");
    Ok(rows.0.into_iter().collect())
}

/// What the page says of a call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    /// Registers in, registers out.
    takes: String,
    gives: String,
    /// The rights.
    needs: String,
    /// Names of errors, in the order of their codes.
    errors: Vec<String>,
    /// It may wait.
    waits: bool,
    /// What it does.
    does: String,
}

/// Takes a call's text apart.
fn describe(doc: &str, calls: &[Entry], errors: &[Entry]) -> Result<Described> {
    let (first, stated) = match doc.split_once("Errors:") {
        Some((first, stated)) => (first, stated),
        None => (doc, ""),
    };
    let text = first.split_whitespace().collect::<Vec<_>>().join(" ");
    let rest = text.strip_prefix('`').context("no notation in front")?;
    let (notation, rest) = rest.split_once('`').context("the notation has no end")?;
    let (waits, rest) = match rest.strip_prefix(", `r14` deadline") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest
        .strip_prefix(": ")
        .context("no ': ' behind the notation")?;
    let (does, needs) = without_rights(&unlinked(rest, calls));
    let (inside, results) = match notation.split_once(" -> ") {
        Some((inside, results)) => (inside, results),
        None => (notation, ""),
    };
    let (map, inside) = match inside.strip_prefix("message map ") {
        Some(inside) => ("[message map](ipc.md), ", inside),
        None => ("", inside),
    };
    let arguments: Vec<&str> = inside
        .strip_prefix('(')
        .and_then(|inside| inside.strip_suffix(')'))
        .context("no parentheses around the arguments")?
        .split(", ")
        .filter(|argument| !argument.is_empty())
        .collect();
    let results: Vec<&str> = results.split(", ").filter(|r| !r.is_empty()).collect();
    let mut takes = map.to_owned() + &in_registers(&arguments)?;
    if waits {
        takes += if takes.is_empty() { "" } else { ", " };
        takes += "`r14` deadline";
    }
    let mut named: Vec<String> = stated
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    for argument in &arguments {
        let argument = argument.strip_prefix("r15 ").unwrap_or(argument);
        let name = argument.split(" or ").next().unwrap_or(argument);
        if name == "handle" {
            named.push("BadHandle".into());
        } else if OBJECTS.contains(&name) {
            named.extend(["BadHandle".into(), "WrongObject".into()]);
        }
        if argument.contains("pointer") && !argument.contains("stack") {
            named.push("BadPointer".into());
        }
    }
    if !needs.is_empty() {
        named.push("NoRight".into());
    }
    if results.first().is_some_and(|first| *first == "rdi handle") {
        named.extend(["NoMemory".into(), "QuotaExceeded".into()]);
    }
    // A wait for a time ends well when the time has come.
    if waits && !arguments.is_empty() {
        named.push("TimedOut".into());
    }
    if waits {
        named.push("Cancelled".into());
    }
    if let Some(unknown) = named
        .iter()
        .find(|name| errors.iter().all(|error| error.name != **name))
    {
        bail!("there is no error '{unknown}'");
    }
    let errors = errors
        .iter()
        .filter(|error| named.contains(&error.name))
        .map(|error| error.name.clone())
        .collect();
    Ok(Described {
        takes,
        gives: in_registers(&results)?,
        needs,
        errors,
        waits,
        does,
    })
}

/// Each with its register: the one that it names, or the next.
fn in_registers(values: &[&str]) -> Result<String> {
    let mut next = REGISTERS.iter();
    let mut texts = Vec::new();
    for value in values {
        let (register, value) = match value.split_once(' ') {
            Some((first, rest)) if REGISTERS.contains(&first) || first == "r15" => (first, rest),
            _ => (*next.next().context("more values than registers")?, *value),
        };
        texts.push(format!("`{register}` {value}"));
    }
    Ok(texts.join(", "))
}

/// The text without the sentence that says which rights are needed, and what it says.
fn without_rights(text: &str) -> (String, String) {
    let mut kept: Vec<&str> = Vec::new();
    let mut needs = String::new();
    for sentence in text.split_inclusive(". ") {
        let words = sentence
            .strip_prefix("Right ")
            .or_else(|| sentence.strip_prefix("Rights "));
        match words {
            Some(words) => words
                .trim_end()
                .trim_end_matches('.')
                .clone_into(&mut needs),
            None => kept.push(sentence),
        }
    }
    let text = kept.concat();
    (text.trim().trim_end_matches('.').to_owned(), needs)
}

/// The text with its links replaced by their words; calls have the names that the page has.
fn unlinked(text: &str, calls: &[Entry]) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, words, target, after)) = next_link(rest) {
        result += before;
        let name = target
            .strip_prefix("Call::")
            .and_then(|name| calls.iter().find(|call| call.name == name));
        match name {
            Some(call) => {
                let _ = write!(result, "`{}`", call.text);
            }
            None => result += &words.replace("Error::", ""),
        }
        rest = after;
    }
    result + rest
}

/// The text before the first `[words](target)`, the two, and what comes after.
fn next_link(text: &str) -> Option<(&str, &str, &str, &str)> {
    let middle = text.find("](")?;
    let begin = text[..middle].rfind('[')?;
    let end = middle + text[middle..].find(')')?;
    Some((
        &text[..begin],
        &text[begin + 1..middle],
        &text[middle + 2..end],
        &text[end + 1..],
    ))
}

/// Writing to a string can't fail, so what `write!` says of it is left alone here and elsewhere.
fn call_tables(calls: &[Entry], errors: &[Entry]) -> Result<String> {
    let mut text = String::new();
    for (number, (title, _)) in PARTS.iter().enumerate() {
        let mut rows = String::new();
        for call in calls.iter().filter(|call| part_of(&call.text) == number) {
            let described = describe(&call.doc, calls, errors)
                .with_context(|| format!("what stands at {}", call.name))?;
            let cell = |text: &str| {
                if text.is_empty() {
                    "–".to_owned()
                } else {
                    text.replace('|', "\\|")
                }
            };
            let _ = writeln!(
                rows,
                "| {} | `{}` | {} | {} | {} | {} | {} | {} |",
                call.number,
                call.text,
                cell(&described.takes),
                cell(&described.gives),
                cell(&described.needs),
                if described.waits { "yes" } else { "no" },
                cell(&described.errors.join(", ")),
                cell(&described.does)
            );
        }
        if !rows.is_empty() {
            let _ = write!(
                text,
                "## {title}\n\n| no. | name | in | out | needs | waits | errors | does |\n|---|---|---|---|---|---|---|---|\n{rows}\n"
            );
        }
    }
    Ok(text)
}

/// The part that a call belongs to.
fn part_of(name: &str) -> usize {
    let is_of = |word: &&str| {
        let rest = name.strip_prefix(*word);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    PARTS
        .iter()
        .position(|(_, words)| words.iter().any(is_of))
        .unwrap_or(PARTS.len() - 1)
}

fn error_table(errors: &[Entry]) -> String {
    let mut text = String::from("| code | name | meaning |\n|---|---|---|\n");
    for error in errors {
        let meaning = unlinked(
            &error.doc.split_whitespace().collect::<Vec<_>>().join(" "),
            &[],
        );
        let meaning = meaning.trim_end_matches('.').replace('|', "\\|");
        let _ = writeln!(text, "| {} | `{}` | {meaning} |", error.number, error.name);
    }
    text.push('\n');
    text
}

/// The page with other contents between a pair of marks.
fn between(page: &str, mark: &str, contents: &str) -> Result<String> {
    let begin = format!("<!-- {mark}: made by `just calls` of what stands in abi/ -->\n");
    let end = format!("<!-- end of {mark} -->\n");
    let (before, rest) = page
        .split_once(&begin)
        .with_context(|| format!("{PAGE} lacks the line {begin}"))?;
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("{PAGE} lacks the line {end}"))?;
    Ok(format!("{before}{begin}\n{contents}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(doc: &str) -> Result<Described> {
        let source = "calls! { /// x\nThreadSelf = 63, \"thread_self\"; }";
        let calls = entries(source, "calls").unwrap();
        let errors = "errors! { /// a\nBadHandle = 2, \"\"; /// b\nWrongObject = 3, \"\"; /// c\nNoRight = 4, \"\";
            /// d\nBadPointer = 5, \"\"; /// e\nNoMemory = 8, \"\"; /// f\nQuotaExceeded = 9, \"\"; /// g\nTimedOut = 10, \"\";
            /// h\nCancelled = 11, \"\"; /// i\nBusy = 16, \"\"; }";
        describe(doc, &calls, &entries(errors, "errors").unwrap())
    }

    #[test]
    fn a_call_is_taken_apart() {
        let found = described(
            "`(thread or 0, pointer to x, stack pointer) -> rdi handle, rsi more`, `r14` deadline: does\nthis; see\n\
             [`ThreadSelf`](Call::ThreadSelf), [a](b) or [`Error::Busy`](crate::Error::Busy). Rights MANAGE on it, QUERY. And more.\n\n\
             Errors: Busy.\n",
        )
        .unwrap();
        assert_eq!(
            found,
            Described {
                takes: "`rdi` thread or 0, `rsi` pointer to x, `rdx` stack pointer, `r14` deadline"
                    .into(),
                gives: "`rdi` handle, `rsi` more".into(),
                needs: "MANAGE on it, QUERY".into(),
                errors: [
                    "BadHandle",
                    "WrongObject",
                    "NoRight",
                    "BadPointer",
                    "NoMemory",
                    "QuotaExceeded",
                    "TimedOut",
                    "Cancelled",
                    "Busy"
                ]
                .map(String::from)
                .into(),
                waits: true,
                does: "does this; see `thread_self`, a or `Busy`. And more".into(),
            }
        );
    }

    #[test]
    fn a_text_of_another_form_is_refused() {
        for doc in [
            "does nothing",
            "`()` does nothing",
            "`thread`: does nothing",
            "`(a, b, c, d, e, f, g)`: has too many",
            "`()`: does it.\n\nErrors: Unheard.",
            "`(",
        ] {
            assert!(described(doc).is_err(), "{doc}");
        }
    }

    #[test]
    fn only_what_is_between_the_marks_is_made() {
        let page = "a\n<!-- x: made by `just calls` of what stands in abi/ -->\nold\n<!-- end of x -->\nb\n";
        let made = between(page, "x", "new\n").unwrap();
        assert!(made.contains("\nnew\n") && !made.contains("old"));
        assert!(made.starts_with("a\n") && made.ends_with("b\n"));
        assert_eq!(between(&made, "x", "new\n").unwrap(), made);
        assert!(between(page, "y", "new\n").is_err());
    }

    #[test]
    fn names_find_their_part() {
        assert_eq!(PARTS[part_of("reply_recv")].0, "Messages and turns");
        assert_eq!(PARTS[part_of("io_ports_create")].0, "Devices");
        assert_eq!(PARTS[part_of("callous")].0, "Others");
    }
}
