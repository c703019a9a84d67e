//! The two register maps of 32-bit code (`abi::compat`), there and back: a computation on registers and a block of words.
//!
//! It is apart from the calls themselves (`syscall/compat.rs`) as it needs no machine: so its tests, and the fuzzer, run on the host.
//!
//! What may go wrong: a register that carries a 64-bit value of somebody else's into 32-bit code. So the way back ends with
//! [`cut_to_32_bits`], whatever was put there meanwhile, and the way in begins with it at the caller's.

use abi::UserContext;
use abi::compat::{BLOCK_FORM, BLOCK_WORDS, block};
use arch::context::cut_to_32_bits;

/// Six registers as three 64-bit numbers: `ecx:ebx`, `esi:edx`, `ebp:edi`.
type Pairs = [u64; 3];

/// How the arguments of a call came, and what the way back needs of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// In the registers.
    Registers,
    /// In the IPC area; the registers as they were.
    Block(Pairs),
}

/// Puts the arguments where 64-bit code would have put them. The registers were [cut](cut_to_32_bits); `word` reads a word of the block,
/// each once, and is not called for a call in the register form.
pub fn take_in(registers: &mut UserContext, mut word: impl FnMut(usize) -> u64) -> Form {
    let number = registers.rax as u32;
    registers.call_number = u64::from(number & !BLOCK_FORM);
    let pairs = pairs_of(registers);
    if number & BLOCK_FORM == 0 {
        [registers.rdi, registers.rsi, registers.rdx] = pairs;
        // The rest is zero since the registers were cut; a deadline that nobody gave is none.
        registers.r14 = u64::MAX;
        return Form::Registers;
    }
    for (index, place) in block_of(registers).into_iter().enumerate() {
        *place = word(index);
    }
    Form::Block(pairs)
}

/// Puts the results where 32-bit code looks for them. On an error they are what the arguments were. `set_word` writes a word of the block.
pub fn give_back(registers: &mut UserContext, form: Form, mut set_word: impl FnMut(usize, u64)) {
    let pairs = match form {
        Form::Registers => [registers.rdi, registers.rsi, registers.rdx],
        Form::Block(before) => {
            for (index, place) in block_of(registers).into_iter().enumerate() {
                set_word(index, *place);
            }
            before
        }
    };
    set_pairs(registers, pairs);
    cut_to_32_bits(registers);
}

/// The pairs of registers that were cut.
fn pairs_of(registers: &UserContext) -> Pairs {
    [
        registers.rbx | registers.rcx << 32,
        registers.rdx | registers.rsi << 32,
        registers.rdi | registers.rbp << 32,
    ]
}

/// Takes pairs apart again; upper halves are still to be cut.
fn set_pairs(registers: &mut UserContext, [first, second, third]: Pairs) {
    (registers.rbx, registers.rcx) = (first, first >> 32);
    (registers.rdx, registers.rsi) = (second, second >> 32);
    (registers.rdi, registers.rbp) = (third, third >> 32);
}

/// The registers of a block, in its order.
fn block_of(registers: &mut UserContext) -> [&mut u64; BLOCK_WORDS] {
    const {
        assert!(block::RDI == 0 && block::RSI == 1 && block::RDX == 2 && block::R10 == 3);
        assert!(block::R8 == 4 && block::R9 == 5 && block::R12 == 6 && block::R13 == 7);
        assert!(block::R14 == 8 && block::R15 == 9);
    }
    [
        &mut registers.rdi,
        &mut registers.rsi,
        &mut registers.rdx,
        &mut registers.r10,
        &mut registers.r8,
        &mut registers.r9,
        &mut registers.r12,
        &mut registers.r13,
        &mut registers.r14,
        &mut registers.r15,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(number: u32) -> UserContext {
        UserContext {
            rax: u64::from(number),
            rbx: 0x1111_1111,
            rcx: 0x2222_2222,
            rdx: 0x3333_3333,
            rsi: 0x4444_4444,
            rdi: 0x5555_5555,
            rbp: 0x6666_6666,
            ..UserContext::default()
        }
    }

    #[test]
    fn pairs_of_registers_are_the_first_three_arguments_and_results() {
        let mut registers = called(7);
        let form = take_in(&mut registers, |_| unreachable!("no word is asked for"));
        assert_eq!((form, registers.call_number), (Form::Registers, 7));
        assert_eq!(registers.rdi, 0x2222_2222_1111_1111);
        assert_eq!(registers.rsi, 0x4444_4444_3333_3333);
        assert_eq!(registers.rdx, 0x6666_6666_5555_5555);
        assert_eq!(registers.r14, u64::MAX, "it waits for ever");
        registers.rax = 0;
        registers.rdi = 0xAAAA_AAAA_BBBB_BBBB;
        give_back(&mut registers, form, |_, _| unreachable!("nor set"));
        let mut expected = called(0);
        (expected.rbx, expected.rcx) = (0xBBBB_BBBB, 0xAAAA_AAAA);
        expected.call_number = 7;
        assert_eq!(registers, expected);
    }

    #[test]
    fn a_block_is_read_once_and_written_once_and_the_registers_are_kept() {
        let mut registers = called(8 | BLOCK_FORM);
        let mut read = Vec::new();
        let form = take_in(&mut registers, |index| {
            read.push(index);
            u64::MAX - index as u64
        });
        assert_eq!(read, (0..BLOCK_WORDS).collect::<Vec<_>>());
        assert_eq!(registers.call_number, 8);
        assert_eq!((registers.rdi, registers.r15), (u64::MAX, u64::MAX - 9));
        registers.rax = 3;
        registers.r12 = 77;
        let mut block = [0; BLOCK_WORDS];
        give_back(&mut registers, form, |index, word| block[index] = word);
        assert_eq!((block[0], block[6], block[9]), (u64::MAX, 77, u64::MAX - 9));
        let mut expected = called(3);
        expected.call_number = 8;
        assert_eq!(registers, expected);
    }
}
