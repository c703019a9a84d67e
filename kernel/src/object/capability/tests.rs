//! Rights that only shrink, and the counts of those who may receive and signal.

use abi::info::ObjectKind;
use abi::{Badge, Deadline, Error, Rights};
use proptest::prelude::*;

use super::{Capability, Object};
use crate::ipc::Signaller;
use crate::thread::testing::*;

fn log(rights: Rights) -> Capability {
    Capability::new(Object::Log, rights, Badge(4))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_duplicate_never_has_more_rights(has in 0..=Rights::ALL.0, wanted in 0..=Rights::ALL.0) {
        let first = log(Rights(has));
        match first.duplicate(Rights(wanted)) {
            Ok(second) => {
                prop_assert_eq!(wanted & !has, 0);
                prop_assert_eq!((second.rights(), second.badge()), (Rights(wanted), Badge(4)));
            }
            Err(error) => {
                prop_assert_ne!(wanted & !has, 0);
                prop_assert_eq!(error, Error::NoRight);
            }
        }
        prop_assert_eq!(first.demand(Rights(wanted)).is_ok(), wanted & !has == 0);
    }
}

#[test]
fn a_minted_one_has_its_own_badge() {
    let first = log(Rights::ALL);
    let second = first.with_badge(Rights::SEND, Badge(u64::MAX)).unwrap();
    assert_eq!(
        (second.badge(), second.rights(), first.badge()),
        (Badge(u64::MAX), Rights::SEND, Badge(4))
    );
    assert_eq!(
        second
            .with_badge(Rights::SEND | Rights::MINT, Badge(1))
            .err(),
        Some(Error::NoRight)
    );
}

#[test]
fn kinds_are_told_as_they_are() {
    let endpoint = endpoint();
    for (object, kind) in [
        (Object::Endpoint(endpoint), ObjectKind::Endpoint),
        (
            Object::Notification(notification()),
            ObjectKind::Notification,
        ),
        (Object::Process(process("kind")), ObjectKind::Process),
        (Object::Log, ObjectKind::Log),
        (Object::System, ObjectKind::System),
    ] {
        assert_eq!(object.kind(), kind);
    }
}

#[test]
fn an_endpoint_is_open_while_one_capability_may_receive() {
    let (endpoint, client) = (endpoint(), Program::alone("client"));
    let is_open = || client.send(&endpoint, 0, Deadline::NOW) == Err(Error::TimedOut);
    assert!(!is_open());
    let first = Capability::new(Object::Endpoint(endpoint.clone()), Rights::ALL, Badge(0));
    assert!(is_open());
    let sender = first.duplicate(Rights::SEND).unwrap();
    let receiver = sender.duplicate(Rights::RECEIVE);
    assert_eq!(receiver.err(), Some(Error::NoRight));
    let receiver = first.with_badge(Rights::RECEIVE, Badge(1)).unwrap();
    drop(first);
    assert!(is_open());
    drop(receiver);
    assert!(!is_open());
    drop(sender);
    assert!(!is_open());
    assert!(woken().is_empty());
}

#[test]
fn a_notification_is_open_while_one_capability_may_signal() {
    let notification = mute_notification();
    let waiters: Vec<Program> = (0..20).map(|_| Program::alone("waiter")).collect();
    let capability =
        |rights| Capability::new(Object::Notification(notification.clone()), rights, Badge(0));
    let first = capability(Rights::ALL);
    let (to_wait, to_signal) = (
        first.duplicate(Rights::WAIT).unwrap(),
        first.duplicate(Rights::SIGNAL).unwrap(),
    );
    for waiter in &waiters {
        assert_eq!(
            waiter.wait(&notification, Deadline::NEVER),
            Ok(Went::Blocked)
        );
    }
    drop(first);
    assert!(woken().is_empty());
    // The kernel's own reference counts as well, also where it replaces another.
    let (kernel, again) = (
        Signaller::new(notification.clone()),
        Signaller::new(notification.clone()),
    );
    to_signal.end();
    drop(kernel);
    assert!(woken().is_empty());
    drop(again);
    assert_eq!(woken().len(), waiters.len());
    for waiter in &waiters {
        assert_eq!(waiter.resume(), Err(Error::PeerClosed));
    }
    // What was signalled before is taken first.
    notification.signal(4);
    assert_eq!(
        waiters[0].wait(&notification, Deadline::NEVER),
        Ok(Went::On)
    );
    for deadline in [Deadline::NEVER, Deadline::NOW] {
        assert_eq!(
            waiters[0].wait(&notification, deadline),
            Err(Error::PeerClosed)
        );
    }
    drop(to_wait);
    assert!(woken().is_empty());
}

#[test]
fn waiters_hear_of_the_last_signaller_however_it_goes() {
    for ends in [false, true] {
        let notification = mute_notification();
        let waiter = Program::alone("waiter");
        let only = Capability::new(
            Object::Notification(notification.clone()),
            Rights::SIGNAL,
            Badge(0),
        );
        assert_eq!(
            waiter.wait(&notification, Deadline::NEVER),
            Ok(Went::Blocked)
        );
        if ends {
            only.end();
        } else {
            drop(only);
        }
        assert_eq!(woken(), [waiter.pointer()]);
        assert_eq!(waiter.resume(), Err(Error::PeerClosed));
    }
}
