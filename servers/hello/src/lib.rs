//! The program to try `run` with: greets whoever its argument names, and does a sum in floating point.
//!
//! The sum is not decoration. Its registers must survive every switch to another thread, so a kernel that mixes them up
//! shows here as a wrong digit. The terms are hidden from the compiler, which would else compute it all beforehand.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use core::hint::black_box;

/// Terms of each arctangent; the first that are left out are below what an `f64` can tell.
const TERMS: u32 = 12;

/// The program's two lines, for this argument string. Control characters, which could move the cursor, are left out.
pub fn text(argument: &str) -> String {
    let whom: String = argument.chars().filter(|c| !c.is_control()).collect();
    let whom = whom.trim();
    let greeting = if whom.is_empty() {
        String::from("hello")
    } else {
        format!("hello, {whom}")
    };
    format!("{greeting}\nby this CPU's reckoning pi is {:.12}\n", pi())
}

/// Pi by Machin's formula of 1706: 16 arctan 1/5 - 4 arctan 1/239.
pub fn pi() -> f64 {
    16.0 * arctangent_of_inverse(5.0) - 4.0 * arctangent_of_inverse(239.0)
}

/// The arctangent of 1/x by its series, for x of 5 and more.
fn arctangent_of_inverse(x: f64) -> f64 {
    let mut power = 1.0 / black_box(x);
    let mut sum = 0.0;
    for term in 0..TERMS {
        sum += power / f64::from(2 * term + 1);
        power /= -(x * x);
    }
    sum
}
