//! A debugger for one virtual CPU: the few requests of GDB's remote serial protocol that the injection lane needs, to QEMU's
//! stub over a socket (GDB manual, appendix E; register order: QEMU's `gdb-xml/i386-64bit.xml`).
//!
//! Packets are `$body#sum`. The stub wants a `+` for each of its own or takes the next one's beginning for that, which is what it gets
//! here: half the packets, and on a socket none is lost. What may go wrong: the machine ends in the middle, which closes the
//! socket, or never stops, for which every wait has a bound.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::qmp::Qmp;

/// How long the stub may take to open its socket, or to answer while the machine stands still.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it is quiet after a connection was made.
const SETTLED: Duration = Duration::from_millis(300);

/// Bytes of the registers that are looked at: up to EFER in the stub's order.
const BYTES: usize = 236;

/// The CPU's registers, as the stub sends them and takes them back.
#[derive(Clone, PartialEq, Eq)]
pub struct Registers {
    bytes: Vec<u8>,
}

/// Each register by name, where it lies, and how wide it is.
const LAYOUT: [(&str, usize, usize); 33] = [
    ("rax", 0, 8),
    ("rbx", 8, 8),
    ("rcx", 16, 8),
    ("rdx", 24, 8),
    ("rsi", 32, 8),
    ("rdi", 40, 8),
    ("rbp", 48, 8),
    ("rsp", 56, 8),
    ("r8", 64, 8),
    ("r9", 72, 8),
    ("r10", 80, 8),
    ("r11", 88, 8),
    ("r12", 96, 8),
    ("r13", 104, 8),
    ("r14", 112, 8),
    ("r15", 120, 8),
    ("rip", 128, 8),
    ("rflags", 136, 4),
    ("cs", 140, 4),
    ("ss", 144, 4),
    ("ds", 148, 4),
    ("es", 152, 4),
    ("fs", 156, 4),
    ("gs", 160, 4),
    ("fs_base", 164, 8),
    ("gs_base", 172, 8),
    ("k_gs_base", 180, 8),
    ("cr0", 188, 8),
    ("cr2", 196, 8),
    ("cr3", 204, 8),
    ("cr4", 212, 8),
    ("cr8", 220, 8),
    ("efer", 228, 8),
];

impl Registers {
    /// A register's value.
    ///
    /// # Panics
    /// If there is no register of that name.
    pub fn get(&self, name: &str) -> u64 {
        let (_, at, width) = Self::place(name);
        let mut value = [0; 8];
        value[..width].copy_from_slice(&self.bytes[at..at + width]);
        u64::from_le_bytes(value)
    }

    /// Changes a register here; [`Gdb::set_registers`] changes the CPU's.
    ///
    /// # Panics
    /// If there is no register of that name.
    pub fn set(&mut self, name: &str, value: u64) {
        let (_, at, width) = Self::place(name);
        self.bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }

    fn place(name: &str) -> (&'static str, usize, usize) {
        *LAYOUT
            .iter()
            .find(|(n, ..)| *n == name)
            .unwrap_or_else(|| panic!("there is no register '{name}'"))
    }

    /// The registers that differ, with both values, but those in `apart`.
    pub fn differences(&self, other: &Self, apart: &[&str]) -> Vec<String> {
        LAYOUT
            .iter()
            .filter(|(name, ..)| !apart.contains(name))
            .filter_map(|(name, ..)| {
                let (one, two) = (self.get(name), other.get(name));
                (one != two).then(|| format!("{name} {one:#x} became {two:#x}"))
            })
            .collect()
    }
}

impl std::fmt::Debug for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(LAYOUT.iter().map(|(name, ..)| (name, self.get(name))))
            .finish()
    }
}

/// A connection to the stub.
#[derive(Debug)]
pub struct Gdb {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Gdb {
    /// Has a running QEMU open its stub, and connects to it; that stops the machine.
    ///
    /// # Errors
    /// If QEMU refuses.
    pub fn attach(qmp: &mut Qmp) -> Result<Self> {
        let scratch = tempfile::tempdir().context("temporary folder")?;
        let socket = scratch.path().join("gdb");
        let said = qmp.monitor(&format!(
            "gdbserver unix:{},server=on,wait=off",
            socket.display()
        ))?;
        ensure!(!said.contains("Could not"), "QEMU's gdbserver says: {said}");
        Self::connect(&socket)
    }

