//! The handle table against a plain model, and at its limits.

use super::HandleTable;

impl HandleTable {
    /// Slots promised to receivers.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserved
    }
}
