//! The user half of the address space: one page of code, one of data and stack, a page of device registers that user code can't
//! reach. The tables are static, and take the place of the loader's lower half, which nobody uses any more.

use core::ptr::NonNull;

use arch::addr::PhysAddr;
use arch::memory::phys_to_virt;
use arch::platform::{self, PhysicalMap};

use crate::boot::{Pages, physical};

/// Where user memory begins: below 4 GiB, so that 32-bit code can run there too.
const START: u64 = 0x4000_0000;
/// Where the code is, as user code sees it.
pub const CODE: u64 = START;
/// Where data and stack are.
pub const DATA: u64 = START + 0x1000;
/// A page that nobody has mapped.
pub const UNMAPPED: u64 = START + 0x5000;
/// Where the local APIC's registers are, for the kernel.
const DEVICE: u64 = START + 0x1F_F000;
const PAGE_BYTES: usize = 4096;

/// Bits of an entry that leads to another table: present, writable, for user code.
const TABLE: u64 = 0b111;
/// Bits of a page of user code: present, for user code.
const USER_CODE: u64 = 0b101;
/// Bits of a page of user data: present, writable, for user code, not executable.
const USER_DATA: u64 = 1 << 63 | 0b111;
/// Bits of a page of device registers: present, writable, uncached (PWT and PCD), not executable.
const REGISTERS: u64 = 1 << 63 | 0b1_1011;

static DIRECTORIES: Pages<PAGE_BYTES> = Pages::new();
static DIRECTORY: Pages<PAGE_BYTES> = Pages::new();
static TABLES: Pages<PAGE_BYTES> = Pages::new();
static CODE_PAGE: Pages<PAGE_BYTES> = Pages::new();
static DATA_PAGE: Pages<PAGE_BYTES> = Pages::new();

/// Writes an entry of a table of ours.
fn set(table: &Pages<PAGE_BYTES>, index: u64, entry: u64) {
    // SAFETY: a table has 512 entries, and each index below is a part of an address, nine bits long.
    unsafe {
        table
            .start()
            .cast::<u64>()
            .add(index as usize % 512)
            .write_volatile(entry);
    }
}

/// Puts the tables in force. Returns the root's address.
pub fn install() -> PhysAddr {
    let frame = |pages: &Pages<PAGE_BYTES>| physical(pages.start()).as_u64();
    set(&DIRECTORIES, START >> 30, frame(&DIRECTORY) | TABLE);
    set(&DIRECTORY, START >> 21, frame(&TABLES) | TABLE);
    set(&TABLES, CODE >> 12, frame(&CODE_PAGE) | USER_CODE);
    set(&TABLES, DATA >> 12, frame(&DATA_PAGE) | USER_DATA);
    let root: u64;
    // SAFETY: the first entry of the root covers the lower half's first part, which only the loader used. CR3 is loaded again, so
    // that nothing of it stays in the TLB.
    unsafe {
        core::arch::asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags));
        let entry: *mut u64 = phys_to_virt(PhysAddr::new_truncate(root & !0xFFF)).cast();
        entry.write_volatile(frame(&DIRECTORIES) | TABLE);
        core::arch::asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags));
    }
    PhysAddr::new_truncate(root & !0xFFF)
}

/// Puts a program where user code runs, and returns the address of its first instruction.
pub fn load(program: &[u8]) -> u64 {
    assert!(program.len() <= PAGE_BYTES, "a program has one page");
    // SAFETY: user code does not run now, and the page is as long as that. x86 CPUs notice changed code by themselves.
    unsafe {
        CODE_PAGE
            .start()
            .copy_from_nonoverlapping(program.as_ptr(), program.len());
    }
    CODE
}

/// The kernel's view of a word in the data page.
pub fn data(address: u64) -> *mut u64 {
    let offset = address - DATA;
    assert!(offset <= PAGE_BYTES as u64 - 8);
    // SAFETY: within the page, by the line above.
    unsafe { DATA_PAGE.start().add(offset as usize).cast() }
}

/// Maps the one device that this kernel uses.
pub struct Devices;

impl PhysicalMap for Devices {
    fn map(&self, phys: PhysAddr, bytes: u64, _: platform::Cache) -> Option<NonNull<u8>> {
        if bytes > PAGE_BYTES as u64 || !phys.is_aligned(PAGE_BYTES as u64) {
            return None;
        }
        set(&TABLES, DEVICE >> 12, phys.as_u64() | REGISTERS);
        NonNull::new(DEVICE as *mut u8)
    }
}
