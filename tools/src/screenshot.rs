//! `just screenshot`: a picture of the framebuffer console, as the README shows it.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::feeder::Feeder;
use crate::machine::{Machine, OnReset};
use crate::play::{Over, play_on};
use crate::run::Options;
use crate::workspace::Workspace;

/// What is typed before the picture is taken.
const COMMANDS: [&str; 5] = ["help", "cpus", "ps", "mem", "ping 100"];
const LIMIT: Duration = Duration::from_mins(3);
/// The prompt reaches the serial line before the last glyph reaches the screen.
const SETTLE: Duration = Duration::from_millis(500);

/// Boots the product, types [`COMMANDS`] and saves the screen as a PNG at `path`.
///
/// # Errors
/// If something can't be built or started, the prompt does not come back, or the picture can't be taken or written.
pub fn run(options: &Options, path: &Path) -> Result<()> {
    let ws = Workspace::find()?;
    let spec = options.spec(options.start(&ws)?, OnReset::End)?;
    let (sender, events) = mpsc::channel();
    let mut machine = Machine::start(&spec, sender)?;
    let played = play_on(
        &mut machine,
        &events,
        Feeder::with_lines(&COMMANDS),
        LIMIT,
        |_| false,
    )?;
    if played.over != Over::Fed {
        bail!("the commands were not carried out; {}", played.tail());
    }
    thread::sleep(SETTLE);
    let scratch = tempfile::tempdir().context("temporary folder")?;
    let dump = scratch.path().join("screen.ppm");
    let qmp = machine.qmp().context("no control channel to QEMU")?;
    qmp.command("screendump", &json!({ "filename": dump }))?;
    let picture = Picture::parse(&std::fs::read(&dump).context("QEMU's picture")?)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    picture.write_png(path)?;
    eprintln!(
        "screenshot: wrote {} ({} x {})",
        path.display(),
        picture.width,
        picture.height
    );
    Ok(())
}

/// Three bytes a pixel, red first.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Picture {
    /// Reads the one form of PPM that QEMU writes: `P6`, no comments, 255 levels.
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let mut word = || -> Result<String> {
            let end = rest
                .iter()
                .position(u8::is_ascii_whitespace)
                .context("PPM header")?;
            let word = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            Ok(word)
        };
        ensure!(word()? == "P6", "not a PPM picture");
        let width: u32 = word()?.parse().context("PPM width")?;
        let height: u32 = word()?.parse().context("PPM height")?;
        ensure!(word()? == "255", "PPM with other than 255 levels");
        let size = u128::from(width) * u128::from(height) * 3;
        ensure!(
            rest.len() as u128 == size,
            "PPM of {} bytes instead of {size}",
            rest.len()
        );
        Ok(Self {
            width,
            height,
            pixels: rest.to_vec(),
        })
    }

    fn write_png(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        let mut writer = encoder.write_header().context("PNG")?;
        writer.write_image_data(&self.pixels).context("PNG")?;
        writer.finish().context("PNG")
    }
}

#[cfg(test)]
mod tests {
    use super::Picture;

    #[test]
    fn picture_of_qemu_is_read() {
        let picture = Picture::parse(b"P6\n2 1\n255\nabcdef").unwrap();
        assert_eq!(
            (picture.width, picture.height, picture.pixels.as_slice()),
            (2, 1, &b"abcdef"[..])
        );
    }

    #[test]
    fn bad_pictures_are_refused() {
        for bytes in [
            &b""[..],
            b"P5\n1 1\n255\nabc",
            b"P6\n2 1\n255\nabc",
            b"P6\n1 1\n65535\nabc",
            b"P6\n4294967295 4294967295\n255\n",
        ] {
            assert!(Picture::parse(bytes).is_err());
        }
    }
}
