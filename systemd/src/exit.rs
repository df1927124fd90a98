//! What a program's exit code says. The same four everywhere, so that scripts can rely on them.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked: 0.
    Done,
    /// It tried and failed: 1.
    Failed,
    /// The command line or the configuration is wrong; nothing was tried: 2.
    Usage,
    /// It expired, or was not delivered: 3.
    NotDelivered,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotDelivered => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
