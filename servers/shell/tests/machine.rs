//! The shell's real world over the host's stand-in for the kernel, with the real servers behind it.
#![cfg(not(target_env = "musl"))]

use std::time::Duration;

use rt::interfaces::console::Server as _;
use rt::interfaces::supervisor::Server as _;
use rt::wire::List;
use rt::{
    AsHandle, Caller, Deadline, Endpoint, Event, Failure, FailureKind, Memory, Outcome, Rights,
    start, sys, thread,
};
use shell::machine::Machine;
use shell::session::Session;
use shell::world::World;

/// A console that is a list of inputs and a text.
#[derive(Default)]
struct Console {
    inputs: Vec<Vec<u8>>,
    text: String,
}

impl rt::interfaces::console::Server for Console {
    fn write(&mut self, _: &mut Caller, text: Vec<u8>) -> Outcome<()> {
        self.text.push_str(&String::from_utf8(text).unwrap());
        Outcome::Done(())
    }
    fn read(&mut self, caller: &mut Caller, _: u32) -> Outcome<Vec<u8>> {
        if let Some(input) = self.inputs.pop() {
            return Outcome::Done(input);
        }
        // At the end of the list the reader gets no answer, and with it an error.
        drop(caller.later::<Vec<u8>>());
        Outcome::Later
    }
    fn clear(&mut self, _: &mut Caller) -> Outcome<()> {
        Outcome::Done(())
    }
    fn size(&mut self, _: &mut Caller) -> Outcome<(u32, u32)> {
        Outcome::Done((100, 30))
    }
}

struct Init;

impl rt::interfaces::supervisor::Server for Init {
    fn run(
        &mut self,
        _: &mut Caller,
        name: String,
        argument: String,
    ) -> Outcome<(u32, u64, String)> {
        if name == "none" {
            return Outcome::Failed(Failure::new(FailureKind::NotFound, "bin/none"));
        }
        Outcome::Done((1, 7, format!("{name} ({argument}) exited with code 7")))
    }
    fn restart(&mut self, _: &mut Caller, name: String) -> Outcome<()> {
        Outcome::Failed(Failure::new(FailureKind::NotAllowed, name))
    }
    fn services(&mut self, _: &mut Caller, first: u32) -> Outcome<(List<String>, u32)> {
        // One at a time, so that the client must ask again.
        Outcome::Done((
            List(
                (first < 3)
                    .then(|| format!("service {first}"))
                    .into_iter()
                    .collect(),
            ),
            3,
        ))
    }
}

fn serve(
    endpoint: Endpoint,
    mut dispatch: impl FnMut(rt::Received) -> Option<(rt::Reply, rt::Message)> + Send + 'static,
) {
    thread::spawn(move || {
        let mut answer = None;
        while let Ok(event) = endpoint.serve_next(answer.take(), 4, Deadline::NEVER) {
            if let Event::Message(message) = event {
                answer = dispatch(message);
            }
        }
    })
    .unwrap();
}

/// The smallest archive: one file.
fn archive() -> Vec<u8> {
    let contents = b"hello from the archive\n";
    let mut block = vec![0; 512];
    block[..4].copy_from_slice(b"motd");
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..124].copy_from_slice(b"0000000\x000000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", contents.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].fill(b' ');
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend(contents);
    block.resize(2048 + 512, 0);
    block
}

#[test]
fn shell_talks_to_its_servers_and_names_what_it_lacks() {
    let endpoints: [Endpoint; 4] = std::array::from_fn(|_| Endpoint::create().unwrap());
    let [console_end, names_end, init_end, echo_end] = &endpoints;
    let mut names = names::Names::default();
    names.add_fixed("echo.0", echo_end.duplicate(Rights::ALL).unwrap());
    let all = |endpoint: &Endpoint| endpoint.duplicate(Rights::ALL).unwrap();
    let names_served = all(names_end);
    thread::spawn(move || names::serve(&names_served, names)).unwrap();
    let echo_served = all(echo_end);
    thread::spawn(move || echo::serve(&echo_served, echo::Echo::default())).unwrap();
    let mut init = Init;
    serve(all(init_end), move |message| init.dispatch(message));
    let mut console = Console::default();
    let lines = [
        "names",
        "services",
        "run prog x y",
        "run none",
        "ls",
        "cat motd",
        "mem",
        "echo bye",
    ];
    console.inputs = lines
        .iter()
        .rev()
        .map(|line| format!("{line}\n").into_bytes())
        .collect();
    let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let seen = text.clone();
    serve(all(console_end), move |message| {
        let answer = console.dispatch(message);
        seen.lock().unwrap().clone_from(&console.text);
        answer
    });

    let bytes = archive();
    let initrd = Memory::create(bytes.len() as u64).unwrap();
    initrd.write(0, &bytes).unwrap();
    let initrd = initrd.duplicate(Rights::READ | Rights::QUERY).unwrap();
    let mut block = start::Builder::new();
    for (name, endpoint) in [
        ("console", console_end),
        ("names", names_end),
        ("init", init_end),
    ] {
        block
            .add(
                name,
                endpoint
                    .duplicate(Rights::SEND)
                    .unwrap()
                    .into_handle()
                    .into_raw(),
                0,
            )
            .unwrap();
    }
    block
        .add("initrd", initrd.handle(), bytes.len() as u64)
        .unwrap();
    sys::host::begin(block.build("")).unwrap();

    let mut machine = Machine::take().unwrap();
    assert!(machine.ping(0, 10).unwrap() < Duration::from_secs(5));
    assert_eq!(machine.ping(9, 10).unwrap_err(), "echo.9: not found");
    let mut session = Session::start(&mut machine);
    // While a program runs the shell also reads, so a line may be taken early: it is kept. The end of the inputs is an error.
    while session.turn(&mut machine).is_ok() {}
    let text = text.lock().unwrap().clone();
    for part in [
        "switchyard> names\necho.0\n",
        "service 0\nservice 1\nservice 2\n",
        "prog (x y) exited with code 7\n",
        "run: no program 'none' ('ls' lists them, as bin/NAME)\n",
        "SIZE  FILE\n23 B  motd\n",
        "hello from the archive\n",
        "this shell was not given the 'system' handle\n",
        "bye\n",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    core::mem::forget(initrd);
}
