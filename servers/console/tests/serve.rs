//! The console over the host's stand-in for the kernel, with a serial line that is a pair of queues.
#![cfg(not(target_env = "musl"))]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use console::serial::SerialLine;
use console::server::Console;
use rt::interfaces::console::{Client, HANDLES, Server};
use rt::{Deadline, Endpoint, Error, Event, Log, Notification, Rights, sys, thread, time};

/// The far end of the line.
#[derive(Clone, Default)]
struct Wire {
    to_console: Arc<Mutex<VecDeque<u8>>>,
    sent: Arc<Mutex<Vec<u8>>>,
    stuck: Arc<Mutex<bool>>,
}

impl SerialLine for Wire {
    fn receive(&mut self, room: usize, sink: &mut dyn FnMut(u8)) {
        let mut queue = self.to_console.lock().unwrap();
        let count = room.min(queue.len());
        queue.drain(..count).for_each(sink);
    }
    fn send(&mut self, bytes: &[u8]) -> usize {
        if *self.stuck.lock().unwrap() {
            return 0;
        }
        // As a FIFO of 16 does.
        let count = bytes.len().min(16);
        self.sent.lock().unwrap().extend(&bytes[..count]);
        count
    }
    fn want_room(&mut self, _: bool) {}
    fn is_pending(&mut self) -> bool {
        false
    }
    fn acknowledge(&mut self) {}
}

