//! What may stand in a [`UserContext`] that goes back to user mode.
//!
//! A bad RIP, CS, SS or flag faults in the kernel at `iretq` or `sysretq`, so every place that sets a context
//! (thread start, set-context, a supervisor's answer) passes through [`sanitise`]; what the entries saved themselves
//! is right by construction.

use core::fmt;

pub use abi::UserContext;
use abi::layout::USER_END;

use crate::segments::{TlsSlots, is_loadable, is_stack};

/// 64-bit user code selector (see `cpu/gdt.rs`).
pub const USER_CODE64: u16 = 0x28 | 3;
/// 32-bit user code selector.
pub const USER_CODE32: u16 = 0x18 | 3;
/// User data selector.
pub const USER_DATA: u16 = 0x20 | 3;

/// Vector number that stands for `syscall` in a context.
pub const VECTOR_SYSCALL: u64 = 256;
/// Vector number that stands for `syscall` from 32-bit code.
pub const VECTOR_SYSCALL32: u64 = 257;
/// Vector number that stands for `sysenter`.
pub const VECTOR_SYSENTER: u64 = 258;
/// What [`UserContext::call_number`] holds when the last entry was no system call.
pub const NO_CALL: u64 = u64::MAX;

/// Flags that a context may have: those that user code may set itself (CF, PF, AF, ZF, SF, TF, DF, OF, AC, ID), and RF, by which a
/// debugger lets a thread go on at a breakpoint. Not IOPL, IF, NT, VM, VIF, VIP.
pub const USER_FLAGS: u64 = 0x0025_0DD5;
/// IF and the bit that is always one.
pub const FIXED_FLAGS: u64 = 0x202;

/// Which field of a context can't be let into user mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadContext {
    /// RIP is not below the end of user addresses, or of 32-bit ones for 32-bit code.
    Rip,
    /// RSP is not canonical.
    Rsp,
    /// CS is not a user code selector.
    Cs,
    /// SS is neither the user data selector nor that of a slot of the thread's that can be a stack.
    Ss,
    /// DS, ES, FS or GS can't be loaded by user code.
    Selector,
    /// A base is not canonical, or points into the kernel's half.
    Base,
}

impl fmt::Display for BadContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadContext::Rip => "RIP is not an address of user code",
            BadContext::Rsp => "RSP is not canonical",
            BadContext::Cs => "CS is not a user code selector",
            BadContext::Ss => "SS is not a user stack selector",
            BadContext::Selector => "DS, ES, FS or GS can't be loaded by user code",
            BadContext::Base => "an FS or GS base is not canonical",
        })
    }
}

impl core::error::Error for BadContext {}

/// Checks a context that somebody set for a thread with these descriptors of its own, and forces the flags that user mode may not
/// choose.
///
/// # Errors
/// The first field that would fault or let user code where it must not be.
pub fn sanitise(context: &mut UserContext, slots: &TlsSlots) -> Result<(), BadContext> {
    let end = if context.cs == u64::from(USER_CODE32) {
        1 << 32
    } else {
        USER_END
    };
    if context.rip >= end {
        return Err(BadContext::Rip);
    }
    if !is_canonical(context.rsp) {
        return Err(BadContext::Rsp);
    }
    if context.cs != u64::from(USER_CODE64) && context.cs != u64::from(USER_CODE32) {
        return Err(BadContext::Cs);
    }
    if !u16::try_from(context.ss).is_ok_and(|ss| is_stack(ss, slots)) {
        return Err(BadContext::Ss);
    }
    if ![context.ds, context.es, context.fs, context.gs]
        .iter()
        .all(|&selector| is_loadable(selector, slots))
    {
        return Err(BadContext::Selector);
    }
    // Also in the kernel's half: `wrfsbase` and `wrgsbase` let user code have such, and what a thread has must be good to be put back.
    // No entry judges by the GS base (`entry/paranoid.rs`).
    if !is_canonical(context.fs_base) || !is_canonical(context.gs_base) {
        return Err(BadContext::Base);
    }
    context.rflags = context.rflags & USER_FLAGS | FIXED_FLAGS;
    Ok(())
}

