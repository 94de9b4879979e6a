//! Why a worker had to be replaced.

use serde::{Deserialize, Serialize};

/// The cause of a worker's death, as `beit_daemon_restarts_total` counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Killed by a signal, by somebody or by itself.
    Signal,
    /// The kernel, libtorch or the allocator found no memory.
    OutOfMemory,
    /// A thread of it panicked.
    Panic,
    /// It made no step, or said nothing, for too long.
    Hang,
    /// It reported an error.
    #[default]
    Error,
    /// It ended without a word.
    Exit,
}

impl Cause {
    /// The word for logs, labels and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Signal => "signal",
            Cause::OutOfMemory => "out_of_memory",
            Cause::Panic => "panic",
            Cause::Hang => "hang",
            Cause::Error => "error",
            Cause::Exit => "exit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_counted_from_the_start() {
        let all = [Cause::Signal, Cause::OutOfMemory, Cause::Panic, Cause::Hang, Cause::Error, Cause::Exit];
        assert_eq!(all.map(Cause::word), crate::metrics::CAUSES);
        assert_eq!(
            all.map(|cause| serde_json::json!(cause)),
            all.map(|cause| serde_json::json!(cause.word()))
        );
    }
}
