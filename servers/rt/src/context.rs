//! What a thread has in a CPU, for whoever manages it while it does not run, or is to answer its report: registers, breakpoints,
//! descriptors.

use abi::segment::TLS_SLOTS;
use abi::{Call, ContextPart, DebugRegisters, Error, UserContext};
use alloc::vec;
use alloc::vec::Vec;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use crate::{AsHandle, Reply, Result, Thread, sys};

/// What is had and set by a handle of this type.
macro_rules! state_by {
    ($type:ident) => {
        impl $type {
            /// # Safety
            /// `pointer` is to memory of the part's size, which the call may write if it is one that gets.
            unsafe fn exchange(&self, call: Call, part: ContextPart, pointer: u64) -> Result<()> {
                let bytes = part.bytes().unwrap_or_else(fpu_state_bytes) as u64;
                // SAFETY: the caller's promise.
                unsafe { sys::call(call, [self.handle().0, part as u64, pointer, bytes, 0, 0]) }
                    .map(|_| ())
            }

            /// Its registers. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report.
            ///
            /// # Errors
            /// Of a thread `WrongState` if it runs or waits, `Ended`, `NoRight` without MANAGE; by a reply `CallerGone`, and `NoRight` if it is to a
            /// call and not to a report.
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

            /// Sets its registers. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report. Flags that user code can't choose, and what the context says
            /// of the last entry, are passed over.
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

            /// Its debug registers. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report.
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

            /// Sets its debug registers. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report.
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

            /// The descriptors in its slots, as the descriptor table has them. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report.
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

            /// Sets all of them. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report.
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

            /// Its floating-point state, [`fpu_state_bytes`] bytes in the standard XSAVE format. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report.
            ///
            /// # Errors
            /// As [`registers`](Self::registers).
            pub fn fpu_state(&self) -> Result<Vec<u8>> {
                let mut image = vec![0; fpu_state_bytes()];
                // SAFETY: the kernel writes as many bytes as it is told to, to a buffer of ours.
                unsafe {
                    self.exchange(
                        Call::ThreadGetContext,
                        ContextPart::Fpu,
                        image.as_mut_ptr() as u64,
                    )
                }?;
                Ok(image)
            }

            /// Sets its floating-point state. Of a thread: before its start, or stopped. By a reply: while its
            /// thread waits for the answer to a report.
            ///
            /// # Errors
            /// `OutOfRange` if the image has not [`fpu_state_bytes`] bytes, `BadArgument` for what the CPU would not accept, `NoMemory`; else as
            /// [`registers`](Self::registers).
            pub fn set_fpu_state(&self, image: &[u8]) -> Result<()> {
                if image.len() != fpu_state_bytes() {
                    return Err(Error::OutOfRange);
                }
                // SAFETY: the kernel reads as many bytes as the image has.
                unsafe {
                    self.exchange(
                        Call::ThreadSetContext,
                        ContextPart::Fpu,
                        image.as_ptr() as u64,
                    )
                }
            }
        }
    };
}

state_by!(Thread);
state_by!(Reply);

/// Bytes of a floating-point state in the standard XSAVE format, or of FXSAVE's where the kernel has no XSAVE (Intel SDM vol. 2A,
/// CPUID leaf 0Dh).
pub fn fpu_state_bytes() -> usize {
    const OSXSAVE: u32 = 1 << 27;
    const FXSAVE_BYTES: usize = 512;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        FXSAVE_BYTES
    } else {
        __cpuid_count(0xD, 0).ebx as usize
    }
}
