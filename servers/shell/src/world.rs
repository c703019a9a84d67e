//! What the shell asks of the system.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use abi::info::{
    CpuInfo, EndpointInfo, MachineInfo, MemoryInfo, PowerAction, ProcessEntry, ThreadInfo,
};
use abi::trace::TraceRecord;

/// What the CPUs did for a while.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// What was noted, the oldest first.
    pub records: Vec<TraceRecord>,
    /// How much more was noted than was kept.
    pub lost: u64,
}

/// The system as the shell sees it. An error is a line for the user.
#[allow(
    clippy::missing_errors_doc,
    reason = "every error is a line for the user, as said above"
)]
pub trait World {
    /// Waits for input. An empty answer says that the line on which the cursor is was written over.
    fn read(&mut self) -> Result<Vec<u8>, String>;
    /// Writes text, in one piece if it is no longer than a message.
    fn write(&mut self, text: &str);
    /// Clears the screen.
    fn clear(&mut self);
    /// Columns of the terminal.
    fn columns(&mut self) -> usize;
    /// Time since boot.
    fn now(&self) -> Duration;
    /// All CPUs.
    fn cpus(&self) -> Result<Vec<CpuInfo>, String>;
    /// All threads.
    fn threads(&self) -> Result<Vec<ThreadInfo>, String>;
    /// All processes.
    fn processes(&self) -> Result<Vec<ProcessEntry>, String>;
    /// All endpoints.
    fn endpoints(&self) -> Result<Vec<EndpointInfo>, String>;
    /// Lets so much time pass.
    fn pause(&mut self, time: Duration);
    /// What the CPUs do for so long.
    fn trace(&mut self, time: Duration) -> Result<Trace, String>;
    /// The memory.
    fn memory(&self) -> Result<MemoryInfo, String>;
    /// The machine.
    fn machine(&self) -> Result<MachineInfo, String>;
    /// Makes so many round trips to the echo server of a CPU; how long they took.
    fn ping(&mut self, cpu: u32, rounds: u32) -> Result<Duration, String>;
    /// The files of the boot archive with their sizes in bytes.
    fn files(&self) -> Result<Vec<(String, usize)>, String>;
    /// The contents of a file; `None` if there is none of this name.
    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, String>;
    /// Starts a program and waits for its end; a line that tells how it ended.
    fn run(&mut self, name: &str, argument: &str) -> Result<String, String>;
    /// The services, a line each.
    fn services(&mut self) -> Result<Vec<String>, String>;
    /// Ends a service, which is then started again.
    fn restart(&mut self, name: &str) -> Result<(), String>;
    /// The registered names.
    fn names(&mut self) -> Result<Vec<String>, String>;
    /// The kernel's log.
    fn log(&self) -> Result<Vec<u8>, String>;
    /// Powers off or restarts; returns only with an error.
    fn power(&mut self, action: PowerAction) -> Result<(), String>;
}
