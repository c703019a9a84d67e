//! `init`, the only program that the kernel loads: starts, wires and supervises all others.
//!
//! What runs and who may what stands in a manifest of the initrd and nowhere else ([`manifest`]); it is worked out for the
//! machine's CPUs in [`instance`], carried out by [`wiring`], and kept running by [`supervise`]. A service that can't be
//! started is named with its reason and left out: the system lives on with the rest.
//!
//! Endpoints belong to `init`, so they outlive the server: a server that died and is started again serves the same
//! endpoint, and its clients' handles stay good. Calls that the server had received end in `NoReply`; those still queued,
//! and new ones, wait for the server to come back (or for their deadline), since `init` keeps a handle with the right to
//! receive. When a service has ended for good, `init` closes that handle, and calls fail with `PeerClosed`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod backoff;
mod fields;
pub mod instance;
pub mod manifest;
pub mod options;
pub mod report;
pub mod supervise;
pub mod wiring;
