//! What a thread has in a CPU, for whoever manages it while it does not run: registers, breakpoints, descriptors.

use abi::segment::TLS_SLOTS;
use abi::{Call, ContextPart, DebugRegisters, UserContext};

use crate::{AsHandle, Result, Thread, sys};

impl Thread {
    /// # Safety
    /// `pointer` is to memory of the part's size, which the call may write if it is one that gets.
    unsafe fn exchange(&self, call: Call, part: ContextPart, pointer: u64) -> Result<()> {
        let bytes = part.bytes() as u64;
        // SAFETY: the caller's promise.
        unsafe { sys::call(call, [self.handle().0, part as u64, pointer, bytes, 0, 0]) }.map(|_| ())
    }

    /// Its registers. Before its start only.
    ///
    /// # Errors
    /// `WrongState` once started, `Ended`, `NoRight` without MANAGE.
    pub fn registers(&self) -> Result<UserContext> {
        let mut context = UserContext::default();
        // SAFETY: the kernel writes one context through the pointer, which is to a live one of ours.
        unsafe {
            self.exchange(
                Call::ThreadGetContext,
                ContextPart::Registers,
                &raw mut context as u64,
            )
        }?;
        Ok(context)
    }

    /// Sets its registers. Before its start only. Flags that user code can't choose, and what the context says of the last
    /// entry, are passed over.
    ///
    /// # Errors
    /// `BadArgument` for what user code could not have set; else as [`registers`](Self::registers).
    ///
    /// # Safety
    /// If it is of this process: it can go on with these registers.
    pub unsafe fn set_registers(&self, context: &UserContext) -> Result<()> {
        // SAFETY: the kernel reads one context; what the thread does with it is the caller's promise.
        unsafe {
            self.exchange(
                Call::ThreadSetContext,
                ContextPart::Registers,
                &raw const *context as u64,
            )
        }
    }

    /// Its debug registers. Before its start only.
    ///
    /// # Errors
    /// As [`registers`](Self::registers).
    pub fn debug_registers(&self) -> Result<DebugRegisters> {
        let mut registers = DebugRegisters::default();
        // SAFETY: the kernel writes one structure through the pointer, which is to a live one of ours.
        unsafe {
            self.exchange(
                Call::ThreadGetContext,
                ContextPart::Debug,
                &raw mut registers as u64,
            )
        }?;
        Ok(registers)
    }

    /// Sets its debug registers. Before its start only.
    ///
    /// # Errors
    /// `BadArgument` for what could stop anything but the thread's own user code; else as [`registers`](Self::registers).
    pub fn set_debug_registers(&self, registers: &DebugRegisters) -> Result<()> {
        // SAFETY: the kernel reads one structure; a breakpoint ends the thread's program at worst.
        unsafe {
            self.exchange(
                Call::ThreadSetContext,
                ContextPart::Debug,
                &raw const *registers as u64,
            )
        }
    }

    /// The descriptors in its slots, as the descriptor table has them. Before its start only.
    ///
    /// # Errors
    /// As [`registers`](Self::registers).
    pub fn tls(&self) -> Result<[u64; TLS_SLOTS]> {
        let mut descriptors = [0; TLS_SLOTS];
        // SAFETY: the kernel writes as many words through the pointer, which is to live ones of ours.
        unsafe {
            self.exchange(
                Call::ThreadGetContext,
                ContextPart::Tls,
                &raw mut descriptors as u64,
            )
        }?;
        Ok(descriptors)
    }

    /// Sets all of them. Before its start only.
    ///
    /// # Errors
    /// `BadArgument` for one that is neither empty nor a data segment of user code; else as [`registers`](Self::registers).
    pub fn set_all_tls(&self, descriptors: &[u64; TLS_SLOTS]) -> Result<()> {
        // SAFETY: the kernel reads as many words.
        unsafe {
            self.exchange(
                Call::ThreadSetContext,
                ContextPart::Tls,
                &raw const *descriptors as u64,
            )
        }
    }
}
