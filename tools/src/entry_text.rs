//! The instructions of the kernel's entries and exits: where each begins, what it is, and in which routine.
//!
//! The kernel's linker script puts that assembly between `__entry_start` and `__entry_end`. The routines are the symbols in
//! there; the instructions are read from the memory of the running machine, since the kernel patches some of them at boot. What a patch
//! leaves behind it is no instruction any more, so they are found as the CPU finds them: from the beginning of each routine
//! along every branch.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::endian::LittleEndian;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter};
use rustc_demangle::demangle;

/// The routine that is the vectors' stubs.
pub const STUBS: &str = "entry::vectors::stubs";
/// How many stubs there are.
pub const VECTORS: u64 = 256;
/// Bytes from one stub to the next.
pub const STUB_BYTES: u64 = 16;

/// One routine of the section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routine {
    /// Its path, without the crate: `entry::syscall::entry`.
    pub name: String,
    /// Its first byte.
    pub start: u64,
}

/// The section, and what else of the kernel the lane needs to know.
#[derive(Clone, Debug)]
pub struct EntryText {
    /// All routines, by address.
    pub routines: Vec<Routine>,
    symbols: Vec<(String, u64)>,
    range: Range<u64>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its address.
    pub address: u64,
    /// The routine's name.
    pub routine: String,
    /// Bytes from the routine's start.
    pub offset: u64,
    /// The instruction.
    pub instruction: Instruction,
}

impl Place {
    /// `entry::syscall::entry+0x12: push rcx`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        IntelFormatter::new().format(&self.instruction, &mut text);
        format!("{}+{:#x}: {text}", self.routine, self.offset)
    }
}

impl EntryText {
    /// Reads the symbols of the kernel's file.
    ///
    /// # Errors
    /// If it is no ELF file with symbols, or has no such section.
    pub fn of(kernel: &Path) -> Result<Self> {
        let bytes = std::fs::read(kernel).with_context(|| kernel.display().to_string())?;
        let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes).context("the kernel's file")?;
        let (table, names) = file
            .symbol_table()
            .context("the kernel's symbols")?
            .context("the kernel has no symbols")?;
        let mut symbols = Vec::new();
        let mut sized = Vec::new();
        for symbol in table.iter() {
            let Ok(name) = names.get(symbol.st_name as usize) else {
                continue;
            };
            let name = format!("{:#}", demangle(name));
            symbols.push((name.clone(), symbol.st_value));
            if symbol.st_symtype() == elf::abi::STT_FUNC && symbol.st_size > 0 {
                sized.push(Routine {
                    name: name.strip_prefix("arch::").unwrap_or(&name).to_owned(),
                    start: symbol.st_value,
                });
            }
        }
        let mut text = Self {
            routines: Vec::new(),
            symbols,
            range: 0..0,
        };
        text.range = text.symbol("__entry_start")?..text.symbol("__entry_end")?;
        sized.retain(|routine| text.range.contains(&routine.start));
        sized.sort_by_key(|routine| routine.start);
        ensure!(!sized.is_empty(), "the kernel's entry section is empty");
        text.routines = sized;
        Ok(text)
    }

    /// The address of a symbol.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn symbol(&self, name: &str) -> Result<u64> {
        self.symbols
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, address)| *address)
            .with_context(|| format!("the kernel has no symbol '{name}'"))
    }

    /// From where to where the section reaches.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// All instructions of the section, whose bytes are given.
    ///
    /// # Errors
    /// If some bytes that the CPU can come to are no instruction.
    pub fn places(&self, bytes: &[u8]) -> Result<Vec<Place>> {
        let mut found = BTreeMap::new();
        let code = self.routines.iter().filter(|r| r.name != STUBS);
        let starts = code.map(|routine| routine.start);
        follow(
            self.range.start,
            bytes,
            starts.chain(self.stubs()),
            &mut found,
        )?;
        // What is entered from elsewhere, if it was not patched away.
        let inside = |address: &u64, found: &BTreeMap<u64, Instruction>| {
            let before = found.range(..=*address).next_back();
            before.is_some_and(|(_, i)| *address < i.next_ip())
        };
        for (name, label) in &self.symbols {
            // What ends a routine is no instruction of it.
            if !name.ends_with("_end") && self.range.contains(label) && !inside(label, &found) {
                follow(self.range.start, bytes, [*label], &mut found)?;
            }
        }
        Ok(found
            .into_values()
            .filter_map(|instruction| self.place(instruction))
            .collect())
    }

    /// The stubs of the vectors: one routine, in which nothing leads from one to the next.
    fn stubs(&self) -> impl Iterator<Item = u64> {
        let routine = self.routines.iter().find(|r| r.name == STUBS);
        let first = routine.map_or(self.range.end, |r| r.start.next_multiple_of(STUB_BYTES));
        (0..VECTORS)
            .map(move |vector| first + vector * STUB_BYTES)
            .filter(|address| self.range.contains(address))
    }

    fn place(&self, instruction: Instruction) -> Option<Place> {
        let address = instruction.ip();
        let routine = self.routines.iter().rfind(|r| r.start <= address)?;
        Some(Place {
            address,
            routine: routine.name.clone(),
            offset: address - routine.start,
            instruction,
        })
    }
}

