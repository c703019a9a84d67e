//! What a worker leaves behind in a page that it shares with who made it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The page's contents.
#[repr(C)]
pub struct Report {
    /// Calls that were begun, by all threads of the worker.
    pub calls: AtomicU64,
    /// Those of them that gave no error.
    pub successes: AtomicU64,
    /// Bit *n* of word *w*: call number 64 *w* + *n* gave no error once.
    succeeded: [AtomicU64; 4],
    /// 0, or what was wrong: a [`Wrong`].
    wrong: AtomicU64,
    /// The call's number and what `rax` had after it.
    number: AtomicU64,
    status: AtomicU64,
    /// Which register, by its place among them.
    register: AtomicU64,
}

/// What may be wrong with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Wrong {
    /// `rax` has neither 0 nor an error's code.
    Status = 1,
    /// A call that failed changed a register.
    Register = 2,
}

impl Report {
    /// Notes the first that is wrong.
    pub fn complain(&self, wrong: Wrong, number: u64, status: u64, register: u64) {
        if self
            .wrong
            .compare_exchange(0, wrong as u64, Relaxed, Relaxed)
            .is_ok()
        {
            self.number.store(number, Relaxed);
            self.status.store(status, Relaxed);
            self.register.store(register, Relaxed);
        }
    }

    /// Notes a call that gave no error.
    pub fn note_success(&self, number: u64) {
        self.successes.fetch_add(1, Relaxed);
        if let Some(word) = self.succeeded.get((number / 64) as usize) {
            word.fetch_or(1 << (number % 64), Relaxed);
        }
    }

    /// The numbers of calls that gave no error, as bits.
    pub fn succeeded(&self) -> [u64; 4] {
        core::array::from_fn(|word| self.succeeded[word].load(Relaxed))
    }

    /// What was wrong, in words.
    pub fn complaint(&self) -> Option<alloc::string::String> {
        let [number, status, register] =
            [&self.number, &self.status, &self.register].map(|word| word.load(Relaxed));
        match self.wrong.load(Relaxed) {
            1 => Some(alloc::format!(
                "call {number:#x} gave {status:#x}, which is no error"
            )),
            2 => Some(alloc::format!(
                "call {number:#x} failed with {status:#x} and changed register {register}"
            )),
            // Nothing; or the worker, whose memory it is, has written there at random.
            _ => None,
        }
    }
}