/// Checks what is chosen of a [fresh](fresh) context; the rest of it is good.
///
/// # Errors
/// As [`sanitise`] of it.
#[inline]
pub const fn check_fresh(entry: u64, stack: u64, is_64_bit: bool) -> Result<(), BadContext> {
    let end = if is_64_bit { USER_END } else { 1 << 32 };
    if entry >= end {
        Err(BadContext::Rip)
    } else if is_canonical(stack) {
        Ok(())
    } else {
        Err(BadContext::Rsp)
    }
}

/// Whether bits 47 to 63 are equal (4-level paging).
#[inline]
pub const fn is_canonical(address: u64) -> bool {
    let upper = address as i64 >> 47;
    upper == 0 || upper == -1
}

/// The context of a thread that has not run yet.
#[inline(always)]
pub fn fresh(entry: u64, stack: u64, argument: u64, second: u64, fs_base: u64) -> UserContext {
    UserContext {
        rip: entry,
        rsp: stack,
        rdi: argument,
        rsi: second,
        fs_base,
        cs: u64::from(USER_CODE64),
        ss: u64::from(USER_DATA),
        rflags: FIXED_FLAGS,
        call_number: NO_CALL,
        ..UserContext::default()
    }
}

/// The same for a thread that begins in 32-bit code, with flat data segments. It sets up FS and GS itself.
pub fn fresh32(entry: u64, stack: u64, argument: u64, second: u64) -> UserContext {
    UserContext {
        cs: u64::from(USER_CODE32),
        ds: USER_DATA,
        es: USER_DATA,
        ..fresh(entry, stack, argument, second, 0)
    }
}

