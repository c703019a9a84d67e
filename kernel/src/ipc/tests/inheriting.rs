//! Who waits is served by priority, and who is waited for inherits it.

use abi::{Deadline, Error, Handle, Priority, Tag};

use crate::ipc::Endpoint;
use crate::object::Ref;
use crate::thread::testing::*;

const NEVER: Deadline = Deadline::NEVER;

fn at(name: &str, level: u64) -> Program {
    let program = Program::alone(name);
    give(&program, level);
    program
}

/// Another base priority, which its home sees to.
fn give(program: &Program, level: u64) {
    program.thread().set_priority(Priority::new(level).unwrap());
    crate::schedule::reconsider(program.pointer());
    program.serve_asked();
}

/// All homes do what is asked of them, until nothing is.
fn look(programs: &[&Program]) {
    while programs.iter().any(|program| program.serve_asked() != 0) {}
}

fn priorities<const N: usize>(programs: [&Program; N]) -> [u8; N] {
    programs.map(|program| program.thread().priority().level())
}

/// A server at an endpoint of its own, where it waits.
fn server(name: &str, level: u64) -> (Program, Ref<Endpoint>) {
    let (server, endpoint) = (at(name, level), endpoint());
    server.give_endpoint(&endpoint);
    assert_eq!(server.recv_to_hold(&endpoint, NEVER), Ok(Went::Blocked));
    (server, endpoint)
}

/// A call that is received at once.
fn call(client: &Program, server: &Program, endpoint: &Endpoint) -> Handle {
    assert_eq!(client.call(endpoint, 0, NEVER), Ok(Went::Blocked));
    assert_eq!(woken(), [server.pointer()]);
    assert_eq!(server.resume(), Ok(()));
    server.thread().settle_if_due();
    server.reply_handle()
}

/// The same as it is by the direct way, on which nothing is computed.
fn call_directly(client: &Program, server: &Program, endpoint: &Endpoint) -> Handle {
    assert_eq!(client.call(endpoint, 0, NEVER), Ok(Went::Blocked));
    let caller = client.thread();
    caller.priority.settle([]);
    caller.marks().raise(false);
    assert_eq!(woken(), [server.pointer()]);
    assert_eq!(server.resume(), Ok(()));
    server.reply_handle()
}

fn queue(client: &Program, endpoint: &Endpoint) {
    assert_eq!(client.call(endpoint, 0, NEVER), Ok(Went::Blocked));
    assert!(woken().is_empty());
}

#[test]
fn callers_come_by_priority_and_move_when_theirs_changes() {
    let (server, endpoint) = (at("server", 1), endpoint());
    server.give_endpoint(&endpoint);
    let clients: Vec<Program> = [8, 3, 9, 8].map(|level| at("client", level)).into();
    for client in &clients {
        queue(client, &endpoint);
    }
    give(&clients[1], 8);
    give(&clients[2], 7);
    for number in [0, 3, 1, 2] {
        assert_eq!(server.recv(&endpoint, NEVER), Ok(Went::On));
        assert_eq!(server.reply(server.reply_handle()), Ok(()));
        assert_eq!(woken(), [clients[number].pointer()]);
        assert_eq!(clients[number].resume(), Ok(()));
    }
}

#[test]
fn a_server_has_its_callers_priority_until_it_answers() {
    let (server, endpoint) = server("server", 5);
    let client = at("client", 20);
    let reply = call(&client, &server, &endpoint);
    assert_eq!(priorities([&server]), [20]);
    // The caller's changes are the server's.
    for level in [30, 20, 3, 10] {
        give(&client, level);
        look(&[&client, &server]);
        assert_eq!(priorities([&server]), [level.max(5) as u8]);
    }
    assert_eq!(server.reply(reply), Ok(()));
    server.thread().settle_if_due();
    assert_eq!(priorities([&server]), [5]);
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
}

