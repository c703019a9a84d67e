//! The interfaces of the system's own servers, so that a client needs the SDK alone.
//!
//! Numbers of operations are the protocol: one that is no longer served is not given to another.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Endpoint;
use crate::wire::List;

crate::interface! {
    /// What `console` serves: text out, keys in, on the serial port and the screen at once.
    pub mod console {
        /// Writes text, in one piece: no other client's text comes between. A line feed also returns the carriage.
        1 => write(text: Vec<u8>) -> ();
        /// Waits for input, and gives up to `most` bytes of it as typed: UTF-8, and escape sequences for the other
        /// keys. Nobody else gets the same bytes. An empty answer says that the system's log wrote over the line on
        /// which the cursor was, so that a prompt should be written again.
        2 => read(most: u32) -> Vec<u8>;
        /// Clears the screen.
        3 => clear() -> ();
        /// Columns and rows of the screen; 80 and 24 if there is only a serial line.
        4 => size() -> (u32, u32);
    }
}

crate::interface! {
    /// What `echo` serves. One instance runs on each CPU, known to `names` as `echo.0`, `echo.1` and so on.
    pub mod echo {
        /// Gives back the number.
        1 => word(word: u64) -> u64;
        /// Gives back the bytes.
        2 => bytes(bytes: Vec<u8>) -> Vec<u8>;
        /// The argument string that the server was started with.
        3 => argument() -> String;
    }
}

crate::interface! {
    /// What `names` serves: endpoints by name.
    pub mod names {
        /// A handle to send to the server of this name.
        1 => look_up(name: String) -> Endpoint;
        /// Registers a handle (it needs the rights SEND and TRANSFER) under a name that is not taken. Whoever registered
        /// a name may register it anew; names of the manifest are never given away.
        2 => register(name: String, endpoint: Endpoint) -> ();
        /// Forgets a name that the caller registered.
        3 => withdraw(name: String) -> ();
        /// The names known, in order, from the `first`-th on: as many as fit, and how many there are.
        4 => list(first: u32) -> (List<String>, u32);
    }
}

crate::interface! {
    /// What `init` serves: starting programs of the initrd.
    pub mod supervisor {
        /// Starts the program `bin/NAME` of the initrd with what the manifest's `[run]` table grants, and waits for its
        /// end: how it ended (an `abi::info::ProcessState`), its exit code, and a line that says so.
        1 => run(name: String, argument: String) -> (u32, u64, String);
        /// The services of the manifest from the `first`-th on, one line each, as many as fit, and how many there are.
        2 => services(first: u32) -> (List<String>, u32);
        /// Ends a service that the manifest says is started again.
        3 => restart(name: String) -> ();
    }
}
