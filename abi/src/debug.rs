//! Looking into another process: bounds of the calls for it.

/// Bytes that one [`ProcessRead`](crate::Call::ProcessRead) or [`ProcessWrite`](crate::Call::ProcessWrite) copies at most: a longer range takes several.
pub const MOST_BYTES: u64 = 1 << 20;
