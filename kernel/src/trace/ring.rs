//! A ring of records that one CPU writes and any CPU reads, without a lock: the writer never waits, and overwrites what is oldest.
//!
//! A record has a number, which only grows, and a place for it. The writer fills the place and then counts. A reader takes the words of a place
//! and then looks how far the writer is: if that has come to the same place again, or may be about to, what was read is thrown away. So
//! a reader sees whole records or none, and knows how many it has missed.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use abi::trace::TraceRecord;

/// Words of a record.
const WORDS: usize = size_of::<TraceRecord>() / size_of::<u64>();

/// The place of a record. It is 0 when it is made.
#[derive(Debug, Default)]
pub struct Place([AtomicU64; WORDS]);

impl Place {
    fn fill(&self, record: &TraceRecord) {
        let last = u64::from(record.kind) | u64::from(record.cpu) << 32;
        let words = [record.ticks, record.thread, record.a, record.b, last];
        for (place, word) in self.0.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    fn take(&self) -> TraceRecord {
        let [ticks, thread, a, b, last] =
            self.0.each_ref().map(|word| word.load(Ordering::Relaxed));
        TraceRecord {
            ticks,
            thread,
            a,
            b,
            kind: last as u32,
            cpu: (last >> 32) as u32,
        }
    }
}

/// Writes a record as the next one. For the ring's writer alone.
pub fn write(places: &[Place], next: &AtomicU64, record: &TraceRecord) {
    let number = next.load(Ordering::Relaxed);
    let Some(place) = places.get((number % places.len().max(1) as u64) as usize) else {
        return;
    };
    // Whoever sees a word of this record sees that the one before it is complete, and so that this place is being written.
    fence(Ordering::Release);
    place.fill(record);
    next.store(number + 1, Ordering::Release);
}

/// Reads records from number `from` on, as many as there are and `into` has room for. Returns how many, the number to go on with, and how
/// many between `from` and that are lost. A `from` that lies ahead means: from now on.
pub fn read(
    places: &[Place],
    next: &AtomicU64,
    from: u64,
    into: &mut [TraceRecord],
) -> (usize, u64, u64) {
    let room = places.len() as u64;
    let end = next.load(Ordering::Acquire);
    if from >= end || room == 0 {
        return (0, end, 0);
    }
    let (mut count, mut number, mut lost) = (0, from, 0);
    while number < end && count < into.len() {
        let oldest = next.load(Ordering::Acquire).saturating_sub(room - 1);
        if number < oldest {
            lost += oldest.min(end) - number;
            number = oldest.min(end);
            continue;
        }
        let record = places[(number % room) as usize].take();
        fence(Ordering::Acquire);
        if number + room > next.load(Ordering::Relaxed) {
            into[count] = record;
            count += 1;
        } else {
            lost += 1;
        }
        number += 1;
    }
    (count, number, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: usize) -> Vec<Place> {
        (0..count).map(|_| Place::default()).collect()
    }

    fn record(number: u64) -> TraceRecord {
        TraceRecord {
            ticks: number,
            thread: number * 3,
            a: !number,
            b: number << 7,
            kind: number as u32 % 5,
            cpu: number as u32,
        }
    }

    #[test]
    fn what_was_written_is_read_in_order() {
        let (places, next) = (places(8), AtomicU64::new(0));
        let mut into = [TraceRecord::default(); 4];
        assert_eq!(read(&places, &next, 0, &mut into), (0, 0, 0));
        for number in 0..6 {
            write(&places, &next, &record(number));
        }
        assert_eq!(read(&places, &next, 0, &mut into), (4, 4, 0));
        assert_eq!(into, [0, 1, 2, 3].map(record));
        assert_eq!(read(&places, &next, 4, &mut into), (2, 6, 0));
        assert_eq!(into[..2], [4, 5].map(record));
        assert_eq!(read(&places, &next, 6, &mut into), (0, 6, 0));
        assert_eq!(
            read(&places, &next, u64::MAX, &mut into),
            (0, 6, 0),
            "from now on"
        );
    }

    #[test]
    fn what_was_overwritten_is_counted() {
        let (places, next) = (places(8), AtomicU64::new(0));
        for number in 0..20 {
            write(&places, &next, &record(number));
        }
        let mut into = [TraceRecord::default(); 16];
        // The place of the oldest may be the one that is written next.
        assert_eq!(read(&places, &next, 2, &mut into), (7, 20, 11));
        assert_eq!(into[0], record(13));
        assert_eq!(into[6], record(19));
    }

    #[test]
    fn a_ring_without_places_holds_nothing() {
        let next = AtomicU64::new(0);
        write(&[], &next, &record(1));
        assert_eq!(read(&[], &next, 0, &mut [record(0)]), (0, 0, 0));
    }

    #[test]
    fn a_reader_beside_the_writer_sees_whole_records_only() {
        const RECORDS: u64 = 200_000;
        let (places, next) = (places(16), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..RECORDS {
                    write(&places, &next, &record(number));
                }
            });
            let (mut at, mut seen, mut missed) = (0, 0, 0);
            while at < RECORDS {
                let mut into = [TraceRecord::default(); 5];
                let (count, next, lost) = read(&places, &next, at, &mut into);
                for read in &into[..count] {
                    assert_eq!(*read, record(read.ticks));
                    assert!((at..next).contains(&read.ticks));
                }
                assert_eq!(next - at, count as u64 + lost);
                (at, seen, missed) = (next, seen + count as u64, missed + lost);
            }
            assert_eq!(seen + missed, RECORDS);
            assert!(seen > 0);
        });
    }
}
