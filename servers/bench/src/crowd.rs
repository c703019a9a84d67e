//! A machine full of objects: does an operation take longer on it?
//!
//! The threads wait in `recv`, ten for each endpoint; the handles lie in the tables of processes that do nothing.

use abi::{Call, Deadline};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::naked_asm;
use rt::{AsHandle, Endpoint, Notification, Process, Rights, process, time};

use crate::messages::SETTLING;

const THREADS: usize = 10_000;
const ENDPOINTS: usize = 1_000;
const HANDLES: usize = 100_000;
/// Handles in one process's table, which has room for some more.
const IN_ONE: usize = 16_000;

/// What was made; dropping it takes the handles away.
pub struct Crowd {
    endpoints: Vec<Endpoint>,
    holders: Vec<Process>,
}

impl Crowd {
    /// Makes them all.
    ///
    /// # Errors
    /// Which it could not make, in words.
    pub fn gather() -> Result<Crowd, String> {
        let mut crowd = Crowd {
            endpoints: Vec::with_capacity(ENDPOINTS),
            holders: Vec::new(),
        };
        for number in 0..ENDPOINTS {
            let endpoint = Endpoint::create()
                .map_err(|error| format!("endpoint {number} of {ENDPOINTS}: {error}"))?;
            crowd.endpoints.push(endpoint);
        }
        for number in 0..THREADS {
            receiver(&crowd.endpoints[number % ENDPOINTS])
                .map_err(|error| format!("thread {number} of {THREADS}: {error}"))?;
        }
        crowd
            .hold()
            .map_err(|error| format!("{HANDLES} handles: {error}"))?;
        time::sleep(SETTLING).map_err(|error| format!("{error}"))?;
        Ok(crowd)
    }

    fn hold(&mut self) -> rt::Result<()> {
        let bell = Notification::create()?;
        for number in 0..HANDLES {
            if number % IN_ONE == 0 {
                self.holders.push(Process::create("holder")?);
            }
            if let Some(holder) = self.holders.last() {
                holder.grant(&bell, Rights::SIGNAL)?;
            }
        }
        Ok(())
    }
}

/// Starts a thread that receives from an endpoint to which nobody sends.
fn receiver(endpoint: &Endpoint) -> rt::Result<()> {
    let entry = receive as *const () as u64;
    // SAFETY: the code uses no stack, and no memory but its IPC area.
    unsafe { process::current().start_thread(entry, 0, endpoint.handle().0) }.map(drop)
}

/// Receives for ever from the endpoint in `rdi`. Uses no stack. Out: never. Clobbers what a message call does.
#[unsafe(naked)]
extern "C" fn receive() -> ! {
    naked_asm!(
        "mov rbx, rdi", // kept by all calls
        "2:",
        "mov eax, {call}",
        "mov rdi, rbx",
        "xor esi, esi",
        "mov r14, {never}",
        "syscall",
        "jmp 2b",
        call = const Call::Recv as u64,
        never = const Deadline::NEVER.0 as i64,
    )
}
