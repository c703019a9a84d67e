//! Lines to the kernel's log.

use core::fmt::{self, Write};

use abi::Call;

use crate::{call, start};

/// Longest text that is written at once; what is more is cut off.
const MOST: usize = 512;

struct Buffer {
    bytes: [u8; MOST],
    length: usize,
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let end = self.length + character.len_utf8();
            if end > MOST {
                return Err(fmt::Error);
            }
            character.encode_utf8(&mut self.bytes[self.length..end]);
            self.length = end;
        }
        Ok(())
    }
}

/// Writes a text, if the program has a log.
pub fn write(text: fmt::Arguments<'_>) {
    let Some(log) = start::handle(abi::start::init::LOG) else {
        return;
    };
    let mut buffer = Buffer {
        bytes: [0; MOST],
        length: 0,
    };
    // It fails only where the rest is cut off.
    let _ = buffer.write_fmt(text);
    let place = buffer.bytes.as_ptr() as u64;
    // SAFETY: the kernel reads the text, nothing else. There is nowhere to say that it failed.
    let _ = unsafe { call::plain(Call::LogWrite, [log, place, buffer.length as u64]) };
}
