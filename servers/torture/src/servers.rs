//! The servers that tortured threads call: one on each CPU, which answers with everything inverted, and uses the FPU itself.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use rt::{Badge, Deadline, Endpoint, Error, Event, Message, Priority, Reply, Rights, thread};

/// The servers of all CPUs.
#[derive(Debug)]
pub struct Servers {
    /// What their clients are given.
    pub clients: Vec<Endpoint>,
    wrong: Arc<AtomicBool>,
}

impl Servers {
    /// Starts one on each CPU at this priority.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn start(cpus: u32, priority: Priority) -> rt::Result<Servers> {
        let wrong = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for cpu in 0..cpus {
            let endpoint = Endpoint::create()?;
            clients.push(endpoint.mint(Badge(1), Rights::SEND.with(Rights::TRANSFER))?);
            let wrong = Arc::clone(&wrong);
            thread::Builder::new()
                .cpu(cpu)
                .priority(priority)
                .spawn(move || serve(&endpoint, &wrong))?;
        }
        Ok(Servers { clients, wrong })
    }

    /// Whether none of them has found its own registers wrong.
    ///
    /// # Errors
    /// That one has, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.wrong.load(Ordering::Relaxed) {
            return Err(String::from("a server's own FPU registers were lost"));
        }
        Ok(())
    }
}

fn serve(endpoint: &Endpoint, wrong: &AtomicBool) {
    let mut pending: Option<(Reply, Message)> = None;
    let (mut served, mut counted) = (0_u32, 0.0_f64);
    loop {
        let event = match pending.take() {
            Some((reply, message)) => endpoint.reply_recv(reply, message, 0, Deadline::NEVER),
            None => endpoint.recv(0, Deadline::NEVER),
        };
        match event {
            Ok(Event::Message(mut received)) => {
                let answer =
                    Message::new(!received.label).with_words(received.words.map(|word| !word));
                pending = received.reply.take().map(|reply| (reply, answer));
                served = served.wrapping_add(1);
                counted += 1.0;
                if counted.to_bits() != f64::from(served).to_bits() {
                    wrong.store(true, Ordering::Relaxed);
                }
            }
            // The caller was killed meanwhile.
            Ok(Event::Notification(_)) | Err(Error::CallerGone | Error::BadHandle) => {}
            Err(_) => return,
        }
    }
}
