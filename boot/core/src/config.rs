//! `limine.conf`: entries, options, macros.
//!
//! The syntax is that of Limine 8 and later (Limine CONFIG): `key: value` lines, `/Name` opens an entry, each
//! further slash a level below it, `#` a comment, `${NAME}=text` a macro. The names that options had before and
//! have now (`kernel_path` and `path`, `module_cmdline` and `module_string`) are read alike, so that one file serves
//! this loader and stock Limine of any of those versions.
//!
//! Options that this loader has no use for (wallpapers and the like) are ignored as Limine ignores them; one that
//! nobody has heard of becomes a warning, since it is most often a slip of the pen. A known option with a value
//! that makes no sense is an error with its line.

use crate::error::Fault;
use crate::path::FilePath;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Limit on the file after macros are expanded, against macros that feed macros.
const MAX_EXPANDED: usize = 1 << 20;

/// Where a configuration file may lie, in order (Limine CONFIG, Location of the config file).
pub const CONFIG_PATHS: &[&str] = &[
    "/limine.conf",
    "/boot/limine.conf",
    "/limine/limine.conf",
    "/boot/limine/limine.conf",
    "/EFI/BOOT/limine.conf",
];

/// How long the message of a failed boot is shown, in tenths of a second.
pub const MESSAGE_TENTHS: u32 = 50;
/// The same with `timeout: 0`.
pub const HURRIED_TENTHS: u32 = 20;

/// What happens before the default entry is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Wait this many seconds (0: not at all).
    Seconds(u32),
    /// Wait for a key.
    Never,
}

/// A display mode that an entry asks for, in pixels and bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Bits a pixel.
    pub bpp: u32,
}

/// A file to be loaded beside the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// As written, for messages.
    pub text: String,
    /// Where it is.
    pub path: FilePath,
    /// The string the kernel gets with it.
    pub string: String,
}

/// What an entry says to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its title.
    pub name: String,
    /// The kernel's path as written, for messages.
    pub kernel_text: String,
    /// The kernel's place.
    pub kernel: FilePath,
    /// The kernel's command line.
    pub cmdline: String,
    /// The modules, in order.
    pub modules: Vec<Module>,
    /// The display mode, if one is asked for.
    pub resolution: Option<Resolution>,
    /// Lowest number of paging levels that the entry allows, if stated.
    pub min_paging_levels: Option<u32>,
}

/// One `key: value` line of an entry.
#[derive(Clone, Debug)]
struct Setting {
    line: usize,
    key: String,
    value: String,
}

/// An entry as written, before it is known to be bootable.
#[derive(Clone, Debug)]
struct RawEntry {
    name: String,
    depth: usize,
    expanded: bool,
    settings: Vec<Setting>,
}

/// A configuration file that has been read.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to wait for.
    pub timeout: Timeout,
    /// Whether to say little.
    pub quiet: bool,
    /// Whether a file that fails its hash stops the boot.
    pub hash_mismatch_panics: bool,
    /// Lines that were not understood, for the user to see.
    pub warnings: Vec<String>,
    default_entry: String,
    entries: Vec<RawEntry>,
}

/// Options of Limine that mean nothing to this loader; all names in lower case.
const IGNORED: &[&str] = &[
    "backdrop",
    "boot_keybind",
    "firmware_logo",
    "global_dtb",
    "interface_help_color_bright",
    "interface_help_colour_bright",
    "interface_rotation",
    "keyboard_layout",
    "mouse",
    "terse",
    "branding",
    "comment",
    "dtb_path",
    "editor_enabled",
    "editor_highlighting",
    "editor_validation",
    "graphics",
    "interface_branding",
    "interface_branding_color",
    "interface_branding_colour",
    "interface_help_color",
    "interface_help_colour",
    "interface_help_hidden",
    "interface_resolution",
    "kaslr",
    "randomise_hhdm_base",
    "randomise_memory",
    "randomize_hhdm_base",
    "randomize_memory",
    "remember_last_entry",
    "serial",
    "serial_baudrate",
    "term_background",
    "term_background_bright",
    "term_font",
    "term_font_scale",
    "term_font_size",
    "term_font_spacing",
    "term_foreground",
    "term_foreground_bright",
    "term_margin",
    "term_margin_gradient",
    "term_palette",
    "term_palette_bright",
    "textmode",
    "verbose",
    "wallpaper",
    "wallpaper_style",
    "bios_menu",
    "measured_boot",
];

