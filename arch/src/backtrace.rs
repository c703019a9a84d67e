//! Who called whom: the registers of this moment, and a walk along the frame pointers.
//!
//! The kernel is built with frame pointers, so each frame begins with the caller's `rbp` and the return
//! address above it (System V AMD64 ABI §3.2.2):
//!
//! ```text
//!   higher   | return address |  rbp + 8
//!            | caller's rbp   |  rbp        <- rbp
//!   lower    | locals ...     |
//! ```
//!
//! The walk is for a kernel that is dying, so it believes nothing: a frame is read only if it lies wholly in a
//! stack that the caller vouches for, frames must rise within a stack, and their number is bounded. It can come to a
//! wrong end, but it can neither fault nor run for ever.

use core::ops::Range;

use abi::UserContext;

/// Most frames of one walk.
pub const MAX_FRAMES: usize = 64;
/// Most changes from one stack to another in a walk (thread to IST stack, and one more).
const MAX_STACKS: usize = 3;

/// The registers at the place of the call: general registers, `rip`, `rsp`, `rbp`, flags, `cs` and `ss`.
///
/// It is inlined, so that `rbp` is the frame of the function that asks. The fields about an entry (`vector`,
/// `error_code`, `cr2`, `call_number`) and the bases are 0.
#[inline(always)]
pub fn capture() -> UserContext {
    let mut context = UserContext::default();
    let into = &raw mut context;
    // SAFETY: the stores go to fields of `context` at the offsets that the compiler gives; `push` and `pop` are balanced
    // and allowed, since `nostack` is not given; no register but the listed `out`s changes.
    unsafe {
        core::arch::asm!(
            "mov [{c} + {r15}], r15",
            "mov [{c} + {r14}], r14",
            "mov [{c} + {r13}], r13",
            "mov [{c} + {r12}], r12",
            "mov [{c} + {rbp}], rbp",
            "mov [{c} + {rbx}], rbx",
            "mov [{c} + {r11}], r11",
            "mov [{c} + {r10}], r10",
            "mov [{c} + {r9}], r9",
            "mov [{c} + {r8}], r8",
            "mov [{c} + {rax}], rax",
            "mov [{c} + {rcx}], rcx",
            "mov [{c} + {rdx}], rdx",
            "mov [{c} + {rsi}], rsi",
            "mov [{c} + {rdi}], rdi",
            "mov [{c} + {rsp}], rsp",
            c = in(reg) into,
            r15 = const core::mem::offset_of!(UserContext, r15),
            r14 = const core::mem::offset_of!(UserContext, r14),
            r13 = const core::mem::offset_of!(UserContext, r13),
            r12 = const core::mem::offset_of!(UserContext, r12),
            rbp = const core::mem::offset_of!(UserContext, rbp),
            rbx = const core::mem::offset_of!(UserContext, rbx),
            r11 = const core::mem::offset_of!(UserContext, r11),
            r10 = const core::mem::offset_of!(UserContext, r10),
            r9 = const core::mem::offset_of!(UserContext, r9),
            r8 = const core::mem::offset_of!(UserContext, r8),
            rax = const core::mem::offset_of!(UserContext, rax),
            rcx = const core::mem::offset_of!(UserContext, rcx),
            rdx = const core::mem::offset_of!(UserContext, rdx),
            rsi = const core::mem::offset_of!(UserContext, rsi),
            rdi = const core::mem::offset_of!(UserContext, rdi),
            rsp = const core::mem::offset_of!(UserContext, rsp),
            options(preserves_flags),
        );
        core::arch::asm!(
            "pushfq",
            "pop {flags}",
            "lea {rip}, [rip]",
            "mov {cs:e}, cs",
            "mov {ss:e}, ss",
            flags = out(reg) context.rflags,
            rip = out(reg) context.rip,
            cs = out(reg) context.cs,
            ss = out(reg) context.ss,
            options(preserves_flags),
        );
    }
    context
}

