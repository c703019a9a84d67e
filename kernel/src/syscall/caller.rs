//! The thread that makes a system call: its arguments, its results, its handles.

use abi::{Badge, Deadline, Error, Handle, Rights};

use crate::cpu;
use crate::io_ports::IoPorts;
use crate::ipc::{Endpoint, Notification};
use crate::irq::Irq;
use crate::memory::object::MemoryObject;
use crate::object::{AnyObject, Borrowed, Capability, Object, Ref, Section};
use crate::process::Process;
use crate::thread::{Thread, ThreadPtr};

/// The calling thread.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    thread: ThreadPtr,
}

/// Objects that a table entry can name.
pub(crate) trait Named: Object {
    /// The reference, if the entry names one of this kind.
    fn in_entry(entry: &AnyObject) -> Option<&Ref<Self>>;
}

macro_rules! named {
    ($($type:ident => $variant:ident),* $(,)?) => {$(
        impl Named for $type {
            #[inline]
            fn in_entry(entry: &AnyObject) -> Option<&Ref<Self>> {
                match entry { AnyObject::$variant(reference) => Some(reference), _ => None }
            }
        }
    )*};
}

named! {
    Endpoint => Endpoint, Notification => Notification, MemoryObject => Memory, Process => Process, Thread => Thread,
    Irq => Irq, IoPorts => IoPorts,
}

impl Caller {
    pub(crate) fn new(thread: ThreadPtr) -> Caller {
        Caller { thread }
    }

    /// The thread that makes a short call.
    #[inline(always)]
    pub(super) fn of_short_call() -> Caller {
        // SAFETY: short calls come from user mode, so that a thread runs.
        Caller::new(unsafe { cpu::running(arch::cpu::block()) })
    }

    /// The thread.
    #[inline]
    pub(crate) fn thread(self) -> &'static Thread {
        // It runs this code, so it lives.
        self.thread.get()
    }

    /// Its process.
    #[inline]
    pub(crate) fn process(self) -> &'static Ref<Process> {
        self.thread().process()
    }

    /// Argument `index`, 0 to 5.
    #[inline]
    pub(crate) fn argument(self, index: usize) -> u64 {
        let registers = self.thread().registers();
        match index {
            0 => registers.rdi,
            1 => registers.rsi,
            2 => registers.rdx,
            3 => registers.r10,
            4 => registers.r8,
            _ => registers.r9,
        }
    }

    /// Argument `index` as a handle.
    #[inline]
    pub(crate) fn handle(self, index: usize) -> Handle {
        Handle(self.argument(index))
    }

    /// Argument `index` as rights; bits that no right has are an error.
    pub(crate) fn rights(self, index: usize) -> Result<Rights, Error> {
        u32::try_from(self.argument(index))
            .ok()
            .map(Rights)
            .filter(|&rights| Rights::ALL.contains(rights))
            .ok_or(Error::BadArgument)
    }

    /// The deadline.
    #[inline]
    pub(crate) fn deadline(self) -> Deadline {
        Deadline(self.thread().registers().r14)
    }

    /// Writes result `index`, 0 to 2.
    #[inline]
    pub(crate) fn set_result(self, index: usize, value: u64) {
        let registers = self.thread().registers_mut();
        match index {
            0 => registers.rdi = value,
            1 => registers.rsi = value,
            _ => registers.rdx = value,
        }
    }

    /// The object that a handle names, with its badge, borrowed for the section.
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::WrongObject`], [`Error::NoRight`].
    #[inline]
    pub(crate) fn find<T: Named>(
        self,
        handle: Handle,
        rights: Rights,
        section: &Section,
    ) -> Result<(Borrowed<'_, T>, Badge), Error> {
        let table = self.process().table.lock();
        let capability = table.get(handle)?;
        let reference = T::in_entry(capability.object()).ok_or(Error::WrongObject)?;
        capability.demand(rights)?;
        Ok((reference.borrow(section), capability.badge()))
    }

    /// The object that a handle names, counted.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn hold<T: Named>(self, handle: Handle, rights: Rights) -> Result<Ref<T>, Error> {
        self.hold_with_rights(handle, rights)
            .map(|(object, _)| object)
    }

    /// The object that a handle names, counted, and all rights of the handle.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn hold_with_rights<T: Named>(
        self,
        handle: Handle,
        rights: Rights,
    ) -> Result<(Ref<T>, Rights), Error> {
        let table = self.process().table.lock();
        let capability = table.get(handle)?;
        let reference = T::in_entry(capability.object()).ok_or(Error::WrongObject)?;
        capability.demand(rights)?;
        Ok((reference.clone(), capability.rights()))
    }

    /// The process that an argument names to be changed: 0 is the caller's own.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn process_by(self, handle: Handle) -> Result<Ref<Process>, Error> {
        if handle == Handle::NONE {
            Ok(self.process().clone())
        } else {
            self.hold(handle, Rights::MANAGE)
        }
    }

    /// Checks that a handle names the system or the log, with these rights.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn demand(self, handle: Handle, log: bool, rights: Rights) -> Result<(), Error> {
        let table = self.process().table.lock();
        let capability = table.get(handle)?;
        match (capability.object(), log) {
            (AnyObject::Log, true) | (AnyObject::System, false) => capability.demand(rights),
            _ => Err(Error::WrongObject),
        }
    }

    /// Puts a capability into the caller's table and its handle into result 0.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::NoMemory`]; the capability is dropped.
    pub(crate) fn give(self, object: AnyObject, rights: Rights) -> Result<(), Error> {
        self.give_capability(Capability::new(object, rights, Badge(0)))
    }

    /// The same with a whole capability.
    ///
    /// # Errors
    /// As [`give`](Self::give).
    pub(crate) fn give_capability(self, capability: Capability) -> Result<(), Error> {
        let inserted = self.process().table.lock().insert(capability);
        match inserted {
            Ok(handle) => {
                self.set_result(0, handle.0);
                Ok(())
            }
            Err((error, refused)) => {
                refused.end();
                Err(error)
            }
        }
    }
}