/// Options of an entry that [`Config::entry`] reads.
const ENTRY_KEYS: &[&str] = &[
    "protocol",
    "path",
    "kernel_path",
    "cmdline",
    "kernel_cmdline",
    "module_path",
    "module_string",
    "module_cmdline",
    "resolution",
    "paging_mode",
    "min_paging_mode",
    "max_paging_mode",
];

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// A [`Fault`] with the line that cannot be understood.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = core::str::from_utf8(bytes).map_err(|_| Fault::NotText)?;
        let lines = expand_macros(text)?;

        let mut config = Self {
            timeout: Timeout::Seconds(5),
            quiet: false,
            hash_mismatch_panics: true,
            warnings: Vec::new(),
            default_entry: "1".to_owned(),
            entries: Vec::new(),
        };
        for (line, text) in &lines {
            config.read_line(*line, text.trim())?;
        }
        Ok(config)
    }

    /// How long the message of a failed boot is to be read, in tenths of a second, before the firmware paints over it. A
    /// machine that nobody watches says `quiet: yes` and goes on at once; one that is to boot in a hurry (`timeout: 0`)
    /// waits less than others, but waits. Also answers for a file that cannot be read as a whole.
    #[must_use]
    pub fn message_tenths(bytes: &[u8]) -> u32 {
        let says = |wanted: &str, answer: &str| {
            bytes.split(|b| *b == b'\n').any(|line| {
                core::str::from_utf8(line)
                    .ok()
                    .and_then(|line| line.split_once(':'))
                    .is_some_and(|(key, value)| {
                        key.trim().eq_ignore_ascii_case(wanted)
                            && value.trim().eq_ignore_ascii_case(answer)
                    })
            })
        };
        if says("quiet", "yes") {
            0
        } else if says("timeout", "0") {
            HURRIED_TENTHS
        } else {
            MESSAGE_TENTHS
        }
    }

    fn read_line(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        if text.is_empty() || text.starts_with('#') {
            return Ok(());
        }
        if text.starts_with('/') {
            return self.open_entry(line, text);
        }
        let Some((key, value)) = text.split_once(':') else {
            return Err(Fault::BadLine {
                line,
                text: text.to_string(),
            });
        };
        let key = key.trim_end().to_ascii_lowercase();
        let value = value.trim_start();
        let bad = |expected| Fault::BadOption {
            line,
            key: key.clone(),
            value: value.to_string(),
            expected,
        };
        match key.as_str() {
            // Global options count wherever they stand (Limine CONFIG, Options).
            "timeout" => {
                self.timeout = if value.eq_ignore_ascii_case("no") {
                    Timeout::Never
                } else {
                    Timeout::Seconds(
                        seconds(value).ok_or_else(|| bad("a number of seconds or 'no'"))?,
                    )
                };
            }
            "default_entry" if value.is_empty() => return Err(bad("an entry's number or name")),
            "default_entry" => value.clone_into(&mut self.default_entry),
            "quiet" => self.quiet = yes_or_no(value).ok_or_else(|| bad("'yes' or 'no'"))?,
            "hash_mismatch_panic" => {
                self.hash_mismatch_panics = yes_or_no(value).ok_or_else(|| bad("'yes' or 'no'"))?;
            }
            key if IGNORED.contains(&key) => {}
            key => {
                if !ENTRY_KEYS.contains(&key) {
                    self.warnings
                        .push(format!("line {line}: unknown option '{key}' ignored"));
                } else if let Some(entry) = self.entries.last_mut() {
                    entry.settings.push(Setting {
                        line,
                        key: key.to_owned(),
                        value: value.to_owned(),
                    });
                } else {
                    self.warnings.push(format!(
                        "line {line}: option '{key}' stands before any entry, ignored"
                    ));
                }
            }
        }
        Ok(())
    }

    fn open_entry(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        let name = text.trim_start_matches('/');
        let depth = text.len() - name.len();
        let (expanded, name) = match name.strip_prefix('+') {
            Some(name) => (true, name),
            None => (false, name),
        };
        let name = name.trim().to_owned();
        if name.is_empty() {
            return Err(Fault::BadLine {
                line,
                text: text.to_string(),
            });
        }
        // One level at a time on the way down, any number on the way up.
        if depth > self.entries.last().map_or(0, |e| e.depth) + 1 {
            return Err(Fault::ParentlessEntry { line, name });
        }
        self.entries.push(RawEntry {
            name,
            depth,
            expanded,
            settings: Vec::new(),
        });
        Ok(())
    }

    /// How many entries the file has, folders included.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    fn is_folder(&self, index: usize) -> bool {
        self.entries
            .get(index + 1)
            .is_some_and(|next| next.depth > self.entries[index].depth)
    }

    /// The entries a menu would show at first: those whose folders all stand open.
    fn visible(&self) -> Vec<usize> {
        let mut visible = Vec::new();
        // Depth below which entries are hidden by a closed folder.
        let mut closed: Option<usize> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            if closed.is_some_and(|depth| entry.depth > depth) {
                continue;
            }
            closed = (self.is_folder(index) && !entry.expanded).then_some(entry.depth);
            visible.push(index);
        }
        visible
    }

    /// The index of `folder/entry`, by names from the top.
    fn by_name(&self, wanted: &str) -> Option<usize> {
        let mut path: Vec<&str> = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            path.truncate(entry.depth - 1);
            path.push(&entry.name);
            if path.join("/") == wanted {
                return Some(index);
            }
        }
        None
    }

    /// The entry that `default_entry` names: by its number among those a menu shows at first, from 1, or by name.
    ///
    /// # Errors
    /// A [`Fault`] if there is none, or if it cannot be booted as it stands.
    pub fn default_entry(&self) -> Result<Entry, Fault> {
        if self.entries.is_empty() {
            return Err(Fault::NoEntries);
        }
        let visible = self.visible();
        let wanted = &self.default_entry;
        let index = match wanted.parse::<usize>() {
            Ok(number) => number.checked_sub(1).and_then(|n| visible.get(n).copied()),
            Err(_) => self.by_name(wanted),
        };
        let index = index.ok_or_else(|| Fault::NoSuchEntry {
            wanted: wanted.clone(),
            count: visible.len(),
        })?;
        if self.is_folder(index) {
            return Err(Fault::EntryIsFolder {
                name: self.entries[index].name.clone(),
            });
        }
        entry_from(&self.entries[index])
    }
}

