//! Threads of a 32-bit process.

use core::arch::naked_asm;

use abi::compat::{BLOCK_WORDS, block};
use abi::{Call, Error};

use crate::{call, tls};

/// What a thread runs; it gets the argument that it was started with.
pub type Body = extern "C" fn(u32);

/// Flag of `thread_create`: it runs at once.
const START: u64 = 1;

/// Starts a thread that runs `body(argument)` on the stack that ends at `stack_top`. Returns the thread's handle.
///
/// # Errors
/// Those of `thread_create`.
///
/// # Safety
/// The stack is nobody else's, and stays as long as the thread runs.
pub unsafe fn spawn(stack_top: *mut u8, body: Body, argument: u32) -> Result<u64, Error> {
    // What `begin` finds: body and argument, on the new stack itself.
    let top = ((stack_top as u32) & !15) - 16;
    // SAFETY: the caller's promise.
    unsafe { (top as *mut [u32; 2]).write([body as usize as u32, argument]) };
    let mut words = [0; BLOCK_WORDS];
    words[block::RDI] = call::own_process()?;
    words[block::RSI] = begin as *const () as u64;
    words[block::RDX] = u64::from(top);
    words[block::R10] = u64::from(top);
    words[block::R8] = START;
    // SAFETY: the thread begins at code of ours, on its own stack.
    unsafe { call::block(Call::ThreadCreate, &mut words)? };
    Ok(words[block::RDI])
}

/// Ends the calling thread.
pub fn exit() -> ! {
    // SAFETY: ends the thread, which owes nothing.
    let _ = unsafe { call::plain(Call::ThreadExit, [0; 3]) };
    unreachable!("the kernel returned from thread_exit")
}

/// A thread's first instructions.
///
/// In: edi = where body and argument are, esi = IPC area, esp = the same as edi, at 16. Does not return.
#[unsafe(naked)]
unsafe extern "C" fn begin() {
    naked_asm!(
        "xor ebp, ebp",
        "sub esp, 8",
        "push esi",
        "push edi",
        "call {run}",
        "ud2",
        run = sym run,
    )
}

extern "C" fn run(place: *const [u32; 2], area: u32) -> ! {
    tls::begin(area);
    // SAFETY: `spawn` wrote them there.
    let [body, argument] = unsafe { *place };
    // SAFETY: the first is a `Body`.
    let body: Body = unsafe { core::mem::transmute(body as usize) };
    body(argument);
    exit()
}
