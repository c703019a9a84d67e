//! Handles: what none of them names, what they allow, and that they name nothing else later.

use abi::{Call, Error, Protection, Rights};
use rt::{AsHandle, Endpoint, Memory, Notification};

use super::tests;
use super::things::{Kind, NONE, Things};
use crate::kernel_calls::{call, raw, refused};
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, must, same};

tests! {
    bad_handles_are_refused_by_every_call: 40,
    handles_of_another_kind_are_refused_by_every_call: 40,
    handles_without_the_right_are_refused_by_every_call: 40,
    rights_never_grow: 40,
    stale_handle_never_reaches_a_new_object: 40,
}

/// Calls to which a first argument of 0 says something else: to unbind, or the caller's own process.
const ZERO_IS_MEANT: [Call; 8] = [
    Call::NotificationBind,
    Call::MemoryMap,
    Call::MemoryUnmap,
    Call::MemoryProtect,
    Call::MemoryMapNew,
    Call::ThreadCreate,
    Call::ProcessInfo,
    Call::ProcessQuota,
];

fn bad_handles_are_refused_by_every_call(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    let closed = must!(Notification::create()).handle().0;
    let live = things.memory.handle().0;
    let bad = [
        0,
        closed,
        u64::from(u32::MAX),
        live & 0xFFFF_FFFF,
        live + (1 << 32),
        live ^ 1 << 63,
        live | 0xFF_0000,
        u64::MAX,
        1 << 63,
        0x4000_0000_0000_0001,
    ];
    for (call, index, _, _, mut arguments) in things.places(world) {
        for handle in bad {
            if handle == 0 && index == 0 && ZERO_IS_MEANT.contains(&call) {
                continue;
            }
            arguments[index] = handle;
            refused(call, &arguments, Error::BadHandle)?;
        }
    }
    for handle in bad {
        refused(Call::HandleClose, &[handle], Error::BadHandle)?;
    }
    Ok(())
}

fn handles_of_another_kind_are_refused_by_every_call(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    let kinds = [
        Kind::Endpoint,
        Kind::Notification,
        Kind::Memory,
        Kind::Process,
        Kind::Thread,
        Kind::Irq,
        Kind::Ports,
        Kind::Log,
        Kind::System,
    ];
    for (call, index, wanted, _, arguments) in things.places(world) {
        for kind in kinds
            .into_iter()
            .filter(|kind| wanted != Kind::Any && *kind != wanted)
        {
            let mut arguments = arguments.clone();
            arguments[index] = things.handle(world, kind);
            refused(call, &arguments, Error::WrongObject)?;
        }
    }
    Ok(())
}

fn handles_without_the_right_are_refused_by_every_call(world: &'static World) -> Verdict {
    let things = must!(Things::new(world));
    for (call, index, kind, right, mut arguments) in things.places(world) {
        if right == NONE {
            continue;
        }
        let whole = things.handle(world, kind);
        let has = Rights(
            must!(rt::OwnedHandle::query(&core::mem::ManuallyDrop::new(
                rt::OwnedHandle::from_raw(rt::Handle(whole))
            )))
            .rights,
        );
        // All rights but the one; a handle that can't be duplicated is none to try it with.
        let rest = has - right;
        let lesser = must!(crate::kernel_calls::call(
            Call::HandleDuplicate,
            &[whole, u64::from(rest.0)]
        ))[0];
        arguments[index] = lesser;
        refused(call, &arguments, Error::NoRight)?;
        must!(crate::kernel_calls::call(Call::HandleClose, &[lesser]));
    }
    Ok(())
}

fn rights_never_grow(world: &'static World) -> Verdict {
    let memory = must!(Memory::create(4096));
    let lesser = must!(memory.duplicate(Rights::READ | Rights::DUPLICATE | Rights::TRANSFER));
    for rights in [Rights::WRITE, Rights::ALL, Rights::READ | Rights::EXECUTE] {
        refused(
            Call::HandleDuplicate,
            &[lesser.handle().0, u64::from(rights.0)],
            Error::NoRight,
        )?;
        let own = rt::process::current().handle().0;
        refused(
            Call::HandleGrant,
            &[own, lesser.handle().0, u64::from(rights.0)],
            Error::NoRight,
        )?;
    }
    same!(
        must!(lesser.duplicate(Rights::READ))
            .query()
            .map(|info| info.rights),
        Ok(Rights::READ.0)
    );
    for protection in [Protection::READ_WRITE, Protection::READ_EXECUTE] {
        same!(lesser.map(protection).map(|_| ()), Err(Error::NoRight));
    }
    // Not by way of a mapping either.
    let mapping = must!(lesser.map(Protection::READ));
    for protection in [Protection::READ_WRITE, Protection::READ_EXECUTE] {
        // SAFETY: nothing of this program is there.
        let changed =
            unsafe { rt::process::current().protect(mapping.as_ptr() as u64, 4096, protection) };
        same!(changed, Err(Error::NoRight));
    }
    let endpoint = must!(Endpoint::create());
    let sender = must!(endpoint.mint(rt::Badge(5), Rights::SEND | Rights::MINT));
    same!(
        sender.mint(rt::Badge(6), Rights::RECEIVE).map(|_| ()),
        Err(Error::NoRight)
    );
    let _ = world;
    Ok(())
}

fn stale_handle_never_reaches_a_new_object(_: &'static World) -> Verdict {
    let first = must!(Notification::create()).handle().0;
    let mut stale = alloc::vec![first];
    for round in 0..6000_u64 {
        let fresh = must!(call(Call::NotificationCreate, &[]))[0];
        check!(
            !stale.contains(&fresh),
            "handle {fresh:#x} came again in round {round}"
        );
        for old in stale.iter().rev().take(8) {
            same!(
                raw(Call::Signal as u64, &[*old, 1]).status,
                Error::BadHandle as u64
            );
        }
        must!(call(Call::HandleClose, &[fresh]));
        if stale.len() < 64 || round % 100 == 0 {
            stale.push(fresh);
        }
    }
    Ok(())
}
