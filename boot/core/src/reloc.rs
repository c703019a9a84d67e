//! Relocating an image to where it was put.
//!
//! A position-independent kernel carries a table of the words that hold addresses. All of them were linked as if the
//! image lay at its own addresses; each gets the slide added. Kernels have no libraries, so only the relocations
//! that need nothing from outside are done: RELATIVE in its plain and its packed (RELR) form, and the symbolic ones
//! for symbols that the image itself defines. Anything else is refused by its number.

use crate::addr::{half_at, word_at};
use crate::elf::Plan;
use crate::error::Fault;

// Tags of the dynamic section (ELF gABI, Dynamic Section).
const DT_PLTRELSZ: u64 = 2;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_RELAENT: u64 = 9;
const DT_REL: u64 = 17;
const DT_JMPREL: u64 = 23;
const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;

// Relocation types (System V ABI for AMD64, §4.4.1).
const R_X86_64_NONE: u32 = 0;
const R_X86_64_64: u32 = 1;
const R_X86_64_GLOB_DAT: u32 = 6;
const R_X86_64_JUMP_SLOT: u32 = 7;
const R_X86_64_RELATIVE: u32 = 8;

const RELA_BYTES: u64 = 24;
const SYMBOL_BYTES: u64 = 24;

#[derive(Default)]
struct Dynamic {
    rela: Option<u64>,
    rela_size: u64,
    plt: Option<u64>,
    plt_size: u64,
    relr: Option<u64>,
    relr_size: u64,
    symbols: Option<u64>,
}

/// Applies the relocations of the image that `plan` loaded into `image`. A static image has none.
///
/// # Errors
/// [`Fault::BadRelocationTable`], [`Fault::UnsupportedRelocation`] or [`Fault::RelocationOutside`].
pub fn apply(plan: &Plan, image: &mut [u8]) -> Result<(), Fault> {
    let Some((start, length)) = plan.dynamic else {
        return Ok(());
    };
    let table = image
        .get(start as usize..(start + length) as usize)
        .ok_or(Fault::BadRelocationTable)?;
    let dynamic = read_dynamic(table)?;
    if let Some(at) = dynamic.relr {
        apply_relr(plan, image, at, dynamic.relr_size)?;
    }
    if let Some(at) = dynamic.rela {
        apply_rela(plan, image, at, dynamic.rela_size, dynamic.symbols)?;
    }
    if let Some(at) = dynamic.plt {
        apply_rela(plan, image, at, dynamic.plt_size, dynamic.symbols)?;
    }
    Ok(())
}

fn read_dynamic(table: &[u8]) -> Result<Dynamic, Fault> {
    let mut dynamic = Dynamic::default();
    for entry in table.chunks_exact(16) {
        let (Some(tag), Some(value)) = (word_at(entry, 0), word_at(entry, 8)) else {
            break;
        };
        match tag {
            0 => break,
            DT_RELA => dynamic.rela = Some(value),
            DT_RELASZ => dynamic.rela_size = value,
            DT_RELAENT if value != RELA_BYTES => return Err(Fault::BadRelocationTable),
            DT_REL => return Err(Fault::BadRelocationTable),
            DT_JMPREL => dynamic.plt = Some(value),
            DT_PLTRELSZ => dynamic.plt_size = value,
            DT_RELR => dynamic.relr = Some(value),
            DT_RELRSZ => dynamic.relr_size = value,
            DT_SYMTAB => dynamic.symbols = Some(value),
            _ => {}
        }
    }
    Ok(dynamic)
}

/// The image's offset of the address `linked`, as linked, if `bytes` bytes fit there.
fn offset(plan: &Plan, linked: u64, bytes: u64) -> Option<usize> {
    let base = plan.virtual_base.0.wrapping_sub(plan.slide);
    let offset = linked.checked_sub(base)?;
    (offset.checked_add(bytes)? <= plan.size).then_some(offset as usize)
}

fn write(plan: &Plan, image: &mut [u8], linked: u64, value: u64) -> Result<(), Fault> {
    let at = offset(plan, linked, 8).ok_or(Fault::RelocationOutside { offset: linked })?;
    image
        .get_mut(at..at + 8)
        .ok_or(Fault::RelocationOutside { offset: linked })?
        .copy_from_slice(&value.to_le_bytes());
    Ok(())
}

fn apply_rela(
    plan: &Plan,
    image: &mut [u8],
    table: u64,
    bytes: u64,
    symbols: Option<u64>,
) -> Result<(), Fault> {
    let start = offset(plan, table, bytes).ok_or(Fault::BadRelocationTable)?;
    for n in 0..(bytes / RELA_BYTES) as usize {
        let entry = start + n * RELA_BYTES as usize;
        let (Some(place), Some(info), Some(addend)) = (
            word_at(image, entry),
            word_at(image, entry + 8),
            word_at(image, entry + 16),
        ) else {
            return Err(Fault::BadRelocationTable);
        };
        let kind = info as u32;
        let value = match kind {
            R_X86_64_NONE => continue,
            R_X86_64_RELATIVE => addend.wrapping_add(plan.slide),
            R_X86_64_64 | R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT => {
                let symbol = symbol(plan, image, symbols, info >> 32)
                    .ok_or(Fault::UnsupportedRelocation { kind })?
                    .wrapping_add(plan.slide);
                if kind == R_X86_64_64 {
                    symbol.wrapping_add(addend)
                } else {
                    symbol
                }
            }
            kind => return Err(Fault::UnsupportedRelocation { kind }),
        };
        write(plan, image, place, value)?;
    }
    Ok(())
}

/// The value of symbol `index`, if the image defines it.
fn symbol(plan: &Plan, image: &[u8], table: Option<u64>, index: u64) -> Option<u64> {
    let linked = table?.checked_add(index.checked_mul(SYMBOL_BYTES)?)?;
    let at = offset(plan, linked, SYMBOL_BYTES)?;
    let section = half_at(image, at + 6)?;
    // Section 0 is "undefined": a symbol from outside.
    if section == 0 {
        None
    } else {
        word_at(image, at + 8)
    }
}

/// RELR: an even word is the address of one relocation; an odd one is a bitmap of the 63 words that follow
/// (ELF gABI, Relative Relocation Table).
fn apply_relr(plan: &Plan, image: &mut [u8], table: u64, bytes: u64) -> Result<(), Fault> {
    let start = offset(plan, table, bytes).ok_or(Fault::BadRelocationTable)?;
    let mut next = 0_u64;
    for n in 0..(bytes / 8) as usize {
        let entry = word_at(image, start + n * 8).ok_or(Fault::BadRelocationTable)?;
        if entry & 1 == 0 {
            slide_word(plan, image, entry)?;
            next = entry.wrapping_add(8);
        } else {
            for bit in 0..63 {
                if entry >> (bit + 1) & 1 != 0 {
                    slide_word(plan, image, next.wrapping_add(bit * 8))?;
                }
            }
            next = next.wrapping_add(63 * 8);
        }
    }
    Ok(())
}

fn slide_word(plan: &Plan, image: &mut [u8], linked: u64) -> Result<(), Fault> {
    let outside = Fault::RelocationOutside { offset: linked };
    let at = offset(plan, linked, 8).ok_or(outside.clone())?;
    let word = word_at(image, at).ok_or(outside)?;
    write(plan, image, linked, word.wrapping_add(plan.slide))
}
