//! The manifest: which services there are, and who is given which handle.
//!
//! It is a TOML file of `[[service]]` tables and at most one `[run]` table (what programs started by `run` are given). The
//! fields are listed in [`Service`] and [`Grants`]. A mistake is named with its service and field. One in the TOML itself
//! spoils the whole file; any other only its service, which is left out.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::time::Duration;

use abi::info::Quota;
use abi::{Priority, Rights};
use toml::{Table, Value};

use crate::fields::{FieldError, Fields, kind, number, problem};

/// Longest name of a service or endpoint in bytes: with `public.` before it and a CPU's number behind it, it still fits
/// an entry of the start block.
pub const NAME_BYTES: usize = 20;
/// The endpoint that `init` itself serves.
pub const INIT_ENDPOINT: &str = "init";

/// Which CPUs a service runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Placement {
    /// One instance, wherever there is room.
    #[default]
    Anywhere,
    /// One instance, on the CPU of this index.
    Cpu(u32),
    /// An instance on each CPU, named `NAME.INDEX`, as are its endpoints.
    Each,
}

/// When a service that ended is started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// Unless it exited with code 0.
    OnFailure,
    /// However it ended.
    Always,
}

/// A range of I/O ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// How many.
    pub count: u32,
}

/// What a program is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grants {
    /// `priority`: 0 to 63, 16 unless said.
    pub priority: Priority,
    /// `highest_priority`: what it can give its own threads at most; its `priority` unless said.
    pub highest: Priority,
    /// `stack_kib`: its first thread's stack, 256 KiB unless said.
    pub stack_bytes: u64,
    /// `quota`: `{ memory_kib = N, handles = N, threads = N }`, a part of `init`'s own that nobody else can use, and that it can't go
    /// beyond; unless said it has no bound but `init`'s.
    pub quota: Option<Quota>,
    /// `uses`: endpoints that it may call, each an entry of that name.
    pub uses: Vec<String>,
    /// `log`: of `read`, `write`, `take`, `duplicate`, `transfer`. Entry `log`.
    pub log: Rights,
    /// `system`: of `query`, `power`, `hardware`, `duplicate`, `transfer`. Entry `system`.
    pub system: Rights,
    /// `initrd = true`: the archive, read-only. Entry `initrd`, value its size in bytes.
    pub initrd: bool,
    /// `irqs`: ISA lines. Entries `irq.LINE`.
    pub irqs: Vec<u8>,
    /// `ports`: a list of `{ first = N, count = N }`. Entries `ports.FIRST` (hexadecimal), value the count.
    pub ports: Vec<PortRange>,
    /// `framebuffer = true`: the pixels, write-combining. Entries `framebuffer` (value its size in bytes),
    /// `framebuffer.width`, `.height`, `.pitch` and `.shifts` (red, green, blue in the bytes from low to high), if the
    /// machine has one.
    pub framebuffer: bool,
    /// `registry = true`: every public endpoint, entries `public.ENDPOINT`.
    pub registry: bool,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// `name`: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// `binary`: its program is `bin/BINARY`; its name unless said.
    pub binary: String,
    /// `arguments`: its argument string.
    pub arguments: String,
    /// `option`: the value of the kernel's option of this name, if there is one, is put behind its arguments; empty: none.
    pub option: String,
    /// `cpu`: an index or `"each"`.
    pub placement: Placement,
    /// `offers`: endpoints that it serves, each an entry of that name.
    pub offers: Vec<String>,
    /// `public`: those of them that anybody may look up.
    pub public: Vec<String>,
    /// What it is given.
    pub grants: Grants,
    /// `restart`: `never`, `on-failure` or `always`.
    pub restart: Restart,
    /// `backoff_ms`: the first wait before it is started again, 100 ms unless said.
    pub backoff: Duration,
    /// `essential = true`: its end is the machine's.
    pub essential: bool,
}

