//! Messages between threads that stand still: each test is a program of few steps on the rig of
//! [`thread::testing`](crate::thread::testing).

mod call;
