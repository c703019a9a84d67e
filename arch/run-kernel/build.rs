//! Names the linker script to the linker when the kernel proper is built.

fn main() {
    println!("cargo:rerun-if-changed=linker.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo names the package's folder");
        println!("cargo:rustc-link-arg-bins=-T{folder}/linker.ld");
        println!("cargo:rustc-link-arg-bins=--gc-sections");
    }
}
