//! The hosted twin of `run`: user code written in assembly, each register looked at on both sides.

#![cfg(target_os = "linux")]

mod bases;
mod children;
mod common;
mod faults;
mod fpu;
mod random;
mod registers;
mod threads;
