//! `just screenshot`: a picture of the framebuffer console, as the README shows it.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::feeder::Feeder;
use crate::machine::{Machine, OnReset};
use crate::picture::Picture;
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
    let spec = options.spec(&ws, options.start(&ws)?, OnReset::End)?;
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
    let picture = Picture::take(machine.qmp().context("no control channel to QEMU")?)?;
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
