//! Streams between two processes: that all arrives, on whatever CPUs they are, and that nobody is harmed or left waiting by a peer that dies or lies.

use abi::info::ProcessState;
use abi::{CpuSet, Deadline, Error, Protection, Rights};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::stream::{self, ReaderEnd, StreamError, StreamReader, StreamWriter, WriterEnd};
use rt::{AsHandle, Endpoint, Memory, Notification, start};

use super::ipc::receive;
use super::probe::{soon, until};
use super::{quotas, tests};
use crate::roles::Role;
use crate::verdict::Verdict;
use crate::world::{Child, World, ending};
use crate::{check, fail, must, same};

tests! {
    a_stream_carries_everything_to_another_process: 60,
    records_cross_processes_as_they_were_sent: 60,
    a_writer_that_is_killed_leaves_what_it_wrote_and_then_an_error: 60,
    a_reader_that_is_killed_leaves_no_writer_waiting: 60,
    a_peer_that_lies_garbles_no_more_than_its_stream: 60,
    an_end_allows_no_more_than_it_needs: 60,
    waiters_hear_that_nobody_can_signal_any_more: 60,
}

/// The other sides. They get their end by a message.
pub const ROLES: &[Role] = &[
    Role {
        name: "stream-writer",
        run: |_, how| quotas::verdict(write(how)),
    },
    Role {
        name: "stream-reader",
        run: |_, how| quotas::verdict(read(how)),
    },
    Role {
        name: "stream-liar",
        run: |_, how| quotas::verdict(lie(how)),
    },
];

const BYTES: u64 = 96 * 1024;
const RECORDS: usize = 200;

/// What a stream has at this place.
const fn byte_at(place: u64) -> u8 {
    (place % 253) as u8
}

/// The record of this number.
fn record(number: usize) -> Vec<u8> {
    vec![number as u8; number * 37 % 2000]
}

/// The end that comes to this process.
fn my_handles() -> rt::Result<Vec<rt::OwnedHandle>> {
    let endpoint: Endpoint = start::take("endpoint").map_err(|_| Error::BadHandle)?;
    Ok(receive(&endpoint, 4)?.handles)
}

fn write(how: &str) -> Verdict {
    let end = must!(WriterEnd::from_handles(must!(my_handles())));
    let mut writer = must!(end.open());
    match how {
        "bytes" => write_bytes(&mut writer, 1777),
        "records" => {
            for number in 0..RECORDS {
                must!(writer.write_record(&record(number), soon()));
            }
            Ok(())
        }
        // It is to be killed with the stream open: full, and waiting for room.
        _ => match writer.write_all(&[3; 8192], soon()) {
            Err(StreamError::Kernel(Error::TimedOut)) => Ok(()),
            result => fail!("it was not killed: {result:?}"),
        },
    }
}

fn write_bytes(writer: &mut StreamWriter, piece: usize) -> Verdict {
    let mut part = vec![0; piece];
    let mut place = 0;
    while place < BYTES {
        let bytes = piece.min((BYTES - place) as usize);
        for (byte, at) in part[..bytes].iter_mut().zip(place..) {
            *byte = byte_at(at);
        }
        must!(writer.write_all(&part[..bytes], soon()));
        place += bytes as u64;
    }
    Ok(())
}

fn read(how: &str) -> Verdict {
    let end = must!(ReaderEnd::from_handles(must!(my_handles())));
    let mut reader = must!(end.open());
    if how == "bytes" {
        return read_bytes(&mut reader, 1301);
    }
    // It reads a byte, and is to be killed while it waits for something else.
    same!(must!(reader.read(&mut [0], soon())), 1);
    must!(rt::time::sleep(super::probe::PATIENCE));
    fail!("it was not killed");
}

fn read_bytes(reader: &mut StreamReader, piece: usize) -> Verdict {
    let mut part = vec![0; piece];
    let mut place = 0;
    loop {
        let bytes = must!(reader.read(&mut part, soon()));
        if bytes == 0 {
            same!(place, BYTES);
            return Ok(());
        }
        for (byte, at) in part[..bytes].iter().zip(place..) {
            same!((at, *byte), (at, byte_at(at)));
        }
        place += bytes as u64;
    }
}