/// What is wrong with a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestError {
    /// It is not TOML.
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A field of the file itself.
    File {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field of a service.
    Service {
        /// The service's name, or its place in the file (`number 3`) if it has none.
        service: String,
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::Syntax { line, message } => {
                write!(f, "line {line}: {}", OneLine(message))
            }
            ManifestError::File { field, problem } => {
                write!(f, "{}: {}", OneLine(field), OneLine(problem))
            }
            ManifestError::Service {
                service,
                field,
                problem,
            } => {
                let [service, field, problem] = [service, field, problem].map(|text| OneLine(text));
                write!(f, "service '{service}': {field}: {problem}")
            }
        }
    }
}

impl core::error::Error for ManifestError {}

/// A text that may have come out of the file: control characters are escaped, since a log line is one, and steers no terminal.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// A manifest that was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// The services that are in order.
    pub services: Vec<Service>,
    /// What a program started by `run` is given; without it, `run` is refused.
    pub run: Option<Grants>,
    /// What is wrong with others.
    pub problems: Vec<ManifestError>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// If it is not TOML, or not UTF-8. All else stands in [`Manifest::problems`].
    pub fn parse(file: &[u8]) -> Result<Manifest, ManifestError> {
        let text = str::from_utf8(file)
            .map_err(|error| syntax(&file[..error.valid_up_to()], "is not UTF-8".to_owned()))?;
        let mut table = text.parse::<Table>().map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            // The parser's message may have lines; a log line is one.
            syntax(
                &text.as_bytes()[..start],
                error.message().replace('\n', ", "),
            )
        })?;
        let mut manifest = Manifest::default();
        let file_problem = |error: FieldError| ManifestError::File {
            field: error.field,
            problem: error.problem,
        };
        match table
            .remove("run")
            .map(|value| as_table("run", value).and_then(run))
        {
            None => {}
            Some(Ok(grants)) => manifest.run = Some(grants),
            Some(Err(error)) => manifest.problems.push(file_problem(error)),
        }
        let mut fields = Fields::new(table);
        match fields.list("service") {
            Ok(list) => {
                for (index, value) in list.into_iter().enumerate() {
                    manifest.add(index, value);
                }
            }
            Err(error) => manifest.problems.push(file_problem(error)),
        }
        if let Err(error) = fields.finish() {
            manifest.problems.push(file_problem(error));
        }
        Ok(manifest)
    }

    fn add(&mut self, index: usize, value: Value) {
        let name = value
            .get("name")
            .and_then(Value::as_str)
            .map(ToOwned::to_owned);
        match as_table("service", value)
            .and_then(service)
            .and_then(|service| self.check(service))
        {
            Ok(service) => self.services.push(service),
            Err(FieldError { field, problem }) => self.problems.push(ManifestError::Service {
                service: name.unwrap_or_else(|| format!("number {}", index + 1)),
                field,
                problem,
            }),
        }
    }

    /// What a service must not share with those before it.
    fn check(&self, service: Service) -> Result<Service, FieldError> {
        if self.services.iter().any(|other| other.name == service.name) {
            return Err(problem("name", "another service has this name"));
        }
        for endpoint in &service.offers {
            if endpoint == INIT_ENDPOINT {
                return Err(problem(
                    "offers",
                    format!("'{INIT_ENDPOINT}' is init's own endpoint"),
                ));
            }
            if let Some(other) = self
                .services
                .iter()
                .find(|other| other.offers.contains(endpoint))
            {
                return Err(problem(
                    "offers",
                    format!("'{endpoint}' is offered by '{}' already", other.name),
                ));
            }
        }
        Ok(service)
    }
}

fn syntax(before: &[u8], message: String) -> ManifestError {
    let line = before.split(|byte| *byte == b'\n').count();
    ManifestError::Syntax { line, message }
}

fn as_table(field: &str, value: Value) -> Result<Table, FieldError> {
    match value {
        Value::Table(table) => Ok(table),
        other => Err(kind(field, "a table", &other)),
    }
}

