//! The kernel's binary: its first instructions and its panic handler. All else is the library's.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::panic::on_panic(info)
}

#[cfg(target_os = "none")]
use kernel as _;

/// On the host there is nothing to run: the library's tests are what counts.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("the kernel runs on bare metal: see `just qemu-smp`");
}
