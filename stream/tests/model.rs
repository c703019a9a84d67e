//! Both sides against a queue of bytes, in any order of steps; and each side against a peer that writes what it likes.

mod common;

use std::collections::VecDeque;

use common::Memory;
use proptest::prelude::*;
use stream::{Capacity, Fault, Next, Reader, Shared, Word, Writer};

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>),
    Publish,
    Take(usize),
    Release,
    WriterSleeps(usize),
    ReaderSleeps(usize),
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Put),
        4 => Just(Step::Publish),
        4 => (0_usize..40).prop_map(Step::Take),
        4 => Just(Step::Release),
        1 => (0_usize..40).prop_map(Step::WriterSleeps),
        1 => (0_usize..40).prop_map(Step::ReaderSleeps),
        1 => Just(Step::End),
    ];
    prop::collection::vec(step, 0..200)
}

fn sides(bytes: usize) -> (Memory, Writer<Memory>, Reader<Memory>) {
    let memory = Memory::new(bytes);
    let capacity = Capacity::new(bytes).unwrap();
    (
        memory.clone(),
        Writer::new(memory.clone(), capacity),
        Reader::new(memory, capacity),
    )
}

/// What is the case, kept the plain way.
#[derive(Default)]
struct Model {
    /// Put and not yet published.
    put: VecDeque<u8>,
    published: VecDeque<u8>,
    /// Taken and not yet released.
    taken: usize,
    ended: bool,
    writer_wants: Option<usize>,
    reader_wants: Option<usize>,
}

