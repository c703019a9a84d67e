//! Who runs when: the scheduler's hands. The policy is the `sched` crate's.
//!
//! A thread belongs to its home CPU. That CPU alone queues it, runs it, times it. Another CPU that has taken a thread out of
//! its wait says so in the thread's `asked` word and pushes it into the home's inbox, which the home drains on its way out
//! of the kernel and when it looks for work, never while it holds a lock.

#[cfg(target_os = "none")]
mod aside;
#[cfg(target_os = "none")]
mod bare;
#[cfg(target_os = "none")]
mod clock;
#[cfg(target_os = "none")]
mod doze;
#[cfg(target_os = "none")]
mod exit;
#[cfg(target_os = "none")]
mod idle;
#[cfg(target_os = "none")]
mod look;
#[cfg(target_os = "none")]
mod migrate;
#[cfg(target_os = "none")]
mod place;
#[cfg(target_os = "none")]
mod wake;
#[cfg(target_os = "none")]
pub use bare::{after_wait, block, is_running, reschedule, switch_directly, yield_now};
#[cfg(target_os = "none")]
pub use clock::{open_gates_at, retime, timer_interrupt};
#[cfg(target_os = "none")]
pub use doze::{doze, doze_for};
#[cfg(target_os = "none")]
pub use exit::{current, exit_work, leave_thread, owe, preemption_point};
#[cfg(target_os = "none")]
pub use idle::{choose_idle, run_idle};
#[cfg(target_os = "none")]
pub use look::{compare_running, settle_running};
#[cfg(target_os = "none")]
pub use place::start;
#[cfg(target_os = "none")]
pub use wake::{RESCHEDULE_VECTOR, SERVE_VECTOR, ask, look_again, make_ready, nudge, reconsider};

#[cfg(not(target_os = "none"))]
mod hosted;
#[cfg(not(target_os = "none"))]
pub use hosted::{
    ask, compare_running, current, is_running, look_again, make_ready, owe, preemption_point,
    reconsider,
};
#[cfg(test)]
pub use hosted::{longest_stretch, take_ready};
