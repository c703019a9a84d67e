//! Interrupt lines on the host's controller. The vectors are one set for all tests, so they take turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::{Deadline, Error};

use super::controller::{BROKEN, CPUS, LINES, cpu, register, state};
use super::*;
use crate::object::quiescent;
use crate::schedule;
use crate::thread::WOKEN_AT_ONCE;
use crate::thread::testing::*;

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    crate::memory::testing::kernel_machine();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(gsi: u32) -> Line {
    Line {
        gsi,
        active_low: false,
        level_triggered: true,
    }
}

fn poll(program: &Program, notification: &Notification) -> Result<u64, Error> {
    program
        .wait(notification, Deadline::NOW)
        .map(|_| program.thread().registers().rdx)
}

/// An interrupt, at time 0; whether it is somebody's.
fn comes(vector: u8) -> bool {
    !matches!(arrived(vector, 3, 0), Arrival::Nobodys { .. })
}

#[test]
fn an_interrupt_masks_its_line_and_signals_until_it_is_acknowledged() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let irq = Irq::create(line(4)).unwrap();
    let (vector, masked) = state(4);
    assert!(masked && (FIRST_VECTOR..END_VECTOR).contains(&vector));
    irq.bind(notification.clone(), 0b100).unwrap();
    assert_eq!(state(4), (vector, false));
    assert!(comes(vector));
    assert_eq!(state(4), (vector, true), "it can't storm");
    assert_eq!(poll(&program, &notification), Ok(0b100));
    assert_eq!(poll(&program, &notification), Err(Error::TimedOut));
    irq.acknowledge().unwrap();
    assert_eq!(state(4), (vector, false));
    // One that waits is woken by it.
    assert_eq!(
        program.wait(&notification, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert!(comes(vector));
    assert_eq!(
        (woken(), program.resume()),
        (vec![program.pointer()], Ok(()))
    );
}

#[test]
fn an_edge_is_not_masked_so_that_the_next_one_is_not_lost() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let edge = Line {
        level_triggered: false,
        ..line(6)
    };
    let irq = Irq::create(edge).unwrap();
    let (vector, masked) = state(6);
    assert!(masked, "nobody is bound to it yet");
    irq.bind(notification.clone(), 1).unwrap();
    for _ in 0..2 {
        assert!(comes(vector));
        assert_eq!(state(6), (vector, false));
        assert_eq!(poll(&program, &notification), Ok(1));
    }
}

#[test]
fn an_interrupt_that_nobody_is_bound_to_masks_the_line() {
    let _turn = alone();
    let irq = Irq::create(line(5)).unwrap();
    let (vector, _) = state(5);
    irq.acknowledge().unwrap();
    assert!(comes(vector));
    assert_eq!(state(5), (vector, true));
}

#[test]
fn a_line_has_one_owner_until_it_is_given_up() {
    let _turn = alone();
    let irq = Irq::create(line(7)).unwrap();
    let (vector, _) = state(7);
    assert_eq!(Irq::create(line(7)).err(), Some(Error::Busy));
    irq.bind(notification(), 1).unwrap();
    let second = irq.clone();
    drop(irq);
    assert!(comes(vector) && Irq::create(line(7)).is_err());
    second.acknowledge().unwrap();
    drop(second);
    assert!(state(7).1, "nobody serves it, so it is masked");
    assert!(!comes(vector));
    assert!(Irq::create(line(7)).is_ok());
}

#[test]
fn a_second_binding_replaces_the_first() {
    let _turn = alone();
    let (program, first, second) = (Program::alone("driver"), notification(), notification());
    let irq = Irq::create(line(8)).unwrap();
    irq.bind(first.clone(), 1).unwrap();
    irq.bind(second.clone(), 2).unwrap();
    assert!(comes(state(8).0));
    assert_eq!(poll(&program, &first), Err(Error::TimedOut));
    assert_eq!(poll(&program, &second), Ok(2));
    // The line keeps the notification: with the line the waiters hear of its end.
    drop(first);
    assert_eq!(program.wait(&second, Deadline::NEVER), Ok(Went::Blocked));
    drop(second);
    assert!(woken().is_empty());
    drop(irq);
    assert_eq!(
        (woken(), program.resume()),
        (vec![program.pointer()], Err(Error::PeerClosed))
    );
}

