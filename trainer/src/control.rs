//! What others may ask of a running trainer.
//!
//! Ranks look at the end of every step and agree on what they saw, so all of them act at the same step.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Requests to a run; any thread may make them at any time, a signal handler too.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    checkpoint: AtomicBool,
    paused: AtomicBool,
}

impl Control {
    /// Nothing asked for.
    pub fn new() -> Control {
        Control::default()
    }

    /// Finish the step under way, publish a checkpoint, and return.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Publish a checkpoint after the step under way, and go on.
    pub fn checkpoint_now(&self) {
        self.checkpoint.store(true, Relaxed);
    }

    /// Stand still after the step under way, until `pause(false)` or [`Control::stop`].
    pub fn pause(&self, yes: bool) {
        self.paused.store(yes, Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn stop_wanted(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Whether a pause was asked for.
    pub fn pause_wanted(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// Whether a checkpoint was asked for; asking is over once somebody has looked.
    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Relaxed)
    }
}
