//! Messages between threads of 32-bit code, which need the block form.

use abi::compat::{BLOCK_WORDS, block};
use abi::{Call, Rights};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use rt32::{call, thread};

use crate::{Verdict, check};

static ENDPOINT: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU32 = AtomicU32::new(0);
static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; 16384]));

/// The server's stack.
#[repr(align(16))]
struct Stack(core::cell::UnsafeCell<[u8; 16384]>);

// SAFETY: one thread alone uses it.
unsafe impl Sync for Stack {}

/// The words of a message, in the order of the map.
const WORDS: [usize; 6] = [
    block::RDX,
    block::R10,
    block::R8,
    block::R9,
    block::R12,
    block::R13,
];
const BADGE: u64 = 0xBAD6_E000_0000_0001;

/// Answers each message with its words inverted and its badge's lower half as the label.
extern "C" fn serve(_: u32) {
    let mut words = [0; BLOCK_WORDS];
    loop {
        let reply = words[block::R15];
        let answer = words;
        words = [0; BLOCK_WORDS];
        for word in WORDS {
            words[word] = !answer[word];
        }
        words[block::RSI] = answer[block::RDI] << 32;
        words[block::RDI] = ENDPOINT.load(Ordering::Relaxed);
        words[block::R14] = u64::MAX;
        words[block::R15] = reply;
        let number = if reply == 0 {
            Call::Recv
        } else {
            Call::ReplyRecv
        };
        // SAFETY: what it writes is the thread's IPC area.
        if unsafe { call::block(number, &mut words) }.is_err() {
            return;
        }
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn messages_travel_whole() -> Verdict {
    // SAFETY: makes objects of this process.
    let (endpoint, minted) = unsafe {
        let [endpoint, ..] = call::plain(Call::EndpointCreate, [0; 3])?;
        let rights = u64::from(Rights::SEND.0);
        let [minted, ..] = call::plain(Call::EndpointMint, [endpoint, BADGE, rights])?;
        (endpoint, minted)
    };
    ENDPOINT.store(endpoint, Ordering::Relaxed);
    let top = STACK.0.get().wrapping_add(1).cast::<u8>();
    // SAFETY: the stack is the server's alone.
    unsafe { thread::spawn(top, serve, 0)? };
    for round in 0..200u64 {
        let mut words = [0; BLOCK_WORDS];
        words[block::RDI] = minted;
        words[block::R14] = call::now_ns() + 5_000_000_000;
        for (index, word) in WORDS.into_iter().enumerate() {
            words[word] = 0xF0F0_1234_5678_9ABC_u64.rotate_left(index as u32 * 9) ^ round;
        }
        let sent = words;
        // SAFETY: as above.
        unsafe { call::block(Call::Call, &mut words)? };
        for word in WORDS {
            check!(words[word] == !sent[word], words[word]);
        }
        check!(words[block::RSI] == BADGE << 32, words[block::RSI]);
        check!(words[block::RDI] == 0 && words[block::R14] == 0 && words[block::R15] == 0);
    }
    check!(
        ROUNDS.load(Ordering::Relaxed) == 200,
        ROUNDS.load(Ordering::Relaxed)
    );
    Ok(())
}
