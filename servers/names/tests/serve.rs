//! The names server over the host's stand-in for the kernel.
#![cfg(not(target_env = "musl"))]

use std::time::Duration;

use names::{MOST, MOST_OF_ONE, Names};
use rt::interfaces::names::Client;
use rt::wire::List;
use rt::{Badge, CallError, Deadline, Endpoint, Event, FailureKind, Message, Rights, thread, time};

fn soon() -> Deadline {
    time::after(Duration::from_secs(10))
}

/// A server that knows `console`, and a client of it for each badge.
fn server<const N: usize>(badges: [u64; N]) -> [Client; N] {
    let endpoint = Endpoint::create().unwrap();
    let clients =
        badges.map(|badge| Client::new(endpoint.mint(Badge(badge), Rights::SEND).unwrap()));
    thread::spawn(move || {
        let mut names = Names::default();
        names.add_fixed("console", Endpoint::create().unwrap());
        names::serve(&endpoint, names)
    })
    .unwrap();
    clients
}

fn kind<T: std::fmt::Debug>(result: Result<T, CallError>) -> FailureKind {
    match result {
        Err(CallError::Failed(failure)) => failure.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn registered_endpoint_reaches_its_server() {
    let [registrar, client] = server([1, 2]);
    let served = Endpoint::create().unwrap();
    let given = served
        .mint(
            Badge(9),
            Rights::SEND | Rights::TRANSFER | Rights::DUPLICATE | Rights::QUERY,
        )
        .unwrap();
    registrar.register("disk", given, soon()).unwrap();
    let found = client.look_up("disk", soon()).unwrap();
    let sender = thread::spawn(move || found.send(Message::new(5), soon())).unwrap();
    let Event::Message(message) = served.recv(0, soon()).unwrap() else {
        panic!("no message")
    };
    assert_eq!((message.label, message.badge), (5, Badge(9)));
    sender.join(soon()).unwrap().unwrap();
    assert_eq!(
        client.list(0, soon()),
        Ok((List(vec!["console".into(), "disk".into()]), 2))
    );
    assert_eq!(client.list(5, soon()), Ok((List(vec![]), 2)));
    assert_eq!(
        kind(client.withdraw("disk", soon())),
        FailureKind::NotAllowed
    );
    registrar.withdraw("disk", soon()).unwrap();
    assert_eq!(kind(client.look_up("disk", soon())), FailureKind::NotFound);
}

#[test]
fn names_belong_to_whoever_came_first() {
    let [first, second] = server([1, 2]);
    let served = Endpoint::create().unwrap();
    let endpoint = || served.duplicate(Rights::ALL).unwrap();
    first.register("disk", endpoint(), soon()).unwrap();
    first.register("disk", endpoint(), soon()).unwrap();
    assert_eq!(
        kind(second.register("disk", endpoint(), soon())),
        FailureKind::Exists
    );
    assert_eq!(
        kind(second.register("console", endpoint(), soon())),
        FailureKind::Exists
    );
    assert_eq!(
        kind(second.withdraw("console", soon())),
        FailureKind::NotAllowed
    );
}

#[test]
fn bad_names_and_handles_are_refused() {
    let [client] = server([1]);
    for name in ["", "with space", "\u{7f}", "ü", &"x".repeat(65)] {
        assert_eq!(
            kind(client.register(name, Endpoint::create().unwrap(), soon())),
            FailureKind::BadArgument
        );
    }
    let cannot_pass = Endpoint::create()
        .unwrap()
        .duplicate(Rights::SEND | Rights::TRANSFER)
        .unwrap();
    assert_ne!(client.register("a", cannot_pass, soon()), Ok(()));
    assert_eq!(
        kind(client.look_up("\u{1b}[2J", soon())),
        FailureKind::NotFound
    );
    assert_eq!(client.list(0, soon()).unwrap().1, 1);
}

#[test]
fn one_client_can_not_fill_the_table() {
    let [greedy, other] = server([1, 2]);
    for number in 0..MOST_OF_ONE {
        greedy
            .register(format!("n{number}"), Endpoint::create().unwrap(), soon())
            .unwrap();
    }
    assert_eq!(
        kind(greedy.register("more", Endpoint::create().unwrap(), soon())),
        FailureKind::Full
    );
    other
        .register("more", Endpoint::create().unwrap(), soon())
        .unwrap();
}

#[test]
fn name_of_a_server_that_has_ended_is_free() {
    let [first, second] = server([1, 2]);
    let served = Endpoint::create().unwrap();
    first
        .register("disk", served.duplicate(Rights::ALL).unwrap(), soon())
        .unwrap();
    let mine = || Endpoint::create().unwrap();
    assert_eq!(
        kind(second.register("disk", mine(), soon())),
        FailureKind::Exists
    );
    drop(served);
    let mine = mine();
    second
        .register("disk", mine.duplicate(Rights::ALL).unwrap(), soon())
        .unwrap();
    assert_eq!(
        kind(first.withdraw("disk", soon())),
        FailureKind::NotAllowed
    );
}

#[test]
fn client_without_a_badge_registers_nothing() {
    let [client] = server([0]);
    assert_eq!(
        kind(client.register("disk", Endpoint::create().unwrap(), soon())),
        FailureKind::NotAllowed
    );
    assert_eq!(client.list(0, soon()).unwrap().1, 1);
}

#[test]
fn names_of_ended_servers_make_room() {
    const CLIENTS: usize = MOST / MOST_OF_ONE + 1;
    let clients: [Client; CLIENTS] = server(std::array::from_fn(|index| index as u64 + 1));
    let mut alive = Vec::new();
    for number in 0..MOST - 1 {
        let endpoint = Endpoint::create().unwrap();
        alive.push(endpoint.duplicate(Rights::ALL).unwrap());
        clients[number / MOST_OF_ONE]
            .register(format!("n{number}"), endpoint, soon())
            .unwrap();
    }
    let last = &clients[CLIENTS - 1];
    let more = || last.register("more", Endpoint::create().unwrap(), soon());
    assert_eq!(kind(more()), FailureKind::Full);
    alive.truncate(10);
    more().unwrap();
    // `console` and those that live, and the new one.
    assert_eq!(last.list(0, soon()).unwrap().1, 12);
}
