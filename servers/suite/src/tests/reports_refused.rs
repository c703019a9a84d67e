//! Reports that are asked for or answered amiss: each is refused by name, and changes nothing.

use abi::report::{Answer, label};
use abi::{Call, ContextPart, Error, FaultKind, Rights, UserContext};
use rt::{AsHandle, Endpoint, Memory, Message, thread};

use super::contexts::prepared;
use super::faults::faulted;
use super::ipc::receive;
use super::probe::soon;
use super::reports::{fault, listener, reporting};
use super::tests;
use crate::kernel_calls::refused;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, fail, must, same};

tests! {
    senseless_answers_to_reports_are_refused: 40,
    reports_are_set_up_with_good_arguments_only: 40,
    only_replies_to_reports_give_registers: 40,
}

/// An answer that is made for a thread with these registers.
type Make<'a> = &'a dyn Fn(&UserContext) -> Message;

fn senseless_answers_to_reports_are_refused(_: &'static World) -> Verdict {
    let registers = |change: fn(&mut UserContext)| {
        move |seen: &UserContext| {
            let mut registers = *seen;
            change(&mut registers);
            rt::report::with_registers(Answer::Resume, &registers)
        }
    };
    let cases: [(&str, Make<'_>); 9] = [
        ("another label", &|_| Message::new(0xFFFF)),
        ("a label of its own", &|_| Message::new(label::FAULT)),
        ("bytes that are no registers", &|_| {
            Message::new(0).with_bytes(&[1, 2, 3])
        }),
        ("an address of the kernel's", &|_| {
            Message::new(Answer::ResumeAt as u32).with_words([0xFFFF_8000_0000_0000, 0, 0, 0, 0, 0])
        }),
        ("an address that there is not", &|_| {
            Message::new(Answer::ResumeAt as u32).with_words([1 << 47, 0, 0, 0, 0, 0])
        }),
        (
            "a RIP of the kernel's",
            &registers(|r| r.rip = 0xFFFF_FFFF_8000_0000),
        ),
        ("a kernel CS", &registers(|r| r.cs = 8)),
        ("a senseless SS", &registers(|r| r.ss = 0x7777)),
        (
            "a base that there is not",
            &registers(|r| r.gs_base = 1 << 63),
        ),
    ];
    for (what, make) in cases {
        let (bare, endpoint) = must!(reporting(code!("ud2"), |_| {}));
        must!(bare.thread.start());
        let (_, reply) = fault(&endpoint)?;
        let answer = make(&must!(reply.registers()));
        let result = reply.answer(answer);
        check!(
            result.err() == Some(Error::BadArgument),
            "{what}: {result:?}"
        );
        let info = must!(bare.run_to_end());
        faulted(what, &info, FaultKind::InvalidInstruction)?;
    }
    // With a handle.
    let (bare, endpoint) = must!(reporting(code!("ud2"), |_| {}));
    must!(bare.thread.start());
    let (_, reply) = fault(&endpoint)?;
    let with_handle = Message::new(0).with_copy(&endpoint);
    same!(reply.answer(with_handle).err(), Some(Error::BadArgument));
    must!(bare.run_to_end());
    Ok(())
}

fn reports_are_set_up_with_good_arguments_only(_: &'static World) -> Verdict {
    let (endpoint, badged) = must!(listener());
    let bare = must!(prepared(code!("ud2"), |_| {}));
    let memory = must!(Memory::create(4096));
    let receives = must!(endpoint.duplicate(Rights::RECEIVE));
    let unmanaged = must!(bare.thread.duplicate(Rights::QUERY));
    let unmanaged_process = must!(bare.process.duplicate(Rights::QUERY));
    let number = |handle: &dyn AsHandle| handle.handle().0;
    let (thread, process) = (number(&bare.thread), number(&bare.process));
    let cases = [
        ([0, 0, number(&badged)], Error::BadHandle),
        ([u64::MAX, 0, number(&badged)], Error::BadHandle),
        ([number(&memory), 0, number(&badged)], Error::WrongObject),
        ([number(&unmanaged), 0, number(&badged)], Error::NoRight),
        (
            [number(&unmanaged_process), 0, number(&badged)],
            Error::NoRight,
        ),
        ([thread, u64::MAX, number(&badged)], Error::BadArgument),
        ([process, 1 << 32, number(&badged)], Error::BadArgument),
        ([thread, 0, u64::MAX], Error::BadHandle),
        ([thread, 0, process], Error::WrongObject),
        ([process, 0, number(&receives)], Error::NoRight),
    ];
    for ([subject, kind, endpoint], error) in cases {
        refused(Call::ReportTo, &[subject, kind, endpoint], error)?;
    }
    // Nothing of that counts: the program ends by its fault.
    must!(bare.thread.start());
    let info = must!(bare.run_to_end());
    faulted("", &info, FaultKind::InvalidInstruction)?;
    for subject in [thread, process] {
        refused(Call::ReportTo, &[subject, 0, number(&badged)], Error::Ended)?;
    }
    Ok(())
}

fn only_replies_to_reports_give_registers(_: &'static World) -> Verdict {
    let endpoint = must!(Endpoint::create());
    let handle = endpoint.handle();
    let client = must!(thread::spawn(move || {
        let endpoint = Endpoint::from_handle(rt::OwnedHandle::from_raw(handle));
        let answer = endpoint.call(Message::new(1), 0, soon());
        let _ = endpoint.into_handle().into_raw();
        answer.map(|answer| answer.label)
    }));
    let message = must!(receive(&endpoint, 0));
    let Some(reply) = message.reply else {
        fail!("a call came without a reply");
    };
    same!(reply.registers().err(), Some(Error::NoRight));
    // SAFETY: it is refused.
    let set = unsafe { reply.set_registers(&UserContext::default()) };
    same!(set.err(), Some(Error::NoRight));
    let raw = reply.handle().0;
    must!(reply.answer(Message::new(2)));
    same!(must!(must!(client.join(soon()))), 2);
    let mut context = UserContext::default();
    let arguments = [
        raw,
        ContextPart::Registers as u64,
        &raw mut context as u64,
        size_of::<UserContext>() as u64,
    ];
    refused(Call::ThreadGetContext, &arguments, Error::BadHandle)
}
