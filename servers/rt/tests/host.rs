//! The SDK over the host's stand-in for the kernel: messages, handles, notifications, memory, threads, locks.
#![cfg(not(target_env = "musl"))]

use std::sync::Arc;
use std::time::Duration;

use rt::interfaces::echo;
use rt::wire::List;
use rt::{
    CallError, Caller, Deadline, Endpoint, Error, Event, Failure, FailureKind, Later, Memory,
    Message, Notification, Outcome, Protection, Rights, sync, thread, time,
};

rt::interface! {
    /// A server with all that an interface can have.
    mod sample {
        /// Adds to a sum for each badge.
        1 => add(amount: u64, label: String) -> (u64, String);
        /// Hands a memory object over and back.
        2 => swap(memory: Memory) -> Memory;
        /// Is refused.
        3 => refuse() -> ();
        /// Is answered at the next call of `release`.
        4 => wait() -> u64;
        /// Answers those who wait.
        5 => release(value: u64) -> u64;
        /// Never answers.
        6 => drop_it() -> ();
        /// Gives a list.
        7 => list(count: u32) -> List<u32>;
    }
}

#[derive(Default)]
struct Sample {
    sum: u64,
    waiting: Vec<Later<u64>>,
}

impl sample::Server for Sample {
    fn add(&mut self, caller: &mut Caller, amount: u64, label: String) -> Outcome<(u64, String)> {
        self.sum += amount;
        Outcome::Done((self.sum, format!("{label}/{}", caller.badge.0)))
    }
    fn swap(&mut self, _: &mut Caller, memory: Memory) -> Outcome<Memory> {
        let mut text = [0; 5];
        let result = memory
            .read(0, &mut text)
            .and_then(|()| memory.write(0, &text.map(|byte| byte ^ 0x20)));
        result.map(|()| memory).map_err(Failure::from).into()
    }
    fn refuse(&mut self, _: &mut Caller) -> Outcome<()> {
        Outcome::Failed(Failure::new(FailureKind::NotAllowed, "never"))
    }
    fn wait(&mut self, caller: &mut Caller) -> Outcome<u64> {
        self.waiting.extend(caller.later());
        Outcome::Later
    }
    fn release(&mut self, _: &mut Caller, value: u64) -> Outcome<u64> {
        let answered = self
            .waiting
            .drain(..)
            .filter_map(|later| later.answer(Ok(value)).ok());
        Outcome::Done(answered.count() as u64)
    }
    fn drop_it(&mut self, _: &mut Caller) -> Outcome<()> {
        Outcome::Later
    }
    fn list(&mut self, _: &mut Caller, count: u32) -> Outcome<List<u32>> {
        Outcome::Done(List((0..count).collect()))
    }
}

/// Starts a server on a thread; it ends when the client sends a message with label 0.
fn sample_server() -> (Endpoint, thread::JoinHandle<()>) {
    use sample::Server;
    let endpoint = Endpoint::create().unwrap();
    let client = endpoint
        .duplicate(Rights::SEND | Rights::MINT | Rights::DUPLICATE)
        .unwrap();
    let thread = thread::spawn(move || {
        let mut server = Sample::default();
        let mut answer = None;
        while let Ok(Event::Message(message)) =
            endpoint.serve_next(answer.take(), sample::HANDLES, Deadline::NEVER)
        {
            if message.label == 0 {
                return;
            }
            answer = server.dispatch(message);
        }
    })
    .unwrap();
    (client, thread)
}

fn soon() -> Deadline {
    time::after(Duration::from_secs(10))
}

