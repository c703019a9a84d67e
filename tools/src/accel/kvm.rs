//! Asks KVM for its version and for a virtual machine, which is given back at once.
//!
//! The numbers are those of Linux's `include/uapi/linux/kvm.h` (group 0xAE), the meanings those of the kernel's
//! documentation `virt/kvm/api.rst`, §4.1 and §4.2. A device that is not KVM's answers with an error; nothing is passed
//! to it that it could write to.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::null_mut;

use rustix::io::{Errno, Result as IoResult};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// The group of KVM's calls (`KVMIO`).
const GROUP: u8 = 0xAE;
/// The one version of the interface that programs may use.
const VERSION: c_int = 12;

/// Has KVM make a virtual machine, without CPUs or memory, and gives it back.
///
/// # Errors
/// If the device is not KVM's, or KVM can't; the text says what failed.
pub fn make_a_machine(device: &File) -> Result<(), String> {
    // SAFETY: the call takes no argument and writes nothing, as its type says.
    let version = unsafe { ioctl(device, GetVersion) }.map_err(|e| format!("no version: {e}"))?;
    if version != VERSION {
        return Err(format!("version {version} in place of {VERSION}"));
    }
    // SAFETY: the call takes a number (0: the default kind of machine) and writes nothing, as its type says.
    let machine = unsafe { ioctl(device, CreateMachine) };
    machine
        .map(drop)
        .map_err(|e| format!("it can't make a virtual machine: {e}"))
}

/// `KVM_GET_API_VERSION`.
struct GetVersion;

// SAFETY: the call takes no argument and gives its answer as the return value.
unsafe impl Ioctl for GetVersion {
    type Output = c_int;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(GROUP, 0x00)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> IoResult<c_int> {
        Ok(out)
    }
}

/// `KVM_CREATE_VM`, of the default kind.
struct CreateMachine;

// SAFETY: the call takes its argument, the kind of machine, as a number in the pointer's place, and gives a new file
// descriptor as the return value.
unsafe impl Ioctl for CreateMachine {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(GROUP, 0x01)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> IoResult<OwnedFd> {
        if out < 0 {
            return Err(Errno::BADF);
        }
        // SAFETY: KVM has just made this descriptor for the caller, and nobody else knows it; it is asked only of a
        // device that has answered with KVM's version.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    #[test]
    fn device_that_is_not_kvm_is_refused() {
        let why = super::make_a_machine(&File::open("/dev/null").unwrap()).unwrap_err();
        assert!(why.contains("no version"), "{why}");
    }
}