/// Forgets what 32-bit code can't have set: upper halves, and the registers from R8 on, where there is whatever 64-bit code left.
pub fn cut_to_32_bits(context: &mut UserContext) {
    const LOW: u64 = 0xFFFF_FFFF;
    for register in [
        &mut context.rax,
        &mut context.rbx,
        &mut context.rcx,
        &mut context.rdx,
        &mut context.rsi,
        &mut context.rdi,
        &mut context.rbp,
        &mut context.rsp,
        &mut context.rip,
    ] {
        *register &= LOW;
    }
    for register in [
        &mut context.r8,
        &mut context.r9,
        &mut context.r10,
        &mut context.r11,
        &mut context.r12,
        &mut context.r13,
        &mut context.r14,
        &mut context.r15,
    ] {
        *register = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_context_may_enter_user_mode() {
        let mut context = fresh(0x20_0000, 0x7FFF_0000, 1, 2, 3);
        assert_eq!(sanitise(&mut context, &TlsSlots::EMPTY), Ok(()));
        assert_eq!((context.rdi, context.rsi, context.fs_base), (1, 2, 3));
    }

    #[test]
    fn what_is_chosen_of_a_fresh_context_is_judged_as_all_of_it() {
        let edges = [
            0,
            1,
            (1 << 32) - 1,
            1 << 32,
            USER_END - 1,
            USER_END,
            1 << 47,
            u64::MAX - (1 << 47),
            u64::MAX - (1 << 47) + 1,
            u64::MAX,
        ];
        for entry in edges {
            for stack in edges {
                let mut long = fresh(entry, stack, 1, 0x1000, 0x1000);
                let judged = sanitise(&mut long, &TlsSlots::EMPTY);
                assert_eq!(check_fresh(entry, stack, true), judged);
                assert_eq!(long, fresh(entry, stack, 1, 0x1000, 0x1000));
                let mut compat = fresh32(entry, stack, 1, 0x1000);
                let judged = sanitise(&mut compat, &TlsSlots::EMPTY);
                assert_eq!(check_fresh(entry, stack, false), judged);
                assert_eq!(compat, fresh32(entry, stack, 1, 0x1000));
            }
        }
    }

    #[test]
    fn a_fresh_32_bit_context_may_enter_user_mode_below_4_gib_only() {
        let mut context = fresh32(0x8000_0000, 0xFFFF_0000, 1, 2);
        assert_eq!(sanitise(&mut context, &TlsSlots::EMPTY), Ok(()));
        assert_eq!((context.cs, context.ds, context.es), (0x1B, 0x23, 0x23));
        context.rip = 1 << 32;
        assert_eq!(
            sanitise(&mut context, &TlsSlots::EMPTY),
            Err(BadContext::Rip)
        );
    }

    #[test]
    fn nothing_of_a_64_bit_register_is_left_for_32_bit_code() {
        let mut context = UserContext {
            rax: u64::MAX,
            rsp: 0x1234_5678_9ABC_DEF0,
            r8: 7,
            r15: u64::MAX,
            ..fresh32(0x1000, 0, u64::MAX, 0)
        };
        cut_to_32_bits(&mut context);
        assert_eq!((context.rax, context.rdi), (0xFFFF_FFFF, 0xFFFF_FFFF));
        assert_eq!((context.rsp, context.r8, context.r15), (0x9ABC_DEF0, 0, 0));
    }

    #[test]
    fn what_would_fault_in_the_kernel_is_refused() {
        let good = fresh(0x20_0000, 0x7FFF_0000, 0, 0, 0);
        for (want, context) in [
            (
                BadContext::Rip,
                UserContext {
                    rip: USER_END,
                    ..good
                },
            ),
            (
                BadContext::Rip,
                UserContext {
                    rip: 1 << 47,
                    ..good
                },
            ),
            (
                BadContext::Rip,
                UserContext {
                    rip: u64::MAX,
                    ..good
                },
            ),
            (
                BadContext::Rsp,
                UserContext {
                    rsp: 1 << 47,
                    ..good
                },
            ),
            (BadContext::Cs, UserContext { cs: 0x08, ..good }),
            (BadContext::Cs, UserContext { cs: 0x28, ..good }),
            (
                BadContext::Cs,
                UserContext {
                    cs: 0x1_002B,
                    ..good
                },
            ),
            (BadContext::Ss, UserContext { ss: 0, ..good }),
            (BadContext::Ss, UserContext { ss: 0x10, ..good }),
            (BadContext::Ss, UserContext { ss: 0x2B, ..good }),
            (BadContext::Ss, UserContext { ss: 0x43, ..good }),
            (
                BadContext::Ss,
                UserContext {
                    ss: 0x1_0023,
                    ..good
                },
            ),
            (BadContext::Selector, UserContext { ds: 0x10, ..good }),
            (BadContext::Selector, UserContext { es: 0x08, ..good }),
            (BadContext::Selector, UserContext { fs: 0x30, ..good }),
            (BadContext::Selector, UserContext { gs: 0x43, ..good }),
            (BadContext::Selector, UserContext { gs: 0x63, ..good }),
            (BadContext::Selector, UserContext { ds: 0x27, ..good }),
            (
                BadContext::Base,
                UserContext {
                    fs_base: 1 << 47,
                    ..good
                },
            ),
            (
                BadContext::Base,
                UserContext {
                    gs_base: 1 << 63,
                    ..good
                },
            ),
        ] {
            let mut context = context;
            assert_eq!(
                sanitise(&mut context, &TlsSlots::EMPTY),
                Err(want),
                "{want:?}"
            );
        }
    }

    #[test]
    fn selectors_of_a_slot_are_taken_while_it_is_filled() {
        let mut slots = TlsSlots::EMPTY;
        slots
            .set(1, abi::segment::DataSegment::flat(0).descriptor())
            .unwrap();
        let mut context = UserContext {
            ds: 3,
            es: 0x4B,
            fs: 0x48,
            gs: 0x5B,
            ss: 0x4B,
            ..fresh(0x20_0000, 0, 0, 0, 0)
        };
        assert_eq!(sanitise(&mut context, &slots), Ok(()));
        slots.set(1, 0).unwrap();
        assert_eq!(sanitise(&mut context, &slots), Err(BadContext::Ss));
        context.ss = u64::from(USER_DATA);
        assert_eq!(sanitise(&mut context, &slots), Err(BadContext::Selector));
    }

    #[test]
    fn flags_that_are_not_the_users_are_forced() {
        let mut context = fresh(0x20_0000, 0, 0, 0, 0);
        context.rflags = u64::MAX;
        sanitise(&mut context, &TlsSlots::EMPTY).unwrap();
        assert_eq!(context.rflags & 0x3000, 0, "IOPL");
        assert_eq!(context.rflags & (1 << 14 | 1 << 17), 0, "NT, VM");
        assert_eq!(context.rflags >> 19 & 3, 0, "VIF, VIP");
        assert_ne!(context.rflags & 1 << 9, 0, "IF");
    }
}