#[test]
fn interface_carries_values_badges_and_handles() {
    let (endpoint, thread) = sample_server();
    let badged = sample::Client::new(endpoint.mint(rt::Badge(7), Rights::SEND).unwrap());
    assert_eq!(
        badged.add(40, "sum", soon()).unwrap(),
        (40, "sum/7".to_owned())
    );
    assert_eq!(
        badged.add(2, String::from("ü"), soon()).unwrap(),
        (42, "ü/7".to_owned())
    );
    let memory = Memory::create(1).unwrap();
    assert_eq!(memory.size().unwrap(), 4096);
    memory.write(0, b"hello").unwrap();
    let memory = badged.swap(memory, soon()).unwrap();
    let mapping = memory.map(Protection::READ).unwrap();
    // SAFETY: nobody writes to it any more.
    assert_eq!(&unsafe { mapping.as_slice() }[..5], b"HELLO");
    assert_eq!(badged.list(300, soon()).unwrap(), List((0..300).collect()));
    endpoint.send(Message::new(0), soon()).unwrap();
    thread.join(soon()).unwrap();
}

#[test]
fn refusals_and_lost_answers_are_told_apart() {
    let (endpoint, thread) = sample_server();
    let client = sample::Client::new(endpoint.duplicate(Rights::SEND).unwrap());
    let refused = Failure::new(FailureKind::NotAllowed, "never");
    assert_eq!(client.refuse(soon()), Err(CallError::Failed(refused)));
    assert_eq!(
        client.drop_it(soon()),
        Err(CallError::Kernel(Error::NoReply))
    );
    let unknown = endpoint.call(Message::new(99), 0, soon()).unwrap();
    assert_eq!(unknown.label, FailureKind::UnknownOperation as u32);
    let malformed = endpoint
        .call(Message::new(1).with_words([1, 50, 0, 0, 0, 0]), 0, soon())
        .unwrap();
    assert_eq!(malformed.label, FailureKind::BadMessage as u32);
    // More list than a message holds is the server's named failure.
    assert!(
        matches!(client.list(100_000, soon()), Err(CallError::Failed(f)) if f.kind == FailureKind::Internal)
    );
    endpoint.send(Message::new(0), soon()).unwrap();
    thread.join(soon()).unwrap();
    assert_eq!(
        client.refuse(soon()),
        Err(CallError::Kernel(Error::PeerClosed))
    );
}

#[test]
fn later_answers_reach_those_who_still_wait() {
    let (endpoint, thread) = sample_server();
    let client = Arc::new(sample::Client::new(
        endpoint.duplicate(Rights::SEND).unwrap(),
    ));
    let impatient = client.wait(time::after(Duration::from_millis(20)));
    assert_eq!(impatient, Err(CallError::Kernel(Error::TimedOut)));
    let patient = Arc::clone(&client);
    let waiter = thread::spawn(move || patient.wait(soon())).unwrap();
    let mut answered = 0;
    while answered == 0 {
        answered = client.release(5, soon()).unwrap();
    }
    assert_eq!(answered, 1);
    assert_eq!(waiter.join(soon()).unwrap(), Ok(5));
    endpoint.send(Message::new(0), soon()).unwrap();
    thread.join(soon()).unwrap();
}

#[test]
fn rights_only_shrink() {
    let endpoint = Endpoint::create().unwrap();
    let send_only = endpoint.duplicate(Rights::SEND).unwrap();
    assert_eq!(send_only.duplicate(Rights::SEND), Err(Error::NoRight));
    assert_eq!(send_only.recv(0, Deadline::NOW), Err(Error::NoRight));
    assert_eq!(
        send_only.mint(rt::Badge(1), Rights::SEND),
        Err(Error::NoRight)
    );
    let copied = Message::new(1).with_copy(&send_only);
    assert_eq!(endpoint.send(copied, Deadline::NOW), Err(Error::NoRight));
}

#[test]
fn one_receive_waits_for_messages_and_the_bound_notification() {
    let endpoint = Endpoint::create().unwrap();
    let notification = Notification::create().unwrap();
    notification.bind().unwrap();
    assert_eq!(endpoint.recv(0, Deadline::NOW), Err(Error::TimedOut));
    notification.signal(5).unwrap();
    notification.signal(2).unwrap();
    assert_eq!(endpoint.recv(0, soon()), Ok(Event::Notification(7)));
    assert_eq!(notification.poll(), Ok(0));
    Notification::unbind().unwrap();
    notification.signal(1).unwrap();
    assert_eq!(endpoint.recv(0, Deadline::NOW), Err(Error::TimedOut));
    assert_eq!(notification.wait(soon()), Ok(1));
}

