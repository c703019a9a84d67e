//! User memory as system calls see it: an allegation.
//!
//! A pointer and a length from user space say nothing until they are checked, and even then only that the range lies in
//! the user half. [`UserSlice`] is that check as a type. Whether the memory is there shows only when it is copied:
//! another thread may unmap it meanwhile, so copying is the one way to look at it, and nothing is read twice.

use abi::Error;
use abi::layout::USER_END;
use arch::user_copy;

/// A range of user memory that lies wholly in the user half; mapped or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserSlice {
    address: u64,
    bytes: usize,
}

/// Types that are plain data: any bytes are a value of them, and all of their bytes may be shown to user space.
///
/// # Safety
/// The type has no padding, no invalid bit patterns, no pointers and no interior mutability.
pub unsafe trait Plain: Copy + Sync + 'static {}

macro_rules! plain {
    ($($type:ty),*) => {
        // SAFETY: integers, and `repr(C)` structures of integers that fill them without padding (their sizes are asserted
        // in `abi`).
        $(unsafe impl Plain for $type {})*
    };
}

plain!(u8, u16, u32, u64, i32, i64, usize);
plain!(
    abi::UserContext,
    abi::DebugRegisters,
    [u64; abi::segment::TLS_SLOTS],
    abi::info::HandleInfo,
    abi::info::ProcessInfo,
    abi::info::Quota,
    abi::info::QuotaInfo,
    abi::info::CpuInfo,
    abi::info::ThreadInfo,
    abi::info::ProcessEntry,
    abi::info::EndpointInfo,
    abi::info::MemoryInfo,
    abi::info::ObjectsInfo,
    abi::info::FramebufferInfo,
    abi::info::MachineInfo,
    abi::irq::IrqInfo,
    abi::trace::TraceRecord
);

impl UserSlice {
    /// The range of `bytes` bytes at `address`, if it lies in the user half. An empty range is fine anywhere in it.
    ///
    /// # Errors
    /// [`Error::BadPointer`] if it wraps around, reaches into the kernel half, the non-canonical hole or the last page before it.
    pub fn new(address: u64, bytes: u64) -> Result<UserSlice, Error> {
        let end = address.checked_add(bytes).ok_or(Error::BadPointer)?;
        if end > USER_END {
            return Err(Error::BadPointer);
        }
        Ok(UserSlice {
            address,
            bytes: bytes as usize,
        })
    }

    /// The range of one `T`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of<T: Plain>(address: u64) -> Result<UserSlice, Error> {
        UserSlice::new(address, size_of::<T>() as u64)
    }

    /// Its first address.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Its length in bytes.
    pub const fn len(self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub const fn is_empty(self) -> bool {
        self.bytes == 0
    }

    /// The first `bytes` bytes, or all if there are fewer.
    #[must_use]
    pub fn first(self, bytes: usize) -> UserSlice {
        UserSlice {
            bytes: self.bytes.min(bytes),
            ..self
        }
    }

    /// All but the first `bytes` bytes; nothing if there are fewer.
    #[must_use]
    pub fn after(self, bytes: usize) -> UserSlice {
        let bytes = bytes.min(self.bytes);
        UserSlice {
            address: self.address + bytes as u64,
            bytes: self.bytes - bytes,
        }
    }

    /// Copies the range into `to`. No lock of the level of an address space or above may be held.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the lengths differ; [`Error::BadPointer`] if the range is not readable throughout, and then `to`
    /// holds a part of it.
    pub fn copy_in(self, to: &mut [u8]) -> Result<(), Error> {
        if to.len() != self.bytes {
            return Err(Error::OutOfRange);
        }
        // SAFETY: `to` is valid, exclusive, and in the kernel half; the range was checked to lie in the user half.
        unsafe { user_copy::copy(to.as_mut_ptr(), self.address as *const u8, self.bytes) }
            .map_err(why)
    }

    /// Copies `from` into the range. No lock of the level of an address space or above may be held.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the lengths differ; [`Error::BadPointer`] if the range is not writable throughout, and then a part
    /// of it is written.
    pub fn copy_out(self, from: &[u8]) -> Result<(), Error> {
        if from.len() != self.bytes {
            return Err(Error::OutOfRange);
        }
        // SAFETY: `from` is valid and in the kernel half; the range was checked to lie in the user half.
        unsafe { user_copy::copy(self.address as *mut u8, from.as_ptr(), self.bytes) }.map_err(why)
    }

    /// Copies to or from a place that is no Rust reference: the contents of a frame, which user code may change meanwhile.
    ///
    /// # Safety
    /// `place` must be valid for `self.len()` bytes in the kernel half.
    pub(super) unsafe fn copy_raw(self, place: *mut u8, direction: Direction) -> Result<(), Error> {
        let user = self.address as *mut u8;
        let (to, from) = match direction {
            Direction::ToUser => (user, place),
            Direction::FromUser => (place, user),
        };
        // SAFETY: the caller's promise for the kernel's side; the other was checked to lie in the user half.
        unsafe { user_copy::copy(to, from, self.bytes) }.map_err(why)
    }
}