/// Checks a name of a service, endpoint or binary.
fn name(field: &str, name: String) -> Result<String, FieldError> {
    let good = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
    };
    if name.is_empty() || name.len() > NAME_BYTES {
        return Err(problem(
            field,
            format!("'{name}' must be 1 to {NAME_BYTES} bytes long"),
        ));
    }
    if !name.bytes().all(good) {
        return Err(problem(
            field,
            format!("'{name}' may have lower-case letters, digits, '-' and '_' only"),
        ));
    }
    Ok(name)
}

fn names(field: &str, list: Vec<String>) -> Result<Vec<String>, FieldError> {
    for (index, entry) in list.iter().enumerate() {
        name(field, entry.clone())?;
        if list[..index].contains(entry) {
            return Err(problem(field, format!("'{entry}' stands there twice")));
        }
    }
    Ok(list)
}

fn rights(
    fields: &mut Fields,
    field: &str,
    known: &[(&str, Rights)],
) -> Result<Rights, FieldError> {
    let mut rights = Rights::NONE;
    for word in fields.strings(field)? {
        let Some((_, right)) = known.iter().find(|(known, _)| *known == word) else {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            let words = words.join(", ");
            return Err(problem(
                field,
                format!("'{word}' is no right of it (there are {words})"),
            ));
        };
        rights = rights | *right;
    }
    Ok(rights)
}

const LOG_RIGHTS: [(&str, Rights); 5] = [
    ("read", Rights::READ),
    ("write", Rights::WRITE),
    ("take", Rights::MANAGE),
    ("duplicate", Rights::DUPLICATE),
    ("transfer", Rights::TRANSFER),
];

const SYSTEM_RIGHTS: [(&str, Rights); 5] = [
    ("query", Rights::QUERY),
    ("power", Rights::POWER),
    ("hardware", Rights::HARDWARE),
    ("duplicate", Rights::DUPLICATE),
    ("transfer", Rights::TRANSFER),
];

fn port_range(value: Value) -> Result<PortRange, FieldError> {
    const FIELD: &str = "ports";
    let mut fields = Fields::new(as_table(FIELD, value)?);
    let missing = || problem(FIELD, "needs 'first' and 'count'");
    let first = fields.value("first").ok_or_else(missing)?;
    let count = fields.value("count").ok_or_else(missing)?;
    fields
        .finish()
        .map_err(|error| problem(FIELD, format!("'{}' {}", error.field, error.problem)))?;
    let first = number(FIELD, &first, 0, 0xFFFF)?;
    let count = number(FIELD, &count, 1, 0x1_0000 - first)?;
    Ok(PortRange {
        first: first as u16,
        count: count as u32,
    })
}

/// More of anything than a machine has, and what the kernel can still count.
const MOST_QUOTA: u64 = (1 << 31) - 1;

fn quota(value: Value) -> Result<Quota, FieldError> {
    const FIELD: &str = "quota";
    const KIB_A_PAGE: u64 = 4;
    let mut fields = Fields::new(as_table(FIELD, value)?);
    let mut part = |name: &str, most| {
        let value = fields
            .value(name)
            .ok_or_else(|| problem(FIELD, "needs 'memory_kib', 'handles' and 'threads'"))?;
        number(FIELD, &value, 1, most)
            .map_err(|error| problem(FIELD, format!("'{name}' {}", error.problem)))
    };
    let quota = Quota {
        pages: part("memory_kib", MOST_QUOTA * KIB_A_PAGE)?.div_ceil(KIB_A_PAGE),
        handles: part("handles", MOST_QUOTA)?,
        threads: part("threads", MOST_QUOTA)?,
    };
    fields
        .finish()
        .map_err(|error| problem(FIELD, format!("'{}' {}", error.field, error.problem)))?;
    Ok(quota)
}