/// Threads that wait for what only `irq` can signal.
fn many_who_wait_for(irq: &Irq) -> Vec<Program> {
    let notification = mute_notification();
    irq.bind(notification.clone(), 1).unwrap();
    let waiters: Vec<Program> = (0..100).map(|_| Program::alone("waiter")).collect();
    for waiter in &waiters {
        let went = waiter.wait(&notification, Deadline::NEVER);
        assert_eq!(went, Ok(Went::Blocked));
    }
    waiters
}

fn all_are_told(waiters: Vec<Program>) {
    for waiter in waiters {
        assert_eq!(waiter.resume(), Err(Error::PeerClosed));
        waiter.leave();
    }
}

#[test]
fn the_many_who_wait_for_a_replaced_binding_are_woken_a_few_at_a_time() {
    let _turn = alone();
    let irq = Irq::create(line(9)).unwrap();
    let waiters = many_who_wait_for(&irq);
    schedule::longest_stretch();
    irq.bind(notification(), 1).unwrap();
    assert_eq!(woken().len(), waiters.len());
    let step = schedule::longest_stretch();
    assert!(step <= WOKEN_AT_ONCE, "{step} are woken in one go");
    all_are_told(waiters);
}

#[test]
fn the_many_who_wait_for_a_line_that_is_given_up_are_woken_a_few_at_a_time() {
    let _turn = alone();
    let irq = Irq::create(line(10)).unwrap();
    let waiters = many_who_wait_for(&irq);
    drop(irq);
    // The line is free at once.
    drop(Irq::create(line(10)).unwrap());
    let mut told = woken().len();
    assert!((1..=WOKEN_AT_ONCE).contains(&told), "{told}");
    for _ in 0..10_000 {
        // Each call does a piece.
        quiescent::reclaim(1, &|_| {}, &mut |_| {});
        let step = woken().len();
        assert!(step <= WOKEN_AT_ONCE, "{step} are woken in one go");
        told += step;
        if told == waiters.len() {
            break;
        }
    }
    assert_eq!(told, waiters.len());
    all_are_told(waiters);
}

#[test]
fn lines_that_do_not_exist_or_fail_are_refused_and_hold_nothing() {
    let _turn = alone();
    for gsi in [LINES, LINES + 1, u32::MAX] {
        assert_eq!(Irq::create(line(gsi)).err(), Some(Error::NotSupported));
    }
    for _ in 0..2 * VECTORS {
        assert_eq!(Irq::create(line(BROKEN)).err(), Some(Error::NotSupported));
    }
    assert!(Irq::create(line(0)).is_ok());
}

#[test]
fn vectors_are_each_one_lines_and_run_out() {
    let _turn = alone();
    let mut lines: Vec<Ref<Irq>> = Vec::new();
    let mut vectors: Vec<u8> = Vec::new();
    let error = loop {
        let gsi = lines.len() as u32;
        match Irq::create(line(gsi)) {
            Ok(irq) => lines.push(irq),
            Err(error) => break error,
        }
        vectors.push(state(gsi).0);
    };
    assert_eq!((error, lines.len()), (Error::Busy, VECTORS - 1));
    vectors.sort_unstable();
    vectors.dedup();
    assert_eq!(vectors.len(), VECTORS - 1);
    assert!(
        !vectors.contains(&0x80),
        "user code could raise it by `int 0x80`"
    );
    assert!(!comes(0x80));
    for vector in (0..FIRST_VECTOR).chain(END_VECTOR..=255) {
        assert!(!comes(vector));
    }
    lines.remove(17);
    assert!(Irq::create(line(240)).is_ok());
}

/// A rate of three in a microsecond.
fn slow() -> Rate {
    Rate {
        count: 3,
        period_ns: 1000,
    }
}