#[test]
fn a_raise_ends_with_the_call_however_that_ends() {
    type End = fn(&Program, &Program, Handle);
    let ends: [(&str, End); 3] = [
        ("its deadline", |client, _, _| {
            assert!(client.cancel(Error::TimedOut));
        }),
        ("the reply is dropped", |_, server, reply| {
            assert_eq!(server.close(reply), Ok(()));
        }),
        ("the reply is given", |_, server, reply| {
            assert_eq!(server.reply(reply), Ok(()));
            server.thread().settle_if_due();
        }),
    ];
    for (name, end) in ends {
        let (server, endpoint) = server("server", 5);
        let client = at("client", 20);
        let reply = call(&client, &server, &endpoint);
        assert_eq!(priorities([&server]), [20], "{name}");
        end(&client, &server, reply);
        look(&[&client, &server]);
        assert_eq!(priorities([&server]), [5], "{name}");
        assert_eq!(woken(), [client.pointer()], "{name}");
        let _ = client.resume();
        assert!(!server.thread().marks().any(), "{name}");
    }
}

#[test]
fn who_is_first_in_the_queue_raises_the_one_that_serves_it() {
    let (server, endpoint) = server("server", 5);
    let clients = [8, 12, 20].map(|level| at("client", level));
    let reply = call(&clients[0], &server, &endpoint);
    assert_eq!(priorities([&server]), [8]);
    for client in &clients[1..] {
        queue(client, &endpoint);
        look(&[&server]);
        assert_eq!(priorities([&server]), priorities([client]));
    }
    // One that leaves the queue, or sinks in it.
    give(&clients[2], 10);
    look(&[&server]);
    assert_eq!(priorities([&server]), [12]);
    assert!(clients[1].cancel(Error::Cancelled));
    assert_eq!(woken(), [clients[1].pointer()]);
    look(&[&server]);
    assert_eq!(priorities([&server]), [10]);
    assert_eq!(server.reply(reply), Ok(()));
    server.thread().settle_if_due();
    assert_eq!(priorities([&server]), [10]);
    assert_eq!(server.recv_to_hold(&endpoint, NEVER), Ok(Went::On));
    server.thread().settle_if_due();
    assert_eq!(priorities([&server]), [10]);
    assert_eq!(server.reply(server.reply_handle()), Ok(()));
    server.thread().settle_if_due();
    assert_eq!(priorities([&server]), [5]);
    woken();
}

#[test]
fn nobody_inherits_from_the_queue_of_an_endpoint_that_several_serve() {
    let (first, endpoint) = server("first", 5);
    let clients = [8, 20, 30].map(|level| at("client", level));
    call(&clients[0], &first, &endpoint);
    queue(&clients[1], &endpoint);
    look(&[&first]);
    assert_eq!(priorities([&first]), [20]);
    // A second one comes, and takes the call; the next waits for either.
    let second = at("second", 6);
    second.give_endpoint(&endpoint);
    assert_eq!(second.recv_to_hold(&endpoint, NEVER), Ok(Went::On));
    queue(&clients[2], &endpoint);
    look(&[&first, &second]);
    second.thread().settle_if_due();
    assert_eq!(priorities([&first, &second]), [8, 20]);
    // One is left, and all wait for that.
    second.leave();
    look(&[&first]);
    assert_eq!(priorities([&first]), [30]);
    woken();
}

#[test]
fn a_raise_goes_through_a_chain_of_calls() {
    let (servers, endpoints): (Vec<_>, Vec<_>) =
        (2..8).map(|level| server("server", level)).unzip();
    let all: Vec<&Program> = servers.iter().collect();
    let starter = at("starter", 0);
    call(&starter, &servers[0], &endpoints[0]);
    for (two, endpoint) in servers.windows(2).zip(&endpoints[1..]) {
        call(&two[0], &two[1], endpoint);
    }
    let client = at("client", 40);
    queue(&client, &endpoints[0]);
    look(&all);
    for server in &servers {
        assert_eq!(priorities([server]), [40]);
    }
    give(&client, 5);
    look(&all);
    for (server, level) in servers.iter().zip([5, 5, 5, 5, 6, 7]) {
        assert_eq!(priorities([server]), [level]);
    }
    give(&client, 50);
    look(&all);
    // It gives up: all are as they were.
    assert!(client.cancel(Error::TimedOut));
    look(&all);
    for (server, level) in servers.iter().zip(2..8) {
        assert_eq!(priorities([server]), [level]);
    }
    woken();
}