/// An endpoint's name where one is used: that of an instance may end in a CPU's index.
fn used(list: Vec<String>) -> Result<Vec<String>, FieldError> {
    for (index, entry) in list.iter().enumerate() {
        let base = match entry.rsplit_once('.') {
            Some((base, cpu))
                if !cpu.is_empty() && cpu.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                base
            }
            _ => entry,
        };
        name("uses", base.to_owned())?;
        if list[..index].contains(entry) {
            return Err(problem("uses", format!("'{entry}' stands there twice")));
        }
    }
    Ok(list)
}

fn grants(fields: &mut Fields) -> Result<Grants, FieldError> {
    let priority = fields.number("priority", 0, Priority::HIGHEST.level().into())?;
    let priority = priority.and_then(Priority::new).unwrap_or(Priority::NORMAL);
    let highest = fields
        .number(
            "highest_priority",
            priority.level().into(),
            Priority::HIGHEST.level().into(),
        )?
        .and_then(Priority::new)
        .unwrap_or(priority);
    let irqs: Result<Vec<u8>, FieldError> = fields
        .list("irqs")?
        .iter()
        .map(|value| number("irqs", value, 0, 15).map(|line| line as u8))
        .collect();
    Ok(Grants {
        priority,
        highest,
        stack_bytes: fields
            .number("stack_kib", 4, 65536)?
            .map_or(rt::loader::STACK_BYTES, |kib| kib * 1024),
        quota: fields.value("quota").map(quota).transpose()?,
        uses: used(fields.strings("uses")?)?,
        log: rights(fields, "log", &LOG_RIGHTS)?,
        system: rights(fields, "system", &SYSTEM_RIGHTS)?,
        initrd: fields.boolean("initrd")?,
        irqs: irqs?,
        ports: fields
            .list("ports")?
            .into_iter()
            .map(port_range)
            .collect::<Result<_, _>>()?,
        framebuffer: fields.boolean("framebuffer")?,
        registry: fields.boolean("registry")?,
    })
}

fn run(table: Table) -> Result<Grants, FieldError> {
    let mut fields = Fields::new(table);
    let grants = grants(&mut fields)?;
    fields.finish()?;
    Ok(grants)
}

fn service(table: Table) -> Result<Service, FieldError> {
    let mut fields = Fields::new(table);
    let service_name = name(
        "name",
        fields
            .string("name")?
            .ok_or_else(|| problem("name", "is missing"))?,
    )?;
    let binary = fields
        .string("binary")?
        .map_or_else(|| Ok(service_name.clone()), |text| name("binary", text))?;
    let placement = match fields.value("cpu") {
        None => Placement::Anywhere,
        Some(Value::String(word)) if word == "each" => Placement::Each,
        Some(value @ Value::Integer(_)) => {
            Placement::Cpu(number("cpu", &value, 0, u32::MAX.into())? as u32)
        }
        Some(_) => return Err(problem("cpu", "must be a CPU's index or \"each\"")),
    };
    let offers = names("offers", fields.strings("offers")?)?;
    let public = names("public", fields.strings("public")?)?;
    if let Some(stranger) = public.iter().find(|endpoint| !offers.contains(endpoint)) {
        return Err(problem(
            "public",
            format!("'{stranger}' is not among what it offers"),
        ));
    }
    let restart = match fields.string("restart")?.as_deref() {
        None | Some("never") => Restart::Never,
        Some("on-failure") => Restart::OnFailure,
        Some("always") => Restart::Always,
        Some(other) => {
            return Err(problem(
                "restart",
                format!("must be never, on-failure or always, not '{other}'"),
            ));
        }
    };
    let service = Service {
        name: service_name,
        binary,
        arguments: fields.string("arguments")?.unwrap_or_default(),
        option: fields.string("option")?.unwrap_or_default(),
        placement,
        offers,
        public,
        grants: grants(&mut fields)?,
        restart,
        backoff: Duration::from_millis(fields.number("backoff_ms", 1, 60_000)?.unwrap_or(100)),
        essential: fields.boolean("essential")?,
    };
    fields.finish()?;
    if service.arguments.len() > 4096 {
        return Err(problem("arguments", "is longer than 4096 bytes"));
    }
    Ok(service)
}
