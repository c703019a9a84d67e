//! Streams over the stand-in for the kernel: threads in place of processes.

use std::thread;
use std::time::Duration;

use rt::stream::{self, ReaderEnd, StreamError, WriterEnd};
use rt::{Deadline, Endpoint, Error, Event, Memory, Message, Notification, Rights, time};

rt::interface! {
    /// Takes a stream.
    pub mod sink {
        /// Reads it to its end, and tells how many bytes came.
        1 => pour(from: rt::stream::ReaderEnd) -> u64;
    }
}

fn soon() -> Deadline {
    time::after(Duration::from_mins(1))
}

#[test]
fn what_is_written_in_one_thread_is_read_in_another() {
    const BYTES: usize = 300_000;
    let (writer, reader) = stream::create(4096).unwrap();
    let writing = thread::spawn(move || {
        let mut writer = writer.open().unwrap();
        let bytes: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
        for piece in bytes.chunks(7001) {
            writer.write_all(piece, soon()).unwrap();
        }
        writer.written()
    });
    let mut reader = reader.open().unwrap();
    let mut read = Vec::new();
    let mut part = [0; 1000];
    loop {
        match reader.read(&mut part, soon()).unwrap() {
            0 => break,
            bytes => read.extend_from_slice(&part[..bytes]),
        }
    }
    assert_eq!(writing.join().unwrap(), BYTES as u64);
    assert_eq!(read.len(), BYTES);
    assert!(
        read.iter()
            .enumerate()
            .all(|(index, byte)| *byte == (index % 251) as u8)
    );
}

#[test]
fn records_arrive_whole() {
    let (writer, reader) = stream::create(1).unwrap();
    let (mut writer, mut reader) = (writer.open().unwrap(), reader.open().unwrap());
    assert_eq!((writer.capacity(), writer.longest_record()), (4096, 2044));
    assert_eq!(
        writer.write_record(&[0; 2045], Deadline::NOW),
        Err(StreamError::TooLong)
    );
    writer.write_record(b"first", Deadline::NOW).unwrap();
    writer.write_record(b"", Deadline::NOW).unwrap();
    writer.write_record(&[7; 2044], Deadline::NOW).unwrap();
    assert_eq!(
        writer.write_record(&[7; 2044], Deadline::NOW),
        Err(StreamError::Kernel(Error::TimedOut))
    );
    let mut into = [0; 2044];
    assert_eq!(
        reader.read_record(&mut into[..4], Deadline::NOW),
        Err(StreamError::TooLong)
    );
    assert_eq!(reader.read_record(&mut into, Deadline::NOW), Ok(5));
    assert_eq!(&into[..5], b"first");
    assert_eq!(reader.read_record(&mut into, Deadline::NOW), Ok(0));
    assert_eq!(reader.read_record(&mut into, Deadline::NOW), Ok(2044));
    assert_eq!(
        reader.read_record(&mut into, Deadline::NOW),
        Err(StreamError::Kernel(Error::TimedOut))
    );
    drop(writer);
    assert_eq!(
        reader.read_record(&mut into, Deadline::NEVER),
        Err(StreamError::Ended)
    );
}

#[test]
fn a_peer_that_goes_is_noticed() {
    // An end that is dropped unopened says nothing; but nobody can signal any more.
    let (writer, reader) = stream::create(4096).unwrap();
    drop(writer);
    let mut reader = reader.open().unwrap();
    assert_eq!(
        reader.read(&mut [0; 8], Deadline::NEVER),
        Err(StreamError::Kernel(Error::PeerClosed))
    );
    let (writer, reader) = stream::create(4096).unwrap();
    let mut writer = writer.open().unwrap();
    drop(reader);
    assert_eq!(
        writer.write_all(&[0; 5000], Deadline::NEVER),
        Err(StreamError::Kernel(Error::PeerClosed))
    );
    assert_eq!(writer.written(), 4096);
    // One that was opened says that it ends.
    let (writer, reader) = stream::create(4096).unwrap();
    let mut writer = writer.open().unwrap();
    drop(reader.open().unwrap());
    assert_eq!(
        writer.write_all(&[0; 5000], Deadline::NEVER),
        Err(StreamError::Ended)
    );
}

