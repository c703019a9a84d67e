//! Thread-local storage: a block for each thread, reached through GS.
//!
//! The block lies in the part of the thread's IPC area that the kernel leaves to the program, so that every thread has one from
//! its first instruction on. The thread puts a data segment that begins there into its first thread-area slot and
//! loads GS with it. At `gs:0x10` is the address of `__kernel_vsyscall`, where C libraries for i386 expect it.

use core::arch::asm;
use core::mem::offset_of;

use abi::Call;
use abi::ipc_area::{IpcHeader, PROGRAM_OFFSET};
use abi::segment::DataSegment;

use crate::call;

/// A thread's own storage.
#[repr(C)]
#[derive(Debug)]
pub struct Tls {
    /// The block's own address, as `gs:0` has it in any i386 program.
    this: u32,
    reserved: [u32; 3],
    /// Address of `__kernel_vsyscall`.
    vsyscall: u32,
    /// The thread's IPC area.
    area: u32,
    /// A word for the program.
    own: u32,
}

const _: () = assert!(offset_of!(Tls, vsyscall) == 0x10);

/// The slot whose segment GS names.
const SLOT: u64 = 0;

/// Sets up the calling thread, whose IPC area is at `area`. If the kernel refuses the segment, GS stays null, and the first use of
/// it is a fault.
pub(crate) fn begin(area: u32) {
    let place = area + PROGRAM_OFFSET as u32;
    let tls = Tls {
        this: place,
        reserved: [0; 3],
        vsyscall: call::by_landing() as usize as u32,
        area,
        own: 0,
    };
    // SAFETY: that part of the area is the program's, and large enough.
    unsafe { (place as *mut Tls).write(tls) };
    let descriptor = DataSegment::flat(place).descriptor();
    // SAFETY: sets a segment of the calling thread that nothing uses yet.
    if let Ok([selector, ..]) = unsafe { call::plain(Call::ThreadSetTls, [0, SLOT, descriptor]) } {
        // SAFETY: the segment is flat from the block on; compiled code does not use GS.
        unsafe { asm!("mov gs, {:x}", in(reg) selector as u32, options(nostack, preserves_flags)) };
    }
}

/// Reads a word of the thread's block.
macro_rules! read {
    ($field:ident) => {{
        let value: u32;
        // SAFETY: GS is the thread's block since `begin`.
        unsafe {
            asm!("mov {}, gs:[{}]", out(reg) value, const offset_of!(Tls, $field),
                options(nostack, preserves_flags, readonly));
        }
        value
    }};
}

/// The calling thread's IPC area.
pub fn area() -> *mut IpcHeader {
    read!(area) as *mut IpcHeader
}

/// What the calling thread has at `gs:0x10`.
pub fn vsyscall() -> u32 {
    read!(vsyscall)
}

/// The program's own word of the calling thread.
pub fn own() -> u32 {
    read!(own)
}

/// Sets it.
pub fn set_own(value: u32) {
    // SAFETY: as for reading.
    unsafe {
        asm!("mov gs:[{}], {}", const offset_of!(Tls, own), in(reg) value, options(nostack, preserves_flags));
    }
}
