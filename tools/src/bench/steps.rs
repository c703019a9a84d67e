//! An operation followed instruction by instruction: how many each step of it takes, and how many of those that cost more than others.
//!
//! The bench program calls `bench_trace_begin` and `bench_trace_end` around each operation once. Here a debugger stops at the one, steps
//! to the other, and notes where each instruction lies and what memory it names. Debug information tells which function, inlined
//! or not, an instruction belongs to.
//!
//! What may go wrong: the machine runs past the first stop before the debugger is there, or one operation takes longer than any
//! should; both are errors.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use addr2line::Loader;
use anyhow::{Context, Result, bail, ensure};
use elf::ElfBytes;
use elf::endian::AnyEndian;
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, InstructionInfoFactory,
    IntelFormatter, MemorySizeOptions, Mnemonic, OpAccess, OpKind, Register,
};
use serde::{Deserialize, Serialize};

use crate::gdb::{Gdb, Registers};
use crate::machine::{Machine, Spec};

/// Until the first operation, and from one to the next.
const PATIENCE: Duration = Duration::from_mins(2);
/// More instructions than any operation takes.
const LONGEST: usize = 200_000;
/// Bytes of a line of the cache.
const LINE: u64 = 64;
const LONGEST_INSTRUCTION: usize = 15;

/// What instructions hide of their price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Writes of CR0, `clts` among them.
    pub cr0_writes: u32,
    /// Writes of CR3.
    pub cr3_writes: u32,
    /// `wrmsr`.
    pub msr_writes: u32,
    /// Instructions that lock a bus or a line: those with the prefix, and `xchg` with memory.
    pub locked: u32,
    /// Cache lines of data that are read or written, stacks among them.
    pub lines: u32,
    /// Those of them that are the kernel's.
    pub kernel_lines: u32,
    /// Cache lines of the kernel's code.
    pub kernel_code_lines: u32,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Steps {
    /// Each function, in the order in which they come first, and how many instructions it has.
    pub functions: Vec<(String, u32)>,
    /// What they hide.
    pub price: Price,
    /// Each instruction, in the order in which it was executed.
    pub listing: Vec<Executed>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// It is the kernel's, not the program's.
    pub is_kernel: bool,
    /// Cache lines of data that nothing before it has read or written.
    pub new_lines: usize,
    /// In Intel's notation, without what moves whenever anything else does: where a jump leads, and where a variable lies.
    pub text: String,
}

impl Steps {
    /// Instructions in all.
    pub fn instructions(&self) -> u32 {
        self.functions.iter().map(|(_, count)| count).sum()
    }
}

/// Follows `operations` operations on a machine of this kind, in the order in which the bench program does them. `kernel` and
/// `program` are the files with debug information.
///
/// # Errors
/// If the machine or the debugger fails, or an operation does not come or has no end.
pub fn follow(spec: &Spec, kernel: &Path, program: &Path, operations: usize) -> Result<Vec<Steps>> {
    let (sender, _events) = mpsc::channel();
    let mut machine = Machine::start(spec, sender)?;
    let qmp = machine.qmp().context("QEMU opened no control channel")?;
    let mut gdb = Gdb::attach(qmp)?;
    let followed = Follower::new(kernel, program)
        .and_then(|mut follower| (0..operations).map(|_| follower.follow(&mut gdb)).collect());
    machine.kill();
    followed
}

/// Has a machine run until the bench program calls `bench_trace_begin` for the first time.
///
/// # Errors
/// If it does not, or the program can't be read.
pub(super) fn stop_at_begin(gdb: &mut Gdb, program: &Path) -> Result<()> {
    let begin = address(program, "bench_trace_begin")?;
    stop_at(gdb, begin, &code(program, begin)?).map(drop)
}

/// Has a machine run until user code comes to `begin`, where `code` is.
fn stop_at(gdb: &mut Gdb, begin: u64, code: &[u8]) -> Result<Registers> {
    loop {
        gdb.set_breakpoint(begin)?;
        gdb.resume()?;
        ensure!(gdb.wait(PATIENCE)?, "the operation does not begin");
        gdb.clear_breakpoint(begin)?;
        let at = gdb.registers()?;
        // Other programs, and the loader, have something else at this address.
        let is_user = at.get("cs") & 3 == 3;
        if is_user && read_code(gdb, begin).is_ok_and(|bytes| bytes == code) {
            return Ok(at);
        }
        gdb.step()?;
    }
}

struct Follower {
    kernel: Names,
    program: Names,
    begin: u64,
    /// What is there.
    code: Vec<u8>,
    end: u64,
    info: InstructionInfoFactory,
}

impl Follower {
    fn new(kernel: &Path, program: &Path) -> Result<Self> {
        let begin = address(program, "bench_trace_begin")?;
        Ok(Self {
            begin,
            code: code(program, begin)?,
            end: address(program, "bench_trace_end")?,
            kernel: Names::read(kernel)?,
            program: Names::read(program)?,
            info: InstructionInfoFactory::new(),
        })
    }

