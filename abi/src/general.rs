//! The general registers by the numbers that machine code has for them (Intel SDM vol. 2A §2.1.5, table 2-2; from 8 on with REX).
//!
//! Whoever fills all registers of a program, or looks at all of them, walks through them by these numbers; 32-bit code has the
//! first eight.

use crate::UserContext;

/// How many there are.
pub const COUNT: usize = 16;
/// How many 32-bit code has.
pub const COUNT_32: usize = 8;

macro_rules! numbers {
    ($($name:ident = $number:literal, $field:ident;)*) => {
        $(
            #[doc = concat!("Number of `", stringify!($field), "`.")]
            pub const $name: usize = $number;
        )*

        impl UserContext {
            /// The general registers, each at its [number](crate::general).
            pub const fn general(&self) -> [u64; COUNT] {
                let mut values = [0; COUNT];
                $(values[$name] = self.$field;)*
                values
            }

            /// Sets all general registers.
            pub const fn set_general(&mut self, values: &[u64; COUNT]) {
                $(self.$field = values[$name];)*
            }
        }
    };
}

numbers! {
    RAX = 0, rax;
    RCX = 1, rcx;
    RDX = 2, rdx;
    RBX = 3, rbx;
    RSP = 4, rsp;
    RBP = 5, rbp;
    RSI = 6, rsi;
    RDI = 7, rdi;
    R8 = 8, r8;
    R9 = 9, r9;
    R10 = 10, r10;
    R11 = 11, r11;
    R12 = 12, r12;
    R13 = 13, r13;
    R14 = 14, r14;
    R15 = 15, r15;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_register_has_a_place_of_its_own() {
        let values = core::array::from_fn(|number| 0x100 + number as u64);
        let mut context = UserContext::default();
        context.set_general(&values);
        assert_eq!(context.general(), values);
        assert_eq!(
            (context.rax, context.rsp, context.r15),
            (0x100, 0x104, 0x10F)
        );
    }
}