impl Wire {
    fn text(&self) -> String {
        String::from_utf8(self.sent.lock().unwrap().clone()).unwrap()
    }
    /// Waits until the text holds this.
    fn wait_for(&self, part: &str) {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !self.text().contains(part) {
            assert!(
                std::time::Instant::now() < end,
                "no {part:?} in {:?}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Machine {
    wire: Wire,
    events: Notification,
    log: Log,
    client: Client,
    endpoint: Endpoint,
}

const INTERRUPT: u64 = 1;
const LOG_GREW: u64 = 2;

/// A console that runs, as its program does.
fn machine() -> Machine {
    let wire = Wire::default();
    let events = Notification::create().unwrap();
    let endpoint = Endpoint::create().unwrap();
    let log = Log::from_handle(sys::host::new_log());
    log.write("old\n").unwrap();
    let theirs = (
        wire.clone(),
        events.duplicate(Rights::WAIT).unwrap(),
        endpoint.duplicate(Rights::RECEIVE).unwrap(),
        log.duplicate(Rights::READ).unwrap(),
    );
    thread::spawn(move || {
        let (wire, events, endpoint, log) = theirs;
        events.bind().unwrap();
        let mut console = Console::<_, &mut [u32]>::new(wire, None, false);
        console.show_past_log(log);
        let mut answer = None;
        loop {
            let deadline = console.tick(answer.is_some());
            match endpoint.serve_next(answer.take(), HANDLES, deadline) {
                Ok(Event::Message(message)) => answer = console.dispatch(message),
                Ok(Event::Notification(bits)) => {
                    if bits & INTERRUPT != 0 {
                        console.interrupted();
                    }
                    if bits & LOG_GREW != 0 {
                        console.pump_log();
                    }
                }
                Err(Error::TimedOut) => {}
                Err(_) => return,
            }
        }
    })
    .unwrap();
    let client = Client::new(endpoint.duplicate(Rights::SEND).unwrap());
    Machine {
        wire,
        events,
        log,
        client,
        endpoint,
    }
}

fn soon() -> Deadline {
    time::after(Duration::from_secs(10))
}

impl Machine {
    fn type_in(&self, text: &[u8]) {
        self.wire.to_console.lock().unwrap().extend(text);
        self.events.signal(INTERRUPT).unwrap();
    }
}

#[test]
fn writes_of_many_clients_stay_whole() {
    let machine = machine();
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let client = Client::new(machine.endpoint.duplicate(Rights::SEND).unwrap());
            thread::spawn(move || {
                for _ in 0..50 {
                    client
                        .write(
                            format!("<{}>\n", number.to_string().repeat(40)).as_bytes(),
                            soon(),
                        )
                        .unwrap();
                }
            })
            .unwrap()
        })
        .collect();
    for writer in writers {
        writer.join(soon()).unwrap();
    }
    let text = machine.wire.text();
    assert_eq!(text.lines().count(), 200);
    for line in text.lines() {
        let inner = line
            .strip_prefix('<')
            .and_then(|line| line.strip_suffix('>'))
            .unwrap();
        assert_eq!(inner.len(), 40);
        assert!(
            inner.bytes().all(|byte| byte == inner.as_bytes()[0]),
            "{line}"
        );
    }
}

#[test]
fn input_is_kept_for_and_goes_to_one_reader() {
    let machine = machine();
    machine.type_in(b"early");
    assert_eq!(machine.client.read(3, soon()).unwrap(), b"ear");
    assert_eq!(machine.client.read(100, soon()).unwrap(), b"ly");
    // A reader whose deadline passed takes nothing with it.
    assert!(
        machine
            .client
            .read(100, time::after(Duration::from_millis(20)))
            .is_err()
    );
    machine.type_in(b"late");
    assert_eq!(machine.client.read(100, soon()).unwrap(), b"late");
}

#[test]
fn flood_of_input_waits_on_the_line() {
    let machine = machine();
    let flood: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
    machine.type_in(&flood);
    let mut got = Vec::new();
    while got.len() < flood.len() {
        got.extend(machine.client.read(1000, soon()).unwrap());
    }
    assert_eq!(got, flood);
}

#[test]
fn log_comes_between_lines_and_the_edited_line_is_asked_for_again() {
    let machine = machine();
    // Until the log grew while a reader waited; one that comes after it is told at once.
    for _ in 0..1000 {
        machine
            .client
            .write(b"prompt> ".as_slice(), soon())
            .unwrap();
        let client = Client::new(machine.endpoint.duplicate(Rights::SEND).unwrap());
        let reader = thread::spawn(move || client.read(10, soon())).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        machine.log.write("new\n").unwrap();
        machine.events.signal(LOG_GREW).unwrap();
        assert_eq!(reader.join(soon()).unwrap().unwrap(), b"");
        if machine.wire.text().contains("\x1b[Knew\r\n") {
            break;
        }
    }
    machine.wire.wait_for("\x1b[Knew\r\n");
    let text = machine.wire.text();
    assert!(
        !text.contains("old"),
        "the kernel wrote that already: {text:?}"
    );
    // No log line shares a line with other text.
    assert!(
        !text.contains("> new") && !text.contains("newnew"),
        "{text:?}"
    );
}

#[test]
fn writers_wait_while_the_line_is_stuck_and_go_on_after() {
    let machine = machine();
    *machine.wire.stuck.lock().unwrap() = true;
    let client = Client::new(machine.endpoint.duplicate(Rights::SEND).unwrap());
    let writer = thread::spawn(move || {
        for _ in 0..10 {
            client.write(vec![b'x'; 4000], soon()).unwrap();
        }
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!writer.is_finished());
    *machine.wire.stuck.lock().unwrap() = false;
    machine.events.signal(INTERRUPT).unwrap();
    writer.join(soon()).unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while machine.wire.text().len() < 40_000 && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(machine.wire.text().len(), 40_000);
}

#[test]
fn reader_that_comes_after_the_log_is_told_that_its_prompt_is_gone() {
    let machine = machine();
    machine
        .client
        .write(b"prompt> ".as_slice(), soon())
        .unwrap();
    machine.log.write("news\n").unwrap();
    machine.events.signal(LOG_GREW).unwrap();
    machine.wire.wait_for("prompt> \r\nnews\r\n");
    assert_eq!(machine.client.read(10, soon()).unwrap(), b"");
    machine
        .client
        .write(b"prompt> ".as_slice(), soon())
        .unwrap();
    machine.type_in(b"x");
    assert_eq!(machine.client.read(10, soon()).unwrap(), b"x");
}
