//! A greeting from 32-bit code: it says by which instruction it enters the kernel here. It is linked as
//! position-independent, so that the loader's relocations have something to do.

#![cfg_attr(target_arch = "x86", no_std, no_main)]

rt32::entry!(run);

/// Words that the loader must have moved: pointers in data.
#[cfg(target_arch = "x86")]
static WAYS: [(&[u8], &str); 3] = [
    (&[0xCD, 0x80], "int 0x80"),
    (&[0x51, 0x0F, 0x05], "syscall"),
    (&[0x55, 0x89, 0xE5, 0x0F, 0x34], "sysenter"),
];

#[cfg(target_arch = "x86")]
fn run() -> u64 {
    let address = rt32::tls::vsyscall();
    // SAFETY: the landing page's routine is 16 bytes of readable code.
    let code = unsafe { core::slice::from_raw_parts(address as usize as *const u8, 16) };
    let way = WAYS.iter().find(|(start, _)| code.starts_with(start));
    let name = rt32::start::argument();
    rt32::log::write(format_args!(
        "hello{}{name} from 32-bit code, by {}\n",
        if name.is_empty() { "" } else { ", " },
        way.map_or("an unknown way", |(_, text)| text)
    ));
    u64::from(way.is_none())
}
