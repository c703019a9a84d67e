//! The checks, one file a kind. Each runs a context and looks at every register that came back.

mod calls;
mod figures;
mod registers;
mod state;
pub mod tasks;
mod traps;

use abi::UserContext;
use arch::context::{BadContext, USER_CODE64, USER_DATA, fresh};
use arch::entry::RunContext;
use arch::run::Trap;

use crate::report::{Difference, Report, equal};
use crate::user_space::{DATA, load};

pub(crate) type Outcome = Result<(), Difference>;

/// Where programs have their stack: words above it are theirs to read.
pub const STACK: u64 = DATA + 0x800;

/// Runs all.
pub fn all(report: &mut Report) {
    calls::all(report);
    traps::all(report);
    state::all(report);
    tasks::all(report);
    figures::print();
}

/// A context that begins with a program, with a value in each register that no other has.
pub fn begin(program: &[u8], seed: u64) -> UserContext {
    let mut context = fresh(load(program), STACK, 0, 0, 0);
    registers::fill(&mut context, seed);
    context
}

/// Runs a context. Whatever comes back, this kernel's own state is as it was.
pub fn enter(context: &mut UserContext) -> Result<Trap, BadContext> {
    let stack = arch::cpu::block().entry_stack();
    // SAFETY: interrupts are off, there are no locks, the thread is the current one, and all hooks come back.
    let trap = unsafe { context.run() };
    assert!(arch::cpu::block().entry_stack() == stack);
    trap
}

/// Runs a context that has to come back for this reason.
pub fn expect(context: &mut UserContext, want: Trap) -> Outcome {
    let (have, want) = (enter(context), Ok(want));
    equal("the vector", context.vector, vector_of(want))?;
    equal("the reason", u64::from(have == want), 1)?;
    equal("cs", context.cs & 3, 3)?;
    equal("ss", context.ss & 3, 3)
}

fn vector_of(trap: Result<Trap, BadContext>) -> u64 {
    match trap {
        Ok(Trap::Exception(vector) | Trap::Interrupt(vector)) => u64::from(vector),
        Ok(Trap::SystemCall) => arch::context::VECTOR_SYSCALL,
        Err(_) => u64::MAX,
    }
}

/// The selectors of 64-bit code are as they were.
pub fn same_selectors(context: &UserContext) -> Outcome {
    equal("cs", context.cs, u64::from(USER_CODE64))?;
    equal("ss", context.ss, u64::from(USER_DATA))?;
    let others = [context.ds, context.es, context.fs, context.gs];
    equal(
        "ds, es, fs, gs",
        u64::from(others.into_iter().max().unwrap_or(0)),
        0,
    )
}
