//! Handles that close themselves.
//!
//! A handle is a number in the process's table. Here each belongs to one owner, and the typed objects are made of one.
//! Because a slot's generation grows at each close, a number that outlived its handle reaches nothing; so making an
//! owner from a wrong number can lose a handle but can't break memory, and is not `unsafe`.

use core::mem::ManuallyDrop;

use abi::info::HandleInfo;
use abi::{Call, Handle, Rights};

use crate::{Result, sys};

/// A handle with an owner: dropping it closes it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "dropping it closes the handle"]
pub struct OwnedHandle(Handle);

impl OwnedHandle {
    /// Takes charge of a handle.
    pub const fn from_raw(handle: Handle) -> OwnedHandle {
        OwnedHandle(handle)
    }

    /// Its number.
    pub const fn raw(&self) -> Handle {
        self.0
    }

    /// Gives up charge of it without closing it.
    pub fn into_raw(self) -> Handle {
        ManuallyDrop::new(self).0
    }

    /// A second handle to the same object, with `rights`.
    ///
    /// # Errors
    /// `NoRight` without DUPLICATE or if `rights` is more than this handle has; `NoMemory`, `QuotaExceeded`.
    pub fn duplicate(&self, rights: Rights) -> Result<OwnedHandle> {
        // SAFETY: names a handle, touches no memory.
        let values = unsafe {
            sys::call(
                Call::HandleDuplicate,
                [self.0.0, u64::from(rights.0), 0, 0, 0, 0],
            )
        }?;
        Ok(OwnedHandle(Handle(values[0])))
    }

    /// What it names.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn query(&self) -> Result<HandleInfo> {
        query(self.0)
    }
}

impl Drop for OwnedHandle {
    fn drop(&mut self) {
        // The log that the program's own lines go to outlives every owner: a last report needs it.
        if !self.0.is_none() && !crate::logging::is_target(self.0) {
            // SAFETY: names a handle, touches no memory. That the handle is gone already (moved in a message that then
            // failed) is an error that says nothing new.
            let _ = unsafe { sys::call(Call::HandleClose, [self.0.0, 0, 0, 0, 0, 0]) };
        }
    }
}

/// What any handle number names.
///
/// # Errors
/// `BadHandle`.
pub fn query(handle: Handle) -> Result<HandleInfo> {
    let mut info = HandleInfo::default();
    // SAFETY: the kernel writes one HandleInfo through the pointer, which is to a live one of ours.
    unsafe {
        sys::call(
            Call::HandleQuery,
            [handle.0, &raw mut info as u64, 0, 0, 0, 0],
        )
    }?;
    Ok(info)
}

/// Whatever has a handle.
pub trait AsHandle {
    /// The handle's number, which stays its owner's.
    fn handle(&self) -> Handle;
}

impl AsHandle for OwnedHandle {
    fn handle(&self) -> Handle {
        self.0
    }
}

impl AsHandle for Handle {
    fn handle(&self) -> Handle {
        *self
    }
}

/// Makes the owning type of one kind of object: a newtype of [`OwnedHandle`] and the ways in and out of it.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(PartialEq, Eq, Debug)]
        pub struct $name(crate::OwnedHandle);

        impl $name {
            /// Takes charge of a handle to such an object; the kernel checks its kind at each use.
            pub const fn from_handle(handle: crate::OwnedHandle) -> $name {
                $name(handle)
            }

            /// The handle itself.
            pub fn into_handle(self) -> crate::OwnedHandle {
                self.0
            }

            /// A second handle to the same object, with `rights`.
            ///
            /// # Errors
            /// `NoRight` without DUPLICATE or if `rights` is more than this handle has; `NoMemory`, `QuotaExceeded`.
            pub fn duplicate(&self, rights: abi::Rights) -> crate::Result<$name> {
                self.0.duplicate(rights).map($name)
            }

            /// What the handle names and allows.
            ///
            /// # Errors
            /// `BadHandle`.
            pub fn query(&self) -> crate::Result<abi::info::HandleInfo> {
                self.0.query()
            }
        }

        impl From<crate::OwnedHandle> for $name {
            fn from(handle: crate::OwnedHandle) -> $name {
                $name(handle)
            }
        }

        impl From<$name> for crate::OwnedHandle {
            fn from(object: $name) -> crate::OwnedHandle {
                object.0
            }
        }

        impl crate::AsHandle for $name {
            fn handle(&self) -> abi::Handle {
                self.0.raw()
            }
        }
    };
}
pub(crate) use object;