    /// The next operation.
    fn follow(&mut self, gdb: &mut Gdb) -> Result<Steps> {
        let mut at = stop_at(gdb, self.begin, &self.code)?;
        // To the end of that function: what it returns to is on the stack.
        let back = gdb
            .word(at.get("rsp"))
            .context("the stack where an operation begins")?;
        while at.get("rip") != back {
            gdb.step()?;
            at = gdb.registers()?;
        }
        let mut functions: Vec<(String, u32)> = Vec::new();
        let mut listing = Vec::new();
        let mut price = Price::default();
        let mut lines = BTreeSet::new();
        let mut code_lines = BTreeSet::new();
        for _ in 0..LONGEST {
            let rip = at.get("rip");
            if rip == self.end {
                let count = |lines: &mut dyn Iterator<Item = &u64>| {
                    u32::try_from(lines.count()).unwrap_or(u32::MAX)
                };
                price.lines = count(&mut lines.iter());
                price.kernel_lines = count(&mut lines.iter().filter(|line| is_kernel(**line)));
                price.kernel_code_lines = count(&mut code_lines.iter());
                return Ok(Steps {
                    functions,
                    price,
                    listing,
                });
            }
            let bytes = read_code(gdb, rip)
                .with_context(|| format!("the instruction at {rip:#x}, after {at:x?}"))?;
            let mut decoder = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE);
            let instruction = decoder.decode();
            ensure!(
                !instruction.is_invalid(),
                "can't decode what is at {rip:#x}"
            );
            let name = if is_kernel(rip / LINE) {
                code_lines.extend(lines_of(rip, instruction.len()));
                self.kernel.of(rip)
            } else {
                self.program.of(rip)
            };
            match functions.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => functions.push((name, 1)),
            }
            let before = lines.len();
            self.count(&instruction, &at, &mut price, &mut lines);
            listing.push(Executed {
                is_kernel: is_kernel(rip / LINE),
                new_lines: lines.len() - before,
                text: text(&instruction),
            });
            gdb.step()?;
            at = gdb.registers()?;
        }
        bail!("the operation has no end within {LONGEST} instructions")
    }

    fn count(
        &mut self,
        instruction: &Instruction,
        at: &Registers,
        price: &mut Price,
        lines: &mut BTreeSet<u64>,
    ) {
        match instruction.code() {
            Code::Mov_cr_r64 if instruction.op0_register() == Register::CR3 => {
                price.cr3_writes += 1;
            }
            Code::Mov_cr_r64 if instruction.op0_register() == Register::CR0 => {
                price.cr0_writes += 1;
            }
            Code::Clts => price.cr0_writes += 1,
            Code::Wrmsr => price.msr_writes += 1,
            _ => {}
        }
        let swaps_memory = instruction.mnemonic() == Mnemonic::Xchg
            && instruction.op_kinds().any(|kind| kind == OpKind::Memory);
        if instruction.has_lock_prefix() || swaps_memory {
            price.locked += 1;
        }
        for memory in self.info.info(instruction).used_memory() {
            if matches!(memory.access(), OpAccess::NoMemAccess | OpAccess::None) {
                continue;
            }
            let value = |register: Register, _, _| Some(value_of(at, register));
            if let Some(address) = memory.virtual_address(0, value) {
                lines.extend(lines_of(address, memory.memory_size().size()));
            }
        }
    }
}

/// An instruction in Intel's notation, as [`Executed`] has it.
fn text(instruction: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_small_hex_numbers_in_decimal(true);
    options.set_space_after_operand_separator(true);
    options.set_rip_relative_addresses(true);
    options.set_memory_size_options(MemorySizeOptions::Default);
    let mut text = String::new();
    if instruction.flow_control() == FlowControl::Next
        || instruction.op_count() == 0
        || instruction.op0_kind() == OpKind::Memory
        || instruction.op0_kind() == OpKind::Register
    {
        let mut instruction = *instruction;
        if instruction.is_ip_rel_memory_operand() {
            instruction.set_memory_displacement64(instruction.next_ip());
        }
        formatter.format(&instruction, &mut text);
    } else {
        formatter.format_mnemonic(instruction, &mut text);
    }
    text
}

/// The lines that so many bytes lie in.
fn lines_of(address: u64, bytes: usize) -> impl Iterator<Item = u64> {
    let last = address.wrapping_add(bytes.max(1) as u64 - 1);
    address / LINE..=last / LINE
}

/// Whether a line lies in the upper half of the address space.
fn is_kernel(line: u64) -> bool {
    line >= (1 << 63) / LINE
}

/// The bytes of an instruction, and some more unless a page ends there.
fn read_code(gdb: &mut Gdb, rip: u64) -> Result<Vec<u8>> {
    let to_page_end = (4096 - rip % 4096) as usize;
    match gdb.read(rip, LONGEST_INSTRUCTION) {
        Ok(bytes) => Ok(bytes),
        Err(_) => gdb.read(rip, LONGEST_INSTRUCTION.min(to_page_end)),
    }
}