    /// Connects to the socket of a QEMU that was started; that stops the machine.
    ///
    /// # Errors
    /// If there is no such socket in time.
    pub fn connect(socket: &Path) -> Result<Self> {
        let started = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if started.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error).context("QEMU's debugger socket"),
            }
        };
        let mut gdb = Self {
            stream,
            buffer: Vec::new(),
        };
        // The stub says that the machine has stopped when it has, and once more when it is asked.
        gdb.ask("?")?;
        while gdb.packet(SETTLED)?.is_some() {}
        Ok(gdb)
    }

    /// All registers.
    ///
    /// # Errors
    /// If the stub does not answer as it should.
    pub fn registers(&mut self) -> Result<Registers> {
        let bytes = unhex(&self.ask("g")?)?;
        ensure!(
            bytes.len() >= BYTES,
            "the debugger's registers are {} bytes short",
            BYTES - bytes.len()
        );
        Ok(Registers { bytes })
    }

    /// Sets all registers.
    ///
    /// # Errors
    /// If the stub refuses.
    pub fn set_registers(&mut self, registers: &Registers) -> Result<()> {
        self.agree(&format!("G{}", hex(&registers.bytes)))
    }

    /// Memory as the CPU sees it now.
    ///
    /// # Errors
    /// If it is not mapped.
    pub fn read(&mut self, address: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < bytes {
            let part = (bytes - all.len()).min(1024);
            let at = address + all.len() as u64;
            let got = unhex(&self.ask(&format!("m{at:x},{part:x}"))?)?;
            ensure!(
                got.len() == part,
                "the debugger can't read memory at {at:#x}"
            );
            all.extend(got);
        }
        Ok(all)
    }

    /// A word of memory.
    ///
    /// # Errors
    /// If it is not mapped.
    pub fn word(&mut self, address: u64) -> Result<u64> {
        let bytes = self.read(address, 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    /// Writes a word of memory.
    ///
    /// # Errors
    /// If it is not mapped.
    pub fn set_word(&mut self, address: u64, value: u64) -> Result<()> {
        self.agree(&format!("M{address:x},8:{}", hex(&value.to_le_bytes())))
    }

    /// Has the machine stop before the instruction at `address`.
    ///
    /// # Errors
    /// If the stub refuses.
    pub fn set_breakpoint(&mut self, address: u64) -> Result<()> {
        self.agree(&format!("Z1,{address:x},1"))
    }

    /// Ends what [`set_breakpoint`](Self::set_breakpoint) began.
    ///
    /// # Errors
    /// If the stub refuses.
    pub fn clear_breakpoint(&mut self, address: u64) -> Result<()> {
        self.agree(&format!("z1,{address:x},1"))
    }

    /// Carries out one instruction, without taking interrupts.
    ///
    /// # Errors
    /// If the machine does not stop again.
    pub fn step(&mut self) -> Result<()> {
        let stop = self.ask("s")?;
        ensure!(stop.starts_with('T'), "a step ended in '{stop}'");
        Ok(())
    }

    /// Lets the machine run. [`wait`](Self::wait) tells when it stops.
    ///
    /// # Errors
    /// If the stub is gone.
    pub fn resume(&mut self) -> Result<()> {
        self.send("c")
    }

    /// Waits for a running machine to stop: whether it did in time.
    ///
    /// # Errors
    /// If the machine has ended.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        match self.packet(limit)? {
            None => Ok(false),
            Some(stop) if stop.starts_with('T') => Ok(true),
            Some(other) => bail!("the machine stopped with '{other}'"),
        }
    }

    /// Stops a running machine.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn interrupt(&mut self) -> Result<()> {
        self.stream
            .write_all(&[3])
            .context("the debugger's socket")?;
        ensure!(self.wait(PATIENCE)?, "the machine does not stop");
        Ok(())
    }

    /// Lets the machine go on by itself, for good.
    ///
    /// # Errors
    /// If the stub is gone.
    pub fn detach(mut self) -> Result<()> {
        self.agree("D")
    }

    fn agree(&mut self, request: &str) -> Result<()> {
        let answer = self.ask(request)?;
        let shown = &request[..request.len().min(40)];
        ensure!(
            answer == "OK",
            "the debugger answers '{answer}' to '{shown}'"
        );
        Ok(())
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        self.send(request)?;
        self.packet(PATIENCE)?
            .with_context(|| format!("the debugger does not answer '{request}'"))
    }

    fn send(&mut self, body: &str) -> Result<()> {
        let packet = format!("${body}#{:02x}", checksum(body.as_bytes()));
        self.stream
            .write_all(packet.as_bytes())
            .context("the debugger's socket")
    }

    /// The next packet; none if it does not come in time.
    fn packet(&mut self, limit: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(packet) = take_packet(&mut self.buffer)? {
                return Ok(Some(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the machine has ended"),
                Ok(n) => self.buffer.extend(&chunk[..n]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("the debugger's socket"),
            }
        }
    }
}

/// Takes the first whole packet out of what was received; acknowledgements are passed over.
fn take_packet(buffer: &mut Vec<u8>) -> Result<Option<String>> {
    let Some(start) = buffer.iter().position(|b| *b == b'$') else {
        buffer.clear();
        return Ok(None);
    };
    let Some(end) = buffer[start..].iter().position(|b| *b == b'#') else {
        return Ok(None);
    };
    let end = start + end;
    if buffer.len() < end + 3 {
        return Ok(None);
    }
    let body = String::from_utf8_lossy(&buffer[start + 1..end]).into_owned();
    let sum = String::from_utf8_lossy(&buffer[end + 1..end + 3]).into_owned();
    buffer.drain(..end + 3);
    ensure!(
        u8::from_str_radix(&sum, 16).ok() == Some(checksum(body.as_bytes())),
        "a packet of the debugger's is damaged"
    );
    Ok(Some(body))
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    ensure!(
        text.len().is_multiple_of(2) && text.is_ascii() && !text.starts_with('E'),
        "the debugger answers '{text}'"
    );
    (0..text.len() / 2)
        .map(|at| {
            u8::from_str_radix(&text[2 * at..2 * at + 2], 16).context("the debugger's digits")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_between_acknowledgements_and_in_parts() {
        let mut buffer = b"++$OK#9a$T05".to_vec();
        assert_eq!(take_packet(&mut buffer).unwrap().as_deref(), Some("OK"));
        assert_eq!(take_packet(&mut buffer).unwrap(), None);
        buffer.extend(b"#b9");
        assert_eq!(take_packet(&mut buffer).unwrap().as_deref(), Some("T05"));
        assert!(buffer.is_empty());
    }

    #[test]
    fn damaged_packet_is_refused() {
        assert!(take_packet(&mut b"$OK#9b".to_vec()).is_err());
        assert!(take_packet(&mut b"$OK#zz".to_vec()).is_err());
    }

    #[test]
    fn errors_are_no_digits() {
        assert!(unhex("E22").is_err());
        assert!(unhex("0").is_err());
        assert_eq!(unhex("00ff").unwrap(), [0, 255]);
    }

    #[test]
    fn registers_lie_where_the_stub_has_them() {
        for pair in LAYOUT.windows(2) {
            assert_eq!(pair[0].1 + pair[0].2, pair[1].1, "{}", pair[1].0);
        }
        let mut one = Registers {
            bytes: vec![0; BYTES],
        };
        let before = one.clone();
        one.set("gs_base", 0xFFFF_8000_0000_1234);
        one.set("rflags", 0x246);
        assert_eq!(one.get("gs_base"), 0xFFFF_8000_0000_1234);
        assert_eq!(
            before.differences(&one, &["rflags"]),
            ["gs_base 0x0 became 0xffff800000001234"]
        );
    }
}