/// Writes what it likes into the words of the memory, and signals.
fn lie(how: &str) -> Verdict {
    let [memory, data, room] = match <[_; 3]>::try_from(must!(my_handles())) {
        Ok(handles) => handles,
        Err(handles) => fail!("{} handles came", handles.len()),
    };
    let signalled = Notification::from_handle(if how == "writes" { data } else { room });
    let mapping = must!(Memory::from_handle(memory).map(Protection::READ_WRITE));
    let word = |index: usize| {
        // SAFETY: mapped, aligned, and used as an atomic by all.
        unsafe { &*mapping.as_ptr().add(index * 128).cast::<AtomicU64>() }
    };
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    // Until it is killed, or nobody is left to lie to.
    let end = soon();
    while rt::time::now_ns() < end.0 {
        for index in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let value = match seed % 4 {
                0 => seed,
                1 => seed % 5000,
                2 => (1 << 63) | (seed % 5000),
                _ => word(index).load(Ordering::Relaxed).wrapping_add(seed % 64),
            };
            word(index).store(value, Ordering::SeqCst);
        }
        must!(signalled.signal(seed));
    }
    Ok(())
}

/// Starts a partner and gives it an end.
fn partner(
    world: &World,
    role: &str,
    handles: [rt::OwnedHandle; 3],
    cpu: u32,
) -> Result<Child, crate::verdict::Why> {
    let endpoint = must!(Endpoint::create());
    let child = must!(world.prepare(
        &alloc::format!("role {role}"),
        &[("endpoint", endpoint.handle())]
    ));
    must!(child.thread.set_affinity(&CpuSet::only(cpu % world.cpus)));
    must!(child.thread.start());
    let message = handles
        .into_iter()
        .fold(rt::Message::new(0), rt::Message::with_moved);
    must!(endpoint.send(message, soon()));
    Ok(child)
}

fn ended_well(child: &Child) -> Verdict {
    let info = must!(child.end(super::probe::PATIENCE));
    check!(
        (info.state, info.code) == (ProcessState::Exited as u32, 0),
        "its partner {}: {}",
        ending(&info),
        child.reason()
    );
    Ok(())
}

fn a_stream_carries_everything_to_another_process(world: &'static World) -> Verdict {
    must!(must!(rt::Thread::current()).set_affinity(&CpuSet::only(0)));
    for cpu in 0..2 {
        let (writer, reader) = must!(stream::create(4096));
        let child = partner(world, "stream-writer bytes", writer.into_handles(), cpu)?;
        read_bytes(&mut must!(reader.open()), 999)?;
        ended_well(&child)?;
        let (writer, reader) = must!(stream::create(16384));
        let child = partner(world, "stream-reader bytes", reader.into_handles(), cpu)?;
        write_bytes(&mut must!(writer.open()), 5000)?;
        ended_well(&child)?;
    }
    Ok(())
}

fn records_cross_processes_as_they_were_sent(world: &'static World) -> Verdict {
    let (writer, reader) = must!(stream::create(4096));
    let child = partner(world, "stream-writer records", writer.into_handles(), 1)?;
    let mut reader = must!(reader.open());
    let mut into = [0; 2044];
    for number in 0..RECORDS {
        let length = must!(reader.read_record(&mut into, soon()));
        check!(into[..length] == record(number), "record {number} differs");
    }
    same!(
        reader.read_record(&mut into, soon()),
        Err(StreamError::Ended)
    );
    ended_well(&child)
}

fn a_writer_that_is_killed_leaves_what_it_wrote_and_then_an_error(
    world: &'static World,
) -> Verdict {
    let (writer, reader) = must!(stream::create(4096));
    let child = partner(world, "stream-writer killed", writer.into_handles(), 1)?;
    until("the writer waits for room", || {
        Ok(child.thread.info()?.state == abi::info::ThreadState::Waiting as u32)
    })?;
    must!(child.process.kill(3));
    must!(child.end(super::probe::PATIENCE));
    let mut reader = must!(reader.open());
    let mut into = [0; 5000];
    same!(must!(reader.read(&mut into, Deadline::NEVER)), 4096);
    check!(into[..4096] == [3; 4096]);
    for _ in 0..2 {
        same!(
            reader.read(&mut into, Deadline::NEVER),
            Err(StreamError::Kernel(Error::PeerClosed))
        );
    }
    Ok(())
}

fn a_reader_that_is_killed_leaves_no_writer_waiting(world: &'static World) -> Verdict {
    let (writer, reader) = must!(stream::create(4096));
    let child = partner(world, "stream-reader killed", reader.into_handles(), 1)?;
    let mut writer = must!(writer.open());
    must!(writer.write_all(&[1; 10], soon()));
    until("the reader has read and sleeps", || {
        Ok(child.thread.info()?.state == abi::info::ThreadState::Sleeping as u32)
    })?;
    // It is killed while this thread waits for room.
    let own = must!(rt::Thread::current());
    let killer = must!(rt::thread::spawn(move || {
        until("the writer waits", || {
            Ok(own.info()?.state == abi::info::ThreadState::Waiting as u32)
        })?;
        child.process.kill(3)?;
        Ok::<_, crate::verdict::Why>(child)
    }));
    same!(
        writer.write_all(&[2; 10_000], Deadline::NEVER),
        Err(StreamError::Kernel(Error::PeerClosed))
    );
    check!(writer.written() <= 4097 + 10);
    must!(killer.join(soon()))?;
    Ok(())
}

