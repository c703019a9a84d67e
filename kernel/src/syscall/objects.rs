//! How many objects there are: for whoever asks whether something was left behind.

use abi::info::ObjectsInfo;

use crate::io_ports::IoPorts;
use crate::ipc::{Endpoint, Listener, Notification};
use crate::irq::Irq;
use crate::memory::account::Account;
use crate::memory::cloning::Sharing;
use crate::memory::object::MemoryObject;
use crate::memory::space::Space;
use crate::memory::{PAGE_BYTES, fpu_areas, stacks};
use crate::object::Object;
use crate::process::Process;
use crate::thread::Thread;

/// Adds up what is in use, and what the slabs hold.
pub(super) fn info() -> ObjectsInfo {
    let mut frames = 0;
    let (made, free) = stacks::statistics();
    let mut info = ObjectsInfo {
        processes: count::<Process>(&mut frames),
        threads: count::<Thread>(&mut frames),
        endpoints: count::<Endpoint>(&mut frames),
        notifications: count::<Notification>(&mut frames),
        memories: count::<MemoryObject>(&mut frames),
        sharings: count::<Sharing>(&mut frames),
        spaces: count::<Space>(&mut frames),
        accounts: count::<Account>(&mut frames),
        irqs: count::<Irq>(&mut frames),
        io_ports: count::<IoPorts>(&mut frames),
        stacks: u64::from(made - free),
        pooled: 0,
    };
    // In no figure: each belongs to one thread or process, which has at most one for each kind of report and gives them up at its end at the latest.
    count::<Listener>(&mut frames);
    frames += u64::from(made) * stacks::STACK_PAGES + fpu_areas::frames();
    info.pooled = frames * PAGE_BYTES;
    info
}

/// Objects of a kind; the frames of its slab are added to `frames`.
fn count<T: Object>(frames: &mut u64) -> u64 {
    let slab = T::slab();
    *frames += slab.frames() as u64;
    slab.in_use() as u64
}
