//! What others may ask of a running trainer.
//!
//! Ranks look at the end of every step and agree on what they saw, so all of them act at the same step.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Requests to a run; any thread may make them at any time, a signal handler too.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    checkpoint: AtomicBool,
    paused: AtomicBool,
    failed: OnceLock<(Instant, String)>,
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

    /// How long ago a rank of this process failed first, and why; what still runs then may never end.
    pub fn failed(&self) -> Option<(Duration, &str)> {
        self.failed.get().map(|(when, why)| (when.elapsed(), why.as_str()))
    }

    pub(crate) fn note_failure(&self, why: &str) {
        let _ = self.failed.set((Instant::now(), why.to_owned())); // the first counts
    }

    /// Whether a checkpoint was asked for; asking is over once somebody has looked.
    pub(crate) fn take_checkpoint(&self) -> bool {
        self.checkpoint.swap(false, Relaxed)
    }
}
