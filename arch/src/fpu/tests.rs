//! The FPU's code on this host's own registers, and its policy against a model of CPUs.

mod model;
mod native;