impl Model {
    /// What the writer can know of: its put bytes, those published, those not yet released.
    fn used(&self) -> usize {
        self.put.len() + self.published.len() + self.taken
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_is_a_queue_and_whoever_sleeps_is_signalled_once(
        bits in 1_u32..7,
        steps in steps(),
    ) {
        let ring = 1 << bits;
        let half = ring / 2;
        let (_, mut writer, mut reader) = sides(ring);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Put(bytes) if !model.ended => {
                    let put = writer.put(&bytes).unwrap();
                    prop_assert_eq!(put, bytes.len().min(ring - model.used()));
                    model.put.extend(&bytes[..put]);
                }
                Step::Publish if !model.ended => {
                    let new = !model.put.is_empty();
                    model.published.append(&mut model.put);
                    // What was taken and not released counts as there.
                    let due = model.reader_wants.is_some_and(|wants| model.published.len() + model.taken >= wants);
                    let signal = writer.publish();
                    prop_assert_eq!(signal, new && due);
                    if signal {
                        model.reader_wants = None;
                        reader.awake();
                    }
                }
                Step::Take(bytes) if model.reader_wants.is_none() => {
                    let mut into = vec![0; bytes];
                    let took = reader.take(&mut into).unwrap();
                    let expected: Vec<u8> = model.published.drain(..bytes.min(model.published.len())).collect();
                    prop_assert_eq!(&into[..took], &expected[..]);
                    model.taken += took;
                }
                Step::Release if model.reader_wants.is_none() => {
                    let new = model.taken != 0;
                    model.taken = 0;
                    let room = ring - model.published.len();
                    let due = model.writer_wants.is_some_and(|wants| room >= wants);
                    let signal = reader.release();
                    prop_assert_eq!(signal, new && due);
                    if signal {
                        model.writer_wants = None;
                        writer.awake();
                    }
                }
                // Who sleeps has nothing unpublished, and nothing unreleased: its caller sees to that.
                Step::WriterSleeps(wanted) if !model.ended && model.put.is_empty() && model.writer_wants.is_none() => {
                    let wanted = wanted.clamp(1, half);
                    let sleeps = writer.may_sleep(wanted);
                    prop_assert_eq!(sleeps, ring - model.used() < wanted);
                    model.writer_wants = sleeps.then_some(wanted);
                }
                Step::ReaderSleeps(wanted) if model.taken == 0 && model.reader_wants.is_none() => {
                    let wanted = wanted.clamp(1, half);
                    let sleeps = reader.may_sleep(wanted);
                    prop_assert_eq!(sleeps, !model.ended && model.published.len() < wanted);
                    model.reader_wants = sleeps.then_some(wanted);
                }
                Step::End if !model.ended => {
                    model.put.clear();
                    model.ended = true;
                    writer.end();
                    prop_assert_eq!(writer.put(&[1]), Err(Fault::Ended));
                    if model.reader_wants.take().is_some() {
                        reader.awake();
                    }
                }
                _ => {}
            }
            // Never both.
            prop_assert!(model.reader_wants.is_none() || model.writer_wants.is_none() || model.taken != 0);
        }
        if model.reader_wants.is_none() {
            let mut rest = vec![0; ring + 1];
            let took = reader.take(&mut rest).unwrap();
            prop_assert_eq!(&rest[..took], model.published.make_contiguous());
            prop_assert_eq!(reader.has_ended(), model.ended);
        }
    }

    #[test]
    fn records_come_as_they_were_sent(
        bits in 3_u32..8,
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..30),
        rooms in prop::collection::vec(0_usize..60, 1..30),
    ) {
        let (_, mut writer, mut reader) = sides(1 << bits);
        let longest = writer.capacity().longest_record();
        let mut sent = VecDeque::new();
        let mut rooms = rooms.into_iter().cycle();
        let mut read_one = |reader: &mut Reader<Memory>, sent: &mut VecDeque<Vec<u8>>| {
            let record = sent.pop_front().unwrap();
            assert_eq!(reader.next_record(), Ok(Next::Record(record.len())));
            let mut into = vec![0; rooms.next().unwrap()];
            let bytes = reader.take_record(&mut into);
            assert_eq!(bytes, record.len().min(into.len()));
            assert_eq!(&into[..bytes], &record[..bytes]);
            reader.release();
        };
        for mut record in records {
            record.truncate(longest);
            while !writer.put_record(&record).unwrap() {
                read_one(&mut reader, &mut sent);
            }
            prop_assert!(!writer.publish());
            sent.push_back(record);
        }
        while !sent.is_empty() {
            read_one(&mut reader, &mut sent);
        }
        prop_assert_eq!(reader.next_record(), Ok(Next::Wanted(4)));
        writer.end();
        prop_assert_eq!(reader.next_record(), Err(Fault::Ended));
    }

    /// The memory that the tests have panics if it is read or written out of its bounds.
    #[test]
    fn a_peer_that_writes_anything_anywhere_is_borne(
        lies in prop::collection::vec((0_usize..4, prop_oneof![
            any::<u64>(), 0_u64..100, Just(u64::MAX), Just(1 << 63), (0_u64..100).prop_map(|back| 0_u64.wrapping_sub(back)),
        ], any::<u8>(), 0_usize..40), 1..200),
    ) {
        let (memory, mut writer, mut reader) = sides(32);
        let mut into = [0; 40];
        for (word, value, byte, bytes) in lies {
            memory.words.borrow_mut()[word] = value;
            memory.ring.borrow_mut()[(value % 32) as usize] = byte;
            if let Ok(put) = writer.put(&into[..bytes]) {
                prop_assert!(put <= 32);
            }
            writer.publish();
            let _ = writer.may_sleep(bytes);
            let _ = writer.put_record(&into[..bytes.min(12)]);
            let before = reader.there(usize::MAX);
            if let Ok(there) = before {
                prop_assert!(there <= 32);
            }
            if bytes % 2 == 0 {
                let _ = reader.take(&mut into[..bytes]);
            } else if let Ok(Next::Record(length)) = reader.next_record() {
                prop_assert!(length <= 12);
                memory.ring.borrow_mut().fill(byte);
                prop_assert_eq!(reader.take_record(&mut into), length);
            }
            let _ = reader.release();
            let _ = reader.may_sleep(bytes);
        }
    }
}

