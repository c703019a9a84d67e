//! What is to be sent on the serial line: a queue, and the deadline after which a line that takes nothing is given up.

use alloc::collections::VecDeque;
use core::time::Duration;

/// From this many bytes on, writers wait.
pub const FULL: usize = 16 * 1024;
/// A line that takes nothing for so long has nobody at its other end: what waits is dropped.
pub const GIVE_UP: Duration = Duration::from_secs(2);

/// The queue.
#[derive(Debug, Default)]
pub struct Output {
    bytes: VecDeque<u8>,
    /// When the line last took something, or the queue began to wait.
    moved: Duration,
}

impl Output {
    /// Adds text, each line feed with a carriage return before it.
    pub fn add(&mut self, text: &[u8], now: Duration) {
        if self.bytes.is_empty() {
            self.moved = now;
        }
        for byte in text {
            if *byte == b'\n' {
                self.bytes.push_back(b'\r');
            }
            self.bytes.push_back(*byte);
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether writers should wait.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Sends as much as `send` takes: it is given the next bytes and says how many it took.
    pub fn send(&mut self, now: Duration, mut send: impl FnMut(&[u8]) -> usize) {
        loop {
            let (front, _) = self.bytes.as_slices();
            if front.is_empty() {
                return;
            }
            let taken = send(front).min(front.len());
            if taken == 0 {
                break;
            }
            self.moved = now;
            self.bytes.drain(..taken);
        }
        if now.saturating_sub(self.moved) >= GIVE_UP {
            self.bytes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_feeds_get_carriage_returns_and_order_is_kept() {
        let mut output = Output::default();
        output.add(b"a\nb\r\n", Duration::ZERO);
        let mut sent = Vec::new();
        output.send(Duration::ZERO, |bytes| {
            sent.push(bytes[0]);
            1
        });
        assert_eq!(sent, b"a\r\nb\r\r\n");
        assert!(output.is_empty());
    }

    #[test]
    fn line_that_takes_nothing_is_given_up_after_a_while_only() {
        let mut output = Output::default();
        output.add(&[b'x'; FULL], Duration::from_secs(5));
        assert!(output.is_full());
        output.send(Duration::from_secs(6), |_| 0);
        assert!(output.is_full());
        output.send(Duration::from_millis(6500), |_| 0);
        let mut one = true;
        output.send(Duration::from_millis(6900), |_| {
            usize::from(core::mem::take(&mut one))
        });
        output.send(Duration::from_millis(8800), |_| 0);
        assert!(!output.is_empty());
        output.send(Duration::from_millis(8900), |_| 0);
        assert!(output.is_empty());
    }
}
