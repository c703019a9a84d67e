//! The machine as a whole, as far as the rights of one's handle reach.

use alloc::vec::Vec;

use abi::info::{
    CpuInfo, EndpointInfo, MachineInfo, MemoryInfo, ObjectsInfo, PowerAction, ProcessEntry,
    SystemQuery, ThreadInfo,
};
use abi::trace::TraceRecord;
use abi::{Call, Error, Handle};

use crate::handle::object;
use crate::{AsHandle, Memory, OwnedHandle, Result, sys};

object! {
    /// Hardware, introspection, power.
    System
}

/// A record that [`Call::SystemQuery`] writes.
///
/// # Safety
/// The kernel writes exactly this type for [`QUERY`](Record::QUERY), and any bits make a value of it.
unsafe trait Record: Default + Clone {
    /// The query that lists such records.
    const QUERY: SystemQuery;
}

// SAFETY: `abi::info` says so; all fields are plain numbers.
unsafe impl Record for CpuInfo {
    const QUERY: SystemQuery = SystemQuery::Cpus;
}
// SAFETY: as above.
unsafe impl Record for ThreadInfo {
    const QUERY: SystemQuery = SystemQuery::Threads;
}
// SAFETY: as above.
unsafe impl Record for ProcessEntry {
    const QUERY: SystemQuery = SystemQuery::Processes;
}
// SAFETY: as above.
unsafe impl Record for EndpointInfo {
    const QUERY: SystemQuery = SystemQuery::Endpoints;
}
// SAFETY: as above.
unsafe impl Record for MemoryInfo {
    const QUERY: SystemQuery = SystemQuery::Memory;
}
// SAFETY: as above.
unsafe impl Record for MachineInfo {
    const QUERY: SystemQuery = SystemQuery::Machine;
}
// SAFETY: as above.
unsafe impl Record for ObjectsInfo {
    const QUERY: SystemQuery = SystemQuery::Objects;
}

impl System {
    fn list<R: Record>(&self) -> Result<Vec<R>> {
        const BATCH: usize = 32;
        let mut list = Vec::new();
        let mut cursor = 0;
        loop {
            let mut batch = alloc::vec![R::default(); BATCH];
            let bytes = (BATCH * size_of::<R>()) as u64;
            let arguments = [
                self.handle().0,
                R::QUERY as u64,
                cursor,
                batch.as_mut_ptr() as u64,
                bytes,
                0,
            ];
            // SAFETY: the kernel writes whole records into the batch, which has `bytes` of room.
            let [written, _, next] = unsafe { sys::call(Call::SystemQuery, arguments) }?;
            let written = (written as usize).min(BATCH);
            batch.truncate(written);
            list.append(&mut batch);
            if written == 0 || next == 0 {
                return Ok(list);
            }
            cursor = next;
        }
    }

    fn one<R: Record>(&self) -> Result<R> {
        self.list()?.into_iter().next().ok_or(Error::NotSupported)
    }

    /// All CPUs that run.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn cpus(&self) -> Result<Vec<CpuInfo>> {
        self.list()
    }

    /// All processes, those that have ended among them as long as somebody has a handle to them. Lists are taken in pieces: what is there all the while is in
    /// them once, what comes or goes meanwhile may be.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn processes(&self) -> Result<Vec<ProcessEntry>> {
        self.list()
    }

    /// All endpoints. Who waits there is told by [`threads`](Self::threads): the threads that wait for their number.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn endpoints(&self) -> Result<Vec<EndpointInfo>> {
        self.list()
    }

    /// All threads. The list is taken in pieces, as that of processes is.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn threads(&self) -> Result<Vec<ThreadInfo>> {
        self.list()
    }

    /// The machine's memory.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn memory(&self) -> Result<MemoryInfo> {
        self.one()
    }

    /// How many objects the kernel has.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn objects(&self) -> Result<ObjectsInfo> {
        self.one()
    }

    /// The machine.
    ///
    /// # Errors
    /// `NoRight` without QUERY.
    pub fn machine(&self) -> Result<MachineInfo> {
        self.one()
    }

    /// Device memory.
    ///
    /// # Errors
    /// `NoRight` without HARDWARE, `BadArgument` if unaligned, `OutOfRange`, `Busy` for what is the kernel's own.
    pub fn physical_memory(
        &self,
        address: u64,
        bytes: u64,
        write_combining: bool,
    ) -> Result<Memory> {
        let arguments = [
            self.handle().0,
            address,
            bytes,
            u64::from(write_combining),
            0,
            0,
        ];
        // SAFETY: makes an object that nothing maps yet.
        let values = unsafe { sys::call(Call::MemoryCreatePhysical, arguments) }?;
        Ok(Memory::from_handle(OwnedHandle::from_raw(Handle(
            values[0],
        ))))
    }

    /// Has each CPU note these kinds of what it does (a set of [`TraceKind::bit`](abi::trace::TraceKind::bit)), for this process: until it asks for others, or
    /// ends. What other processes ask for is noted as well.
    ///
    /// # Errors
    /// `NoRight` without QUERY, `BadArgument` for kinds that there are not, `NoMemory`.
    pub fn trace(&self, kinds: u32) -> Result<()> {
        let arguments = [self.handle().0, u64::from(kinds), 0, 0, 0, 0];
        // SAFETY: touches no memory of the caller's.
        unsafe { sys::call(Call::SystemTrace, arguments) }.map(|_| ())
    }

    /// Reads what a CPU has noted, from a number on: 0 is the first since boot, `u64::MAX` only asks for the next. Also the number to go
    /// on with, and how many records in between were overwritten.
    ///
    /// # Errors
    /// `NoRight` without QUERY, `OutOfRange` for a CPU that there is not.
    pub fn read_trace(&self, cpu: u32, number: u64) -> Result<(Vec<TraceRecord>, u64, u64)> {
        const BATCH: usize = 256;
        let mut records = alloc::vec![TraceRecord::default(); BATCH];
        let bytes = (BATCH * size_of::<TraceRecord>()) as u64;
        let place = records.as_mut_ptr() as u64;
        let arguments = [self.handle().0, u64::from(cpu), number, place, bytes, 0];
        // SAFETY: the kernel writes whole records into the vector, which has `bytes` of room; any bits make a record.
        let [written, next, lost] = unsafe { sys::call(Call::SystemTraceRead, arguments) }?;
        records.truncate(written as usize);
        Ok((records, next, lost))
    }

    /// Powers off or restarts the machine; returns only with an error.
    ///
    /// # Errors
    /// `NoRight` without POWER, `NotSupported`.
    pub fn power(&self, action: PowerAction) -> Result<()> {
        // SAFETY: ends the machine, after which nothing is owed.
        unsafe {
            sys::call(
                Call::SystemPower,
                [self.handle().0, action as u64, 0, 0, 0, 0],
            )
        }
        .map(|_| ())
    }
}
