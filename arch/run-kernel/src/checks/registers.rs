//! The fifteen general registers of a context, as a row.

use abi::UserContext;

use super::Outcome;
use crate::report::equal;

/// Their names, in the order of a context.
const NAMES: [&str; 15] = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
    "rdi",
];
/// Where RBX, R11, RAX and RCX stand.
pub const RBX: usize = 5;
pub const R11: usize = 6;
pub const RAX: usize = 10;
pub const RCX: usize = 11;

/// A copy.
pub fn row(context: &UserContext) -> [u64; 15] {
    let c = context;
    [
        c.r15, c.r14, c.r13, c.r12, c.rbp, c.rbx, c.r11, c.r10, c.r9, c.r8, c.rax, c.rcx, c.rdx,
        c.rsi, c.rdi,
    ]
}

/// A value for each that no other has.
pub fn fill(context: &mut UserContext, seed: u64) {
    let value = |i: u64| (seed * 64 + i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let c = context;
    for (i, register) in [
        &mut c.r15, &mut c.r14, &mut c.r13, &mut c.r12, &mut c.rbp, &mut c.rbx, &mut c.r11,
        &mut c.r10, &mut c.r9, &mut c.r8, &mut c.rax, &mut c.rcx, &mut c.rdx, &mut c.rsi,
        &mut c.rdi,
    ]
    .into_iter()
    .enumerate()
    {
        *register = value(i as u64);
    }
}

/// Whether all but some are as they should be.
pub fn same(have: [u64; 15], want: [u64; 15], but: &[usize]) -> Outcome {
    for i in (0..15).filter(|i| !but.contains(i)) {
        equal(NAMES[i], have[i], want[i])?;
    }
    Ok(())
}
