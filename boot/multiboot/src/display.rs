//! The display of virtual machines: Bochs VBE, which QEMU's standard VGA, Bochs and VirtualBox have.
//!
//! QEMU's `-kernel` brings no framebuffer, and GRUB only where the BIOS has a mode for it. This display's modes are set by a
//! pair of ports (QEMU, docs/specs/standard-vga: index at 1CEh, data at 1CFh), and its memory is the first region of a PCI
//! device.

use boot_core::addr::PhysAddr;
use boot_core::config::Resolution;
use boot_core::front::Screen;
use boot_core::response::{FramebufferFacts, PixelLayout, VideoMode};
use boot_machine::{inl, inw, outl, outw};

const INDEX: u16 = 0x1ce;
const DATA: u16 = 0x1cf;
// Registers.
const ID: u16 = 0;
const WIDTH: u16 = 1;
const HEIGHT: u16 = 2;
const BITS: u16 = 3;
const ENABLE: u16 = 4;
const VIRTUAL_WIDTH: u16 = 6;
const X_OFFSET: u16 = 8;
const Y_OFFSET: u16 = 9;
const MEMORY_64K: u16 = 0xa;
/// Versions of the interface that have 32-bit modes and say how much memory there is.
const VERSIONS: core::ops::RangeInclusive<u16> = 0xb0c4..=0xb0cf;
/// Enable: mode on, linear framebuffer.
const ON: u16 = 0x41;

/// PCI vendor and device of the displays that have these ports: QEMU and Bochs, VirtualBox.
const DEVICES: [u32; 2] = [0x1111_1234, 0xbeef_80ee];

/// What is set if nobody asks for another.
const DEFAULT: Resolution = Resolution {
    width: 1280,
    height: 800,
    bpp: 32,
};

fn read(register: u16) -> u16 {
    outw(INDEX, register);
    inw(DATA)
}

fn write(register: u16, value: u16) {
    outw(INDEX, register);
    outw(DATA, value);
}

/// Reads a double word of a device's configuration on bus 0 (PCI Local Bus Specification 3.0 §3.2.2.3.2).
fn pci(device: u32, function: u32, offset: u32) -> u32 {
    outl(0xcf8, 1 << 31 | device << 11 | function << 8 | offset);
    inl(0xcfc)
}

/// Where the display's memory lies, by its PCI device on bus 0.
fn memory() -> Option<PhysAddr> {
    for device in 0..32 {
        for function in 0..8 {
            let id = pci(device, function, 0);
            if function == 0 && id == u32::MAX {
                break;
            }
            if !DEVICES.contains(&id) {
                continue;
            }
            // Base address 0: bit 0 I/O space, bits 1 and 2 the width, which is 32 bits on a BIOS machine.
            let base = pci(device, function, 0x10);
            if base & 1 == 0 && base & !0xf != 0 {
                return Some(PhysAddr((base & !0xf).into()));
            }
        }
    }
    None
}

/// Sets a mode and says where its pixels are; `None` if there is no such display.
pub fn find(wanted: Option<Resolution>) -> Option<Screen> {
    if !VERSIONS.contains(&read(ID)) {
        return None;
    }
    let address = memory()?;
    let room = u64::from(read(MEMORY_64K)) << 16;
    let fits = |mode: &Resolution| {
        mode.bpp == 32
            && mode.width <= 4096
            && mode.height <= 4096
            && u64::from(mode.width) * u64::from(mode.height) * 4 <= room
    };
    let mode = match wanted {
        Some(wanted) if !fits(&wanted) => {
            crate::say!(
                "switchyard boot: warning: no display mode {}x{}x{}, the default stays",
                wanted.width,
                wanted.height,
                wanted.bpp
            );
            DEFAULT
        }
        wanted => wanted.unwrap_or(DEFAULT),
    };
    if !fits(&mode) {
        return None;
    }
    let (width, height) = (mode.width as u16, mode.height as u16);
    write(ENABLE, 0);
    for (register, value) in [(WIDTH, width), (HEIGHT, height), (BITS, 32)] {
        write(register, value);
    }
    write(ENABLE, ON);
    for (register, value) in [(VIRTUAL_WIDTH, width), (X_OFFSET, 0), (Y_OFFSET, 0)] {
        write(register, value);
    }
    // What it was really set to.
    if (read(WIDTH), read(HEIGHT), read(BITS)) != (width, height, 32) {
        write(ENABLE, 0);
        return None;
    }
    let pitch = u64::from(read(VIRTUAL_WIDTH).max(width)) * 4;
    let mode = VideoMode {
        pitch,
        width: width.into(),
        height: height.into(),
        bpp: 32,
        layout: PixelLayout {
            red: (8, 16),
            green: (8, 8),
            blue: (8, 0),
        },
    };
    Some(Screen {
        bytes: pitch * mode.height,
        facts: FramebufferFacts {
            address,
            mode,
            edid: alloc::vec::Vec::new(),
            modes: alloc::vec![mode],
        },
    })
}
