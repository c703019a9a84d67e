//! Messages between threads that stand still: each test is a program of few steps on the rig of
//! [`thread::testing`](crate::thread::testing). The last tests leave the steps to chance: [`random`] in one thread, against a
//! plain model of what must happen, and [`race`], [`crossing`] and
//! [`transit`] on several real threads that stand for CPUs.

mod call;
mod cancelling;
mod crossing;
mod cycles;
mod handles;
mod inheriting;
mod notifications;
mod race;
mod random;
mod replies;
mod reports;
mod transit;

use crate::ipc::Endpoint;
use crate::object::Ref;
use crate::thread::testing::{Program, endpoint};

/// A server with an endpoint of its own, a client, and the endpoint.
fn pair() -> (Program, Program, Ref<Endpoint>) {
    let (server, client, endpoint) = (
        Program::alone("server"),
        Program::alone("client"),
        endpoint(),
    );
    server.give_endpoint(&endpoint);
    (server, client, endpoint)
}
