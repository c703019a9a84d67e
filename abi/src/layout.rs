//! The user half of the address space.

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// The lowest address that can be mapped; below it a null pointer and its fields stay invalid.
pub const USER_START: u64 = 0x1_0000;
/// One past the highest address that can be mapped. The last page before the non-canonical hole stays unmapped, so that
/// a `syscall` in a program's last bytes can't return past the edge (Intel's `sysret` faults in the kernel there).
pub const USER_END: u64 = 0x0000_7FFF_FFFF_F000;
/// Where the kernel maps the threads' IPC areas: a stretch it keeps for itself in every process.
pub const IPC_AREAS_START: u64 = 0x0000_7FF0_0000_0000;
/// Where [`Call::MemoryMap`](crate::Call::MemoryMap) looks for room when it is given address 0.
pub const MAP_START: u64 = 0x0000_1000_0000_0000;

/// In a 32-bit process: one past the highest address that can be mapped.
pub const USER_END_32: u64 = 0xFFFF_F000;
/// In a 32-bit process: where the threads' IPC areas are.
pub const IPC_AREAS_START_32: u64 = 0xF000_0000;
/// In a 32-bit process: where [`Call::MemoryMap`](crate::Call::MemoryMap) looks for room when it is given address 0.
pub const MAP_START_32: u64 = 0x4000_0000;