/// Follows the code from each of `starts` along every branch that stays within `bytes`, which lie at `base`.
fn follow(
    base: u64,
    bytes: &[u8],
    starts: impl IntoIterator<Item = u64>,
    found: &mut BTreeMap<u64, Instruction>,
) -> Result<()> {
    let mut open: Vec<u64> = starts.into_iter().collect();
    while let Some(address) = open.pop() {
        let at = address
            .checked_sub(base)
            .and_then(|at| bytes.get(at as usize..));
        let Some(rest) = at.filter(|rest| !rest.is_empty() && !found.contains_key(&address)) else {
            continue;
        };
        let instruction = Decoder::with_ip(64, rest, address, DecoderOptions::NONE).decode();
        ensure!(
            !instruction.is_invalid(),
            "there is no instruction at {address:#x}"
        );
        found.insert(address, instruction);
        let flow = instruction.flow_control();
        if matches!(
            flow,
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
        ) {
            open.push(instruction.near_branch_target());
        }
        let ends = matches!(
            flow,
            FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Exception
        );
        if !ends {
            open.push(instruction.next_ip());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section at 0x1000 with a routine at its start, and labels.
    fn texts(bytes: &[u8], labels: &[u64]) -> Result<Vec<String>> {
        let text = EntryText {
            routines: vec![Routine {
                name: "r".into(),
                start: 0x1000,
            }],
            symbols: labels.iter().map(|l| (String::new(), 0x1000 + l)).collect(),
            range: 0x1000..0x1000 + bytes.len() as u64,
        };
        Ok(text.places(bytes)?.iter().map(Place::text).collect())
    }

    #[test]
    fn only_what_is_led_to_is_a_place() {
        // je over a jmp and a nop; jmp to itself; nop (padding); nop, swapgs, iretq; a nop.
        let bytes = [
            0x74, 0x03, 0xEB, 0xFE, 0x90, 0x90, 0x0F, 0x01, 0xF8, 0x48, 0xCF, 0x90,
        ];
        assert_eq!(
            texts(&bytes, &[]).unwrap(),
            [
                "r+0x0: je short 0000000000001005h",
                "r+0x2: jmp short 0000000000001002h",
                "r+0x5: nop",
                "r+0x6: swapgs",
                "r+0x9: iretq"
            ]
        );
    }

    #[test]
    fn labels_are_entered_unless_a_patch_lies_over_them() {
        // jmp rel32 to itself over a label at 3; a byte that is left; `hlt` with a label.
        let bytes = [0xE9, 0xFB, 0xFF, 0xFF, 0xFF, 0xE8, 0xF4, 0xEB, 0xFD];
        assert_eq!(
            texts(&bytes, &[3, 6]).unwrap(),
            [
                "r+0x0: jmp 0000000000001000h",
                "r+0x6: hlt",
                "r+0x7: jmp short 0000000000001006h"
            ]
        );
    }

    #[test]
    fn data_is_refused() {
        assert!(texts(&[0x06], &[]).is_err());
    }
}