#[test]
fn who_is_awake_is_never_signalled() {
    let (_, mut writer, mut reader) = sides(64);
    for byte in 0..200 {
        assert_eq!(writer.put(&[byte]), Ok(1));
        assert!(!writer.publish());
        let mut into = [0];
        assert_eq!((reader.take(&mut into), into), (Ok(1), [byte]));
        assert!(!reader.release());
    }
}

#[test]
fn a_reader_hears_of_the_end_behind_the_last_byte() {
    let (_, mut writer, mut reader) = sides(8);
    assert_eq!(writer.put(b"abc"), Ok(3));
    assert!(!writer.publish());
    // Put, but not published: it never was.
    assert_eq!(writer.put(b"d"), Ok(1));
    writer.end();
    assert!(!reader.may_sleep(4), "there is no more to wait for");
    let mut into = [0; 8];
    assert_eq!((reader.take(&mut into), &into[..3]), (Ok(3), &b"abc"[..]));
    assert!(reader.has_ended());
    assert_eq!(reader.take(&mut into), Ok(0));
    // An end is an end, whatever the memory says later.
    reader.shared().store(Word::Written, 5);
    assert_eq!(reader.take(&mut into), Ok(0));
}

#[test]
fn a_writer_hears_that_nobody_reads() {
    let (_, mut writer, mut reader) = sides(8);
    assert_eq!(writer.put(b"abc"), Ok(3));
    reader.end();
    assert_eq!(writer.put(b"defghi"), Err(Fault::Ended));
    assert!(!writer.publish() && !writer.may_sleep(1));
    // One that is about to sleep hears of it as well.
    let (_, mut writer, mut reader) = sides(8);
    assert_eq!(writer.put(b"abcdefgh"), Ok(8));
    assert!(!writer.publish());
    reader.end();
    assert!(!writer.may_sleep(1));
    assert_eq!(writer.room(1), Err(Fault::Ended));
}

#[test]
fn lies_are_told_for_what_they_are() {
    // More written than the ring holds; less than was read.
    for lie in [9, u64::MAX >> 1, (u64::MAX >> 1) - 7] {
        let (memory, _, mut reader) = sides(8);
        memory.store(Word::Written, lie);
        assert_eq!(reader.take(&mut [0; 8]), Err(Fault::Garbled), "{lie:#x}");
        memory.store(Word::Written, 1);
        assert_eq!(reader.take(&mut [0; 8]), Err(Fault::Garbled), "for good");
        assert!(!reader.may_sleep(1));
    }
    // More read than was written.
    let (memory, mut writer, _) = sides(8);
    memory.store(Word::Read, 1);
    assert_eq!(writer.put(b"abcdefghi"), Err(Fault::Garbled));
    assert!(!writer.may_sleep(1));
    // Less written, and less read, than was before, though it could be.
    let (memory, mut writer, mut reader) = sides(8);
    assert_eq!(writer.put(b"abcdefgh"), Ok(8));
    let _ = writer.publish();
    assert_eq!(reader.take(&mut [0; 2]), Ok(2));
    memory.store(Word::Written, 5);
    assert_eq!(reader.there(8), Err(Fault::Garbled));
    memory.store(Word::Read, 5);
    assert_eq!(writer.room(8), Ok(5));
    memory.store(Word::Read, 3);
    assert_eq!(writer.room(8), Err(Fault::Garbled));
    // A record that is longer than any, and one that the stream ends in.
    let (_, mut writer, mut reader) = sides(32);
    assert_eq!(writer.put(&13_u32.to_le_bytes()), Ok(4));
    assert!(!writer.publish());
    assert_eq!(reader.next_record(), Err(Fault::Garbled));
    let (_, mut writer, mut reader) = sides(32);
    assert_eq!(writer.put(&[12, 0, 0, 0, 1]), Ok(5));
    assert!(!writer.publish());
    assert_eq!(reader.next_record(), Ok(Next::Wanted(16)));
    writer.end();
    assert_eq!(reader.next_record(), Err(Fault::Garbled));
    assert_eq!(reader.take_record(&mut [0; 4]), 0);
}
