//! What the program says.

use core::f64::consts::PI;

#[test]
fn argument_is_greeted() {
    let text = hello::text("world");
    assert_eq!(
        text,
        "hello, world\nby this CPU's reckoning pi is 3.141592653590\n"
    );
}

#[test]
fn without_argument_nobody_is_greeted() {
    assert!(hello::text(" ").starts_with("hello\n"));
}

#[test]
fn control_characters_of_the_argument_reach_no_terminal() {
    assert!(hello::text("a\u{1b}[2J\nb").starts_with("hello, a[2Jb\n"));
}

#[test]
fn sum_is_exact_to_the_last_digits() {
    // Some dozen roundings, each half a unit of a last place at most.
    let error = (hello::pi() - PI).abs();
    assert!(error < 8.0 * f64::EPSILON, "{error}");
}
