//! The framebuffer, through the Graphics Output Protocol (UEFI specification 2.10 §12.9).
//!
//! The firmware's mode is kept unless the configuration asks for another: it is the one its console, and so the
//! loader's last message, is shown in. A display without a linear framebuffer is passed over; some firmware says so by an
//! address of 0 alone.

use crate::files::open;
use alloc::vec::Vec;
use boot_core::addr::PhysAddr;
use boot_core::config::Resolution;
use boot_core::front::Screen;
use boot_core::response::{FramebufferFacts, PixelLayout, VideoMode};
use uefi::boot;
use uefi::proto::console::gop::{EdidDiscovered, GraphicsOutput, ModeInfo, PixelFormat};

/// All modes' pixels have 32 bits (UEFI specification 2.10 §12.9.2.1).
const BITS: u16 = 32;

fn video_mode(info: &ModeInfo) -> Option<VideoMode> {
    let layout = match info.pixel_format() {
        PixelFormat::Rgb => PixelLayout {
            red: (8, 0),
            green: (8, 8),
            blue: (8, 16),
        },
        PixelFormat::Bgr => PixelLayout {
            red: (8, 16),
            green: (8, 8),
            blue: (8, 0),
        },
        PixelFormat::Bitmask => {
            let masks = info.pixel_bitmask()?;
            PixelLayout::from_masks(masks.red, masks.green, masks.blue)?
        }
        PixelFormat::BltOnly => return None,
    };
    let (width, height) = info.resolution();
    Some(VideoMode {
        pitch: info.stride() as u64 * 4,
        width: width as u64,
        height: height as u64,
        bpp: BITS,
        layout,
    })
}

/// Finds the framebuffer and sets the mode, if one is wanted.
pub fn find(wanted: Option<Resolution>) -> Option<Screen> {
    for handle in boot::find_handles::<GraphicsOutput>().ok()? {
        let Ok(mut gop) = open::<GraphicsOutput>(handle) else {
            continue;
        };
        if let Some(wanted) = wanted {
            set_mode(&mut gop, wanted);
        }
        let Some(mode) = video_mode(&gop.current_mode_info()) else {
            continue;
        };
        let modes: Vec<_> = gop.modes().filter_map(|m| video_mode(m.info())).collect();
        let edid = open::<EdidDiscovered>(handle)
            .ok()
            .and_then(|e| e.edid().map(<[u8]>::to_vec))
            .unwrap_or_default();
        // Only asked for once the mode is known to be linear.
        let mut buffer = gop.frame_buffer();
        let address = PhysAddr(buffer.as_mut_ptr() as u64);
        if address.0 == 0 {
            continue;
        }
        let bytes = (buffer.size() as u64).max(mode.pitch * mode.height);
        return Some(Screen {
            facts: FramebufferFacts {
                address,
                mode,
                edid,
                modes,
            },
            bytes,
        });
    }
    None
}

fn set_mode(gop: &mut GraphicsOutput, wanted: Resolution) {
    let fits = |info: &ModeInfo| {
        info.resolution() == (wanted.width as usize, wanted.height as usize)
            && video_mode(info).is_some()
    };
    if fits(&gop.current_mode_info()) && wanted.bpp == u32::from(BITS) {
        return;
    }
    let mode = gop.modes().find(|mode| fits(mode.info()));
    match mode {
        Some(mode) if wanted.bpp == u32::from(BITS) && gop.set_mode(&mode).is_ok() => {}
        _ => crate::say!(
            "switchyard boot: warning: no display mode {}x{}x{}, the firmware's stays",
            wanted.width,
            wanted.height,
            wanted.bpp
        ),
    }
}
