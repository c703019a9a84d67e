//! Links the kernel by its own script: static at the higher half, or position-independent at 0.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let pie = std::env::var_os("CARGO_FEATURE_PIE").is_some();
    let base = if pie { "0" } else { "0xffffffff80200000" };
    // The last of -pie and -no-pie counts; the target's own default is -pie.
    let kind = if pie { "-pie" } else { "-no-pie" };
    for arg in [
        kind.to_owned(),
        format!("--defsym=IMAGE_BASE={base}"),
        format!("-T{folder}/link.ld"),
        "--gc-sections".to_owned(),
        "-zmax-page-size=0x1000".to_owned(),
    ] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