#[test]
fn an_endpoint_that_is_gone_raises_nobody() {
    let (server, endpoint) = (at("server", 5), endpoint());
    let right = server.give_endpoint(&endpoint);
    assert_eq!(server.recv_to_hold(&endpoint, NEVER), Ok(Went::Blocked));
    let clients = [8, 20].map(|level| at("client", level));
    call(&clients[0], &server, &endpoint);
    queue(&clients[1], &endpoint);
    look(&[&server]);
    assert_eq!(priorities([&server]), [20]);
    // Nobody can receive any more: those who wait there get an error.
    assert_eq!(server.close(right), Ok(()));
    look(&[&server]);
    assert_eq!(priorities([&server]), [8]);
    assert_eq!(woken(), [clients[1].pointer()]);
    drop(endpoint);
    server.thread().settle();
    assert!(server.thread().serving.endpoint().is_none());
    assert_eq!(priorities([&server]), [8]);
}

#[test]
fn a_reply_that_is_passed_on_carries_its_raise_with_it() {
    for keeps in [false, true] {
        pass_on(keeps);
    }
}

fn pass_on(keeps: bool) {
    let (server, endpoint) = server("server", 5);
    let (worker, work) = self::server("worker", 3);
    let client = at("client", 20);
    let reply = call(&client, &server, &endpoint);
    assert_eq!(priorities([&server, &worker]), [20, 3]);
    // The worker takes handles from now on.
    assert!(worker.cancel(Error::Cancelled));
    assert_eq!(
        (woken(), worker.resume().is_err()),
        (vec![worker.pointer()], true)
    );
    worker.accept(1);
    assert_eq!(worker.recv_to_hold(&work, NEVER), Ok(Went::Blocked));
    if keeps {
        let went = server.recv_to_hold(&endpoint, Deadline::NOW);
        assert_eq!(went, Err(Error::TimedOut));
    }
    server.post(&[reply]);
    server.load(Tag::new(1).with_handles(1, 1), [0; 6]);
    assert_eq!(server.send(&work, 0, NEVER), Ok(Went::On));
    assert_eq!((woken(), worker.resume()), (vec![worker.pointer()], Ok(())));
    look(&[&server, &worker]);
    assert_eq!(priorities([&server, &worker]), [5, 20]);
    assert_eq!(client.thread().holder(), Some(worker.pointer()));
    // It follows the caller, and ends with the call.
    give(&client, 30);
    look(&[&worker]);
    assert_eq!(priorities([&server, &worker]), [5, 30]);
    assert!(client.cancel(Error::TimedOut));
    look(&[&server, &worker]);
    assert_eq!(priorities([&server, &worker]), [5, 3]);
    assert_eq!(worker.reply(worker.came(0)), Err(Error::CallerGone));
    woken();
}

#[test]
fn a_reply_that_is_kept_still_raises_its_keeper() {
    let (server, endpoint) = server("server", 5);
    let clients = [20, 10, 30].map(|level| at("client", level));
    let first = call(&clients[0], &server, &endpoint);
    // It receives the next before it has answered.
    for client in &clients[1..] {
        queue(client, &endpoint);
        assert_eq!(server.recv_to_hold(&endpoint, NEVER), Ok(Went::On));
        look(&[&server]);
        server.thread().settle_if_due();
        assert_eq!(
            priorities([&server]),
            [client.thread().priority().level().max(20)]
        );
    }
    assert_eq!(server.close(server.reply_handle()), Ok(()));
    look(&[&server]);
    server.thread().settle_if_due();
    assert_eq!(priorities([&server]), [20]);
    assert_eq!(server.reply(first), Ok(()));
    look(&[&server]);
    server.thread().settle_if_due();
    // Of several that are kept one counts, the highest when it came.
    assert_eq!(priorities([&server]), [5]);
    woken();
    drop(clients);
}

