//! Names for addresses of the kernel, from its own ELF file.
//!
//! The loader leaves the file in memory. Its symbol table is searched as it is, without a copy and without an
//! index: a look-up goes through all symbols, some thousand, which is fine for a report that is printed once.

use core::fmt;

use elf::ElfBytes;
use elf::abi::{STT_FUNC, STT_NOTYPE};
use elf::endian::LittleEndian;
use elf::string_table::StringTable;
use elf::symbol::SymbolTable;
use spin::Once;

/// Why a file gives no names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SymbolError {
    /// Not a sound ELF file.
    NotElf,
    /// It was stripped.
    NoSymbols,
}

impl fmt::Display for SymbolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SymbolError::NotElf => "not a sound ELF file",
            SymbolError::NoSymbols => "no symbol table",
        })
    }
}

impl core::error::Error for SymbolError {}

/// The symbols of one ELF file.
pub struct Symbols<'a> {
    table: SymbolTable<'a, LittleEndian>,
    names: StringTable<'a>,
}

/// A function, and how far into it an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol<'a> {
    /// Its name as it is in the file.
    pub name: &'a str,
    /// Bytes from its start.
    pub offset: u64,
}

impl fmt::Display for Symbol<'_> {
    /// The name without mangling and hash, and the offset.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#}+{:#x}",
            rustc_demangle::demangle(self.name),
            self.offset
        )
    }
}

impl<'a> Symbols<'a> {
    /// Finds the symbol table of a file.
    ///
    /// # Errors
    /// See [`SymbolError`].
    pub fn parse(file: &'a [u8]) -> Result<Symbols<'a>, SymbolError> {
        let file =
            ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| SymbolError::NotElf)?;
        let (table, names) = file
            .symbol_table()
            .map_err(|_| SymbolError::NotElf)?
            .ok_or(SymbolError::NoSymbols)?;
        Ok(Symbols { table, names })
    }

    /// The function in which an address (as linked) lies.
    ///
    /// Assembly routines without a size reach up to the next symbol.
    pub fn lookup(&self, address: u64) -> Option<Symbol<'a>> {
        // `iter` ends at the first symbol that can't be parsed.
        let symbol = self
            .table
            .iter()
            .filter(|symbol| {
                let function = symbol.st_symtype() == STT_FUNC
                    || symbol.st_symtype() == STT_NOTYPE && symbol.st_name != 0;
                function
                    && !symbol.is_undefined()
                    && symbol.st_value <= address
                    && (symbol.st_size == 0 || address - symbol.st_value < symbol.st_size)
            })
            .max_by_key(|symbol| (symbol.st_value, symbol.st_size))?;
        let name = self.names.get_raw(symbol.st_name as usize).ok()?;
        let name = core::str::from_utf8(name).ok()?;
        Some(Symbol {
            name,
            offset: address - symbol.st_value,
        })
    }
}

static KERNEL: Once<Symbols<'static>> = Once::new();

/// Gives the kernel its own ELF file. The first one that is sound counts.
///
/// # Errors
/// See [`SymbolError`]; then reports have addresses only.
pub fn init(file: &'static [u8]) -> Result<(), SymbolError> {
    let symbols = Symbols::parse(file)?;
    KERNEL.call_once(|| symbols);
    Ok(())
}

/// The kernel function in which an address lies. Takes no lock.
pub fn lookup(address: u64) -> Option<Symbol<'static>> {
    KERNEL.get()?.lookup(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own_file() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("a test has a file")).expect("it is readable")
    }

    #[inline(never)]
    fn a_function_to_be_found() -> u32 {
        std::hint::black_box(7)
    }

    #[test]
    fn functions_of_this_test_are_found_by_address() {
        let file = own_file();
        let symbols = Symbols::parse(&file).expect("a test binary has symbols");
        // The test is position-independent; two functions have the distance that their symbols have.
        let of = |function: fn() -> u32| function as *const () as u64;
        let loaded = of(a_function_to_be_found);
        let linked = symbols
            .table
            .iter()
            .find(|symbol| {
                symbols
                    .names
                    .get_raw(symbol.st_name as usize)
                    .is_ok_and(|name| {
                        String::from_utf8_lossy(name).contains("a_function_to_be_found")
                    })
            })
            .expect("the function has a symbol")
            .st_value;
        let slide = loaded.wrapping_sub(linked);
        let symbol = symbols
            .lookup(loaded.wrapping_sub(slide))
            .expect("its start is in it");
        assert_eq!(symbol.offset, 0);
        assert!(
            symbol.to_string().ends_with("a_function_to_be_found+0x0"),
            "{symbol}"
        );
        let inside = symbols
            .lookup(linked + 1)
            .expect("a function has more than a byte");
        assert_eq!((inside.name, inside.offset), (symbol.name, 1));
        assert_eq!(a_function_to_be_found(), 7);

        let here = functions_of_this_test_are_found_by_address as *const () as u64;
        let symbol = symbols
            .lookup(here.wrapping_sub(slide))
            .expect("this function is found");
        assert!(
            symbol
                .to_string()
                .contains("functions_of_this_test_are_found_by_address")
        );
    }

    #[test]
    fn addresses_outside_have_no_name() {
        let file = own_file();
        let symbols = Symbols::parse(&file).expect("a test binary has symbols");
        assert_eq!(symbols.lookup(0), None);
    }

    #[test]
    fn files_that_are_no_elf_are_refused_by_name() {
        assert_eq!(Symbols::parse(b"").err(), Some(SymbolError::NotElf));
        assert_eq!(Symbols::parse(b"\x7FELF").err(), Some(SymbolError::NotElf));
        assert_eq!(Symbols::parse(&[0; 4096]).err(), Some(SymbolError::NotElf));
        let mut bare = own_file();
        // No section headers: `e_shoff`, `e_shnum` and `e_shstrndx` are 0.
        bare[40..48].fill(0);
        bare[60..64].fill(0);
        assert_eq!(Symbols::parse(&bare).err(), Some(SymbolError::NoSymbols));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_files_never_panic(
            damage in prop::collection::vec((0..4096usize, any::<u8>()), 1..20),
            keep in 0..1000usize,
            address in any::<u64>(),
        ) {
            let mut file = own_file();
            let length = file.len() * keep / 1000;
            let headers = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
            for (at, value) in damage {
                // Half of it in the file header, half in the section headers.
                let at = if at % 2 == 0 { at % 64 } else { headers + at };
                if let Some(byte) = file.get_mut(at) {
                    *byte = value;
                }
            }
            for file in [&file[..], &file[..length]] {
                if let Ok(symbols) = Symbols::parse(file) {
                    let _ = symbols.lookup(address);
                }
            }
        }
    }
}