#[test]
fn a_message_is_masked_at_its_device_until_it_is_acknowledged() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let (irq, message) = Irq::create_message(2, Some((0xFEB0_000C, 5))).unwrap();
    assert_eq!(message.address, 0xFEE0_2000);
    let vector = message.data as u8;
    assert_eq!(register(), 1 << 5, "nobody is bound to it yet");
    irq.bind(notification.clone(), 1).unwrap();
    assert_eq!(register(), 0);
    assert!(comes(vector));
    assert_eq!(register(), 1 << 5);
    assert_eq!(poll(&program, &notification), Ok(1));
    irq.acknowledge().unwrap();
    assert_eq!(register(), 0);
    drop(irq);
    assert_eq!(register(), 1 << 5, "nobody serves it");
    assert!(!comes(vector));
}

#[test]
fn a_message_without_a_mask_is_passed_on_each_time() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let (irq, message) = Irq::create_message(0, None).unwrap();
    irq.bind(notification.clone(), 1).unwrap();
    for _ in 0..3 {
        assert!(comes(message.data as u8));
        assert_eq!(poll(&program, &notification), Ok(1));
    }
    let info = irq.info().unwrap();
    assert_eq!(info.flags, IrqInfo::MESSAGE | IrqInfo::BOUND);
    assert_eq!((info.arrived, info.address), (3, message.address));
    assert_eq!(
        (info.cpu, info.last_cpu),
        (0, 3),
        "on its way from another CPU"
    );
}

#[test]
fn messages_for_cpus_out_of_reach_are_refused_and_hold_nothing() {
    let _turn = alone();
    for _ in 0..2 * VECTORS {
        let far = Irq::create_message(CPUS - 1, None).err();
        assert_eq!(far, Some(Error::NotSupported));
        assert_eq!(
            Irq::create_message(CPUS, None).err(),
            Some(Error::OutOfRange)
        );
    }
    let (irq, message) = Irq::create_message(0, None).unwrap();
    assert_eq!(irq.route(CPUS - 1), Err(Error::NotSupported));
    assert_eq!(irq.route(u32::MAX), Err(Error::OutOfRange));
    assert_eq!(irq.info().unwrap().address, message.address);
}

#[test]
fn an_interrupt_keeps_its_vector_when_it_goes_to_another_cpu() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let (irq, first) = Irq::create_message(0, None).unwrap();
    irq.bind(notification.clone(), 1).unwrap();
    let second = irq.route(1).unwrap();
    assert_eq!((first.data, 0xFEE0_1000), (second.data, second.address));
    assert!(comes(first.data as u8), "one that is on its way still");
    assert_eq!(poll(&program, &notification), Ok(1));

    let irq = Irq::create(line(9)).unwrap();
    let (vector, _) = state(9);
    irq.bind(notification.clone(), 2).unwrap();
    assert!(comes(vector));
    assert_eq!(poll(&program, &notification), Ok(2));
    assert_eq!(irq.route(2), Ok(Message::default()));
    assert_eq!(
        (state(9), cpu(9)),
        ((vector, true), 2),
        "not acknowledged yet"
    );
    assert_eq!(irq.route(CPUS), Err(Error::OutOfRange));
    irq.acknowledge().unwrap();
    assert_eq!((state(9), cpu(9)), ((vector, false), 2));
    assert_eq!(irq.route(1), Ok(Message::default()));
    assert_eq!((state(9), cpu(9)), ((vector, false), 1));
    assert_eq!(poll(&program, &notification), Err(Error::TimedOut));

    let edge = Line {
        level_triggered: false,
        ..line(10)
    };
    let irq = Irq::create(edge).unwrap();
    irq.bind(notification.clone(), 4).unwrap();
    irq.route(1).unwrap();
    assert_eq!(poll(&program, &notification), Ok(4), "an edge may be lost");
}

