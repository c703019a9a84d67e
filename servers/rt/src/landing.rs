//! The kernel's landing page: what can be had of the kernel without entering it.
//!
//! Its address comes with the start block. It is an ELF image, whose symbols are looked up as a dynamic linker does it: by the
//! hash table that its dynamic section names. What may go wrong: a kernel that has no such page, or not this symbol. Then
//! the SDK makes the system call, so that no program needs to care.

use abi::landing::symbol;
use core::sync::atomic::{AtomicUsize, Ordering};
use elf::ElfBytes;
use elf::abi::{DT_HASH, DT_STRSZ, DT_STRTAB, DT_SYMENT, DT_SYMTAB};
use elf::endian::LittleEndian;
use elf::hash::SysVHashTable;
use elf::string_table::StringTable;
use elf::symbol::SymbolTable;

use crate::start;

/// `__vdso_clock_now`; 0 if there is none.
static CLOCK: AtomicUsize = AtomicUsize::new(0);
/// `__vdso_cpu_number`; 0 if there is none.
static CPU: AtomicUsize = AtomicUsize::new(0);

/// The image of the calling program's own landing page.
pub fn image() -> Option<&'static [u8]> {
    let address = start::value(abi::start::names::SYSINFO_EHDR).ok()?;
    if address == 0 || !cfg!(target_env = "musl") {
        return None;
    }
    // SAFETY: the start block has the address from the kernel, which keeps that page mapped and unchanged as long as the process
    // lives.
    Some(unsafe {
        core::slice::from_raw_parts(address as *const u8, abi::layout::PAGE_SIZE as usize)
    })
}

/// Where a symbol is in an image, in bytes from its start.
pub fn find(image: &[u8], name: &str) -> Option<u64> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(image).ok()?;
    let (mut hash, mut symbols, mut symbol_bytes, mut strings, mut string_bytes) = (0, 0, 0, 0, 0);
    for entry in elf.dynamic().ok()??.iter() {
        let value = usize::try_from(entry.d_val()).ok()?;
        match entry.d_tag {
            DT_HASH => hash = value,
            DT_SYMTAB => symbols = value,
            DT_SYMENT => symbol_bytes = value,
            DT_STRTAB => strings = value,
            DT_STRSZ => string_bytes = value,
            _ => {}
        }
    }
    let class = elf.ehdr.class;
    let hash = image.get(hash..)?;
    // As many symbols as the table has chains; its second word says.
    let count = u32::from_le_bytes(hash.get(4..8)?.try_into().ok()?) as usize;
    let hash = SysVHashTable::new(LittleEndian, class, hash).ok()?;
    let symbols = image
        .get(symbols..)?
        .get(..count.checked_mul(symbol_bytes)?)?;
    let strings = image.get(strings..)?.get(..string_bytes)?;
    let (symbols, strings) = (
        SymbolTable::new(LittleEndian, class, symbols),
        StringTable::new(strings),
    );
    let (_, symbol) = hash.find(name.as_bytes(), &symbols, &strings).ok()??;
    (symbol.st_value < image.len() as u64).then_some(symbol.st_value)
}

/// Looks the symbols up, once.
pub(crate) fn begin() {
    let Some(image) = image() else { return };
    for (name, place) in [(symbol::CLOCK_NOW, &CLOCK), (symbol::CPU_NUMBER, &CPU)] {
        if let Some(offset) = find(image, name) {
            place.store(image.as_ptr() as usize + offset as usize, Ordering::Relaxed);
        }
    }
}

fn function(place: &AtomicUsize) -> Option<extern "C" fn() -> u64> {
    match place.load(Ordering::Relaxed) {
        0 => None,
        // SAFETY: `begin` found it as a function of the landing page, which takes nothing and follows the C convention
        // (`abi::landing`).
        address => Some(unsafe { core::mem::transmute::<usize, extern "C" fn() -> u64>(address) }),
    }
}

/// Monotonic nanoseconds.
#[inline]
pub(crate) fn clock() -> Option<u64> {
    function(&CLOCK).map(|clock| clock())
}

/// Index of the CPU on which the thread runs at this moment; `None` if it can't be told without a call.
pub fn cpu_number() -> Option<u32> {
    function(&CPU).map(|number| number() as u32)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_no_image_has_no_symbols() {
        let mut bytes = [0; 4096];
        assert_eq!(super::find(&bytes, "x"), None);
        assert_eq!(super::find(&[], "x"), None);
        bytes[..7].copy_from_slice(b"\x7FELF\x02\x01\x01");
        assert_eq!(super::find(&bytes, "x"), None);
    }
}