/// A register's value for an address: segments are their bases.
fn value_of(at: &Registers, register: Register) -> u64 {
    match register {
        Register::FS => at.get("fs_base"),
        Register::GS => at.get("gs_base"),
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        register => {
            let whole = register.full_register();
            let name = format!("{whole:?}").to_lowercase();
            if whole.is_gpr64() { at.get(&name) } else { 0 }
        }
    }
}

/// A symbol's address in a program.
pub(super) fn address(program: &Path, name: &str) -> Result<u64> {
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let file = ElfBytes::<AnyEndian>::minimal_parse(&bytes).context("the program's file")?;
    let (symbols, names) = file.symbol_table()?.context("the program has no symbols")?;
    symbols
        .iter()
        .find(|symbol| {
            names
                .get(symbol.st_name as usize)
                .is_ok_and(|found| found == name)
        })
        .map(|symbol| symbol.st_value)
        .with_context(|| format!("the program has no symbol '{name}'"))
}

/// The bytes at an address in a program.
fn code(program: &Path, address: u64) -> Result<Vec<u8>> {
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let file = ElfBytes::<AnyEndian>::minimal_parse(&bytes).context("the program's file")?;
    let segments = file.segments().context("the program has no segments")?;
    let found = segments.iter().find_map(|segment| {
        let offset = address.checked_sub(segment.p_vaddr)?;
        let end = offset + LONGEST_INSTRUCTION as u64;
        let at = usize::try_from(segment.p_offset + offset).ok()?;
        (end <= segment.p_filesz).then(|| bytes.get(at..at + LONGEST_INSTRUCTION))?
    });
    Ok(found
        .with_context(|| format!("the program has nothing at {address:#x}"))?
        .to_vec())
}

/// The names of a program's functions.
pub(super) struct Names {
    debug: Loader,
}

impl Names {
    pub(super) fn read(path: &Path) -> Result<Self> {
        // The error is no `Send`, so it goes on as text.
        let debug =
            Loader::new(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        Ok(Self { debug })
    }

    /// The function that an instruction belongs to, and its file: the innermost inlined one that is the project's own.
    pub(super) fn of(&self, address: u64) -> String {
        if let Ok(mut frames) = self.debug.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let file = frame.location.and_then(|location| location.file);
                let (Some(function), Some(file)) = (frame.function, file.and_then(own_file)) else {
                    continue;
                };
                if let Ok(found) = function.demangle() {
                    return format!("{file}: {}", plain(&found));
                }
            }
        }
        let found = self.debug.find_symbol(address).map(symbol);
        found.unwrap_or_else(|| format!("{address:#x}"))
    }
}

/// A file of the project's, from its room on; none for those of libraries.
fn own_file(path: &str) -> Option<&str> {
    let (before, _) = path.split_once("/src/")?;
    let is_library = ["/rustc/", "/library/", "/registry/", "/.cargo/"]
        .iter()
        .any(|library| path.contains(library));
    let room = before.rfind('/').map_or(0, |at| at + 1);
    (!is_library).then(|| &path[room..])
}

fn symbol(name: &str) -> String {
    plain(&format!("{:#}", rustc_demangle::demangle(name)))
}

/// A name without its hash and generic arguments.
fn plain(name: &str) -> String {
    let mut text = String::new();
    let mut depth = 0_u32;
    for part in name.chars() {
        match part {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            part if depth == 0 => text.push(part),
            _ => {}
        }
    }
    let parts: Vec<&str> = text
        .split("::")
        .filter(|part| {
            let hash = part.len() == 17 && part.starts_with('h');
            !part.is_empty() && !hash
        })
        .collect();
    parts.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_libraries_are_passed_over() {
        assert_eq!(
            own_file("/home/user/switchyard/kernel/src/schedule/bare.rs"),
            Some("kernel/src/schedule/bare.rs")
        );
        assert_eq!(
            own_file("arch/src/exchange.rs"),
            Some("arch/src/exchange.rs")
        );
        assert_eq!(own_file("/rustc/0123/library/core/src/cell.rs"), None);
        assert_eq!(
            own_file("/home/user/.cargo/registry/src/index/spin-0.9/src/once.rs"),
            None
        );
    }

    #[test]
    fn what_lies_across_a_border_is_in_two_lines() {
        assert_eq!(lines_of(0x7F, 1).collect::<Vec<_>>(), [1]);
        assert_eq!(lines_of(0x7F, 2).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(lines_of(0x80, 0).collect::<Vec<_>>(), [2]);
        assert_eq!(lines_of(u64::MAX, 1).count(), 1);
        assert!(is_kernel(0xFFFF_8000_0000_0000 / LINE));
        assert!(!is_kernel(0x7FFF_FFFF_FFFF / LINE));
    }

    #[test]
    fn names_lose_hashes_and_arguments() {
        for (name, shown) in [
            (
                "arch::switch::exchange_bases::h0123456789abcdef",
                "arch::switch::exchange_bases",
            ),
            (
                "sched::run_queue::RunQueue<T>::exchange",
                "sched::run_queue::RunQueue::exchange",
            ),
            ("main", "main"),
        ] {
            assert_eq!(plain(name), shown);
        }
    }
}
