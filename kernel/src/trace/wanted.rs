//! What is noted: all that any process asks for.
//!
//! Each process asks by itself ([`Asked`]), and what it asks for is noted until it asks for something else or ends, whatever others do. So kinds
//! are counted: one is noted as long as somebody wants it. There is no lock: a process's set is exchanged in one step, and whoever did that counts
//! what has come and what has gone.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::trace::TraceKind;

/// The set of kinds that one process asks for.
#[derive(Debug, Default)]
pub struct Asked(AtomicU32);

impl Asked {
    /// Nothing.
    pub const fn nothing() -> Asked {
        Asked(AtomicU32::new(0))
    }
}

/// The kinds that are noted on the long ways, for which threads are marked.
const LONG_WAYS: u32 = TraceKind::Switch.bit() | TraceKind::Ipc.bit();

/// How many processes want each kind, and how many any of those for which threads are marked.
#[derive(Debug, Default)]
pub struct Wanted {
    kinds: [AtomicU32; TraceKind::ALL.len()],
    long_ways: AtomicU32,
}

impl Wanted {
    /// Nothing is wanted.
    pub const fn nothing() -> Wanted {
        Wanted {
            kinds: [const { AtomicU32::new(0) }; TraceKind::ALL.len()],
            long_ways: AtomicU32::new(0),
        }
    }

    /// Whether this kind is noted now.
    #[inline(always)]
    pub fn has(&self, kind: TraceKind) -> bool {
        self.kinds[kind as usize].load(Ordering::Relaxed) != 0
    }

    /// The same, in order with all changes.
    pub fn has_surely(&self, kind: TraceKind) -> bool {
        self.kinds[kind as usize].load(Ordering::SeqCst) != 0
    }

    /// Whether threads are to be marked, in order with all changes.
    #[inline(always)]
    pub fn has_long_ways(&self) -> bool {
        self.long_ways.load(Ordering::SeqCst) != 0
    }

    /// A process asks for these kinds from now on, and no others. What it goes on asking for is noted all the while. Returns what it asked for
    /// before.
    pub fn exchange(&self, asked: &Asked, kinds: u32) -> u32 {
        let before = asked.0.swap(kinds, Ordering::SeqCst);
        let recount = |count: &AtomicU32, set: u32| {
            match (before & set != 0, kinds & set != 0) {
                (false, true) => count.fetch_add(1, Ordering::SeqCst),
                // Another exchange of the same set may count what it has brought only after this one has counted it off: the number
                // wraps for a moment then, and is right when both are done.
                (true, false) => count.fetch_sub(1, Ordering::SeqCst),
                _ => 0,
            };
        };
        recount(&self.long_ways, LONG_WAYS);
        for kind in TraceKind::ALL {
            recount(&self.kinds[kind as usize], kind.bit());
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: u32 = TraceKind::EVERY;

    fn noted(wanted: &Wanted) -> u32 {
        let has = |kind: &&TraceKind| wanted.has(**kind) && wanted.has_surely(**kind);
        let bits = TraceKind::ALL.iter().filter(has).map(|kind| kind.bit());
        let all = bits.fold(0, |set, bit| set | bit);
        assert_eq!(wanted.has_long_ways(), all & LONG_WAYS != 0);
        all
    }

    #[test]
    fn what_one_asks_for_is_noted_until_he_ends_it_himself() {
        let wanted = Wanted::nothing();
        let (one, other) = (Asked::nothing(), Asked::nothing());
        assert_eq!(noted(&wanted), 0);
        wanted.exchange(&one, 0b00011);
        wanted.exchange(&other, 0b00110);
        assert_eq!(noted(&wanted), 0b00111);
        wanted.exchange(&other, 0);
        assert_eq!(noted(&wanted), 0b00011);
        wanted.exchange(&other, EVERY);
        wanted.exchange(&one, 0b00001);
        assert_eq!(noted(&wanted), EVERY);
        // To ask twice is to ask once.
        wanted.exchange(&one, 0b00001);
        wanted.exchange(&other, 0);
        assert_eq!(noted(&wanted), 0b00001);
        wanted.exchange(&one, 0);
        assert_eq!(noted(&wanted), 0);
    }

    #[test]
    fn what_all_ask_for_at_once_is_counted_right() {
        const ROUNDS: u32 = 20_000;
        let wanted = Wanted::nothing();
        let sets = [const { Asked::nothing() }; 2];
        let steady = Asked::nothing();
        wanted.exchange(&steady, TraceKind::Fault.bit());
        std::thread::scope(|scope| {
            // Two threads for each set.
            for seed in 0..4 {
                let (wanted, asked) = (&wanted, &sets[seed as usize % 2]);
                scope.spawn(move || {
                    let mut random = seed + 1_u32;
                    for _ in 0..ROUNDS {
                        random = random.wrapping_mul(0x0001_9660D).wrapping_add(0x3C6E_F35F);
                        wanted.exchange(asked, random >> 16 & EVERY);
                    }
                });
            }
        });
        for asked in &sets {
            wanted.exchange(asked, 0);
        }
        assert_eq!(noted(&wanted), TraceKind::Fault.bit());
        wanted.exchange(&steady, 0);
        assert_eq!(noted(&wanted), 0);
    }
}
