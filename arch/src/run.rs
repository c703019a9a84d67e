//! What both kinds of `run` share: the one that enters user mode (`entry/run.rs`) and the one inside a Linux process
//! ([`hosted`](crate::hosted)). A run goes to user code with a [`UserContext`](abi::UserContext) and comes back with the reason,
//! which is also in the context as the entries wrote it there.

use abi::UserContext;

use crate::context::VECTOR_SYSCALL;

/// Vector of `int 0x80`.
const VECTOR_SOFTWARE_CALL: u64 = 0x80;
/// The first vector that is not the CPU's own (Intel SDM vol. 3A §6.2).
const FIRST_INTERRUPT: u64 = 32;

/// Why user code was left.
///
/// Error code, CR2 and DR6 of an exception, and the number of a call, are in the context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Trap {
    /// A system call, by any of its entries; its number is the context's `call_number`.
    SystemCall,
    /// An exception: the vector.
    Exception(u8),
    /// An interrupt: the vector.
    Interrupt(u8),
}

impl Trap {
    /// Why user code was left that now has this context.
    pub const fn of(context: &UserContext) -> Trap {
        match context.vector {
            VECTOR_SOFTWARE_CALL => Trap::SystemCall,
            vector if vector >= VECTOR_SYSCALL => Trap::SystemCall,
            vector if vector < FIRST_INTERRUPT => Trap::Exception(vector as u8),
            vector => Trap::Interrupt(vector as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::VECTOR_SYSENTER;

    #[test]
    fn every_vector_has_its_kind() {
        for vector in 0..=VECTOR_SYSENTER {
            let context = UserContext {
                vector,
                ..UserContext::default()
            };
            let want = match vector {
                0..=31 => Trap::Exception(vector as u8),
                0x80 | 256.. => Trap::SystemCall,
                _ => Trap::Interrupt(vector as u8),
            };
            assert_eq!(Trap::of(&context), want);
        }
    }
}
