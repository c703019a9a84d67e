//! Interrupt lines on the host's controller. The vectors are one set for all tests, so they take turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::{Deadline, Error};

use super::controller::{BROKEN, LINES, state};
use super::*;
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

#[test]
fn an_interrupt_masks_its_line_and_signals_until_it_is_acknowledged() {
    let _turn = alone();
    let (program, notification) = (Program::alone("driver"), notification());
    let irq = Irq::create(line(4)).unwrap();
    let (vector, masked) = state(4);
    assert!(masked && (FIRST_VECTOR..END_VECTOR).contains(&vector));
    irq.bind(notification.clone(), 0b100);
    assert_eq!(state(4), (vector, false));
    assert!(arrived(vector));
    assert_eq!(state(4), (vector, true), "it can't storm");
    assert_eq!(poll(&program, &notification), Ok(0b100));
    assert_eq!(poll(&program, &notification), Err(Error::TimedOut));
    irq.acknowledge();
    assert_eq!(state(4), (vector, false));
    // One that waits is woken by it.
    assert_eq!(
        program.wait(&notification, Deadline::NEVER),
        Ok(Went::Blocked)
    );
    assert!(arrived(vector));
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
    irq.bind(notification.clone(), 1);
    for _ in 0..2 {
        assert!(arrived(vector));
        assert_eq!(state(6), (vector, false));
        assert_eq!(poll(&program, &notification), Ok(1));
    }
}

#[test]
fn an_interrupt_that_nobody_is_bound_to_masks_the_line() {
    let _turn = alone();
    let irq = Irq::create(line(5)).unwrap();
    let (vector, _) = state(5);
    irq.acknowledge();
    assert!(arrived(vector));
    assert_eq!(state(5), (vector, true));
}

#[test]
fn a_line_has_one_owner_until_it_is_given_up() {
    let _turn = alone();
    let irq = Irq::create(line(7)).unwrap();
    let (vector, _) = state(7);
    assert_eq!(Irq::create(line(7)).err(), Some(Error::Busy));
    irq.bind(notification(), 1);
    let second = irq.clone();
    drop(irq);
    assert!(arrived(vector) && Irq::create(line(7)).is_err());
    second.acknowledge();
    drop(second);
    assert!(state(7).1, "nobody serves it, so it is masked");
    assert!(!arrived(vector));
    assert!(Irq::create(line(7)).is_ok());
}

#[test]
fn a_second_binding_replaces_the_first() {
    let _turn = alone();
    let (program, first, second) = (Program::alone("driver"), notification(), notification());
    let irq = Irq::create(line(8)).unwrap();
    irq.bind(first.clone(), 1);
    irq.bind(second.clone(), 2);
    assert!(arrived(state(8).0));
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
    assert!(!arrived(0x80));
    for vector in (0..FIRST_VECTOR).chain(END_VECTOR..=255) {
        assert!(!arrived(vector));
    }
    lines.remove(17);
    assert!(Irq::create(line(240)).is_ok());
}
