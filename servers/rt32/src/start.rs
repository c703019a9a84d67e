//! The program's first instructions, and its start block.

use core::arch::naked_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::start::{MAGIC, StartEntry, StartHeader, VERSION, names};

use crate::{BAD_START, PANICKED, call, log, tls};

unsafe extern "Rust" {
    /// Made by [`entry!`](crate::entry).
    fn switchyard_main() -> u64;
    #[link_name = "SWITCHYARD_PROGRAM"]
    static PROGRAM: &'static str;
}

/// The program's name.
pub fn program_name() -> &'static str {
    // SAFETY: `entry!` defines it as this type, and it never changes.
    unsafe { PROGRAM }
}

/// The program's first instructions.
///
/// In: edi = start block, esi = IPC area, esp = top of the stack. Out: nothing, it does not return. Clobbers all.
/// The stack is aligned so that it is at 16 at the call's arguments, as the System V ABI for i386 has it since SSE.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp", // the outermost frame
        "and esp, -16",
        "sub esp, 8",
        "push esi",
        "push edi",
        "call {begin}",
        "ud2",
        begin = sym begin,
    )
}

/// Address of the start block; 0 until it was checked.
static BLOCK: AtomicU32 = AtomicU32::new(0);

extern "C" fn begin(block: u32, area: u32) -> ! {
    // SAFETY: whoever made this process maps a start block read-only for as long as it lives (`abi::start`), so at least a header
    // is there.
    let header = unsafe { &*(block as *const StartHeader) };
    if header.magic != MAGIC || header.version != VERSION {
        call::exit(BAD_START);
    }
    BLOCK.store(block, Ordering::Relaxed);
    if let Some(address) = value(names::SYSINFO) {
        call::set_vsyscall(address as u32);
    }
    tls::begin(area);
    // SAFETY: `entry!` defines it with this signature.
    call::exit(unsafe { switchyard_main() })
}

fn header() -> Option<&'static StartHeader> {
    match BLOCK.load(Ordering::Relaxed) {
        0 => None,
        // SAFETY: `begin` has checked that a block is there.
        block => Some(unsafe { &*(block as *const StartHeader) }),
    }
}

/// All entries.
pub fn entries() -> &'static [StartEntry] {
    header().map_or(&[], |header| {
        // SAFETY: that many entries follow the header (`abi::start`).
        unsafe {
            core::slice::from_raw_parts(
                core::ptr::from_ref(header).add(1).cast(),
                header.count as usize,
            )
        }
    })
}

fn find(name: &str) -> Option<&'static StartEntry> {
    let wanted = StartEntry::new(name, abi::Handle::NONE, 0).name;
    entries().iter().find(|entry| entry.name == wanted)
}

/// The value of an entry.
pub fn value(name: &str) -> Option<u64> {
    find(name).map(|entry| entry.value)
}

/// The handle of an entry.
pub fn handle(name: &str) -> Option<u64> {
    find(name)
        .map(|entry| entry.handle)
        .filter(|&handle| handle != 0)
}

/// The argument string; empty if it is not UTF-8.
pub fn argument() -> &'static str {
    let Some(header) = header() else { return "" };
    // SAFETY: the argument's bytes follow the entries (`abi::start`).
    let bytes = unsafe {
        core::slice::from_raw_parts(
            entries().as_ptr_range().end.cast::<u8>(),
            header.argument_bytes as usize,
        )
    };
    str::from_utf8(bytes).unwrap_or("")
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    log::write(format_args!("{}: {info}\n", program_name()));
    call::exit(PANICKED)
}

/// The target's prebuilt `core` names an unwinder's personality in its unwind tables. Nothing unwinds here
/// (`panic=abort`), so it is never called.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    call::exit(PANICKED)
}