#[test]
fn a_thread_that_ends_is_to_answer_nobody() {
    let (server, endpoint) = server("server", 5);
    let other = Program::new(server.process());
    let client = at("client", 20);
    let reply = call(&client, &server, &endpoint);
    assert_eq!(
        server.recv_to_hold(&endpoint, Deadline::NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(client.thread().holder(), Some(server.pointer()));
    // Its process lives on, and so does the reply.
    server.leave();
    assert_eq!(client.thread().holder(), None);
    give(&client, 25);
    assert_eq!(other.reply(reply), Ok(()));
    assert_eq!((woken(), client.resume()), (vec![client.pointer()], Ok(())));
}

#[test]
fn a_raise_by_way_of_servers_that_were_called_directly_ends_with_its_cause() {
    type End = fn(&Program, &Program, Handle);
    let ends: [(&str, End); 3] = [
        ("it gives up", |client, _, _| {
            assert!(client.cancel(Error::TimedOut));
        }),
        ("it is lowered", |client, _, _| give(client, 4)),
        ("its reply is dropped", |_, first, reply| {
            let other = Program::new(first.process());
            assert_eq!(other.close(reply), Ok(()));
        }),
    ];
    for (name, end) in ends {
        let (servers, endpoints): (Vec<_>, Vec<_>) = [5, 2, 3]
            .map(|level| server("server", level))
            .into_iter()
            .unzip();
        let client = at("client", 20);
        let reply = call_directly(&client, &servers[0], &endpoints[0]);
        call_directly(&servers[0], &servers[1], &endpoints[1]);
        call_directly(&servers[1], &servers[2], &endpoints[2]);
        // Somebody becomes ready where the last one runs.
        servers[2].thread().settle_if_due();
        let all = [&servers[0], &servers[1], &servers[2]];
        assert_eq!(priorities(all), [5, 2, 20], "{name}");
        end(&client, &servers[0], reply);
        look(&[&client, &servers[0], &servers[1], &servers[2]]);
        assert_eq!(servers[2].thread().priority().level(), 5, "{name}");
        woken();
    }
}

#[test]
fn a_reply_that_is_kept_counts_by_all_who_wait_for_its_caller() {
    let (middle, middle_endpoint) = server("middle", 3);
    let (server, endpoint) = server("server", 5);
    let (first, second) = (at("first", 20), at("second", 10));
    call_directly(&first, &middle, &middle_endpoint);
    call_directly(&middle, &server, &endpoint);
    let keep = || {
        let went = server.recv_to_hold(&endpoint, Deadline::NOW);
        assert_eq!(went, Err(Error::TimedOut));
        look(&[&server]);
        assert_eq!(priorities([&middle, &server]), [3, 20]);
    };
    keep();
    queue(&second, &endpoint);
    assert_eq!(server.recv_to_hold(&endpoint, NEVER), Ok(Went::On));
    keep();
    woken();
}

#[test]
fn a_kept_call_that_is_over_does_not_take_its_callers_next_one_along() {
    let (server, endpoint) = server("server", 5);
    let (helper, help) = self::server("helper", 3);
    let (client, other) = (at("client", 20), at("other", 10));
    let passed = call(&other, &helper, &help);
    // The server keeps a call of the client until that gives up, and receives its next.
    call(&client, &server, &endpoint);
    let went = server.recv_to_hold(&endpoint, Deadline::NOW);
    assert_eq!(went, Err(Error::TimedOut));
    assert!(client.cancel(Error::TimedOut));
    assert_eq!(
        (woken(), client.resume()),
        (vec![client.pointer()], Err(Error::TimedOut))
    );
    queue(&client, &endpoint);
    assert_eq!(server.recv_to_hold(&endpoint, NEVER), Ok(Went::On));
    // It calls the helper, which hands it the reply that it has: that one is kept in place of the former.
    assert_eq!(
        helper.recv_to_hold(&help, Deadline::NOW),
        Err(Error::TimedOut)
    );
    server.accept(1);
    queue(&server, &help);
    assert_eq!(helper.recv_to_hold(&help, NEVER), Ok(Went::On));
    helper.post(&[passed]);
    helper.load(Tag::new(1).with_handles(1, 1), [0; 6]);
    assert_eq!(helper.reply(helper.reply_handle()), Ok(()));
    assert_eq!((woken(), server.resume()), (vec![server.pointer()], Ok(())));
    let holders = [&client, &other].map(|program| program.thread().holder());
    assert_eq!(holders, [Some(server.pointer()); 2]);
    // So it follows the client.
    give(&client, 30);
    look(&[&client, &server]);
    assert_eq!(priorities([&server]), [30]);
}
