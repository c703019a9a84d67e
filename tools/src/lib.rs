//! The host program behind the recipes of the `justfile`: it builds the boot image, runs it in QEMU, and collects what
//! tests and benchmarks say on the serial line.
//!
//! It is a library with a thin `main`, so that every part that does not need a machine is tested on the host: the
//! archive, the disk image, the protocols on the serial line, the feeding of piped input.
//!
//! Where things are:
//!
//! | idea | modules |
//! |---|---|
//! | what is in the workspace, and building it | [`workspace`], [`cargo`] |
//! | the image | [`initrd`], [`config`], [`esp`], [`disk`], [`image`] |
//! | the machine | [`firmware`], [`accel`], [`machine`], [`qmp`], [`gdb`], [`bochs`], [`ending`] |
//! | what a machine says | [`ansi`], [`transcript`], [`noise`], [`play`] |
//! | a person at the machine | [`feeder`], [`keys`], [`terminal`], [`run`], [`screenshot`] |
//! | tests and figures | [`report`], [`entry_text`], [`sweep`], [`host_tests`], [`machine_tests`], [`qemu10`], [`bench`], [`grind`], [`fuzz`], [`lint`] |
//! | getting ready | [`setup`] |

pub mod accel;
pub mod ansi;
pub mod bench;
pub mod bios;
pub mod bochs;
pub mod cargo;
pub mod config;
pub mod direct;
pub mod disk;
pub mod ending;
pub mod entry_text;
pub mod esp;
pub mod feeder;
pub mod firmware;
pub mod fuzz;
pub mod gdb;
pub mod grind;
pub mod host_tests;
pub mod image;
pub mod initrd;
pub mod keys;
pub mod lint;
pub mod machine;
pub mod machine_tests;
pub mod noise;
pub mod picture;
pub mod play;
pub mod qemu10;
pub mod qmp;
pub mod reference;
pub mod report;
pub mod run;
pub mod screenshot;
pub mod setup;
pub mod sweep;
pub mod terminal;
pub mod transcript;
pub mod workspace;
