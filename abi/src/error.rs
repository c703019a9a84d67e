//! Why a system call failed.

use core::fmt;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The error codes that `rax` carries after a system call; 0 is success.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Error { $($(#[$doc])* $name = $code,)* }

        impl Error {
            /// Every error there is.
            pub const ALL: &'static [Error] = &[$(Error::$name,)*];

            /// The error with this code, judged as a whole register; `None` for success and for numbers past the table.
            pub const fn from_code(code: u64) -> Option<Error> {
                match code { $($code => Some(Error::$name),)* _ => None }
            }

            /// The error in a few words.
            pub const fn text(self) -> &'static str {
                match self { $(Error::$name => $text,)* }
            }
        }
    };
}

errors! {
    /// No system call has this number.
    UnknownCall = 1, "unknown system call";
    /// The handle is not in the table, or what it named is gone from it.
    BadHandle = 2, "bad handle";
    /// The handle names another kind of object.
    WrongObject = 3, "handle of another kind of object";
    /// The handle lacks a right that the call needs.
    NoRight = 4, "handle lacks the right";
    /// A pointer and length that are not wholly in the caller's readable (writable) memory.
    BadPointer = 5, "bad pointer";
    /// An argument has no meaning: unaligned, zero, reserved bits set.
    BadArgument = 6, "bad argument";
    /// An argument is past the end of what it counts in.
    OutOfRange = 7, "out of range";
    /// The kernel has no memory left for this.
    NoMemory = 8, "out of memory";
    /// A quota of the paying process is used up.
    QuotaExceeded = 9, "quota exceeded";
    /// The deadline passed.
    TimedOut = 10, "deadline passed";
    /// The wait was cancelled by a supervisor.
    Cancelled = 11, "cancelled";
    /// Nothing is left at the other end: the endpoint has no receiver any more, or nobody can signal the notification.
    PeerClosed = 12, "peer closed";
    /// The receiver dropped the reply, or died with it.
    NoReply = 13, "reply dropped";
    /// The caller that this reply was for waits no more.
    CallerGone = 14, "caller waits no more";
    /// The receiver had not posted enough slots for the handles.
    HandlesRefused = 15, "receiver takes no handles";
    /// Somebody else has it, or it is in use.
    Busy = 16, "in use";
    /// Something is mapped there.
    AlreadyMapped = 17, "already mapped";
    /// Nothing is mapped there.
    NotMapped = 18, "not mapped";
    /// The process or thread has ended.
    Ended = 19, "ended";
    /// The call would wait for itself over single-server endpoints.
    Deadlock = 20, "call cycle";
    /// This machine has no such thing.
    NotSupported = 21, "not supported here";
    /// The object is not in the state that the call needs (a thread already started, say).
    WrongState = 22, "wrong state";
    /// The kernel keeps this part of the address space: the landing page can't be unmapped or changed.
    Reserved = 23, "kept by the kernel";
    /// The page is one that its pager has not supplied yet. Whoever touches it by a program's own access waits for it; a system call does not.
    NotSupplied = 24, "page not supplied yet";
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Error {}
