//! The echo server's logic: gives back what it gets. One runs on each CPU, so that `ping` can try them all.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;

use rt::interfaces::echo::{HANDLES, Server};
use rt::{Caller, Deadline, Endpoint, Error, Event, Outcome};

/// The server.
#[derive(Clone, Debug, Default)]
pub struct Echo {
    /// What [`Server::argument`] gives back.
    pub argument: String,
}

impl Server for Echo {
    fn word(&mut self, _: &mut Caller, word: u64) -> Outcome<u64> {
        Outcome::Done(word)
    }

    fn bytes(&mut self, _: &mut Caller, bytes: Vec<u8>) -> Outcome<Vec<u8>> {
        Outcome::Done(bytes)
    }

    fn argument(&mut self, _: &mut Caller) -> Outcome<String> {
        Outcome::Done(self.argument.clone())
    }
}

/// Serves until the endpoint fails; returns why.
pub fn serve(endpoint: &Endpoint, mut server: Echo) -> Error {
    let mut answer = None;
    loop {
        match endpoint.serve_next(answer.take(), HANDLES, Deadline::NEVER) {
            Ok(Event::Message(message)) => answer = server.dispatch(message),
            Ok(Event::Notification(_)) | Err(Error::TimedOut | Error::Cancelled) => {}
            Err(error) => return error,
        }
    }
}
