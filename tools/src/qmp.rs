//! QEMU's control channel (QMP, QEMU's `docs/interop/qmp-spec`): a line of JSON each way over a socket.
//!
//! Used for what the serial line can't tell: pictures of the screen, and whether the guest switched off or was reset.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to open its socket or to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to the socket of a QEMU that was just started; gives up when `alive` says that it has ended.
    pub fn connect(socket: &Path, mut alive: impl FnMut() -> bool) -> Option<Self> {
        let started = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if alive() && started.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(_) => return None,
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            events: Vec::new(),
        };
        qmp.line().ok()?;
        qmp.command("qmp_capabilities", &json!({})).ok()?;
        Some(qmp)
    }

    /// Carries out one command and returns its answer.
    ///
    /// # Errors
    /// If QEMU refuses the command, does not answer in time, or is gone.
    pub fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let line = json!({"execute": name, "arguments": arguments});
        writeln!(self.reader.get_mut(), "{line}").with_context(|| format!("QMP {name}"))?;
        loop {
            let mut answer = self.line().with_context(|| format!("QMP {name}"))?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!(
                    "QMP {name}: {}",
                    error["desc"].as_str().unwrap_or("refused")
                );
            }
            self.events.push(answer);
        }
    }

    /// A command of QEMU's monitor for people, and what it says.
    ///
    /// # Errors
    /// As for [`command`](Self::command).
    pub fn monitor(&mut self, line: &str) -> Result<String> {
        let said = self.command("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// Whether a QEMU that has ended did so because the guest reset the machine.
    pub fn saw_reset(&mut self) -> bool {
        while let Ok(event) = self.line() {
            self.events.push(event);
        }
        self.events
            .iter()
            .any(|e| e["event"] == "SHUTDOWN" && e["data"]["reason"] == "guest-reset")
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed the connection");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A QEMU that has already said everything it will say.
    fn scripted(lines: &[&str]) -> Qmp {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let all = lines.join("\n") + "\n";
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(all.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Reads what the client sends, until it goes.
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        });
        let qmp = Qmp::connect(&socket, || true).unwrap();
        drop(server);
        qmp
    }

    const HELLO: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;

    #[test]
    fn answers_are_found_between_events() {
        let mut qmp = scripted(&[
            HELLO,
            r#"{"return": {}}"#,
            r#"{"event": "RESUME"}"#,
            r#"{"return": {"status": "running"}}"#,
            r#"{"error": {"class": "GenericError", "desc": "no such device"}}"#,
        ]);
        assert_eq!(
            qmp.command("query-status", &json!({})).unwrap()["status"],
            "running"
        );
        let error = qmp.command("eject", &json!({})).unwrap_err();
        assert!(error.to_string().contains("no such device"));
    }

    #[test]
    fn reset_is_told_from_power_off() {
        let shutdown = |reason| {
            format!(r#"{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "{reason}"}}}}"#)
        };
        let yes = r#"{"return": {}}"#;
        assert!(scripted(&[HELLO, yes, &shutdown("guest-reset")]).saw_reset());
        assert!(!scripted(&[HELLO, yes, &shutdown("guest-shutdown")]).saw_reset());
    }

    #[test]
    fn garbage_is_an_error() {
        let mut qmp = scripted(&[HELLO, r#"{"return": {}}"#, "not json"]);
        assert!(qmp.command("stop", &json!({})).is_err());
    }
}
