//! What pagers are told.

/// What became of a page that its pager has taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum TakenBack {
    /// It was not there.
    Nothing = 0,
    /// It was as it had been supplied.
    Unchanged = 1,
    /// It may have been written since: its contents were told, if there was a place for them.
    Written = 2,
}

impl TakenBack {
    /// What a number stands for.
    pub const fn from_number(number: u64) -> Option<TakenBack> {
        match number {
            0 => Some(TakenBack::Nothing),
            1 => Some(TakenBack::Unchanged),
            2 => Some(TakenBack::Written),
            _ => None,
        }
    }
}