fn a_peer_that_lies_garbles_no_more_than_its_stream(world: &'static World) -> Verdict {
    for _ in 0..3 {
        let (writer, reader) = must!(stream::create(4096));
        let child = partner(world, "stream-liar writes", writer.into_handles(), 1)?;
        let mut reader = must!(reader.open());
        let mut into = [0; 700];
        let mut fault = None;
        for round in 0..2000 {
            let result = if round % 2 == 0 {
                reader.read(&mut into, soon())
            } else {
                reader.read_record(&mut into, soon())
            };
            match result {
                Ok(bytes) => check!(bytes <= 700, "{bytes} bytes were read"),
                Err(StreamError::TooLong) => {}
                Err(StreamError::Garbled | StreamError::Ended) => {
                    fault = Some(round);
                    break;
                }
                Err(error) => fail!("{error}"),
            }
        }
        check!(fault.is_some(), "its lies were never noticed");
        drop((reader, child));
        let (writer, reader) = must!(stream::create(4096));
        let child = partner(world, "stream-liar reads", reader.into_handles(), 1)?;
        let mut writer = must!(writer.open());
        let mut result = Ok(());
        for _ in 0..20_000 {
            result = writer.write_all(&into, soon());
            if result.is_err() {
                break;
            }
        }
        check!(
            matches!(result, Err(StreamError::Garbled | StreamError::Ended)),
            "its lies were never noticed: {result:?}"
        );
        drop(child);
    }
    Ok(())
}

fn an_end_allows_no_more_than_it_needs(_: &'static World) -> Verdict {
    let (writer, reader) = must!(stream::create(4096));
    let any = Rights::TRANSFER | Rights::QUERY;
    for (end, data, room) in [
        (writer.into_handles(), Rights::SIGNAL, Rights::WAIT),
        (reader.into_handles(), Rights::WAIT, Rights::SIGNAL),
    ] {
        for (handle, rights) in
            end.iter()
                .zip([Rights::READ | Rights::WRITE | any, data | any, room | any])
        {
            same!(must!(handle.query()).rights, rights.0);
        }
    }
    // An end by which its holder could keep himself from hearing of his peer's end is none.
    let wide = |memory: &Memory| {
        Ok::<_, Error>(vec![
            memory.duplicate(Rights::ALL)?.into_handle(),
            Notification::create()?.into_handle(),
            Notification::create()?.into_handle(),
        ])
    };
    let memory = must!(Memory::create(8192));
    same!(
        ReaderEnd::from_handles(must!(wide(&memory))).err(),
        Some(StreamError::NotAnEnd)
    );
    Ok(())
}

fn waiters_hear_that_nobody_can_signal_any_more(world: &'static World) -> Verdict {
    let notification = must!(Notification::create());
    let waited = must!(notification.duplicate(Rights::WAIT));
    let signaller = must!(notification.duplicate(Rights::SIGNAL | Rights::TRANSFER));
    // Another process has the only handle that can, which goes with it.
    let other = must!(world.prepare("role none", &[("signaller", signaller.handle())]));
    drop((signaller, notification));
    same!(waited.wait(Deadline::NOW), Err(Error::TimedOut));
    let waiting = must!(rt::thread::spawn(move || {
        let result = waited.wait(soon());
        (waited, result)
    }));
    must!(other.process.kill(1));
    let (waited, result) = must!(waiting.join(soon()));
    same!(result, Err(Error::PeerClosed));
    same!(waited.wait(Deadline::NEVER), Err(Error::PeerClosed));
    same!(waited.poll(), Err(Error::PeerClosed));
    // The kernel can: of a process's end, here.
    let (notification, other) = (
        must!(Notification::create()),
        must!(world.prepare("role none", &[])),
    );
    must!(other.process.watch(&notification, 8));
    let waited = must!(notification.duplicate(Rights::WAIT));
    drop(notification);
    same!(waited.wait(Deadline::NOW), Err(Error::TimedOut));
    must!(other.process.kill(1));
    same!(waited.wait(soon()), Ok(8));
    same!(waited.wait(soon()), Err(Error::PeerClosed));
    Ok(())
}
