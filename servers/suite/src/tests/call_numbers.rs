//! The number of a call that a thread has made, as its registers tell it when its wait was ended: whatever way it waited.

use abi::info::ThreadState;
use abi::{Call, CpuSet, Error, Rights, Tag, UserContext};
use rt::{AsHandle, Endpoint, Notification, Thread};

use super::contexts::prepared;
use super::probe::{soon, until};
use super::tests;
use crate::bare::Bare;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{code, must, same};

tests! {
    the_number_of_a_call_whose_wait_is_ended_is_kept: 40,
}

/// A program on a CPU whose registers are those of a call without a deadline. `give` gives it handles.
fn calling(
    cpu: u32,
    code: &[u8],
    call: Call,
    give: impl FnOnce(&Bare, &mut UserContext) -> rt::Result<()>,
) -> rt::Result<Bare> {
    let bare = prepared(code, |_| {})?;
    let mut registers = bare.thread.registers()?;
    registers.rax = call as u64;
    registers.rsi = Tag::new(1).0;
    (registers.r14, registers.r15) = (u64::MAX, 0);
    give(&bare, &mut registers)?;
    // SAFETY: the thread is of another process.
    unsafe { bare.thread.set_registers(&registers) }?;
    bare.thread.set_affinity(&CpuSet::only(cpu))?;
    Ok(bare)
}

fn comes_to(thread: &Thread, state: ThreadState) -> Verdict {
    until(state.text(), || Ok(thread.info()?.state == state as u32))
}

/// Ends the wait of a thread; what it made is this call.
fn is_stopped_in(thread: &Thread, call: Call) -> Verdict {
    // SAFETY: the thread is of another process.
    must!(unsafe { thread.stop(soon()) });
    let registers = must!(thread.registers());
    same!(registers.rax, Error::Cancelled as u64);
    same!(registers.call_number, call as u64);
    Ok(())
}

fn the_number_of_a_call_whose_wait_is_ended_is_kept(world: &'static World) -> Verdict {
    const { assert!(Call::ReplyRecv as u64 == 12) };
    let once = code!("syscall", "ud2");
    // One that receives and does not answer, and one that answers.
    let silent = code!("syscall", "2:", "pause", "jmp 2b");
    let server = code!(
        "syscall",
        "mov eax, 12",
        "mov rdi, rbx",
        "xor esi, esi",
        "mov r14, -1",
        "syscall",
        "ud2",
    );
    for cpu in 0..world.cpus {
        let bell = must!(Notification::create());
        let wait = must!(calling(cpu, once, Call::Wait, |bare, registers| {
            registers.rdi = bare.process.grant(&bell.handle(), Rights::WAIT)?.0;
            Ok(())
        }));
        must!(wait.thread.start());
        comes_to(&wait.thread, ThreadState::Waiting)?;
        is_stopped_in(&wait.thread, Call::Wait)?;

        let both = must!(calling(cpu, once, Call::SignalWait, |bare, registers| {
            let other = Notification::create()?;
            registers.rdi = bare.process.grant(&other.handle(), Rights::SIGNAL)?.0;
            registers.rdx = bare.process.grant(&bell.handle(), Rights::WAIT)?.0;
            Ok(())
        }));
        must!(both.thread.start());
        comes_to(&both.thread, ThreadState::Waiting)?;
        is_stopped_in(&both.thread, Call::SignalWait)?;

        let endpoint = must!(Endpoint::create());
        let receiver = |code| {
            calling(cpu, code, Call::Recv, |bare, registers| {
                let handle = bare.process.grant(&endpoint.handle(), Rights::RECEIVE)?;
                (registers.rdi, registers.rbx) = (handle.0, handle.0);
                Ok(())
            })
        };
        let caller = || {
            calling(cpu, once, Call::Call, |bare, registers| {
                registers.rdi = bare.process.grant(&endpoint.handle(), Rights::SEND)?.0;
                Ok(())
            })
        };
        let (first, second) = (must!(receiver(silent)), must!(caller()));
        must!(first.thread.start());
        comes_to(&first.thread, ThreadState::Receiving)?;
        must!(second.thread.start());
        comes_to(&second.thread, ThreadState::AwaitingReply)?;
        is_stopped_in(&second.thread, Call::Call)?;
        must!(first.process.kill(0));
        must!(first.run_to_end());

        let first = must!(receiver(server));
        must!(first.thread.start());
        comes_to(&first.thread, ThreadState::Receiving)?;
        must!(must!(caller()).run());
        comes_to(&first.thread, ThreadState::Receiving)?;
        is_stopped_in(&first.thread, Call::ReplyRecv)?;
    }
    Ok(())
}
