//! Why a server refused, as its client gets it.

use alloc::string::String;
use core::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The kinds of refusal that all interfaces share. The code is the answer's label, 0 being success.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum FailureKind { $($(#[$doc])* $name = $code,)* }

        impl FailureKind {
            /// Every kind.
            pub const ALL: &'static [FailureKind] = &[$(FailureKind::$name,)*];

            /// The kind with this code. One that this program doesn't know is `Internal`.
            pub const fn from_code(code: u32) -> FailureKind {
                match code { $($code => FailureKind::$name,)* _ => FailureKind::Internal }
            }

            /// The kind in a few words.
            pub const fn text(self) -> &'static str {
                match self { $(FailureKind::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// The server has no such operation.
    UnknownOperation = 1, "unknown operation";
    /// The message is not what the operation takes.
    BadMessage = 2, "malformed message";
    /// An argument has no meaning.
    BadArgument = 3, "bad argument";
    /// There is no such thing.
    NotFound = 4, "not found";
    /// There is such a thing already.
    Exists = 5, "exists already";
    /// The caller may not.
    NotAllowed = 6, "not allowed";
    /// Too much is going on.
    Busy = 7, "busy";
    /// The server has no room left.
    Full = 8, "no room left";
    /// This machine or server can't.
    NotSupported = 9, "not supported";
    /// The server itself ran into an error.
    Internal = 10, "internal error";
}

/// A refusal: its kind, and what it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The kind.
    pub kind: FailureKind,
    /// What it is about; may be empty.
    pub detail: String,
}

impl Failure {
    /// A refusal with its subject.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Failure {
        Failure {
            kind,
            detail: detail.into(),
        }
    }
}

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Failure {
        Failure {
            kind,
            detail: String::new(),
        }
    }
}

impl From<abi::Error> for Failure {
    fn from(error: abi::Error) -> Failure {
        Failure::new(FailureKind::Internal, error.text())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.kind.text())
        } else {
            write!(f, "{}: {}", self.detail, self.kind.text())
        }
    }
}

impl core::error::Error for Failure {}
