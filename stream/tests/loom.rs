//! Both sides at once, in every interleaving of at most two preemptions and with every value that a load may return: nobody sleeps with something to do, and no byte is
//! written while it is read (loom's cells notice that).

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::thread;
use stream::{Capacity, Fault, Reader, Shared, Word, Writer};

const RING: usize = 2;

struct Both {
    words: [AtomicU64; 4],
    ring: [UnsafeCell<u8>; RING],
    fences: bool,
    /// The two notifications: data, room.
    signals: [AtomicBool; 2],
}

// SAFETY: loom checks each access to the cells.
unsafe impl Sync for Both {}

impl Both {
    fn side(fences: bool) -> Side {
        Side(Arc::new(Both {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            ring: std::array::from_fn(|_| UnsafeCell::new(0)),
            fences,
            signals: std::array::from_fn(|_| AtomicBool::new(false)),
        }))
    }
}

#[derive(Clone)]
struct Side(Arc<Both>);

impl Side {
    fn signal(&self, which: usize) {
        self.0.signals[which].swap(true, Ordering::AcqRel);
    }

    /// A wait in vain never ends, which makes loom fail the model.
    fn wait(&self, which: usize) {
        while !self.0.signals[which].swap(false, Ordering::AcqRel) {
            thread::yield_now();
        }
    }
}

impl Shared for Side {
    fn load(&self, word: Word) -> u64 {
        self.0.words[word as usize].load(Ordering::Acquire)
    }
    fn store(&self, word: Word, value: u64) {
        self.0.words[word as usize].store(value, Ordering::Release);
    }
    fn take(&self, word: Word, from: u64) -> bool {
        self.0.words[word as usize]
            .compare_exchange(from, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
    fn fence(&self) {
        if self.0.fences {
            fence(Ordering::SeqCst);
        }
    }
    fn get(&self, at: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            // SAFETY: loom checks that nobody writes it now.
            *byte = self.0.ring[at + index].with(|byte| unsafe { *byte });
        }
    }
    fn put(&self, at: usize, from: &[u8]) {
        for (index, value) in from.iter().enumerate() {
            // SAFETY: loom checks that nobody else has it now.
            self.0.ring[at + index].with_mut(|byte| unsafe { *byte = *value });
        }
    }
}

const DATA: usize = 0;
const ROOM: usize = 1;

fn write_all(side: &Side, bytes: u8) {
    let mut writer = Writer::new(side.clone(), Capacity::new(RING).unwrap());
    let mut next = 1;
    while next <= bytes {
        match writer.put(&[next]) {
            Ok(0) => {
                if writer.may_sleep(1) {
                    side.wait(ROOM);
                    writer.awake();
                }
            }
            Ok(_) => {
                next += 1;
                if writer.publish() {
                    side.signal(DATA);
                }
            }
            Err(fault) => {
                assert_eq!(fault, Fault::Ended);
                return;
            }
        }
    }
    writer.end();
    side.signal(DATA);
}

/// Reads `most` bytes or up to the end, and gives how many.
fn read_all(side: &Side, most: u8) -> u8 {
    let mut reader = Reader::new(side.clone(), Capacity::new(RING).unwrap());
    let mut count = 0;
    while count < most {
        let mut byte = [0];
        if reader.take(&mut byte).unwrap() == 1 {
            count += 1;
            assert_eq!(byte, [count]);
            if reader.release() {
                side.signal(ROOM);
            }
        } else if reader.has_ended() {
            return count;
        } else if reader.may_sleep(1) {
            side.wait(DATA);
            reader.awake();
        }
    }
    reader.end();
    side.signal(ROOM);
    count
}

fn both(bytes: u8, most: u8, fences: bool) {
    let mut model = loom::model::Builder::new();
    // Two sides that loop have too many interleavings to try all; each that takes the CPU away from somebody at most twice in
    // mid-course is tried.
    model.preemption_bound = Some(2);
    model.check(move || {
        let side = Both::side(fences);
        let writer = {
            let side = side.clone();
            thread::spawn(move || write_all(&side, bytes))
        };
        assert_eq!(read_all(&side, most), bytes.min(most));
        writer.join().unwrap();
    });
}

#[test]
fn every_byte_arrives_and_nobody_sleeps_for_ever() {
    both(3, u8::MAX, true);
}

#[test]
fn a_reader_that_goes_leaves_no_writer_asleep() {
    both(4, 1, true);
}

/// The models must be able to fail.
#[test]
#[should_panic(expected = "exceeded maximum number of branches")]
fn a_missing_fence_leaves_somebody_asleep() {
    both(3, u8::MAX, false);
}
