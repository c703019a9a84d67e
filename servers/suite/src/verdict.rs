//! What a test says at its end, and the macros by which it says so early.

use alloc::format;
use alloc::string::String;

/// Why a test did not hold.
#[derive(Debug)]
pub enum Why {
    /// Something is not as it should be.
    Failed(String),
    /// This machine can't show it.
    Skipped(String),
}

/// How a test ended.
pub type Verdict = Result<(), Why>;

impl From<abi::Error> for Why {
    fn from(error: abi::Error) -> Why {
        Why::Failed(format!("unexpected error: {error}"))
    }
}

/// Ends the test with a reason.
#[macro_export]
macro_rules! fail {
    ($($format:tt)+) => {
        return Err($crate::verdict::Why::Failed(alloc::format!(
            "{} (line {})", core::format_args!($($format)+), line!()
        )))
    };
}

/// Ends the test as one that can't run here.
#[macro_export]
macro_rules! skip {
    ($($format:tt)+) => {
        return Err($crate::verdict::Why::Skipped(alloc::format!($($format)+)))
    };
}

/// Ends the test unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            $crate::fail!("not so: {}", stringify!($condition));
        }
    };
    ($condition:expr, $($format:tt)+) => {
        if !$condition {
            $crate::fail!($($format)+);
        }
    };
}

/// Ends the test unless both are equal.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    $crate::fail!("{} is {left:x?}, not {right:x?}", stringify!($left));
                }
            }
        }
    };
}

/// The value of what must succeed.
#[macro_export]
macro_rules! must {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => $crate::fail!("{}: {error}", stringify!($result)),
        }
    };
}