#[test]
fn a_storm_is_held_back_and_what_came_meanwhile_is_one_signal() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let (irq, message) = Irq::create_message(0, None).unwrap();
    let vector = message.data as u8;
    irq.bind(notification.clone(), 1).unwrap();
    irq.limit(slow()).unwrap();
    for _ in 0..3 {
        assert_eq!(arrived(vector, 3, 7), Arrival::Taken);
    }
    let end = 7 + abi::irq::HOLD_NS;
    let storm = |first| Arrival::Storm {
        until_ns: end,
        first,
        rate: slow(),
    };
    assert_eq!(arrived(vector, 3, 7), storm(true));
    assert_eq!(poll(&program, &notification), Ok(1));
    for _ in 0..5 {
        assert_eq!(arrived(vector, 3, 8), Arrival::Taken);
        assert_eq!(poll(&program, &notification), Err(Error::TimedOut));
    }
    assert_eq!(open_gates(8), Some(end));
    assert_ne!(irq.info().unwrap().flags & IrqInfo::HELD, 0);
    assert_eq!(open_gates(end), None);
    assert_eq!(poll(&program, &notification), Ok(1));
    assert_eq!(open_gates(end), None);
    assert_eq!(poll(&program, &notification), Err(Error::TimedOut));
    for _ in 0..3 {
        assert_eq!(arrived(vector, 3, end), Arrival::Taken);
    }
    assert!(matches!(
        arrived(vector, 3, end),
        Arrival::Storm { first: false, .. }
    ));
    let info = irq.info().unwrap();
    assert_eq!((info.arrived, info.missed, info.storms), (13, 5, 2));
    // It goes while it is held back.
    drop(irq);
    assert_eq!(open_gates(u64::MAX), None);
}

#[test]
fn a_line_in_a_storm_is_masked_also_if_it_is_acknowledged() {
    let _turn = alone();
    let notification = notification();
    let irq = Irq::create(line(11)).unwrap();
    let (vector, _) = state(11);
    irq.bind(notification.clone(), 1).unwrap();
    irq.limit(slow()).unwrap();
    for _ in 0..4 {
        assert!(comes(vector));
        irq.acknowledge().unwrap();
    }
    assert!(state(11).1);
    open_gates(abi::irq::HOLD_NS);
    assert!(!state(11).1);
    // One that was not acknowledged stays masked.
    for _ in 0..4 {
        irq.acknowledge().unwrap();
        assert!(comes(vector));
    }
    open_gates(abi::irq::HOLD_NS);
    assert!(state(11).1);
    irq.acknowledge().unwrap();
    assert!(!state(11).1);
}

#[test]
fn an_edge_in_a_storm_is_masked_and_looked_for_afterwards() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let edge = Line {
        level_triggered: false,
        ..line(12)
    };
    let irq = Irq::create(edge).unwrap();
    let (vector, _) = state(12);
    irq.bind(notification.clone(), 1).unwrap();
    irq.limit(slow()).unwrap();
    for _ in 0..4 {
        assert!(comes(vector));
    }
    assert!(state(12).1);
    assert_eq!(poll(&program, &notification), Ok(1));
    open_gates(abi::irq::HOLD_NS);
    assert!(!state(12).1);
    assert_eq!(poll(&program, &notification), Ok(1));
}

#[test]
fn interrupts_of_nobody_are_told_of_once() {
    let _turn = alone();
    let (irq, message) = Irq::create_message(0, None).unwrap();
    drop(irq);
    let vector = message.data as u8;
    assert_eq!(arrived(vector, 3, 0), Arrival::Nobodys { first: true });
    for _ in 0..3 {
        assert_eq!(arrived(vector, 3, 0), Arrival::Nobodys { first: false });
    }
    let taken = (0..VECTORS).map_while(|_| Irq::create_message(0, None).ok());
    let taken: Vec<_> = taken.map(|(irq, message)| (irq, message.data)).collect();
    assert_eq!(
        taken.last().map(|(_, data)| *data),
        Some(message.data),
        "the vector that was free for the shortest time is the last that is used again"
    );
    drop(taken);
    assert_eq!(arrived(vector, 3, 0), Arrival::Nobodys { first: true });
}