/// Walks the frames from `frame_pointer` (a value of `rbp`) outwards and gives each return address to `visit`, innermost
/// first.
///
/// `stack_of` tells for an address which stack it lies in. The walk ends at the first frame that lies in none, at a
/// return address outside `text`, at a frame that is not above the one before, and after [`MAX_FRAMES`].
///
/// # Safety
/// All memory in the ranges that `stack_of` returns must be mapped readable.
pub unsafe fn walk(
    frame_pointer: u64,
    stack_of: &dyn Fn(u64) -> Option<Range<u64>>,
    text: &Range<u64>,
    visit: &mut dyn FnMut(u64),
) {
    let mut frame = frame_pointer;
    let mut stack = 0..0;
    let mut stacks = 0;
    for _ in 0..MAX_FRAMES {
        let frame_bytes = 2 * size_of::<u64>() as u64;
        if !frame.is_multiple_of(size_of::<u64>() as u64) {
            return;
        }
        if !stack.contains(&frame) {
            stacks += 1;
            match stack_of(frame) {
                Some(found) if stacks <= MAX_STACKS && found.contains(&frame) => stack = found,
                _ => return,
            }
        }
        if stack.end - frame < frame_bytes {
            return;
        }
        let words = core::ptr::with_exposed_provenance::<u64>(frame as usize);
        // SAFETY: `frame` is aligned, and both words lie in a range that `stack_of` gave, which is readable (the caller's
        // promise).
        let (caller_frame, return_address) = unsafe { (words.read(), words.add(1).read()) };
        if !text.contains(&return_address) {
            return;
        }
        visit(return_address);
        // A frame in the same stack must lie above; one in another stack is counted above.
        if stack.contains(&caller_frame) && caller_frame <= frame {
            return;
        }
        frame = caller_frame;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: Range<u64> = 0x1000..0x2000;

    /// A stack of words whose address is that of the first.
    fn range(stack: &[u64]) -> Range<u64> {
        let start = stack.as_ptr().expose_provenance() as u64;
        start..start + size_of_val(stack) as u64
    }

    fn walked(frame: u64, stacks: &[Range<u64>]) -> Vec<u64> {
        let mut addresses = Vec::new();
        let stack_of = |address: u64| {
            stacks
                .iter()
                .find(|stack| stack.contains(&address))
                .cloned()
        };
        // SAFETY: the ranges are those of arrays that live in the tests.
        unsafe {
            walk(frame, &stack_of, &TEXT, &mut |address| {
                addresses.push(address);
            });
        };
        addresses
    }

    #[test]
    fn frames_are_followed_to_the_outermost() {
        let mut stack = [0u64; 8];
        let base = range(&stack).start;
        (stack[0], stack[1]) = (base + 24, 0x1111);
        (stack[3], stack[4]) = (base + 48, 0x1222);
        (stack[6], stack[7]) = (0, 0x1333);
        assert_eq!(walked(base, &[range(&stack)]), [0x1111, 0x1222, 0x1333]);
    }

    #[test]
    fn a_frame_in_another_known_stack_is_followed() {
        let (mut inner, mut outer) = ([0u64; 2], [0u64; 2]);
        outer[1] = 0x1222;
        (inner[0], inner[1]) = (range(&outer).start, 0x1111);
        let stacks = [range(&inner), range(&outer)];
        assert_eq!(walked(stacks[0].start, &stacks), [0x1111, 0x1222]);
        // Two stacks that point at each other end too.
        outer[0] = range(&inner).start;
        assert_eq!(walked(stacks[0].start, &stacks), [0x1111, 0x1222, 0x1111]);
        std::hint::black_box((inner, outer));
    }

    #[test]
    fn a_loop_ends() {
        let mut stack = [0u64; 4];
        let base = range(&stack).start;
        (stack[0], stack[1]) = (base, 0x1111);
        assert_eq!(walked(base, &[range(&stack)]), [0x1111]);
        (stack[2], stack[3]) = (base, 0x1222);
        assert_eq!(walked(base + 16, &[range(&stack)]), [0x1222]);
    }

    #[test]
    fn what_is_no_frame_is_not_read() {
        let mut stack = [0u64; 4];
        let range = range(&stack);
        (stack[0], stack[1]) = (1, 0x1111);
        for frame in [
            0,
            1,
            range.start + 1,
            range.end - 8,
            range.end,
            u64::MAX,
            u64::MAX - 7,
        ] {
            assert_eq!(
                walked(frame, std::slice::from_ref(&range)),
                [0u64; 0],
                "{frame:#x}"
            );
        }
        assert_eq!(walked(range.start, std::slice::from_ref(&range)), [0x1111]);
        stack[1] = TEXT.end;
        assert_eq!(walked(range.start, std::slice::from_ref(&range)), [0u64; 0]);
        std::hint::black_box(stack);
    }

    proptest! {
        #[test]
        fn no_stack_contents_make_the_walk_read_elsewhere(
            words in prop::collection::vec(
                prop_oneof![any::<u64>(), 0..64u64, (0..64u64).prop_map(|w| w * 8 + (1 << 40)), TEXT],
                64,
            ),
            start in 0..70u64,
        ) {
            let mut stack = words;
            let range = range(&stack);
            for word in &mut stack {
                // Values from 2^40 on stand for addresses in the stack itself.
                if *word >> 40 == 1 {
                    *word = range.start + (*word - (1 << 40));
                }
            }
            let count = walked(range.start + start * 8, std::slice::from_ref(&range)).len();
            prop_assert!(count <= 32);
        }
    }

    #[test]
    fn captured_registers_are_of_this_moment() {
        let context = capture();
        let local = (&raw const context).expose_provenance() as u64;
        assert!(
            context.rsp.abs_diff(local) < 1 << 20,
            "the stack pointer is near a local"
        );
        let here = captured_registers_are_of_this_moment as *const () as u64;
        assert!(
            (here..here + 4096).contains(&context.rip),
            "the instruction pointer is in here"
        );
        assert_eq!(context.cs & 3, 3, "a test runs in user mode");
        assert_ne!(context.rflags & 2, 0, "bit 1 of the flags is always set");
    }
}