#[test]
fn receiver_without_slots_takes_no_handles_and_sender_keeps_none() {
    let endpoint = Endpoint::create().unwrap();
    let client = endpoint.duplicate(Rights::SEND).unwrap();
    let sender = thread::spawn(move || {
        let memory = Memory::create(4096).unwrap();
        client.send(Message::new(1).with_moved(memory), soon())
    })
    .unwrap();
    assert_eq!(
        endpoint.recv(0, time::after(Duration::from_millis(100))),
        Err(Error::TimedOut)
    );
    assert_eq!(sender.join(soon()).unwrap(), Err(Error::HandlesRefused));
}

#[test]
fn lock_keeps_many_threads_apart() {
    let sum = Arc::new(sync::Mutex::new(0_u64));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let sum = Arc::clone(&sum);
            thread::spawn(move || {
                for _ in 0..500 {
                    let mut sum = sum.lock();
                    let before = *sum;
                    std::hint::black_box(before);
                    *sum = before + 1;
                }
            })
            .unwrap()
        })
        .collect();
    for thread in threads {
        thread.join(soon()).unwrap();
    }
    assert_eq!(*sum.lock(), 4000);
}

#[test]
fn memory_past_its_end_is_out_of_range() {
    let memory = Memory::create(5000).unwrap();
    assert_eq!(memory.size(), Ok(8192));
    assert_eq!(memory.write(8190, b"abc"), Err(Error::OutOfRange));
    assert_eq!(memory.read(u64::MAX, &mut [0; 2]), Err(Error::OutOfRange));
    assert_eq!(Memory::create(0).map(drop), Err(Error::BadArgument));
}

#[test]
fn program_finds_its_log_and_argument_in_the_start_block() {
    let log = rt::Log::from_handle(rt::sys::host::new_log());
    let mut builder = rt::start::Builder::new();
    builder.add("log", rt::AsHandle::handle(&log), 0).unwrap();
    builder.add("width", rt::Handle::NONE, 640).unwrap();
    rt::sys::host::begin(builder.build("quick=1")).unwrap();
    assert_eq!(rt::start::argument(), "quick=1");
    assert_eq!(rt::start::value("width"), Ok(640));
    assert!(matches!(
        rt::start::take::<Endpoint>("width"),
        Err(rt::start::StartError::Missing(_))
    ));
    rt::logging::line(format_args!("hello {}", 1.5));
    let taken: rt::Log = rt::start::take("log").unwrap();
    assert!(matches!(
        rt::start::take::<rt::Log>("log"),
        Err(rt::start::StartError::Taken(_))
    ));
    let mut text = [0; 64];
    let (bytes, next) = taken.read(0, &mut text).unwrap();
    assert_eq!(str::from_utf8(&text[..bytes]), Ok("host: hello 1.5\n"));
    assert_eq!(taken.read(next, &mut text), Ok((0, next)));
    // The log outlives its owners, since a last line may be due.
    drop(taken);
    drop(log);
    rt::logging::line(format_args!("still there"));
    let again = rt::Log::from_handle(rt::OwnedHandle::from_raw(
        rt::start::block().entries().next().unwrap().handle,
    ));
    let (bytes, _) = again.read(next, &mut text).unwrap();
    assert_eq!(&text[..bytes], b"host: still there\n");
    assert_eq!(echo::HANDLES, 0);
}

#[test]
fn the_host_has_no_reports_and_says_so() {
    let endpoint = Endpoint::create().unwrap();
    for kind in abi::report::ReportKind::ALL {
        assert_eq!(
            rt::process::current().report_to(kind, Some(&endpoint)),
            Err(Error::NotSupported)
        );
    }
    assert_eq!(
        rt::process::current().read_memory(0x1000, &mut [0; 8]),
        Err(Error::NotSupported)
    );
}