/// What a copy that faulted is to say of it.
#[cold]
fn why(_: user_copy::Faulted) -> Error {
    #[cfg(target_os = "none")]
    if crate::cpu::this().lacks_page.take() {
        return Error::NotSupplied;
    }
    Error::BadPointer
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the kernel to the user.
    ToUser,
    /// From the user to the kernel.
    FromUser,
}

/// Reads one value. It need not be aligned.
///
/// # Errors
/// [`Error::BadPointer`]
pub fn read<T: Plain + Default>(address: u64) -> Result<T, Error> {
    let mut value = T::default();
    // SAFETY: a plain type is valid with any bytes.
    let bytes =
        unsafe { core::slice::from_raw_parts_mut((&raw mut value).cast::<u8>(), size_of::<T>()) };
    UserSlice::of::<T>(address)?.copy_in(bytes)?;
    Ok(value)
}

/// Writes one value. It need not be aligned.
///
/// # Errors
/// [`Error::BadPointer`]
pub fn write<T: Plain>(address: u64, value: &T) -> Result<(), Error> {
    // SAFETY: a plain type has no padding, so all of its bytes are initialised.
    let bytes =
        unsafe { core::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) };
    UserSlice::of::<T>(address)?.copy_out(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_outside_the_user_half_are_bad_pointers() {
        let hole = 1 << 47;
        for (address, bytes) in [
            (USER_END, 1),
            (USER_END - 4, 5),
            (USER_END + 1, 0),
            (hole, 1),
            (hole - 1, 2),
            (u64::MAX, 1),
            (u64::MAX, 2),
            (1, u64::MAX),
            (0x1000, u64::MAX - 0xFFF),
            (0xFFFF_8000_0000_0000, 8),
            (0xFFFF_7FFF_FFFF_FFFF, 8),
            (0x8000_0000_0000_0000, 0),
        ] {
            assert_eq!(
                UserSlice::new(address, bytes),
                Err(Error::BadPointer),
                "{address:#x}+{bytes:#x}"
            );
        }
        assert!(UserSlice::new(0, 0).is_ok());
        assert_eq!(UserSlice::new(USER_END - 4, 4).map(UserSlice::len), Ok(4));
    }

    #[test]
    fn values_go_out_and_come_back_also_unaligned() {
        let mut memory = [0u8; 24];
        let address = memory.as_mut_ptr() as u64 + 3;
        write(address, &0x1122_3344_5566_7788u64).unwrap();
        assert_eq!(read::<u64>(address), Ok(0x1122_3344_5566_7788));
        assert_eq!(memory[3], 0x88);
    }

    #[test]
    fn parts_of_a_slice_stay_inside_it() {
        let slice = UserSlice::new(0x1000, 10).unwrap();
        assert_eq!(
            (slice.first(4).address(), slice.first(4).len()),
            (0x1000, 4)
        );
        assert_eq!(
            (slice.after(4).address(), slice.after(4).len()),
            (0x1004, 6)
        );
        assert_eq!(
            (slice.after(99).address(), slice.after(99).len()),
            (0x100A, 0)
        );
        assert_eq!(slice.copy_in(&mut [0; 9]), Err(Error::OutOfRange));
    }
}