/// Reads what it is given.
struct Sink;
impl sink::Server for Sink {
    fn pour(&mut self, _: &mut rt::Caller, from: ReaderEnd) -> rt::Outcome<u64> {
        let mut reader = from.open().unwrap();
        let mut into = [0; 64];
        rt::Outcome::Done(reader.read_full(&mut into, soon()).unwrap() as u64)
    }
}

#[test]
fn ends_travel_in_messages_and_interfaces() {
    let endpoint = Endpoint::create().unwrap();
    let sender = endpoint.duplicate(Rights::SEND).unwrap();
    let (writer, reader) = stream::create(4096).unwrap();
    let sending = thread::spawn(move || sender.send(writer.into_message(3), soon()));
    let Event::Message(message) = endpoint.recv(4, soon()).unwrap() else {
        panic!("a message was sent");
    };
    sending.join().unwrap().unwrap();
    assert_eq!(message.label, 3);
    let end = WriterEnd::from_handles(message.handles).unwrap();
    // The other one, by an interface.
    let client = sink::Client::new(endpoint.duplicate(Rights::SEND).unwrap());
    let serving = thread::spawn(move || {
        use sink::Server;
        let Ok(Event::Message(message)) = endpoint.recv(sink::HANDLES, soon()) else {
            panic!("a call was made");
        };
        let (reply, answer): (rt::Reply, Message) = Sink.dispatch(message).unwrap();
        reply.answer(answer).unwrap();
    });
    end.open()
        .unwrap()
        .write_all(&[1; 40], Deadline::NOW)
        .unwrap();
    assert_eq!(client.pour(reader, soon()), Ok(40));
    serving.join().unwrap();
}

#[test]
fn what_is_no_end_is_refused() {
    let handles = |bytes: u64, data: Rights, room: Rights| {
        let any = Rights::TRANSFER | Rights::QUERY;
        vec![
            Memory::create(bytes).unwrap().into_handle(),
            Notification::create()
                .unwrap()
                .duplicate(data | any)
                .unwrap()
                .into_handle(),
            Notification::create()
                .unwrap()
                .duplicate(room | any)
                .unwrap()
                .into_handle(),
        ]
    };
    let (signal, wait) = (Rights::SIGNAL, Rights::WAIT);
    for (data, room) in [
        (wait, signal),
        (signal | wait, wait),
        (signal, signal),
        (signal, Rights::NONE),
    ] {
        assert_eq!(
            WriterEnd::from_handles(handles(8192, data, room)).err(),
            Some(StreamError::NotAnEnd)
        );
    }
    let mut few = handles(8192, signal, wait);
    few.pop();
    assert_eq!(
        WriterEnd::from_handles(few).err(),
        Some(StreamError::NotAnEnd)
    );
    let mut swapped = handles(8192, signal, wait);
    swapped.swap(0, 1);
    assert_eq!(
        WriterEnd::from_handles(swapped).err(),
        Some(StreamError::NotAnEnd)
    );
    for bytes in [4096, 3 * 4096, 4 * 4096, 4096 + (1 << 25)] {
        let end = ReaderEnd::from_handles(handles(bytes, wait, signal)).unwrap();
        assert!(
            matches!(end.open(), Err(StreamError::NotAnEnd)) == (bytes != 3 * 4096),
            "{bytes}"
        );
    }
}

#[test]
fn a_peer_that_signals_for_nothing_does_not_lengthen_a_wait() {
    let (writer, reader) = stream::create(4096).unwrap();
    let [_memory, data, _room] = writer.into_handles();
    let data = Notification::from_handle(data);
    let mut reader = reader.open().unwrap();
    let liar = thread::spawn(move || {
        for _ in 0..5000 {
            data.signal(1).unwrap();
        }
        data
    });
    let result = reader.read(&mut [0; 8], time::after(Duration::from_millis(1)));
    assert_eq!(result, Err(StreamError::Kernel(Error::TimedOut)));
    drop(liar.join().unwrap());
}
