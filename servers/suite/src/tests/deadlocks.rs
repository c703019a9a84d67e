//! Calls that would wait for themselves: an error for the one that closes the circle, and nobody hangs.

use abi::Error;
use alloc::sync::Arc;
use alloc::vec::Vec;
use rt::thread::{self, JoinHandle};
use rt::{Deadline, Endpoint, Event, Message, Reply};

use super::probe::soon;
use super::tests;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same};

tests! {
    a_circle_of_calls_is_an_error_for_who_closes_it: 60,
    two_that_close_a_circle_at_once_do_not_hang: 60,
}

/// Labels of requests: call the next server, call it with a deadline, just answer, end.
const CALL: u32 = 1;
const CALL_SOON: u32 = 2;
const ANSWER: u32 = 3;
const STOP: u32 = 99;

/// A server that calls `next` when it is asked to, and answers with the error's code and what it was answered.
fn serve(
    cpu: u32,
    own: &Arc<Endpoint>,
    next: &Arc<Endpoint>,
) -> rt::Result<JoinHandle<rt::Result<()>>> {
    let (own, next) = (Arc::clone(own), Arc::clone(next));
    thread::Builder::new().cpu(cpu).spawn(move || {
        let mut pending: Option<(Reply, Message)> = None;
        loop {
            let Event::Message(mut received) =
                own.serve_next(pending.take(), 0, Deadline::NEVER)?
            else {
                return Err(Error::NotSupported);
            };
            let deadline = match received.label {
                STOP => return Ok(()),
                CALL_SOON => soon(),
                _ => Deadline::NEVER,
            };
            let mut answer = Message::new(ANSWER);
            if received.label != ANSWER {
                match next.call(Message::new(received.label), 0, deadline) {
                    Ok(theirs) => answer.words[0] = theirs.words[0],
                    Err(error) => answer.words[0] = error as u64,
                }
            }
            pending = received.reply.take().map(|reply| (reply, answer));
        }
    })
}

struct Ring {
    endpoints: Vec<Arc<Endpoint>>,
    servers: Vec<JoinHandle<rt::Result<()>>>,
}

impl Ring {
    fn new(world: &World, length: u32) -> rt::Result<Ring> {
        let endpoints = (0..length).map(|_| Ok(Arc::new(Endpoint::create()?)));
        let endpoints = endpoints.collect::<rt::Result<Vec<_>>>()?;
        let nexts = endpoints.iter().cycle().skip(1);
        let servers = (0..).zip(endpoints.iter().zip(nexts));
        let servers = servers
            .map(|(number, (own, next))| serve(number % world.cpus, own, next))
            .collect::<rt::Result<Vec<_>>>()?;
        let ring = Ring { endpoints, servers };
        for endpoint in &ring.endpoints {
            // Each has received at its endpoint by then, and so serves it.
            endpoint.call(Message::new(ANSWER), 0, soon())?;
        }
        Ok(ring)
    }

    fn stop(self) -> Verdict {
        for (endpoint, server) in self.endpoints.iter().zip(self.servers) {
            must!(endpoint.send(Message::new(STOP), soon()));
            must!(must!(server.join(soon())));
        }
        Ok(())
    }
}

fn a_circle_of_calls_is_an_error_for_who_closes_it(world: &'static World) -> Verdict {
    for length in 1..=3 {
        let ring = must!(Ring::new(world, length));
        for label in [CALL, CALL_SOON] {
            for endpoint in &ring.endpoints {
                // The last one's error comes back through all of them.
                let answer = must!(endpoint.call(Message::new(label), 0, soon()));
                same!(answer.words[0], Error::Deadlock as u64);
            }
        }
        ring.stop()?;
    }
    Ok(())
}

fn two_that_close_a_circle_at_once_do_not_hang(world: &'static World) -> Verdict {
    let ring = must!(Ring::new(world, 2));
    let mut refused = 0;
    for _ in 0..20 {
        let clients: rt::Result<Vec<_>> = ring
            .endpoints
            .iter()
            .map(|endpoint| {
                let endpoint = Arc::clone(endpoint);
                thread::spawn(move || endpoint.call(Message::new(CALL), 0, soon()))
            })
            .collect();
        for client in must!(clients) {
            let answer = must!(must!(client.join(soon())));
            check!(
                answer.words[0] == 0 || answer.words[0] == Error::Deadlock as u64,
                "{} and no deadlock",
                answer.words[0]
            );
            refused += u32::from(answer.words[0] != 0);
        }
    }
    check!(refused >= 20, "only {refused} of 20 circles were refused");
    ring.stop()
}
