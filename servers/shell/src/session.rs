//! A session: prompt, line, command, again.

use alloc::format;
use alloc::string::String;

use crate::command;
use crate::editor::{Editor, Step};
use crate::run::run;
use crate::show;
use crate::world::World;

/// What the shell writes when it waits for a command. Tools wait for just this.
pub const PROMPT: &str = "switchyard> ";
/// A terminal wider than this at the other end of a serial line is not to be counted on.
const MOST_COLUMNS: usize = 80;

/// A session.
#[derive(Debug)]
pub struct Session {
    editor: Editor,
}

impl Session {
    /// A session on this world's terminal, which gets the first prompt.
    pub fn start(world: &mut impl World) -> Session {
        let mut editor = Editor::new(PROMPT, world.columns().min(MOST_COLUMNS));
        editor.begin();
        world.write(&editor.take_output());
        Session { editor }
    }

    /// Reads once and does what was typed.
    ///
    /// # Errors
    /// If there is no input to be had; the line so far is kept.
    pub fn turn(&mut self, world: &mut impl World) -> Result<(), String> {
        let input = world.read()?;
        if input.is_empty() {
            self.editor.redraw();
        }
        for byte in input {
            match self.editor.add(byte) {
                Step::More => {}
                Step::Line(line) => {
                    world.write(&self.editor.take_output());
                    carry_out(&line, world);
                    self.editor.begin();
                }
                Step::Cancelled => self.editor.begin(),
                Step::Clear => world.clear(),
            }
        }
        let output = self.editor.take_output();
        if !output.is_empty() {
            world.write(&output);
        }
        Ok(())
    }

    /// The terminal was lost and is back: shows the prompt again.
    pub fn again(&mut self, world: &mut impl World) {
        self.editor.redraw();
        world.write(&self.editor.take_output());
    }
}

fn carry_out(line: &str, world: &mut impl World) {
    let done = command::parse(line)
        .and_then(|command| command.map_or(Ok(()), |command| run(&command, world)));
    if let Err(error) = done {
        world.write(&format!("{}\n", show::printable(&error)));
    }
}
