//! Scheduling policy: who runs next, where, and until when.
//!
//! This room knows no register and no lock. It is generic over the *thread reference*, a small `Copy` value
//! that the kernel chooses (see [`Node`]), and every queue in it is intrusive: the links live in the thread,
//! so nothing here allocates and nothing here can fail for want of memory.
//!
//! | idea | type | who touches it |
//! |---|---|---|
//! | who runs next on a CPU | [`RunQueue`] | that CPU only |
//! | wake-ups from other CPUs | [`Inbox`] | any CPU pushes, the owner drains |
//! | deadlines of a CPU | [`TimerQueue`] | that CPU only |
//! | queues of waiting threads, by priority | [`WaitQueue`] | whoever holds the object's lock |
//! | the same, first come first served | [`List`] | whoever holds the object's lock |
//! | one that waits alone | [`Lone`] | any CPU, without a lock |
//! | time slices and preemption | [`Slice`], [`Turn`] | pure values |
//! | what a thread may use of a CPU | [`Budget`] | the CPU that the thread belongs to |
//! | which CPU a thread belongs to | [`Home`] | any CPU reads, the home changes |
//! | where it may run | [`Affinity`], [`SharedAffinity`] | any CPU |
//! | where a new thread goes, who pulls work | [`CpuPicker`], [`IdleSet`] | any CPU |
//!
//! A thread has two priorities. The [base](BasePriority) one is what it was given. The [effective](EffectivePriority) one is
//! what every queue in here acts on: the highest of the base one and of all that the thread inherits. A [`ThreadPriority`]
//! keeps both, with a place for what is inherited; when the effective one changes while the thread is queued, the
//! caller calls [`RunQueue::requeue`] or [`WaitQueue::requeue`].
//!
//! What may go wrong: a queue holds a thread *reference* and keeps nothing alive. A thread must stay allocated
//! while it is in any queue, and links must not be shared by two queues of one kind at a time. Debug builds
//! assert the second; the first is the kernel's object-lifetime scheme.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod affinity;
mod atomic;
mod budget;
mod home;
mod inbox;
mod list;
mod lone;
mod node;
mod placement;
mod priority;
mod run_queue;
mod slice;
mod timer;
mod wait_queue;

pub use affinity::{Affinity, MAX_CPUS, SharedAffinity};
pub use budget::{Allowance, Budget};
pub use home::{Arrival, Home};
pub use inbox::{Inbox, Pushed};
pub use list::{Iter, List};
pub use lone::{Left, Lone};
pub use node::{Links, Node};
pub use placement::{CpuLoad, CpuPicker, IdleSet, busiest};
pub use priority::{BasePriority, EffectivePriority, ThreadPriority};
pub use run_queue::RunQueue;
pub use slice::{QUANTUM_NS, Slice, Turn};
pub use timer::TimerQueue;
pub use wait_queue::{WaitQueue, Waiters};
