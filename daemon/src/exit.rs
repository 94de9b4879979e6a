//! What the exit status of a command means; `docs/daemon.md` has the table for people.

use std::fmt;

/// It went wrong; the message says how.
pub const FAILED: u8 = 1;

/// The run has ended, but its last steps are not saved: they will be done again.
pub const NOT_SAVED: u8 = 3;

/// No daemon lives there that could be asked.
pub const NO_DAEMON: u8 = 4;

/// It was asked for and has not happened in the time that was given.
pub const TIMED_OUT: u8 = 5;

/// An error with an exit status of its own.
#[derive(Debug)]
pub struct Fault {
    /// One of the above.
    pub status: u8,
    /// What happened, where, and what to do.
    pub message: String,
}

impl Fault {
    /// An error as commands return it.
    pub fn error(status: u8, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Fault { status, message: message.into() })
    }

    /// The exit status of an error that was made by whomever.
    pub fn status_of(error: &anyhow::Error) -> u8 {
        error.downcast_ref::<Fault>().map_or(FAILED, |fault| fault.status)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