/// Whole seconds, or decimals, which are rounded up so that a short wait stays one.
fn seconds(value: &str) -> Option<u32> {
    let (whole, decimals) = value.split_once('.').unwrap_or((value, "0"));
    if decimals.is_empty() || !decimals.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let more = decimals.bytes().any(|c| c != b'0');
    whole.parse::<u32>().ok()?.checked_add(more.into())
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn entry_from(raw: &RawEntry) -> Result<Entry, Fault> {
    let first = |keys: &[&str]| raw.settings.iter().find(|s| keys.contains(&s.key.as_str()));
    let missing = |key| Fault::MissingOption {
        entry: raw.name.clone(),
        key,
    };

    let protocol = first(&["protocol"]).ok_or_else(|| missing("protocol"))?;
    if !protocol.value.eq_ignore_ascii_case("limine") {
        return Err(Fault::WrongProtocol {
            entry: raw.name.clone(),
            protocol: protocol.value.clone(),
        });
    }
    let kernel = first(&["path", "kernel_path"]).ok_or_else(|| missing("path"))?;
    let cmdline = first(&["cmdline", "kernel_cmdline"]).map_or(String::new(), |s| s.value.clone());

    let mut entry = Entry {
        name: raw.name.clone(),
        kernel_text: kernel.value.clone(),
        kernel: path_of(kernel)?,
        cmdline,
        modules: Vec::new(),
        resolution: None,
        min_paging_levels: None,
    };
    for setting in &raw.settings {
        match setting.key.as_str() {
            "module_path" => entry.modules.push(Module {
                text: setting.value.clone(),
                path: path_of(setting)?,
                string: String::new(),
            }),
            "module_string" | "module_cmdline" => {
                let module = entry
                    .modules
                    .last_mut()
                    .ok_or(Fault::StringWithoutModule { line: setting.line })?;
                module.string.clone_from(&setting.value);
            }
            "resolution" => entry.resolution = Some(resolution_of(setting)?),
            "paging_mode" | "min_paging_mode" => {
                entry.min_paging_levels = Some(paging_levels(setting)?);
            }
            "max_paging_mode" => {
                paging_levels(setting)?;
            }
            _ => {}
        }
    }
    Ok(entry)
}

fn bad_value(setting: &Setting, expected: &'static str) -> Fault {
    Fault::BadOption {
        line: setting.line,
        key: setting.key.clone(),
        value: setting.value.clone(),
        expected,
    }
}

fn path_of(setting: &Setting) -> Result<FilePath, Fault> {
    FilePath::parse(&setting.value).map_err(|fault| match fault {
        Fault::BadPath => bad_value(setting, "a path like boot():/folder/file"),
        Fault::UnsupportedResource(_) => {
            bad_value(setting, "a path on boot(), guid(), uuid() or fslabel()")
        }
        _ => bad_value(setting, "128 hexadecimal digits (BLAKE2b) after '#'"),
    })
}

fn resolution_of(setting: &Setting) -> Result<Resolution, Fault> {
    let bad = || bad_value(setting, "WIDTHxHEIGHT or WIDTHxHEIGHTxBITS");
    let mut numbers = setting.value.split('x').map(str::parse::<u32>);
    let mut next = || numbers.next().transpose().map_err(|_| bad());
    let (width, height, bpp) = (next()?, next()?, next()?);
    match (width, height, bpp, next()?) {
        (Some(width @ 1..), Some(height @ 1..), bpp, None) => Ok(Resolution {
            width,
            height,
            bpp: bpp.unwrap_or(32),
        }),
        _ => Err(bad()),
    }
}

fn paging_levels(setting: &Setting) -> Result<u32, Fault> {
    match setting.value.to_ascii_lowercase().as_str() {
        "4level" => Ok(4),
        "5level" => Ok(5),
        _ => Err(bad_value(setting, "'4level' or '5level'")),
    }
}

/// Takes the macro definitions out and puts their values in, in numbered lines (from 1).
fn expand_macros(text: &str) -> Result<Vec<(usize, String)>, Fault> {
    let mut macros: Vec<(&str, &str)> = [
        ("ARCH", "x86-64"),
        ("LOADER_ARCH", "x86-64"),
        ("FW_TYPE", "UEFI"),
    ]
    .to_vec();
    let definition = |line: &'_ str| -> Option<(usize, usize)> {
        let line = line.strip_prefix("${")?;
        let close = line.find('}')?;
        line[close + 1..]
            .starts_with('=')
            .then_some((2 + close, 2 + close + 2))
    };
    for line in text.lines().map(str::trim) {
        if let Some((close, value)) = definition(line) {
            macros.push((&line[2..close], &line[value..]));
        }
    }

    let mut total = 0;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (number, mut rest) = (number + 1, line.trim());
        if definition(rest).is_some() || rest.starts_with('#') {
            continue;
        }
        let mut expanded = String::new();
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            let close = from
                .find('}')
                .ok_or(Fault::UnclosedMacro { line: number })?;
            expanded.push_str(before);
            // The last definition of a name counts; an unknown name expands to nothing.
            let name = &from[2..close];
            if let Some((_, value)) = macros.iter().rev().find(|(n, _)| *n == name) {
                expanded.push_str(value);
            }
            rest = &from[close + 1..];
            if total + expanded.len() > MAX_EXPANDED {
                return Err(Fault::MacroOverflow);
            }
        }
        expanded.push_str(rest);
        total += expanded.len();
        if total > MAX_EXPANDED {
            return Err(Fault::MacroOverflow);
        }
        lines.push((number, expanded));
    }
    Ok(lines)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
