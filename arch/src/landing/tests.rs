//! The images as a dynamic linker sees them, and the 64-bit one at work.

use std::collections::BTreeMap;

use abi::landing::{BYTES, IMAGE_OFFSET, LandingData, flags, symbol};
use elf::ElfBytes;
use elf::abi::{
    DT_HASH, DT_SONAME, DT_STRSZ, DT_STRTAB, DT_SYMENT, DT_SYMTAB, EM_386, EM_X86_64, ET_DYN, PF_R,
    PF_X, PT_DYNAMIC, PT_LOAD, STT_FUNC,
};
use elf::endian::LittleEndian;
use elf::hash::SysVHashTable;
use elf::string_table::StringTable;
use elf::symbol::SymbolTable;

use super::*;

/// What an image defines: name to address and size, found as a dynamic linker finds it, by its dynamic section alone.
fn symbols(image: &[u8], machine: u16) -> BTreeMap<String, (u64, u64)> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(image).expect("an ELF file");
    assert_eq!((elf.ehdr.e_type, elf.ehdr.e_machine), (ET_DYN, machine));
    let segments: Vec<_> = elf.segments().expect("segments").iter().collect();
    let load = segments.iter().find(|s| s.p_type == PT_LOAD).expect("load");
    assert_eq!((load.p_vaddr, load.p_offset), (0, 0));
    assert_eq!(load.p_flags, PF_R | PF_X);
    let dynamic = segments.iter().find(|s| s.p_type == PT_DYNAMIC);
    assert!(dynamic.expect("dynamic").p_offset < load.p_filesz);
    let dynamic: BTreeMap<i64, usize> = elf
        .dynamic()
        .expect("a dynamic section")
        .expect("a dynamic section")
        .iter()
        .map(|entry| (entry.d_tag, entry.d_val() as usize))
        .collect();
    let (order, class) = (LittleEndian, elf.ehdr.class);
    let hash = &image[dynamic[&DT_HASH]..];
    let hash = SysVHashTable::new(order, class, hash).expect("a hash table");
    let chains = u32::from_le_bytes(image[dynamic[&DT_HASH] + 4..][..4].try_into().unwrap());
    let bytes = chains as usize * dynamic[&DT_SYMENT];
    let table = SymbolTable::new(order, class, &image[dynamic[&DT_SYMTAB]..][..bytes]);
    let strings = StringTable::new(&image[dynamic[&DT_STRTAB]..][..dynamic[&DT_STRSZ]]);
    assert!(
        strings
            .get(dynamic[&DT_SONAME])
            .expect("a name")
            .starts_with("switchyard-vdso")
    );
    let names = [symbol::CLOCK_NOW, symbol::CPU_NUMBER, symbol::VSYSCALL];
    let found = names.into_iter().filter_map(|name| {
        let (_, symbol) = hash
            .find(name.as_bytes(), &table, &strings)
            .expect("a sound table")?;
        assert_eq!(symbol.st_symtype(), STT_FUNC);
        assert!(symbol.st_value + symbol.st_size <= load.p_memsz);
        Some((name.to_owned(), (symbol.st_value, symbol.st_size)))
    });
    assert!(
        hash.find(b"__vdso_nothing", &table, &strings)
            .expect("a sound table")
            .is_none()
    );
    found.collect()
}

#[test]
fn dynamic_linkers_find_the_64_bit_symbols() {
    let found = symbols(image64(), EM_X86_64);
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        [symbol::CLOCK_NOW, symbol::CPU_NUMBER]
    );
}

#[test]
fn every_32_bit_image_has_its_way_into_the_kernel_at_the_entry_point() {
    for (way, opcode) in [
        (Vsyscall::Interrupt, &[0xCD, 0x80][..]),
        (Vsyscall::Syscall, &[0x51, 0x0F, 0x05]),
        (Vsyscall::Sysenter, &[0x55, 0x89, 0xE5, 0x0F, 0x34]),
    ] {
        image32(way, |image| {
            let found = symbols(image, EM_386);
            assert_eq!(found.len(), 1);
            let (at, _) = found[symbol::VSYSCALL];
            assert_eq!(at, way.offset());
            assert_eq!(image[24..28], (at as u32).to_le_bytes(), "e_entry");
            assert!(image[at as usize..].starts_with(opcode), "{way:?}");
            if let Some(back) = way.sysenter_return() {
                assert!(at < back && back < at + 16);
                assert_eq!(image[back as usize], 0xC3, "ret");
            }
        });
    }
}

/// A landing area in this process, executable, with these data.
struct Mapped(*mut u8);

impl Mapped {
    fn new(data: LandingData) -> Mapped {
        // SAFETY: a fresh anonymous mapping, filled before it is made executable.
        unsafe {
            let place = libc::mmap(
                std::ptr::null_mut(),
                BYTES as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(place, libc::MAP_FAILED);
            let place = place.cast::<u8>();
            place.cast::<LandingData>().write(data);
            let image = place.add(IMAGE_OFFSET as usize);
            image.copy_from(image64().as_ptr(), IMAGE_BYTES);
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            assert_eq!(libc::mprotect(place.cast(), BYTES as usize, protection), 0);
            Mapped(place)
        }
    }

    fn call(&self, name: &str) -> u64 {
        let (at, _) = symbols(image64(), EM_X86_64)[name];
        // SAFETY: the symbol is a function that takes nothing and follows the C convention.
        unsafe {
            let function: extern "C" fn() -> u64 =
                core::mem::transmute(self.0.add(IMAGE_OFFSET as usize + at as usize));
            function()
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.cast(), BYTES as usize) };
    }
}

#[test]
fn the_clock_without_a_call_scales_the_counter_as_the_kernel_does() {
    use crate::time::scale::Scale;
    let epoch = crate::time::tsc();
    let scale = Scale::new(1_000_000_000, 2_345_678_901);
    let mapped = Mapped::new(LandingData {
        flags: flags::CLOCK,
        epoch,
        scale: scale.0,
    });
    for _ in 0..1000 {
        let before = scale.apply(crate::time::tsc() - epoch);
        let now = mapped.call(symbol::CLOCK_NOW);
        let after = scale.apply(crate::time::tsc() - epoch);
        assert!(before <= now && now <= after, "{before} {now} {after}");
    }
}

#[test]
fn a_clock_out_of_bounds_stops_at_the_bound() {
    let behind = Mapped::new(LandingData {
        flags: flags::CLOCK,
        epoch: u64::MAX,
        scale: 1 << 32,
    });
    assert_eq!(behind.call(symbol::CLOCK_NOW), 0);
    let beyond = Mapped::new(LandingData {
        flags: flags::CLOCK,
        epoch: 0,
        scale: u64::MAX,
    });
    assert_eq!(beyond.call(symbol::CLOCK_NOW), u64::MAX);
}
